"""Hints in the words of the shell: `ocikit.tags('x')` becomes `ocikit tags x`, and `force=True` becomes `--force`.

The commands themselves decide: an argument or option has the name of its Python keyword. A part of a hint that has no
counterpart on the command line is marked as Python.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from ocikit.cli.command import Argument, Program
from ocikit.cli.table import COMMANDS

#: Commands for functions and methods of other names.
_VERBS = {"open": "cat", "download": "cat", "pin": "resolve", "collect": "gc"}

#: Commands that are searched for a keyword that the present command lacks, in this order.
_NEIGHBOURS = ("pull", "push", "copy", "edit", "attach", "save", "load", "delete", "tag", "login", "ls")

#: Phrases about attributes, and their counterparts; {ref} is the reference.
_PHRASES = {
    "list(artifact.files)": "ocikit ls {ref}",
    "list(artifact.members)": "ocikit ls {ref}",
    "list(edit) has the names of all": "ocikit ls {ref} lists all names",
    "artifact.tree()": "ocikit ls {ref}",
    "its files are in .files": "ocikit ls {ref} lists its files",
    "look at .index": "look with ocikit inspect {ref}",
    "look at .manifest": "look with ocikit inspect {ref}",
    "look at .platforms": "look with ocikit inspect {ref}",
    "call .pull(folder), or .unpack(folder) for an image": "name a folder: ocikit pull {ref} FOLDER",
    ": raise them with Network(…), or check the network": "; check the network",
    "increase total_timeout in Network(…); what": "run it again; what",
    "call again": "run it again",
}

#: Functions that have the name of a command, but another meaning.
_OTHERS = {"gc", "verify", "cache"}

_VALUE = r"True|False|None|\"[^\"]*\"|'[^']*'|\[[^\]]*\]|…|\d[\w.]*"
_KEYWORD = re.compile(rf"(?<![\w.\-/])([a-z_]+)=(?:({_VALUE})|(?![\w\"'(\[]))")

#: Python that is left: a call, a keyword, an attribute, or a name of the package.
_PYTHON = re.compile(
    r"(?<![\w/.\-])(?:ocikit\.[A-Za-z]|[A-Za-z_]\w*(?:\.\w+)*\([^)\s]*\)|\.[a-z_]+\(|[a-z_]{2,}=(?=[\"'\[…]|True|None|False|$|[ ,;.)]))"
)


class ShellWords:
    """Translator of hints for one command.

    Args:
        command: The command that has failed.
        values: Values of the call, by parameter.
    """

    def __init__(self, command: click.Command, values: Mapping[str, Any]) -> None:
        self._command = command
        self._values = values

    def message(self, text: str) -> str:
        """Return a message with options in place of keywords of the command."""
        return _KEYWORD.sub(self._keyword(self._options([self._command])), text)

    def hint(self, text: str) -> str:
        """Return a hint in the words of the shell; what remains Python is marked."""
        for phrase, words in _PHRASES.items():
            text = text.replace(phrase, words.format(ref=self._word_for("ref", "REFERENCE")))
        text = "".join(self._calls(text))
        text = re.sub(r"\bocikit\.([a-z]+)\b(?![.(])", self._name, text)
        text = _KEYWORD.sub(self._keyword(self._options(self._neighbours())), text)
        return "; ".join(f"in Python: {part}" if _PYTHON.search(part) else part for part in text.split("; "))

    def _neighbours(self) -> list[click.Command]:
        return [self._command, *(_command(name) for name in _NEIGHBOURS if name in COMMANDS)]

    @staticmethod
    def _options(commands: list[click.Command]) -> dict[str, click.Option]:
        """Return the options by Python's keyword; those of the first commands count."""
        every = [p for command in reversed(commands) for p in command.params if isinstance(p, click.Option)]
        return {p.name: p for p in every if p.name}

    @staticmethod
    def _keyword(options: Mapping[str, click.Option]) -> Callable[[re.Match[str]], str]:
        def translated(match: re.Match[str]) -> str:
            option = options.get(match[1])
            if option is None:
                return match[0]
            if match[2] is None:
                return option.opts[0]
            return _option_words(option, _parsed(match[2])) or match[0]

        return translated

    def _name(self, match: re.Match[str]) -> str:
        name = _VERBS.get(match[1], match[1])
        return f"ocikit {name}" if name in COMMANDS else match[0]

    def _calls(self, text: str) -> Iterator[str]:
        """Yield the text in parts, with commands in place of calls."""
        done = 0
        for match in re.finditer(r"(?<![\w)\].])(?:[A-Za-z_]\w*)?(?:\.[a-z_]+)*\(", text):
            if match.start() < done or match[0] == "(":
                continue
            end = _closing(text, match.end())
            if end is None:
                continue
            source = text[match.start() : end]
            if text.startswith(".files", end):
                source, end = re.sub(r"\binspect\(", "ls(", source), end + len(".files")
            command = self._call(source)
            if command is not None and not text.startswith((".", " as "), end):
                yield text[done : match.start()]
                yield command
                done = end
        yield text[done:]

    def _call(self, source: str) -> str | None:
        """Return the command for a call; None if there is none."""
        node = _parsed(f"artifact{source}" if source.startswith(".") else source)
        if not isinstance(node, ast.Call):
            return None
        owner, _, name = ast.unparse(node.func).rpartition(".")
        name = _VERBS.get(name, name)
        if owner not in {"", "ocikit", "ocikit.auth", "artifact"} or name not in COMMANDS or name in _OTHERS:
            return None
        command = _command(name)
        given = [*([ast.Name("ref")] if owner == "artifact" else []), *node.args]
        words = [self._words(command, given), *(_keyword_words(command, each) for each in node.keywords)]
        return None if None in words else " ".join(["ocikit", name, *filter(None, words)])

    def _words(self, command: click.Command, nodes: list[ast.expr]) -> str | None:
        """Return the arguments of a command for those of a call."""
        arguments = [p for p in command.params if isinstance(p, Argument)]
        words = []
        for index, node in enumerate(nodes):
            if not arguments:
                return None
            argument = arguments[min(index, len(arguments) - 1)]
            if index >= len(arguments) and argument.nargs == 1:
                return None
            match node:
                case ast.Constant(value=str(text)):
                    words.append(_quoted(text))
                case ast.Constant() if node.value is ...:
                    words.append("…")
                case ast.Name(id="ref") | ast.Starred():
                    words.append(self._word_for(argument.name, argument.human_readable_name.strip("[]")))
                case ast.Name():
                    words.append(node.id.upper())
                case _:
                    return None
        missing = arguments[len(nodes) :]
        words += [self._word_for(each.name, each.human_readable_name) for each in missing if each.required]
        return " ".join(words)

    def _word_for(self, name: str | None, metavar: str) -> str:
        """Return the value that the failed command has for an argument, or the name of the argument."""
        value = self._values.get(name or "")
        return _quoted(value) if name == "ref" and isinstance(value, str) else metavar


