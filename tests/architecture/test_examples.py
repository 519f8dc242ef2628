"""Docstrings that teach: each public callable has an example that runs, and sections are written in full sentences."""

import ast
import builtins
import doctest
import importlib
import inspect
import io
import re
import runpy
import types
from pathlib import Path

import ocikit
import ocikit.auth
import pytest
from ocikit.errors import OcikitError

from tests.tools.import_graph import MODULES, tree

PAGES = Path(__file__).resolve().parents[2] / ".ci" / "docs" / "reference.py"

#: Methods of file objects. The example of the class reads one.
FILE_METHODS = {name for name in dir(io.BufferedIOBase) if not name.startswith("_")}

#: Names that need no import in an example: the reader has imported `ocikit`.
KNOWN = {*dir(builtins), "ocikit", "_"}


def reference():
    """Return the names that the site's reference shows in addition to those of `ocikit` and `ocikit.auth`."""
    for _, parts in runpy.run_path(str(PAGES))["REFERENCE"].values():
        for part in parts:
            if part != "session" and not part.startswith("verb "):
                module, _, names = part.partition(":")
                content = vars(importlib.import_module(module))
                own = [n for n, value in content.items() if getattr(value, "__module__", "").startswith(module)]
                yield from ((f"{module}.{n}", content[n]) for n in names.split() or own if not n.startswith("_"))


def public():
    """Return the public functions and classes by name."""
    named = {name: getattr(ocikit, name) for name in ocikit.__all__}
    own = {
        name: value for name, value in vars(ocikit.auth).items() if getattr(value, "__module__", "") == "ocikit.auth"
    }
    named |= {f"auth.{name}": value for name, value in own.items() if not name.startswith("_")}
    named |= dict(reference())
    seen = set()
    for name, value in named.items():
        is_ours = getattr(value, "__module__", "").startswith("ocikit")
        if is_ours and isinstance(value, types.FunctionType | type) and id(value) not in seen:
            seen.add(id(value))
            yield name, value


def methods(cls):
    """Return the public methods of a class with their names, those of base classes included."""
    for name in dir(cls):
        value = inspect.getattr_static(cls, name)
        value = getattr(value, "__func__", value)
        if (
            not name.startswith("_")
            and isinstance(value, types.FunctionType)
            and value.__module__.startswith("ocikit.")
        ):
            yield name, value


def has_example(value):
    return ">>>" in (value.__doc__ or "")


def inherits_example(cls, name):
    """Return True if a base class shows the method that a class overrides."""
    return any(has_example(base.__dict__[name]) for base in cls.__mro__ if name in base.__dict__)


def is_shown_by_class(cls, name, method):
    """Return True if the example of a class is enough for its method.

    That is so for the methods of file objects, for interfaces whose methods readers write, not call, and for tests that
    pytest calls.
    """
    is_interface = getattr(method, "__isabstractmethod__", False) and cls.__module__.startswith("ocikit.server")
    is_test = cls.__module__.startswith("ocikit.server.testing")
    return has_example(cls) and (name in FILE_METHODS or is_interface or is_test)


def without_example():
    """Yield the names of public callables without an example, each once: inherited methods are shown by a base class."""
    seen = set()
    for name, value in public():
        if isinstance(value, type) and issubclass(value, BaseException) and value is not OcikitError:
            continue  # an error is raised, not called
        if not has_example(value):
            yield name
        if isinstance(value, type):
            for method_name, method in methods(value):
                if inherits_example(value, method_name) or is_shown_by_class(value, method_name, method):
                    continue
                if id(method) not in seen:
                    seen.add(id(method))
                    yield f"{method.__module__}.{method.__qualname__}"


def test_every_public_callable_has_an_example():
    missing = list(without_example())
    assert not missing, f"{len(missing)} callables have no example:\n" + "\n".join(missing)


# Sections

SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes):$")


def entries(docstring):
    """Return the entries of the sections of a docstring, each with its section and name.

    The sections Returns and Yields are one entry without a name.
    """
    section, found = None, []
    for line in inspect.cleandoc(docstring).splitlines():
        if line and not line.startswith(" "):
            match = SECTION.match(line)
            section = match and match[1]
            if section in {"Returns", "Yields"}:
                found.append((section, "", ""))
        elif section and line.strip():
            match = re.match(r" {4}(\*{0,2}[\w.]+): *(.*)", line)
            if match and section not in {"Returns", "Yields"}:
                found.append((section, match[1], match[2]))
            elif found:
                section, name, text = found[-1]
                found[-1] = (section, name, f"{text} {line.strip()}".strip())
    return found


