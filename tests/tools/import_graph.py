"""The import graph of the package: python -m tests.tools.import_graph prints its rooms, arrows and violations.

Every import counts: at module level, inside functions and under `TYPE_CHECKING`. A room is a folder of `ocikit/`, or a
module that stands alone there.
"""

import ast
import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import ocikit

ROOT = Path(ocikit.__file__).parent

#: Each room and the rooms below it that it may import.
ROOMS: dict[str, set[str]] = {
    "display": set(),
    "waits": set(),
    "forks": {"waits"},
    "errors": {"display"},
    "packages": {"errors"},
    "spec": {"errors", "display"},
    "progress": {"forks", "spec", "errors", "display"},
    "layers": {"forks", "spec", "progress", "errors", "display"},
    "store": {"forks", "waits", "layers", "progress", "spec", "errors", "display"},
    "descriptions": {"packages", "store", "layers", "spec", "errors", "display"},
    "transfer": {"forks", "waits", "store", "progress", "spec", "errors", "display"},
    "folder": {"transfer", "store", "layers", "progress", "spec", "errors", "display"},
    "remote": {"forks", "waits", "transfer", "store", "progress", "spec", "errors", "display"},
    "dialects": {"descriptions", "layers", "spec", "errors", "display"},
    "client": {"dialects", "descriptions", "forks", "folder", "remote", "transfer", "store", "layers", "progress", "spec", "errors", "display"},
    "filesystem": {"client", "forks", "layers", "remote", "store", "transfer", "spec", "errors", "display"},
    "notebook": {"descriptions", "client", "layers", "progress", "spec", "errors", "display"},
    "server": {"spec", "errors", "display", "forks", "waits", "store.files", "store.locks", "store.reflink", "store.streams", "store.results"},
    "testing": {"server", "spec", "errors", "waits"},
    "auth": {"client", "notebook", "remote", "spec", "errors"},
    "data": {"packages", "waits", "descriptions", "client", "filesystem", "folder", "layers", "transfer", "store", "spec", "errors", "display"},
    "api": {"descriptions", "client", "filesystem", "data", "notebook", "auth", "store", "spec", "errors", "display"},
    "cli": {"ocikit", "api", "auth", "data", "client", "descriptions", "dialects", "folder", "remote", "server", "transfer", "progress", "spec", "errors", "display"},
    "__main__": {"cli"},
    "ocikit": {"api", "auth", "client", "data", "descriptions", "dialects", "notebook", "server", "remote", "folder", "transfer", "store", "layers", "progress",
               "spec", "errors", "display"},
}  # fmt: skip

#: Inside a room: modules, by prefix, and what of their own room they must not import.
WINGS: dict[str, set[str]] = {
    "remote.http": {"remote.registry", "remote.repository", "remote.endpoints", "remote.upload", "remote.download",
                    "remote.spans"},
    "remote.auth": {"remote.http.transport", "remote.registry", "remote.repository", "remote.endpoints"},
    "remote.config": {"remote.http", "remote.auth", "remote.registry", "remote.repository", "remote.endpoints"},
    "server.http": {"server.process", "server.storage.files", "server.storage.memory", "server.storage.sql",
                    "server.auth.basic", "server.auth.tokens", "server.auth.htpasswd"},
    "server.storage": {"server.process", "server.http"},
    "server.auth": {"server.process"},
    "transfer": {"store.memory", "store.layout", "store.cache"},
}  # fmt: skip


def name_of(path: Path) -> str:
    parts = ["ocikit", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(), str(MODULES[name]))


def imports(name: str, nodes: Iterator[ast.AST] | None = None) -> Iterator[tuple[str, str, int]]:
    """Yield each import of a module: the imported module, the imported name, the line."""
    for node in ast.walk(tree(name)) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield (module, "", node.lineno) if module in MODULES else (node.module, alias.name, node.lineno)


def inner(name: str) -> str:
    """Return a module's name without the package's."""
    return name.partition(".")[2] or name


def room(name: str) -> str:
    return inner(name).partition(".")[0]


def below(name: str, prefixes: set[str]) -> bool:
    return any(f"{inner(name)}.".startswith(f"{prefix}.") for prefix in prefixes)


def arrows() -> Iterator[tuple[str, str, str, int]]:
    """Yield each import of ours: importer, imported module, imported name, line."""
    for name in MODULES:
        for module, what, line in imports(name):
            if module in MODULES and module != name:
                yield name, module, what, line


def upward() -> list[str]:
    """Return the imports that point up or aside, one line each."""
    found = []
    for name, module, _, line in arrows():
        here, there = room(name), room(module)
        if module == "ocikit._version" or here == there:
            continue
        if not below(module, ROOMS[here]):
            found.append(f"{name}:{line} imports {module}")
    for name, module, _, line in arrows():
        for wing, forbidden in WINGS.items():
            if below(name, {wing}) and below(module, forbidden):
                found.append(f"{name}:{line} imports {module}")
    return sorted(set(found))


def private() -> list[str]:
    """Return the imports of private names, one line each."""
    return [
        f"{name}:{line} imports {module}.{what}"
        for name, module, what, line in arrows()
        if what.startswith("_") and not what.startswith("__")
    ]


def circles() -> list[str]:
    """Return the strongly connected groups of modules, one line each (Tarjan)."""
    edges = {name: sorted({m for m, _, _ in imports(name) if m in MODULES and m != name}) for name in MODULES}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in edges[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(" <-> ".join(sorted(map(inner, group))))

    for name in MODULES:
        if name not in index:
            visit(name)
    return sorted(found)


def lazy() -> list[str]:
    """Return the imports inside functions, one line each."""
    found = []
    for name in MODULES:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found += [f"{name}:{line} imports {module}" for module, _, line in imports(name, ast.walk(node))]
    return sorted(set(found))


def main() -> None:
    """Print the graph."""
    lines = Counter[str]()
    for name, path in MODULES.items():
        lines[room(name)] += len(path.read_text().splitlines())
    between = Counter((room(a), room(b)) for a, b, _, _ in arrows() if room(a) != room(b))
    for here in ROOMS:
        targets = ", ".join(f"{there} {n}" for (a, there), n in sorted(between.items()) if a == here)
        print(f"{here:>9} {lines[here]:>6} lines -> {targets or '-'}")
    for title, found in (("circles", circles()), ("upward", upward()), ("private", private()), ("lazy", lazy())):
        print(f"{title}: {len(found)}")
        for line in found:
            print(f"  {line}")


if __name__ == "__main__":
    main()
