"""The command `completion`: the script for a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ocikit.cli.command import Program, argument, command
from ocikit.cli.complete import VARIABLE


@command(
    examples=(
        ("In bash", "ocikit completion bash >> ~/.bashrc"),
        ("In zsh, below compinit", "ocikit completion zsh >> ~/.zshrc"),
        ("In fish", "ocikit completion fish > ~/.config/fish/completions/ocikit.fish"),
    )
)
@argument("shell", "SHELL", "Shell: bash, zsh or fish.", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> None:
    """Print the script that completes commands in a shell.

    Commands, options, files, platforms, cached references and hosts with a login are offered. No request is made.
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - for mypy; click has all three
    print(found(Program(), {}, "ocikit", VARIABLE).source())
