"""Requests and responses: WSGI on one side, plain values on the other. PEP 3333.

Bodies are streamed. A body knows what its sender announced and what the caller allows, and counts while it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qsl, quote

from attrs import define, field, frozen

from ocikit.server.refusal import Refusal

__all__ = ["Body", "Request", "Response", "json_response"]

#: Bytes. What is read from a server at once.
_PIECE = 1 << 17

#: Every key of a query is a name; more than this many pairs is an attack.
_PAIRS = 100

#: A path that can stand before others in a link: never "//", which would begin the name of a host. RFC 3986 #3.3
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)*")


class Body:
    """The body of a request: read by pieces, never beyond what was announced or allowed.

    >>> import io
    >>> Body(io.BytesIO(b"hello world"), length=5).read()
    b'hello'
    """

    def __init__(self, stream: Any, *, length: int | None, limit: int | None = None) -> None:
        self._stream = stream
        self.length = length
        """The announced length in bytes; None for a chunked body, which ends where it ends."""
        self.limit = limit
        """The most bytes to take; None for any number."""
        self.taken = 0
        """Bytes read so far."""

    def allow(self, limit: int | None) -> Body:
        """Set the limit. Raises: Refusal: 413 at once, if more was announced."""
        self.limit = limit
        if limit is not None and self.length is not None and self.length > limit:
            raise _too_large(limit)
        return self

    def piece(self, most: int = _PIECE) -> bytes:
        """Some bytes, at most so many; none at the end.

        Raises:
            Refusal: 413 beyond the limit; 400 SIZE_INVALID if the sender went away before the announced length.
        """
        want = most
        if self.length is not None:
            want = min(want, self.length - self.taken)
        if self.limit is not None:
            want = min(want, self.limit + 1 - self.taken)
        if want <= 0:
            return b""
        try:
            got = cast("bytes", self._stream.read(want))
        except OSError as error:
            raise _cut_short(self.taken, self.length) from error
        self.taken += len(got)
        if self.limit is not None and self.taken > self.limit:
            raise _too_large(self.limit)
        if not got and self.length is not None and self.taken < self.length:
            raise _cut_short(self.taken, self.length)
        return got

    def readinto(self, buffer: memoryview) -> int:
        """As `piece`, into a buffer; gives the number of bytes."""
        got = self.piece(len(buffer))
        buffer[: len(got)] = got
        return len(got)

    def read(self) -> bytes:
        """All of it, in memory: for what has a limit. Raises: Refusal: as `piece`."""
        parts = []
        while part := self.piece():
            parts.append(part)
        return b"".join(parts)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "SIZE_INVALID", f"the body is larger than the limit of {limit} bytes", detail={"limit": limit})


def _cut_short(taken: int, length: int | None) -> Refusal:
    announced = "" if length is None else f" of the announced {length}"
    return Refusal(400, "SIZE_INVALID", f"the body ended after {taken} bytes{announced}")


@define(eq=False)
class Request:
    """One request. Header names are looked up in any case."""

    method: str
    path: str
    """Below the mount point, decoded; begins with a slash."""
    prefix: str
    """Where the application is mounted: what stands before `path` in links; "" for the root."""
    scheme: str
    host: str
    """What the client calls this server, "name[:port]"; unchecked."""
    remote: str
    """The client's address, without a port."""
    query: tuple[tuple[str, str], ...]
    body: Body
    environ: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, environ: Mapping[str, Any], *, trusted: Sequence[str] = ()) -> Request:
        """The request in a WSGI environ.

        Args:
            environ: as a WSGI server makes it.
            trusted: addresses of proxies whose X-Forwarded headers are believed.
        Raises:
            Refusal: 400 for what isn't a request.
        """
        remote = _address(environ.get("REMOTE_ADDR", ""))
        scheme = environ.get("wsgi.url_scheme", "http")
        host = environ.get("HTTP_HOST") or environ.get("SERVER_NAME", "")
        prefix = quote(environ.get("SCRIPT_NAME", ""), encoding="latin-1")
        if remote in trusted:
            # Each proxy adds on the right; what stands left of the first that isn't trusted, anybody may have sent
            chain = [_address(each) for each in _forwarded(environ, "FOR")]
            hops = 0
            while hops < len(chain) - 1 and chain[-1 - hops] in trusted:
                hops += 1
            remote = chain[-1 - hops] if chain else remote
            said = _said(environ, "PROTO", hops).lower()
            scheme = said if said in {"http", "https"} else scheme
            host = _said(environ, "HOST", hops) or host
            above = _said(environ, "PREFIX", hops).rstrip("/")
            prefix = (above if _PREFIX.fullmatch(above) else "") + prefix
        try:
            path = environ.get("PATH_INFO", "").encode("latin-1").decode()
            query = parse_qsl(
                environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=_PAIRS, errors="strict"
            )
        except ValueError as error:
            raise Refusal(400, "UNSUPPORTED", "the URL is not UTF-8, or has too many parameters") from error
        return cls(
            method=environ["REQUEST_METHOD"], path=path or "/", prefix=prefix, scheme=scheme, host=host, remote=remote,
            query=tuple(query), body=Body(environ["wsgi.input"], length=_length(environ)), environ=environ,
        )  # fmt: skip

    def header(self, name: str) -> str:
        """A header's value, or ""."""
        key = name.upper().replace("-", "_")
        return str(self.environ.get(key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}", ""))

    def parameter(self, name: str) -> str | None:
        """The first value of a key in the query, or None."""
        return next((value for key, value in self.query if key == name), None)

    def parameters(self, name: str) -> tuple[str, ...]:
        """Every value of a key in the query."""
        return tuple(value for key, value in self.query if key == name)

    def link(self, path: str, query: str = "") -> str:
        """Where a client finds a path of ours: relative to the host, below the mount point."""
        return f"{self.prefix}{quote(path, safe='/:')}{'?' if query else ''}{query}"


def _forwarded(environ: Mapping[str, Any], name: str) -> list[str]:
    """What proxies say, the nearest last."""
    return [text.strip() for text in str(environ.get(f"HTTP_X_FORWARDED_{name}", "")).split(",") if text.strip()]


def _said(environ: Mapping[str, Any], name: str, hops: int) -> str:
    """What the outermost proxy that is trusted says, so many hops away; most proxies replace what others said."""
    said = _forwarded(environ, name)
    return said[max(len(said) - 1 - hops, 0)] if said else ""


def _address(text: str) -> str:
    """An address without the port that some servers add."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _length(environ: Mapping[str, Any]) -> int | None:
    chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
    text = environ.get("CONTENT_LENGTH") or ""
    if chunked:
        if text:
            # Two lengths are how requests are smuggled: RFC 9112 #6.3
            raise Refusal(400, "SIZE_INVALID", "both Content-Length and Transfer-Encoding")
        return None
    if not text:
        return None if environ.get("wsgi.input_terminated") and environ["REQUEST_METHOD"] in _WITH_BODY else 0
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Refusal(400, "SIZE_INVALID", "Content-Length is not a number of bytes")
    return int(text)


_WITH_BODY = {"POST", "PUT", "PATCH"}


@frozen
class Response:
    """One response; the body is bytes, or an iterable of them with a `close` where it holds something open."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: Iterable[bytes] = ()

    @property
    def line(self) -> str:
        """The status as WSGI wants it."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"

    def with_headers(self, *headers: tuple[str, str]) -> Response:
        """The same with more headers."""
        return Response(self.status, (*self.headers, *headers), self.body)


def json_response(
    status: int, value: Any, headers: Sequence[tuple[str, str]] = (), media_type: str = "application/json"
) -> Response:
    """A response with a JSON body."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(status, (*headers, ("Content-Type", media_type), ("Content-Length", str(len(body)))), [body])
