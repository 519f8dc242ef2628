"""Artifacts that file systems have resolved: a tag is resolved once, then it stays pinned."""

from __future__ import annotations

import json
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from ocikit import display
from ocikit.client.artifact import Artifact, File
from ocikit.client.commit import Committed, Follower, follow
from ocikit.client.members import Member
from ocikit.client.reader import ContentReader
from ocikit.client.resolver import Resolver
from ocikit.client.session import Session
from ocikit.client.shared import SharedReader
from ocikit.errors import FileNotInArtifact, InvalidArgument, NotFound
from ocikit.filesystem.paths import Location, missing_tag, path_of
from ocikit.forks import ForkSafeLock
from ocikit.remote.config.network import Network
from ocikit.spec.annotations import CREATED, parse_time
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.reference import AnyReference
from ocikit.spec.titles import is_shard, layer_path
from ocikit.transfer.pool import WORKERS

_CONNECTIONS = 32  # kept open per host: file systems read in many threads
_CURRENT = 0.02  # seconds during which a tag counts as unchanged; a commit of another process takes longer
_KEPT = 16  # views with the pins of another process that are kept between its tasks
_NEAREST = 3  # similar names in the hint for a missing file
#: The time of artifacts that do not state when they were created.
UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)

#: One entry of a listing, as fsspec defines it.
Info = dict[str, Any]


class Tree:
    """The files of one artifact by folder. Listings, searches and missing names cost no request.

    Args:
        root: Path of the artifact in the file system.
        artifact: The artifact, pinned by digest.
    """

    def __init__(self, root: str, artifact: Artifact) -> None:
        self.root = root
        self.artifact = artifact
        self.created = parse_time(artifact.annotations.get(CREATED)) or UNKNOWN_TIME
        """When the artifact was created, else 1970."""
        self._members = artifact.members
        self._loaded: set[Digest] = set()
        self._lock = ForkSafeLock()
        self._folders: dict[str, dict[str, Info | Descriptor | Member]] = {"": {}}
        self._archives: dict[str, str] = {}
        self._nested = artifact.nested_files
        for name, layer in artifact.named.files.items() if self._nested is None else ():
            if name.endswith("/"):  # an archive of a dialect: a file here, as its members are not known
                self._archives[layer_path(layer)] = name
                self.put(layer_path(layer), layer)
            elif not is_shard(layer):
                self.put(name, layer)
        for _, titles in (*self._members.parts, *(self._nested.parts if self._nested is not None else ())):
            for folder in titles.folders:
                self._add_folder(folder)

    def put(self, name: str, layer: Descriptor) -> None:
        """Add or replace a file. It hides a member of a shard with its name."""
        folder, _, last = name.rpartition("/")
        self._add_folder(folder)
        self._folders[folder][last] = layer

    def drop(self, name: str) -> None:
        """Remove a file, and the folders that are empty without it."""
        folder, _, last = name.rpartition("/")
        files = self._folders.get(folder, {})
        files.pop(last, None)
        self._loaded.clear()  # a shard may have a member of this name
        if folder and not files:
            self._folders.pop(folder, None)
            self.drop(folder)

    def _file_info(self, name: str, layer: Descriptor) -> Info:
        return self._info(name, layer.size, layer.media_type, str(layer.digest)) | {
            "digest": str(layer.digest),
            "annotations": dict(layer.annotations),
        }

    def _info(self, name: str, size: int, media_type: str, key: str) -> Info:
        return {
            "name": f"{self.root}/{name}",
            "size": size,
            "type": "file",
            "media_type": media_type,
            "ETag": f'"{key}"',
            "reference": str(self.artifact.reference),
            "created": self.created,
        }

    def _load(self, name: str, *, listing: bool = False) -> None:
        """Add files of the shards, or of the manifests of a nested index.

        Args:
            name: That of a file, or of a folder that has the files.
            listing: Whether only the names in this folder are needed.
        """
        for parts in (self._members, self._nested):
            if parts is None:
                continue
            needed = parts.listed_in(name) if listing else parts.below(name)
            missing = [part for part in needed if part.digest not in self._loaded]
            if missing:
                found = parts.load(missing)
                with self._lock:
                    for title, entry in found.items():
                        self._add(title, entry)
                    self._loaded.update(part.digest for part in missing)

    def _add(self, name: str, entry: Info | Descriptor | Member) -> None:
        folder, _, last = name.rpartition("/")
        self._add_folder(folder)
        self._folders[folder].setdefault(last, entry)

    def _add_folder(self, name: str) -> None:
        if name not in self._folders:
            self._add(name, self._directory(name))
            self._folders[name] = {}

    def _directory(self, name: str) -> Info:
        path = f"{self.root}/{name}" if name else self.root
        info = {"name": path, "size": 0, "type": "directory", "created": self.created}
        return info if name else info | {"digest": str(self.artifact.digest), "reference": str(self.artifact.reference)}

    def _entry(self, name: str, entry: Info | Descriptor | Member) -> Info:
        if isinstance(entry, dict):
            return entry
        if isinstance(entry, Descriptor):
            return self._file_info(name, entry)
        info = self._info(entry.name, entry.size, entry.media_type, entry.key)
        return info | {"shard": entry.layer.title, "shard_digest": str(entry.layer.digest)}

    def info(self, name: str) -> Info:
        """Return the entry of a file or folder.

        Raises:
            FileNotInArtifact: There is neither; the hint has the nearest names.
        """
        found = self._find(name)
        return self._directory(name) if found is None else self._entry(name, found)

    def _find(self, name: str) -> Info | Descriptor | Member | None:
        """Return the entry of a file; None for a folder.

        Raises:
            FileNotInArtifact: There is neither; the hint has the nearest names.
        """
        if name in self._folders:
            return None
        folder, _, last = name.rpartition("/")
        if last not in self._folders.get(folder, {}):
            self._load(name)
            if name in self._folders:
                return None
        found = self._folders.get(folder, {}).get(last)
        if found is None and self._nested is None and name in self.artifact.files:
            return self.artifact.files[name].descriptor  # a shard itself
        if found is None:
            names = self.artifact.files if self._nested is None else self._nested.near(name)
            near = display.nearest(name, names, _NEAREST)
            hint = (
                f"nearest: {display.join_limited(near)}"
                if near
                else f"ocikit.inspect({str(self.artifact.reference)!r}).files lists them"
            )
            raise FileNotInArtifact(f"{self.root} has no file {display.quoted(name)}", hint=hint)
        return found

    def entries(self, name: str) -> list[Info]:
        """Return the entries of a folder, or the one of a file.

        Raises:
            FileNotInArtifact: There is neither.
        """
        if self._find(name) is not None:
            return [self.info(name)]
        self._load(name, listing=True)
        folder, start = self._folders[name], f"{name}/" if name else ""
        return [self._entry(start + last, folder[last]) for last in sorted(folder)]

    def file(self, name: str) -> File | Member:
        """Return a file.

        Raises:
            IsADirectoryError: The name is that of a folder.
            FileNotInArtifact: There is no such file.
        """
        found = self._find(name)
        if found is None or (isinstance(found, dict) and found["type"] == "directory"):
            path = self._directory(name)["name"]
            nested, start = self._nested, f"{name}/" if name else ""
            names = self.artifact.files if nested is None else [titles.first for _, titles in nested.parts]
            near = next((other for other in names if other.startswith(start)), None)
            advice = f"; name a file in it, such as {display.quoted(near)}" if near else ""
            raise IsADirectoryError(f"{path} is a folder{advice}")
        return found if isinstance(found, Member) else self._plain_file(name)

    def _plain_file(self, name: str) -> File:
        return self.artifact.files[self._archives.get(name, name)]


