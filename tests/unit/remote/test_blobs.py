"""Blobs of a repository: upload endpoints, ranges, deletion, permissions."""

import pytest
from ocikit import errors
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest

from tests.support.manifests import RAW


def test_post_blob_pushes_in_one_request(server, repository):
    digest = Digest.of(b"content")
    server.on("POST", ".*", status=201)
    assert repository.post_blob(digest, b"content") is None
    assert server.requests[0].body == b"content"
    session = repository.post_blob(digest, b"content")
    repository.put_upload(session, digest, b"content")
    assert server.blobs["a/b", digest] == b"content"


def test_upload_endpoints_push_step_by_step(server, repository):
    content = b"0123456789"
    session = repository.post_upload()
    session = repository.patch_upload(session, 0, content[:4])
    session, received = repository.get_upload(session)
    assert received == 4
    repository.put_upload(session, Digest.of(content), content[4:], offset=4)
    assert server.requests[-1].headers["Content-Range"] == "4-9"
    assert server.blobs["a/b", Digest.of(content)] == content
    with pytest.raises(errors.UploadUnknown):
        repository.get_upload(session)
    other_session = repository.post_upload()
    with pytest.raises(errors.RangeInvalid):
        repository.patch_upload(other_session, 5, b"x")
    repository.delete_upload(other_session)
    assert server.uploads == {}


@pytest.mark.parametrize(
    ("header", "received"),
    [({"Range": "0-0"}, 0), ({"Range": "bytes=0-3"}, 4), ({"Range": "garbage"}, None), ({"Range": ""}, None)],
)
def test_get_upload_parses_range(server, repository, header, received):
    """`Range: 0-0` is ambiguous and counts as none."""
    session = repository.post_upload()
    server.on("GET", ".*/uploads/.*", headers=header)
    assert repository.get_upload(session)[1] == received


def test_patch_without_location_keeps_the_session(server, repository):
    session = repository.post_upload()
    server.on("PATCH", ".*/uploads/.*", without=("Location",))
    assert repository.patch_upload(session, 0, b"0123") == session


def test_get_blob_returns_range(server, repository):
    digest = Digest(server.blob("a/b", b"0123456789"))
    for start, end, expected in ((2, 4, b"234"), (7, None, b"789"), (0, 0, b"0"), (0, None, b"0123456789")):
        with repository.get_blob(digest, start=start, end=end) as response:
            assert response.raw.read() == expected


@pytest.mark.parametrize("fault", [{"status": 429, "headers": {"Retry-After": "0"}}, {"status": 200, "times": 0}])
def test_delete_of_missing_blob_raises_blob_unknown(server, repository, fault):
    """A registry that rejected the first attempt with 429 has deleted nothing."""
    server.manifest("a/b", RAW, "v1")
    blob = Descriptor.of(b"content", "x/y")
    server.on("DELETE", ".*", **fault)
    with pytest.raises(errors.BlobUnknown):
        repository.delete(blob)


def test_delete_removes_blob(server, repository):
    blob = Descriptor.of(b"content", "x/y")
    server.blob("a/b", b"content")
    repository.delete(blob)
    assert server.blobs == {}
    with pytest.raises(errors.BlobUnknown):
        repository.delete(blob)
    repository.delete_blob(blob.digest, absent_ok=True)


def test_can_push_leaves_no_upload(server, repository):
    assert repository.can_push() is True
    assert [r.method for r in server.requests] == ["POST", "DELETE"]
    assert server.uploads == {} and server.blobs == {}


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_can_push_returns_false_after_rejection(server, repository, status):
    server.on("POST", ".*", status=status, times=None)
    assert repository.can_push() is False


def test_can_push_raises_after_failure(server, open_repository):
    server.on("POST", ".*", status=500, times=None)
    with pytest.raises(errors.RegistryError):
        open_repository(server, push=True, retries=0).can_push()
