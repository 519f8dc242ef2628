"""What a command costs: seconds, CPU seconds, peak memory, and the CPU seconds of the registry that it uses."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attrs import frozen

MIB = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")

#: Variables that mask the SHA instructions of the processor: for OpenSSL (Python, curl) and for Go.
WITHOUT_SHA = {"OPENSSL_ia32cap": ":~0x20000000", "GODEBUG": "cpu.sha=off"}

_RATE = """
import hashlib, time
block, best = bytes(1 << 20), 1e9
for _ in range(20):
    begun = time.perf_counter()
    hashlib.sha256(block).digest()
    best = min(best, time.perf_counter() - begun)
print(round(1 / best))
"""


@frozen
class Cost:
    """The cost of one command: seconds, CPU seconds, peak memory in bytes, CPU seconds of the server."""

    wall: float
    cpu: float
    memory: int
    server: float = 0.0


def settle(warm: int) -> None:
    """Give every command the same machine state: no pending writes, and memory that is really available.

    A virtual machine may have returned free memory to the host. Getting it back costs two seconds a gibibyte, many times
    the cost of the command itself.

    Args:
        warm: The page cache of a command and the registry [bytes].
    """
    os.sync()
    pages = bytearray(warm)
    for page in range(0, warm, 4096):
        pages[page] = 1


def measure(
    command: list[str], cwd: Path, env: dict[str, str], *, server: int | None = None, warm: int = 2 << 30
) -> Cost:
    """Run a command to its end.

    Args:
        command: The program and its arguments.
        cwd: Its working folder.
        env: Its environment.
        server: The process of the registry, whose CPU time is measured too.
        warm: Memory to claim before [bytes], see `settle`.

    Raises:
        RuntimeError: The command failed. The message has the end of its output.
    """
    settle(warm)
    before = cpu(server) if server else 0.0
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
    return Cost(wall, usage.ru_utime + usage.ru_stime, memory, cpu(server) - before if server else 0.0)


def high_water(pid: int) -> int:
    """Return the peak resident memory of a running process in bytes, or 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return [pid, *(each for child in children for each in family(child))]


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process and its descendants, in steps of the kernel's clock (10 ms)."""
    ticks = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # user and system, its own and those of ended children
    return ticks / _TICKS


def sha_instructions() -> bool | None:
    """Return whether the processor has SHA instructions, or None on other systems than Linux."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return None
    return bool(words & {"sha_ni", "sha2"})  # x86 and ARM


def machine(*, sha: bool) -> str:
    """Return a description of the machine, with the rate of SHA-256 in one thread of this Python."""
    masked = os.environ if sha else os.environ | WITHOUT_SHA
    rate = subprocess.run([sys.executable, "-c", _RATE], env=masked, capture_output=True, text=True, check=True).stdout
    has = {True: "yes", False: "no", None: "unknown"}[sha_instructions()]
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; SHA instructions: {has}"
        f"{'' if sha else ', masked for the clients and not for the registry'}; SHA-256: {rate.strip()} MiB/s a core; "
        f"load at the start: {os.getloadavg()[0]:.1f}"
    )
