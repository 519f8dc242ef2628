"""A registry for tests of programs in any language: `python -m ocikit.testing ecr -- make test`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from ocikit.errors import OcikitError
from ocikit.testing.profiles import PROFILES, find
from ocikit.testing.registries import Registry, registry
from ocikit.waits import UNLIMITED

#: The exit code of a shell for a command that does not exist.
_NO_COMMAND = 127

_EPILOG = """\
The command has these environment variables:
  OCI_REGISTRY           the host for references, such as 127.0.0.1:40123
  OCI_REGISTRY_USERNAME  the user, if clients need a login
  OCI_REGISTRY_PASSWORD  the password
  DOCKER_CONFIG, REGISTRY_AUTH_FILE
                         files that log docker, oras, crane, podman and others in

examples:
  python -m ocikit.testing ecr -- make test
  python -m ocikit.testing ghcr -- sh -c 'oras push --plain-http $OCI_REGISTRY/ada/data:v1 data.csv'
  python -m ocikit.testing --fail PUT '/v2/.*/manifests/.*' 503 -- go test ./...
  python -m ocikit.testing hub --port 5000
  python -m ocikit.testing --describe quay
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m ocikit.testing",
        description="Run a registry on loopback that behaves as a product, while a command runs or until Ctrl-C.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("profile", nargs="?", default="plain", help=f"one of {', '.join(PROFILES)}")
    parser.add_argument("--port", type=int, default=0, help="the port; the default is a free one")
    parser.add_argument("--no-auth", action="store_true", help="accept clients without a login")
    parser.add_argument(
        "--fail", nargs=3, action="append", default=[], metavar=("METHOD", "PATH", "STATUS"),
        help="fail the next request that matches two regular expressions",
    )  # fmt: skip
    parser.add_argument(
        "--cut", nargs=3, action="append", default=[], metavar=("METHOD", "PATH", "BYTES"),
        help="cut the next response that matches after a number of bytes",
    )  # fmt: skip
    parser.add_argument("--describe", action="store_true", help="print what the profile does differently, and end")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the registry and return the exit code.

    Args:
        arguments: The arguments. The command follows after "--".
    """
    words, command = list(arguments), list[str]()
    if "--" in words:
        place = words.index("--")
        words, command = words[:place], words[place + 1 :]
    parser = make_parser()
    options = parser.parse_args(words)
    try:
        if options.describe:
            sys.stdout.write(f"{find(options.profile).describe()}\n")
            return 0
        faults = [(method, path, int(number)) for method, path, number in (*options.fail, *options.cut)]
        with registry(options.profile, auth=not options.no_auth, port=options.port) as running:
            for place, (method, path, number) in enumerate(faults):
                if place < len(options.fail):
                    running.fail(method, path, status=number)
                else:
                    running.cut(method, path, after=number)
            return _run(running, command) if command else _wait(running)
    except ValueError as error:
        parser.error(str(error))
    except (OcikitError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _run(running: Registry, command: list[str]) -> int:
    """Run a command and return its exit code."""
    names = {"OCI_REGISTRY": running.host}
    if running.credentials is not None:
        names |= {"OCI_REGISTRY_USERNAME": running.username, "OCI_REGISTRY_PASSWORD": running.password}
    try:
        return subprocess.run(command, env={**os.environ, **names}, check=False).returncode  # noqa: S603 - it is the user's
    except FileNotFoundError:
        sys.stderr.write(f"there is no command {command[0]!r}\n")
        return _NO_COMMAND


def _wait(running: Registry) -> int:
    """Write the host, and wait for a signal."""
    ended = threading.Event()

    def end(_: int, __: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    sys.stdout.write(f"{running.host}\n")
    sys.stdout.flush()
    if running.credentials is not None:
        sys.stderr.write(f"user: {running.username}\npassword: {running.password}\n")
    ended.wait(timeout=UNLIMITED)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
