"""Validation of all documents of a reference against the specification."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from attrs import define, field, frozen

from ocikit import display
from ocikit.client.backends import Backends
from ocikit.client.resolver import Resolver
from ocikit.errors import (
    ConnectionFailed,
    ContentError,
    DigestMismatch,
    InvalidDocument,
    ManifestUnknown,
    NoMatchingPlatform,
    NotFound,
    OcikitError,
    SizeMismatch,
    TooLarge,
    Violation,
)
from ocikit.remote.http.responses import read_limited
from ocikit.remote.repository import Repository
from ocikit.spec import media_types
from ocikit.spec.config import ImageConfig
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT, MAX_INDEX_DEPTH, load_json, structure
from ocikit.spec.manifest import Index, Manifest, PlatformLike, parse_document
from ocikit.spec.platform import Platform
from ocikit.spec.reference import AnyReference
from ocikit.spec.validation import MAX_VIOLATIONS, find_violations
from ocikit.store.base import Source
from ocikit.store.cache.cache import Cache
from ocikit.store.selection import check_platform
from ocikit.store.streams import check_size
from ocikit.transfer.pool import WORKERS


@frozen(kw_only=True, repr=False)
class DocumentViolation(Violation):
    """A violation and the document that contains it."""

    digest: Digest | None
    """Digest of the document; None for the `index.json` of a layout."""

    def __str__(self) -> str:
        return f"{self.digest or 'index.json'} {self.path}: {self.message}"

    def __rich_repr__(self) -> display.Description:
        yield "digest", self.digest.short if self.digest else None
        yield "path", self.path
        yield "message", self.message


@frozen(kw_only=True, repr=False)
class ValidationReport(display.Displayable):
    """Result of `validate`.

    >>> from ocikit.spec.reference import LayoutReference
    >>> report = ocikit.ValidationReport(reference=ocikit.LayoutReference.parse("oci:data:v1"), documents=(), violations=())
    >>> report.ok, report.violations, report.summary
    (True, (), 'oci:data:v1: 0 documents, no violations')
    """

    reference: AnyReference
    """The validated reference, pinned by digest if it could be resolved."""
    documents: tuple[Descriptor, ...]
    """The documents that were read, each manifest after its index."""
    violations: tuple[DocumentViolation, ...]

    @property
    def ok(self) -> bool:
        """True if there are no violations."""
        return not self.violations

    @property
    def summary(self) -> str:
        """The reference and the result in one line."""
        return f"{display.sanitize(self.reference)}: {self._result()}"

    def _result(self) -> str:
        count = len(self.violations)
        result = display.pluralize(count, "violation") if count else "no violations"
        return f"{display.pluralize(len(self.documents), 'document')}, {result}"

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.reference)
        yield "ok", self.ok
        yield "documents", len(self.documents)
        yield "violations", len(self.violations), 0

    def _card_title(self) -> object:
        return display.title_of(self.reference)

    def _card_notes(self) -> Iterator[object]:
        yield self._result()

    def _facts(self) -> Iterator[tuple[str, object]]:
        if self.reference.digest:
            yield "pinned", display.Code(self.reference)

    def _sections(self) -> Iterator[display.Section]:
        if self.violations:
            rows = (
                (v.path, v.message, display.DigestCell(v.digest) if v.digest else "index.json") for v in self.violations
            )
            headers = ("path", "message", "document")
            count = len(self.violations)
            yield display.Section(title="violations", headers=headers, rows=rows, count=count, unfolded=True)
        if self.documents:
            documents = ((d.media_type, display.Size(d.size), display.DigestCell(d.digest)) for d in self.documents)
            headers = ("type", "size", "digest")
            count = len(self.documents)
            yield display.Section(title="documents", headers=headers, rows=documents, count=count, unfolded=False)


def validate(
    backends: Backends, cache: Cache, reference: AnyReference, platform: PlatformLike | None, workers: int = WORKERS
) -> ValidationReport:
    """Validate every document of a reference: indexes, manifests, and the configs of images.

    Violations never raise.

    Args:
        backends: Opens the source of the reference.
        cache: Source of documents that were fetched before.
        reference: The reference to validate.
        platform: Platform of the only manifest of an index to validate; None validates all of them.
        workers: Number of documents to fetch at the same time.

    Raises:
        NotFound: The reference does not exist.
        NoMatchingPlatform: The index has no manifest for the platform.
    """
    if platform is not None and not callable(platform):
        platform = Platform.parse(platform)  # parse it here: a single manifest would not reveal an invalid platform
    try:
        with backends.open_source(reference) as source:
            resolver = Resolver(source, cache)
            return _Validator(source=source, resolver=resolver, reference=reference, platform=platform).run(workers)
    except InvalidDocument as error:
        # The source itself is invalid, such as the index.json of a layout
        return ValidationReport(reference=reference, documents=(), violations=_violations_in(None, error.problems))
    except DigestMismatch as error:
        # A blob of an archive is corrupt
        digest = Digest(error.expected) if error.expected else None
        problem = Violation(path="$", message=error.message)
        return ValidationReport(reference=reference, documents=(), violations=_violations_in(digest, [problem]))


@frozen(kw_only=True)
class _Node:
    """A document to validate, and its position in the tree of documents."""

    descriptor: Descriptor
    position: tuple[int, ...] = ()
    """Path from the root as child numbers; defines the order of the report."""
    parent: Digest | None = None
    path: str = "$"
    """JSON path of the descriptor in the parent."""
    layers: int | None = None
    """Number of layers of the manifest, if this is its config."""

    @property
    def key(self) -> tuple[object, ...]:
        """Key for deduplication: nodes with equal keys have the same violations."""
        return self.descriptor.key, self.descriptor.media_type, self.layers


@frozen
class _Result:
    """Result of the validation of one document."""

    violations: tuple[DocumentViolation, ...]
    read: bool = True
    """False if the document could not be fetched."""
    children: tuple[_Node, ...] = ()


@define(eq=False, kw_only=True)
class _Validator:
    """Validation of the documents of one reference."""

    source: Source
    resolver: Resolver
    reference: AnyReference
    platform: PlatformLike | None
    fetched: dict[tuple[str, int], bytes] = field(factory=dict, init=False)
    """Documents that were read to find the root, by the key of their descriptor."""

    def run(self, workers: int) -> ValidationReport:
        """Validate all documents, one level of the tree after another."""
        root = _Node(descriptor=self._root())
        level, seen = [root], {root.key}
        results: list[tuple[_Node, _Result]] = []
        with ThreadPoolExecutor(workers, "ocikit-validate") as pool:
            while level:
                next_level = []
                for node, result in zip(level, pool.map(self._check, level), strict=True):
                    results.append((node, result))
                    for child in result.children:
                        if child.key not in seen:
                            seen.add(child.key)
                            next_level.append(child)
                level = next_level
        results.sort(key=lambda item: item[0].position)
        documents = {node.descriptor.key: node.descriptor for node, result in results if result.read}
        return ValidationReport(
            reference=self.reference.pinned(root.descriptor.digest),
            documents=tuple(documents.values()),
            violations=tuple(dict.fromkeys(violation for _, result in results for violation in result.violations)),
        )

    def _root(self) -> Descriptor:
        """Return the descriptor of the reference, even if its document is invalid."""
        try:
            return self.resolver.resolve(self.reference)
        except ManifestUnknown:
            # A layout parses the document to resolve a digest that has no entry
            if self.source.cacheable or self.reference.digest is None:
                raise
        except (InvalidDocument, DigestMismatch):
            # A registry without digest headers requires parsing the document to resolve a tag
            if not self.source.cacheable:
                raise
        root, raw = self.source.raw_document(self.reference.target)
        if root.size == len(raw):
            self.fetched[root.key] = raw
        return root

    def _check(self, node: _Node) -> _Result:
        """Fetch and validate one document."""
        descriptor = node.descriptor
        try:
            raw = self._fetch(descriptor)
        except (NotFound, ContentError, InvalidDocument, TooLarge) as error:
            if isinstance(error, NotFound) and node.parent is None:
                raise
            key = {SizeMismatch: ".size", DigestMismatch: ".digest"}.get(type(error), "") if node.parent else ""
            problem = Violation(path=node.path + key, message=error.message)
            return _Result(_violations_in(node.parent or descriptor.digest, [problem]), read=False)
        problems = list(find_violations(raw, descriptor.media_type))
        if len(problems) <= MAX_VIOLATIONS:  # the list is not truncated
            problems += _parser_violations(raw, descriptor.media_type, problems)
        try:
            value = load_json(raw, "the document")
        except InvalidDocument:
            return _Result(_violations_in(descriptor.digest, problems))
        problems += _cross_document_violations(value, node)
        children = () if descriptor.media_type in media_types.CONFIG_TYPES else tuple(self._children(raw, value, node))
        if children and len(node.position) > MAX_INDEX_DEPTH:
            problems.append(Violation(path="$", message=f"indexes are nested more than {MAX_INDEX_DEPTH} deep"))
            children = ()
        return _Result(_violations_in(descriptor.digest, problems), children=children)

    def _fetch(self, descriptor: Descriptor) -> bytes:
        """Return the verified bytes of a document."""
        if (raw := self.fetched.get(descriptor.key)) is not None:
            descriptor.digest.verify(raw, "the document")
            return raw
        if self.resolver.cache.exists(descriptor):
            try:
                return self.resolver.cache.fetch(descriptor)
            except NotFound:
                pass  # the cached file was corrupt and has been deleted
        small = descriptor.size <= DOCUMENT_LIMIT and descriptor.embedded is None
        if small and isinstance(self.source, Repository) and not descriptor.is_document:
            # Do not use a resumable stream: with a wrong size it would wait for bytes that do not exist
            try:
                raw = read_limited(self.source.get_blob(descriptor.digest), DOCUMENT_LIMIT, f"pull {descriptor.digest}")
            except ConnectionFailed:
                return self.source.fetch(descriptor)
            check_size(descriptor, len(raw))
            descriptor.digest.verify(raw, descriptor.media_type)
            return raw
        return self.source.fetch(descriptor)

    def _children(self, raw: bytes, value: dict[str, Any], node: _Node) -> Iterator[_Node]:
        """Yield the manifests of an index, or the config of an image."""
        selected = self._select(raw) if "manifests" in value else None
        if node.parent is None and "manifests" not in value:
            self._check_platform(raw, node.descriptor)
        for number, (path, descriptor) in enumerate(_descriptors(value)):
            config = path == "$.config" and descriptor.media_type in media_types.CONFIG_TYPES
            manifest = path.startswith("$.manifests[") and descriptor.is_document
            if not config and (not manifest or selected not in {None, descriptor}):
                continue
            layers = value.get("layers")
            yield _Node(
                descriptor=descriptor,
                position=(*node.position, number),
                parent=node.descriptor.digest,
                path=path,
                layers=len(layers) if config and isinstance(layers, list) else None,
            )

    def _check_platform(self, raw: bytes, descriptor: Descriptor) -> None:
        """Compare the requested platform with the one of a single image.

        Raises:
            NoMatchingPlatform: The image is for another platform.
        """
        if self.platform is None:
            return
        try:
            manifest = parse_document(raw)
            if isinstance(manifest, Manifest):
                check_platform(descriptor, manifest, self.platform, self._fetch)
        except NoMatchingPlatform:
            raise
        except (InvalidDocument, NotFound, ContentError):
            pass  # reported with the other violations

    def _select(self, raw: bytes) -> Descriptor | None:
        """Return the manifest of an index for the requested platform; None stands for all manifests.

        Raises:
            NoMatchingPlatform: The index has no manifest for the platform.
        """
        if self.platform is None:
            return None
        try:
            document = parse_document(raw)
        except InvalidDocument:
            return None  # an invalid index cannot select; its violations are reported
        return document.select(self.platform) if isinstance(document, Index) else None


def _violations_in(digest: Digest | None, problems: Iterable[Violation]) -> tuple[DocumentViolation, ...]:
    return tuple(DocumentViolation(digest=digest, path=v.path, message=v.message) for v in problems)


def _parser_violations(raw: bytes, media_type: str, known: list[Violation]) -> list[Violation]:
    """Return what the parser of this library rejects, except at the paths of known violations."""
    try:
        if media_type in media_types.CONFIG_TYPES:
            ImageConfig.parse(raw)
        else:
            # A mediaType other than the descriptor's is reported later; parse the rest as the document's own type
            untyped = load_json(raw, "the document").get("mediaType") is None
            parse_document(raw, media_type if untyped else None)
    except InvalidDocument as error:
        paths = {_normalize_path(v.path) for v in known}
        return [v for v in error.problems if _normalize_path(v.path) not in paths]
    return []


def _normalize_path(path: str) -> str:
    """Return a JSON path without punctuation, because `$.a` and `$['a']` are equivalent."""
    return re.sub(r"[\[\]'.]+", " ", path)


def _cross_document_violations(value: dict[str, Any], node: _Node) -> list[Violation]:
    """Return violations that no schema detects: contradictions of documents and descriptors."""
    problems = []
    descriptor, media_type = node.descriptor, value.get("mediaType")
    typed = descriptor.is_document or descriptor.media_type in media_types.SCHEMA1_TYPES
    if typed and isinstance(media_type, str) and media_type.lower() != descriptor.media_type:
        message = f"the document has type {display.quoted(media_type, 80)}, its descriptor {descriptor.media_type}"
        problems.append(Violation(path="$.mediaType", message=message))
    for path, child in _descriptors(value):
        # Do not use `Descriptor.embedded`, which returns `{}` for the empty descriptor without reading `data`
        data = child.data
        if data is not None and not _matches(data, child):
            message = f"the {len(data)} embedded bytes do not match size and digest"
            problems.append(Violation(path=f"{path}.data", message=message))
    if node.layers is not None and isinstance(rootfs := value.get("rootfs"), dict):
        diff_ids = rootfs.get("diff_ids")
        if isinstance(diff_ids, list) and len(diff_ids) != node.layers:
            message = f"expected one for each of the {node.layers} layers of the manifest, found {len(diff_ids)}"
            problems.append(Violation(path="$.rootfs.diff_ids", message=message))
    return problems


def _matches(data: bytes, descriptor: Descriptor) -> bool:
    digest = descriptor.digest
    return len(data) == descriptor.size and (not digest.verifiable or Digest.of(data, digest.algorithm) == digest)


def _descriptors(value: dict[str, Any]) -> Iterator[tuple[str, Descriptor]]:
    """Yield the valid descriptors of a document with their JSON paths."""
    for key in ("manifests", "config", "layers", "blobs", "subject"):
        items = value.get(key)
        for index, item in enumerate(items) if isinstance(items, list) else [(None, items)]:
            if isinstance(item, dict) and {"mediaType", "digest", "size"} <= item.keys():
                try:
                    yield f"$.{key}" + ("" if index is None else f"[{index}]"), structure(item, Descriptor)
                except OcikitError:
                    continue  # reported as a violation of the schema
