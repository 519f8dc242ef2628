"""The algorithm behind pull, push, mirror, import and export: plan a copy, then run it.

Documents are walked children first, each digest once. Blobs are copied in parallel, then documents in order, the root
last with its tags: a tag never names incomplete content. A document is walked even if the target has it, because its
blobs may be missing there. Only blobs that exist are skipped.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

from ocikit.errors import CopyError, InvalidDocument, SizeMismatch
from ocikit.progress.base import SILENT, Progress
from ocikit.spec import media_types
from ocikit.spec.arguments import to_texts
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import MAX_INDEX_DEPTH
from ocikit.spec.manifest import Index, Manifest, PlatformLike
from ocikit.store.base import Source, Store
from ocikit.store.selection import select_manifest, too_deep
from ocikit.transfer.pool import WORKERS, run_parallel
from ocikit.transfer.run import Plan, copy_error

log = logging.getLogger("ocikit")


_GENERATIONS = 16  # referrers of referrers; a signature of a signature of a report has three
_DOCUMENTS = 100_000  # per copy; more is an attack or a mistake


def plan(
    source: Source,
    reference: str | Descriptor,
    target: Store,
    *,
    tags: Sequence[str] = (),
    platform: PlatformLike | None = None,
    referrers: bool = False,
    check: bool = False,
    workers: int = WORKERS,
) -> Plan:
    """Plan the copy of a reference from a source to a target.

    Args:
        source: The store to read from.
        reference: A tag, a digest, or a descriptor of the source.
        target: The store to write to.
        tags: The tags of the root in the target.
        platform: Copy only this manifest of an index. It becomes the root, so the digest differs from the index's.
        referrers: Also copy the referrers of the documents, and their referrers.
        check: Ask the target which blobs it has.
        workers: Requests to the target in parallel.

    Returns:
        The plan. Its `run()` copies.

    Raises:
        CopyError: The source cannot be read; the reason is the error's cause.
        NoMatchingPlatform: The index has no manifest for `platform`, or a single image has another platform.
        InvalidDocument: Indexes or referrers are nested too deep, or there are too many documents.

    >>> from ocikit.transfer.plan import plan
    >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
    >>> planned = plan(ocikit.Layout("waves"), "v1", ocikit.MemoryStore(), tags=["v1"])
    >>> [blob.title for blob in planned.blobs if blob.title]
    ['note.txt']
    """
    names = to_texts(tags, "tags")
    root = source.resolve(reference) if isinstance(reference, str) else reference
    walk = _DocumentWalk(source)
    if platform is not None:
        selected = walk.select(root, platform)
        if selected.digest != root.digest:
            log.warning("copying one platform of %s changes the digest to %s", root.digest.short, selected.digest.short)
        root = selected
    walk.visit(root)
    if referrers:
        walk.visit_referrers()
    present: set[Digest] = set()
    if check:
        run_parallel(
            walk.blobs.values(),
            lambda blob, _: present.add(blob.digest) if target.exists(blob) else None,
            workers=workers,
        )
    return Plan(
        source=source,
        target=target,
        root=root,
        tags=names,
        documents=tuple(walk.documents.values()),
        blobs=tuple(walk.blobs.values()),
        foreign=tuple(walk.foreign.values()),
        present=frozenset(present),
        checked=check,
    )


def copy(
    source: Source,
    reference: str | Descriptor,
    target: Store,
    *,
    tags: Sequence[str] = (),
    platform: PlatformLike | None = None,
    referrers: bool = False,
    workers: int = WORKERS,
    progress: Progress = SILENT,
) -> Descriptor:
    """Copy a reference from a source to a target and return its root.

    Arguments and errors are those of `plan` and `Plan.run`.

    Args:
        source: The store to read from.
        reference: A tag, a digest, or a descriptor of the source.
        target: The store to write to.
        tags: Tags of the root in the target.
        platform: Copy only this manifest of an index.
        referrers: Also copy the referrers of the documents, and their referrers.
        workers: Number of parallel transfers.
        progress: The listener for progress events.

    >>> from ocikit.spec.descriptor import EMPTY_DESCRIPTOR
    >>> from ocikit.transfer.plan import copy
    >>> here, there = ocikit.MemoryStore(), ocikit.MemoryStore()
    >>> manifest = ocikit.Manifest(config=EMPTY_DESCRIPTOR, layers=(EMPTY_DESCRIPTOR,))
    >>> here.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    >>> here.push_bytes(manifest.descriptor, manifest.raw, tag="v1")
    >>> copy(here, "v1", there, tags=["v1"]).digest == there.resolve("v1").digest
    True
    """
    planned = plan(source, reference, target, tags=tags, platform=platform, referrers=referrers, workers=workers)
    return planned.run(workers=workers, progress=progress)


class _DocumentWalk:
    """A walk over documents, children first, each digest once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._open: set[Digest] = set()
        self._parsed: dict[Digest, Manifest | Index] = {}
        self.documents: dict[Digest, tuple[Descriptor, bytes]] = {}
        self.blobs: dict[Digest, Descriptor] = {}
        self.foreign: dict[Digest, Descriptor] = {}

    def select(self, root: Descriptor, platform: PlatformLike) -> Descriptor:
        """Return the manifest for a platform, through nested indexes."""
        return select_manifest(root, platform, document=self._read, blob=self._read_blob)[0]

    def _read_blob(self, descriptor: Descriptor) -> bytes:
        try:
            return self._source.fetch(descriptor)
        except Exception as error:
            raise copy_error("source", descriptor, error) from error

    def visit(self, descriptor: Descriptor, depth: int = 0) -> None:
        """Add a document and its children."""
        if descriptor.digest in self.documents:
            return
        if depth > MAX_INDEX_DEPTH or descriptor.digest in self._open:
            raise too_deep(descriptor)
        if len(self.documents) >= _DOCUMENTS:
            raise InvalidDocument(f"the root has more than {_DOCUMENTS} documents", hint="copy them one by one")
        self._open.add(descriptor.digest)
        document = self._read(descriptor)
        for child in document.children:
            if child.is_document:
                self.visit(child, depth + 1)
            elif child.digest in self.blobs:
                pass
            elif media_types.is_foreign(child.media_type):
                self.foreign.setdefault(child.digest, child)
            else:
                self.foreign.pop(child.digest, None)  # one manifest that allows distribution is enough
                self.blobs[child.digest] = child
        self._open.discard(descriptor.digest)
        self.documents[descriptor.digest] = (descriptor, document.raw)

    def visit_referrers(self) -> None:
        """Add the direct and indirect referrers of the visited documents, each once."""
        waiting = list(self.documents)
        for generation in itertools.count():
            known = set(self.documents)
            for digest in waiting:
                descriptor, _ = self.documents[digest]
                for referrer in self._referrers(descriptor):
                    if generation == _GENERATIONS and referrer.digest not in self.documents:
                        raise InvalidDocument(
                            f"{descriptor.digest} has a chain of more than {_GENERATIONS} referrers",
                            hint="the registry may invent them; copy the last of them by themselves",
                        )
                    self.visit(self._correct_size(referrer))
            waiting = [digest for digest in self.documents if digest not in known]
            if not waiting:
                return

    def _referrers(self, descriptor: Descriptor) -> Sequence[Descriptor]:
        try:
            return self._source.referrers(descriptor)
        except Exception as error:
            raise copy_error("source", descriptor, error) from error

    def _correct_size(self, referrer: Descriptor) -> Descriptor:
        """Return the bare descriptor of a listed referrer with its true size.

        GAR and Harbor list wrong sizes: oras#1626, harbor#20187.
        """
        try:
            self._read(referrer.bare())
        except CopyError as error:
            if not isinstance(error.__cause__, SizeMismatch):
                raise
            return self._source.resolve(referrer.digest)
        return referrer.bare()

    def _read(self, descriptor: Descriptor) -> Manifest | Index:
        document = self._parsed.get(descriptor.digest)
        if document is None:
            try:
                document = self._source.document(descriptor)
            except Exception as error:
                raise copy_error("source", descriptor, error) from error
            self._parsed[descriptor.digest] = document
        return document
