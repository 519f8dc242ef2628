"""The mistakes that people make most: what happened and what to do next, in few lines, wherever they are made."""

import pytest

from tests.tools.error_messages import MISTAKES, in_a_notebook, in_a_terminal, places

IDS = [mistake.name for mistake in MISTAKES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mistakes")


@pytest.fixture(scope="module")
def where(folder):
    with places(folder) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def shown(folder, where):
    """What a notebook shows for each."""
    texts = in_a_notebook([mistake.code.format_map(where) for mistake in MISTAKES], folder)
    return dict(zip(IDS, texts, strict=True))


@pytest.mark.parametrize("mistake", MISTAKES, ids=IDS)
def test_a_notebook_says_what_happened_and_what_to_do(shown, mistake):
    text = shown[mistake.name]
    assert f"\n{mistake.error}: " in text
    assert mistake.words in text
    assert mistake.remedy in text.partition("  -> ")[2]
    assert len(text.splitlines()) <= 12, "one's own line and the message, not the insides of the library"
    assert "ocikit/" not in text.replace("/lab/", "")


@pytest.mark.parametrize("mistake", [m for m in MISTAKES if m.command], ids=[m.name for m in MISTAKES if m.command])
def test_a_terminal_says_what_happened_and_what_to_do(folder, where, mistake):
    text = in_a_terminal(["-m", "ocikit", *(part.format_map(where) for part in mistake.command)], folder)
    assert text.startswith("ocikit: ")
    assert mistake.words in text
    assert mistake.remedy in text.partition("  -> ")[2]
    assert len(text.splitlines()) <= 4


def test_python_ends_with_the_same_words(folder, where):
    mistake = MISTAKES[0]
    text = in_a_terminal(["-c", f"import ocikit; {mistake.code.format_map(where)}"], folder)
    assert text.splitlines()[-2].startswith(f"ocikit.errors.{mistake.error}: ")
    assert mistake.remedy in text.splitlines()[-1]
