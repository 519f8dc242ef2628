"""Pulling: documents and blobs into the cache, files into a folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ocikit import display
from ocikit.errors import FileNotInArtifact
from ocikit.progress.base import Progress, progress_scope
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Manifest
from ocikit.spec.reference import AnyReference
from ocikit.spec.titles import is_selected, layer_path
from ocikit.store.base import Source
from ocikit.store.cache.cache import Cache
from ocikit.store.streams import ByteStream, ProgressReader
from ocikit.transfer.pool import Cancelled, run_parallel

if TYPE_CHECKING:
    from ocikit.folder.folder import Folder
    from ocikit.folder.plan import FolderPlan, Transfer


def _receive(
    source: Source, blob: Descriptor, stop: threading.Event, progress: Progress, take: Callable[[ByteStream], object]
) -> None:
    """Open a blob, hand it to whoever takes it in, and tell how it goes."""

    def tell(n: int) -> None:
        if stop.is_set():
            raise Cancelled
        progress.advance(blob, n)

    with source.open(blob) as stream:
        take(ProgressReader(stream, tell))
    progress.finish(blob, "moved")


def select_layers(manifest: Manifest, include: Iterable[str], exclude: Iterable[str]) -> tuple[Descriptor, ...]:
    """The layers whose names the patterns choose. Raises: FileNotInArtifact: if there are patterns and none does."""
    include, exclude = tuple(include), tuple(exclude)
    layers = tuple(layer for layer in manifest.layers if not media_types.is_foreign(layer.media_type))
    if not include and not exclude:
        return layers
    found = tuple(layer for layer in layers if is_selected(layer_path(layer), include, exclude))
    if not found:
        names = display.join_limited([layer_path(layer) for layer in layers])
        raise FileNotInArtifact(
            f"no file matches include={list(include)!r}, exclude={list(exclude)!r}", hint=f"there is {names}"
        )
    return found


def fetch_to_cache(
    source: Source, cache: Cache, blobs: Sequence[Descriptor], *, workers: int, progress: Progress, title: str
) -> None:
    """Blobs into the cache, in parallel, each digest once."""
    unique = {b.digest: b for b in blobs}

    def one(blob: Descriptor, stop: threading.Event) -> None:
        if not cache.exists(blob):
            if (embedded := blob.embedded) is None:
                _receive(source, blob, stop, progress, lambda stream: cache.push(blob, stream))
                return
            cache.push_bytes(blob, embedded)
        progress.finish(blob, "present")

    total = sum(b.size for b in unique.values())
    with progress_scope(progress, title, size=total, count=len(unique)):
        run_parallel(unique.values(), one, workers=workers)


def folder_plan(
    folder: Folder, manifest: Manifest, layers: Sequence[Descriptor], reference: AnyReference, *, force: bool
) -> FolderPlan:
    """What a pull of some or all layers into a folder will do."""
    whole = len(layers) == len(manifest.layers)
    files = manifest if whole else {layer_path(layer): layer for layer in layers}
    return folder.plan(files, reference=reference, force=force, partial=not whole)


def fetch_to_folder(
    source: Source,
    cache: Cache,
    folder: Folder,
    plan: FolderPlan,
    manifest: Manifest,
    reference: AnyReference,
    *,
    workers: int,
    progress: Progress,
    title: str,
) -> None:
    """Files straight into a folder: cached content is cloned, other content is downloaded into place.

    Raises: ContentError: if files that a user edited are in the way, before anything is written.
    """
    folder.begin(plan)

    def one(transfer: Transfer, stop: threading.Event) -> None:
        blob = transfer.descriptor
        if cache.exists(blob):
            folder.place(transfer, cache.path(blob.digest))
            progress.finish(blob, "present")
        else:
            _receive(source, blob, stop, progress, lambda stream: folder.place(transfer, stream))
        for _ in transfer.files[1:]:
            progress.finish(blob, "present")

    total = sum(file.descriptor.size for file in plan.files)
    with progress_scope(progress, title, size=total, count=len(plan.files)):
        moving = {id(file) for transfer in plan.transfers for file in transfer.files}
        for file in plan.files:
            if id(file) not in moving:
                progress.finish(file.descriptor, "present")
        run_parallel(plan.transfers, one, workers=workers)
        folder.finish(manifest, reference)
