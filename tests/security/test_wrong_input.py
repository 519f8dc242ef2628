"""Tests of user mistakes: each raises a typed error with the wrong part and a next step, and leaves no partial file."""

import json
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import ocikit
import pytest
from ocikit.spec import media_types

from tests.support.fake_registry import error_response
from tests.support.home import QUICK, ROOT, largest_file, state, tree, write
from tests.support.http import free_port

MIB = 1 << 20


@pytest.fixture
def data(home):
    return write(home, {"data/a.csv": "x\n1\n", "data/b.bin": b"b" * 5000})


@pytest.fixture
def ref(data, server, session):
    """Push `data` to the scripted registry and return its reference."""
    session.push(f"{server.host}/t/d:v1", "data")
    server.requests.clear()
    return f"{server.host}/t/d:v1"


def fails(kind, call, *words, hint=True):
    """Return the error of a call; check its exact class, the words in message and hint, and that it is sanitized."""
    with pytest.raises(ocikit.OcikitError) as caught:
        call()
    problem = caught.value
    assert type(problem).__name__ == kind, f"{type(problem).__name__}: {problem}"
    for word in words:
        assert word in str(problem), str(problem)
    assert problem.hint or not hint, f"no remedy: {problem}"
    assert len(str(problem)) < 900 and "Traceback" not in str(problem) and "object at 0x" not in str(problem)
    assert str(pickle.loads(pickle.dumps(problem))) == str(problem)
    return problem


# References


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (None, "InvalidReference", ["of type NoneType"]),
        (5, "InvalidReference", ["of type int"]),
        (b"localhost:5000/x", "InvalidReference", ["of type bytes"]),
        (["a"], "InvalidReference", ["of type list"]),
        (Path("data"), "InvalidReference", ["Path"]),
        ("", "InvalidReference", ["empty"]),
        (" localhost:5000/x", "InvalidReference", ["spaces"]),
        ("localhost:5000/x\n", "InvalidReference", ["spaces"]),
        ("https://localhost:5000/x", "InvalidReference", ["is a URL", "'localhost:5000/x'"]),
        ("localhost:5000/Team/Data", "InvalidReference", ["upper-case", "'team/data'"]),
        ("localhost:5000/a//b", "InvalidReference", ["empty part"]),
        ("localhost:5000/../etc", "InvalidReference", ["invalid part", "'..'"]),
        ("localhost:5000/", "InvalidReference", ["repository name is empty"]),
        ("localhost:99999/x", "InvalidReference", ["'localhost:99999'", "not a registry host"]),
        ("localhost:5000/x:", "InvalidReference", ["not a tag"]),
        ("localhost:5000/x:-a", "InvalidReference", ["'-a'", "not a tag"]),
        ("localhost:5000/x:" + "t" * 129, "InvalidReference", ["129 characters"]),
        ("localhost:5000/" + "x" * 300, "InvalidReference", ["255"]),
        ("localhost:5000/x@sha256:12", "InvalidDigest", ["2 characters", "64"]),
        ("localhost:5000/x@v1", "InvalidDigest", ["v1"]),
        ("localhost:5000/x@", "InvalidDigest", []),
        ("localhost:5000/\x1b[31mx", "InvalidReference", ["invalid part"]),
        ("./data", "InvalidReference", ["is a path", "the reference comes first", "oci:folder:tag"]),
        ("/data", "InvalidReference", ["is a path"]),
        ("~/data", "InvalidReference", ["is a path"]),
        ("localhost:5000", "InvalidReference", ["without a repository", "'localhost:5000/team/data:v1'"]),
        ("127.0.0.1:5000", "InvalidReference", ["without a repository"]),
        ("oci:", "InvalidReference", ["has no folder"]),
        ("oci::v1", "InvalidReference", ["has no folder"]),
        ("oci:x:!", "InvalidReference", ["'!'", "not a valid name"]),
        ("oci-archive:", "InvalidReference", ["has no folder"]),
    ],
)
@pytest.mark.parametrize("verb", ["pull", "push", "inspect", "tags", "delete", "pin", "copy"])
def test_invalid_reference_names_invalid_part(text, kind, words, verb, session, home):
    write(home, {"data": "x"})
    before = state(home.parent)
    extra = {"push": ("data",), "copy": ("oci:out:v1",)}.get(verb, ())
    problem = fails(kind, lambda: getattr(session, verb)(text, *extra), *words)
    assert isinstance(problem, ValueError) and "\x1b" not in str(problem)
    assert state(home.parent) == before


