"""The contract of upload stores."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import RequestBody
from ocikit.server.storage.base import (
    BlobStore,
    LengthMismatch,
    OffsetMismatch,
    UnknownUpload,
    Upload,
    UploadDigestMismatch,
    UploadStore,
)
from ocikit.server.testing.bodies import (
    LARGE,
    FullBlobStore,
    broken_body,
    chunked_body,
    interrupted_body,
    random_content,
    sized_body,
)
from ocikit.spec.digest import Digest


class UploadStoreContract:
    """The contract of `UploadStore`.

    Override the fixtures `uploads`, which returns a store without sessions, and `blobs`, which returns its `BlobStore`.

    >>> import pytest
    >>> from ocikit.server import memory_storage
    >>> from ocikit.server.testing import UploadStoreContract
    >>> class TestMyUploads(UploadStoreContract):
    ...     persistent = False
    ...
    ...     @pytest.fixture
    ...     def storage(self):
    ...         return memory_storage()
    ...
    ...     @pytest.fixture
    ...     def uploads(self, storage):
    ...         return storage.uploads
    ...
    ...     @pytest.fixture
    ...     def blobs(self, storage):
    ...         return storage.blobs
    """

    #: Whether sessions survive a restart. If so, override `reopen`.
    persistent = True

    @pytest.fixture
    def uploads(self, tmp_path: Path) -> UploadStore:
        raise NotImplementedError

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        raise NotImplementedError

    def reopen(self, uploads: UploadStore) -> UploadStore:
        """Return a store with the same sessions, as after a restart."""
        raise NotImplementedError

    def stored(self, blobs: BlobStore, digest: Digest) -> bytes | None:
        """Return stored content, or None."""
        with contextlib.suppress(KeyError), blobs.open(digest) as file:
            return file.read()
        return None

    def test_session_ids_are_random_and_url_safe(self, uploads: UploadStore) -> None:
        ids = {uploads.create("a").id for _ in range(50)}
        assert len(ids) == 50
        assert all(len(session) >= 22 and session.replace("-", "").replace("_", "").isalnum() for session in ids)

    def test_session_starts_empty_and_grows(self, uploads: UploadStore) -> None:
        upload = uploads.create("a")
        assert uploads.size(upload) == 0
        assert uploads.append(upload, sized_body(b"hello ")) == 6
        assert uploads.append(upload, chunked_body(b"world")) == 11
        assert uploads.size(upload) == 11

    @pytest.mark.parametrize("size", [0, 1, LARGE])
    @pytest.mark.parametrize("body", [sized_body, chunked_body])
    def test_finish_stores_whole_blob(
        self, uploads: UploadStore, blobs: BlobStore, size: int, body: Callable[[bytes], RequestBody]
    ) -> None:
        digest, content = random_content(size)
        upload = uploads.create("a")
        assert uploads.finish(upload, digest, body(content), blobs) == size
        assert self.stored(blobs, digest) == content

    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    @pytest.mark.parametrize("announced", ["sha256", "sha512"])
    def test_blob_in_parts_may_use_another_algorithm(
        self, uploads: UploadStore, blobs: BlobStore, algorithm: str, announced: str
    ) -> None:
        content = secrets.token_bytes(300_000)
        digest = Digest.of(content, algorithm)
        upload = uploads.create("a", algorithm=announced)
        uploads.append(upload, sized_body(content[:100_000]))
        uploads.append(upload, chunked_body(content[100_000:250_000]), offset=100_000)
        assert uploads.finish(
            upload, digest, sized_body(content[250_000:]), blobs, offset=250_000, length=50_000
        ) == len(content)
        assert self.stored(blobs, digest) == content

    def test_large_stream_is_hashed_while_received(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = random_content(6 << 20)
        upload = uploads.create("a")
        assert uploads.append(upload, chunked_body(content[: 5 << 20])) == 5 << 20
        uploads.finish(upload, digest, chunked_body(content[5 << 20 :]), blobs)
        assert self.stored(blobs, digest) == content

    def test_finished_session_is_unknown(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = random_content()
        upload = uploads.create("a")
        uploads.finish(upload, digest, sized_body(content), blobs)
        self.assert_unknown(uploads, upload, blobs)

    def assert_unknown(self, uploads: UploadStore, upload: Upload, blobs: BlobStore) -> None:
        """Assert that all methods reject a session."""
        digest, content = random_content()
        for call in (
            lambda: uploads.size(upload),
            lambda: uploads.append(upload, sized_body(content)),
            lambda: uploads.finish(upload, digest, sized_body(content), blobs),
            lambda: uploads.abort(upload),
        ):
            with pytest.raises(UnknownUpload):
                call()
        assert blobs.stat(digest) is None

    @pytest.mark.parametrize(
        "name", ["", "x", "../../etc/passwd", "a" * 32, "a" * 500, "a/b" * 10, "é" * 24, "a\0" * 15]
    )
    def test_invalid_session_id_is_unknown(self, uploads: UploadStore, blobs: BlobStore, name: str) -> None:
        uploads.create("a")
        self.assert_unknown(uploads, Upload(name, "a"), blobs)

    def test_session_is_bound_to_repository_and_owner(self, uploads: UploadStore, blobs: BlobStore) -> None:
        upload = uploads.create("a", "ada")
        uploads.append(upload, sized_body(b"secret"))
        for other in (Upload(upload.id, "b", "ada"), Upload(upload.id, "a", "bob"), Upload(upload.id, "a")):
            self.assert_unknown(uploads, other, blobs)
        assert uploads.size(Upload(upload.id, "a", "ada")) == 6

    def test_wrong_offset_raises_and_changes_nothing(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = random_content()
        upload = uploads.create("a")
        uploads.append(upload, sized_body(content[:50]))
        for offset in (0, 49, 51, 2**60):
            with pytest.raises(OffsetMismatch) as caught:
                uploads.append(upload, sized_body(content[50:]), offset=offset)
            assert caught.value.size == 50
            with pytest.raises(OffsetMismatch):
                uploads.finish(upload, digest, sized_body(content[50:]), blobs, offset=offset)
            assert uploads.size(upload) == 50
        uploads.finish(upload, digest, sized_body(content[50:]), blobs, offset=50)
        assert self.stored(blobs, digest) == content

    def test_broken_body_keeps_received_bytes(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = random_content(300_000)
        upload = uploads.create("a")
        with pytest.raises(ErrorResponse):
            uploads.append(upload, broken_body(content[:200_000]))
        assert uploads.size(upload) == 200_000
        with pytest.raises(ErrorResponse):
            uploads.finish(upload, digest, broken_body(content[200_000:250_000]), blobs)
        assert uploads.size(upload) == 250_000
        assert blobs.stat(digest) is None
        uploads.finish(upload, digest, sized_body(content[250_000:]), blobs, offset=250_000)
        assert self.stored(blobs, digest) == content

    @pytest.mark.parametrize(
        "body", [lambda: broken_body(b"1234"), lambda: chunked_body(b"1234"), lambda: chunked_body(b"12345678")]
    )
    def test_body_with_wrong_length_is_dropped(
        self, uploads: UploadStore, blobs: BlobStore, body: Callable[[], RequestBody]
    ) -> None:
        digest, content = random_content()
        upload = uploads.create("a")
        uploads.append(upload, sized_body(content[:50]))
        with pytest.raises((ErrorResponse, LengthMismatch)) as caught:
            uploads.append(upload, body(), offset=50, length=6)
        assert not isinstance(caught.value, ErrorResponse) or caught.value.status == 400
        assert uploads.size(upload) == 50
        with pytest.raises((ErrorResponse, LengthMismatch)):
            uploads.finish(upload, digest, body(), blobs, offset=50, length=6)
        assert uploads.size(upload) == 50
        uploads.finish(upload, digest, sized_body(content[50:]), blobs, offset=50, length=50)
        assert self.stored(blobs, digest) == content

    def test_body_above_limit_is_rejected_and_session_stays(self, uploads: UploadStore) -> None:
        upload = uploads.create("a")
        with pytest.raises(ErrorResponse) as caught:
            uploads.append(upload, chunked_body(b"x" * 100).set_limit(10))
        assert caught.value.status == 413
        assert uploads.size(upload) <= 11

    def test_digest_mismatch_deletes_session(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = random_content()
        upload = uploads.create("a")
        with pytest.raises(UploadDigestMismatch, match=hashlib.sha256(b"no" + content).hexdigest()):
            uploads.finish(upload, digest, sized_body(b"no" + content), blobs)
        assert list(blobs.iterate()) == []
        self.assert_unknown(uploads, upload, blobs)
        assert uploads.count() == 0

    def test_session_survives_store_failure(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = random_content()
        upload = uploads.create("a")
        uploads.append(upload, sized_body(content[:50]))
        with pytest.raises(OSError, match="no space"):
            uploads.finish(upload, digest, sized_body(content[50:]), FullBlobStore())
        assert uploads.size(upload) == len(content)
        uploads.finish(upload, digest, sized_body(b""), blobs)
        assert self.stored(blobs, digest) == content

    def test_aborted_session_is_unknown(self, uploads: UploadStore, blobs: BlobStore) -> None:
        upload = uploads.create("a")
        uploads.append(upload, sized_body(b"discarded"))
        uploads.abort(upload)
        self.assert_unknown(uploads, upload, blobs)
        assert uploads.count() == 0

    def test_concurrent_request_raises_offset_mismatch(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = random_content()
        upload = uploads.create("a")

        def second_request() -> None:
            calls: tuple[Callable[[], Any], ...] = (
                lambda: uploads.append(upload, sized_body(b"other")),
                lambda: uploads.append(upload, sized_body(b"other"), offset=0),
                lambda: uploads.finish(upload, Digest.of(b""), sized_body(b""), blobs),
            )
            for call in calls:
                with pytest.raises(OffsetMismatch):
                    call()

        assert uploads.append(upload, interrupted_body(content, second_request)) == len(content)
        uploads.finish(upload, digest, sized_body(b""), blobs)
        assert self.stored(blobs, digest) == content

    def test_one_of_many_requests_with_same_offset_writes(self, uploads: UploadStore, blobs: BlobStore) -> None:
        upload = uploads.create("a")
        chunks = [secrets.token_bytes(5000) for _ in range(8)]
        start = threading.Barrier(len(chunks))

        def write(chunk: bytes) -> bool:
            start.wait()
            try:
                uploads.append(upload, sized_body(chunk), offset=0)
            except OffsetMismatch:
                return False
            return True

        with ThreadPoolExecutor(len(chunks)) as pool:
            written = list(pool.map(write, chunks))
        assert sum(written) == 1
        winner = chunks[written.index(True)]
        uploads.finish(upload, Digest.of(winner), sized_body(b""), blobs)
        assert self.stored(blobs, Digest.of(winner)) == winner

    def test_write_to_aborted_session_raises_unknown_upload(self, uploads: UploadStore, blobs: BlobStore) -> None:
        digest, content = random_content()
        upload = uploads.create("a")
        with pytest.raises(UnknownUpload):
            uploads.append(upload, interrupted_body(content, lambda: uploads.abort(upload)))
        upload = uploads.create("a")
        with pytest.raises(UnknownUpload):
            uploads.finish(upload, digest, interrupted_body(content, lambda: uploads.abort(upload)), blobs)
        assert uploads.count() == 0

    def test_count_returns_all_sessions_or_holders_sessions(self, uploads: UploadStore, blobs: BlobStore) -> None:
        assert uploads.count() == 0
        ada = [uploads.create("a", "ada", holder="ada") for _ in range(3)]
        uploads.create("b", "bob", holder="bob")
        uploads.create("b")
        assert (uploads.count(), uploads.count("ada"), uploads.count("bob"), uploads.count("")) == (5, 3, 1, 1)
        uploads.abort(ada[0])
        uploads.finish(ada[1], Digest.of(b""), sized_body(b""), blobs)
        assert (uploads.count(), uploads.count("ada"), uploads.count("eve")) == (3, 1, 0)

    def test_used_bytes_sums_sessions_of_repository(self, uploads: UploadStore, blobs: BlobStore) -> None:
        assert uploads.used_bytes("a") == 0
        first, second = uploads.create("a", "ada"), uploads.create("a", "bob")
        for upload, content in ((first, b"12345"), (second, b"123"), (uploads.create("b"), b"1")):
            uploads.append(upload, sized_body(content))
        assert (uploads.used_bytes("a"), uploads.used_bytes("b"), uploads.used_bytes("c")) == (8, 1, 0)
        uploads.abort(first)
        uploads.finish(second, Digest.of(b"1234"), sized_body(b"4"), blobs)
        assert uploads.used_bytes("a") == 0

    def test_session_is_found_without_its_holder(self, uploads: UploadStore) -> None:
        upload = uploads.create("a", holder="192.0.2.1")
        assert uploads.size(Upload(upload.id, "a")) == 0

    def test_states_have_time_and_size(self, uploads: UploadStore) -> None:
        start = time.time() - 5
        uploads.append(uploads.create("a", holder="ada"), sized_body(b"abc"))
        uploads.create("a", holder="bob")
        assert sorted(state.size for state in uploads.states()) == [0, 3]
        (state,) = uploads.states("ada")
        assert state.size == 3
        assert start < state.written < time.time() + 5
        assert list(uploads.states("eve")) == []

    def test_idle_session_expires(self, uploads: UploadStore, blobs: BlobStore) -> None:
        upload = uploads.create("a")
        uploads.append(upload, sized_body(b"abandoned"))
        assert uploads.expire(time.time() - 3600) == 0
        assert uploads.size(upload) == 9
        assert uploads.expire(time.time() + 3600) == 1
        self.assert_unknown(uploads, upload, blobs)
        assert uploads.count() == 0

    def test_empty_session_expires_earlier(self, uploads: UploadStore, blobs: BlobStore) -> None:
        empty, used = uploads.create("a"), uploads.create("a")
        uploads.append(used, sized_body(b"used"))
        assert uploads.expire(time.time() - 3600, empty_before=time.time() + 3600) == 1
        self.assert_unknown(uploads, empty, blobs)
        assert uploads.size(used) == 4

    def test_expiry_of_a_holder_keeps_other_sessions(self, uploads: UploadStore, blobs: BlobStore) -> None:
        ada, bob = (uploads.create("a", holder=holder) for holder in ("ada", "bob"))
        assert uploads.expire(time.time() + 3600, holder="ada") == 1
        self.assert_unknown(uploads, ada, blobs)
        assert uploads.size(bob) == 0

    def test_session_being_written_does_not_expire(self, uploads: UploadStore) -> None:
        upload = uploads.create("a")
        expired: list[int] = []
        body = interrupted_body(b"0123456789", lambda: expired.append(uploads.expire(time.time() + 3600)))
        assert uploads.append(upload, body) == 10
        assert expired == [0]
        assert uploads.size(upload) == 10

    def test_session_survives_restart(self, uploads: UploadStore, blobs: BlobStore) -> None:
        if not self.persistent:
            pytest.skip("these sessions do not survive a restart")
        digest, content = random_content(300_000)
        upload = uploads.create("a", "ada")
        uploads.append(upload, sized_body(content[:100_000]))
        reopened = self.reopen(uploads)
        assert reopened.size(upload) == 100_000
        reopened.append(upload, sized_body(content[100_000:200_000]), offset=100_000)
        # Two processes alternate, and each has hashed only a part
        uploads.append(upload, sized_body(content[200_000:250_000]), offset=200_000)
        reopened.finish(upload, digest, sized_body(content[250_000:]), blobs, offset=250_000)
        assert self.stored(blobs, digest) == content
        self.assert_unknown(uploads, upload, blobs)
