"""CPU of imports and of calls with nothing to do: python -m benchmarks.imports.

Each row is a new process. A pull whose content is present, by a pinned reference, should cost at most 30 ms above the
import, and the import at most 90 ms above that of requests.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import ocikit

_BASES = {"requests": "python", "ocikit": "requests"}


def _cpu(code: str, environ: dict[str, str]) -> float:
    """Return the CPU time of a process that runs the code, in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def _push(server: ocikit.Server, folder: Path, count: int) -> str:
    """Push an artifact with small files and return its pinned reference; its files are cached and in a folder."""
    files = folder / f"files-{count}"
    files.mkdir()
    for n in range(count):
        (files / f"{n:04}.csv").write_bytes(os.urandom(2000))
    ref = str(ocikit.push(f"{server.host}/t/n{count}:v1", f"{files}/.").reference)
    ocikit.pull(ref)
    ocikit.pull(ref, folder / f"pulled-{count}")
    return ref


def _codes(server: ocikit.Server, folder: Path) -> dict[str, str]:
    """Return the code of each row of the table."""
    codes = {"python": "pass", "requests": "import requests", "ocikit": "import ocikit"}
    for count in (4, 1000):
        ref = _push(server, folder, count)
        tag, call = ref.partition("@")[0], "import ocikit; ocikit."
        files = f"{count} files"
        codes[f"pull @, {files}"] = f"{call}pull({ref!r})"
        codes[f"pull @ to a folder, {files}"] = f"{call}pull({ref!r}, {str(folder / f'pulled-{count}')!r})"
        codes[f"pull :tag, {files}"] = f"{call}pull({tag!r})"
        codes[f"inspect @, {files}"] = f"{call}inspect({ref!r})"
        codes[f"open @, {files}"] = f"{call}open({ref!r}, '0000.csv').read(10)"
        codes[f"download @, {files}"] = f"{call}download({ref!r}, '0000.csv')"
    codes["ocikit --version"] = "import ocikit.cli; ocikit.cli.main(['--version'])"
    return codes


def main() -> None:
    """Print the median of each row, and its difference to the row that it builds on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(OCIKIT_CACHE=str(folder / "cache"), OCIKIT_PROGRESS="none")
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "pyc")}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        with ocikit.serve(folder / "registry") as server:
            codes = _codes(server, folder)
            times: dict[str, list[float]] = {row: [] for row in codes}
            for code in codes.values():
                _cpu(code, environ)
            for _ in range(rounds):
                for row, code in codes.items():
                    times[row].append(_cpu(code, environ))
    medians = {row: statistics.median(values) for row, values in times.items()}
    print(f"{'':32}{'CPU':>8}{'least':>8}{'above':>8}")
    for row, median in medians.items():
        base = "" if row == "python" else _BASES.get(row, "ocikit")
        above = f"{median - medians[base]:6.0f} ms ({base})" if base else ""
        print(f"{row:32}{median:5.0f} ms{min(times[row]):5.0f} ms{above}")


if __name__ == "__main__":
    main()
