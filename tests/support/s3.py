"""An S3 server as a process in a temporary folder: versitygw, with one bucket.

    with s3.running() as server:
        os.environ.update(server.environ)
        open_objects(server.url(), state=folder)

Tests use the fixture `objects_url` of tests/conftest.py: an empty prefix of the bucket, with the credentials in the
environment. It skips where the server is missing, and the server is shared by the tests of a process of pytest. Tools and
benchmarks use `running`. By hand, with a URL and the environment on the standard output until a line arrives:

    python -m tests.support.s3
"""

import contextlib
import http.client
import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from tests.support import peers
from tests.support.http import free_port
from tests.support.service import Service

ACCESS = "ada"
SECRET = "lovelace-of-the-analytical-engine"
REGION = "us-east-1"
BUCKET = "registry"

#: An attribute of files. Without attributes, versitygw needs a folder for the metadata of objects.
_ATTRIBUTE = "user.ocikit"


class S3Server:
    """A running server. `running` makes it.

    Args:
        folder: The folder of the server.
        port: A free loopback port.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        #: The files of the objects, by their keys.
        self.bucket = folder / "objects" / BUCKET
        self.bucket.mkdir(parents=True)
        # Connections stay open, as those of real S3 do
        command = [peers.find("versitygw"), "--port", self.host, "--region", REGION, "--health", "/healthz"]
        command += ["--keep-alive", "--quiet", "posix", *_notes(folder), folder / "objects"]
        env = {"ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET}
        # At SIGTERM, it waits for clients that keep their connections
        self.service = Service("versitygw", command, folder, self._ready, env=env, ending=signal.SIGKILL)
        self._count = itertools.count(1)

    @property
    def endpoint(self) -> str:
        """The URL of the server."""
        return f"http://{self.host}"

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a client: credentials and region, and no look at the user's own."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def url(self, prefix: str | None = None, *, endpoint: str | None = None, **options: str) -> str:
        """Return the URL of an object store: an empty prefix, unless one is named.

        Args:
            prefix: Prefix of all keys.
            endpoint: The URL of a proxy before the server.
            options: More parameters of the URL.
        """
        prefix = f"t{next(self._count)}" if prefix is None else prefix
        query = {"endpoint_url": endpoint or self.endpoint, "region": REGION, "path_style": "1", **options}
        return f"s3://{BUCKET}/{prefix}?{urlencode(query)}"

    def start(self) -> None:
        """Start the server again after `stop`."""
        self.service.start()

    def stop(self) -> None:
        """End the server at once."""
        self.service.stop()

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection(self.host, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        return False


@contextmanager
def running(folder: Path | None = None) -> Iterator[S3Server]:
    """Start a server, and remove it at the end.

    Args:
        folder: The parent of its folder, such as one of another disk; None for the usual one.
    """
    own = Path(tempfile.mkdtemp(prefix="ocikit-s3-", dir=folder))
    server = S3Server(own, free_port())
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(own, ignore_errors=True)


def _notes(folder: Path) -> list[str | Path]:
    """Return the option for a file system without attributes of files, such as an older tmpfs."""
    try:
        os.setxattr(folder, _ATTRIBUTE, b"1")
    except OSError:
        notes = folder / "notes"
        notes.mkdir()
        return ["--sidecar", notes]
    return []


if __name__ == "__main__":
    with running(Path(sys.argv[1]) if len(sys.argv) > 1 else None) as started:
        print(started.url(""), *(f"{name}={value}" for name, value in started.environ.items()), sep="\n", flush=True)
        sys.stdin.readline()
