"""Architecture: imports point down, public names are complete, imports are cheap."""

import ast
import builtins
import importlib
import json
import pickle
import re
import subprocess
import sys
import traceback

import ocikit
import pytest

from tests.tools import import_graph
from tests.tools.import_graph import MODULES, ROOT, imports, inner, room, tree

#: Packages that are imported on use only, and the rooms that use them.
HEAVY = {
    "IPython": {"notebook", "progress"},
    "anywidget": {"notebook"},
    "marimo": {"progress"},
    "ipywidgets": {"notebook", "progress"},
    "rich": {"display", "notebook"},
    "markdown_it": {"display"},
    "fsspec": {"client", "filesystem"},
    "upath": {"filesystem"},
    "duckdb": {"api", "data"},
    "polars": {"api", "data"},
    "yaml": {"descriptions", "dialects"},
    "pyarrow": {"data", "descriptions"},
    "granian": {"server"},
    "sqlalchemy": {"server"},
    "alembic": {"server"},
    "bcrypt": {"server"},
    "boto3": {"server"},
    "botocore": {"server"},
    "obstore": {"server"},
    "psycopg": {"server"},
    "jwt": {"server", "testing"},
    "jsonschema": {"spec"},
    "pathspec": {"layers"},
}

#: Packages that `import ocikit` does not import; the first use of a name does.
ON_USE = {"attr", "attrs", "cattrs", "certifi", "click", "requests", "tqdm", "urllib3"}

#: Modules that import a heavy package at their top. Others import these modules on use.
OPENED_ON_USE = {
    "ocikit.filesystem.filesystem",
    "ocikit.filesystem.path",
    "ocikit.filesystem.writing",
    "ocikit.notebook.column",
    "ocikit.notebook.explorer",
    "ocikit.notebook.login",
    "ocikit.server.storage.sql",
    "ocikit.server.storage.database",
    "ocikit.server.storage.schema",
    "ocikit.server.storage.sql_gc",
    "ocikit.server.storage.cluster.connection",
    "ocikit.server.storage.cluster.migrations.env",
    "ocikit.server.storage.cluster.migrations.versions.r0001_tables",
}

#: Violations that are known and must go; the set only shrinks.
PENDING_CIRCLES: set[str] = set()
PENDING_UPWARD: set[str] = set()


def at_import(nodes):
    """Yield every node that runs at import: all except function bodies and TYPE_CHECKING blocks."""
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


def at_top(name):
    """Return the modules that are imported with a module."""
    return {module for module, _, _ in imports(name, at_import([tree(name)]))}


def test_imports_point_downwards():
    found = {line.split(":")[0] + line[line.index(" imports") :] for line in import_graph.upward()}
    assert found <= PENDING_UPWARD


def test_imports_run_in_no_circle():
    assert set(import_graph.circles()) <= PENDING_CIRCLES


def test_no_module_imports_a_private_name():
    assert import_graph.private() == []


@pytest.mark.parametrize("name", MODULES)
def test_heavy_packages_are_imported_on_use_in_their_room(name):
    everywhere = {module.partition(".")[0] for module, _, _ in imports(name)}
    for package in everywhere & set(HEAVY):
        assert room(name) in HEAVY[package], f"{name} imports {package}"
    if name not in OPENED_ON_USE:
        assert {m.partition(".")[0] for m in at_top(name)}.isdisjoint(HEAVY)


@pytest.mark.parametrize("name", MODULES)
def test_modules_with_heavy_imports_are_imported_on_use(name):
    if name not in OPENED_ON_USE:
        assert at_top(name).isdisjoint(OPENED_ON_USE)


@pytest.mark.parametrize("name", MODULES)
def test_only_the_command_line_prints(name):
    asks = {"ocikit.client.login"}  # asks for a user name
    if room(name) != "cli":
        calls = [n for n in ast.walk(tree(name)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        unwanted = {"print", "input", "breakpoint"} - ({"input"} if name in asks else set())
        assert not [c.lineno for c in calls if c.func.id in unwanted]


#: Names that read the machine's state: the environment, the home folder, the working directory.
LOOKS = {"environ", "environb", "getenv", "expanduser", "expandvars", "home", "getcwd", "cwd", "gethostname", "getuid",
         "user_cache_dir", "user_cache_path", "user_config_dir", "user_data_dir"}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_import_reads_no_environment(name):
    for node in at_import([tree(name)]):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            what = node.attr if isinstance(node, ast.Attribute) else node.id
            assert what not in LOOKS, f"{name}:{node.lineno} reads {what} when it is imported"


# What is public


def order(name):
    """Sort as ruff sorts `__all__`: constants, classes, the rest."""
    plain = name.lstrip("_")
    return (0 if plain.isupper() and len(plain) > 1 else 1 if plain[:1].isupper() else 2), name


def test_public_names_are_complete_and_sorted():
    names = getattr(ocikit, "__all__", [])
    assert list(names) == sorted(set(names), key=order)
    for name in names:
        assert getattr(ocikit, name) is not None
    submodules = {inner(n).partition(".")[0] for n in MODULES}
    public = {
        n
        for n, value in vars(ocikit).items()
        if not n.startswith(("_", "@"))  # pytest adds names with "@" to packages that have a plugin
        and n != "annotations"
        and not (n in submodules and isinstance(value, type(sys)))
    }
    assert public <= {*names, "open"}, f"export or begin with _: {sorted(public - set(names))}"


def test_names_for_type_checkers_are_those_that_are_imported_on_use():
    """One list is for `__getattr__`, one for type checkers, one for `*` and the reference: they must agree."""
    on_use = ocikit._MODULES
    typed = {what: module for module, what, _ in imports("ocikit") if what and module.startswith("ocikit")}
    assert typed == on_use
    modules = {module for module, what, _ in imports("ocikit") if not what and module in MODULES}
    assert set(ocikit.__all__) == {*on_use, *map(inner, modules)} - {"open", "__version__"}


def test_star_import_replaces_no_builtin_function():
    assert set(ocikit.__all__).isdisjoint(dir(builtins))


def test_completion_has_every_name_except_single_errors():
    errors = {name for name, module in ocikit._MODULES.items() if module == "ocikit.errors"}
    assert set(dir(ocikit)) == {*ocikit.__all__, "open", "__version__"} - errors
    assert errors <= set(dir(ocikit.errors))


@pytest.mark.parametrize("name", ["errors", "display", "spec", "auth"])
def test_modules_of_the_package_need_no_import_of_their_own(name):
    assert fresh(f"import ocikit, json; print(json.dumps(ocikit.{name}.__name__))") == f"ocikit.{name}"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("pul", "ocikit.pull"), ("ls", "ocikit.inspect(ref).files"), ("NotFuond", "ocikit.NotFound")],
)
def test_unknown_name_raises_an_error_with_the_nearest(name, hint):
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; use {re.escape(hint)}") as caught:
        getattr(ocikit, name)
    assert "Did you mean" not in "".join(traceback.format_exception(caught.value)), "one suggestion is enough"