class View(Follower):
    """Artifacts by path, each pinned when it was resolved. Shared by the file systems of a process; safe in threads.

    Commits of this process move the pin, also those of edits and of other file systems. Where files are written through the
    view, or folders are made, other processes may write, too, such as the workers of dask. So these tags are looked up
    before each use.

    Args:
        reader: Reads the content.
        pins: Digests by the path of an artifact, as another process saw them.
    """

    def __init__(self, reader: ContentReader, pins: Mapping[str, str] | None = None) -> None:
        self.reader = reader
        self._trees: dict[str, Tree] = {}
        self._pins = dict(pins or {})
        self._numbers: dict[str, int] = {}
        self._handed = set(self._pins)  # pins of another process, which its tasks rely on
        self._written: dict[str, _Look] = {}
        self._lock = ForkSafeLock()
        follow(self)

    def moved(self, reference: AnyReference, committed: Committed) -> None:
        """Resolve an artifact again on its next use, after a commit of this process."""
        root = path_of(reference)
        if root in self._handed:
            return
        with self._lock:
            if committed.number > self._numbers.get(root, 0) and (root in self._trees or root in self._pins):
                self._numbers[root] = committed.number
                self._trees.pop(root, None)
                self._pins.pop(root, None)

    def tree(self, location: Location) -> Tree:
        """Return the files of an artifact.

        Raises:
            InvalidReference: The path has no tag or digest.
            FileNotInArtifact: There is no such artifact.
        """
        if not location.suffix:
            raise missing_tag(location)
        with self._lock:
            tree = self._trees.get(location.root)
            look = self._written.get(location.root)
        if look is not None:
            with look.turn:
                return self._current(location, look)
        return self._resolved(location) if tree is None else tree

    def _resolved(self, location: Location) -> Tree:
        tree = Tree(location.root, self._resolve(location))
        with self._lock:
            tree = self._trees.setdefault(location.root, tree)  # a commit of this process may have been faster
            self._pins[location.root] = str(tree.artifact.digest)
            return tree

    def _current(self, location: Location, look: _Look) -> Tree:
        """Return the files of what a tag names now."""
        with self._lock:
            tree = self._trees.get(location.root)
        now = time.monotonic()
        if tree is not None and now - look.at < _CURRENT:
            return tree
        if tree is None or self._digest(location) != tree.artifact.digest:
            with self._lock:
                self._trees.pop(location.root, None)
                self._pins.pop(location.root, None)
            tree = self._resolved(location)
        look.at = now
        return tree

    def _digest(self, location: Location) -> Digest | None:
        """Return the digest that a tag names at the registry itself, not at a mirror; None without such a tag."""
        with self.reader.backends.open_source(location.reference, mirrors=False) as source:
            try:
                return source.resolve(location.suffix.removeprefix(":")).digest
            except NotFound:
                return None

    def expect_writers(self, location: Location) -> None:
        """Look up a tag before each use from now on, because other processes may write to it."""
        if location.suffix.startswith(":") and not location.token:
            with self._lock:
                self._written.setdefault(location.root, _Look())

    def _resolve(self, location: Location) -> Artifact:
        reference = location.reference
        if (pin := self._pins.get(location.root)) is not None:
            reference = reference.pinned(Digest(pin))
        try:
            with self.reader.backends.open_source(reference) as source:
                found = Resolver(source, self.reader.cache, get_unknown=True).resolve_files(reference)
        except NotFound as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise FileNotInArtifact(error.message, hint=error.hint) from error
        return Artifact(self.reader, reference, *found)

    def adopt(self, location: Location, artifact: Artifact, number: int = 0) -> None:
        """Pin a path to an artifact, as after a commit of its own.

        Args:
            location: The path.
            artifact: The artifact.
            number: Number of the commit. Threads may learn of their commits in another order.
        """
        tree = Tree(location.root, artifact)
        with self._lock:
            if number < self._numbers.get(location.root, 0):
                return
            self._numbers[location.root] = number
            self._pins[location.root] = str(artifact.digest)
            self._trees[location.root] = tree
            if number:
                self._written.setdefault(location.root, _Look()).at = time.monotonic()

    def pins(self) -> dict[str, str]:
        """Return the digests of the artifacts that were resolved, by path."""
        with self._lock:
            return dict(self._pins)

    def forget(self, location: Location | None = None) -> None:
        """Resolve an artifact again on its next use, or all of them."""
        with self._lock:
            if location is None or not location.root:
                for known in (self._trees, self._pins, self._handed):
                    known.clear()
                return
            self._trees.pop(location.root, None)
            self._pins.pop(location.root, None)
            self._handed.discard(location.root)


