"""Every endpoint of the distribution specification as one call. distribution-spec spec.md#endpoints.

These calls do what their endpoint does and nothing more; `Repository` builds the comfortable ones from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

import requests

from ocikit.display import shorten
from ocikit.errors import InvalidResponse, RegistryError
from ocikit.remote.http.responses import announced_digest, drain, json_object, media_type
from ocikit.remote.http.transport import Transport
from ocikit.remote.http.urls import Origin, join
from ocikit.remote.upload import UploadSession
from ocikit.spec import media_types
from ocikit.spec.challenge import Scope
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.reference import check_repository

#: Bytes of a manifest that is read. Registries must take 4 MiB; some take more.
MANIFEST_LIMIT = 8 << 20

#: Bytes of one page of tags, repositories or referrers.
LISTING_LIMIT = 16 << 20

_ACCEPT = {"Accept": ", ".join(media_types.ACCEPTED)}
_PAGES = 10_000  # of one listing: ten million names, or a loop


class Endpoints:
    """One repository of a registry, endpoint by endpoint.

    Args:
        transport: the registry.
        name: the repository, such as "library/alpine".
        actions: rights to ask a token server for, whatever the call: a push asks for all it needs at once.
    """

    def __init__(self, transport: Transport, name: str, *, actions: Sequence[str] = ("pull",)) -> None:
        self.transport = transport
        self.name = check_repository(name)
        self._actions = tuple(actions)

    def scope(self, *actions: str) -> Scope:
        """The right to do these things here; what was asked for once stays in the wish, so that one token serves."""
        self._actions = tuple(dict.fromkeys((*self._actions, *actions)))
        return Scope.repository(self.name, *self._actions)

    def _path(self, *parts: str) -> str:
        return "/".join((f"/v2/{self.name}", *parts))

    def _doing(self, verb: str, what: str = "") -> str:
        return f"{verb} {self.transport.host}/{self.name}{what}"

    # Blobs

    def head_blob(self, digest: Digest, *, push: bool = False, ok_statuses: Sequence[int] = ()) -> requests.Response:
        """end-2: HEAD a blob. `push` asks for the rights of the upload that may follow. Raises: BlobUnknown unless allowed."""
        scope = self.scope("pull", "push") if push else self.scope("pull")
        response = self.transport.request(
            "HEAD",
            self._path("blobs", digest),
            self._doing("look up", f"@{digest.short}"),
            scopes=(scope,),
            ok_statuses=ok_statuses,
        )
        drain(response)
        return response

    def get_blob(self, digest: Digest, *, start: int = 0, end: int | None = None) -> requests.Response:
        """end-2: GET a blob, unread; bytes `start` to `end`, both included, if asked for. Raises: BlobUnknown."""
        headers = {"Range": f"bytes={start}-{'' if end is None else end}"} if start or end is not None else {}
        doing = self._doing("pull", f"@{digest}")
        return self.transport.request(
            "GET", self._path("blobs", digest), doing, scopes=(self.scope("pull"),), headers=headers
        )

    def delete_blob(self, digest: Digest, *, absent_ok: bool = False) -> None:
        """end-10: delete a blob. Raises: BlobUnknown unless `absent_ok`; Unsupported."""
        self._delete("blobs", digest, absent_ok=absent_ok)

    def post_upload(self, *, algorithm: str = "sha256") -> UploadSession:
        """end-4a, end-4c: open an upload session; other algorithms than sha256 are announced."""
        query = "" if algorithm == "sha256" else f"?digest-algorithm={quote(algorithm)}"
        response = self._write("POST", self._path("blobs", "uploads", query), self._doing("push to"))
        return UploadSession.of(response, self.transport)

    def post_blob(self, digest: Digest, content: bytes) -> UploadSession | None:
        """end-4b: push a blob in a single POST. None if it was taken, a session if the registry wants a PUT."""
        path = self._path("blobs", "uploads", f"?digest={quote(digest, safe='')}")
        headers = {"Content-Type": media_types.OCTET_STREAM}
        response = self._write("POST", path, self._doing("push to", f"@{digest}"), headers=headers, body=content)
        return None if response.status_code == 201 else UploadSession.of(response, self.transport)

    def mount_blob(self, digest: Digest, source: str) -> UploadSession | None:
        """end-11: mount a blob from another repository. None if it is there now, a session if it must be uploaded.

        Raises: RegistryError: if the registry refuses; uploading may still be possible.
        """
        path = self._path("blobs", "uploads", f"?{urlencode({'mount': digest, 'from': source})}")
        scopes = (self.scope("pull", "push"), Scope.repository(source, "pull"))
        response = self._write("POST", path, self._doing("mount into", f"@{digest}"), scopes=scopes)
        return None if response.status_code == 201 else UploadSession.of(response, self.transport)

    def patch_upload(self, session: UploadSession, offset: int, chunk: bytes) -> UploadSession:
        """end-5: send a chunk that starts at byte `offset`. Raises: RangeInvalid."""
        headers = {"Content-Type": media_types.OCTET_STREAM, "Content-Range": f"{offset}-{offset + len(chunk) - 1}"}
        response = self._write("PATCH", session.location, self._doing("push to"), headers=headers, body=chunk)
        return UploadSession.of(response, self.transport, minimum=session.minimum)

    def put_upload(
        self,
        session: UploadSession,
        digest: Digest,
        content: bytes | BinaryIO = b"",
        *,
        length: int | None = None,
        offset: int | None = None,
    ) -> None:
        """end-6: close a session; the content is the whole blob, or its last chunk at byte `offset`. `length` in bytes."""
        headers = {"Content-Type": media_types.OCTET_STREAM} if content else {}
        size = len(content) if isinstance(content, bytes) else length
        if offset is not None and size:
            headers["Content-Range"] = f"{offset}-{offset + size - 1}"
        self._write(
            "PUT",
            session.closing(digest),
            self._doing("push to", f"@{digest}"),
            headers=headers,
            body=content,
            length=length,
        )

    def get_upload(self, session: UploadSession) -> tuple[UploadSession, int]:
        """end-13: the session's current address, and how many bytes it has. Raises: UploadUnknown."""
        response = self._write("GET", session.location, self._doing("ask about an upload to"))
        match = re.fullmatch(r"(?:bytes=)?0-([0-9]{1,18})", response.headers.get("Range", ""))
        return UploadSession.of(response, self.transport, minimum=session.minimum), int(match[1]) + 1 if match else 0

    def delete_upload(self, session: UploadSession) -> None:
        """end-14: cancel a session. Raises: RegistryError; specification says that clients should ignore it."""
        self._write("DELETE", session.location, self._doing("cancel an upload to"))

    # Manifests

    def head_manifest(self, target: str, *, ok_statuses: Sequence[int] = ()) -> requests.Response:
        """end-3: HEAD a tag or digest. Raises: ManifestUnknown and NameUnknown unless allowed."""
        response = self.transport.request(
            "HEAD", self._path("manifests", target), self._doing("pull", _tail(target)),
            scopes=(self.scope("pull"),), headers=_ACCEPT, ok_statuses=ok_statuses,
        )  # fmt: skip
        drain(response)
        return response

    def get_manifest(self, target: str, *, limit: int = MANIFEST_LIMIT) -> tuple[bytes, str, requests.Response]:
        """end-3: the bytes, the media type and the response of a tag or digest. Unverified: `limit` bytes at most."""
        raw, response = self.transport.read(
            self._path("manifests", target), self._doing("pull", _tail(target)),
            limit=limit, scopes=(self.scope("pull"),), headers=_ACCEPT, digest=Digest(target) if ":" in target else None,
        )  # fmt: skip
        return raw, media_type(response), response

    def put_manifest(
        self, target: str, raw: bytes, media_type: str, *, tags: Sequence[str] = (), if_match: str | None = None
    ) -> requests.Response:
        """end-7a, end-7b: push a manifest by tag or digest; with a digest, further tags that the registry may take.

        `OCI-Tag` in the response names those that it took, `OCI-Subject` that it knows referrers. Raises: UploadInvalid.
        """
        query = f"?{urlencode([('tag', tag) for tag in tags])}" if tags else ""
        headers = {"Content-Type": media_type} | ({"If-Match": if_match} if if_match else {})
        doing = self._doing("push", _tail(target))
        return self._write("PUT", self._path("manifests", target) + query, doing, headers=headers, body=raw)

    def delete_manifest(self, target: str, *, absent_ok: bool = False) -> None:
        """end-9: delete a tag, or a manifest with all its tags. Raises: ManifestUnknown unless `absent_ok`; Unsupported."""
        self._delete("manifests", target, absent_ok=absent_ok)

    # Listings

    def list_tags(self, *, n: int | None = None, last: str | None = None) -> Iterator[list[Any]]:
        """end-8a, end-8b: pages of tags as the registry gives them. Raises: NameUnknown."""
        query = urlencode({k: v for k, v in (("n", n), ("last", last)) if v is not None})
        path = self._path("tags", "list") + (f"?{query}" if query else "")
        for page, _ in pages(self.transport, path, self._doing("list the tags of"), scopes=(self.scope("pull"),)):
            yield names(page, "tags", self._doing("list the tags of"))

    def list_referrers(self, digest: Digest, artifact_type: str | None = None) -> Iterator[tuple[bytes, bool]]:
        """end-12a, end-12b: pages of referrers, each an index's bytes and whether the registry filtered them.

        Raises: ManifestUnknown or NameUnknown: 404, the registry has no such endpoint. InvalidResponse: not an index.
        """
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        doing = self._doing("list the referrers of", f"@{digest}")
        path = self._path("referrers", digest) + query
        for body, response in _responses(
            self.transport, path, doing, (self.scope("pull"),), {"Accept": media_types.OCI_INDEX}
        ):
            # GAR answered with the HTML of a login page, status 200: soci-snapshotter PR#512
            if media_type(response) != media_types.OCI_INDEX:
                json_object(response, body, doing)
                raise InvalidResponse(
                    f"{self.transport.host} answers with {shorten(media_type(response), 100) or 'no type'} to {doing}",
                    hint="the referrers API must answer with an image index",
                    method="GET", url=str(response.url), status=response.status_code, host=self.transport.host,
                )  # fmt: skip
            filters = [f.strip() for f in response.headers.get("OCI-Filters-Applied", "").split(",")]
            yield body, "artifactType" in filters

    def _delete(self, kind: str, target: str, *, absent_ok: bool) -> None:
        doing = self._doing("delete", _tail(target))
        ok_statuses = (404,) if absent_ok else ()
        response = self.transport.request(
            "DELETE",
            self._path(kind, target),
            doing,
            scopes=(self.scope("pull", "push", "delete"),),
            ok_statuses=ok_statuses,
        )
        drain(response)

    def _write(
        self,
        method: str,
        target: str,
        doing: str,
        *,
        scopes: Sequence[Scope] = (),
        headers: dict[str, str] | None = None,
        body: bytes | BinaryIO | None = None,
        length: int | None = None,
    ) -> requests.Response:
        # A blob's PUT is not repeated: the session may have taken a part of it. A manifest's is the same however often.
        retry = method in {"POST", "GET"} or "/manifests/" in target
        scopes = scopes or (self.scope("pull", "push"),)
        response = self.transport.request(
            method, target, doing, scopes=scopes, headers=headers, body=body, length=length, retry=retry
        )
        drain(response)
        return response


