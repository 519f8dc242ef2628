"""Registries and repositories as people use them; a repository is a store like any other."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import requests

from ocikit import display
from ocikit.errors import (
    ConnectionFailed,
    ContentError,
    Denied,
    InvalidDocument,
    InvalidReference,
    InvalidResponse,
    ManifestUnknown,
    NameUnknown,
    NotFound,
    OcikitError,
    RegistryError,
    Unauthorized,
    Unsupported,
    UploadInvalid,
)
from ocikit.remote import referrers
from ocikit.remote.download import BlobReader
from ocikit.remote.endpoints import MANIFEST_LIMIT, Endpoints, descriptor_of, names, pages
from ocikit.remote.heard import ManifestHints
from ocikit.remote.http.rate_limit import RateLimit
from ocikit.remote.http.responses import announced_digest, drain, is_encoded, json_object, read_prefix
from ocikit.remote.http.transport import Transport
from ocikit.remote.upload import UploadSession, upload
from ocikit.spec import media_types
from ocikit.spec.challenge import Scope
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.spec.reference import check_tag
from ocikit.store.base import Source, Store
from ocikit.store.streams import ByteStream, check_size

log = logging.getLogger("ocikit")

#: Names asked for at once; ECR and distribution 3.1 refuse more.
PAGE = 1000

#: Bytes: a blob that is sent in about the time that a question takes over a common line.
SMALL = 128 * 1024

_NEAREST = 3  # tags named when one isn't there


@attrs.frozen(kw_only=True, repr=False)
class Ping(display.Displayable):
    """What a registry says to a first request."""

    host: str
    reachable: bool
    authenticated: bool
    """Whether the API let us in, with credentials or without."""
    url: str
    version: str = ""
    """The `Docker-Distribution-API-Version` header."""
    problem: str = ""
    """What failed, in words."""
    rate_limit: RateLimit | None = None
    """How often it may be asked, and how often still, as it said last; None if it never did."""

    def __bool__(self) -> bool:
        return self.reachable and self.authenticated

    def __rich_repr__(self) -> display.Description:
        yield "host", self.host
        yield "reachable", self.reachable
        yield "authenticated", self.authenticated
        yield "problem", self.problem, ""
        yield "url", self.url
        yield "version", self.version, ""
        yield "rate_limit", self.rate_limit and str(self.rate_limit), None

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__())
        if self.reachable and not self.authenticated:
            yield "log in", display.code_call("ocikit.login", self.host)
            yield "who am I", display.code_call("ocikit.auth.explain", self.host)
        elif self.reachable:
            yield "repositories", display.code_call("ocikit.catalog", self.host)


class Registry(display.Displayable):
    """A registry: ask whether it is there, list its repositories, open one: `registry["team/data"]`.

    Args:
        transport: Connections to the host.
        known: Returns the names of a host's repositories for completion in notebooks, without a request.
    """

    def __init__(self, transport: Transport, *, known: Callable[[str], Iterable[str]] = lambda _host: ()) -> None:
        self.transport = transport
        self.host = transport.host
        self._known = known

    def __getitem__(self, name: str) -> Repository:
        return self.repository(name)

    __iter__ = None  # there is no end to what could be asked for; `catalog` lists what is there

    def _ipython_key_completions_(self) -> list[str]:
        try:
            return sorted(self._known(self.host))
        except (OSError, OcikitError):
            return []

    def __rich_repr__(self) -> display.Description:
        yield from self.transport.__rich_repr__()

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__())
        yield "repositories", display.Code(".catalog()")
        yield "one of them", display.Code('["team/data"]')

    @property
    def rate_limit(self) -> RateLimit | None:
        """How often this registry may be asked, and how often still, as it said last in this session; None if it never did.

        Docker Hub says it with manifests, and counts each GET of one as a pull, but no HEAD: `resolve` is free.
        """
        return self.transport.rate_limit

    def repository(self, name: str, *, push: bool = False) -> Repository:
        """One repository; with `push`, the first token already holds the right to. Raises: InvalidReference."""
        return Repository(self.transport, name, actions=("pull", "push") if push else ("pull",))

    def ping(self) -> Ping:
        """end-1: what the registry says. Never raises for an answer: a 401 is one. distribution-spec spec.md#determining-support."""
        try:
            response = self.transport.request("GET", "/v2/", f"reach {self.host}", ok_statuses=(401, 403, 404))
        except OcikitError as error:
            return Ping(
                host=self.host, reachable=not isinstance(error, ConnectionFailed), authenticated=False,
                url=self.transport.base, problem=error.message,
            )  # fmt: skip
        drain(response)
        problems = {
            200: "",
            401: "credentials are missing or wrong",
            403: "access denied",
            404: "no registry API at this host",
        }
        return Ping(
            host=self.host,
            reachable=True,
            authenticated=response.status_code == 200,
            url=self.transport.base,
            version=response.headers.get("Docker-Distribution-API-Version", ""),
            problem=problems.get(response.status_code, f"unexpected status {response.status_code}"),
            rate_limit=self.rate_limit,
        )

    def catalog(self) -> Iterator[str]:
        """`_catalog`: every repository's name, page by page. Not in the specification, so not everywhere.

        Raises: Unsupported: naming the alternative. Unauthorized.
        """
        path, doing = f"/v2/_catalog?n={PAGE}", f"list the repositories of {self.host}"
        try:
            for page, _ in pages(self.transport, path, doing, scopes=(Scope.parse("registry:catalog:*"),)):
                for name in names(page, "repositories", doing):
                    if isinstance(name, str):
                        yield name
        except RegistryError as error:
            if error.status in {401, 403, 404, 405, 501} or isinstance(error, Unsupported):
                raise Unsupported(
                    f"{self.host} doesn't let us list its repositories ({error.message})",
                    hint=f"many registries don't, or only to administrators; if you know a name, list its tags: ocikit.tags('{self.host}/name')",
                    method=error.method, url=error.url, status=error.status, errors=error.errors,
                    request_id=error.request_id, host=self.host,
                ) from error  # fmt: skip
            raise


