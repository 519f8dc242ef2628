"""Headers, URLs and responses of registries and token servers."""

import contextlib
import email.utils
import http.client
import io
import re
from urllib.parse import urlencode

import requests
import urllib3
from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.auth.tokens import Token
from ocikit.remote.config.network import Network
from ocikit.remote.download import has_range
from ocikit.remote.endpoints import UploadSession, descriptor_of
from ocikit.remote.http.errors import error_from_response
from ocikit.remote.http.responses import (
    announced_digest,
    json_object,
    media_type,
    read_limited,
    report_warnings,
    retry_after,
)
from ocikit.remote.http.transport import Transport
from ocikit.remote.http.urls import Origin, check_realm, check_redirect, join
from ocikit.remote.pagination import next_link
from ocikit.spec.challenge import Scope, parse_challenges, select_challenge
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index

from tests.fuzz.target import (
    HEADER_WORDS,
    JSON_WORDS,
    MANIFEST_TYPE,
    NOW,
    SECRET,
    SHA,
    UNSAFE,
    URL,
    message_is_safe,
    target,
    text_of,
    typed,
)


@target(
    b'Bearer realm="https://auth.example/token",service="r",scope="repository:a:pull,push repository:b:pull"',
    b'Basic realm="a \\"b\\"", charset="UTF-8", Negotiate YWJj==, Digest realm=x, nonce="y",',
    b"Bearer",
    words=(*HEADER_WORDS, b"Bearer ", b"Basic ", b"realm=", b"scope=", b"error=", b"insufficient_scope"),
)
def challenge(data: bytes) -> None:
    """Parse `WWW-Authenticate`, several headers separated by line ends."""
    headers = data.decode("latin-1").split("\n")
    for one in parse_challenges(headers):
        assert one.scheme == one.scheme.lower()
        assert one.token68 == "" or not one.parameters
        assert parse_challenges([str(one)]) == (one,)
        for text in one.scope:
            Scope.parse(text).covers(Scope.parse(text))
        typed(check_realm, one.realm, URL)
        repr(one)
    select_challenge(parse_challenges(headers))


def _request(method: str = "GET", url: str = URL) -> requests.PreparedRequest:
    return requests.Request(method, url).prepare()


