"""A folder of very many files in a nested index: python -m benchmarks nested.

100,000 files of 1 KiB as single blobs, pushed, pushed again, listed, read and pulled, in a new process each. Requests and
bytes are counted at the sockets of that process and do not depend on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ocikit
from benchmarks import tools
from benchmarks.measure import measure
from benchmarks.shards import SETTLED, SIZE, write
from tests.support import peers

_METHODS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"PATCH ")
_NAME = "images/42/004242.bin"


def _steps(ref: str) -> dict[str, Callable[[ocikit.Session], object]]:
    def fs(session: ocikit.Session) -> Any:
        return ocikit.fs(session)

    return {
        "push, new": lambda s: s.push(ref, "images", index=True).summary,
        "push again": lambda s: s.push(ref, "images", index=True).summary,
        "one changed, push again": lambda s: s.push(ref, "images", index=True).summary,
        "inspect": lambda s: len(s.inspect(ref).index.manifests),
        "one file": lambda s: len(s.inspect(ref)[_NAME].read()),
        "ls of the top folder": lambda s: len(fs(s).ls(ref)),
        "ls of images/": lambda s: len(fs(s).ls(f"{ref}/images")),
        "ls of a folder": lambda s: len(fs(s).ls(f"{ref}/images/42")),
        "all names": lambda s: sum(1 for _ in s.inspect(ref).files),
        "pull of a folder": lambda s: s.pull(ref, "part", include="images/42/*").summary,
        "pull": lambda s: s.pull(ref, "out").summary,
        "pull again": lambda s: s.pull(ref, "out").summary,
    }


class _Counts:
    requests = sent = received = 0


def _count() -> None:
    """Count the requests and bytes of this process from now on."""
    sendall, recv_into = socket.socket.sendall, socket.socket.recv_into

    def counted_sendall(self: socket.socket, data: Any, *args: Any) -> None:
        _Counts.sent += len(data)
        _Counts.requests += bytes(data[:7]).startswith(_METHODS)
        sendall(self, data, *args)

    def counted_recv_into(self: socket.socket, *args: Any) -> int:
        count = recv_into(self, *args)
        _Counts.received += count
        return count

    socket.socket.sendall = counted_sendall  # type: ignore[assignment,method-assign]
    socket.socket.recv_into = counted_recv_into  # type: ignore[assignment,method-assign]


def _run(step: str, ref: str) -> None:
    _count()
    with ocikit.Session(progress=False) as session:
        result = _steps(ref)[step](session)
    counts = {"requests": _Counts.requests, "sent": _Counts.sent, "received": _Counts.received}
    Path("result.json").write_text(json.dumps(counts | {"result": str(result)}))


@contextlib.contextmanager
def _registry(kind: str) -> Iterator[str]:
    if kind == "ocikit":
        with ocikit.serve() as server:
            yield server.host
    else:
        with peers.KINDS[kind]() as registry:
            yield registry.host


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--registry", action="append", choices=("ocikit", "distribution3"))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--ref", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        _run(options.step, options.ref)
        return
    root = str(Path(__file__).resolve().parents[1])
    for kind in options.registry or ["ocikit", "distribution3"]:
        with tempfile.TemporaryDirectory() as place, _registry(kind) as host:
            folder = Path(place)
            write(folder / "images", options.count)
            time.sleep(SETTLED)
            print(f"{kind}, {options.count:,} files of {SIZE} bytes", flush=True)
            env = tools.environment(folder / "home") | {"PYTHONPATH": root}
            for step in _steps(""):
                if step.startswith("one changed"):
                    (folder / _NAME).write_bytes(os.urandom(SIZE))
                home = folder / ("home" if "push" in step else f"home {step}")
                env |= {"OCIKIT_CACHE": str(home / "cache")}
                command = [sys.executable, "-m", "benchmarks.nested", "--step", step, "--ref", f"{host}/t/many:v1"]
                cost = measure(command, folder, env, warm=64 << 20)
                found = json.loads((folder / "result.json").read_text())
                print(
                    f"{step:24} {cost.wall:7.2f} s {cost.cpu:7.2f} s CPU {cost.memory >> 20:5} MiB"
                    f" {found['requests']:7,} requests {found['sent'] / 1e6:8.2f} MB sent"
                    f" {found['received'] / 1e6:8.2f} MB received   {found['result']}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
