"""Scenarios of requests, recorded once (`python -m tests.interop.record`) and replayed by tests/interop/test_cassettes.py.

Each scenario uses a fresh repository, sends its requests in sequence, and has the same content each time. It checks its
results, so that a failure cannot be recorded.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from ocikit.client.session import Session
from ocikit.errors import ManifestUnknown, NameUnknown, Unauthorized, Unsupported
from ocikit.progress.base import Progress
from ocikit.remote.auth.keychain import ANONYMOUS
from ocikit.remote.config.network import Network
from ocikit.remote.repository import Repository
from ocikit.spec import media_types as mt
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Manifest
from ocikit.store.memory import MemoryStore
from ocikit.transfer.plan import copy

from tests.contracts.store import on, push_index

#: Names of the registry and the token server in cassettes, for any port.
REGISTRY, TOKENS = "registry.test", "auth.test"

ADA = ("ada", "lovelace")

FILES = {"a.txt": b"plain words\n", "data/b.csv": b"x,y\n1,2\n"}
REPORT = "application/vnd.example.report.v1+json"


@frozen
class Scenario:
    """One scenario."""

    run: Callable[["Place"], None]
    #: "" (no access control), "htpasswd" or "token".
    access: str = ""

    @property
    def name(self) -> str:
        return self.run.__name__


@frozen
class Place:
    """The environment of a scenario."""

    #: Kind of registry: distribution2, distribution3, olareg.
    kind: str
    #: A folder for files.
    folder: Path
    name: str

    @contextlib.contextmanager
    def session(self, credentials: Any = ANONYMOUS) -> Iterator[Session]:
        """Return a session with plain HTTP and one request at a time."""
        network = Network(schemes={REGISTRY: "http"}, retries=0)
        cache = tempfile.mkdtemp(prefix="cache-", dir=self.folder)
        if isinstance(credentials, tuple):
            credentials = {REGISTRY: credentials}
        with Session(credentials=credentials, network=network, cache=cache, workers=1, progress=False) as session:
            yield session

    def reference(self, tag: str = "v1", part: str = "") -> str:
        return f"{REGISTRY}/scenario/{self.name}{part}:{tag}"

    def files(self) -> Path:
        """Write a folder with FILES."""
        for name, content in FILES.items():
            (self.folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / "files" / name).write_bytes(content)
        return self.folder / "files"


class Fates(Progress):
    """Return the outcome of each piece of content."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def finish(self, descriptor: Descriptor, fate: str) -> None:
        self.seen.append(fate)


def push(session: Session, place: Place, tag: str = "v1", part: str = "", **options: Any) -> Any:
    with contextlib.chdir(place.files()):
        return session.push(place.reference(tag, part), *FILES, **options)


# Scenarios


def ping(place: Place) -> None:
    with place.session() as session:
        answer = session.ping(REGISTRY)
    assert answer
    assert answer.url == f"http://{REGISTRY}"
    assert answer.version == "registry/2.0"


def push_and_pull(place: Place) -> None:
    with place.session() as session:
        pushed = push(session, place, artifact_type="application/vnd.example.data")
    with place.session() as session:
        pulled = session.pull(place.reference(), place.folder / "back")
        assert pulled.digest == pushed.digest == DIGEST
        assert {name: (place.folder / "back" / name).read_bytes() for name in FILES} == FILES


#: The digest of the artifact is equal on every registry and in every version of ocikit.
DIGEST = "sha256:60e6d46fa4c1691ee017f9956d66326327271a3118714595591997d00e676943"


def push_again(place: Place) -> None:
    with place.session() as session:
        first = push(session, place)
        fates = Fates()
        assert push(session, place, tag="v2", progress=fates).digest == first.digest
        assert fates.seen.count("present") == 3  # the files and the empty config
        assert list(session.tags(place.reference())) == ["v1", "v2"]


def pages_of_tags(place: Place) -> None:
    names = [f"v{number}" for number in range(1, 6)]
    with place.session() as session:
        push(session, place, tags=names)
        repository = session.repository(place.reference())
        pages = list(repository.list_tags(n=2))
        if place.kind == "distribution2":
            # All names at once, unordered, for any requested number
            assert [sorted(page) for page in pages] == [names]
        else:
            assert pages == [["v1", "v2"], ["v3", "v4"], ["v5"]]
            assert list(repository.list_tags(n=2, last="v4")) == [["v5"]]


def resolve_and_inspect(place: Place) -> None:
    with place.session() as session:
        pushed = push(session, place)
        pinned = session.pin(place.reference())
        assert pinned.digest == pushed.digest
        assert session.inspect(pinned).document.raw == pushed.document.raw
        described = session.repository(place.reference()).resolve("v1")
        assert (described.media_type, described.size) == (mt.OCI_MANIFEST, len(pushed.document.raw))


