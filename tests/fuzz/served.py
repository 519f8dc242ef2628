"""Requests to our registry, and its configuration files."""

import base64
import contextlib
import io
import json
import re
from urllib.parse import unquote

from ocikit.server import Application, Permission, Rules, memory_storage
from ocikit.server.auth.basic import parse_basic
from ocikit.server.auth.htpasswd import HtpasswdEntries
from ocikit.server.auth.jwt import InvalidToken, Signer
from ocikit.spec.challenge import Scope

from tests.fuzz.accounts import AUTH
from tests.fuzz.target import (
    JSON_WORDS,
    MANIFEST_TYPE,
    NOW,
    SHA,
    UNSAFE,
    as_json,
    target,
    typed,
)


@target(
    b"ada:$2y$05$" + b"a" * 53 + b"\n# comment\n\nbob:$2b$10$" + b"b" * 53,
    words=(
        b":",
        b"\n",
        b"$2a$",
        b"$2x$",
        b"$apr1$",
        b"*",
        b"#",
        b"31",
        b"04",
        "\u0661\u0660".encode(),
        b"\x85",
        b"\x00",
        b"\xff",
        b"{SHA}",
    ),
)
def htpasswd(data: bytes) -> None:
    """Parse the htpasswd file. No message contains a hash."""
    text = data.decode("utf-8", "replace")
    # A message contains user names, and the text before a colon is one
    named = any("a" * 53 in line.partition(":")[0] for line in text.splitlines())
    found = typed(HtpasswdEntries.parse, text, secret="" if named else "a" * 53)
    for known in found.hashes.values() if found else ():
        assert re.fullmatch(rb"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}", known)


@target(
    b'[[rule]]\nusers = ["ada", "*"]\nrepositories = ["team/**", "a-*/?"]\nactions = ["pull", "push"]\n\n[[rule]]\nusers=[""]\nactions=["catalog"]\n',
    words=(b"[", b"]", b"[[", b'"', b"'''", b"=", b"\n", b"users", b"actions", b"repositories", b"**", b"*", b"?", b"[" * 3000, b"{a=" * 3000, b"1979-05-27",
           b"nan", b"\\", b"\x00", b"#", b"9" * 5000, b"(.*)*", b"rule"),
)  # fmt: skip
def rules(data: bytes) -> None:
    """Parse the rules file."""
    found = typed(Rules.parse, data.decode("utf-8", "replace"))
    if found is not None:
        for name in ("team/a", "a-b/c", "x" * 200):
            found.allows("ada", Permission("pull", name))
        assert not found.allows_anonymous or any("" in rule.users for rule in found.rules)


SIGNER = Signer(b"k" * 32, service="s", issuer="s", clock=lambda: NOW)
GOOD = SIGNER.access_token("ada", "stamp", [Scope.repository("a", "pull")], ttl=300)[0].encode()


@target(
    b"Bearer " + GOOD, b"Basic " + AUTH, b"bearer e30.e30.e30",
    words=(b".", b"=", b"==", b" ", b"Basic ", b"Bearer ", b"e30", b"W10", b"bnVsbA", base64.urlsafe_b64encode(b'{"alg":"none","typ":5}'), b"_", b"-", b"\xff"),
)  # fmt: skip
def authorization(data: bytes) -> None:
    """Parse an `Authorization` header."""
    header = data.decode("latin-1")
    found = parse_basic(header)
    assert found is None or ":" not in found[0]
    scheme, _, token = header.partition(" ")
    for read in (SIGNER.verify_access_token, SIGNER.verify_refresh_token):
        with contextlib.suppress(InvalidToken):
            read(token)


REQUESTS = (
    b"GET /v2/team/data/tags/list?n=1&last=a HTTP/1.1\r\nHost: r.example:5000\r\nAccept: */*\r\n\r\n",
    b"POST /v2/team/data/blobs/uploads/?digest-algorithm=sha512&mount=%b&from=a/b HTTP/1.1\r\nHost: r\r\n\r\n" % SHA.encode(),
    b"PUT /v2/team/data/manifests/v1?tag=a&tag=b HTTP/1.1\r\nHost: r\r\nContent-Type: %b\r\nIf-Match: x\r\n\r\n" % MANIFEST_TYPE.encode() + as_json({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": {"mediaType": "a/b", "digest": SHA, "size": 2}, "layers": []}),
    b"GET /v2/team/data/blobs/%b HTTP/1.1\r\nHost: r\r\nRange: bytes=0-9,20-\r\nIf-Range: x\r\n\r\n" % SHA.encode(),
    b"PATCH /v2/team/data/blobs/uploads/AAAAAAAAAAAAAAAAAAAAAA HTTP/1.1\r\nHost: r\r\nContent-Range: 0-4\r\n\r\nhello",
    b"GET /v2/team/data/referrers/%b?artifactType=x HTTP/1.1\r\nHost: r\r\n\r\n" % SHA.encode(),
    b"DELETE /v2/team/data/manifests/%b HTTP/1.1\r\nHost: r\r\nAuthorization: Basic YTpi\r\n\r\n" % SHA.encode(),
    b"GET /v2/_catalog?n=5 HTTP/1.1\r\nHost: r\r\nX-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nX-Forwarded-Prefix: /x\r\n\r\n",
)  # fmt: skip


@target(
    *REQUESTS,
    words=(*JSON_WORDS, b" ", b"\r\n", b"/", b"//", b"/v2/", b"..", b"%2e%2e", b"%00", b"%ff", b"%", b"?", b"&", b"=", b"#", b"n=-1", b"n=" + b"9" * 30,
           b"last=", b"digest=", b"tag=", b"Range: bytes=", b"Content-Range: ", b"Content-Length: ", b"Transfer-Encoding: chunked", b"Host: ", b"9" * 19, b"-",
           b"blobs", b"uploads", b"manifests", b"referrers", b"tags", b"list", b"HEAD", b"PUT", b"POST", b"PATCH", b"DELETE", SHA.encode(), b"\x85", b"\xff"),
    examples=30,
)  # fmt: skip
def request(data: bytes) -> None:
    """Send a request to our registry: it never fails, and rejects with the specification's JSON."""
    head, _, body = data.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    method, _, rest = line.partition(" ")
    target = rest.partition(" ")[0]
    path, _, query = target.partition("?")
    environ = {
        "REQUEST_METHOD": method, "PATH_INFO": unquote(path, "latin-1"), "QUERY_STRING": query, "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_NAME": "r",
        "SCRIPT_NAME": "", "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)), "wsgi.url_scheme": "http", "REMOTE_ADDR": "127.0.0.1",
    }  # fmt: skip
    for name, value in (text.partition(":")[::2] for text in lines):
        key = name.strip().upper().replace("-", "_")
        environ[key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"] = value.strip()
    started = []
    parts = Application(memory_storage())(environ, lambda status, headers: started.append((status, headers)))
    content = b"".join(parts)
    ((status, headers),) = started
    assert not status.startswith("5"), f"{status}: {content[:300]!r}"
    for name, value in headers:
        assert not re.search("[\x00-\x1f\x7f]", name + value), (name, value)
    if int(status[:3]) >= 400 and method != "HEAD":
        assert all(error["code"] for error in json.loads(content)["errors"])
        for error in json.loads(content)["errors"]:
            assert not UNSAFE.search(error["message"])
