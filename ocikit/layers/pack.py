"""Packing files and folders as layers. image-spec manifest.md#guidelines-for-artifact-usage.

Every file is a blob of its own, as it is, with its path as title: what `oras push` does for files, and what lets a
reader fetch one of many. A folder is packed as one archive only on request.
"""

from __future__ import annotations

import functools
import io
import mimetypes
import os
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias, cast

import attrs
from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import ContentError
from ocikit.layers import compression
from ocikit.layers.header import END, encode_header, padding
from ocikit.layers.tar import CHUNK
from ocikit.layers.tree import WHITEOUT
from ocikit.layers.walk import FileWalker, FoundFile, Links, title_of
from ocikit.spec import media_types as types
from ocikit.spec.annotations import TITLE, UNPACK, Annotations
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, new_hasher
from ocikit.spec.titles import check_titles, safe_title

WORKERS: Final = 4  # hashing runs at 0.5 to 2 GB/s a core; four saturate a fast disk

#: Set by oras and by us beside UNPACK: the digest of the tar, uncompressed.
UNPACKED_DIGEST: Final = "io.deis.oras.content.digest"


#: Types of what mimetypes takes for an encoding of something else.
_ENCODED: Final = {
    "gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz", "br": types.OCTET_STREAM,
    "compress": types.OCTET_STREAM,
}  # fmt: skip

_Stamp: TypeAlias = tuple[int, int, int]
"""Size, time of change and inode: what differs once a file was written to or replaced."""


@define(eq=False)
class _Spool:
    """A temporary file that goes away with its last user."""

    path: Path
    remove: Callable[[], object] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.remove = weakref.finalize(self, partial(self.path.unlink, missing_ok=True))


@frozen(kw_only=True, repr=False)
class Packed(display.Displayable):
    """A layer that is ready to be pushed."""

    descriptor: Descriptor
    source: Path
    """The file or folder that it was made of."""
    diff_id: Digest | None = None
    """Of an archive: the digest of the tar, uncompressed. image-spec config.md#layer-diffid."""
    _content: Path = field(repr=False)
    _stamp: _Stamp = field(repr=False)
    _spool: _Spool | None = field(default=None, repr=False, eq=False)

    @property
    def title(self) -> str:
        """The relative path that it has in the artifact."""
        return self.descriptor.annotations[TITLE]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.descriptor.size

    def open(self) -> io.BufferedReader:
        """The content, seekable. Raises: ContentError: if the file has changed since it was hashed."""
        try:
            file = self._content.open("rb")
        except OSError as error:
            raise _changed(self._content) from error
        if _stamp(os.fstat(file.fileno())) != self._stamp:
            file.close()
            raise _changed(self._content)
        return file

    def close(self) -> None:
        """Remove the temporary file of an archive; garbage collection does it too."""
        if self._spool is not None:
            self._spool.remove()

    def __rich_repr__(self) -> display.Description:
        yield "title", self.title
        yield "media_type", self.descriptor.media_type
        yield "digest", display.DigestCell(self.descriptor.digest)
        yield "size", display.Size(self.size)
        yield "diff_id", display.DigestCell(self.diff_id) if self.diff_id else None, None


