"""Tests of mirrors: order, credentials, and fallback after failures."""

import base64
import json
import logging
import threading

import ocikit
import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from ocikit.remote import download
from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.auth.tokens import TokenCache
from ocikit.remote.config import registries_conf
from ocikit.remote.config.mirror import Mirror
from ocikit.remote.config.network import Network
from ocikit.remote.mirrors import MIRROR_BACKOFF, MirrorHost
from ocikit.spec.reference import Reference

from tests.support import peers
from tests.support.fake_registry import FakeRegistry, Response, error_response
from tests.support.home import QUICK, moved, tree, write
from tests.support.http import free_port

MIB = 1 << 20
FILES = {
    "data/a.csv": b"x\n1\n",
    "data/big.bin": bytes(range(256)) * 4 * 5120,
    "data/small.bin": b"small " * 500,
}  # 5 MiB, more than what is read as a whole


@define
class Site:
    """A registry and two mirrors."""

    upstream: FakeRegistry
    first: FakeRegistry
    second: FakeRegistry
    digest: str = ""
    sessions: list = field(factory=list)

    @property
    def ref(self):
        return f"{self.upstream.host}/t/d:v1"

    @property
    def pinned(self):
        return f"{self.upstream.host}/t/d@{self.digest}"

    def session(self, *mirrors, **settings):
        """Return a session with these mirrors, or both."""
        given = mirrors or (self.first.host, self.second.host)
        network = settings.pop("network", QUICK)
        result = ocikit.Session(progress=False, network=network, mirrors={self.upstream.host: given}, **settings)
        self.sessions.append(result)
        return result

    def new_requests(self):
        """Return the requests to each host since the last call."""
        return moved(self.upstream), moved(self.first), moved(self.second)

    def fill(self, server, prefix="", *, tag=True):
        """Copy the content of the registry to a mirror."""
        server.blobs |= {(prefix + name, digest): blob for (name, digest), blob in self.upstream.blobs.items()}
        server.manifests |= {(prefix + name, digest): raw for (name, digest), raw in self.upstream.manifests.items()}
        if tag:
            server.tags |= {(prefix + name, named): digest for (name, named), digest in self.upstream.tags.items()}

    def big(self):
        return next(digest for (_, digest), blob in self.upstream.blobs.items() if len(blob) >= 5 * MIB)


@pytest.fixture
def site(home, monkeypatch):
    monkeypatch.setattr(download, "_STALL_WAIT", 0.001)
    write(home, FILES)
    with FakeRegistry() as upstream, FakeRegistry() as first, FakeRegistry() as second:
        with ocikit.Session(progress=False, network=QUICK) as session:
            digest = session.push(f"{upstream.host}/t/d:v1", "data").descriptor.digest
        result = Site(upstream, first, second, digest)
        result.new_requests()
        yield result
        for session in result.sessions:
            session.close()


def content(folder):
    return {f"data/{name.removeprefix('data/')}": raw for name, raw in tree(folder).items()}


# Order


def test_content_comes_from_first_mirror_that_has_it(site, home):
    site.fill(site.first)
    art = site.session().pull(site.ref, home / "back")
    assert content(home / "back") == FILES
    assert site.new_requests() == ([], ["GET manifests", *["GET blobs"] * 3], [])
    assert str(art.reference).startswith(f"{site.upstream.host}/t/d"), "the registry's name, not the mirror's"
    assert art.descriptor.digest == site.digest


def test_missing_content_comes_from_next_mirror_or_registry(site, home):
    site.fill(site.second)
    del site.second.blobs["t/d", site.big()]
    site.session().pull(site.ref, home / "back")
    assert content(home / "back") == FILES
    upstream, first, second = site.new_requests()
    assert upstream == ["GET blobs"]
    assert sorted(first) == [*["GET blobs"] * 3, "GET manifests"]
    assert sorted(second) == [*["GET blobs"] * 3, "GET manifests"]


def test_cached_pinned_reference_needs_no_request(site, home):
    site.fill(site.first)
    session = site.session()
    session.pull(site.ref)
    assert session.pin(site.ref).name == f"{site.upstream.host}/t/d"
    site.new_requests()
    session.pull(site.pinned)
    assert site.new_requests() == ([], [], [])
    assert site.first.host.rpartition(":")[2] not in str(list(session.cache.root.rglob("*")))


def test_no_mirrors_means_no_extra_requests(site, home):
    with ocikit.Session(progress=False, network=QUICK) as session:
        session.pull(site.ref)
    assert sorted(site.new_requests()[0]) == [*["GET blobs"] * 3, "GET manifests", "HEAD manifests"]


def test_mirror_of_another_registry_is_not_used(site, home):
    site.fill(site.first)
    with ocikit.Session(progress=False, network=QUICK, mirrors={"quay.io": [site.first.host]}) as session:
        session.pull(site.ref)
    assert site.new_requests()[1] == []


