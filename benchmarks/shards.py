"""A folder of very many files: python -m benchmarks shards.

100,000 files of 1 KiB as shards, next to `archive="tar"` and to `oras push` of a tar. Seconds are those of commands without a
proxy. Requests and bytes are counted by a proxy and do not depend on the machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ocikit
from benchmarks import tools
from benchmarks.counting import CountingProxy
from benchmarks.measure import measure
from tests.support import peers

SIZE = 1024  # bytes of a file
_FOLDERS = 100
SETTLED = 2.5  # seconds after which a file that was written counts as unchanged


def write(folder: Path, count: int) -> None:
    """Write files of 1 KiB in 100 folders, each with other content."""
    block = os.urandom(SIZE * 1000)
    for n in range(count):
        path = folder / f"{n % _FOLDERS:02}" / f"{n:06}.bin"
        if n < _FOLDERS:
            path.parent.mkdir(parents=True)
        start = n % 1000 * SIZE
        path.write_bytes(b"%08d" % n + block[start + 8 : start + SIZE])


def _disk_reads() -> int:
    """Return the bytes that this process has read from files and connections."""
    return int(Path("/proc/self/io").read_text().split()[1])


def _counted(proxy: CountingProxy, call: Callable[[], object]) -> str:
    proxy.passed.clear()
    read, begun = _disk_reads(), time.perf_counter()
    result = call()
    seconds, read = time.perf_counter() - begun, _disk_reads() - read
    blobs = sum(
        p.request.method in {"PUT", "POST"} and p.received > 0 and "/blobs/" in p.request.path for p in proxy.passed
    )
    requests = len(proxy.passed)
    sent, received = sum(p.received for p in proxy.passed), sum(p.sent for p in proxy.passed)
    return (
        f"{seconds:6.2f} s {requests:5} requests {sent / 1e6:8.2f} MB sent {received / 1e6:8.2f} MB received"
        f" {read / 1e6:8.1f} MB read {blobs:3} blobs up   {result}"
    )


def _pushes(folder: Path, host: str, size: str, rounds: int) -> None:
    env = tools.environment(folder / "home")
    commands = {
        f"ocikit, shards=zip of {size}": tools.ocikit("push", "--quiet", f"{host}/t/zip:v1", "images", "--shards", "zip", "--shard-size", size),
        "ocikit, shards=tar": tools.ocikit("push", "--quiet", f"{host}/t/tar:v1", "images", "--shards", "tar", "--shard-size", size),
        "ocikit, archive=tar": tools.ocikit("push", "--quiet", f"{host}/t/archive:v1", "images", "--archive", "tar"),
    }  # fmt: skip
    oras = peers.where("oras")
    if oras:
        script = f"tar -cf images.tar images && {oras} push --plain-http {host}/t/oras:v1 images.tar"
        commands["tar and oras push"] = ["sh", "-c", script]
    for name, command in commands.items():
        for attempt in range(rounds):
            shutil.rmtree(folder / "home", ignore_errors=True)
            (folder / "home").mkdir()
            new = [argument.replace("/t/", f"/t{attempt}/") for argument in command]
            cost = measure(new, folder, env, warm=64 << 20)
            print(f"{name:34} {cost.wall:6.2f} s {cost.cpu:6.2f} s CPU {cost.memory >> 20:5} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--shard-size", default="16MiB")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, ocikit.serve() as server:
        folder = Path(place)
        begun = time.perf_counter()
        write(folder / "images", options.count)
        print(f"{options.count:,} files of {SIZE} bytes, written in {time.perf_counter() - begun:.1f} s")
        time.sleep(SETTLED)
        os.chdir(folder)
        _pushes(folder, server.host, options.shard_size, options.rounds)
        with CountingProxy(f"http://{server.host}") as proxy:
            _reads(folder, proxy, options.shard_size, options.count)


def _reads(folder: Path, proxy: CountingProxy, size: str, count: int) -> None:
    ref = f"{proxy.host}/t/again:v1"
    number = count // 2 // _FOLDERS * _FOLDERS + 42
    one, other = (folder / f"images/42/{n:06}.bin" for n in (number, number + _FOLDERS))
    name = one.relative_to(folder).as_posix()
    print(f"\n{'through a proxy that counts':34}")
    with ocikit.Session(progress=False, cache=folder / "pusher") as session:

        def push() -> str:
            artifact = session.push(ref, "images", shards="zip", shard_size=size)
            return f"{len(artifact.files)} shards, manifest of {artifact.descriptor.size:,} bytes"

        print(f"{'push, new':28}", _counted(proxy, push), flush=True)
        print(f"{'push again':28}", _counted(proxy, push), flush=True)
        one.write_bytes(os.urandom(SIZE))
        print(f"{'one changed, push again':28}", _counted(proxy, push), flush=True)
    with ocikit.Session(progress=False, cache=folder / "reader") as session:
        fs = ocikit.fs(session)
        print(f"{'one file, cold':28}", _counted(proxy, lambda: len(fs.cat_file(f"{ref}/{name}"))), flush=True)
        path = f"{ref}/{other.relative_to(folder).as_posix()}"
        print(f"{'another, warm':28}", _counted(proxy, lambda: len(fs.cat_file(path))), flush=True)
        if fs.cat_file(f"{ref}/{name}") != one.read_bytes():
            raise SystemExit("the file that was read is not the one that was pushed")
    with ocikit.Session(progress=False, cache=folder / "lister") as session:
        fs = ocikit.fs(session)
        print(f"{'ls of a folder':28}", _counted(proxy, lambda: len(fs.ls(f"{ref}/images/42"))), flush=True)
        print(f"{'find of all':28}", _counted(proxy, lambda: len(fs.find(ref))), flush=True)
    if (oras := peers.where("oras")) is None:
        return

    def oras_push() -> str:
        subprocess.run(["tar", "-cf", "images.tar", "images"], check=True, cwd=folder)
        command = [str(oras), "push", "--plain-http", f"{proxy.host}/t/oras-again:v1", "images.tar"]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        return "oras"

    print(f"{'tar and oras push, new':28}", _counted(proxy, oras_push), flush=True)
    one.write_bytes(os.urandom(SIZE))
    print(f"{'tar and oras push, one changed':28}", _counted(proxy, oras_push), flush=True)


if __name__ == "__main__":
    main()
