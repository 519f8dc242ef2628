"""The one algorithm behind pull, push, mirror, import and export: plan, then move.

Documents are walked children first, each digest once. Blobs go in parallel, documents after them in order, the root last
with its tag: nothing is named before all of it is there. A document is always walked, even if the target has it: its
blobs may be missing. Only blobs that exist are skipped.
"""

from __future__ import annotations

import contextvars
import io
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, TypeVar, cast

from attrs import field, frozen

from ocikit import display
from ocikit.display.tracebacks import hide_internal_frames
from ocikit.errors import CopyError, DigestMismatch, InvalidDocument, ManifestBlobUnknown, OcikitError, SizeMismatch
from ocikit.progress.base import SILENT, Outcome, Progress, ProgressReader, progress_scope
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest, PlatformLike, parse_document
from ocikit.store.base import Source, Store

log = logging.getLogger("ocikit")

WORKERS = 8  # as huggingface_hub; with fewer, the time that a registry takes to answer shows in many small blobs

_DEPTH = 8  # indexes within indexes; real ones have two levels
_GENERATIONS = 16  # referrers of referrers; a signature of a signature of a report has three
_DOCUMENTS = 100_000  # in one copy: more is an attack or a mistake
_GRACE = 5.0  # seconds that Ctrl-C waits for workers to put down what they hold

T = TypeVar("T")


class Cancelled(Exception):
    """A sibling failed, or the user pressed Ctrl-C."""


@frozen(kw_only=True, repr=False)
class PlannedItem(display.Displayable):
    """One piece of content in a plan."""

    descriptor: Descriptor
    fate: Outcome
    """What will become of it: "moved", "present" or "skipped"."""

    def __rich_repr__(self) -> display.Description:
        yield "content", str(self.descriptor)
        yield "fate", self.fate


