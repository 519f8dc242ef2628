"""Whether an artifact is what the specification says: every document of its tree looked at, everything wrong told."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
from ocikit.spec.document import DOCUMENT_LIMIT, load_json, structure
from ocikit.spec.manifest import Index, PlatformLike, parse_document
from ocikit.spec.platform import Platform
from ocikit.spec.reference import AnyReference
from ocikit.spec.validation import MAX_VIOLATIONS, find_violations
from ocikit.store.base import Source
from ocikit.store.cache.cache import Cache
from ocikit.store.streams import check_size
from ocikit.transfer.pool import WORKERS

#: Indexes in each other; real ones have two or three. A registry could give out a chain without an end.
_DEPTH = 8


@frozen(kw_only=True, repr=False)
class Finding(Violation):
    """One thing that is wrong, and in which document."""

    digest: Digest | None
    """Of the document; None if there is none, as for a layout's `index.json`."""

    def __str__(self) -> str:
        return f"{self.digest or 'index.json'} {self.path}: {self.message}"

    def __rich_repr__(self) -> display.Description:
        yield "digest", self.digest.short if self.digest else None
        yield "path", self.path
        yield "message", self.message


@frozen(kw_only=True, repr=False)
class ValidationReport(display.Displayable):
    """What `validate` has looked at and found; true if all is well, and iterable.

    >>> from ocikit.spec.reference import LayoutReference
    >>> report = ValidationReport(reference=LayoutReference.parse("oci:data:v1"), documents=(), findings=())
    >>> bool(report), list(report), report.summary
    (True, [], 'oci:data:v1: 0 documents, nothing is wrong')
    """

    reference: AnyReference
    """What was asked for, pinned if it could be."""
    documents: tuple[Descriptor, ...]
    """What was read, each manifest after the index that names it."""
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def summary(self) -> str:
        """One line for people."""
        read, wrong = len(self.documents), len(self.findings)
        words = f"{wrong} violation{'' if wrong == 1 else 's'}" if wrong else "nothing is wrong"
        return f"{display.sanitize(self.reference)}: {read} document{'' if read == 1 else 's'}, {words}"

    def __bool__(self) -> bool:
        return self.ok

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.reference)
        yield "ok", self.ok
        yield "documents", len(self.documents)
        yield "findings", len(self.findings), 0

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "reference", display.Code(self.reference)
        yield "result", self.summary.rpartition(": ")[2]

    def _sections(self) -> Iterator[display.Section]:
        if self.findings:
            rows = (
                (f.path, f.message, display.DigestCell(f.digest) if f.digest else "index.json") for f in self.findings
            )
            headers = ("path", "message", "document")
            yield display.Section(title="wrong", headers=headers, rows=rows, count=len(self.findings), unfolded=True)
        if self.documents:
            read = ((d.media_type, display.Size(d.size), display.DigestCell(d.digest)) for d in self.documents)
            yield display.Section(
                title="looked at",
                headers=("type", "size", "digest"),
                rows=read,
                count=len(self.documents),
                unfolded=False,
            )


def validate(
    backends: Backends, cache: Cache, reference: AnyReference, platform: PlatformLike | None, workers: int = WORKERS
) -> ValidationReport:
    """Look at every document of a reference: indexes, manifests, and the configs of images.

    Args:
        backends: Opens the source of a reference.
        cache: Cached documents are not requested again.
        reference: the root.
        platform: only that manifest of an index.
        workers: documents read at once.
    Raises:
        NotFound: no such reference. NoMatchingPlatform. Never for what is in a document.
    """
    if platform is not None and not callable(platform):
        platform = Platform.parse(platform)  # a mistake in it shows for a single manifest, too
    try:
        with backends.open_source(reference) as source:
            resolver = Resolver(source, cache)
            return _Validation(source=source, resolver=resolver, reference=reference, platform=platform).run(workers)
    except (InvalidDocument, DigestMismatch) as error:
        # What names the documents: a layout's own files, or an archive with a blob that is damaged
        digest = Digest(error.expected) if isinstance(error, DigestMismatch) and error.expected else None
        return ValidationReport(reference=reference, documents=(), findings=tuple(_of(digest, _told(error))))


