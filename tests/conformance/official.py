"""The specification's own programme, in the runs that it takes to see each of its tests pass.

One run can't: some tests are for a registry that was filled by somebody else, some for one that doesn't have what another
test has just pushed. So there are several, each in repositories of its own, and a test counts

| as | if it |
|---|---|
| failed | failed in any run |
| passed | passed in one run or more, and failed in none |
| disabled | is for registries that are told apart by OCI_AUTOMATIC_CROSSMOUNT, and this is one of the others |
| skipped | was in no run |

The runs:

| run | is there for |
|---|---|
| manifests first | every workflow; what is pushed is deleted from the manifests down |
| blobs first | the same, in the other order: a registry may refuse to delete what is referenced, and must do so properly |
| nothing to mount | "Cross-mounting of nonexistent blob": it is skipped where the mount before it has succeeded |
| filled | "Get tag name from environment" and "Populate registry with test tags (no push)", with content that is there before |

Of "Cross-mounting without from …" there are two, enabled and disabled: 201 for registries that look for the blob in all
repositories, 202 for those that don't. No registry passes both.
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

#: What the programme is called in .peers/bin.
PROGRAMME = "conformance"

WORKFLOWS = ("PULL", "PUSH", "CONTENT_DISCOVERY", "CONTENT_MANAGEMENT")

_PREFIX = "OCI Distribution Conformance Tests "
_EXCLUSIVE = "Push Cross-Repository Blob Mount Cross-mounting without from, and automatic content discovery "

#: What it prints where a registry doesn't do what it may leave out, in a test that passes all the same.
_WARNING = re.compile(r"WARNING: (.*?)\s*\x1b\[0m|WARNING: (.*)")


@define
class Result:
    """Names of tests, by what became of them; those that have one name are numbered."""

    passed: list[str] = field(factory=list)
    failed: dict[str, str] = field(factory=dict)
    """With what the programme said."""
    skipped: list[str] = field(factory=list)
    disabled: list[str] = field(factory=list)
    warnings: list[str] = field(factory=list)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """How many passed, failed, were skipped, were disabled."""
        return len(self.passed), len(self.failed), len(self.skipped), len(self.disabled)


def run(
    url: str,
    user: str | None = None,
    password: str | None = None,
    *,
    read_only: tuple[str, str, str, str] | None = None,
    anonymous_mount: bool = True,
) -> Result:
    """Every run against a registry, and their sum.

    Args:
        url: of the registry.
        user: with *password*, if it wants to know.
        password: of *user*.
        read_only: a repository, and of it a tag, the digest of that manifest, and the digest of a blob: only the runs
            that read are made. Everything else counts as disabled.
        anonymous_mount: whether the registry looks for a blob to mount in all repositories.
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
        # The half of the tags is asked for
        moves.put(server, repo, "second", image.documents[0]).must(201)
    tag, digest = next(iter(image.tags.items()))
    results.append(_filled(url, common, repo, tag, digest, next(iter(image.blobs))))
    other = _EXCLUSIVE + ("disabled" if anonymous_mount else "enabled")
    return _sum(results, disabled=lambda name: name.startswith(other))


def _filled(url: str, common: dict[str, str], repo: str, tag: str, digest: str, blob: str) -> Result:
    """The tests that need no pushes. Referrers are left out: which there must be depends on what the programme pushes."""
    given = {"OCI_TAG_NAME": tag, "OCI_MANIFEST_DIGEST": digest, "OCI_BLOB_DIGEST": blob, "OCI_TAG_LIST": tag}
    given |= {"OCI_TEST_PUSH": "0", "OCI_TEST_CONTENT_MANAGEMENT": "0"}
    only = "Tests Pull|Content Discovery Setup|listing tags|nonexistent blob should result in empty 200"
    return _once(url, common | given, repo, f"-ginkgo.focus={only}")


def _writes(name: str) -> bool:
    """Whether a test changes the registry, or wants to find what one before it has pushed."""
    return bool(
        re.match(
            r"Push |Content Management |.* (Setup|Teardown) |.*\(listing references\) .* (existing|missing) ", name
        )
    )


def _once(url: str, variables: dict[str, str], repo: str, *arguments: str) -> Result:
    """One run. Raises: AssertionError: if it came to no result."""
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
    """A JUnit report of the programme."""
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
    """Start a registry, and make every run. A read-only one is filled before."""
    given = None
    if target.mode == "read-only":
        with running(Target("dev"), folder, keep=True) as filled, contextlib.closing(Wire(filled.url)) as wire:
            repo, kind = moves.new_name("official"), make("artifacts-with-subject")
            moves.push(Server(wire, "dev"), repo, kind)
        given = (repo, "image", kind.tags["image"], next(iter(kind.blobs)))
    with running(target, folder) as there:
        return run(there.url, there.user, there.password, read_only=given)
