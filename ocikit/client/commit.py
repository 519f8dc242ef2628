"""Commits: changes of files are applied to what a tag names at that time, so that no writer loses another's files.

A manifest lists all files of an artifact. Two writers that read it, add a file each and push it would each drop the other's
file (lost update). So a commit has operations, not a list of files:

1. The writers of one process and machine queue up: a lock for each reference, in the process and in the cache folder.
2. The first in the queue commits for all that wait (group commit), with one manifest.
3. It reads the manifest that the tag names now, and applies the operations to it.
4. It pushes the result on the condition that the tag still names what was read. If not, it starts again at 3.
5. Most registries ignore the condition. There, the tag is read again a moment later. If another writer has replaced the
   manifest, the operations are applied again on top.

Step 5 finds a writer on another machine that takes no longer than that moment from its read to its push. It does not find a
slower one, or a client that does not merge.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import itertools
import logging
import random
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import attrs
from attrs import define, field, frozen

from ocikit import display
from ocikit.client.arguments import WRITTEN
from ocikit.client.notes import write_inputs
from ocikit.client.push import FILES_ARTIFACT_TYPE, check_manifest_size, push_error
from ocikit.dialects.recognise import layers_without_config, recognise
from ocikit.errors import Conflict, CopyError, FileNotInArtifact, InvalidDocument, NotFound, OcikitError
from ocikit.forks import ForkSafeLock, fork_count
from ocikit.progress.base import SILENT, Progress
from ocikit.spec import media_types
from ocikit.spec.annotations import BASE_DIGEST, BASE_NAME, INPUTS, MESSAGE, TITLE, Annotations
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import ArtifactManifest, Index, Manifest, parse_document
from ocikit.spec.reference import AnyReference, Reference
from ocikit.spec.titles import name_layers, safe_title
from ocikit.store.base import Source, Store
from ocikit.store.locks import exclusive
from ocikit.store.streams import ByteStream
from ocikit.transfer.run import BlobCopies

log = logging.getLogger("ocikit")

_TRIES = 8  # of a commit whose tag is moved by others meanwhile
_PAUSE = 0.05  # seconds; the mean pause before the second try, and more before each further one
_LOOK = 0.2  # seconds between a push without a condition and the look at what the tag names
_FRESH = 0.1  # seconds during which a manifest that was read counts as the current one; less than `_LOOK`
_LOCKED = 300.0  # seconds to wait for the lock of another process
_GATHER = 0.2  # seconds to wait for writers that are uploading; a commit takes about as long over a common line
_SHOWN = 5  # titles in a message


class Draft:
    """A manifest that operations change.

    Args:
        manifest: What the tag names; None for a new artifact.
        digest: Digest of the content.
        own: Digests of manifests that the same commit has pushed before.

    Raises:
        InvalidDocument: The manifest is that of an image, or does not list files.
    """

    def __init__(
        self,
        manifest: Manifest | Index | None,
        digest: Digest | None = None,
        own: frozenset[Digest] = frozenset(),
    ) -> None:
        self._manifest = None if manifest is None else _check_editable(manifest)
        self.digest = digest
        self.own = own
        self.joined = False
        """Whether operations of another writer have been applied, whose commit this is, too."""
        self.config = EMPTY_DESCRIPTOR
        self.artifact_type: str | None = None
        self.annotations: dict[str, str] = {}
        self.notes: Mapping[str, str] | None = None
        """Annotations of a new version, which replace those of the version before. They alone do not make a version."""
        self.is_renewed = False
        """Whether they do make one."""
        self._layers: dict[str, Descriptor] = {}
        if self._manifest is not None:
            self.config = self._manifest.config
            self.artifact_type = self._manifest.artifact_type
            self.annotations = dict(self._manifest.annotations)
            self._layers = dict(_keyed(self._manifest))
        self._before = dict(self._layers)

    @property
    def before(self) -> Mapping[str, Descriptor]:
        """The files before all changes, by title."""
        return {key: layer for key, layer in self._before.items() if not key.startswith("\0")}

    def restart(self, manifest: Manifest | None) -> None:
        """Change to the content of another manifest, or of none."""
        fresh = Draft(manifest)
        fresh.digest, fresh.own, fresh.joined = self.digest, self.own, self.joined
        self.__dict__ = fresh.__dict__

    def copy(self) -> Draft:
        """Return a copy that can be dropped if an operation fails."""
        twin = copy.copy(self)
        twin.__dict__ |= {"annotations": dict(self.annotations), "_layers": dict(self._layers)}
        return twin

    def get(self, title: str) -> Descriptor | None:
        """Return the descriptor of a file, or None."""
        return self._layers.get(title)

    def files(self) -> dict[str, Descriptor]:
        """Return the files by title."""
        return {key: layer for key, layer in self._layers.items() if not key.startswith("\0")}

    def put(self, title: str, layer: Descriptor) -> None:
        """Add or replace a file; a replaced one keeps its place.

        Raises:
            Conflict: The title is that of a folder, or a part of it is that of a file.
        """
        if title not in self._layers:
            self._check_place(title)
        self._layers[title] = layer

    def drop(self, title: str) -> None:
        """Remove a file if it exists."""
        self._layers.pop(title, None)

    def _check_place(self, title: str) -> None:
        folder = title.rpartition("/")[0]
        while folder:
            if folder in self._layers:
                raise _place_taken(folder, title)
            folder = folder.rpartition("/")[0]
        below = next((other for other in self._layers if other.startswith(f"{title}/")), None)
        if below is not None:
            raise _place_taken(title, below)

    def build(self) -> Manifest:
        """Return the manifest; the one before if nothing has changed.

        Raises:
            ContentError: There are too many files for one manifest.
            InvalidDocument: The config lists the files, and only the files have changed.
        """
        before = self._manifest
        layers = tuple(self._layers.values()) or (EMPTY_DESCRIPTOR,)
        if before is None:
            default = FILES_ARTIFACT_TYPE if self.config.media_type == media_types.EMPTY else None
            artifact_type = self.artifact_type or default
            manifest = Manifest(
                artifact_type=artifact_type,
                config=self.config,
                layers=layers,
                annotations=Annotations({**self.annotations, **(self.notes or {})}),
            )
            check_manifest_size(manifest)
            return manifest
        has_new_files = self._layers != self._before
        has_new_config = self.config != before.config
        has_new_type = self.artifact_type != before.artifact_type
        changed = has_new_files or has_new_config or has_new_type or self.is_renewed
        if not changed and before.annotations == self.annotations:
            return before
        if has_new_files and not has_new_config and _lists_layers(before):
            name = recognise(before).name
            raise InvalidDocument(
                f"the config {before.config.media_type} lists the files, so they can't be changed alone",
                hint="pull the files, change them, and push all of them again"
                + (f', with as_="{name}"' if name in WRITTEN else " with the tool that made the artifact")
                + "; or set e.config in the same edit",
            )
        manifest = attrs.evolve(
            before,
            artifact_type=self.artifact_type,
            config=self.config,
            layers=layers if has_new_files else before.layers,
            annotations=Annotations(self._described(before)),
        )
        check_manifest_size(manifest)
        return manifest

    def _described(self, before: Manifest) -> Mapping[str, str]:
        """Return the annotations with the notes in place of those that are about the version before."""
        if self.notes is None:
            return self.annotations
        stale = {key for key in (BASE_DIGEST, BASE_NAME, MESSAGE) if key in before.annotations}
        kept = {
            key: value
            for key, value in self.annotations.items()
            if key not in stale or value != before.annotations[key]
        }
        return {**kept, **self.notes}


def _lists_layers(manifest: Manifest) -> bool:
    """Return True if the config lists the layers, as that of a model: a change of the files alone would make it wrong."""
    return manifest.config.media_type != media_types.EMPTY and recognise(manifest).describes_model


def _keyed(manifest: Manifest) -> Iterator[tuple[str, Descriptor]]:
    """Yield the layers by name, in order. A layer without a usable name has a key that cannot be a title."""
    layers = layers_without_config(manifest)
    named = manifest.named if layers is manifest.layers else name_layers(layers)
    paths = {id(layer): path for path, layer in named.files.items()}
    unusable = {id(layer) for layer, _ in named.unusable}
    for number, (shown, layer) in enumerate(zip(layers, manifest.layers, strict=True)):
        if (path := paths.get(id(shown))) is not None:
            yield path, layer
        elif id(shown) in unusable:
            yield f"\0{number}", layer


def _check_editable(manifest: Manifest | Index) -> Manifest:
    if isinstance(manifest, Index) and manifest.is_nested:
        raise InvalidDocument(
            "an artifact with a nested index can't be edited: its files are listed by several manifests",
            hint="change its folder and push it again with index=True, which sends only what has changed",
        )
    if isinstance(manifest, Index):
        raise InvalidDocument(
            "an index has manifests, not files, so it can't be edited",
            hint="edit one of its manifests by its digest, with to=…",
        )
    if manifest.is_image:
        raise InvalidDocument(
            "a container image can't be edited: its config lists the layers (rootfs.diff_ids)",
            hint="build the image again, or attach the files to it: ocikit.attach(ref, …)",
        )
    if isinstance(manifest, ArtifactManifest):
        raise InvalidDocument(
            "an artifact manifest of 2022 can't be edited: registries no longer accept it",
            hint="pull it, and push the files again",
        )
    return manifest


def _place_taken(file: str, other: str) -> Conflict:
    return Conflict(
        f"the title {display.quoted(file)} is a file, but a folder in {display.quoted(other)}",
        hint="remove or rename one of them first",
        titles=(file, other),
    )


class Operation(ABC):
    """A change of a manifest. It can be applied again, on top of what other writers have pushed."""

    @property
    def titles(self) -> tuple[str, ...]:
        """The files that it changes."""
        return ()

    @abstractmethod
    def apply(self, draft: Draft) -> None:
        """Change a draft."""


@frozen(kw_only=True)
class Put(Operation):
    """Add or replace a file whose content is in the store."""

    layer: Descriptor
    new: bool = False
    """Whether there must be no such file yet."""

    @property
    def titles(self) -> tuple[str, ...]:
        """The file."""
        return (self.layer.annotations[TITLE],)

    def apply(self, draft: Draft) -> None:
        """Set the file.

        Raises:
            FileExistsError: There is such a file with other content, and `new` is set.
        """
        title = self.layer.annotations[TITLE]
        current = draft.get(title)
        if self.new and current is not None and current.digest != self.layer.digest:
            raise FileExistsError(f"there is a file {display.quoted(title)} already")
        draft.put(title, self.layer)


@frozen(kw_only=True)
class Drop(Operation):
    """Remove a file, if it is there."""

    title: str

    @property
    def titles(self) -> tuple[str, ...]:
        """The file."""
        return (self.title,)

    def apply(self, draft: Draft) -> None:
        """Remove the file."""
        draft.drop(self.title)


@define(kw_only=True)
class Rename(Operation):
    """Give a file another name; a file of that name is replaced."""

    before: str
    after: str
    _moved: Descriptor | None = field(default=None, init=False)
    """What was renamed when the operation was applied first."""

    @property
    def titles(self) -> tuple[str, ...]:
        """The two names."""
        return self.before, self.after

    def apply(self, draft: Draft) -> None:
        """Rename the file, unless an earlier try has been successful.

        Raises:
            FileNotInArtifact: There is no such file.
        """
        present = draft.get(self.after)
        if self._moved is not None and present is not None and present.digest == self._moved.digest:
            return
        layer = draft.get(self.before)
        if layer is None:
            raise FileNotInArtifact(f"there is no file {display.quoted(self.before)} to rename")
        self._moved = layer
        draft.drop(self.before)
        draft.put(self.after, titled(layer, self.after))


@frozen(kw_only=True)
class Annotate(Operation):
    """Set an annotation of the manifest; None removes it."""

    key: str
    value: str | None

    def apply(self, draft: Draft) -> None:
        """Set or remove the annotation."""
        if self.value is None:
            draft.annotations.pop(self.key, None)
        else:
            draft.annotations[self.key] = self.value


@frozen(kw_only=True)
class SetType(Operation):
    """Set the artifact type."""

    artifact_type: str

    def apply(self, draft: Draft) -> None:
        """Set the artifact type."""
        draft.artifact_type = self.artifact_type


@frozen(kw_only=True)
class SetConfig(Operation):
    """Replace the config, whose content is in the store."""

    config: Descriptor

    def apply(self, draft: Draft) -> None:
        """Set the config."""
        draft.config = self.config


@frozen(kw_only=True)
class Describe(Operation):
    """Write the message and the inputs of the new version, and the version before. Only new inputs are a change."""

    base_name: str
    """The reference of the version before, with its tag."""
    base: Digest | None = None
    """The digest of the version before; None is what the tag names."""
    message: str | None = None
    inputs: tuple[Reference, ...] = ()
    """They are added to those of the version before, unless `keeps_inputs` is False."""
    keeps_inputs: bool = True
    """Whether content of the version before stays, so that its inputs are inputs of the new one."""
    numbered: bool = False
    """Whether the result gets a number. Then another message makes a new version, as in a push."""

    def apply(self, draft: Draft) -> None:
        """Set the annotations. Messages of writers that share a commit are joined."""
        if not self.keeps_inputs:
            draft.annotations.pop(INPUTS, None)
        if self.inputs:
            draft.annotations |= write_inputs(self.inputs, draft.annotations)
        notes = dict(draft.notes or {})
        if base := self.base or draft.digest:
            notes |= {BASE_DIGEST: str(base), BASE_NAME: self.base_name}
        if self.message:
            draft.is_renewed |= self.numbered and self.message != draft.annotations.get(MESSAGE)
            notes[MESSAGE] = "\n".join(filter(None, (notes.get(MESSAGE), self.message)))
        draft.notes = notes


@frozen(kw_only=True)
class Restart(Operation):
    """Replace all content by that of another manifest, which further operations change."""

    manifest: Manifest | None
    """None starts with an artifact without files."""

    def apply(self, draft: Draft) -> None:
        """Replace the content."""
        draft.restart(self.manifest)


@frozen(kw_only=True)
class Guard(Operation):
    """A condition on what the tag names when the commit is made.

    A manifest that the same commit has pushed before meets all conditions.
    """

    digest: Digest | None = None
    """What the tag must name; None if any manifest will do, or `absent` is set."""
    absent: bool = False
    """Whether there must be no such tag."""
    base: Digest | None = None
    """What the changes were made for."""
    files: Mapping[str, tuple[Digest | None, Digest | None]] = field(factory=dict)
    """The digests of changed files before and after the change; None for no file. Others must not have changed them."""

    def apply(self, draft: Draft) -> None:
        """Check the condition.

        Raises:
            Conflict: Another writer has changed the tag, or one of the files.
        """
        if draft.digest is not None and draft.digest in draft.own:
            return
        theirs = str(draft.digest or "")
        if self.digest is not None or self.absent:
            expected = None if self.absent else self.digest
            if draft.digest != expected or draft.joined:
                raise Conflict(
                    f"the tag names {draft.digest.short if draft.digest else 'nothing'} now, not"
                    f" {expected.short if expected else 'nothing'}",
                    hint="look at what has changed, and edit that version; the tag was not moved",
                    base=str(expected or ""),
                    theirs=theirs,
                )
        changed = []
        for title, states in self.files.items():
            layer = draft.get(title)
            if (None if layer is None else layer.digest) not in states:
                changed.append(title)
        if changed:
            raise Conflict(
                f"another writer has changed {display.join_limited(map(display.quoted, changed), _SHOWN)} meanwhile",
                hint="look at the new version, and edit it again; the tag was not moved",
                base=str(self.base or ""),
                theirs=theirs,
                titles=changed,
            )


def titled(layer: Descriptor, title: str) -> Descriptor:
    """Return a descriptor with another title.

    Raises:
        UnsafeArchive: The title cannot be the name of a file.
    """
    return layer.annotated(**{TITLE: safe_title(title).as_posix()})


@frozen(kw_only=True)
class Base:
    """What a tag named when it was read."""

    descriptor: Descriptor | None
    manifest: Manifest | Index | None
    read_at: float = field(factory=time.monotonic)

    @property
    def digest(self) -> Digest | None:
        """The digest; None without such a tag."""
        return None if self.descriptor is None else self.descriptor.digest

    @property
    def is_fresh(self) -> bool:
        """Whether it was read a moment ago, so that a commit need not read it again."""
        return time.monotonic() - self.read_at < _FRESH


def read_base(store: Source, target: str) -> Base:
    """Return the manifest of a tag or digest, without the cache.

    Raises:
        DigestMismatch: The bytes do not match the requested digest.
        InvalidDocument: The bytes are not a manifest.
    """
    started = time.monotonic()
    try:
        descriptor, raw = store.raw_document(target)
    except NotFound:
        return Base(descriptor=None, manifest=None, read_at=started)
    descriptor.digest.verify(raw, "the manifest to edit")
    document = parse_document(raw, descriptor.media_type)
    return Base(
        descriptor=attrs.evolve(document.descriptor, digest=descriptor.digest), manifest=document, read_at=started
    )


@frozen(kw_only=True)
class Committed:
    """The result of a commit."""

    descriptor: Descriptor
    manifest: Manifest
    before: Digest | None
    """The digest that the tag named before; None for a new tag."""
    number: int = field(factory=itertools.count(1).__next__)
    """Later commits of this process have higher numbers."""


@define(eq=False)
class _Request:
    """The operations of one writer, and what became of them."""

    operations: Sequence[Operation]
    error: Exception | None = None
    committed: Committed | None = None
    own: frozenset[Digest] = frozenset()
    """The manifests that were pushed with these operations."""

    @property
    def is_settled(self) -> bool:
        return self.committed is not None or self.error is not None


@define(eq=False)
class _Queue:
    """The writers of a reference in this process."""

    turn: ForkSafeLock = field(factory=ForkSafeLock)
    guard: threading.Condition = field(factory=threading.Condition)
    waiting: list[_Request] = field(factory=list)
    uploading: int = 0
    """Writers that will commit as soon as their content is uploaded."""
    users: int = 0


#: By the count of forks, the owner of the credentials, and the reference: writers with other credentials do not share a
#: commit, and a forked child has no writers of its parent.
_queues: dict[tuple[int, int, str], _Queue] = {}
_queues_lock = ForkSafeLock()


def wait_to_look(took: float) -> None:
    """Wait until a writer that read the tag before this one's push has pushed, where a registry ignores conditions.

    Args:
        took: Seconds from the read to the push of this writer; another one needs about as long.
    """
    time.sleep(max(_LOOK, 2 * took))


class Upcoming:
    """A writer that uploads content and will then commit.

    Other writers wait for it a moment, so that one manifest has the files of all. Use it as a context manager.

    Args:
        name: The reference, as for `commit`.
        owner: The owner of the credentials, as for `commit`.
    """

    def __init__(self, name: str, owner: object) -> None:
        self._name = name
        self._owner = owner
        self._opened = contextlib.ExitStack()
        self._queue: _Queue | None = None

    def __enter__(self) -> Self:
        queue = self._opened.enter_context(_opened_queue(self._name, self._owner))
        with queue.guard:
            queue.uploading += 1
        self._queue = queue
        return self

    def arrive(self) -> None:
        """End the wait of other writers."""
        queue, self._queue = self._queue, None
        if queue is not None:
            with queue.guard:
                queue.uploading -= 1
                queue.guard.notify_all()

    def __exit__(self, *_: object) -> None:
        self.arrive()
        self._opened.close()


@contextlib.contextmanager
def locked(locks: Path | None, name: str) -> Iterator[None]:
    """Exclude the writers of other processes on this machine, where the cache folder can be written.

    Args:
        locks: Folder for the locks; None excludes none.
        name: What is written, the same for all writers.

    Raises:
        ContentError: Another process holds the lock for too long.
    """
    with contextlib.ExitStack() as stack:
        if locks is not None:
            path = locks / hashlib.sha256(name.encode()).hexdigest()[:32]
            try:
                stack.enter_context(exclusive(path, _LOCKED))
            except (OSError, NotImplementedError) as error:
                log.info("writers of other processes are not excluded: %s", error)
        yield


@contextlib.contextmanager
def _opened_queue(name: str, owner: object) -> Iterator[_Queue]:
    key = (fork_count(), id(owner), name)
    with _queues_lock:
        queue = _queues.setdefault(key, _Queue())
        queue.users += 1
    try:
        yield queue
    finally:
        with _queues_lock:
            queue.users -= 1
            if not queue.users:
                _queues.pop(key, None)


def commit(
    store: Store,
    tag: str,
    operations: Iterable[Operation],
    *,
    reference: AnyReference,
    owner: object,
    locks: Path | None,
    base: Base | None = None,
    upcoming: Upcoming | None = None,
) -> Committed:
    """Apply operations to what a tag names, and move the tag.

    The content that the operations name must be in the store.

    Args:
        store: The repository or layout.
        tag: The tag to move.
        operations: The changes, in order.
        reference: The reference of the tag, the same for all writers.
        owner: The owner of the store's credentials. Only writers with the same owner share a commit.
        locks: Folder for the locks that exclude other processes; None excludes none.
        base: What the tag has just been read as.
        upcoming: The writer, if other writers wait for it.

    Raises:
        Conflict: Another writer has changed what a guard protects, or the tag moved during all tries.
        ContentError: There are too many files for one manifest, or another process holds the lock for too long.
        InvalidDocument: The tag names an image or an index.
    """
    name = str(reference)
    with _opened_queue(name, owner) as queue:
        writer = _Writer(store=store, tag=tag, name=name, locks=locks, queue=queue)
        committed = writer.commit(_Request(tuple(operations)), base, upcoming)
    with _followers_lock:
        followers = list(_followers)
    for follower in followers:
        follower.moved(reference, committed)
    return committed


class Follower(ABC):
    """An object that is informed of the commits of this process, such as a file system that has pinned the tag."""

    @abstractmethod
    def moved(self, reference: AnyReference, committed: Committed) -> None:
        """Take note of a commit."""


_followers: weakref.WeakSet[Follower] = weakref.WeakSet()
_followers_lock = ForkSafeLock()


def follow(follower: Follower) -> None:
    """Inform an object of all further commits of this process, for as long as it exists."""
    with _followers_lock:
        _followers.add(follower)


@frozen
class _Stored:
    """A manifest that was pushed, or found to have all changes already."""

    requests: Sequence[_Request]
    committed: Committed
    is_certain: bool
    """Whether no other writer can replace the manifest without having read it."""
    took: float
    """Seconds from reading the manifest to the end of the push."""

    @classmethod
    def of(
        cls, requests: Sequence[_Request], base: Base, descriptor: Descriptor, manifest: Manifest, *, is_certain: bool
    ) -> _Stored:
        """Record the result of requests."""
        committed = Committed(descriptor=descriptor, manifest=manifest, before=base.digest)
        for request in requests:
            request.committed = committed
        return cls(requests, committed, is_certain, time.monotonic() - base.read_at)


@frozen(kw_only=True)
class _Writer:
    """One writer of a tag. It commits for all that wait, if it is the first in the queue."""

    store: Store
    tag: str
    name: str
    locks: Path | None
    queue: _Queue

    def commit(self, request: _Request, base: Base | None, upcoming: Upcoming | None) -> Committed:
        """Commit a request with those of all writers that wait, unless another writer does."""
        queue = self.queue
        with queue.guard:
            queue.waiting.append(request)
        if upcoming is not None:
            upcoming.arrive()
        try:
            # The turn includes the look at the end. So the writers that arrive meanwhile share the next manifest
            with queue.turn:
                if not request.is_settled:
                    self._commit_waiting(base)
        except BaseException:  # Ctrl-C is for this writer only
            with queue.guard:
                if request in queue.waiting:
                    queue.waiting.remove(request)
            raise
        if request.error is not None:
            raise request.error
        if request.committed is None:
            raise self._replaced_too_often()
        return request.committed

    def _commit_waiting(self, base: Base | None) -> None:
        """Commit all requests that wait, again if another writer has replaced the manifest."""
        queue = self.queue
        with queue.guard:
            queue.guard.wait_for(lambda: not queue.uploading, _GATHER)
            requests, queue.waiting = queue.waiting, []
        try:
            for _ in range(_TRIES):
                with locked(self.locks, self.name):
                    stored = self._store([request for request in requests if request.error is None], base)
                if stored is None or self._is_kept(stored):
                    return
                ours = stored.committed.descriptor.digest
                log.warning("%s: another writer has replaced %s; its files are merged again", self.name, ours)
                base = None
            raise self._replaced_too_often()
        except Exception as error:
            log.debug("a commit of %s failed", self.name, exc_info=True)
            for request in requests:
                request.error = request.error or error
        except BaseException:
            for request in requests:
                request.committed = None
            with queue.guard:
                queue.waiting += [request for request in requests if request.error is None]
            raise

    def _store(self, requests: Sequence[_Request], base: Base | None) -> _Stored | None:
        """Push a manifest with the operations of all requests, except those that fail.

        Returns:
            What was pushed; None if all have failed.
        """
        base = base if base is not None and base.is_fresh else None
        for attempt in range(_TRIES):
            base = base or read_base(self.store, self.tag)
            draft = Draft(base.manifest, base.digest)
            applied = []
            for request in requests:
                trial = draft.copy()
                trial.own = request.own
                try:
                    for operation in request.operations:
                        operation.apply(trial)
                except (OcikitError, OSError) as error:
                    request.error = error
                    continue
                draft = trial
                draft.joined = True
                applied.append(request)
            if not applied:
                return None
            manifest = draft.build()
            if base.descriptor is not None and (manifest is base.manifest or manifest.digest == base.digest):
                return _Stored.of(applied, base, base.descriptor, manifest, is_certain=True)
            self._push_empty(manifest, base)
            for request in applied:
                request.own |= {manifest.digest}
            outcome = self.store.swap(manifest.descriptor, manifest.raw, self.tag, base.digest)
            if outcome != "moved":
                return _Stored.of(applied, base, manifest.descriptor, manifest, is_certain=outcome == "done")
            base = None
            time.sleep(random.uniform(0, _PAUSE * 2**attempt))  # noqa: S311 - no secret
        raise self._replaced_too_often()

    def _push_empty(self, manifest: Manifest, base: Base) -> None:
        """Push the empty blob if the manifest names it and the one before did not."""
        known = base.manifest.children if base.manifest is not None else ()
        if EMPTY_DESCRIPTOR.digest in {blob.digest for blob in manifest.blobs} - {blob.digest for blob in known}:
            push_blob(self.store, EMPTY_DESCRIPTOR, lambda: io.BytesIO(b"{}"))

    def _is_kept(self, stored: _Stored) -> bool:
        """Return True if the tag names the manifest that was pushed, or one with all of its changes.

        Where the registry ignores conditions, another writer may replace it without having read it. That writer needs about
        as long as this one from its read to its push.
        """
        if stored.is_certain:
            return True
        wait_to_look(stored.took)
        try:
            current = self.store.resolve(self.tag).digest
        except NotFound:
            return True  # deleted since: a merge would create it again
        if current == stored.committed.descriptor.digest:
            return True
        base = read_base(self.store, self.tag)
        draft = Draft(base.manifest, base.digest)
        try:
            for request in stored.requests:
                for operation in request.operations:
                    if not isinstance(operation, Guard | Restart | Describe):
                        operation.apply(draft)
        except (OcikitError, OSError):
            return False
        built = draft.build()
        return built is base.manifest or built.digest == base.digest

    def _replaced_too_often(self) -> Conflict:
        return Conflict(
            f"{self.name} was replaced by other writers {_TRIES} times during the commit",
            hint="some of them may not merge; wait for them, or write to another tag",
        )


class _OneBlob(Source):
    """A source with one blob."""

    def __init__(self, descriptor: Descriptor, content: Callable[[], ByteStream]) -> None:
        self._descriptor = descriptor
        self._content = content

    def resolve(self, reference: str) -> Descriptor:
        return self._descriptor

    def open(self, descriptor: Descriptor) -> ByteStream:
        return self._content()


def push_blob(
    store: Store,
    descriptor: Descriptor,
    content: Callable[[], ByteStream],
    *,
    progress: Progress = SILENT,
    stop: threading.Event | None = None,
) -> None:
    """Push a blob, unless the store has it.

    Args:
        store: The repository or layout.
        descriptor: Descriptor of the blob.
        content: Opens the content.
        progress: The listener for progress events.
        stop: Set when the push should stop.
    """
    copy_blob(store, descriptor, _OneBlob(descriptor, content), progress=progress, stop=stop)


def copy_blob(
    store: Store,
    descriptor: Descriptor,
    source: Source,
    *,
    progress: Progress = SILENT,
    stop: threading.Event | None = None,
) -> None:
    """Copy a blob from another store, unless the store has it or can mount it; arguments are those of `push_blob`."""
    copies = BlobCopies(source=source, target=store, progress=progress)
    try:
        copies.copy(descriptor, stop or threading.Event())
        return
    except CopyError as error:
        cause = push_error(error)
    raise cause from cause.__cause__  # outside the `except` block, as in `push_files`
