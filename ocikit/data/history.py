"""The versions of an artifact, from their manifests: each may name the one before."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any, overload

import attrs
from attrs import define, field, frozen

from ocikit import display
from ocikit.client.notes import read_inputs
from ocikit.client.reader import ContentReader
from ocikit.client.resolver import Resolver, target_of
from ocikit.data.diff import Diff, compare
from ocikit.data.sides import Side
from ocikit.errors import InvalidArgument, InvalidDigest, NotFound, OcikitError
from ocikit.spec import media_types
from ocikit.spec.annotations import BASE_DIGEST, BASE_NAME, CREATED, MESSAGE
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.reference import AnyReference, ReferenceLike, parse_reference
from ocikit.spec.tag_order import versions_newest_first
from ocikit.transfer.pool import run_parallel

log = logging.getLogger("ocikit")

_MINUS = "\N{MINUS SIGN}"
_MESSAGE = 120  # characters of a message in a line of text


@frozen(kw_only=True, repr=False)
class Version(display.Displayable):
    """One version of an artifact. Verbs take it as a reference.

    >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello"})
    >>> version = ocikit.history("oci:waves:v1")[0]
    >>> version.tags, version.files, version.size
    (('v1',), 1, 5)
    """

    reference: AnyReference
    """The version, pinned by digest; with one of its tags if it has any."""
    tags: tuple[str, ...] = ()
    """The tags that are known to name it."""
    created: str = ""
    """When it was made, if the manifest has it."""
    message: str = ""
    """What it changes, as its writer put it."""
    inputs: tuple[str, ...] = ()
    """References of the artifacts that it was made from."""
    files: int = 0
    size: int = 0
    """Bytes of the files."""
    added: int | None = None
    """Number of files that the version before does not have; None if that version is unknown."""
    removed: int | None = None
    changed: int | None = None
    renamed: int | None = None
    delta: int | None = None
    """How many bytes it has more than the version before; None if that version is unknown."""
    gap: str = ""
    """Why the version before is not known from this one's manifest; "" if it is."""

    @property
    def digest(self) -> Digest | None:
        """The digest of its manifest."""
        return self.reference.digest

    def to_dict(self) -> dict[str, Any]:
        """Return plain values.

        >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello"})
        >>> ocikit.history("oci:waves:v1")[0].to_dict()["tags"]
        ['v1']
        """
        value = {"reference": str(self.reference), "digest": str(self.digest), "tags": list(self.tags)}
        names = ("created", "message", "files", "size", "added", "removed", "changed", "renamed", "delta", "gap")
        return {**value, **{name: getattr(self, name) for name in names}, "inputs": list(self.inputs)}

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.reference)
        yield "tags", list(self.tags), []
        yield "message", self.message, ""
        yield "files", f"{self.files:,}{self.difference and f' ({self.difference})'}"
        yield "size", display.Size(self.size)

    def _card_title(self) -> object:
        return display.title_of(self.reference)

    def _card_notes(self) -> Iterator[object]:
        yield display.pluralize(self.files, "file")
        yield display.Size(self.size)

    def _card_lead(self) -> str:
        return self.message

    def _facts(self) -> Iterator[tuple[str, object]]:
        if self.created:
            yield "created", display.Timestamp(self.created)
        if len(self.tags) > 1:
            yield "tags", list(self.tags)
        if self.difference:
            yield "difference", self.difference
        if self.inputs:
            yield "inputs", list(self.inputs)
        if self.gap:
            yield "before", self.gap
        yield "pinned", display.Code(self.reference)

    @property
    def difference(self) -> str:
        """How many files differ from the version before, such as "+2 ~3"."""
        counts = (("+", self.added), (_MINUS, self.removed), ("~", self.changed), ("→", self.renamed))
        return " ".join(f"{mark}{count:,}" for mark, count in counts if count)

    @property
    def growth(self) -> str:
        """How much larger it is than the version before, with a sign and a unit."""
        if not self.delta:
            return ""
        return f"{'+' if self.delta > 0 else _MINUS}{display.size(abs(self.delta))}"

    @property
    def label(self) -> str:
        """Its tags, or the beginning of its digest."""
        return ", ".join(self.tags) or (self.digest.short if self.digest else "")


