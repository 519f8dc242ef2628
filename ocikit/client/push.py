"""Pushes: packed files and their manifest as a source, and the plan that copies them to a store."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
from attrs import define, field, frozen

from ocikit import display
from ocikit.client.arguments import PushedPath, StrPath, check_digest, tags_of, to_patterns
from ocikit.client.resolver import target_of
from ocikit.errors import (
    ContentError,
    CopyError,
    InvalidArgument,
    InvalidDocument,
    InvalidReference,
    ManifestUnknown,
    OcikitError,
    SizeMismatch,
)
from ocikit.forks import ForkSafeLock
from ocikit.layers.boundaries import ENTRY_SIZE, common_folder, cut, folder_ranks
from ocikit.layers.pack import WORKERS as HASHERS
from ocikit.layers.pack import Named, PackTask, Selection, UnhashedFile, select
from ocikit.layers.packed import Packed
from ocikit.layers.shards import SHARD_SIZE
from ocikit.layers.states import KnownHashes
from ocikit.progress.base import Progress, progress_scope
from ocikit.spec import media_types as types
from ocikit.spec.annotations import PREFIX, PREFIX_FIRST, PREFIX_LAST, Annotations
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.spec.media_types import Archive, Shards
from ocikit.spec.reference import AnyReference
from ocikit.spec.titles import Links
from ocikit.store.admission import available_cores
from ocikit.store.base import Source, Store, blob_not_found
from ocikit.store.streams import ByteStream, ProgressReader
from ocikit.transfer.plan import plan
from ocikit.transfer.pool import raise_if_cancelled, run_parallel
from ocikit.transfer.run import BlobCopies, Plan

if TYPE_CHECKING:
    from ocikit.dialects.writing import Writer

#: The artifact type of pushed files without another type.
FILES_ARTIFACT_TYPE = "application/vnd.ocikit.files.v1"

#: Names of files that a pull of a format writes from the config.
_WRITTEN_BY_FORMAT = dict.fromkeys(("kit", "kitops"), ("Kitfile", "Kitfile.json", "kitfile", ".kitfile"))

_MIB = 1 << 20
_SHOWN = 5  # titles in a summary
_KEPT_SIZE = 128 << 10  # bytes of a file that is sent from memory after it was hashed
_STREAMED_SIZE = 8 << 20  # bytes of a file that is hashed while it is sent, if the repository is new
_UNKNOWN = Digest(f"sha256:{'0' * 64}")  # in progress events of a file that is not hashed yet
_STOP_INTERVAL = 0.2  # seconds between checks whether to stop
_WORTH_A_MANIFEST = 2  # layers; for one, a request for the blob costs the same
_NESTED_FILES = 10_000  # in a manifest of a nested index
_NESTED_SIZE = DOCUMENT_LIMIT - (64 << 10)  # bytes of its entries
_ENTRY_SIZE = 400  # bytes of a layer in a manifest, without its title; most have 160


@frozen(kw_only=True)
class PackedArtifact(Source):
    """A manifest with its config and packed layers, as the source of a copy; or a nested index with its manifests."""

    manifest: Manifest | Index
    config: bytes
    layers: Mapping[Digest, Packed]
    nested: Mapping[Digest, Manifest] = field(factory=dict)
    """The manifests of a nested index, in its order."""

    @property
    def config_descriptor(self) -> Descriptor:
        """The descriptor of the config."""
        return self.manifest.config if isinstance(self.manifest, Manifest) else EMPTY_DESCRIPTOR

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
        if descriptor.digest == self.manifest.digest:
            return self.manifest
        return self.nested.get(descriptor.digest) or Source.document(self, descriptor)

    def open(self, descriptor: Descriptor) -> ByteStream:
        """Return the stream of a layer, the config or the manifest.

        Raises:
            ContentError: A file has changed since it was hashed.
        """
        if descriptor.digest == self.manifest.digest or descriptor.digest in self.nested:
            return io.BytesIO(self.document(descriptor).raw)
        if descriptor.digest == self.config_descriptor.digest:
            return io.BytesIO(self.config)
        packed = self.layers.get(descriptor.digest)
        if packed is None:
            raise blob_not_found(descriptor, "the packed artifact")
        return packed.open()


#: Pushes the manifest of an artifact whose content the target has, and returns the artifact.
Publish: TypeAlias = Callable[[PackedArtifact], PackedArtifact]


def select_files(
    paths: Sequence[PushedPath],
    *,
    archive: Archive | None = None,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    media_types: Mapping[str, str] | None = None,
    links: Links = "inside",
    hidden: bool = False,
    secrets: bool = False,
    known: KnownHashes | None = None,
    shards: Shards | None = None,
    shard_size: int = SHARD_SIZE,
    readme: bytes | None = None,
) -> Selection:
    """Find the files and folders to push, with the content of README.md; no file is read."""
    contents = list(_named(paths))
    if readme is not None:
        contents.append(Named("README.md", readme, is_filtered=False))
    if not contents:
        return Selection()
    return select(
        contents,
        archive=archive,
        include=to_patterns(include),
        exclude=to_patterns(exclude),
        media_types=media_types,
        links=links,
        hidden=hidden,
        secrets=secrets,
        known=known,
        shards=shards,
        shard_size=shard_size,
    )


@contextlib.contextmanager
def spooled_files(paths: Sequence[PushedPath]) -> Iterator[tuple[PushedPath, ...]]:
    """Return paths with the content of file objects in temporary files, which have no limit of size.

    Raises:
        InvalidArgument: A file object is open for text.
        ContentError: The disk is full.
    """
    spooled: list[PushedPath] = []
    with contextlib.ExitStack() as stack:
        for path in paths:
            if isinstance(path, Mapping):
                path = {title: _spooled(title, content, stack) for title, content in path.items()}  # noqa: PLW2901 - the same
            spooled.append(path)
        yield tuple(spooled)


def _spooled(title: str, content: Any, stack: contextlib.ExitStack) -> Any:
    """Return the path of a temporary file with what a file object has from its position on; other content as it is."""
    if isinstance(content, bytes | bytearray | memoryview | str | os.PathLike):
        return content
    file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="ocikit-push-"))  # noqa: SIM115 - the stack closes it
    while chunk := content.read(_MIB):
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise InvalidArgument(
                f"the content of {display.quoted(title)} is text, not bytes",
                hint='open the file with "rb", or pass text.encode()',
            )
        try:
            file.write(chunk)
        except OSError as error:
            raise ContentError(
                f"storing the content of {display.quoted(title)} failed: {error.strerror or error}",
                hint="free space in the folder for temporary files, or set TMPDIR",
            ) from error
    file.flush()
    return file.name


def _named(paths: Iterable[PushedPath]) -> Iterator[StrPath | Named]:
    """Yield paths and the items of mappings, with `~` expanded."""
    for path in paths:
        if not isinstance(path, Mapping):
            yield os.path.expanduser(path)
            continue
        for title, content in path.items():
            if isinstance(content, bytes | bytearray | memoryview):
                yield Named(title, bytes(content))
            elif isinstance(content, str | os.PathLike):  # file objects are spooled before
                yield Named(title, os.path.expanduser(content))


def model_paths(paths: Sequence[PushedPath]) -> tuple[PushedPath, ...]:
    """Return the paths of a model: the content of a folder that is the only path, without the folder's name.

    Mappings name their files themselves, so they do not count.
    """
    plain = [path for path in paths if not isinstance(path, Mapping)]
    if len(plain) == 1 and os.path.isdir(os.path.expanduser(plain[0])):
        return tuple(path if isinstance(path, Mapping) else os.path.join(path, os.curdir) for path in paths)
    return tuple(paths)


def model_excluded(as_: str, exclude: str | Iterable[str]) -> tuple[str, ...]:
    """Return the patterns of files to skip, with those that a format writes itself: a pull of a ModelKit has a Kitfile."""
    return (*to_patterns(exclude), *_WRITTEN_BY_FORMAT.get(as_, ()))


def model_writer(
    selection: Selection, as_: str | None, model: Mapping[str, Any] | None, classes: Mapping[str, str] | None
) -> Writer | None:
    """Return what writes the selected files as a model of another tool, or None without `as_`.

    The headers of the files are read for the facts about the model.

    Raises:
        InvalidArgument: A fact or a class is invalid.
        ContentError: A pattern of `classes` matches no file.
    """
    if as_ is None:
        return None
    from ocikit.dialects.writers import writer_for  # noqa: PLC0415 - most pushes need no reader of file headers

    files = ((task.title, task.content, task.size) for task in selection.tasks if task.content is not None)
    return writer_for(as_, files, model, classes)


def describe_selection(selection: Selection) -> str:
    """Return the end of a push's summary: files that look like secrets, and titles that were left out."""
    text = ""
    if selection.secrets:
        text += f"; with what looks like a secret: {display.join_limited(selection.secrets, _SHOWN)}"
    if selection.empty_folders:
        names = display.join_limited(selection.empty_folders, _SHOWN)
        text += f"; empty folders are not pushed: {names} (archive= keeps them)"
    if selection.left_out:
        text += f"; left out: {display.join_limited(selection.left_out, _SHOWN)}"
    return text


