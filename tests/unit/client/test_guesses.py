"""What people type before they have read anything works, or is answered with the next step; see tests/tools/guesses.py."""

import pytest

from tests.tools.guesses import GUESSES, registries, run, write_files


@pytest.fixture(scope="module")
def names():
    with registries() as found:
        yield found


@pytest.mark.parametrize("guess", GUESSES, ids=[guess.code.replace("\n", "; ") for guess in GUESSES])
def test_guess_works_or_its_error_has_the_next_step(guess, names, home):
    write_files(home)
    (home.parent / "home.txt").write_text("x")
    result = run(guess, names)
    assert result.outcome == guess.expected, result.text
