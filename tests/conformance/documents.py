"""Every kind of content by name: `make("nested-index")`."""

import itertools
import secrets
from collections.abc import Callable, Mapping

from tests.conformance.content import (
    FOREIGN,
    IMAGE_MANIFEST,
    LARGE,
    LAYER,
    PLATFORMS,
    TYPE_1,
    TYPE_2,
    Json,
    Kind,
    annotated,
    digest_of,
    pairs,
)


def make(name: str) -> Kind:
    """Create content of a kind."""
    algorithm = "sha512" if "sha512" in name else "sha256"
    kind = Kind(name, algorithm=algorithm, data=name == "data-field", extra=name == "custom-fields")
    KINDS[name](kind)
    return kind


def make_image(algorithm: str = "sha256") -> Kind:
    """Create an image."""
    kind = Kind("image", algorithm=algorithm)
    kind.image(tag="image")
    return kind


def _image(kind: Kind) -> None:
    kind.image(tag="image")


def _uncompressed(kind: Kind) -> None:
    kind.image(tag="image-uncompressed", compressed=False)


def _large(kind: Kind) -> None:
    kind.image(tag="large-manifest", size=LARGE, annotations=dict(itertools.islice(pairs(), 389)))


def _index(kind: Kind) -> None:
    kind.index(kind.images(), tag="index")


def _nested_index(kind: Kind) -> None:
    kind.index([kind.index(kind.images()), kind.index(kind.images())], tag="index-of-index")


def _empty_index(kind: Kind) -> None:
    kind.index([], tag="index")


def _artifact(kind: Kind) -> None:
    kind.artifact(tag="artifact")


def _artifact_index(kind: Kind) -> None:
    kind.index(kind.images(kind.artifact), tag="artifact-index", artifactType=TYPE_1)


def _without_layers(kind: Kind) -> None:
    kind.artifact(tag="artifact-without-layers", layer=b"{}")


def _with_subject(kind: Kind) -> None:
    subject = kind.image(tag="image")
    kind.image(subject=subject)
    kind.artifact(TYPE_1, tag="tagged-artifact-1", subject=subject, **annotated())
    kind.artifact(TYPE_2, tag="tagged-artifact-2", subject=subject, **annotated())
    kind.artifact(TYPE_2, subject=subject, **annotated())


def _index_with_subject(kind: Kind) -> None:
    subject = kind.index(kind.images(), tag="index")
    common: Json = {"subject": subject, **annotated()}
    kind.index(kind.images(kind.artifact, **common), tag="tagged-artifact", artifactType=TYPE_1, **common)
    kind.index([], subject=subject)  # an index without artifact type: its config has none


def _missing_subject(kind: Kind) -> None:
    subject = {"mediaType": IMAGE_MANIFEST, "digest": _nowhere(kind), "size": 123}
    kind.artifact(tag="tagged-artifact", subject=subject, **annotated())


def _data(kind: Kind) -> None:
    kind.index(kind.images(), tag="data-field")


def _non_distributable(kind: Kind) -> None:
    layers = [
        {"mediaType": media_type, "digest": digest, "size": 123456, "urls": [f"https://store.example.com/{digest}"]}
        for media_type in (FOREIGN + "+gzip", FOREIGN)
        for digest in (_nowhere(kind),)
    ]
    layers.append(kind.blob(secrets.token_bytes(512), LAYER))
    kind.manifest(
        kind.config([layer["digest"] for layer in layers], PLATFORMS[0]), layers, tag="non-distributable-layers"
    )


def _custom_fields(kind: Kind) -> None:
    kind.index(kind.images(), tag="custom-fields")


def _no_layers(kind: Kind) -> None:
    kind.image(tag="no-layers", layers=0)


def _sparse(kind: Kind) -> None:
    kind.image(tag="sparse-image")
    del kind.blobs[next(iter(kind.blobs))]
    there = kind.image() | {"platform": PLATFORMS[0]}
    absent = {"mediaType": IMAGE_MANIFEST, "digest": _nowhere(kind), "size": 1024, "platform": PLATFORMS[1]}
    kind.index([there, absent], tag="sparse-index")


def _by_digest(kind: Kind) -> None:
    kind.index(kind.images())


def _tag_parameters(kind: Kind) -> None:
    kind.tag_parameters = True
    kind.index(kind.images(), tag=kind.name)
    kind.tags |= {f"{kind.name}-{number}": document.digest for number, document in enumerate(kind.documents)}


def _nowhere(kind: Kind) -> str:
    return digest_of(secrets.token_bytes(16), kind.algorithm)


KINDS: Mapping[str, Callable[[Kind], None]] = {
    "image": _image,
    "image-uncompressed": _uncompressed,
    "large-manifest": _large,
    "index": _index,
    "nested-index": _nested_index,
    "empty-index": _empty_index,
    "artifact": _artifact,
    "artifact-index": _artifact_index,
    "artifact-without-layers": _without_layers,
    "artifacts-with-subject": _with_subject,
    "index-with-subject": _index_with_subject,
    "missing-subject": _missing_subject,
    "data-field": _data,
    "non-distributable-layers": _non_distributable,
    "custom-fields": _custom_fields,
    "no-layers": _no_layers,
    "sparse": _sparse,
    "sha512": _by_digest,  # a push by tag addresses by sha256, so only by digest
    "tag-param-sha256": _tag_parameters,
    "tag-param-sha512": _tag_parameters,
}

#: Kinds that a released specification lacks, or that a registry may reject.
DEV = ("sparse", "tag-param-sha256", "tag-param-sha512")
