"""The shape of the code: who imports whom, what is public, and what importing costs."""

import ast
import functools
import importlib
import json
import subprocess
import sys
from pathlib import Path

import ocikit
import pytest

ROOT = Path(ocikit.__file__).parent

#: What is loaded on use only, and the rooms that use it.
HEAVY = {
    "IPython": {"notebook"},
    "ipywidgets": {"notebook"},
    "rich": {"display", "notebook"},
    "fsspec": set(),
    "granian": {"server"},
    "sqlalchemy": {"server"},
    "bcrypt": {"server"},
    "jwt": {"server"},
    "jsonschema": {"spec"},
}

#: Modules that are made of a heavy package from their first line on: tables, widgets. Who needs them imports them on use.
OPENED_ON_USE = {
    "ocikit.notebook.columns",
    "ocikit.notebook.explorer",
    "ocikit.server.metadata",
    "ocikit.server.tables",
}

#: Each room and what it may import. What stands in no folder, save errors and display, is the facade.
ROOMS = {
    "display": set(),
    "errors": {"display"},
    "spec": {"display", "errors"},
    "content": {"display", "errors", "spec"},
    "remote": {"display", "errors", "spec", "content"},
    "facade": {"display", "errors", "spec", "content", "remote"},
    "server": {"display", "errors", "spec", "content"},
    "notebook": {"display", "errors", "spec", "content.progress", "artifact"},
}

#: Rooms that the facade opens on use only: inside functions.
ON_USE = {"notebook", "server"}

#: Inside remote, a module knows none of its own rank or above, not even through others.
REMOTE_RANKS = {
    "credentials": 0,
    "referrers": 0,
    "transport": 1,
    "download": 2,
    "upload": 2,
    "repository": 3,
}

#: Modules of content that hold content. The algorithm that moves it between them knows none.
CONCRETE = {"archive_layout", "cache", "folder", "layout", "memory"}


