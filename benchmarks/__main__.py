"""All benchmarks: `python -m benchmarks [SECTION] [OPTIONS]`.

| section | |
|---|---|
| (none), `pull`, `push` | pull and push, compared with other tools (`benchmarks.transfers`) |
| `list` | the names of all sections |
| `all` | every section in turn, with its default options |
| another name | the module `benchmarks.NAME`, with its options |
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

FIRST = "transfers"


def sections() -> dict[str, str]:
    """Return the summaries of all modules with a `main`, by name."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py"), key=lambda path: (path.stem != FIRST, path.stem)):
        text = path.read_text()
        if "\ndef main(" in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found


def main() -> int:
    """Run a section in place of this process, or all sections in turn."""
    name, *rest = sys.argv[1:] or [FIRST]
    if name.startswith("-") or name in {"pull", "push"}:
        name, rest = FIRST, sys.argv[1:]
    known = sections()
    if name == "list":
        print("\n".join(f"{section:10} {summary}" for section, summary in known.items()))
        return 0
    if name in known:
        os.execv(sys.executable, [sys.executable, "-m", f"benchmarks.{name}", *rest])  # noqa: S606 - no shell
    if name != "all":
        print(f"unknown section {name!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    status = 0
    for section in known:
        print(f"\n# {section}\n", flush=True)
        status = subprocess.call([sys.executable, "-m", f"benchmarks.{section}", *rest]) or status
    return status


if __name__ == "__main__":
    sys.exit(main())
