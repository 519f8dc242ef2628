"""The specification's own program, in the runs that let each of its tests pass.

One run is not enough: some tests need a filled registry, and some need a registry without the content of another test.
Each run uses its own repositories, and a test counts

| as | if it |
|---|---|
| failed | failed in any run |
| passed | passed in one run or more, and failed in none |
| disabled | is for the other value of OCI_AUTOMATIC_CROSSMOUNT |
| skipped | was in no run |

The runs:

| run | purpose |
|---|---|
| manifests first | every workflow; content is deleted from the manifests down |
| blobs first | the same in the other order: a registry may refuse to delete referenced content, with a proper error |
| nothing to mount | "Cross-mounting of nonexistent blob", which is skipped after a successful mount |
| filled | "Get tag name from environment" and "Populate registry with test tags (no push)", with existing content |

"Cross-mounting without from …" exists twice, enabled and disabled: 201 for registries that search all repositories for
the blob, 202 for others. No registry passes both.
"""

import contextlib
import os
import re
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import define, field

from tests.conformance import upload_flows as moves
from tests.conformance.documents import make, make_image
from tests.conformance.targets import Target, running
from tests.conformance.upload_flows import Server
from tests.conformance.wire import Wire
from tests.support import peers

#: Name of the program in .peers/bin.
PROGRAMME = "conformance"

WORKFLOWS = ("PULL", "PUSH", "CONTENT_DISCOVERY", "CONTENT_MANAGEMENT")

_PREFIX = "OCI Distribution Conformance Tests "
_EXCLUSIVE = "Push Cross-Repository Blob Mount Cross-mounting without from, and automatic content discovery "

#: Output of the program for a missing optional feature, in a test that passes anyway.
_WARNING = re.compile(r"WARNING: (.*?)\s*\x1b\[0m|WARNING: (.*)")


@define
class Result:
    """Names of tests by result; equal names are numbered."""

    passed: list[str] = field(factory=list)
    failed: dict[str, str] = field(factory=dict)
    """With the program's message."""
    skipped: list[str] = field(factory=list)
    disabled: list[str] = field(factory=list)
    warnings: list[str] = field(factory=list)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Return the numbers of passed, failed, skipped and disabled tests."""
        return len(self.passed), len(self.failed), len(self.skipped), len(self.disabled)


def run(
    url: str,
    user: str | None = None,
    password: str | None = None,
    *,
    read_only: tuple[str, str, str, str] | None = None,
    anonymous_mount: bool = True,
) -> Result:
    """Perform every run against a registry and return the sum.

    Args:
        url: The registry.
        user: The user, with *password*, if the registry requires one.
        password: The password of *user*.
        read_only: A repository with a tag, the digest of its manifest, and the digest of a blob. Only reading runs are
            performed, and all other tests count as disabled.
        anonymous_mount: True if the registry searches all repositories for a blob to mount.
    """
    common = {"OCI_AUTOMATIC_CROSSMOUNT": str(int(anonymous_mount))}
    if user is not None:
        common |= {"OCI_USERNAME": user, "OCI_PASSWORD": password or ""}
    if read_only:
        return _sum([_filled(url, common, *read_only)], disabled=_writes)
    results = [
        _once(url, common | {"OCI_DELETE_MANIFEST_BEFORE_BLOBS": first}, moves.new_name("official")) for first in "10"
    ]
    results.append(_once(url, common, moves.new_name("official"), "-ginkgo.focus=Cross-Repository Blob Mount"))
    with contextlib.closing(Wire(url, user, password)) as wire:
        repo, image = moves.new_name("official"), make_image()
        server = Server(wire, "stable")
        moves.push(server, repo, image, ways=[moves.post_put])
        # Half of the tags are requested
        moves.put(server, repo, "second", image.documents[0]).must(201)
    tag, digest = next(iter(image.tags.items()))
    results.append(_filled(url, common, repo, tag, digest, next(iter(image.blobs))))
    other = _EXCLUSIVE + ("disabled" if anonymous_mount else "enabled")
    return _sum(results, disabled=lambda name: name.startswith(other))


def _filled(url: str, common: dict[str, str], repo: str, tag: str, digest: str, blob: str) -> Result:
    """Return the tests without pushes. Referrers are excluded, because they depend on the program's pushes."""
    given = {"OCI_TAG_NAME": tag, "OCI_MANIFEST_DIGEST": digest, "OCI_BLOB_DIGEST": blob, "OCI_TAG_LIST": tag}
    given |= {"OCI_TEST_PUSH": "0", "OCI_TEST_CONTENT_MANAGEMENT": "0"}
    only = "Tests Pull|Content Discovery Setup|listing tags|nonexistent blob should result in empty 200"
    return _once(url, common | given, repo, f"-ginkgo.focus={only}")


