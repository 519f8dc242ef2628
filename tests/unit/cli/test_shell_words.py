"""Hints on the command line are in the words of the shell."""

import click
import ocikit
import pytest
from ocikit.cli import main
from ocikit.cli.command import Program
from ocikit.cli.shell_words import ShellWords

from tests.architecture.test_hints import hints
from tests.support.home import write

#: Files with hints about values of Python, or about calls that no command makes.
PYTHON_ONLY = {
    "client/arguments.py",  # types of arguments
    "client/edit.py",  # the object of a `with` block
    "client/push.py",  # config=, which push lacks
    "data/codecs",
    "data/formats.py",
    "data/queries.py",
    "errors.py",
    "filesystem",
    "layers/layer.py",  # LayerLimits
    "layers/unpack.py",
    "notebook",
    "remote/config",
    "server",
    "store/base.py",
    "store/layout",
    "store/results.py",
    "testing",
    "cli",
    "packages.py",
    "__init__.py",
}

#: Hints with a way that only Python has; it is marked.
MARKED = {
    "read it as a file: artifact[…].open()",
    "see the session's Network(blocked=…), or its registries.conf",
    "pull(ref).unpack(folder)",
    "call begin() with a plan first",
}


def command(name):
    return Program().get_command(click.Context(Program()), name)


def translated(text, name="pull", **values):
    return ShellWords(command(name), {"ref": "h/a:v1", **values}).hint(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nearest: v1; ocikit.tags('h/a') lists all 3", "nearest: v1; ocikit tags h/a lists all 3"),
        ("check the name; ocikit.catalog('h') lists", "check the name; ocikit catalog h lists"),
        ("pass force=True to overwrite files", "pass --force to overwrite files"),
        ("as files with archive=False", "as files with --no-archive"),
        (
            "choose with platform=…: a/b; or look at .index",
            "choose with --platform …: a/b; or look with ocikit inspect h/a:v1",
        ),
        ("push the folder again with shards=", "push the folder again with --shards"),
        ("write it like inputs=['h/b:v1']", "write it like --input h/b:v1"),
        ('name one: edit(ref, to="h/a:v2")', "name one: ocikit edit h/a:v1 --to h/a:v2"),
        ("read it by its digest: open(ref, 'sha256:00')", "read it by its digest: ocikit cat h/a:v1 sha256:00"),
        ("ocikit.inspect('h/a:v1').files lists them", "ocikit ls h/a:v1 lists them"),
        ("write them with .pull(folder)", "write them with ocikit pull h/a:v1 FOLDER"),
        ("pass dialect=None for the layers", "pass --dialect none for the layers"),
        ("skip it with exclude='a b'", "skip it with --exclude 'a b'"),
        ("name the host in insecure=['h:1'] if you must", "name the host in --insecure h:1 if you must"),
        ("wait; pull(ref).unpack(folder) writes it", "wait; in Python: pull(ref).unpack(folder) writes it"),
        (r"skip it with exclude='\x1b[31m\u202e'", r"skip it with --exclude $'\x1b[31m\u202e'"),
        ("no Python (at all) here: a=b", "no Python (at all) here: a=b"),
    ],
)
def test_python_becomes_a_command_line(text, expected):
    assert translated(text) == expected


def test_options_of_the_present_command_come_first():
    assert translated("use archive='tar'", "push") == "use --archive tar"
    assert translated("use tags=['v1']", "edit") == "use --tag v1"


def whole(found):
    """Return hints without the constant parts of f-strings."""
    texts = {}
    for file, line, text in found:
        texts.setdefault((file, line), []).append(text)
    return [
        (file, text)
        for (file, _), all_ in texts.items()
        for text in all_
        if not any(text != t and text in t for t in all_)
    ]


def test_no_hint_speaks_python_on_the_command_line():
    wrong = []
    for file, text in whole(hints()):
        if file.startswith(tuple(PYTHON_ONLY)) or any(part in text for part in MARKED):
            continue
        if all("in Python: " in translated(text, name) for name in ("pull", "push", "ls")):
            wrong.append(f"{file}: {text}")
    assert wrong == []


@pytest.mark.parametrize("part", sorted(MARKED))
def test_marked_hints_exist(part):
    assert any(part in text for _, text in whole(hints()))


def test_errors_of_commands_name_commands(server, home, capsys):
    write(home, {"data/a.csv": "x"})
    ref = f"{server.host}/t/d"
    ocikit.push(f"{ref}:v1", "data", tags=["main"])
    assert main(["pull", f"{ref}:v2"]) == 3
    assert f"nearest: v1; ocikit tags {ref} lists all 2" in capsys.readouterr().err
    assert main(["tags", f"{server.host}/t/none"]) == 3
    assert f"ocikit catalog {server.host} lists those" in capsys.readouterr().err
    ocikit.pull(f"{ref}:v1", "out")
    write(home, {"out/data/a.csv": "mine"})
    assert main(["pull", f"{ref}:v1", "out"]) == 7
    assert "pass --force to overwrite files" in capsys.readouterr().err