@frozen(kw_only=True, repr=False)
class Plan(display.Displayable):
    """What a copy will do. `run()` does it."""

    source: Source
    target: Store
    root: Descriptor
    tags: tuple[str, ...]
    documents: tuple[tuple[Descriptor, bytes], ...]
    """Children first; the root is among them, and what refers to it comes after it."""
    blobs: tuple[Descriptor, ...]
    """Each digest once."""
    foreign: tuple[Descriptor, ...] = ()
    """Layers that may not be redistributed: named by a manifest, fetched by nobody."""
    present: frozenset[Digest] = frozenset()
    """Blobs that the target has; known only if it was asked (`checked`)."""
    checked: bool = False

    @property
    def size(self) -> int:
        """Bytes of blobs and documents, those that are present left out."""
        blobs = sum(b.size for b in self.blobs if b.digest not in self.present)
        return blobs + sum(len(raw) for _, raw in self.documents)

    @property
    def steps(self) -> tuple[PlannedItem, ...]:
        """What becomes of each piece of content, in order."""
        blobs = [PlannedItem(descriptor=b, fate="present" if b.digest in self.present else "moved") for b in self.blobs]
        foreign = [PlannedItem(descriptor=b, fate="skipped") for b in self.foreign]
        return (*blobs, *foreign, *(PlannedItem(descriptor=d, fate="moved") for d, _ in self.documents))

    def __rich_repr__(self) -> display.Description:
        yield "root", display.DigestCell(self.root.digest)
        yield "tags", self.tags, ()
        yield "documents", len(self.documents)
        yield "blobs", len(self.blobs)
        yield "to_move", display.Size(self.size)
        yield "present", len(self.present) if self.checked else "not looked up"
        yield "skipped", len(self.foreign), 0

    def _sections(self) -> Iterator[display.Section]:
        def section(title: str, what: Sequence[Descriptor], *, unfolded: bool) -> Iterator[display.Section]:
            if what:
                rows = (
                    (d.title or d.artifact_type or d.media_type, display.Size(d.size), display.DigestCell(d.digest))
                    for d in what
                )
                yield display.Section(
                    title=title, headers=("content", "size", "digest"), rows=rows, count=len(what), unfolded=unfolded,
                    note=display.Size(sum(d.size for d in what)),
                )  # fmt: skip

        moving = [b for b in self.blobs if b.digest not in self.present]
        here = [b for b in self.blobs if b.digest in self.present]
        yield from section("to move" if self.checked else "to move, unless it is there", moving, unfolded=True)
        yield from section("there already", here, unfolded=False)
        yield from section("left out: may not be redistributed", self.foreign, unfolded=True)
        yield from section("documents", [d for d, _ in self.documents], unfolded=False)

    def run(self, *, workers: int = WORKERS, progress: Progress = SILENT, title: str = "copy") -> Descriptor:
        """Move what has to be moved, and give the root. `title` is what the progress is called.

        Raises:
            CopyError: with the side that failed and the descriptor; the reason is its cause.
        """
        total = sum(b.size for b in (*self.blobs, *self.foreign))
        total += sum(len(raw) for _, raw in self.documents)
        with progress_scope(progress, title, size=total, count=len(self.steps)):
            for layer in self.foreign:
                progress.note(f"left out {layer}: it may not be redistributed")
                progress.finish(layer, "skipped")
            run_parallel(self.blobs, lambda blob, stop: self._blob(blob, stop, progress), workers=workers)
            self._documents(_Run(progress=progress, workers=workers))
        return self.root

    def _blob(self, blob: Descriptor, stop: threading.Event, progress: Progress) -> None:
        """Move a blob, unless the target has it or can get it nearer by."""
        try:
            asked = self.target.cheaper_to_push(blob) or self.checked
            if blob.digest in self.present or (not asked and self.target.exists(blob)):
                progress.finish(blob, "present")
                return
            if self.target.mount(blob, self.source):
                progress.finish(blob, "mounted")
                return
        except Exception as error:
            raise _failed("target", blob, error) from error
        self._send(blob, stop, progress)

    def _send(self, blob: Descriptor, stop: threading.Event, progress: Progress) -> None:
        told = 0

        def tell(n: int) -> None:
            nonlocal told
            if stop.is_set():
                raise Cancelled
            told += n
            progress.advance(blob, n)

        try:
            embedded = blob.embedded
            stream = _Blamed(self.source.open(blob) if embedded is None else io.BytesIO(embedded))
        except Exception as error:
            raise _failed("source", blob, error) from error
        with stream:
            meter = ProgressReader(cast("BinaryIO", stream), tell)
            try:
                self.target.push(blob, cast("BinaryIO", meter))
            except Cancelled:
                raise
            except Exception as error:
                # Whoever verifies what it receives finds the source's fault
                theirs = stream.error is error or isinstance(error, DigestMismatch | SizeMismatch)
                raise _failed("source" if theirs else "target", blob, error) from error
        if told != blob.size:  # the target had it after all, when the connection broke
            progress.advance(blob, blob.size - told)
        progress.finish(blob, "moved")

    def _documents(self, run: _Run) -> None:
        last = self.documents[-1][0].digest
        for descriptor, raw in self.documents:
            # The names go with the root's own push, unless what refers to the root has to come before them
            self._document(descriptor, raw, self.tags if descriptor.digest == self.root.digest == last else (), run)
            run.progress.advance(descriptor, len(raw))
            run.progress.finish(descriptor, "moved")
        if not self.tags:
            self.target.keep(self.root)
        elif self.root.digest != last:
            self._document(self.root, dict(self.documents)[self.root], self.tags, run)

    def _document(self, descriptor: Descriptor, raw: bytes, tags: Sequence[str], run: _Run) -> None:
        while True:
            try:
                self.target.push_document(descriptor, raw, tags)
                return
            except ManifestBlobUnknown as refused:
                if not self._mend(descriptor, raw, refused, run):
                    raise _failed("target", descriptor, refused) from refused
            except Exception as error:
                raise _failed("target", descriptor, error) from error

    def _mend(self, descriptor: Descriptor, raw: bytes, refused: ManifestBlobUnknown, run: _Run) -> bool:
        """Send what the target lacks of what a document names, whatever it said of it before; False if that can't help.

        Registries lose blobs between a HEAD, a mount or a push and the manifest: they collect garbage, or their
        replicas don't know of them yet.
        """
        lacking = self._lacking(descriptor, raw, refused)
        if not lacking:
            return False
        digests = display.join_limited([d.digest for d in lacking], 5)
        if descriptor.digest in run.mended:
            refused.hint = f"it was sent {digests} once more: this registry loses what it takes; tell its operators"
            return False
        run.mended.add(descriptor.digest)
        said = f"the target has lost {digests}; sending it again"
        log.info("%s", said)
        run.progress.note(said)
        run_parallel(
            (d for d in lacking if not d.is_document), lambda d, stop: self._send(d, stop, SILENT), workers=run.workers
        )
        documents = dict(self.documents)
        for child in lacking:
            if child.is_document:
                self._document(child, documents[child], (), run)
        return True

    def _lacking(self, descriptor: Descriptor, raw: bytes, refused: ManifestBlobUnknown) -> list[Descriptor]:
        """What a target lacks of what a document names: what it says, or all if it says nothing; if it is ours to send."""
        ours = {d.digest: d for d in (*self.blobs, *(d for d, _ in self.documents))}
        children = parse_document(raw, descriptor.media_type).children
        named = set(refused.digests)
        lacking = dict.fromkeys(c.digest for c in children if c.digest in ours and (not named or c.digest in named))
        return [ours[digest] for digest in lacking]


