"""Packing of files and folders as layers. image-spec manifest.md#guidelines-for-artifact-usage.

Each file becomes one blob with its path as title, like in `oras push`, so that clients can download single files. A
folder is packed as one archive only on request.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, overload

import attrs
from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import ContentError, InvalidDigest
from ocikit.layers import compression
from ocikit.layers.header import END, encode_header, padding
from ocikit.layers.ignore import IGNORE_FILE, looks_secret
from ocikit.layers.packed import Check, HashingWriter, Packed, TemporaryFile, changed, reading, source_date, stamp_of
from ocikit.layers.shards import SHARD_SIZE, Shard, check_names, split
from ocikit.layers.states import KnownHashes, NoHashes, is_settled, state_key
from ocikit.layers.tar import CHUNK
from ocikit.layers.tree import WHITEOUT
from ocikit.layers.walk import FileWalker, FoundFile, title_of
from ocikit.spec import media_types as types
from ocikit.spec.annotations import MODE, TITLE, UNPACK, UNPACKED_DIGEST, Annotations
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, new_hasher
from ocikit.spec.titles import Links, check_titles, is_selected, safe_title

WORKERS: Final = 4  # hashing runs at 0.5 to 2 GB/s per core; four threads saturate a fast disk

#: Bytes of a file whose digest is recorded. Hashing a smaller one takes no longer than finding its record.
_REMEMBERED: Final = 1 << 17


@define(eq=False, kw_only=True)
class UnhashedFile:
    """An open file that is hashed while it is sent."""

    stream: io.FileIO
    _file: FoundFile
    _media_type: str
    _info: os.stat_result
    _known: KnownHashes
    _opened: int
    """When it was opened, in nanoseconds since 1970."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self._info.st_size

    def check(self) -> None:
        """Check that the file did not change since it was opened.

        Raises:
            ContentError: The file has changed.
        """
        if stamp_of(os.fstat(self.stream.fileno())) != stamp_of(self._info):
            raise changed(self._file.path)

    def record(self, digest: Digest) -> None:
        """Record the digest, so that the next push does not hash the file."""
        if is_settled(self._info, self._opened):
            self._known.put(_key(self._file, self._info), digest)

    def packed(self, digest: Digest) -> Packed:
        """Return the layer for the digest of the content."""
        annotations = Annotations({TITLE: self._file.title, **_mode_annotation(self._info)})
        descriptor = Descriptor(media_type=self._media_type, digest=digest, size=self.size, annotations=annotations)
        path = self._file.path
        return Packed(descriptor=descriptor, source=path, content=path, stamp=stamp_of(self._info))


@frozen
class Named:
    """Content that is packed under a title of its own."""

    title: str
    content: bytes | str | os.PathLike[str]
    """Bytes, or the path of a file or folder; the files of a folder are below the title."""
    is_filtered: bool = True
    """Whether patterns select it; bytes may be packed in any case."""


@frozen(kw_only=True)
class PackTask:
    """A file or folder that becomes one layer."""

    title: str
    size: int
    """Bytes of the file when it was found; 0 for an archive, whose size is not known before it is written."""
    _make: Callable[[Check, int], tuple[Packed, bytes | None]] = field(repr=False, eq=False)
    open_unhashed: Callable[[], UnhashedFile | None] | None = field(default=None, repr=False, eq=False)
    """Opens the file to hash it while it is sent; returns None if its digest is known. None for an archive."""
    content: Path | bytes | None = field(default=None, repr=False, eq=False)
    """The path of the file, or its content in memory; None for an archive."""

    def run(self, check: Check = bool, *, keep: int = 0) -> tuple[Packed, bytes | None]:
        """Hash the file, or write the archive.

        Args:
            check: Called between blocks; it raises an error to stop.
            keep: The content of a file of at most so many bytes is returned, so that it is not read twice.

        Returns:
            The layer, and its content if it was kept.

        Raises:
            ContentError: A file cannot be read or pushed, or changes while it is read.
            UnsafeArchive: A name in an archive is not portable.
        """
        return self._make(check, keep)


