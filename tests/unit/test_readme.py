"""Links of README.md and of the pages work in a clone, on the site, and in the package's description on PyPI."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCE = PROJECT["project"]["urls"]["Source"]
PAGES = sorted((ROOT / ".ci/docs/pages").rglob("*.md"))

_LINK = re.compile(r"\]\(([^)\s]+)\)")


def relative(text):
    return [link for link in _LINK.findall(text) if "://" not in link and not link.startswith("#")]


def test_links_of_the_readme_lead_to_files():
    assert len(relative(README)) > 20
    assert not [link for link in relative(README) if not (ROOT / link.partition("#")[0]).exists()]


def test_description_of_the_package_has_absolute_links_only():
    text = README
    for rule in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    assert not relative(text)
    assert f"]({SOURCE}/blob/main/CONTRIBUTING.md)" in text
    pictures = re.findall(r"!\[[^\]]*\]\((\S+)\)", text)
    raw = SOURCE.replace("github.com", "raw.githubusercontent.com")
    assert pictures
    assert all(link.startswith(f"{raw}/main/notebooks/") for link in pictures)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_into_the_repository_lead_to_files(page):
    owner = SOURCE.rpartition("/")[0]
    for link in _LINK.findall(page.read_text()):
        if link.startswith(owner):
            assert link.startswith(f"{SOURCE}/blob/main/"), link
            assert (ROOT / link.removeprefix(f"{SOURCE}/blob/main/")).is_file(), link


def test_addresses_of_the_project_agree():
    assert all(link.startswith(SOURCE) for link in PROJECT["project"]["urls"].values())
    assert {"Source", "Documentation", "Changelog", "Issues"} <= PROJECT["project"]["urls"].keys()