def test_missing_tag_error_is_same_as_without_mirrors(site):
    with pytest.raises(ocikit.ManifestUnknown) as caught:
        site.session().pull(f"{site.upstream.host}/t/d:v2")
    assert "nearest: v1" in caught.value.hint
    upstream, first, second = site.new_requests()
    assert first == second == ["GET manifests"], "mirrors list no tags"
    assert upstream == ["HEAD manifests", "GET tags"]


def test_mirror_path_is_prepended_to_names(site, home):
    site.fill(site.first, "hub/deep/")
    site.session(f"{site.first.host}/hub/deep").pull(site.ref, home / "back")
    assert content(home / "back") == FILES
    assert {tuple(r.path.split("/")[2:6]) for r in site.first.requests} == {("hub", "deep", "t", "d")}
    assert site.upstream.requests == []


def test_prefix_of_registry_has_its_own_mirrors(site, home):
    site.fill(site.first)  # t/d there
    mirrors = {f"{site.upstream.host}/t": [f"{site.second.host}/m"], site.upstream.host: [site.first.host]}
    with ocikit.Session(progress=False, network=QUICK, mirrors=mirrors) as session:
        session.inspect(site.ref)
    assert site.first.requests == []
    assert [r.path for r in site.second.requests] == ["/v2/m/d/manifests/v1", f"/v2/m/d/manifests/{site.digest}"]


def test_longest_prefix_wins_and_host_precedes_domain():
    network = Network(mirrors={"*.example.com": "any.example", "a.example.com": "one.example:5000/x/", "a.example.com/b/c": "deep.example",
                               "docker.io": ["https.example", "HUB.example/y"]})  # fmt: skip

    def route(text):
        return [f"{m.location} {name}" for m, name in network.route(Reference.parse(text)).mirrors]

    assert route("b.example.com/n/m") == ["any.example n/m"]
    assert route("x.y.example.com/n") == ["any.example n"]
    assert route("example.com/n") == []
    assert route("notexample.com/n") == []
    assert route("a.example.com/bb") == ["one.example:5000/x x/bb"]
    assert route("a.example.com/b/c/d") == ["deep.example d"]
    assert route("a.example.com/b/cc") == ["one.example:5000/x x/b/cc"]
    assert route("a.example.com/b/c") == [], "the name on the mirror would be empty"
    assert route("alpine") == ["https.example library/alpine", "hub.example/y y/library/alpine"]


@pytest.mark.parametrize(
    "location",
    ["https://mirror.example", "mirror", "", "a@mirror.example", "u:p@mirror.example/x", "mirror.example/Upper",
     "mirror.example:99999", "mirror.example/a//b", "mirror.example/x:v1", "*.mirror.example", None, 5],
)  # fmt: skip
def test_invalid_location_is_rejected_at_construction(location):
    with pytest.raises(ocikit.InvalidReference):
        ocikit.Session(mirrors={"docker.io": [location]})


@pytest.mark.parametrize(
    "given", [["mirror.example"], "mirror.example", {"docker.io": 5}, {"docker.io": None}, {"mirror.example"}]
)
def test_invalid_mirrors_argument_is_rejected(given):
    with pytest.raises(ocikit.InvalidArgument, match="is not a mapping of registries to mirrors"):
        ocikit.Session(mirrors=given)


def test_single_mirror_is_accepted_and_invalid_pull_rejected():
    assert Network(mirrors={"docker.io": "mirror.example"}).mirrors == {"docker.io": (Mirror("mirror.example"),)}
    with pytest.raises(ocikit.InvalidArgument, match="pull='digests'"):
        Mirror("mirror.example", pull="digests")
    with pytest.raises(ocikit.InvalidArgument, match="final"):
        Mirror("mirror.example", pull="tag-only", final=True)


# Tags, digests, namespaces


def test_digest_only_mirror_resolves_no_tags(site, home):
    site.fill(site.first)
    site.first.tags["t/d", "v1"] = site.first.manifest("t/d", {"schemaVersion": 2, "stale": True})
    site.session(Mirror(site.first.host, pull="digest-only")).pull(site.ref, home / "back")
    assert content(home / "back") == FILES
    upstream, first, _ = site.new_requests()
    assert upstream == ["HEAD manifests"]
    assert sorted(first) == [*["GET blobs"] * 3, "GET manifests"]


def test_tag_only_mirror_serves_references_without_digest(site):
    site.fill(site.first)
    mirror = Mirror(site.first.host, pull="tag-only")
    site.session(mirror).inspect(site.pinned)
    assert site.new_requests() == (["HEAD manifests", "GET manifests"], [], [])
    site.session(mirror, cache="other").inspect(site.ref)
    assert site.new_requests() == ([], ["GET manifests"], [])