@frozen(kw_only=True)
class Selection:
    """What a push selects from its paths; nothing of it was read yet."""

    tasks: tuple[PackTask, ...] = ()
    """In the order of the layers."""
    left_out: tuple[str, ...] = ()
    """Titles that were left out by default; those of folders end with "/"."""
    empty_folders: tuple[str, ...] = ()
    """Titles of folders without files, which only archives represent; they end with "/"."""
    secrets: tuple[str, ...] = ()
    """Titles of files that look like secrets."""

    def pack(self, workers: int = WORKERS) -> PackedLayers:
        """Hash all files and write all archives, on several threads.

        Raises:
            ContentError: A file cannot be read or pushed.
            UnsafeArchive: A name in an archive is not portable.
        """
        return PackedLayers(
            layers=_run_tasks(self.tasks, workers),
            left_out=self.left_out,
            empty_folders=self.empty_folders,
            secrets=self.secrets,
        )


@frozen(kw_only=True, repr=False)
class PackedLayers(Sequence[Packed], display.Displayable):
    """The layers of packed paths, in their order."""

    layers: tuple[Packed, ...]
    left_out: tuple[str, ...] = ()
    """Titles that were left out by default; those of folders end with "/"."""
    empty_folders: tuple[str, ...] = ()
    """Titles of folders without files, which only archives represent; they end with "/"."""
    secrets: tuple[str, ...] = ()
    """Titles of files that look like secrets."""

    @overload
    def __getitem__(self, index: int) -> Packed: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Packed, ...]: ...

    def __getitem__(self, index: int | slice) -> Packed | tuple[Packed, ...]:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def close(self) -> None:
        """Delete the temporary files of archives."""
        for layer in self.layers:
            layer.close()

    def __rich_repr__(self) -> display.Description:
        yield "layers", list(self.layers)
        yield "left_out", list(self.left_out), []
        yield "empty_folders", list(self.empty_folders), []
        yield "secrets", list(self.secrets), []


def pack(
    paths: Iterable[str | os.PathLike[str]],
    *,
    archive: types.Archive | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    media_types: Mapping[str, str] | None = None,
    links: Links = "inside",
    hidden: bool = False,
    secrets: bool = False,
    level: int | None = None,
    workers: int = WORKERS,
    spool: str | os.PathLike[str] | None = None,
) -> PackedLayers:
    """Hash files and folders and return their layers in the order of the paths.

    Titles of a relative path include its folders: "data" results in `data/a.csv`, "data/." and "." in `a.csv`. Titles of
    an absolute path, or of one with "..", start at its last name. An archive always has its folder's name. Empty folders are
    not represented unless archived.
    Executable files have the annotation `io.ocikit.mode`.
    `.ocikit` folders, the records of pulled folders, are always skipped.

    Below a folder, `.git`, checkpoints, caches and files of the operating system are left out, see
    `ocikit.layers.ignore`, and what a `.ocikitignore` file there ignores, in the syntax of gitignore.

    Args:
        paths: Files and folders.
        archive: Make one layer of each folder instead of one of each file. oras unpacks "tar+gzip" only. The same files
            result in the same tar on any machine: sorted, owner 0:0, modes 644 and 755, times from SOURCE_DATE_EPOCH or
            1970. Hard links become separate files.
        include: Glob patterns of titles; all if empty. "*" also matches "/"; "data/" is everything below.
        exclude: Glob patterns of titles to skip.
        media_types: Media types by title; others are guessed from the name.
        links: "inside" follows symlinks that stay in the folder (archives keep them) and rejects others; "follow"
            follows all, "skip" skips all. A symlink that is itself one of `paths` is followed.
        hidden: Pack all files: also what is left out by default or ignored, and what looks like a secret.
        secrets: Pack files that look like secrets.
        level: Compression level; 6 for gzip and 3 for zstd by default.
        workers: Threads for hashing.
        spool: Folder for archives until they are pushed; the temporary folder of the system by default.

    Raises:
        NotFound: A path does not exist.
        ContentError: There are no files, a file cannot be read or pushed, or a file looks like a secret.
        UnsafeArchive: A name is not portable, or two files have the same title.
    """
    selection = select(
        paths,
        archive=archive,
        include=include,
        exclude=exclude,
        media_types=media_types,
        links=links,
        hidden=hidden,
        secrets=secrets,
        level=level,
        spool=spool,
    )
    return selection.pack(workers)


