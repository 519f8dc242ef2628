"""Objects in S3, and in stores with its interface.

`obstore` moves whole objects and ranges, because it needs a fifth of the CPU time. `botocore` moves large objects and parts,
because another process may continue its multipart uploads. It also finds the credentials, for both.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from attrs import field, frozen

from ocikit.errors import InvalidArgument, InvalidDigest
from ocikit.forks import ForkSafeLock, fork_count
from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.cluster.object_store import (
    CONTINUATIONS,
    InvalidPart,
    ObjectStore,
    checked_key,
    require_size,
)
from ocikit.spec.digest import Digest

T = TypeVar("T")

#: Seconds until a connection is open, and until the next bytes of an answer arrive.
_CONNECT, _READ = 3, 10

#: The same for parts and large objects. The limit to connect is also that of each write of a body (urllib3), and a busy store
#: writes a part to its disk before it answers.
_CONNECT_LARGE, _READ_LARGE = 10, 30

#: Attempts of a request, and seconds after which there is no further one: an outage must not hold a thread for long.
_ATTEMPTS, _WINDOW = 4, 8.0

#: Seconds until the first of several attempts is repeated; each pause doubles.
_PAUSE = 0.1

#: Bytes of objects that are sent from memory.
_SMALL = 1 << 20

#: Bytes of a single request at most; S3's own limit is 5 GiB.
_SINGLE = 1 << 30

#: Bytes of an answer that a reader holds at once.
_CHUNK = 1 << 18

#: Seconds for which another part of the program may use credentials that change.
_CREDENTIALS = 300

#: The metadata of an object with its digest.
_DIGEST = "ocikit-digest"

#: A name that no object has, below the prefix. The answer to its request differs if the bucket is missing.
_NOTHING = "health"

#: What presigned URLs say of the answer. Content never changes, and it must not stay in a shared cache.
_ANSWER = {
    "response-cache-control": "private, immutable, max-age=31536000",
    "response-content-type": "application/octet-stream",
}

#: Operations whose answers take as long as the copy of a part or of a whole object.
_SLOW = {"put_object", "upload_part", "complete_multipart_upload"}

#: The number of forks at which this process used obstore first.
_used: dict[str, int] = {}

#: Connections that stay open for parts and large objects.
_CONNECTIONS = 64

_HINT = (
    "write s3://bucket/prefix, and after a question mark the parameters endpoint_url, region, path_style or public_url"
)
_CREDENTIALS_HINT = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws, or give the machine a role; never the URL"
)


@frozen(kw_only=True)
class S3Place:
    """Where objects are, and how clients reach them."""

    bucket: str
    prefix: str = ""
    """Start of all keys, without slashes around it."""
    region: str | None = None
    endpoint: str | None = None
    """URL of the server; None for Amazon's."""
    path_style: bool = field()
    """Whether the bucket is in the path of a URL, not in the name of its host."""
    public_endpoint: str | None = None
    """URL of the server for presigned URLs, if clients reach it under another one."""

    @path_style.default
    def _default_style(self) -> bool:
        return self.endpoint is not None or "." in self.bucket


def s3_place(url: str) -> S3Place:
    """Return what an `s3://` URL states.

    Raises:
        InvalidArgument: The URL is invalid, or has credentials.
    """
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise InvalidArgument("the URL of the object store is invalid", hint=_HINT) from None
    endpoints = {name: _endpoint(name, query.pop(name)) for name in ("endpoint_url", "public_url") if name in query}
    if "@" in parts.netloc or any("key" in name or "secret" in name or "token" in name for name in query):
        raise InvalidArgument("the URL of the object store has credentials", hint=_CREDENTIALS_HINT)
    style = {"1": True, "true": True, "0": False, "false": False, None: None}.get(query.pop("path_style", None), "")
    region = query.pop("region", None)
    if query or style == "" or not parts.netloc or parts.fragment:
        wrong = f"unknown parameters: {', '.join(sorted(query))}" if query else "it is not complete"
        raise InvalidArgument(f"the URL of the object store is invalid: {wrong}", hint=_HINT)
    return S3Place(
        bucket=parts.netloc,
        prefix=unquote(parts.path).strip("/"),
        region=region or None,
        endpoint=endpoints.get("endpoint_url"),
        public_endpoint=endpoints.get("public_url"),
        **({} if style is None else {"path_style": bool(style)}),
    )


