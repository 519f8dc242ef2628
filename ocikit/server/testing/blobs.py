"""The contract of blob stores."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ocikit.server.storage.base import BlobStore
from ocikit.server.testing.bodies import LARGE, InterruptedStream, random_content, random_digest
from ocikit.spec.digest import Digest


class BlobStoreContract:
    """The contract of `BlobStore`.

    Override the fixture `blobs` to return an empty store.

    >>> import pytest
    >>> from ocikit.server import memory_storage
    >>> from ocikit.server.testing import BlobStoreContract
    >>> class TestMyBlobs(BlobStoreContract):
    ...     @pytest.fixture
    ...     def blobs(self):
    ...         return memory_storage().blobs
    """

    #: Whether open content stays readable after a deletion. Set it to False for a store that reads ranges of remote
    #: objects: there only the grace period protects downloads in progress.
    readable_after_delete = True

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        raise NotImplementedError

    def test_put_content_is_readable_with_its_size(self, blobs: BlobStore) -> None:
        digest, content = random_content()
        blobs.put(digest, io.BytesIO(content))
        assert blobs.stat(digest) == len(content)
        with blobs.open(digest) as file:
            assert file.read() == content

    def test_missing_content_is_not_found(self, blobs: BlobStore) -> None:
        digest = random_digest()
        assert blobs.stat(digest) is None
        with pytest.raises(KeyError):
            blobs.open(digest)
        assert list(blobs.iterate()) == []

    @pytest.mark.parametrize("size", [0, 1, LARGE])
    def test_content_of_any_size_is_returned_unchanged(self, blobs: BlobStore, size: int) -> None:
        digest, content = random_content(size)
        blobs.put(digest, io.BytesIO(content))
        assert blobs.stat(digest) == size
        with blobs.open(digest) as file:
            chunks = list(iter(lambda: file.read(1 << 16), b""))
        assert b"".join(chunks) == content

    def test_sha512_digest_is_separate_from_sha256(self, blobs: BlobStore) -> None:
        _, content = random_content()
        short, long = Digest.of(content), Digest.of(content, "sha512")
        blobs.put(long, io.BytesIO(content))
        assert blobs.stat(short) is None
        assert blobs.stat(long) == len(content)
        assert list(blobs.iterate()) == [long]

    def test_open_content_is_seekable(self, blobs: BlobStore) -> None:
        digest, content = random_content(10_000)
        blobs.put(digest, io.BytesIO(content))
        with blobs.open(digest) as file:
            file.seek(5000)
            assert file.read(10) == content[5000:5010]
            file.seek(0)
            assert file.read(3) == content[:3]

    def test_second_put_replaces_content(self, blobs: BlobStore) -> None:
        digest, content = random_content()
        blobs.put(digest, io.BytesIO(content[:-1]))
        blobs.put(digest, io.BytesIO(content))
        with blobs.open(digest) as file:
            assert file.read() == content

    def test_failed_put_leaves_no_blob(self, blobs: BlobStore) -> None:
        digest, content = random_content(LARGE)

        def fail() -> None:
            assert blobs.stat(digest) is None
            raise OSError("the source failed")

        with pytest.raises(OSError, match="the source failed"):
            blobs.put(digest, InterruptedStream(content, fail))  # type: ignore[arg-type]  # mypy does not accept a raw stream as BinaryIO
        assert blobs.stat(digest) is None
        assert list(blobs.iterate()) == []

    def test_failed_replacement_keeps_old_content(self, blobs: BlobStore) -> None:
        digest, content = random_content(LARGE)
        blobs.put(digest, io.BytesIO(content))

        def fail() -> None:
            raise OSError("the source failed")

        with pytest.raises(OSError, match="the source failed"):
            blobs.put(digest, InterruptedStream(content, fail))  # type: ignore[arg-type]  # mypy does not accept a raw stream as BinaryIO
        with blobs.open(digest) as file:
            assert file.read() == content

    def test_put_file_moves_file_into_store(self, blobs: BlobStore, tmp_path: Path) -> None:
        digest, content = random_content(LARGE)
        path = tmp_path / "received"
        path.write_bytes(content)
        blobs.put_file(digest, path)
        assert not path.exists()
        with blobs.open(digest) as file:
            assert file.read() == content

    def test_put_file_replaces_content(self, blobs: BlobStore, tmp_path: Path) -> None:
        digest, content = random_content()
        path = tmp_path / "received"
        path.write_bytes(content)
        blobs.put(digest, io.BytesIO(b"wrong"))
        blobs.put_file(digest, path)
        assert blobs.stat(digest) == len(content)

    def test_deleted_content_can_be_put_again(self, blobs: BlobStore) -> None:
        digest, content = random_content()
        blobs.put(digest, io.BytesIO(content))
        blobs.delete(digest)
        assert blobs.stat(digest) is None
        assert list(blobs.iterate()) == []
        with pytest.raises(KeyError):
            blobs.open(digest)
        blobs.put(digest, io.BytesIO(content))
        assert blobs.stat(digest) == len(content)

    def test_delete_of_missing_content_does_nothing(self, blobs: BlobStore) -> None:
        blobs.delete(random_digest())

    def test_open_reader_survives_delete(self, blobs: BlobStore) -> None:
        if not self.readable_after_delete:
            pytest.skip("open content of this store ends with its deletion")
        digest, content = random_content(LARGE)
        blobs.put(digest, io.BytesIO(content))
        with blobs.open(digest) as file:
            start = file.read(1000)
            blobs.delete(digest)
            rest = b"".join(iter(lambda: file.read(1 << 16), b""))
        assert start + rest == content

    def test_iterate_yields_each_digest_once(self, blobs: BlobStore) -> None:
        stored = dict(random_content() for _ in range(20))
        for digest, content in stored.items():
            blobs.put(digest, io.BytesIO(content))
            blobs.put(digest, io.BytesIO(content))
        assert sorted(blobs.iterate()) == sorted(stored)

    def test_delete_during_iterate_is_allowed(self, blobs: BlobStore) -> None:
        for _ in range(20):
            digest, content = random_content()
            blobs.put(digest, io.BytesIO(content))
        for digest in blobs.iterate():
            blobs.delete(digest)
        assert list(blobs.iterate()) == []

    def test_concurrent_puts_of_same_content_succeed(self, blobs: BlobStore) -> None:
        digest, content = random_content(200_000)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: blobs.put(digest, io.BytesIO(content)), range(32)))
        assert list(blobs.iterate()) == [digest]
        with blobs.open(digest) as file:
            assert file.read() == content

    def test_remove_partial_keeps_content(self, blobs: BlobStore) -> None:
        digest, content = random_content()
        blobs.put(digest, io.BytesIO(content))
        blobs.remove_partial(time.time() + 3600)
        assert blobs.stat(digest) == len(content)
