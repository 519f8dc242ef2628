"""The reference pages have every name that users and other programs see."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / ".ci/docs/pages/reference"
SOURCES = {path: path.read_text() for path in sorted((ROOT / "ocikit").rglob("*.py"))}

#: A prefix in a message, the path of programs, what the server sets for its own workers, and what a shell sets for completion.
NO_SETTINGS = {
    "OCIKIT_",
    "PATH",
    "PROMETHEUS_MULTIPROC_DIR",
    "COMP_LINE",
    "COMP_WORDS",
    "COMP_CWORD",
    "COMP_WORDBREAKS",
}


def names_in_sources(pattern):
    return {match for text in SOURCES.values() for match in re.findall(pattern, text)}


def test_environment_variables_are_documented():
    page = (REFERENCE / "environment.md").read_text()
    variables = names_in_sources(r"\bOCIKIT_[A-Z_]*") | names_in_sources(r'\bos\.environ(?:\.get\(|\[)"([A-Z_0-9]+)"')
    variables -= NO_SETTINGS
    assert len(variables) > 8
    assert not {name for name in variables if f"`{name}`" not in page}


@pytest.mark.parametrize("pattern", [r'"(io\.ocikit\.[a-z.-]+)"', r'"(application/vnd\.ocikit\.[a-z0-9.+-]+)"'])
def test_annotations_and_media_types_are_documented(pattern):
    page, names = (REFERENCE / "annotations.md").read_text(), names_in_sources(pattern)
    assert names
    assert not {name for name in names if f"`{name}`" not in page}


def test_extras_are_documented():
    project = (ROOT / "pyproject.toml").read_text()
    table = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", table, re.MULTILINE)) - {"test", "docs", "browser", "lint"}
    page = (ROOT / ".ci/docs/pages/start/install.md").read_text()
    assert "notebook" in extras
    assert not {name for name in extras if f"| `{name}` |" not in page}


def test_every_notebook_is_a_tutorial_of_the_site():
    hook = (ROOT / ".ci/docs/pages.py").read_text()
    listed = re.findall(r'^    "(\w+)",$', hook.partition("TUTORIALS = (")[2].partition(")")[0], re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_every_page_is_in_the_navigation():
    pages = ROOT / ".ci/docs/pages"
    navigation = (ROOT / ".ci/docs/mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert not {str(path.relative_to(pages)) for path in pages.rglob("*.md")} - set(
        re.findall(r"[\w/-]+\.md", navigation)
    )
