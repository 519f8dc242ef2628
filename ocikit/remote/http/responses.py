"""HTTP responses: bodies read with limits, JSON, digests, warnings and wait times."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any, TypedDict

import requests
import urllib3
import urllib3.exceptions

from ocikit.display import sanitize, shorten
from ocikit.errors import ConnectionFailed, InvalidDigest, InvalidResponse, TimedOut, TooLarge, redact
from ocikit.forks import ForkSafeLock
from ocikit.remote.http.causes import CONNECTION_ERRORS, is_timeout, root_cause
from ocikit.remote.http.deadlines import TooSlow, limit_remaining_time
from ocikit.remote.http.exchange import Response
from ocikit.remote.http.framing import InvalidFraming, framing_error
from ocikit.spec.digest import Digest

log = logging.getLogger("ocikit")

#: Bytes of an error body that are read.
ERROR_BODY_LIMIT = 64 * 1024

#: Bytes per second that a document must reach, in addition to one read timeout.
MIN_RATE = 32 * 1024

_DRAIN_TIME = 2.0  # seconds for the rest of an unused body; a new connection takes less
_WARNING_BYTES = 4096  # of warnings in one response: distribution-spec spec.md#warnings
_LOGGED_WARNINGS = 1000  # distinct warnings: a hostile registry must not fill the memory (DoS)


def body_of(response: requests.Response) -> Any:
    """Return the response of http.client, whose reads go straight to the socket; None with another adapter."""
    return response.body if isinstance(response, Response) else getattr(response.raw, "_fp", None)


def release(response: requests.Response) -> None:
    """Return the connection of a response to its pool after a complete body, else close it."""
    if isinstance(response, Response):
        response.release()
        return
    inner = getattr(response.raw, "_fp", None)
    if inner is not None and getattr(inner, "closed", False) is False and getattr(inner, "length", None) == 0:
        inner.close()
    if inner is not None and inner.isclosed():
        response.raw.release_conn()
    else:
        response.close()


def drain(response: requests.Response) -> None:
    """Discard the body of a response; the connection is reused if the body is short."""
    limit_remaining_time(body_of(response), _DRAIN_TIME)
    try:
        if isinstance(response, Response):
            if response.body.length != 0:
                response.body.read(ERROR_BODY_LIMIT)
            response.release()
            return
        if len(response.raw.read(ERROR_BODY_LIMIT) or b"") < ERROR_BODY_LIMIT:
            response.raw.release_conn()
            return
    except Exception:
        log.debug("reading the rest of a response failed", exc_info=True)
    response.close()


def buffer_body(response: requests.Response, limit: int = ERROR_BODY_LIMIT) -> bytes:
    """Release the connection of a response, but keep the start of its body.

    An error message may need it.

    Args:
        response: A response whose body is unread.
        limit: Greatest length of the body, in bytes.

    Returns:
        The buffered bytes, which can be read from the response again.
    """
    limit_remaining_time(body_of(response), limit / MIN_RATE, extend=True)
    try:
        body = response.raw.read(limit) or b""
    except CONNECTION_ERRORS:
        body = b""
    headers = response.raw.headers
    drain(response)
    response.raw = urllib3.HTTPResponse(io.BytesIO(body), headers, response.status_code, preload_content=False)
    return body


def read_limited(response: requests.Response, limit: int, action: str, *, digest: Digest | None = None) -> bytes:
    """Read a body of at most `limit` bytes and return its connection to the pool.

    The limit holds before and after a Content-Encoding is removed.

    Args:
        response: A response whose body is unread.
        limit: Greatest length of the body, in bytes.
        action: Operation, as named in error messages.
        digest: Expected digest, if known. It is not verified, but decides whether the body is really encoded.

    Returns:
        The body without Content-Encoding.

    Raises:
        TooLarge: The body exceeds the limit.
        ConnectionFailed: The connection broke within the body, or was too slow for a document.
        InvalidResponse: The lengths in the response are invalid.
    """
    length = str(response.headers.get("Content-Length", ""))
    size = int(length) if re.fullmatch(r"\d{1,18}", length) else limit
    limit_remaining_time(body_of(response), min(size, limit) / MIN_RATE, extend=True)
    chunks: list[bytes] = []
    left = limit + 1
    complete = False
    try:
        while left > 0 and (chunk := response.raw.read(min(left, 1 << 16), decode_content=False)):
            chunks.append(chunk)
            left -= len(chunk)
        complete = left > 0
    except CONNECTION_ERRORS as error:
        raise interrupted(response, action, error) from root_cause(error)
    finally:
        if complete:
            response.raw.release_conn()
        else:
            response.close()
    body = b"".join(chunks)
    if complete:
        body = decode_body(response, body, limit, digest)
    if len(body) > limit:
        raise TooLarge(
            f"failed to {action}: the response of {host_of(response)} exceeds the limit of {limit} bytes",
            hint="the document is probably invalid; ask its publisher",
            **request_fields(response),
        )
    return body


def decode_body(response: requests.Response, body: bytes, limit: int, digest: Digest | None = None) -> bytes:
    """Remove the Content-Encoding of a body, unless its header is wrong.

    ocikit requests no encoding. Some proxies compress nevertheless, others decompress and keep the header.

    Args:
        response: Response with the headers of the body.
        body: Body as it was received.
        limit: Bytes to decode, to stop zip bombs; the result is not much longer.
        digest: Expected digest, if known.

    Returns:
        The decoded body, or `body` if it is not encoded.
    """
    if not is_encoded(response):
        return body
    digest = digest or announced_digest(response)
    if digest is not None and digest.verifiable:
        plain = Digest.of(body, digest.algorithm) == digest
    else:
        plain = body.lstrip()[:1] in {b"{", b"["}  # JSON; no compressed format begins like this
    if plain:
        return body
    encoded = io.BytesIO(body)
    headers = {"Content-Encoding": response.headers["Content-Encoding"].strip().lower()}
    raw = urllib3.HTTPResponse(encoded, headers, preload_content=False)
    chunks: list[bytes] = []
    left = limit + 1
    try:
        # Small chunks because urllib3 2.5 and older decompress all that they have read, up to a thousandfold (zip bomb)
        while left > 0 and ((chunk := raw.read(min(left, 1 << 12), decode_content=True)) or not encoded.closed):
            chunks.append(chunk)
            left -= len(chunk)
    except urllib3.exceptions.DecodeError:
        return body
    return b"".join(chunks)


def read_prefix(response: requests.Response, size: int) -> bytes:
    """Return the first `size` bytes of a body, or fewer, and discard the rest."""
    prefix = b""
    with contextlib.suppress(*CONNECTION_ERRORS):
        while len(prefix) < size and (chunk := response.raw.read(size - len(prefix))):
            prefix += chunk
    drain(response)
    return prefix


def interrupted(response: requests.Response, action: str, error: Exception) -> ConnectionFailed | InvalidResponse:
    """Return the error for a body that ended early, or whose end is undefined."""
    host = host_of(response)
    if (violation := framing_error(error)) is not None:
        return invalid_framing(violation, action, **request_fields(response))
    if isinstance(root_cause(error), TooSlow):
        return TimedOut(f"failed to {action}: {host} sends too slowly", hint="check the network and retry")
    if is_timeout(error):
        return TimedOut(
            f"failed to {action}: {host} stopped sending", hint="check the network, or increase read_timeout"
        )
    return ConnectionFailed(f"failed to {action}: {host} broke off its response", hint="check the network and retry")


def invalid_framing(
    violation: InvalidFraming, action: str, *, method: str, url: str, host: str, status: int = 0
) -> InvalidResponse:
    """Return the error for a response whose end is undefined."""
    return InvalidResponse(
        f"failed to {action}: the response of {host} violates HTTP: {violation}",
        hint="the server or a proxy in front of it is broken, or is not a registry; contact its operator",
        method=method,
        url=url,
        host=host,
        status=status,
    )


def json_object(response: requests.Response, body: bytes, action: str) -> dict[str, Any]:
    """Parse a body as a JSON object.

    Raises:
        InvalidResponse: The body is HTML or any other text.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    content_type = shorten(media_type(response), 100) or "no content type"
    text = body[:4096].decode("utf-8", "replace")
    content = describe_html(text) or f"it begins with {shorten(text[:80], 60)!r}"
    raise InvalidResponse(
        f"failed to {action}: {host_of(response)} returned {content_type} instead of JSON: {content}",
        hint="a login page or a proxy may stand between you and the registry; check the host's name",
        **request_fields(response),
    )