def pack(
    paths: Iterable[str | os.PathLike[str]],
    *,
    archive: types.Archive | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    media_types: Mapping[str, str] | None = None,
    links: Links = "inside",
    level: int | None = None,
    workers: int = WORKERS,
    spool: str | os.PathLike[str] | None = None,
) -> Sequence[Packed]:
    """The layers that the files and folders make, hashed and ready to be pushed, in the order of the paths.

    A path given relative keeps its folders in titles: "data" gives `data/a.csv`, "." gives `a.csv`. An absolute path,
    or one with "..", starts at its own name. Empty folders have no representation unless archived. `.ocikit` folders,
    our records of what was pulled, are left out; nothing else is left out without being asked for.

    Args:
        paths: files and folders.
        archive: make one layer of each folder instead of one of each file. oras unpacks "tar+gzip" only. The same files
            make the same tar on any machine: sorted, of 0:0, modes 644 and 755, times from SOURCE_DATE_EPOCH, or 1970.
            Hard links become files of their own.
        include: glob patterns of titles; all if there are none. "*" matches "/" too; "data/" is all below.
        exclude: glob patterns of titles to leave out.
        media_types: by title; others are guessed from the name.
        links: "inside" follows symlinks (archives: keeps them) that stay in the given folder and refuses others;
            "follow" follows all, "skip" leaves all out. A link given as a path is followed.
        level: of compression; 6 for gzip and 3 for zstd if not given.
        workers: threads that hash.
        spool: where archives are written before they are pushed; the system's temporary folder if not given.
    Raises:
        NotFound: if a path isn't there.
        ContentError: if there is nothing to push, or something that can't be.
        UnsafeArchive: for names that no reader would accept, and for two files with one title.
    """
    include, exclude = tuple(include), tuple(exclude)
    walk = FileWalker(include, exclude, links)
    wanted = dict(media_types or {})
    tasks: list[Callable[[], Packed]] = []
    titles: list[str] = []
    for given in paths:
        title = title_of(given)
        if archive is not None and Path(given).is_dir():
            title = title or Path.cwd().name
            tasks.append(
                partial(_archived, Path(given), title, archive, attrs.evolve(walk, keep_links=True), level, spool)
            )
            titles.append(title)
            continue
        files = [found for found in walk.found(given, title) if not found.is_folder]
        if not files:
            raise ContentError(
                f"{str(given)!r} has no files to push" + (" that the patterns choose" if include or exclude else ""),
                hint='an empty folder can only be pushed as an archive: archive="tar+gzip"',
            )
        titles += [found.title for found in files]
        tasks += [partial(_file, found, wanted.pop(found.title, None)) for found in files]
    check_titles(titles)
    if wanted:
        raise ContentError(
            f"media_types has titles that aren't pushed: {display.join_limited(wanted)}",
            hint=f"the titles are {display.join_limited(titles)}",
        )
    return _run(tasks, workers)


def _run(tasks: Sequence[Callable[[], Packed]], workers: int) -> tuple[Packed, ...]:
    if len(tasks) < 2 or workers < 2:
        return tuple(task() for task in tasks)
    pool = ThreadPoolExecutor(min(workers, len(tasks)), thread_name_prefix="ocikit-pack")
    try:
        return tuple(pool.map(lambda task: task(), tasks))
    finally:
        pool.shutdown(cancel_futures=True)  # after a failure, what hasn't started doesn't


def _file(found: FoundFile, media_type: str | None) -> Packed:
    hasher = new_hasher("sha256")
    with found.path.open("rb", buffering=0) as file:
        stamp = _stamp(os.fstat(file.fileno()))
        view = memoryview(bytearray(min(CHUNK, stamp[0] + 1)))
        size = 0
        while count := file.readinto(view):
            hasher.update(view[:count])
            size += count
        if size != stamp[0] or _stamp(os.fstat(file.fileno())) != stamp:
            raise _changed(found.path)
    descriptor = Descriptor(
        media_type=media_type or guess(found.title),
        digest=Digest(f"sha256:{hasher.hexdigest()}"),
        size=size,
        annotations=Annotations({TITLE: found.title}),
    )
    return Packed(descriptor=descriptor, source=found.path, content=found.path, stamp=stamp)


@functools.cache
def _known_types() -> mimetypes.MimeTypes:
    return mimetypes.MimeTypes()


def guess(name: str) -> str:
    """The media type of a file by its name. The system's own tables aren't asked: digests would differ by machine.

    >>> guess("data/train.csv"), guess("model.safetensors"), guess("logs.txt.gz")
    ('text/csv', 'application/octet-stream', 'application/gzip')
    """
    media_type, encoding = _known_types().guess_type(f"x/{name}")
    if encoding is not None:
        return _ENCODED.get(encoding, types.OCTET_STREAM)
    return media_type or types.OCTET_STREAM


