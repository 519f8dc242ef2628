"""Run tests/interop/test_interop.py and print its table in Markdown: python -m tests.tools.interop_table"""

import platform
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.interop.test_interop import LISTERS, TOOLS
from tests.support import peers

TITLES = {
    "flat": "A multi-platform image",
    "nested": "A multi-platform image with an index in its index",
    "artifact": "An artifact of three files in folders",
    "referrer": "An artifact with a subject",
    "listed": "Who lists whose referrers",
}


class Cells:
    """A pytest plugin that collects the results of cells."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str], dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties: dict[str, Any] = dict(report.user_properties)
        if "cell" not in properties or report.when != "call":
            return
        *cell, registry = properties["cell"]
        outcome = properties.get("cannot", "yes") if report.passed else "failed"
        self.found.setdefault(tuple(cell), {})[registry] = outcome


def table(cells: Cells) -> str:
    """Return Markdown: a table for each content, with the reasons below it."""
    lines = []
    for what, title in TITLES.items():
        readers = LISTERS if what == "listed" else TOOLS
        verb = "listed by" if what == "listed" else "pulled by"
        lines += ["", f"### {title}", "", f"| pushed by | {' | '.join(f'{verb} {r}' for r in readers)} |"]
        lines.append("|---" * (len(readers) + 1) + "|")
        reasons: list[str] = []
        for writer in TOOLS:
            row = [_cell(cells.found.get((what, writer, reader), {}), reasons) for reader in readers]
            lines.append(f"| {writer} | {' | '.join(row)} |")
        lines += ["", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))] if reasons else []
    return "\n".join(lines).strip()


def _cell(outcomes: dict[str, str], reasons: list[str]) -> str:
    if not outcomes:
        return "not run"
    if set(outcomes.values()) == {"yes"}:
        return "yes"
    parts = []
    for outcome in dict.fromkeys(outcomes.values()):
        where = [registry for registry, one in outcomes.items() if one == outcome]
        suffix = f" ({', '.join(where)})" if len(where) < len(outcomes) else ""
        if outcome in {"yes", "failed"}:
            parts.append(("**failed**" if outcome == "failed" else outcome) + suffix)
            continue
        if outcome not in reasons:
            reasons.append(outcome)
        parts.append(f"can't [{reasons.index(outcome) + 1}]{suffix}")
    return ", ".join(parts)


def main() -> int:
    cells = Cells()
    # Send pytest's output to stderr, because the table goes to a file
    saved, sys.stdout = sys.stdout, sys.stderr
    try:
        status = pytest.main(
            [str(Path(__file__).parents[1] / "interop" / "test_interop.py"), "-q", "-rf"], plugins=[cells]
        )
    finally:
        sys.stdout = saved
    ran = sorted({registry for outcomes in cells.found.values() for registry in outcomes})
    left = [kind for kind in peers.KINDS if kind not in ran]
    print(f"Registries: {', '.join(ran)}; not here: {', '.join(left) or 'none'}. Python {platform.python_version()}.\n")
    print(table(cells))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