def select(
    paths: Iterable[str | os.PathLike[str] | Named],
    *,
    archive: types.Archive | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    media_types: Mapping[str, str] | None = None,
    links: Links = "inside",
    hidden: bool = False,
    secrets: bool = False,
    level: int | None = None,
    spool: str | os.PathLike[str] | None = None,
    known: KnownHashes | None = None,
    shards: types.Shards | None = None,
    shard_size: int = SHARD_SIZE,
) -> Selection:
    """Find the files and folders that `pack` would pack, without reading their content.

    Arguments and errors are those of `pack`. `known` has the digests of large files that were hashed before. `shards` puts
    the files of each folder into archives of at most `shard_size` bytes.
    """
    known = known or NoHashes()
    include, exclude = tuple(include), tuple(exclude)
    walker = FileWalker(include, exclude, links, hidden)
    unused_types = dict(media_types or {})
    tasks: list[PackTask] = []
    empty: list[str] = []
    members: list[str] = []
    for item in paths:
        if isinstance(item, Named):
            name, path, is_filtered = safe_title(item.title).as_posix(), item.content, item.is_filtered
        else:
            name, path, is_filtered = title_of(item), item, True
        if isinstance(path, bytes):
            if not is_filtered or is_selected(name, include, exclude):
                tasks.append(_memory_task(name, path, unused_types.pop(name, None)))
                if looks_secret(Path(name), path):
                    walker.secrets.append(name)
            continue
        if archive is not None and os.path.isdir(path):  # Path.is_dir raises for an unreadable parent
            name = name or Path(os.path.abspath(path)).name
            items = _archived(walker.walk(path, name, keep_links=True), walker)
            write = partial(_pack_archive, Path(path), name, archive, items, level, spool)
            tasks.append(PackTask(title=name, size=0, make=write))
            continue
        items = list(walker.walk(path, name))
        files = [file for file in items if not file.is_folder]
        empty += _empty_folders(items, walker)
        if not files:
            raise _no_files(path, walker)
        if shards is not None and os.path.isdir(path):
            check_names(files)
            members += [file.title for file in files]
            tasks += _shard_tasks(Path(path), name, shards, split(files, shards, shard_size), known, spool)
            continue
        for file in files:
            kind = unused_types.pop(file.title, None)
            tasks.append(
                PackTask(
                    title=file.title,
                    size=file.info.st_size,
                    make=partial(_pack_file, file, kind, known),
                    open_unhashed=partial(_open_unhashed, file, kind, known),
                    content=file.path,
                )
            )
    titles = [task.title for task in tasks]
    check_titles([*titles, *members])
    if unused_types:
        raise ContentError(
            f"media_types has titles that are not pushed: {display.join_limited(unused_types)}",
            hint=f"the titles are {display.join_limited(titles)}",
        )
    if walker.secrets and not (secrets or hidden):
        names, first = display.join_limited(walker.secrets), display.quoted(glob.escape(walker.secrets[0]))
        raise ContentError(
            f"files that look like secrets would be published: {names}",
            hint=f"skip them with exclude={first} or a {IGNORE_FILE} file, or push them with secrets=True",
        )
    return Selection(
        tasks=tuple(tasks),
        left_out=tuple(walker.left_out),
        empty_folders=tuple(empty),
        secrets=tuple(walker.secrets),
    )


def _shard_tasks(
    folder: Path,
    title: str,
    kind: types.Shards,
    shards: Iterable[tuple[FoundFile, ...]],
    known: KnownHashes,
    spool: str | os.PathLike[str] | None,
) -> Iterator[PackTask]:
    for index, files in enumerate(shards):
        shard = Shard(
            title=f"{title or 'files'}-{index:05}.{kind}",
            prefix=f"{title}/" if title else "",
            kind=kind,
            folder=folder,
            files=files,
            known=known,
            spool=spool,
        )
        yield PackTask(title=shard.title, size=shard.size, make=shard.pack)


