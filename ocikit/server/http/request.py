"""Requests and responses: WSGI on one side, plain values on the other. PEP 3333.

Bodies are streamed. A body knows what its sender announced and what the caller allows, and counts while it is read.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qsl, quote

from attrs import define, field, frozen

from ocikit.server.http.errors import ErrorResponse

#: Bytes. What is read from a server at once.
_PIECE = 1 << 17

#: Pairs in a query. A push names a tag with each, and more than these don't fit into the 64 KiB of URL that servers take.
_PAIRS = 10_000

#: RFC 9110 #7.2, without what nobody calls a registry: it may stand in a challenge, and must be no more than a name there.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")

#: Bytes, below 2^63.
_NUMBER = re.compile(r"[0-9]{1,18}")

#: Methods whose requests have a body, if the server can't tell.
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})

#: A path that can stand before others in a link: never "//", which would begin the name of a host. RFC 3986 #3.3
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)*")


class RequestBody:
    """The body of a request: read by pieces, never beyond what was announced or allowed.

    >>> import io
    >>> RequestBody(io.BytesIO(b"hello world"), length=5).read()
    b'hello'
    """

    def __init__(self, stream: Any, *, length: int | None, limit: int | None = None) -> None:
        self._stream = stream
        self.length = length
        """The announced length in bytes; None for a chunked body, which ends where it ends."""
        self.limit = limit
        """The most bytes to take; None for any number."""
        self.taken = 0
        self._what = ""
        """Bytes read so far."""

    def allow(self, limit: int | None, what: str = "") -> RequestBody:
        """Set the limit, and what the registry says that it takes. Raises: Refusal: 413 at once, if more was announced."""
        self.limit, self._what = limit, what
        if limit is not None and self.length is not None and self.length > limit:
            raise self._too_large(limit)
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
        except (OSError, ValueError) as error:
            # Servers say in many ways that a sender went away, or sent chunks that are none
            raise _cut_short(self.taken, self.length) from error
        self.taken += len(got)
        if self.limit is not None and self.taken > self.limit:
            raise self._too_large(self.limit)
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

    def discard(self, most: int) -> None:
        """Read the rest, if it is no more than so many bytes: a client that is still sending may not see an answer."""
        if self.length is not None and self.length - self.taken > most:
            return
        self.limit, most = None, self.taken + most
        with contextlib.suppress(ErrorResponse):
            while self.taken < most and self.piece():
                pass

    def _too_large(self, limit: int) -> ErrorResponse:
        takes = self._what or f"at most {limit} bytes here"
        return ErrorResponse(
            413, "SIZE_INVALID", f"this registry takes {takes}: ask its operator for more", detail={"limit": limit}
        )


def _cut_short(taken: int, length: int | None) -> ErrorResponse:
    announced = "" if length is None else f" of the announced {length}"
    return ErrorResponse(
        400, "SIZE_INVALID", f"the body ended after {taken} bytes{announced}: the connection broke; try again"
    )


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
    """What the client calls this server: "name[:port]" or "[address][:port]", maybe not our name."""
    remote: str
    """The client's address, without a port."""
    query: tuple[tuple[str, str], ...]
    body: RequestBody
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
        host = environ.get("HTTP_HOST", "")
        if not host:
            if environ.get("SERVER_PROTOCOL") == "HTTP/1.1":
                raise ErrorResponse(400, "UNSUPPORTED", "a request in HTTP/1.1 has a Host header")
            host = environ.get("SERVER_NAME", "")
        prefix, path = (
            quote(environ.get("SCRIPT_NAME", ""), encoding="latin-1").rstrip("/"),
            environ.get("PATH_INFO", ""),
        )
        if prefix.endswith("/v2"):
            # Mounted at the path that clients insist on, beside applications that have the others
            prefix, path = prefix.removesuffix("/v2"), f"/v2{path}"
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
        if _HOST.fullmatch(host) is None:
            # Two Host headers arrive as one with a comma. RFC 9112 #3.2
            raise ErrorResponse(400, "UNSUPPORTED", "Host is not the name of a host, and perhaps a port")
        try:
            path = path.encode("latin-1").decode()
            text = environ.get("QUERY_STRING", "")
            query = parse_qsl(text, keep_blank_values=True, max_num_fields=_PAIRS, errors="strict") if text else ()
        except ValueError as error:
            raise ErrorResponse(400, "UNSUPPORTED", "the URL is not UTF-8, or has too many parameters") from error
        method = environ["REQUEST_METHOD"]
        return cls(
            method=method, path=path or "/", prefix=prefix, scheme=scheme, host=host, remote=remote,
            query=tuple(query), body=RequestBody(environ["wsgi.input"], length=_length(environ, method)), environ=environ,
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


def host_name(host: str) -> str:
    """A host in lower case, without its port, and without the brackets of an address.

    >>> host_name("Hub.Lab:5000"), host_name("[::1]:5000"), host_name("::1")
    ('hub.lab', '::1', '::1')
    """
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    return host.lower()


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


def _length(environ: Mapping[str, Any], method: str) -> int | None:
    """Bytes of the body; None for one that ends where it ends. RFC 9112 #6.3. Raises: Refusal: 400."""
    coding = environ.get("HTTP_TRANSFER_ENCODING", "")
    text = environ.get("CONTENT_LENGTH") or ""
    if coding:
        if text:
            # Two lengths are how requests are smuggled
            raise ErrorResponse(400, "SIZE_INVALID", "a body has Content-Length or Transfer-Encoding, not both")
        if coding.strip().lower() != "chunked":
            raise ErrorResponse(400, "UNSUPPORTED", "of transfer codings, this registry knows chunked only")
        return None
    if not text:
        return None if method in _WITH_BODY and environ.get("wsgi.input_terminated") else 0
    if _NUMBER.fullmatch(text) is None:
        raise ErrorResponse(400, "SIZE_INVALID", "Content-Length is not a number of bytes")
    return int(text)


#: Status lines, as WSGI wants them.
_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


@frozen
class Response:
    """One response; the body is bytes, or an iterable of them with a `close` where it holds something open."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: Iterable[bytes] = ()

    @property
    def line(self) -> str:
        """The status as WSGI wants it."""
        return _LINES[self.status]


def json_response(
    status: int, value: Any, headers: Sequence[tuple[str, str]] = (), media_type: str = "application/json"
) -> Response:
    """A response with a JSON body."""
    # Errors repeat what documents hold, and those may hold halves of surrogate pairs
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    return Response(status, (*headers, ("Content-Type", media_type), ("Content-Length", str(len(body)))), [body])
