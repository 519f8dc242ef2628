"""A server's process as the process sees it that started it: begin, listen to it, end it, and leave nothing behind."""

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
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field

from ocikit.errors import ServerFailed

#: Seconds until the first answer: a cold disk, and a machine with other things to do.
_START = 60.0

#: Seconds for the process to stop by itself; it gives requests under way 0.3.
_STOP = 0.8

#: Seconds between looks.
_LOOK = 0.003

#: Bytes of the log that are read for its end.
_TAIL = 1 << 16

#: Those that this process started and didn't stop.
_running: set[Child] = set()

_hooked = False


def running() -> list[Child]:
    """The servers of this process."""
    return [child for child in _running if child.owner == os.getpid()]


@define(eq=False)
class Child:
    """`python -m ocikit serve`, attached: it ends when the pipe does that is its stdin."""

    process: subprocess.Popen[bytes] = field(repr=False)
    lifeline: int
    """The end of the pipe that nobody writes to. Nobody else inherits it: descriptors of Python's close at exec."""
    stdout: int
    scratch: Path
    """A folder that goes with it: its log, what its workers share, and a temporary store."""
    address: tuple[str, int]
    owner: int = field(factory=os.getpid)
    """Who may end it: not a copy of this process that was made by a fork."""
    _done: bool = False

    @classmethod
    def start(cls, arguments: Sequence[str], scratch: Path, address: tuple[str, int]) -> Child:
        """Start the process; it is in a session of its own, so that Ctrl-C at this one's terminal isn't for it."""
        _hook()
        theirs, lifeline = os.pipe()
        stdout, said = os.pipe()
        try:
            with (scratch / "log").open("wb") as log:
                process = subprocess.Popen(  # noqa: S603 - this Python, this package
                    [sys.executable, "-P", "-m", "ocikit", "serve", *arguments],
                    stdin=theirs, stdout=said, stderr=log, start_new_session=True, env=_environment(),
                )  # fmt: skip
        except BaseException as error:
            os.close(lifeline)
            os.close(stdout)
            shutil.rmtree(scratch, ignore_errors=True)
            if isinstance(error, OSError):
                raise ServerFailed(f"{sys.executable!r} can't be run: {error}") from error
            raise
        finally:
            os.close(theirs)
            os.close(said)
        child = cls(process, lifeline, stdout, scratch, address)
        _running.add(child)
        return child

    @property
    def running(self) -> bool:
        """Whether the process is there; in a copy of this one, whether it was when that was made."""
        if self._done:
            return False
        return self.owner != os.getpid() or self.process.poll() is None

    def wait_until_ready(self) -> dict[str, str]:
        """What it says once it answers: its name and URL. Raises: ServerFailed: with its last words."""
        said = b""
        until = time.monotonic() + _START
        with selectors.DefaultSelector() as selector:
            selector.register(self.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n"):
                if not selector.select(max(until - time.monotonic(), 0)):
                    raise ServerFailed(f"the server didn't answer for {_START:.0f} s; it says: {self.last_words()!r}")
                part = os.read(self.stdout, 4096)
                if not part:
                    raise self._failure()
                said += part
        found: dict[str, str] = json.loads(said)
        return found

    def _failure(self) -> ServerFailed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP)
        words = self.last_words().strip()
        if words.startswith("ocikit: "):
            message, _, hint = words.removeprefix("ocikit: ").partition("\n  -> ")
            return ServerFailed(message, hint=hint)
        last = words.rpartition("\n")[2] or f"it ended with {self.process.returncode}"
        failure = ServerFailed(f"the server didn't start: {last}", hint="report this, with the notes below")
        failure.add_note(words)
        return failure

    def last_words(self) -> str:
        """The end of its log."""
        try:
            with (self.scratch / "log").open("rb") as log:
                log.seek(max(log.seek(0, os.SEEK_END) - _TAIL, 0))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def stop(self) -> None:
        """End it and all of its workers, and remove what was for the time of its run only."""
        if self._done or self.owner != os.getpid():
            return
        self._done = True
        _running.discard(self)
        try:
            self.process.terminate()
            until = time.monotonic() + _STOP
            # Not by wait(timeout): that one sleeps for 50 ms
            while self.process.poll() is None and time.monotonic() < until:
                time.sleep(_LOOK)
        finally:
            if self.process.poll() is None:
                # Its id is still its own, and so is its group: its workers. Those of a main process that is gone see that.
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            os.close(self.lifeline)
            os.close(self.stdout)
            shutil.rmtree(self.scratch, ignore_errors=True)

    def let_go(self) -> None:
        """In a copy of this process: don't keep the server from seeing that the original ended."""
        os.close(self.lifeline)


def _hook() -> None:
    global _hooked  # noqa: PLW0603 - a hook can't be taken back, and once is enough
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    for child in _running:
        with contextlib.suppress(OSError):
            child.let_go()
    _running.clear()


def _environment() -> dict[str, str]:
    """This process's, and the way to this package where that isn't installed."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[3])
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    return environment