def test_wrong_size_of_registry_does_not_disable_mirror(site, home):
    site.fill(site.first)
    site.upstream.on("HEAD", ".*/manifests/.*", headers={"Content-Length": 7}, times=None)
    pulled = site.session(Mirror(site.first.host, pull="digest-only")).pull(site.ref, home / "back")
    assert content(home / "back") == FILES
    assert pulled.descriptor.size == pulled.document.size
    upstream, first, _ = site.new_requests()
    assert upstream == ["HEAD manifests"]
    assert sorted(first) == [*["GET blobs"] * 3, "GET manifests"]


def test_body_received_while_resolving_is_not_requested_again(site):
    site.fill(site.first)
    site.upstream.on("HEAD", ".*/manifests/.*", without=("Docker-Content-Digest",), times=None)
    site.session(Mirror(site.first.host, pull="digest-only")).inspect(site.ref)
    assert site.new_requests() == (["HEAD manifests", "GET manifests"], [], [])


@pytest.mark.parametrize("ns", [True, False])
def test_ns_parameter_names_upstream_registry(site, home, ns):
    site.fill(site.first)
    site.session(Mirror(site.first.host, ns=ns)).pull(site.ref, home / "back")
    assert content(home / "back") == FILES
    assert {str(r.query.get("ns")) for r in site.first.requests} == {str([site.upstream.host] if ns else None)}
    assert site.upstream.requests == []


def test_moved_content_is_read_from_new_location_only(site, home):
    site.fill(site.second, "moved/")
    moved_to = Mirror(f"{site.second.host}/moved", final=True)
    session = site.session(site.first.host, moved_to)
    session.pull(site.ref, home / "back")
    assert content(home / "back") == FILES
    assert session.referrers(site.ref) == []
    assert site.new_requests()[0] == []
    with pytest.raises(ocikit.ManifestUnknown):
        session.inspect(f"{site.upstream.host}/t/d:v2")
    assert site.new_requests()[0] == []


def test_writes_and_lists_use_registry_itself(site, home):
    site.fill(site.first)
    session = site.session()
    session.push(f"{site.upstream.host}/t/new:v1", "data")
    session.tag(site.ref, "v2")
    session.attach(site.ref, artifact_type="application/vnd.example.note", annotations={"a": "b"})
    assert session.tags(site.ref) == ["v1", "v2"]
    session.catalog(site.upstream.host)
    session.ping(site.upstream.host)
    session.repository(site.ref).head_manifest("v1")
    session.delete(f"{site.upstream.host}/t/d:v2")
    assert site.new_requests()[1:] == ([], [])
    assert session.tags(site.ref) == ["v1"]


def test_copy_reads_referrers_from_registry_content_from_mirror(site, home):
    with ocikit.Session(progress=False, network=QUICK) as plain:
        plain.attach(site.ref, "data/a.csv", artifact_type="application/vnd.example.report")
    site.fill(site.first)
    site.new_requests()
    session = site.session()
    session.copy(site.ref, "oci:copied:v1", referrers=True)
    assert len(session.referrers("oci:copied:v1")) == 1
    upstream, first, _ = site.new_requests()
    # The registry lists referrers, and tags that cosign would use. Content comes from the mirror
    assert set(upstream) == {"GET referrers", "GET tags", "HEAD manifests"}
    assert set(first) == {"GET manifests", "GET blobs"}


def test_copy_within_registry_still_mounts(site):
    site.fill(site.first)
    site.session().copy(site.ref, f"{site.upstream.host}/t/e:v1")
    assert "GET blobs" not in sum(site.new_requests(), [])
    assert site.session().pin(f"{site.upstream.host}/t/e:v1").digest == site.digest


def test_validation_reads_from_mirrors(site):
    site.fill(site.first)
    site.upstream.on("GET|HEAD", ".*", times=None, drop="before")
    assert site.session().validate(site.ref)


def test_offline_mode_sends_no_requests(site, home, monkeypatch):
    site.fill(site.first)
    site.session().pull(site.ref)
    site.new_requests()
    monkeypatch.setenv("OCIKIT_OFFLINE", "1")
    site.session().pull(site.ref, home / "back")
    assert content(home / "back") == FILES
    with pytest.raises(ocikit.OfflineError):
        site.session().pull(f"{site.upstream.host}/t/other:v1")
    assert site.new_requests() == ([], [], [])


def test_file_is_read_by_ranges(site):
    site.fill(site.first)
    session = site.session()
    with session.open(site.ref, "data/big.bin") as stream:
        stream.seek(-300, 2)
        assert stream.read() == FILES["data/big.bin"][-300:]
        stream.seek(1000)
        assert stream.read(600) == FILES["data/big.bin"][1000:1600]
    blobs = site.first.seen("GET", ".*/blobs/.*")
    assert [r.headers.get("Range") for r in blobs] == [f"bytes={5 * MIB - 65536}-{5 * MIB - 1}", "bytes=1000-66535"]
    assert site.first.connections == 1
    assert site.upstream.requests == []
    with session.open(site.ref, "data/small.bin") as stream:
        assert stream.read() == FILES["data/small.bin"]


