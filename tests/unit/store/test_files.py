"""Atomic writes of files: full disks, concurrency, existing files."""

import io
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from ocikit.errors import ContentError
from ocikit.spec.digest import Digest
from ocikit.store import files
from ocikit.store.files import blob_path, write_atomically
from ocikit.store.streams import ProgressReader


def test_blob_path_has_algorithm_and_encoded_digest(tmp_path):
    digest = Digest.of(b"content")
    assert blob_path(tmp_path, digest) == tmp_path / "blobs" / "sha256" / digest.encoded


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 1 MiB."""
    mount = tmp_path / "mount"
    mount.mkdir()
    result = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True)
    if result.returncode:
        pytest.skip("mounting a small file system needs root")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_failed_atomic_write_keeps_old_file(full_disk):
    path = full_disk / "index.json"
    write_atomically(path, b"old")
    with pytest.raises(ContentError):
        write_atomically(path, bytes(2 << 20))
    assert [p.name for p in full_disk.iterdir()] == ["index.json"]
    assert path.read_bytes() == b"old"


def test_atomic_write_shows_old_or_new_content(tmp_path):
    path = tmp_path / "index.json"
    contents = [bytes([65 + i]) * 5000 for i in range(4)]
    write_atomically(path, contents[0])

    def write(i):
        for _ in range(50):
            write_atomically(path, contents[i], sync=False)

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(write, i) for i in range(4)]
        while not all(future.done() for future in futures):
            assert path.read_bytes() in contents
        [future.result() for future in futures]
    assert [p.name for p in tmp_path.iterdir()] == ["index.json"]


def test_atomic_writer_without_replace_keeps_existing_file(tmp_path):
    path = tmp_path / "key"
    with files.atomic_writer(path, replace=False) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), files.atomic_writer(path, replace=False) as file:
        file.write(b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_reader_counts_bytes_that_were_never_read():
    def reader():
        reported.clear()
        return ProgressReader(io.BytesIO(bytes(100)), reported.append)

    reported = []
    resumed = reader()
    resumed.seek(60)
    assert len(resumed.read()) == 40
    assert (resumed.skipped, sum(reported)) == (60, 100)
    # The resumed bytes are corrupt, so the whole blob is read
    corrupt = reader()
    corrupt.seek(60)
    corrupt.read(20)
    corrupt.seek(0)
    corrupt.read()
    assert (corrupt.skipped, sum(reported)) == (0, 100)
    # An upload that breaks and continues reads everything once
    broken = reader()
    broken.read(80)
    broken.seek(0)
    broken.seek(50)
    broken.read()
    assert (broken.skipped, sum(reported)) == (0, 100)
