"""Requests to a WSGI application without a server."""

import hashlib
import io
import json
import re
from urllib.parse import unquote, urlsplit
from wsgiref.util import is_hop_by_hop

from attrs import define, frozen
from ocikit.server import file_storage, memory_storage


@frozen
class Response:
    """The response of an application."""

    status: int
    headers: dict[str, str]
    """By lower-case name; repeated headers are joined with ", "."""
    body: bytes
    pairs: tuple[tuple[str, str], ...] = ()
    """The headers unchanged."""

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def errors(self):
        """The errors of the body, which must be the specification's JSON."""
        assert self.headers["content-type"] == "application/json"
        return self.json["errors"]

    @property
    def code(self):
        return self.errors[0]["code"]


def environ_of(method, url, headers=(), body=b"", **environ):
    """Return a WSGI environ for a request.

    Args:
        method: HTTP method.
        url: Encoded path with an optional query, or a whole URL.
        headers: Mapping or pairs.
        body: Bytes, sent with Content-Length; an iterable of bytes, sent chunked; or a file, used unchanged.
        environ: Further or replaced values; None removes a key.
    """
    parts = urlsplit(url)
    host = parts.netloc or "localhost"
    values = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(parts.path, encoding="latin-1"),
        "QUERY_STRING": parts.query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": host,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": parts.scheme or "http",
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if isinstance(body, bytes):
        values["wsgi.input"] = io.BytesIO(body)
        if body or method in {"POST", "PUT", "PATCH"}:
            values["CONTENT_LENGTH"] = str(len(body))
    elif hasattr(body, "read"):
        values["wsgi.input"] = body
    else:
        values["wsgi.input"] = io.BytesIO(b"".join(body))
        values["wsgi.input_terminated"] = True
        values["HTTP_TRANSFER_ENCODING"] = "chunked"
    for name, value in headers.items() if hasattr(headers, "items") else headers:
        key = name.upper().replace("-", "_")
        key = key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"
        values[key] = (
            f"{values[key]},{value}" if key in values and key != "HTTP_HOST" and key != "CONTENT_LENGTH" else value
        )
    values |= environ
    return {key: value for key, value in values.items() if value is not None}


def call(app, method, url, headers=(), body=b"", **environ):
    """Return the response of an application, checked against PEP 3333; see `environ_of` for the arguments."""
    values = environ_of(method, url, headers, body, **environ)
    values["wsgi.input"] = _Input(values["wsgi.input"])
    started = []

    def start_response(status, pairs, exc_info=None):
        assert not started
        started.append((status, tuple(pairs)))

    result = app(values, start_response)
    try:
        chunks = list(result)
    finally:
        if hasattr(result, "close"):
            result.close()
    (line, pairs), content = started[0], b"".join(chunks)
    status, merged = int(line.partition(" ")[0]), {}
    assert type(line) is str and line[3] == " " and all(type(chunk) is bytes for chunk in chunks)
    for name, value in pairs:
        # Servers written in other languages require exactly str
        assert type(name) is str and type(value) is str and _NAME.fullmatch(name) and _VALUE.fullmatch(value), (
            name,
            value,
        )
        assert not is_hop_by_hop(name)
        key = name.lower()
        merged[key] = f"{merged[key]}, {value}" if key in merged else value
    assert merged["x-content-type-options"] == "nosniff"
    if method == "HEAD" or status in {204, 304}:
        assert content == b""
    else:
        assert merged["content-length"] == str(len(content))
    assert status != 204 or "content-length" not in merged  # RFC 9110 #8.6
    return Response(status, merged, content, pairs)


#: RFC 9110 #5.1 and #5.5, without obsolete forms.
_NAME = re.compile(r"[A-Za-z0-9-]+")
_VALUE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")


class _Input:
    """A body that is read with a size only: some servers support nothing else."""

    def __init__(self, stream):
        self._stream = stream

    def read(self, size):
        assert type(size) is int and size >= 0
        return self._stream.read(size)


NAME = "team/data"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@define
class Registry:
    """An application with shortcuts for requests."""

    app: object

    def __call__(self, method, url, headers=(), body=b"", **environ):
        return call(self.app, method, url, headers, body, **environ)

    def blob(self, content, name=NAME, algorithm="sha256"):
        """Push a blob and return its descriptor."""
        digest = digest_of(content, algorithm)
        response = self("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", body=content)
        assert response.status == 201, response
        return {"mediaType": "application/octet-stream", "digest": digest, "size": len(content)}

    def image(self, name=NAME, **fields):
        """Push a config and return an image manifest with it as bytes."""
        config = self.blob(b"{}", name) | {"mediaType": "application/vnd.oci.empty.v1+json"}
        return encoded({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []} | fields)

    def put(self, raw, reference="v1", name=NAME, media_type=MANIFEST, headers=(), query="", **environ):
        """Push a manifest and return the response."""
        headers = {"Content-Type": media_type} | dict(headers)
        return self("PUT", f"/v2/{name}/manifests/{reference}{query}", headers, raw, **environ)

    def pushed(self, raw, reference="v1", name=NAME, **more):
        """Push a manifest and return its digest."""
        response = self.put(raw, reference, name, **more)
        assert response.status == 201, response
        return response.headers["docker-content-digest"]


def digest_of(content, algorithm="sha256"):
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def encoded(value):
    return json.dumps(value).encode()


def storage_of(kind, folder):
    """Return storage in memory, or on files in a folder."""
    return memory_storage() if kind == "memory" else file_storage(folder, durable=False)
