"""Registries, access rules and constants for the tests of the endpoints."""

import re

from ocikit.server import Access, Identity
from ocikit.server.auth.access import ANONYMOUS

from tests.support.wsgi import NAME

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
EMPTY = "application/vnd.oci.empty.v1+json"
ABSENT = "sha256:" + "0" * 64


class DenyAll(Access):
    """Access that denies everything."""

    def identify(self, request):
        return ANONYMOUS

    def allows(self, identity, permission):
        return False


class DenyWithChallenge(DenyAll):
    """Access that denies everything with a challenge."""

    def challenge(self, request, needs, identity):
        return 'Basic realm="here"'


class PullOnly(Access):
    """Access of the user ada, who may pull."""

    def identify(self, request):
        return Identity("ada")

    def allows(self, identity, permission):
        return permission.action == "pull"


class FailingAccess(Access):
    """Access that raises an error."""

    def __init__(self, error):
        self.error = error

    def identify(self, request):
        raise self.error

    def allows(self, identity, permission):
        return True


def link(response):
    """Return the URL of the next page, or None."""
    if "link" not in response.headers:
        return None
    return re.fullmatch(r'<(/[!-;=?-~]+)>; rel="next"', response.headers["link"])[1]


def pages(app, url):
    responses = []
    while url:
        responses.append(app("GET", url))
        assert responses[-1].status == 200 and len(responses) < 1000
        url = link(responses[-1])
    return responses


def begin(app, name=NAME, query="", **headers):
    response = app("POST", f"/v2/{name}/blobs/uploads/{query}", {"Content-Length": "0", **headers})
    assert response.status == 202 and response.headers["content-length"] == "0"
    assert re.fullmatch(rf"/v2/{name}/blobs/uploads/[A-Za-z0-9_-]{{22,}}", response.headers["location"])
    assert response.headers["range"] == "0-0"
    return response.headers["location"]


def upload_size(app, location):
    """Return the size of an upload that is not empty."""
    response = app("GET", location)
    assert response.status == 204 and response.headers["location"] == location
    return int(re.fullmatch(r"0-(\d+)", response.headers["range"])[1]) + 1
