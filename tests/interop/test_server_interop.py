"""Other clients at our registry: pushes and pulls between all of them, mounts, and referrers.

tests/interop/test_interop.py runs oras, crane and skopeo at our registry too. This module adds regctl, buildah and
containerd, and checks of our access log.
"""

import contextlib
import functools
import json
import re
import subprocess
import time

import pytest

from tests.interop import test_interop
from tests.interop.test_interop import flat, reachable
from tests.support import images, peers

pytestmark = pytest.mark.interop

CLIENTS = ("ocikit", "oras", "crane", "skopeo", "regctl", "ctr")

#: ctr pushes local content only, which crane pushes for it first.
WRITERS = [*CLIENTS[:-1], pytest.param("ctr", marks=pytest.mark.peers("crane"))]


@pytest.fixture(scope="module")
def ours():
    with peers.ocikit(workers=2, options=["--log-format", "json"]) as running:
        yield running


@pytest.fixture(scope="module")
def containerd(tmp_path_factory):
    """Return a function that gives containerd's socket. The first call starts it: other clients do without."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda: stack.enter_context(_containerd(tmp_path_factory.mktemp("containerd"))))


@contextlib.contextmanager
def _containerd(folder):
    """Start containerd. Only its content store is used, which needs no namespaces."""
    program, client = peers.find("containerd"), peers.find("ctr")
    (folder / "config.toml").write_text(f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
                                        f'[grpc]\naddress = "{folder}/containerd.sock"\n')  # fmt: skip
    with peers.process([program, "--config", folder / "config.toml"], folder / "log"):
        for _ in range(300):
            done = subprocess.run(
                [client, "-a", folder / "containerd.sock", "version"], capture_output=True, check=False
            )
            if done.returncode == 0:
                break
            time.sleep(0.1)
        else:
            pytest.fail((folder / "log").read_text()[-2000:])
        yield folder / "containerd.sock"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Write a multi-platform image as a layout without any client."""
    return flat(tmp_path_factory.mktemp("flat"))


@pytest.fixture(scope="module")
def pushed(ours, content, containerd, tmp_path_factory):
    """Push the image with each client once."""
    done = {}

    def push(writer):
        if writer not in done:
            done[writer] = ours.reference(f"t/by-{writer}", "v1")
            home = tmp_path_factory.mktemp(writer)
            transfer(writer, f"oci:{content.layout}:v1", done[writer], home, containerd, ours)
        return done[writer]

    return push


def transfer(name, source, target, home, containerd, ours):
    """Copy between a layout, oci:FOLDER:TAG, and the registry."""
    pushing = source.startswith("oci:")
    match name:
        case "regctl":
            ends = [end.replace("oci:", "ocidir://") if end.startswith("oci:") else end for end in (source, target)]
            peers.run("regctl", "--host", f"reg={ours.host},tls=disabled", "image", "copy", *ends)
        case "ctr" if pushing:
            # It pushes local content only, which comes from another client first
            elsewhere = ours.reference("t/for-ctr", "v1")
            test_interop.transfer("crane", source, elsewhere, home)
            ctr(containerd, "content", "fetch", "--plain-http", "--all-platforms", elsewhere)
            ctr(containerd, "images", "push", "--plain-http", target, elsewhere)
        case "ctr":
            ctr(containerd, "content", "fetch", "--plain-http", "--all-platforms", source)
        case _:
            test_interop.transfer(name, source, target, home)


def ctr(containerd, *arguments):
    return peers.run("ctr", "-a", containerd(), *arguments).stdout


@pytest.mark.peers(of=["writer", "reader"])
@pytest.mark.parametrize("reader", CLIENTS)
@pytest.mark.parametrize("writer", WRITERS)
def test_artifact_of_one_client_is_pulled_by_another(writer, reader, pushed, ours, content, containerd, tmp_path):
    reference = pushed(writer)
    transfer(reader, reference, f"oci:{tmp_path / 'layout'}:v1", tmp_path, containerd, ours)
    for digest, raw in reachable(content.layout, content.root).items():
        if reader == "ctr":
            got = subprocess.run(
                [peers.find("ctr"), "-a", containerd(), "content", "get", digest], capture_output=True, check=True
            ).stdout
        else:
            got = images.blob(tmp_path / "layout", digest).read_bytes()
        assert got == raw


