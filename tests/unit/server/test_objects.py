"""Object stores: the contract for a folder and for S3, and faults of the network."""

import pytest
from ocikit.server.storage.cluster.objects import open_objects
from ocikit.server.testing import ObjectStoreContract

#: Bytes; S3's least.
SMALL_PARTS = 5 << 20


class TestFolderObjects(ObjectStoreContract):
    @pytest.fixture
    def objects(self, tmp_path):
        store = open_objects(tmp_path.as_uri())
        store.part_size = SMALL_PARTS
        return store


class TestS3Objects(ObjectStoreContract):
    @pytest.fixture
    def objects(self, objects_url):
        store = open_objects(objects_url)
        store.part_size = SMALL_PARTS
        yield store
        store.close()