def _writes(name: str) -> bool:
    """Return True if a test changes the registry or needs an earlier push."""
    return bool(
        re.match(
            r"Push |Content Management |.* (Setup|Teardown) |.*\(listing references\) .* (existing|missing) ", name
        )
    )


def _once(url: str, variables: dict[str, str], repo: str, *arguments: str) -> Result:
    """Perform one run.

    Raises:
        AssertionError: The run has no result.
    """
    with tempfile.TemporaryDirectory(prefix="ocikit-conformance-") as folder:
        env = {key: value for key, value in os.environ.items() if not key.startswith("OCI_")}
        env |= {f"OCI_TEST_{workflow}": "1" for workflow in WORKFLOWS}
        env |= {"OCI_ROOT_URL": url, "OCI_NAMESPACE": repo, "OCI_CROSSMOUNT_NAMESPACE": f"{repo}-other"}
        env |= {"OCI_HIDE_SKIPPED_WORKFLOWS": "0", "OCI_REPORT_DIR": folder} | variables
        done = peers.run(PROGRAMME, *arguments, env=env, check=False, cwd=folder)
        report = Path(folder) / "junit.xml"
        assert report.exists(), f"{PROGRAMME} ended with {done.returncode} and no report:\n{done.stdout}{done.stderr}"
        result = read(report)
    result.warnings = [first or second for first, second in _WARNING.findall(done.stderr)]
    return result


def read(report: Path) -> Result:
    """Parse a JUnit report of the program."""
    result = Result()
    seen: dict[str, int] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name, status = case.get("name", ""), case.get("status")
        if not name.startswith(_PREFIX):
            continue  # its reporters
        name = name.removeprefix(_PREFIX)
        seen[name] = seen.get(name, 0) + 1
        name += f" ({seen[name]})" if seen[name] > 1 else ""
        if status == "passed":
            result.passed.append(name)
        elif status in ("skipped", "pending"):
            result.skipped.append(name)
        else:
            wrong = next(iter(case.findall("failure") + case.findall("error")), None)
            result.failed[name] = (
                (wrong.get("message") or "") + (wrong.text or "") if wrong is not None else status or ""
            )
    return result


def _sum(results: Sequence[Result], *, disabled: Callable[[str], bool]) -> Result:
    total = Result(warnings=sorted({warning for result in results for warning in result.warnings}))
    names = dict.fromkeys(name for each in results for name in [*each.passed, *each.failed, *each.skipped])
    for name in names:
        failures = [each.failed[name] for each in results if name in each.failed]
        if failures:
            total.failed[name] = failures[0]
        elif any(name in each.passed for each in results):
            total.passed.append(name)
        elif disabled(name):
            total.disabled.append(name)
        else:
            total.skipped.append(name)
    return total


def run_target(target: Target, folder: Path) -> Result:
    """Start a registry and perform every run. A read-only registry is filled first."""
    given = None
    if target.mode == "read-only":
        with running(Target("dev"), folder, keep=True) as filled, contextlib.closing(Wire(filled.url)) as wire:
            repo, kind = moves.new_name("official"), make("artifacts-with-subject")
            moves.push(Server(wire, "dev"), repo, kind)
        given = (repo, "image", kind.tags["image"], next(iter(kind.blobs)))
    with running(target, folder) as there:
        return run(there.url, there.user, there.password, read_only=given)
