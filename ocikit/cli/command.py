"""Commands with the help of ocikit: arguments, options and examples, within 80 columns.

A command is a function with the decorator `command`. Its docstring is its help, and the parameters of its options have the names
of Python's keywords, so that a command hands them to a verb, and errors can name an option for a keyword.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from ocikit.cli.table import ALIASES, COMMANDS, EXIT_CODES, FOREIGN

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_WIDTH = 80

#: Key of `Context.meta`: print nothing but errors.
_QUIET = "ocikit.quiet"

Example = tuple[str, str]
"""A sentence without a full stop, and the command."""


class NoSuchCommand(click.UsageError):
    """There is no command of that name; `names` has the suggested ones."""

    def __init__(self, name: str, names: Sequence[str], ctx: click.Context) -> None:
        super().__init__(f"no such command {name!r}", ctx)
        self.names = tuple(names)


class Argument(click.Argument):
    """Argument with a help text."""

    def __init__(self, declarations: Sequence[str], help: str = "", **settings: Any) -> None:  # noqa: A002 - as in click
        super().__init__(declarations, **settings)
        self.help = help


class Command(click.Command):
    """Command whose help has its arguments, options and examples.

    Args:
        settings: Those of `click.Command`.
        examples: What the command does, as a sentence, and the command line.
        schema: Name of the JSON schema of `--json`, or "".
    """

    def __init__(self, *, examples: Sequence[Example] = (), schema: str = "", **settings: Any) -> None:
        super().__init__(**{"context_settings": _CONTEXT, **settings})
        self.examples = tuple(examples)
        self.schema = schema
        self.params.append(_quiet_option())

    def get_help_option(self, ctx: click.Context) -> click.Option:
        """Return the option that prints the help."""
        return _help_option()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; the program knows it, for the options in error messages."""
        program = ctx.find_root().command
        if isinstance(program, Program):
            program.running = ctx
        return super().invoke(ctx)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write usage, description, arguments, options and examples."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        arguments = [
            (parameter.make_metavar(ctx), str(parameter.help))
            for parameter in self.get_params(ctx)
            if isinstance(parameter, Argument)
        ]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments, col_max=24)
        records = [p.get_help_record(ctx) for p in self.get_params(ctx) if isinstance(p, click.Option)]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record], col_max=24)
        _write_examples(formatter, self.examples)
        self.format_epilog(ctx, formatter)


class Group(click.Group):
    """Command with actions, such as `cache ls`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"context_settings": _CONTEXT, "no_args_is_help": False, **settings})

    def get_help_option(self, ctx: click.Context) -> click.Option:
        """Return the option that prints the help."""
        return _help_option()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the action that the arguments name.

        Raises:
            NoSuchCommand: There is no such action.
        """
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise NoSuchCommand(args[0], get_close_matches(args[0], self.commands), ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the actions, in their order."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the actions with their summaries."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, str(each.help).partition("\n")[0].removesuffix(".")) for name, each in self.commands.items()]
            )


class Program(click.Group):
    """The program, which imports the module of a command when the command is used.

    Attributes:
        running: The context of the command that was invoked.
    """

    def __init__(self) -> None:
        description = "Data sets, models and images in any OCI registry."
        super().__init__(
            name="ocikit",
            help=description,
            context_settings=_CONTEXT,
            options_metavar=None,
            subcommand_metavar="COMMAND [OPTIONS] [ARGUMENTS]...",
        )
        self.running: click.Context | None = None

    def get_help_option(self, ctx: click.Context) -> click.Option:
        """Return the option that prints the help."""
        return _help_option()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options of the program itself."""
        return [*super().get_params(ctx), _version_option()]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; an alias leads to the command that it stands for."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"ocikit.cli.{COMMANDS[name].module}")
        found = getattr(module, name.replace("-", "_"))
        assert isinstance(found, click.Command)  # noqa: S101 - for mypy
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name.

        Raises:
            NoSuchCommand: There is no such command; the error suggests others.
        """
        name = args[0]
        if not ctx.resilient_parsing and name not in {*COMMANDS, *ALIASES}:
            known = [each for each in FOREIGN.get(name, ()) if each in COMMANDS]
            raise NoSuchCommand(name, known or get_close_matches(name, [*COMMANDS, *ALIASES]), ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Return the commands that begin as typed, without importing them."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only a shell asks for it

        items = [
            CompletionItem(name, help=each.summary) for name, each in COMMANDS.items() if name.startswith(incomplete)
        ]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in their sections, without importing them."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in COMMANDS.items():
            sections.setdefault(entry.section, []).append((name, entry.summary))
        width = max(map(len, COMMANDS))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), summary) for name, summary in rows])
        records = [p.get_help_record(ctx) for p in self.get_params(ctx)]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record])
        _write_examples(formatter, _EXAMPLES)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])
        formatter.write_paragraph()
        formatter.write_text(f"'{ctx.command_path} COMMAND --help' explains a command.")


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH}

