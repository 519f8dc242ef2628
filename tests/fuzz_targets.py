"""What parses words of others, one function each: any bytes go in, and only answers or typed errors come out.

A target raises for what must not be: another exception than it documents, a message that could do harm in a terminal or
holds what was secret, an answer that doesn't survive being written and read. `test_fuzz` gives them documents with some
damage; `python -m tests.fuzz` does so for as long as one likes.
"""

import base64
import contextlib
import email.utils
import gzip
import http.client
import io
import itertools
import json
import random
import re
import shutil
import socket
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlencode

import attrs
import requests
import urllib3
from attrs import frozen
from backports import zstd
from ocikit.content.archive import Limits, entries, merged_tree, open_layer
from ocikit.content.archive_layout import open_archive
from ocikit.content.cache import Cache
from ocikit.content.docker_archive import read_docker_archive
from ocikit.content.folder import Folder
from ocikit.content.layout import Layout
from ocikit.content.links import links
from ocikit.content.memory import MemoryStore
from ocikit.errors import InvalidDocument, OcikitError
from ocikit.remote.authentication import Authenticator
from ocikit.remote.credentials import Keychain
from ocikit.remote.download import _starts_at
from ocikit.remote.endpoints import announced_digest, descriptor_of, next_link
from ocikit.remote.network import Network
from ocikit.remote.origin import Origin, check_realm, check_step, is_loopback, join
from ocikit.remote.repository import Registry
from ocikit.remote.responses import failure, json_object, media_type, read_limited, report_warnings, retry_after
from ocikit.remote.tokens import Token, TokenCache
from ocikit.remote.transport import Transport
from ocikit.remote.upload import UploadSession
from ocikit.server import Application, Rules, memory_storage
from ocikit.server.basic import credentials
from ocikit.server.htpasswd import Entries
from ocikit.server.signing import InvalidToken, Signer
from ocikit.spec.challenge import Scope, parse_challenges, preferred
from ocikit.spec.config import ImageConfig
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import load_json
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.spec.platform import Platform
from ocikit.spec.reference import LayoutReference, Reference, parse_reference
from ocikit.spec.validation import violations

__all__ = ["JSON_WORDS", "TARGETS", "Target", "archive", "message_is_safe", "response_of", "typed"]

#: Stands in seeds where a secret would.
SECRET = "Sekr3tSekr3tSekr3t"

#: What a terminal would take for more than text; a message may have several lines.
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: Characters: a message is read by a person, and printed in notebooks.
LONGEST = 5000

NOW = 1_700_000_000.0
SHA = "sha256:" + "ab" * 32
URL = "https://registry.example/v2/team/data/tags/list?n=1000"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


def message_is_safe(error: BaseException, secret: str = "") -> None:
    """Look at what an error says, and at what it carries along for tracebacks to say."""
    text = str(error)
    assert not UNSAFE.search(text), f"unsafe in a terminal: {text[:300]!r}"
    assert len(text) <= LONGEST, f"{len(text)} characters: {text[:300]!r}"
    seen: set[int] = set()
    link: BaseException | None = error
    while secret and link is not None and id(link) not in seen:
        seen.add(id(link))
        assert secret not in repr(link.__dict__) + str(link) + repr(link.args), f"a secret in {type(link).__name__}"
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def typed(call, *arguments, also=(), secret="", **keywords):
    """What a call gives; None if it raised an error that it may raise."""
    try:
        return call(*arguments, **keywords)
    except (OcikitError, *also) as error:
        message_is_safe(error, secret)
        return None


@frozen
class Target:
    """One thing that reads what others wrote."""

    name: str
    run: Callable[[bytes], None]
    """Raises if something is wrong with what is tested."""
    seeds: tuple[bytes, ...]
    """Good examples, to be damaged."""
    words: tuple[bytes, ...] = ()
    """What means something in this language."""
    text: bool = True
    """Whether it is damaged word by word; else byte by byte."""
    examples: int = 60
    """How many an ordinary test takes: what reads files takes longer."""


TARGETS: dict[str, Target] = {}


def _target(*seeds: bytes, words: tuple[bytes, ...] = (), **fields):
    def register(run):
        name = run.__name__
        TARGETS[name] = Target(name, run, seeds, words, **fields)
        return run

    return register


def _text(data: bytes) -> str:
    """As a header or a variable brings it: any character, and what isn't UTF-8 in the way of file names."""
    return data.decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _folder():
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="fuzz.", dir=memory if memory.is_dir() else None))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


#: What may stand where a JSON value does, and shouldn't.
JSON_WORDS = (
    b"null", b"true", b"false", b"0", b"-1", b"1.5", b"1e400", b"-1e400", b"NaN", b"Infinity", b"9223372036854775808", b"9" * 5000,
    b'""', b'"\\ud800"', b'"\\udcff"', b'"\\u0000"', b'"\\u001b[31mred"', b'"\\u202e"', b'"\xff"', b'"' + b"x" * 3000 + b'"', b"{}", b"[]",
    b'{"digest":5}', b"[" * 200 + b"]" * 200, b'{"a":' * 200 + b"1" + b"}" * 200, b"[" * 940 + b"]" * 940, b'{"a":' * 940 + b"1" + b"}" * 940,
    b"[" * 5000, b"\xef\xbb\xbf", b"//", b",", b":", b"{", b"}", b"[", b"]", b'"', SHA.encode(), b'"sha256:ab"', b'"x:' + b"A" * 3000 + b'"',
    b'"mediaType"', b'"digest"', b'"size"', b'"schemaVersion"', b'"manifests"', b'"layers"', b'"config"', b'"annotations"', b'"platform"',
    b'"subject"', b'"data"', b'"urls"', b'"artifactType"', b'"blobSum"', b'"../../x"', b'"a\\nb"',
)  # fmt: skip


