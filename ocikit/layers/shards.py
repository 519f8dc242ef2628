"""Shards: the files of a folder in several archives without compression, for folders of very many files.

A shard ends at a title that is chosen by its hash. So the same files result in the same shards on every machine, and a change
of one file changes the shard that holds it, and at most its neighbor. Titles in a shard are those that the files would have
on their own.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from ocikit.errors import ContentError, InvalidDigest
from ocikit.layers.boundaries import cut, rank_of
from ocikit.layers.header import END, encode_header, padding
from ocikit.layers.packed import Check, HashingWriter, Packed, TemporaryFile, changed, reading, source_date, stamp_of
from ocikit.layers.states import KnownHashes, is_settled, state_key
from ocikit.layers.tar import CHUNK
from ocikit.layers.tree import WHITEOUT
from ocikit.layers.walk import FoundFile
from ocikit.layers.zip import ZipMember, encode_directory, encode_local
from ocikit.spec.annotations import (
    SHARD,
    SHARD_DIRECTORY,
    SHARD_DIRECTORY_SIZE,
    SHARD_FIRST,
    SHARD_LAST,
    TITLE,
    Annotations,
)
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.media_types import SHARDS, Shards

SHARD_SIZE: Final = 256 << 20  # bytes

#: Bytes of a member's headers and padding, without its title, at most.
_OVERHEAD: Final[Mapping[Shards, int]] = {"zip": 160, "tar": 2048}
_IN_MEMORY = 1 << 20  # bytes of a file that is read once; a larger one is read twice, first for its CRC-32
_BUFFER = 1 << 18


def split(files: Sequence[FoundFile], kind: Shards, size: int) -> list[tuple[FoundFile, ...]]:
    """Return the files of each shard, in the order of their titles.

    The boundaries depend on the files alone, see `boundaries.cut`. Files of a tar that differ in their suffix only stay
    together, as readers of WebDataset expect.

    Args:
        files: The files.
        kind: The format.
        size: Bytes of the largest shard; a larger file is a shard of its own.
    """
    files = sorted(files, key=lambda file: file.title)
    ranks = [rank_of(file.title) for file in files]
    if kind == "tar":
        last = [_sample(file.title) != _sample(after.title) for file, after in pairwise(files)]
        # A sample is cut only if it is too large itself
        ranks = [rank if is_last else f"within {rank}" for rank, is_last in zip(ranks, [*last, True], strict=True)]
    before = [0, *accumulate(file.info.st_size + _OVERHEAD[kind] + 2 * len(file.title.encode()) for file in files)]
    parts = cut(ranks, lambda start, end: before[end] - before[start] <= size)
    return [tuple(files[start:end]) for start, end in parts]


def _sample(title: str) -> str:
    """Return what the files of one sample have in common: the title up to the first dot of its name."""
    folder, slash, name = title.rpartition("/")
    return folder + slash + name.partition(".")[0]


@frozen(kw_only=True)
class Shard:
    """The files of one shard, ready to be written."""

    title: str
    prefix: str
    """The folder that all titles start with, with "/" at its end; empty for the top folder."""
    kind: Shards
    folder: Path
    files: tuple[FoundFile, ...]
    known: KnownHashes
    spool: str | os.PathLike[str] | None = None

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.info.st_size for file in self.files)

    def pack(self, check: Check = bool, keep: int = 0) -> tuple[Packed, bytes | None]:
        """Return the layer; write the shard unless an earlier push has recorded its digest.

        Args:
            check: Called between files; it raises an error to stop.
            keep: Ignored; a shard is never in memory.

        Raises:
            ContentError: A file cannot be read, or changes while it is read, or the disk is full.
        """
        root = os.path.realpath(self.folder)
        key = state_key(
            f"shard 1 {self.kind} {source_date()} {self.prefix}",
            ((f"{root}\0{file.title}", file.info) for file in self.files),
        )
        if (recorded := self.known.get(key)) is not None:
            with contextlib.suppress(ValueError, IndexError, InvalidDigest):
                texts = recorded.split(",")
                return self._packed(Digest(texts[0]), int(texts[1]), Digest(texts[2]), int(texts[3])), None
        now = time.time_ns()
        packed, directory, directory_size = self.write(check)
        if all(is_settled(file.info, now) for file in self.files):
            size, digest = packed.descriptor.size, packed.descriptor.digest
            self.known.put(key, f"{digest},{size},{directory},{directory_size}")
        return packed, None

    def write(self, check: Check = bool) -> tuple[Packed, Digest, int]:
        """Write the shard; return its layer, and digest and size of its directory."""
        write = _write_zip if self.kind == "zip" else _write_tar
        try:
            handle, name = tempfile.mkstemp(prefix="ocikit-", suffix=f".{self.kind}", dir=self.spool)
            temporary = TemporaryFile(Path(name))
            with os.fdopen(handle, "wb", buffering=_BUFFER) as file:
                blob = HashingWriter(file, check)
                directory = write(blob, self.files)
                file.flush()
                stamp = stamp_of(os.fstat(file.fileno()))
        except OSError as error:
            raise ContentError(
                f"writing a shard of {str(self.folder)!r} failed: {error.strerror or error}",
                hint="free space, set TMPDIR to a folder on a larger disk, or use a smaller shard_size",
            ) from error
        digest, size = Digest.of(directory), len(directory)
        return self._packed(blob.digest(), stamp[0], digest, size, temporary, stamp), digest, size

    def _packed(
        self,
        digest: Digest,
        size: int,
        directory: Digest,
        directory_size: int,
        temporary: TemporaryFile | None = None,
        stamp: tuple[int, int, int] = (0, 0, 0),
    ) -> Packed:
        annotations = {
            TITLE: self.title,
            SHARD: self.prefix,
            SHARD_FIRST: self.files[0].title,
            SHARD_LAST: self.files[-1].title,
        }
        if self.kind == "zip":
            annotations |= {SHARD_DIRECTORY: directory, SHARD_DIRECTORY_SIZE: str(directory_size)}
        return Packed(
            descriptor=Descriptor(
                media_type=SHARDS[self.kind], digest=digest, size=size, annotations=Annotations(annotations)
            ),
            source=self.folder,
            content=temporary.path if temporary is not None else Path(),
            stamp=stamp,
            temporary=temporary,
            rewrite=lambda: self.write()[0],
        )


def check_names(files: Sequence[FoundFile]) -> None:
    """Check that no name means something else in an archive.

    Raises:
        ContentError: A name would be a whiteout.
    """
    for file in files:
        if WHITEOUT in file.title and file.path.name.startswith(WHITEOUT):
            raise ContentError(
                f"cannot pack {str(file.path)!r}: names with {WHITEOUT!r} mean removed files in layers",
                hint="rename it, skip it with exclude=, or push the folder without shards=",
            )


def _write_zip(out: HashingWriter, files: Sequence[FoundFile]) -> bytes:
    """Write a zip and return its directory."""
    members, offset = [], 0
    for file in files:
        with _Content(file) as content:
            size, crc = content.size, content.crc()
            header = encode_local(file.title, size, crc, executable=content.executable)
            content.copy(out, header)
        members.append(ZipMember(file.title, size, crc, content.executable, offset))
        offset += len(header) + size
    directory = encode_directory(members, offset)
    out.write(directory)
    return directory


def _write_tar(out: HashingWriter, files: Sequence[FoundFile]) -> bytes:
    """Write a tar. It has no directory."""
    mtime = source_date()
    for file in files:
        with _Content(file) as content:
            mode = 0o755 if content.executable else 0o644
            content.copy(out, encode_header(file.title, "file", size=content.size, mode=mode, mtime=mtime))
        out.write(bytes(padding(content.size)))
    out.write(END)
    return b""


class _Content:
    """The content of a file that must not change while it is read; a small one is read once.

    Args:
        file: The file.

    Raises:
        ContentError: It cannot be read, or has changed since it was found. Its shard would not be that of the files' states.
    """

    def __init__(self, file: FoundFile) -> None:
        self._file = file
        self._small: bytes | None = None
        with reading(file):
            self._stream = open(file.path, "rb", buffering=0)  # noqa: SIM115 - closed by __exit__
            info = os.fstat(self._stream.fileno())
        self._stamp = stamp_of(info)
        self.size = self._stamp[0]
        self.executable = bool(info.st_mode & stat.S_IXUSR) and os.name == "posix"
        # Windows' listings of folders have no inodes
        if file.info.st_ino and self._stamp != stamp_of(file.info):
            self._stream.close()
            raise changed(file.path)
        if self.size <= _IN_MEMORY:
            self._small = b"".join(self._chunks())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def crc(self) -> int:
        """Return the CRC-32; a large file is read for it."""
        if self._small is not None:
            return zlib.crc32(self._small)
        crc = 0
        for chunk in self._chunks():
            crc = zlib.crc32(chunk, crc)
        return crc

    def copy(self, out: HashingWriter, header: bytes) -> None:
        """Write the header and the content."""
        if self._small is not None:
            out.write(header + self._small)
            return
        out.write(header)
        for chunk in self._chunks():
            out.write(chunk)

    def _chunks(self) -> Iterator[bytes]:
        """Yield the content; check at its end that the file did not change."""
        left = self.size
        with reading(self._file):
            self._stream.seek(0)
        while left:
            with reading(self._file):
                chunk = self._stream.read(min(CHUNK, left))
            if not chunk:
                break
            left -= len(chunk)
            yield chunk
        with reading(self._file):
            stamp = stamp_of(os.fstat(self._stream.fileno()))
        if left or stamp != self._stamp:
            raise changed(self._file.path)