class Repository(Endpoints, Store, display.Displayable):
    """A repository as a store of manifests and blobs."""

    cacheable = True

    def __init__(self, transport: Transport, name: str, *, actions: Sequence[str] = ("pull",)) -> None:
        super().__init__(transport, name, actions=actions)
        self._referrers_api: bool | None = None
        self._is_new: bool | None = None
        self._unmounted: dict[Digest, UploadSession] = {}
        self._looking = threading.Lock()
        self.heard = ManifestHints()
        """Shared with mirrors."""

    def __rich_repr__(self) -> display.Description:
        yield "name", f"{self.transport.host}/{self.name}"
        yield "insecure", self.transport.insecure, False

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__())
        yield "tags", display.code_call("ocikit.tags", f"{self.transport.host}/{self.name}")

    # Source

    def resolve(self, reference: str) -> Descriptor:
        """The descriptor of a tag or digest, by a HEAD request where that tells enough, else by a GET.

        The size is what the registry says; see `resolve_verified` for one that was counted.

        Raises: ManifestUnknown: with the nearest tags. NameUnknown.
        """
        if ":" in reference:
            Digest(reference)
        else:
            check_tag(reference)
        try:
            response = self.head_manifest(reference)
            found = descriptor_of(response, reference)
        except NotFound as error:
            raise self._absent(reference, error) from error
        except (Unauthorized, Denied):
            raise
        except RegistryError as error:
            if error.status not in {400, 405, 406, 501}:
                raise
            found = None
        # Old registries don't send Docker-Content-Digest: the body has to tell
        if found is None:
            return self.resolve_verified(reference)
        self.heard.announce(found)
        return found

    def resolve_verified(self, reference: str) -> Descriptor:
        """The descriptor of a tag or digest, by a GET: of the bytes themselves, which the next `fetch` of it gives.

        Raises: as `resolve`; DigestMismatch, InvalidDocument.
        """
        document = self._read(reference)
        digest = Digest(reference) if ":" in reference else document.digest
        self.heard.keep(digest, document.raw)
        return attrs.evolve(document.descriptor, digest=digest)

    def raw_document(self, reference: str) -> tuple[Descriptor, bytes]:
        """Return a manifest's bytes, neither verified nor parsed, and a descriptor of them.

        Raises:
            ManifestUnknown: The registry has no such manifest.
        """
        raw, kind, _ = self.get_manifest(reference)
        digest = Digest(reference) if ":" in reference else Digest.of(raw)
        return Descriptor(media_type=kind, digest=digest, size=len(raw)), raw

    def _read(self, target: str) -> Manifest | Index:
        """The document at a tag or digest, verified against the digest that was asked for or announced."""
        try:
            raw, kind, response = self.get_manifest(target)
        except NotFound as error:
            raise self._absent(target, error) from error
        if kind == "text/html":
            json_object(response, raw, f"pull {self.transport.host}/{self.name}")  # says what answers there
        for digest in {Digest(target) if ":" in target else None, announced_digest(response)} - {None}:
            if digest is not None and digest.verifiable:
                digest.verify(raw, f"the manifest from {self.transport.host}/{self.name}")
        return parse_document(raw, kind, limit=MANIFEST_LIMIT)

    def _absent(self, target: str, error: NotFound) -> NotFound:
        """A 404 in words: the tags that look like the one asked for, or that there is no such repository."""
        if ":" in target:
            return error
        where = f"{self.transport.host}/{self.name}"
        try:
            known = self.tags(limit=10 * PAGE)
        except NameUnknown:
            return NameUnknown(
                f"{self.transport.host} has no repository {self.name}",
                hint=f"check the name; ocikit.catalog({self.transport.host!r}) lists those that the registry shows",
                status=404, host=self.transport.host,
            )  # fmt: skip
        except OcikitError:
            return error
        near = display.nearest(target, known, _NEAREST) or list(reversed(known))[:_NEAREST]
        hint = (
            f"nearest: {display.join_limited(near)}; ocikit.tags({where!r}) lists all {len(known)}"
            if near
            else "it has no tags at all"
        )
        return ManifestUnknown(f"{where} has no tag {target!r}", hint=hint, status=404, host=self.transport.host)

    def open(self, descriptor: Descriptor) -> ByteStream:
        """A seekable stream over a blob that resumes by itself; see `BlobReader`. Nothing is requested before it is read."""
        if descriptor.is_document:
            return io.BytesIO(self.fetch(descriptor))
        return BlobReader(
            self.transport,
            self._path("blobs", descriptor.digest),
            descriptor,
            self.scope("pull"),
            self._doing("pull", f"@{descriptor.digest.short}"),
        )

    def head(self, descriptor: Descriptor, size: int) -> bytes:
        """The first `size` bytes, to look at: not verified. They are asked for by a range, so that no more is sent."""
        if descriptor.is_document or not 0 < size < descriptor.size:
            return super().head(descriptor, size)
        response = self.get_blob(descriptor.digest, end=size - 1)
        found = b"" if is_encoded(response) else read_prefix(response, size)
        return found if len(found) == size else super().head(descriptor, size)

    def fetch(self, descriptor: Descriptor, *, limit: int = DOCUMENT_LIMIT) -> bytes:
        """The verified content. The size of a document that `resolve` found by a HEAD request is no reason to refuse it.

        Raises: ManifestUnknown, BlobUnknown, DigestMismatch, SizeMismatch.
        """
        if (embedded := descriptor.embedded) is not None:
            return embedded
        if not descriptor.is_document:
            return super().fetch(descriptor, limit=limit)
        if descriptor.size > limit:
            raise InvalidDocument(
                f"{descriptor} is above the limit of {limit} bytes",
                hint="most registries take no such documents either; ask its publisher to move content into blobs",
            )
        if (came := self.heard.take(descriptor)) is not None:
            return came
        raw, kind, _ = self.get_manifest(descriptor.digest, limit=limit)
        # Proxies and registries state other lengths with HEAD than with GET; what documents state counts
        if not self.heard.is_announced(descriptor):
            check_size(descriptor, len(raw))
        descriptor.digest.verify(raw, f"the manifest from {self.transport.host}/{self.name}")
        if kind and media_types.is_document(kind) and kind != descriptor.media_type:
            raise InvalidDocument(
                f"{self.transport.host} serves {descriptor.digest.short} as {kind}, its descriptor says {descriptor.media_type}",
                hint="one of the two is wrong; the content can't be trusted",
            )
        return raw

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> Sequence[Descriptor]:
        """What refers to a manifest, by the API or the fallback tag; empty if nothing does."""
        found, self._referrers_api = referrers.find(self, descriptor.digest, artifact_type, api=self._referrers_api)
        return found

    # Store

    def exists(self, descriptor: Descriptor) -> bool:
        """Whether the registry has the content in this repository. A refusal counts as no: the upload will tell.

        Artifactory answers 403 to a HEAD of what isn't there: RTFACT-13797.
        """
        if descriptor.is_document:
            response = self.head_manifest(descriptor.digest, ok_statuses=(403, 404))
        else:
            response = self.head_blob(descriptor.digest, push="push" in self._actions, ok_statuses=(403, 404))
        return response.status_code == 200

    def cheaper_to_push(self, descriptor: Descriptor) -> bool:
        """Small blobs in a repository that has no tags yet: a thousand of them would be asked about in vain."""
        if descriptor.size > SMALL or descriptor.is_document:
            return False
        with self._looking:
            if self._is_new is None:
                doing = self._doing("look into")
                response = self.transport.request(
                    "GET",
                    self._path("tags", "list?n=1"),
                    doing,
                    scopes=(self.scope("pull", "push"),),
                    ok_statuses=(401, 403, 404),
                )
                drain(response)
                self._is_new = response.status_code == 404
            return self._is_new

    def push(
        self, descriptor: Descriptor, stream: ByteStream, *, tag: str | None = None, chunk_size: int | None = None
    ) -> None:
        """Push a blob, or a manifest with its tag. A manifest with a subject enters the list of its referrers.

        Args:
            descriptor: of the content.
            stream: the content; a seekable one can be sent again.
            tag: for manifests.
            chunk_size: bytes; sends a blob in chunks from the start.
        """
        if descriptor.is_document:
            raw = stream.read(descriptor.size + 1)
            self.push_document(descriptor, raw, tags=[tag] if tag else [])
            return
        if tag is not None:
            raise InvalidReference(
                "a registry tags manifests only, not blobs", hint="push a manifest that names the blob"
            )
        upload(
            self.transport,
            self._path("blobs", "uploads", ""),
            descriptor,
            stream,
            scopes=(self.scope("pull", "push"),),
            doing=self._doing("push to", f"@{descriptor.digest.short}"),
            session=self._unmounted.pop(descriptor.digest, None),
            chunk_size=chunk_size,
        )

    def push_document(self, descriptor: Descriptor, raw: bytes, tags: Sequence[str] = ()) -> None:
        """Push a manifest's exact bytes under its digest or tags.

        Several tags go in one request where the registry takes that (`OCI-Tag`), else one by one.

        Raises: UploadInvalid: the registry refuses it, or stored something else. DigestMismatch: not the descriptor's bytes.
        """
        for name in tags:
            check_tag(name)
        descriptor.digest.verify(raw, "the manifest to push")
        document = parse_document(raw, descriptor.media_type, limit=MANIFEST_LIMIT)
        subject = document.subject
        if len(tags) == 1 and descriptor.digest.algorithm == "sha256":
            response, left = self.put_manifest(tags[0], raw, descriptor.media_type), []
        else:
            response = self._put_with(tags, descriptor, raw)
            taken = {t.strip() for t in response.headers.get("OCI-Tag", "").split(",")}
            left = [name for name in tags if name not in taken]
        self._check_stored(descriptor, response.headers.get("Docker-Content-Digest"))
        for name in left:
            self._check_stored(
                descriptor, self.put_manifest(name, raw, descriptor.media_type).headers.get("Docker-Content-Digest")
            )
        if subject is not None:
            if response.headers.get("OCI-Subject"):
                self._referrers_api = True
            else:
                referrers.add(self, subject.digest, referrers.referring(document))

    def _put_with(self, tags: Sequence[str], descriptor: Descriptor, raw: bytes) -> requests.Response:
        """Push by digest, with as many tags as the registry takes; none if they are too many for it."""
        try:
            return self.put_manifest(descriptor.digest, raw, descriptor.media_type, tags=tags)
        except RegistryError as error:
            if not tags or error.status not in {414, 431}:
                raise
        return self.put_manifest(descriptor.digest, raw, descriptor.media_type)

    def _check_stored(self, descriptor: Descriptor, said: str | None) -> None:
        if said and said != descriptor.digest and said.partition(":")[0] == descriptor.digest.algorithm:
            raise UploadInvalid(
                f"{self.transport.host} stored {said} for {descriptor.digest}",
                hint="the registry changed the manifest; don't use what was pushed", host=self.transport.host,
            )  # fmt: skip

    def mount(self, descriptor: Descriptor, source: Source) -> bool:
        """Mount a blob from a repository of the same registry; False if the registry would rather have it uploaded.

        A session that it opens for that is used by the `push` that follows.
        """
        if descriptor.is_document or not isinstance(source, Repository) or source.transport.host != self.transport.host:
            return False
        if source.name == self.name:
            return False
        try:
            session = self.mount_blob(descriptor.digest, source.name)
        except RegistryError as error:
            # Quay 400, Harbor 401 from a project that isn't there, Docker Hub on a scope it won't grant
            log.info("no mount from %s: %s", source.name, error.message)
            return False
        if session is None:
            return True
        if descriptor.digest.algorithm == "sha256":
            self._unmounted[descriptor.digest] = session
        else:  # the session doesn't know of the algorithm
            self._cancel(session)
        return False

    def _cancel(self, session: UploadSession) -> None:
        try:
            self.delete_upload(session)
        except OcikitError:
            log.debug("an upload session stays open")

    def tag(self, descriptor: Descriptor, tag: str) -> None:
        """Let a tag name a manifest of this repository; its bytes are pushed again as they are. Raises: ManifestUnknown."""
        check_tag(tag)
        raw = self.fetch(descriptor, limit=MANIFEST_LIMIT)
        self.put_manifest(tag, raw, descriptor.media_type)

    def untag(self, tag: str) -> None:
        """Delete a tag. The manifest and its other tags stay.

        Raises: ManifestUnknown. Unsupported: the registry deletes manifests only, which would take other tags too.
        """
        check_tag(tag)
        self.resolve(tag)
        try:
            self.delete_manifest(tag)
        except RegistryError as error:
            # distribution 2.8 answers 400 or 404, with DIGEST_INVALID or UNSUPPORTED, to a tag
            if isinstance(error, Unsupported) or error.status in {400, 404, 405}:
                raise Unsupported(
                    f"{self.transport.host} can't delete the tag {tag!r} alone ({error.message})",
                    hint="delete the manifest by its digest if all its tags may go: ocikit.delete('…@sha256:…')",
                    method=error.method, url=error.url, status=error.status, errors=error.errors, host=self.transport.host,
                ) from error  # fmt: skip
            raise

    def delete(self, descriptor: Descriptor) -> None:
        """Delete a manifest with all its tags, or a blob. A manifest with a subject leaves the list of its referrers.

        Raises: ManifestUnknown, BlobUnknown. Unsupported: with what the registry offers instead.
        """
        if not descriptor.is_document:
            self.delete_blob(descriptor.digest)
            return
        try:
            document = self._read(descriptor.digest)
        except (ContentError, InvalidDocument):
            document = None  # what can't be read can still go
        subject = document.subject if document else None
        if subject is not None and self._referrers_api is None:
            try:
                _, self._referrers_api = referrers.find(self, subject.digest, None, api=None)
            except InvalidResponse:
                self._referrers_api = True  # it has one, though its list can't be read
        if document is None or subject is None or self._referrers_api:
            self.delete_manifest(descriptor.digest)
            return
        # First out of the list: ECR deletes no manifest that an index names
        referrers.remove(self, subject.digest, descriptor.digest)
        try:
            self.delete_manifest(descriptor.digest)
        except NotFound:
            raise
        except OcikitError:
            with contextlib.suppress(OcikitError):
                referrers.add(self, subject.digest, referrers.referring(document))
            raise

    # Names

    def tags(self, *, limit: int | None = None) -> list[str]:
        """Tags in the registry's order, all pages or up to `limit`. Raises: NameUnknown: no such repository."""
        found: list[str] = []
        for tag in self.iter_tags():
            if limit is not None and len(found) >= limit:
                break
            found.append(tag)
        return found

    def iter_tags(self) -> Iterator[str]:
        """Tags, a page fetched when it is reached. Names that break the grammar are skipped (Nexus has such).

        The first page that has some of them is warned of.
        """
        level = logging.WARNING
        for page in self.list_tags(n=PAGE):
            good, bad = [], []
            for name in page:
                try:
                    good.append(check_tag(name))
                except (InvalidReference, TypeError):
                    bad.append(display.quoted(name, 60))
            if bad:
                found = display.pluralize(len(bad), "tag that is none", "tags that are none")
                log.log(
                    level, "%s/%s lists %s: %s", self.transport.host, self.name, found, display.join_limited(bad, 3)
                )
                level = logging.DEBUG
            yield from good

    def can_push(self) -> bool:
        """Whether the credentials may push here: opens an upload session and cancels it."""
        try:
            session = self.post_upload()
        except (Denied, Unauthorized, NotFound, Unsupported):
            return False
        self._cancel(session)
        return True
