"""MemoryStore: the contract of stores and its own behavior."""

import pytest
from ocikit.errors import InvalidDocument, ManifestUnknown
from ocikit.spec import media_types as mt
from ocikit.spec.descriptor import Descriptor
from ocikit.store.memory import MemoryStore

from tests.contracts.store import StoreContract, push_blob, push_image


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self):
        return MemoryStore()


def test_tags_are_sorted():
    store = MemoryStore()
    image = push_image(store, tag="b")
    store.tag(image, "a")
    assert store.tags() == ["a", "b"]


def test_unknown_name_error_has_nearest_names():
    store = MemoryStore()
    push_image(store, tag="release-1.0")
    with pytest.raises(ManifestUnknown, match=r"release-1\.0"):
        store.resolve("relaese-1.0")


def test_invalid_manifest_is_rejected():
    store = MemoryStore()
    raw = b'{"schemaVersion": 2, "layers": "none"}'
    with pytest.raises(InvalidDocument):
        store.push_bytes(Descriptor.of(raw, mt.OCI_MANIFEST), raw)
    assert not store.exists(Descriptor.of(raw, mt.OCI_MANIFEST))


def test_repr_has_counts():
    store = MemoryStore()
    push_blob(store, b"12345")
    assert repr(store) == "MemoryStore(tags=(), blobs=1, size=5 B)"