@pytest.mark.parametrize(
    "fault", [{"status": 404}, {"status": 500}, {"drop": "before"}, {"cut": 1000, "length": 65536}]
)
def test_random_read_continues_on_next_host(site, fault):
    """The second range of the mirror fails for good; the registry serves the rest."""
    site.fill(site.first)
    big = FILES["data/big.bin"]
    with site.session(site.first.host).open(site.ref, "data/big.bin") as stream:
        assert stream.read(100) == big[:100]
        site.first.on("GET", ".*/blobs/.*", times=None, **fault)
        for position in (2 * MIB, 3 * MIB):
            stream.seek(position)
            assert stream.read(100) == big[position:][:100]
    assert [r.headers.get("Range") for r in site.upstream.seen("GET", ".*/blobs/.*")] == [
        "bytes=2097152-2162687",
        "bytes=3145728-3211263",
    ]


def test_ranges_are_read_from_mirror(site):
    site.fill(site.first)
    big = FILES["data/big.bin"]
    spans = [(4 * MIB, 10), (0, 10), (100, 20)]
    file = site.session(site.first.host).inspect(site.ref)["data/big.bin"]
    assert file.ranges(spans) == [big[o : o + n] for o, n in spans]
    assert len(site.first.seen("GET", ".*/blobs/.*")) == 2 and not site.upstream.seen("GET", ".*/blobs/.*")


# Failures


FAILURES = {
    "404": {"status": 404},
    "401": {"status": 401},
    "403": {"status": 403},
    "429": {"status": 429},
    "500": {"status": 500},
    "503": {"status": 503},
    "a page": {"status": 200, "body": b"<html><title>Sign in</title></html>", "headers": {"Content-Type": "text/html"}},
    "no answer": {"drop": "before"},
    "a reset": {"drop": "before", "reset": True},
    "wrong bytes": {"change": lambda request, answer: Response(answer.status, answer.headers, answer.body[::-1])},
    "too few bytes": {"change": lambda request, answer: Response(answer.status, answer.headers, answer.body[:-1])},
    "a loop": {"status": 307, "headers": {"Location": "/v2/t/d/manifests/v1"}},
}


@pytest.mark.parametrize("kind", FAILURES)
def test_faulty_mirror_document_falls_back_to_next_mirror(site, kind):
    site.fill(site.first)
    site.fill(site.second)
    site.first.on("GET|HEAD", ".*/manifests/.*", times=None, **FAILURES[kind])
    art = site.session().inspect(site.ref)
    assert art.descriptor.digest == site.digest
    assert [r.method for r in site.second.seen(path=".*/manifests/.*")] == ["GET"]
    assert site.upstream.requests == []


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        *((kind, "folder") for kind in FAILURES),
        *(("wrong bytes", to) for to in ("cache", "memory", "layout", "registry")),
    ],
)
def test_faulty_mirror_blob_yields_correct_content(site, home, kind, to):
    site.fill(site.first)
    site.first.on("GET", ".*/blobs/.*", times=None, **FAILURES[kind])
    session = site.session(site.first.host)
    if to == "folder":
        session.pull(site.ref, home / "back")
        assert content(home / "back") == FILES
    elif to == "cache":
        assert content(session.pull(site.ref).path) == FILES
    elif to == "memory":
        art = session.inspect(site.ref)
        assert art["data/small.bin"].read() == FILES["data/small.bin"]
    elif to == "layout":
        session.copy(site.ref, "oci:copied:v1")
        assert ocikit.Layout("copied").verify().ok
    else:
        session.copy(site.ref, f"{site.second.host}/t/d:v1")
        with ocikit.Session(progress=False, network=QUICK, cache="other") as plain:
            assert content(plain.pull(f"{site.second.host}/t/d:v1").path) == FILES
    assert site.upstream.seen("GET", ".*/blobs/.*")


def test_truncated_blob_continues_from_registry(site, home):
    site.fill(site.first)
    site.first.on("GET", f".*/blobs/{site.big()}", times=None, cut=2 * MIB, length=5 * MIB)
    site.first.on("GET", f".*/blobs/{site.big()}", times=None, when=lambda r: "Range" in r.headers, drop="before")
    told = []

    class Listener(ocikit.Progress):
        def advance(self, descriptor, n):
            told.append(n if descriptor.digest == site.big() else 0)

    site.session(site.first.host).pull(site.ref, home / "back", progress=Listener())
    assert content(home / "back") == FILES
    (rest,) = site.upstream.seen("GET", f".*/blobs/{site.big()}")
    assert rest.headers["Range"] == f"bytes={2 * MIB}-", "the received prefix is reused"
    assert sum(told) == 5 * MIB


