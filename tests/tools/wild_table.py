"""Run the operations on all registry profiles and print Markdown: python -m tests.tools.wild_table"""

import sys
from pathlib import Path
from typing import Any

import pytest
from ocikit.testing.profiles import PROFILES
from ocikit.testing.quirks import QUIRKS

from tests.resilience.suite import OPERATIONS
from tests.resilience.test_quirks import TESTS


class Cells:
    """A pytest plugin that collects the results of operations."""

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
    """Return Markdown: a row for each operation, a column for each registry. An error's name is the expected error."""
    lines = [f"| | {' | '.join(PROFILES)} |", "|---" * (len(PROFILES) + 1) + "|"]
    for operation in OPERATIONS:
        row = [cells.found.get((operation, profile), "not run") for profile in PROFILES]
        lines.append(f"| {operation} | {' | '.join(row)} |")
    return "\n".join(lines)


def quirks(cells: Cells) -> str:
    """Return Markdown: a row for each quirk with its registries, tests and evidence."""
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
    # Send pytest's output to stderr, because the table goes to a file
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
