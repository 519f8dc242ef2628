"""Requests to the fake registry: credentials, a guard, bodies."""

import base64
import contextlib
import random
import socket

from ocikit.remote.http.responses import drain

from tests.support.fake_registry import Response

SECRET = "hunter2-correct-horse"
ADA = ("ada", SECRET)
BASIC = "Basic " + base64.b64encode(f"ada:{SECRET}".encode()).decode()


def require_basic(request):
    """Reject requests without ada's password; a guard for `FakeRegistry`."""
    if request.headers.get("Authorization") != BASIC:
        return Response(401, {"WWW-Authenticate": 'Basic realm="r"'})
    return None


def get(transport, target="/v2/", **options):
    """Send a GET request and return the response and its body."""
    response = transport.request("GET", target, "test", **options)
    body = response.raw.read()
    drain(response)
    return response, body


def free_port() -> int:
    """Return a loopback port that is free at the moment, outside of the range that clients get their ports from."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


class OneShotBody:
    """A body that can be read only once."""

    def __init__(self, content):
        self._content = content

    def read(self, size=-1):
        """Read at most `size` bytes."""
        chunk, self._content = self._content[:size], self._content[size:]
        return chunk

    def seekable(self):
        """Return False."""
        return False

    def tell(self):
        """Raise OSError, as streams do that can't seek."""
        raise OSError("not seekable")
