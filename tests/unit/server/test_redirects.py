"""Blobs that clients get from the object store itself."""

import pytest
from ocikit.server import Application, Settings, memory_storage
from ocikit.server.storage.base import StoredBlob
from ocikit.server.storage.combined import Storage

from tests.support.wsgi import NAME, Registry
from tests.unit.server.endpoints import ABSENT, DenyAll

URL = "https://s3.lab/bucket/c/ab/key?X-Amz-Expires=600&X-Amz-Signature=0123"


class LinkedBlob(StoredBlob):
    """A blob with a URL."""

    def __init__(self, blob, links):
        self.size, self.open, self._links = blob.size, blob.open, links

    def open(self, first, length):
        raise AssertionError

    def link(self, *, seconds):
        self._links.append(seconds)
        return URL


class LinkedStorage(Storage):
    """A storage whose blobs have URLs."""

    links = None

    def find_blob(self, repository, digest):
        blob = super().find_blob(repository, digest)
        return blob and LinkedBlob(blob, self.links)


@pytest.fixture
def make():
    def make(storage=LinkedStorage, access=None, **settings):
        stores = memory_storage()
        storage = storage(stores.blobs, stores.uploads, stores.metadata)
        if isinstance(storage, LinkedStorage):
            storage.links = []
        return Registry(Application(storage, access=access, settings=Settings(**settings)))

    return make


def test_large_blob_is_redirected_for_ten_minutes(make):
    registry = make(redirect=True)
    content = bytes(65537)
    digest = registry.blob(content)["digest"]
    response = registry("GET", f"/v2/{NAME}/blobs/{digest}")
    assert (response.status, response.body, response.headers["location"]) == (307, b"", URL)
    assert response.headers["docker-content-digest"] == digest
    assert response.headers["cache-control"] == "private, max-age=540"
    assert registry.app.storage.links == [600]
    ranged = registry("GET", f"/v2/{NAME}/blobs/{digest}", {"Range": "bytes=5-9"})
    assert (ranged.status, ranged.headers["location"]) == (307, URL)


def test_head_small_blobs_and_manifests_are_not_redirected(make):
    registry = make(redirect=True)
    small, large = registry.blob(bytes(65536))["digest"], registry.blob(bytes(65537))["digest"]
    assert registry("GET", f"/v2/{NAME}/blobs/{small}").status == 200
    head = registry("HEAD", f"/v2/{NAME}/blobs/{large}")
    assert (head.status, head.headers["content-length"]) == (200, "65537")
    assert registry("GET", f"/v2/{NAME}/blobs/{large}", {"If-None-Match": f'"{large}"'}).status == 304
    raw = registry.image(annotations={"large": "x" * 100_000})
    registry.pushed(raw, "v1")
    assert registry("GET", f"/v2/{NAME}/manifests/v1").body == raw
    assert registry.app.storage.links == []


def test_client_that_refuses_redirects_gets_the_content(make):
    registry = make(redirect=True)
    content = bytes(70000)
    digest = registry.blob(content)["digest"]
    response = registry("GET", f"/v2/{NAME}/blobs/{digest}", {"X-Ocikit-Redirect": "No"})
    assert (response.status, response.body) == (200, content)
    ranged = registry("GET", f"/v2/{NAME}/blobs/{digest}", {"X-Ocikit-Redirect": "no", "Range": "bytes=1-3"})
    assert (ranged.status, ranged.body) == (206, content[1:4])


def test_nothing_is_redirected_by_default_or_without_urls(make):
    for registry in (make(), make(Storage, redirect=True)):
        content = bytes(70000)
        digest = registry.blob(content)["digest"]
        assert registry("GET", f"/v2/{NAME}/blobs/{digest}").body == content


def test_redirect_needs_the_permission_and_the_blob(make):
    assert make(access=DenyAll(), redirect=True)("GET", f"/v2/{NAME}/blobs/{ABSENT}").status == 403
    registry = make(redirect=True)
    assert registry("GET", f"/v2/{NAME}/blobs/{ABSENT}").status == 404
    digest = registry.blob(bytes(70000))["digest"]
    assert registry("GET", f"/v2/other/blobs/{digest}").status == 404
    assert registry.app.storage.links == []
