"""Command line of ocikit: `ocikit COMMAND`, or `python -m ocikit COMMAND`.

`ocikit.cli.table` lists the commands. The module of a command is imported when the command is used, and the libraries of a
session only by commands that need one, so that `ocikit --help` and completion are fast.

A result goes to stdout, and messages go to stderr. `ocikit.cli.failures` has the exit codes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from ocikit.cli.command import Program
from ocikit.cli.streams import discard, prepare_streams, print_message

_COMPLETE = "_OCIKIT_COMPLETE"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Arguments of the command; None takes those of the process.

    Returns:
        0 for success, 2 for invalid usage, 130 after Ctrl-C, and otherwise the code of the kind of error.
    """
    prepare_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    program = Program()
    if (instruction := os.environ.get(_COMPLETE)) is not None:
        from click.shell_completion import shell_complete  # noqa: PLC0415 - only a shell asks for it

        import ocikit.cli.complete  # noqa: F401, PLC0415 - registers the class for bash

        return shell_complete(program, {}, "ocikit", _COMPLETE, instruction)
    try:
        status = _run(program, [str(each) for each in arguments])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        discard(sys.stdout)
        return 1
    except click.UsageError as error:
        from ocikit.cli.failures import report_usage  # noqa: PLC0415 - imports what a failure needs

        return report_usage(error)
    except KeyboardInterrupt:
        from ocikit.progress.base import INTERRUPTED  # noqa: PLC0415 - only an interrupt needs it

        print_message(f"ocikit: {INTERRUPTED}")
        return 130
    except Exception as error:
        from ocikit.cli.failures import report  # noqa: PLC0415 - as above
        from ocikit.errors import OcikitError  # noqa: PLC0415 - as above

        if not isinstance(error, OcikitError | OSError):
            raise
        if not isinstance(error, OcikitError):  # such as a full disk behind stdout
            discard(sys.stdout)
        return report(error, program.running)
    return status


def _run(program: Program, arguments: list[str]) -> int:
    try:
        with program.make_context("ocikit", arguments) as ctx:
            status = program.invoke(ctx)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.message)
        return 2
    except click.exceptions.Exit as stop:  # after the help
        return stop.exit_code
    return int(status or 0)
