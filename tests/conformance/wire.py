"""HTTP as plain as it gets, so that a check says what is sent, byte for byte, and sees what comes back."""

import base64
import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from attrs import define, field, frozen

from tests.conformance.content import IMAGE_MANIFEST, INDEX

TIMEOUT = 30.0  # seconds, for one answer

#: The codes of spec.md#error-codes.
CODES = frozenset(
    "BLOB_UNKNOWN BLOB_UPLOAD_INVALID BLOB_UPLOAD_UNKNOWN DIGEST_INVALID MANIFEST_BLOB_UNKNOWN MANIFEST_INVALID "
    "MANIFEST_UNKNOWN NAME_INVALID NAME_UNKNOWN SIZE_INVALID UNAUTHORIZED DENIED UNSUPPORTED TOOMANYREQUESTS".split()
)

Headers = Mapping[str, str | Sequence[str]]

_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"', re.IGNORECASE)
_REPOSITORY = re.compile(r"/v2/(.+?)/(?:blobs|manifests|tags|referrers)/")

#: Methods whose tokens a client keeps together. An upload is asked about with GET, and is a push all the same.
_KINDS = {"GET": "pull", "HEAD": "pull", "POST": "push", "PATCH": "push", "PUT": "push"}


@frozen
class Answer:
    """A response, read to its end."""

    method: str
    url: str
    status: int
    headers: HTTPMessage = field(repr=False)
    body: bytes = field(repr=False)

    def must(self, *statuses: int) -> "Answer":
        """Itself. Raises: AssertionError: with the registry's words, for any other status."""
        assert self.status in statuses, (
            f"{self.method} {self.url}: {self.status}, not {' or '.join(map(str, statuses))}: {self.body[:400]!r}"
        )
        return self

    def header(self, name: str) -> str:
        """The one value of a header. Raises: AssertionError: if there is none, or are several."""
        values = self.headers.get_all(name) or []
        assert len(values) == 1, f"{self.method} {self.url}: {name} is {values}"
        return values[0]

    @property
    def location(self) -> str:
        """Where the registry points, as a whole URL."""
        return urljoin(self.url, self.header("Location"))

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def must_explain(self) -> "Answer":
        """Itself, if the body is what spec.md#error-codes wants; answers to HEAD have none. Raises: AssertionError."""
        if self.method == "HEAD":
            assert not self.body
            return self
        assert self.header("Content-Type").partition(";")[0] == "application/json", self
        errors = self.json["errors"]
        assert errors and all(error["code"] in CODES for error in errors), errors
        assert all(isinstance(error.get("message", ""), str) for error in errors), errors
        return self


@define(eq=False)
class Wire:
    """Requests to one registry, over one connection, with credentials when they are asked for."""

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    _kept: dict[tuple[str, str], str] = field(factory=dict, repr=False)
    _connections: dict[str, HTTPConnection] = field(factory=dict, repr=False)

    def get(self, path: str, **options: Any) -> Answer:
        return self.send("GET", path, **options)

    def head(self, path: str, **options: Any) -> Answer:
        return self.send("HEAD", path, **options)

    def post(self, path: str, **options: Any) -> Answer:
        return self.send("POST", path, **options)

    def patch(self, path: str, **options: Any) -> Answer:
        return self.send("PATCH", path, **options)

    def put(self, path: str, **options: Any) -> Answer:
        return self.send("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> Answer:
        return self.send("DELETE", path, **options)

    def send(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        headers: Headers | None = None,
        body: bytes | None = None,
        chunked: bool = False,
    ) -> Answer:
        """One request, and again with credentials if the registry answers 401.

        Args:
            method: of HTTP.
            path: or a whole URL, such as a Location.
            query: parameters; a list is one parameter several times.
            headers: besides Host, Content-Length and Authorization; a list is a header several times.
            body: sent with its Content-Length; b"" is a body of no bytes, None is none.
            chunked: sends it without its length, in pieces.
        """
        url = urljoin(self.url, path)
        if query:
            url += ("&" if urlsplit(url).query else "?") + urlencode(query, doseq=True)
        key = (found[1] if (found := _REPOSITORY.search(urlsplit(url).path)) else "", _KINDS.get(method, method))
        kept = self._kept.get(key)
        answer = self._exchange(method, url, headers or {}, body, chunked, kept)
        if answer.status == 401 and self.user is not None:
            self._kept[key] = self._credentials(answer)
            answer = self._exchange(method, url, headers or {}, body, chunked, self._kept[key])
        return answer

    def anonymous(self, method: str, path: str) -> Answer:
        """One request without credentials."""
        return self._exchange(method, urljoin(self.url, path), {}, None, False, None)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _credentials(self, refused: Answer) -> str:
        """What an Authorization header says next. Reads one challenge, with quoted parameters and one scope in it."""
        challenge = refused.header("WWW-Authenticate")
        basic = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic":
            return basic
        assert scheme.lower() == "bearer", challenge
        parameters = dict(_PARAMETER.findall(rest))
        asked = {key: parameters[key] for key in ("service", "scope") if key in parameters}
        url = urljoin(refused.url, parameters["realm"]) + "?" + urlencode(asked)
        answer = self._exchange("GET", url, {"Accept": "application/json"}, None, False, basic).must(200)
        return "Bearer " + (answer.json.get("access_token") or answer.json["token"])

    def _exchange(
        self, method: str, url: str, headers: Headers, body: bytes | None, chunked: bool, authorization: str | None
    ) -> Answer:
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection = self._connection(parts.scheme, parts.netloc)
        kept = connection.sock is not None
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in headers.items():
                for each in [value] if isinstance(value, str) else value:
                    connection.putheader(name, each)
            if authorization:
                connection.putheader("Authorization", authorization)
            if chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            elif body is not None:
                connection.putheader("Content-Length", str(len(body)))
            # A registry may refuse a body, and hear no more of it, before it has got all
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.endheaders(_pieces(body or b"") if chunked else body, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(method, url, response.status, response.headers, response.read())
        except (OSError, HTTPException) as error:
            connection.close()
            if kept and isinstance(error, ConnectionError):  # it was closed meanwhile: see test_connections
                return self._exchange(method, url, headers, body, chunked, authorization)
            raise

    def _connection(self, scheme: str, host: str) -> HTTPConnection:
        if host not in self._connections:
            kind = HTTPSConnection if scheme == "https" else HTTPConnection
            self._connections[host] = kind(host, timeout=TIMEOUT)
        return self._connections[host]


#: Both types of manifests are asked for, as clients do that don't know yet what it will be.
ACCEPT: Headers = {"Accept": [INDEX, IMAGE_MANIFEST]}


def _pieces(body: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    """Bytes as chunks of a chunked body. An empty chunk would end it."""
    for start in range(0, len(body), size):
        yield body[start : start + size]
