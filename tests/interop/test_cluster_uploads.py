"""Upload sessions and content in PostgreSQL and an object store."""

import pytest
from ocikit.server.storage.cluster.blobs import ClusterBlobs
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.objects import open_objects
from ocikit.server.storage.cluster.uploads import SqlUploads
from ocikit.server.testing import BlobStoreContract, UploadStoreContract


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture(params=["s3", "folder"])
def objects(request, tmp_path):
    if request.param == "s3":
        url = request.getfixturevalue("objects_url")
    else:
        (tmp_path / "objects").mkdir()
        url = f"file://{tmp_path}/objects"
    objects = open_objects(url, state=tmp_path)
    yield objects
    objects.close()


@pytest.fixture
def blobs(database, objects, tmp_path):
    return ClusterBlobs(database, objects, tmp_path)


@pytest.fixture
def uploads(database, objects, tmp_path):
    return SqlUploads(database, objects, tmp_path)


class TestClusterBlobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self, database, objects, tmp_path):
        return ClusterBlobs(database, objects, tmp_path)


class TestSqlUploads(UploadStoreContract):
    @pytest.fixture
    def blobs(self, database, objects, tmp_path):
        return ClusterBlobs(database, objects, tmp_path)

    @pytest.fixture
    def uploads(self, database, objects, tmp_path):
        return SqlUploads(database, objects, tmp_path)

    def reopen(self, uploads):
        return SqlUploads(uploads.database, uploads.objects, uploads.state)
