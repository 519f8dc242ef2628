"""Manifests of the repository a/b on the fake registry, and images of Docker's schema 2."""

import gzip
import hashlib
import json

import attrs
import ocikit
from ocikit.spec import media_types
from ocikit.spec.annotations import Annotations
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor

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


def docker_list(store, *, tag="v1", foreign=True):
    """Push a manifest list of Docker's schema 2 for two platforms, with an attestation, and return its descriptor.

    The layers are one of each of Docker's types that are stored, and a foreign one, which olareg does not accept.
    """
    content = {
        "application/vnd.docker.image.rootfs.diff.tar.gzip": gzip.compress(bytes(1024), mtime=0),
        "application/vnd.docker.image.rootfs.diff.tar": bytes(1024),
    }
    layers = [ocikit.Descriptor.of(raw, kind) for kind, raw in content.items()]
    for layer, raw in zip(layers, content.values(), strict=True):
        store.push_bytes(layer, raw)
    if foreign:
        kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        layers.append(ocikit.Descriptor.of(b"base", kind, urls=("https://example.com/base",)))
    diff_id = f"sha256:{hashlib.sha256(bytes(1024)).hexdigest()}"
    children = []
    for architecture in ("amd64", "arm64"):
        value = {
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id] * len(layers)},
        }
        raw = json.dumps(value).encode()
        config = ocikit.Descriptor.of(raw, "application/vnd.docker.container.image.v1+json")
        store.push_bytes(config, raw)
        image = ocikit.Manifest(
            media_type="application/vnd.docker.distribution.manifest.v2+json", config=config, layers=layers
        )
        store.push_document(image.descriptor, image.raw)
        platform = ocikit.Platform(os="linux", architecture=architecture)
        children.append(attrs.evolve(image.descriptor, platform=platform))
    about = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": children[0].digest}
    raw = b'{"statement": true}'
    statement = ocikit.Descriptor.of(raw, "application/vnd.in-toto+json")
    store.push_bytes(statement, raw)
    store.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    attestation = ocikit.Manifest(config=EMPTY_DESCRIPTOR, layers=(statement,))
    store.push_document(attestation.descriptor, attestation.raw)
    unknown = ocikit.Platform(os="unknown", architecture="unknown")
    children.append(attrs.evolve(attestation.descriptor, platform=unknown, annotations=Annotations(about)))
    index = ocikit.Index(
        media_type="application/vnd.docker.distribution.manifest.list.v2+json", manifests=tuple(children)
    )
    store.push_document(index.descriptor, index.raw, [tag])
    return index.descriptor
