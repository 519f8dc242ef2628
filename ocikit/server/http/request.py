"""Requests and responses as plain values on top of WSGI. PEP 3333."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote

from attrs import define, field, frozen

from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.transfer import SMALL_BODY, Transfer, transfer_of

#: Bytes that are read at once.
_CHUNK_SIZE = 1 << 17

#: Parameters of a query. A push sets a tag with each, and more do not fit into the 64 KiB of URL that servers accept.
_PARAMETER_LIMIT = 10_000

#: RFC 9110 #7.2, without characters that no host name needs: the host may become part of a challenge.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")

#: A number of bytes below 2^63.
_NUMBER = re.compile(r"[0-9]{1,18}")

#: Methods whose requests have a body. The body of any other request is not read: the connection closes.
METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})

#: A path prefix for links. Reject "//": a link that starts with it names another host (open redirect). RFC 3986 #3.3
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)*")


class ReadableStream(Protocol):
    """A stream that is only read, such as `wsgi.input`."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes."""


class RequestBody:
    """The body of a request, never read beyond the announced length or the limit.

    Args:
        stream: Readable stream.
        length: Announced length in bytes; None for a chunked body.
        limit: Maximum number of bytes; None for no limit.
        begin: Called before the first wait for the client; it may reject the request.
        transfer: Limits of waits for the client.

    >>> import io
    >>> RequestBody(io.BytesIO(b"hello world"), length=5).read()
    b'hello'
    """

    def __init__(
        self,
        stream: ReadableStream,
        *,
        length: int | None,
        limit: int | None = None,
        begin: Callable[[], None] | None = None,
        transfer: Transfer | None = None,
    ) -> None:
        self._stream = stream
        self._begin = begin
        self._transfer = transfer
        self._deadline: float | None = None
        self._seconds = 0.0
        self.length = length
        """Announced length in bytes; None for a chunked body."""
        self.limit = limit
        """Maximum number of bytes; None for no limit."""
        self.bytes_read = 0
        """Bytes read so far."""
        self._limit_text = ""

    def set_limit(self, limit: int | None, text: str = "") -> RequestBody:
        """Set the maximum number of bytes.

        Args:
            limit: Bytes; None for no limit.
            text: Description of what the registry accepts, for the error.

        Raises:
            ErrorResponse: 413 if the announced length is above the limit.
        """
        self.limit, self._limit_text = limit, text
        if limit is not None and self.length is not None and self.length > limit:
            raise self._too_large(limit)
        return self

    def set_deadline(self, seconds: float) -> RequestBody:
        """Limit the time until the whole body has arrived; without it, only the rate is limited.

        DoS: a client that sends a byte now and then must not hold a thread.
        """
        self._deadline, self._seconds = time.monotonic() + seconds, seconds
        if self._transfer is not None:
            self._transfer.set_deadline(seconds)
        return self

    def read_chunk(self, size: int = _CHUNK_SIZE) -> bytes:
        """Return at most `size` bytes, and no bytes at the end.

        Raises:
            ErrorResponse: 413 above the limit; 400 SIZE_INVALID if the body ends before its announced length; 408 after the
                deadline; 429 or 503 if too many requests wait for their clients.
        """
        if self.length is not None:
            size = min(size, self.length - self.bytes_read)
        if self.limit is not None:
            size = min(size, self.limit + 1 - self.bytes_read)
        if size <= 0:
            return b""
        if self._begin is not None:
            self._begin()
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise ErrorResponse(
                408, "SIZE_INVALID", f"the body did not arrive within {self._seconds:g} s; send it again, faster"
            )
        try:
            chunk = self._stream.read(size)
        except (OSError, ValueError) as error:
            # WSGI servers raise different errors for a closed connection and for invalid chunks
            raise self._incomplete() from error
        self.bytes_read += len(chunk)
        if self.limit is not None and self.bytes_read > self.limit:
            raise self._too_large(self.limit)
        if not chunk and self.length is not None and self.bytes_read < self.length:
            raise self._incomplete()
        return chunk

    def read(self) -> bytes:
        """Return the whole body; use it with a limit.

        Raises:
            ErrorResponse: See `read_chunk`.
        """
        return b"".join(iter(self.read_chunk, b""))

    def discard(self, limit: int) -> None:
        """Read and drop the rest if it is not above a limit in bytes.

        A client that is still sending may not see the response otherwise. The time is limited: a response to a slow
        client is lost instead.
        """
        if self.length is not None and self.length - self.bytes_read > limit:
            return
        self.limit, end = None, self.bytes_read + limit
        if self._deadline is None:
            self.set_deadline(SMALL_BODY)
        with contextlib.suppress(ErrorResponse):
            while self.bytes_read < end and self.read_chunk():
                pass

    def _too_large(self, limit: int) -> ErrorResponse:
        accepted = self._limit_text or f"at most {limit} bytes"
        return ErrorResponse(
            413,
            "SIZE_INVALID",
            f"this registry accepts {accepted}; ask its operator for a higher limit",
            detail={"limit": limit},
        )

    def _incomplete(self) -> ErrorResponse:
        announced = "" if self.length is None else f" of the announced {self.length}"
        return ErrorResponse(
            400,
            "SIZE_INVALID",
            f"the body ended after {self.bytes_read} bytes{announced}: the connection broke; try again",
        )


