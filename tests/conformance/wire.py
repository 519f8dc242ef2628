"""Plain HTTP: a check controls every sent byte and sees every received one."""

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

TIMEOUT = 30.0  # seconds for one response

#: The codes of spec.md#error-codes.
CODES = frozenset(
    "BLOB_UNKNOWN BLOB_UPLOAD_INVALID BLOB_UPLOAD_UNKNOWN DIGEST_INVALID MANIFEST_BLOB_UNKNOWN MANIFEST_INVALID "
    "MANIFEST_UNKNOWN NAME_INVALID NAME_UNKNOWN SIZE_INVALID UNAUTHORIZED DENIED UNSUPPORTED TOOMANYREQUESTS".split()
)

Headers = Mapping[str, str | Sequence[str]]

_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"', re.IGNORECASE)
_REPOSITORY = re.compile(r"/v2/(.+?)/(?:blobs|manifests|tags|referrers)/")

#: Methods whose tokens a client shares. A GET of an upload session counts as a push.
_KINDS = {"GET": "pull", "HEAD": "pull", "POST": "push", "PATCH": "push", "PUT": "push"}


@frozen
class Answer:
    """A response, read completely."""

    method: str
    url: str
    status: int
    headers: HTTPMessage = field(repr=False)
    body: bytes = field(repr=False)

    def must(self, *statuses: int) -> "Answer":
        """Return itself.

        Raises:
            AssertionError: The status is another one. The message has the body.
        """
        assert self.status in statuses, (
            f"{self.method} {self.url}: {self.status}, not {' or '.join(map(str, statuses))}: {self.body[:400]!r}"
        )
        return self

    def header(self, name: str) -> str:
        """Return the one value of a header.

        Raises:
            AssertionError: The header is missing or repeated.
        """
        values = self.headers.get_all(name) or []
        assert len(values) == 1, f"{self.method} {self.url}: {name} is {values}"
        return values[0]

    @property
    def location(self) -> str:
        """The Location header as an absolute URL."""
        return urljoin(self.url, self.header("Location"))

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def must_explain(self) -> "Answer":
        """Return itself if the body follows spec.md#error-codes; responses to HEAD have no body.

        Raises:
            AssertionError: The body is invalid.
        """
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
    """Requests to one registry over one connection, with credentials on demand."""

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
        """Send a request, and repeat it with credentials after a 401.

        Args:
            method: The HTTP method.
            path: A path, or an absolute URL such as a Location.
            query: Parameters; a list repeats one.
            headers: Headers except Host, Content-Length and Authorization; a list repeats one.
            body: Sent with its Content-Length; b"" is an empty body, None sends none.
            chunked: Send the body without its length, in chunks.
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
        """Send a request without credentials."""
        return self._exchange(method, urljoin(self.url, path), {}, None, False, None)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _credentials(self, refused: Answer) -> str:
        """Return the next Authorization value. Parses one challenge with quoted parameters and one scope."""
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
            # A registry may reject a body before reading all of it
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.endheaders(_pieces(body or b"") if chunked else body, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(method, url, response.status, response.headers, response.read())
        except (OSError, HTTPException) as error:
            connection.close()
            if kept and isinstance(error, ConnectionError):  # the registry closed it: see test_connections
                return self._exchange(method, url, headers, body, chunked, authorization)
            raise

    def _connection(self, scheme: str, host: str) -> HTTPConnection:
        if host not in self._connections:
            kind = HTTPSConnection if scheme == "https" else HTTPConnection
            self._connections[host] = kind(host, timeout=TIMEOUT)
        return self._connections[host]


#: Both manifest types, as clients request them for an unknown type.
ACCEPT: Headers = {"Accept": [INDEX, IMAGE_MANIFEST]}


def _pieces(body: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    """Yield bytes as chunks of a chunked body, without an empty chunk, which would end it."""
    for start in range(0, len(body), size):
        yield body[start : start + size]
