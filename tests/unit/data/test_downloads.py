"""Pooch fetches files of artifacts by URL and hash."""

import hashlib
import io
from pathlib import Path

import ocikit
import pytest
from ocikit.errors import FileNotInArtifact, InvalidArgument, InvalidReference

from tests.support.home import moved, write

pooch = pytest.importorskip("pooch")

CONTENT = bytes(range(256)) * 1000
HASH = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def url(session, server):
    session.push(f"{server.host}/t/d:v1", {"data/a.bin": CONTENT})
    server.requests.clear()
    return f"ocikit://{server.host}/t/d:v1/data/a.bin"


def test_retrieve_returns_the_path(url, home):
    path = pooch.retrieve(url, known_hash=HASH, downloader=ocikit.pooch(), path=home / "store", fname="a.bin")
    assert path == str(home / "store" / "a.bin")
    assert (home / "store" / "a.bin").read_bytes() == CONTENT


def test_retrieve_again_sends_no_request(url, server, home):
    for fresh in (True, False):
        pooch.retrieve(url, known_hash=HASH, downloader=ocikit.pooch(), path=home / "store", fname="a.bin")
        assert bool(moved(server)) is fresh


def test_wrong_hash_fails_and_leaves_no_file(url, home):
    with pytest.raises(ValueError, match="SHA256 hash"):
        pooch.retrieve(
            url, known_hash="sha256:" + "0" * 64, downloader=ocikit.pooch(), path=home / "store", fname="a.bin"
        )
    assert not list((home / "store").iterdir())


def test_damaged_content_fails_before_pooch_checks_it(url, server, home):
    for key in list(server.blobs):
        if server.blobs[key] == CONTENT:
            server.blobs[key] = b"x" + CONTENT[1:]
    with pytest.raises(ocikit.ContentError):
        pooch.retrieve(url, known_hash=None, downloader=ocikit.pooch(), path=home / "store", fname="a.bin")
    assert not list((home / "store").iterdir())


def test_registry_of_pooch_fetches_and_looks(session, server, url, home):
    files = pooch.create(
        path=home / "store",
        base_url=f"ocikit://{server.host}/t/d:v1/",
        registry={"data/a.bin": HASH, "data/b.bin": None},
    )
    assert Path(files.fetch("data/a.bin", downloader=ocikit.pooch())).read_bytes() == CONTENT
    assert files.is_available("data/a.bin", downloader=ocikit.pooch())
    assert not files.is_available("data/b.bin", downloader=ocikit.pooch(session=session))


def test_member_of_shard_is_written(session, server, home):
    write(home, {f"images/{i}.bin": bytes([i]) * 100 for i in range(5)})
    session.push(f"{server.host}/t/shards:v1", "images", shards="zip")
    ocikit.pooch()(f"ocikit://{server.host}/t/shards:v1/images/3.bin", home / "out.bin", None)
    assert (home / "out.bin").read_bytes() == bytes([3]) * 100


def test_download_into_open_file(session, url):
    stream = io.BytesIO()
    ocikit.pooch(session=session, progress=False)(url, stream, None)
    assert stream.getvalue() == CONTENT


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda url: url.replace("a.bin", "b.bin"), FileNotInArtifact, "no file 'data/b.bin'"),
        (lambda url: url.replace("ocikit://", "https://"), InvalidArgument, "is not a URL of this downloader"),
        (lambda url: url.replace("/data/a.bin", ""), InvalidArgument, "names no file"),
        (lambda url: url.replace(":v1", ""), InvalidReference, "has no tag"),
        (lambda url: url.replace("ocikit://", "ocikit://ada:secret@"), InvalidReference, "has a user or a password"),
    ],
)
def test_wrong_url_is_refused(url, home, change, error, message):
    with pytest.raises(error, match=message):
        ocikit.pooch()(change(url), home / "out", None)
    assert not (home / "out").exists()