@frozen(kw_only=True)
class _Node:
    """A document to look at, and who names it."""

    descriptor: Descriptor
    place: tuple[int, ...] = ()
    """Its way from the root: the order of the report."""
    owner: Digest | None = None
    path: str = "$"
    """Of the descriptor, in the owner."""
    layers: int | None = None
    """Of the manifest that a config belongs to."""

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for nodes that would be told the same of."""
        return self.descriptor.key, self.descriptor.media_type, self.layers


@define(eq=False, kw_only=True)
class _Validation:
    """The way through the documents of a reference."""

    source: Source
    resolver: Resolver
    reference: AnyReference
    platform: PlatformLike | None
    at_hand: dict[tuple[str, int], bytes] = field(factory=dict, init=False)
    """What had to be read to find the root, by its descriptor's key."""

    def run(self, workers: int) -> ValidationReport:
        """Look at everything, level by level."""
        root = _Node(descriptor=self._root())
        level, seen = [root], {root.key}
        looked: list[tuple[_Node, bool, list[Finding]]] = []
        with ThreadPoolExecutor(workers, "ocikit-validate") as pool:
            while level:
                following = []
                for node, (read, found, children) in zip(level, pool.map(self._look, level), strict=True):
                    looked.append((node, read, found))
                    for child in children:
                        if child.key not in seen:
                            seen.add(child.key)
                            following.append(child)
                level = following
        looked.sort(key=lambda item: item[0].place)
        return ValidationReport(
            reference=self.reference.pinned(root.descriptor.digest),
            documents=tuple({node.descriptor.key: node.descriptor for node, read, _ in looked if read}.values()),
            findings=tuple(dict.fromkeys(finding for _, _, found in looked for finding in found)),
        )

    def _root(self) -> Descriptor:
        """The reference's descriptor, even if what it names can't be parsed."""
        try:
            return self.resolver.resolve(self.reference)
        except ManifestUnknown:
            # A layout resolves a digest that has no entry by parsing the document
            if self.source.cacheable or self.reference.digest is None:
                raise
        except (InvalidDocument, DigestMismatch):
            # A registry without a digest header resolves a tag by parsing the document
            if not self.source.cacheable:
                raise
        root, raw = self.source.raw_document(self.reference.target)
        if root.size == len(raw):
            self.at_hand[root.key] = raw
        return root

    def _look(self, node: _Node) -> tuple[bool, list[Finding], list[_Node]]:
        """Whether a document could be read, what is wrong with it, and what it leads to."""
        described = node.descriptor
        try:
            raw = self._fetch(described)
        except (NotFound, ContentError, InvalidDocument, TooLarge) as error:
            if isinstance(error, NotFound) and node.owner is None:
                raise
            part = {SizeMismatch: ".size", DigestMismatch: ".digest"}.get(type(error), "") if node.owner else ""
            told = Violation(path=node.path + part, message=error.message)
            return False, _of(node.owner or described.digest, [told]), []
        found = list(find_violations(raw, described.media_type))
        if len(found) <= MAX_VIOLATIONS:  # else it is told that there are more
            found += _refused(raw, described.media_type, found)
        try:
            value = load_json(raw, "the document")
        except InvalidDocument:
            return True, _of(described.digest, found), []
        found += _beyond(value, node)
        children = [] if described.media_type in media_types.CONFIG_TYPES else list(self._children(raw, value, node))
        if children and len(node.place) > _DEPTH:
            found.append(Violation(path="$", message=f"an index in an index …, more than {_DEPTH} deep"))
            children = []
        return True, _of(described.digest, found), children

    def _fetch(self, descriptor: Descriptor) -> bytes:
        """A document's bytes, verified."""
        if (raw := self.at_hand.get(descriptor.key)) is not None:
            descriptor.digest.verify(raw, "the document")
            return raw
        if self.resolver.cache.exists(descriptor):
            try:
                return self.resolver.cache.fetch(descriptor)
            except NotFound:
                pass  # damaged on disk, and gone now
        small = descriptor.size <= DOCUMENT_LIMIT and descriptor.embedded is None
        if small and isinstance(self.source, Repository) and not descriptor.is_document:
            # A stream that resumes would wait for the bytes that a wrong size promises
            try:
                raw = read_limited(self.source.get_blob(descriptor.digest), DOCUMENT_LIMIT, f"pull {descriptor.digest}")
            except ConnectionFailed:
                return self.source.fetch(descriptor)
            check_size(descriptor, len(raw))
            descriptor.digest.verify(raw, descriptor.media_type)
            return raw
        return self.source.fetch(descriptor)

    def _children(self, raw: bytes, value: dict[str, Any], node: _Node) -> Iterator[_Node]:
        """The manifests of an index, the config of an image."""
        chosen = self._chosen(raw) if "manifests" in value else None
        for number, (path, descriptor) in enumerate(_descriptors(value)):
            config = path == "$.config" and descriptor.media_type in media_types.CONFIG_TYPES
            manifest = path.startswith("$.manifests[") and descriptor.is_document
            if not config and (not manifest or chosen not in {None, descriptor}):
                continue
            layers = value.get("layers")
            yield _Node(
                descriptor=descriptor,
                place=(*node.place, number),
                owner=node.descriptor.digest,
                path=path,
                layers=len(layers) if config and isinstance(layers, list) else None,
            )

    def _chosen(self, raw: bytes) -> Descriptor | None:
        """The manifest for the platform that is wanted; None for all. Raises: NoMatchingPlatform."""
        if self.platform is None:
            return None
        try:
            document = parse_document(raw)
        except InvalidDocument:
            return None  # it can't choose; it is told what is wrong with it
        return document.select(self.platform) if isinstance(document, Index) else None