def test_interrupted_blob_resumes_from_mirror(site, home):
    site.fill(site.first)
    site.first.on("GET", f".*/blobs/{site.big()}", cut=2 * MIB, length=5 * MIB)
    site.session(site.first.host).pull(site.ref, home / "back")
    assert content(home / "back") == FILES
    assert site.upstream.requests == []


def test_corrupt_content_is_not_returned_and_disables_mirror(site, home, caplog):
    site.fill(site.first)
    site.first.blobs["t/d", site.big()] = b"w" * 5 * MIB
    session = site.session()
    with session.open(site.ref, "data/big.bin") as stream, pytest.raises(ocikit.DigestMismatch):
        stream.read()
    site.first.requests.clear()
    with caplog.at_level(logging.WARNING, "ocikit"), session.open(site.ref, "data/big.bin") as stream:
        assert stream.read() == FILES["data/big.bin"]
    assert site.first.requests == []


def test_pull_with_corrupt_mirror_succeeds_and_counts_files_once(site, home, caplog):
    site.fill(site.first)
    site.first.blobs["t/d", site.big()] = b"w" * 5 * MIB
    with caplog.at_level(logging.INFO, "ocikit"):
        art = site.session(site.first.host).pull(site.ref, home / "back", workers=1)
    assert content(home / "back") == FILES
    again = {len(site.upstream.blobs["t/d", r.path.rpartition("/")[2]]) for r in site.upstream.requests}
    assert again == {5 * MIB, 3000}, "received content is not requested again"
    assert art.summary.startswith("pulled 3 files")
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert site.first.host in warning and "is disabled" in warning
    assert {f.name for f in (home / "back/.ocikit").rglob("*") if f.is_file()} == {"lock", "manifest.json"}


def test_corrupt_registry_content_raises(site, home):
    site.fill(site.first)
    for server in (site.first, site.upstream):
        server.blobs["t/d", site.big()] = b"w" * 5 * MIB
    with pytest.raises(ocikit.DigestMismatch):
        site.session(site.first.host).pull(site.ref, home / "back")
    assert not (home / "back/data/big.bin").exists() and not (home / "back/big.bin").exists()


def test_dead_mirror_is_tried_once(site, home, caplog):
    site.fill(site.second)
    site.first.on(".*", ".*", times=None, drop="before")
    session = site.session()
    with caplog.at_level(logging.WARNING, "ocikit"):
        session.inspect(site.ref)
        before = site.first.connections
        session.pull(site.ref, home / "back")
        session.pull(site.ref)
    assert content(home / "back") == FILES
    assert site.first.connections == before > 0
    assert len([r for r in caplog.records if "is skipped for" in r.getMessage()]) == 1
    assert site.upstream.requests == []


def test_unreachable_mirror_does_not_fail_pull(site, home):
    port = free_port()
    site.session(f"127.0.0.1:{port}").pull(site.ref, home / "back")
    assert content(home / "back") == FILES


def test_dead_mirror_is_retried_after_backoff(site, monkeypatch):
    site.fill(site.first)
    site.first.on(".*", ".*", times=None, drop="before")
    session = site.session(site.first.host)
    session.inspect(site.ref)
    site.first.faults.clear()
    site.new_requests()
    session.inspect(site.ref)
    assert site.new_requests()[1] == []
    monkeypatch.setattr("ocikit.remote.mirrors.MIRROR_BACKOFF", -1.0)
    (host,) = session._backends._mirrors.values()
    host.back_off()
    session.inspect(site.ref)
    assert site.new_requests()[1] == ["GET manifests"]


def test_error_of_registry_includes_mirror_errors(site):
    site.first.on("GET", ".*", times=None, status=403)
    site.second.on("GET", ".*", times=None, status=500)
    site.upstream.on("GET|HEAD", ".*", times=None, drop="before")
    with pytest.raises(ocikit.ConnectionFailed) as caught:
        site.session().inspect(site.ref)
    told = str(caught.value)
    assert f"no answer from {site.upstream.host}" in told
    assert f"{site.first.host} returned 403" in told and f"{site.second.host} returned 500" in told


def test_many_threads_read_from_unstable_mirrors(site, home):
    site.fill(site.first)
    site.first.on("GET", ".*/blobs/.*", times=4, status=500)
    failures = []

    def work(n):
        try:
            session = site.session(cache=home / f"cache{n}")
            assert content(session.pull(site.ref).path) == FILES
        except BaseException as problem:
            failures.append(problem)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert failures == []


# Credentials


def basic(user, password):
    expected = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"

    def guard(request):
        if request.headers.get("Authorization") == expected:
            return None
        return error_response(401, "UNAUTHORIZED", **{"WWW-Authenticate": 'Basic realm="x"'})

    return guard


def credentials_sent(server):
    """Return the credentials that a server received."""
    values = {r.headers["Authorization"] for r in server.requests if "Authorization" in r.headers}
    return {base64.b64decode(value.removeprefix("Basic ")).decode() for value in values}