@pytest.mark.parametrize(
    "host", [None, 5, "", "myhost", "http://127.0.0.1:5000", "ghcr.io/org", "a b.c", "127.0.0.1:99999", "x@y.z"]
)
@pytest.mark.parametrize("verb", ["ping", "catalog", "registry"])
def test_invalid_host_never_reaches_docker_hub(host, verb, session):
    problem = fails("InvalidReference", lambda: getattr(session, verb)(host), "registry")
    assert "docker.io" not in str(problem)


@pytest.mark.parametrize("host", [None, 5, "", "myhost"])
def test_login_without_host_fails(host, session, home):
    before = state(home.parent)
    fails("InvalidReference", lambda: session.login(host, "ada", "lovelace"), "registry")
    if host != "myhost":
        fails("InvalidReference", lambda: session.explain(host))
        fails("InvalidReference", lambda: session.logout(host))
    assert state(home.parent) == before


# Missing content


def test_missing_tag_lists_nearest(ref, session, server, home):
    for tag in ("v1.2", "main", "stable"):
        session.tag(ref, tag)
    problem = fails(
        "ManifestUnknown",
        lambda: session.pull(ref[:-2] + "v1.3", "out"),
        "no tag 'v1.3'",
        "nearest: v1.2",
        "ocikit.tags(",
    )
    assert isinstance(problem, LookupError) and problem.status == 404
    assert not (home / "out").exists()


def test_missing_repository_is_explained(ref, session, server, home):
    for call in (
        lambda: session.pull(f"{server.host}/t/nope:v1", "out"),
        lambda: session.tags(f"{server.host}/t/nope"),
    ):
        fails("NameUnknown", call, "t/nope", "catalog")
    assert not (home / "out").exists()


def test_missing_digest_is_explained(ref, session, server):
    fails(
        "ManifestUnknown",
        lambda: session.pull(f"{server.host}/t/d@sha256:{'0' * 64}"),
        "has no manifest sha256:000000000000",
        "tags",
    )


def test_missing_tag_in_layout_or_archive_lists_nearest(data, session, home):
    for place in ("oci:store", "oci-archive:store.tar"):
        session.push(f"{place}:v1", "data")
        problem = fails("ManifestUnknown", lambda place=place: session.pull(f"{place}:v2"), "store", "'v2'", "v1")
        assert "/." not in str(problem)  # the temporary folder of the unpacked archive


def test_folder_without_layout_is_explained(data, session, home):
    (home / "empty").mkdir()
    write(home, {"file": "x"})
    before = state(home)
    for place in ("oci:empty:v1", "oci:data:v1", "oci:missing:v1", "oci:file:v1", "oci:file/in/it:v1"):
        for verb in (
            session.pull,
            session.inspect,
            session.tags,
            session.delete,
            session.pin,
            lambda p: session.tag(p, "x"),
        ):
            fails("NotFound", lambda verb=verb, place=place: verb(place), place.split(":")[1].split("/")[0])
    assert state(home) == before
    for place in ("oci:file:v1", "oci:file/in/it:v1", "oci-archive:file/x.tar:v1", "oci-archive:nodir/x.tar:v1"):
        fails("ContentError", lambda place=place: session.push(place, "data"), place.split(":")[1])
    assert state(home) == before


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 1000, b"\x1f\x8b\x08garbage", b"\x28\xb5\x2f\xfdgarbage", b"BZh9garbage", b"\0" * 512]
)
def test_corrupt_archive_is_explained(content, data, session, home):
    write(home, {"store.tar": content})
    before = state(home)
    for verb in (
        session.pull,
        session.tags,
        lambda p: session.push(p, "data"),
        session.delete,
        lambda p: session.copy(p, "oci:out"),
    ):
        with pytest.raises((ocikit.ContentError, ocikit.NotFound), match=r"store\.tar") as caught:
            verb("oci-archive:store.tar:v1")
        assert caught.value.hint and "ReadError" not in str(caught.value)
    assert state(home) == before


