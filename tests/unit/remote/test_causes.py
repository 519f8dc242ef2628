"""Causes of failed connections, classified by the classes of errors."""

import http.client
import socket
import ssl

import pytest
import requests
import urllib3
from ocikit.remote.http import causes

POOL = urllib3.HTTPConnectionPool("registry.example")
REFUSED = ConnectionRefusedError(111, "Connection refused")


def new_connection_error(cause):
    """Return the error that urllib3 raises if it can't connect."""
    error = urllib3.exceptions.NewConnectionError(POOL, f"Failed to establish a new connection: {cause}")
    error.__cause__ = cause
    return error


def wrapped(error):
    """Return the error as requests raises it behind a proxy."""
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(POOL, "/v2/", error))


@pytest.mark.parametrize("wrap", [lambda error: error, wrapped])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (new_connection_error(REFUSED), "is_wrong_address"),
        (new_connection_error(socket.gaierror(-2, "Name or service not known")), "is_wrong_address"),
        (new_connection_error(OSError(101, "Network is unreachable")), "is_unsent"),
        (urllib3.exceptions.ConnectTimeoutError(POOL, "timed out"), "is_unsent"),
        (urllib3.exceptions.ProtocolError("Connection aborted.", ConnectionResetError(104, "reset")), "is_not_http"),
        (
            urllib3.exceptions.ProtocolError("Connection aborted.", http.client.RemoteDisconnected("no response")),
            "is_not_http",
        ),
        (urllib3.exceptions.ProtocolError("Connection aborted.", http.client.BadStatusLine("\x15")), "is_not_http"),
        (
            urllib3.exceptions.SSLError(ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")),
            "is_certificate_error",
        ),
    ],
)
def test_wrapped_error_is_classified_by_its_cause(error, kind, wrap):
    results = {
        name
        for name in ("is_wrong_address", "is_not_http", "is_certificate_error")
        if getattr(causes, name)(wrap(error))
    }
    assert results == {kind} - {"is_unsent"}
    assert causes.is_unsent(wrap(error)) == (kind in {"is_wrong_address", "is_unsent"})


def test_message_with_the_words_of_another_error_is_not_classified():
    error = urllib3.exceptions.ProtocolError("NewConnectionError: Connection refused, RemoteDisconnected, CERTIFICATE")
    assert not causes.is_unsent(error)
    assert not causes.is_wrong_address(error)
    assert not causes.is_not_http(error)
    assert not causes.is_certificate_error(error)


def test_root_cause_has_no_traceback_and_no_cause():
    try:
        try:
            raise REFUSED
        except OSError as error:
            raise new_connection_error(error) from error
    except urllib3.exceptions.HTTPError as error:
        root = causes.root_cause(error)
    assert root is REFUSED
    assert root.__traceback__ is None and root.__cause__ is None
    assert causes.root_cause(None) is None


def test_describe_cause_returns_the_innermost_message():
    assert causes.describe_cause(wrapped(new_connection_error(REFUSED))) == "Connection refused"
    assert causes.describe_cause(OSError()) == "OSError"
    assert causes.describe_cause(None) == "no answer"


def test_refused_connection_is_not_a_timeout():
    assert not causes.is_timeout(new_connection_error(REFUSED))
    assert causes.is_timeout(urllib3.exceptions.ReadTimeoutError(POOL, "/v2/", "Read timed out."))
    assert causes.is_timeout(requests.ConnectTimeout())