def test_each_host_gets_its_own_credentials_only(site, home):
    site.fill(site.first)
    site.upstream.guard, site.first.guard, site.second.guard = (
        basic("up", "1"),
        basic("mirror", "2"),
        basic("x", "3"),
    )
    del site.first.blobs["t/d", site.big()]
    keys = {site.upstream.host: ("up", "1"), site.first.host: ("mirror", "2")}
    site.session(credentials=keys).pull(site.ref, home / "back")
    assert content(home / "back") == FILES
    assert credentials_sent(site.upstream) == {"up:1"}
    assert credentials_sent(site.first) == {"mirror:2"}
    assert site.second.requests and credentials_sent(site.second) == set()


@pytest.mark.parametrize("order", ["mirror first", "registry first"])
def test_bare_pair_is_not_sent_to_mirror(site, home, order):
    site.upstream.guard = basic("up", "1")
    for server in (site.first, site.second):
        server.guard = basic("nobody", "knows")
    session = site.session(credentials=("up", "1"))
    if order == "registry first":
        session.tags(site.ref)
    session.pull(site.ref, home / "back")
    assert content(home / "back") == FILES
    assert credentials_sent(site.upstream) == {"up:1"}
    assert site.first.requests and site.second.requests
    assert credentials_sent(site.first) == credentials_sent(site.second) == set()


def test_mirror_credentials_come_from_docker_config(site, home):
    site.fill(site.first)
    site.first.guard = basic("mirror", "2")
    folder = home.parent / ".docker"
    folder.mkdir()
    auths = {
        site.first.host: {"auth": base64.b64encode(b"mirror:2").decode()},
        site.upstream.host: {"auth": base64.b64encode(b"up:1").decode()},
    }
    (folder / "config.json").write_text(json.dumps({"auths": auths}))
    site.session(credentials=("up", "1")).pull(site.ref, home / "back")
    assert credentials_sent(site.first) == {"mirror:2"}
    assert site.upstream.requests == []


def test_session_headers_are_not_sent_to_mirrors(site, home):
    site.fill(site.first)
    del site.first.blobs["t/d", site.big()]
    network = ocikit.Network(retries=1, headers={"X-Team": "secret"})
    site.session(network=network).pull(site.ref, home / "back")
    assert {r.headers.get("X-Team") for r in site.upstream.requests} == {"secret"}
    assert {r.headers.get("X-Team") for s in (site.first, site.second) for r in s.requests} == {None}


# Display and log


def test_session_shows_mirrors_and_log_names_them(site, home, caplog):
    site.fill(site.first)
    del site.first.blobs["t/d", site.big()]
    session = site.session(site.first.host)
    assert f"mirrors={{'{site.upstream.host}': ['{site.first.host}']}}" in repr(session)
    assert "mirrors" not in repr(ocikit.Session(progress=False))
    with caplog.at_level(logging.INFO, "ocikit"):
        session.pull(site.ref, home / "back")
    told = [r.getMessage() for r in caplog.records]
    assert f"{site.upstream.host}/t/d@v1 comes from its mirror {site.first.host}/t/d" in told
    assert len([t for t in told if "comes from its mirror" in t]) == 3, "the document and two of three blobs"
    assert len([t for t in told if "failed, using the next one" in t]) == 1


def test_insecure_mirror_may_use_http_but_registry_may_not():
    host = MirrorHost(Mirror("mirror.example/x", insecure=True), Network(), Keychain({}), TokenCache())
    assert host.transport.insecure
    session = ocikit.Session(mirrors={"docker.io": [Mirror("mirror.example/x", insecure=True)]})
    assert not session.registry("mirror.example").transport.insecure
    assert not session.registry("docker.io").transport.insecure


def test_mirror_has_few_retries_and_final_location_all():
    network = Network(retries=7, max_wait=100, connect_timeout=20)
    quick, whole = (
        MirrorHost(Mirror("m.example", final=final), network, Keychain({}), TokenCache()).transport.network
        for final in (False, True)
    )
    assert (quick.retries, quick.max_wait, quick.connect_timeout) == (1, 5.0, 5.0)
    assert (whole.retries, whole.max_wait, whole.connect_timeout) == (7, 100, 20)
    assert MIRROR_BACKOFF == 60.0


# Blocked, and registries.conf


def test_blocked_prefix_is_not_used_except_longer_prefixes(site, home):
    blocked = ocikit.Network(
        retries=0, blocked=[site.upstream.host, "*.evil.example"], mirrors={f"{site.upstream.host}/t": []}
    )
    with ocikit.Session(progress=False, network=blocked) as session:
        assert session.pull(site.ref).digest == site.digest
        site.new_requests()
        other = f"{site.upstream.host}/u/d:v1"
        for verb in (
            session.pull,
            session.inspect,
            session.tags,
            session.delete,
            session.repository,
            lambda r: session.push(r, "data"),
        ):
            with pytest.raises(ocikit.Denied, match=f"{site.upstream.host}/u/d is blocked"):
                verb(other)
        for host in (site.upstream.host, "a.evil.example"):
            with pytest.raises(ocikit.Denied, match="is blocked"):
                session.ping(host)
        assert f"blocked=['*.evil.example', '{site.upstream.host}']" in repr(session)
    assert site.new_requests() == ([], [], [])


