"""Contracts of storage adapters. Inherit them in the tests of a custom adapter.

::

    class TestS3Blobs(BlobStoreContract):
        @pytest.fixture
        def blobs(self, tmp_path):
            return S3Blobs(tmp_path)

Each test has its own storage, and no test measures time.
"""

from ocikit.server.testing.blobs import BlobStoreContract
from ocikit.server.testing.metadata import MetadataContract
from ocikit.server.testing.objects import ObjectStoreContract
from ocikit.server.testing.uploads import UploadStoreContract

__all__ = ["BlobStoreContract", "MetadataContract", "ObjectStoreContract", "UploadStoreContract"]
