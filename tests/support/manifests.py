"""Manifests of the repository a/b on the fake registry."""

import hashlib
import json

from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor

OCI, INDEX = media_types.OCI_MANIFEST, media_types.OCI_INDEX
EMPTY = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": "sha256:" + hashlib.sha256(b"{}").hexdigest(),
    "size": 2,
}
MANIFESTS = "/v2/a/b/manifests/.*"


def manifest(**fields):
    """Return the bytes of a manifest with unusual spacing, and its descriptor."""
    media_type = fields.pop("mediaType", OCI)
    document = {"schemaVersion": 2, "mediaType": media_type, "config": EMPTY, "layers": []} | fields
    raw = json.dumps({k: v for k, v in document.items() if v is not None}, indent=3).encode()
    return raw, Descriptor.of(raw, media_type)


#: A manifest with a key that the specification does not define.
RAW, DESCRIPTOR = manifest(annotations={"a": "é", "z": "1"}, future={"key": [1]})


def targets(server, method=".*"):
    """Return the tags and digests of all requests for manifests."""
    return [request.path.rpartition("/")[2] for request in server.seen(method, MANIFESTS)]
