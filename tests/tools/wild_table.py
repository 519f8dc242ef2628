"""Run the operations on the world's registries and print what came of them in Markdown: python -m tests.tools.wild_table"""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.resilience.profiles import PROFILES
from tests.resilience.quirks import QUIRKS
from tests.resilience.suite import OPERATIONS
from tests.resilience.test_quirks import TESTS


class Cells:
    """A pytest plugin that gathers what the operations report."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], str] = {}
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid.rpartition("::")[2].partition("[")[0])
        properties: dict[str, Any] = dict(report.user_properties)
        if "cell" in properties and report.when == "call":
            operation, profile, outcome = properties["cell"]
            self.found[operation, profile] = outcome if report.passed else "**failed**"


def operations(cells: Cells) -> str:
    """Markdown: a row for each operation, a column for each registry. An error's name is what it has to raise there."""
    lines = [f"| | {' | '.join(PROFILES)} |", "|---" * (len(PROFILES) + 1) + "|"]
    for operation in OPERATIONS:
        row = [cells.found.get((operation, profile), "not run") for profile in PROFILES]
        lines.append(f"| {operation} | {' | '.join(row)} |")
    return "\n".join(lines)


def quirks(cells: Cells) -> str:
    """Markdown: a row for each quirk, with the registries that have it, its tests and the evidence."""
    lines = ["| quirk | what the registry does | profiles | tests | evidence |", "|---|---|---|---|---|"]
    for name, quirk in QUIRKS.items():
        profiles = [p.name for p in PROFILES.values() if name in p.quirks]
        tests = [f"`{test}`" + (" **failed**" if test in cells.failed else "") for test in TESTS[name]]
        row = [name, quirk.about, ", ".join(profiles) or "-", ", ".join(tests), quirk.evidence]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> int:
    cells = Cells()
    here = Path(__file__).parents[1] / "resilience"
    # pytest's own output goes aside: the table is for a file
    saved, sys.stdout = sys.stdout, sys.stderr
    try:
        files = [str(here / name) for name in ("test_profiles.py", "test_quirks.py")]
        status = pytest.main([*files, "-q", "-rf"], plugins=[cells])
    finally:
        sys.stdout = saved
    print(f"{operations(cells)}\n\n{quirks(cells)}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