@frozen(kw_only=True)
class _Run:
    """What is going on while a plan is carried out."""

    progress: Progress
    workers: int
    mended: set[Digest] = field(factory=set)
    """Documents whose content was sent a second time; nothing is sent a third."""


class _Blamed:
    """A source's stream that remembers its own failure, so that it isn't taken for the target's."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.error: BaseException | None = None

    def readinto(self, buffer: memoryview) -> int:
        try:
            return cast("int", self._stream.readinto(buffer))  # type: ignore[attr-defined]  # streams of sources have it
        except BaseException as error:
            self.error = error
            raise

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except BaseException as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return self._stream.seekable()

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> _Blamed:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _failed(side: str, descriptor: Descriptor, error: Exception) -> CopyError:
    reason = error.message if isinstance(error, OcikitError) else str(error) or type(error).__name__
    return CopyError(
        f"the {side} failed for {descriptor}: {reason}",
        hint=getattr(error, "hint", ""),
        side=side,
        descriptor=descriptor,
    )


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
    """What it takes to bring a reference from a source to a target.

    Args:
        source: where it is.
        reference: a tag, a digest, or a descriptor of the source.
        target: where it goes.
        tags: its names there.
        platform: only that manifest of an index; it becomes the root, and the digest is another than the index's.
        referrers: also what refers to the documents, and what refers to that.
        check: ask the target which blobs it has.
        workers: how many questions at once.

    Raises:
        CopyError: if the source can't be read; the reason is its cause.
        NoMatchingPlatform: with the platforms that there are.
    """
    root = source.resolve(reference) if isinstance(reference, str) else reference
    walk = _Walk(source)
    if platform is not None:
        chosen = walk.select(root, platform)
        if chosen.digest != root.digest:
            log.warning("one platform of %s is taken: %s is another digest", root.digest.short, chosen.digest.short)
        root = chosen
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
        tags=tuple(tags),
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
    """Bring a reference from a source to a target and give its root; arguments and errors are those of `plan`.

    >>> from ocikit.store.memory import MemoryStore
    >>> from ocikit.spec.descriptor import EMPTY_DESCRIPTOR
    >>> here, there = MemoryStore(), MemoryStore()
    >>> manifest = Manifest(config=EMPTY_DESCRIPTOR, layers=(EMPTY_DESCRIPTOR,))
    >>> here.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    >>> here.push_bytes(manifest.descriptor, manifest.raw, tag="v1")
    >>> copy(here, "v1", there, tags=["v1"]).digest == there.resolve("v1").digest
    True
    """
    made = plan(source, reference, target, tags=tags, platform=platform, referrers=referrers, workers=workers)
    return made.run(workers=workers, progress=progress)


class _Walk:
    """A walk over documents, children first, each digest once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._open: set[Digest] = set()
        self._parsed: dict[Digest, Manifest | Index] = {}
        self.documents: dict[Digest, tuple[Descriptor, bytes]] = {}
        self.blobs: dict[Digest, Descriptor] = {}
        self.foreign: dict[Digest, Descriptor] = {}

    def select(self, root: Descriptor, platform: PlatformLike) -> Descriptor:
        """The manifest of an index that suits a platform, through nested indexes."""
        for _ in range(_DEPTH):
            document = self._read(root)
            if isinstance(document, Manifest):
                return root
            root = document.select(platform)
        raise _too_deep(root)

    def visit(self, descriptor: Descriptor, depth: int = 0) -> None:
        """Add a document and what it names."""
        if descriptor.digest in self.documents:
            return
        if depth > _DEPTH or descriptor.digest in self._open:
            raise _too_deep(descriptor)
        if len(self.documents) >= _DOCUMENTS:
            raise InvalidDocument(f"more than {_DOCUMENTS} documents hang on one root", hint="copy them one by one")
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
                self.foreign.pop(child.digest, None)  # what one manifest may redistribute is moved for all
                self.blobs[child.digest] = child
        self._open.discard(descriptor.digest)
        self.documents[descriptor.digest] = (descriptor, document.raw)

    def visit_referrers(self) -> None:
        """Add what refers to the documents that were visited, and what refers to that; each once, circle or not."""
        waiting = list(self.documents)
        for generation in itertools.count():
            known = set(self.documents)
            for digest in waiting:
                descriptor, _ = self.documents[digest]
                for referrer in self._referrers(descriptor):
                    if generation == _GENERATIONS and referrer.digest not in self.documents:
                        raise InvalidDocument(
                            f"what refers to {descriptor.digest} hangs on more than {_GENERATIONS} others, one by one",
                            hint="the registry makes them up, or copy the last of them by themselves",
                        )
                    self.visit(self._described(referrer))
            waiting = [digest for digest in self.documents if digest not in known]
            if not waiting:
                return

    def _referrers(self, descriptor: Descriptor) -> Sequence[Descriptor]:
        try:
            return self._source.referrers(descriptor)
        except Exception as error:
            raise _failed("source", descriptor, error) from error

    def _described(self, referrer: Descriptor) -> Descriptor:
        """The descriptor of an entry in a list of referrers. GAR and Harbor list other sizes: oras#1626, harbor#20187."""
        try:
            self._read(referrer.bare())
        except CopyError as error:
            if not isinstance(error.__cause__, SizeMismatch):
                raise
            return self._source.resolve(referrer.digest)
        return referrer.bare()

    def _read(self, descriptor: Descriptor) -> Manifest | Index:
        known = self._parsed.get(descriptor.digest)
        if known is None:
            try:
                known = parse_document(self._source.fetch(descriptor), descriptor.media_type)
            except Exception as error:
                raise _failed("source", descriptor, error) from error
            self._parsed[descriptor.digest] = known
        return known


