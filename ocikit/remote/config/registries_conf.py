"""Reader of registries.conf, the mirror settings of podman, buildah and skopeo. containers-registries.conf(5)."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field

from ocikit import display
from ocikit.errors import ContentError, InvalidDocument, InvalidReference, NotFound, Violation
from ocikit.remote.config.mirror import Mirror, Pull, parse_prefix
from ocikit.store.files import read_file

log = logging.getLogger("ocikit")

T = TypeVar("T")

#: The system's folder of registries.conf.
SYSTEM_FOLDER = Path("/etc/containers")

_FILE_LIMIT = 4 << 20  # bytes; the largest real file has a few KiB
_PULL_MODES: Mapping[str, Pull] = {"": "all", "all": "all", "digest-only": "digest-only", "tag-only": "tag-only"}
#: Keys about short names such as "alpine". They change no reference that has a registry, and each installation of podman has them.
_SHORT_NAME_KEYS = frozenset({"aliases", "short-name-mode", "unqualified-search-registries"})

_REGISTRY_KEYS = frozenset({"prefix", "location", "insecure", "blocked", "mirror", "mirror-by-digest-only"})
_MIRROR_KEYS = frozenset({"location", "insecure", "pull-from-mirror"})
_TYPE_NAMES: Mapping[type, str] = {str: "a string", bool: "true or false", list: "an array"}


@define
class RegistriesConf:
    """Fields of `Network` from files."""

    mirrors: dict[str, tuple[Mirror, ...]] = field(factory=dict)
    """Mirrors by prefix, for every table. A table without mirrors is an exception to a shorter prefix."""
    blocked: frozenset[str] = frozenset()
    insecure: frozenset[str] = frozenset()


def load_registries_conf(path: str | os.PathLike[str] | None = None) -> RegistriesConf:
    """Return the settings of a file, or of the files that podman reads.

    A later file replaces tables with the same prefix.

    Args:
        path: The file; None reads the files of podman.

    Raises:
        NotFound: `path` does not exist.
        ContentError: A file can't be read.
        InvalidDocument: A file is invalid; the message has the path in it.
    """
    tables: dict[str, RegistriesConf] = {}
    for file in _default_files() if path is None else [Path(path).expanduser()]:
        tables |= _parse(_read_file(file), display.display_path(file))
    return RegistriesConf(
        mirrors={prefix: mirrors for table in tables.values() for prefix, mirrors in table.mirrors.items()},
        blocked=frozenset().union(*(table.blocked for table in tables.values())),
        insecure=frozenset().union(*(table.insecure for table in tables.values())),
    )


def _default_files() -> Iterator[Path]:
    """Return the files that podman reads; the user's file replaces the system's.

    See containers-registries.conf.d(5).
    """
    user_folder = Path.home() / ".config/containers"
    folders = [user_folder] if (user_folder / "registries.conf").is_file() else [SYSTEM_FOLDER, user_folder]
    if (folders[0] / "registries.conf").is_file():
        yield folders[0] / "registries.conf"
    for folder in folders:
        yield from sorted(file for file in (folder / "registries.conf.d").glob("*.conf") if file.is_file())


def _read_file(path: Path) -> bytes:
    try:
        content = read_file(path, _FILE_LIMIT)
    except FileNotFoundError:
        raise NotFound(f"there is no {display.display_path(path)}", hint="pass the path of a registries.conf") from None
    except (ContentError, OSError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, ContentError) else error
        reason = getattr(cause, "strerror", None) or cause or "it is not a regular file"
        raise ContentError(
            f"{display.display_path(path)} can't be read: {reason}", hint="check its permissions"
        ) from error
    if len(content) > _FILE_LIMIT:
        raise InvalidDocument(
            f"{display.display_path(path)} is over {_FILE_LIMIT} bytes", hint="is it a registries.conf?"
        )
    return content


def _parse(content: bytes, where: str) -> dict[str, RegistriesConf]:
    """Return the tables of a file by prefix."""
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"{where} is not TOML: {display.shorten(error, 200)}", hint="correct it") from error
    parser = _TableParser(where)
    if "registries" in document:
        raise parser.error(
            "$.registries", "belongs to version 1 of the format, which has no mirrors", "write [[registry]] tables"
        )
    tables = {}
    for number, table in enumerate(parser.tables(document, "registry", "$")):
        prefix, settings = parser.parse_registry(table, f"$.registry[{number}]")
        tables[prefix] = settings
    parser.ignored |= set(document) - {"registry"}
    if parser.ignored:
        keys = [display.sanitize(key) for key in sorted(parser.ignored)]
        level = logging.INFO if parser.ignored <= _SHORT_NAME_KEYS else logging.WARNING
        log.log(level, "%s: ignored unsupported keys: %s", where, display.join_limited(keys))
    return tables


class _TableParser:
    """Parser of the tables of one file."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.ignored: set[str] = set()
        """Keys that are not supported."""

    def error(self, path: str, problem: str, hint: str = "see containers-registries.conf(5)") -> InvalidDocument:
        """Return the error for a value at a path."""
        problems = [Violation(path=path, message=problem)]
        return InvalidDocument(f"{self.where}: {path} {problem}", hint=hint, problems=problems)

    def parse_registry(self, table: dict[str, Any], path: str) -> tuple[str, RegistriesConf]:
        """Return the prefix and the settings of a `[[registry]]` table."""
        self.ignored |= set(table) - _REGISTRY_KEYS
        location = self._get(table, "location", "", path)
        prefix = self._get(table, "prefix", "", path) or location
        if not prefix:
            raise self.error(path, "has neither prefix nor location")
        insecure, blocked = self._get(table, "insecure", False, path), self._get(table, "blocked", False, path)
        by_digest = self._get(table, "mirror-by-digest-only", False, path)
        mirrors = [
            self._parse_mirror(entry, f"{path}.mirror[{number}]", by_digest=by_digest)
            for number, entry in enumerate(self.tables(table, "mirror", path))
        ]
        try:
            prefix = parse_prefix(prefix)
            moved = Mirror(location, insecure=insecure, final=True) if location else None
        except InvalidReference as error:
            raise self.error(path, f"is invalid: {error.message}", error.hint) from error
        insecure_hosts: frozenset[str] = frozenset()
        if moved is not None and moved.location != prefix:
            mirrors.append(moved)
        elif insecure and set("/*") & set(prefix):
            log.warning(
                "%s: ignored insecure=true of %s: only hosts can be insecure; use Network(insecure=[…])",
                self.where,
                prefix,
            )
        elif insecure:
            insecure_hosts = frozenset({prefix})
        return prefix, RegistriesConf(
            mirrors={prefix: tuple(mirrors)}, blocked=frozenset({prefix} if blocked else ()), insecure=insecure_hosts
        )

    def _parse_mirror(self, entry: dict[str, Any], path: str, *, by_digest: bool) -> Mirror:
        self.ignored |= {f"mirror.{key}" for key in set(entry) - _MIRROR_KEYS}
        pull = self._get(entry, "pull-from-mirror", "", path)
        if pull not in _PULL_MODES:
            raise self.error(
                f"{path}.pull-from-mirror",
                f"is {display.quoted(pull, 60)}",
                f"one of {display.join_limited(sorted(filter(None, _PULL_MODES)))}",
            )
        if pull and by_digest:
            raise self.error(
                f"{path}.pull-from-mirror", "can't be combined with mirror-by-digest-only", "remove one of them"
            )
        try:
            return Mirror(
                self._get(entry, "location", "", path),
                insecure=self._get(entry, "insecure", False, path),
                pull="digest-only" if by_digest else _PULL_MODES[pull],
            )
        except InvalidReference as error:
            raise self.error(f"{path}.location", f"is invalid: {error.message}", error.hint) from error

    def tables(self, table: dict[str, Any], name: str, path: str) -> list[dict[str, Any]]:
        """Return an array of tables, empty if it is missing."""
        items: list[Any] = self._get(table, name, [], path)
        if not all(isinstance(item, dict) for item in items):
            raise self.error(f"{path}.{name}", "has an item that is not a table", f"write [[{name}]] tables")
        return items

    def _get(self, table: dict[str, Any], name: str, default: T, path: str) -> T:
        """Return a value, which must have the type of the default."""
        value = table.get(name, default)
        if type(value) is not type(default):
            expected = _TYPE_NAMES[type(default)]
            raise self.error(f"{path}.{name}", f"is {display.quoted(value, 60)}", f"it must be {expected}")
        return value
