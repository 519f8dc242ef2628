"""Interoperability: four clients push, and the same four pull, through real registries.

`python -m tests.tools.interop_table` runs this and prints the table. `CANNOT` has the unsupported cells with the tool's
message. The test checks that each one still fails, so the table stays true.
"""

import contextlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen
from ocikit.client.session import Session
from ocikit.remote.auth.keychain import ANONYMOUS

from tests.support import images, peers

pytestmark = pytest.mark.interop

TOOLS = ("ocikit", "oras", "crane", "skopeo")
LISTERS = ("ocikit", "oras", "regctl")

#: (operation, tool, content): a pattern for the tool's message.
CANNOT: dict[tuple[str, str, str], str] = {
    ("push", "skopeo", "nested"): "received a manifest list instead of a manifest for a single image",
    ("pull", "skopeo", "nested"): "received a manifest list instead of a manifest for a single image",
}

#: Tools that do not list a referrer at the fallback tag. A registry with the referrers API builds its own list.
FORGETS = {"skopeo"}

REF_NAME = "org.opencontainers.image.ref.name"
ARTIFACT_TYPE = "application/vnd.example.dataset.v1+json"
FILES = {
    "a.txt": b"plain words\n",
    "data/b.bin": bytes(range(256)) * 40,
    "data/deep/c.json": b'{"deep": [1, 2, 3]}\n',
}


class Failed(Exception):
    """A tool failed; the message is its output."""


# Content


@frozen
class Content:
    """A layout with one root, tagged "v1"."""

    layout: Path
    root: dict[str, Any]

    @property
    def digest(self) -> str:
        return self.root["digest"]


@pytest.fixture(scope="session")
def contents(tmp_path_factory) -> dict[str, Content]:
    """Write each content as a layout without any client."""
    folder = tmp_path_factory.mktemp("contents")
    return {name: write(folder / name) for name, write in WRITERS.items()}


def flat(folder: Path) -> Content:
    """Write a multi-platform image."""
    start(folder)
    index = {"mediaType": images.INDEX, "manifests": [image(folder, "amd64"), image(folder, "arm64")]}
    return finish(folder, document(folder, index))


def nested(folder: Path) -> Content:
    """Write a multi-platform image that contains a nested index."""
    start(folder)
    inner = {"mediaType": images.INDEX, "manifests": [image(folder, "amd64"), image(folder, "arm64")]}
    outer = {"mediaType": images.INDEX, "manifests": [document(folder, inner), image(folder, "s390x")]}
    return finish(folder, document(folder, outer))


def artifact(folder: Path) -> Content:
    """Write three files in folders."""
    start(folder)
    return finish(folder, bundle(folder, FILES))


def referrer(folder: Path) -> Content:
    """Write a report about the three files."""
    start(folder)
    subject = bundle(folder, FILES)
    return finish(folder, bundle(folder, {"report.txt": b"all is well\n"}, subject=subject))


WRITERS: dict[str, Callable[[Path], Content]] = {
    "flat": flat,
    "nested": nested,
    "artifact": artifact,
    "referrer": referrer,
}


def start(folder: Path) -> None:
    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / "oci-layout").write_bytes(images.encode({"imageLayoutVersion": "1.0.0"}))


def finish(folder: Path, root: dict[str, Any]) -> Content:
    named = root | {"annotations": {"org.opencontainers.image.ref.name": "v1"}}
    index = {"schemaVersion": 2, "mediaType": images.INDEX, "manifests": [named]}
    (folder / "index.json").write_bytes(images.encode(index))
    return Content(folder, root)