def test_truncated_archive_is_explained(data, session, home):
    session.push("oci-archive:store.tar:v1", "data")
    whole = (home / "store.tar").read_bytes()
    end = len(whole.rstrip(b"\0"))
    for length in (100, 700, 2000, end // 2, end - 100):
        write(home, {"store.tar": whole[:length]})
        before = state(home)
        with pytest.raises((ocikit.ContentError, ocikit.NotFound), match=r"store\.tar"):
            session.pull("oci-archive:store.tar:v1", "out")
        assert state(home) == before


def test_missing_archive_is_explained(session, home):
    for path in ("no.tar", "no/no.tar"):
        for verb in (session.pull, session.tags, session.delete, lambda p: session.tag(p, "x")):
            fails("NotFound", lambda verb=verb, path=path: verb(f"oci-archive:{path}:v1"), path, "does not exist")
    assert not list(home.iterdir())


def test_missing_platform_names_available_ones(session, server, home):
    import attrs

    child = ocikit.Manifest(config=ocikit.Descriptor.of(b"{}", media_types.OCI_CONFIG), layers=())
    server.manifest("t/i", child.raw)
    index = ocikit.Index(manifests=(attrs.evolve(child.descriptor, platform=ocikit.Platform.parse("linux/mips64le")),))
    server.manifest("t/i", index.raw, "v1", media_type=media_types.OCI_INDEX)
    for call in (
        lambda: session.pull(f"{server.host}/t/i:v1", "out"),
        lambda: session.pull(f"{server.host}/t/i:v1", "out", platform="linux/arm64"),
        lambda: session.copy(f"{server.host}/t/i:v1", "oci:out", platform="windows/amd64"),
    ):
        fails("NoMatchingPlatform", call, "It has linux/mips64le", "platform=")
    assert not list(home.iterdir())


@pytest.mark.parametrize("platform", ["linux", "", "linux/", "a/b/c/d/e", 5])
def test_invalid_platform_is_explained(platform, ref, session):
    fails("InvalidReference", lambda: session.pull(ref, platform=platform), "is not a platform", "linux/amd64")


def test_missing_paths_are_explained(session, server, home):
    ref = f"{server.host}/t/d:v1"
    fails("NotFound", lambda: session.push(ref, "nothere"), "'nothere'", str(home))
    fails("ContentError", lambda: session.push(ref), "nothing to push", "push(")
    (home / "empty").mkdir()
    fails("ContentError", lambda: session.push(ref, "empty"), "'empty' has no files", "archive=")
    assert not server.blobs and not server.manifests


# Invalid arguments


@pytest.mark.parametrize(
    ("words", "arguments", "keywords"),
    [
        (["of type list", "*paths"], (["data"],), {}),
        (["of type NoneType"], (None,), {}),
        (["of type bytes"], (b"data",), {}),
        (["workers=0", "1 or more"], ("data",), {"workers": 0}),
        (["workers=-1"], ("data",), {"workers": -1}),
        (["workers='4'"], ("data",), {"workers": "4"}),
        (["archive='zip'", "tar+gzip"], ("data",), {"archive": "zip"}),
        (["annotation 'rows'", "str("], ("data",), {"annotations": {"rows": 3}}),
        (["artifact_type='report'", "application/"], ("data",), {"artifact_type": "report"}),
        (["config_type='json'"], ("data",), {"config": {}, "config_type": "json"}),
        (["config can't be written as JSON"], ("data",), {"config": {"a": {1}}, "config_type": "application/json"}),
        (["config is a str"], ("data",), {"config": "{}", "config_type": "application/json"}),
    ],
)
def test_push_checks_arguments_before_any_action(words, arguments, keywords, data, session, server, home):
    before = state(home)
    problem = fails("InvalidArgument", lambda: session.push(f"{server.host}/t/d:v1", *arguments, **keywords), *words)
    assert isinstance(problem, ValueError)
    fails("InvalidArgument", lambda: session.push("oci:store:v1", *arguments, **keywords), *words)
    assert not server.requests and state(home) == before


@pytest.mark.parametrize("workers", [0, -3, "4", 1.5])
def test_workers_must_be_positive(workers, ref, session):
    fails("InvalidArgument", lambda: ocikit.Session(workers=workers), "workers=")
    fails("InvalidArgument", lambda: session.pull(ref, workers=workers), "workers=")
    fails("InvalidArgument", lambda: session.copy(ref, "oci:out", workers=workers), "workers=")


def test_other_mistakes_are_explained(ref, data, session, server):
    fails("InvalidDocument", lambda: session.push(ref, "data", config={}), "config_type=")
    fails(
        "InvalidReference",
        lambda: session.push(ref, "data", subject=f"{server.host}/t/other:v1"),
        "isn't in",
        "copy it there",
    )
    fails("ManifestUnknown", lambda: session.push(ref, "data", subject=f"{ref}9"), "no tag 'v19'")
    fails("UnsafeArchive", lambda: session.push(ref, "data", "data"), "two files have the title 'data/a.csv'", "rename")
    fails("InvalidReference", lambda: session.tag(ref, "!"), "not a tag")
    fails("InvalidArgument", lambda: session.tag(ref), "no tag to give")
    for wrong in (5, None, b"*.csv", ["*.csv", 5]):
        fails("InvalidArgument", lambda wrong=wrong: session.push(ref, "data", include=wrong), "a pattern is text")
        fails("InvalidArgument", lambda wrong=wrong: session.pull(ref, exclude=wrong), "a pattern is text")
    fails("ContentError", lambda: session.push(ref, "data", media_types={"x": "text/x"}), "data/a.csv")


# Broken registries


def every_verb(session, ref):
    """Return a call of each verb that sends requests."""
    return [
        lambda: session.pull(ref, "out"),
        lambda: session.pull(ref),
        lambda: session.push(ref, "data"),
        lambda: session.inspect(ref),
        lambda: session.pin(ref),
        lambda: session.download(ref, "data/a.csv"),
        lambda: session.open(ref, "data/a.csv"),
        lambda: session.tags(ref),
        lambda: session.copy(ref, "oci:out"),
        lambda: session.copy("oci:store:v1", ref),
        lambda: session.tag(ref, "x"),
        lambda: session.delete(ref),
        lambda: session.referrers(ref),
        lambda: session.attach(ref, "data", artifact_type="application/x"),
    ]


def test_unreachable_registry_is_explained(data, session, home):
    session.push("oci:store:v1", "data")
    host = f"127.0.0.1:{free_port()}"
    before = state(home)
    for call in every_verb(session, f"{host}/t/d:v1"):
        with pytest.raises(ocikit.OcikitError, match="Connection refused") as caught:
            call()
        failure = caught.value.__cause__ if isinstance(caught.value, ocikit.CopyError) else caught.value
        assert type(failure) is ocikit.ConnectionFailed and isinstance(failure, OSError)
        assert host in str(failure) and "registry is running" in failure.hint
    assert state(home) == before


def test_unknown_host_is_explained(data, session, home):
    problem = fails(
        "ConnectionFailed", lambda: session.pull("nope.invalid/t/d:v1", "out"), "nope.invalid", "check the host's name"
    )
    assert "HTTPSConnectionPool" not in str(problem)
    assert not (home / "out").exists()


def test_hanging_registry_times_out(ref, home):
    host = ref.split("/")[0]
    with (
        ocikit.Session(network=ocikit.Network(read_timeout=0.2, retries=0), progress=False) as session,
        socket.socket() as mute,
    ):
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        started = time.monotonic()
        problem = fails(
            "TimedOut",
            lambda: session.pull(f"127.0.0.1:{mute.getsockname()[1]}/t/d:v1", "out"),
            "did not answer in time",
            "read timeout 0.2 s",
        )
        assert isinstance(problem, TimeoutError) and time.monotonic() - started < 5
    assert host and not (home / "out").exists()


def test_hanging_body_is_resumed_after_timeout(ref, server, home):
    digest = ocikit.Digest.of((home / "data/b.bin").read_bytes())
    server.on("GET", f"/v2/t/d/blobs/{digest}", cut=2000, stall=10, times=1)
    with ocikit.Session(network=ocikit.Network(read_timeout=0.5, retries=1), progress=False) as session:
        started = time.monotonic()
        assert session.pull(ref, "out").read("data/b.bin") == b"b" * 5000
        assert time.monotonic() - started < 5
    server.on("GET", f"/v2/t/d/blobs/{digest}", cut=0, stall=10, times=None)
    network = ocikit.Network(read_timeout=0.1, retries=0)
    # The other cache does not know the folder of the first pull
    with ocikit.Session(network=network, cache=home / "cache2", progress=False) as session:
        fails("TimedOut", lambda: session.pull(ref, "out2", workers=1), "at byte 0 of 5000", "call again")
    assert "data/b.bin" not in tree(home / "out2")


def unauthorized(request):
    return error_response(401, "UNAUTHORIZED", "log in", **{"WWW-Authenticate": 'Basic realm="test"'})


def test_missing_and_wrong_credentials_are_explained(data, server, home, session):
    server.guard = unauthorized
    ref = f"{server.host}/t/d:v1"
    session.push("oci:store:v1", "data")
    before = state(home)
    for call in every_verb(session, ref):
        with pytest.raises(ocikit.OcikitError) as caught:
            call()
        failure = caught.value.__cause__ if isinstance(caught.value, ocikit.CopyError) else caught.value
        assert type(failure) is ocikit.Unauthorized, failure
        assert (
            server.host in str(failure)
            and "401 Unauthorized" in str(failure).replace("UNAUTHORIZED (401)", "401 Unauthorized")
            and "login" in failure.hint
        )
    with ocikit.Session(credentials=("ada", "hunter2"), progress=False, network=QUICK) as wrong:
        problem = fails("Unauthorized", lambda: wrong.pull(ref), server.host)
        assert "hunter2" not in str(problem) + repr(problem.__dict__) + repr(problem)
    assert state(home) == before


def test_tls_mismatch_is_explained(data, home, session, server):
    with ocikit.Session(
        network=ocikit.Network(retries=0, connect_timeout=2, read_timeout=2, schemes={server.host: "https"}),
        progress=False,
    ) as wrong:
        problem = fails("ConnectionFailed", lambda: wrong.pull(f"{server.host}/t/d:v1"), server.host)
        assert "insecure" in problem.hint


HTML = b"<!DOCTYPE html><html><head><title>Sign in to the \x1b[31mWiFi</title></head></html>"


@pytest.mark.parametrize("digest", [True, False])
def test_login_page_instead_of_manifest_is_explained(digest, ref, session, server, home):
    without = () if digest else ("Docker-Content-Digest",)
    server.on(
        "GET|HEAD",
        "/v2/t/d/manifests/.*",
        times=None,
        body=HTML,
        headers={"Content-Type": "text/html"},
        without=without,
    )
    before = state(home)
    for call in (lambda: session.pull(ref, "out"), lambda: session.inspect(ref), lambda: session.copy(ref, "oci:out")):
        with pytest.raises(ocikit.OcikitError) as caught:
            call()
        assert "JSONDecodeError" not in str(caught.value) and "\x1b" not in str(caught.value) and caught.value.hint
        assert type(caught.value) in (
            ocikit.InvalidDocument,
            ocikit.DigestMismatch,
            ocikit.SizeMismatch,
            ocikit.CopyError,
        ) or "HTML" in str(caught.value)
    assert state(home) == before


def test_login_page_instead_of_list_is_explained(ref, session, server):
    server.on("GET", "/v2/.*", times=None, body=HTML, headers={"Content-Type": "text/html"})
    for call in (lambda: session.tags(ref), lambda: session.catalog(server.host)):
        fails("InvalidResponse", call, "text/html", "login page")


def test_login_page_instead_of_blob_is_explained(ref, session, server, home):
    server.on("GET", "/v2/t/d/blobs/.*", times=None, body=HTML, headers={"Content-Type": "text/html"})
    with pytest.raises(ocikit.ContentError):
        session.pull(ref, "out")
    assert tree(home / "out") == {}


@pytest.mark.parametrize("to", ["out", None])
def test_blob_with_wrong_bytes_is_not_stored(to, ref, session, server, home):
    digest = ocikit.Digest.of((home / "data/b.bin").read_bytes())
    server.blobs["t/d", digest] = b"B" * 5000
    problem = fails("DigestMismatch", lambda: session.pull(ref, to), digest, "corrupted")
    assert problem.expected == digest
    where = home / "out" if to else Path(os.environ["OCIKIT_CACHE"])
    assert b"B" * 5000 not in [p.read_bytes() for p in where.rglob("*") if p.is_file()]
    assert not list(where.rglob("b.bin"))
    server.blobs["t/d", digest] = b"b" * 5000
    assert session.pull(ref, to).read("data/b.bin") == b"b" * 5000


@pytest.mark.parametrize("to", ["out", None])
@pytest.mark.parametrize("size", [0, 4999, 5001])
def test_blob_of_wrong_size_is_not_stored(to, size, ref, session, server, home):
    digest = ocikit.Digest.of((home / "data/b.bin").read_bytes())
    server.blobs["t/d", digest] = b"b" * size
    with pytest.raises((ocikit.SizeMismatch, ocikit.ConnectionFailed), match=digest) as caught:
        session.pull(ref, to)
    assert caught.value.hint
    where = home / "out" if to else Path(os.environ["OCIKIT_CACHE"])
    assert not list(where.rglob("b.bin"))


@pytest.mark.parametrize("at", [0, 1, 2500, 4999])
@pytest.mark.parametrize("to", ["out", None])
def test_truncated_body_is_resumed(at, to, ref, session, server, home):
    digest = ocikit.Digest.of((home / "data/b.bin").read_bytes())
    server.on("GET", f"/v2/t/d/blobs/{digest}", cut=at)
    assert session.pull(ref, to).read("data/b.bin") == b"b" * 5000
    ranges = [r.headers.get("Range") for r in server.seen("GET", f"/v2/t/d/blobs/{digest}")]
    assert ranges == [None, f"bytes={at}-" if at else None]


def test_body_cut_at_same_byte_fails_and_stays_resumable(ref, session, server, home):
    digest = ocikit.Digest.of((home / "data/b.bin").read_bytes())
    server.on("GET", f"/v2/t/d/blobs/{digest}", cut=2000, times=1)
    server.on("GET", f"/v2/t/d/blobs/{digest}", cut=0, times=None, when=lambda r: "Range" in r.headers)
    fails("ConnectionFailed", lambda: session.pull(ref, "out"), "at byte 2000 of 5000", "call again")
    assert "data/b.bin" not in tree(home / "out")
    server.faults.clear()
    server.requests.clear()
    assert session.pull(ref, "out").read("data/b.bin") == b"b" * 5000
    assert [r.headers.get("Range") for r in server.seen("GET", f"/v2/t/d/blobs/{digest}")] == ["bytes=2000-"]


def test_copy_of_corrupt_content_names_source(ref, session, server, home):
    digest = ocikit.Digest.of((home / "data/b.bin").read_bytes())
    server.blobs["t/d", digest] = b"B" * 5000
    problem = fails("CopyError", lambda: session.copy(ref, "oci:out"), "the source failed", digest)
    assert problem.side == "source"
    assert not (home / "out/blobs/sha256" / ocikit.Digest(digest).encoded).exists()


def test_rate_limit_error_has_wait_time(ref, session, server):
    server.guard = lambda request: error_response(429, "TOOMANYREQUESTS", "too many pulls", **{"Retry-After": "3600"})
    problem = fails("RateLimited", lambda: session.pull(ref), "429 Too Many Requests", "wait 1 h 0 min", "log in")
    assert problem.retry_after == 3600
    fails("RateLimited", lambda: session.tags(ref), "TOOMANYREQUESTS (429)", "too many pulls")


# Invalid documents


def test_manifest_of_5_mib_is_rejected(session, server, home):
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": {"mediaType": "a/b", "digest": "sha256:" + "0" * 64, "size": 0},
            "layers": [],
            "annotations": {"x": "y" * (5 * MIB)},
        }
    ).encode()
    server.manifest("t/big", raw, "v1")
    problem = fails("InvalidDocument", lambda: session.pull(f"{server.host}/t/big:v1", "out"), "limit")
    assert len(str(problem)) < 500
    assert not (home / "out").exists()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"not json", ["not JSON", "not json"]),
        (b"", ["not JSON"]),
        (b"\xff\xfe{}", ["manifest"]),
        (b"[1]", ["expected an object"]),
        (b"null", ["expected an object"]),
        (b'{"schemaVersion":2}', ["$.config"]),
        (b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"x","size":1},"layers":[]}', ["$.config.digest"]),
        (
            b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:%s","size":-1},"layers":[]}'
            % (b"0" * 64),
            ["$.config.size"],
        ),
        (
            b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:%s","size":2},"layers":"x"}'
            % (b"0" * 64),
            ["$.layers"],
        ),
        (b'{"schemaVersion":1,"name":"x"}', ["schema 1"]),
        (b"[" * 100_000, ["manifest"]),
    ],
)
def test_invalid_manifest_names_json_path(raw, words, session, server, home):
    server.manifest("t/m", raw, "v1")
    with pytest.raises(ocikit.InvalidDocument) as caught:
        session.pull(f"{server.host}/t/m:v1", "out")
    for word in words:
        assert word in str(caught.value)
    assert not (home / "out").exists()


