"""Operations through the public verbs: each one gets a `Case` and checks its result."""

import io
import itertools
import json
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import ocikit
import pytest
from attrs import define, evolve, field
from ocikit import errors
from ocikit.remote.repository import Repository
from ocikit.spec import media_types
from ocikit.testing.profiles import Profile
from ocikit.testing.quirks import ODD

from tests.resilience.expected import CHUNKS, NO_MOUNTS
from tests.support import peers
from tests.support.home import tree, write
from tests.support.site import NamedSite

FILES = {"notes.txt": b"a few words\n", "data/model.bin": random.Random(1).randbytes(2 << 20), "data/empty": b""}
LARGE = random.Random(2).randbytes((6 << 20) + 4321)
TAGS = [f"v{number}" for number in range(1, 26)]
_BIG = "data/model.bin"
_TYPE = "application/vnd.acme.report.v1"

_numbers = itertools.count(1)


@define(eq=False)
class Case:
    """One operation on one registry."""

    profile: Profile
    scene: NamedSite
    operation: str
    folder: Path
    behind: ocikit.Session
    """A session that asks the registry directly, without quirks."""
    session: ocikit.Session = field(init=False)
    repository: str = field(init=False)
    """A repository for this case only."""

    def __attrs_post_init__(self) -> None:
        self.session = self.scene.session(self.folder)
        self.repository = f"w/{self.profile.name}-{self.operation}-{next(_numbers)}"

    def ref(self, name: str = "", tag: str = "v1") -> str:
        """Return a reference as the user types it."""
        return self.scene.ref(name or self.repository, tag)

    def files(self, files: dict[str, bytes] | None = None) -> list[Path]:
        """Write a folder to push."""
        folder = write(self.folder / f"files-{next(_numbers)}", FILES if files is None else files)
        return sorted(folder.iterdir())

    def stored(self, tag: str = "v1", name: str = "") -> dict[str, bytes]:
        """Return the files in the registry."""
        where = self.place(name or self.repository)
        manifest = ocikit.Manifest.parse(where.fetch(where.resolve(tag)))
        return {
            layer.annotations["org.opencontainers.image.title"]: where.fetch(layer, limit=1 << 30)
            for layer in manifest.layers
        }

    def place(self, name: str = "") -> Repository:
        """Return a repository of the real registry."""
        return self.behind.repository(f"{self.scene.upstream.partition('://')[2]}/{name or self.repository}")

    def uploaded(self) -> list[str]:
        """Return the digests of uploaded content."""
        return [r.query["digest"][0] for r in self.scene.proxy.requests if r.method == "PUT" and "digest" in r.query]


def seed(session: ocikit.Session, host: str, folder: Path) -> None:
    """Push the initial content of every registry: files, an image for two platforms, and many tags."""
    paths = sorted(write(folder / "seed", FILES).iterdir())
    session.push(f"{host}/seed/files:v1", *paths, artifact_type="application/vnd.acme.model.v1")
    session.push(f"{host}/seed/many:v1", *paths[1:], tags=TAGS[1:])
    session.copy(f"oci:{image(folder / 'image')}:v1", f"{host}/seed/image:v1")


def image(folder: Path) -> Path:
    """Write a layout with an image for two platforms."""
    children = []
    with closing(ocikit.Layout(folder)) as layout:
        for arch in ("amd64", "arm64"):
            about = {"os": "linux", "architecture": arch, "rootfs": {"type": "layers", "diff_ids": []}}
            config, layer = json.dumps(about).encode(), f"layer for {arch}".encode()
            described = ocikit.Descriptor.of(config, media_types.OCI_CONFIG)
            content = ocikit.Descriptor.of(layer, media_types.OCI_LAYER)
            manifest = ocikit.Manifest(config=described, layers=(content,))
            for descriptor, raw in ((described, config), (content, layer), (manifest.descriptor, manifest.raw)):
                layout.push_bytes(descriptor, raw)
            children.append(evolve(manifest.descriptor, platform=ocikit.Platform.parse(f"linux/{arch}")))
        index = ocikit.Index(manifests=tuple(children))
        layout.push_bytes(index.descriptor, index.raw, tag="v1")
    return folder


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """Our own registry with initial content, and a session that asks it directly."""
    folder = tmp_path_factory.mktemp("wild")
    with (
        peers.ocikit(options=["--no-sync"]) as running,
        ocikit.Session(cache=folder / "behind", progress=False) as behind,
    ):
        seed(behind, running.host, folder)
        yield running, behind


#: All operations by name.
OPERATIONS: dict[str, Callable[[Case], None]] = {}


def _operation(function: Callable[[Case], None]) -> Callable[[Case], None]:
    OPERATIONS[function.__name__.strip("_").replace("_", "-")] = function
    return function


# Reading