def _command(name: str) -> click.Command:
    command = Program().get_command(click.Context(Program()), name)
    assert command is not None  # noqa: S101 - for mypy; the table has the name
    return command


def _parsed(source: str) -> ast.expr | None:
    source = re.sub(r"(\"[^\"]*\"|'[^']*')|…", lambda match: match[1] or "...", source)
    try:
        return ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError):
        return None


def _closing(text: str, start: int) -> int | None:
    """Return the position after the parenthesis that closes the one before `start`."""
    depth, quote = 1, ""
    for index in range(start, len(text)):
        character = text[index]
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "([") - (character in ")]")
            if not depth:
                return index + 1
    return None


def _keyword_words(command: click.Command, keyword: ast.keyword) -> str | None:
    option = next((p for p in command.params if isinstance(p, click.Option) and p.name == keyword.arg), None)
    return None if option is None else _option_words(option, keyword.value)


def _option_words(option: click.Option, value: ast.expr | None) -> str | None:
    """Return an option with a value; None if the option cannot have it."""
    flag = option.opts[0]
    choices = option.type.choices if isinstance(option.type, click.Choice) else None
    match value:
        case ast.Constant(value=True) if option.is_flag:
            return flag
        case ast.Constant(value=False) if option.secondary_opts:
            return option.secondary_opts[0]
        case ast.Constant(value=None) if choices is not None and "none" in choices:
            return f"{flag} none"
        case ast.Constant() if value.value is ... and not option.is_flag:
            return f"{flag} …"
        case ast.Constant(value=str(text)) if not option.is_flag and (
            choices is None or text in choices or "…" in text
        ):
            return f"{flag} {_quoted(text)}"
        case ast.Constant(value=int(number) | float(number)) if not option.is_flag:
            return f"{flag} {number}"
        case ast.List(elts=[*elements]) if option.multiple:
            words = [_option_words(option, each) for each in elements]
            return None if None in words else " ".join(filter(None, words))
        case _:
            return None


def _quoted(value: str) -> str:
    """Return a word as a shell needs it, with escapes for control characters; an ellipsis stands for a part of it."""
    if not value.isprintable():
        return "$'" + value.encode("unicode_escape").decode().replace("'", "\\'") + "'"
    return value if "…" in value else shlex.quote(value)
