"""Requests and responses on the connections of urllib3's pools.

urllib3 opens connections, keeps them and detects closed ones. Everything between that and the socket is here: for a small
blob, the layers of urllib3 and http.client cost more than the hash and the file.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterable
from functools import cached_property
from typing import Any, cast

import requests
import urllib3
from requests.cookies import RequestsCookieJar
from requests.structures import CaseInsensitiveDict
from urllib3.util.url import _encode_target  # urllib3 encodes targets with it

from ocikit.remote.http import deadlines
from ocikit.remote.http.request import BodyStream

#: Bytes written to a socket at once; http.client's 16 KiB costs a third of a fast upload's time.
BLOCK_SIZE = 1 << 18

_JOINED = 1 << 16  # bytes of a body that are sent together with the headers
_PLAIN_TARGET = re.compile(r"/[A-Za-z0-9._~:/@!$&'()*+,;=?-]*")  # needs no encoding

#: Headers as they are sent. A line break within a value would start another header (request smuggling).
_HEAD = re.compile(
    rb"[A-Z]+ [!-~]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[ ][^\r\n\0]*+\r\n)++\r\n",
)


class Headers(CaseInsensitiveDict[str]):
    """Headers of a request or a response: of one name, the last is kept.

    The base class spends a third of a small request on single lookups.

    Args:
        fields: Names and values.
    """

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._store = {name.lower(): (name, value) for name, value in fields}  # as in the base class

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a header, or the default."""
        field = self._store.get(key.lower())
        return default if field is None else field[1]

    def fields(self) -> list[tuple[str, str]]:
        """Return names and values."""
        return list(self._store.values())


class Response(requests.Response):
    """A response whose body is read from the connection.

    The response of urllib3 (`raw`) is made on first use, because a small blob and an upload do not need it.

    Args:
        request: The request.
        body: Response of http.client, whose headers were read.
        pool: The pool to which the connection returns after the body.
        connection: The connection.
    """

    _content: Any = False  # as in requests
    _content_consumed = False
    _next = None
    encoding = None
    _connection: Any = None

    def __init__(
        self, request: requests.PreparedRequest, body: deadlines.Response, pool: Exchanging, connection: Any
    ) -> None:
        # Without the base class: its cookies and case-insensitive headers cost as much as reading the headers
        self.body = body
        self.request = request
        self.url = str(request.url)
        self.status_code = body.status
        self.reason = body.reason
        self.history = []
        self.headers = Headers(body.fields)
        if len(self.headers) != len(body.fields):  # repeated headers are a list: RFC 9110 section 5.3
            self.headers = Headers(urllib3.HTTPHeaderDict(body.fields).itermerged())
        self._pool = pool
        self._connection = connection
        if body.length == 0 and not body.chunked:
            self.release()

    @cached_property
    def raw(self) -> Any:  # type: ignore[override]  # an attribute there
        """The response of urllib3."""
        return urllib3.HTTPResponse(
            body=self.body,
            headers=urllib3.HTTPHeaderDict(self.body.fields),
            status=self.status_code,
            version=self.body.version,
            reason=self.reason,
            preload_content=False,
            decode_content=False,
            original_response=self.body,
            pool=_Returning(self),  # type: ignore[arg-type]  # it only returns the connection
            connection=self._connection,
            request_method=self.request.method,
        )

    @cached_property
    def cookies(self) -> RequestsCookieJar:  # type: ignore[override]  # an attribute there
        """No cookies: they are neither stored nor sent."""
        return RequestsCookieJar()

    def release(self) -> None:
        """Return the connection to its pool after a complete body, else close it."""
        body, connection, self._connection = self.body, self._connection, None
        if connection is None:
            return
        complete = body.isclosed() or (body.length == 0 and not body.chunked)
        body.close()
        if not complete or body.length or body.will_close:
            connection.close()
        self._pool.give(connection)

    def close(self) -> None:
        """Release the connection."""
        self.release()

    def __del__(self) -> None:
        self.release()