@_operation
def ping(case: Case) -> None:
    answer = case.session.ping(case.scene.host)
    assert answer
    assert answer.problem == ""


@_operation
def pull(case: Case) -> None:
    pulled = case.session.pull(case.ref("seed/files"))
    assert {name: pulled.read(name) for name in pulled} == FILES
    gets = len(case.scene.proxy.seen("GET", ".*/manifests/.*"))
    case.session.pull(case.ref("seed/files"))
    assert (
        len(case.scene.proxy.seen("GET", ".*/manifests/.*")) - gets <= 1
    )  # a GET is necessary where HEAD lacks information


@_operation
def pull_folder(case: Case) -> None:
    case.session.pull(case.ref("seed/files"), case.folder / "out")
    assert tree(case.folder / "out") == FILES


@_operation
def pull_platform(case: Case) -> None:
    pulled = case.session.pull(case.ref("seed/image"), platform="linux/arm64")
    assert pulled.config.architecture == "arm64"
    assert pulled.digest != case.session.inspect(case.ref("seed/image")).digest


@_operation
def pull_resumed(case: Case) -> None:
    fault = case.scene.blobs.on("GET", "/v2/.*/blobs/.*|/docker/.*", when=_large, cut=(1 << 20) + 77)
    case.session.pull(case.ref("seed/files"), case.folder / "out")
    assert tree(case.folder / "out") == FILES
    assert fault.fired == 1


def _large(request: Any) -> bool:
    digest = ocikit.Digest.of(FILES[_BIG])
    return digest.encoded in request.target


@_operation
def pull_absent(case: Case) -> None:
    with pytest.raises(errors.NameUnknown) as caught:
        case.session.pull(case.ref("seed/nothing"))
    assert "check the name" in caught.value.hint
    with pytest.raises(errors.ManifestUnknown) as caught:
        case.session.pull(case.ref("seed/files", "v0"))
    assert "nearest: v1" in caught.value.hint


@_operation
def pull_anonymous(case: Case) -> None:
    with case.scene.session(case.folder, anonymous=True) as stranger:
        assert stranger.pull(case.ref("seed/files")).read("notes.txt") == FILES["notes.txt"]


@_operation
def pull_stale(case: Case) -> None:
    with case.scene.session(case.folder, case.scene.stale) as late:
        assert late.pull(case.ref("seed/files")).read("notes.txt") == FILES["notes.txt"]


@_operation
def inspect(case: Case) -> None:
    index = case.session.inspect(case.ref("seed/image")).index
    assert [str(p) for p in index.platforms] == ["linux/amd64", "linux/arm64"]
    assert case.session.pin(case.ref("seed/image")).digest == index.digest


@_operation
def open_(case: Case) -> None:
    with case.session.open(case.ref("seed/files"), _BIG) as stream:
        stream.seek(-1000, io.SEEK_END)
        assert stream.read() == FILES[_BIG][-1000:]
        stream.seek(123_456)
        assert stream.read(10) == FILES[_BIG][123_456:123_466]


@_operation
def tags(case: Case) -> None:
    assert set(case.session.tags(case.ref("seed/many"))) - {f"sha256__{'0' * 64}"} == set(TAGS)
    assert len(case.scene.proxy.seen("GET", ".*/tags/list")) >= (3 if case.profile.pages else 1)


@_operation
def catalog(case: Case) -> None:
    assert {"seed/files", "seed/image", "seed/many"} <= set(case.session.catalog(case.scene.host))


@_operation
def copy_out(case: Case) -> None:
    copied = case.session.copy(case.ref("seed/image"), f"oci:{case.folder / 'layout'}:v1")
    with_platform = case.session.pull(f"oci:{case.folder / 'layout'}:v1", platform="linux/amd64")
    assert copied.is_index
    assert with_platform.config.architecture == "amd64"
    files = case.session.copy(case.ref("seed/files"), f"oci:{case.folder / 'layout'}:files")
    assert {name: files.read(name) for name in files} == FILES


@_operation
def copy_referrers(case: Case) -> None:
    case.session.push(case.ref(), *case.files({"notes.txt": b"x"}))
    report = case.session.attach(case.ref(), *case.files({"report.txt": b"fine"}), artifact_type=_TYPE)
    place = f"oci:{case.folder / 'layout'}:v1"
    case.session.copy(case.ref(), place, referrers=True)
    [found] = case.session.referrers(place)
    assert (found.digest, found.size) == (report.digest, len(report.document.raw))


# Writing


@_operation
def push(case: Case) -> None:
    pushed = case.session.push(case.ref(), *case.files())
    assert case.stored() == FILES
    assert pushed.digest == case.place().resolve("v1").digest


@_operation
def push_large(case: Case) -> None:
    case.session.push(case.ref(), *case.files({"large": LARGE}))
    assert case.stored() == {"large": LARGE}


