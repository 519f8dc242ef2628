"""Completion in real shells."""

import os
import shlex
import shutil
import subprocess
import sys

import ocikit
import pytest

from tests.support.home import ROOT, write

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def ocikit_on_path(home):
    """Put a program `ocikit` on the PATH, which runs this checkout."""
    program = home / "bin" / "ocikit"
    write(home, {"bin/ocikit": f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ocikit "$@"\n'})
    program.chmod(0o755)
    return os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{program.parent}:{os.environ['PATH']}"}


def run(shell, script, env):
    """Run a script in a shell, which must be there; others than bash may be missing."""
    if shutil.which(shell) is None:
        assert shell != "bash"
        pytest.skip(f"{shell} is missing: apt-get install {shell}")
    options = {"bash": ["--noprofile", "--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *options, "-c", script], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def complete(line, env, shell="bash"):
    """Return what a shell offers at the end of a line."""
    if shell == "fish":
        return [
            each.split("\t")[0]
            for each in run(shell, f"ocikit completion fish | source; complete -C {shlex.quote(line)}", env)
        ]
    if shell == "zsh":  # without a terminal there is no line editor: replace what hands values to it
        script = f"""
            autoload -U compinit; compinit -u -d $HOME/.zcompdump
            _describe() {{ local -a all; all=("${{(@P)3}}"); print -rl -- "${{all[@]%%:*}}" }}
            compadd() {{ local name=${{@[-1]}}; print -rl -- "${{(@P)name}}" }}
            _path_files() {{ print -r -- "paths $1" }}
            eval "$(ocikit completion zsh)"
            words=({line}{" ''" if line.endswith(" ") else ""}); CURRENT=$#words
            _ocikit_completion
        """
        return run(shell, script, env)
    script = f"""
        compopt() {{ echo "option $2"; }}
        source <(ocikit completion bash)
        COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}
        COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
        _ocikit_completion ocikit
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return [line for line in run(shell, script, env) if line]


@pytest.fixture
def cached(home, server):
    write(home, {"data/a.csv": "x", "data/b c.csv": "y"})
    ref = f"{server.host}/t/d"
    ocikit.push(f"{ref}:v1", "data/.")
    ocikit.push(f"{ref}:v2", "data/a.csv")
    ocikit.pull(f"{ref}:v1")
    ocikit.pull(f"{ref}:v2")
    server.requests.clear()
    return ref


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_and_options_are_completed(shell, ocikit_on_path):
    assert complete("ocikit pu", ocikit_on_path, shell) == ["pull", "push"]
    assert complete("ocikit pull --for", ocikit_on_path, shell) == ["--force"]
    assert complete("ocikit cache p", ocikit_on_path, shell) == ["prune"]


@pytest.mark.parametrize("shell", SHELLS)
def test_cached_references_and_files_are_completed(shell, ocikit_on_path, cached, server):
    start = cached[:-1]
    split = "" if shell == "bash" else cached.partition(":")[0] + ":"  # bash replaces what follows a colon
    rest = cached.removeprefix(cached.partition(":")[0] + ":")
    assert complete(f"ocikit pull {start}", ocikit_on_path, shell) == [f"{split}{rest}:v1", f"{split}{rest}:v2"]
    assert "a.csv" in complete(f"ocikit cat {cached}:v1 ", ocikit_on_path, shell)
    assert server.requests == []


def test_words_with_colons_and_spaces_are_completed_in_bash(ocikit_on_path, cached):
    assert complete(f"ocikit tags {cached}:v", ocikit_on_path) == ["v1", "v2"]
    assert complete(f"ocikit cat {cached}:v1 b", ocikit_on_path) == ["b\\ c.csv"]


def test_hosts_platforms_paths_and_layouts_are_completed(ocikit_on_path, cached, server, home):
    assert complete("ocikit catalog 127.", ocikit_on_path) == [server.host]
    assert complete("ocikit pull x --platform linux/a", ocikit_on_path)[:2] == ["linux/amd64", "linux/arm64"]
    assert complete("ocikit push x da", ocikit_on_path) == ["option default"]
    assert complete("ocikit pull x ou", ocikit_on_path) == ["option dirnames"]
    ocikit.copy(f"{cached}:v1", "oci:store:v1")
    assert complete("ocikit tags oci:st", ocikit_on_path) == ["store"]


def test_names_with_control_characters_are_not_offered(ocikit_on_path, cached, home):
    folder = next((ocikit.cache.root / "refs").rglob("v1.json")).parent
    (folder / "v3\x1b[31m.json").write_text("{}")
    assert complete(f"ocikit tags {cached}:v", ocikit_on_path) == ["v1", "v2"]
