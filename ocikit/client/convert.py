"""Conversion of the documents of a planned copy from Docker's schema 2 to OCI.

Only media types change, and the digests of the documents that contain them: the bytes of blobs stay the same. Docker's image
config is an OCI image config under another type. image-spec media-types.md#compatibility-matrix
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import attrs

from ocikit import display
from ocikit.errors import InvalidArgument
from ocikit.spec import media_types
from ocikit.spec.annotations import Annotations
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import ATTESTED_DIGEST, Index, Manifest, parse_document
from ocikit.transfer.run import Plan

_SHOWN = 3  # digests in a summary

#: OCI's types by Docker's. Other types of Docker, such as those of plugins, have no counterpart and are kept.
OCI_TYPES: Final[Mapping[str, str]] = {
    media_types.DOCKER_INDEX: media_types.OCI_INDEX,
    media_types.DOCKER_MANIFEST: media_types.OCI_MANIFEST,
    media_types.DOCKER_CONFIG: media_types.OCI_CONFIG,
    media_types.DOCKER_LAYER: media_types.OCI_LAYER,
    media_types.DOCKER_LAYER_GZIP: media_types.OCI_LAYER_GZIP,
    media_types.DOCKER_LAYER_ZSTD: media_types.OCI_LAYER_ZSTD,
    media_types.DOCKER_FOREIGN_LAYER: media_types.OCI_FOREIGN_LAYER_GZIP,
    media_types.DOCKER_FOREIGN_LAYER_TAR: media_types.OCI_FOREIGN_LAYER,
}

_Parsed = TypeVar("_Parsed", Manifest, Index)


def check_convert(convert: str) -> None:
    """Check the format to convert to.

    Raises:
        InvalidArgument: It is not "oci".
    """
    if convert != "oci":
        raise InvalidArgument(f"convert={display.quoted(convert)} is unknown", hint='use "oci", or None')


def convert_plan(work: Plan) -> Plan:
    """Return a plan that pushes OCI documents instead of Docker's; `converted` has the digests.

    Referrers are about the digests before, so they are not changed. Documents that are OCI already keep their bytes.

    Args:
        work: The plan of a copy.
    """
    new: dict[str, Descriptor] = {}  # by the digest before
    documents = []
    of_root = True  # referrers come after the root
    for descriptor, raw in work.documents:
        document = parse_document(raw, descriptor.media_type)
        converted = _convert(document, new) if of_root else document
        if converted.raw != raw:
            new[descriptor.digest] = attrs.evolve(
                descriptor, media_type=converted.descriptor.media_type, digest=converted.digest, size=converted.size
            )
        documents.append((new.get(descriptor.digest, descriptor), converted.raw))
        of_root = of_root and descriptor.digest != work.root.digest
    return attrs.evolve(
        work,
        root=new.get(work.root.digest, work.root),
        documents=tuple(documents),
        blobs=tuple(_retyped(blob) for blob in work.blobs),
        foreign=tuple(_retyped(blob) for blob in work.foreign),
        converted={Digest(old): descriptor.digest for old, descriptor in new.items()},
    )


def describe_conversion(work: Plan, *, referrers: bool) -> str:
    """Return the end of a copy's summary: the digests before and after, and what is about those before.

    Args:
        work: The converted plan.
        referrers: Whether referrers or signatures were copied.
    """
    if not work.converted:
        return "; nothing to convert: the documents are OCI already"
    pairs = [f"{old.short} is {new.short} now" for old, new in reversed([*work.converted.items()])]
    text = f"; converted to OCI: {display.join_limited(pairs, _SHOWN)}"
    if referrers:
        text += "; referrers and signatures are about the digests before"
    return text


def _convert(document: Manifest | Index, new: Mapping[str, Descriptor]) -> Manifest | Index:
    """Return a document with OCI's media types and the new descriptors of converted children."""
    if isinstance(document, Index):
        manifests = tuple(_moved(child, new) for child in document.manifests)
        return _retyped_document(attrs.evolve(document, manifests=manifests), document)
    if document.media_type == media_types.OCI_ARTIFACT:
        return document
    config, layers = _retyped(document.config), tuple(map(_retyped, document.layers))
    return _retyped_document(attrs.evolve(document, config=config, layers=layers), document)


def _retyped_document(changed: _Parsed, document: _Parsed) -> _Parsed:
    """Return the changed document, or the original with its bytes if nothing has changed."""
    media_type = OCI_TYPES.get(changed.media_type or "", changed.media_type)
    changed = attrs.evolve(changed, media_type=media_type)
    return document if changed == document else changed


def _moved(child: Descriptor, new: Mapping[str, Descriptor]) -> Descriptor:
    """Return the descriptor of a converted child, with its platform and annotations."""
    moved = new.get(child.annotations.get(ATTESTED_DIGEST, ""))
    if moved is not None:  # an attestation of buildkit names the manifest next to it
        child = attrs.evolve(child, annotations=Annotations({**child.annotations, ATTESTED_DIGEST: moved.digest}))
    if (target := new.get(child.digest)) is None:
        return _retyped(child)
    return attrs.evolve(child, media_type=target.media_type, digest=target.digest, size=target.size, data=None)


def _retyped(descriptor: Descriptor) -> Descriptor:
    media_type = OCI_TYPES.get(descriptor.media_type)
    return descriptor if media_type is None else attrs.evolve(descriptor, media_type=media_type)
