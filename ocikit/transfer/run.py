"""Plans of copies, and how they are carried out."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence

from attrs import field, frozen

from ocikit import display
from ocikit.errors import CopyError, DigestMismatch, ManifestBlobUnknown, OcikitError, SizeMismatch
from ocikit.progress.base import SILENT, Outcome, Progress, progress_scope
from ocikit.spec.annotations import FrozenMap
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import parse_document
from ocikit.store.base import Source, Store
from ocikit.store.streams import ByteStream, ProgressReader, StreamWrapper
from ocikit.transfer.pool import WORKERS, Cancelled, raise_if_cancelled, run_parallel

log = logging.getLogger("ocikit")


@frozen(kw_only=True, repr=False)
class PlannedItem(display.Displayable):
    """One blob or document in a plan."""

    descriptor: Descriptor
    outcome: Outcome
    """The expected outcome: "moved", "present" or "skipped"."""

    def __rich_repr__(self) -> display.Description:
        yield "content", str(self.descriptor)
        yield "outcome", self.outcome


@frozen(kw_only=True, repr=False)
class Plan(display.Displayable):
    """A planned copy; `run()` carries it out.

    >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
    >>> plan = ocikit.copy("oci:waves:v1", "oci:copy:v1", dry_run=True).plan
    >>> [(item.descriptor.title, item.outcome) for item in plan.items if item.descriptor.title]
    [('note.txt', 'moved')]
    """

    source: Source
    target: Store
    root: Descriptor
    tags: tuple[str, ...]
    documents: tuple[tuple[Descriptor, bytes], ...]
    """Children first. The root is among them; its referrers come after it."""
    blobs: tuple[Descriptor, ...]
    """Each digest once."""
    foreign: tuple[Descriptor, ...] = ()
    """Non-distributable layers: manifests name them, copies skip them."""
    present: frozenset[Digest] = frozenset()
    """Blobs that the target already has, and documents that need not be pushed; only some of them unless `checked`."""
    checked: bool = False
    """Whether the target was asked which blobs it has."""
    converted: Mapping[Digest, Digest] = field(factory=FrozenMap)
    """The digests after, by those before, of documents that are copied in another format."""

    @property
    def size(self) -> int:
        """Bytes of blobs and documents to move, without those that are present."""
        blobs = sum(b.size for b in self.blobs if b.digest not in self.present)
        return blobs + sum(len(raw) for d, raw in self.documents if d.digest not in self.present)

    @property
    def items(self) -> tuple[PlannedItem, ...]:
        """All blobs and documents with their expected outcome, in order."""

        def item(descriptor: Descriptor) -> PlannedItem:
            return PlannedItem(
                descriptor=descriptor, outcome="present" if descriptor.digest in self.present else "moved"
            )

        foreign = [PlannedItem(descriptor=b, outcome="skipped") for b in self.foreign]
        return (*map(item, self.blobs), *foreign, *(item(d) for d, _ in self.documents))

    def __rich_repr__(self) -> display.Description:
        yield "root", display.DigestCell(self.root.digest)
        yield "tags", self.tags, ()
        yield "documents", len(self.documents)
        yield "blobs", len(self.blobs)
        yield "to_move", display.Size(self.size)
        yield "present", len(self.present) if self.checked else "not checked"
        yield "skipped", len(self.foreign), 0
        yield "converted", len(self.converted), 0

    def _sections(self) -> Iterator[display.Section]:
        def section(title: str, items: Sequence[Descriptor], *, unfolded: bool) -> Iterator[display.Section]:
            if items:
                rows = (
                    (d.title or d.artifact_type or d.media_type, display.Size(d.size), display.DigestCell(d.digest))
                    for d in items
                )
                yield display.Section(
                    title=title,
                    headers=("content", "size", "digest"),
                    rows=rows,
                    count=len(items),
                    unfolded=unfolded,
                    note=display.Size(sum(d.size for d in items)),
                )

        to_move = [b for b in self.blobs if b.digest not in self.present]
        present = [b for b in self.blobs if b.digest in self.present]
        yield from section("to move" if self.checked else "to move, unless present", to_move, unfolded=True)
        yield from section("already present", present, unfolded=False)
        yield from section("skipped: may not be redistributed", self.foreign, unfolded=True)
        yield from section("documents", [d for d, _ in self.documents], unfolded=False)
        if self.converted:
            yield display.Section(
                title="converted documents",
                headers=("before", "after"),
                rows=((display.DigestCell(old), display.DigestCell(new)) for old, new in self.converted.items()),
                count=len(self.converted),
                unfolded=True,
            )

    def run(self, *, workers: int = WORKERS, progress: Progress = SILENT, title: str = "copy") -> Descriptor:
        """Copy the content and return the root.

        Args:
            workers: Blobs in parallel.
            progress: The listener for progress events.
            title: The title of the progress bar.

        Raises:
            CopyError: Source or target failed; the error has the side and the descriptor, the reason is its cause.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> plan = ocikit.copy("oci:waves:v1", "oci:copy:v1", dry_run=True).plan
        >>> plan.run().digest == artifact.digest
        True
        """
        total = sum(b.size for b in (*self.blobs, *self.foreign))
        total += sum(len(raw) for _, raw in self.documents)
        with progress_scope(progress, title, size=total, count=len(self.items)):
            for layer in self.foreign:
                progress.note(f"skipped {layer}: it may not be redistributed")
                progress.finish(layer, "skipped")
            copies = BlobCopies(
                source=self.source,
                target=self.target,
                progress=progress,
                checked=self.checked,
                present=self.present,
            )
            run_parallel(self.blobs, copies.copy, workers=workers)
            self.push_documents(workers=workers, progress=progress)
        return self.root

    def push_documents(self, *, workers: int = WORKERS, progress: Progress = SILENT) -> None:
        """Push the documents, whose blobs the target has, and set the tags.

        Args:
            workers: Number of parallel requests.
            progress: The listener for progress events.

        Raises:
            CopyError: The target failed; the reason is its cause.

        >>> index, target = ocikit.Index(manifests=[]), ocikit.MemoryStore()
        >>> documents = ((index.descriptor, index.raw),)
        >>> plan = ocikit.Plan(source=target, target=target, root=index.descriptor, tags=("v1",), documents=documents, blobs=())
        >>> plan.push_documents()
        >>> target.tags()
        ['v1']
        """
        _DocumentPushes(plan=self, progress=progress, workers=workers).run()


@frozen(kw_only=True)
class BlobCopies:
    """Copies of single blobs from a source to a target."""

    source: Source
    target: Store
    progress: Progress = SILENT
    checked: bool = False
    """Whether `present` has all blobs that the target already has."""
    present: frozenset[Digest] = frozenset()

    def copy(self, blob: Descriptor, stop: threading.Event) -> None:
        """Copy a blob, unless the target has it or can mount it.

        Args:
            blob: The blob.
            stop: Set when the copy should stop.

        Raises:
            CopyError: Source or target failed.
            Cancelled: The event was set.
        """
        try:
            known = blob.digest in self.present
            if known or (not self.checked and not self.target.cheaper_to_push(blob) and self.target.exists(blob)):
                self.progress.finish(blob, "present")
                return
            if self.target.mount(blob, self.source):
                self.progress.finish(blob, "mounted")
                return
        except Exception as error:
            raise copy_error("target", blob, error) from error
        self.send(blob, stop)

    def send(self, blob: Descriptor, stop: threading.Event) -> None:
        """Push a blob, whether the target has it or not; arguments and errors are those of `copy`."""
        progress = self.progress
        reported = 0

        def report(n: int) -> None:
            nonlocal reported
            raise_if_cancelled(stop)
            reported += n
            progress.advance(blob, n)

        try:
            embedded = blob.embedded
            content = self.source.open(blob) if embedded is None else io.BytesIO(embedded)
        except Exception as error:
            raise copy_error("source", blob, error) from error
        with _ErrorRecordingStream(content) as stream:
            reader = ProgressReader(stream, report)
            try:
                self.target.push(blob, reader)
            except Cancelled:
                raise
            except Exception as error:
                # The target verifies what it receives, so a mismatch is the source's fault
                from_source = stream.error is error or isinstance(error, DigestMismatch | SizeMismatch)
                raise copy_error("source" if from_source else "target", blob, error) from error
        if reported != blob.size:  # the connection broke, and the target had the blob after all
            progress.advance(blob, blob.size - reported)
        if reader.skipped:
            progress.resume(blob, reader.skipped)
        progress.finish(blob, "moved")


@frozen(kw_only=True)
class _DocumentPushes:
    """The end of one run of a plan, after its blobs."""

    plan: Plan
    progress: Progress
    workers: int
    _repaired: set[Digest] = field(factory=set, init=False)
    """Documents whose missing content was pushed a second time; there is no third time."""

    def run(self) -> None:
        """Push the documents in order; the root gets its tags last."""
        plan = self.plan
        last = plan.documents[-1][0].digest
        for descriptor, raw in plan.documents:
            if descriptor.digest in plan.present:
                self.progress.finish(descriptor, "present")
                continue
            # Push the root with its tags, unless its referrers must exist before the tags do
            self._push_document(descriptor, raw, plan.tags if descriptor.digest == plan.root.digest == last else ())
            self.progress.advance(descriptor, len(raw))
            self.progress.finish(descriptor, "moved")
        if not plan.tags:
            plan.target.keep(plan.root)
        elif plan.root.digest != last:
            self._push_document(plan.root, dict(plan.documents)[plan.root], plan.tags)

    def _push_document(self, descriptor: Descriptor, raw: bytes, tags: Sequence[str]) -> None:
        while True:
            try:
                self.plan.target.push_document(descriptor, raw, tags)
                return
            except ManifestBlobUnknown as error:
                if not self._repush_missing(descriptor, raw, error):
                    raise copy_error("target", descriptor, error) from error
            except Exception as error:
                raise copy_error("target", descriptor, error) from error

    def _repush_missing(self, descriptor: Descriptor, raw: bytes, error: ManifestBlobUnknown) -> bool:
        """Push missing children again; return False if that cannot help.

        Registries lose blobs between a HEAD, a mount or a push and the manifest: a garbage collection ran, or a
        replica does not have them yet.
        """
        missing = self._missing_children(descriptor, raw, error)
        if not missing:
            return False
        digests = display.join_limited([d.digest for d in missing], 5)
        if descriptor.digest in self._repaired:
            error.hint = f"{digests} was pushed twice: the registry lost it after accepting it; contact its operator"
            return False
        self._repaired.add(descriptor.digest)
        message = f"the target has lost {digests}; pushing it again"
        log.info("%s", message)
        self.progress.note(message)
        copies = BlobCopies(source=self.plan.source, target=self.plan.target)
        run_parallel((d for d in missing if not d.is_document), copies.send, workers=self.workers)
        documents = dict(self.plan.documents)
        for child in missing:
            if child.is_document:
                self._push_document(child, documents[child], ())
        return True

    def _missing_children(self, descriptor: Descriptor, raw: bytes, error: ManifestBlobUnknown) -> list[Descriptor]:
        """Return the planned children that the error names, or all if it names none."""
        planned = {d.digest: d for d in (*self.plan.blobs, *(d for d, _ in self.plan.documents))}
        children = parse_document(raw, descriptor.media_type).children
        named = set(error.digests)
        missing = dict.fromkeys(c.digest for c in children if c.digest in planned and (not named or c.digest in named))
        return [planned[digest] for digest in missing]


class _ErrorRecordingStream(StreamWrapper):
    """A source's stream that records its own error, so that the error is not attributed to the target."""

    def __init__(self, stream: ByteStream) -> None:
        super().__init__(stream)
        self.error: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._stream.read(size)
        except BaseException as error:
            self.error = error
            raise

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            return self._stream.readinto(buffer)
        except BaseException as error:
            self.error = error
            raise


def copy_error(side: str, descriptor: Descriptor, error: Exception) -> CopyError:
    """Return the error for a failure of the "source" or "target"."""
    reason = error.message if isinstance(error, OcikitError) else str(error) or type(error).__name__
    return CopyError(
        f"the {side} failed for {descriptor}: {reason}",
        hint=getattr(error, "hint", ""),
        side=side,
        descriptor=descriptor,
    )
