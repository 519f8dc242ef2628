"""Compare pull and push with other tools and the floors in one run: `python -m benchmarks`.

Starts a registry on a loopback port, writes random data in three shapes, runs each tool in turn for several rounds, verifies
its output, and prints medians and ratios to oras, the fastest verifying peer. Timings of different runs are not comparable.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from attrs import define, frozen

from tests.support import peers

MIB = 1 << 20
SHAPES = {
    "one blob of 1 GiB": (1, 1024 * MIB),
    "8 blobs of 128 MiB": (8, 128 * MIB),
    "1000 blobs of 64 KiB": (1000, 65536),
}
WARM = 2 << 30  # bytes: page cache of a command and the registry


@frozen
class Cost:
    """The cost of one command: seconds, CPU seconds, peak memory in bytes."""

    wall: float
    cpu: float
    memory: int


@define
class Bench:
    """One registry and one scratch folder."""

    host: str
    folder: Path
    storage: Path
    count: int = 0

    def scratch(self) -> Path:
        self.count += 1
        path = self.folder / f"out-{self.count}"
        path.mkdir()
        return path


def settle() -> None:
    """Give every command the same machine state: no pending writes, and memory that is really available.

    A virtual machine may have returned free memory to the host. Getting it back costs two seconds a gibibyte, many times
    the cost of the command itself.
    """
    os.sync()
    warm = bytearray(WARM)
    for page in range(0, WARM, 4096):
        warm[page] = 1


def measure(command: list[str], cwd: Path, env: dict[str, str]) -> Cost:
    """Run a command to its end; a failure shows its output."""
    settle()
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        memory = 0
        # ru_maxrss includes this process before the exec. The kernel's high-water mark does not
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            memory = max(memory, high_water(process.pid))
            time.sleep(0.005)
        wall = time.perf_counter() - started
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(
                f"{' '.join(command[:6])} …: exit {process.returncode}\n{log.read()[-2000:].decode(errors='replace')}"
            )
    return Cost(wall, usage.ru_utime + usage.ru_stime, memory)


def high_water(pid: int) -> int:
    """Return the peak resident memory of a running process in bytes, or 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def environment(folder: Path) -> dict[str, str]:
    """Return an environment without credentials and caches of the machine."""
    return os.environ | {
        "OCIKIT_CACHE": str(folder / "cache"),
        "DOCKER_CONFIG": str(folder / "docker"),
        "HOME": str(folder),
        "OCIKIT_PROGRESS": "none",
    }


