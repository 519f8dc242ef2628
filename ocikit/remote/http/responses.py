"""What an HTTP answer means: bodies read with limits, JSON where JSON is due, and failures as typed errors."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import re
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

import requests
import urllib3
import urllib3.exceptions

from ocikit.display import duration, join_limited, sanitize, shorten
from ocikit.errors import (
    BlobUnknown,
    ConnectionFailed,
    Denied,
    InvalidDigest,
    InvalidResponse,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
    RangeInvalid,
    RateLimited,
    RegistryError,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unsupported,
    UploadInvalid,
    UploadUnknown,
    redact,
)
from ocikit.remote.http.deadlines import TooSlow, limit_remaining_time
from ocikit.remote.http.rate_limit import RateLimit
from ocikit.spec.digest import Digest

#: What a broken connection looks like, wherever it breaks.
CONNECTION_ERRORS: Final = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)

log = logging.getLogger("ocikit")

_ERROR_LIMIT = 64 * 1024  # bytes of an error body; the rest is not read
_SLOWEST = 32 * 1024  # bytes a second: a document that comes slower, beside one silence, is not waited for
_LEAVING = 2.0  # seconds for the rest of a body that nobody reads; a new connection takes less
_WORDS = 300  # characters of a registry's own words in a message
_WARNINGS_LIMIT = 4096  # bytes of warnings that a registry may send: distribution-spec spec.md#warnings

_BY_CODE: Mapping[str, type[RegistryError]] = {
    "UNAUTHORIZED": Unauthorized,
    "DENIED": Denied,
    "TOOMANYREQUESTS": RateLimited,
    "UNSUPPORTED": Unsupported,
    "MANIFEST_UNKNOWN": ManifestUnknown,
    "BLOB_UNKNOWN": BlobUnknown,
    "NAME_UNKNOWN": NameUnknown,
    "BLOB_UPLOAD_UNKNOWN": UploadUnknown,
    "BLOB_UPLOAD_INVALID": UploadInvalid,
    "DIGEST_INVALID": UploadInvalid,
    "SIZE_INVALID": UploadInvalid,
    "MANIFEST_INVALID": UploadInvalid,
    "MANIFEST_BLOB_UNKNOWN": ManifestBlobUnknown,
}

_BY_STATUS: Mapping[int, type[RegistryError]] = {
    401: Unauthorized,
    403: Denied,
    405: Unsupported,
    413: TooLarge,
    416: RangeInvalid,
    429: RateLimited,
}

_HINTS: Mapping[type[RegistryError], str] = {
    Unauthorized: "log in with ocikit.login({host!r}) or `docker login {host}`; ocikit.auth.explain({host!r}) shows what is used",
    Denied: "check that the account may do this: ocikit.auth.explain({host!r}) shows which one is used",
    RateLimited: "wait, or log in: registries allow more to accounts than to strangers",
    TooLarge: "the registry has a limit on the size of requests; ask its operators, or split the content",
    Unsupported: "this registry doesn't offer the operation; its own web interface may",
}

_REQUEST_IDS = (
    "x-request-id",
    "x-github-request-id",
    "x-amzn-requestid",
    "x-ms-correlation-request-id",
    "x-gitlab-request-id",
)

#: What an absence is called when the registry gives no code.
_ABSENT: Mapping[str, type[RegistryError]] = {
    "manifests": ManifestUnknown,
    "blobs": BlobUnknown,
    "uploads": UploadUnknown,
    "tags": NameUnknown,
    "referrers": ManifestUnknown,
}


def root_cause(error: BaseException | None) -> BaseException | None:
    """What an error of requests or urllib3 began with, without its trail: a user's traceback has no use for their insides."""
    while error is not None:
        inner = (
            error.__cause__
            or getattr(error, "reason", None)
            or next((a for a in error.args if isinstance(a, BaseException)), None)
        )
        if not isinstance(inner, BaseException) or inner is error:
            error.__cause__ = None  # and with it what it was raised in the middle of
            return error.with_traceback(None)
        error = inner
    return None


