"""The files that docker and podman keep credentials in: how their keys are matched, and how they are read and replaced.

containers-auth.json(5), docker's config.json. Which file is asked when is the business of `Keychain`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ocikit.errors import CredentialsError
from ocikit.spec.reference import DOCKER_HUB

#: Docker Hub's keys, in the order in which they count: `docker login` writes the first, podman the third.
HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", DOCKER_HUB, "registry-1.docker.io", "registry.hub.docker.com")  # fmt: skip
_FILE_LIMIT = 4 << 20  # bytes of a configuration file; the largest honest one is a few KiB


def normalize_key(key: str) -> str:
    """What a key names: host and perhaps path, without scheme and API version, Docker Hub by one name."""
    text = key.strip()
    scheme = re.match(r"(?i)https?://", text)
    host, slash, path = text[scheme.end() if scheme else 0 :].partition("/")
    # Without a scheme only a whole path "v1" is a version: `quay.io/team/v2` may be a repository.
    path = re.sub(r"(?:^|/)v[12]/?$" if scheme else r"^v[12]/?$", "", path).strip("/")
    host = host.lower()
    return (DOCKER_HUB if host in HUB_KEYS else host) + (slash and path and f"/{path}")


def lookup_keys(host: str, repository: str = "") -> list[str]:
    """What may answer for a repository, most specific first: `host/team/model`, `host/team`, `host`."""
    whole = normalize_key(host) + (f"/{repository}" if repository else "")
    parts = whole.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]


def matching_keys(keys: Iterable[str], wished: Iterable[str]) -> Iterator[str]:
    """The keys that suit, most specific first."""
    places = [(key, normalize_key(key)) for key in keys]
    for wish in wished:
        suits = [key for key, place in places if place == wish]
        yield from sorted(suits, key=lambda k: (HUB_KEYS.index(k) if k in HUB_KEYS else len(HUB_KEYS), k != wish))


def helper_keys(key: str) -> tuple[str, ...]:
    """What to ask a helper for: Docker Hub is kept under another name by docker than by podman."""
    place = normalize_key(key)
    return (HUB_KEYS[0], DOCKER_HUB) if place == DOCKER_HUB else tuple(dict.fromkeys((place, key)))


def malformed(where: str, problem: str) -> NoReturn:
    """Refuse a configuration. Raises: CredentialsError."""
    raise CredentialsError(
        f"{where} {problem}", hint="correct it, or move it away and log in again; nothing was changed"
    )


def section(config: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """One object of a configuration; empty if it isn't there. Raises: CredentialsError."""
    found = config.get(name)
    if found is not None and not isinstance(found, dict):
        malformed(where, f"is malformed: {name!r} is not a JSON object")
    return found or {}


def load(text: bytes, where: str) -> dict[str, Any]:
    """The configuration that a text spells. Raises: CredentialsError."""
    problem = ""
    config: Any = {}
    try:
        config = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        problem = f"is not JSON: line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        problem = "is not JSON"
    # Raised out here: a JSONDecodeError in the chain would carry the file, and with it the secrets.
    if problem or not isinstance(config, dict):
        malformed(where, problem or "is malformed: it is not a JSON object")
    return config


def read(path: Path, where: str) -> dict[str, Any] | None:
    """The configuration in a file, or None if there is no such file."""
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CredentialsError(
            f"{where} can't be read: {error.strerror}", hint="check its permissions; it should be yours, with mode 0600"
        ) from error
    if len(text) > _FILE_LIMIT:
        malformed(where, f"is over {_FILE_LIMIT} bytes")
    return load(text, where)


def write(path: Path, config: dict[str, Any], where: str) -> None:
    """Replace the file at once; if it is a link, then what it points to. Raises: CredentialsError."""
    real = Path(os.path.realpath(path))
    text = json.dumps(config, indent="\t").encode()  # tabs, as docker and podman write
    part = ""
    try:
        real.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)  # mode 0600
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(real)
        if os.name == "posix":
            folder = os.open(real.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise CredentialsError(
            f"{where} can't be written: {error.strerror}", hint="check the permissions of its folder"
        ) from error
    finally:
        if part:
            Path(part).unlink(missing_ok=True)