def _tail(target: str) -> str:
    return f"@{target}" if ":" in target else f":{target}"


def names(page: dict[str, Any], key: str, doing: str) -> list[Any]:
    """The list in a page; null means empty, as distribution and Nexus say it."""
    value = page.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidResponse(
            f"expected an array @ $.{key} to {doing}", hint="this is not a working registry; tell its operators"
        )
    return value


def pages(
    transport: Transport, path: str, doing: str, *, scopes: Sequence[Scope]
) -> Iterator[tuple[dict[str, Any], requests.Response]]:
    """The JSON pages of a listing."""
    for body, response in _responses(transport, path, doing, scopes, {"Accept": "application/json"}):
        yield json_object(response, body, doing), response


def _responses(
    transport: Transport, path: str, doing: str, scopes: Sequence[Scope], headers: dict[str, str]
) -> Iterator[tuple[bytes, requests.Response]]:
    """The pages of a listing, following `Link` headers as they are. distribution-spec spec.md#listing-tags."""
    seen: set[str] = set()
    target: str | None = path
    for _ in range(_PAGES):
        if target is None:
            return
        body, response = _page(transport, target, doing, scopes, headers, first=not seen)
        seen |= {target, join(transport.base, target), str(response.url)}
        following = next_link(response)
        yield body, response
        if following is not None:
            if Origin.of(following) != Origin.of(str(response.url)):
                elsewhere = Origin.of(following)
                raise InvalidResponse(
                    f"{transport.host} continues a list at {elsewhere.scheme}://{elsewhere.host}:{elsewhere.port}",
                    hint="refused: a list's pages must come from the registry itself", url=following, host=transport.host,
                )  # fmt: skip
            if following in seen:
                raise InvalidResponse(
                    f"{transport.host} repeats a page of a list to {doing}",
                    hint="its Link headers run in a circle",
                    host=transport.host,
                )
        target = following
    raise InvalidResponse(f"{transport.host} gives more than {_PAGES} pages to {doing}", host=transport.host)


