"""Failed requests as typed errors."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from typing import Any

import requests

from ocikit.display import duration, join_limited, shorten
from ocikit.errors import (
    BlobUnknown,
    ConnectionFailed,
    Denied,
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
from ocikit.remote.config.network import Network
from ocikit.remote.http.causes import describe_cause, is_timeout, is_tls_error
from ocikit.remote.http.deadlines import limit_remaining_time
from ocikit.remote.http.framing import framing_error
from ocikit.remote.http.rate_limit import RateLimit
from ocikit.remote.http.responses import (
    ERROR_BODY_LIMIT,
    MIN_RATE,
    body_of,
    decode_body,
    describe_html,
    host_of,
    invalid_framing,
    request_fields,
    retry_after,
)
from ocikit.remote.http.urls import Origin

#: The keys of a detail that names a repository and an action on it. distribution errors of access control.
_SCOPE_KEYS = frozenset({"type", "name", "action"})

_MESSAGE_LENGTH = 300  # characters of a registry's own message

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

#: The class of a 404 without a code, by a part of the path.
_BY_PATH: Mapping[str, type[RegistryError]] = {
    "manifests": ManifestUnknown,
    "blobs": BlobUnknown,
    "uploads": UploadUnknown,
    "tags": NameUnknown,
    "referrers": ManifestUnknown,
}

_HINTS: Mapping[type[RegistryError], str] = {
    Unauthorized: "log in with ocikit.login({host!r}) or `docker login {host}`; ocikit.auth.explain({host!r}) shows what is used",
    Denied: "check that the account may do this: ocikit.auth.explain({host!r}) shows which one is used",
    RateLimited: "wait, or log in: most registries allow more requests to accounts than to anonymous clients",
    TooLarge: "the registry limits the size of requests; ask its operators, or split the content",
    Unsupported: "the registry does not offer the operation; its own web interface may",
}

_REQUEST_IDS = (
    "x-request-id",
    "x-github-request-id",
    "x-amzn-requestid",
    "x-ms-correlation-request-id",
    "x-gitlab-request-id",
)


def error_from_response(
    response: requests.Response, action: str, *, hint: str = "", rejected: str = ""
) -> RegistryError:
    """Return the error that a response stands for, after reading its body up to a limit.

    Args:
        response: Unread, with a status that the caller can't use.
        action: Operation, such as "pull team/data:v1".
        hint: A more specific hint than the general one.
        rejected: User whose credentials were sent, if any.
    """
    errors, text = _read_error_body(response)
    code = str(errors[0].get("code") or "") if errors else ""
    kind = _error_class(response, code)
    host, status = host_of(response), response.status_code
    # A response to HEAD has no body, hence the status's own name
    reason = f"{code} ({status})" if code else f"{status} {http.client.responses.get(status, '')}".rstrip()
    message = f"failed to {action}: {host} returned {reason}" + (f": {text}" if text else "")
    if kind is RateLimited and (limit := RateLimit.of(response.headers)):
        message += f"; {limit}"
    if kind is Unauthorized and rejected:
        message += f"; the credentials of {rejected} were rejected"
    if kind is Denied and rejected:
        message += f"; the credentials of {rejected} were not enough: they may have expired, or lack the right"
    request_id = next((str(response.headers[name]) for name in _REQUEST_IDS if name in response.headers), "")
    if request_id:
        message += f" [request id {shorten(request_id, 64)}]"
    hint = hint or _registry_hint(host, code, kind, status) or _HINTS.get(kind, "").format(host=host)
    error = kind(message, hint=hint, errors=errors, request_id=request_id, **request_fields(response))
    if status in {429, 503} and (wait := retry_after(response)) is not None:
        error.retry_after = wait
        error.hint = f"the registry requests to wait {duration(wait)}; {error.hint.removeprefix('wait, or ')}"
    if isinstance(error, ManifestBlobUnknown):
        error.hint = f"push {join_limited(error.digests[:5]) if error.digests else 'what the manifest names'} first"
    return error


def _error_class(response: requests.Response, code: str) -> type[RegistryError]:
    status = response.status_code
    # A specific status outweighs the code: Harbor reports absence with the code UNKNOWN
    kind = _BY_STATUS.get(status) or _BY_CODE.get(code) or (_not_found(response) if status == 404 else RegistryError)
    if status == 404 and kind in {Unauthorized, Denied}:
        kind = _not_found(response)
    if kind is BlobUnknown and response.request.method == "PUT" and "/manifests/" in str(response.url):
        kind = ManifestBlobUnknown  # some registries report it with the other code
    return kind


def _not_found(response: requests.Response) -> type[RegistryError]:
    path = str(response.url).partition("?")[0]
    last = max(_BY_PATH, key=lambda part: path.rfind(f"/{part}/"))
    return _BY_PATH[last] if f"/{last}/" in path else RegistryError


def _registry_hint(host: str, code: str, kind: type[RegistryError], status: int) -> str:
    """Return the hint for an error that only one registry has."""
    if code == "NAME_UNKNOWN" and re.search(r"\.ecr\.[a-z0-9-]+\.amazonaws\.com", host):
        # ECR doesn't create repositories on push: aws/containers-roadmap#853
        return "ECR doesn't create repositories by itself: aws ecr create-repository --repository-name …"
    if kind is Unsupported and host.endswith("docker.io"):
        # distribution/distribution#2290
        return "Docker Hub deletes only through its web interface and its own API"
    if status >= 500:
        return "the registry failed; try again later"
    return ""


def _read_error_body(response: requests.Response) -> tuple[list[dict[str, Any]], str]:
    """Return the error list and the message of a body.

    distribution-spec spec.md#error-codes.
    """
    limit_remaining_time(body_of(response), ERROR_BODY_LIMIT / MIN_RATE, extend=True)
    try:
        received = response.raw.read(ERROR_BODY_LIMIT, decode_content=False) or b""
        body = decode_body(response, received, ERROR_BODY_LIMIT)
    except Exception:  # noqa: BLE001 - a broken error body must not hide the error itself
        body = b""
    finally:
        response.close()
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
        return [], shorten(" ".join((describe_html(text) or text).split()), _MESSAGE_LENGTH)
    items = value.get("errors") if isinstance(value, dict) else None
    errors = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    message = "; ".join(filter(None, (_message_of(error) for error in errors[:5])))
    if not errors and isinstance(value, dict):
        # Token servers answer {"details": …}, {"error": …, "error_description": …} or {"message": …}
        keys = ("error_description", "details", "message", "error")
        message = next((str(value[key]) for key in keys if value.get(key)), "")
    return errors, shorten(message, _MESSAGE_LENGTH)


def _message_of(error: Mapping[str, Any]) -> str:
    message = str(error.get("message") or "")
    detail = shorten(_detail_of(error.get("detail"), message), 160)
    return f"{message} ({detail})" if message and detail else message or detail


def _detail_of(detail: Any, message: str) -> str:
    """Return what a detail adds to the message, as text. The error list has the whole detail.

    A scope, which is the detail of a 401, and values that the message already has add nothing.
    """
    parts = []
    for item in detail if isinstance(detail, list) else [detail]:
        if isinstance(item, dict) and not {str(key).lower() for key in item} >= _SCOPE_KEYS:
            parts += [f"{key}: {value}" for key, value in item.items() if _adds(value, message)]
        elif _adds(item, message):
            parts.append(str(item))
    return ", ".join(parts)


def _adds(value: Any, message: str) -> bool:
    return (
        isinstance(value, str | int | float)
        and not isinstance(value, bool)
        and str(value) not in {"", message}
        and str(value) not in message
    )


def error_without_response(
    error: Exception | None, action: str, *, method: str, url: str, network: Network
) -> ConnectionFailed | InvalidResponse:
    """Return the error for a request that got no usable response.

    Args:
        error: What broke the connection.
        action: Operation, as named in error messages.
        method: HTTP method.
        url: Absolute URL.
        network: Settings with the timeouts that the hint names.
    """
    origin = Origin.of(url)
    address = f"{origin.host}:{origin.port}"
    if (violation := framing_error(error)) is not None:
        return invalid_framing(violation, action, method=method, url=redact(url), host=address)
    if is_timeout(error):
        return TimedOut(
            f"failed to {action}: {address} did not answer in time ({method})",
            hint=f"connect timeout {network.connect_timeout:g} s, read timeout {network.read_timeout:g} s: raise them with Network(…), or check the network",
        )
    if is_tls_error(error):
        hint = "pass ca=… with the certificate that vouches for it, or name the host in insecure=[…] if you must"
    elif isinstance(error, requests.exceptions.ProxyError):
        hint = "check HTTPS_PROXY and NO_PROXY"
    else:
        hint = "check the host's name and port, the network, and that the registry is running"
    return ConnectionFailed(
        f"failed to {action}: no answer from {address} ({method}): {describe_cause(error)}", hint=hint
    )
