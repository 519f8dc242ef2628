"""What hints, messages and documents name exists: parameters, functions, options, commands, extras and variables."""

import ast
import builtins
import importlib
import importlib.util
import inspect
import re
import tomllib
from functools import cache
from pathlib import Path

import click
import ocikit
import pytest
from ocikit.cli.command import Program
from ocikit.cli.table import ALIASES, COMMANDS
from ocikit.testing.__main__ import make_parser

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "ocikit").rglob("*.py"))
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]

#: The verbs that a room's hints reach: each parameter that a hint names is one of all of them.
REACHED = {"layers/walk.py": ("push", "attach"), "layers/pack.py": ("push", "attach"), "folder/plan.py": ("pull",)}

#: Options of other programs.
FOREIGN_OPTIONS = {"--repository-name", "--plain-http"}

#: Functions of other libraries in code spans.
OTHERS = {"get_wsgi_application", "write", "read", "retrieve"}


def text_of(node):
    """Return the text of a string expression, with an ellipsis for each value in it."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)
        case _:
            return ""


def docstrings(tree):
    """Return the nodes of docstrings."""
    owners = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    return {n.body[0].value for n in owners if n.body and isinstance(n.body[0], ast.Expr)}


@cache
def strings(path):
    """Return (line, text, is a docstring) of each string of a file, without the parts of longer ones."""
    tree = ast.parse(path.read_text())
    prose = docstrings(tree)
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Constant | ast.JoinedStr) and n not in parts]
    return [(node.lineno, text, node in prose) for node in nodes if (text := text_of(node)) and " " in text.strip()]


def messages():
    """Yield (place, text) of each string that is not a docstring: messages, hints and help."""
    for path in SOURCES:
        for line, text, prose in strings(path):
            if not prose:
                yield f"{path.relative_to(ROOT / 'ocikit')}:{line}", text


def hints():
    """Yield (room's file, line, text) of each hint."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            values = []
            if isinstance(node, ast.keyword) and node.arg == "hint":
                values = [node.value]
            elif isinstance(node, ast.Assign) and any("hint" in ast.unparse(target).lower() for target in node.targets):
                values = [node.value]
            for value in values:
                for part in ast.walk(value):
                    if isinstance(part, ast.Constant | ast.JoinedStr) and text_of(part):
                        yield str(path.relative_to(ROOT / "ocikit")), part.lineno, text_of(part)


def prose():
    """Yield (place, text) of everything that a user reads: documents, docstrings, messages and hints."""
    for path in DOCUMENTS:
        yield path.name, path.read_text()
    for path in SOURCES:
        for line, text, _ in strings(path):
            yield f"{path.relative_to(ROOT)}:{line}", text


@cache
def public():
    """Return {name: object} of everything that `import ocikit` offers, with the members of its classes and modules."""
    found = {name: getattr(ocikit, name) for name in ocikit.__all__}
    for module in ("ocikit.auth", "ocikit.server", "ocikit.server.testing"):
        loaded = importlib.import_module(module)
        found |= {name: getattr(loaded, name) for name in getattr(loaded, "__all__", dir(loaded))}
    for owner in [*found.values()]:
        if inspect.isclass(owner):
            found |= {name: getattr(owner, name) for name in dir(owner) if not name.startswith("_")}
    return found


def parameters(thing):
    """Return the names of the parameters of a function or class."""
    try:
        return set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return set()


@cache
def keywords():
    """Return every parameter of the public functions, methods and classes."""
    functions = [getattr(ocikit, name) for name in ocikit.__all__]  # a method of the same name does not hide one
    return set().union(*(parameters(thing) for thing in [*functions, *public().values()]))


@cache
def defined():
    """Return the names of all functions and classes of the package."""
    nodes = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))]
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@cache
def commands():
    """Return the commands of the command line."""
    return {*COMMANDS, *ALIASES}


@cache
def options():
    """Return the options of all commands and of their actions, and those of `python -m ocikit.testing`."""
    program = Program()
    ctx = click.Context(program, info_name="ocikit")
    found = [program, *(program.get_command(ctx, name) for name in COMMANDS)]
    found += [action for each in found[1:] if isinstance(each, click.Group) for action in each.commands.values()]
    ours = {option for each in found for p in each.get_params(ctx) for option in [*p.opts, *p.secondary_opts]}
    return ours | set(re.findall(r"--[a-z][a-z-]*", make_parser().format_help()))


def resolves(dotted):
    """Return True if a dotted name that starts with ocikit leads to something."""
    parts = dotted.split(".")
    thing = ocikit
    for index, part in enumerate(parts[1:], 1):
        if not hasattr(thing, part):
            try:
                importlib.import_module(".".join(parts[: index + 1]))
            except ImportError:
                return part in getattr(thing, "__annotations__", {})
        thing = getattr(thing, part)
    return True


def test_parameters_in_hints_exist():
    wrong = []
    for file, line, text in hints():
        for name in re.findall(r"(?<![\w.])([a-z_]{2,})=(?=[\w\"'…\[({, ;.]|$)", text):
            verbs = [getattr(ocikit, verb) for verb in REACHED.get(file, ())]
            known = set.intersection(*map(parameters, verbs)) if verbs else keywords()
            if name not in known:
                wrong.append(f"{file}:{line}: {name}=  ({text})")
    assert wrong == []