def describe_html(text: str) -> str:
    """Return "an HTML page titled ..." if the text is one, else an empty string."""
    if "<html" not in text.lower() and "<!doctype" not in text.lower():
        return ""
    title = re.search(r"<title[^<>]*>([^<]*)</title>", text, re.IGNORECASE)
    return f"an HTML page{f' titled {sanitize(title[1]).strip()!r}' if title else ''}"


def media_type(response: requests.Response) -> str:
    """Return the Content-Type in lower case, without the parameters that some registries send."""
    return str(response.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def is_encoded(response: requests.Response) -> bool:
    """Return True if a body has a Content-Encoding, although none was requested."""
    return response.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}


def announced_digest(response: requests.Response) -> Digest | None:
    """Return the `Docker-Content-Digest` of a response, or None if it is missing or invalid."""
    header = response.headers.get("Docker-Content-Digest")
    try:
        return Digest(header) if header else None
    except InvalidDigest:
        return None


def retry_after(response: requests.Response) -> float | None:
    """Return the seconds of Retry-After, a number or a date. RFC 9110 section 10.2.3."""
    value = str(response.headers.get("Retry-After", "")).strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


class RequestFields(TypedDict):
    """Arguments of every RegistryError that come from a response."""

    method: str
    url: str
    status: int
    host: str


def request_fields(response: requests.Response) -> RequestFields:
    """Return the arguments of a RegistryError that come from a response."""
    method = response.request.method if response.request is not None else ""
    return {
        "method": method or "",
        "url": redact(str(response.url)),
        "status": response.status_code,
        "host": host_of(response),
    }


def host_of(response: requests.Response) -> str:
    """Return the host and port that sent a response."""
    return redact(str(response.url)).partition("://")[2].partition("/")[0]


_logged: set[str] = set()
_logged_lock = ForkSafeLock()


def report_warnings(response: requests.Response) -> None:
    """Log each distinct `Warning: 299` of a registry once. distribution-spec spec.md#warnings."""
    if not (header := str(response.headers.get("Warning", ""))[:_WARNING_BYTES]):
        return
    for match in re.finditer(r'299 \S+ "((?:[^"\\]|\\.)*)"', header):
        warning = re.sub(r"\\(.)", r"\1", match[1])
        message = f"{host_of(response)} warns: {sanitize(warning)}"
        with _logged_lock:
            new = message not in _logged and len(_logged) < _LOGGED_WARNINGS
            if new:
                _logged.add(message)
        if new:
            log.warning("%s", message)