def _of(digest: Digest | None, found: list[Violation]) -> list[Finding]:
    return [Finding(digest=digest, path=v.path, message=v.message) for v in found]


def _refused(raw: bytes, media_type: str, known: list[Violation]) -> list[Violation]:
    """What our own parser, which is what other verbs use, refuses besides the violations that are known already."""
    try:
        if media_type in media_types.CONFIG_TYPES:
            ImageConfig.parse(raw)
        else:
            value = load_json(raw, "the document")
            said = value.get("mediaType")
            # A wrong type is told below; the rest of the document is parsed as what it says it is
            parse_document(raw, media_type if said is None else None)
    except InvalidDocument as error:
        places = {_plain(v.path) for v in known}
        return [v for v in _told(error) if _plain(v.path) not in places]
    return []


def _told(error: OcikitError) -> list[Violation]:
    """The parts of our parser's message, "Manifest: … @ $.config; … @ $.layers[0]"."""
    text = re.sub(r"^(Manifest|Index|ImageConfig|Descriptor|manifest): ", "", error.message)
    found = []
    for part in text.split("; "):
        words, at, path = part.rpartition(" @ ")
        if at and path.startswith("$"):
            found.append(Violation(path=path, message=words))
        elif not part.startswith("… "):
            found.append(Violation(path="$", message=part))
    return found


def _plain(path: str) -> str:
    """A path less its punctuation: `$.a` and `$['a']` are the same."""
    return re.sub(r"[\[\]'.]+", " ", path)


def _beyond(value: dict[str, Any], node: _Node) -> list[Violation]:
    """What no schema says: whether documents and what is said of them go together."""
    found = []
    described, said = node.descriptor, value.get("mediaType")
    typed = described.is_document or described.media_type in media_types.SCHEMA1_TYPES
    if typed and isinstance(said, str) and said.lower() != described.media_type:
        words = f"the document says {display.quoted(said, 80)}, its descriptor {described.media_type}"
        found.append(Violation(path="$.mediaType", message=words))
    for path, descriptor in _descriptors(value):
        # Compared here rather than by `embedded`, which answers for `{}` whatever stands there
        data = descriptor.data
        if data is not None and not _suits(data, descriptor):
            words = f"{len(data)} bytes are embedded, and they are not what size and digest say"
            found.append(Violation(path=f"{path}.data", message=words))
    if node.layers is not None and isinstance(rootfs := value.get("rootfs"), dict):
        ids = rootfs.get("diff_ids")
        if isinstance(ids, list) and len(ids) != node.layers:
            words = f"expected one for each layer of the manifest, which has {node.layers}, found {len(ids)}"
            found.append(Violation(path="$.rootfs.diff_ids", message=words))
    return found


def _suits(data: bytes, descriptor: Descriptor) -> bool:
    digest = descriptor.digest
    return len(data) == descriptor.size and (not digest.verifiable or Digest.of(data, digest.algorithm) == digest)


def _descriptors(value: dict[str, Any]) -> Iterator[tuple[str, Descriptor]]:
    """Every descriptor of a document that can be read as one, with its path."""
    for key in ("manifests", "config", "layers", "subject"):
        items = value.get(key)
        for index, item in enumerate(items) if isinstance(items, list) else [(None, items)]:
            if isinstance(item, dict) and {"mediaType", "digest", "size"} <= item.keys():
                try:
                    yield f"$.{key}" + ("" if index is None else f"[{index}]"), structure(item, Descriptor)
                except OcikitError:
                    continue  # told by its violations