def _stamp(info: os.stat_result) -> _Stamp:
    return info.st_size, info.st_mtime_ns, info.st_ino


def _changed(path: Path) -> ContentError:
    return ContentError(f"{str(path)!r} changed while it was pushed", hint="push again when nothing writes to it")


class _Hashed:
    """A file to write to that hashes what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hasher = new_hasher("sha256")

    def write(self, content: bytes | memoryview) -> int:
        """Hash and write."""
        self.hasher.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        """Write what is buffered."""
        self._file.flush()

    def digest(self) -> Digest:
        """The digest of what was written."""
        return Digest(f"sha256:{self.hasher.hexdigest()}")


def _archived(
    folder: Path,
    title: str,
    kind: types.Archive,
    walk: FileWalker,
    level: int | None,
    spool: str | os.PathLike[str] | None,
) -> Packed:
    safe_title(title)
    handle, name = tempfile.mkstemp(prefix="ocikit-", suffix=f".{kind}", dir=spool)
    kept = _Spool(Path(name))
    with os.fdopen(handle, "wb") as file:
        blob = _Hashed(file)
        encoder = compression.encoder(kind.partition("+")[2], cast("BinaryIO", blob), level) if kind != "tar" else blob
        tar = _Hashed(cast("BinaryIO", encoder))
        try:
            _write_tar(tar, folder, title, walk)
        finally:
            if encoder is not blob:
                cast("BinaryIO", encoder).close()
        file.flush()
        stamp = _stamp(os.fstat(file.fileno()))
    descriptor = Descriptor(
        media_type=types.ARCHIVES[kind],
        digest=blob.digest(),
        size=stamp[0],
        annotations=Annotations({TITLE: title, UNPACK: "true", UNPACKED_DIGEST: tar.digest()}),
    )
    return Packed(
        descriptor=descriptor, source=folder, diff_id=tar.digest(), content=kept.path, stamp=stamp, spool=kept
    )


def _write_tar(tar: _Hashed, folder: Path, title: str, walk: FileWalker) -> None:
    """The folder as a tar. All names start with the title, as oras expects."""
    mtime = _source_date()
    items = list(walk.found(folder, title))
    if walk.include or walk.exclude:  # folders only for what is in them
        needed = {parent.as_posix() for item in items if not item.is_folder for parent in Path(item.title).parents}
        items = [item for item in items if not item.is_folder or item.title in needed]
    tar.write(encode_header(f"{title}/", "directory", mode=0o755, mtime=mtime))
    for item in items:
        safe_title(item.title)
        if item.path.name.startswith(WHITEOUT):
            raise ContentError(
                f"{str(item.path)!r} can't be in a layer: names with {WHITEOUT!r} mean removed files there",
                hint="rename it, leave it out with exclude=, or push the folder without archive=",
            )
        if item.is_folder:
            tar.write(encode_header(f"{item.title}/", "directory", mode=0o755, mtime=mtime))
        elif item.target is not None:
            tar.write(encode_header(item.title, "symlink", mode=0o777, mtime=mtime, target=item.target))
        else:
            _write_file(tar, item, mtime)
    tar.write(END)


def _write_file(tar: _Hashed, item: FoundFile, mtime: int) -> None:
    with item.path.open("rb", buffering=0) as file:
        stamp = _stamp(info := os.fstat(file.fileno()))
        mode = 0o755 if info.st_mode & stat.S_IXUSR else 0o644
        tar.write(encode_header(item.title, "file", size=stamp[0], mode=mode, mtime=mtime))
        size = 0
        while size < stamp[0] and (piece := file.read(min(CHUNK, stamp[0] - size))):
            tar.write(piece)
            size += len(piece)
        if size != stamp[0] or _stamp(os.fstat(file.fileno())) != stamp:
            raise _changed(item.path)
    tar.write(bytes(padding(size)))


def _source_date() -> int:
    """The time of all entries: what reproducible builds agree on, or 1970."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not text.isdecimal():
        raise ContentError(f"SOURCE_DATE_EPOCH is {text!r}", hint="it is a number of seconds since 1970")
    return int(text)
