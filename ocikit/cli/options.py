"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from ocikit.cli.command import argument, completed_by

_PLATFORM = "OS/ARCH[/VARIANT]"

F = TypeVar("F", bound=Callable[..., Any])


def positive_int(text: str | int) -> int:
    """Return a whole number above 0.

    Args:
        text: Value on the command line, or the default.

    Raises:
        click.BadParameter: The value is not such a number.
    """
    if not str(text).isdecimal() or not int(text):
        raise click.BadParameter(f"{text!r} is not a number above 0")
    return int(text)


def seconds(text: str | float) -> float:
    """Return a finite number of seconds, at least 0.

    Args:
        text: Value on the command line, or the default.

    Raises:
        click.BadParameter: The value is not such a number.
    """
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise click.BadParameter(f"{text!r} is not a number of seconds")
    return number


def key_value(text: str) -> tuple[str, str]:
    """Return the key and the value of `KEY=VALUE`.

    Args:
        text: Value on the command line.

    Raises:
        click.BadParameter: The text has another form.
    """
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE")
    return key, value


def option(*declarations: str, help: str, complete: str = "", **settings: Any) -> Callable[[F], F]:  # noqa: A002 - as in click
    """Return a decorator that adds an option.

    Args:
        declarations: Flags, and the Python keyword if it has another name.
        help: Help text.
        complete: Kind of values that a shell offers, as in `completed_by`.
        settings: Those of `click.option`.
    """
    if complete:
        settings["shell_complete"] = completed_by(complete)
    return click.option(*declarations, help=help, **settings)


def number_option(*declarations: str, help: str, **settings: Any) -> Callable[[F], F]:  # noqa: A002 - as in click
    """Return a decorator that adds an option for a whole number above 0."""
    return option(*declarations, help=help, type=positive_int, metavar="N", **settings)


def pairs_option(*declarations: str, metavar: str, help: str, **settings: Any) -> Callable[[F], F]:  # noqa: A002 - as in click
    """Return a decorator that adds a repeatable option with `KEY=VALUE`; the function receives a dict or None."""

    def to_dict(
        _ctx: click.Context, _option: click.Parameter, pairs: Iterable[tuple[str, str]]
    ) -> dict[str, str] | None:
        return dict(pairs) or None

    return option(
        *declarations, help=help, multiple=True, type=key_value, metavar=metavar, callback=to_dict, **settings
    )


def repeated_option(*declarations: str, metavar: str, help: str, **settings: Any) -> Callable[[F], F]:  # noqa: A002 - as in click
    """Return a decorator that adds a repeatable option; the function receives a tuple."""
    return option(*declarations, help=help, multiple=True, metavar=metavar, **settings)


def flag(*declarations: str, help: str) -> Callable[[F], F]:  # noqa: A002 - as in click
    """Return a decorator that adds an option without a value."""
    return option(*declarations, help=help, is_flag=True)


def joined(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Return one decorator for several, in the order of the help."""

    def decorate(function: F) -> F:
        for each in reversed(decorators):
            function = each(function)
        return function

    return decorate


def reference(help: str = "Artifact, such as ghcr.io/ada/waves:v1 or oci:folder:v1.") -> Callable[[F], F]:  # noqa: A002 - as in click
    """Return a decorator that adds the argument REFERENCE.

    Args:
        help: Help text.
    """
    return argument("ref", "REFERENCE", help, complete="references")


def platform_option(purpose: str) -> Callable[[F], F]:
    """Return a decorator that adds `--platform`.

    Args:
        purpose: What is done with the manifest of the platform, such as "pull".
    """
    return option(
        "--platform",
        metavar=_PLATFORM,
        complete="platforms",
        help=f"Platform of the manifest to {purpose} from an index.",
    )


def selection_options(verb: str) -> Callable[[F], F]:
    """Return a decorator that adds `--include` and `--exclude`.

    Args:
        verb: What is done with the files, such as "pull".
    """
    return joined(
        repeated_option("--include", metavar="PATTERN", help=f"Only {verb} these files; repeatable."),
        repeated_option("--exclude", metavar="PATTERN", help=f"Do not {verb} these files; repeatable."),
    )


def _dialect(_ctx: click.Context, _option: click.Parameter, value: str) -> str | None:
    return None if value == "none" else value


dialect_option = option(
    "--dialect",
    type=click.Choice(["auto", "none"]),
    default="auto",
    callback=_dialect,
    help="Name the files of models as their own tools do (auto), or show the layers as they are.",
)

json_option = flag("--json", "as_json", help="Write JSON; 'ocikit schema' has its schema.")

json_lines_option = flag("--json", "as_json", help="Write JSON lines; 'ocikit schema' has their schema.")

dry_run_option = flag("--dry-run", help="Change nothing, and print what would change.")

notes_options = joined(
    option("--message", metavar="TEXT", help="What this version changes, for its history."),
    repeated_option(
        "--input",
        "inputs",
        metavar="REFERENCE",
        complete="references",
        help="Artifact that this one was made from; it is pinned. Repeatable.",
    ),
    option("--version", type=click.Choice(["next"]), help="Give the artifact the next free tag of v1, v2, …, too."),
)

_session_options = joined(
    repeated_option(
        "--insecure",
        metavar="HOST",
        complete="hosts",
        help="Allow plain http or an unverified certificate for this host.",
    ),
    option("--ca", metavar="FILE", complete="paths", help="Certificates of the authorities to trust, in a PEM file."),
    number_option("--workers", help="Number of parallel transfers (8)."),
)


def with_session(function: Callable[..., int | None], *, temporary: bool = False) -> Callable[..., int | None]:
    """Add the options of a session, and pass an open session as the first argument.

    Args:
        function: The command.
        temporary: Whether the session has a cache of its own, which is deleted at the end.
    """

    @functools.wraps(function)
    def run(*, insecure: tuple[str, ...], ca: str | None, workers: int | None, **values: Any) -> int | None:
        import ocikit  # noqa: PLC0415 - the help of a command needs no session
        from ocikit.cli.bars import progress  # noqa: PLC0415 - as above

        settings: dict[str, Any] = {} if workers is None else {"workers": workers}
        if ca is not None:
            settings["network"] = ocikit.Network(ca=ca)
        with contextlib.ExitStack() as stack:
            if temporary:
                import tempfile  # noqa: PLC0415 - import time, which every help would take

                settings["cache"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="ocikit-"))
            session = stack.enter_context(ocikit.Session(insecure=insecure, progress=progress(), **settings))
            return function(session, **values)

    return _session_options(run)