def test_functions_in_messages_exist():
    known = public().keys() | vars(builtins).keys() | OTHERS
    wrong = []
    for place, text in messages():
        for dotted in re.findall(r"(?<![\w/.-])ocikit((?:\.[A-Za-z_]+)+)\b(?!/)", text):
            if not resolves(f"ocikit{dotted}"):
                wrong.append(f"{place}: ocikit{dotted}")
    for file, line, text in hints():
        for name in re.findall(r"(?<![\w…])\.?([A-Za-z_]+)\(", text):
            if name not in known:
                wrong.append(f"{file}:{line}: {name}()  ({text})")
    assert wrong == []


def test_functions_in_docstrings_exist():
    standard = {
        name
        for module in ("os", "json", "re", "io", "threading", "shutil")
        for name in dir(importlib.import_module(module))
    }
    known = public().keys() | defined() | vars(builtins).keys() | standard | OTHERS
    wrong = []
    for path in SOURCES:
        for line, text, is_docstring in strings(path):
            for span in re.findall(r"`([^`\n]+)`", text) if is_docstring else []:
                for name in re.findall(r"^(?:[a-z_]+\.)*([A-Za-z_]+)\(", span):
                    if name not in known:
                        wrong.append(f"{path.relative_to(ROOT)}:{line}: {span}")
    assert wrong == []


def test_dotted_names_in_documents_exist():
    wrong = []
    for place, text in prose():
        for dotted in re.findall(r"(?<![\w/.\-])ocikit((?:\.[A-Za-z_]+)+)(?=[(`\s)\]'\",;:]|$)", text):
            if not resolves(f"ocikit{dotted}"):
                wrong.append(f"{place}: ocikit{dotted}")
    assert wrong == []


def test_extras_in_messages_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [(place, extra) for place, text in prose() for extra in re.findall(r"ocikit\[([a-z, ]+)\]", text)]
    assert named
    assert [
        (place, extra) for place, extra in named if not {e.strip() for e in extra.split(",")} <= extras.keys()
    ] == []


def test_options_in_messages_exist():
    wrong = []
    for place, text in [*messages(), ("README.md", DOCUMENTS[0].read_text())]:
        for option in re.findall(r"(?<![\w-])(--[a-z][a-z-]+)\b", text):
            if option not in options() | FOREIGN_OPTIONS:
                wrong.append(f"{place}: {option}")
    assert wrong == []


def test_commands_in_messages_exist():
    assert {"pull", "push", "serve", "quickstart"} <= commands()
    wrong = []
    for place, text in prose():
        for command in re.findall(r"(?:python3? -m ocikit|`ocikit|\$ ocikit|run ocikit) ([a-z|]+)\b", text):
            if not commands().issuperset(command.split("|")):
                wrong.append(f"{place}: {command}")
    assert wrong == []


def test_scripts_in_documents_start():
    """Each `python -m` of CONTRIBUTING.md is a module that can be imported, with a main."""
    named = sorted(set(re.findall(r"^python -m ([a-z_.]+)", (ROOT / "CONTRIBUTING.md").read_text(), re.M)))
    tools = [f"tests.tools.{path.stem}" for path in (ROOT / "tests" / "tools").glob("*.py") if path.stem != "__init__"]
    assert {"tests.fuzz", "benchmarks", "tests.tools.soak_wild"} <= set(named)
    for name in {*named, *tools}:
        spec = importlib.util.find_spec(name)
        assert spec and spec.origin, name
        module = importlib.import_module(f"{name}.__main__" if spec.submodule_search_locations else name)
        assert "__main__" in Path(module.__file__).read_text() or module.__name__.endswith("__main__"), name


def test_variables_in_documents_are_read():
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / ".ci").glob("*"), *(ROOT / "benchmarks").glob("*.py")]
    code = "\n".join(path.read_text() for path in files if path.is_file())
    named = {name for _, text in prose() for name in re.findall(r"\bOCIKIT_[A-Z_]*[A-Z]\b(?!_)", text)}
    assert {"OCIKIT_CACHE", "OCIKIT_PEERS"} <= named
    assert {name for name in named if f'"{name}"' not in code and f"${{{name}" not in code} == set()


def test_calls_in_readme_match_signatures():
    text = DOCUMENTS[0].read_text()
    wrong = []
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    spans = [
        span for line in text.splitlines() if not line.startswith("```") for span in re.findall(r"`([^`\n]+\))`", line)
    ]
    for code in [*blocks, *spans]:
        try:
            tree = ast.parse(code)
        except SyntaxError:
            continue
        for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
            owner, _, name = ast.unparse(call.func).rpartition(".")
            if (
                thing := getattr(ocikit, name, None) if owner == "ocikit" else public().get(name)
            ) is None or not callable(thing):
                continue
            taken = inspect.signature(thing).parameters
            if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
                continue
            wrong += [f"{name}({k.arg}=)" for k in call.keywords if k.arg not in taken]
    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arguments_in_docstrings_are_parameters(path):
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or not (text := ast.get_docstring(node)):
            continue
        section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", text, re.M)
        named = re.findall(r"^    \*{0,2}([A-Za-z_]+)(?: \([^)]*\))?:", section[1], re.M) if section else []
        if isinstance(node, ast.FunctionDef):
            a = node.args
            taken = {arg.arg for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg] if arg}
        else:
            inner = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
            taken = {a.arg for n in inner for a in [*n.args.args, *n.args.kwonlyargs, n.args.vararg, n.args.kwarg] if a}
            taken |= {
                n.target.id.lstrip("_")
                for n in node.body
                if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
            }
        wrong += [f"{path.name}:{node.lineno}: {node.name}: {name}" for name in named if name not in taken]
    assert wrong == []