def _page(
    transport: Transport, target: str, doing: str, scopes: Sequence[Scope], headers: dict[str, str], *, first: bool
) -> tuple[bytes, requests.Response]:
    """One page; a first one that is refused for its size is asked for in the registry's own size.

    ECR answers UNSUPPORTED and distribution 3.1 PAGINATION_NUMBER_INVALID to a large n: ggcr#681, distribution#4844.
    """
    try:
        return transport.read(target, doing, limit=LISTING_LIMIT, scopes=scopes, headers=headers)
    except RegistryError as error:
        smaller = re.sub(r"([?&])n=\d+&?", r"\1", target).rstrip("?&")
        if not first or smaller == target or error.status not in {400, 405, 416}:
            raise
        return transport.read(smaller, doing, limit=LISTING_LIMIT, scopes=scopes, headers=headers)


def next_link(response: requests.Response) -> str | None:
    """The absolute URL that a Link header calls "next", or None. RFC 8288, read generously."""
    # "<" in an address would make a header of nothing else a matter of hours
    for match in re.finditer(r"<([^<>]*)>((?:[^<,\"]|\"[^\"]*\")*)", response.headers.get("Link", "")):
        relation = re.search(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^;,\s]+))", match[2], re.IGNORECASE)
        if relation and "next" in (relation[1] or relation[2] or "").lower().split():
            return join(str(response.url), match[1])
    return None


def descriptor_of(response: requests.Response, target: str) -> Descriptor | None:
    """What the headers of a manifest say, if they say all of it."""
    digest = Digest(target) if ":" in target else announced_digest(response)
    length, kind = response.headers.get("Content-Length", ""), media_type(response)
    # Harbor and GAR give the length of what they would compress: oras-go#1176
    vague = response.headers.get("Content-Encoding", "identity") != "identity" or not length.strip("0")
    if digest is None or vague or not re.fullmatch(r"[0-9]{1,18}", length) or not media_types.is_document(kind):
        return None
    return Descriptor(media_type=kind, digest=digest, size=int(length))