def attach_and_list(place: Place) -> None:
    with place.session() as session:
        push(session, place)
        assert list(session.referrers(place.reference())) == []
        session.attach(place.reference(), artifact_type=REPORT, annotations={"by": "ada"})
        session.attach(place.reference(), artifact_type="application/vnd.example.other")
    with place.session() as session:
        found = list(session.referrers(place.reference(), REPORT))
        assert [(one.artifact_type, one.annotations["by"]) for one in found] == [(REPORT, "ada")]
        assert len(session.referrers(place.reference())) == 2


def mount(place: Place) -> None:
    fates = Fates()
    with place.session() as session:
        push(session, place, part="/from")
        session.copy(place.reference(part="/from"), place.reference(part="/to"), progress=fates)
        assert fates.seen.count("mounted") == 3
        assert session.open(place.reference(part="/to"), "a.txt").read() == FILES["a.txt"]


def copy_of_an_index(place: Place) -> None:
    store = MemoryStore()
    children = []
    for architecture in ("amd64", "arm64"):
        config = f'{{"architecture":"{architecture}","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}}}}'.encode()
        described = Descriptor.of(config, mt.OCI_CONFIG)
        store.push_bytes(described, config)
        manifest = Manifest(config=described)
        store.push_bytes(manifest.descriptor, manifest.raw)
        children.append(on(manifest.descriptor, f"linux/{architecture}"))
    root = push_index(store, children, tag="v1")
    with place.session() as session:
        repository = session.repository(place.reference(), push=True)
        assert copy(store, "v1", repository, tags=["v1"], workers=1).digest == root.digest
        assert [str(one) for one in session.inspect(place.reference()).platforms] == ["linux/amd64", "linux/arm64"]
        assert session.pull(place.reference(), platform="linux/arm64").config.architecture == "arm64"


def a_tag_that_is_not_there(place: Place) -> None:
    with place.session() as session:
        push(session, place, tags=["v10"])
        with pytest.raises(ManifestUnknown, match="nearest: v1, v10$"):
            session.pull(place.reference("v11"))


def a_repository_that_is_not_there(place: Place) -> None:
    with place.session() as session:
        with pytest.raises(NameUnknown if place.kind != "olareg" else ManifestUnknown):
            session.pull(place.reference())
        if place.kind != "olareg":
            with pytest.raises(NameUnknown):
                list(session.tags(place.reference()))


def delete(place: Place) -> None:
    with place.session() as session:
        pinned = push(session, place, tags=["v2"]).reference
        if place.kind == "distribution2":
            with pytest.raises(Unsupported, match="can't delete the tag 'v1' alone"):
                session.delete(place.reference())
        else:
            session.delete(place.reference())
            assert list(session.tags(place.reference())) == ["v2"]
        session.delete(pinned)
        with pytest.raises(ManifestUnknown):
            session.repository(place.reference()).resolve("v2")


def chunks(place: Place) -> None:
    content = b"0123456789" * 4
    blob = Descriptor.of(content, mt.OCTET_STREAM)
    with place.session() as session:
        repository: Repository = session.repository(place.reference(), push=True)
        session_ = repository.post_upload()
        session_ = repository.patch_upload(session_, 0, content[:16])
        session_, offset = repository.get_upload(session_)
        assert offset == 16
        session_ = repository.patch_upload(session_, offset, content[16:])
        repository.put_upload(session_, blob.digest)
        assert repository.exists(blob)
        with repository.open(blob) as stream:
            stream.seek(30)
            assert stream.read(5) == content[30:35]


def password(place: Place) -> None:
    for credentials in (ANONYMOUS, ("ada", "babbage")):
        with place.session(credentials) as session:
            assert session.ping(REGISTRY).authenticated is False
            with pytest.raises(Unauthorized):
                push(session, place)
    with place.session(ADA) as session:
        assert session.ping(REGISTRY)
        push(session, place)
        assert list(session.tags(place.reference())) == ["v1"]
        assert session.pull(place.reference()).read("a.txt") == FILES["a.txt"]


def token(place: Place) -> None:
    with place.session(ADA) as session:
        push(session, place)
        assert session.pull(place.reference()).read("a.txt") == FILES["a.txt"]
    for credentials in (ANONYMOUS, ("ada", "babbage")):
        with place.session(credentials) as session:
            with pytest.raises(Unauthorized):
                session.pull(place.reference())


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(ping),
        Scenario(push_and_pull),
        Scenario(push_again),
        Scenario(pages_of_tags),
        Scenario(resolve_and_inspect),
        Scenario(attach_and_list),
        Scenario(mount),
        Scenario(copy_of_an_index),
        Scenario(a_tag_that_is_not_there),
        Scenario(a_repository_that_is_not_there),
        Scenario(delete),
        Scenario(chunks),
        Scenario(password, access="htpasswd"),
        Scenario(token, access="token"),
    )
}

#: Registries with cassettes, and the kinds of access that they support.
KINDS: Mapping[str, tuple[str, ...]] = {
    "distribution2": ("", "htpasswd", "token"),
    "distribution3": ("", "htpasswd", "token"),
    "olareg": ("",),
}

CELLS = [
    (kind, scenario.name)
    for kind, access in KINDS.items()
    for scenario in SCENARIOS.values()
    if scenario.access in access
]