def digests(folder: Path) -> set[str]:
    """Return the sha256 of every file below a folder."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found.add(hashlib.file_digest(file, "sha256").hexdigest())
    return found


def make(folder: Path, shape: str) -> list[Path]:
    """Write random files."""
    count, size = SHAPES[shape]
    folder.mkdir(parents=True)
    made = []
    for i in range(count):
        path = folder / f"{i:04}.bin"
        with path.open("wb") as file:
            for _ in range(max(1, size // MIB)):
                file.write(os.urandom(min(size, MIB)))
        made.append(path)
    return made


def ocikit(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ocikit", *arguments]


def pulls(bench: Bench, repository: str, blobs: list[str]) -> dict[str, Callable[[Path], list[str]]]:
    """Return commands that fetch an artifact into a folder."""
    reference = f"{bench.host}/{repository}:v1"

    def curl(out: Path) -> list[str]:
        lines = [f'url = "http://{bench.host}/v2/{repository}/blobs/{d}"\noutput = "{out / d[7:]}"\n' for d in blobs]
        (out / "curl.txt").write_text("".join(lines))
        return ["curl", "-sS", "--fail", "-K", str(out / "curl.txt")]

    return {
        "ocikit": lambda out: ocikit("pull", "--quiet", reference, str(out)),
        "oras": lambda out: [str(peers.find("oras")), "pull", "--plain-http", reference, "-o", str(out)],
        "crane": lambda out: [str(peers.find("crane")), "pull", "--insecure", "--format=oci", reference, str(out)],
        "skopeo": lambda out: [
            str(peers.find("skopeo")),
            "copy",
            "--src-tls-verify=false",
            "--preserve-digests",
            f"docker://{reference}",
            f"oci:{out}:v1",
        ],
        "curl (floor)": curl,
    }


def pushes(files: list[Path], layout: Path) -> dict[str, Callable[[str], list[str]]]:
    """Return commands that push the files; crane and skopeo push a layout of them."""
    names = [f.name for f in files]
    policy = ["--insecure-policy"]
    return {
        "ocikit": lambda ref: ocikit("push", "--quiet", ref, *names),
        "oras": lambda ref: [
            str(peers.find("oras")),
            "push",
            "--plain-http",
            "--artifact-type",
            "application/x.bench",
            ref,
            *names,
        ],
        "crane": lambda ref: [str(peers.find("crane")), "push", "--insecure", str(layout), ref],
        "skopeo": lambda ref: [
            str(peers.find("skopeo")),
            *policy,
            "copy",
            "--dest-tls-verify=false",
            "--preserve-digests",
            f"oci:{layout}:v1",
            f"docker://{ref}",
        ],
        "sha256sum (floor)": lambda _: ["sha256sum", *names],
    }


def run(bench: Bench, shape: str, rounds: int, tools: set[str]) -> dict[str, dict[str, list[Cost] | str]]:
    """Run every tool in turn for `rounds` rounds; an unable tool reports its reason once."""
    data = bench.folder / "data"
    files = make(data, shape)
    wanted = digests(data)
    env = environment(bench.folder)
    repository = f"bench/{len(files)}"
    measure(ocikit("push", "--quiet", f"{bench.host}/{repository}:v1", *[f.name for f in files]), data, env)
    layout = bench.folder / "layout"
    measure(ocikit("copy", "--quiet", f"{bench.host}/{repository}:v1", f"oci:{layout}:v1"), data, env)
    blobs = [f"sha256:{d}" for d in sorted(wanted)]
    results: dict[str, dict[str, list[Cost] | str]] = {"pull": {}, "push": {}}

    def note(kind: str, tool: str, work: Callable[[], Cost]) -> None:
        known = results[kind].setdefault(tool, [])
        if isinstance(known, str):
            return
        try:
            known.append(work())
        except RuntimeError as error:
            results[kind][tool] = str(error).strip().splitlines()[-1][:100]

    for turn in range(rounds):
        for tool, command in pulls(bench, repository, blobs).items():

            def pull(command: Callable[[Path], list[str]] = command) -> Cost:
                out = bench.scratch()
                shutil.rmtree(bench.folder / "cache", ignore_errors=True)
                cost = measure(command(out), data, env)
                missing = wanted - digests(out)
                shutil.rmtree(out)
                if missing:
                    raise RuntimeError(f"{len(missing)} of {len(wanted)} files are missing or wrong")
                return cost

            if tool.split()[0] in tools:
                note("pull", tool, pull)
        for tool, command in pushes(files, layout).items():
            reference = f"{bench.host}/{repository}-{tool.split()[0]}-{turn}:v1"

            def push(
                command: Callable[[str], list[str]] = command, reference: str = reference, tool: str = tool
            ) -> Cost:
                # skopeo would mount a blob that it has seen elsewhere: that is a different benchmark
                shutil.rmtree(bench.folder / ".local", ignore_errors=True)
                shutil.rmtree("/var/lib/containers/cache", ignore_errors=True)
                cost = measure(command(reference), data, env)
                if "floor" not in tool:
                    check = subprocess.run(
                        ocikit("inspect", "--raw", reference), env=env, capture_output=True, check=True
                    )
                    stored = {layer["digest"][7:] for layer in json.loads(check.stdout)["layers"]}
                    if not wanted <= stored:
                        raise RuntimeError("the registry has other blobs than were pushed")
                return cost

            if tool.split()[0] in tools:
                note("push", tool, push)
        print(f"  round {turn + 1} of {rounds} done", file=sys.stderr)
    shutil.rmtree(data)
    shutil.rmtree(layout)
    return results


def verifying(bench: Bench) -> dict[str, str]:
    """Return which tools detect a damaged blob of the registry."""
    data = bench.folder / "damaged"
    data.mkdir()
    (data / "x.bin").write_bytes(os.urandom(MIB))
    env = environment(bench.folder)
    measure(ocikit("push", "--quiet", f"{bench.host}/bench/damaged:v1", "x.bin"), data, env)
    (digest,) = digests(data)
    (stored,) = bench.storage.rglob(f"sha256/{digest[:2]}/{digest}/data")
    content = bytearray(stored.read_bytes())
    content[1000] ^= 1
    stored.write_bytes(content)
    noticed = {}
    for tool, command in pulls(bench, "bench/damaged", [f"sha256:{digest}"]).items():
        shutil.rmtree(bench.folder / "cache", ignore_errors=True)
        try:
            measure(command(bench.scratch()), data, env)
            noticed[tool] = "no"
        except RuntimeError as error:
            noticed[tool] = (
                "yes" if "digest" in str(error).lower() else f"fails otherwise: {str(error).splitlines()[-1][:60]}"
            )
    return noticed


def table(kind: str, shape: str, results: dict[str, list[Cost] | str]) -> str:
    """Return medians of one shape as Markdown."""
    oras = results.get("oras")
    base = statistics.median(c.wall for c in oras) if isinstance(oras, list) and oras else None
    lines = [f"\n{kind}, {shape}\n", "| tool | wall s | ratio to oras | CPU s | peak MiB |", "|---|---|---|---|---|"]
    for tool, costs in results.items():
        if isinstance(costs, str):
            lines.append(f"| {tool} | cannot: {costs} | | | |")
            continue
        wall = statistics.median(c.wall for c in costs)
        ratio = f"{wall / base:.2f}" if base else ""
        cpu = statistics.median(c.cpu for c in costs)
        memory = statistics.median(c.memory for c in costs) / MIB
        lines.append(f"| {tool} | {wall:.2f} | {ratio} | {cpu:.2f} | {memory:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--shape", choices=[str(i) for i in range(1, 4)], action="append", help="1: one blob, 2: eight, 3: a thousand"
    )
    parser.add_argument("--tool", action="append", help="only these, by first word")
    parser.add_argument("--registry", choices=("distribution2", "distribution3"), default="distribution3")
    options = parser.parse_args()
    tools = set(options.tool or ("ocikit", "oras", "crane", "skopeo", "curl", "sha256sum"))
    shapes = [list(SHAPES)[int(i) - 1] for i in options.shape or ("1", "2", "3")]
    start = {"distribution2": peers.distribution2, "distribution3": peers.distribution3}[options.registry]
    with tempfile.TemporaryDirectory(prefix="ocikit-bench-") as name, start() as registry:
        bench = Bench(registry.host, Path(name), Path(registry.storage))
        print(f"{options.registry}, {options.rounds} rounds, medians")
        for shape in shapes:
            print(f"{shape} …", file=sys.stderr)
            for kind, results in run(bench, shape, options.rounds, tools).items():
                print(table(kind, shape, results))
        print("\nnotices a damaged blob on pull\n\n| tool | |\n|---|---|")
        for tool, verdict in verifying(bench).items():
            print(f"| {tool} | {verdict} |")


if __name__ == "__main__":
    main()