#: Beginnings that continue the name of an entry, such as "digest: Of the blob.", instead of saying what it is.
TELEGRAM = re.compile(r"(Of|As|From|Its|By|Same|In bytes)\b|.*\bas above\b")

#: Names of packages, which are written in lower case at the start of a sentence, too.
PACKAGES = ("duckdb ", "fsspec ", "ipywidgets ", "jsonschema ", "polars ", "pyarrow ", "zstd ")


def is_sentence(text):
    """Return True for a sentence or a noun phrase: a capital, a quote or code first, a full stop last, two words or more."""
    start = re.match(r"[A-Z0-9\"`(~.<]", text) or text.startswith(PACKAGES)
    return bool(start) and text.endswith((".", ".)")) and " " in text and not TELEGRAM.match(text)


@pytest.mark.parametrize("name", MODULES)
def test_sections_are_full_sentences(name):
    found = [
        f"{name}:{node.lineno}: {getattr(node, 'name', 'module')}: {section}: {entry}: {text}"
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        for section, entry, text in entries(ast.get_docstring(node) or "")
        if not is_sentence(text)
    ]
    assert not found, "\n".join(found)


def test_incomplete_entries_are_detected():
    docstring = """Push files.

    Args:
        tags: more names.
        title: Title
        ref: Reference of the artifact, which may
            be a layout.

    Returns:
        the artifact

    Raises:
        NotFound: As above.
    """
    found = [name or section for section, name, text in entries(docstring) if not is_sentence(text)]
    assert found == ["tags", "title", "Returns", "NotFound"]


def undocumented(name, function):
    """Return how the section `Args` of a function differs from its parameters; few parameters need no section."""
    documented = {entry.lstrip("*") for section, entry, _ in entries(function.__doc__ or "") if section == "Args"}
    parameters = {
        p for p in inspect.signature(function).parameters if p not in {"self", "cls"} and not p.startswith("_")
    }
    if documented == parameters or (not documented and len(parameters) < 2):
        return []
    return [f"{name}: {', '.join(sorted(documented ^ parameters))}"]


def test_args_are_the_parameters():
    found = []
    for name, value in public():
        if isinstance(value, types.FunctionType):
            found += undocumented(name, value)
        elif not value.__module__.startswith("ocikit.server.testing"):
            for method_name, method in methods(value):
                found += undocumented(f"{name}.{method_name}", method)
    assert not found, "\n".join(found)


def test_errors_in_docstrings_can_be_caught_by_name():
    found = {
        f"{name}: {error}"
        for name, value in public()
        if name in ocikit.__all__ or name.startswith("auth.")
        for shown in (value, *(dict(methods(value)).values() if isinstance(value, type) else ()))
        for section, error, _ in entries(shown.__doc__ or "")
        if section == "Raises" and not hasattr(ocikit, error) and not hasattr(builtins, error)
    }
    assert not found, "\n".join(sorted(found))


# Examples


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name, value in public():
        yield from ((test.name, test.examples) for test in finder.find(value, name, globs={}) if test.examples)


def unknown_names(examples):
    """Return the names that examples use and a reader does not have."""
    known, unknown = set(KNOWN), set()
    for example in examples:
        nodes = list(ast.walk(ast.parse(example.source)))
        known |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        known |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        known |= {n.name for n in nodes if isinstance(n, ast.ExceptHandler) and n.name}
        known |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        known |= {
            (a.asname or a.name).split(".")[0]
            for n in nodes
            if isinstance(n, ast.Import | ast.ImportFrom)
            for a in n.names
        }
        unknown |= {n.id for n in nodes if isinstance(n, ast.Name)} - known
    return unknown


def test_examples_run_after_importing_ocikit():
    found = {name: unknown for name, shown in examples() if (unknown := unknown_names(shown))}
    assert not found, "\n".join(f"{name}: {', '.join(sorted(unknown))}" for name, unknown in found.items())


# Signatures


def signatures():
    for name, value in public():
        if name in ocikit.__all__ or name.startswith("auth."):
            found = dict(methods(value)) if isinstance(value, type) else {"": value}
            yield from ((f"{name}.{key}".rstrip("."), inspect.signature(shown)) for key, shown in found.items())


def test_annotations_are_shown_without_quotes():
    found = [f"{name}{signature}" for name, signature in signatures() if re.search(r"(: |-> )'", str(signature))]
    assert not found, "\n".join(found)
