"""The specification's own conformance program, and its results.

The program pushes every kind of content and requests it again. It runs once for each registry, in two new repositories.
Its settings follow the mode of the registry:

| mode | settings |
|---|---|
| dev | the unreleased specification, also manifests before their children |
| stable | the released specification |
| read-only | reads of content that was pushed before, in `OCI_RO_DATA_…` |
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from attrs import define, field

from tests.conformance import upload_flows as moves
from tests.conformance.documents import make
from tests.conformance.targets import Target, running
from tests.conformance.upload_flows import Server
from tests.conformance.wire import Wire
from tests.support import peers

#: Name of the program in .peers/bin.
PROGRAMME = "conformance"

MODES = {
    "dev": {"OCI_VERSION": "dev", "OCI_DATA_SPARSE": "true"},
    "stable": {"OCI_VERSION": "stable"},
    "read-only": {"OCI_VERSION": "stable"}
    | {f"OCI_API_{name}": "false" for name in ("PUSH", "BLOBS_DELETE", "MANIFESTS_DELETE", "TAGS_DELETE")},
}


@define
class Result:
    """Names of tests by result; equal names are numbered."""

    passed: list[str] = field(factory=list)
    failed: list[str] = field(factory=list)
    skipped: list[str] = field(factory=list)
    disabled: list[str] = field(factory=list)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Return the numbers of passed, failed, skipped and disabled tests."""
        return len(self.passed), len(self.failed), len(self.skipped), len(self.disabled)


def run(
    url: str,
    mode: str = "stable",
    user: str | None = None,
    password: str | None = None,
    given: Mapping[str, str] | None = None,
) -> Result:
    """Run the program against a registry.

    Args:
        url: The registry.
        mode: "dev", "stable" or "read-only".
        user: The user, with *password*, if the registry requires one.
        password: The password of *user*.
        given: Settings of the existing content, for a read-only registry.

    Raises:
        AssertionError: The program ended without a result.
    """
    scheme, _, host = url.partition("://")
    settings = MODES[mode] | {"OCI_REGISTRY": host, "OCI_TLS": "disabled" if scheme == "http" else "insecure"}
    settings |= {f"OCI_REPO{number}": moves.new_name("official") for number in (1, 2)} | dict(given or {})
    if user is not None:
        settings |= {"OCI_USERNAME": user, "OCI_PASSWORD": password or ""}
    with tempfile.TemporaryDirectory(prefix="ocikit-conformance-") as folder:
        env = {key: value for key, value in os.environ.items() if not key.startswith("OCI_")}
        done = peers.run(
            PROGRAMME, env=env | settings | {"OCI_RESULTS_DIR": folder}, check=False, cwd=folder, timeout=280
        )
        # The report of a read-only registry ends it with a nil pointer (run.go:818), after the printed results
        result = read(done.stdout)
        assert result.passed, f"{PROGRAMME} ended with {done.returncode} and no result:\n{done.stdout}{done.stderr}"
        return result


def read(printed: str) -> Result:
    """Parse the results that the program prints."""
    result = Result()
    seen: dict[str, int] = {}
    for name, status in re.findall(r"^ *OCI Conformance Test/(.+): (\w+)$", printed, re.MULTILINE):
        seen[name] = seen.get(name, 0) + 1
        numbered = name + f" ({seen[name]})" * (seen[name] > 1)
        where = {"Pass": result.passed, "Skip": result.skipped, "Disabled": result.disabled}.get(status, result.failed)
        where.append(numbered)
    return result


def run_target(target: Target, folder: Path) -> Result:
    """Start a registry and run the program against it. A read-only registry is filled first."""
    given = {}
    if target.mode == "read-only":
        with running(Target("dev"), folder, keep=True) as filled, contextlib.closing(Wire(filled.url)) as wire:
            repo, kind = moves.new_name("official"), make("artifacts-with-subject")
            moves.push(Server(wire, "dev"), repo, kind)
        given = {"OCI_REPO1": repo, "OCI_RO_DATA_TAGS": "image", "OCI_RO_DATA_BLOBS": " ".join(kind.blobs)}
        given |= {f"OCI_RO_DATA_{name}": kind.tags["image"] for name in ("MANIFESTS", "REFERRERS")}
    with running(target, folder) as there:
        return run(there.url, target.mode, there.user, there.password, given)
