"""Helpers for tests that act as a user: files, folders, requests, the command line."""

import contextlib
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import ocikit
import pytest

from tests.support.fake_registry import FakeRegistry

ROOT = Path(__file__).resolve().parents[2]
QUICK = ocikit.Network(retries=1, connect_timeout=2, read_timeout=2, max_wait=2)


def enter_home(house: Path, patch: pytest.MonkeyPatch) -> Path:
    """Move the process to a new home folder and return its working folder: no credentials, no settings, an empty cache."""
    for name in [n for n in os.environ if n.startswith(("OCIKIT_", "DOCKER_", "REGISTRY_"))]:
        patch.delenv(name)
    work = house / "work"
    work.mkdir(parents=True)
    for name, folder in {"HOME": "", "DOCKER_CONFIG": ".docker", "XDG_CONFIG_HOME": ".config", "XDG_RUNTIME_DIR": "run",
                         "OCIKIT_CACHE": "cache"}.items():  # fmt: skip
        patch.setenv(name, str(house / folder))
    patch.setenv("OCIKIT_PROGRESS", "none")
    patch.chdir(work)
    return work


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Write files into a folder and return the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder by path, without ocikit's records."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".ocikit" not in path.relative_to(folder).parts
    }


def state(folder: Path) -> dict[str, str]:
    """Return the digest of each file below a folder, records and parts included."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "/"
        for path in sorted(folder.rglob("*"))
    }


def largest_file(folder: Path) -> int:
    """Return the size of the largest file below a folder [bytes]; files may vanish meanwhile."""
    sizes = [0]
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return max(sizes)


def moved(server: FakeRegistry) -> list[str]:
    """Return the requests since the last call, as "METHOD kind"."""
    kinds = []
    for request in server.requests:
        parts = request.path.split("/")
        kind = next((k for k in ("uploads", "blobs", "manifests", "tags", "referrers", "_catalog") if k in parts), "v2")
        kinds.append(f"{request.method} {kind}")
    server.requests.clear()
    return kinds


def cli(*arguments: str, env: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess[str]:
    """Run the command line in a new process."""
    return subprocess.run(
        [sys.executable, "-m", "ocikit", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
        text=True, capture_output=True, timeout=60, check=False, **options,
    )  # fmt: skip
