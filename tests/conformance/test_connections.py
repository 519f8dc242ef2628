"""A rejected request does not affect the client's next request. RFC 9112 #9.3, #9.6."""

import contextlib
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from tests.conformance.content import digest_of

pytestmark = pytest.mark.interop  # several connections in turn, with a moment for each

REFUSED = {
    "an unread chunk": ("PATCH", "blobs/uploads/nobody"),
    "the end of nothing": ("PUT", f"blobs/uploads/nobody?digest={digest_of(b'')}"),
    "a manifest of no digest": ("PUT", "manifests/sha256:baddigeststring"),
    "a blob of no digest": ("POST", "blobs/uploads/?digest=sha256:baddigeststring"),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "with a length"])
@pytest.mark.parametrize("size", [10, 5000, 100_000])
def test_connection_continues_or_announces_close_after_refusal(server, repo, refused, chunked, size):
    """A client without credentials repeats the request with credentials on the same connection."""
    method, path = refused
    body = b"x" * size
    with contextlib.closing(HTTPConnection(urlsplit(server.wire.url).netloc, timeout=30)) as connection:
        for _ in range(5):
            headers = {"Transfer-Encoding": "chunked"} if chunked else {}
            # The registry may reject a body before reading it, and the response is available anyway
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sent = iter([body]) if chunked else body
                connection.request(method, f"/v2/{repo}/{path}", body=sent, headers=headers, encode_chunked=chunked)
            answer = connection.getresponse()
            assert 400 <= answer.status < 500
            answer.read()
            if connection.sock is None:
                continue  # the registry announced the close
            time.sleep(0.01)
            connection.request("GET", "/v2/")
            again = connection.getresponse()
            assert again.status in (200, 401)
            again.read()
