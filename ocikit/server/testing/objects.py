"""The contract of object stores."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ocikit.server.storage.cluster.objects import InvalidPart, ObjectStore, new_key
from ocikit.server.testing.bodies import LARGE, random_content


class ObjectStoreContract:
    """The contract of `ObjectStore`.

    Override the fixture `objects` to return an empty store. Its `part_size` may be smaller than usual.

    >>> import pytest
    >>> from ocikit.server.storage.cluster.folder import FolderObjects
    >>> from ocikit.server.testing import ObjectStoreContract
    >>> class TestMyObjects(ObjectStoreContract):
    ...     @pytest.fixture
    ...     def objects(self, tmp_path):
    ...         return FolderObjects(tmp_path)
    """

    @pytest.fixture
    def objects(self) -> Iterator[ObjectStore]:
        raise NotImplementedError

    # Whole objects

    @pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, LARGE])
    def test_object_of_any_size_is_read_unchanged(self, objects: ObjectStore, size: int) -> None:
        key, content = new_key(), secrets.token_bytes(size)
        objects.put(key, io.BytesIO(content), size)
        assert objects.size(key) == size
        with objects.open(key) as file:
            assert file.read() == content
            assert file.read() == b""
        with objects.open(key) as file:
            assert b"".join(iter(lambda: file.read(7777), b"")) == content

    @pytest.mark.parametrize("size", [100, LARGE])
    def test_put_takes_bytes_from_position_of_file(self, objects: ObjectStore, size: int) -> None:
        key, content = new_key(), secrets.token_bytes(size)
        file = io.BytesIO(b"before" + content + b"after")
        file.seek(6)
        objects.put(key, file, size)
        assert content_of(objects, key) == content

    @pytest.mark.parametrize("size", [100, LARGE])
    def test_put_of_short_file_stores_nothing(self, objects: ObjectStore, size: int) -> None:
        key = new_key()
        with pytest.raises(ValueError, match="bytes"):
            objects.put(key, io.BytesIO(bytes(size)), size + 1)
        assert objects.size(key) is None
        assert list(objects.iterate("")) == []

    @pytest.mark.parametrize("size", [100, LARGE])
    def test_put_keeps_digest(self, objects: ObjectStore, size: int) -> None:
        digest, content = random_content(size)
        key, other = new_key(), new_key()
        objects.put(key, io.BytesIO(content), size, digest=digest)
        objects.put(other, io.BytesIO(content), size)
        assert objects.digest(key) == digest
        assert objects.digest(other) is None

    def test_missing_object_is_not_found(self, objects: ObjectStore) -> None:
        key = new_key()
        assert objects.size(key) is None
        assert objects.digest(key) is None
        for first, length in [(0, None), (0, 10), (0, 0), (5, None)]:
            with pytest.raises(KeyError):
                objects.open(key, first, length)

    def test_keys_of_any_allowed_character_are_stored(self, objects: ObjectStore) -> None:
        keys = ["m/7/sha256:" + "0" * 64, "t/7/1700000000-v1.0_a-b", "a", "a@b/c+d=e"]
        for key in keys:
            objects.put(key, io.BytesIO(key.encode()), len(key))
        assert [content_of(objects, key).decode() for key in keys] == keys
        assert [key for key, _, _ in objects.iterate("")] == sorted(keys)

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "a\0", "a b", "ä"])
    def test_invalid_key_is_refused(self, objects: ObjectStore, key: str) -> None:
        with pytest.raises(ValueError, match="key"):
            objects.put(key, io.BytesIO(b"1"), 1)
        with pytest.raises(ValueError, match="key"):
            objects.open(key)

    def test_many_threads_write_and_read(self, objects: ObjectStore) -> None:
        def work(_: int) -> bool:
            key, content = new_key(), secrets.token_bytes(50_000)
            objects.put(key, io.BytesIO(content), len(content))
            return content_of(objects, key) == content

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(work, range(64)))

    # Ranges

    @pytest.mark.parametrize(
        ("first", "length"), [(0, 1), (0, 10), (3, 4), (9, 1), (5, 100), (4, None), (0, None), (10, 5), (11, None)]
    )
    def test_range_has_its_bytes(self, objects: ObjectStore, first: int, length: int | None) -> None:
        key, content = new_key(), b"0123456789"
        objects.put(key, io.BytesIO(content), len(content))
        with objects.open(key, first, length) as file:
            assert file.read() == content[first : None if length is None else first + length]

    def test_range_of_empty_object_is_empty(self, objects: ObjectStore) -> None:
        key = new_key()
        objects.put(key, io.BytesIO(), 0)
        for length in (0, 1, None):
            with objects.open(key, 0, length) as file:
                assert file.read() == b""

    def test_reader_fills_a_buffer(self, objects: ObjectStore) -> None:
        key, content = new_key(), secrets.token_bytes(LARGE)
        objects.put(key, io.BytesIO(content), len(content))
        with objects.open(key, 10, 1 << 20) as file:
            buffer = bytearray()
            block = bytearray(10_000)
            while count := file.readinto(block):  # type: ignore[attr-defined]  # typeshed has none in BinaryIO
                buffer += block[:count]
        assert bytes(buffer) == content[10 : 10 + (1 << 20)]

    # Deletions

    def test_deleted_objects_are_not_found(self, objects: ObjectStore) -> None:
        keys = [new_key() for _ in range(3)]
        for key in keys:
            objects.put(key, io.BytesIO(b"1"), 1)
        assert objects.delete(keys[:2]) == {}
        assert [objects.size(key) for key in keys] == [None, None, 1]
        assert [key for key, _, _ in objects.iterate("")] == keys[2:]

    def test_delete_of_missing_objects_does_nothing(self, objects: ObjectStore) -> None:
        assert objects.delete([new_key(), new_key()]) == {}
        assert objects.delete([]) == {}

    def test_delete_takes_1000_keys(self, objects: ObjectStore) -> None:
        keys = [new_key() for _ in range(1000)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: objects.put(key, io.BytesIO(b"1"), 1), keys[:20]))
        assert objects.delete(keys) == {}
        assert list(objects.iterate("")) == []

    # Lists

    def test_iterate_yields_keys_in_order_over_pages(self, objects: ObjectStore) -> None:
        keys = [new_key() for _ in range(1100)] + ["c/0", "c.d/e", "c-d", "c0", "d/e/f"]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: objects.put(key, io.BytesIO(key.encode()), len(key)), keys))
        keys.sort()
        listed = list(objects.iterate(""))
        assert [key for key, _, _ in listed] == keys
        assert all(size == len(key) for key, size, _ in listed)
        assert [key for key, _, _ in objects.iterate("", after=keys[500])] == keys[501:]
        assert [key for key, _, _ in objects.iterate("c/")] == [key for key in keys if key.startswith("c/")]

    @pytest.mark.parametrize("prefix", ["c/", "c/a", "c/ab", "c/ab/", "c/ab/x", "c/ab/xy", "d/", "c/b"])
    def test_iterate_yields_keys_of_a_prefix(self, objects: ObjectStore, prefix: str) -> None:
        keys = ["a", "c/a", "c/a-b/x", "c/ab/x", "c/ab/xy", "c/ab0/z", "c/b/x", "e/f"]
        for key in keys:
            objects.put(key, io.BytesIO(), 0)
        assert [key for key, _, _ in objects.iterate(prefix)] == [key for key in keys if key.startswith(prefix)]
        for after in keys:
            wanted = [key for key in keys if key.startswith(prefix) and key > after]
            assert [key for key, _, _ in objects.iterate(prefix, after=after)] == wanted

    def test_time_of_objects_advances(self, objects: ObjectStore) -> None:
        for key in ("a", "b"):
            objects.put(key, io.BytesIO(), 0)
        (_, _, first), (_, _, second) = objects.iterate("")
        assert 0 < first <= second

    # Parts

    def test_object_of_parts_is_read_unchanged(self, objects: ObjectStore) -> None:
        digest, content = random_content(objects.part_size * 2 + 12_345)
        key = new_key()
        multipart = objects.begin_parts(key, digest=digest)
        assert objects.size(key) is None
        etags = put_parts(objects, key, multipart, content)
        assert objects.size(key) is None
        objects.complete_parts(key, multipart, etags)
        assert objects.size(key) == len(content)
        assert objects.digest(key) == digest
        assert content_of(objects, key) == content
        edge = objects.part_size
        for first, length in [(edge - 5, 10), (edge, 5), (edge - 5, 5), (0, edge), (edge * 2 + 1, None), (1, None)]:
            with objects.open(key, first, length) as file:
                assert file.read() == content[first : None if length is None else first + length]
        assert [(key, size) for key, size, _ in objects.iterate("")] == [(key, len(content))]
        assert objects.delete([key]) == {}
        assert objects.size(key) is None

    def test_parts_in_any_order_and_twice_make_the_object(self, objects: ObjectStore) -> None:
        content = secrets.token_bytes(objects.part_size + 100)
        first, second = content[: objects.part_size], content[objects.part_size :]
        key = new_key()
        multipart = objects.begin_parts(key)
        objects.put_part(key, multipart, 2, io.BytesIO(b"wrong"), 5)
        objects.put_part(key, multipart, 1, io.BytesIO(b"wrong"), 5)
        file = io.BytesIO(b"before" + second)
        file.seek(6)
        last = objects.put_part(key, multipart, 2, file, len(second))
        etags = [objects.put_part(key, multipart, 1, io.BytesIO(first), len(first)), last]
        objects.complete_parts(key, multipart, etags)
        assert content_of(objects, key) == content

    def test_replaced_part_is_refused_or_kept(self, objects: ObjectStore) -> None:
        """A stopped process writes a part when it continues: the object has the parts of the ETags, or there is none."""
        content = secrets.token_bytes(objects.part_size + 100)
        key = new_key()
        multipart = objects.begin_parts(key)
        etags = put_parts(objects, key, multipart, content)
        objects.put_part(key, multipart, 1, io.BytesIO(bytes(objects.part_size)), objects.part_size)
        try:
            objects.complete_parts(key, multipart, etags)
        except InvalidPart:
            assert objects.size(key) is None
        else:
            assert content_of(objects, key) == content

    def test_unknown_etag_is_refused(self, objects: ObjectStore) -> None:
        key = new_key()
        multipart = objects.begin_parts(key)
        objects.put_part(key, multipart, 1, io.BytesIO(b"1"), 1)
        with pytest.raises(InvalidPart):
            objects.complete_parts(key, multipart, ['"0123456789abcdef0123456789abcdef"'])
        assert objects.size(key) is None

    def test_second_completion_changes_nothing(self, objects: ObjectStore) -> None:
        key = new_key()
        multipart = objects.begin_parts(key)
        etag = objects.put_part(key, multipart, 1, io.BytesIO(b"123"), 3)
        objects.complete_parts(key, multipart, [etag])
        try:
            objects.complete_parts(key, multipart, [etag])
        except KeyError:
            pass
        assert content_of(objects, key) == b"123"

    def test_late_part_changes_no_completed_object(self, objects: ObjectStore) -> None:
        key = new_key()
        multipart = objects.begin_parts(key)
        etag = objects.put_part(key, multipart, 1, io.BytesIO(b"123"), 3)
        objects.complete_parts(key, multipart, [etag])
        with pytest.raises(KeyError):
            objects.put_part(key, multipart, 1, io.BytesIO(b"456"), 3)
        assert content_of(objects, key) == b"123"

    def test_aborted_upload_is_not_found(self, objects: ObjectStore) -> None:
        key = new_key()
        multipart = objects.begin_parts(key)
        etag = objects.put_part(key, multipart, 1, io.BytesIO(b"1"), 1)
        objects.abort_parts(key, multipart)
        objects.abort_parts(key, multipart)
        with pytest.raises(KeyError):
            objects.put_part(key, multipart, 2, io.BytesIO(b"1"), 1)
        with pytest.raises(KeyError):
            objects.complete_parts(key, multipart, [etag])
        assert objects.size(key) is None
        assert list(objects.iterate("")) == []

    def test_abort_after_completion_keeps_the_object(self, objects: ObjectStore) -> None:
        key = new_key()
        multipart = objects.begin_parts(key)
        objects.complete_parts(key, multipart, [objects.put_part(key, multipart, 1, io.BytesIO(b"1"), 1)])
        objects.abort_parts(key, multipart)
        assert content_of(objects, key) == b"1"

    @pytest.mark.parametrize("multipart", ["", "unknown", "../.."])
    def test_unknown_multipart_upload_is_not_found(self, objects: ObjectStore, multipart: str) -> None:
        key = new_key()
        with pytest.raises(KeyError):
            objects.put_part(key, multipart, 1, io.BytesIO(b"1"), 1)
        with pytest.raises(KeyError):
            objects.complete_parts(key, multipart, ['"0123456789abcdef0123456789abcdef"'])
        objects.abort_parts(key, multipart)

    def test_part_of_short_file_is_refused(self, objects: ObjectStore) -> None:
        key = new_key()
        multipart = objects.begin_parts(key)
        with pytest.raises(ValueError, match="bytes"):
            objects.put_part(key, multipart, 1, io.BytesIO(b"12"), 3)

    # Health

    def test_check_of_a_store_in_order_passes(self, objects: ObjectStore) -> None:
        objects.check()


def content_of(objects: ObjectStore, key: str) -> bytes:
    """Return an object."""
    with objects.open(key) as file:
        return file.read()


def put_parts(objects: ObjectStore, key: str, multipart: str, content: bytes) -> list[str]:
    """Store content as parts and return their ETags."""
    etags = []
    for number, first in enumerate(range(0, len(content), objects.part_size), start=1):
        part = content[first : first + objects.part_size]
        etags.append(objects.put_part(key, multipart, number, io.BytesIO(part), len(part)))
    return etags