def _empty_folders(items: Iterable[FoundFile], walker: FileWalker) -> list[str]:
    """Return the titles of folders without files; none with patterns, which are not about folders."""
    if walker.include or walker.exclude:
        return []
    items = list(items)
    used = {parent.as_posix() for item in items for parent in Path(item.title).parents}
    return [f"{item.title}/" for item in items if item.is_folder and item.title not in used]


def _no_files(path: str | os.PathLike[str], walker: FileWalker) -> ContentError:
    hint = 'an empty folder can only be pushed as an archive: archive="tar+gzip"'
    if walker.left_out:
        hint = f"left out were {display.join_limited(walker.left_out)}; push all files with hidden=True"
    return ContentError(
        f"{str(path)!r} has no files to push"
        + (" that match the patterns" if walker.include or walker.exclude else ""),
        hint=hint,
    )


def _archived(items: Iterable[FoundFile], walker: FileWalker) -> list[FoundFile]:
    """Return the items of an archive. With patterns, these are only folders with matching files."""
    items = list(items)
    if walker.include or walker.exclude:
        needed = {parent.as_posix() for item in items if not item.is_folder for parent in Path(item.title).parents}
        items = [item for item in items if not item.is_folder or item.title in needed]
    return items


def _run_tasks(tasks: Sequence[PackTask], workers: int) -> tuple[Packed, ...]:
    def run(task: PackTask) -> Packed:
        packed = task.run()[0]
        packed.release()  # all shards together may not fit on the disk
        return packed

    if len(tasks) < 2 or workers < 2:
        return tuple(map(run, tasks))
    pool = ThreadPoolExecutor(min(workers, len(tasks)), thread_name_prefix="ocikit-pack")
    try:
        return tuple(pool.map(run, tasks))
    finally:
        pool.shutdown(cancel_futures=True)  # after a failure, do not start the remaining tasks


def _pack_file(
    file: FoundFile, media_type: str | None, known: KnownHashes, check: Check, keep: int
) -> tuple[Packed, bytes | None]:
    # Not hash_file: the stamp has to be that of the open file, and the size that of the bytes read
    with reading(file), file.path.open("rb", buffering=0) as stream:
        stamp = stamp_of(info := os.fstat(stream.fileno()))
        if kept := 0 < stamp[0] <= keep:
            content = stream.read(stamp[0] + 1)
            while len(content) < stamp[0] and (more := stream.read(stamp[0] + 1 - len(content))):
                content += more
            size, digest = len(content), Digest.of(content)
        elif stamp[0] >= _REMEMBERED and (recorded := _recorded(file, info, known)) is not None:
            size, digest = stamp[0], recorded
        else:
            hasher, size, now = new_hasher("sha256"), 0, time.time_ns()
            view = memoryview(bytearray(min(CHUNK, stamp[0] + 1)))
            while count := stream.readinto(view):
                hasher.update(view[:count])
                size += count
                check()
            digest = Digest(f"sha256:{hasher.hexdigest()}")
            if stamp[0] >= _REMEMBERED and is_settled(info, now):
                known.put(_key(file, info), digest)
        if size != stamp[0] or stamp_of(os.fstat(stream.fileno())) != stamp:
            raise changed(file.path)
    descriptor = Descriptor(
        media_type=media_type or types.media_type_of(file.title),
        digest=digest,
        size=size,
        annotations=Annotations({TITLE: file.title, **_mode_annotation(info)}),
    )
    packed = Packed(descriptor=descriptor, source=file.path, content=file.path, stamp=stamp)
    return packed, content if kept else None


def _memory_task(title: str, content: bytes, media_type: str | None) -> PackTask:
    def make(_check: Check, _keep: int) -> tuple[Packed, None]:
        descriptor = Descriptor.of(content, media_type or types.media_type_of(title))
        named = attrs.evolve(descriptor, annotations=Annotations({TITLE: title}))
        return Packed(descriptor=named, source=Path(title), content=Path(title), memory=content), None

    return PackTask(title=title, size=len(content), make=make, content=content)


def _open_unhashed(file: FoundFile, media_type: str | None, known: KnownHashes) -> UnhashedFile | None:
    now = time.time_ns()
    with reading(file):
        stream = file.path.open("rb", buffering=0)
    info = os.fstat(stream.fileno())
    if _recorded(file, info, known) is not None:
        stream.close()
        return None
    kind = media_type or types.media_type_of(file.title)
    return UnhashedFile(stream=stream, file=file, media_type=kind, info=info, known=known, opened=now)


