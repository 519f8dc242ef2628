"""Credential helpers: programs that store user names and secrets. github.com/docker/docker-credential-helpers."""

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

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: A name with a dot and a domain of letters, an IPv4 address, or this machine. Secrets may look like single words.
_HOST = re.compile(r"localhost|(?:[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?\.)+[a-z]{2,12}|(?:[0-9]{1,3}\.){3}[0-9]{1,3}")
_NOT_FOUND = ("credentials not found", "no credentials server url", "no credentials username")
_SHOWN = 60  # characters of a helper's name in a message
_OUTPUT_LIMIT = 1 << 20  # bytes, as for a token response


@frozen(kw_only=True)
class Helper:
    """A program `docker-credential-NAME` that stores credentials."""

    name: str
    """The name without prefix: "pass", "osxkeychain", "ecr-login"."""
    timeout: float = 30.0
    """Seconds. A helper may prompt its user, so this is longer than for a request."""
    environ: Mapping[str, str] | None = field(default=None, repr=False, eq=False)

    @property
    def program(self) -> str:
        """The name of the executable on the PATH."""
        return f"docker-credential-{self.name}"

    def get(self, server: str) -> tuple[str, str] | None:
        """Return the user name and the secret for a server, or None.

        Raises:
            CredentialsError: The helper failed.
        """
        status, output = self._run("get", server)
        if output.lower().startswith(_NOT_FOUND):
            return None
        fields = self._json("get", server, status, output)
        username, secret, url = (fields.get(key, "") for key in ("Username", "Secret", "ServerURL"))
        if isinstance(url, str) and url and _host(url) != _host(server):
            self._fail("get", server, f"returned credentials of {_quoted_host(url)}, which are not used")
        if not isinstance(username, str) or not isinstance(secret, str):
            self._fail("get", server, "returned JSON that is not credentials")
        return (username, secret) if secret else None

    def list(self) -> dict[str, str]:
        """Return the user name by server.

        Raises:
            CredentialsError: The helper failed.
        """
        users = self._json("list", "", *self._run("list", ""))
        return {str(server): str(user) for server, user in users.items()}

    def store(self, server: str, username: str, secret: str) -> None:
        """Store a user name and a secret.

        Raises:
            CredentialsError: The helper failed.
        """
        status, output = self._run("store", json.dumps({"ServerURL": server, "Username": username, "Secret": secret}))
        if status:
            self._fail("store", server, _failure(status, output, secret))

    def erase(self, server: str) -> None:
        """Remove a server, if the helper has it.

        Raises:
            CredentialsError: The helper failed.
        """
        status, output = self._run("erase", server)
        if status and not output.lower().startswith(_NOT_FOUND):
            self._fail("erase", server, _failure(status, output))

    def _json(self, verb: str, server: str, status: int, output: str) -> dict[str, Any]:
        if status:
            self._fail(verb, server, _failure(status, output))
        try:
            value = json.loads(output)
        except (ValueError, RecursionError):
            value = None
        # Raise outside the `except` block: a chained JSONDecodeError would contain the output with its secret.
        if not isinstance(value, dict):
            self._fail(verb, server, "returned output that is not a JSON object")
        return value

    def _fail(self, verb: str, server: str, problem: str) -> NoReturn:
        target = f" for {server}" if server else ""
        name = display.shorten(self.name, _SHOWN)
        program = f"docker-credential-{name}"
        raise CredentialsError(
            f"{program} {verb}{target} {problem}",
            hint=f"run `echo {server or '…'} | {program} {verb}` to see why, or remove {name!r} from "
            '"credHelpers" and "credsStore" in the configuration file',
        )

    def _run(self, verb: str, text: str) -> tuple[int, str]:
        """Run the helper and return its exit status and output.

        No shell is used, and the server is passed on stdin, so it does not appear in process lists.
        """
        server = text if verb != "store" else ""
        process = self._spawn(verb, server)
        # Read in a thread, because a helper may leave a child that keeps its output open indefinitely.
        chunks: list[bytes] = []
        thread = threading.Thread(
            target=_communicate, args=(process, text.encode(errors="surrogateescape"), chunks), daemon=True
        )
        deadline = time.monotonic() + self.timeout
        timed_out = f"took longer than {display.duration(self.timeout)} and was stopped"
        completed = False
        try:
            thread.start()
            thread.join(self.timeout)
            if thread.is_alive():
                self._fail(verb, server, timed_out)
            if len(output := b"".join(chunks)) > _OUTPUT_LIMIT:
                self._fail(verb, server, f"returned more than {_OUTPUT_LIMIT} bytes")
            try:
                status = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._fail(verb, server, timed_out)
            completed = True
        finally:
            if not completed:
                _stop(process)
        decoded = output.decode("utf-8", "replace").strip()
        if not status and "\ufffd" in decoded:
            self._fail(verb, server, "returned output that is not UTF-8")
        return status, decoded

    def _spawn(self, verb: str, server: str) -> subprocess.Popen[bytes]:
        if not _NAME.fullmatch(self.name):
            self._fail(verb, server, "was not run: a helper's name has letters, digits, '.', '_' and '-' only")
        environ = dict(os.environ if self.environ is None else self.environ)
        path = shutil.which(self.program, path=environ.get("PATH", os.defpath))
        if path is None:
            self._fail(verb, server, "could not be run: there is no such program on the PATH")
        try:
            return subprocess.Popen(  # noqa: S603 - the name is validated and from the user's own configuration
                [path, verb],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environ,
                process_group=0,  # to stop the helper together with its children
            )
        except OSError as error:
            raise CredentialsError(
                f"{self.program} could not be run: {error.strerror}", hint="check that it is executable"
            ) from error


def _communicate(process: subprocess.Popen[bytes], text: bytes, chunks: list[bytes]) -> None:
    if process.stdin is None or process.stdout is None:
        return
    with contextlib.suppress(OSError, ValueError), process.stdin as stdin:
        stdin.write(text)
    with contextlib.suppress(OSError, ValueError), process.stdout as stdout:
        chunks.append(stdout.read(_OUTPUT_LIMIT + 1))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a helper and its children, and wait for its end."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _host(server: str) -> str:
    """Return the host of a server without port, which some helpers omit."""
    return re.sub(r":\d+$", "", normalize_key(server).partition("/")[0])


def _quoted_host(url: str) -> str:
    """Return the host of a URL for a message, unless the text may be a secret instead of a URL."""
    host = _host(url)
    return host if len(host) <= 80 and _HOST.fullmatch(host) else "another server"


def _failure(status: int, output: str, secret: str = "") -> str:
    """Return the reason of a failure: the helper's message, unless it may contain the secret."""
    if status < 0:
        return f"was ended by signal {-status}"
    # Messages consist of words and paths. A longer run of other characters may be a key, so redact it.
    message = re.sub(r"[^\s/]{24,}", "***", display.shorten(output.partition("\n")[0], 120))
    if not message or any(c in output for c in '{}"=') or (secret and secret in output):
        return f"failed with exit status {status}"
    return f"failed with exit status {status}: {message}"
