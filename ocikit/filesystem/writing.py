"""Writing through the file system: streams, and edits that collect what belongs into one manifest."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from fsspec.transaction import Transaction

from ocikit.client.artifact import File
from ocikit.client.edit import Edit, open_edits
from ocikit.client.reader import ContentReader
from ocikit.errors import InvalidArgument
from ocikit.filesystem.paths import Location
from ocikit.filesystem.views import Tree
from ocikit.forks import ForkSafeLock
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, new_hasher
from ocikit.store.streams import ByteStream, StreamWrapper

log = logging.getLogger("ocikit")

_SPOOLED = 4 << 20  # bytes of a file that is written in memory; larger ones are written to a temporary file

#: The trees of edits that have not ended.
_trees: weakref.WeakKeyDictionary[Edit, EditTree] = weakref.WeakKeyDictionary()


class EditTree(Tree):
    """The files of an edit, with all changes so far.

    Args:
        root: Path of the edit in the file system.
        edit: The edit.
    """

    def __init__(self, root: str, edit: Edit) -> None:
        super().__init__(root, edit.base_artifact)
        self._edit = edit
        self._applied = 0

    def refresh(self) -> EditTree:
        """Add the changes since the last call."""
        for title, layer in self._edit.changes(self._applied):
            if layer is None:
                self.drop(title)
            else:
                self.put(title, layer)
        self._applied = self._edit.count
        return self

    def _plain_file(self, name: str) -> File:
        """Return a file as it will be."""
        return self._edit.file(name)


def edit_tree(root: str, edit: Edit) -> Tree:
    """Return the files of an edit, with all changes so far."""
    with edit.lock:
        tree = _trees.get(edit)
        if tree is None:
            tree = _trees[edit] = EditTree(root, edit)
        return tree.refresh()


def edit_of(location: Location) -> Edit | None:
    """Return the edit that a path is in by its token; None for a path without one.

    Raises:
        InvalidArgument: The edit has ended, or belongs to another process.
    """
    if not location.token:
        return None
    edit = open_edits.get(location.token)
    if edit is None:
        raise InvalidArgument(
            f"the edit of {location.root} has ended, or belongs to another process",
            hint="use its URL within the block and the process of ocikit.edit(…)",
        )
    return edit


class Edits:
    """Edits that end together: those of a transaction, or of one call that writes several files."""

    def __init__(self, reader: ContentReader) -> None:
        self._reader = reader
        self._edits: dict[str, tuple[Location, Edit]] = {}
        self._lock = ForkSafeLock()

    def get(self, location: Location) -> Edit | None:
        """Return the edit of an artifact, if it has been written to."""
        found = self._edits.get(location.root)
        return None if found is None else found[1]

    def open(self, location: Location) -> Edit:
        """Return the edit of an artifact; open one if necessary."""
        with self._lock:  # the threads of a library share a transaction
            edit = self.get(location)
            if edit is None:
                edit = Edit(self._reader, location.reference, progress=False)
                edit.__enter__()
                self._edits[location.root] = location, edit
            return edit

    def commit(self, adopt: Callable[[Location, Edit], None]) -> None:
        """Make a manifest for each artifact. After a failure, the tags of the further ones stay."""
        while self._edits:
            root, (location, edit) = next(iter(self._edits.items()))
            try:
                edit.__exit__(None, None, None)
            except BaseException:
                del self._edits[root]
                self.discard()
                raise
            del self._edits[root]
            adopt(location, edit)

    def discard(self) -> None:
        """End all edits without a change."""
        while self._edits:
            _, (_, edit) = self._edits.popitem()
            edit.__exit__(InterruptedError, None, None)


class OcikitTransaction(Transaction):  # type: ignore[misc]  # fsspec has no types
    """A transaction that makes one manifest of everything written to an artifact."""

    def start(self) -> None:
        """Collect the writes of the file system from now on."""
        super().start()
        fs: Any = self.fs
        fs.begin()

    def complete(self, commit: bool = True) -> None:
        """Commit the writes, or drop them."""
        fs: Any = self.fs  # type: ignore[has-type]  # fsspec has no types
        self.files: deque[Any] = deque()
        try:
            fs.end(commit=commit)
        finally:
            fs._intrans = False  # noqa: SLF001 - the protocol of fsspec
            fs._transaction = None  # noqa: SLF001 - as above
            self.fs = None


class OcikitWriter(io.BufferedIOBase):
    """A file that is written from start to end. It is hashed meanwhile, and uploaded and committed when it is closed.

    If the `with` block raises, or the file is never closed, nothing is committed.

    Args:
        commit: Called with the descriptor, and with a function that opens the content.
        path: The path in the file system.
        mode: "wb" or "xb".
    """

    def __init__(self, commit: Callable[[Descriptor, Callable[[], ByteStream]], None], path: str, mode: str) -> None:
        super().__init__()
        self._commit = commit
        self.path = path
        self.mode = mode
        self._hasher = new_hasher("sha256")
        self._size = 0
        self._is_discarded = False
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOLED)  # noqa: SIM115 - closed with this file

    @property
    def name(self) -> str:
        """The path, as other files have it."""
        return self.path

    def write(self, data: Any, /) -> int:
        """Append bytes."""
        if self.closed:
            raise ValueError("write to a closed file")
        view = memoryview(data).cast("B")
        self._spool.write(view)
        self._hasher.update(view)
        self._size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Return the number of bytes so far."""
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Refuse to move: a file is hashed from start to end.

        Raises:
            UnsupportedOperation: In all cases. Libraries test `seekable()` first.
        """
        raise io.UnsupportedOperation(
            f"{self.path} is written from start to end; write a local file instead, and copy it: fs.put_file(local, path)"
        )

    def writable(self) -> bool:
        """Return True."""
        return True

    def discard(self) -> None:
        """Close the file without a commit."""
        self._is_discarded = True
        self.close()

    def close(self) -> None:
        """Upload and commit the file."""
        if self.closed:
            return
        try:
            if not self._is_discarded:
                layer = Descriptor(
                    media_type=media_types.media_type_of(self.path),
                    digest=Digest(f"sha256:{self._hasher.hexdigest()}"),
                    size=self._size,
                )
                self._commit(layer, self._open)
        finally:
            self._spool.close()
            super().close()

    def _open(self) -> ByteStream:
        self._spool.seek(0)
        return _KeptOpen(self._spool)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_discarded = self._is_discarded or kind is not None
        self.close()

    def __del__(self) -> None:
        if not self.closed and self._size:
            log.warning("%s was not closed, so it was not written; use: with fs.open(…) as file", self.path)
        self._is_discarded = True
        with contextlib.suppress(Exception):
            self.close()


class TextWriter(io.TextIOWrapper):
    """A text file that is not committed if the `with` block raises."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and isinstance(self.buffer, OcikitWriter):
            self.buffer.discard()
            with contextlib.suppress(ValueError):  # the buffered text cannot be written any more
                self.close()
            return
        self.close()


class _KeptOpen(StreamWrapper):
    """A stream that stays open when its reader closes it."""

    def close(self) -> None:
        """Do nothing: the content may be read again."""


@contextlib.contextmanager
def collected(edits: Edits, adopt: Callable[[Location, Edit], None]) -> Iterator[Edits]:
    """Commit the edits at the end of the block, unless it raises."""
    try:
        yield edits
    except BaseException:
        edits.discard()
        raise
    edits.commit(adopt)