def drain(response: requests.Response) -> None:
    """Let go of a response whose body doesn't matter; its connection stays open if the body is short."""
    limit_remaining_time(response.raw, _LEAVING)
    try:
        if len(response.raw.read(_ERROR_LIMIT) or b"") < _ERROR_LIMIT:
            response.raw.release_conn()
            return
    except Exception:
        log.debug("a response's body broke off", exc_info=True)
    response.close()


def buffer_body(response: requests.Response, limit: int = _ERROR_LIMIT) -> bytes:
    """Let go of a response's connection, but keep the front of its body: for the error that it may become."""
    limit_remaining_time(response.raw, limit / _SLOWEST, patience=True)
    try:
        words = response.raw.read(limit) or b""
    except CONNECTION_ERRORS:
        words = b""
    headers = response.raw.headers
    drain(response)
    response.raw = urllib3.HTTPResponse(io.BytesIO(words), headers, response.status_code, preload_content=False)
    return words


def read_limited(response: requests.Response, limit: int, what: str, *, digest: Digest | None = None) -> bytes:
    """The body, if it is no larger than `limit` bytes, compressed or not; the connection goes back to its pool.

    Args:
        response: unread.
        limit: in bytes.
        what: was asked for, as messages say it.
        digest: of the body, if it is known; it is not verified, but tells whether a body is as compressed as it says.

    Raises:
        TooLarge: naming what was asked for.
        ConnectionFailed: if the body broke off, or came too slowly for a document.
    """
    said = str(response.headers.get("Content-Length", ""))
    size = int(said) if re.fullmatch(r"\d{1,18}", said) else limit
    limit_remaining_time(response.raw, min(size, limit) / _SLOWEST, patience=True)
    parts: list[bytes] = []
    left = limit + 1
    whole = False
    try:
        while left > 0 and (part := response.raw.read(min(left, 1 << 16), decode_content=False)):
            parts.append(part)
            left -= len(part)
        whole = left > 0
    except CONNECTION_ERRORS as error:
        raise broken_off(response, what, error) from root_cause(error)
    finally:
        if whole:
            response.raw.release_conn()
        else:
            response.close()
    body = b"".join(parts)
    if whole:
        body = _plain(response, body, limit, digest)
    if len(body) > limit:
        raise TooLarge(
            f"the answer of {_host(response)} to {what} is larger than the limit of {limit} bytes",
            hint="such a document is most likely not what it should be; ask its publisher",
            **_facts(response),
        )
    return body


def _plain(response: requests.Response, body: bytes, limit: int, digest: Digest | None = None) -> bytes:
    """A body without its Content-Encoding, or as it came if that says what isn't so; little more than `limit` bytes.

    We ask for none. Some proxies compress all the same, and others keep the header of what they have unpacked.
    """
    encoding = str(response.headers.get("Content-Encoding", "identity")).strip().lower()
    if encoding in {"", "identity"}:
        return body
    digest = digest or announced_digest(response)
    if digest is not None and digest.verifiable:
        as_it_came = Digest.of(body, digest.algorithm) == digest
    else:
        as_it_came = body.lstrip()[:1] in {b"{", b"["}  # JSON; nothing that is compressed begins so
    if as_it_came:
        return body
    packed = io.BytesIO(body)
    raw = urllib3.HTTPResponse(packed, {"Content-Encoding": encoding}, preload_content=False)
    parts: list[bytes] = []
    left = limit + 1
    try:
        # Not much at once: urllib3 2.5 and older unpack all that they have read, a thousandfold
        while left > 0 and ((part := raw.read(min(left, 1 << 12), decode_content=True)) or not packed.closed):
            parts.append(part)
            left -= len(part)
    except urllib3.exceptions.DecodeError:
        return body
    return b"".join(parts)


def announced_digest(response: requests.Response) -> Digest | None:
    """The Docker-Content-Digest of a response, if it has one that is one."""
    said = response.headers.get("Docker-Content-Digest")
    try:
        return Digest(said) if said else None
    except InvalidDigest:
        return None


def is_encoded(response: requests.Response) -> bool:
    """Whether a body has a Content-Encoding, though none was asked for."""
    return response.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}


