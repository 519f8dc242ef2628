"""What every storage does: inherit these classes in your tests to know that a storage of your own does it, too.

::

    class TestShelf(BlobStoreContract):
        @pytest.fixture
        def blobs(self, tmp_path):
            return Shelf(tmp_path)

Each test has a storage to itself, and none measures time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import RequestBody
from ocikit.server.storage.base import (
    BlobInUse,
    BlobStore,
    LengthMismatch,
    ManifestRow,
    Metadata,
    MissingChildren,
    OffsetMismatch,
    PreconditionFailed,
    QuotaExceeded,
    UnknownUpload,
    Upload,
    UploadDigestMismatch,
    UploadStore,
)
from ocikit.spec.digest import Digest

__all__ = ["BlobStoreContract", "MetadataContract", "UploadStoreContract"]

#: Bytes: more than any storage moves at once.
_LARGE = 3 << 20


def _content(size: int = 100) -> tuple[Digest, bytes]:
    raw = secrets.token_bytes(size)
    return Digest.of(raw), raw


def _digest() -> Digest:
    return _content()[0]


def _chunk(content: bytes) -> RequestBody:
    """A body whose length was announced."""
    return RequestBody(io.BytesIO(content), length=len(content))


def _stream(content: bytes) -> RequestBody:
    """A body that ends where it ends."""
    return RequestBody(io.BytesIO(content), length=None)


def _broken(content: bytes, *, missing: int = 10) -> RequestBody:
    """A body that ends before it should."""
    return RequestBody(io.BytesIO(content), length=len(content) + missing)


class _Stopping(io.RawIOBase):
    """A body that calls something in the middle."""

    def __init__(self, content: bytes, act: Callable[[], Any]) -> None:
        self._content = io.BytesIO(content)
        self._middle = len(content) // 2
        self._act: Callable[[], Any] | None = act

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._middle - self._content.tell()
        if left <= 0 and self._act is not None:
            act, self._act = self._act, None
            act()
        return self._content.readinto(memoryview(buffer)[: left if left > 0 else None])


def _meanwhile(content: bytes, act: Callable[[], Any]) -> RequestBody:
    return RequestBody(_Stopping(content, act), length=len(content))


def _moment() -> float:
    """A time after everything that was done, and before everything that will be."""
    begun = time.time()
    while (now := time.time()) <= begun:
        pass
    while time.time() <= now:
        pass
    return now


class BlobStoreContract:
    """Give a fixture `blobs`: a `BlobStore` without content."""

    #: Whether who reads reads on though the content is deleted. Of an object that is read range by range, that may be too
    #: much to ask: then only the grace period keeps a download from breaking off.
    reads_on = True

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        raise NotImplementedError

    def test_what_was_put_is_there_with_its_size(self, blobs: BlobStore) -> None:
        digest, content = _content()
        blobs.put(digest, io.BytesIO(content))
        assert blobs.stat(digest) == len(content)
        with blobs.open(digest) as file:
            assert file.read() == content

    def test_what_was_not_put_is_not_there(self, blobs: BlobStore) -> None:
        digest = _digest()
        assert blobs.stat(digest) is None
        with pytest.raises(KeyError):
            blobs.open(digest)
        assert list(blobs.iterate()) == []

    @pytest.mark.parametrize("size", [0, 1, _LARGE])
    def test_content_of_any_size_comes_back(self, blobs: BlobStore, size: int) -> None:
        digest, content = _content(size)
        blobs.put(digest, io.BytesIO(content))
        assert blobs.stat(digest) == size
        with blobs.open(digest) as file:
            parts = []
            while part := file.read(1 << 16):
                parts.append(part)
        assert b"".join(parts) == content

    def test_sha512_is_a_name_of_its_own(self, blobs: BlobStore) -> None:
        _, content = _content()
        short, long = Digest.of(content), Digest.of(content, "sha512")
        blobs.put(long, io.BytesIO(content))
        assert blobs.stat(short) is None
        assert blobs.stat(long) == len(content)
        assert list(blobs.iterate()) == [long]

    def test_content_can_be_read_from_the_middle(self, blobs: BlobStore) -> None:
        digest, content = _content(10_000)
        blobs.put(digest, io.BytesIO(content))
        with blobs.open(digest) as file:
            file.seek(5000)
            assert file.read(10) == content[5000:5010]
            file.seek(0)
            assert file.read(3) == content[:3]

    def test_content_that_is_put_again_replaces_what_is_there(self, blobs: BlobStore) -> None:
        digest, content = _content()
        blobs.put(digest, io.BytesIO(content[:-1]))
        blobs.put(digest, io.BytesIO(content))
        with blobs.open(digest) as file:
            assert file.read() == content

    def test_of_content_that_breaks_off_nothing_is_seen(self, blobs: BlobStore) -> None:
        digest, content = _content(_LARGE)

        def fail() -> None:
            assert blobs.stat(digest) is None
            raise OSError("the source is gone")

        with pytest.raises(OSError, match="the source is gone"):
            blobs.put(digest, _Stopping(content, fail))  # type: ignore[arg-type]  # of a stream, only reading is used
        assert blobs.stat(digest) is None
        assert list(blobs.iterate()) == []

    def test_when_replacing_breaks_off_the_old_content_stays(self, blobs: BlobStore) -> None:
        digest, content = _content(_LARGE)
        blobs.put(digest, io.BytesIO(content))

        def fail() -> None:
            raise OSError("the source is gone")

        with pytest.raises(OSError, match="the source is gone"):
            blobs.put(digest, _Stopping(content, fail))  # type: ignore[arg-type]  # of a stream, only reading is used
        with blobs.open(digest) as file:
            assert file.read() == content

    def test_a_file_that_is_taken_is_content_and_no_file_any_more(self, blobs: BlobStore, tmp_path: Path) -> None:
        digest, content = _content(_LARGE)
        path = tmp_path / "arrived"
        path.write_bytes(content)
        blobs.put_file(digest, path)
        assert not path.exists()
        with blobs.open(digest) as file:
            assert file.read() == content

    def test_taking_replaces_what_is_there(self, blobs: BlobStore, tmp_path: Path) -> None:
        digest, content = _content()
        path = tmp_path / "arrived"
        path.write_bytes(content)
        blobs.put(digest, io.BytesIO(b"wrong"))
        blobs.put_file(digest, path)
        assert blobs.stat(digest) == len(content)

    def test_what_was_deleted_is_gone_and_can_be_put_again(self, blobs: BlobStore) -> None:
        digest, content = _content()
        blobs.put(digest, io.BytesIO(content))
        blobs.delete(digest)
        assert blobs.stat(digest) is None
        assert list(blobs.iterate()) == []
        with pytest.raises(KeyError):
            blobs.open(digest)
        blobs.put(digest, io.BytesIO(content))
        assert blobs.stat(digest) == len(content)

    def test_deleting_what_is_not_there_does_nothing(self, blobs: BlobStore) -> None:
        blobs.delete(_digest())

    def test_who_reads_reads_to_the_end_though_it_is_deleted(self, blobs: BlobStore) -> None:
        if not self.reads_on:
            pytest.skip("this store reads range by range")
        digest, content = _content(_LARGE)
        blobs.put(digest, io.BytesIO(content))
        with blobs.open(digest) as file:
            start = file.read(1000)
            blobs.delete(digest)
            rest = b"".join(iter(lambda: file.read(1 << 16), b""))
        assert start + rest == content

    def test_everything_is_listed_once(self, blobs: BlobStore) -> None:
        kept = dict(_content() for _ in range(20))
        for digest, content in kept.items():
            blobs.put(digest, io.BytesIO(content))
            blobs.put(digest, io.BytesIO(content))
        assert sorted(blobs.iterate()) == sorted(kept)

    def test_deleting_while_listing_is_no_error(self, blobs: BlobStore) -> None:
        for _ in range(20):
            digest, content = _content()
            blobs.put(digest, io.BytesIO(content))
        for digest in blobs.iterate():
            blobs.delete(digest)
        assert list(blobs.iterate()) == []

    def test_many_threads_put_the_same_content(self, blobs: BlobStore) -> None:
        digest, content = _content(200_000)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: blobs.put(digest, io.BytesIO(content)), range(32)))
        assert list(blobs.iterate()) == [digest]
        with blobs.open(digest) as file:
            assert file.read() == content

    def test_tidying_leaves_content_alone(self, blobs: BlobStore) -> None:
        digest, content = _content()
        blobs.put(digest, io.BytesIO(content))
        blobs.remove_partial(time.time() + 3600)
        assert blobs.stat(digest) == len(content)


class _Refusing(BlobStore):
    """A store whose disk is full."""

    def stat(self, digest: Digest) -> int | None:
        return None

    def open(self, digest: Digest) -> BinaryIO:
        raise KeyError(digest)

    def put(self, digest: Digest, stream: BinaryIO) -> None:
        raise OSError(28, "no space")

    def delete(self, digest: Digest) -> None:
        return

    def iterate(self) -> Iterator[Digest]:
        return iter(())


class UploadStoreContract:
    """Give fixtures: `uploads`, an `UploadStore` without sessions; `blobs`, the `BlobStore` that goes with it."""

    #: Whether another object can open the same sessions, as another process would: `reopened` gives one.
    lasting = True

    @pytest.fixture
    def uploads(self, tmp_path: Path) -> UploadStore:
        raise NotImplementedError

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        raise NotImplementedError

    def reopened(self, uploads: UploadStore) -> UploadStore:
        """The same sessions, as after a restart."""
        raise NotImplementedError

    def kept(self, blobs: BlobStore, digest: Digest) -> bytes | None:
        """Content, or None."""
        with contextlib.suppress(KeyError), blobs.open(digest) as file:
            return file.read()
        return None

    def test_a_session_has_a_name_that_nobody_guesses(self, uploads: UploadStore) -> None:
        ids = {uploads.create("a").id for _ in range(50)}
        assert len(ids) == 50
        assert all(len(each) >= 22 and each.replace("-", "").replace("_", "").isalnum() for each in ids)

    def test_a_session_begins_empty_and_grows(self, uploads: UploadStore) -> None:
        upload = uploads.create("a")
        assert uploads.size(upload) == 0
        assert uploads.append(upload, _chunk(b"hello ")) == 6
        assert uploads.append(upload, _stream(b"world")) == 11
        assert uploads.size(upload) == 11

    @pytest.mark.parametrize("size", [0, 1, _LARGE])
    @pytest.mark.parametrize("body", [_chunk, _stream])
    def test_a_whole_blob_arrives_at_once(
        self, uploads: UploadStore, blobs: BlobStore, size: int, body: Callable[[bytes], RequestBody]
    ) -> None:
        digest, content = _content(size)
        upload = uploads.create("a")
        assert uploads.finish(upload, digest, body(content), blobs) == size
        assert self.kept(blobs, digest) == content

    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    @pytest.mark.parametrize("announced", ["sha256", "sha512"])
    def test_a_blob_arrives_in_parts_whatever_algorithm_was_announced(
        self, uploads: UploadStore, blobs: BlobStore, algorithm: str, announced: str
    ) -> None:
        content = secrets.token_bytes(300_000)
        digest = Digest.of(content, algorithm)
        upload = uploads.create("a", algorithm=announced)
        uploads.append(upload, _chunk(content[:100_000]))
        uploads.append(upload, _stream(content[100_000:250_000]), offset=100_000)
        assert uploads.finish(upload, digest, _chunk(content[250_000:]), blobs, offset=250_000, length=50_000) == len(
            content
        )
        assert self.kept(blobs, digest) == content

    def test_a_large_stream_is_hashed_on_the_way(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = _content(6 << 20)
        upload = uploads.create("a")
        assert uploads.append(upload, _stream(content[: 5 << 20])) == 5 << 20
        uploads.finish(upload, digest, _stream(content[5 << 20 :]), blobs)
        assert self.kept(blobs, digest) == content

    def test_a_finished_session_is_over(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = _content()
        upload = uploads.create("a")
        uploads.finish(upload, digest, _chunk(content), blobs)
        self.assert_over(uploads, upload, blobs)

    def assert_over(self, uploads: UploadStore, upload: Upload, blobs: BlobStore) -> None:
        """A session that isn't there isn't there for anything."""
        digest, content = _content()
        for ask in (
            lambda: uploads.size(upload),
            lambda: uploads.append(upload, _chunk(content)),
            lambda: uploads.finish(upload, digest, _chunk(content), blobs),
            lambda: uploads.abort(upload),
        ):
            with pytest.raises(UnknownUpload):
                ask()
        assert blobs.stat(digest) is None

    @pytest.mark.parametrize(
        "name", ["", "x", "../../etc/passwd", "a" * 32, "a" * 500, "a/b" * 10, "é" * 24, "a\0" * 15]
    )
    def test_a_session_that_never_was_is_unknown(self, uploads: UploadStore, blobs: BlobStore, name: str) -> None:
        uploads.create("a")
        self.assert_over(uploads, Upload(name, "a"), blobs)

    def test_a_session_is_good_for_its_repository_and_owner_only(self, uploads: UploadStore, blobs: BlobStore) -> None:
        upload = uploads.create("a", "ada")
        uploads.append(upload, _chunk(b"secret"))
        for other in (Upload(upload.id, "b", "ada"), Upload(upload.id, "a", "bob"), Upload(upload.id, "a")):
            self.assert_over(uploads, other, blobs)
        assert uploads.size(Upload(upload.id, "a", "ada")) == 6

    def test_bytes_go_only_where_the_client_believes(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = _content()
        upload = uploads.create("a")
        uploads.append(upload, _chunk(content[:50]))
        for offset in (0, 49, 51, 2**60):
            with pytest.raises(OffsetMismatch) as caught:
                uploads.append(upload, _chunk(content[50:]), offset=offset)
            assert caught.value.size == 50
            with pytest.raises(OffsetMismatch):
                uploads.finish(upload, digest, _chunk(content[50:]), blobs, offset=offset)
            assert uploads.size(upload) == 50
        uploads.finish(upload, digest, _chunk(content[50:]), blobs, offset=50)
        assert self.kept(blobs, digest) == content

    def test_of_a_body_that_breaks_off_what_came_is_kept(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = _content(300_000)
        upload = uploads.create("a")
        with pytest.raises(ErrorResponse):
            uploads.append(upload, _broken(content[:200_000]))
        assert uploads.size(upload) == 200_000
        with pytest.raises(ErrorResponse):
            uploads.finish(upload, digest, _broken(content[200_000:250_000]), blobs)
        assert uploads.size(upload) == 250_000
        assert blobs.stat(digest) is None
        uploads.finish(upload, digest, _chunk(content[250_000:]), blobs, offset=250_000)
        assert self.kept(blobs, digest) == content

    @pytest.mark.parametrize("body", [lambda: _broken(b"1234"), lambda: _stream(b"1234"), lambda: _stream(b"12345678")])
    def test_of_a_range_that_is_not_as_long_as_it_says_nothing_is_kept(
        self, uploads: UploadStore, blobs: BlobStore, body: Callable[[], RequestBody]
    ) -> None:
        digest, content = _content()
        upload = uploads.create("a")
        uploads.append(upload, _chunk(content[:50]))
        with pytest.raises((ErrorResponse, LengthMismatch)) as caught:
            uploads.append(upload, body(), offset=50, length=6)
        assert not isinstance(caught.value, ErrorResponse) or caught.value.status == 400
        assert uploads.size(upload) == 50
        with pytest.raises((ErrorResponse, LengthMismatch)):
            uploads.finish(upload, digest, body(), blobs, offset=50, length=6)
        assert uploads.size(upload) == 50
        uploads.finish(upload, digest, _chunk(content[50:]), blobs, offset=50, length=50)
        assert self.kept(blobs, digest) == content

    def test_a_body_above_its_limit_is_refused_and_the_session_goes_on(self, uploads: UploadStore) -> None:
        upload = uploads.create("a")
        with pytest.raises(ErrorResponse) as caught:
            uploads.append(upload, _stream(b"x" * 100).set_limit(10))
        assert caught.value.status == 413
        assert uploads.size(upload) <= 11

    def test_an_upload_with_another_digest_is_gone(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = _content()
        upload = uploads.create("a")
        with pytest.raises(UploadDigestMismatch, match=hashlib.sha256(b"no" + content).hexdigest()):
            uploads.finish(upload, digest, _chunk(b"no" + content), blobs)
        assert list(blobs.iterate()) == []
        self.assert_over(uploads, upload, blobs)
        assert uploads.count() == 0

    def test_when_the_store_fails_the_session_goes_on(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = _content()
        upload = uploads.create("a")
        uploads.append(upload, _chunk(content[:50]))
        with pytest.raises(OSError, match="no space"):
            uploads.finish(upload, digest, _chunk(content[50:]), _Refusing())
        assert uploads.size(upload) == len(content)
        uploads.finish(upload, digest, _chunk(b""), blobs)
        assert self.kept(blobs, digest) == content

    def test_an_aborted_upload_is_gone(self, uploads: UploadStore, blobs: BlobStore) -> None:
        upload = uploads.create("a")
        uploads.append(upload, _chunk(b"never mind"))
        uploads.abort(upload)
        self.assert_over(uploads, upload, blobs)
        assert uploads.count() == 0

    def test_of_two_requests_at_once_one_is_out_of_order(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = _content()
        upload = uploads.create("a")

        def other() -> None:
            asks: tuple[Callable[[], Any], ...] = (
                lambda: uploads.append(upload, _chunk(b"other")),
                lambda: uploads.append(upload, _chunk(b"other"), offset=0),
                lambda: uploads.finish(upload, Digest.of(b""), _chunk(b""), blobs),
            )
            for ask in asks:
                with pytest.raises(OffsetMismatch):
                    ask()

        assert uploads.append(upload, _meanwhile(content, other)) == len(content)
        uploads.finish(upload, digest, _chunk(b""), blobs)
        assert self.kept(blobs, digest) == content

    def test_of_many_requests_for_one_place_exactly_one_writes(self, uploads: UploadStore, blobs: BlobStore) -> None:
        upload = uploads.create("a")
        parts = [secrets.token_bytes(5000) for _ in range(8)]
        start = threading.Barrier(len(parts))

        def write(part: bytes) -> bool:
            start.wait()
            try:
                uploads.append(upload, _chunk(part), offset=0)
            except OffsetMismatch:
                return False
            return True

        with ThreadPoolExecutor(len(parts)) as pool:
            written = list(pool.map(write, parts))
        assert sum(written) == 1
        winner = parts[written.index(True)]
        uploads.finish(upload, Digest.of(winner), _chunk(b""), blobs)
        assert self.kept(blobs, Digest.of(winner)) == winner

    def test_who_writes_to_a_session_that_is_aborted_meanwhile_is_told(
        self, uploads: UploadStore, blobs: BlobStore
    ) -> None:
        digest, content = _content()
        upload = uploads.create("a")
        with pytest.raises(UnknownUpload):
            uploads.append(upload, _meanwhile(content, lambda: uploads.abort(upload)))
        upload = uploads.create("a")
        with pytest.raises(UnknownUpload):
            uploads.finish(upload, digest, _meanwhile(content, lambda: uploads.abort(upload)), blobs)
        assert uploads.count() == 0

    def test_sessions_are_counted_in_all_and_by_owner(self, uploads: UploadStore, blobs: BlobStore) -> None:
        assert uploads.count() == 0
        ada = [uploads.create("a", "ada") for _ in range(3)]
        uploads.create("b", "bob")
        uploads.create("b")
        assert (uploads.count(), uploads.count("ada"), uploads.count("bob"), uploads.count("")) == (5, 3, 1, 1)
        uploads.abort(ada[0])
        uploads.finish(ada[1], Digest.of(b""), _chunk(b""), blobs)
        assert (uploads.count(), uploads.count("ada"), uploads.count("nobody")) == (3, 1, 0)

    def test_what_nobody_wrote_to_expires(self, uploads: UploadStore, blobs: BlobStore) -> None:
        upload = uploads.create("a")
        uploads.append(upload, _chunk(b"forgotten"))
        assert uploads.expire(time.time() - 3600) == 0
        assert uploads.size(upload) == 9
        assert uploads.expire(time.time() + 3600) == 1
        self.assert_over(uploads, upload, blobs)
        assert uploads.count() == 0

    def test_what_somebody_writes_to_does_not_expire(self, uploads: UploadStore) -> None:
        upload = uploads.create("a")
        gone: list[int] = []
        body = _meanwhile(b"0123456789", lambda: gone.append(uploads.expire(time.time() + 3600)))
        assert uploads.append(upload, body) == 10
        assert gone == [0]
        assert uploads.size(upload) == 10

    def test_a_session_outlives_a_restart(self, uploads: UploadStore, blobs: BlobStore) -> None:
        if not self.lasting:
            pytest.skip("these sessions end with the process")
        digest, content = _content(300_000)
        upload = uploads.create("a", "ada")
        uploads.append(upload, _chunk(content[:100_000]))
        later = self.reopened(uploads)
        assert later.size(upload) == 100_000
        later.append(upload, _chunk(content[100_000:200_000]), offset=100_000)
        # Two processes take turns, and each knows the hash of a part only
        uploads.append(upload, _chunk(content[200_000:250_000]), offset=200_000)
        later.finish(upload, digest, _chunk(content[250_000:]), blobs, offset=250_000)
        assert self.kept(blobs, digest) == content
        self.assert_over(uploads, upload, blobs)


def _manifest(size: int = 7, children: tuple[Digest, ...] = (), **more: Any) -> ManifestRow:
    return ManifestRow(
        digest=_digest(), media_type="application/vnd.oci.image.manifest.v1+json", size=size, children=children, **more
    )


class _Shelf(_Refusing):
    """A store that notes what it is told to delete."""

    def __init__(self, act: Callable[[], Any] = lambda: None) -> None:
        self.deleted: list[Digest] = []
        self._act = act

    def delete(self, digest: Digest) -> None:
        self._act()
        self.deleted.append(digest)


class MetadataContract:
    """Give a fixture `metadata`: a `Metadata` without rows, whose grace period is 0 seconds, so that asking is noted at once."""

    @pytest.fixture
    def metadata(self, tmp_path: Path) -> Metadata:
        raise NotImplementedError

    # Repositories

    def test_a_repository_is_there_once_something_was_kept(self, metadata: Metadata) -> None:
        assert not metadata.has_repository("a")
        metadata.add_blob("a", _digest(), 1)
        metadata.put_manifest("b", _manifest())
        assert metadata.has_repository("a")
        assert metadata.has_repository("b")
        assert not metadata.has_repository("c")
        assert metadata.repositories(limit=10) == ["a", "b"]

    def test_repositories_are_listed_byte_by_byte_and_by_pages(self, metadata: Metadata) -> None:
        names = ["a", "a-b", "a.b", "a/b", "a/b/c", "a0", "ab", "b", "b_c"]
        for name in reversed(names):
            metadata.add_blob(name, _digest(), 1)
        assert metadata.repositories(limit=100) == sorted(names)
        assert metadata.repositories(limit=0) == []
        found, last = [], ""
        while page := metadata.repositories(last=last, limit=2):
            assert len(page) <= 2
            found += page
            last = page[-1]
        assert found == sorted(names)
        assert metadata.repositories(last="a0000", limit=2) == ["ab", "b"]

    # Blobs

    def test_a_blob_is_there_for_the_repository_that_has_it(self, metadata: Metadata) -> None:
        digest = _digest()
        metadata.add_blob("a", digest, 123)
        assert metadata.blob_size("a", digest) == 123
        assert metadata.blob_size("b", digest) is None
        assert metadata.blob_size("a", _digest()) is None

    def test_linking_twice_is_linking_once(self, metadata: Metadata) -> None:
        digest = _digest()
        metadata.add_blob("a", digest, 100)
        metadata.add_blob("a", digest, 100)
        assert metadata.used_bytes("a") == 100
        assert list(metadata.repositories_with(digest)) == ["a"]

    def test_the_bytes_of_a_repository_are_added_up(self, metadata: Metadata) -> None:
        assert metadata.used_bytes("a") == 0
        blobs = [_digest() for _ in range(5)]
        for digest in blobs:
            metadata.add_blob("a", digest, 1 << 40)
        metadata.add_blob("b", _digest(), 7)
        assert (metadata.used_bytes("a"), metadata.used_bytes("b")) == (5 << 40, 7)
        metadata.remove_blob("a", blobs[0])
        assert metadata.used_bytes("a") == 4 << 40

    def test_a_quota_is_never_exceeded(self, metadata: Metadata) -> None:
        kept, refused = _digest(), _digest()
        metadata.add_blob("a", kept, 60, quota=100)
        with pytest.raises(QuotaExceeded):
            metadata.add_blob("a", refused, 41, quota=100)
        assert metadata.blob_size("a", refused) is None
        metadata.add_blob("a", kept, 60, quota=100)
        metadata.add_blob("a", _digest(), 40, quota=100)
        metadata.add_blob("b", refused, 100, quota=100)
        assert metadata.used_bytes("a") == 100

    def test_a_quota_holds_whoever_else_pushes(self, metadata: Metadata) -> None:
        def push(_: int) -> bool:
            try:
                metadata.add_blob("a", _digest(), 30, quota=100)
            except QuotaExceeded:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(push, range(16))) == 3
        assert metadata.used_bytes("a") == 90

    def test_who_has_a_blob_is_known(self, metadata: Metadata) -> None:
        digest = _digest()
        names = sorted(f"r{n}" for n in range(250))
        for name in names:
            metadata.add_blob(name, digest, 1)
        metadata.add_blob("other", _digest(), 1)
        assert sorted(metadata.repositories_with(digest)) == names
        assert list(metadata.repositories_with(_digest())) == []

    def test_an_unlinked_blob_is_gone_from_one_repository(self, metadata: Metadata) -> None:
        digest = _digest()
        metadata.add_blob("a", digest, 1)
        metadata.add_blob("b", digest, 1)
        assert metadata.remove_blob("a", digest)
        assert not metadata.remove_blob("a", digest)
        assert metadata.blob_size("a", digest) is None
        assert metadata.blob_size("b", digest) == 1

    def test_a_blob_that_a_manifest_needs_is_unlinked_by_force_only(self, metadata: Metadata) -> None:
        digest = _digest()
        for name in ("a", "b"):
            metadata.add_blob(name, digest, 1)
        metadata.put_manifest("a", _manifest(children=(digest,)), ["v1"])
        with pytest.raises(BlobInUse):
            metadata.remove_blob("a", digest)
        assert metadata.blob_size("a", digest) == 1
        assert metadata.remove_blob("b", digest)
        assert metadata.remove_blob("a", digest, force=True)
        assert metadata.blob_size("a", digest) is None

    # Manifests and tags

    def test_a_manifest_is_found_by_tag_and_digest(self, metadata: Metadata) -> None:
        subject = _digest()
        entry = _manifest(123, subject=subject, artifact_type="text/x", referrer='{"a":1}')
        metadata.put_manifest("a", entry, ["v1", "V1"])
        for reference in ("v1", "V1", entry.digest):
            found = metadata.manifest("a", reference)
            assert found == entry
        assert metadata.manifest("b", "v1") is None
        assert metadata.manifest("a", "v2") is None
        assert metadata.manifest("a", _digest()) is None

    def test_a_manifest_without_subject_or_type_says_so(self, metadata: Metadata) -> None:
        entry = _manifest()
        metadata.put_manifest("a", entry)
        found = metadata.manifest("a", entry.digest)
        assert found is not None
        assert (found.subject, found.artifact_type, found.referrer) == (None, None, "")

    def test_a_manifest_may_be_put_again(self, metadata: Metadata) -> None:
        child = _digest()
        metadata.add_blob("a", child, 1)
        entry = _manifest(children=(child,))
        metadata.put_manifest("a", entry, ["v1"])
        metadata.put_manifest("a", entry, ["v2"], require_children=True)
        assert metadata.tags("a", limit=10) == ["v1", "v2"]

    def test_a_tag_moves_to_the_manifest_that_was_put_last(self, metadata: Metadata) -> None:
        old, new = _manifest(), _manifest()
        metadata.put_manifest("a", old, ["v1", "old"])
        metadata.put_manifest("a", new, ["v1"])
        assert metadata.manifest("a", "v1") == new
        assert metadata.manifest("a", "old") == metadata.manifest("a", old.digest) == old

    def test_a_manifest_may_need_the_same_thing_twice(self, metadata: Metadata) -> None:
        child = _digest()
        metadata.add_blob("a", child, 1)
        metadata.put_manifest("a", _manifest(children=(child, child)), ["v1"], require_children=True)

    def test_what_a_manifest_needs_must_be_there_if_strict(self, metadata: Metadata) -> None:
        blob, absent, elsewhere = _digest(), _digest(), _digest()
        child = _manifest()
        metadata.add_blob("a", blob, 1)
        metadata.add_blob("b", elsewhere, 1)
        metadata.put_manifest("a", child)
        entry = _manifest(children=(blob, child.digest, absent, elsewhere))
        assert metadata.missing("a", entry.children) == {absent, elsewhere}
        with pytest.raises(MissingChildren) as caught:
            metadata.put_manifest("a", entry, ["v1"], require_children=True)
        assert caught.value.digests == {absent, elsewhere}
        assert metadata.manifest("a", entry.digest) is None
        assert metadata.manifest("a", "v1") is None
        metadata.put_manifest("a", entry, ["v1"])
        assert metadata.manifest("a", "v1") is not None

    def test_thousands_of_digests_are_looked_up(self, metadata: Metadata) -> None:
        there, absent = [_digest() for _ in range(3)], [_digest() for _ in range(2500)]
        for digest in there:
            metadata.add_blob("a", digest, 1)
        assert metadata.missing("a", [*absent[:1000], *there, *absent[1000:]]) == set(absent)
        assert metadata.missing("a", []) == set()

    def test_a_name_is_given_only_while_it_is_what_the_client_expects(self, metadata: Metadata) -> None:
        first, second, third = _manifest(), _manifest(), _manifest()
        metadata.put_manifest("a", first, ["v1"], if_none_match=True)
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", second, ["v1"], if_none_match=True)
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", second, ["v2", "v1"], if_none_match=True)
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", second, ["v1"], if_match=[third.digest])
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", second, ["v1"], if_match=[])
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", second, ["v2"], if_match=[first.digest])
        assert metadata.manifest("a", second.digest) is None
        assert metadata.tags("a", limit=10) == ["v1"]
        metadata.put_manifest("a", second, ["v1"], if_match=[third.digest, first.digest])
        assert metadata.manifest("a", "v1") == second

    def test_without_tags_the_manifest_itself_is_what_is_expected(self, metadata: Metadata) -> None:
        entry = _manifest()
        metadata.put_manifest("a", entry, if_none_match=True)
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", entry, if_none_match=True)
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", _manifest(), if_match=[entry.digest])
        metadata.put_manifest("a", entry, if_match=[entry.digest])

    def test_of_many_who_expect_the_same_one_gets_the_name(self, metadata: Metadata) -> None:
        first = _manifest()
        metadata.put_manifest("a", first, ["v1"])

        def put(entry: ManifestRow) -> bool:
            try:
                metadata.put_manifest("a", entry, ["v1"], if_match=[first.digest])
            except PreconditionFailed:
                return False
            return True

        entries = [_manifest() for _ in range(16)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(put, entries))
        assert sum(won) == 1
        assert metadata.manifest("a", "v1") == entries[won.index(True)]

    def test_a_deleted_manifest_is_gone_with_its_tags(self, metadata: Metadata) -> None:
        blob = _digest()
        metadata.add_blob("a", blob, 1)
        entry, other = _manifest(children=(blob,)), _manifest()
        metadata.put_manifest("a", entry, ["v1", "v2"])
        metadata.put_manifest("a", other, ["v3"])
        metadata.put_manifest("b", entry, ["v1"])
        assert metadata.delete_manifest("a", entry.digest)
        assert not metadata.delete_manifest("a", entry.digest)
        assert metadata.manifest("a", entry.digest) is None
        assert metadata.tags("a", limit=10) == ["v3"]
        assert metadata.manifest("b", "v1") == metadata.manifest("b", entry.digest) is not None
        assert metadata.remove_blob("a", blob)

    def test_a_removed_tag_is_gone_and_its_manifest_is_not(self, metadata: Metadata) -> None:
        entry = _manifest()
        metadata.put_manifest("a", entry, ["v1", "v2"])
        assert metadata.delete_tag("a", "v1")
        assert not metadata.delete_tag("a", "v1")
        assert not metadata.delete_tag("b", "v2")
        assert metadata.tags("a", limit=10) == ["v2"]
        assert metadata.manifest("a", entry.digest) == entry

    def test_tags_are_listed_byte_by_byte_and_by_pages(self, metadata: Metadata) -> None:
        tags = ["A", "Z", "_", "a", "a-1", "a.1", "a_1", "aA", "aa", "b", "v1.10", "v1.2", "v1.9"]
        metadata.put_manifest("a", _manifest(), list(reversed(tags)))
        metadata.put_manifest("b", _manifest(), ["other"])
        assert metadata.tags("a", limit=100) == sorted(tags)
        assert metadata.tags("a", limit=0) == []
        assert metadata.tags("a", last="a_0", limit=2) == ["a_1", "aa"]
        assert metadata.tags("a", last="zzz", limit=2) == []
        assert metadata.tags("c", limit=2) == []

    def test_none_of_many_tags_put_at_once_is_lost(self, metadata: Metadata) -> None:
        tags = [f"t{n:03}" for n in range(64)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda tag: metadata.put_manifest("a", _manifest(), [tag]), tags))
        assert metadata.tags("a", limit=1000) == tags

    def test_referrers_are_listed_by_digest_type_and_page(self, metadata: Metadata) -> None:
        subject = _digest()
        entries = [_manifest(subject=subject, artifact_type=f"text/{n % 2}", referrer="{}") for n in range(10)]
        for entry in entries:
            metadata.put_manifest("a", entry)
        metadata.put_manifest("a", _manifest(subject=_digest(), artifact_type="text/0", referrer="{}"))
        metadata.put_manifest("b", _manifest(subject=subject, artifact_type="text/0", referrer="{}"))
        wanted = sorted(entries, key=lambda entry: entry.digest)
        assert metadata.referrers("a", subject, limit=100) == wanted
        half = [entry for entry in wanted if entry.artifact_type == "text/1"]
        assert metadata.referrers("a", subject, artifact_type="text/1", limit=100) == half
        assert metadata.referrers("a", subject, last=wanted[3].digest, limit=2) == wanted[4:6]
        assert metadata.referrers("a", subject, artifact_type="text/1", last=half[1].digest, limit=2) == half[2:4]
        assert metadata.referrers("a", _digest(), limit=100) == []
        metadata.delete_manifest("a", wanted[0].digest)
        assert metadata.referrers("a", subject, limit=1) == wanted[1:2]

    def test_everything_that_anybody_has_is_listed_by_digest(self, metadata: Metadata) -> None:
        blob, entry = _digest(), _manifest(9)
        metadata.add_blob("a", blob, 5)
        metadata.add_blob("b", blob, 5)
        metadata.put_manifest("b", entry)
        metadata.register_orphans([_digest()])
        found = list(metadata.iter_references())
        assert sorted(found) == sorted([(blob, "a", 5), (blob, "b", 5), (entry.digest, "b", 9)])
        assert [digest for digest, _, _ in found] == sorted(digest for digest, _, _ in found)

    # Collecting

    def unreferenced(self, metadata: Metadata, before: float) -> set[tuple[str, Digest]]:
        return {(name, digest) for name, digest, _ in metadata.unreferenced_blobs(before)}

    def unnamed(self, metadata: Metadata, before: float) -> set[Digest]:
        return {digest for digest, _ in metadata.unreferenced_content(before)}

    def test_a_blob_that_no_manifest_needs_is_unreferenced_once_it_is_old(self, metadata: Metadata) -> None:
        needed, free = _digest(), _digest()
        early = _moment()
        for digest in (needed, free):
            metadata.add_blob("a", digest, 3)
        metadata.add_blob("b", needed, 3)
        metadata.put_manifest("a", _manifest(children=(needed,)))
        late = _moment()
        assert self.unreferenced(metadata, early) == set()
        assert sorted(metadata.unreferenced_blobs(late)) == sorted([("a", free, 3), ("b", needed, 3)])

    def test_thousands_of_blobs_are_found_and_can_be_dropped_on_the_way(self, metadata: Metadata) -> None:
        digests = {_digest() for _ in range(1050)}
        for digest in digests:
            metadata.add_blob("a", digest, 1)
        late = _moment()
        assert {
            digest
            for name, digest, _ in metadata.unreferenced_blobs(late)
            if metadata.remove_blob_if_unused(name, digest, late)
        } == digests
        late, shelf = _moment(), _Shelf()
        assert {
            digest
            for digest, _ in metadata.unreferenced_content(late)
            if metadata.delete_if_unreferenced(digest, late, shelf)
        } == digests
        assert set(shelf.deleted) == digests
        assert self.unnamed(metadata, late) == set()

    @pytest.mark.parametrize("renew", ["push", "ask", "need"])
    def test_what_is_pushed_asked_for_or_needed_meanwhile_is_not_unlinked(self, metadata: Metadata, renew: str) -> None:
        digest = _digest()
        metadata.add_blob("a", digest, 3)
        late = _moment()
        assert self.unreferenced(metadata, late) == {("a", digest)}
        if renew == "push":
            metadata.add_blob("a", digest, 3)
        elif renew == "ask":
            metadata.blob_size("a", digest)
        else:
            metadata.put_manifest("a", _manifest(children=(digest,)))
        assert self.unreferenced(metadata, late) == set()
        assert not metadata.remove_blob_if_unused("a", digest, late)
        assert metadata.blob_size("a", digest) == 3

    def test_what_a_deleted_manifest_needed_is_let_go_of_then_and_not_before(self, metadata: Metadata) -> None:
        blob, child = _digest(), _manifest()
        metadata.add_blob("a", blob, 3)
        metadata.put_manifest("a", child)
        entry = _manifest(children=(blob, child.digest))
        metadata.put_manifest("a", entry, ["v1"])
        early = _moment()
        metadata.delete_manifest("a", entry.digest)
        assert not self.unreferenced(metadata, early)
        assert not self.unnamed(metadata, early)
        assert list(metadata.untagged_manifests(early)) == []
        late = _moment()
        assert self.unreferenced(metadata, late) == {("a", blob)}
        assert self.unnamed(metadata, late) == {entry.digest}
        assert [digest for _, digest, _ in metadata.untagged_manifests(late)] == [child.digest]

    def test_content_is_unnamed_once_nobody_has_had_it_for_a_while(self, metadata: Metadata) -> None:
        blob, entry = _digest(), _manifest()
        metadata.add_blob("a", blob, 3)
        metadata.add_blob("b", blob, 3)
        metadata.put_manifest("a", entry)
        metadata.remove_blob("a", blob)
        assert self.unnamed(metadata, _moment()) == set()
        early = _moment()
        metadata.remove_blob("b", blob)
        metadata.delete_manifest("a", entry.digest)
        assert self.unnamed(metadata, early) == set()
        assert sorted(metadata.unreferenced_content(_moment())) == sorted([(blob, 3), (entry.digest, entry.size)])

    def test_content_without_a_row_gets_one_and_is_as_old_as_that(self, metadata: Metadata) -> None:
        stray, known = [_digest() for _ in range(1200)], _digest()
        metadata.add_blob("a", known, 3)
        early = _moment()
        assert metadata.register_orphans([*stray, known]) == 1200
        assert metadata.register_orphans([*stray, known]) == 0
        assert self.unnamed(metadata, early) == set()
        assert self.unnamed(metadata, _moment()) == set(stray)
        assert metadata.blob_size("a", known) == 3

    @pytest.mark.parametrize("renew", ["claim", "link", "put"])
    def test_content_that_is_claimed_or_named_meanwhile_is_not_dropped(self, metadata: Metadata, renew: str) -> None:
        entry = _manifest()
        metadata.register_orphans([entry.digest])
        late, shelf = _moment(), _Shelf()
        assert self.unnamed(metadata, late) == {entry.digest}
        if renew == "claim":
            metadata.protect_from_gc(entry.digest)
        elif renew == "link":
            metadata.add_blob("a", entry.digest, 3)
        else:
            metadata.put_manifest("a", entry)
        assert self.unnamed(metadata, late) == set()
        assert not metadata.delete_if_unreferenced(entry.digest, late, shelf)
        assert shelf.deleted == []
        assert self.unnamed(metadata, _moment()) == ({entry.digest} if renew == "claim" else set())

    def test_claiming_what_is_not_there_does_nothing(self, metadata: Metadata) -> None:
        metadata.protect_from_gc(_digest())
        assert self.unnamed(metadata, _moment()) == set()

    def test_dropping_deletes_once(self, metadata: Metadata) -> None:
        digest, shelf = _digest(), _Shelf()
        metadata.register_orphans([digest])
        late = _moment()
        with ThreadPoolExecutor(4) as pool:
            gone = list(pool.map(lambda _: metadata.delete_if_unreferenced(digest, late, shelf), range(8)))
        assert sum(gone) == 1
        assert shelf.deleted == [digest]

    def test_if_deleting_fails_the_row_stays(self, metadata: Metadata) -> None:
        digest = _digest()
        metadata.register_orphans([digest])

        def fail() -> None:
            raise OSError("the disk is gone")

        late = _moment()
        with pytest.raises(OSError, match="the disk is gone"):
            metadata.delete_if_unreferenced(digest, late, _Shelf(fail))
        assert self.unnamed(metadata, late) == {digest}

    def test_while_content_is_deleted_or_somebody_is_alone_nobody_names_anything(self, metadata: Metadata) -> None:
        digest = _digest()
        metadata.register_orphans([digest])
        told: list[str] = []

        def name() -> None:
            metadata.add_blob("a", digest, 3)
            told.append("named")

        def delete() -> str:
            waiting.append(threading.Thread(target=name))
            waiting[-1].start()
            waiting[-1].join(0.05)
            told.append("deleted")
            return "result"

        waiting: list[threading.Thread] = []
        assert metadata.delete_if_unreferenced(digest, _moment(), _Shelf(delete))
        waiting[0].join()
        assert told == ["deleted", "named"]
        assert metadata.exclusive(delete) == "result"
        waiting[1].join()
        assert told == ["deleted", "named"] * 2
        assert metadata.blob_size("a", digest) == 3

    def test_manifests_that_no_tag_leads_to_are_untagged(self, metadata: Metadata) -> None:
        image, kept = _manifest(11), _manifest()
        metadata.put_manifest("a", image)
        metadata.put_manifest("a", kept)
        inner = _manifest(children=(kept.digest,))
        metadata.put_manifest("a", inner)
        outer = _manifest(children=(inner.digest,))
        metadata.put_manifest("a", outer, ["v1"])
        signature = _manifest(subject=kept.digest, referrer="{}")
        metadata.put_manifest("a", signature)
        second = _manifest(subject=signature.digest, referrer="{}")
        metadata.put_manifest("a", second)
        of_none = _manifest(subject=image.digest, referrer="{}")
        metadata.put_manifest("a", of_none)
        metadata.put_manifest("b", image, ["v1"])
        late = _moment()
        wanted = sorted([("a", image.digest, 11), ("a", of_none.digest, of_none.size)])
        assert sorted(metadata.untagged_manifests(late)) == wanted
        assert sorted(metadata.delete_untagged("a", late)) == sorted((digest, size) for _, digest, size in wanted)
        assert list(metadata.untagged_manifests(late)) == []
        assert metadata.manifest("a", image.digest) is None
        for entry in (kept, inner, outer, signature, second):
            assert metadata.manifest("a", entry.digest) is not None
        assert metadata.manifest("b", image.digest) is not None

    def test_manifests_that_are_young_keep_what_they_lead_to(self, metadata: Metadata) -> None:
        child = _manifest()
        metadata.put_manifest("a", child)
        late = _moment()
        index = _manifest(children=(child.digest,))
        metadata.put_manifest("a", index)
        assert list(metadata.untagged_manifests(late)) == []
        assert metadata.delete_untagged("a", late) == []

    @pytest.mark.parametrize("renew", ["push", "ask", "untag", "move"])
    def test_what_is_pushed_or_asked_for_or_loses_its_tag_is_young_again(self, metadata: Metadata, renew: str) -> None:
        entry = _manifest()
        metadata.put_manifest("a", entry, ["v1"] if renew in {"untag", "move"} else [])
        late = _moment()
        if renew == "push":
            metadata.put_manifest("a", entry)
        elif renew == "ask":
            metadata.manifest("a", entry.digest)
        elif renew == "untag":
            metadata.delete_tag("a", "v1")
        else:
            metadata.put_manifest("a", _manifest(), ["v1"])
        assert list(metadata.untagged_manifests(late)) == []
        assert [digest for _, digest, _ in metadata.untagged_manifests(_moment())] == [entry.digest]

    def test_what_a_dropped_manifest_needed_stays_for_a_while(self, metadata: Metadata) -> None:
        blob = _digest()
        metadata.add_blob("a", blob, 3)
        entry = _manifest(children=(blob,))
        metadata.put_manifest("a", entry)
        late = _moment()
        metadata.delete_untagged("a", late)
        assert not self.unreferenced(metadata, late)
        assert not self.unnamed(metadata, late)
        later = _moment()
        assert self.unreferenced(metadata, later) == {("a", blob)}
        assert self.unnamed(metadata, later) == {entry.digest}

    def test_a_change_that_fails_takes_no_other_with_it(self, metadata: Metadata) -> None:
        """Writers may share a transaction; each gets its own answer."""
        taken = _manifest()
        metadata.put_manifest("a", taken, ["taken"])

        def put(n: int) -> str:
            try:
                metadata.put_manifest("a", _manifest(), [f"t{n:02}" if n % 2 else "taken"], if_none_match=True)
            except PreconditionFailed:
                return "conflict"
            return "put"

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(put, range(32)))
        assert answers == ["conflict", "put"] * 16
        assert metadata.tags("a", limit=100) == [*(f"t{n:02}" for n in range(1, 32, 2)), "taken"]
        assert metadata.manifest("a", "taken") == taken