@pytest.mark.parametrize("name", ["__wrapped__", "_private", "zzzzzz", "errors.zzz"])
def test_unknown_name_without_a_near_one_raises_attribute_error(name):
    with pytest.raises(AttributeError, match=r"no attribute '[\w.]+'$"):
        getattr(ocikit, name)


def test_guessed_names_do_not_exist():
    """A guess is never shown if there is such a name."""
    assert ocikit._GUESSES.keys().isdisjoint({*ocikit._MODULES, *map(inner, MODULES)})


def test_missing_package_is_reported_as_such():
    """It must not look like a spelling mistake of the caller."""
    code = """
import json, sys
sys.modules["requests"] = None
import ocikit
try: ocikit.api
except ModuleNotFoundError as error: print(json.dumps(error.name))
"""
    assert fresh(code) == "requests"


def test_threads_import_the_same_objects():
    code = """
import json, random, threading
import ocikit
names, results, barrier = dir(ocikit), [], threading.Barrier(8)
def use():
    mine = random.sample(names, len(names))
    barrier.wait(60)
    results.append({name: id(getattr(ocikit, name)) for name in mine})
threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join(120)
print(json.dumps([len(results), all(each == results[0] for each in results)]))
"""
    assert fresh(code) == [8, True]


@pytest.mark.parametrize("name", ["pull", "Session", "NotFound", "Reference"])
def test_names_survive_a_pickle(name):
    thing = getattr(ocikit, name)
    assert pickle.loads(pickle.dumps(thing)) is thing
    loaded = f"import json, pickle; print(json.dumps(repr(pickle.loads({pickle.dumps(thing)!r}))))"
    assert name in fresh(loaded)


# Import cost


def fresh(code):
    """Return the JSON that code prints in a new interpreter."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return json.loads(run.stdout)


def test_import_loads_nothing_of_its_own():
    loaded = fresh("import ocikit, sys, json; print(json.dumps(list(sys.modules)))")
    assert [m for m in loaded if m.startswith("ocikit")] == ["ocikit"]
    assert {m.partition(".")[0] for m in loaded}.isdisjoint(ON_USE)


def test_help_of_the_command_line_loads_no_client():
    code = """
import contextlib, io, json, sys
from ocikit.cli import main
with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit): main(["--help"])
print(json.dumps([printed.getvalue(), list(sys.modules)]))
"""
    printed, loaded = fresh(code)
    assert "push" in printed
    assert {m.partition(".")[0] for m in loaded}.isdisjoint(ON_USE - {"click", "attr", "attrs"})


def test_first_use_loads_nothing_heavy():
    loaded = fresh("import ocikit, sys, json; ocikit.pull; print(json.dumps(list(sys.modules)))")
    assert {m.partition(".")[0] for m in loaded}.isdisjoint(
        {*HEAVY, "cattrs", "hypothesis", "pytest", "numpy", "pandas"}
    )
    assert {"tqdm.notebook", "tqdm.auto", "ocikit.server", "ocikit.notebook.explorer"}.isdisjoint(loaded)


def test_import_time_is_recorded(record_property):
    """Times are recorded and not asserted, because machines differ; `pytest --junit-xml` stores them."""
    clock = "import time, json; t = time.perf_counter(); import {}; print(json.dumps((time.perf_counter() - t) * 1000))"
    for module in ("requests", "ocikit", "ocikit.spec.manifest"):
        record_property(f"import {module} (ms)", round(min(fresh(clock.format(module)) for _ in range(3)), 1))


def test_every_module_can_be_imported_alone():
    for name in MODULES:
        if name != "ocikit.__main__":
            importlib.import_module(name)