def _key(file: FoundFile, info: os.stat_result) -> str:
    return state_key("file", [(os.path.realpath(file.path), info)])


def _recorded(file: FoundFile, info: os.stat_result, known: KnownHashes) -> Digest | None:
    """Return the digest that an earlier push has recorded for a file in its present state."""
    with contextlib.suppress(InvalidDigest):
        return Digest(known.get(_key(file, info)) or "")
    return None


def _mode_annotation(info: os.stat_result) -> dict[str, str]:
    """Return the annotation of an executable file. One value for all keeps equal files equal."""
    return {MODE: "0755"} if info.st_mode & stat.S_IXUSR and os.name == "posix" else {}


def _pack_archive(
    folder: Path,
    title: str,
    kind: types.Archive,
    items: Sequence[FoundFile],
    level: int | None,
    spool: str | os.PathLike[str] | None,
    check: Check,
    _keep: int,
) -> tuple[Packed, bytes | None]:
    safe_title(title)
    try:
        handle, name = tempfile.mkstemp(prefix="ocikit-", suffix=f".{kind}", dir=spool)
        temporary = TemporaryFile(Path(name))
        with os.fdopen(handle, "wb") as file:
            blob = HashingWriter(file, check)
            if kind == "tar":
                tar = blob
                _write_tar(tar, title, items)
            else:
                with compression.open_encoder(kind.partition("+")[2], blob, level) as encoder:
                    tar = HashingWriter(encoder)
                    _write_tar(tar, title, items)
            file.flush()
            stamp = stamp_of(os.fstat(file.fileno()))
    except OSError as error:
        raise ContentError(
            f"writing the archive of {str(folder)!r} failed: {error.strerror or error}",
            hint="free space, or set TMPDIR to a folder on a larger disk",
        ) from error
    descriptor = Descriptor(
        media_type=types.ARCHIVES[kind],
        digest=blob.digest(),
        size=stamp[0],
        annotations=Annotations({TITLE: title, UNPACK: "true", UNPACKED_DIGEST: tar.digest()}),
    )
    packed = Packed(
        descriptor=descriptor,
        source=folder,
        diff_id=tar.digest(),
        content=temporary.path,
        stamp=stamp,
        temporary=temporary,
    )
    return packed, None


def _write_tar(tar: HashingWriter, title: str, items: Iterable[FoundFile]) -> None:
    """Write a folder as a tar. All paths start with the title, as oras expects."""
    mtime = source_date()
    tar.write(encode_header(f"{title}/", "directory", mode=0o755, mtime=mtime))
    for item in items:
        safe_title(item.title)
        if item.path.name.startswith(WHITEOUT):
            raise ContentError(
                f"cannot pack {str(item.path)!r}: names with {WHITEOUT!r} mean removed files in layers",
                hint="rename it, skip it with exclude=, or push the folder without archive=",
            )
        if item.is_folder:
            tar.write(encode_header(f"{item.title}/", "directory", mode=0o755, mtime=mtime))
        elif item.target is not None:
            tar.write(encode_header(item.title, "symlink", mode=0o777, mtime=mtime, target=item.target))
        else:
            _write_file(tar, item, mtime)
    tar.write(END)


def _write_file(tar: HashingWriter, item: FoundFile, mtime: int) -> None:
    with reading(item):
        file = item.path.open("rb", buffering=0)
    with file:
        with reading(item):
            stamp = stamp_of(info := os.fstat(file.fileno()))
        mode = 0o755 if info.st_mode & stat.S_IXUSR else 0o644
        tar.write(encode_header(item.title, "file", size=stamp[0], mode=mode, mtime=mtime))
        size = 0
        while size < stamp[0]:
            with reading(item):
                data = file.read(min(CHUNK, stamp[0] - size))
            if not data:
                break
            tar.write(data)
            size += len(data)
        if size != stamp[0] or stamp_of(os.fstat(file.fileno())) != stamp:
            raise changed(item.path)
    tar.write(bytes(padding(size)))
