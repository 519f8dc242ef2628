"""The plugin for pytest: fixtures without an import, and no cost for runs that do not use them."""

import json
import subprocess
import sys
import tomllib

import pytest

from tests.support.home import ROOT

TESTS = """
import os
import urllib.error
import urllib.request

import pytest

pytestmark = pytest.mark.filterwarnings("error")


def answers(registry):
    with urllib.request.urlopen(f"http://{registry}/v2/") as response:
        return response.status == 200


def test_plain(oci_registry):
    assert answers(oci_registry)
    assert oci_registry.profile.name == "plain"


@pytest.mark.oci_registry("ghcr", auth=False, quirks=["head-without-digest"])
def test_marked(oci_registry):
    assert answers(oci_registry)
    assert oci_registry.profile.quirks[0] == "head-without-digest"
    assert oci_registry.credentials is None


@pytest.mark.parametrize("oci_registry", ["ecr", "gar"], indirect=True)
def test_each(oci_registry):
    assert oci_registry.profile.name in {"ecr", "gar"}
    with pytest.raises(urllib.error.HTTPError) as caught:
        answers(oci_registry)
    with caught.value as response:
        assert response.status == 401


def test_cache(oci_registry, tmp_path):
    import ocikit

    ocikit.push(f"{oci_registry}/ada/notes:v1", {"notes.txt": b"a few words"})
    assert ocikit.pull(f"{oci_registry}/ada/notes:v1").read("notes.txt") == b"a few words"
    assert "ocikit-testing-" in os.environ["OCIKIT_CACHE"]
    assert os.listdir(os.environ["OCIKIT_CACHE"])
    assert not os.path.exists(os.path.join(os.environ["HOME"], ".cache"))


def test_two(oci_registries):
    first, second = oci_registries(), oci_registries("zot")
    assert answers(first) and answers(second)
    assert first.host != second.host
"""

UNUSED = """
import sys

def test_nothing():
    assert [name for name in sys.modules if name.partition(".")[0] == "ocikit"] == ["ocikit", "ocikit.testing", "ocikit.testing.plugin"]
    assert {"requests", "sqlalchemy", "attr"}.isdisjoint(sys.modules)
"""


def run(folder, *options):
    """Run pytest as a person does who has installed this package, and return its output."""
    plugins = ["-p", "no:ocikit", "-p", "ocikit.testing.plugin", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", *plugins, *options, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_fixtures_give_registries_by_marker_and_parameter(tmp_path, home):
    (tmp_path / "test_mine.py").write_text(TESTS)
    status, output = run(tmp_path)
    assert status == 0, output
    assert "6 passed" in output


def test_plugin_imports_nothing_before_a_fixture_is_used(tmp_path):
    (tmp_path / "test_mine.py").write_text(UNUSED)
    # Other plugins of this environment import packages of their own
    status, output = run(tmp_path, "-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:typeguard")
    assert status == 0, output


@pytest.mark.parametrize("option", ["--fixtures", "--markers"])
def test_pytest_lists_fixtures_and_marker(tmp_path, option):
    status, output = run(tmp_path, option)
    assert status in {0, 5}
    assert "oci_registry" in output


def test_entry_point_names_the_plugin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"ocikit": "ocikit.testing.plugin"}


def test_import_of_package_loads_no_registry():
    code = (
        "import json, sys, ocikit.testing; print(json.dumps(sorted(n for n in sys.modules if n.startswith('ocikit'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == ["ocikit", "ocikit.testing"]