class _Returning:
    """What urllib3 needs of the pool: where a connection is returned to."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def _put_conn(self, _: object) -> None:
        self._response.release()


class Exchanging:
    """A pool of urllib3 that sends requests and reads responses itself.

    The class of connections stays urllib3's, because recorders such as vcrpy replace it.
    """

    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[misc]  # the pool has it
        connection.response_class = deadlines.Response
        return connection

    def give(self, connection: Any) -> None:
        """Return a connection to the pool; it connects again if it is closed."""
        self._put_conn(connection)  # type: ignore[attr-defined]  # the pool has it

    def exchange(
        self, request: requests.PreparedRequest, target: str, *, connect_timeout: float, read_timeout: float
    ) -> Response | None:
        """Send a request and read the headers of the response.

        Args:
            request: The request, with Content-Length if it has a body.
            target: Path and query.
            connect_timeout: Seconds to connect.
            read_timeout: Seconds without data.

        Returns:
            The response with its unread body; None if another library has replaced the connections, as recorders do.

        Raises:
            ValueError: A header has a line break.
        """
        connection: Any = self._get_conn()  # type: ignore[attr-defined]  # the pool has it
        if not type(connection).__module__.startswith(("urllib3.", "ocikit.")):
            self.give(connection)
            return None
        try:
            head = _head(request, target, connection)
            if connection.sock is None:
                connection.timeout = connect_timeout
                connection.connect()
            connection.sock.settimeout(read_timeout)
            _send(connection.sock, head, cast("bytes | BodyStream | None", request.body))
            body = deadlines.Response(connection.sock, method=request.method)
            try:
                body.begin()
            except BaseException:
                body.close()
                raise
        except BaseException:
            connection.close()
            self.give(connection)
            raise
        return Response(request, body, self, connection)


def _head(request: requests.PreparedRequest, target: str, connection: Any) -> bytes:
    """Return the first line and the headers.

    Raises:
        ValueError: A header has a line break. The message does not show it, because it may be secret.
    """
    if not _PLAIN_TARGET.fullmatch(target):
        target = _encode_target(target)
    headers = cast("Headers", request.headers)
    lines = [f"{name}: {value}\r\n" for name, value in headers.fields()]
    if headers.get("Host") is None:
        lines.insert(0, f"Host: {_host(connection)}\r\n")
    head = f"{request.method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1")
    if not _HEAD.fullmatch(head) or head.count(b"\n") != len(lines) + 2:
        raise ValueError("a header of the request has a line break or an invalid name")
    return head


def _host(connection: Any) -> str:
    """Return the Host of a connection's requests. RFC 9110 section 7.2."""
    name = str(connection.host)
    if not name.isascii():
        name = name.encode("idna").decode()
    if ":" in name:
        name = f"[{name.partition('%')[0]}]"
    return name if connection.port == connection.default_port else f"{name}:{connection.port}"


def _send(sock: socket.socket, head: bytes, body: bytes | BodyStream | None) -> None:
    """Send a request, until the server rejects it early.

    Its response can be read although the connection is broken for writing.
    """
    block = body if isinstance(body, bytes) else body.read(BLOCK_SIZE) if body is not None else b""
    try:
        if len(block) <= _JOINED:
            sock.sendall(head + block)
        else:
            sock.sendall(head)
            sock.sendall(block)
        if body is None or isinstance(body, bytes):
            return
    except OSError as error:
        if not _is_rejection(error):
            raise
        return
    while block := body.read(BLOCK_SIZE):
        try:
            sock.sendall(block)
        except OSError as error:
            if not _is_rejection(error):
                raise
            return


def _is_rejection(error: OSError) -> bool:
    # macOS reports EPROTOTYPE while the other side closes
    return error.errno in {errno.EPIPE, errno.ECONNRESET, errno.EPROTOTYPE}
