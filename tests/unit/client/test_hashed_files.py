"""A second push hashes only the files that have changed."""

import os
import time

import ocikit
import pytest
from ocikit.errors import OcikitError
from ocikit.layers import pack

from tests.support.home import moved, write

LARGE = {f"{name}.bin": os.urandom(1 << 18) for name in "abc"}


@pytest.fixture
def hashed(monkeypatch):
    """The sizes of the contents that were hashed."""
    sizes = []
    new_hasher = pack.new_hasher

    def counting(algorithm):
        hasher = new_hasher(algorithm)

        class Counting:
            def update(self, data):
                sizes.append(len(data))
                hasher.update(data)

            def hexdigest(self):
                return hasher.hexdigest()

        return Counting()

    monkeypatch.setattr(pack, "new_hasher", counting)
    return sizes


@pytest.fixture
def settled(home, monkeypatch):
    """Files whose last change is long ago. Their ctime is that of now, so the clock is ahead."""
    write(home, LARGE)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 10_000_000_000)
    return home


def test_second_push_hashes_what_changed(session, server, settled, hashed):
    first = session.push(f"{server.host}/ds:v1", ".")
    assert sum(hashed) == 3 << 18
    hashed.clear()
    with ocikit.Session(progress=False) as other:
        assert other.push(f"{server.host}/ds:v2", ".").digest == first.digest
        assert hashed == []
        (settled / "b.bin").write_bytes(bytes(1 << 18))
        changed = other.push(f"{server.host}/ds:v1", ".")
    assert sum(hashed) == 1 << 18
    assert changed.files["b.bin"].digest == ocikit.Digest.of(bytes(1 << 18))
    assert changed.files["a.bin"].digest == first.files["a.bin"].digest


def test_content_with_known_digest_is_sent(session, server, other, settled, hashed):
    session.push(f"{server.host}/ds:v1", ".")
    hashed.clear()
    artifact = session.push(f"{other.host}/ds:v1", ".")
    assert hashed == []
    assert {name: artifact[name].read() for name in artifact.files} == LARGE


def test_recently_changed_file_is_hashed_again(session, server, home, hashed):
    write(home, LARGE)
    session.push(f"{server.host}/ds:v1", ".")
    hashed.clear()
    info = (home / "a.bin").stat()
    (home / "a.bin").write_bytes(bytes(1 << 18))
    os.utime(home / "a.bin", ns=(info.st_atime_ns, info.st_mtime_ns))
    artifact = session.push(f"{server.host}/ds:v1", ".")
    assert artifact["a.bin"].read() == bytes(1 << 18)
    assert sum(hashed) == 3 << 18


def test_damaged_record_costs_a_hash(session, server, settled, hashed):
    first = session.push(f"{server.host}/ds:v1", ".")
    (session.cache.root / "hashes").write_bytes(os.urandom(1000))
    hashed.clear()
    assert session.push(f"{server.host}/ds:v1", ".").digest == first.digest
    assert sum(hashed) == 3 << 18


def test_digest_that_a_registry_rejects_is_forgotten(session, server, settled, monkeypatch):
    session.push(f"{server.host}/ds:v1", ".")
    wrong = ocikit.Digest.of(b"other")
    with session.cache.hashes() as known:
        keys = list(known._load())
        for key in keys:
            known.put(key, str(wrong))
    moved(server)
    with pytest.raises(OcikitError):
        session.push(f"{server.host}/other:v1", "a.bin")
    assert session.push(f"{server.host}/other:v1", "a.bin")["a.bin"].read() == LARGE["a.bin"]