class _Look:
    """When a tag was looked up."""

    def __init__(self) -> None:
        self.turn = ForkSafeLock()
        self.at = float("-inf")  # seconds of the monotonic clock


#: Readers of this process by the options of their file systems. Without options, it is that of the one-line functions.
_readers: dict[str, ContentReader] = {}
#: Views of this process by the options of their file systems, and by their pins: instances of a class in several threads
#: share them. A worker gets tasks with the pins of several graphs.
_views: dict[str, View] = {}
_pinned: weakref.WeakValueDictionary[str, View] = weakref.WeakValueDictionary()
_recent: deque[View] = deque(maxlen=_KEPT)
_views_lock = ForkSafeLock()


def shared_view(
    *,
    insecure: Iterable[str] = (),
    mirrors: Mapping[str, Any] | None = None,
    workers: int | None = None,
    timeout: float | None = None,
    pins: Mapping[str, str] | None = None,
) -> View:
    """Return the view for these options; calls with equal options and pins share one.

    Args:
        insecure: Hosts that may be contacted without TLS, or with an unverified certificate.
        mirrors: Mirrors to read from first, as in `Session`.
        workers: Number of parallel requests.
        timeout: Seconds without data.
        pins: Digests by the path of an artifact, as another process saw them.

    Raises:
        InvalidArgument: An option is not JSON.
    """
    options = {"insecure": sorted(insecure), "mirrors": dict(mirrors or {}), "workers": workers, "timeout": timeout}
    try:
        key = json.dumps(options, sort_keys=True)
    except TypeError as error:
        raise InvalidArgument(
            f"the options of a file system are JSON: {error}", hint="pass a session instead: ocikit.fs(session)"
        ) from error
    with _views_lock:
        reader = _readers.get(key)
        if reader is None:
            reader = _readers[key] = _new_reader(insecure, mirrors, workers, timeout)
        if not pins:
            if key not in _views:
                _views[key] = View(reader)
            return _views[key]
        key += json.dumps(dict(pins), sort_keys=True)
        view = _pinned.get(key)
        if view is None:
            view = _pinned[key] = View(reader, pins)
        if view not in _recent:
            _recent.append(view)
        return view


def _new_reader(
    insecure: Iterable[str], mirrors: Mapping[str, Any] | None, workers: int | None, timeout: float | None
) -> ContentReader:
    """Return the reader of the session that the one-line functions share, or of a new session if there are options."""
    if not insecure and not mirrors and workers is None and timeout is None:
        return SharedReader()
    network = Network(connections=_CONNECTIONS)
    if timeout is not None:
        network = attrs.evolve(network, read_timeout=timeout)
    count = WORKERS if workers is None else workers
    return Session(insecure=insecure, mirrors=mirrors, network=network, workers=count).reader