HOSTILE = [
    "../../x",
    "/etc/x",
    "a/../../x",
    "..",
    "C:\\x",
    "a\\..\\x",
    ".ocikit/manifest.json",
    "a\nb",
    "\x1b[31mred",
    "",
    "x" * 5000,
    "a/./../../b",
]


@pytest.mark.parametrize("title", HOSTILE)
def test_title_with_path_traversal_writes_nothing(title, session, server, home):
    content = b"evil"
    server.blob("t/e", content)
    layer = {
        "mediaType": "text/plain",
        "digest": ocikit.Digest.of(content),
        "size": 4,
        "annotations": {"org.opencontainers.image.title": title},
    }
    empty = {"mediaType": media_types.EMPTY, "digest": ocikit.Digest.of(b"{}"), "size": 2}
    server.manifest(
        "t/e",
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "artifactType": "a/b",
            "config": empty,
            "layers": [layer],
        },
        "v1",
    )
    ref = f"{server.host}/t/e:v1"
    before = state(home)
    for call in (
        lambda: session.pull(ref, "out"),
        lambda: session.pull(ref),
        lambda: session.inspect(ref)[title],
        lambda: session.download(ref, title),
        lambda: session.pull(ref, "out", force=True),
    ):
        problem = fails("UnsafeArchive", call, "title")
        assert "\x1b" not in str(problem)
    assert {k: v for k, v in state(home).items() if not k.startswith("out/.ocikit")} in (before, before | {"out": "/"})
    assert not [
        p for p in home.parent.rglob("*") if p.is_file() and p.read_bytes() == content and "blobs" not in p.parts
    ]
    art = session.inspect(ref)  # inspection and copies still work
    assert repr(art) and art._repr_html_() and art._ipython_key_completions_() == list(art.files) == []
    assert [file.read() for file in art.unnamed.values()] == [content]
    assert session.copy(ref, "oci:copy").digest == art.digest