@define(eq=False)
class Request:
    """An HTTP request. Header names are case-insensitive."""

    method: str
    path: str
    """The decoded path below the mount point, with a leading slash."""
    prefix: str
    """The mount point, the prefix of `path` in links; "" for the root."""
    scheme: str
    host: str
    """The server's name in the request, "name[:port]" or "[address][:port]"; chosen by the client."""
    remote: str
    """The client's address without a port."""
    query: tuple[tuple[str, str], ...]
    body: RequestBody
    environ: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_environ(cls, environ: Mapping[str, Any], *, trusted: Sequence[str] = ()) -> Request:
        """Parse a WSGI environ.

        Args:
            environ: Environ of a WSGI server.
            trusted: Addresses and networks of proxies whose X-Forwarded headers are used.

        Raises:
            ErrorResponse: 400 for an invalid request.
        """
        remote = _address(environ.get("REMOTE_ADDR", ""))
        scheme = environ.get("wsgi.url_scheme", "http")
        host = environ.get("HTTP_HOST", "")
        if not host:
            if environ.get("SERVER_PROTOCOL") == "HTTP/1.1":
                raise ErrorResponse(400, "UNSUPPORTED", "the Host header is missing; HTTP/1.1 requires it")
            host = environ.get("SERVER_NAME", "")
        prefix = quote(environ.get("SCRIPT_NAME", ""), encoding="latin-1").rstrip("/")
        path = environ.get("PATH_INFO", "")
        if prefix.endswith("/v2"):
            # Clients require /v2 at the root of the host, so the application may be mounted at this path only
            prefix, path = prefix.removesuffix("/v2"), f"/v2{path}"
        if is_trusted(remote, trusted):
            remote, hops = _client_address(environ, remote, trusted)
            forwarded_scheme = _forwarded_by(environ, "PROTO", hops).lower()
            scheme = forwarded_scheme if forwarded_scheme in {"http", "https"} else scheme
            host = _forwarded_by(environ, "HOST", hops) or host
            proxy_prefix = _forwarded_by(environ, "PREFIX", hops).rstrip("/")
            prefix = (proxy_prefix if _PREFIX.fullmatch(proxy_prefix) else "") + prefix
        if _HOST.fullmatch(host) is None:
            # Two Host headers arrive as one with a comma. RFC 9112 #3.2
            raise ErrorResponse(400, "UNSUPPORTED", "the Host header is not a host name with an optional port")
        path, query = _decode_url(path, environ.get("QUERY_STRING", ""))
        method, transfer = environ["REQUEST_METHOD"], transfer_of(environ)
        body = RequestBody(
            environ["wsgi.input"],
            length=_body_length(environ, method),
            begin=None if transfer is None else partial(transfer.begin, remote),
            transfer=transfer,
        )
        return cls(
            method=method,
            path=path or "/",
            prefix=prefix,
            scheme=scheme,
            host=host,
            remote=remote,
            query=query,
            body=body,
            environ=environ,
        )

    def begin_transfer(self) -> None:
        """Announce that the request waits for its client.

        Raises:
            ErrorResponse: 429 or 503 if too many requests wait for their clients.
        """
        transfer = transfer_of(self.environ)
        if transfer is not None:
            transfer.begin(self.remote)

    def header(self, name: str) -> str:
        """Return a header's value, or ""."""
        key = name.upper().replace("-", "_")
        return str(self.environ.get(key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}", ""))

    def parameter(self, name: str) -> str | None:
        """Return the first value of a query parameter, or None."""
        return next((value for key, value in self.query if key == name), None)

    def parameters(self, name: str) -> tuple[str, ...]:
        """Return all values of a query parameter."""
        return tuple(value for key, value in self.query if key == name)

    def link(self, path: str, query: str = "") -> str:
        """Return the URL of a path of the application, relative to the host."""
        return f"{self.prefix}{quote(path, safe='/:')}{'?' if query else ''}{query}"


def host_name(host: str) -> str:
    """Return a host in lower case, without port and brackets.

    >>> host_name("Hub.Lab:5000"), host_name("[::1]:5000"), host_name("::1")
    ('hub.lab', '::1', '::1')
    """
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    return host.lower()


def _decode_url(path: str, query: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the path and the parameters of a query as text.

    Raises:
        ErrorResponse: 400 for invalid UTF-8, NUL, or too many parameters.
    """
    if "\0" in path or "%00" in query or "\0" in query:
        # No name has it, and PostgreSQL refuses it in text: each of these requests would fail there and fill the log
        raise ErrorResponse(400, "UNSUPPORTED", "the URL has a NUL character, which no name contains")
    try:
        path = path.encode("latin-1").decode()
        if not query:
            return path, ()
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_PARAMETER_LIMIT, errors="strict")
    except ValueError as error:
        raise ErrorResponse(400, "UNSUPPORTED", "the URL is not UTF-8 or has too many parameters") from error
    return path, tuple(pairs)


def is_trusted(address: str, trusted: Sequence[str]) -> bool:
    """Return True for the address of a trusted proxy, or one in a trusted network such as "10.0.0.0/8"."""
    if not trusted:
        return False
    if address in trusted:
        return True
    networks = _networks(tuple(trusted))
    try:
        parsed = ipaddress.ip_address(address) if networks else None
    except ValueError:
        return False
    if parsed is None:
        return False
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(parsed in network for network in networks)


@lru_cache(maxsize=16)
def _networks(trusted: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(entry, strict=False) for entry in trusted if "/" in entry)


def _client_address(environ: Mapping[str, Any], remote: str, trusted: Sequence[str]) -> tuple[str, int]:
    """Return the client's address and the number of further trusted proxies.

    Each proxy appends an address. Entries left of the first untrusted one may be forged by the client (IP spoofing).
    """
    chain = [_address(entry) for entry in _forwarded(environ, "FOR")]
    hops = 0
    while hops < len(chain) - 1 and is_trusted(chain[-1 - hops], trusted):
        hops += 1
    return (chain[-1 - hops] if chain else remote), hops


def _forwarded(environ: Mapping[str, Any], name: str) -> list[str]:
    """Return the values of an X-Forwarded header, the nearest proxy's last."""
    return [text.strip() for text in str(environ.get(f"HTTP_X_FORWARDED_{name}", "")).split(",") if text.strip()]


def _forwarded_by(environ: Mapping[str, Any], name: str, hops: int) -> str:
    """Return the value of the outermost trusted proxy, or "".

    Most proxies replace the values of others, so there may be fewer values than proxies.
    """
    values = _forwarded(environ, name)
    return values[max(len(values) - 1 - hops, 0)] if values else ""


def _address(text: str) -> str:
    """Return an address without the port that some servers add."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _body_length(environ: Mapping[str, Any], method: str) -> int | None:
    """Return the length of the body in bytes; None for a chunked body. RFC 9112 #6.3.

    Raises:
        ErrorResponse: 400 for invalid headers.
    """
    coding = environ.get("HTTP_TRANSFER_ENCODING", "")
    length = environ.get("CONTENT_LENGTH") or ""
    if coding:
        if length:
            # A body with two lengths allows request smuggling
            raise ErrorResponse(400, "SIZE_INVALID", "a body has Content-Length or Transfer-Encoding, not both")
        if coding.strip().lower() != "chunked":
            raise ErrorResponse(400, "UNSUPPORTED", "the transfer coding is not supported; use chunked")
        return None
    if not length:
        return None if method in METHODS_WITH_BODY and environ.get("wsgi.input_terminated") else 0
    if _NUMBER.fullmatch(length) is None:
        raise ErrorResponse(400, "SIZE_INVALID", "Content-Length is not a number of bytes")
    return int(length)


#: Status lines by status.
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


@frozen
class Response:
    """An HTTP response."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: Iterable[bytes] = ()
    """Chunks; its `close` method, if any, is called at the end."""

    @property
    def line(self) -> str:
        """The status line for WSGI."""
        return _STATUS_LINES[self.status]


def json_response(
    status: int, value: Any, headers: Sequence[tuple[str, str]] = (), media_type: str = "application/json"
) -> Response:
    """Return a response with a JSON body."""
    # Errors quote documents, which may contain lone surrogates
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    return Response(status, (*headers, ("Content-Type", media_type), ("Content-Length", str(len(body)))), [body])
