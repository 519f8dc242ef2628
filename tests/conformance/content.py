"""Kinds of content for a registry, new for every repository: no two runs share a digest."""

import base64
import gzip
import hashlib
import io
import json
import secrets
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import define, field, frozen

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
EMPTY = "application/vnd.oci.empty.v1+json"
TYPE_1 = "application/vnd.example.laboratory.v1"
TYPE_2 = "application/vnd.example.laboratory.v2"

#: Size of the largest tested manifest [bytes]. Registries must accept 4 MiB. spec.md#pushing-manifests
LARGE = 3_910_601

PLATFORMS = ({"architecture": "amd64", "os": "linux"}, {"architecture": "arm64", "os": "linux"})

Json = dict[str, Any]


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


@frozen
class Document:
    """A manifest or index: its exact bytes, and its entry in a referrers list."""

    digest: str
    body: bytes = field(repr=False)
    media_type: str
    subject: str | None
    #: As spec.md#listing-referrers specifies: with artifactType and annotations if there are any.
    descriptor: Json = field(repr=False)


@define
class Kind:
    """Content of one kind, in push order."""

    name: str
    algorithm: str = "sha256"
    #: True if descriptors embed their content.
    data: bool = False
    #: True if documents have unknown members.
    extra: bool = False
    #: True if parameters of the push by digest set the tags.
    tag_parameters: bool = False
    #: Bytes by digest. Referenced content that is missing here is never pushed.
    blobs: dict[str, bytes] = field(factory=dict, repr=False)
    documents: list[Document] = field(factory=list, repr=False)
    #: Digests by tag.
    tags: dict[str, str] = field(factory=dict)

    @property
    def referrers(self) -> dict[str, list[Json]]:
        """Return the expected referrers by subject."""
        found: dict[str, list[Json]] = {}
        for document in self.documents:
            if document.subject:
                found.setdefault(document.subject, []).append(document.descriptor)
        return found

    def tags_of(self, document: Document) -> list[str]:
        return [tag for tag, digest in self.tags.items() if digest == document.digest]

    def blob(self, content: bytes, media_type: str) -> Json:
        """Add a blob and return its descriptor."""
        digest = digest_of(content, self.algorithm)
        self.blobs[digest] = content
        return self._descriptor(content, digest, media_type)

    def document(self, members: Json, *, tag: str | None = None, size: int | None = None) -> Json:
        """Add a manifest or index, padded with annotations to *size* bytes, and return its descriptor."""
        media_type = members["mediaType"]
        if self.extra:
            members = members | self._unknown()
        if size is not None:
            members["annotations"]["padding"] = ""
            members["annotations"]["padding"] = "=" * (size - len(_encode(members)))
        body = _encode(members)
        digest = digest_of(body, self.algorithm)
        listed = {"mediaType": media_type, "digest": digest, "size": len(body)}
        kind = members.get("artifactType") or members.get("config", {}).get("mediaType")
        listed |= {"artifactType": kind} if kind else {}
        listed |= {"annotations": members["annotations"]} if members.get("annotations") else {}
        subject = members.get("subject", {}).get("digest")
        self.documents.append(Document(digest, body, media_type, subject, listed))
        if tag:
            self.tags[tag] = digest
        return self._descriptor(body, digest, media_type)

    def image(
        self, *, tag: str | None = None, compressed: bool = True, layers: int = 2, platform: Json = PLATFORMS[0],
        size: int | None = None, **members: Any,
    ) -> Json:  # fmt: skip
        """Add an image with its blobs."""
        tars = [_layer(number) for number in range(layers)]
        stored = [self.blob(gzip.compress(tar) if compressed else tar, LAYER + "+gzip" * compressed) for tar in tars]
        config = self.config([digest_of(tar, self.algorithm) for tar in tars], platform)
        return self.manifest(config, stored, tag=tag, size=size, **members)

    def artifact(
        self, kind: str = TYPE_1, *, layer: bytes | None = None, tag: str | None = None, **members: Any
    ) -> Json:
        """Add an artifact with an empty config and one layer."""
        config = self.blob(b"{}", EMPTY)
        stored = config if layer == b"{}" else self.blob(layer or secrets.token_bytes(2048), kind)
        return self.manifest(config, [stored], tag=tag, artifactType=kind, **members)

    def config(self, diff_ids: Sequence[str], platform: Json) -> Json:
        members = {"author": secrets.token_hex(8), **platform, "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}}
        return self.blob(_encode(members | (self._unknown() if self.extra else {})), CONFIG)

    def manifest(
        self, config: Json, layers: Sequence[Json], *, tag: str | None = None, size: int | None = None, **members: Any
    ) -> Json:
        common = {"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": config, "layers": list(layers)}
        return self.document(common | members, tag=tag, size=size)

    def index(self, manifests: Sequence[Json], *, tag: str | None = None, **members: Any) -> Json:
        common = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}
        return self.document(common | members, tag=tag)

    def images(self, make: Callable[..., Json] | None = None, **members: Any) -> list[Json]:
        """Add an image, or the result of *make*, for each platform, and return descriptors for an index."""
        if make is not None:
            return [make(**members) | {"platform": platform} for platform in PLATFORMS]
        return [self.image(platform=platform, **members) | {"platform": platform} for platform in PLATFORMS]

    def _descriptor(self, content: bytes, digest: str, media_type: str) -> Json:
        descriptor = {"mediaType": media_type, "digest": digest, "size": len(content)}
        return descriptor | ({"data": base64.b64encode(content).decode()} if self.data else {})

    def _unknown(self) -> Json:
        return {f"org.example.{secrets.token_hex(4)}": [secrets.token_hex(4), None, 1.50, {"é": "\u2603"}]}


def _encode(members: Json) -> bytes:
    """Encode JSON with indentation: a registry that parses and re-encodes it changes it."""
    return json.dumps(members, indent=1, ensure_ascii=False).encode()


def _layer(number: int) -> bytes:
    content = secrets.token_bytes(64)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(f"laboratory/{number}.dat")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def annotated() -> Json:
    """Return annotations that a referrers list must repeat."""
    return {"annotations": {"org.example.note": "hello", f"org.example.{secrets.token_hex(4)}": secrets.token_hex(8)}}


def pairs() -> Iterator[tuple[str, str]]:
    """Yield names of annotations and values without end."""
    number = 0
    while True:
        yield f"org.example.large.{number}", "A" * 10_000
        number += 1
