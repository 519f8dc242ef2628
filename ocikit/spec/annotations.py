"""Immutable mappings, and the annotation keys of the image specification. image-spec annotations.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ocikit.display import quoted
from ocikit.errors import InvalidArgument, InvalidDocument

#: The digest of the version before. In a container image, it is that of the base image.
BASE_DIGEST: Final = "org.opencontainers.image.base.digest"

#: The reference of the version before, with a tag. In a container image, it is that of the base image.
BASE_NAME: Final = "org.opencontainers.image.base.name"

CREATED: Final = "org.opencontainers.image.created"
DESCRIPTION: Final = "org.opencontainers.image.description"
LICENSES: Final = "org.opencontainers.image.licenses"
REF_NAME: Final = "org.opencontainers.image.ref.name"
TITLE: Final = "org.opencontainers.image.title"
VERSION: Final = "org.opencontainers.image.version"

#: Set by oras and ocikit on a layer that is a packed folder: "true" means unpack after pulling.
UNPACK: Final = "io.deis.oras.content.unpack"

#: Set by oras and ocikit next to UNPACK: the digest of the uncompressed tar.
UNPACKED_DIGEST: Final = "io.deis.oras.content.digest"

#: The permission bits of an executable file, as an octal number. Other files have no such annotation.
MODE: Final = "io.ocikit.mode"

#: What has changed in a version, in the words of its writer.
MESSAGE: Final = "io.ocikit.message"

#: A JSON array with the pinned references of the artifacts that this one was made from, such as the data of a model.
INPUTS: Final = "io.ocikit.inputs"

#: The folder that the members of an archive are unpacked into, with their whole paths; empty for the top folder. Dialects
#: of models set it on the layers that they name, and it is in no manifest that ocikit writes.
UNPACK_INTO: Final = "io.ocikit.unpack.into"

#: The folder whose files a shard has, such as "images/"; empty for the top folder. A shard is one of several archives that
#: hold the files of a folder in the order of their titles.
SHARD: Final = "io.ocikit.shard"

#: The title of a shard's first file.
SHARD_FIRST: Final = "io.ocikit.shard.first"

#: The title of a shard's last file.
SHARD_LAST: Final = "io.ocikit.shard.last"

#: The digest of a zip's directory, which is the end of the shard.
SHARD_DIRECTORY: Final = "io.ocikit.shard.directory"

#: The bytes of a zip's directory, as a decimal number.
SHARD_DIRECTORY_SIZE: Final = "io.ocikit.shard.directory.size"

#: What a file was before it was saved, such as "pandas.DataFrame": a name from a list, which is never imported.
TYPE: Final = "io.ocikit.type"

#: The packages that have written a file which other versions of them may read differently: "scikit-learn 1.9.1, skops 0.16".
MADE_WITH: Final = "io.ocikit.made-with"

#: The folder that all titles of a manifest in a nested index start with, such as "images/"; empty for the top folder.
PREFIX: Final = "io.ocikit.prefix"

#: The first title of a manifest in a nested index. Its manifests are in the order of their titles.
PREFIX_FIRST: Final = "io.ocikit.prefix.first"

#: The last title of a manifest in a nested index.
PREFIX_LAST: Final = "io.ocikit.prefix.last"

#: Levels of nested arrays and objects in unknown keys; real documents have three or four. Limit them because a hostile
#: document would exceed Python's recursion limit when the value is hashed, compared or encoded.
_DEPTH_LIMIT = 64

V = TypeVar("V")


def parse_time(text: str | None) -> datetime | None:
    """Return the time of RFC 3339 text, in UTC if it has no zone; None for other text.

    >>> parse_time("2026-11-20T10:00:00Z"), parse_time("yesterday")
    (datetime.datetime(2026, 11, 20, 10, 0, tzinfo=datetime.timezone.utc), None)
    """
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class FrozenMap(Mapping[str, V], Generic[V]):
    """An immutable mapping that can be hashed and, unlike `MappingProxyType`, pickled.

    >>> m = FrozenMap({"a": 1})
    >>> m["a"], m == {"a": 1}
    (1, True)
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, V] | None = None) -> None:
        self._items: dict[str, V] = dict(items or {})

    def __getitem__(self, key: str) -> V:
        return self._items[key]

    if not TYPE_CHECKING:  # with the types of Mapping

        def get(self, key: str, default: object = None) -> object:
            """Return the value of a key, or the default, without an error that is raised and caught for it."""
            return self._items.get(key, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __eq__(self, other: object) -> bool:
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        return repr(self._items)


class Annotations(FrozenMap[str]):
    """Immutable annotations of a document or descriptor."""

    __slots__ = ()


def to_annotations(items: Mapping[str, str]) -> Annotations:
    """Return the items as annotations, or the same object if it is already of that type."""
    return items if isinstance(items, Annotations) else Annotations(items)


def freeze(value: Any, depth: int = _DEPTH_LIMIT) -> Any:
    """Return JSON values as immutable ones: objects become `FrozenMap`, arrays become tuples.

    Raises:
        InvalidDocument: The value is nested deeper than `depth` levels.
    """
    if not isinstance(value, Mapping | list | tuple):
        return value
    if depth == 0:
        raise InvalidDocument(f"nested deeper than {_DEPTH_LIMIT} levels")
    if isinstance(value, Mapping):
        return FrozenMap({key: freeze(item, depth - 1) for key, item in value.items()})
    return tuple([freeze(item, depth - 1) for item in value])


def to_frozen(items: Mapping[str, Any]) -> FrozenMap[Any]:
    """Return the items with all values frozen, or the same object if it is already frozen."""
    return items if isinstance(items, FrozenMap) else FrozenMap({key: freeze(item) for key, item in items.items()})


def to_strings(items: Iterable[str]) -> tuple[str, ...]:
    """Return the items as a tuple.

    Raises:
        InvalidArgument: The value is a single text.
    """
    if isinstance(items, str):
        raise InvalidArgument(
            f"{quoted(items)} is one text, not a list of texts", hint=f"write it as a list: [{quoted(items)}]"
        )
    return tuple(items)


def thaw(value: Any) -> Any:
    """Return the JSON values of a frozen value."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [thaw(item) for item in value]
    return value