@frozen(kw_only=True, repr=False, eq=False)
class History(Sequence[Version], display.Displayable):
    """The versions of an artifact, the newest first.

    >>> with ocikit.edit("oci:waves:v1", message="first waves") as edit:
    ...     edit["a.txt"] = b"hello"
    >>> with ocikit.edit("oci:waves:v1", message="louder") as edit:
    ...     edit["a.txt"] = b"HELLO"
    >>> [version.message for version in ocikit.history("oci:waves:v1")]
    ['louder', 'first waves']
    """

    reference: AnyReference
    """What the history was asked for."""
    versions: tuple[Version, ...] = ()
    end: str = ""
    """Where the list ends, and why."""

    @overload
    def __getitem__(self, index: int | str) -> Version: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Version]: ...

    def __getitem__(self, index: int | str | slice) -> Version | Sequence[Version]:
        """Return a version by its position or its tag."""
        if isinstance(index, str):
            for version in self.versions:
                if index in version.tags or index == version.digest:
                    return version
            raise KeyError(index)
        return self.versions[index]

    def __len__(self) -> int:
        return len(self.versions)

    def __eq__(self, other: object) -> bool:
        return self.versions == tuple(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as of other sequences that compare with lists

    def to_dict(self) -> dict[str, Any]:
        """Return plain values.

        >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello"})
        >>> len(ocikit.history("oci:waves:v1").to_dict()["versions"])
        1
        """
        versions = [version.to_dict() for version in self.versions]
        return {"reference": str(self.reference), "versions": versions, "end": self.end}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return `to_dict()` as JSON.

        Args:
            indent: Spaces of each level; None writes one line.

        >>> import json
        >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello"})
        >>> json.loads(ocikit.history("oci:waves:v1").to_json())["reference"]
        'oci:waves:v1'
        """
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        rows = [[display.shorten(cell, _MESSAGE) for cell in self._text_row(version)] for version in self.versions]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=True) if width]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, display.sanitize(self.end)])

    @staticmethod
    def _text_row(version: Version) -> tuple[str, ...]:
        digest = version.digest.short if version.digest else ""
        when = str(display.Timestamp(version.created).text()) if version.created else ""
        files = f"{display.pluralize(version.files, 'file')} {version.difference}".rstrip()
        size = f"{display.size(version.size)} {version.growth}".rstrip()
        return ", ".join(version.tags), digest, when, files, size, version.message

    def _line(self) -> str:
        labels = ", ".join(version.label for version in self.versions[:5])
        count = display.pluralize(len(self.versions), "version")
        return display.shorten(f"<{count} of {self.reference}: {labels}>", display.LINE)

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.reference)
        yield "versions", len(self.versions)
        yield "end", self.end, ""

    def _card_title(self) -> object:
        return display.pluralize(len(self.versions), "version")

    def _card_notes(self) -> Iterator[object]:
        yield f"of {self.reference.name}"

    def _facts(self) -> Iterator[tuple[str, object]]:
        if len(self.versions) > 1:
            older, newer = (str(attrs.evolve(v.reference, digest=None) if v.tags else v.reference) for v in self[1::-1])
            yield "compare", display.code_call("ocikit.diff", older, newer)

    def _sections(self) -> Iterator[display.Section]:
        dated = any(version.created for version in self.versions)
        headers = ("version", "digest", *(("when",) if dated else ()), "files", "", "size", "", "message")
        rows = (
            (
                ", ".join(version.tags),
                display.DigestCell(version.digest or ""),
                *((display.Timestamp(version.created),) if dated else ()),
                version.files,
                display.Line(version.difference),
                display.Size(version.size),
                display.Line(version.growth),
                version.message,
            )
            for version in self.versions
        )
        yield display.Section(
            title="newest first",
            headers=headers,
            rows=rows,
            count=len(self.versions),
            hint=self.end,
            is_data=True,
            unfolded=True,
        )


@define
class _Found:
    """A document of the repository, and its tags."""

    descriptor: Descriptor
    document: Manifest | Index
    tags: list[str] = field(factory=list)

    @property
    def base(self) -> str | None:
        """The digest of the version before. In an image or an index it would be that of the base image."""
        if isinstance(self.document, Index) or self.document.is_image:
            return None
        return self.document.annotations.get(BASE_DIGEST)

    @property
    def files(self) -> dict[str, Descriptor]:
        """The layers by title, or by digest."""
        if isinstance(self.document, Index):
            return {manifest.digest: manifest for manifest in self.document.manifests}
        named = self.document.named
        return {**named.files, **{layer.digest: layer for layer, _ in named.unusable}}


@define
class _Walk:
    """The collection of versions: along the chain, and where it ends, along the tags."""

    reader: ContentReader
    reference: AnyReference
    resolver: Resolver
    limit: int
    by_digest: dict[Digest, _Found] = field(factory=dict)
    waiting: list[str] = field(factory=list)
    """The tags of versions that are not listed yet, newest first."""
    problem: str = ""
    """Why there is no list of tags."""

    def run(self) -> History:
        """Collect the versions."""
        first = self._first()
        self._read_tags()
        tag = target_of(self.resolver.source, self.reference)
        if tag != first.descriptor.digest:  # a number is a better label than "latest"
            first.tags.insert(0 if versions_newest_first([tag]) else len(first.tags), tag)
        found: list[_Found] = []
        gaps: list[str] = []
        current: _Found | None = first
        while current is not None and len(found) < self.limit:
            found.append(current)
            seen = {item.descriptor.digest for item in found}
            self._pass(current.tags)
            before, gap = self._before(current)
            if before is None or before.descriptor.digest in seen:
                before = self._next_tagged(seen)
            gaps.append(gap)
            current = before
        olders: list[_Found | None] = [*found[1:], current]
        versions = [self._version(*item) for item in zip(found, olders, gaps, strict=True)]
        return History(reference=self.reference, versions=tuple(versions), end=self._end(versions, current is None))

    def _end(self, versions: Sequence[Version], is_complete: bool) -> str:
        """Return where the chain ends, and where the list does."""
        parts = []
        gap = next((position for position, version in enumerate(versions) if version.gap), None)
        if gap is not None:
            label = versions[gap].reference.tag or versions[gap].label
            parts.append(f"the chain ends at {label}: {versions[gap].gap}")
            if gap < len(versions) - 1 or not is_complete:
                parts.append("older versions are known by their tags only")
        if not is_complete:
            parts.append(f"versions before {versions[-1].label} are not listed (limit={self.limit})")
        if self.problem:
            parts.append(f"the tags could not be listed: {self.problem}")
        return "; ".join(parts)

    def _first(self) -> _Found:
        """Return the version to begin with. A reference without a tag is "latest", or else the newest version."""
        try:
            descriptor, document = self.resolver.resolve_document(self.reference)
        except NotFound:
            if self.reference.tag or self.reference.digest:
                raise
            versions = versions_newest_first(self.resolver.source.iter_tags())
            if not versions:
                raise
            self.reference = self.reference.tagged(versions[0])
            descriptor, document = self.resolver.resolve_document(self.reference)
        found = self.by_digest[descriptor.digest] = _Found(descriptor, document)
        return found

    def _read_tags(self) -> None:
        """Read the list of tags, and what those that look like versions name, one request each."""
        try:
            # A mirror may have old tags, or only some of them
            with self.reader.backends.open_source(self.reference, mirrors=False) as source:
                tags = versions_newest_first(source.iter_tags())
        except OcikitError as error:
            self.problem = error.message
            return
        # With a digest, the tag may name something else now
        start = tags.index(self.reference.tag) + (not self.reference.digest) if self.reference.tag in tags else 0
        self.waiting = tags[start : start + self.limit + 1]
        found: dict[str, tuple[Descriptor, Manifest | Index]] = {}

        def read(tag: str, _: threading.Event) -> None:
            # A source of its own: what one learns while resolving spares its next request
            try:
                with self.reader.backends.open_source(self.reference) as source:
                    resolver = Resolver(source, self.reader.cache, get_unknown=True)
                    found[tag] = resolver.resolve_document(self.reference.tagged(tag))
            except OcikitError as error:  # deleted since, or no document that this client reads
                log.info("%s is left out of the history: %s", tag, error.message)

        run_parallel(self.waiting, read, workers=self.reader.workers)
        self.waiting = [tag for tag in self.waiting if tag in found]
        for tag in self.waiting:
            descriptor, document = found[tag]
            self.by_digest.setdefault(descriptor.digest, _Found(descriptor, document)).tags.append(tag)

    def _pass(self, tags: Sequence[str]) -> None:
        """Drop the tags up to those of a version that is listed: they are newer."""
        positions = [self.waiting.index(tag) for tag in tags if tag in self.waiting]
        if positions:
            del self.waiting[: max(positions) + 1]

    def _before(self, current: _Found) -> tuple[_Found | None, str]:
        """Return the version that a manifest names as the one before; or None, and the reason."""
        if current.base is None:
            return None, "its manifest names no version before"
        try:
            digest = Digest(current.base)
        except InvalidDigest:
            return None, "its manifest names an invalid digest as the version before"
        if digest not in self.by_digest:
            pinned = attrs.evolve(self.reference, tag=None, digest=digest)
            try:
                self.by_digest[digest] = _Found(*self.resolver.resolve_document(pinned))
            except NotFound:
                name = current.document.annotations.get(BASE_NAME, "")
                if name and not f"{name}:".startswith(
                    (f"{self.reference.name}:", "oci:")
                ):  # of an edit to another repository
                    return None, f"the version before is not here: {digest.short} is one of {name}"
                return (
                    None,
                    f"the version before is no longer here: {digest.short} was deleted, or collected without a tag",
                )
            except OcikitError as error:
                return None, f"the version before could not be read: {error.message}"
        return self.by_digest[digest], ""

    def _next_tagged(self, seen: set[Digest]) -> _Found | None:
        """Return the newest version that is older by its tag."""
        by_tag = {tag: item for item in self.by_digest.values() for tag in item.tags}
        return next((by_tag[tag] for tag in self.waiting if by_tag[tag].descriptor.digest not in seen), None)

    def _version(self, item: _Found, older: _Found | None, gap: str) -> Version:
        document = item.document
        notes = document.annotations
        version = Version(
            reference=attrs.evolve(
                self.reference, tag=item.tags[0] if item.tags else None, digest=item.descriptor.digest
            ),
            tags=tuple(item.tags),
            created=notes.get(CREATED, ""),
            message=notes.get(MESSAGE, ""),
            inputs=read_inputs(notes),
            files=len(item.files),
            size=_size(item.files.values()),
            gap=gap,
        )
        # What was before a missing version must not be taken for it
        if (gap and item.base) or (older is None and item.base):
            return version
        changes = _compare(item, older)
        before = () if older is None else older.files.values()
        return attrs.evolve(
            version,
            added=len(changes.added),
            removed=len(changes.removed),
            changed=len(changes.changed),
            renamed=len(changes.renamed),
            delta=_size(item.files.values()) - _size(before),
        )


def _compare(item: _Found, older: _Found | None) -> Diff:
    """Return what differs between the files of two versions."""
    before = Side(name="", files={} if older is None else older.files)
    return compare(before, Side(name="", files=item.files))


def _size(descriptors: Any) -> int:
    return sum({d.digest: d.size for d in descriptors if d.media_type != media_types.EMPTY}.values())


def history(reader: ContentReader, ref: ReferenceLike, *, limit: int) -> History:
    """Return the versions of an artifact; see `ocikit.history`."""
    if not isinstance(limit, int) or limit < 1:
        raise InvalidArgument(f"limit={limit!r} is invalid", hint="pass the number of versions, 1 or more")
    reference = parse_reference(ref)
    with reader.backends.open_source(reference) as source:
        resolver = Resolver(source, reader.cache, get_unknown=True)
        return _Walk(reader=reader, reference=reference, resolver=resolver, limit=limit).run()
