"""One repository of a registry as a store of manifests and blobs."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import attrs
import requests

from ocikit import display
from ocikit.errors import (
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
from ocikit.forks import ForkSafeLock
from ocikit.remote import referrers
from ocikit.remote.download import BlobReader
from ocikit.remote.endpoints import MANIFEST_LIMIT, Endpoints, UploadSession, descriptor_of
from ocikit.remote.http.responses import announced_digest, drain, is_encoded, json_object, read_prefix
from ocikit.remote.http.transport import Transport
from ocikit.remote.random_access import RangeReader, read_spans
from ocikit.remote.spans import MIN_IDLE, MIN_SIZE, SpanReader
from ocikit.remote.upload import upload, upload_unhashed
from ocikit.spec import media_types
from ocikit.spec.arguments import to_texts
from ocikit.spec.challenge import Scope
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.spec.reference import check_tag
from ocikit.spec.tag_order import newest_first
from ocikit.store.base import Source, Store, Swap
from ocikit.store.streams import ByteStream, WholeReader, check_size, check_spans
from ocikit.transfer.slots import worker_limit

log = logging.getLogger("ocikit")

#: Names in one page; ECR and distribution 3.1 reject more.
PAGE_SIZE = 1000

_SMALL_BLOB = 128 * 1024  # bytes that are sent in about the time of one request over a common line
_NO_HEAD = frozenset({400, 405, 406, 501})  # statuses of registries that do not answer HEAD of a manifest
_RANGES_AT_ONCE = 16  # small ones, which wait for the line most of the time
_NEAREST = 3  # names in the hint for a missing tag or repository
_IMPOSSIBLE = Digest(f"sha256:{'0' * 64}")  # no manifest has this digest
_NOTED_HEADS = 1000  # descriptors of which ManifestHints remembers the origin


class ManifestHints:
    """Sizes and bodies of manifests that were learned while resolving.

    Safe in threads, because a lost hint only costs a request.
    """

    def __init__(self) -> None:
        self._from_head: set[tuple[str, int]] = set()
        self._document: tuple[Digest, Manifest | Index] | None = None

    def note_head(self, descriptor: Descriptor) -> None:
        """Record that a size comes from HEAD headers and has not been verified against the body."""
        if len(self._from_head) >= _NOTED_HEADS:
            self._from_head.clear()
        self._from_head.add(descriptor.key)

    def is_from_head(self, descriptor: Descriptor) -> bool:
        """Return True if the size of a descriptor has not been verified against the body."""
        return descriptor.key in self._from_head

    def put_document(self, digest: Digest, document: Manifest | Index) -> None:
        """Store the document that was read to resolve a tag, in place of the one before."""
        self._document = digest, document

    def pop_document(self, descriptor: Descriptor) -> Manifest | Index | None:
        """Return the stored document once, or None if it is another."""
        stored = self._document
        if stored is None or (stored[0], stored[1].size) != descriptor.key:
            return None
        self._document = None
        return stored[1]


#: Returns the names of a host's repositories that the client has seen, without a request.
KnownNames: TypeAlias = Callable[[str], Iterable[str]]


def no_names(_host: str) -> tuple[str, ...]:
    """Return no names."""
    return ()


class Repository(Endpoints, Store, display.Displayable):
    """A repository as a store of manifests and blobs.

    Args:
        transport: Connections to the host.
        name: Such as "team/data".
        actions: What tokens are requested for.
        known: Returns the names of the host's repositories for hints and completion, without a request.

    >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
    >>> repository = ocikit.Session().repository("localhost:5000/ada/waves")
    >>> repository.resolve("v1").digest == artifact.digest
    True
    """

    cacheable = True

    def __init__(
        self, transport: Transport, name: str, *, actions: Sequence[str] = ("pull",), known: KnownNames = no_names
    ) -> None:
        super().__init__(transport, name, actions=actions)
        self.known = known
        self._referrers_api: bool | None = None  # None until it was tried
        self._is_new: bool | None = None  # None until it was requested
        self._is_new_lock = ForkSafeLock()
        self._mount_sessions: dict[Digest, UploadSession] = {}
        self._broken_sessions: dict[Digest, UploadSession] = {}
        self.hints = ManifestHints()
        """Shared with mirrors."""

    def __rich_repr__(self) -> display.Description:
        yield "name", self._full_name
        yield "insecure", self.transport.insecure, False

    def _card_title(self) -> object:
        return display.Name(f"{self.transport.host}/", self.name)

    def _card_notes(self) -> Iterator[object]:
        yield "repository"

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "name")
        yield "tags", display.code_call("ocikit.tags", self._full_name)

    @property
    def _full_name(self) -> str:
        return f"{self.transport.host}/{self.name}"

    # Source

    def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest.

        It comes from a HEAD request if its headers are complete, else from a GET request.

        The size may be wrong because it comes from the registry; `resolve_verified` returns the actual size.

        Raises:
            ManifestUnknown: There is no such manifest; the hint names the nearest tags.
            NameUnknown: There is no such repository.
        """
        if ":" in reference:
            Digest(reference)
        else:
            check_tag(reference)
        try:
            response = self.head_manifest(reference)
            descriptor = descriptor_of(response, reference)
        except NotFound as error:
            raise self._explain_not_found(error, reference) from None
        except (Unauthorized, Denied):
            raise
        except RegistryError as error:
            if error.status not in _NO_HEAD:
                raise
            descriptor = None
        # Old registries send no Docker-Content-Digest, so the digest comes from the body
        if descriptor is None:
            return self.resolve_verified(reference)
        self.hints.note_head(descriptor)
        return descriptor

    def has(self, reference: str) -> bool:
        """Return True if there is such a tag or digest, by one HEAD request.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves")
        >>> repository.has("v1"), repository.has("v2")
        (True, False)
        """
        if ":" in reference:
            Digest(reference)
        else:
            check_tag(reference)
        try:
            return self.head_manifest(reference, ok_statuses=(404,)).status_code == 200
        except (Unauthorized, Denied):
            raise
        except RegistryError as error:
            if error.status not in _NO_HEAD:
                raise
        return super().has(reference)

    def resolve_verified(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest with the actual size, by GET.

        The next `fetch` returns the same bytes without a request.

        Raises:
            ManifestUnknown: There is no such manifest; the hint names the nearest tags.
            NameUnknown: There is no such repository.
            DigestMismatch: The bytes do not match the requested or the announced digest.
            InvalidDocument: The bytes are not a manifest.
        """
        document = self._fetch_document(reference)
        digest = Digest(reference) if ":" in reference else document.digest
        self.hints.put_document(digest, document)
        return attrs.evolve(document.descriptor, digest=digest)

    def raw_document(self, reference: str) -> tuple[Descriptor, bytes]:
        """Return a manifest's bytes, neither verified nor parsed, and a descriptor of them.

        Raises:
            ManifestUnknown: The registry has no such manifest.
        """
        raw, kind, response = self.get_manifest(reference)
        if ":" in reference:
            digest = Digest(reference)
        else:
            announced = announced_digest(response)
            digest = Digest.of(raw, announced.algorithm if announced is not None and announced.verifiable else "sha256")
        return Descriptor(media_type=kind, digest=digest, size=len(raw)), raw

    def _fetch_document(self, target: str) -> Manifest | Index:
        """Return a document, verified against the requested and the announced digest."""
        try:
            raw, kind, response = self.get_manifest(target)
        except NotFound as error:
            raise self._explain_not_found(error, target) from None
        if kind == "text/html":
            json_object(response, raw, f"pull {self._full_name}")  # raises with the page's title
        for digest in {Digest(target) if ":" in target else None, announced_digest(response)} - {None}:
            if digest is not None and digest.verifiable:
                digest.verify(raw, f"the manifest from {self._full_name}")
        return parse_document(raw, kind, limit=MANIFEST_LIMIT)

    def _explain_not_found(self, error: NotFound, target: str) -> NotFound:
        """Return the error of a missing tag with the nearest tags, or with the missing repository."""
        if ":" in target or not isinstance(error, RegistryError):
            return error
        try:
            tags = self.tags(limit=10 * PAGE_SIZE)
        except NameUnknown:
            return self._name_unknown(error)
        except OcikitError:
            return error
        similar = [] if target == "latest" else display.nearest(target, tags, _NEAREST)
        first = "nearest" if similar else "newest"
        similar = similar or newest_first(tags)[:_NEAREST]
        hint = "it has no tags at all"
        if similar:
            rest = f"; ocikit.tags({self._full_name!r}) lists all {len(tags)}" if len(tags) > len(similar) else ""
            hint = f"{first}: {display.join_limited(similar)}{rest}"
        return error.reworded(f"{self._full_name} has no tag {target!r}", hint, kind=ManifestUnknown)

    def _name_unknown(self, error: RegistryError) -> NameUnknown:
        """Return the error of a missing repository with the nearest names that the client knows, without a request."""
        host = self.transport.host
        near = display.nearest(self.name, self.known(host), _NEAREST)
        first = f"nearest: {display.join_limited(near)}" if near else "check the name"
        return error.reworded(
            f"{host} has no repository {self.name}",
            f"{first}; ocikit.catalog({host!r}) lists those that the registry shows",
            kind=NameUnknown,
        )

    def open(self, descriptor: Descriptor) -> ByteStream:
        """Return a seekable stream over a blob that resumes by itself.

        Nothing is requested before the first read. The bytes of a blob are not verified; see `BlobReader`. In a transfer,
        idle workers download parts of a large blob ahead; see `SpanReader`.
        """
        if descriptor.is_document:
            return io.BytesIO(self.fetch(descriptor))
        if descriptor.size >= MIN_SIZE and worker_limit() > MIN_IDLE and self.transport.ranges:
            return SpanReader(*self._blob_request(descriptor))
        return self._blob_reader(descriptor)

    def _blob_reader(self, descriptor: Descriptor, span: tuple[int, int] | None = None) -> BlobReader:
        return BlobReader(*self._blob_request(descriptor), span=span)

    def _blob_request(self, descriptor: Descriptor) -> tuple[Transport, str, Descriptor, Scope, str]:
        action = self.action_name("pull", descriptor.digest.short)
        return self.transport, self._path("blobs", descriptor.digest), descriptor, self.scope("pull"), action

    def open_random(self, descriptor: Descriptor) -> ByteStream:
        """Return a seekable stream that requests what is read; see `RangeReader`.

        A small blob is requested as a whole and verified. The bytes of other blobs are not verified.
        """
        if descriptor.is_document or descriptor.size <= DOCUMENT_LIMIT:
            return WholeReader(descriptor.size, lambda: self.fetch(descriptor))
        span_reader = functools.partial(self._blob_reader, descriptor)
        return RangeReader(descriptor.size, span_reader, lambda: self.open(descriptor))

    def ranges(self, descriptor: Descriptor, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return parts of a blob, not verified, with few requests.

        Parts with up to 64 KiB between them are requested together. Ranges have at most 16 MiB. As many are requested at
        once as the settings of the network keep connections, up to 16. A registry without ranges sends the blob once.

        Args:
            descriptor: Descriptor of the blob.
            spans: Pairs of offset and length [bytes], in any order.

        Raises:
            InvalidArgument: A span is not within the blob.
            BlobUnknown: The registry does not have the blob.
        """
        if descriptor.is_document or descriptor.embedded is not None:
            return super().ranges(descriptor, spans)
        return read_spans(
            check_spans(descriptor, spans),
            functools.partial(self._blob_reader, descriptor),
            probe_first=not self.transport.has_sent_range,
            parallel=min(self.transport.network.connections, _RANGES_AT_ONCE),
        )

    def signed_url(self, descriptor: Descriptor) -> str:
        """Return the URL of the storage that the registry redirects to. It has a signature and expires.

        Raises:
            Unsupported: The registry serves the blob itself.
            BlobUnknown: The repository does not have the blob.

        >>> repository = ocikit.Session().repository("localhost:5000/ada/waves", push=True)
        >>> blob = ocikit.Descriptor.of(b"hello", "text/plain")
        >>> repository.push_bytes(blob, b"hello")
        >>> repository.signed_url(blob)
        Traceback (most recent call last):
            ...
        ocikit.errors.Unsupported: localhost:5000 serves blobs itself and signs no URLs
          -> use the URL of the blob, with a token where the registry requires one
        """
        self.transport.forget_redirect(self.blob_url(descriptor.digest))  # an older URL would expire sooner
        response = self.get_blob(descriptor.digest, end=0)  # followed to its end: one byte
        drain(response)
        if self.transport.serves(str(response.url)):
            raise Unsupported(
                f"{self.transport.host} serves blobs itself and signs no URLs",
                hint="use the URL of the blob, with a token where the registry requires one",
            )
        return str(response.url)

    def head(self, descriptor: Descriptor, size: int) -> bytes:
        """Return the first `size` bytes of a blob, not verified, by a range request.

        Args:
            descriptor: The blob.
            size: Number of bytes.
        """
        if descriptor.is_document or not 0 < size < descriptor.size:
            return super().head(descriptor, size)
        response = self.get_blob(descriptor.digest, end=size - 1)
        prefix = b"" if is_encoded(response) else read_prefix(response, size)
        return prefix if len(prefix) == size else super().head(descriptor, size)

    def fetch(self, descriptor: Descriptor, *, limit: int = DOCUMENT_LIMIT) -> bytes:
        """Return the verified content of a manifest or a small blob.

        A size that `resolve` took from a HEAD response is not verified.

        Args:
            descriptor: The manifest or blob.
            limit: Greatest size, in bytes.

        Raises:
            ManifestUnknown: There is no such manifest.
            BlobUnknown: There is no such blob.
            DigestMismatch: The bytes do not match the digest.
            SizeMismatch: The bytes do not match the size.
            InvalidDocument: The size exceeds the limit, or the registry returns another media type.
        """
        if (embedded := descriptor.embedded) is not None:
            return embedded
        if not descriptor.is_document:
            return super().fetch(descriptor, limit=limit)
        if descriptor.size > limit:
            raise InvalidDocument(
                f"{descriptor} is above the limit of {limit} bytes",
                hint="most registries accept no such documents either; ask its publisher to move content into blobs",
            )
        if (document := self.hints.pop_document(descriptor)) is not None:
            return document.raw
        raw, kind, _ = self.get_manifest(descriptor.digest, limit=limit)
        # Proxies and registries return other lengths for HEAD than for GET, so a size from HEAD can't be checked
        if not self.hints.is_from_head(descriptor):
            check_size(descriptor, len(raw))
        descriptor.digest.verify(raw, f"the manifest from {self._full_name}")
        if kind and media_types.is_document(kind) and kind != descriptor.media_type:
            raise InvalidDocument(
                f"{self.transport.host} serves {descriptor.digest.short} as {kind}, its descriptor has {descriptor.media_type}",
                hint="one of the two is wrong; the content can't be trusted",
            )
        return raw

    def document(self, descriptor: Descriptor) -> Manifest | Index:
        """Return the verified manifest or index; one that was read to resolve its tag is not parsed again."""
        document = self.hints.pop_document(descriptor) if descriptor.size <= DOCUMENT_LIMIT else None
        return super().document(descriptor) if document is None else document

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> Sequence[Descriptor]:
        """Return the referrers of a manifest, by the API or the fallback tag.

        Args:
            descriptor: Descriptor of the subject.
            artifact_type: Return referrers of this type only.
        """
        found, self._referrers_api = referrers.find(self, descriptor.digest, artifact_type, api=self._referrers_api)
        return found

    # Store

    def exists(self, descriptor: Descriptor) -> bool:
        """Return True if the repository has the content.

        A 403 counts as "not present", because the following upload fails with the actual error: Artifactory answers 403
        to HEAD for missing blobs (RTFACT-13797).
        """
        if descriptor.is_document:
            response = self.head_manifest(descriptor.digest, ok_statuses=(403, 404))
        else:
            response = self.head_blob(descriptor.digest, push="push" in self._actions, ok_statuses=(403, 404))
        return response.status_code == 200

    def cheaper_to_push(self, descriptor: Descriptor) -> bool:
        """Return True for a small blob in a repository without tags.

        Existence checks would be wasted requests there.
        """
        return descriptor.size <= _SMALL_BLOB and not descriptor.is_document and self._has_no_tags()

    def takes_unhashed(self) -> bool:
        """Return True for a repository without tags, whose registry takes large uploads in one PATCH.

        In other repositories the blob may exist, and its digest saves the upload.
        """
        return self.transport.patch_blobs and self._has_no_tags()

    def _has_no_tags(self) -> bool:
        with self._is_new_lock:
            if self._is_new is None:
                response = self.transport.request(
                    "GET",
                    self._path("tags", "list?n=1"),
                    self.action_name("list the tags of"),
                    scopes=(self.scope("pull", "push"),),
                    ok_statuses=(401, 403, 404),
                )
                drain(response)
                self._is_new = response.status_code == 404
            return self._is_new

    def push(
        self, descriptor: Descriptor, stream: ByteStream, *, tag: str | None = None, chunk_size: int | None = None
    ) -> None:
        """Push a blob, or a manifest with its tag.

        Args:
            descriptor: Descriptor of the content.
            stream: Content; a seekable stream can be sent again.
            tag: A tag for a manifest, set in the same request.
            chunk_size: Bytes; a blob is then sent in chunks from the start.

        Raises:
            InvalidReference: A blob has a tag, or the tag is invalid.
            SizeMismatch: The stream has more or fewer bytes than its descriptor.
            UploadInvalid: The registry rejects the content.
        """
        if descriptor.is_document:
            raw = stream.read(descriptor.size + 1)
            self.push_document(descriptor, raw, tags=[tag] if tag else [])
            return
        if tag is not None:
            raise InvalidReference("a registry tags manifests, not blobs", hint="push a manifest that names the blob")
        session = self._mount_sessions.pop(descriptor.digest, None)
        broken = self._broken_sessions.pop(descriptor.digest, None)
        upload(self, descriptor, stream, session=broken or session, chunk_size=chunk_size, continued=broken is not None)

    def push_unhashed(self, stream: ByteStream, size: int, check: Callable[[], object]) -> tuple[Digest, bool]:
        """Push a blob in one pass: it is hashed while it is sent, and the last request has the digest.

        Args:
            stream: Content, seekable.
            size: Size of the content, in bytes.
            check: Called before the last request; it raises an error if the content has changed.

        Returns:
            The digest, and whether the blob is stored. If it isn't, `push` resumes the upload.

        Raises:
            SizeMismatch: The stream has more or fewer bytes.
            UploadInvalid: The registry stored another blob.
            Denied: The credentials do not allow the push.
        """
        digest, session, stored = upload_unhashed(self, stream, size, check)
        if session is not None:
            self._broken_sessions[digest] = session
        return digest, stored

    def push_document(self, descriptor: Descriptor, raw: bytes, tags: Sequence[str] = ()) -> None:
        """Push a manifest's exact bytes under its digest or tags.

        Several tags are set in one request if the registry supports that (`OCI-Tag`), else one by one. A manifest with a
        subject is added to the list of its referrers.

        Args:
            descriptor: Descriptor of the manifest or index.
            raw: Exact bytes of the document.
            tags: Tags to set.

        Raises:
            InvalidArgument: `tags` is a single text.
            InvalidReference: A tag is invalid.
            DigestMismatch: The bytes are not the descriptor's.
            UploadInvalid: The registry rejects the manifest, or stores something else.
        """
        for tag in to_texts(tags, "tags"):
            check_tag(tag)
        descriptor.digest.verify(raw, "the manifest to push")
        document = parse_document(raw, descriptor.media_type, limit=MANIFEST_LIMIT)
        if len(tags) == 1 and descriptor.digest.algorithm == "sha256":
            response, remaining = self.put_manifest(tags[0], raw, descriptor.media_type), []
        else:
            response = self._put_with_tags(tags, descriptor, raw)
            accepted = {tag.strip() for tag in response.headers.get("OCI-Tag", "").split(",")}
            remaining = [tag for tag in tags if tag not in accepted]
        self._check_stored(descriptor, response)
        for tag in remaining:
            self._check_stored(descriptor, self.put_manifest(tag, raw, descriptor.media_type))
        self._list_referrer(descriptor, document, response)

    def _list_referrer(self, descriptor: Descriptor, document: Manifest | Index, response: requests.Response) -> None:
        """Add a manifest with a subject to the list of its referrers, unless the registry has done so."""
        if document.subject is not None:
            if response.headers.get("OCI-Subject"):
                self._referrers_api = True
            else:
                referrers.add(self, document.subject.digest, document.as_referrer(descriptor.digest))

    def swap(self, descriptor: Descriptor, raw: bytes, tag: str, expected: Digest | None) -> Swap:
        """Push a manifest under a tag if the tag names what the caller has read.

        Registries that ignore conditions set the tag in any case. So the first PUT to a host has a condition that cannot
        hold: a host that rejects it honours conditions.

        Args:
            descriptor: Descriptor of the manifest.
            raw: Bytes of the manifest.
            tag: The tag to set.
            expected: Digest that the tag must name; None if there must be no such tag.

        Returns:
            "done", "moved" or "unchecked", as `Store.swap` explains them.
        """
        check_tag(tag)
        descriptor.digest.verify(raw, "the manifest to push")
        document = parse_document(raw, descriptor.media_type, limit=MANIFEST_LIMIT)
        response = None
        if self.transport.conditional is None:
            response = self._put_if(_IMPOSSIBLE, descriptor, raw, tag)
            self.transport.conditional = response is None
        if response is None:
            response = self._put_if(expected, descriptor, raw, tag)
        if response is None:
            current = self.head_manifest(tag, ok_statuses=(404,)).headers.get("Docker-Content-Digest")
            if current != expected:
                return "moved"
            # The host compares with something else than the digest, such as an ETag of its own
            self.transport.conditional = False
            response = self.put_manifest(tag, raw, descriptor.media_type)
        self._check_stored(descriptor, response)
        self._list_referrer(descriptor, document, response)
        return "done" if self.transport.conditional else "unchecked"

    def _put_if(
        self, expected: Digest | None, descriptor: Descriptor, raw: bytes, tag: str
    ) -> requests.Response | None:
        """Push a manifest by a tag on a condition; return None if the registry rejects the condition."""
        condition = f'"{expected}"' if expected else None
        try:
            return self.put_manifest(
                tag, raw, descriptor.media_type, if_match=condition, if_none_match=condition is None
            )
        except RegistryError as error:
            if error.status != 412:
                raise
            return None

    def _put_with_tags(self, tags: Sequence[str], descriptor: Descriptor, raw: bytes) -> requests.Response:
        """Push by digest with all tags, or without tags if the URL is too long for the registry."""
        try:
            return self.put_manifest(descriptor.digest, raw, descriptor.media_type, tags=tags)
        except RegistryError as error:
            if not tags or error.status not in {414, 431}:
                raise
        return self.put_manifest(descriptor.digest, raw, descriptor.media_type)

    def _check_stored(self, descriptor: Descriptor, response: requests.Response) -> None:
        stored = response.headers.get("Docker-Content-Digest")
        if stored and stored != descriptor.digest and stored.partition(":")[0] == descriptor.digest.algorithm:
            raise UploadInvalid(
                f"{self.transport.host} stored {stored} for {descriptor.digest}",
                hint="the registry changed the manifest; don't use what was pushed",
                host=self.transport.host,
            )

    def mount(self, descriptor: Descriptor, source: Source) -> bool:
        """Mount a blob from a repository of the same registry.

        Args:
            descriptor: The blob.
            source: Another repository of the same registry.

        Returns:
            True if the blob was mounted. Otherwise it must be uploaded; `push` uses the session that the registry opened.
        """
        if descriptor.is_document or not isinstance(source, Repository) or source.transport.host != self.transport.host:
            return False
        if source.name == self.name:
            return False
        try:
            session = self.mount_blob(descriptor.digest, source.name)
        except RegistryError as error:
            # Quay 400, Harbor 401 from a missing project, Docker Hub on a scope that it does not grant
            log.info("no mount from %s: %s", source.name, error.message)
            return False
        if session is None:
            return True
        if descriptor.digest.algorithm == "sha256":
            self._mount_sessions[descriptor.digest] = session
        else:  # the session was opened for sha256
            self._cancel(session)
        return False

    def _cancel(self, session: UploadSession) -> None:
        try:
            self.delete_upload(session)
        except OcikitError:
            log.debug("cancelling an upload session failed", exc_info=True)

    def tag(self, descriptor: Descriptor, tag: str) -> None:
        """Set a tag to a manifest of this repository; its bytes are pushed again unchanged.

        Args:
            descriptor: A manifest of this repository.
            tag: The tag; one in use moves.

        Raises:
            ManifestUnknown: There is no such manifest.
        """
        check_tag(tag)
        raw = self.fetch(descriptor, limit=MANIFEST_LIMIT)
        self.put_manifest(tag, raw, descriptor.media_type)

    def untag(self, tag: str) -> None:
        """Delete a tag; the manifest and its other tags stay.

        Raises:
            ManifestUnknown: There is no such tag.
            Unsupported: The registry deletes manifests only, which would delete other tags, too.
        """
        check_tag(tag)
        self.resolve(tag)
        try:
            self.delete_manifest(tag)
        except RegistryError as error:
            # distribution 2.8 answers 400 or 404, with DIGEST_INVALID or UNSUPPORTED, to a tag
            if isinstance(error, Unsupported) or error.status in {400, 404, 405}:
                raise error.reworded(
                    f"{self.transport.host} can't delete the tag {tag!r} alone ({error.message})",
                    "delete the manifest by its digest if all its tags may go: ocikit.delete('…@sha256:…')",
                    kind=Unsupported,
                ) from error
            raise

    def delete(self, descriptor: Descriptor) -> None:
        """Delete a manifest with all its tags, or a blob.

        A manifest with a subject is removed from the list of its referrers.

        Raises:
            ManifestUnknown: There is no such manifest.
            BlobUnknown: There is no such blob.
            Unsupported: The registry does not delete; the hint names an alternative.
        """
        if not descriptor.is_document:
            self.delete_blob(descriptor.digest)
            return
        try:
            document = self._fetch_document(descriptor.digest)
        except (ContentError, InvalidDocument):
            document = None  # an invalid manifest can be deleted, too
        subject = document.subject if document else None
        if subject is not None and self._referrers_api is None:
            try:
                _, self._referrers_api = referrers.find(self, subject.digest, None, api=None)
            except InvalidResponse:
                self._referrers_api = True  # the API exists, although its list is invalid
        if document is None or subject is None or self._referrers_api:
            self.delete_manifest(descriptor.digest)
            return
        # Remove it from the list first: ECR deletes no manifest that an index names
        referrers.remove(self, subject.digest, descriptor.digest)
        try:
            self.delete_manifest(descriptor.digest)
        except NotFound:
            raise
        except OcikitError:
            with contextlib.suppress(OcikitError):
                referrers.add(self, subject.digest, document.as_referrer(descriptor.digest))
            raise

    # Names

    def tags(self, *, limit: int | None = None) -> list[str]:
        """Return the tags in the registry's order.

        Args:
            limit: Return at most so many, and request no more pages than they need.

        Raises:
            NameUnknown: There is no such repository.
        """
        tags: list[str] = []
        for tag in self.iter_tags():
            if limit is not None and len(tags) >= limit:
                break
            tags.append(tag)
        return tags

    def iter_tags(self) -> Iterator[str]:
        """Yield the valid tags, and request each page when it is reached.

        Raises:
            NameUnknown: There is no such repository.
        """
        try:
            for page in self.list_tags(n=PAGE_SIZE):
                yield from page
        except NameUnknown as error:
            raise self._name_unknown(error) from None

    def can_push(self) -> bool:
        """Return True if the credentials may push here.

        The check opens an upload session and cancels it.

        >>> ocikit.Session().repository("localhost:5000/ada/waves").can_push()
        True
        """
        try:
            session = self.post_upload()
        except (Denied, Unauthorized, NotFound, Unsupported):
            return False
        self._cancel(session)
        return True
