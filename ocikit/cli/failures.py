"""Failures of commands: exit codes and what is printed to stderr."""

from __future__ import annotations

import errno
from difflib import get_close_matches

import click

from ocikit import display
from ocikit.cli.command import NoSuchCommand
from ocikit.cli.shell_words import ShellWords
from ocikit.cli.streams import print_message
from ocikit.errors import (
    Conflict,
    ConnectionFailed,
    ContentError,
    CopyError,
    CredentialsError,
    Denied,
    EditedFiles,
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
    EditedFiles: 7,
    InUse: 7,
}

#: The disk is full, or cannot be written to.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


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


def report(error: OcikitError | OSError, ctx: click.Context | None) -> int:
    """Print an error, and return the exit code.

    Args:
        error: What the command raised.
        ctx: The context of the command.
    """
    message, hint = (error.message, error.hint) if isinstance(error, OcikitError) else (display.sanitize(error), "")
    if ctx is not None:
        words = ShellWords(ctx.command, ctx.params)
        message, hint = words.message(message), words.hint(hint)
    print_message(f"ocikit: {message}" + (f"\n  -> {hint}" if hint else ""))
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
            nearest = get_close_matches(error.option_name, error.possibilities, cutoff=0.7) or error.possibilities[:1]
            hint = f"did you mean {_alternatives(nearest)}? {hint}"
    lines = [f"{path}: {display.sanitize(message)}", f"  -> {hint}"]
    if ctx is not None:
        lines.append(ctx.get_usage().replace("Usage:", "usage:"))
    print_message("\n".join(lines))
    return 2


def _alternatives(words: list[str]) -> str:
    return " or ".join(words)
