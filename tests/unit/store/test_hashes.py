"""The record of hashed files: kept between processes, and ignored where it is damaged."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from ocikit.store.cache.cache import Cache
from ocikit.store.cache.hashes import HashCache


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hashes"


def test_values_are_kept_in_the_next_process(path):
    first = HashCache(path)
    first.put("a", "1")
    assert first.get("a") == "1"
    first.save()
    assert HashCache(path).get("a") == "1"
    assert HashCache(path).get("b") is None


def test_damaged_lines_are_ignored(path):
    known = HashCache(path)
    for i in range(100):
        known.put(f"k{i}", str(i))
    known.save()
    raw = bytearray(path.read_bytes())
    raw[50] ^= 1
    path.write_bytes(b"\xff\x00 rubbish\n" + raw[:-4])  # the last line is torn
    found = HashCache(path)
    values = [found.get(f"k{i}") for i in range(100)]
    assert values.count(None) == 2
    assert all(value in {None, str(i)} for i, value in enumerate(values))
    found.put("new", "1")
    found.save()
    assert HashCache(path).get("new") == "1"


def test_old_values_are_dropped(path, monkeypatch):
    known = HashCache(path)
    known.put("old", "1")
    known.put("used", "1")
    known.save()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 20 * 86400)
    later = HashCache(path)
    assert later.get("used") == "1"
    later.save()
    monkeypatch.setattr(time, "time", lambda: now + 40 * 86400)
    assert HashCache(path).get("old") is None
    assert HashCache(path).get("used") == "1"


def test_rejected_values_are_dropped(path):
    known = HashCache(path)
    known.put("a", "1")
    known.put("b", "1")
    known.save()
    known = HashCache(path)
    assert known.get("a") == "1"
    known.drop_used()
    known.save()
    assert HashCache(path).get("a") is None
    assert HashCache(path).get("b") == "1"


def test_file_stays_small(path):
    for i in range(3000):
        known = HashCache(path)
        known.put("a", str(i))
        known.save()
    assert HashCache(path).get("a") == "2999"
    assert len(path.read_bytes().splitlines()) < 2500


def test_threads_and_processes_lose_nothing(path):
    code = (
        "import sys; from pathlib import Path; from ocikit.store.cache.hashes import HashCache\n"
        "for i in range(50):\n"
        "    known = HashCache(Path(sys.argv[1])); known.put(sys.argv[2] + str(i), 'x' * 100); known.save()"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    shared = HashCache(path)

    def add(i):
        shared.put(f"t{i}", "1")
        shared.save()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(100)))
    assert [process.wait() for process in running] == [0, 0]
    found = HashCache(path)
    assert all(found.get(f"{name}{i}") for name in "ab" for i in range(50))
    assert all(found.get(f"t{i}") for i in range(100))


def test_unwritable_cache_stops_nothing(tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    with Cache(tmp_path / "cache").hashes() as known:
        known.put("a", "1")
