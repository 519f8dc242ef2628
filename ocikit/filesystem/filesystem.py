"""The file system `ocikit://` for fsspec.

It is synchronous, because the session is. Threads work within `cat_ranges` and `get`. A tag is resolved once and stays
pinned until `invalidate_cache()` or a listing with `refresh=True`. A pickle has the pins, so that workers read the version
that their driver saw.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, BinaryIO

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from ocikit.client.artifact import Artifact, File
from ocikit.client.reader import ContentReader
from ocikit.errors import FileNotInArtifact, InvalidArgument
from ocikit.filesystem.paths import PROTOCOL, Location, parse_path, path_of, strip_protocol
from ocikit.filesystem.views import UNKNOWN_TIME, Info, View, shared_view
from ocikit.forks import ForkSafeLock
from ocikit.transfer.pool import run_parallel

_PARALLEL = 8  # files that are read at once


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
        super().__init__(**options)
        if cache not in {"blocks", "files"}:
            raise InvalidArgument(f"cache={cache!r} is unknown", hint='use "blocks" or "files"')
        self._whole_files = cache == "files"
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
        entries = self.view.tree(location).entries(location.name) if location.suffix else self._listing(location)
        return [dict(entry) for entry in entries] if detail else [entry["name"] for entry in entries]

    def _listing(self, location: Location) -> list[Info]:
        """Return the tags of a repository, or the repositories of a registry."""
        if not location.host:
            raise FileNotInArtifact("the root has no list of registries", hint=f"name one: {PROTOCOL}://ghcr.io/")
        registry = self.view.reader.backends.registry(location.host)
        if location.repository:
            names = [f"{location.root}:{tag}" for tag in registry[location.repository].iter_tags()]
        else:
            names = [f"{location.host}/{name}" for name in registry.catalog()]
        return [_directory(name) for name in sorted(names)]

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
            return _directory(location.root)
        if refresh:
            self.view.forget(location)
        return dict(self.view.tree(location).info(location.name))

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
        """Return the digest of a file, which identifies its content."""
        return str(self._file(path).digest)

    def checksum(self, path: str) -> int:
        """Return the digest of a file as a number."""
        return int(self._file(path).digest.encoded, 16)

    # Reading

    def _file(self, path: str) -> File:
        location = parse_path(path)
        return self.view.tree(location).file(location.name)

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
        file = self._file(path)
        if self._whole_files:
            file.download(progress=False)
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
            paths: Files.
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
            file.save(lpath)
        if callback is not None:
            callback.absolute_update(file.size)

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
        file: File,
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
            return self._at(start).read(end - start)

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


def _restore(kind: type[OcikitFileSystem], options: dict[str, Any], pins: dict[str, str]) -> OcikitFileSystem:
    """Return a file system from its pickle."""
    return kind(**options, pins=pins)


def _reopen(fs: OcikitFileSystem, path: str, position: int) -> OcikitFile:
    """Return an open file from its pickle."""
    file: OcikitFile = fs.open(path)
    file.seek(position)
    return file


def _directory(path: str) -> Info:
    return {"name": path, "size": 0, "type": "directory"}


def _span(size: int, start: int | None, end: int | None) -> tuple[int, int]:
    """Return the first byte and the byte after the last, as slices of a sequence count them."""
    first, stop, _ = slice(start, end).indices(size)
    return first, max(first, stop)
