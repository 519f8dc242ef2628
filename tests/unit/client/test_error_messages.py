"""Messages of frequent mistakes: cause and next step in few lines, in notebooks and terminals."""

import pytest

from tests.tools.error_messages import MISTAKES, demo_registries, run_in_notebook, run_in_terminal

IDS = [mistake.name for mistake in MISTAKES]

#: Hints as the command line gives them: with its own commands and options.
IN_THE_SHELL = {
    "force=True": "--force",
    "ca=": "--ca",
    "ocikit.login(": "log in with ocikit login ",
    "ocikit.catalog": "ocikit catalog ",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mistakes")


@pytest.fixture(scope="module")
def hosts(folder):
    with demo_registries(folder) as names:
        yield names


@pytest.fixture(scope="module")
def shown(folder, hosts):
    """Return the notebook output of each mistake."""
    texts = run_in_notebook([mistake.code.format_map(hosts) for mistake in MISTAKES], folder)
    return dict(zip(IDS, texts, strict=True))


@pytest.mark.parametrize("mistake", MISTAKES, ids=IDS)
def test_notebook_shows_message_and_hint(shown, mistake):
    text = shown[mistake.name]
    assert f"\n{mistake.error}: " in text
    assert mistake.message in text
    assert mistake.hint in text.partition("  -> ")[2]
    assert len(text.splitlines()) <= 12, "the user's line and the message, without frames of the library"
    assert "ocikit/" not in text.replace("/lab/", "")


@pytest.mark.parametrize("mistake", [m for m in MISTAKES if m.command], ids=[m.name for m in MISTAKES if m.command])
def test_terminal_shows_message_and_hint(folder, hosts, mistake):
    text = run_in_terminal(["-m", "ocikit", *(part.format_map(hosts) for part in mistake.command)], folder)
    assert text.startswith("ocikit: ")
    assert mistake.message in text
    assert IN_THE_SHELL.get(mistake.hint, mistake.hint) in text.partition("  -> ")[2]
    assert len(text.splitlines()) <= 4


def test_python_traceback_ends_with_message_and_hint(folder, hosts):
    mistake = MISTAKES[0]
    text = run_in_terminal(["-c", f"import ocikit; {mistake.code.format_map(hosts)}"], folder)
    assert text.splitlines()[-2].startswith(f"ocikit.errors.{mistake.error}: ")
    assert mistake.hint in text.splitlines()[-1]
