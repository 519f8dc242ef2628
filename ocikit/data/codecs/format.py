"""One way to write a kind of object to a file and to read it back."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from ocikit import display
from ocikit.client.artifact import File
from ocikit.errors import InvalidArgument, InvalidDocument, OcikitError, UnsafeFormat
from ocikit.spec.annotations import MADE_WITH, TYPE

#: Content of a pickle begins with the protocol: PROTO and its number.
_PICKLES: Final = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_HEAD = 64  # bytes that show what content is
_MEMBERS = 100_000  # files in a zip that is an object
_RATIO = 200  # of a zip's content to its size; compressed arrays have up to 100
_SMALL = 256 << 20  # bytes of a zip's content with any ratio
_REFUSED_HINT = "convert what the message names, or save a file of your own by its Path"
_NEAREST = 3  # similar names in a hint
_CAUSE = 300  # characters of a library's message


@frozen(kw_only=True)
class Part:
    """What to load of an object."""

    columns: tuple[str, ...] | None = None
    """Names of columns or arrays; None for all."""
    filters: Any = None
    """Conditions for rows, as pyarrow takes them."""
    rows: int | None = None
    """The number of rows from the start; None for all."""
    trusted: tuple[str, ...] = ()
    """Names of types that the file may create."""

    @property
    def is_whole(self) -> bool:
        """Whether the object is loaded as a whole."""
        return self.columns is None and self.filters is None and self.rows is None

    @property
    def named(self) -> set[str]:
        """The arguments that make it a part."""
        values = {"columns": self.columns, "filters": self.filters, "rows": self.rows}
        return {name for name, value in values.items() if value is not None}


@frozen(kw_only=True)
class Format:
    """One way to write a kind of object to a file and to read it back."""

    name: str
    """The value of `format=`: "parquet"."""
    kind: str
    """What the file was, in its annotation: "pandas.DataFrame"."""
    library: str
    """The value of `as_=`: "pandas"."""
    ending: str
    """Of the file's name: ".parquet"."""
    matches: Callable[[Any], bool]
    """Returns True if the format keeps an object. It imports nothing."""
    dump: Callable[[Any, Path], None]
    """Writes an object to a file or a folder that does not exist yet."""
    load: Callable[[File, Part], Any]
    """Returns the object of a file."""
    stem: str = "data"
    """The name of a file without another one."""
    parts: frozenset[str] = frozenset()
    """What of `columns`, `filters` and `rows` it can load."""
    magic: tuple[bytes, ...] = ()
    """How the content begins; nothing is checked if it is empty."""
    together: bool = False
    """Whether an object is written in all formats of that kind."""
    any_ending: bool = False
    """Whether the file may have another ending."""
    media_type: str | None = None
    """Of the file; None for the one that its name has."""
    main: str | None = None
    """If the object is a folder, the file in it that stands for all of them."""
    packages: tuple[str, ...] = ()
    """Distributions whose versions matter for reading the file, and are annotated."""
    is_zip: bool = False
    """Whether the content is a zip, whose members have limits."""

    def write(self, obj: Any, path: Path) -> None:
        """Write an object to a file or a folder that does not exist yet.

        Raises:
            InvalidArgument: The format does not keep the object.
            OcikitError: A package is not installed.
        """
        what = f"the {type(obj).__name__}"
        with translated(lambda text: refused(what, f"{self.name} does not keep it: {text}", _REFUSED_HINT)):
            self.dump(obj, path)

    def read(self, file: File, part: Part) -> Any:
        """Return the object of a file.

        Raises:
            InvalidDocument: The content is not of the format that the name has.
            UnsafeFormat: Opening the content would run code.
            OcikitError: A package is not installed.
        """
        with translated(lambda text: invalid(file, text)):
            self.check(file)
            try:
                return self.load(file, part)
            except MemoryError as error:  # lengths in a file are those that its author has chosen
                raise invalid(file, "it needs more memory than there is") from error

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations of a file that was just written."""
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in self.packages)
        return {TYPE: self.kind, **({MADE_WITH: versions} if versions else {})}

    def check(self, file: File) -> None:
        """Check that content has the format of its name, before a library parses it.

        Args:
            file: The file.

        Raises:
            UnsafeFormat: The content is a pickle.
            InvalidDocument: It has another format, or is a zip bomb.
        """
        if self.any_ending:
            return
        head = file.head(_HEAD)
        if head.startswith(_PICKLES):
            raise runs_code(file, "is a pickle by its content")
        if self.magic and not head.startswith(self.magic):
            raise invalid(file, f"its content is not {self.name}")
        if self.is_zip:
            with file.open() as stream, zipfile.ZipFile(stream) as archive:
                members = archive.infolist()
                size = sum(member.file_size for member in members)
            if len(members) > _MEMBERS or (size > _SMALL and size > _RATIO * file.size):
                raise invalid(file, f"it is a zip bomb of {len(members):,} members with {display.size(size)}")


def is_a(obj: Any, module: str, *names: str, exact: bool = True) -> bool:
    """Return True if an object has one of the classes of a module, without importing it.

    Args:
        obj: The object.
        module: Name of the module. If it is not imported, no object has its classes.
        names: Names of the classes.
        exact: Whether subclasses do not count: a file does not keep what they add.
    """
    there = sys.modules.get(module)
    classes = tuple(cls for name in names if isinstance(cls := getattr(there, name, None), type))
    return type(obj) in classes if exact else isinstance(obj, classes)


def runs_code(file: File, why: str) -> UnsafeFormat:
    """Return the error for a file that runs code when a library opens it.

    Args:
        file: The file.
        why: The end of the message.
    """
    call = display.code_call("ocikit.download", file.artifact.reference, file.name)
    return UnsafeFormat(
        f"{display.quoted(file.name)} {why}, and opening such a file runs code of its author",
        hint=f'if you trust the author, open the path {call} yourself; as_="bytes" returns the bytes',
    )


def invalid(file: File, why: str) -> InvalidDocument:
    """Return the error for a file whose content is invalid for its name."""
    return InvalidDocument(
        f"{display.quoted(file.name)} could not be loaded: {why}",
        hint='look at the file itself: as_="bytes" returns its bytes, as_="path" its path',
    )


def absent(file: File, what: str, name: str, known: Iterable[str]) -> InvalidArgument:
    """Return the error for a part that a file does not have.

    Args:
        file: The file.
        what: Kind of the part, such as "column".
        name: Name of the part.
        known: The names that it has.
    """
    known = list(known)
    near = display.nearest(name, known, _NEAREST) or known[:_NEAREST]
    return InvalidArgument(
        f"{display.quoted(file.name)} has no {what} {display.quoted(name)} among {len(known):,}",
        hint=f"nearest: {display.join_limited(near, _NEAREST)}" if near else f"it has no {what}s",
    )


def refused(what: str, why: str, hint: str) -> InvalidArgument:
    """Return the error for an object that is not saved.

    Args:
        what: The object: "a DataFrame".
        why: What a file would not keep.
        hint: The next step.
    """
    return InvalidArgument(f"{what} was not saved, and nothing was sent: {why}", hint=hint)


@contextlib.contextmanager
def translated(make: Callable[[str], OcikitError]) -> Iterator[None]:
    """Turn the errors of libraries into one of ours, with their first lines.

    Args:
        make: Returns the error for a message.
    """
    try:
        yield
        return
    except (OcikitError, MemoryError):
        raise
    except BaseException as error:
        # Libraries in Rust raise a panic, which is not an Exception, for content that they do not expect
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        cause = error
    parts = cause.args if len(cause.args) > 1 and all(isinstance(part, str) for part in cause.args) else [cause]
    text = " ".join(" ".join(map(str, parts)).split()) or type(cause).__name__
    raise make(display.shorten(text, _CAUSE)) from cause