def read_prefix(response: requests.Response, size: int) -> bytes:
    """The first bytes of a body as they came, fewer if it ends or breaks off; the rest is left where it is."""
    found = b""
    with contextlib.suppress(*CONNECTION_ERRORS):
        while len(found) < size and (part := response.raw.read(size - len(found))):
            found += part
    drain(response)
    return found


def is_timeout(error: BaseException | None) -> bool:
    """Whether a broken connection was one that took too long."""
    if isinstance(
        error, urllib3.exceptions.NewConnectionError
    ):  # counts as a timeout to urllib3 though it is a refusal
        return False
    return isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError)


def broken_off(response: requests.Response, what: str, error: Exception) -> ConnectionFailed:
    """The error for a body that ended before its end."""
    if isinstance(root_cause(error), TooSlow):
        return TimedOut(f"{_host(response)} sends too slowly to {what}", hint="check the network; call again")
    if is_timeout(error):
        return TimedOut(f"{_host(response)} stopped sending to {what}", hint="check the network, or raise read_timeout")
    return ConnectionFailed(f"{_host(response)} broke off its answer to {what}", hint="check the network; call again")


def json_object(response: requests.Response, body: bytes, what: str) -> dict[str, Any]:
    """A body as a JSON object. Raises: InvalidResponse: for HTML and whatever else isn't one."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise _not_json(response, body, what) from None
    if not isinstance(value, dict):
        raise _not_json(response, body, what)
    return value


def _not_json(response: requests.Response, body: bytes, what: str) -> InvalidResponse:
    kind = shorten(media_type(response), 100) or "no content type"
    text = body[:4096].decode("utf-8", "replace")
    found = _page(text) or f"it begins with {shorten(text[:80], 60)!r}"
    return InvalidResponse(
        f"{_host(response)} answered with {kind} where JSON was expected to {what}: {found}",
        hint="a login page or a proxy may stand between you and the registry; check the host's name",
        **_facts(response),
    )


def media_type(response: requests.Response) -> str:
    """The Content-Type without parameters, in lower case. Registries send parameters, though they should not."""
    return str(response.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def error_from_response(
    response: requests.Response, doing: str, *, hint: str = "", rejected: str = ""
) -> RegistryError:
    """The error that a response stands for; its body is read, up to a limit.

    Args:
        response: with a status that the call can't use.
        doing: what was tried, such as "pull team/data:v1".
        hint: a better remedy than the general one.
        rejected: whose credentials were sent, if any.
    """
    errors, words = _error_body(response)
    status = response.status_code
    code = str(errors[0].get("code") or "") if errors else ""
    # The status decides where it is specific: Harbor reports absence with the code UNKNOWN
    kind = _BY_STATUS.get(status) or _BY_CODE.get(code) or (_absence(response) if status == 404 else RegistryError)
    if status == 404 and kind in {Unauthorized, Denied}:
        kind = _absence(response)
    if kind is BlobUnknown and response.request.method == "PUT" and "/manifests/" in str(response.url):
        kind = ManifestBlobUnknown  # as some registries say it
    host = _host(response)
    # The answer to a HEAD request has no words of the registry's
    said = f"{code} ({status})" if code else f"{status} {http.client.responses.get(status, '')}".rstrip()
    message = f"{host} says {said} to {doing}" + (f": {words}" if words else "")
    if kind is RateLimited and (limit := RateLimit.of(response.headers)):
        message += f"; {limit}"
    if kind is Unauthorized and rejected:
        message += f"; the credentials of {rejected} were rejected"
    if kind is Denied and rejected:
        message += f"; the credentials of {rejected} were not enough: they may have expired, or lack the right"
    request_id = next((str(response.headers[name]) for name in _REQUEST_IDS if name in response.headers), "")
    if request_id:
        message += f" [request id {shorten(request_id, 64)}]"
    hint = hint or _special_hint(host, code, kind, status) or _HINTS.get(kind, "").format(host=host)
    error = kind(message, hint=hint, errors=errors, request_id=request_id, **_facts(response))
    if status in {429, 503} and (wait := retry_after(response)) is not None:
        error.retry_after = wait
        error.hint = f"it asks to wait {duration(wait)}; {error.hint.removeprefix('wait, or ')}"
    if isinstance(error, ManifestBlobUnknown):
        error.hint = f"push {join_limited(error.digests[:5]) if error.digests else 'what the manifest names'} first"
    return error


def _special_hint(host: str, code: str, kind: type[RegistryError], status: int) -> str:
    """Remedies that only one registry needs."""
    if code == "NAME_UNKNOWN" and re.search(r"\.ecr\.[a-z0-9-]+\.amazonaws\.com", host):
        # ECR doesn't create repositories on push: aws/containers-roadmap#853
        return "ECR doesn't create repositories by itself: aws ecr create-repository --repository-name …"
    if kind is Unsupported and host.endswith("docker.io"):
        # distribution/distribution#2290
        return "Docker Hub deletes only through its web interface and its own API"
    if status >= 500:
        return "the registry failed; try again later"
    return ""


def _absence(response: requests.Response) -> type[RegistryError]:
    path = str(response.url).partition("?")[0]
    for part, kind in sorted(_ABSENT.items(), key=lambda item: -path.rfind(f"/{item[0]}/")):
        if f"/{part}/" in path:
            return kind
    return RegistryError


def _error_body(response: requests.Response) -> tuple[list[dict[str, Any]], str]:
    """The registry's error list and its own words, from any body. distribution-spec spec.md#error-codes."""
    limit_remaining_time(response.raw, _ERROR_LIMIT / _SLOWEST, patience=True)
    try:
        body = _plain(response, response.raw.read(_ERROR_LIMIT, decode_content=False) or b"", _ERROR_LIMIT)
    except Exception:  # noqa: BLE001 - a broken error body must not hide the error itself
        body = b""
    finally:
        response.close()
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
        return [], shorten(" ".join((_page(text) or text).split()), _WORDS)
    listed = value.get("errors") if isinstance(value, dict) else None
    errors = [cast("dict[str, Any]", e) for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
    words = "; ".join(filter(None, (_words(e) for e in errors[:5])))
    if not errors and isinstance(value, dict):
        # Token servers answer {"details": …}, {"error": …, "error_description": …} or {"message": …}
        words = next((str(value[k]) for k in ("error_description", "details", "message", "error") if value.get(k)), "")
    return errors, shorten(words, _WORDS)


def _page(text: str) -> str:
    """What a text is, if it is an HTML page."""
    if "<html" not in text.lower() and "<!doctype" not in text.lower():
        return ""
    title = re.search(r"<title[^<>]*>([^<]*)</title>", text, re.IGNORECASE)
    return f"an HTML page{f' titled {sanitize(title[1]).strip()!r}' if title else ''}"


def _words(error: Mapping[str, Any]) -> str:
    message = str(error.get("message") or "")
    detail = error.get("detail")
    if detail:
        message += f" ({shorten(detail if isinstance(detail, str) else json.dumps(detail), 160)})"
    return message


def retry_after(response: requests.Response) -> float | None:
    """Seconds to wait, from a Retry-After in seconds or as an HTTP date. RFC 9110 section 10.2.3."""
    value = str(response.headers.get("Retry-After", "")).strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _facts(response: requests.Response) -> dict[str, Any]:
    method = response.request.method if response.request is not None else ""
    return {
        "method": method or "",
        "url": redact(str(response.url)),
        "status": response.status_code,
        "host": _host(response),
    }


def _host(response: requests.Response) -> str:
    return redact(str(response.url)).partition("://")[2].partition("/")[0]


_told: set[str] = set()
_telling = threading.Lock()


def report_warnings(response: requests.Response) -> None:
    """Log each distinct `Warning: 299` of a registry once. distribution-spec spec.md#warnings."""
    header = str(response.headers.get("Warning", ""))[:_WARNINGS_LIMIT]
    for match in re.finditer(r'299 \S+ "((?:[^"\\]|\\.)*)"', header):
        said = re.sub(r"\\(.)", r"\1", match[1])
        text = f"{_host(response)} warns: {sanitize(said)}"
        with _telling:
            new = text not in _told and len(_told) < 1000  # a hostile registry must not fill the memory
            if new:
                _told.add(text)
        if new:
            log.warning("%s", text)
