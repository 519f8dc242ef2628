"""Check registries and print a Markdown table of the results; see the package."""

import argparse
import contextlib
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conformance import official
from tests.conformance.targets import Target, targets
from tests.support import peers

ROW = "| {:<26} | {:<8} | {:>6} | {:>6} | {:>7} | {:>8} |"


class Counter:
    """Count the results of our own suite by target, as a pytest plugin."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def pytest_runtest_logreport(self, report) -> None:
        target = dict(report.user_properties).get("target")
        if target is not None and (report.when == "call" or report.outcome != "passed"):
            # Without the target, so that the checks of two targets can be compared
            name = report.nodeid.replace(target, "")
            self.outcomes[target][report.outcome].add(name)

    def counts(self, target: Target) -> tuple[int, int, int, int]:
        """Return the numbers of passed, failed and skipped checks, and of checks that the mode excludes from those of dev."""
        found = self.outcomes[str(target)]
        left_out = set()
        if target.mode == "stable":
            dev = next((self.outcomes[str(each)] for each in targets() if each.mode == "dev"), {})
            left_out = set().union(*dev.values()) - set().union(*found.values())
        return len(found["passed"] - found["failed"]), len(found["failed"]), len(found["skipped"]), len(left_out)


def main() -> int:
    """Return 0 if no check failed or was skipped."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("url", nargs="?", help="of a running registry; without it, ours in every mode")
    parser.add_argument("--mode", choices=["dev", "stable"], default="dev")
    parser.add_argument("--user")
    parser.add_argument("--password", help="or in OCIKIT_CONFORMANCE_PASSWORD")
    options = parser.parse_args()
    for key, value in vars(options).items():
        if value is not None:
            os.environ[f"OCIKIT_CONFORMANCE_{key.upper()}"] = value

    counter = Counter()
    here = Path(__file__).parent
    with contextlib.redirect_stdout(sys.stderr):
        pytest.main(["-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", str(here)], plugins=[counter])
    rows = [(target, "ours", counter.counts(target)) for target in targets()]
    if peers.where(official.PROGRAMME):
        rows += [(target, "official", _official(target)) for target in targets()]
    else:
        print("the official suite is missing: run `bash .ci/peers`", file=sys.stderr)

    print(ROW.format("registry", "suite", "passed", "failed", "skipped", "disabled"))
    print("|---|---|---:|---:|---:|---:|")
    for target, suite, counts in rows:
        print(ROW.format(str(target), suite, *counts))
    return int(any(failed or skipped or not passed for _, _, (passed, failed, skipped, _) in rows))


def _official(target: Target) -> tuple[int, int, int, int]:
    with tempfile.TemporaryDirectory(prefix="ocikit-conformance-") as folder:
        result = official.run_target(target, Path(folder))
    for name in result.failed:
        print(f"{target}: {name}: failed", file=sys.stderr)
    for name in result.skipped:
        print(f"{target}: {name}: skipped", file=sys.stderr)
    return result.counts


if __name__ == "__main__":
    sys.exit(main())
