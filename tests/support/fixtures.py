"""A home of one's own for tests that act as a user: environment, cache, working folder, a registry and a session.

Import the fixtures by name: `from tests.support.fixtures import home, server, session`.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import ocikit
import pytest

from tests.support.fault_server import FaultServer

ROOT = Path(__file__).resolve().parents[2]
QUICK = ocikit.Network(retries=1, connect_timeout=2, read_timeout=2, max_wait=2)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The working folder of a user whose environment says nothing: no credentials, an empty cache, online."""
    for name in [n for n in os.environ if n.startswith(("OCIKIT_", "DOCKER_", "REGISTRY_"))]:
        monkeypatch.delenv(name)
    house = tmp_path / "house"
    (house / "work").mkdir(parents=True)
    for name, folder in {"HOME": "", "DOCKER_CONFIG": ".docker", "XDG_CONFIG_HOME": ".config", "XDG_RUNTIME_DIR": "run",
                         "OCIKIT_CACHE": "cache"}.items():  # fmt: skip
        monkeypatch.setenv(name, str(house / folder))
    monkeypatch.setenv("OCIKIT_PROGRESS", "none")
    monkeypatch.chdir(house / "work")
    return house / "work"


@pytest.fixture
def server():
    """A scripted registry that counts what it is asked."""
    with FaultServer() as running:
        yield running


@pytest.fixture
def session(home):
    """A session with short timeouts."""
    with ocikit.Session(progress=False, network=QUICK) as made:
        yield made


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    """A folder with these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, our own records left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".ocikit" not in path.relative_to(folder).parts
    }


def state(folder: Path) -> dict[str, str]:
    """Everything below a folder, records and parts too, by digest: equal if nothing was changed."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "/"
        for path in sorted(folder.rglob("*"))
    }


def moved(server: FaultServer) -> list[str]:
    """The requests that came since the last call, as "METHOD kind"."""
    kinds = []
    for request in server.requests:
        parts = request.path.split("/")
        kind = next((k for k in ("uploads", "blobs", "manifests", "tags", "referrers", "_catalog") if k in parts), "v2")
        kinds.append(f"{request.method} {kind}")
    server.requests.clear()
    return kinds


def cli(*arguments: str, env: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ocikit", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
        text=True, capture_output=True, timeout=60, check=False, **options,
    )  # fmt: skip
