"""Credentials of running registries, in a file that this process and its children read."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

#: Variables that name the file or its folder: docker, oras, crane and others read the first, podman and skopeo the second.
_VARIABLES = ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE")


def write_config(folder: Path, auths: Mapping[str, Any]) -> dict[str, str]:
    """Write docker's config.json, and return the environment variables that name it.

    Args:
        folder: The folder.
        auths: Entries by host.
    """
    path = folder / "config.json"
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        json.dump({"auths": dict(auths)}, file)
    return dict(zip(_VARIABLES, (str(folder), str(path)), strict=True))


@define(eq=False)
class Logins:
    """The registries that this process is logged in to. The environment has their file while there is one."""

    _auths: dict[str, Any] = field(factory=dict, init=False, repr=False)
    _before: dict[str, str | None] = field(factory=dict, init=False, repr=False)
    _folder: Any = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    def add(self, host: str, entry: Mapping[str, Any]) -> None:
        """Log in to a registry, or change its credentials."""
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="ocikit-testing-")
                self._before = {name: os.environ.get(name) for name in _VARIABLES}
            self._auths[host] = entry
            os.environ.update(write_config(Path(self._folder.name), self._auths))

    def remove(self, host: str) -> None:
        """Log out of a registry. The last one restores the environment."""
        with self._lock:
            self._auths.pop(host, None)
            if self._folder is None:
                return
            if self._auths:
                write_config(Path(self._folder.name), self._auths)
                return
            for name, value in self._before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            self._folder.cleanup()
            self._folder = None


#: The logins of this process.
LOGINS = Logins()
