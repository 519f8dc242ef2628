"""HTTP requests that a server of `ocikit.testing` received, and the responses that it sends."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

from attrs import define, field, frozen


@frozen
class Request:
    """A request that a server received, with its body.

    Attributes:
        method: The HTTP method.
        target: The path with the query.
        headers: The headers, a mapping without regard to case.
        body: The body. It is empty if the body is larger than 1 MiB.

    Example:
        >>> from ocikit.testing import Request
        >>> request = Request("GET", "/v2/ada/notes/tags/list?n=10", {}, b"")
        >>> request.path, request.query
        ('/v2/ada/notes/tags/list', {'n': ['10']})
    """

    method: str
    target: str
    headers: Any = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        """The path without the query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters of the query, each with all its values."""
        return urllib.parse.parse_qs(self.target.partition("?")[2], keep_blank_values=True)


@define
class Response:
    """A response to send.

    Attributes:
        status: The HTTP status.
        headers: The headers. A list is a header that is sent several times.
        body: The body.

    Example:
        >>> from ocikit.testing import Response
        >>> Response(202, {"Location": "/v2/"}).status
        202
    """

    status: int = 200
    headers: dict[str, Any] = field(factory=dict)
    body: bytes = b""


def error_response(status: int, code: str, message: str = "", **headers: str) -> Response:
    """Return an error as the distribution specification defines it.

    Args:
        status: The HTTP status.
        code: The code, such as "MANIFEST_UNKNOWN".
        message: The message; the default is the code in lower case.
        headers: Headers of the response.

    Example:
        >>> error_response(404, "BLOB_UNKNOWN").body
        b'{"errors": [{"code": "BLOB_UNKNOWN", "message": "blob_unknown", "detail": null}]}'
    """
    body = json.dumps({"errors": [{"code": code, "message": message or code.lower(), "detail": None}]}).encode()
    return Response(status, {"Content-Type": "application/json", **headers}, body)
