"""The registries.conf of podman, buildah and skopeo: mirrors, blocked and insecure registries. containers-registries.conf(5)."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field

from ocikit import display
from ocikit.errors import ContentError, InvalidDocument, InvalidReference, NotFound
from ocikit.remote.config.mirror import Mirror, Pull, parse_prefix

log = logging.getLogger("ocikit")

T = TypeVar("T")

#: The system's folder for such files.
SYSTEM = Path("/etc/containers")

_FILE_LIMIT = 4 << 20  # bytes; the largest honest one is a few KiB
_PULLS: Mapping[str, Pull] = {"": "all", "all": "all", "digest-only": "digest-only", "tag-only": "tag-only"}
_KNOWN = frozenset({"prefix", "location", "insecure", "blocked", "mirror", "mirror-by-digest-only"})
_KNOWN_OF_MIRRORS = frozenset({"location", "insecure", "pull-from-mirror"})


@define
class RegistriesConf:
    """What files say, as fields of `Network`."""

    mirrors: dict[str, tuple[Mirror, ...]] = field(factory=dict)
    """By prefix, for every table: one without mirrors is an exception to a shorter prefix."""
    blocked: frozenset[str] = frozenset()
    insecure: frozenset[str] = frozenset()


def load_registries_conf(path: str | os.PathLike[str] | None = None) -> RegistriesConf:
    """What a file says, or those that podman would read; a later one replaces the tables of the same prefix.

    Raises: NotFound: if a file that is named isn't there. InvalidDocument: with the place in it that is wrong.
    """
    tables: dict[str, RegistriesConf] = {}
    for file in _usual() if path is None else [Path(path).expanduser()]:
        tables |= _parse(_text(file), display.display_path(file))
    return RegistriesConf(
        mirrors={prefix: found for table in tables.values() for prefix, found in table.mirrors.items()},
        blocked=frozenset().union(*(table.blocked for table in tables.values())),
        insecure=frozenset().union(*(table.insecure for table in tables.values())),
    )


def _usual() -> Iterator[Path]:
    """containers-registries.conf.d(5): the user's file goes with the user's folder alone."""
    own = Path.home() / ".config/containers"
    roots = [own] if (own / "registries.conf").is_file() else [SYSTEM, own]
    if (roots[0] / "registries.conf").is_file():
        yield roots[0] / "registries.conf"
    for root in roots:
        yield from sorted(file for file in (root / "registries.conf.d").glob("*.conf") if file.is_file())


def _text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no {display.display_path(path)}", hint="pass the path of a registries.conf") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ContentError(
            f"{display.display_path(path)} can't be read: {reason}", hint="check its permissions"
        ) from error
    if len(text) > _FILE_LIMIT:
        raise InvalidDocument(
            f"{display.display_path(path)} is over {_FILE_LIMIT} bytes", hint="is it a registries.conf?"
        )
    return text


def _parse(text: bytes, where: str) -> dict[str, RegistriesConf]:
    """The tables of a file, by prefix."""
    try:
        document = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"{where} is not TOML: {display.shorten(error, 200)}", hint="correct it") from error
    reader = _Reader(where)
    if "registries" in document:
        raise reader.wrong(
            "$.registries", "is of version 1 of the format, which knows no mirrors", "write [[registry]] tables"
        )
    tables = {}
    for number, table in enumerate(reader.tables(document, "registry", "$")):
        prefix, settings = reader.registry(table, f"$.registry[{number}]")
        tables[prefix] = settings
    reader.ignored |= set(document) - {"registry"}
    if reader.ignored:
        log.warning(
            "%s: ignored here: %s",
            where,
            display.join_limited([display.sanitize(key) for key in sorted(reader.ignored)]),
        )
    return tables


class _Reader:
    """Takes tables apart; whatever is wrong is told with its place."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.ignored: set[str] = set()

    def wrong(self, path: str, problem: str, hint: str = "see containers-registries.conf(5)") -> InvalidDocument:
        """The error for something at a path."""
        return InvalidDocument(f"{self.where}: {path} {problem}", hint=hint)

    def registry(self, table: dict[str, Any], path: str) -> tuple[str, RegistriesConf]:
        """One table's prefix, and what it says."""
        self.ignored |= set(table) - _KNOWN
        location = self._get(table, "location", "", path)
        prefix = self._get(table, "prefix", "", path) or location
        if not prefix:
            raise self.wrong(path, "has neither prefix nor location")
        insecure, blocked = self._get(table, "insecure", False, path), self._get(table, "blocked", False, path)
        by_digest = self._get(table, "mirror-by-digest-only", False, path)
        mirrors = [
            self._mirror(entry, f"{path}.mirror[{number}]", by_digest=by_digest)
            for number, entry in enumerate(self.tables(table, "mirror", path))
        ]
        try:
            prefix = parse_prefix(prefix)
            moved = Mirror(location, insecure=insecure, final=True) if location else None
        except InvalidReference as error:
            raise self.wrong(path, f"names no place: {error.message}", error.hint) from error
        insecure_hosts: frozenset[str] = frozenset()
        if moved is not None and moved.location != prefix:
            mirrors.append(moved)
        elif insecure and set("/*") & set(prefix):
            log.warning(
                "%s: ignored that %s is insecure: that is for hosts; name it in insecure=[…]", self.where, prefix
            )
        elif insecure:
            insecure_hosts = frozenset({prefix})
        return prefix, RegistriesConf(
            mirrors={prefix: tuple(mirrors)}, blocked=frozenset({prefix} if blocked else ()), insecure=insecure_hosts
        )

    def _mirror(self, entry: dict[str, Any], path: str, *, by_digest: bool) -> Mirror:
        self.ignored |= {f"mirror.{key}" for key in set(entry) - _KNOWN_OF_MIRRORS}
        wish = self._get(entry, "pull-from-mirror", "", path)
        if wish not in _PULLS:
            raise self.wrong(
                f"{path}.pull-from-mirror",
                f"is {display.quoted(wish, 60)}",
                f"one of {display.join_limited(sorted(filter(None, _PULLS)))}",
            )
        if wish and by_digest:
            raise self.wrong(f"{path}.pull-from-mirror", "stands beside mirror-by-digest-only", "leave one of them out")
        try:
            return Mirror(
                self._get(entry, "location", "", path),
                insecure=self._get(entry, "insecure", False, path),
                pull="digest-only" if by_digest else _PULLS[wish],
            )
        except InvalidReference as error:
            raise self.wrong(f"{path}.location", f"names no place: {error.message}", error.hint) from error

    def tables(self, table: dict[str, Any], name: str, path: str) -> list[dict[str, Any]]:
        """An array of tables; empty if it isn't there."""
        found: list[Any] = self._get(table, name, [], path)
        if wrong := [one for one in found if not isinstance(one, dict)]:
            raise self.wrong(f"{path}.{name}", f"has a {type(wrong[0]).__name__} in it", f"write [[{name}]] tables")
        return found

    def _get(self, table: dict[str, Any], name: str, default: T, path: str) -> T:
        """A value of the default's type."""
        value = table.get(name, default)
        if type(value) is not type(default):
            raise self.wrong(
                f"{path}.{name}", f"is {display.quoted(value, 60)}", f"a {type(default).__name__} belongs there"
            )
        return value
