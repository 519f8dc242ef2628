"""Every endpoint of the distribution specification. distribution-spec spec.md#endpoints."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from urllib.parse import quote, urlencode

import requests
from attrs import evolve, frozen

from ocikit import display
from ocikit.display.signatures import readable
from ocikit.errors import InvalidReference, InvalidResponse, UploadInvalid
from ocikit.remote.http.request import BodyStream
from ocikit.remote.http.responses import announced_digest, drain, json_object, media_type, request_fields
from ocikit.remote.http.transport import Transport
from ocikit.remote.http.urls import check_redirect, join
from ocikit.remote.pagination import iter_pages
from ocikit.spec import media_types
from ocikit.spec.challenge import Scope
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.reference import check_repository, check_tag

log = logging.getLogger("ocikit")

#: Bytes of a manifest that is read. Registries must accept 4 MiB; some accept more.
MANIFEST_LIMIT = 8 << 20

_ACCEPT = {"Accept": ", ".join(media_types.ACCEPTED)}
_OCTETS = {"Content-Type": media_types.OCTET_STREAM}


@frozen(kw_only=True)
class UploadSession:
    """An upload that a registry has opened."""

    location: str
    """Opaque absolute URL; changes with every response."""
    action: str
    """Operation, as named in error messages."""
    min_chunk: int = 0
    """Bytes of every chunk but the last (`OCI-Chunk-Min-Length`)."""
    complete: bool = False
    """Whether the registry reported the blob as created (201) although the session was not closed."""

    @classmethod
    def of(cls, response: requests.Response, transport: Transport, action: str) -> UploadSession:
        """Return the session that a response's Location names.

        Raises:
            InvalidResponse: The Location is missing or leads to an unsafe address.
        """
        location = response.headers.get("Location")
        if not location:
            raise InvalidResponse(
                f"failed to {action}: {transport.host} opened an upload without a Location header",
                hint="the server does not implement the registry API; contact its operator",
                **request_fields(response),
            )
        # Relative to the requested URL; the query may be signed, so it stays byte for byte
        absolute = join(str(response.url), location)
        if not transport.serves(absolute):
            check_redirect(str(response.url), absolute, insecure=transport.insecure)
        header = response.headers.get("OCI-Chunk-Min-Length", "")
        min_chunk = int(header) if re.fullmatch(r"[0-9]{1,18}", header) else 0
        return cls(location=absolute, action=action, min_chunk=min_chunk, complete=response.status_code == 201)

    def updated(self, response: requests.Response, transport: Transport) -> UploadSession:
        """Return the session after a request to it.

        Some registries send its Location only if it changes.

        Raises:
            InvalidResponse: The Location leads to an unsafe address.
        """
        complete = self.complete or response.status_code == 201
        if not response.headers.get("Location"):
            return evolve(self, complete=complete)
        session = UploadSession.of(response, transport, self.action)
        return evolve(session, min_chunk=session.min_chunk or self.min_chunk, complete=complete)

    def commit_url(self, digest: Digest) -> str:
        """Return the URL of the final PUT, with the digest appended to the unchanged query."""
        return f"{self.location}{'&' if '?' in self.location else '?'}digest={quote(digest, safe='')}"


@readable
class Endpoints:
    """The endpoints of one repository. `Repository` builds the high-level operations from them.

    Args:
        transport: The registry.
        name: Repository, such as "library/alpine".
        actions: Rights to request for every call: a push requests all that it needs in its first token.

    >>> repository = ocikit.Session().repository("localhost:5000/ada/waves", push=True)
    >>> upload = repository.post_upload()
    >>> response = repository.put_upload(upload, ocikit.Digest.of(b"hello"), b"hello")
    >>> repository.get_blob(ocikit.Digest.of(b"hello")).content
    b'hello'
    """

    def __init__(self, transport: Transport, name: str, *, actions: Sequence[str] = ("pull",)) -> None:
        self.transport = transport
        self.name = check_repository(name)
        self._actions = tuple(actions)
        self._scope = Scope.repository(name, *actions)

    def scope(self, *actions: str) -> Scope:
        """Return the scope for these actions and all earlier ones.

        That way one token serves all requests.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves")
        >>> str(repository.scope("pull", "push"))
        'repository:ada/waves:pull,push'
        """
        if not set(actions).issubset(self._actions):
            merged = tuple(dict.fromkeys((*self._actions, *actions)))
            self._scope = Scope.repository(self.name, *merged)
            self._actions = merged
        return self._scope

    def _path(self, *parts: str) -> str:
        return "/".join((f"/v2/{self.name}", *parts))

    def action_name(self, verb: str, target: str = "") -> str:
        """Return the name of an operation for error messages, such as "pull ghcr.io/team/data:v1".

        Args:
            verb: Name of the operation, such as "pull".
            target: A tag or digest; "" for the repository.

        >>> repository = ocikit.Session().repository("ghcr.io/org/data")
        >>> repository.action_name("pull", "v1")
        'pull ghcr.io/org/data:v1'
        """
        separator = "" if not target else "@" if ":" in target else ":"
        return f"{verb} {self.transport.host}/{self.name}{separator}{target}"

    # Blobs

    def head_blob(
        self, digest: Digest, *, push: bool = False, ok_statuses: Sequence[int] = (), retry: bool = True
    ) -> requests.Response:
        """end-2: HEAD a blob.

        Args:
            digest: Digest of the blob.
            push: Request the rights for the upload that may follow.
            ok_statuses: Statuses above 399 that are returned instead of raised.
            retry: Retry after temporary failures.

        Returns:
            The response. Its headers have the size and the digest.

        Raises:
            BlobUnknown: The repository does not have the blob.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves", push=True)
        >>> repository.push_bytes(ocikit.Descriptor.of(b"hello", "text/plain"), b"hello")
        >>> repository.head_blob(ocikit.Digest.of(b"hello")).headers["Content-Length"]
        '5'
        """
        response = self.transport.request(
            "HEAD",
            self._path("blobs", digest),
            self.action_name("check", digest.short),
            scopes=(self.scope("pull", "push") if push else self.scope("pull"),),
            ok_statuses=ok_statuses,
            retry=retry,
        )
        drain(response)
        return response

    def get_blob(self, digest: Digest, *, start: int = 0, end: int | None = None) -> requests.Response:
        """end-2: GET a blob and return its unread response.

        Args:
            digest: Digest of the blob.
            start: First byte.
            end: Last byte, included; None for the end of the blob.

        Raises:
            BlobUnknown: The repository does not have the blob.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves", push=True)
        >>> repository.push_bytes(ocikit.Descriptor.of(b"hello", "text/plain"), b"hello")
        >>> repository.get_blob(ocikit.Digest.of(b"hello"), start=1).content
        b'ello'
        """
        headers = {"Range": f"bytes={start}-{'' if end is None else end}"} if start or end is not None else {}
        action = self.action_name("pull", digest)
        return self.transport.request(
            "GET", self._path("blobs", digest), action, scopes=(self.scope("pull"),), headers=headers
        )

    def blob_url(self, digest: Digest) -> str:
        """Return the URL of a blob. Nothing is requested.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves")
        >>> repository.blob_url(ocikit.Digest.of(b"hello"))
        'http://localhost:5000/v2/ada/waves/blobs/sha256:2cf24dba...'
        """
        return self.transport.base + self._path("blobs", digest)

    def delete_blob(self, digest: Digest, *, absent_ok: bool = False) -> None:
        """end-10: Delete a blob.

        Args:
            digest: Digest of the blob.
            absent_ok: Raise no error if there is no such blob.

        Raises:
            BlobUnknown: The repository does not have the blob, and not `absent_ok`.
            Unsupported: The registry does not delete blobs.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves", push=True)
        >>> blob = ocikit.Descriptor.of(b"hello", "text/plain")
        >>> repository.push_bytes(blob, b"hello")
        >>> repository.delete_blob(blob.digest)
        >>> repository.exists(blob)
        False
        """
        self._delete("blobs", digest, absent_ok=absent_ok)

    # Uploads

    def post_upload(self, digest: Digest | None = None) -> UploadSession:
        """end-4a, end-4c: Open an upload session.

        Args:
            digest: Digest of the blob, if known: error messages name it, and an algorithm other than sha256 is announced.

        Returns:
            The session for the next request.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves", push=True)
        >>> upload = repository.post_upload()
        >>> upload.complete
        False
        """
        algorithm = "sha256" if digest is None else digest.algorithm
        query = "" if algorithm == "sha256" else f"?digest-algorithm={quote(algorithm)}"
        action = self.action_name("push to", digest.short if digest else "")
        response = self._write("POST", self._path("blobs", "uploads", query), action, retry=True)
        return UploadSession.of(response, self.transport, action)

    def post_blob(self, digest: Digest, content: bytes, *, retry: bool = True) -> UploadSession | None:
        """end-4b: Push a blob in a single POST.

        Args:
            digest: Digest of the blob.
            content: The blob.
            retry: Retry after temporary failures.

        Returns:
            None if the blob was accepted, or a session if the registry requires a PUT.

        Raises:
            UploadInvalid: The registry rejects the content or stored another blob.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves", push=True)
        >>> digest = ocikit.Digest.of(b"hello")
        >>> if upload := repository.post_blob(digest, b"hello"):
        ...     response = repository.put_upload(upload, digest, b"hello")
        >>> repository.get_blob(digest).content
        b'hello'
        """
        path = self._path("blobs", "uploads", f"?digest={quote(digest, safe='')}")
        action = self.action_name("push to", digest.short)
        response = self._write("POST", path, action, headers=_OCTETS, body=content, retry=retry)
        if response.status_code != 201:
            return UploadSession.of(response, self.transport, action)
        stored = response.headers.get("Docker-Content-Digest")
        if stored and stored != digest and stored.partition(":")[0] == digest.algorithm:
            raise wrong_blob(response, self.transport.host, digest)
        return None

    def mount_blob(self, digest: Digest, source: str) -> UploadSession | None:
        """end-11: Mount a blob from another repository.

        Args:
            digest: Digest of the blob.
            source: Repository of the same registry.

        Returns:
            None if the blob was mounted, or a session if it must be uploaded.

        Raises:
            RegistryError: The registry rejects the mount; an upload may still be possible.

        >>> session, blob = ocikit.Session(), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> session.repository("localhost:5000/ada/waves", push=True).push_bytes(blob, b"hello")
        >>> repository = session.repository("localhost:5000/bob/waves", push=True)
        >>> repository.mount_blob(blob.digest, "ada/waves") is None
        True
        """
        path = self._path("blobs", "uploads", f"?{urlencode({'mount': digest, 'from': source})}")
        scopes = (self.scope("pull", "push"), Scope.repository(source, "pull"))
        response = self._write("POST", path, self.action_name("mount into", digest), scopes=scopes, retry=True)
        if response.status_code == 201:
            return None
        return UploadSession.of(response, self.transport, self.action_name("push to", digest.short))

    def patch_upload(
        self, session: UploadSession, offset: int, chunk: bytes | BodyStream, *, length: int | None = None
    ) -> UploadSession:
        """end-5: Send a chunk that starts at byte `offset`.

        Args:
            session: Session as the request before returned it.
            offset: Offset of the chunk's first byte in the blob.
            chunk: Bytes or a stream.
            length: Bytes of the stream.

        Returns:
            The session for the next request.

        Raises:
            RangeInvalid: The registry expects another offset.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves", push=True)
        >>> upload = repository.post_upload()
        >>> upload = repository.patch_upload(upload, 0, b"hel")
        >>> upload = repository.patch_upload(upload, 3, b"lo")
        >>> repository.put_upload(upload, ocikit.Digest.of(b"hello")).status_code
        201
        """
        size = len(chunk) if isinstance(chunk, bytes) else length or 0
        headers = {**_OCTETS, "Content-Range": f"{offset}-{offset + size - 1}"}
        response = self._write("PATCH", session.location, session.action, headers=headers, body=chunk, length=length)
        return session.updated(response, self.transport)

    def put_upload(
        self,
        session: UploadSession,
        digest: Digest,
        content: bytes | BodyStream | None = None,
        *,
        length: int | None = None,
        offset: int | None = None,
        timeout: float | None = None,
    ) -> requests.Response:
        """end-6: Close a session.

        Args:
            session: Session as the request before returned it.
            digest: Digest of the whole blob.
            content: The whole blob or its last chunk.
            length: Bytes of the content, if it is a stream.
            offset: Offset of the last chunk in the blob.
            timeout: Seconds without data, if not the network's.

        Returns:
            The response, whose `Docker-Content-Digest` names what was stored.

        Raises:
            UploadInvalid: The content does not have the digest.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves", push=True)
        >>> upload = repository.post_upload()
        >>> repository.put_upload(upload, ocikit.Digest.of(b"hello"), b"hello").status_code
        201
        """
        size = len(content) if isinstance(content, bytes) else length
        headers = dict(_OCTETS) if content is not None else {}
        if offset is not None and size:
            headers["Content-Range"] = f"{offset}-{offset + size - 1}"
        return self._write(
            "PUT",
            session.commit_url(digest),
            session.action,
            headers=headers,
            body=content,
            length=length,
            timeout=timeout,
        )

    def get_upload(self, session: UploadSession) -> tuple[UploadSession, int | None]:
        """end-13: Return the session and the number of bytes that it holds.

        `Range: 0-0` is ambiguous, because registries return it for one byte and for none. It counts as none: sending
        from the start again is correct for the one and rejected with RangeInvalid for the other.

        Returns:
            The session with its current location, and the bytes; None if the registry does not report them.

        Raises:
            UploadUnknown: The session does not exist.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves", push=True)
        >>> upload = repository.patch_upload(repository.post_upload(), 0, b"hello")
        >>> upload, size = repository.get_upload(upload)
        >>> size
        5
        """
        response = self._write("GET", session.location, session.action, retry=True)
        match = re.fullmatch(r"(?:bytes=)?0-([0-9]{1,18})", response.headers.get("Range", ""))
        last = int(match[1]) if match else None
        received = None if last is None else last + 1 if last else 0
        return session.updated(response, self.transport), received

    def delete_upload(self, session: UploadSession) -> None:
        """end-14: Cancel a session.

        Raises:
            RegistryError: The registry rejects it; the specification recommends to ignore that.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves", push=True)
        >>> repository.delete_upload(repository.post_upload())
        """
        self._write("DELETE", session.location, session.action)

    # Manifests

    def head_manifest(self, target: str, *, ok_statuses: Sequence[int] = ()) -> requests.Response:
        """end-3: HEAD a manifest.

        Args:
            target: Tag or digest.
            ok_statuses: Statuses above 399 that are returned instead of raised.

        Returns:
            The response. Its headers have the media type, the size and the digest.

        Raises:
            ManifestUnknown: The repository does not have the manifest.
            NameUnknown: The registry does not have the repository.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves")
        >>> repository.head_manifest("v1").headers["Content-Type"]
        'application/vnd.oci.image.manifest.v1+json'
        """
        response = self.transport.request(
            "HEAD",
            self._path("manifests", target),
            self.action_name("pull", target),
            scopes=(self.scope("pull"),),
            headers=_ACCEPT,
            ok_statuses=ok_statuses,
        )
        drain(response)
        return response

    def get_manifest(self, target: str, *, limit: int = MANIFEST_LIMIT) -> tuple[bytes, str, requests.Response]:
        """end-3: GET a manifest.

        Args:
            target: Tag or digest.
            limit: Greatest length of the manifest, in bytes.

        Returns:
            The unverified bytes, the media type and the response.

        Raises:
            ManifestUnknown: The repository does not have the manifest.
            TooLarge: The manifest exceeds the limit.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves")
        >>> raw, media_type, response = repository.get_manifest("v1")
        >>> ocikit.Digest.of(raw) == artifact.digest
        True
        """
        raw, response = self.transport.read(
            self._path("manifests", target),
            self.action_name("pull", target),
            limit=limit,
            scopes=(self.scope("pull"),),
            headers=_ACCEPT,
            digest=Digest(target) if ":" in target else None,
        )
        return raw, media_type(response), response

    def put_manifest(
        self,
        target: str,
        raw: bytes,
        media_type: str,
        *,
        tags: Sequence[str] = (),
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> requests.Response:
        """end-7a, end-7b: Push a manifest.

        Args:
            target: Tag or digest.
            raw: Bytes of the manifest.
            media_type: Media type of the manifest.
            tags: With a digest, further tags that the registry may set in the same request.
            if_match: ETag of the manifest that may be replaced.
            if_none_match: Replace no manifest. Many registries ignore both conditions.

        Returns:
            The response: `OCI-Tag` names the tags that were set, `OCI-Subject` shows that the registry lists referrers.

        Raises:
            UploadInvalid: The registry rejects the manifest.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves", push=True)
        >>> index = ocikit.Index(manifests=[])
        >>> response = repository.put_manifest("v1", index.raw, index.media_type)
        >>> repository.tags()
        ['v1']
        """
        query = f"?{urlencode([('tag', tag) for tag in tags])}" if tags else ""
        headers = {"Content-Type": media_type} | ({"If-Match": if_match} if if_match else {})
        if if_none_match:
            headers["If-None-Match"] = "*"
        path = self._path("manifests", target) + query
        return self._write("PUT", path, self.action_name("push", target), headers=headers, body=raw, retry=True)

    def delete_manifest(self, target: str, *, absent_ok: bool = False) -> None:
        """end-9: Delete a tag, or a manifest with all its tags.

        Args:
            target: A digest, or a tag to delete alone.
            absent_ok: Raise no error if there is no such manifest.

        Raises:
            ManifestUnknown: The repository does not have the manifest, and not `absent_ok`.
            Unsupported: The registry does not delete it.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves")
        >>> repository.delete_manifest(artifact.digest)
        >>> repository.tags()
        []
        """
        self._delete("manifests", target, absent_ok=absent_ok)

    # Listings

    def list_tags(self, *, n: int | None = None, last: str | None = None) -> Iterator[list[str]]:
        """end-8a, end-8b: Yield pages of tags.

        Invalid names, as Nexus returns them, are skipped; the first page with some of them logs a warning.

        Args:
            n: Tags in a page; None for the registry's own page size.
            last: Start after this tag.

        Raises:
            NameUnknown: The registry does not have the repository.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"}, tags=["v2", "v3"])
        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves")
        >>> list(repository.list_tags(n=2))
        [['v1', 'v2'], ['v3']]
        """
        query = urlencode({key: value for key, value in (("n", n), ("last", last)) if value is not None})
        path = self._path("tags", "list") + (f"?{query}" if query else "")
        level = logging.WARNING
        for page in iter_pages(
            self.transport, path, self.action_name("list the tags of"), scopes=(self.scope("pull"),)
        ):
            tags: list[str] = []
            invalid: list[str] = []
            for name in page.items("tags"):
                try:
                    tags.append(check_tag(name))
                except (InvalidReference, TypeError):
                    invalid.append(display.quoted(name, 60))
            if invalid:
                count = display.pluralize(len(invalid), "invalid tag name")
                names = display.join_limited(invalid, 3)
                log.log(level, "%s/%s: ignored %s: %s", self.transport.host, self.name, count, names)
                level = logging.DEBUG
            yield tags

    def list_referrers(self, digest: Digest, artifact_type: str | None = None) -> Iterator[tuple[bytes, bool]]:
        """end-12a, end-12b: Yield pages of referrers.

        Each page is the bytes of an index, and whether the registry filtered it.

        Args:
            digest: Digest of the subject.
            artifact_type: Requests referrers of this type only; many registries ignore it.

        Raises:
            ManifestUnknown: The registry does not have this endpoint (404).
            NameUnknown: The registry does not have this endpoint (404).
            InvalidResponse: The response is not an index.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
        >>> report = ocikit.attach("localhost:5000/ada/waves:v1", {"report.json": b"{}"}, artifact_type="application/vnd.example.report")
        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves")
        >>> [ocikit.Index.parse(raw).manifests[0].artifact_type for raw, is_filtered in repository.list_referrers(artifact.digest)]
        ['application/vnd.example.report']
        """
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        path, action = self._path("referrers", digest) + query, self.action_name("list the referrers of", digest)
        scopes = (self.scope("pull"),)
        for page in iter_pages(self.transport, path, action, scopes=scopes, accept=media_types.OCI_INDEX):
            # GAR returns the HTML of a login page with status 200: soci-snapshotter PR#512
            kind = media_type(page.response)
            if kind != media_types.OCI_INDEX:
                json_object(page.response, page.body, action)
                raise InvalidResponse(
                    f"failed to {action}: {self.transport.host} returned {display.shorten(kind, 100) or 'no type'}",
                    hint="the referrers API must return an image index",
                    **request_fields(page.response),
                )
            filters = page.response.headers.get("OCI-Filters-Applied", "").split(",")
            yield page.body, "artifactType" in (name.strip() for name in filters)

    def _delete(self, kind: str, target: str, *, absent_ok: bool) -> None:
        response = self.transport.request(
            "DELETE",
            self._path(kind, target),
            self.action_name("delete", target),
            scopes=(self.scope("pull", "push", "delete"),),
            ok_statuses=(404,) if absent_ok else (),
        )
        drain(response)

    def _write(
        self,
        method: str,
        target: str,
        action: str,
        *,
        scopes: Sequence[Scope] = (),
        headers: dict[str, str] | None = None,
        body: bytes | BodyStream | None = None,
        length: int | None = None,
        timeout: float | None = None,
        retry: bool = False,
    ) -> requests.Response:
        """Send a request with the right to push.

        A PATCH or PUT of a blob must not be retried blindly: the session may have accepted a part of it.
        """
        response = self.transport.request(
            method,
            target,
            action,
            scopes=scopes or (self.scope("pull", "push"),),
            headers=headers,
            body=body,
            length=length,
            timeout=timeout,
            retry=retry,
        )
        drain(response)
        return response


def wrong_blob(response: requests.Response, host: str, expected: Digest) -> UploadInvalid:
    """Return the error for a registry that stored a blob under another digest."""
    return UploadInvalid(
        f"{host} stored {response.headers.get('Docker-Content-Digest')} for {expected}",
        hint="the registry damaged the content, or does not support the algorithm; don't use what was pushed",
        **request_fields(response),
    )


def descriptor_of(response: requests.Response, target: str) -> Descriptor | None:
    """Return the descriptor from a manifest's headers, or None if they are incomplete.

    Args:
        response: Response to a HEAD or GET request.
        target: The requested tag or digest.
    """
    digest = Digest(target) if ":" in target else announced_digest(response)
    length, kind = response.headers.get("Content-Length", ""), media_type(response)
    # Harbor and GAR give the length of the compressed body: oras-go#1176
    unreliable = response.headers.get("Content-Encoding", "identity") != "identity" or not length.strip("0")
    if digest is None or unreliable or not re.fullmatch(r"[0-9]{1,18}", length) or not media_types.is_document(kind):
        return None
    return Descriptor(media_type=kind, digest=digest, size=int(length))
