"""Child process of a server: start, readiness, log and stop."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from attrs import asdict, define, field

from ocikit.errors import ServerFailed
from ocikit.server.process.options import ServerConfig

#: Seconds until the first response; a cold disk or a busy machine can need many.
_START_TIMEOUT = 60.0

#: Seconds for the process to stop by itself, after those that it gives requests in progress.
_STOP_TIMEOUT = 0.5

#: Seconds between checks whether the process has stopped.
_POLL_INTERVAL = 0.003

#: Bytes at the end of the log that are read.
_TAIL_SIZE = 1 << 16

#: Child processes that this process started and did not stop.
_children: set[Child] = set()

_fork_hook_registered = False


def running_children() -> list[Child]:
    """Return the server processes that this process started."""
    return [child for child in _children if child.owner == os.getpid()]


@define(eq=False)
class Child:
    """A `python -m ocikit.server.process` that ends when the pipe on its stdin closes."""

    process: subprocess.Popen[bytes] = field(repr=False)
    lifeline: int
    """Write end of the pipe on the child's stdin. No other process inherits it: Python's descriptors close on exec."""
    stdout: int
    scratch: Path
    """Folder deleted with the child: its log, the files shared by its workers, and a temporary store."""
    address: tuple[str, int]
    """The host and port that were requested."""
    drain: float
    """Seconds that requests in progress have to finish at a stop."""
    owner: int = field(factory=os.getpid)
    """Id of the process that may stop the child; a forked copy of it may not."""
    _stopped: bool = False

    @classmethod
    def start(cls, config: ServerConfig, scratch: Path) -> Child:
        """Start the process in a new session, so that Ctrl-C does not reach it.

        Args:
            config: Configuration, sent as JSON on stdin.
            scratch: Folder for the log; deleted with the child.

        Returns:
            The child, which may not be ready yet.

        Raises:
            ServerFailed: The process cannot be started.
        """
        _register_fork_hook()
        stdin, lifeline = os.pipe()
        stdout, child_stdout = os.pipe()
        try:
            with (scratch / "log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "ocikit.server.process"],
                    stdin=stdin,
                    stdout=child_stdout,
                    stderr=log,
                    start_new_session=True,
                    env=_environment(),
                )
        except BaseException as error:
            os.close(lifeline)
            os.close(stdout)
            shutil.rmtree(scratch, ignore_errors=True)
            if isinstance(error, OSError):
                raise ServerFailed(f"cannot run {sys.executable!r}: {error}") from error
            raise
        finally:
            os.close(stdin)
            os.close(child_stdout)
        drain = config.drain + config.options.drain_delay
        child = cls(process, lifeline, stdout, scratch, (config.options.host, config.port), drain)
        _children.add(child)
        # A child that has already ended is reported by wait_until_ready
        with contextlib.suppress(BrokenPipeError):
            os.write(lifeline, json.dumps(asdict(config)).encode() + b"\n")
        return child

    @property
    def running(self) -> bool:
        """True while the process runs; a forked copy reports the state at the fork."""
        if self._stopped:
            return False
        return self.owner != os.getpid() or self.process.poll() is None

    def wait_until_ready(self) -> dict[str, str]:
        """Wait for the first response of the server.

        Returns:
            The `name` and `url` of the server.

        Raises:
            ServerFailed: The server ended or did not respond in time.
        """
        line = b""
        deadline = time.monotonic() + _START_TIMEOUT
        with selectors.DefaultSelector() as selector:
            selector.register(self.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise ServerFailed(
                        f"the server did not respond within {_START_TIMEOUT:.0f} s; its log ends: {self.log_tail()!r}"
                    )
                chunk = os.read(self.stdout, 4096)
                if not chunk:
                    raise self._unexpected_end()
                line += chunk
        message: dict[str, str] = json.loads(line)
        if "error" in message:
            raise ServerFailed(message["error"], hint=message["hint"])
        return message

    def _unexpected_end(self) -> ServerFailed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_TIMEOUT)
        log = self.log_tail().strip()
        last_line = log.rpartition("\n")[2] or f"exit code {self.process.returncode}"
        failure = ServerFailed(
            f"the server did not start: {last_line}", hint="report this as a bug, with the log below"
        )
        failure.add_note(log)
        return failure

    def log_tail(self) -> str:
        """Return the end of the log; "" once the child has been stopped."""
        try:
            with (self.scratch / "log").open("rb") as log:
                log.seek(max(log.seek(0, os.SEEK_END) - _TAIL_SIZE, 0))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def stop(self) -> None:
        """Stop the process and its workers, and delete its temporary files."""
        if self._stopped or self.owner != os.getpid():
            return
        self._stopped = True
        _children.discard(self)
        try:
            self.process.terminate()
            deadline = time.monotonic() + self.drain + _STOP_TIMEOUT
            # Not wait(timeout): it sleeps up to 50 ms between checks
            while self.process.poll() is None and time.monotonic() < deadline:
                time.sleep(_POLL_INTERVAL)
        finally:
            if self.process.poll() is None:
                # The process is not reaped yet, so its id and the group of its workers cannot have been reused. Workers
                # of a main process that has already ended stop by themselves
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            os.close(self.lifeline)
            os.close(self.stdout)
            shutil.rmtree(self.scratch, ignore_errors=True)

    def close_lifeline(self) -> None:
        """Close a forked copy of the pipe, which would keep the server running."""
        os.close(self.lifeline)


def _register_fork_hook() -> None:
    global _fork_hook_registered  # noqa: PLW0603 - a hook cannot be removed, and one is enough
    if not _fork_hook_registered:
        _fork_hook_registered = True
        os.register_at_fork(after_in_child=_forget_children)


def _forget_children() -> None:
    for child in _children:
        with contextlib.suppress(OSError):
            child.close_lifeline()
    _children.clear()


def _environment() -> dict[str, str]:
    """Return the environment, with the path of this package if it is not installed."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[3])
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    return environment
