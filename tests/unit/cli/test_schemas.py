"""The JSON of each command is that of its schema, and no command with `--json` is without one."""

import copy
import json

import click
import ocikit
import pytest
from jsonschema import Draft202012Validator
from ocikit.cli import main
from ocikit.cli.command import Program
from ocikit.cli.schemas import OUTPUTS, schema_of

from tests.support.home import write

REPORT = "application/vnd.example.report"


def commands(group=None, path=()):
    """Yield each command with its name."""
    group = Program() if group is None else group
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())


def closed(schema):
    """Return a schema that allows no other keys than its own, so that no key is undocumented."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    value = {key: closed(each) for key, each in schema.items()}
    if isinstance(value.get("properties"), dict) and "additionalProperties" not in value:
        value["additionalProperties"] = False
    return value


@pytest.fixture
def ref(server, home):
    write(
        home, {"data/a.csv": "x,y\n1,2\n3,4\n", "data/README.md": "---\nlicense: mit\n---\n# Data\n", "b.csv": "x\n1\n"}
    )
    name = f"{server.host}/t/d"
    first = ocikit.push(f"{name}:v1", "data/.", message="first", annotations={"k": "v"})
    ocikit.push(f"{name}:v2", "b.csv", inputs=[f"{name}:v1"], message="second")
    ocikit.attach(first, artifact_type=REPORT, annotations={"by": "ada"})
    return f"{name}:v1"


@pytest.fixture
def write_json(home, capfd):
    """Return a function that runs a command with `--json` and returns its documents."""

    def run(words):
        capfd.readouterr()
        code = main([*words, "--json"])
        out, err = capfd.readouterr()
        assert code in (0, 1, 3), err
        lines = out.splitlines()
        return [json.loads(line) for line in lines] if OUTPUTS[name_of(words)].lines else [json.loads(out)]

    return run


def name_of(words):
    return " ".join(words[:2]) if words[0] == "cache" else words[0]


def calls(ref, host):
    """Return calls of every command with `--json`; {"name": command lines that follow each other}."""
    other = ref.replace("v1", "v2")
    return {
        "attach": ["attach REF b.csv --artifact-type a/b --dry-run", "attach REF b.csv --artifact-type a/b"],
        "cache ls": ["pull REF", "cache ls"],
        "cache prune": ["cache prune --dry-run", "cache prune"],
        "cache verify": ["cache verify"],
        "card": ["card REF"],
        "catalog": [f"catalog {host}"],
        "copy": ["copy REF oci:layout --dry-run", "copy REF oci:layout"],
        "delete": ["delete REF --dry-run", "delete REF"],
        "describe": ["describe REF", "describe REF a.csv"],
        "diff": [f"diff REF {other}", f"diff {other} REF --tables", "diff REF data"],
        "edit": [
            "edit REF --add b.csv --rename a.csv=c.csv --annotate z=1 --dry-run",
            "edit REF --remove a.csv --dry-run",
            "edit REF --replace a.csv=b.csv --dry-run",
            "edit REF --add b.csv",
        ],
        "exists": ["exists REF", "exists REFx"],
        "explain": [f"explain {host}", "explain REF"],
        "gc": ["gc store --dry-run", "gc store --grace 0"],
        "history": [f"history {other}", "history REF"],
        "inspect": ["inspect REF", "inspect IMAGE"],
        "lineage": [f"lineage {other}"],
        "load": ["load REF a.csv"],
        "login": [],  # in test_verbs, because it reads a password
        "logout": [f"logout {host}"],
        "ls": ["ls REF"],
        "pull": ["pull REF out --dry-run", "pull REF out", "pull REF out --dry-run", "pull REF"],
        "push": [f"push {other} b.csv --dry-run", f"push {other} b.csv"],
        "referrers": ["referrers REF"],
        "resolve": ["resolve REF", f"resolve REF@{ocikit.pin(ref).digest}"],
        "save": ["save REF b.csv --dry-run", "save REF b.csv"],
        "tag": ["tag REF v3 v2 v1 --dry-run", "tag REF v3"],
        "tags": ["tags REF"],
        "validate": ["validate REF"],
        "verify": ["verify store"],
        "watch": [],  # runs until Ctrl-C
    }


@pytest.mark.parametrize("name", OUTPUTS)
def test_output_is_that_of_the_schema(name, write_json, ref, server, home):
    schema = schema_of(name)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(closed(copy.deepcopy(schema)))
    if name in ("gc", "verify"):
        with ocikit.serve(home / "store") as running:
            ocikit.push(f"{running.host}/t/d:v1", "b.csv")
            ocikit.push(f"{running.host}/t/d:v1", "data/a.csv")
    if name == "inspect":
        from tests.support.manifests import docker_list

        with ocikit.Session() as session:
            docker_list(session.repository(f"{server.host}/t/i", push=True))
    for line in calls(ref, server.host)[name]:
        words = line.replace("REF", ref).replace("IMAGE", f"{server.host}/t/i:v1").split()
        if name_of(words) != name:
            assert main(words) == 0
            continue
        documents = write_json(words)
        assert documents
        for document in documents:
            problems = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
            assert not problems, f"{line}: {problems}"


def undescribed(schema, path=""):
    """Yield the keys of a schema without a description."""
    for key, value in schema.get("properties", {}).items():
        if "description" not in value:
            yield f"{path}{key}"
        for inner in (value, value.get("items"), value.get("additionalProperties")):
            if isinstance(inner, dict):
                yield from undescribed(inner, f"{path}{key}.")


@pytest.mark.parametrize("name", OUTPUTS)
def test_each_key_has_a_description(name):
    schema = schema_of(name)
    assert [key for each in schema.get("anyOf", [schema]) for key in undescribed(each)] == []


def test_each_command_with_json_has_a_schema():
    with_json = {name for name, command in COMMANDS.items() if any("--json" in p.opts for p in command.params)}
    assert with_json == set(OUTPUTS)
    assert {name: command.schema for name, command in COMMANDS.items() if command.schema} == {n: n for n in OUTPUTS}


def test_all_that_lists_or_makes_has_json():
    """The others write bytes or texts of others, or run until they are stopped."""
    without = {"cat", "head", "completion", "quickstart", "serve", "migrate", "rebuild", "schema"}
    assert set(COMMANDS) - set(OUTPUTS) <= without


def test_schema_is_printed_by_a_command(capfd):
    assert main(["schema", "cache", "ls"]) == 0
    assert json.loads(capfd.readouterr().out) == schema_of("cache ls")
    assert main(["schema"]) == 0
    assert capfd.readouterr().out.split("\n")[:-1] == list(OUTPUTS)
    assert main(["schema", "l"]) == 2