@pytest.mark.peers("buildah", "crane")
def test_buildah_pulls_and_pushes(ours, pushed, tmp_path):
    """buildah stores an image unpacked and packs its layers again: the config stays."""
    storage = ("--root", tmp_path / "root", "--runroot", tmp_path / "run", "--storage-driver", "vfs")
    source, target = pushed("crane"), ours.reference("t/by-buildah", "v1")
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text("{}")  # the file in the argument must exist
    amd64 = ("--platform", "linux/amd64")
    peers.run(
        "buildah",
        *storage,
        "pull",
        "--tls-verify=false",
        *amd64,
        "--policy",
        "always",
        f"docker://{source}",
        home=tmp_path,
    )
    peers.run("buildah", *storage, "push", "--tls-verify=false", source, f"docker://{target}", home=tmp_path)
    before, after = (
        json.loads(peers.run("crane", "manifest", "--insecure", *how, reference).stdout)
        for how, reference in ((amd64, source), ((), target))
    )
    assert after["config"]["digest"] == before["config"]["digest"]
    done = peers.run("crane", "validate", "--insecure", "--remote", target)
    assert "PASS" in done.stdout + done.stderr


def requests_to(ours, pattern):
    """Return the access log's records whose path and query match."""
    records = [json.loads(line) for line in ours.log.read_text().splitlines() if line.startswith("{")]
    return [record for record in records if re.search(pattern, record.get("path", ""))]


@pytest.mark.peers("crane", of=["client"])
@pytest.mark.parametrize("client", ["ocikit", "oras", "crane", "skopeo", "regctl", "ctr"])
def test_copy_between_repositories_is_mount(client, ours, pushed, containerd, tmp_path):
    """Clients do not send bytes that the registry has: the log shows mounts and nearly no bodies."""
    source, target = pushed("crane"), ours.reference(f"t/mounted-{client}", "v1")
    match client:
        case "ocikit":
            with test_interop.ocikit_in(tmp_path) as session:
                session.copy(source, target)
        case "oras":
            peers.run("oras", "cp", "--from-plain-http", "--to-plain-http", source, target)
        case "crane":
            peers.run("crane", "copy", "--insecure", source, target)
        case "skopeo":
            copy = ("copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false")
            peers.run("skopeo", "--insecure-policy", *copy, f"docker://{source}", f"docker://{target}")
        case "regctl":
            peers.run("regctl", "--host", f"reg={ours.host},tls=disabled", "image", "copy", source, target)
        case "ctr":
            ctr(containerd, "content", "fetch", "--plain-http", "--all-platforms", source)
            ctr(containerd, "images", "push", "--plain-http", target, source)
    posts = [r for r in requests_to(ours, rf"^/v2/t/mounted-{client}/blobs/uploads/") if r["method"] == "POST"]
    mounted = [r for r in posts if r["status"] == 201]
    # Two layers and two configs; skopeo never mounts a config
    assert (len(mounted), len(posts)) == ((2, 4) if client == "skopeo" else (4, 4)), posts


@pytest.mark.peers("oras", of=["lister"])
@pytest.mark.parametrize("lister", ["oras", "regctl", "ocikit"])
def test_referrers_need_no_fallback_tag(lister, ours, pushed, tmp_path):
    subject = pushed("oras")
    (tmp_path / "report.txt").write_text("all is well\n")
    kind = f"application/vnd.example.{lister}"
    peers.run("oras", "attach", "--plain-http", "--artifact-type", kind, subject, "report.txt", cwd=tmp_path)
    assert kind in {found for _, found in test_interop.listed(lister, ours, subject, tmp_path)}
    tags = peers.run("oras", "repo", "tags", "--plain-http", subject.rpartition(":")[0]).stdout.split()
    assert tags == ["v1"]