_EXAMPLES = (
    ("Try all of it with a temporary registry", "ocikit quickstart"),
    ("Publish a folder, and fetch it on another machine", "ocikit push ghcr.io/ada/waves:v1 waves"),
    ("", "ocikit pull ghcr.io/ada/waves:v1 data"),
)


def command(
    *, examples: Sequence[Example], name: str = "", schema: str = ""
) -> Callable[[Callable[..., int | None]], Command]:
    """Return a decorator that makes a command of a function.

    Args:
        examples: What the command does, as a sentence without a full stop, and the command line.
        name: Name of the command; the default is that of the function.
        schema: Name of the JSON schema of `--json`.
    """

    def decorate(function: Callable[..., int | None]) -> Command:
        found: Command = click.command(
            name=name or function.__name__.strip("_"), cls=Command, examples=examples, schema=schema
        )(function)
        return found

    return decorate


def completed_by(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]:
    """Return the function that completes a value; its module is imported when a shell asks.

    Args:
        kind: "references", "hosts", "files" (of an artifact), "platforms", "paths" or "folders".
    """

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        from ocikit.cli import complete as module  # noqa: PLC0415 - only a shell asks for it

        items: list[CompletionItem[str]] = getattr(module, f"complete_{kind}")(ctx, parameter, incomplete)
        return items

    return complete


def argument(
    name: str,
    metavar: str,
    help: str,  # noqa: A002 - as in click
    *,
    complete: str = "",
    **settings: Any,
) -> Callable[[Any], Any]:
    """Return a decorator that adds an argument.

    Args:
        name: Python's name of the parameter.
        metavar: Name in the help: "REFERENCE", "[FOLDER]" or "PATH...".
        help: Help text.
        complete: Kind of values that a shell offers, as in `completed_by`.
        settings: Those of `click.Argument`.
    """
    if complete:
        settings["shell_complete"] = completed_by(complete)
    settings = {"required": not metavar.startswith("["), "nargs": -1 if metavar.endswith("...") else 1, **settings}
    return click.argument(name, cls=Argument, metavar=metavar, help=help, **settings)


def is_quiet() -> bool:
    """Return True if the present command must print nothing but errors."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(_QUIET))


def _write_examples(formatter: click.HelpFormatter, examples: Sequence[Example]) -> None:
    if examples:
        with formatter.section("Examples"):
            for text, line in examples:
                indent = " " * formatter.current_indent
                lines = [*([f"# {text}"] if text else []), *line.split("\n")]
                formatter.write("".join(f"{indent}{each}\n" for each in lines))


def _help_option() -> click.Option:
    def show(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            print(ctx.get_help())
            ctx.exit()

    return click.Option(
        ["-h", "--help"], is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show this help."
    )


def _version_option() -> click.Option:
    def show(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            from ocikit import __version__  # noqa: PLC0415 - only this option needs it

            print(f"ocikit {__version__}")
            ctx.exit()

    return click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show the version."
    )


def _quiet_option() -> click.Option:
    def store(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
        ctx.meta[_QUIET] = value

    return click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=store,
        help="Write only errors to stderr: no progress bar, no summary.",
    )