def _too_deep(descriptor: Descriptor) -> InvalidDocument:
    return InvalidDocument(
        f"indexes are nested more than {_DEPTH} deep, or in a circle, at {descriptor.digest}",
        hint="its publisher should flatten it",
    )


def run_parallel(items: Iterable[T], work: Callable[[T, threading.Event], object], *, workers: int = WORKERS) -> None:
    """Do the work for each item on several threads; the first failure stops the rest, and is raised.

    `work` gets an event that is set when it should stop. Ctrl-C sets it too, waits a moment and is raised.
    """
    todo = iter(items)
    lock, stop, done = threading.Lock(), threading.Event(), threading.Semaphore(0)
    failures: list[BaseException] = []

    def take() -> Iterator[T]:
        while not stop.is_set():
            with lock:
                try:
                    item = next(todo)
                except StopIteration:
                    return
            yield item

    def loop() -> None:
        try:
            for item in take():
                work(item, stop)
        except Cancelled:
            pass
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread and raised there
            failures.append(error)
            stop.set()
        finally:
            done.release()

    if workers <= 1:
        loop()
    else:
        # Daemons, so that a read that hangs can't keep the interpreter from leaving after Ctrl-C;
        # with what this thread knows of the transfer around it
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(loop,), name=f"ocikit-{i}", daemon=True)
            for i in range(workers)
        ]
        running = 0
        try:
            for thread in threads:
                thread.start()
                running += 1
            while running:
                # Not join: interrupted, it takes the thread for ended, until Python 3.13 (cpython#90882)
                done.acquire()
                running -= 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                hide_internal_frames(error)
            stop.set()
            deadline = time.monotonic() + _GRACE
            while running and done.acquire(timeout=max(0.0, deadline - time.monotonic())):
                running -= 1
            raise
    if failures:
        raise failures[0]
