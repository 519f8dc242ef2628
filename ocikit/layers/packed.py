"""Layers that are ready to be pushed, and what packing files needs for that."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import ContentError
from ocikit.forks import finalize
from ocikit.layers.compression import Writable
from ocikit.layers.walk import FoundFile, unreadable
from ocikit.spec.annotations import TITLE
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, new_hasher

Check: TypeAlias = Callable[[], object]
"""Called between blocks while a file is read; it raises an error to stop."""

Stamp: TypeAlias = tuple[int, int, int]
"""Size, modification time and inode, to detect that a file was changed or replaced."""


@define(eq=False)
class TemporaryFile:
    """A temporary file that is deleted with its last reference."""

    path: Path
    remove: Callable[[], object] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.remove = finalize(self, partial(self.path.unlink, missing_ok=True))


@frozen(kw_only=True, repr=False)
class Packed(display.Displayable):
    """A layer that is ready to be pushed."""

    descriptor: Descriptor
    source: Path
    """The file or folder; the title of content in memory."""
    diff_id: Digest | None = None
    """The digest of the uncompressed tar of an archive. image-spec config.md#layer-diffid."""
    _content: Path = field(repr=False)
    _stamp: Stamp = field(default=(0, 0, 0), repr=False)
    _memory: bytes | None = field(default=None, repr=False)
    """The content, if it is not in a file."""
    _temporary: TemporaryFile | None = field(default=None, repr=False, eq=False)
    _rewrite: Callable[[], Packed] | None = field(default=None, repr=False, eq=False)
    """Writes the content of a shard again, whose temporary file is deleted as soon as it was sent."""

    @property
    def title(self) -> str:
        """The relative path in the artifact."""
        return self.descriptor.annotations[TITLE]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.descriptor.size

    def open(self) -> io.BufferedReader | io.BytesIO:
        """Open the content as a seekable file.

        Raises:
            ContentError: The file has changed since it was hashed.
        """
        if self._rewrite is not None and (self._temporary is None or not self._temporary.path.exists()):
            again = self._rewrite()
            if again.descriptor.digest != self.descriptor.digest:
                raise changed(self.source)
            return _ScratchReader(again)
        if self._memory is not None:
            return io.BytesIO(self._memory)
        return io.BufferedReader(self._open_file())

    def _open_file(self) -> io.FileIO:
        try:
            file = io.FileIO(self._content)
        except FileNotFoundError as error:
            raise changed(self._content) from error
        except OSError as error:
            raise unreadable(self._content, self.title, error) from error
        if stamp_of(os.fstat(file.fileno())) != self._stamp:
            file.close()
            raise changed(self._content)
        return file

    def release(self) -> None:
        """Delete the temporary file of a shard, which `open` writes again if it must."""
        if self._rewrite is not None:
            self.close()

    def close(self) -> None:
        """Delete the temporary file of an archive before this object is deleted."""
        if self._temporary is not None:
            self._temporary.remove()

    def __rich_repr__(self) -> display.Description:
        yield "title", self.title
        yield "media_type", self.descriptor.media_type
        yield "digest", display.DigestCell(self.descriptor.digest)
        yield "size", display.Size(self.size)
        yield "diff_id", display.DigestCell(self.diff_id) if self.diff_id else None, None


class _ScratchReader(io.BufferedReader):
    """The content of a layer whose temporary file is deleted with the reader."""

    def __init__(self, packed: Packed) -> None:
        super().__init__(packed._open_file())  # noqa: SLF001 - a class of this module
        self._packed = packed

    def close(self) -> None:
        super().close()
        self._packed.close()


@contextlib.contextmanager
def reading(file: FoundFile) -> Iterator[None]:
    """Turn errors of the operating system while a file is read into errors with the next step."""
    try:
        yield
    except FileNotFoundError as error:
        raise changed(file.path) from error
    except OSError as error:
        raise unreadable(file.path, file.title, error) from error


def stamp_of(info: os.stat_result) -> Stamp:
    """Return what changes when a file is edited or replaced."""
    return info.st_size, info.st_mtime_ns, info.st_ino


def changed(path: Path) -> ContentError:
    """Return the error for a file that was changed while it was read."""
    return ContentError(f"{str(path)!r} changed while it was pushed", hint="push again when no program writes to it")


class HashingWriter:
    """A file for writing that hashes the written bytes.

    Args:
        file: The file.
        check: Called before each write; it raises an error to stop.
    """

    def __init__(self, file: Writable, check: Check = bool) -> None:
        self._file = file
        self._check = check
        self._hasher = new_hasher("sha256")

    def write(self, data: bytes | memoryview, /) -> int:
        """Hash and write bytes."""
        self._check()
        self._hasher.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Write buffered bytes."""
        self._file.flush()

    def digest(self) -> Digest:
        """Return the digest of the written bytes."""
        return Digest(f"sha256:{self._hasher.hexdigest()}")


def source_date() -> int:
    """Return the time of all entries in seconds since 1970: SOURCE_DATE_EPOCH or 0."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not text.isdecimal():
        raise ContentError(f"SOURCE_DATE_EPOCH is {text!r}", hint="it must be a number of seconds since 1970")
    return int(text)
