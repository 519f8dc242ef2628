"""Failures of commands: exit codes and what is printed to stderr."""

from __future__ import annotations

import errno
import re

import click

from ocikit import display
from ocikit.cli.command import NoSuchCommand
from ocikit.cli.streams import print_message
from ocikit.errors import (
    Conflict,
    ConnectionFailed,
    ContentError,
    CopyError,
    CredentialsError,
    Denied,
    InUse,
    InvalidArgument,
    InvalidDigest,
    InvalidDocument,
    InvalidReference,
    NotFound,
    OcikitError,
    OfflineError,
    RateLimited,
    RegistryError,
    ServerFailed,
    Unauthorized,
    UnsafeArchive,
    UnsafeFormat,
)

#: Exit codes by class of error; the most specific class counts, and other errors have 1.
_CODES: dict[type[BaseException], int] = {
    InvalidReference: 2,
    InvalidDigest: 2,
    InvalidArgument: 2,
    NotFound: 3,
    Unauthorized: 4,
    Denied: 4,
    CredentialsError: 4,
    ConnectionFailed: 5,
    ServerFailed: 5,
    RateLimited: 5,
    OfflineError: 5,
    ContentError: 6,
    InvalidDocument: 6,
    UnsafeArchive: 6,
    UnsafeFormat: 6,
    Conflict: 7,
    InUse: 7,
}

#: The disk is full, or cannot be written to.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}

_KEYWORD = re.compile(r"""\b([a-z_]+)=(?:True|(None\b|"[^"]*"|'[^']*')|(?![\w\["'(]))""")


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error.

    Args:
        error: What a command raised. The cause of a failed copy counts for it.
    """
    if isinstance(error, CopyError) and error.__cause__ is not None:
        return exit_code(error.__cause__)
    if isinstance(error, RegistryError) and error.status >= 500:
        return _CODES[ConnectionFailed]
    if not isinstance(error, OcikitError):
        return _CODES[ContentError] if isinstance(error, OSError) and error.errno in _DISK else 1
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), 1)


def report(error: OcikitError | OSError, command: click.Command | None) -> int:
    """Print an error, and return the exit code.

    Args:
        error: What the command raised.
        command: The command.
    """
    text = str(error) if isinstance(error, OcikitError) else display.sanitize(error)
    print_message(f"ocikit: {text if command is None else with_options(text, command)}")
    return exit_code(error)


def report_usage(error: click.UsageError) -> int:
    """Print what is wrong with the arguments, with the usage of the command, and return the exit code."""
    ctx = error.ctx
    path = "ocikit" if ctx is None else ctx.command_path
    message = error.format_message().strip().removesuffix(".")
    message = message[:1].lower() + message[1:]
    hint = f"{path} --help explains it"
    if isinstance(error, NoSuchCommand):
        hint = f"{path} --help lists the commands"
        if error.names:
            hint = f"did you mean {_alternatives([f'{path} {name}' for name in error.names])}? {hint}"
    elif isinstance(error, click.NoSuchOption):
        message = f"no such option {error.option_name}"
        if error.possibilities:
            hint = f"did you mean {_alternatives(sorted(error.possibilities))}? {hint}"
    lines = [f"{path}: {display.sanitize(message)}", f"  -> {hint}"]
    if ctx is not None:
        lines.append(ctx.get_usage().replace("Usage:", "usage:"))
    print_message("\n".join(lines))
    return 2


def _alternatives(words: list[str]) -> str:
    return " or ".join(words)


def with_options(text: str, command: click.Command) -> str:
    """Return the text of an error with the options of a command in place of Python's keywords.

    Args:
        text: Text of an error.
        command: The command, whose options have the names of the keywords.
    """
    flags = {p.name: p.opts[0] for p in command.params if isinstance(p, click.Option)}

    def translated(match: re.Match[str]) -> str:
        if match[1] not in flags:
            return match[0]
        value = "none" if match[2] == "None" else match[2]
        return flags[match[1]] + (f" {value}" if value else "")

    return _KEYWORD.sub(translated, text)