def conf(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


EXAMPLE = """
unqualified-search-registries = ["example.com"]

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"

[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true
pull-from-mirror = "tag-only"

[[registry]]
location = "registry.com"
mirror-by-digest-only = true

[[registry.mirror]]
location = "mirror.registry.com"

[[registry]]
prefix = "*.evil.example"
blocked = true

[[registry]]
location = "localhost:5000"
insecure = true
"""


def test_unknown_key_is_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "ocikit"):
        Network.from_registries_conf(conf(tmp_path / "registries.conf", "credential-helpers = []\n[aliases]\n"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "aliases, credential-helpers" in record.getMessage()


def test_example_of_manual_is_parsed(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "ocikit"):
        network = Network.from_registries_conf(conf(tmp_path / "registries.conf", EXAMPLE))
    (record,) = caplog.records
    assert "ignored unsupported keys: unqualified-search-registries" in record.getMessage()
    assert record.levelno == logging.INFO, "each installation of podman has these keys"
    assert network == Network(
        insecure=["localhost:5000"],
        blocked=["*.evil.example"],
        mirrors={
            "example.com/foo": [
                Mirror("example-mirror-0.local/mirror-for-foo"),
                Mirror("example-mirror-1.local/mirrors/foo", insecure=True, pull="tag-only"),
                Mirror("internal-registry-for-example.com/bar", final=True),
            ],
            "registry.com": [Mirror("mirror.registry.com", pull="digest-only")],
            "*.evil.example": [],
            "localhost:5000": [],
        },
    )
    tried = [
        f"{m.location.partition('/')[0]}/{name}"
        for m, name in network.route(Reference.parse("example.com/foo/image:latest")).mirrors
    ]
    assert tried == ["example-mirror-0.local/mirror-for-foo/image", "example-mirror-1.local/mirrors/foo/image",
                     "internal-registry-for-example.com/bar/image"]  # fmt: skip


def test_session_uses_registries_conf(site, home):
    site.fill(site.first, "cache/")
    path = conf(
        home / "registries.conf",
        f'[[registry]]\nlocation = "{site.upstream.host}"\n[[registry.mirror]]\nlocation = "{site.first.host}/cache"\n',
    )
    network = ocikit.Network.from_registries_conf(path, retries=1, insecure=["other.example"])
    assert (network.retries, network.insecure) == (1, {"other.example"})
    with ocikit.Session(progress=False, network=network) as session:
        assert content(session.pull(site.ref).path) == FILES
    assert site.upstream.requests == []


def test_default_files_are_read_in_podman_order(home, tmp_path, monkeypatch):
    system, own = tmp_path / "etc", home.parent / ".config/containers"
    monkeypatch.setattr(registries_conf, "SYSTEM_FOLDER", system)

    def found():
        return {prefix: m[0].location for prefix, m in Network.from_registries_conf().mirrors.items()}

    def table(mirror, host="a.example"):
        return f'[[registry]]\nlocation = "{host}"\n[[registry.mirror]]\nlocation = "{mirror}.example"\n'

    assert found() == {}, "nothing is there"
    conf(system / "registries.conf", table("system") + table("kept", "b.example"))
    assert found() == {"a.example": "system.example", "b.example": "kept.example"}
    conf(system / "registries.conf.d/20-b.conf", table("b"))
    conf(system / "registries.conf.d/10-a.conf", table("a"))
    conf(system / "registries.conf.d/30-c.txt", "[[[")
    assert found() == {"a.example": "b.example", "b.example": "kept.example"}
    conf(own / "registries.conf.d/1.conf", table("own"))
    assert found() == {"a.example": "own.example", "b.example": "kept.example"}
    conf(own / "registries.conf", table("mine", "c.example"))
    assert found() == {"a.example": "own.example", "c.example": "mine.example"}, "the system's no longer count"


def test_session_reads_no_registries_conf_by_default(home):
    conf(home.parent / ".config/containers/registries.conf", '[[registry]]\nlocation = "ghcr.io"\nblocked = true\n')
    with ocikit.Session(progress=False) as session:
        assert session.registry("ghcr.io").host == "ghcr.io"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[registry]", "is not TOML"),
        ("\x00", "is not TOML"),
        ("registry = 5", "$.registry is 5"),
        ('registry = ["a"]', "$.registry has an item that is not a table"),
        ("[[registry]]", "$.registry[0] has neither prefix nor location"),
        ('[[registry]]\nlocation = "https://a.example"', "$.registry[0] is invalid"),
        ('[[registry]]\nlocation = "a.example/x:v1"', "$.registry[0] is invalid"),
        ('[[registry]]\nprefix = "a.*.example"\nblocked = true', "$.registry[0] is invalid"),
        ('[[registry]]\nprefix = "*.example/x"\nblocked = true', "$.registry[0] is invalid"),
        ('[[registry]]\nlocation = "a.example"\nblocked = "yes"', "$.registry[0].blocked is 'yes'"),
        ('[[registry]]\nlocation = "a.example"\nmirror = ["m.example"]', "$.registry[0].mirror has an item that is not a table"),
        ('[[registry]]\nlocation = "a.example"\n[[registry.mirror]]', "$.registry[0].mirror[0].location is invalid"),
        ('[[registry]]\nlocation = "a.example"\n[[registry.mirror]]\nlocation = "m.example"\npull-from-mirror = "none"',
         "$.registry[0].mirror[0].pull-from-mirror is 'none'"),
        ('[[registry]]\nlocation = "a.example"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = "m.example"\npull-from-mirror = "all"',
         "can't be combined with mirror-by-digest-only"),
        ("[registries.block]\nregistries = ['a.example']", "$.registries belongs to version 1"),
    ],
)  # fmt: skip
def test_invalid_registries_conf_error_has_path(tmp_path, text, words):
    path = conf(tmp_path / "registries.conf", text)
    with pytest.raises(ocikit.InvalidDocument) as caught:
        Network.from_registries_conf(path)
    assert words in caught.value.message and "registries.conf" in caught.value.message
    assert caught.value.hint


