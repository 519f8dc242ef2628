"""Credential files of docker and podman: lookup keys, reading and writing. containers-auth.json(5)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ocikit.errors import ContentError, CredentialsError
from ocikit.spec.reference import DOCKER_HUB
from ocikit.store.files import atomic_writer, read_file
from ocikit.store.locks import exclusive

log = logging.getLogger("ocikit")

#: Docker Hub's keys in order of precedence: `docker login` writes the first, podman the third.
HUB_KEYS = (
    "https://index.docker.io/v1/",
    "index.docker.io",
    DOCKER_HUB,
    "registry-1.docker.io",
    "registry.hub.docker.com",
)
_LOCK_TIMEOUT = 30.0  # seconds; the lock is held while a small file is read and written
_FILE_LIMIT = 4 << 20  # bytes; the largest real file has a few KiB


def normalize_key(key: str) -> str:
    """Return the host and optional path of a key, without scheme and API version, with one name for Docker Hub."""
    text = key.strip()
    scheme = re.match(r"(?i)https?://", text)
    host, slash, path = text[scheme.end() if scheme else 0 :].partition("/")
    # Without a scheme only the path "v1" is a version, because `quay.io/team/v2` may be a repository.
    path = re.sub(r"(?:^|/)v[12]/?$" if scheme else r"^v[12]/?$", "", path).strip("/")
    host = host.lower()
    return (DOCKER_HUB if host in HUB_KEYS else host) + (slash and path and f"/{path}")


def lookup_keys(host: str, repository: str = "") -> list[str]:
    """Return the keys for a repository, most specific first: `host/team/model`, `host/team`, `host`."""
    parts = (normalize_key(host) + (f"/{repository}" if repository else "")).split("/")
    return ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]


def matching_keys(keys: Iterable[str], requested: Iterable[str]) -> Iterator[str]:
    """Return the keys that match requested ones, most specific first.

    Args:
        keys: The keys of a file.
        requested: Normalized keys from `lookup_keys`.
    """
    normalized = [(key, normalize_key(key)) for key in keys]
    for request in requested:
        matches = [key for key, name in normalized if name == request]
        yield from sorted(
            matches, key=lambda key: (HUB_KEYS.index(key) if key in HUB_KEYS else len(HUB_KEYS), key != request)
        )


def helper_keys(key: str) -> tuple[str, ...]:
    """Return the server names to request from a helper.

    docker and podman use different names for Docker Hub.
    """
    name = normalize_key(key)
    return (HUB_KEYS[0], DOCKER_HUB) if name == DOCKER_HUB else tuple(dict.fromkeys((name, key)))


def malformed(where: str, problem: str) -> NoReturn:
    """Reject a configuration.

    Args:
        where: The file or variable, for the message.
        problem: The rest of the message.

    Raises:
        CredentialsError: In all cases.
    """
    raise CredentialsError(f"{where} {problem}", hint="correct it, or rename it and log in again; nothing was changed")


def section(config: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return an object of a configuration, empty if it is missing.

    Raises:
        CredentialsError: The value is not an object.
    """
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        malformed(where, f"is malformed: {name!r} is not a JSON object")
    return value or {}


def parse(text: bytes, where: str) -> dict[str, Any]:
    """Return the configuration of a text.

    Raises:
        CredentialsError: The text is not a JSON object.
    """
    problem = ""
    config: Any = {}
    try:
        config = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        problem = f"is not JSON: line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        problem = "is not JSON"
    # Raise outside the `except` block: a chained JSONDecodeError would contain the text with its secrets.
    if problem or not isinstance(config, dict):
        malformed(where, problem or "is malformed: it is not a JSON object")
    return config


def read(path: Path, where: str) -> dict[str, Any] | None:
    """Return the configuration in a file, or None if the file does not exist.

    Raises:
        CredentialsError: The file can't be read or is malformed.
    """
    try:
        text = read_file(path, _FILE_LIMIT)
    except FileNotFoundError:
        return None
    except (ContentError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else "it is not a regular file"
        raise CredentialsError(
            f"{where} can't be read: {reason}",
            hint="check its permissions: it must be a file that belongs to you, with mode 0600",
        ) from error
    if len(text) > _FILE_LIMIT:
        malformed(where, f"is over {_FILE_LIMIT} bytes")
    return parse(text, where)


@contextlib.contextmanager
def edit(path: Path, where: str) -> Iterator[dict[str, Any]]:
    """Yield the configuration in a file, empty if there is none, and write it after the block if it changed.

    Other processes and threads that edit the file wait meanwhile, so none of them loses the entry of another. Docker
    itself takes no lock.

    Raises:
        CredentialsError: The file can't be read, locked or written. It is unchanged.
    """
    target = Path(os.path.realpath(path))
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(exclusive(target.with_name(f"{target.name}.lock"), _LOCK_TIMEOUT))
        except NotImplementedError:
            log.debug("%s: the file system has no locks", where)
        except ContentError as error:
            raise CredentialsError(f"{where} can't be locked: {error.message}", hint=error.hint) from error
        except OSError as error:
            raise _write_error(error, where) from error
        config = read(path, where) or {}
        before = json.dumps(config)
        yield config
        if json.dumps(config) != before:
            write(path, config, where)


def write(path: Path, config: dict[str, Any], where: str) -> None:
    """Replace the file atomically, or the target of the link at `path`.

    Raises:
        CredentialsError: The file can't be written.
    """
    target = Path(os.path.realpath(path))
    text = json.dumps(config, indent="\t").encode()  # tabs, as docker and podman write
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_writer(target, mode=0o600) as file:
            file.write(text)
    except OSError as error:
        raise _write_error(error, where) from error


def _write_error(error: OSError, where: str) -> CredentialsError:
    return CredentialsError(f"{where} can't be written: {error.strerror}", hint="check the permissions of its folder")