def _endpoint(name: str, text: str) -> str:
    """Return the URL of a server.

    Raises:
        InvalidArgument: It is not one, or has credentials.
    """
    try:
        parts = urlsplit(text)
    except ValueError:
        raise InvalidArgument(f"{name} of the object store is not a URL of a server", hint=_HINT) from None
    if "@" in parts.netloc:
        raise InvalidArgument(f"{name} of the object store has credentials", hint=_CREDENTIALS_HINT)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise InvalidArgument(f"{name} of the object store is not a URL of a server", hint=_HINT)
    return text.rstrip("/")


class S3Objects(ObjectStore):
    """Objects in a bucket.

    Args:
        place: Bucket and server.

    Raises:
        InvalidArgument: There are no credentials, or a package is missing.
    """

    def __init__(self, place: S3Place) -> None:
        self._place = place
        self._root = f"{place.prefix}/" if place.prefix else ""
        self._lock = ForkSafeLock()
        self._forks = fork_count()
        self._connected: _Clients | None = None
        self._clients()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._place!r})"

    def put(self, key: str, file: BinaryIO, size: int, *, digest: Digest | None = None) -> None:
        """See `ObjectStore`."""
        name = self._name(key)
        start = require_size(file, size)
        if size <= _SMALL:
            self._clients().put(name, _read_exactly(file, size), digest)
        elif size <= _SINGLE:
            body = _Window(file, start, size)
            self._send("put_object", body, Key=name, ContentLength=size, **_described(digest))
        else:
            self._put_parts(key, file, size, digest)

    def open(self, key: str, first: int = 0, length: int | None = None) -> BinaryIO:
        """See `ObjectStore`."""
        if length == 0:
            if self.size(key) is None:
                raise KeyError(key)
            return io.BytesIO()
        return _Reader(self._clients(), key, self._name(key), first, length)  # type: ignore[return-value]  # typeshed has no BinaryIO in io

    def size(self, key: str) -> int | None:
        """See `ObjectStore`."""
        meta = self._clients().head(self._name(key))
        return None if meta is None else int(meta.meta["size"])

    def digest(self, key: str) -> Digest | None:
        """See `ObjectStore`."""
        found = self._clients().head(self._name(key))
        text = found.attributes.get(_DIGEST) if found is not None else None
        try:
            return Digest(text) if text else None
        except InvalidDigest:
            return None

    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """See `ObjectStore`."""
        names = {self._name(key): key for key in keys}
        if not names:
            return {}
        failed = self._clients().delete(list(names))
        return {names[name]: reason for name, reason in failed.items() if name in names}

    def iterate(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, int, float]]:
        """See `ObjectStore`."""
        last = ""
        for meta in self._clients().list(self._root, prefix, after):
            key = meta["path"][len(self._root) :]
            if key > after and key.startswith(prefix):
                if key <= last:  # a directory bucket; a merge of this list with rows would miss objects
                    raise Unavailable("the object store does not list its objects in order: use a bucket that does")
                last = key
                yield key, int(meta["size"]), meta["last_modified"].timestamp()
            elif key > prefix and not key.startswith(prefix):
                return

    def begin_parts(self, key: str, *, digest: Digest | None = None) -> str:
        """See `ObjectStore`."""
        return str(self._call("create_multipart_upload", Key=self._name(key), **_described(digest))["UploadId"])

    def put_part(self, key: str, multipart: str, number: int, file: BinaryIO, size: int) -> str:
        """See `ObjectStore`."""
        body = _Window(file, require_size(file, size), size)
        answer = self._send("upload_part", body, PartNumber=number, ContentLength=size, **self._upload(key, multipart))
        return str(answer["ETag"])

    def complete_parts(self, key: str, multipart: str, etags: Sequence[str]) -> None:
        """See `ObjectStore`."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, start=1)]
        self._call("complete_multipart_upload", MultipartUpload={"Parts": parts}, **self._upload(key, multipart))

    def abort_parts(self, key: str, multipart: str) -> None:
        """See `ObjectStore`."""
        with contextlib.suppress(KeyError):
            self._call("abort_multipart_upload", **self._upload(key, multipart))

    def link(self, key: str, *, seconds: int) -> str | None:
        """See `ObjectStore`."""
        return self._clients().sign(self._name(key), seconds)

    def check(self) -> None:
        """See `ObjectStore`."""
        self._clients().require_bucket(quick=True)

    def close(self) -> None:
        """See `ObjectStore`."""
        with self._lock:
            connected, self._connected = self._connected, None
        if connected is not None and self._forks == fork_count():
            connected.close()

    def _name(self, key: str) -> str:
        """Return the name of an object in the bucket."""
        return self._root + checked_key(key)

    def _upload(self, key: str, multipart: str) -> dict[str, str]:
        """Return the parameters of a multipart upload."""
        if not multipart or ".." in multipart:  # versitygw 1.8 takes an id as a path
            raise KeyError(multipart)
        return {"Key": self._name(key), "UploadId": multipart}

    def _clients(self) -> _Clients:
        connected = self._connected
        if connected is not None and self._forks == fork_count():
            return connected
        with self._lock:
            if self._connected is None or self._forks != fork_count():
                self._connected = _Clients(self._place)
                self._forks = fork_count()
            return self._connected

    def _call(self, operation: str, **parameters: Any) -> Any:
        return self._clients().call(operation, parameters)

    def _send(self, operation: str, body: _Window, **parameters: Any) -> Any:
        return self._clients().call(operation, {"Body": body, **parameters}, rewind=body.rewind)

    def _put_parts(self, key: str, file: BinaryIO, size: int, digest: Digest | None) -> None:
        """Store an object that is too large for one request."""
        part = max(self.part_size, -(-size // 10_000))
        multipart = self.begin_parts(key, digest=digest)
        try:
            etags = []
            for number, first in enumerate(range(0, size, part), start=1):
                start = file.tell()
                length = min(part, size - first)
                etags.append(self.put_part(key, multipart, number, file, length))
                file.seek(start + length)
            self.complete_parts(key, multipart, etags)
        except BaseException:
            with contextlib.suppress(Unavailable):
                self.abort_parts(key, multipart)
            raise


class _Clients:
    """The clients of a process."""

    def __init__(self, place: S3Place) -> None:
        try:
            import botocore.session  # noqa: PLC0415 - optional package
            import obstore  # noqa: PLC0415 - optional package
            import obstore.store  # noqa: PLC0415 - optional package
            from obstore.exceptions import BaseError  # noqa: PLC0415 - optional package
        except ImportError as error:
            raise InvalidArgument(
                "objects in S3 need obstore and boto3", hint="pip install 'ocikit[cluster]'"
            ) from error
        self._obstore_module: Any = obstore
        connect: Any = obstore.store.S3Store
        self._failures = BaseError
        self.place = place
        self._session = botocore.session.Session()
        self._credentials = self._session.get_credentials()
        if self._credentials is None:
            raise InvalidArgument("there are no credentials for the object store", hint=_CREDENTIALS_HINT)
        self._region = place.region or self._session.get_config_variable("region") or "us-east-1"
        self._base = self._bucket_url(place.endpoint or self._default_endpoint())
        self._public = self._bucket_url(place.public_endpoint) if place.public_endpoint else self._base
        bundle = self._session.get_config_variable("ca_bundle")
        certificates = {"root_certificate": Path(bundle).read_bytes()} if bundle else {}
        limits: dict[str, Any] = {
            "connect_timeout": f"{_CONNECT}s",
            "read_timeout": f"{_READ}s",
            "timeout": "30d",
            **certificates,
        }
        backoff: dict[str, Any] = {
            "init_backoff": timedelta(seconds=_PAUSE),
            "max_backoff": timedelta(seconds=2),
            "base": 2,
        }
        retries: dict[str, Any] = {
            "max_retries": _ATTEMPTS - 1,
            "retry_timeout": timedelta(seconds=_WINDOW),
            "backoff": backoff,
        }
        config: dict[str, Any] = {
            "endpoint": self._base.removesuffix("/" + place.bucket) if place.path_style else self._base,
            "region": self._region,
            "virtual_hosted_style_request": not place.path_style,
            "unsigned_payload": True,
            "credential_provider": self._current_credentials,
        }
        http = {"allow_http": self._base.startswith("http:")}
        self._store = connect(place.bucket, client_options={**limits, **http}, retry_config=retries, **config)
        quick = {**limits, **http, "connect_timeout": "1s", "read_timeout": "2s", "timeout": "2s"}
        self._quick = connect(place.bucket, client_options=quick, retry_config={"max_retries": 0}, **config)
        self._lock = ForkSafeLock()
        self._botos: dict[int, Any] = {}

    @property
    def _obstore(self) -> Any:
        """The package, of whose threads a forked process has no copies: there a request would never end."""
        if _used.setdefault("forks", fork_count()) != fork_count():
            raise RuntimeError("the object store was used before this process was forked; use it in the workers only")
        return self._obstore_module

    def put(self, name: str, data: bytes, digest: Digest | None) -> None:
        """Store an object from memory."""
        attributes = {"Content-Type": "application/octet-stream", **({_DIGEST: digest} if digest else {})}
        try:
            self._obstore.put(self._store, name, data, attributes=attributes, use_multipart=False)
        except (self._failures, FileNotFoundError) as error:
            raise _unavailable(error) from error

    def get(self, name: str, first: int, last: int | None) -> Any:
        """Return the answer to a GET request of a range.

        Raises:
            FileNotFoundError: There is no such object.
            _BeyondEnd: The range starts at the end of the object, or behind.
        """
        options: dict[str, Any] = {}
        if last is not None:
            options["range"] = (first, last)
        elif first:
            options["range"] = {"offset": first}
        try:
            return self._obstore.get(self._store, name, options=options)
        except (self._failures, FileNotFoundError) as error:
            if " 416 " in str(error).partition("\n")[0]:  # obstore has no class for it
                raise _BeyondEnd from error
            with self._errors():
                raise

    def head(self, name: str) -> Any:
        """Return the answer to a HEAD request, or None."""
        try:
            with self._errors():
                return self._obstore.get(self._store, name, options={"head": True})
        except FileNotFoundError:
            self.require_bucket()  # the answer to HEAD has no body with a reason
            return None

    def require_bucket(self, *, quick: bool = False) -> None:
        """Ask for an object that does not exist.

        Raises:
            Unavailable: The bucket does not exist, or the answer is another one.
        """
        name = f"{self.place.prefix}/{_NOTHING}" if self.place.prefix else _NOTHING
        with contextlib.suppress(FileNotFoundError), self._errors():
            self._obstore.get(self._quick if quick else self._store, name)

    def list(self, root: str, prefix: str, after: str) -> Iterator[Any]:
        """Yield the metadata of objects below the folder of a prefix, from the prefix or a key on."""
        folder = root + (prefix.rpartition("/")[0] + "/" if "/" in prefix else "")
        if prefix > after and not prefix.endswith("/") and prefix:
            # The list starts after a name: that of the prefix itself comes first
            found = self.head(root + prefix)
            if found is not None:
                yield found.meta
        start = root + max(prefix, after)
        with self._errors():
            for metas in self._obstore.list(self._store, folder or None, offset=start, chunk_size=1000):
                yield from metas

    def chunks(self, answer: Any) -> Iterator[Any]:
        """Yield the bytes of an answer."""
        with self._errors():
            yield from answer.stream(min_chunk_size=_CHUNK)

    def delete(self, names: Sequence[str]) -> dict[str, str]:
        """Delete objects and return the reasons of those that failed."""
        objects = [{"Key": name} for name in names]
        answer = self.call("delete_objects", {"Delete": {"Objects": objects, "Quiet": True}})
        return {
            error["Key"]: f"{error.get('Code')}: {error.get('Message')}"
            for error in answer.get("Errors", ())
            if error.get("Code") not in {"NoSuchKey", "404"}
        }

    def call(self, operation: str, parameters: dict[str, Any], *, rewind: Callable[[], None] | None = None) -> Any:
        """Call an operation of S3, again after a failure of the network or the server.

        Raises:
            KeyError: There is no such multipart upload.
            InvalidPart: A part is not the one that was stored.
            Unavailable: There is no answer, or another one.
        """
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - optional package

        deadline = time.monotonic() + _WINDOW
        method = getattr(self._boto(_READ_LARGE if operation in _SLOW else _READ), operation)
        for attempt in range(_ATTEMPTS):
            if rewind is not None:
                rewind()
            try:
                return method(Bucket=self.place.bucket, **parameters)
            except (ClientError, BotoCoreError, OSError) as error:
                code, status = _code(error)
                if code == "NoSuchUpload":
                    raise KeyError(parameters.get("UploadId")) from error
                if code in {"InvalidPart", "InvalidPartOrder", "EntityTooSmall"}:
                    raise InvalidPart(str(error)) from error
                pause = _PAUSE * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                again = status is None or status >= 500 or status in {408, 429}
                if not again or attempt == _ATTEMPTS - 1 or time.monotonic() + pause > deadline:
                    raise _unavailable(error) from error
                time.sleep(pause)
        raise AssertionError  # the last attempt returns or raises

    def sign(self, name: str, seconds: int) -> str:
        """Return a presigned URL of an object."""
        from botocore.auth import S3SigV4QueryAuth  # noqa: PLC0415 - optional package
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415 - optional package

        request = AWSRequest("GET", f"{self._public}/{quote(name, safe='/-._~')}", params=dict(_ANSWER))
        S3SigV4QueryAuth(self._credentials, "s3", self._region, expires=seconds).add_auth(request)
        return str(request.url)

    def close(self) -> None:
        """Close the connections of both clients."""
        with self._lock:
            botos, self._botos = self._botos, {}
        for boto in botos.values():
            boto.close()

    def _boto(self, seconds: int) -> Any:
        """Return the client that waits some seconds for an answer, made on its first use: that takes half a second."""
        boto = self._botos.get(seconds)
        if boto is None:
            with self._lock:
                boto = self._botos.get(seconds)
                if boto is None:
                    from botocore.config import Config  # noqa: PLC0415 - optional package

                    style = "path" if self.place.path_style else "virtual"
                    config = Config(
                        signature_version="s3v4",
                        connect_timeout=_CONNECT_LARGE,
                        read_timeout=seconds,
                        retries={"total_max_attempts": 1, "mode": "standard"},
                        max_pool_connections=_CONNECTIONS,
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                        s3={"addressing_style": style, "payload_signing_enabled": False},
                    )
                    boto = self._botos[seconds] = self._session.create_client(
                        "s3", region_name=self._region, endpoint_url=self.place.endpoint, config=config
                    )
        return boto

    def _default_endpoint(self) -> str:
        given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        domain = "amazonaws.com.cn" if self._region.startswith("cn-") else "amazonaws.com"
        return (given or f"https://s3.{self._region}.{domain}").rstrip("/")

    def _bucket_url(self, endpoint: str) -> str:
        if self.place.path_style:
            return f"{endpoint}/{self.place.bucket}"
        scheme, _, host = endpoint.partition("://")
        return f"{scheme}://{self.place.bucket}.{host}"

    def _current_credentials(self) -> dict[str, Any]:
        """Return credentials for obstore, which asks again when they expire."""
        frozen = self._credentials.get_frozen_credentials()
        # botocore refreshes credentials of a role by itself
        changing = hasattr(self._credentials, "refresh_needed")
        expires = datetime.now(UTC) + timedelta(seconds=_CREDENTIALS) if changing else None
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": expires,
        }

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Report errors of obstore as `Unavailable`, except a missing object.

        Raises:
            FileNotFoundError: There is no such object.
        """
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise _unavailable(error) from error
            raise
        except self._failures as error:
            raise _unavailable(error) from error