def test_config_without_json_is_bytes(session, server, home):
    config = b"{not json"
    server.blob("t/c", config)
    described = {"mediaType": media_types.OCI_CONFIG, "digest": ocikit.Digest.of(config), "size": len(config)}
    server.manifest(
        "t/c", {"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "config": described, "layers": []}, "v1"
    )
    art = session.pull(f"{server.host}/t/c:v1")
    fails("InvalidDocument", lambda: art.config, "not JSON")


# Disks and folders


def test_file_in_place_of_folder_is_explained(ref, session, home):
    write(home, {"file": "edited", "out/data": "edited too"})
    before = state(home)
    fails("ContentError", lambda: session.pull(ref, "file"), "is not a folder")
    fails("ContentError", lambda: session.pull(ref, "file/below"), "file/below")
    fails("EditedFiles", lambda: session.pull(ref, "out"), "data", "force=True")
    assert state(home) == before


def test_file_in_place_of_cache_is_explained(ref, session, home, monkeypatch):
    write(home, {"file": "edited"})
    monkeypatch.setenv("OCIKIT_CACHE", str(home / "file"))
    fails("ContentError", lambda: session.pull(ref), "cache", "OCIKIT_CACHE")
    monkeypatch.setenv("OCIKIT_CACHE", str(home / "file/below"))
    fails("ContentError", lambda: session.pull(ref), "cache", "OCIKIT_CACHE")
    assert (home / "file").read_text() == "edited"


def python(code, *, home, preexec_fn=None, **options):
    """Run code in a separate process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
        preexec_fn=preexec_fn,
        **options,
    )


@pytest.mark.parametrize("to", ["'out'", "None"])
def test_full_disk_keeps_received_part_and_has_hint(to, server, session, home):
    write(home, {"big.bin": os.urandom(3 * MIB)})
    ref = str(session.push(f"{server.host}/t/d:v1", "big.bin").reference)
    code = f"""
        import ocikit
        with ocikit.Session(progress=False) as session:
            try:
                session.pull({ref!r}, {to})
            except ocikit.ContentError as error:
                print(type(error).__name__, error)
    """
    done = python(code, home=home, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, 2 * MIB)))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "File too large" in done.stdout and "ulimit" in done.stdout
    assert not list(home.rglob("out/big.bin"))
    server.requests.clear()
    session.pull(ref, None if to == "None" else "out")
    (asked,) = server.seen("GET", ".*/blobs/.*")
    assert asked.headers["Range"] == f"bytes={2 * MIB}-"


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("only root can mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_file_system_is_explained(small_disk, server, session, home, monkeypatch):
    write(home, {"big.bin": os.urandom(3 * MIB)})
    ref = session.push(f"{server.host}/t/d:v1", "big.bin").reference
    fails("ContentError", lambda: session.pull(ref, small_disk / "out"), "No space left", "free some space")
    assert tree(small_disk / "out") == {}
    import shutil

    shutil.rmtree(small_disk / "out")
    monkeypatch.setenv("OCIKIT_CACHE", str(small_disk / "cache"))
    fails("ContentError", lambda: session.pull(ref), "No space left", "free some space")
    assert not list(
        (small_disk / "cache").rglob("blobs/sha256/" + ocikit.Digest.of((home / "big.bin").read_bytes()).encoded)
    )
    fails("CopyError", lambda: session.copy(ref, f"oci:{small_disk / 'layout'}:v1"), "No space left")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights, in a process of its own")
def test_unwritable_folders_are_explained(server, session, home, tmp_path):
    write(home, {"data/a": "x"})
    ref = str(session.push(f"{server.host}/t/d:v1", "data").reference)
    locked, free = tmp_path / "locked", tmp_path / "free"
    (locked / "inner").mkdir(parents=True)
    free.mkdir()
    free.chmod(0o777)
    for folder in (
        locked,
        locked / "inner",
        *(p for p in tmp_path.parents if p.stat().st_uid == 0 and "pytest" in str(p)),
        tmp_path,
    ):
        folder.chmod(0o755)
    (locked / "shut").mkdir(0o700)
    code = f"""
        import os
        import ocikit

        ref, locked, free = {ref!r}, {str(locked)!r}, {str(free)!r}
        with ocikit.Session(progress=False) as session:  # loads all modules, because only root may be able to read the interpreter's files
            for call in (lambda: session.pull(ref, "x"), lambda: session.copy(ref, "oci-archive:x.tar")):
                call()
        os.setgid(65534)
        os.setuid(65534)
        for cache, call in (
            (locked + "/inner", lambda s: s.pull(ref)),
            (free, lambda s: s.pull(ref, locked + "/inner")),
            (free, lambda s: s.pull(ref, locked + "/new")),
            (free, lambda s: s.copy(ref, "oci:" + locked + "/layout")),
            (free, lambda s: s.copy(ref, "oci-archive:" + locked + "/a.tar")),
            (free, lambda s: s.copy(ref, "oci-archive:" + locked + "/shut/a.tar")),
        ):
            try:
                with ocikit.Session(progress=False, cache=cache) as session:
                    call(session)
                print("no error")
            except ocikit.OcikitError as error:
                print(type(error).__name__, error)
    """
    done = python(code, home=home)
    assert done.stderr == "" and done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("  ->")]
    assert len(lines) == 6 and all("Permission denied" in line and str(locked) in line for line in lines), done.stdout
    assert {line.split()[0] for line in lines} <= {"ContentError", "CopyError"}
    assert done.stdout.count("->") == 6
    assert sorted(p.name for p in locked.rglob("*")) == ["inner", "shut"]


def test_interrupted_pull_leaves_no_partial_file_and_resumes(server, session, home):
    content = os.urandom(8 * MIB)
    write(home, {"big.bin": content})
    ref = str(session.push(f"{server.host}/t/d:v1", "big.bin").reference)
    server.on("GET", ".*/blobs/.*", cut=5 * MIB, stall=20, times=1)
    running = subprocess.Popen(
        [sys.executable, "-m", "ocikit", "pull", ref, "out"],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    parts = home / "out/.ocikit/partial"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and largest_file(parts) < 4 * MIB:
        time.sleep(0.02)
    started = time.monotonic()
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=15)
    assert running.returncode == 130
    assert out == "" and "stopped" in err and "Traceback" not in err, err
    assert time.monotonic() - started < 8
    assert tree(home / "out") == {}
    (part,) = parts.iterdir()
    have = part.stat().st_size
    assert have >= 4 * MIB
    server.requests.clear()
    server.faults.clear()
    session.pull(ref, "out")
    assert (home / "out/big.bin").read_bytes() == content
    (asked,) = server.seen("GET", ".*/blobs/.*")
    assert asked.headers["Range"] == f"bytes={have}-"
    assert not list(parts.iterdir())


def test_pull_after_killed_pull_completes(server, session, home):
    write(home, {"big.bin": os.urandom(8 * MIB)})
    ref = str(session.push(f"{server.host}/t/d:v1", "big.bin").reference)
    server.on("GET", ".*/blobs/.*", cut=5 * MIB, stall=20, times=1)
    running = subprocess.Popen(
        [sys.executable, "-m", "ocikit", "pull", ref], cwd=home, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    parts = Path(os.environ["OCIKIT_CACHE"]) / "partial"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and largest_file(parts) < 4 * MIB:
        time.sleep(0.02)
    running.kill()
    running.wait()
    server.requests.clear()
    assert session.pull(ref).read("big.bin") == (home / "big.bin").read_bytes()
    (asked,) = server.seen("GET", ".*/blobs/.*")
    assert int(asked.headers["Range"].removeprefix("bytes=").rstrip("-")) >= 4 * MIB
    assert session.cache.verify().ok
