"""Credential helpers: programs that keep a user and a secret for a server. github.com/docker/docker-credential-helpers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from attrs import field, frozen

from ocikit import display
from ocikit.errors import CredentialsError
from ocikit.remote.auth.docker_config import normalize_key

_BARE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOTHING = ("credentials not found", "no credentials server url", "no credentials username")
_ANSWER_LIMIT = 1 << 20  # bytes of a helper's answer, as of a token response


@frozen(kw_only=True)
class Helper:
    """A program `docker-credential-NAME` that keeps credentials."""

    name: str
    """Bare: "pass", "osxkeychain", "ecr-login"."""
    timeout: float = 30.0
    """Seconds. A helper may ask its user something, so it has longer than a request."""
    environ: Mapping[str, str] | None = field(default=None, repr=False, eq=False)

    @property
    def program(self) -> str:
        """What is looked for on the PATH."""
        return f"docker-credential-{self.name}"

    def get(self, server: str) -> tuple[str, str] | None:
        """The user and the secret that the helper keeps for the server; None if nothing.

        Raises: CredentialsError: if it fails.
        """
        status, answer = self._run("get", server)
        if answer.lower().startswith(_NOTHING):
            return None
        found = self._json("get", server, status, answer)
        username, secret, about = (found.get(key, "") for key in ("Username", "Secret", "ServerURL"))
        if isinstance(about, str) and about and _host(about) != _host(server):
            self._fail("get", server, f"answered for {display.shorten(about, 80)}, so what it said is not used")
        if not isinstance(username, str) or not isinstance(secret, str):
            self._fail("get", server, "answered with JSON that is not credentials")
        return (username, secret) if secret else None

    def list(self) -> dict[str, str]:
        """The user for each server that the helper knows. Raises: CredentialsError."""
        found = self._json("list", "", *self._run("list", ""))
        return {str(server): str(user) for server, user in found.items()}

    def store(self, server: str, username: str, secret: str) -> None:
        """Keep a user and a secret. Raises: CredentialsError."""
        status, answer = self._run("store", json.dumps({"ServerURL": server, "Username": username, "Secret": secret}))
        if status:
            self._fail("store", server, _failure(status, answer, secret))

    def erase(self, server: str) -> None:
        """Forget the server; not knowing it is fine. Raises: CredentialsError."""
        status, answer = self._run("erase", server)
        if status and not answer.lower().startswith(_NOTHING):
            self._fail("erase", server, _failure(status, answer))

    def _json(self, verb: str, server: str, status: int, answer: str) -> dict[str, Any]:
        if status:
            self._fail(verb, server, _failure(status, answer))
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            found = None
        # Raised out here: a JSONDecodeError in the chain would carry the answer, and with it the secret.
        if not isinstance(found, dict):
            self._fail(verb, server, "answered with something that is not a JSON object")
        return found

    def _fail(self, verb: str, server: str, problem: str) -> NoReturn:
        about = f" for {server}" if server else ""
        raise CredentialsError(
            f"{self.program} {verb}{about} {problem}",
            hint=f"run `echo {server or '…'} | {self.program} {verb}` to see why, or take {self.name!r} out of "
            '"credHelpers" and "credsStore" in the configuration file',
        )

    def _run(self, verb: str, text: str) -> tuple[int, str]:
        """Exit status and cleaned output. No shell; the server goes to stdin, so no process list shows it."""
        server = text if verb != "store" else ""
        if not _BARE.fullmatch(self.name):
            self._fail(verb, server, "was not run: a helper's name has letters, digits, '.', '_' and '-' only")
        environ = dict(os.environ if self.environ is None else self.environ)
        path = shutil.which(self.program, path=environ.get("PATH", os.defpath))
        if path is None:
            self._fail(verb, server, "could not be run: there is no such program on the PATH")
        try:
            # What it starts is stopped with it, so it has a process group of its own
            process = subprocess.Popen(  # noqa: S603 - the name is bare and comes from the user's own configuration
                [path, verb], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ,
                process_group=0,
            )  # fmt: skip
        except OSError as error:
            raise CredentialsError(
                f"{self.program} could not be run: {error.strerror}", hint="check that it is executable"
            ) from error
        # A thread, because a helper may leave a child behind that holds its output open for ever.
        answer: list[bytes] = []
        talk = threading.Thread(
            target=_talk, args=(process, text.encode(errors="surrogateescape"), answer), daemon=True
        )
        deadline = time.monotonic() + self.timeout
        done = False
        try:
            talk.start()
            talk.join(self.timeout)
            if talk.is_alive():
                self._fail(verb, server, f"took longer than {display.duration(self.timeout)} and was stopped")
            if len(output := b"".join(answer)) > _ANSWER_LIMIT:
                self._fail(verb, server, f"answered with more than {_ANSWER_LIMIT} bytes")
            try:
                status = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._fail(verb, server, f"took longer than {display.duration(self.timeout)} and was stopped")
            done = True
        finally:
            if not done:
                _stop(process)
        said = output.decode("utf-8", "replace").strip()
        if not status and "\ufffd" in said:
            self._fail(verb, server, "answered with something that is not UTF-8")
        return status, said


def _talk(process: subprocess.Popen[bytes], text: bytes, answer: list[bytes]) -> None:
    if process.stdin is None or process.stdout is None:
        return
    with contextlib.suppress(OSError, ValueError), process.stdin as stdin:
        stdin.write(text)
    with contextlib.suppress(OSError, ValueError), process.stdout as stdout:
        answer.append(stdout.read(_ANSWER_LIMIT + 1))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a helper and what it has started, and let none of it linger."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _host(server: str) -> str:
    """The host in a server's name, without its port: some helpers leave that out."""
    return re.sub(r":\d+$", "", normalize_key(server).partition("/")[0])


def _failure(status: int, answer: str, secret: str = "") -> str:
    """What to say of a helper that failed: its message, unless that may hold what it should have kept."""
    if status < 0:
        return f"was ended by signal {-status}"
    # Messages are words and paths; a long unbroken run of anything else may be a key.
    said = re.sub(r"[^\s/]{24,}", "***", display.shorten(answer.partition("\n")[0], 120))
    if not said or any(c in answer for c in '{}"=') or (secret and secret in answer):
        return f"failed with exit status {status}"
    return f"failed with exit status {status}: {said}"
