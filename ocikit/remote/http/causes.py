"""Causes of failed connections, classified by the classes of errors."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import requests
import urllib3
import urllib3.exceptions

from ocikit import display

#: Every class of error that a broken connection raises, wherever it breaks.
CONNECTION_ERRORS: Final = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


def cause_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it, outermost first.

    requests and urllib3 store causes in `__cause__`, in `reason` or among the arguments.
    """
    while error is not None:
        yield error
        # urllib3 1 raises NewConnectionError without `from`
        context = error.__context__ if isinstance(error, urllib3.exceptions.NewConnectionError) else None
        causes = (error.__cause__, getattr(error, "reason", None), *error.args, context)
        error = next((cause for cause in causes if isinstance(cause, BaseException) and cause is not error), None)


def root_cause(error: BaseException | None) -> BaseException | None:
    """Return the innermost cause without its traceback.

    A user's traceback must not show the insides of urllib3.
    """
    chain = list(cause_chain(error))
    if not chain:
        return None
    chain[-1].__cause__ = None  # also suppresses the context
    return chain[-1].with_traceback(None)


def describe_cause(error: BaseException | None) -> str:
    """Return the message of the innermost cause, without addresses of connection objects."""
    innermost = root_cause(error) or Exception("no answer")
    text = str(innermost) or type(innermost).__name__
    # urllib3 puts the connection object first: "HTTPConnection(host=…): Failed to …: [Errno 111] Connection refused"
    return display.shorten(text.rpartition("[Errno ")[2].partition("] ")[2] or text, 200)


def is_timeout(error: BaseException | None) -> bool:
    """Return True if a timeout broke the connection."""
    # In urllib3 1, NewConnectionError is a timeout although it stands for a refused connection
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return False
    return isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError)


def is_unsent(error: BaseException) -> bool:
    """Return True if no connection was established, so that nothing of the request was sent."""
    return _caused_by(
        error, urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError, requests.ConnectTimeout
    )


def is_wrong_address(error: BaseException) -> bool:
    """Return True if the host name is unknown or the port closed.

    Retries don't help against a typing mistake.
    """
    return _caused_by(error, socket.gaierror, ConnectionRefusedError)


def is_not_http(error: BaseException) -> bool:
    """Return True if the other side sent no HTTP, as TLS ports do on plain http."""
    return _caused_by(error, http.client.BadStatusLine, ConnectionResetError)


def is_tls_error(error: BaseException | None) -> bool:
    """Return True if TLS failed for any reason."""
    if isinstance(error, requests.exceptions.SSLError | urllib3.exceptions.SSLError | ssl.SSLError):
        return True
    return error is not None and is_certificate_error(error)


def is_certificate_error(error: BaseException) -> bool:
    """Return True if one side rejected the certificate of the other."""
    return any(
        isinstance(cause, ssl.SSLCertVerificationError)
        or (isinstance(cause, ssl.SSLError) and "CERTIFICATE" in (cause.reason or ""))
        for cause in cause_chain(error)
    )


def _caused_by(error: BaseException, *classes: type[BaseException]) -> bool:
    return any(isinstance(cause, classes) for cause in cause_chain(error))
