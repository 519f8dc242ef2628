"""Numbered versions: the tags v1, v2, … of a repository, each of which names the version before in its manifest.

Two writers must not get the same number, and each version names the one before. So a push has this order:

1. Read the newest number, and the version before: what the tag names, or a newer version whose writer has not moved the tag.
2. Push the manifest under the next number, on the condition that there is no such tag. If there is one, start again at 1.
3. Most registries ignore the condition. There, the tag is read again a moment later. If it names another writer's manifest,
   start again at 1. That writer does not, because it finds its own.
4. Move the tag, unless a newer version exists: its writer moves it.

A registry with immutable tags accepts each number, because it is new. It does not accept step 4: the version is pushed, and
the error reports both.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

import attrs
from attrs import define, frozen

from ocikit import display
from ocikit.client.commit import Base, locked, read_base, wait_to_look
from ocikit.client.push import PackedArtifact
from ocikit.errors import Conflict, InvalidArgument, ManifestBlobUnknown, NotFound, OcikitError
from ocikit.spec.annotations import BASE_DIGEST, BASE_NAME, Annotations
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Manifest
from ocikit.spec.reference import AnyReference
from ocikit.store.base import Store
from ocikit.transfer.plan import plan

#: How to number a version.
NextVersion: TypeAlias = Literal["next"]

_TAG: Final = re.compile(r"v([1-9]\d{0,17})")
_TRIES = 20  # numbers that other writers take meanwhile
_SHOWN = 60  # characters of an invalid value in a message


def check_version(
    version: str | None, reference: AnyReference, *, attached: bool = False, nested: bool = False
) -> None:
    """Check the `version` argument of a verb.

    Args:
        version: The argument.
        reference: The reference that is written to.
        attached: Whether the artifact has a subject.
        nested: Whether it has a nested index.

    Raises:
        InvalidArgument: It is not "next", or the artifact cannot have a version.
    """
    if version is None:
        return
    if attached or reference.digest is not None:
        raise InvalidArgument(
            f"{'an attached artifact' if attached else reference} can't get a version",
            hint="leave version= out" if attached else "leave the digest out: it is not known before the push",
        )
    if nested:
        raise InvalidArgument(
            "version= and index= exclude each other", hint='group the files with shards="zip", or name a tag yourself'
        )
    if version != "next":
        raise InvalidArgument(
            f"version={display.quoted(version, _SHOWN)} is unknown",
            hint='version="next" takes the next free tag of v1, v2, …; write another tag in the reference: "host/name:tag"',
        )


def newest_number(tags: Iterable[str]) -> int:
    """Return the highest number among the tags v1, v2, …; 0 without one.

    >>> newest_number(["latest", "v9", "v10", "v2.1", "v011"])
    10
    """
    return max((int(match[1]) for match in map(_TAG.fullmatch, tags) if match), default=0)


@frozen(kw_only=True)
class Published:
    """A version that was pushed."""

    manifest: Manifest
    tag: str
    """Its tag, such as "v3"."""
    is_new: bool
    """Whether it differs from the version before."""


@frozen(kw_only=True)
class _Before:
    """What a push found."""

    newest: int
    """The highest number."""
    current: Base
    """What the tag names."""
    base: Base
    """The version before."""
    notes: Mapping[str, str]
    """The annotations that name it."""
    number: int = 0
    """The number of the version before, if it is the newest; else 0."""


@frozen
class Versions:
    """The numbered versions of a repository or layout.

    Args:
        store: The repository or layout.
        name: Name of the artifact, the same for all writers.
        locks: Folder for the locks that exclude other processes; None excludes none.
    """

    store: Store
    name: str
    locks: Path | None

    def push(
        self,
        tags: tuple[str, ...],
        build: Callable[[Mapping[str, str]], Manifest],
        repair: Callable[[Manifest], object],
    ) -> Published:
        """Push a manifest as the next version, and move tags to it.

        The same files with the same annotations as the version before do not make a new version. So a push can be repeated after a
        lost connection.

        Args:
            tags: The tag to move, and more tags.
            build: Returns the manifest with annotations that name the version before. Its content is in the store.
            repair: Pushes a manifest by its digest, with content that the store has lost.

        Raises:
            Conflict: Other writers took all numbers that were tried.
            OcikitError: The version was pushed, but a tag was not moved.
        """
        with locked(self.locks, f"{self.name} versions"):
            before = self.look(tags[0])
            manifest = self._repeated(before, build)
            is_new, number = manifest is None, before.number
            if manifest is None:
                manifest, number, before = self._push_next(before, tags[0], build, repair)
            elif not number:
                number = self._reserve(manifest.descriptor, manifest.raw, before.newest)
            for tag in tags:
                try:
                    if tag == tags[0]:
                        self._move(tag, manifest, before.current.digest, number)
                    else:
                        self.store.push_document(manifest.descriptor, manifest.raw, [tag])
                except OcikitError as error:
                    raise error.reworded(
                        f"the version v{number} was pushed, but the tag {tag} was not moved to it: {error.message}",
                        f"read it as {self.name}:v{number}; if the registry's tags are immutable, exempt {tag} from that rule",
                    ) from error
        return Published(manifest=manifest, tag=f"v{number}", is_new=is_new)

    def look(self, tag: str) -> _Before:
        """Return the version before the next one, with three requests, or two for the first version."""
        newest = self._newest()
        current = read_base(self.store, tag)
        base, name, number = current, tag, 0
        if newest and (digest := self._digest(f"v{newest}")) is not None:
            if digest == current.digest:
                name, number = f"v{newest}", newest
            else:
                latest = read_base(self.store, f"v{newest}")
                named = {} if latest.manifest is None else latest.manifest.annotations
                # Its writer is about to move the tag, or could not
                if current.digest is None or named.get(BASE_DIGEST) == current.digest:
                    base, name, number = latest, f"v{newest}", newest
        notes = {} if base.digest is None else {BASE_DIGEST: str(base.digest), BASE_NAME: f"{self.name}:{name}"}
        return _Before(newest=newest, current=current, base=base, notes=notes, number=number)

    def reserve(self, descriptor: Descriptor, raw: bytes) -> str:
        """Give a manifest that was pushed the next number, unless it has the newest.

        Returns:
            The tag.

        Raises:
            Conflict: Other writers took all numbers that were tried.
        """
        with locked(self.locks, f"{self.name} versions"):
            newest = self._newest()
            if newest and self._digest(f"v{newest}") == descriptor.digest:
                return f"v{newest}"
            return f"v{self._reserve(descriptor, raw, newest)}"

    def _repeated(self, before: _Before, build: Callable[[Mapping[str, str]], Manifest]) -> Manifest | None:
        """Return the version before, if a push would repeat it."""
        base = before.base
        if not isinstance(base.manifest, Manifest):
            return None
        named = base.manifest.annotations
        notes = {key: named[key] for key in (BASE_DIGEST, BASE_NAME) if key in named}
        return base.manifest if build(notes).digest == base.digest else None

    def _push_next(
        self,
        before: _Before,
        tag: str,
        build: Callable[[Mapping[str, str]], Manifest],
        repair: Callable[[Manifest], object],
    ) -> tuple[Manifest, int, _Before]:
        """Push a manifest under the next number; begin again if another writer takes it."""
        for attempt in range(_TRIES):
            if attempt:
                before = self.look(tag)
            manifest = build(before.notes)
            number = before.newest + 1
            try:
                taken = self._take(number, manifest.descriptor, manifest.raw)
            except ManifestBlobUnknown:
                repair(manifest)
                taken = self._take(number, manifest.descriptor, manifest.raw)
            if taken:
                return manifest, number, before
        raise self._taken_too_often()

    def _reserve(self, descriptor: Descriptor, raw: bytes, newest: int) -> int:
        for number in range(newest + 1, newest + 1 + _TRIES):
            if self._take(number, descriptor, raw):
                return number
        raise self._taken_too_often()

    def _take(self, number: int, descriptor: Descriptor, raw: bytes) -> bool:
        """Push a manifest under a number; return False if another writer has taken it."""
        tag, started = f"v{number}", time.monotonic()
        if not self._is_free(tag):  # a list of tags may be old, and most registries ignore the condition
            return False
        outcome = self.store.swap(descriptor, raw, tag, None)
        if outcome == "done":
            return True
        if outcome == "unchecked":
            wait_to_look(time.monotonic() - started)
        # "moved" may be the answer to a request that was repeated after a lost response
        return self._digest(tag) == descriptor.digest

    def _move(self, tag: str, manifest: Manifest, expected: Digest | None, number: int) -> None:
        """Move a tag to a version, unless a newer one exists."""
        for _ in range(_TRIES):
            if expected == manifest.digest:
                return
            if not self._is_free(f"v{number + 1}"):
                return  # a registry without conditions would not tell
            if self.store.swap(manifest.descriptor, manifest.raw, tag, expected) != "moved":
                return
            expected = self._digest(tag)
        raise self._taken_too_often()

    def _newest(self) -> int:
        try:
            return newest_number(self.store.iter_tags())
        except NotFound:  # a new repository
            return 0

    def _is_free(self, tag: str) -> bool:
        """Return True if there is no such tag, by a request that does not look for the nearest tags."""
        return read_base(self.store, tag).descriptor is None

    def _digest(self, tag: str) -> Digest | None:
        try:
            return self.store.resolve(tag).digest
        except NotFound:
            return None

    def _taken_too_often(self) -> Conflict:
        return Conflict(
            f"other writers of {self.name} took {_TRIES} versions meanwhile",
            hint="wait for them, and push again",
        )


@define(kw_only=True)
class VersionPush:
    """The end of a push with `version="next"`: it pushes the manifest, whose content the target has."""

    versions: Versions
    tags: tuple[str, ...]
    """The tag to move, and more tags."""
    workers: int
    published: Published | None = None
    """What was pushed, after the call."""

    def __call__(self, artifact: PackedArtifact) -> PackedArtifact:
        """Push the next version, and return the artifact with its manifest."""
        self.published = self.versions.push(
            self.tags, partial(_with_notes, _manifest_of(artifact)), partial(self._repair, artifact)
        )
        return attrs.evolve(artifact, manifest=self.published.manifest)

    def _repair(self, artifact: PackedArtifact, manifest: Manifest) -> None:
        artifact = attrs.evolve(artifact, manifest=manifest)
        work = plan(artifact, manifest.descriptor, self.versions.store, tags=(), workers=self.workers)
        work.push_documents(workers=self.workers)

    def preview(self, artifact: PackedArtifact) -> tuple[PackedArtifact, tuple[str, ...]]:
        """Return the artifact and the tags that a push would have now."""
        before = self.versions.look(self.tags[0])
        manifest = _with_notes(_manifest_of(artifact), before.notes)
        return attrs.evolve(artifact, manifest=manifest), (f"v{before.newest + 1}", *self.tags)

    def describe(self) -> str:
        """Return the end of the summary of a push."""
        if self.published is None:
            return ""
        names = display.join_limited((self.published.tag, *self.tags))
        return f"; {names}" + ("" if self.published.is_new else ": the same as the version before")


def _manifest_of(artifact: PackedArtifact) -> Manifest:
    return cast("Manifest", artifact.manifest)  # check_version refuses nested indexes


def _with_notes(manifest: Manifest, notes: Mapping[str, str]) -> Manifest:
    """Return a manifest with annotations that name the version before."""
    return attrs.evolve(manifest, annotations=Annotations({**manifest.annotations, **notes}))
