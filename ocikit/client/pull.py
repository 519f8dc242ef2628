"""Plans of pulls: blobs into the cache, or files into a folder."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import attrs
from attrs import field, frozen

from ocikit import display
from ocikit.client.arguments import StrPath, to_patterns
from ocikit.errors import ContentError, DigestMismatch, FileNotInArtifact, InvalidArgument, OcikitError
from ocikit.progress.base import Progress, TransferStats, progress_scope
from ocikit.remote.mirrors import retry_without_bad_mirrors
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.reference import AnyReference, Reference
from ocikit.spec.titles import (
    is_archive,
    is_selected,
    is_unpacked_by_pull,
    layer_name,
    layer_path,
    layers_by_path,
    packed_prefix,
)
from ocikit.store.base import Source
from ocikit.store.cache.cache import Cache
from ocikit.store.files import open_file
from ocikit.store.streams import ByteStream, DeferredStream, ProgressReader, VerifiedReader
from ocikit.transfer.pool import raise_if_cancelled, run_parallel
from ocikit.transfer.run import Plan

if TYPE_CHECKING:
    from ocikit.folder.archives import Archive
    from ocikit.folder.copies import FolderCopies
    from ocikit.folder.folder import Folder
    from ocikit.folder.plan import FolderPlan, Transfer

log = logging.getLogger("ocikit")


@frozen(kw_only=True)
class SelectedMembers:
    """The files of a shard that patterns select."""

    titles: frozenset[str]
    hidden: int
    """Number of the other files."""
    save: Callable[[str, Path], object] | None = field(default=None, repr=False)
    """Writes one of them to a path, by a range. None if it is cheaper to fetch the shard."""


@frozen(kw_only=True)
class PullPlan:
    """The content that a pull moves, and where it goes."""

    source: Source
    cache: Cache
    reference: AnyReference
    document: Manifest | Index
    """The manifest, or the nested index."""
    manifest: Manifest
    """The manifest, or one with all files of the nested index that may be selected."""
    layers: tuple[Descriptor, ...]
    """The layers that the patterns select."""
    folder: Folder | None
    """The folder to pull to; None leaves the content in the cache."""
    folder_plan: FolderPlan | None
    """What becomes of each file in the folder."""
    archives: tuple[Descriptor, ...] = ()
    """The layers among them that are unpacked into the folder."""
    force: bool = False
    """Whether edited files in the folder are overwritten."""
    selected: Mapping[Digest, SelectedMembers] = field(factory=dict)
    """The files of shards of which not all are selected."""
    partial: bool = False
    """Whether the artifact has other layers."""

    @property
    def steps(self) -> Plan | FolderPlan:
        """What becomes of each file or blob."""
        return self.folder_plan or _cache_plan(self.cache, self.manifest, self.layers)

    def run(self, *, workers: int, progress: Progress) -> tuple[Path | None, TransferStats]:
        """Move the content.

        Returns:
            The folder with the files, or None for an image in the cache, and statistics.

        Raises:
            ContentError: Edited files are in the way; nothing is changed.
        """
        if self.folder is None:
            stats = retry_without_bad_mirrors(self.source, lambda: self._fetch_blobs(workers, progress))
            if self.manifest.is_image:
                return None, stats
            return snapshot(self.cache, self.reference, self.document, self.layers), stats
        folder, planned = self.folder, [self.folder_plan]

        def fetch_files() -> TransferStats:
            # Plan a retry again: the failed attempt has placed some of the files
            steps = (planned.pop() if planned else None) or self._plan_folder(folder)
            stats = TransferStats(progress)
            steps.check()
            with contextlib.closing(folder):
                if steps.packed:
                    with folder.unpacking() as folder_of:
                        steps = self._plan_folder(folder, self._unpack(steps, folder_of, workers, stats))
                        self._fetch_files(folder, steps, workers, stats)
                else:
                    self._fetch_files(folder, steps, workers, stats)
            stats.unpacked = sum(len(archive.files or ()) for archive in steps.archives)
            return stats

        return folder.path, retry_without_bad_mirrors(self.source, fetch_files)

    def _fetch_blobs(self, workers: int, progress: Progress) -> TransferStats:
        stats = TransferStats(progress)
        embedded = self.manifest.config.embedded is not None
        blobs = self.layers if embedded else (self.manifest.config, *self.layers)
        title = transfer_title("pull", self.reference)
        fetch_to_cache(self.source, self.cache, blobs, workers=workers, progress=stats, title=title)
        return stats

    def _plan_folder(self, folder: Folder, unpacked: Iterable[Archive] = ()) -> FolderPlan:
        return plan_folder(
            folder,
            self.reference,
            self.layers,
            self.archives,
            unpacked,
            selected=self.selected,
            force=self.force,
            partial=self.partial,
        )

    def _unpack(
        self,
        steps: FolderPlan,
        folder_of: Callable[[Descriptor], Path],
        workers: int,
        progress: Progress,
    ) -> list[Archive]:
        """Fetch archives and unpack them for the next plan.

        They are fetched into the cache, where an interrupted pull resumes. If it is not writable, they are unpacked while
        they are downloaded. A few files of a shard are read by ranges.
        """
        from ocikit.folder.archives import place_members, unpack_archive  # noqa: PLC0415 - only archives need tar

        title = transfer_title("pull", self.reference)
        unpacked: list[Archive] = []
        layers = []
        for archive in steps.packed:
            layer, chosen = archive.layer, self.selected.get(archive.layer.digest)
            if chosen is None or chosen.save is None or self.cache.exists(layer):
                layers.append(layer)
                continue
            with progress_scope(progress, title, size=layer.size, count=1):
                unpacked.append(place_members(layer, chosen.titles, chosen.hidden, chosen.save, folder_of(layer)))
                files = (unpacked[-1].files or {}).values()
                progress.finish(attrs.evolve(layer, size=sum(file.size for file in files)), "moved")
        try:
            fetch_to_cache(self.source, self.cache, layers, workers=workers, progress=progress, title=title)
        except ContentError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            log.warning("unpacking without the cache: %s", error.message)

        def write(layer: Descriptor, stream: ByteStream) -> bool:
            done = unpack_archive(layer, cast("BinaryIO", VerifiedReader(stream, layer)), folder_of(layer))
            chosen = self.selected.get(layer.digest)
            unpacked.append(done if chosen is None else done.select(chosen.titles))
            return True

        for layer in layers:
            if self.cache.exists(layer):
                with self.cache.open(layer) as stream:
                    write(layer, stream)
            else:
                with progress_scope(progress, title, size=layer.size, count=1):
                    _download(self.source, layer, threading.Event(), progress, partial(write, layer))
        return unpacked

    def _fetch_files(self, folder: Folder, steps: FolderPlan, workers: int, progress: Progress) -> None:
        """Write files into the folder: clone cached content, download the rest into place."""
        folder.begin(steps)
        copies = folder_copies(self.cache)

        def place(transfer: Transfer, stop: threading.Event) -> None:
            blob = transfer.descriptor
            placed = False
            if self.cache.exists(blob):
                try:
                    folder.place(transfer, self.cache.path(blob.digest))
                    placed = True
                    progress.finish(blob, "present")
                except DigestMismatch:
                    self.cache.discard(blob)
            if not placed and (copy := copies.find(blob)) is not None:
                # It may be edited or deleted meanwhile: then the content is downloaded
                with contextlib.suppress(OcikitError, OSError):
                    placed = folder.place(transfer, copy, verify=True)
                    progress.finish(blob, "present")
            if not placed:
                _download(self.source, blob, stop, progress, lambda stream: folder.place(transfer, stream))
            for _ in transfer.files[1:]:
                progress.finish(blob, "present")

        title = transfer_title("pull", self.reference)
        files = [file for file in steps.files if file.archive is None]
        untouched = [archive.layer for archive in steps.archives if archive.content is None]
        size = sum(file.descriptor.size for file in files) + sum(layer.size for layer in untouched)
        with progress_scope(progress, title, size=size, count=len(files) + len(untouched)):
            moving = {id(file) for transfer in steps.transfers for file in transfer.files}
            for file in files:
                if id(file) not in moving:
                    progress.finish(file.descriptor, "present")
            for layer in untouched:
                progress.finish(layer, "present")
            run_parallel(steps.transfers, place, workers=workers)
            folder.place_unpacked()
            folder.finish(self.document, self.reference)
        self.cache.note_folder(folder.path)


def plan_pull(
    source: Source,
    cache: Cache,
    reference: AnyReference,
    document: Manifest | Index,
    manifest: Manifest,
    to: StrPath | None,
    *,
    layers: Sequence[Descriptor] | None = None,
    complete: bool = True,
    members: Mapping[Digest, SelectedMembers] | None = None,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    force: bool = False,
    archive: bool | None = None,
) -> PullPlan:
    """Return the plan of a pull; nothing is changed.

    Args:
        source: Where the content comes from.
        cache: Where content may be already, and goes if there is no folder.
        reference: The artifact.
        document: Manifest of the artifact, or its nested index.
        manifest: The manifest, or one with the files of the nested index.
        to: The folder for the files; None pulls into the cache.
        layers: The layers with their names as titles; None are those of the manifest.
        complete: Whether these are all layers of the artifact.
        members: The files of shards that the patterns select, for the shards that are named.
        include: Glob patterns of file names; none selects all.
        exclude: Glob patterns of file names to skip.
        force: Overwrite edited files.
        archive: Unpack all tar layers (True), none (False), or folders that were pushed as archives or shards (None).

    Raises:
        FileNotInArtifact: The patterns select no file.
        InvalidArgument: There is no folder to unpack to, or the artifact is an image.
        UnsafeArchive: A selected title leads out of the folder, or two selected layers claim one path.
    """
    named = manifest.layers if layers is None else layers
    members = members or {}
    layers = select_layers(named, to_patterns(include), to_patterns(exclude), members)
    complete = complete and len(layers) == len(named) and not any(chosen.hidden for chosen in members.values())
    if to is None and not manifest.is_image:
        layers_by_path(layers)  # check the titles before anything is fetched
    # Files are synced no more than by cp or curl: after a power failure the next pull detects and repairs damage
    folder = None if to is None else open_folder(to, sync=False)
    archives = select_archives(manifest, layers, archive, folder)
    selected = {layer.digest: members[layer.digest] for layer in archives if layer.digest in members}
    selected = {digest: chosen for digest, chosen in selected.items() if chosen.hidden}
    steps = None
    if folder is not None:
        steps = plan_folder(folder, reference, layers, archives, selected=selected, force=force, partial=not complete)
    return PullPlan(
        source=source,
        cache=cache,
        reference=reference,
        document=document,
        manifest=manifest,
        layers=layers,
        folder=folder,
        folder_plan=steps,
        force=force,
        archives=archives,
        selected=selected,
        partial=not complete,
    )


def select_archives(
    manifest: Manifest, layers: Sequence[Descriptor], archive: bool | None, folder: Folder | None
) -> tuple[Descriptor, ...]:
    """Return the layers to unpack into a folder.

    Raises:
        InvalidArgument: There is no folder to unpack to, or the artifact is an image.
    """
    if archive and folder is None:
        raise InvalidArgument("archive=True needs a folder to unpack to", hint="pull(ref, folder, archive=True)")
    if archive and manifest.is_image:
        raise InvalidArgument(
            "the layers of an image are unpacked together, not as archives", hint="pull(ref).unpack(folder)"
        )
    if folder is None or archive is False:
        return ()
    unique = {layer.digest: layer for layer in layers if (is_archive if archive else is_unpacked_by_pull)(layer)}
    return tuple(unique.values())


def plan_folder(
    folder: Folder,
    reference: AnyReference,
    layers: Sequence[Descriptor],
    archives: Sequence[Descriptor] = (),
    unpacked: Iterable[Archive] = (),
    *,
    selected: Mapping[Digest, SelectedMembers],
    force: bool,
    partial: bool,
) -> FolderPlan:
    """Return what a pull of all or some layers into a folder does.

    Args:
        folder: The folder.
        reference: The artifact.
        layers: The layers to pull.
        archives: Those of them to unpack.
        unpacked: Archives whose content is unpacked already.
        selected: The files of shards of which not all are selected.
        force: Overwrite edited files.
        partial: Whether the artifact has other layers. Then other files of earlier pulls are not deleted.
    """
    if not archives:
        return folder.plan(layers, reference=reference, force=force, partial=partial)
    from ocikit.folder.archives import Archive  # noqa: PLC0415 - only archives need tar and decompression

    def archive_of(layer: Descriptor) -> Archive:
        chosen = selected.get(layer.digest)
        return (
            Archive(layer=layer)
            if chosen is None
            else Archive(layer=layer, selected=chosen.titles, hidden=chosen.hidden)
        )

    ready = {archive.layer.digest: archive for archive in unpacked}
    packed = {layer.digest for layer in archives}
    plain = layers_by_path(layer for layer in layers if layer.digest not in packed)
    return folder.plan(
        plain,
        reference=reference,
        force=force,
        partial=partial,
        archives=[ready.get(layer.digest) or archive_of(layer) for layer in archives],
    )


def describe_foreign(layers: Iterable[Descriptor]) -> str:
    """Return the end of a summary about layers whose content registries do not distribute."""
    count = sum(media_types.is_foreign(layer.media_type) for layer in layers)
    return f"; left out: {display.pluralize(count, 'foreign layer')}, which registries do not store" if count else ""


def describe_nesting(folder: Path, layers: Iterable[Descriptor]) -> str:
    """Return the end of a pull's summary if all files are in a folder with the name of the pulled folder.

    A push of that folder would send its files a second time, under longer names.
    """
    folder = folder.expanduser().absolute()
    titles = [
        f"{packed_prefix(layer)}/" if is_unpacked_by_pull(layer) else layer_path(layer)
        for layer in layers
        if layer.media_type != media_types.EMPTY
    ]
    if not titles or not all(title.startswith(f"{folder.name}/") for title in titles):
        return ""
    return (
        f"; the artifact has a folder {folder.name}/ of its own: its files are in"
        f" {display.display_path(folder / folder.name)}/, pull to {display.display_path(folder.parent)!r} to avoid that,"
        f' or push "{folder.name}/."'
    )


def _cache_plan(cache: Cache, manifest: Manifest, layers: Sequence[Descriptor]) -> Plan:
    blobs = {blob.digest: blob for blob in (manifest.config, *layers)}
    return Plan(
        source=cache,
        target=cache,
        root=manifest.descriptor,
        tags=(),
        documents=(),
        blobs=tuple(blobs.values()),
        present=frozenset(digest for digest, blob in blobs.items() if cache.exists(blob)),
        checked=True,
    )


def select_layers(
    layers: Iterable[Descriptor],
    include: Sequence[str],
    exclude: Sequence[str],
    members: Mapping[Digest, SelectedMembers] | None = None,
) -> tuple[Descriptor, ...]:
    """Return the layers whose names match the patterns, without foreign layers.

    Args:
        layers: The layers.
        include: Glob patterns of names; none selects all.
        exclude: Glob patterns of names to skip.
        members: The files of shards that the patterns select, which decide instead of the shard's name.

    Raises:
        FileNotInArtifact: There are patterns, and no layer matches.
    """
    layers = tuple(layer for layer in layers if not media_types.is_foreign(layer.media_type))
    if not include and not exclude:
        return layers

    def matched(layer: Descriptor) -> bool:
        files = (members or {}).get(layer.digest)
        return is_selected(layer_name(layer), include, exclude) if files is None else bool(files.titles)

    matches = tuple(layer for layer in layers if matched(layer))
    if not matches:
        names = display.join_limited([layer_name(layer) for layer in layers])
        raise FileNotInArtifact(
            f"no file matches include={list(include)!r}, exclude={list(exclude)!r}", hint=f"the files are {names}"
        )
    return matches


def fetch_to_cache(
    source: Source, cache: Cache, blobs: Sequence[Descriptor], *, workers: int, progress: Progress, title: str
) -> None:
    """Fetch blobs into the cache, in parallel, each digest once."""
    unique = {blob.digest: blob for blob in blobs}
    missing = [blob for blob in unique.values() if not cache.exists(blob, quick=True)]
    copies = folder_copies(cache) if missing else None

    def fetch(blob: Descriptor, stop: threading.Event) -> None:
        if not cache.exists(blob):
            if (embedded := blob.embedded) is None:
                if copies is not None and (copy := copies.find(blob)) is not None:
                    # It may be edited or deleted meanwhile: then the content is downloaded
                    with contextlib.suppress(OcikitError, OSError), open_file(copy) as stream:
                        cache.add(blob, stream)
                        progress.finish(blob, "present")
                        return
                _download(source, blob, stop, progress, lambda stream: cache.add(blob, stream))
                return
            cache.push_bytes(blob, embedded)
        progress.finish(blob, "present")

    size = sum(blob.size for blob in unique.values())
    with progress_scope(progress, title, size=size, count=len(unique)):
        for digest in unique.keys() - {blob.digest for blob in missing}:
            progress.finish(unique[digest], "present")
        run_parallel(missing, fetch, workers=workers)


def _download(
    source: Source, blob: Descriptor, stop: threading.Event, progress: Progress, write: Callable[[ByteStream], bool]
) -> None:
    """Pass the stream of a blob to `write` and report progress.

    The stream is opened on first use: another transfer of the blob may end before.
    """

    def advance(count: int) -> None:
        raise_if_cancelled(stop)
        progress.advance(blob, count)

    def open_blob() -> ByteStream:
        return source.open(blob) if (embedded := blob.embedded) is None else io.BytesIO(embedded)

    with DeferredStream(open_blob) as stream:
        reader = ProgressReader(stream, advance)
        written = write(reader)
    if written and reader.skipped:
        progress.resume(blob, reader.skipped)
    progress.finish(blob, "moved" if written else "present")


def snapshot(cache: Cache, reference: AnyReference, document: Manifest | Index, layers: Iterable[Descriptor]) -> Path:
    """Return a read-only folder in the cache with cached layers under their names.

    File names matter because readers choose a format by the suffix.
    """
    if not isinstance(reference, Reference):
        # Layouts may be moved, so their snapshots are stored by digest alone
        reference = Reference(registry="oci", repository="layout")
        cache.push_bytes(document.descriptor, document.raw)
    return cache.snapshot(reference, document, layers)


def folder_copies(cache: Cache) -> FolderCopies:
    """Return the content of folders that earlier pulls have written."""
    from ocikit.folder.copies import FolderCopies  # noqa: PLC0415 - import time of the folder room

    return FolderCopies(cache.folders)


def open_folder(path: StrPath, *, sync: bool = True) -> Folder:
    """Return the working folder at a path."""
    from ocikit.folder.folder import Folder  # noqa: PLC0415 - 5 ms of import time that other calls do not need

    return Folder(Path(path), sync=sync)


def transfer_title(verb: str, reference: AnyReference) -> str:
    """Return the title of a progress bar."""
    return f"{verb} {reference.name.rpartition('/')[2]}"
