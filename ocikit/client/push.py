"""Pushes: packed files and their manifest as a source, and the plan that copies them to a store."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs
from attrs import frozen

from ocikit import display
from ocikit.client.arguments import StrPath, check_digest, tags_of, to_patterns
from ocikit.client.resolver import target_of
from ocikit.errors import ContentError, CopyError, InvalidDocument, InvalidReference, ManifestUnknown, OcikitError
from ocikit.layers.pack import Packed, PackedLayers, pack
from ocikit.progress.base import Progress
from ocikit.spec.annotations import Annotations
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.media_types import Archive
from ocikit.spec.reference import AnyReference
from ocikit.spec.titles import Links
from ocikit.store.base import Source, Store, blob_not_found
from ocikit.store.streams import ByteStream
from ocikit.transfer.plan import plan
from ocikit.transfer.run import Plan

#: The artifact type of pushed files without another type.
FILES_ARTIFACT_TYPE = "application/vnd.ocikit.files.v1"

_MIB = 1 << 20
_SHOWN = 5  # titles in a summary


@frozen(kw_only=True)
class PackedArtifact(Source):
    """A manifest with its config and packed layers, as the source of a copy."""

    manifest: Manifest
    config: bytes
    layers: Mapping[Digest, Packed]

    def resolve(self, reference: str) -> Descriptor:
        """Return the manifest's descriptor for any tag, or for its digest.

        Raises:
            ManifestUnknown: The reference is another digest.
        """
        if ":" in reference and reference != self.manifest.digest:
            raise ManifestUnknown(f"these files are not {reference}")
        return self.manifest.descriptor

    def document(self, descriptor: Descriptor) -> Manifest | Index:
        """Return the manifest without parsing it again."""
        return self.manifest if descriptor.digest == self.manifest.digest else Source.document(self, descriptor)

    def open(self, descriptor: Descriptor) -> ByteStream:
        """Return the stream of a layer, the config or the manifest.

        Raises:
            ContentError: A file has changed since it was hashed.
        """
        if descriptor.digest == self.manifest.digest:
            return io.BytesIO(self.manifest.raw)
        if descriptor.digest == self.manifest.config.digest:
            return io.BytesIO(self.config)
        packed = self.layers.get(descriptor.digest)
        if packed is None:
            raise blob_not_found(descriptor, "the packed artifact")
        return packed.open()


@contextlib.contextmanager
def pack_files(
    paths: Sequence[StrPath],
    *,
    archive: Archive | None,
    include: str | Iterable[str],
    exclude: str | Iterable[str],
    media_types: Mapping[str, str] | None,
    links: Links,
    hidden: bool,
    secrets: bool,
    workers: int,
) -> Iterator[PackedLayers]:
    """Pack files and folders into layers; delete temporary files after the block."""
    packed = PackedLayers(layers=())
    if paths:
        packed = pack(
            [os.path.expanduser(path) for path in paths],
            archive=archive,
            include=to_patterns(include),
            exclude=to_patterns(exclude),
            media_types=media_types,
            links=links,
            hidden=hidden,
            secrets=secrets,
            workers=workers,
        )
    try:
        yield packed
    finally:
        packed.close()


def describe_selection(packed: PackedLayers) -> str:
    """Return the end of a push's summary: files that look like secrets, and titles that were left out."""
    text = ""
    if packed.secrets:
        text += f"; with what looks like a secret: {display.join_limited(packed.secrets, _SHOWN)}"
    if packed.empty_folders:
        names = display.join_limited(packed.empty_folders, _SHOWN)
        text += f"; empty folders are not pushed: {names} (archive= keeps them)"
    if packed.left_out:
        text += f"; left out: {display.join_limited(packed.left_out, _SHOWN)}"
    return text


def build_artifact(
    packed: Sequence[Packed],
    *,
    artifact_type: str | None = None,
    config: bytes | None = None,
    config_type: str | None = None,
    annotations: Mapping[str, str] | None = None,
    subject: Descriptor | None = None,
) -> PackedArtifact:
    """Return an artifact with a manifest over packed layers.

    Without a config, the artifact type is required and has a default. With a config, its media type identifies the
    artifact, and the artifact type is optional. An artifact without files has the empty layer.
    image-spec manifest.md#guidelines-for-artifact-usage.

    Raises:
        InvalidDocument: Only one of config and config type is given.
        ContentError: There are too many files for one manifest.
    """
    if (config is None) != (config_type is None):
        raise InvalidDocument(
            "a config and its media type are required together",
            hint="pass both config= and config_type=, or neither",
        )
    content = b"{}" if config is None else config
    manifest = Manifest(
        artifact_type=artifact_type or (FILES_ARTIFACT_TYPE if config is None else None),
        config=EMPTY_DESCRIPTOR if config is None else Descriptor.of(content, config_type or ""),
        layers=tuple(layer.descriptor for layer in packed) or (EMPTY_DESCRIPTOR,),
        subject=subject,
        annotations=Annotations(annotations or {}),
    )
    if len(manifest.raw) > DOCUMENT_LIMIT:
        raise ContentError(
            f"the manifest of {len(packed):,} files has {len(manifest.raw) / _MIB:.1f} MiB; registries accept"
            f" {DOCUMENT_LIMIT // _MIB} MiB, and nothing was sent",
            hint='pack folders with archive="tar+gzip", group the files into shards, or push several artifacts',
        )
    # Files with the same content share one layer
    return PackedArtifact(
        manifest=manifest, config=content, layers={layer.descriptor.digest: layer for layer in packed}
    )


def resolve_subject(target: Store, reference: AnyReference, subject: AnyReference) -> Descriptor:
    """Return the descriptor of a subject in the repository that is pushed to.

    Raises:
        InvalidReference: The subject is in another repository.
    """
    if subject.name != reference.name:
        raise InvalidReference(
            f"the subject {subject} isn't in {reference.name}",
            hint="copy it there first: referrers must be in the repository of their subject",
        )
    # The manifest stores this size, and a HEAD response may state a wrong one
    descriptor = target.resolve_verified(target_of(target, subject))
    return attrs.evolve(descriptor.bare(), artifact_type=None)


def plan_push(
    artifact: PackedArtifact,
    target: Store,
    reference: AnyReference,
    *,
    tags: Iterable[str],
    check: bool,
    workers: int,
) -> Plan:
    """Return the plan of a push.

    An artifact without a subject and without a tag gets the tag "latest".

    Args:
        artifact: What to push.
        target: The repository or layout.
        reference: The reference of the target.
        tags: More tags.
        check: Look up which blobs the target has.
        workers: Number of parallel lookups.

    Raises:
        InvalidReference: The reference has another digest than the artifact.
    """
    manifest = artifact.manifest
    check_digest(reference, manifest.descriptor)
    names = tags_of(reference, tags, default=manifest.subject is None)
    return plan(artifact, manifest.descriptor, target, tags=names, check=check, workers=workers)


def run_push(work: Plan, *, workers: int, progress: Progress, title: str) -> None:
    """Run the plan of a push.

    A push has only one remote side, so the cause of a `CopyError` is raised instead.
    """
    try:
        work.run(workers=workers, progress=progress, title=title)
        return
    except CopyError as error:
        if not isinstance(error.__cause__, OcikitError):
            raise
        cause = error.__cause__
    # Raise outside the `except` block. Otherwise the cause's context is the CopyError, whose own cause it is:
    # traceback printers would loop
    raise cause from cause.__cause__
