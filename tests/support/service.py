"""A server as a child process in a temporary folder, which ends with this process at the latest."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

START = 60.0  # seconds; a busy machine is slow

#: Ends the server and removes its folder as soon as the pipe of its standard input closes, also after a kill -9 of this process.
_GUARD = 'read -r _; kill -9 "$1"; [ -z "$2" ] || { sleep 1; rm -rf "$2"; }'


class Service:
    """A server process that tests stop, kill and start again.

    Args:
        name: The name for messages.
        command: The command line.
        folder: The folder that belongs to the server, for its log.
        ready: Whether the server answers.
        ending: The signal for the regular end.
        user: The account of the process; None for the one of this process.
        env: Environment variables in addition to those of this process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        ready: Callable[[], bool],
        *,
        ending: int = signal.SIGTERM,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / "log"
        self._command = [str(part) for part in command]
        self._ready = ready
        self._ending = ending
        self._account: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
        self._env = os.environ | dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the process that runs now."""
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._env, **self._account
            )
        guard = ["sh", "-c", _GUARD, "guard", str(self._process.pid), str(self.folder)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)
        deadline = time.monotonic() + START
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = self.log.read_text(errors="replace")[-4000:]
                self.stop()
                raise RuntimeError(f"{self.name} did not start:\n{words}")
            time.sleep(0.02)

    def stop(self, number: int | None = None, *, seconds: float = 10) -> None:
        """End the process, by SIGKILL after some seconds; do nothing if it has ended."""
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.kill()  # before the process: its id may belong to another one afterwards
            guard.wait()
            guard.stdin.close()
        if process is None:
            return
        process.send_signal(self._ending if number is None else number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self.stop(signal.SIGKILL)