class _BeyondEnd(Exception):
    """A range starts at the end of an object, or behind."""


class _Window:
    """A part of a file, as the body of a request."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._position = 0

    def rewind(self) -> None:
        """Move to the start."""
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes."""
        left = self._size - self._position
        data = self._file.read(left if size is None or size < 0 else min(size, left))
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position."""
        self._position = offset + {0: 0, 1: self._position, 2: self._size}[whence]
        self._file.seek(self._start + self._position)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position


class _Reader(io.RawIOBase):
    """A range of an object. After a broken answer, it asks for the rest."""

    def __init__(self, clients: _Clients, key: str, name: str, first: int, length: int | None) -> None:
        self._clients = clients
        self._name = name
        self._position = first
        self._end: int | None = None if length is None else first + length
        self._chunks: Iterator[Any] = iter(())
        self._chunk = memoryview(b"")
        try:
            self._ask()
        except FileNotFoundError as error:
            raise KeyError(key) from error
        except _BeyondEnd as error:
            if clients.head(name) is None:
                raise KeyError(key) from error
            self._end = first

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._chunk or self._next()
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(chunk))
        target[:count] = chunk[:count]
        self._chunk = chunk[count:]
        self._position += count
        return count

    def read(self, size: int = -1, /) -> bytes:
        """Return `size` bytes, fewer only at the end."""
        pieces = []
        left = size
        while left:
            chunk = self._chunk or self._next()
            if not chunk:
                break
            piece = chunk if left < 0 else chunk[:left]
            pieces.append(piece)
            left -= len(piece) if left > 0 else 0
            self._chunk = chunk[len(piece) :]
            self._position += len(piece)
        return b"".join(pieces)

    def readall(self) -> bytes:
        return self.read()

    def close(self) -> None:
        self._chunks = iter(())
        self._chunk = memoryview(b"")
        super().close()

    def _next(self) -> memoryview:
        """Return the next chunk, empty at the end."""
        for attempt in range(CONTINUATIONS + 1):
            if self._end is None or self._position >= self._end:
                return memoryview(b"")
            try:
                if attempt:
                    time.sleep(_PAUSE * 2**attempt)
                    self._ask()
                chunk = next(self._chunks, None)
            except FileNotFoundError as error:
                raise Unavailable("an object was deleted while it was read") from error
            except Unavailable:
                if attempt == CONTINUATIONS:
                    raise
                continue
            if chunk is not None and len(chunk):
                return memoryview(chunk)[: self._end - self._position]
        raise Unavailable("the object store ends its answers early")

    def _ask(self) -> None:
        """Ask for the bytes from the position on."""
        answer = self._clients.get(self._name, self._position, self._end)
        self._end = min(answer.range[1], answer.range[1] if self._end is None else self._end)
        self._chunks = self._clients.chunks(answer)


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    data = b"".join(iter(lambda: file.read(size), b"")) if size else b""
    return data[:size]


def _described(digest: Digest | None) -> dict[str, Any]:
    """Return the parameters of a new object."""
    return {"ContentType": "application/octet-stream", "Metadata": {_DIGEST: digest} if digest else {}}


def _code(error: Exception) -> tuple[str, int | None]:
    """Return S3's code and the status of an error; no status without an answer."""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        return "", None
    return answer.get("Error", {}).get("Code", ""), answer.get("ResponseMetadata", {}).get("HTTPStatusCode")


def _unavailable(error: BaseException) -> Unavailable:
    """Return the error for callers. Its message has no headers, and so no credentials."""
    cause = str(error).partition("\n")[0][:500]
    return Unavailable(f"the object store failed: {cause}")