# Words of headers

HEADER_WORDS = (
    b",", b";", b"=", b'"', b"\\", b"<", b">", b" ", b"\t", b"\r\n ", b"-", b"/", b"*", b"0", b"1", b"999999999999999999999",
    b"9" * 5000, b"-1", b"1e400", b"0x10", "\u0663".encode(), b"\xff", b"\x00", b"\x1b[31m", "\u202e".encode(), b"rel", b"next",
)  # fmt: skip


@_target(
    b'Bearer realm="https://auth.example/token",service="r",scope="repository:a:pull,push repository:b:pull"',
    b'Basic realm="a \\"b\\"", charset="UTF-8", Negotiate YWJj==, Digest realm=x, nonce="y",',
    b"Bearer",
    words=(*HEADER_WORDS, b"Bearer ", b"Basic ", b"realm=", b"scope=", b"error=", b"insufficient_scope"),
)
def challenge(data: bytes) -> None:
    """`WWW-Authenticate`, several headers apart by line ends."""
    headers = data.decode("latin-1").split("\n")
    for one in parse_challenges(headers):
        assert one.scheme == one.scheme.lower()
        assert one.token68 == "" or not one.parameters
        assert parse_challenges([str(one)]) == (one,)
        for text in one.scope:
            Scope.parse(text).covers(Scope.parse(text))
        typed(check_realm, one.realm, URL)
        repr(one)
    preferred(parse_challenges(headers))


def _request(method: str = "GET", url: str = URL) -> requests.PreparedRequest:
    return requests.Request(method, url).prepare()


class _Wire:
    """What http.client asks of a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def response_of(data: bytes, url: str = URL) -> requests.Response | None:
    """The response that a server's bytes are, read by the libraries that read them from a socket; None if none."""
    request = _request(url=url)
    inner = http.client.HTTPResponse(_Wire(data), method="GET")
    try:
        inner.begin()
        raw = urllib3.HTTPResponse(
            inner, urllib3.HTTPHeaderDict(inner.msg.items()), inner.status, inner.version, reason=inner.reason,
            preload_content=False, decode_content=False, original_response=inner,
        )  # fmt: skip
    except (http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError):
        return None  # the transport makes a ConnectionFailed of it
    return requests.adapters.HTTPAdapter().build_response(request, raw)


def _http(head: str, body: str | bytes = b"", status: str = "200 OK") -> bytes:
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


@_target(
    _http(
        'Link: </v2/team/data/tags/list?last=v9&n=1000>; rel="next", <https://x/>; title="a,b" ; rel=first\n'
        'Content-Type: application/json; charset=utf-8\nWarning: 299 - "old \\"tags\\" go"\nRetry-After: 120',
        '{"name":"team/data","tags":["v1","latest",null,5]}',
    ),
    _http(
        "Location: /v2/team/data/blobs/uploads/7?_state=abc%3D\nRange: 0-499\nOCI-Chunk-Min-Length: 65536",
        status="202 Accepted",
    ),
    _http(f"Docker-Content-Digest: {SHA}\nContent-Type: {MANIFEST_TYPE}\nETag: \"x\""),
    _http("Content-Range: bytes 500-999/1000\nContent-Type: application/octet-stream", "x" * 500, "206 Partial Content"),
    _http("Retry-After: Fri, 31 Dec 2027 23:59:59 GMT\nx-request-id: r-1", "slow down", "429 Too Many Requests"),
    _http(
        "Content-Type: application/json",
        '{"errors":[{"code":"DENIED","message":"no\\u001b[31m","detail":{"a":[1]}},{"code":5}]}',
        "403 Forbidden",
    ),
    _http("Content-Type: text/html", "<!doctype html><html><title>Sign in</title></html>", "404 Not Found"),
    words=ANSWER_WORDS,
    examples=150,
)  # fmt: skip
def answer(data: bytes) -> None:
    """Everything that an answer's headers and body may say, whatever it answers."""
    fresh = lambda: response_of(data)  # noqa: E731
    if (response := fresh()) is None:
        return
    wait = retry_after(response)
    assert wait is None or 0 <= wait < 1e13
    media_type(response)
    report_warnings(response)
    transport = _transport()
    following = typed(next_link, response)
    if following is not None:
        typed(Origin.of, following)
        typed(check_step, URL, following)
    session = typed(UploadSession.of, response, transport)
    if session is not None:
        assert session.minimum >= 0
        assert session.closing(Digest(SHA)).startswith(session.location)
    said = announced_digest(response)
    assert said is None or Digest(str(said)) == said
    described = descriptor_of(response, "v1")
    assert described is None or described.size > 0
    assert _starts_at(response, 500, 1000) in {True, False}
    body = typed(read_limited, response, 1 << 20, "read")
    if body is not None:
        typed(json_object, response, body, "list the tags of registry.example/team/data")
        typed(Index.parse, body)
    if (again := fresh()) is not None:
        error = failure(again, "pull registry.example/team/data", rejected="'ada'")
        message_is_safe(error)
        assert isinstance(error.code, str)
        assert not UNSAFE.search(error.url + error.host + error.request_id + error.code)