def document(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    # Indented, so that re-encoding changes its digest
    return images.put(folder, content["mediaType"], json.dumps({"schemaVersion": 2} | content, indent=2).encode())


def image(folder: Path, architecture: str) -> dict[str, Any]:
    images.small(folder, files={"etc/architecture": architecture.encode()})
    [made] = json.loads((folder / "index.json").read_bytes())["manifests"]
    manifest = json.loads(images.blob(folder, made["digest"]).read_bytes())
    config = json.loads(images.blob(folder, manifest["config"]["digest"]).read_bytes()) | {"architecture": architecture}
    manifest["config"] = images.put(folder, images.CONFIG, images.encode(config))
    return document(folder, manifest) | {"platform": {"architecture": architecture, "os": "linux"}}


def bundle(folder: Path, files: dict[str, bytes], **more: Any) -> dict[str, Any]:
    layers = []
    for name, content in files.items():
        titled = {"annotations": {"org.opencontainers.image.title": name}}
        layers.append(images.put(folder, "application/octet-stream", content) | titled)
    config = images.put(folder, "application/vnd.oci.empty.v1+json", b"{}")
    manifest = {"mediaType": images.MANIFEST, "artifactType": ARTIFACT_TYPE, "config": config, "layers": layers}
    return document(folder, manifest | more)


def reachable(layout: Path, root: dict[str, Any]) -> dict[str, bytes]:
    """Return {digest: bytes} of a root and all its parts, without any library."""
    raw = images.blob(layout, root["digest"]).read_bytes()
    found = {root["digest"]: raw}
    if root["mediaType"] in {images.MANIFEST, images.INDEX}:
        named = json.loads(raw)
        children = [*named.get("manifests", []), *named.get("layers", [])]
        children += [named["config"]] if "config" in named else []
        for child in children:
            found |= reachable(layout, child)
    return found


# Tools


def tool(name: str, *arguments: str | Path, **options: Any) -> str:
    done = peers.run(name, *arguments, check=False, **options)
    if done.returncode:
        raise Failed(f"{done.stdout}{done.stderr}")
    return done.stdout


def push(name: str, what: str, content: Content, reference: str, home: Path) -> Content:
    """Push content and return what the registry should have."""
    if what == "artifact" and name in {"ocikit", "oras"}:
        # These tools push files and write the manifest themselves
        for path, data in FILES.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_bytes(data)
        if name == "oras":
            options = ("--plain-http", "--export-manifest", "manifest.json", "--artifact-type", ARTIFACT_TYPE)
            tool("oras", "push", *options, reference, *FILES, cwd=home)
            raw = (home / "manifest.json").read_bytes()
        else:
            with ocikit_in(home) as session, contextlib.chdir(home):
                raw = session.push(reference, "a.txt", "data", artifact_type=ARTIFACT_TYPE).document.raw
        return Content(content.layout, images.put(content.layout, images.MANIFEST, raw))
    transfer(name, f"oci:{content.layout}:v1", reference, home)
    return content


def pull(name: str, what: str, expected: Content, reference: str, home: Path) -> None:
    """Pull content and check every byte."""
    layout = home / "layout"
    transfer(name, reference, f"oci:{layout}:v1", home)
    # crane writes no names; oras also writes entries for the parts of the root
    entries = json.loads((layout / "index.json").read_bytes())["manifests"]
    names = {entry["digest"]: entry.get("annotations", {}).get(REF_NAME) for entry in entries}
    assert names[expected.digest] == (None if name == "crane" else "v1")
    for digest, content in reachable(expected.layout, expected.root).items():
        assert images.blob(layout, digest).read_bytes() == content
    if what == "artifact" and name in {"ocikit", "oras"}:
        if name == "oras":
            tool("oras", "pull", "--plain-http", "--output", home / "files", reference)
        else:
            with ocikit_in(home) as session:
                session.pull(reference, home / "files")
        assert {path: (home / "files" / path).read_bytes() for path in FILES} == FILES


def transfer(name: str, source: str, target: str, home: Path) -> None:
    """Copy a root between a layout, oci:FOLDER:TAG, and a registry."""
    pushing = source.startswith("oci:")
    here, there = source.removeprefix("oci:"), target.removeprefix("oci:")
    match name:
        case "ocikit":
            with ocikit_in(home) as session:
                session.copy(source, target)
        case "oras":
            options = ("--from-oci-layout", "--to-plain-http") if pushing else ("--from-plain-http", "--to-oci-layout")
            tool("oras", "cp", *options, here, there)
        case "crane" if pushing:
            tool("crane", "push", "--insecure", here.rpartition(":")[0], there)
        case "crane":
            tool("crane", "pull", "--insecure", "--format", "oci", here, there.rpartition(":")[0])
        case "skopeo":
            side = "dest" if pushing else "src"
            ends = (source, f"docker://{target}") if pushing else (f"docker://{source}", target)
            options = ("--all", "--preserve-digests", f"--{side}-tls-verify=false")
            tool("skopeo", "--insecure-policy", "copy", *options, *ends)


def ocikit_in(home: Path) -> Session:
    return Session(credentials=ANONYMOUS, cache=home / "cache", progress=False)


# Cells


@define
class Pushes:
    """Push with each tool to each registry once, for all pulls; store the reason of a failure."""

    contents: dict[str, Content]
    folder: Path
    done: dict[tuple[str, str, str], Content | Failed] = field(factory=dict)

    def __call__(self, registry: peers.Registry, what: str, writer: str) -> Content | Failed:
        # By host: a registry of this kind is started again when another worker takes tests over
        key = (registry.host, what, writer)
        if key not in self.done:
            home = Path(tempfile.mkdtemp(dir=self.folder))
            reference = where(registry, what, writer)
            try:
                if what == "referrer":
                    push(writer, "subject", self.subject, where(registry, what, writer, "subject"), home)
                self.done[key] = push(writer, what, self.contents[what], reference, home)
            except Failed as error:
                self.done[key] = error
        return self.done[key]

    @property
    def subject(self) -> Content:
        # Not the manifest that ocikit and oras build from the same files: the referrer names this one
        content = self.contents["artifact"]
        return Content(content.layout, json.loads((content.layout / "index.json").read_bytes())["manifests"][0])


@pytest.fixture(scope="session")
def pushes(contents, tmp_path_factory) -> Pushes:
    return Pushes(contents, tmp_path_factory.mktemp("pushes"))


def where(registry: peers.Registry, what: str, writer: str, tag: str = "v1") -> str:
    return registry.reference(f"t/interop-{what}-{writer}", tag)


@pytest.mark.peers(of=["writer", "reader"])
@pytest.mark.parametrize("reader", TOOLS)
@pytest.mark.parametrize("writer", TOOLS)
@pytest.mark.parametrize("what", WRITERS)
def test_artifact_of_one_tool_is_pulled_by_another(registry, what, writer, reader, pushes, tmp_path, record_property):
    record_property("cell", [what, writer, reader, registry.kind])
    expected = pushes(registry, what, writer)
    if reason := CANNOT.get(("push", writer, what)):
        record_property("cannot", f"{writer} can't push it: {reason}")
        assert isinstance(expected, Failed)
        assert re.search(reason, str(expected))
        return
    assert isinstance(expected, Content), expected
    reference = where(registry, what, writer)
    if reason := CANNOT.get(("pull", reader, what)):
        record_property("cannot", f"{reader} can't pull it: {reason}")
        with pytest.raises(Failed, match=reason):
            pull(reader, what, expected, reference, tmp_path)
        return
    pull(reader, what, expected, reference, tmp_path)


@pytest.mark.peers(of=["writer", "lister"])
@pytest.mark.parametrize("lister", LISTERS)
@pytest.mark.parametrize("writer", TOOLS)
def test_referrer_of_one_tool_is_listed_by_another(registry, writer, lister, pushes, tmp_path, record_property):
    record_property("cell", ["listed", writer, lister, registry.kind])
    pushed = pushes(registry, "referrer", writer)
    assert isinstance(pushed, Content), pushed
    found = listed(lister, registry, where(registry, "referrer", writer, "subject"), tmp_path)
    if writer in FORGETS and registry.kind.startswith("distribution"):
        record_property("cannot", f"{writer} doesn't enter it at the fallback tag")
        assert found == set()
        return
    assert found == {(pushed.digest, ARTIFACT_TYPE)}


def listed(name: str, registry: peers.Registry, subject: str, home: Path) -> set[tuple[str, str]]:
    """Return the digests and types of the referrers."""
    match name:
        case "ocikit":
            with ocikit_in(home) as session:
                return {(str(one.digest), str(one.artifact_type)) for one in session.referrers(subject)}
        case "oras":
            out = json.loads(tool("oras", "discover", "--plain-http", "--format", "json", subject))
            found = out.get("manifests") or out.get("referrers") or []
        case _:
            host = ("--host", f"reg={registry.host},tls=disabled")
            out = json.loads(tool("regctl", *host, "artifact", "list", "--format", "{{json .}}", subject))
            found = out.get("descriptors") or []
    return {(one["digest"], one["artifactType"]) for one in found}


@pytest.mark.peers("oras", "regctl")
def test_referrers_of_several_tools_are_listed_by_all(registry, repo, tmp_path):
    # In sequence: on distribution, each tool must keep the others' entries at the fallback tag
    subject = registry.reference(repo, "v1")
    host = ("--host", f"reg={registry.host},tls=disabled")
    kinds = [f"application/vnd.example.{name}" for name in ("first", "second", "third", "fourth")]
    (tmp_path / "report.txt").write_text("all is well\n")
    with ocikit_in(tmp_path) as session, contextlib.chdir(tmp_path):
        session.push(subject, "report.txt")
        session.attach(subject, "report.txt", artifact_type=kinds[0], annotations={"by": "us"})
        tool("oras", "attach", "--plain-http", "--artifact-type", kinds[1], subject, "report.txt", cwd=tmp_path)
        put = ("artifact", "put", "--artifact-type", kinds[2], "--subject", subject, "--file", "report.txt")
        tool("regctl", *host, *put, cwd=tmp_path)
        session.attach(subject, artifact_type=kinds[3])
        assert {one.artifact_type: one.annotations.get("by") for one in session.referrers(subject)} == {
            kinds[0]: "us", kinds[1]: None, kinds[2]: None, kinds[3]: None,
        }  # fmt: skip
        assert [one.artifact_type for one in session.referrers(subject, kinds[1])] == [kinds[1]]
        seen = [listed(name, registry, subject, tmp_path) for name in LISTERS]
        assert seen[0] == seen[1] == seen[2]
        assert {kind for _, kind in seen[0]} == set(kinds)
        # A copy includes all referrers, to a layout and to another repository, where every tool lists them
        session.copy(subject, f"oci:{tmp_path / 'layout'}", referrers=True)
        copied = registry.reference(f"{repo}-copy", "v1")
        session.copy(f"oci:{tmp_path / 'layout'}:v1", copied, referrers=True)
        assert [listed(name, registry, copied, tmp_path) for name in LISTERS] == seen