def name_of(path):
    parts = ["ocikit", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


@functools.cache
def tree(name):
    return ast.parse(MODULES[name].read_text(), str(MODULES[name]))


def at_import(nodes):
    """Every node that runs when the module is imported: all but the insides of functions, and what is for type checkers."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            args = node.args
            inside = [*args.defaults, *filter(None, args.kw_defaults), *getattr(node, "decorator_list", ())]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            inside = node.orelse
        else:
            yield node
            inside = list(ast.iter_child_nodes(node))
        yield from at_import(inside)


def imported(name, nodes):
    """The modules that the nodes import: ours in full, others by their first name."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for a in node.names:
                yield f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base


def ours(name, *, on_import=False):
    nodes = at_import([tree(name)]) if on_import else ast.walk(tree(name))
    return {m for m in imported(name, nodes) if m in MODULES and m != name}


def inner(name):
    """A module's name without "ocikit."."""
    return name.partition(".")[2]


def room(name):
    first = inner(name).partition(".")[0]
    return first if first in ROOMS else "facade"


@pytest.mark.parametrize("name", MODULES)
def test_modules_import_from_their_own_room_and_the_rooms_below(name):
    mine = room(name)
    for other in ours(name):
        where = room(other)
        allowed = (
            where == mine
            or where in ROOMS[mine]
            or inner(other) in ROOMS[mine]
            or other == "ocikit._version"
            or (mine == "facade" and where in ON_USE)
        )
        assert allowed, f"{name} imports {other}: {mine} may know {sorted(ROOMS[mine])}"


@pytest.mark.parametrize("name", MODULES)
def test_the_facade_opens_the_notebook_and_the_server_on_use_only(name):
    if room(name) not in ON_USE:
        assert {room(m) for m in ours(name, on_import=True)}.isdisjoint(ON_USE)


def closure(name, known=None):
    """Every module that a module knows, through others too."""
    known = set() if known is None else known
    for other in ours(name):
        if other not in known:
            known.add(other)
            closure(other, known)
    return known


@pytest.mark.parametrize("module", REMOTE_RANKS)
def test_remote_is_built_in_storeys(module):
    if f"ocikit.remote.{module}" not in MODULES:
        pytest.skip(f"no remote.{module} yet")
    for other in closure(f"ocikit.remote.{module}"):
        last = other.rpartition(".")[2]
        if room(other) == "remote" and last != module and last in REMOTE_RANKS:
            assert REMOTE_RANKS[last] < REMOTE_RANKS[module], f"remote.{module} knows remote.{last}"


def test_the_copy_algorithm_knows_no_concrete_store():
    known = {m.rpartition(".")[2] for m in closure("ocikit.content.copy") if room(m) == "content"}
    assert known.isdisjoint(CONCRETE)


def test_importing_runs_in_no_circle():
    done, way = set(), []

    def visit(name):
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            way.append(name)
            for other in sorted(ours(name, on_import=True)):
                visit(other)
            done.add(way.pop())

    for name in MODULES:
        visit(name)


@pytest.mark.parametrize("name", MODULES)
def test_heavy_packages_are_imported_in_their_own_room_and_on_use(name):
    everywhere = {m.partition(".")[0] for m in imported(name, ast.walk(tree(name)))}
    for package in everywhere & set(HEAVY):
        assert room(name) in HEAVY[package], f"{name} imports {package}"
    if name not in OPENED_ON_USE:
        first = {m.partition(".")[0] for m in imported(name, at_import([tree(name)]))}
        assert first.isdisjoint(HEAVY)


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_are_made_of_a_heavy_package_are_opened_on_use_only(name):
    if name not in OPENED_ON_USE:
        assert ours(name, on_import=True).isdisjoint(OPENED_ON_USE)


@pytest.mark.parametrize("name", MODULES)
def test_only_the_command_line_prints(name):
    asks = {"ocikit.notebook.login"}  # for a user's name
    if name != "ocikit.__main__":
        calls = [n for n in ast.walk(tree(name)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        unwanted = {"print", "input", "breakpoint"} - ({"input"} if name in asks else set())
        assert not [c.lineno for c in calls if c.func.id in unwanted]


#: What looks at the machine: the environment, the home folder, the working directory.
LOOKS = {"environ", "environb", "getenv", "expanduser", "expandvars", "home", "getcwd", "cwd", "gethostname", "getuid",
         "user_cache_dir", "user_cache_path", "user_config_dir", "user_data_dir"}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_importing_reads_nothing_of_the_machine(name):
    for node in at_import([tree(name)]):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            what = node.attr if isinstance(node, ast.Attribute) else node.id
            assert what not in LOOKS, f"{name}:{node.lineno} reads {what} when it is imported"


# What is public


def defined(name):
    """The names that a module defines at its top: (functions and classes, constants and aliases)."""
    things, constants = set(), set()
    for node in tree(name).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            things.add(node.name)
        elif isinstance(node, ast.Assign):
            typevar = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") in {
                "TypeVar",
                "ParamSpec",
            }
            constants |= {t.id for t in node.targets if isinstance(t, ast.Name) and not typevar}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            constants.add(node.target.id)
    return {n for n in things if not n.startswith("_")}, {n for n in constants if not n.startswith("_")}


def reexported(name):
    """What a module took from others of ours, and may pass on."""
    nodes = [n for n in tree(name).body if isinstance(n, ast.ImportFrom) and n.module in MODULES]
    return {a.asname or a.name for n in nodes for a in n.names}


def exported(name):
    for node in tree(name).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    return None


def order(name):
    """As ruff sorts `__all__`: constants, classes, the rest."""
    plain = name.lstrip("_")
    return (0 if plain.isupper() and len(plain) > 1 else 1 if plain[:1].isupper() else 2), name


PLAIN = [n for n, path in MODULES.items() if path.name not in {"__init__.py", "__main__.py", "_version.py"}]


@pytest.mark.parametrize("name", PLAIN)
def test_a_module_exports_what_it_defines_and_no_more(name):
    names = exported(name)
    assert names is not None, f"{name} has no __all__"
    things, constants = defined(name)
    assert things <= set(names), f"begin with _ or export: {sorted(things - set(names))}"
    assert set(names) <= things | constants | reexported(name), "exports what isn't there"
    assert names == sorted(set(names), key=order)


@pytest.mark.parametrize("name", PLAIN)
def test_modules_use_of_each_other_what_is_exported(name):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for a in node.names:
                if f"{node.module}.{a.name}" not in MODULES and MODULES[node.module].name != "__init__.py":
                    assert a.name in (exported(node.module) or ("__version__",)), f"{name} uses {node.module}.{a.name}"


def test_the_table_of_contents_is_complete_and_sorted():
    names = getattr(ocikit, "__all__", [])
    assert list(names) == sorted(set(names), key=order)
    for name in names:
        assert getattr(ocikit, name) is not None
    submodules = {inner(n).partition(".")[0] for n in MODULES}
    public = {
        n
        for n, value in vars(ocikit).items()
        if not n.startswith("_") and n != "annotations" and not (n in submodules and isinstance(value, type(sys)))
    }
    assert public <= set(names), f"export or begin with _: {sorted(public - set(names))}"


# What importing costs


def fresh(code):
    """The JSON that code prints in an interpreter of its own."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return json.loads(run.stdout)


def test_importing_ocikit_loads_nothing_heavy():
    loaded = fresh("import ocikit, sys, json; print(json.dumps(list(sys.modules)))")
    assert {m.partition(".")[0] for m in loaded}.isdisjoint(
        {*HEAVY, "cattrs", "hypothesis", "pytest", "numpy", "pandas"}
    )
    assert {"tqdm.notebook", "tqdm.auto", "ocikit.server", "ocikit.notebook.explorer"}.isdisjoint(loaded)


def test_importing_ocikit_takes_a_moment(record_property):
    """Not asserted, since machines differ; `pytest --junit-xml` keeps the figures."""
    clock = "import time, json; t = time.perf_counter(); import {}; print(json.dumps((time.perf_counter() - t) * 1000))"
    for module in ("requests", "ocikit", "ocikit.spec.manifest"):
        record_property(f"import {module} (ms)", round(min(fresh(clock.format(module)) for _ in range(3)), 1))


def test_every_module_can_be_imported_alone():
    for name in MODULES:
        if name != "ocikit.__main__":
            importlib.import_module(name)