@_operation
def push_resumed(case: Case) -> None:
    def whole(request: Any) -> bool:
        return int(request.headers.get("Content-Length") or 0) == len(LARGE)

    fault = case.scene.proxy.on("PUT", ".*", when=whole, cut_request=1 << 20, reset=True)
    case.session.push(case.ref(), *case.files({"large": LARGE}))
    assert case.stored() == {"large": LARGE}
    assert fault.fired == 1


@_operation
def push_chunks(case: Case) -> None:
    descriptor = ocikit.Descriptor.of(LARGE, "application/octet-stream")
    repository = case.session.repository(case.ref(), push=True)
    repository.push(descriptor, io.BytesIO(LARGE), chunk_size=CHUNKS.get(case.profile.name, 2 << 20))
    assert case.place().fetch(descriptor, limit=len(LARGE)) == LARGE


@_operation
def push_empty(case: Case) -> None:
    case.session.push(case.ref(), *case.files({"empty": b""}))
    assert case.stored() == {"empty": b""}


@_operation
def push_tags(case: Case) -> None:
    case.session.push(case.ref(), *case.files({"notes.txt": b"x"}), tags=TAGS)
    assert set(case.place().tags()) == set(TAGS)


@_operation
def push_new(case: Case) -> None:
    case.session.push(case.ref(f"new/{case.repository}"), *case.files({"notes.txt": b"x"}))
    assert case.stored(name=f"new/{case.repository}") == {"notes.txt": b"x"}


@_operation
def push_odd(case: Case) -> None:
    pushed = case.session.push(case.ref(), *case.files({"notes.txt": b"x"}), artifact_type=ODD)
    assert pushed.kind == ODD


@_operation
def attach(case: Case) -> None:
    subject = case.session.push(case.ref(), *case.files({"notes.txt": b"x"}))
    report = case.session.attach(
        case.ref(), *case.files({"report.txt": b"fine"}), artifact_type=_TYPE, annotations={"a": "b"}
    )
    [found] = case.session.referrers(case.ref())
    assert (found.digest, found.artifact_type, found.annotations["a"]) == (report.digest, _TYPE, "b")
    assert report.manifest.subject is not None
    assert report.manifest.subject.digest == subject.digest
    assert case.session.pull(f"{case.scene.host}/{case.repository}@{found.digest}").read("report.txt") == b"fine"


@_operation
def referrers(case: Case) -> None:
    case.session.push(case.ref(), *case.files({"notes.txt": b"x"}))
    made = {
        kind: case.session.attach(case.ref(), artifact_type=kind, annotations={"a": "b"})
        for kind in (_TYPE, "text/plain")
    }
    with case.scene.session(case.folder) as fresh:
        assert {d.digest for d in fresh.referrers(case.ref())} == {a.digest for a in made.values()}
        assert [d.digest for d in fresh.referrers(case.ref(), _TYPE)] == [made[_TYPE].digest]


@_operation
def copy_in(case: Case) -> None:
    layout = image(case.folder / "layout")
    copied = case.session.copy(f"oci:{layout}:v1", case.ref())
    where = case.place()
    index = ocikit.Index.parse(where.fetch(where.resolve("v1")))
    assert index.digest == copied.digest
    for child in index.manifests:
        assert all(where.exists(blob) for blob in ocikit.Manifest.parse(where.fetch(child)).blobs)


@_operation
def copy_within(case: Case) -> None:
    case.session.copy(case.ref("seed/files"), case.ref())
    assert case.stored() == FILES
    big = ocikit.Digest.of(FILES[_BIG])
    assert (big in case.uploaded()) is (case.profile.name in NO_MOUNTS)


@_operation
def delete_tag(case: Case) -> None:
    case.session.push(case.ref(), *case.files({"notes.txt": b"x"}), tags=["v2"])
    case.session.delete(case.ref(tag="v1"))
    _gone(case, "v1")
    assert list(case.place().tags()) == ["v2"]
    case.session.delete(case.ref(tag="v2"))
    _gone(case, "v2")
    options = case.profile.options.get("distribution-null-tags", {})
    if options.get("gone"):
        with pytest.raises(errors.NameUnknown):
            list(case.session.tags(case.ref()))
    else:
        assert set(case.session.tags(case.ref())) <= {f"sha256__{'0' * 64}"}


@_operation
def delete_manifest(case: Case) -> None:
    pushed = case.session.push(case.ref(), *case.files({"notes.txt": b"x"}))
    case.session.delete(f"{case.scene.host}/{case.repository}@{pushed.digest}")
    _gone(case, pushed.digest)


def _gone(case: Case, target: str) -> None:
    """Wait until a condition holds."""
    repository = case.session.repository(case.ref())
    for _ in range(3):
        try:
            repository.head_manifest(target)
        except errors.RegistryError:
            break
    with pytest.raises(errors.ManifestUnknown):
        case.place().resolve(target)