def build_artifact(
    packed: Sequence[Packed],
    *,
    artifact_type: str | None = None,
    config: bytes | None = None,
    config_type: str | None = None,
    annotations: Mapping[str, str] | None = None,
    subject: Descriptor | None = None,
    writer: Writer | None = None,
) -> PackedArtifact:
    """Return an artifact with a manifest over packed layers.

    A writer gives the layers the media types and annotations of another tool's models, and writes the config.

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
    layers = tuple(layer.descriptor for layer in packed)
    if writer is not None:
        layers, config = writer.write(layers)
        artifact_type, config_type = writer.artifact_type, writer.config_type
    content = b"{}" if config is None else config
    manifest = Manifest(
        artifact_type=artifact_type or (FILES_ARTIFACT_TYPE if config is None else None),
        config=EMPTY_DESCRIPTOR if config is None else Descriptor.of(content, config_type or ""),
        layers=layers or (EMPTY_DESCRIPTOR,),
        subject=subject,
        annotations=Annotations(annotations or {}),
    )
    check_manifest_size(manifest)
    # Files with the same content share one layer
    return PackedArtifact(
        manifest=manifest, config=content, layers={layer.descriptor.digest: layer for layer in packed}
    )


def build_nested(
    packed: Sequence[Packed], *, annotations: Mapping[str, str] | None = None, subject: Descriptor | None = None
) -> PackedArtifact:
    """Return an artifact with a nested index over packed layers.

    Its manifests are in the order of their titles, and are cut between folders where that is possible. The boundaries
    depend on titles and media types only, so a change of one file's content changes one manifest.

    Args:
        packed: The layers.
        annotations: Annotations of the index.
        subject: What the index refers to.

    Raises:
        ContentError: There are too many files for one index.
    """
    layers = sorted((layer.descriptor for layer in packed), key=lambda layer: layer.title or "")
    titles = [layer.title or "" for layer in layers]
    sizes = [len(title.encode()) + title.count('"') for title in titles]
    before = [
        0,
        *accumulate(ENTRY_SIZE + len(layer.media_type) + size for layer, size in zip(layers, sizes, strict=True)),
    ]

    def fits(start: int, end: int) -> bool:
        return end - start <= _NESTED_FILES and before[end] - before[start] <= _NESTED_SIZE

    nested: dict[Digest, Manifest] = {}
    children = []
    for start, end in cut(folder_ranks(titles), fits) if layers else ():
        manifest = Manifest(artifact_type=FILES_ARTIFACT_TYPE, config=EMPTY_DESCRIPTOR, layers=layers[start:end])
        nested[manifest.digest] = manifest
        first, last = titles[start], titles[end - 1]
        names = {PREFIX: common_folder(first, last), PREFIX_FIRST: first, PREFIX_LAST: last}
        children.append(manifest.descriptor.annotated(**names))
    index = Index(
        artifact_type=types.FOLDER, manifests=children, subject=subject, annotations=Annotations(annotations or {})
    )
    if len(index.raw) > DOCUMENT_LIMIT:
        raise ContentError(
            f"the index of {len(layers):,} files has {len(index.raw) / _MIB:.1f} MiB; registries accept"
            f" {DOCUMENT_LIMIT // _MIB} MiB, and nothing was sent",
            hint='group the files with shards="zip", or push several artifacts',
        )
    return PackedArtifact(
        manifest=index,
        config=b"{}",
        layers={layer.descriptor.digest: layer for layer in packed},
        nested=nested,
    )


def check_manifest_size(manifest: Manifest) -> None:
    """Check that registries accept a manifest of this size.

    Raises:
        ContentError: There are too many files for one manifest.
    """
    if len(manifest.raw) > DOCUMENT_LIMIT:
        raise ContentError(
            f"the manifest of {len(manifest.layers):,} files has {len(manifest.raw) / _MIB:.1f} MiB; registries accept"
            f" {DOCUMENT_LIMIT // _MIB} MiB, and nothing was sent",
            hint='group the files with shards="zip", or list them in several manifests with index=True'
            if manifest.config.media_type == types.EMPTY
            else "choose fewer files with include= or exclude=",
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


def push_files(
    selection: Selection,
    build: Callable[[Sequence[Packed]], PackedArtifact],
    target: Store,
    reference: AnyReference,
    *,
    tags: Iterable[str],
    workers: int,
    progress: Progress,
    title: str,
    publish: Publish | None = None,
    config_last: bool = False,
) -> PackedArtifact:
    """Push files with their manifest and return the artifact.

    Args:
        selection: The files.
        build: Returns the artifact of layers.
        target: The repository or layout.
        reference: The reference of the target.
        tags: More tags.
        workers: Number of parallel transfers.
        progress: The listener for progress events.
        title: The title of the progress bar.
        publish: Pushes the manifest, whose content the target has, and returns the artifact; None pushes it with its tags.
        config_last: The config depends on the digests of the layers, so it is sent after them.

    Raises:
        ContentError: A file cannot be read or has changed, or there are too many files for one manifest.
        InvalidReference: The reference has another digest than the artifact.
    """
    draft = build(())  # raises errors of all arguments before anything is sent
    names = tags_of(reference, tags, default=draft.manifest.subject is None)
    nested = isinstance(draft.manifest, Index)
    try:
        # Hash everything first if the manifest may be refused, and if most of a nested index may be there
        hash_first = reference.digest is not None or (not nested and _may_exceed_limit(selection))
        current = None
        if not hash_first:
            current = _current_document(target, draft.config_descriptor, names, len(selection.tasks))
        before = current if nested and isinstance(current, Index) and current.is_nested else None
        if hash_first or before is not None:
            with contextlib.closing(selection.pack(workers)) as packed:
                artifact = build(packed)
                work = plan_push(artifact, target, reference, tags=tags, check=False, workers=workers)
                if before is not None:
                    work = attrs.evolve(work, present=_present_in_nested(artifact, target, before, workers))
                if publish is not None:
                    work = attrs.evolve(work, tags=())
                work.run(workers=workers, progress=progress, title=title)
                return artifact if publish is None else publish(artifact)
        pipeline = _Pipeline(
            target=target,
            config=draft.config_descriptor,
            content=draft.config,
            config_last=config_last,
            present=_named_blobs(current),
            progress=progress,
        )
        return pipeline.run(selection, build, names, workers=workers, title=title, publish=publish)
    except CopyError as error:
        cause = push_error(error)
    # Raise outside the `except` block. Otherwise the cause's context is the CopyError, whose own cause it is:
    # traceback printers would loop
    raise cause from cause.__cause__


def push_error(error: CopyError) -> OcikitError:
    """Return the cause of a failed push, which has only one remote side."""
    return error.__cause__ if isinstance(error.__cause__, OcikitError) else error


def _may_exceed_limit(selection: Selection) -> bool:
    """Return True if the manifest may be too large for registries."""
    return sum(_ENTRY_SIZE + 2 * len(task.title.encode()) for task in selection.tasks) > DOCUMENT_LIMIT


def _current_document(target: Store, config: Descriptor, tags: Sequence[str], count: int) -> Manifest | Index | None:
    """Return the manifest that the tag names now, because a registry has the blobs that it names.

    One request replaces one for each blob that did not change. If the registry has lost a blob, it rejects the manifest, and
    the blob is pushed again.
    """
    if not tags or count < _WORTH_A_MANIFEST or not target.cacheable:
        return None
    try:
        if target.cheaper_to_push(config):
            return None  # a new repository has no tags
        descriptor, raw = target.raw_document(tags[0])
        return parse_document(raw, descriptor.media_type)
    except OcikitError:
        return None


def _named_blobs(document: Manifest | Index | None) -> frozenset[Digest]:
    """Return the content that a document names and its registry has."""
    children = () if document is None else document.children
    # Foreign layers and embedded content need not be in the repository
    return frozenset(b.digest for b in children if not types.is_foreign(b.media_type) and b.data is None)


def _present_in_nested(artifact: PackedArtifact, target: Store, current: Index, workers: int) -> frozenset[Digest]:
    """Return what need not be pushed, because the nested index that the tag names now has it.

    Manifests that did not change are present with their blobs. Only those that did are requested, for the blobs that they
    name. If the registry has lost a manifest, it rejects the index, and the manifest is pushed again.
    """
    before = {child.digest for child in current.manifests}
    present: set[Digest] = set()
    for digest, manifest in artifact.nested.items():
        if digest in before:
            present |= {digest, *(blob.digest for blob in manifest.blobs)}

    def read(child: Descriptor, _: threading.Event) -> None:
        with contextlib.suppress(OcikitError):
            present.update(_named_blobs(target.document(child)))

    run_parallel([child for child in current.manifests if child.digest not in artifact.nested], read, workers=workers)
    return frozenset(present)


@define(eq=False, kw_only=True)
class _Pipeline(Source):
    """A push that sends each layer as soon as its digest is known, while other files are hashed.

    So the network is not idle while the processor hashes, and a small file is read only once. The workers that send also
    hash. Only a few of them hash large files at the same time, so that the others send.
    """

    target: Store
    config: Descriptor
    content: bytes
    """Of the config."""
    present: frozenset[Digest]
    """Blobs that the target has."""
    config_last: bool
    """Whether the config is another one once the digests of the layers are known."""
    progress: Progress
    _lock: ForkSafeLock = field(factory=ForkSafeLock, init=False)
    _layers: dict[Digest, Packed] = field(factory=dict, init=False)
    _kept: dict[Digest, bytes] = field(factory=dict, init=False)
    """The content of small files that are being sent: at most one for each worker."""
    _hashing: threading.Semaphore = field(
        factory=lambda: threading.Semaphore(min(HASHERS, available_cores())), init=False
    )

    def run(
        self,
        selection: Selection,
        build: Callable[[Sequence[Packed]], PackedArtifact],
        tags: Sequence[str],
        *,
        workers: int,
        title: str,
        publish: Publish | None,
    ) -> PackedArtifact:
        """Send the config and the layers, then the manifest with its tags.

        A config that names the layers follows them.
        """
        tasks = selection.tasks
        packed: dict[PackTask, Packed] = {}
        copies = BlobCopies(source=self, target=self.target, progress=self.progress, present=self.present)

        streaming = self._may_stream(tasks)

        def push(task: PackTask | None, stop: threading.Event) -> None:
            if task is None:
                copies.copy(self.config, stop)
                return
            content, stored, unhashed = None, False, None
            if streaming and task.size >= _STREAMED_SIZE and task.open_unhashed is not None:
                unhashed = task.open_unhashed()
            if unhashed is not None:
                layer, stored = self._push_unhashed(unhashed, stop)
            else:
                layer, content = self._pack(task, stop)
            digest = layer.descriptor.digest
            with self._lock:
                packed[task] = layer
                # Files with the same content share one layer, also with the config
                repeated = digest in self._layers or digest == self.config.digest
                self._layers.setdefault(digest, layer)
                if content is not None and not repeated:
                    self._kept[digest] = content
            if stored:
                self.progress.finish(layer.descriptor, "moved")
                return
            if repeated:
                layer.release()
                self.progress.finish(layer.descriptor, "present")
                return
            try:
                copies.copy(layer.descriptor, stop)
            finally:
                self._kept.pop(digest, None)
                layer.release()

        size = len(self.content) + sum(task.size for task in tasks)
        try:
            with progress_scope(self.progress, title, size=size, count=len(tasks) + 2):
                run_parallel(tasks if self.config_last else (None, *tasks), push, workers=workers)
                artifact = build([packed[task] for task in tasks])
                if self.config_last:
                    self.config, self.content = artifact.config_descriptor, artifact.config
                    run_parallel((None,), push, workers=1)
                if publish is not None:
                    artifact = publish(artifact)
                    self.progress.finish(artifact.manifest.descriptor, "moved")
                    return artifact
                work = plan(artifact, artifact.manifest.descriptor, self.target, tags=tags, workers=workers)
                work.push_documents(workers=workers, progress=self.progress)
        finally:
            for layer in packed.values():
                layer.close()
        return artifact

    def _may_stream(self, tasks: Sequence[PackTask]) -> bool:
        """Return True if large files are hashed while they are sent, in one pass over each.

        Without a digest, the registry can't be asked whether it has the file. So the repository must be new to it. If it
        has the config, an earlier push was interrupted, which may have sent large files. A config that follows the layers
        can't show that; then only the recorded digests of files that were sent whole do.
        """
        if not any(task.size >= _STREAMED_SIZE and task.open_unhashed for task in tasks):
            return False
        return self.target.takes_unhashed() and (self.config_last or not self.target.exists(self.config))

    def _push_unhashed(self, file: UnhashedFile, stop: threading.Event) -> tuple[Packed, bool]:
        """Push a file in one pass; return its layer, and whether the target has stored it."""
        unknown = file.packed(_UNKNOWN).descriptor
        reported = 0

        def report(n: int) -> None:
            nonlocal reported
            raise_if_cancelled(stop)
            reported += n
            self.progress.advance(unknown, n)

        with file.stream as stream:
            try:
                digest, stored = self.target.push_unhashed(ProgressReader(stream, report), file.size, file.check)
            except SizeMismatch:
                file.check()
                raise
        if not stored:
            self.progress.advance(unknown, -reported)
        file.record(digest)
        return file.packed(digest), stored

    def _pack(self, task: PackTask, stop: threading.Event) -> tuple[Packed, bytes | None]:
        """Hash a file or write an archive; return the content of a small file, too."""
        check = partial(raise_if_cancelled, stop)
        if 0 < task.size <= _KEPT_SIZE:
            return task.run(check, keep=_KEPT_SIZE)
        while not self._hashing.acquire(timeout=_STOP_INTERVAL):
            check()
        try:
            return task.run(check)
        finally:
            self._hashing.release()

    def resolve(self, reference: str) -> Descriptor:
        """Raise an error, because the manifest does not exist yet.

        Raises:
            ManifestUnknown: In all cases.
        """
        raise ManifestUnknown(f"{reference} is not pushed yet")

    def open(self, descriptor: Descriptor) -> ByteStream:
        """Return the stream of the config or of a hashed layer.

        Raises:
            ContentError: A file has changed since it was hashed.
        """
        if descriptor.digest == self.config.digest:
            return io.BytesIO(self.content)
        content = self._kept.get(descriptor.digest)
        return self._layers[descriptor.digest].open() if content is None else io.BytesIO(content)