class _Wire:
    """The socket methods that http.client uses."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def response_of(data: bytes, url: str = URL) -> requests.Response | None:
    """Parse a response with the libraries that read it from a socket; None if it is invalid."""
    request = _request(url=url)
    inner = http.client.HTTPResponse(_Wire(data), method="GET")
    try:
        inner.begin()
        raw = urllib3.HTTPResponse(
            inner, urllib3.HTTPHeaderDict(inner.msg.items()), inner.status, inner.version, reason=inner.reason,
            preload_content=False, decode_content=False, original_response=inner,
        )  # fmt: skip
    except (http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError):
        return None  # the transport raises ConnectionFailed
    return requests.adapters.HTTPAdapter().build_response(request, raw)


def an_answer(head: str, body: str | bytes = b"", status: str = "200 OK") -> bytes:
    content = body if isinstance(body, bytes) else body.encode()
    lines = [f"HTTP/1.1 {status}", *(line for line in head.splitlines() if line), f"Content-Length: {len(content)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


ANSWER_WORDS = (
    *HEADER_WORDS, b"\r\n", b"Link: ", b"Location: ", b"Range: ", b"Content-Range: bytes ", b"Retry-After: ", b'Warning: 299 - "',
    b"OCI-Chunk-Min-Length: ", b"Docker-Content-Digest: ", b"Content-Type: ", b"Content-Length: ", b"Content-Encoding: gzip\r\n",
    b"Transfer-Encoding: chunked\r\n", b"https://", b"http://", b"//", b"[::1]", b"[", b"@", b":99999", b"?", b"#", b"%00",
    b"169.254.169.254", b"0x7f000001", SHA.encode(), b"sha256:", MANIFEST_TYPE.encode(), b"GMT", b"Fri, 31 Dec 9999 23:59:59 GMT",
    b"{", b"}", b"[", b"]", b"null", b"NaN", b'"errors"', b'"\\ud800"', b"<html>", b"<title>", b"</title>",
)  # fmt: skip


@target(
    an_answer(
        'Link: </v2/team/data/tags/list?last=v9&n=1000>; rel="next", <https://x/>; title="a,b" ; rel=first\n'
        'Content-Type: application/json; charset=utf-8\nWarning: 299 - "old \\"tags\\" go"\nRetry-After: 120',
        '{"name":"team/data","tags":["v1","latest",null,5]}',
    ),
    an_answer(
        "Location: /v2/team/data/blobs/uploads/7?_state=abc%3D\nRange: 0-499\nOCI-Chunk-Min-Length: 65536",
        status="202 Accepted",
    ),
    an_answer(f"Docker-Content-Digest: {SHA}\nContent-Type: {MANIFEST_TYPE}\nETag: \"x\""),
    an_answer("Content-Range: bytes 500-999/1000\nContent-Type: application/octet-stream", "x" * 500, "206 Partial Content"),
    an_answer("Retry-After: Fri, 31 Dec 2027 23:59:59 GMT\nx-request-id: r-1", "slow down", "429 Too Many Requests"),
    an_answer(
        "Content-Type: application/json",
        '{"errors":[{"code":"DENIED","message":"no\\u001b[31m","detail":{"a":[1]}},{"code":5}]}',
        "403 Forbidden",
    ),
    an_answer("Content-Type: text/html", "<!doctype html><html><title>Sign in</title></html>", "404 Not Found"),
    words=ANSWER_WORDS,
    examples=150,
)  # fmt: skip
def answer(data: bytes) -> None:
    """Parse all headers and the body of a response."""
    if (response := response_of(data)) is None:
        return
    wait = retry_after(response)
    assert wait is None or 0 <= wait < 1e13
    media_type(response)
    report_warnings(response)
    transport = _transport()
    following = typed(next_link, response)
    if following is not None:
        typed(Origin.of, following)
        typed(check_redirect, URL, following)
    session = typed(UploadSession.of, response, transport, "push to registry.example/team/data")
    if session is not None:
        assert session.min_chunk >= 0
        assert session.commit_url(Digest(SHA)).startswith(session.location)
    said = announced_digest(response)
    assert said is None or Digest(str(said)) == said
    described = descriptor_of(response, "v1")
    assert described is None or described.size > 0
    assert has_range(response, 500, 1000) in {True, False}
    body = typed(read_limited, response, 1 << 20, "read")
    if body is not None:
        typed(json_object, response, body, "list the tags of registry.example/team/data")
        typed(Index.parse, body)
    if (again := response_of(data)) is not None:
        error = error_from_response(again, "pull registry.example/team/data", rejected="'ada'")
        message_is_safe(error)
        assert isinstance(error.code, str)
        assert not UNSAFE.search(error.url + error.host + error.request_id + error.code)


def _transport() -> Transport:
    return Transport("registry.example", network=Network(retries=0), keychain=Keychain(environ={}))


@target(
    b"https://registry.example/v2/a/b\n/v2/x?y=1#z",
    b"http://user:pw@[::1]:5000/v2/\n//cdn.example/x",
    b"https://xn--bcher-kva.example:443/\n?n=1",
    words=(*HEADER_WORDS, b"://", b"[", b"]", b"@", b":", b"?", b"#", b"%", b"127.1", b"0177.0.0.1", b"::ffff:10.0.0.1", b"64:ff9b::a",
           b"%25eth0", "\u2100".encode(), "\uff0e".encode(), b"localhost", b".", b"metadata"),
)  # fmt: skip
def url(data: bytes) -> None:
    """Resolve a redirect target."""
    base, _, location = text_of(data).partition("\n")
    typed(Origin.of, base)
    typed(check_realm, base, URL)
    if (joined := typed(join, URL, location)) is not None:
        typed(check_redirect, URL, joined)
    if (joined := typed(join, base, location)) is not None:
        typed(check_redirect, base, joined)


@target(
    b'{"token":"%b","expires_in":300,"issued_at":"2023-11-14T22:13:20.123456789Z"}' % SECRET.encode(),
    b'{"access_token":"%b","refresh_token":"r%b","scope":"a"}' % (SECRET.encode(), SECRET.encode()),
    words=(
        *JSON_WORDS,
        b'"%b\\ud800"' % SECRET.encode(),
        b'"token"',
        b'"access_token"',
        b'"expires_in"',
        b'"issued_at"',
        b"2024-02-30",
        b"+99:99",
        b"T24:00:00",
    ),
)
def token(data: bytes) -> None:
    """Parse a token response."""
    found = typed(Token.parse, data, NOW, url="https://auth.example/token?x=1", secret=SECRET)
    if found is not None:
        assert NOW + 60 <= found.expires_at <= NOW + 366 * 86400
        assert re.fullmatch(r"[\x21-\x7e]+", found.value)
        assert SECRET not in repr(found)
        # Both are sent in requests
        urlencode({"refresh_token": found.refresh_token})


@target(b"Fri, 31 Dec 1999 23:59:59 GMT", b"120", b"0.5", b"Friday, 31-Dec-99 23:59:59 GMT",
         words=(b",", b" ", b":", b"-", b"+9999", b"Jan", b"9999", b"00", b"GMT", b"EST", b"-0000", b"9" * 5000, "\u0663".encode(), b"(", b")"))  # fmt: skip
def date(data: bytes) -> None:
    """Parse `Retry-After`."""
    response = requests.Response()
    response.headers["Retry-After"] = text = data.decode("latin-1")
    wait = retry_after(response)
    assert wait is None or 0 <= wait < 1e13
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        email.utils.parsedate_to_datetime(text.strip()).timestamp()
        assert wait is not None