def _transport() -> Transport:
    return Transport("registry.example", network=Network(retries=0), keychain=Keychain(environ={}))


@_target(
    b"https://registry.example/v2/a/b\n/v2/x?y=1#z",
    b"http://user:pw@[::1]:5000/v2/\n//cdn.example/x",
    b"https://xn--bcher-kva.example:443/\n?n=1",
    words=(*HEADER_WORDS, b"://", b"[", b"]", b"@", b":", b"?", b"#", b"%", b"127.1", b"0177.0.0.1", b"::ffff:10.0.0.1", b"64:ff9b::a",
           b"%25eth0", "\u2100".encode(), "\uff0e".encode(), b"localhost", b".", b"metadata"),
)  # fmt: skip
def url(data: bytes) -> None:
    """Where a registry sends us."""
    base, _, location = _text(data).partition("\n")
    typed(Origin.of, base)
    typed(check_realm, base, URL)
    if (joined := typed(join, URL, location)) is not None:
        typed(check_step, URL, joined)
    if (joined := typed(join, base, location)) is not None:
        typed(check_step, base, joined)


@_target(
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
    """The answer of a token server."""
    found = typed(Token.parse, data, NOW, url="https://auth.example/token?x=1", secret=SECRET)
    if found is not None:
        assert NOW + 60 <= found.expires_at <= NOW + 366 * 86400
        assert re.fullmatch(r"[\x21-\x7e]+", found.value)
        assert SECRET not in repr(found)
        # Both travel in requests
        urlencode({"refresh_token": found.refresh_token})


# Documents

DESCRIPTOR = {
    "mediaType": LAYER_TYPE,
    "digest": SHA,
    "size": 7,
    "annotations": {"org.opencontainers.image.title": "a/b"},
}
MANIFEST = {
    "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "artifactType": "application/x",
    "config": {"mediaType": CONFIG_TYPE, "digest": SHA, "size": 2, "data": "e30="}, "layers": [DESCRIPTOR, {**DESCRIPTOR, "urls": ["https://x"]}],
    "subject": {"mediaType": MANIFEST_TYPE, "digest": "sha512:" + "cd" * 64, "size": 9}, "annotations": {"a": "b"}, "future": [1, {"x": None}],
}  # fmt: skip
INDEX = {
    "schemaVersion": 2, "mediaType": INDEX_TYPE,
    "manifests": [{"mediaType": MANIFEST_TYPE, "digest": SHA, "size": 500,
                   "platform": {"os": "linux", "architecture": "arm64", "variant": "v8", "os.features": ["win32k"]}}],
}  # fmt: skip
CONFIG = {
    "architecture": "amd64", "os": "linux", "created": "2015-10-31T22:22:56Z", "config": {"Env": ["A=b"]},
    "rootfs": {"type": "layers", "diff_ids": [SHA]}, "history": [{"created_by": "sh", "empty_layer": True}],
}  # fmt: skip


def _json(value) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@_target(_json(MANIFEST), _json(INDEX), _json(CONFIG), words=JSON_WORDS, examples=150)
def document(data: bytes) -> None:
    """Manifests, indexes and configs."""
    _agrees_with_json(data)
    announced: tuple[str | None, ...] = (
        None,
        MANIFEST_TYPE,
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    )
    for parse, *more in (
        *((parse_document, one) for one in announced),
        (Manifest.parse,),
        (Index.parse,),
        (ImageConfig.parse,),
    ):
        found = typed(parse, data, *more)
        if found is None:
            continue
        assert found.raw == data
        assert hash(found) == hash(type(found).parse(data))
        repr(found), found._repr_html_(), found.to_dict()
        # Encoded anew it is the same document, unless it holds what isn't Unicode
        anew = typed(lambda: attrs.evolve(found).raw)  # noqa: B023 - called here
        if anew is not None:
            assert type(found).parse(anew) == found
        if isinstance(found, Manifest | Index):
            named = {d.digest for d in (*found.children, *([found.subject] if found.subject else ()))}
            assert named <= {link.digest for link in links(data)}
            typed(Index.select, found, "linux/arm64") if isinstance(found, Index) else None
            for one in found.children:
                str(one), repr(one), one.embedded
    typed(links, data)
    for kind in (None, MANIFEST_TYPE, INDEX_TYPE, CONFIG_TYPE):
        for violation in violations(data, kind):
            assert not UNSAFE.search(str(violation).replace("\n", ""))
            assert len(str(violation)) < LONGEST


def _agrees_with_json(data: bytes) -> None:
    """The standard library's reader, held to one reading of each document, finds the same."""
    twice = []

    def once(pairs):
        twice.extend(key for key in dict(pairs) if sum(k == key for k, _ in pairs) > 1)
        return dict(pairs)

    def refuse(name):
        raise ValueError(name)

    try:
        theirs = json.loads(data.decode(), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError):
        theirs = None
    try:
        ours = load_json(data, "it")
    except InvalidDocument:
        assert theirs is None or twice or not isinstance(theirs, dict)
    else:
        assert ours == theirs
        assert not twice


@_target(
    b"ghcr.io/org/model:v1@" + SHA.encode(), b"[::1]:5000/a/b", b"oci:folder/x:v1.0@" + SHA.encode(), b"oci-archive:C:\\x\\y.tar:a/b:c",
    b"linux/arm64/v8:10.0.1", b"repository:localhost:5000/a:pull,push",
    words=(b":", b"@", b"/", b".", b"..", b"-", b"_", b"__", b"[", b"]", b"sha256:", b"sha512:", b"x+y:", b"localhost", b"docker.io", b"library",
           b"A", b"\x00", b"\n", "\u0130".encode(), "\u212a".encode(), "\u0663".encode(), b"a" * 300, b"oci:", b"65536", b"\xff"),
    examples=150,
)  # fmt: skip
def reference(data: bytes) -> None:
    """References, digests, platforms and scopes: what was read is read again from how it is written."""
    text = _text(data)
    for parse in (Reference.parse, LayoutReference.parse, parse_reference, Platform.parse, Digest.parse, Scope.parse):
        found = typed(parse, text)
        if found is not None:
            assert parse(str(found)) == found
            repr(found)
    if (place := typed(Reference.parse, text)) is not None:
        is_loopback(place.registry)
        Origin.of(f"https://{place.api_host}/v2/")


# Credentials

AUTH = base64.b64encode(f"ada:{SECRET}".encode())
CONFIG_WORDS = (
    *JSON_WORDS, b'"auths"', b'"credHelpers"', b'"credsStore"', b'"auth"', b'"identitytoken"', b'"registrytoken"', b'"username"',
    b'"password"', b'"ghcr.io"', b'"https://ghcr.io/v2/"', b'"ghcr.io/team"', b'"registry.example"', b'"<token>"', b'"../x"', b'"x\\ny"',
    b'"%b\\n"' % SECRET.encode(), b'"%b\\ud800"' % SECRET.encode(),
)  # fmt: skip


@_target(
    b'{"auths":{"https://ghcr.io/v2/":{"auth":"%b"},"ghcr.io/team":{"username":"ada","password":"%b"}}}' % (AUTH, SECRET.encode()),
    b'{"auths":{"ghcr.io":{"identitytoken":"%b"},"GHCR.IO/team/data":{"registrytoken":"%b"}},"HttpHeaders":{"a":"b"}}' % (SECRET.encode(), SECRET.encode()),
    b'{"auths":{"ghcr.io":{"auth":"%b"}},"credHelpers":{"quay.io":"x","ghcr.io":""},"credsStore":""}' % AUTH,
    b'{"auths":{},"credHelpers":{"ghcr.io":"nowhere"},"credsStore":"nowhere"}',
    words=CONFIG_WORDS,
)  # fmt: skip
def docker_config(data: bytes) -> None:
    """Docker's config.json; the same reader takes podman's auth.json."""
    with _folder() as home:
        (home / ".docker").mkdir()
        (home / ".docker" / "config.json").write_bytes(data)
        keys = Keychain(environ={"PATH": str(home), "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}, home=home)
        secret = "" if _shown_by_right(data) else SECRET
        explanation = typed(keys.explain, "ghcr.io", "team/data", secret=secret)
        assert not secret or secret not in repr(explanation) + str(explanation)
        found = typed(keys.for_reference, "ghcr.io", "team/data", secret=secret)
        if found is None:
            return
        assert not secret or secret not in repr(found)
        auth = Authenticator("ghcr.io", keys, TokenCache(), _no_token)
        response = response_of(_http('WWW-Authenticate: Basic realm="x"', status="401 Unauthorized"))
        sent = typed(auth.answer, response, URL, (Scope.repository("team/data", "pull"),), None, secret=secret)
        if sent is not None:
            # What no header can hold would be an error of requests, with the value in it
            requests.utils.check_header_validity(("Authorization", sent.value))
            sent.value.encode("latin-1")


def _shown_by_right(data: bytes) -> bool:
    """Whether damage has put the secret where a user, a registry or a helper is named."""
    return any(
        SECRET in _text(name)
        for name in (
            *re.findall(rb'"([^"]*)"\s*:', data),
            *re.findall(rb'"(?:username|credsStore)"\s*:\s*"([^"]*)"', data),
            *re.findall(rb'"credHelpers"(.*)', data, re.DOTALL),
            *(
                base64.b64decode(text).partition(b":")[0]
                for text in re.findall(rb"[A-Za-z0-9+/]{8,}={0,2}", data)
                if len(text) % 4 == 0
            ),
        )
    )


def _no_token(*_: object) -> requests.Response:
    raise AssertionError("Basic needs no token server")


@_target(
    b'{"ServerURL":"https://ghcr.io","Username":"ada","Secret":"%b"}' % SECRET.encode(),
    b'{"ServerURL":"","Username":"<token>","Secret":"%b"}' % SECRET.encode(),
    b"credentials not found in native keychain",
    words=(*CONFIG_WORDS, b'"Username"', b'"Secret"', b"credentials not found"),
    examples=8,
)
def helper(data: bytes) -> None:
    """What a credential helper prints: a real process, that fails if the first byte is odd."""
    with _folder() as home:
        program = home / "docker-credential-fuzz"
        program.write_text(
            f'#!/bin/sh\nwhile read -r _; do :; done\n/bin/cat "{home}/said"\nexit {data[:1].hex() in "13579bdf" and 1 or 0}\n'
        )
        program.chmod(0o700)
        (home / "said").write_bytes(data)
        (home / "config.json").write_bytes(b'{"credsStore":"fuzz"}')
        keys = Keychain(
            environ={"PATH": str(home), "DOCKER_CONFIG": str(home), "XDG_RUNTIME_DIR": str(home)}, home=home
        )
        found = typed(keys.for_reference, "ghcr.io", "team/data", secret=SECRET)
        if found is not None:
            assert SECRET not in repr(found) or SECRET in found.username


# Archives


def archive(*members: tuple[str, bytes], format: int = tarfile.PAX_FORMAT, **fields) -> bytes:
    """A tar of files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _sealed(data: bytes) -> bytes:
    """With right checksums, as far as headers stand where they did: else nearly every damage is found by them alone."""
    whole = bytearray(data)
    for at in range(0, len(whole) - 511, 512):
        if whole[at + 257 : at + 262] == b"ustar":
            whole[at + 148 : at + 156] = b" " * 8
            whole[at + 148 : at + 156] = b"%06o\0 " % sum(whole[at : at + 512])
    return bytes(whole)


TAR_WORDS = (
    b"0", b"1", b"2", b"3", b"5", b"7", b"x", b"g", b"L", b"K", b"S", b"\0", b"\xff", b"\x80", b"/", b"../", b".wh..wh..opq", b".wh.", b"30 size=99\n",
    b"\xff" * 11 + b"\0", b"\xff" * 10 + b"\xfc\0", b"\x80" + b"\xff" * 11, b"77777777777\0", b"22 GNU.sparse.major=1\n", b"22 GNU.sparse.minor=0\n",
    b"GNU.sparse.map=0,1", b"size=-512", b"ustar\0", b"ustar  \0", bytes(512),
)  # fmt: skip

TARS = (
    archive(("a", b"x"), ("d/b", b"y" * 700), ("n" * 150, b"z")),
    archive(("l" * 120, b"x" * 513), format=tarfile.GNU_FORMAT, mtime=1.5),
    archive(("a", b"x"), mtime=1.25, pax_headers={"SCHILY.xattr.user.a": "b", "path": "p/q"}),
    archive(("s", b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)), pax_headers={
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "9000"}),
)  # fmt: skip

LIMITS = Limits(size=1 << 22, entries=1000)


@_target(*TARS, words=TAR_WORDS, text=False, examples=150)
def layer(data: bytes) -> None:
    """The entries of a layer, and the tree that it makes."""
    for whole in {data, _sealed(data)}:
        found = typed(lambda: list(entries(io.BytesIO(whole), limits=LIMITS)))  # noqa: B023 - called here
        merged = typed(merged_tree, [(io.BytesIO(whole), LAYER_TYPE)], limits=LIMITS)
        for entry in (*(found or ()), *(merged or {}).values()):
            repr(entry)
            assert entry.size >= 0
            assert ".." not in entry.path.split("/") and not entry.path.startswith("/")


@_target(
    gzip.compress(TARS[0], mtime=0), gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0) + bytes(10),
    zstd.compress(TARS[0]), zstd.compress(b"one") + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstd.compress(b"two"), TARS[0],
    words=(b"\x1f\x8b", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"BZh", b"\xfd7zXZ\0", b"\xff", b"\0", b"\x1c"),
    text=False, examples=100,
)  # fmt: skip
def compressed(data: bytes) -> None:
    """Framing of gzip and zstd; what passes is what gzip's own reader reads."""
    ours = typed(lambda: open_layer(io.BytesIO(data), limits=LIMITS).read())
    if ours is not None and data.startswith(b"\x1f\x8b"):
        theirs = b""
        with (
            contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile),
            gzip.GzipFile(fileobj=io.BytesIO(data)) as file,
        ):
            theirs = file.read(LIMITS.size)
            assert ours == theirs
    elif ours is not None and not data.startswith(b"\x28\xb5\x2f\xfd") and data[1:4] != b"\x2a\x4d\x18":
        assert ours == data


def _layout_files(parts: list[bytes]) -> dict[str, bytes]:
    header, index, blob, *_ = [*parts, b"", b"", b""]
    return {"oci-layout": header, "index.json": index, f"blobs/{SHA.replace(':', '/')}": blob}


HEADER = b'{"imageLayoutVersion":"1.0.0"}'
REF_NAME = "org.opencontainers.image.ref.name"
ENTRY = {"mediaType": MANIFEST_TYPE, "digest": SHA, "size": len(_json(MANIFEST)), "annotations": {REF_NAME: "v1"}}
#: A document whose digest is right
LEAF = _json(
    {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": DESCRIPTOR, "layers": [], "subject": DESCRIPTOR}
)
LEAF_ENTRY = {
    "mediaType": MANIFEST_TYPE,
    "digest": Digest.of(LEAF),
    "size": len(LEAF),
    "annotations": {REF_NAME: "good"},
}


@_target(
    b"\n".join((HEADER, _json({"schemaVersion": 2, "manifests": [ENTRY, {**ENTRY, "annotations": {}}, LEAF_ENTRY]}), _json(MANIFEST))),
    b"\n".join((HEADER, _json({"schemaVersion": 2, "manifests": [LEAF_ENTRY, {**LEAF_ENTRY, "annotations": ["x"]}]}), _json(INDEX))),
    words=(*JSON_WORDS, b'"v1"', b'"good"', b'"%b"' % REF_NAME.encode(), b'"1.9"', b'"2.0"', b"\n"),
    examples=40,
)  # fmt: skip
def layout(data: bytes) -> None:
    """A layout on disk, read and then changed: oci-layout, index.json and a manifest, a line each."""
    with _folder() as root:
        for name, content in _layout_files(data.split(b"\n", 2)).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        _plant(root, LEAF)
        found = typed(Layout, root, create=False)
        if found is None:
            return
        for verb in (
            found.tags, found.entries, found.only, found.verify, lambda: found.gc(dry_run=True, grace=0.0),
            lambda: found.resolve("v1"), lambda: found.resolve(SHA), lambda: found.referrers(found.resolve("good")),
            lambda: [found.document(one) for one in found.entries() if one.is_document], lambda: [found.exists(one) for one in found.entries()],
            lambda: found.tag(Descriptor.of(LEAF, MANIFEST_TYPE), "new"), lambda: found.untag("v1"), lambda: found.keep(found.resolve("good")),
            lambda: found.delete(found.resolve("good")), lambda: found.gc(grace=0.0), found.tags,
        ):  # fmt: skip
            typed(verb)
        found.close()


def _plant(root: Path, content: bytes) -> None:
    path = root / "blobs" / "sha256" / Digest.of(content).encoded
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


CONFIG_BYTES = _json({**CONFIG, "rootfs": {"type": "layers", "diff_ids": [Digest.of(TARS[0])]}})
IMAGES = _json([{"Config": "c.json", "RepoTags": ["alpine:3.20"], "Layers": ["l.tar"]}])
DOCKER_TAR = archive(("manifest.json", IMAGES), ("c.json", CONFIG_BYTES), ("l.tar", TARS[0]))
LAYOUT_TAR = archive(
    ("oci-layout", HEADER), ("index.json", _json({"schemaVersion": 2, "manifests": [LEAF_ENTRY]})), (f"blobs/sha256/{Digest.of(LEAF).encoded}", LEAF),
)  # fmt: skip


@_target(
    LAYOUT_TAR, DOCKER_TAR, gzip.compress(LAYOUT_TAR, mtime=0), words=(*TAR_WORDS, b"1" * 9000), text=False, examples=60
)
def tar_file(data: bytes) -> None:
    """A layout in a tar, and what `docker save` writes."""
    with _folder() as folder:
        for whole in {data, _sealed(data)}:
            path = folder / "it.tar"
            path.write_bytes(whole)
            typed(_read_archives, path)
            typed(read_docker_archive, path, MemoryStore())


def _read_archives(path: Path) -> None:
    with open_archive(path) as found:
        found.tags(), found.entries()


@_target(
    IMAGES + b"\n" + CONFIG_BYTES, IMAGES + b"\n" + _json(CONFIG),
    words=(*JSON_WORDS, b'"Config"', b'"Layers"', b'"RepoTags"', b'"c.json"', b'"l.tar"', b'"g.tar"', b'"./l.tar"', b'"manifest.json"', b'"alpine:3.20"',
           b'"diff_ids"', b'"md5:x"', b'"shake_128:x"', b'"blake3:' + b"0" * 64 + b'"', b'"sha256:' + b"0" * 64 + b'"'),
    examples=60,
)  # fmt: skip
def docker_images(data: bytes) -> None:
    """The manifest.json and a config of `docker save`, a line each, in a tar that has the layers."""
    images, _, config = data.partition(b"\n")
    with _folder() as folder:
        (folder / "it.tar").write_bytes(
            archive(
                ("manifest.json", images),
                ("c.json", config),
                ("l.tar", TARS[0]),
                ("g.tar", gzip.compress(TARS[0], mtime=0)),
            )
        )
        typed(read_docker_archive, folder / "it.tar", Layout(folder / "layout"))


# Our own files

RECORD = {
    "reference": f"ghcr.io/org/model:v1@{SHA}", "document": _json(MANIFEST).decode(), "expected": {"a/b": [SHA]},
    "files": {"a/b": {"digest": SHA, "size": 7, "mtime_ns": 1700000000000000000, "source": "ghcr.io/org/model"}},
}  # fmt: skip


@_target(
    _json(RECORD),
    words=(
        *JSON_WORDS,
        b'"files"',
        b'"document"',
        b'"expected"',
        b'"mtime_ns"',
        b'"source"',
        b'"/etc/passwd"',
        b'"a"',
        b'"a/b"',
    ),
    examples=60,
)
def record(data: bytes) -> None:
    """`.ocikit/manifest.json` in a folder that came from somebody else."""
    with _folder() as root:
        (root / ".ocikit").mkdir()
        (root / "a").mkdir()
        (root / "a" / "b").write_bytes(b"content")
        (root / ".ocikit" / "manifest.json").write_bytes(data)
        folder = Folder(root, sync=False)
        read = folder.record
        typed(lambda: folder.document)
        layer = Descriptor.of(b"content", LAYER_TYPE)
        typed(folder.unedited, "a/b", layer)
        plan = typed(folder.plan, {"a/b": layer}, reference=Reference.parse("ghcr.io/org/model:v1"))
        if plan is not None:
            repr(plan), plan._repr_html_()
        read.save(root / ".ocikit" / "again.json", sync=False)
        assert type(read).load(root / ".ocikit" / "again.json") == read


NOTED = {
    "reference": "ghcr.io/org/model:v1",
    "digest": SHA,
    "mediaType": MANIFEST_TYPE,
    "size": 7,
    "fetched_at": "2024-01-01T00:00:00+00:00",
}


@_target(
    _json(NOTED),
    words=(*JSON_WORDS, b'"reference"', b'"fetched_at"', b'"2024-01-01"', b'"0001-01-01T00:00:00+23:59"', b'"ghcr.io/org/model:v1"', b'"ghcr.io/x"'),
    examples=60,
)  # fmt: skip
def cache_note(data: bytes) -> None:
    """refs/*.json in a cache, and a cached document."""
    place = Reference.parse("ghcr.io/org/model:v1")
    with _folder() as root:
        cache = Cache(root)
        path = cache.reference_path(place)
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        _plant(root, data)
        found = cache.recall(place)
        if found is not None:
            assert found.descriptor.size >= 0
            found.fetched_at.strftime("%Y-%m-%d %H:%M")
            repr(found.descriptor)
            typed(cache.fetch, found.descriptor)
        typed(cache.resolve, str(place))
        typed(cache.resolve, str(Digest.of(data)))
        for verb in (cache.scan, cache.verify, lambda: cache.prune(older_than=0.0, grace=0.0)):
            info = typed(verb)
            repr(info), info._repr_html_() if info is not None else None


# What our own server is sent, and its files


@_target(
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
    """The file with users. No message has a hash in it."""
    text = data.decode("utf-8", "replace")
    # A message names users; what stands before a colon is one
    named = any("a" * 53 in line.partition(":")[0] for line in text.splitlines())
    found = typed(Entries.parse, text, secret="" if named else "a" * 53)
    for known in found.hashes.values() if found else ():
        assert re.fullmatch(rb"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}", known)


@_target(
    b'[[rule]]\nusers = ["ada", "*"]\nrepositories = ["team/**", "a-*/?"]\nactions = ["pull", "push"]\n\n[[rule]]\nusers=[""]\nactions=["catalog"]\n',
    words=(b"[", b"]", b"[[", b'"', b"'''", b"=", b"\n", b"users", b"actions", b"repositories", b"**", b"*", b"?", b"[" * 3000, b"{a=" * 3000, b"1979-05-27",
           b"nan", b"\\", b"\x00", b"#", b"9" * 5000, b"(.*)*", b"rule"),
)  # fmt: skip
def rules(data: bytes) -> None:
    """The file with rules."""
    from ocikit.server.access import Need

    found = typed(Rules.parse, data.decode("utf-8", "replace"))
    if found is not None:
        for name in ("team/a", "a-b/c", "x" * 200):
            found.allows("ada", Need("pull", name))
        assert not found.anybody or any("" in rule.users for rule in found.rules)


SIGNER = Signer(b"k" * 32, service="s", issuer="s", clock=lambda: NOW)
GOOD = SIGNER.access("ada", "stamp", [Scope.repository("a", "pull")], ttl=300)[0].encode()


@_target(
    b"Bearer " + GOOD, b"Basic " + AUTH, b"bearer e30.e30.e30",
    words=(b".", b"=", b"==", b" ", b"Basic ", b"Bearer ", b"e30", b"W10", b"bnVsbA", base64.urlsafe_b64encode(b'{"alg":"none","typ":5}'), b"_", b"-", b"\xff"),
)  # fmt: skip
def authorization(data: bytes) -> None:
    """What a client sends as `Authorization`."""
    header = data.decode("latin-1")
    found = credentials(header)
    assert found is None or ":" not in found[0]
    scheme, _, token = header.partition(" ")
    for read in (SIGNER.identity, SIGNER.user):
        with contextlib.suppress(InvalidToken):
            read(token)


REQUESTS = (
    b"GET /v2/team/data/tags/list?n=1&last=a HTTP/1.1\r\nHost: r.example:5000\r\nAccept: */*\r\n\r\n",
    b"POST /v2/team/data/blobs/uploads/?digest-algorithm=sha512&mount=%b&from=a/b HTTP/1.1\r\nHost: r\r\n\r\n" % SHA.encode(),
    b"PUT /v2/team/data/manifests/v1?tag=a&tag=b HTTP/1.1\r\nHost: r\r\nContent-Type: %b\r\nIf-Match: x\r\n\r\n" % MANIFEST_TYPE.encode() + _json({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": {"mediaType": "a/b", "digest": SHA, "size": 2}, "layers": []}),
    b"GET /v2/team/data/blobs/%b HTTP/1.1\r\nHost: r\r\nRange: bytes=0-9,20-\r\nIf-Range: x\r\n\r\n" % SHA.encode(),
    b"PATCH /v2/team/data/blobs/uploads/AAAAAAAAAAAAAAAAAAAAAA HTTP/1.1\r\nHost: r\r\nContent-Range: 0-4\r\n\r\nhello",
    b"GET /v2/team/data/referrers/%b?artifactType=x HTTP/1.1\r\nHost: r\r\n\r\n" % SHA.encode(),
    b"DELETE /v2/team/data/manifests/%b HTTP/1.1\r\nHost: r\r\nAuthorization: Basic YTpi\r\n\r\n" % SHA.encode(),
    b"GET /v2/_catalog?n=5 HTTP/1.1\r\nHost: r\r\nX-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nX-Forwarded-Prefix: /x\r\n\r\n",
)  # fmt: skip


@_target(
    *REQUESTS,
    words=(*JSON_WORDS, b" ", b"\r\n", b"/", b"//", b"/v2/", b"..", b"%2e%2e", b"%00", b"%ff", b"%", b"?", b"&", b"=", b"#", b"n=-1", b"n=" + b"9" * 30,
           b"last=", b"digest=", b"tag=", b"Range: bytes=", b"Content-Range: ", b"Content-Length: ", b"Transfer-Encoding: chunked", b"Host: ", b"9" * 19, b"-",
           b"blobs", b"uploads", b"manifests", b"referrers", b"tags", b"list", b"HEAD", b"PUT", b"POST", b"PATCH", b"DELETE", SHA.encode(), b"\x85", b"\xff"),
    examples=100,
)  # fmt: skip
def request(data: bytes) -> None:
    """A request to our own registry: it never fails, and says no in the specification's JSON."""
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
    parts = _application()(environ, lambda status, headers: started.append((status, headers)))
    content = b"".join(parts)
    ((status, headers),) = started
    assert not status.startswith("5"), f"{status}: {content[:300]!r}"
    for name, value in headers:
        assert not re.search("[\x00-\x1f\x7f]", name + value), (name, value)
    if int(status[:3]) >= 400 and method != "HEAD":
        assert all(error["code"] for error in json.loads(content)["errors"])
        for error in json.loads(content)["errors"]:
            assert not UNSAFE.search(error["message"])


_application = lambda: Application(memory_storage())  # noqa: E731 - a new one each time: what fails once must fail again


# Dates, for which the standard library is an oracle


@_target(b"Fri, 31 Dec 1999 23:59:59 GMT", b"120", b"0.5", b"Friday, 31-Dec-99 23:59:59 GMT",
         words=(b",", b" ", b":", b"-", b"+9999", b"Jan", b"9999", b"00", b"GMT", b"EST", b"-0000", b"9" * 5000, "\u0663".encode(), b"(", b")"))  # fmt: skip
def date(data: bytes) -> None:
    """`Retry-After`."""
    response = requests.Response()
    response.headers["Retry-After"] = text = data.decode("latin-1")
    wait = retry_after(response)
    assert wait is None or 0 <= wait < 1e13
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        email.utils.parsedate_to_datetime(text.strip()).timestamp()
        assert wait is not None


# The whole client, over a socket


class _Parrot(threading.Thread):
    """Says the same to everybody who connects, and hangs up."""

    def __init__(self, said: bytes) -> None:
        super().__init__(daemon=True)
        self._said = said
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with contextlib.suppress(OSError), connection:
                    connection.settimeout(2)
                    connection.recv(1 << 16)
                    connection.sendall(self._said.replace(b"HOST", self.host.encode()))
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(0.05)
                    while connection.recv(1 << 16):  # else the answer could be lost to a reset
                        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.join(5)


@_target(
    *TARGETS["answer"].seeds,
    _http('WWW-Authenticate: Bearer realm="http://HOST/token",service="x"', '{"token":"t"}', "401 Unauthorized"),
    _http("Location: http://HOST/v2/elsewhere", status="307 Temporary Redirect"),
    _http(f"Content-Type: {MANIFEST_TYPE}", _json(MANIFEST)),
    _http(f"Content-Type: {INDEX_TYPE}\nOCI-Filters-Applied: artifactType", _json(INDEX)),
    _http("Content-Type: application/json", '{"repositories":["a/b",5],"tags":["v1"]}'),
    _http("Transfer-Encoding: chunked", "").replace(b"Content-Length: 0\r\n", b"") + b"5;x=y\r\nhello\r\n0\r\n\r\n",
    words=(*ANSWER_WORDS, b"HOST", b"307", b"401", b"404", b"201", b"202", b"206", b"416", b"HTTP/1.0", b"5\r\n", b"ffffffffffffffffff\r\n"),
    examples=25,
)  # fmt: skip
def wire(data: bytes) -> None:
    """Some verbs of a repository, whatever the server says."""
    parrot = _Parrot(data)
    network = Network(retries=0, max_wait=0.0, read_timeout=1.0, connect_timeout=1.0, total_timeout=0.3)
    transport = Transport(parrot.host, network=network, keychain=Keychain(environ={}))
    try:
        registry = Registry(transport)
        place = registry.repository("team/data")
        blob = Descriptor.of(b"content", LAYER_TYPE)
        leaf = Descriptor.of(LEAF, MANIFEST_TYPE)
        verbs = (
            registry.ping, lambda: list(itertools.islice(registry.catalog(), 50)), lambda: place.tags(limit=50), lambda: place.resolve("v1"),
            lambda: place.resolve(SHA), lambda: place.fetch(leaf), lambda: place.open(blob).read(), lambda: place.referrers(leaf), lambda: place.exists(blob),
            lambda: place.push_bytes(blob, b"content"), lambda: place.push_bytes(leaf, LEAF), lambda: place.untag("v1"), lambda: place.delete(leaf), place.can_push,
        )  # fmt: skip
        # Not all of them each time: some are patient, and wait before they ask again
        for verb in random.Random(zlib.crc32(data)).sample(verbs, 4):
            typed(verb)
    finally:
        transport.close()
        parrot.close()
