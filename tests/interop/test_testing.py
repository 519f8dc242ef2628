"""Other clients use the registries of `ocikit.testing` as they use the products, and the how-to page runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import ocikit.testing
import pytest
from ocikit.testing import BLOB, MANIFEST

from tests.support import peers
from tests.support.home import ROOT

PRODUCTS = ["plain", "basic", "token", "ecr", "ghcr", "gar", "acr", "harbor", "quay", "gitlab", "hub"]
PAGE = ROOT / ".ci/docs/pages/how-to/test_your_code.md"


@pytest.fixture
def folder(home):
    (home / "small.txt").write_text("small\n")
    (home / "big.bin").write_bytes(bytes(range(256)) * 20_000)
    return home


def run(name, folder, *arguments):
    """Run a client as a person does, with the environment of this process, and return its output."""
    done = subprocess.run([peers.find(name), *arguments], capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.peers("oras")
@pytest.mark.parametrize("product", PRODUCTS)
def test_oras_pushes_pulls_and_lists(product, folder):
    with ocikit.testing.registry(product) as host:
        run("oras", folder, "push", "--plain-http", f"{host}/project/data:v1", "small.txt", "big.bin")
        run("oras", folder, "pull", "--plain-http", "--output", "out", f"{host}/project/data:v1")
        assert run("oras", folder, "repo", "tags", "--plain-http", f"{host}/project/data").split() == ["v1"]
        assert (folder / "out/big.bin").read_bytes() == (folder / "big.bin").read_bytes()
        assert host.leaks() == []
        assert host.seen("PUT", MANIFEST)


@pytest.mark.peers("crane", "oras")
@pytest.mark.parametrize("product", PRODUCTS)
def test_crane_copies_and_reads(product, folder):
    with ocikit.testing.registry(product) as host:
        run("oras", folder, "push", "--plain-http", f"{host}/project/data:v1", "small.txt", "big.bin")
        run("crane", folder, "copy", f"{host}/project/data:v1", f"{host}/project/copy:v1")
        assert run("crane", folder, "ls", f"{host}/project/copy").split() == ["v1"]
        assert run("crane", folder, "digest", f"{host}/project/copy:v1") == run(
            "crane", folder, "digest", f"{host}/project/data:v1"
        )
        assert host.leaks() == []


@pytest.mark.peers("regctl", "oras")
@pytest.mark.parametrize("product", PRODUCTS)
def test_regctl_copies_and_reads(product, folder):
    with ocikit.testing.registry(product) as host:
        run("oras", folder, "push", "--plain-http", f"{host}/project/data:v1", "small.txt", "big.bin")
        plain = ["--host", f"reg={host},tls=disabled"]
        run("regctl", folder, *plain, "image", "copy", f"{host}/project/data:v1", f"{host}/project/copy:v1")
        assert (
            run("regctl", folder, *plain, "artifact", "get", f"{host}/project/copy:v1", "--file", "small.txt")
            == "small\n"
        )
        assert host.leaks() == []


@pytest.mark.peers("oras")
@pytest.mark.parametrize("product", ["plain", "ghcr"])
def test_oras_meets_scripted_faults(product, folder):
    with ocikit.testing.registry(product) as host:
        failed = host.fail("PUT", MANIFEST, status=503, retry_after=0)
        run("oras", folder, "push", "--plain-http", f"{host}/project/data:v1", "small.txt")
        assert failed.fired == 1
        wrong = host.corrupt("GET", BLOB, times=None)
        done = subprocess.run(
            [peers.find("oras"), "pull", "--plain-http", "--output", "out", f"{host}/project/data:v1"],
            capture_output=True, text=True, cwd=folder, timeout=120,
        )  # fmt: skip
        assert done.returncode != 0
        assert wrong.fired


def blocks(language):
    """Return the blocks of the how-to page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_tests_of_the_page_pass(tmp_path):
    [tests] = [block for block in blocks("python") if "def test_" in block]
    (tmp_path / "test_page.py").write_text(tests)
    plugins = ["-p", "no:ocikit", "-p", "ocikit.testing.plugin", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "test_page.py"], capture_output=True, text=True, cwd=tmp_path, timeout=240
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(re.findall('def test_', tests)) + 3} passed" in done.stdout


@pytest.mark.peers("oras")
def test_shell_commands_of_the_page_run(home, monkeypatch):
    [script] = [block for block in blocks("bash") if "oras push" in block]
    monkeypatch.setenv("PATH", f"{peers.find('oras').parent}:{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, cwd=home, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
