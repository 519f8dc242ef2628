"""The file system `ocikit://` for fsspec.

It is synchronous, because the session is. Threads work within `cat_ranges` and `get`. A tag is resolved once and stays
pinned until `invalidate_cache()`, a listing with `refresh=True`, or a commit of this process. A process that writes to a tag
reads what the tag names at that time. A pickle has the pins, so that workers read the version that their driver saw.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.core import has_magic
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from ocikit.client.artifact import Artifact, File
from ocikit.client.commit import Drop, Operation, Put, Upcoming, commit, copy_blob, push_blob, titled
from ocikit.client.edit import Edit
from ocikit.client.members import Member
from ocikit.client.reader import ContentReader
from ocikit.errors import FileNotInArtifact, InvalidArgument, InvalidReference, NotFound, Unsupported
from ocikit.filesystem.paths import PROTOCOL, Location, missing_tag, parse_path, path_of, strip_protocol
from ocikit.filesystem.views import UNKNOWN_TIME, Info, Tree, View, shared_view
from ocikit.filesystem.writing import Edits, OcikitTransaction, OcikitWriter, TextWriter, collected, edit_of, edit_tree
from ocikit.forks import ForkSafeLock
from ocikit.layers.pack import Named, select
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.store.base import Store
from ocikit.store.streams import ByteStream
from ocikit.transfer.pool import run_parallel

_RECENT = 1.0  # seconds since a read, whose bytes a thread of pyarrow may still hold
_RELEASE = 0.05  # seconds for the release
_PARALLEL = 8  # files that are read at once

#: Options of other file systems and clients that have a secret. fsspec shows all options in JSON and pickles.
_SECRETS = {"auth", "credentials", "identity_token", "key", "password", "secret", "token", "user", "username"}


class OcikitFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files of artifacts in registries: `ocikit://HOST[:PORT]/REPOSITORY:TAG/PATH`, and `ocikit:///FOLDER:TAG/PATH` on disk.

    Whole files are verified by their digest. Ranges of files can't be verified.

    Credentials come from docker's and podman's files, as everywhere. Options and pickles have no secrets.

    Args:
        insecure: Hosts that may be contacted without TLS, or with an unverified certificate.
        mirrors: Mirrors to read from first, as in `ocikit.Session`.
        cache: "files" fetches a whole file into the content cache when it is opened, which verifies it. "blocks" reads
            ranges.
        workers: Number of parallel requests.
        timeout: Seconds without data.
        reader: Reader of a session, instead of these options.
        artifact: Artifact whose files are known, with its reader.
        pins: Digests by the path of an artifact, instead of resolving its tag.
        options: Further options of fsspec.

    Raises:
        InvalidArgument: An option has an unknown value, or would have a secret.
    """

    protocol = PROTOCOL
    root_marker = ""
    sep = "/"
    cachable = True

    def __init__(
        self,
        *,
        insecure: Iterable[str] = (),
        mirrors: Mapping[str, Any] | None = None,
        cache: str = "blocks",
        workers: int | None = None,
        timeout: float | None = None,
        reader: ContentReader | None = None,
        artifact: Artifact | None = None,
        pins: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        if secret := next((name for name in options if name in _SECRETS), None):
            raise InvalidArgument(
                f"a file system takes no option {secret!r}: pickles and graphs of dask would contain it",
                hint="log in: ocikit.login(host), or pass a session: ocikit.fs(session)",
            )
        super().__init__(**options)
        if cache not in {"blocks", "files"}:
            raise InvalidArgument(f"cache={cache!r} is unknown", hint='use "blocks" or "files"')
        self._whole_files = cache == "files"
        self._transaction_edits: Edits | None = None
        self._calls = threading.local()  # with the edits of a call that writes several files
        if artifact is not None:
            self.view = View(artifact.reader, pins)
            self.adopt(artifact)
        elif reader is not None:
            self.view = View(reader, pins)
        else:
            self.view = shared_view(insecure=insecure, mirrors=mirrors, workers=workers, timeout=timeout, pins=pins)

    def __reduce__(self) -> tuple[Any, ...]:
        options = {name: value for name, value in self.storage_options.items() if name != "pins"}
        return _restore, (type(self), options, self.view.pins())

    @staticmethod
    def edit_root(edit: Edit) -> str:
        """Return the path of an edit in this process."""
        return f"{path_of(edit.reference)}~{edit.token}"

    @staticmethod
    def root_of(artifact: Artifact) -> str:
        """Return the path of an artifact."""
        return path_of(artifact.reference)

    def adopt(self, artifact: Artifact) -> None:
        """Use an artifact as it is for its path, `root_of(artifact)`; also one of another session."""
        self.view.adopt(parse_path(self.root_of(artifact)), artifact)

    @property
    def fsid(self) -> str:
        """An identifier of the file system."""
        return PROTOCOL

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return strip_protocol(str(path))

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path."""
        return f"{PROTOCOL}://{strip_protocol(name)}"

    @classmethod
    def _parent(cls, path: str) -> str:
        path = strip_protocol(path)
        location = parse_path(path)
        if location.name or not location.host:
            return path.rpartition("/")[0]
        return location.host if location.repository else ""

    def invalidate_cache(self, path: str | None = None) -> None:
        """Resolve tags again on their next use: that of one artifact, or all."""
        self.view.forget(None if path is None else parse_path(path))
        super().invalidate_cache(path)

    def _tree(self, location: Location) -> Tree:
        """Return the files of an artifact, with the writes of a transaction or an edit."""
        edit = self._edit(location)
        return self.view.tree(location) if edit is None else edit_tree(location.root, edit)

    def _edit(self, location: Location, *, create: bool = False) -> Edit | None:
        """Return the edit that writes to an artifact are collected in, or None."""
        if (edit := edit_of(location)) is not None:
            return edit
        edits: Edits | None = self._transaction_edits or getattr(self._calls, "edits", None)
        if edits is None or not location.suffix:
            return None
        return edits.open(location) if create else edits.get(location)

    # Listings

    def ls(self, path: str, detail: bool = True, refresh: bool = False, **kwargs: Any) -> list[Any]:
        """Return the entries of a folder.

        Args:
            path: A registry, a repository, an artifact, or a folder in one.
            detail: Return dictionaries instead of paths.
            refresh: Resolve the tag again.
            kwargs: Ignored; other file systems have further options.

        Raises:
            FileNotFoundError: There is no such artifact or name.
        """
        location = parse_path(path)
        if refresh:
            self.view.forget(location)
        entries = self._tree(location).entries(location.name) if location.suffix else self._listing(location)
        return [dict(entry) for entry in entries] if detail else [entry["name"] for entry in entries]

    def _listing(self, location: Location) -> list[Info]:
        """Return the tags of a repository, or the repositories of a registry."""
        if not location.host:
            if location.repository:
                raise missing_tag(location)
            raise FileNotInArtifact("the root has no list of registries", hint=f"name one: {PROTOCOL}://ghcr.io/")
        if location.repository:
            names = [f"{location.root}:{tag}" for tag in self._tags(location)]
        else:
            names = [f"{location.host}/{name}" for name in self.view.reader.backends.registry(location.host).catalog()]
        return [_directory(name) for name in sorted(names)]

    def _tags(self, location: Location) -> Iterator[str]:
        """Yield the tags of a repository.

        Raises:
            FileNotInArtifact: There is no such repository.
            InvalidReference: The path can't be that of a repository.
        """
        try:
            repository = self.view.reader.backends.registry(location.host)[location.repository]
        except InvalidReference as error:
            raise missing_tag(location) from error
        try:
            yield from repository.iter_tags()
        except NotFound as error:
            raise FileNotInArtifact(
                f"{location.host} has no repository {location.repository}",
                hint=f"check the name; ocikit.catalog({location.host!r}) lists those that the registry shows",
            ) from error

    def info(self, path: str, refresh: bool = False, **kwargs: Any) -> Info:
        """Return the entry of a file or folder. A name that does not exist costs no request.

        Args:
            path: A file or folder.
            refresh: Resolve the tag again.
            kwargs: Ignored; other file systems have further options.

        Raises:
            FileNotFoundError: There is no such artifact or name; the hint has the nearest names.
        """
        location = parse_path(path)
        if not location.suffix:
            if location.host and location.repository:
                next(self._tags(location), None)  # raises if there is no such repository
            return _directory(location.root)
        if refresh:
            self.view.forget(location)
        return dict(self._tree(location).info(location.name))

    def walk(
        self, path: str, maxdepth: int | None = None, topdown: bool = True, on_error: Any = "omit", **kwargs: Any
    ) -> Iterator[tuple[str, Any, Any]]:
        """Yield path, folders and files of each folder. Failures of the network are raised.

        Args:
            path: The first folder.
            maxdepth: Number of levels.
            topdown: Yield a folder before those in it.
            on_error: "omit" yields nothing for a missing folder, "raise" raises; or a function that takes the error.
            kwargs: Options of `ls`.
        """
        missing = _raise_failure if on_error == "omit" else on_error
        yield from super().walk(path, maxdepth=maxdepth, topdown=topdown, on_error=missing, **kwargs)

    def expand_path(self, path: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Return the paths that a path, a pattern or a list of them stands for.

        Args:
            path: One or more paths.
            args: Further arguments, as other file systems have them.
            kwargs: Further arguments, as other file systems have them.

        Raises:
            FileNotFoundError: There are none; for one path, the hint has the nearest names.
        """
        try:
            found: list[str] = super().expand_path(path, *args, **kwargs)
        except FileNotFoundError as error:
            if isinstance(path, str) and not has_magic(path):
                self.info(path)  # raises with a hint
            raise FileNotFoundError(errno.ENOENT, "no such file or folder", str(path)) from error
        return found

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Return True if there is such a file, folder or artifact. Failures of the network are raised."""
        try:
            self.info(path, **kwargs)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def isfile(self, path: str) -> bool:
        """Return True if the path is a file. Failures of the network are raised."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """Return True if the path is a folder, an artifact, a repository or a registry."""
        return self._type(path) == "directory"

    def _type(self, path: str) -> str:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def created(self, path: str) -> datetime:
        """Return the time of the artifact's creation, else 1970."""
        created: datetime = self.info(path).get("created", UNKNOWN_TIME)
        return created

    def modified(self, path: str) -> datetime:
        """Return the time of `created`: content that a digest identifies is not modified."""
        return self.created(path)

    def ukey(self, path: str) -> str:
        """Return what identifies the content of a file: its digest, or that of its shard with the place in it."""
        file = self._file(path)
        return file.key if isinstance(file, Member) else str(file.digest)

    def checksum(self, path: str) -> int:
        """Return what identifies the content of a file as a number."""
        file = self._file(path)
        return int((Digest.of(file.key.encode()) if isinstance(file, Member) else file.digest).encoded, 16)

    # Reading

    def _file(self, path: str) -> File | Member:
        location = parse_path(path)
        return self._tree(location).file(location.name)

    def _whole(self, path: str, file: File | Member) -> File:
        """Return a file, or the shard that holds it."""
        if isinstance(file, Member):
            return self.view.tree(parse_path(path)).artifact.files[str(file.layer.title)]
        return file

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        *,
        cache_type: str = "none",
        size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        if mode != "rb":
            return self._open_writer(path, mode)
        file = self._file(path)
        if self._whole_files:
            self._whole(path, file).download(progress=False)
        return OcikitFile(self, path, file, block_size=block_size, cache_type=cache_type, cache_options=cache_options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the content of a file, or a range of it. Whole files are verified.

        Args:
            path: The file.
            start: First byte; a negative one counts from the end.
            end: Byte after the last; a negative one counts from the end.
            kwargs: Ignored; other file systems have further options.
        """
        file = self._file(path)
        offset, stop = _span(file.size, start, end)
        if (offset, stop) == (0, file.size):
            return file.read_bytes()
        (content,) = file.ranges([(offset, stop - offset)])
        return content

    def cat_ranges(
        self,
        paths: list[str],
        starts: int | list[int | None] | None,
        ends: int | list[int | None] | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """Return ranges of files: those of one file are joined where the gaps are small, and fetched in parallel.

        Args:
            paths: Paths of files.
            starts: First byte of each, or of all.
            ends: Byte after the last of each, or of all.
            max_gap: Ignored; gaps up to 64 KiB are read.
            on_error: "return" puts an exception in the place of its range, "raise" raises it.
            kwargs: Ignored; other file systems have further options.
        """
        if not isinstance(paths, list):
            raise TypeError("paths is a list")
        first = starts if isinstance(starts, list) else [starts] * len(paths)
        last = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(first) == len(last) == len(paths):
            raise ValueError("paths, starts and ends have different lengths")
        results: list[Any] = [None] * len(paths)
        by_file: dict[str, list[int]] = {}
        for i, path in enumerate(paths):
            by_file.setdefault(strip_protocol(path), []).append(i)

        def read(path: str, _: threading.Event) -> None:
            indexes = by_file[path]
            try:
                file = self._file(path)
                spans = [_span(file.size, first[i], last[i]) for i in indexes]
                contents = file.ranges([(start, end - start) for start, end in spans])
                for i, content in zip(indexes, contents, strict=True):
                    results[i] = content
            except Exception as error:
                if on_error != "return":
                    raise
                for i in indexes:
                    results[i] = error

        run_parallel(by_file, read, workers=min(len(by_file), _PARALLEL))
        return results

    def get_file(self, rpath: str, lpath: Any, callback: Any = None, outfile: Any = None, **kwargs: Any) -> None:
        """Write a file, verified, to disk.

        Args:
            rpath: The file.
            lpath: Path on disk, or an open file.
            callback: Informed of the size and the progress.
            outfile: An open file instead of `lpath`.
            kwargs: Ignored; other file systems have further options.
        """
        if self.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
            return
        file = self._file(rpath)
        if callback is not None:
            callback.set_size(file.size)
        target = outfile if outfile is not None else lpath
        if hasattr(target, "write"):
            with file.open() as stream:
                while chunk := stream.read(1 << 20):
                    target.write(chunk)
        else:
            os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
            file.save(Path(lpath))
        if callback is not None:
            callback.absolute_update(file.size)

    # Writing

    transaction_type = OcikitTransaction

    def open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        """Return an open file.

        A file that is written appears when it is closed: its content is uploaded, and its artifact gets a new manifest. If
        the `with` block raises, nothing appears.

        Args:
            path: The file.
            mode: "rb" or "r" to read, "wb" or "w" to write, "xb" or "x" to write a new file.
            args: Further arguments, as other file systems have them.
            kwargs: Further arguments, as other file systems have them.

        Raises:
            FileExistsError: There is such a file, and the mode is "x".
            InvalidArgument: The mode is for appending or for changes in place.
        """
        if "b" in mode or not set(mode) & set("wxa+"):
            return super().open(path, mode, *args, **kwargs)
        text = {key: kwargs.pop(key) for key in ("encoding", "errors", "newline") if key in kwargs}
        return TextWriter(self.open(path, f"{mode.replace('t', '')}b", *args, **kwargs), **text)

    def _open_writer(self, path: str, mode: str) -> OcikitWriter:
        if mode not in {"wb", "xb"}:
            raise InvalidArgument(
                f"open(mode={mode!r}) failed: files of artifacts are not changed in place",
                hint='read the file and write it again, with "wb"',
            )
        location = self._writable(path)
        if mode == "xb" and self.exists(path):
            raise FileExistsError(f"there is a file {location.path} already")
        return OcikitWriter(partial(self._put, location, new=mode == "xb"), location.path, mode)

    def _writable(self, path: str) -> Location:
        """Return a path that files can be written to.

        Raises:
            InvalidReference: The path has no tag, or it is pinned.
            IsADirectoryError: The path is that of an artifact.
            InvalidArgument: The path is that of an edit that has ended.
        """
        location = parse_path(path)
        edit_of(location)  # raises before anything is written
        if not location.suffix:
            self.view.tree(location)  # raises
        if "@" in location.suffix:
            raise InvalidReference(
                f"{location.root} is pinned by its digest, so it can't be written to",
                hint="name a tag; each write gives it a new manifest",
            )
        if not location.name:
            raise IsADirectoryError(f"{location.path} is an artifact, not a file")
        return location

    def _put(
        self, location: Location, layer: Descriptor, content: Callable[[], ByteStream], *, new: bool = False
    ) -> None:
        """Upload content and commit it as a file."""
        layer = titled(layer, location.name)
        edit = self._edit(location, create=True)
        if edit is not None:
            edit.upload(layer, content)
            edit.stage(Put(layer=layer, new=new))
            return
        backends = self.view.reader.backends
        with backends.open_store(location.reference) as store, Upcoming(str(location.reference), backends) as upcoming:
            push_blob(store, layer, content)
            self._commit(store, location, Put(layer=layer, new=new), upcoming)

    def _commit(self, store: Store, location: Location, operation: Operation, upcoming: Upcoming | None = None) -> None:
        reader, reference = self.view.reader, location.reference
        done = commit(
            store,
            location.suffix.removeprefix(":"),
            [operation],
            reference=reference,
            owner=reader.backends,
            locks=reader.cache.lock_folder(),
            upcoming=upcoming,
        )
        artifact = Artifact(reader, reference, done.descriptor, done.manifest)
        self.view.adopt(location, artifact, done.number)

    def _adopt(self, location: Location, edit: Edit) -> None:
        if edit.artifact is not None:
            self.view.adopt(location, edit.artifact, edit.number)

    def begin(self) -> None:
        """Start to collect writes for a transaction."""
        self._transaction_edits = Edits(self.view.reader)

    def end(self, *, commit: bool) -> None:
        """End a transaction: one manifest for each artifact that was written to, or no change at all."""
        edits, self._transaction_edits = self._transaction_edits, None
        if edits is None:
            return
        if commit:
            edits.commit(self._adopt)
        else:
            edits.discard()

    @contextlib.contextmanager
    def _one_commit(self) -> Iterator[None]:
        """Make one commit for each artifact that the block writes to in this thread."""
        if self._transaction_edits is not None or getattr(self._calls, "edits", None) is not None:
            yield
            return
        with collected(Edits(self.view.reader), self._adopt) as edits:
            self._calls.edits = edits
            try:
                yield
            finally:
                self._calls.edits = None

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write a file.

        Args:
            path: The file.
            value: Content of the file.
            mode: "create" refuses to replace a file.
            kwargs: Ignored; other file systems have further options.

        Raises:
            FileExistsError: There is such a file, and the mode is "create".
        """
        location = self._writable(path)
        if mode == "create" and self.exists(path):
            raise FileExistsError(f"there is a file {location.path} already")
        value = bytes(value)
        layer = Descriptor.of(value, media_types.media_type_of(location.name))
        self._put(location, layer, lambda: io.BytesIO(value), new=mode == "create")

    def pipe(self, path: Any, value: Any = None, **kwargs: Any) -> None:
        """Write one file, or several by a dictionary, with one manifest."""
        with self._one_commit():
            super().pipe(path, value, **kwargs)

    def put_file(self, lpath: Any, rpath: str, callback: Any = None, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write a file from disk.

        Args:
            lpath: The file on disk.
            rpath: The path to write.
            callback: Informed of the size and the progress.
            mode: "create" refuses to replace a file.
            kwargs: Ignored; other file systems have further options.

        Raises:
            FileExistsError: There is such a file, and the mode is "create".
        """
        if os.path.isdir(lpath):
            return  # folders have no representation
        location = self._writable(rpath)
        if mode == "create" and self.exists(rpath):
            raise FileExistsError(f"there is a file {location.path} already")
        size = os.stat(lpath).st_size
        if callback is not None:
            callback.set_size(size)
        (task,) = select([Named(location.name, lpath)], hidden=True).tasks
        packed, _ = task.run()
        self._put(location, packed.descriptor, packed.open, new=mode == "create")
        if callback is not None:
            callback.absolute_update(size)

    def put(self, *args: Any, **kwargs: Any) -> None:
        """Write files and folders from disk, with one manifest."""
        with self._one_commit():
            super().put(*args, **kwargs)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file; within a repository, and between repositories that can mount, no content is moved.

        Args:
            path1: The file.
            path2: The copy.
            kwargs: Ignored; other file systems have further options.
        """
        if self.isdir(path1):
            return  # folders have no representation
        file, source, target = self._file(path1), parse_path(path1), self._writable(path2)
        if isinstance(file, Member):
            self.pipe_file(path2, file.read_bytes())
            return
        layer = titled(file.descriptor, target.name)
        edit = self._edit(target, create=True)
        reference = file.artifact.reference
        with contextlib.ExitStack() as stack:
            backends = self.view.reader.backends
            store = stack.enter_context(backends.open_store(target.reference)) if edit is None else edit.store
            if (source.host, source.repository) != (target.host, target.repository):
                copy_blob(store, layer, stack.enter_context(backends.open_source(reference, mirrors=False)))
            if edit is None:
                self._commit(store, target, Put(layer=layer))
            else:
                edit.stage(Put(layer=layer))

    def copy(self, *args: Any, **kwargs: Any) -> None:
        """Copy files and folders, with one manifest."""
        with self._one_commit():
            super().copy(*args, **kwargs)

    def mv(self, *args: Any, **kwargs: Any) -> None:
        """Rename files and folders: one manifest, and no content is moved within a repository."""
        with self._one_commit():
            super().mv(*args, **kwargs)

    def rm_file(self, path: str) -> None:
        """Remove a file. An artifact without files remains after the last one.

        Raises:
            FileNotFoundError: There is no such file.
            Unsupported: The file is in a shard.
        """
        location = self._writable(path)
        if isinstance(file := self._file(path), Member):
            raise Unsupported(
                f"{location.path} is a part of {file.layer.title}, so it can't be removed",
                hint="push the folder again with shards=, without this file",
            )
        edit = self._edit(location, create=True)
        if edit is not None:
            edit.stage(Drop(title=location.name))
            return
        with self.view.reader.backends.open_store(location.reference) as store:
            self._commit(store, location, Drop(title=location.name))

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files and, with `recursive`, folders, with one manifest. The path of an artifact deletes its tag.

        Raises:
            FileNotFoundError: There is no such file or folder.
            IsADirectoryError: A path is a folder, and not `recursive`.
        """
        paths = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
        roots = [one for one in paths if not parse_path(one).name]
        if roots and not recursive:
            raise IsADirectoryError(f"{roots[0]} is an artifact; recursive=True deletes its tag")
        with self._one_commit():
            for one in paths:
                if parse_path(one).root in roots:
                    continue
                if not self.isdir(one):
                    self.rm_file(one)
                elif not recursive:
                    raise IsADirectoryError(f"{one} is a folder; recursive=True removes its files")
        for root in roots:
            self._untag(parse_path(root))

    def _untag(self, location: Location) -> None:
        if not location.suffix.startswith(":") or location.token:
            raise InvalidReference(
                f"{location.root} is not a tag, so it can't be removed", hint="see ocikit.delete(reference)"
            )
        with self.view.reader.backends.open_store(location.reference, create=False) as store:
            store.untag(location.suffix.removeprefix(":"))
        self.view.forget(location)

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Expect files of other processes in the artifact. A folder exists while it has files."""
        self.view.expect_writers(parse_path(path))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Expect files of other processes in the artifact. A folder exists while it has files."""
        self.view.expect_writers(parse_path(path))

    def rmdir(self, path: str) -> None:
        """Check that a folder has no files.

        Raises:
            NotADirectoryError: The path is a file.
            OSError: The folder has files.
        """
        kind = self._type(path)
        if kind == "file":
            raise NotADirectoryError(f"{path} is a file")
        if kind and self.ls(path):
            raise OSError(errno.ENOTEMPTY, f"{path} has files", path)

    def url(self, path: str, **kwargs: Any) -> str:
        """Return the URL of a file at its registry; clients need a token there unless the repository is public.

        Raises:
            Unsupported: The file is in a layout on disk.
        """
        return self._file(path).url()

    def sign(self, path: str, expiration: int | None = None, **kwargs: Any) -> str:
        """Return the signed URL of the storage that the registry redirects to; the storage decides how long it is valid.

        Raises:
            Unsupported: The registry serves its files by itself.
        """
        return self._file(path).url(signed=True)


class OcikitFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A file that is read by ranges which grow while the reads are sequential.

    Args:
        fs: The file system.
        path: Path of the file.
        file: The file.
        block_size: Bytes, for fsspec's caches.
        cache_type: One of fsspec's caches; "none" reads through the stream of the file itself.
        cache_options: Options of the cache.
    """

    def __init__(
        self,
        fs: OcikitFileSystem,
        path: str,
        file: File | Member,
        *,
        block_size: int | None = None,
        cache_type: str = "none",
        cache_options: dict[str, Any] | None = None,
    ) -> None:
        self._stream: BinaryIO | None = None
        self._file = file
        self._lock = ForkSafeLock()
        super().__init__(
            fs, path, "rb", block_size or "default", cache_type=cache_type, cache_options=cache_options, size=file.size
        )

    def _fetch_range(self, start: int, end: int) -> bytes:
        """Return bytes from `start` to before `end`."""
        with self._lock:
            content = self._at(start).read(end - start)
        _Exit.latest_read = time.monotonic()
        return content

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return bytes up to the next newline. The stream looks for it: fsspec would read 5 MiB for each line."""
        with self._lock:
            line = self._at(self.loc).readline(-1 if size is None else size)
        self.loc += len(line)
        return line

    def _at(self, position: int) -> BinaryIO:
        if self._stream is None:
            self._stream = self._file.open()
        self._stream.seek(position)
        return self._stream

    def close(self) -> None:
        """Release the connection."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        super().close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.fs, self.path, self.loc)


class _Exit:
    """A short wait at the end of a process that has just read a file through pyarrow.

    pyarrow: threads of a scan release the bytes after the caller has its result. If the interpreter has ended by then, Python
    before 3.14 ends these threads, and the process aborts: "terminate called without an active exception"
    (apache/arrow#34314, apache/arrow#39162). The wait lets them finish.
    """

    latest_read = float("-inf")  # seconds of the monotonic clock

    @classmethod
    def wait(cls) -> None:
        """Wait if pyarrow may still hold what was read."""
        if "pyarrow" in sys.modules and time.monotonic() - cls.latest_read < _RECENT:
            time.sleep(_RELEASE)


if sys.version_info < (3, 14):
    atexit.register(_Exit.wait)


def _restore(kind: type[OcikitFileSystem], options: dict[str, Any], pins: dict[str, str]) -> OcikitFileSystem:
    """Return a file system from its pickle."""
    return kind(**options, pins=pins, skip_instance_cache=True)


def _reopen(fs: OcikitFileSystem, path: str, position: int) -> OcikitFile:
    """Return an open file from its pickle."""
    file: OcikitFile = fs.open(path)
    file.seek(position)
    return file


def _raise_failure(error: OSError) -> None:
    """Raise an error, unless a folder is missing."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _directory(path: str) -> Info:
    return {"name": path, "size": 0, "type": "directory"}


def _span(size: int, start: int | None, end: int | None) -> tuple[int, int]:
    """Return the first byte and the byte after the last, as slices of a sequence count them."""
    first, stop, _ = slice(start, end).indices(size)
    return first, max(first, stop)
