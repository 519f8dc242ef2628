"""The help of every command: arguments, options, examples, width; and suggestions for wrong names."""

import re
import shlex

import click
import pytest
from ocikit.cli import main
from ocikit.cli.command import Argument, Program
from ocikit.cli.table import ALIASES, COMMANDS, FOREIGN
from ocikit.transfer.pool import WORKERS

from tests.unit.cli.test_documented_commands import parse


def leaves():
    """Yield (words, command) of every command, and of every action of a group."""
    program = Program()
    ctx = click.Context(program, info_name="ocikit")
    for name in COMMANDS:
        command = program.get_command(ctx, name)
        if isinstance(command, click.Group):
            for action, each in command.commands.items():
                yield (name, action), each
        else:
            yield (name,), command


LEAVES = {" ".join(words): (words, command) for words, command in leaves()}


@pytest.fixture(params=list(LEAVES))
def leaf(request):
    return LEAVES[request.param]


def help_of(capsys, *words):
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


def test_every_argument_and_option_has_a_sentence(leaf):
    _, command = leaf
    for parameter in command.params:
        assert isinstance(parameter, Argument | click.Option)
        assert parameter.help and parameter.help[0].isupper() and parameter.help.endswith("."), parameter.name
        assert parameter.name.isidentifier()


def test_help_has_at_least_two_examples_that_are_valid(leaf):
    words, command = leaf
    assert len(command.examples) >= 2
    for text, line in command.examples:
        assert not text.endswith(".")
        typed = shlex.split(re.split(r" (?:\||\|\||>|>>|<) ", line)[0].replace("\\\n", " "))
        assert tuple(typed[: len(words) + 1]) == ("ocikit", *words)
        assert parse(typed[1:]).command is command


def test_help_fits_eighty_columns(leaf, capsys):
    words, _ = leaf
    assert [line for line in help_of(capsys, *words).splitlines() if len(line) > 80] == []


def test_summaries_of_the_table_are_those_of_the_commands():
    ctx = click.Context(Program(), info_name="ocikit")
    for name, entry in COMMANDS.items():
        command = Program().get_command(ctx, name)
        assert (command.name, command.help.partition("\n")[0]) == (name, f"{entry.summary}.")


def test_help_of_the_program_fits_eighty_columns(capsys):
    text = help_of(capsys)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert all(f"  {name} " in text for name in COMMANDS)
    assert all(f"  {name} " in help_of(capsys, "cache") for name in ("ls", "verify", "prune"))


def test_help_has_the_default_number_of_workers(capsys):
    assert f"Number of parallel transfers ({WORKERS})." in help_of(capsys, "pull")


def test_aliases_lead_to_commands(capsys):
    for alias, name in ALIASES.items():
        assert help_of(capsys, alias).splitlines()[2:] == help_of(capsys, name).splitlines()[2:]


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        ("pul x", "ocikit pull"),
        ("upload x", "ocikit push"),
        ("download x", "ocikit pull or ocikit cat"),
        ("cp a b", "ocikit copy"),
        ("list x", "ocikit ls or ocikit tags or ocikit catalog"),
        ("cache prun", "ocikit cache prune"),
        ("pull x --forc", "--force"),
        ("push x y --anotation a=b", "--annotation"),
    ],
)
def test_wrong_names_get_a_suggestion(words, suggested, capsys):
    assert main(words.split()) == 2
    first, hint, usage = capsys.readouterr().err.splitlines()
    assert first.startswith("ocikit") and "no such" in first
    assert f"did you mean {suggested}" in hint
    assert usage.startswith("usage: ocikit")


def test_usage_is_that_of_the_command(capsys):
    assert main(["pull"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "ocikit pull: missing argument 'REFERENCE'",
        "  -> ocikit pull --help explains it",
        "usage: ocikit pull [OPTIONS] REFERENCE [FOLDER]",
    ]


def test_words_of_other_tools_name_no_command_of_ours():
    assert not {*FOREIGN} & {*COMMANDS, *ALIASES}
