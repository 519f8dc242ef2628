"""The reference page of the command line, built from the commands themselves: a hook of mkdocs."""

from collections.abc import Iterator, Mapping
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from ocikit import errors
from ocikit.cli.command import Argument, Command, Example, Program
from ocikit.cli.failures import exit_code
from ocikit.cli.schemas import OUTPUTS, Output
from ocikit.cli.table import ALIASES, COMMANDS, EXIT_CODES
from ocikit.errors import OcikitError

#: Options that many commands have, with their meaning.
_COMMON = {
    "-h, --help": "The help of a command.",
    "-q, --quiet": "Errors only on stderr: no progress bar, no summary.",
    "--insecure HOST": "Plain http, or an unverified certificate, is allowed for this host. It is repeatable.",
    "--workers N": "Number of parallel transfers (8).",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, "reference/command_line.md", content=page()))
    return files


def page() -> str:
    """Return the page as Markdown."""
    return "\n\n".join([*_introduction(), *_sections()]) + "\n"


def _introduction() -> Iterator[str]:
    yield "# Command line"
    yield (
        "`ocikit COMMAND`, or `python -m ocikit COMMAND`. A result goes to stdout, and messages go to stderr. `--quiet` leaves"
        " errors only. Type `ocikit COMMAND --help` for what is here."
    )
    yield "## Exit codes"
    kinds: dict[int, list[str]] = {}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, OcikitError) and kind is not OcikitError:
            code = exit_code(kind())
            if code not in {exit_code(base()) for base in kind.__bases__ if issubclass(base, OcikitError)}:
                kinds.setdefault(code, []).append(f"[{kind.__name__}](errors.md#ocikit.errors.{kind.__name__})")
    rows = [(str(code), text, ", ".join(kinds.get(code, []))) for code, text in EXIT_CODES.items()]
    yield _table(("code", "meaning", "errors"), rows)
    yield "## Common options"
    yield "All commands have the first two, and those that connect to a registry the others."
    yield _table(("option", "meaning"), [(f"`{names}`", text) for names, text in _COMMON.items()])
    yield "## JSON"
    yield (
        "With `--json`, a command writes one document, or JSON lines: a document in each line. All characters are ASCII."
        " Later versions may add keys, so programs must ignore those that they do not know."
        " `ocikit schema COMMAND` prints the JSON schema (draft 2020-12)."
    )


def _sections() -> Iterator[str]:
    program = Program()
    context = click.Context(program, info_name="ocikit")
    section = ""
    for name, entry in COMMANDS.items():
        if entry.section != section:
            section = entry.section
            yield f"## {section}"
        command = program.get_command(context, name)
        if isinstance(command, click.Group):
            yield f"### {name}"
            yield _prose(command.help or "")
            inner = click.Context(command, info_name=name, parent=context)
            for action in command.list_commands(inner):
                yield from _command(f"{name} {action}", command.commands[action], inner, "####")
        elif isinstance(command, Command):
            yield from _command(name, command, context, "###")


def _command(name: str, command: click.Command, parent: click.Context, heading: str) -> Iterator[str]:
    assert isinstance(command, Command)  # noqa: S101 - all commands are
    context = click.Context(command, info_name=name.rpartition(" ")[2], parent=parent)
    yield f"{heading} {name}"
    yield _prose(command.help or "")
    if aliases := [alias for alias, real in ALIASES.items() if real == name]:
        yield f"Other name: {', '.join(f'`{alias}`' for alias in aliases)}."
    yield _code(context.get_usage().removeprefix("Usage: "))
    parameters = command.get_params(context)
    rows = [(f"`{p.make_metavar(context)}`", _text(p.help)) for p in parameters if isinstance(p, Argument)]
    records = [p.get_help_record(context) for p in parameters if isinstance(p, click.Option)]
    rows += [(f"`{names}`", _text(text)) for names, text in filter(None, records) if names not in _COMMON]
    if rows:
        yield _table(("argument, option", "meaning"), rows)
    if command.examples:
        yield _code("\n".join(_example(command.examples)), "bash")
    if output := OUTPUTS.get(name):
        yield from _json(output)


def _example(examples: tuple[Example, ...]) -> Iterator[str]:
    for text, line in examples:
        if text:
            yield f"# {text}"
        yield line


def _json(output: Output) -> Iterator[str]:
    kinds = output.schema.get("anyOf", [output.schema])
    for number, schema in enumerate(kinds):
        first = "JSON lines" if output.lines else "JSON"
        yield f"{'Or' if number else first}: {_text(schema.get('description', ''))}"
        if rows := list(_keys(schema)):
            yield _table(("key", "type", "content"), rows)


def _keys(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield a row for each key of a document, with those of its lists and objects."""
    required = schema.get("required", [])
    for key, value in schema.get("properties", {}).items():
        name = f"{path}{key}"
        missing = "" if key in required else " It may be absent."
        yield f"`{name}`", _type(value), _text(value.get("description", "")) + missing
        for inner, mark in ((value, "."), (value.get("items"), "[]."), (value.get("additionalProperties"), ".*.")):
            if isinstance(inner, dict):
                yield from _keys(inner, f"{name}{mark}")


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join("null" if value is None else f"`{value}`" for value in schema["enum"])
    kinds = schema.get("type", "any")
    return " or ".join([kinds] if isinstance(kinds, str) else kinds)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _prose(text: str) -> str:
    return "\n\n".join(_text(" ".join(paragraph.split())) for paragraph in text.split("\n\n"))


def _text(text: str | None) -> str:
    """Return text whose characters have no meaning in Markdown or HTML."""
    escaped = (text or "").replace("&", "&amp;").replace("<", "&lt;").replace("*", r"\*").replace("_", r"\_")
    return escaped.replace("[", r"\[").replace("`", r"\`").replace("|", r"\|")


def _code(text: str, language: str = "text") -> str:
    return f"```{language}\n{text}\n```"
