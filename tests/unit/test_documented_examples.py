"""The Python of README and of the site's pages runs, where it needs no account.

A block after `<!-- run -->` runs, and the blocks of a page run in order. Names of public registries lead to a registry of
the test, because an example with the address that people type is easier to read than one without.
"""

import re
from pathlib import Path

import ocikit
import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / ".ci/docs/pages").rglob("*.md")])

_BLOCK = re.compile(r"^<!-- run -->\n+( *)```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_PUBLIC = re.compile(
    r"ghcr\.io|quay\.io|docker\.io|[\w-]+\.(?:azurecr|pkg|jfrog)\.(?:io|dev)|(?<=[\"/ ])registry\.example"
    r"|\d{12}\.dkr\.ecr\.[\w-]+\.amazonaws\.com|harbor\.example"
)


def blocks_of(page):
    return [match[2] for match in _BLOCK.finditer(page.read_text())]


RUN = [page for page in PAGES if blocks_of(page)]


@pytest.fixture(scope="module")
def host():
    with ocikit.serve() as server:
        yield server.host


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A new user's home, in a folder with the data that the pages speak of."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OCIKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OCIKIT_PROGRESS", "none")
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    work = tmp_path / "work"
    (work / "waves").mkdir(parents=True)
    monkeypatch.chdir(work)
    (work / "waves/sine.csv").write_text("t,y\n0,0\n1,0.84\n")
    (work / "waves/README.md").write_text("# Waves\n")
    return work


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_documented_python_runs(page, home, host):
    names = {"__name__": "__main__"}
    for number, block in enumerate(blocks_of(page), 1):
        exec(compile(_PUBLIC.sub(host, block), f"{page.name} block {number}", "exec"), names)


def test_pages_with_python_are_found():
    assert {page.name for page in RUN} >= {"first_artifact.md"}
