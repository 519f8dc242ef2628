"""A registry on a full disk: what frees space works, with the real server process."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess

import ocikit
import pytest
from ocikit.server.storage.reserve import DiskReserve

from tests.support.home import cli
from tests.support.wsgi import MANIFEST, digest_of
from tests.unit.server.test_slow_clients import get, port_of

pytestmark = pytest.mark.timeout(120)

NAME = "team/data"
SIZE = 24 << 20


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request, tmp_path):
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder]
    else:
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("mkfs.ext4 is not installed")
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        command = ["mount", "-o", "loop", image, folder]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk):
    """Write a file until the disk is full."""
    with (disk / "other").open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def push(port, number, size=200_000):
    """Push a manifest with a blob of random bytes."""
    content = os.urandom(size)
    response = get(port, f"/v2/{NAME}/blobs/uploads/?digest={digest_of(content)}", "POST", content)
    if response[0] != 201:
        return response[0], None, None
    layer = {"mediaType": "application/octet-stream", "digest": digest_of(content), "size": size}
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": layer, "layers": [], "annotations": {"n": str(number)}}
    ).encode()
    status = get(port, f"/v2/{NAME}/manifests/v{number}", "PUT", manifest, **{"Content-Type": MANIFEST})[0]
    return status, digest_of(manifest), digest_of(content)


def test_full_disk_rejects_pushes_and_accepts_deletions(disk):
    with ocikit.serve(disk / "store", options=ocikit.ServerOptions(grace=0)) as server:
        port = port_of(server)
        pushed = [push(port, number)[1:] for number in range(20)]
        for _ in range(6):
            fill(disk)
            assert push(port, 99)[0] == 507
            manifest, blob = pushed.pop()
            assert get(port, f"/v2/{NAME}/manifests/v{len(pushed)}", "DELETE")[0] == 202
            fill(disk)
            assert get(port, f"/v2/{NAME}/manifests/{manifest}", "DELETE")[0] == 202
            fill(disk)
            assert get(port, f"/v2/{NAME}/blobs/{blob}", "DELETE")[0] == 202
            assert get(port, f"/v2/{NAME}/manifests/{manifest}")[0] == 404
        fill(disk)
        done = cli("gc", disk / "store", "--grace", "0")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        assert "12 blobs" in done.stderr
        assert push(port, 99)[0] == 201
        for manifest, blob in pushed:
            assert get(port, f"/v2/{NAME}/manifests/{manifest}")[0] == 200
            assert hashlib.sha256(get(port, f"/v2/{NAME}/blobs/{blob}")[1]).hexdigest() == blob.partition(":")[2]


def test_gc_command_frees_space_of_stopped_registry(disk):
    with ocikit.serve(disk / "store", options=ocikit.ServerOptions(grace=0)) as server:
        port = port_of(server)
        for number in range(5):
            _, manifest, _ = push(port, number)
            assert get(port, f"/v2/{NAME}/manifests/{manifest}", "DELETE")[0] == 202
    fill(disk)
    done = cli("gc", disk / "store", "--grace", "0")
    assert (done.returncode, done.stderr) == (0, "10 blobs, 1.0 MB, were deleted\n")
    assert shutil.disk_usage(disk).free > 900_000


def test_periodic_gc_frees_space_of_full_disk(disk):
    options = ocikit.ServerOptions(grace=0, collect_every=0.3)
    with ocikit.serve(disk / "store", options=ocikit.ServerOptions(grace=0, collect_every=0)) as server:
        port = port_of(server)
        for number in range(5):
            _, manifest, _ = push(port, number)
            assert get(port, f"/v2/{NAME}/manifests/{manifest}", "DELETE")[0] == 202
    fill(disk)
    with ocikit.serve(disk / "store", options=options) as server:
        while push(port_of(server), 99)[0] != 201:
            pass


def test_full_disk_without_reserve_ends_gc_with_a_hint(disk):
    with ocikit.serve(disk / "store", options=ocikit.ServerOptions(grace=0)) as server:
        port = port_of(server)
        _, manifest, _ = push(port, 1)
        assert get(port, f"/v2/{NAME}/manifests/{manifest}", "DELETE")[0] == 202
        (disk / "store/reserve").write_bytes(b"")
        fill(disk)
        done = cli("gc", disk / "store", "--grace", "0")
        if done.returncode:  # the log of SQLite may have had space
            assert "failed: the disk is full" in done.stderr
            assert "free a megabyte" in done.stderr
        assert "Traceback" not in done.stderr


def test_reserve_is_filled_again_after_use(tmp_path, monkeypatch):
    monkeypatch.setattr("ocikit.server.storage.reserve._SIZE", 1 << 20)
    reserve = DiskReserve(tmp_path / "reserve")
    reserve.fill()
    assert reserve.path.stat().st_blocks * 512 >= 1 << 20
    with reserve.released():
        assert reserve.path.stat().st_blocks == 0
    assert reserve.path.stat().st_blocks * 512 >= 1 << 20


def test_reserve_uses_the_space_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr("ocikit.server.storage.reserve._SIZE", 1 << 20)
    allocate = os.posix_fallocate

    def limited(fd, offset, size):
        if offset + size > 300_000:
            raise OSError(errno.ENOSPC, "full")
        allocate(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", limited)
    reserve = DiskReserve(tmp_path / "reserve")
    reserve.fill()
    assert reserve.path.stat().st_size == 4 << 16
