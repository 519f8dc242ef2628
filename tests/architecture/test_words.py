"""The writing guide of CONTRIBUTING.md: forbidden words, and lengths of test names and docstring summaries."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.tools import words
from tests.tools.import_graph import MODULES, tree

TESTS = sorted((words.ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("place", words.PLACES)
def test_prose_has_no_forbidden_word(place):
    found = [f"{file}:{line}: {word!r}, write: {instead}" for file, line, word, instead, _ in words.hits([place])]
    assert not found, "\n".join(found)


def test_forbidden_words_are_detected(tmp_path, monkeypatch):
    sample = tmp_path / "sample.py"
    sample.write_text('"""Whoever asks is told."""\n\nraise ValueError("a text that is none")  # kept for ever\n')
    monkeypatch.setattr(words, "ROOT", tmp_path)
    assert {word.lower() for _, _, word, _, _ in words.hits(["sample.py"])} == {
        "whoever",
        "told",
        "that is none",
        "for ever",
    }


def functions(path: Path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def test_test_names_have_at_most_70_characters():
    long = [
        f"{path.name}: {f.name}"
        for path in TESTS
        for f in functions(path)
        if f.name.startswith("test_") and len(f.name) > 70
    ]
    assert not long, "\n".join(long)


def test_test_names_do_not_start_with_an_article_or_pronoun():
    openings = ("test_a_", "test_an_", "test_the_", "test_of_", "test_who_", "test_what_", "test_whoever_", "test_to_")
    found = [f"{path.name}: {f.name}" for path in TESTS for f in functions(path) if f.name.startswith(openings)]
    assert not found, "\n".join(found)


def test_no_test_name_occurs_twice_in_a_class_or_module():
    for path in TESTS:
        for scope in ast.walk(ast.parse(path.read_text())):
            if isinstance(scope, ast.Module | ast.ClassDef):
                names = Counter(
                    n.name for n in scope.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")
                )
                assert not [name for name, n in names.items() if n > 1], path


@pytest.mark.parametrize("name", MODULES)
def test_raises_is_a_section(name):
    """Tools collect exceptions from `Raises:` sections only, not from sentences."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for line in (ast.get_docstring(node) or "").splitlines():
                if "Raises:" in line:
                    assert line.strip() == "Raises:", f"{name}: {line}"