def test_missing_registries_conf_raises_not_found(tmp_path):
    with pytest.raises(ocikit.NotFound, match="there is no"):
        Network.from_registries_conf(tmp_path / "nowhere.conf")
    with pytest.raises(ocikit.ContentError, match="can't be read"):
        Network.from_registries_conf(tmp_path)


def test_insecure_prefix_does_not_make_host_insecure(tmp_path, caplog):
    text = '[[registry]]\nlocation = "a.example/x"\ninsecure = true\n[[registry]]\nprefix = "*.b.example"\ninsecure = true\n'
    assert Network.from_registries_conf(conf(tmp_path / "r.conf", text)).insecure == frozenset()
    assert [
        "insecure=true of a.example/x" in r.getMessage() or "insecure=true of *.b.example" in r.getMessage()
        for r in caplog.records
    ] == [True, True]


locations = st.sampled_from(
    ["a.example", "b.example/x", "*.c.example", "docker.io", "localhost:5000", "", "A/b", "x:y/z", "\x1b[31m"]
) | st.text(max_size=8)
values = st.one_of(
    locations,
    st.booleans(),
    st.integers(),
    st.lists(st.booleans(), max_size=2),
    st.floats(),
    st.sampled_from(["all", "digest-only"]),
)
keys = st.sampled_from(
    ["prefix", "location", "insecure", "blocked", "mirror-by-digest-only", "pull-from-mirror"]
) | st.text(min_size=1, max_size=5)


def toml(table):
    # JSON strings, numbers and arrays are valid TOML, except for the names of floats.
    written = (
        f"{json.dumps(key)} = {json.dumps(value)}".replace("NaN", "nan").replace("Infinity", "inf")
        for key, value in table.items()
    )
    return "\n".join(written)


@given(st.lists(st.tuples(st.booleans(), st.dictionaries(keys, values, max_size=5)), max_size=5))
def test_any_tables_parse_or_raise_typed_error(tmp_path_factory, tables):
    text = "[[registry]]\n" + "\n".join(f"[[registry{'.mirror' * nested}]]\n{toml(table)}" for nested, table in tables)
    check(tmp_path_factory.getbasetemp() / "tables.conf", text.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=200) | st.text("[]{}=\"'.#\n\\ registy01-:TZu", max_size=200).map(str.encode))
def test_any_bytes_parse_or_raise_typed_error(tmp_path_factory, raw):
    check(tmp_path_factory.getbasetemp() / "bytes.conf", raw)


def check(path, raw):
    path.write_bytes(raw)
    try:
        network = Network.from_registries_conf(path)
    except ocikit.InvalidDocument as problem:
        assert "\x1b" not in str(problem)
        return
    network.is_blocked("a.example/x/y")
    network.route(Reference.parse("a.example/x/y"))


# Real registries


@pytest.mark.peers("distribution3")
def test_distribution_3_pull_through_cache_is_mirror(site, home):
    proxying = {"proxy": {"remoteurl": site.upstream.url}}
    with peers._distribution("distribution3", "registry", proxying, None, None, True, None) as cache:
        site.session(cache.host, network=ocikit.Network(retries=1)).pull(site.ref, home / "back")
        assert content(home / "back") == FILES
        agents = {r.headers.get("User-Agent", "") for r in site.upstream.requests}
        assert agents and not any(agent.startswith("ocikit") for agent in agents), "only the cache sent requests"
