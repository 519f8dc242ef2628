"""The commands of the documentation and of the deployment files are those of the program."""

import itertools
import re
import shlex
from pathlib import Path

import click
import pytest
from ocikit.cli.command import Program

from tests.support import deployment

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / ".ci/docs/pages").rglob("*.md")])
DEPLOYED = list(deployment.commands())

_BLOCK = re.compile(r"```(console|bash)\n(.*?)```", re.DOTALL)


def scripts_of(page):
    """Yield the shell scripts of a page, without comments and prompts."""
    for language, block in _BLOCK.findall(page.read_text()):
        script = re.sub(r"\\\n|(?<=\|)\n", " ", re.sub(r"(?:^|\s)#.*", "", block))
        if language == "console":
            script = "\n".join(re.findall(r"^\$ (.*)", script, re.MULTILINE))
        yield script


def commands_of(page):
    """Yield the arguments of each call of the program, also of those in a pipe."""
    for script in scripts_of(page):
        words = shlex.shlex(script, posix=True, punctuation_chars="|&;<>\n")
        words.whitespace, words.whitespace_split, words.commenters = " \t", True, ""
        for operator, part in itertools.groupby(words, key=lambda word: set(word) <= set("|&;<>\n")):
            command = [] if operator else list(part)
            if command[:3] == ["python", "-m", "ocikit"]:
                yield command[3:]
            elif command[:1] == ["ocikit"]:
                yield command[1:]


def parse(words):
    """Parse a command without running it; an unknown option or a missing argument raises UsageError."""
    command, rest = Program(), list(words)
    ctx = click.Context(command, info_name="ocikit")
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(ctx, rest)
        ctx = click.Context(command, info_name=name, parent=ctx)
    return command.make_context(name, rest, parent=ctx.parent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_commands_are_valid(page):
    for words in commands_of(page):
        assert parse(words).command.callback, words


def test_pages_with_commands_are_found():
    assert {page.name for page in PAGES if list(commands_of(page))} >= {"operate.md", "ghcr.md", "from_dvc.md"}


@pytest.mark.parametrize(("name", "words"), DEPLOYED, ids=[name for name, _ in DEPLOYED])
def test_deployed_commands_are_valid(name, words):
    assert parse(words).command.callback


def test_deployment_keeps_secrets_out_of_commands():
    for name, words in DEPLOYED:
        assert not re.search(r"://[^/@\s]*:[^/@\s]*@|password=|secret_access|secret=", " ".join(words)), name


def test_pods_have_probes_limits_and_no_privileges():
    (resource,) = (resource for resource in deployment.resources() if resource["kind"] == "Deployment")
    pod = resource["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["resources"]["limits"].keys() >= {"memory", "ephemeral-storage"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    options = dict(word.removeprefix("--").split("=", 1) for word in container["args"] if "=" in word)
    drain = float(options["drain"]) + float(options["drain-delay"])
    assert pod["terminationGracePeriodSeconds"] > drain


def test_services_start_after_the_migration():
    services = deployment.services()
    assert services["registry"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert "--drain" not in " ".join(services["registry"]["command"])
    assert int(services["registry"]["stop_grace_period"].removesuffix("s")) > 60
