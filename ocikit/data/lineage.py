"""The artifacts that an artifact was made from, and what those were made from.

Annotations name them, and an attacker may have written these. So a walk requests manifests only, from registries only, with
limits on depth and number. It contacts this machine only for an artifact of this machine (SSRF), and a pair of user and
password is sent to no host that only an annotation names (credential forwarding).
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

from attrs import define, field, frozen

from ocikit import display
from ocikit.client.artifact import Artifact
from ocikit.client.backends import Backends, enters_this_machine
from ocikit.client.notes import read_inputs
from ocikit.client.reader import ContentReader
from ocikit.client.resolver import Resolver
from ocikit.errors import InvalidArgument, NotFound, OcikitError
from ocikit.spec.annotations import MESSAGE
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.reference import AnyReference, Reference, ReferenceLike, parse_reference
from ocikit.transfer.pool import run_parallel

_ARTIFACTS = 200  # that are read; a hostile manifest could name 50,000 on as many hosts
_NAMED = 1_000  # that are listed, with those that are not read
_CLAIMS = 50  # of an artifact
_CLAIM = 300  # characters
_DATA_KEYS = ("datasets", "dataset", "source_datasets")


@frozen(kw_only=True)
class Claim:
    """An origin that a file states, without a digest."""

    file: str
    """The file, or "config"."""
    kind: str
    """Such as "base_model" and "dataset"."""
    name: str
    """As it is written there, such as the name of a model on a hub."""

    def __str__(self) -> str:
        return display.sanitize(f"{self.kind}: {self.name} ({self.file})")


@frozen(kw_only=True, repr=False)
class Origin(display.Displayable):
    """An artifact of a lineage."""

    reference: str
    """As the annotation names it; usually pinned."""
    inputs: tuple[str, ...] = ()
    """References of the artifacts that it was made from."""
    depth: int = 0
    """Steps from the artifact that was asked for."""
    artifact_type: str = ""
    message: str = ""
    files: int | None = None
    """Number of files; None if it was not read."""
    problem: str = ""
    """Why it was not read."""

    @property
    def name(self) -> str:
        """The reference without its digest."""
        return self.reference.partition("@")[0]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        names = ("reference", "depth", "artifact_type", "message", "files", "problem")
        return {**{name: getattr(self, name) for name in names}, "inputs": list(self.inputs)}

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "reference", display.Code(self.reference)
        yield from display.non_default_fields(self.__rich_repr__(), "reference", "inputs")
        if self.inputs:
            yield "inputs", list(self.inputs)

    def node(self) -> display.GraphNode:
        """Return what a drawing shows."""
        digest = self.reference.partition("@")[2]
        algorithm, _, encoded = digest.partition(":")
        note = self.problem or self.message or (f"{algorithm}:{encoded[:12]}" if digest else "")
        detail = " · ".join(filter(None, (self.reference, self.message, self.problem)))
        return display.GraphNode(
            name=self.name,
            note=note,
            detail=detail,
            sources=tuple(dict.fromkeys(map(_key, self.inputs))),
            is_certain=not self.problem,
        )


@frozen(kw_only=True, repr=False)
class Lineage(display.Displayable):
    """What an artifact was made from: a graph of artifacts, as their manifests name them.

    >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"a.txt": b"hello"})
    >>> artifact = ocikit.push("localhost:5000/ada/mean:v1", {"mean.txt": b"0"}, inputs="localhost:5000/ada/waves:v1")
    >>> [origin.name for origin in ocikit.lineage("localhost:5000/ada/mean:v1")]
    ['localhost:5000/ada/mean:v1', 'localhost:5000/ada/waves:v1']
    """

    reference: AnyReference
    """The artifact, pinned by digest."""
    artifacts: tuple[Origin, ...]
    """The artifact itself, then its inputs, theirs, and so on; each once."""
    claims: tuple[Claim, ...] = ()
    """Origins that files of the artifact state, such as the base model in its README. Nothing verifies them."""
    note: str = ""
    """What was not read."""

    def __iter__(self) -> Iterator[Origin]:
        return iter(self.artifacts)

    def __len__(self) -> int:
        return len(self.artifacts)

    @property
    def missing(self) -> tuple[Origin, ...]:
        """The artifacts that could not be read."""
        return tuple(artifact for artifact in self.artifacts if artifact.problem)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"a.txt": b"hello"})
        >>> list(ocikit.lineage("localhost:5000/ada/waves:v1").to_dict())
        ['reference', 'artifacts', 'claims', 'note']
        """
        claims = [{"file": claim.file, "kind": claim.kind, "name": claim.name} for claim in self.claims]
        artifacts = [artifact.to_dict() for artifact in self.artifacts]
        return {"reference": str(self.reference), "artifacts": artifacts, "claims": claims, "note": self.note}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return `to_dict()` as JSON.

        Args:
            indent: Spaces of each level; None writes one line.

        >>> import json
        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"a.txt": b"hello"})
        >>> json.loads(ocikit.lineage("localhost:5000/ada/waves:v1").to_json())["claims"]
        []
        """
        return json.dumps(self.to_dict(), indent=indent)

    @property
    def graph(self) -> display.Graph:
        """The drawing: SVG in a notebook, a tree in a terminal."""
        return display.Graph({_key(artifact.reference): artifact.node() for artifact in self.artifacts})

    def __str__(self) -> str:
        lines = [str(self.graph), *(f"claims {claim}" for claim in self.claims)]
        return "\n".join([*lines, display.sanitize(self.note)] if self.note else lines)

    def _line(self) -> str:
        count = display.pluralize(len(self.artifacts), "artifact")
        missing = f", {len(self.missing):,} missing" if self.missing else ""
        return display.shorten(f"<{count} in the lineage of {self.artifacts[0].name}{missing}>", display.LINE)

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.reference)
        yield "artifacts", len(self.artifacts)
        yield "missing", len(self.missing), 0
        yield "claims", len(self.claims), 0

    def _card_title(self) -> object:
        return "lineage"

    def _card_notes(self) -> Iterator[object]:
        yield display.title_of(self.reference)
        yield display.pluralize(len(self.artifacts), "artifact")
        if self.missing:
            yield f"{len(self.missing):,} missing"

    def _facts(self) -> Iterator[tuple[str, object]]:
        if self.note:
            yield "note", self.note

    def _sections(self) -> Iterator[display.Section]:
        yield display.Section(title="graph", body=self.graph, unfolded=True)
        if len(self.artifacts) > 1:
            rows = (
                (
                    artifact.name,
                    display.DigestCell(artifact.reference.partition("@")[2]),
                    artifact.problem or artifact.message,
                )
                for artifact in self.artifacts[1:]
            )
            yield display.Section(
                title="inputs",
                headers=("artifact", "digest", ""),
                rows=rows,
                count=len(self.artifacts) - 1,
                unfolded=False,
            )
        if self.claims:
            yield display.Section(
                title="claims",
                headers=("", "name", "in"),
                rows=((claim.kind, claim.name, claim.file) for claim in self.claims),
                count=len(self.claims),
                hint="files state these; nothing verifies them",
                unfolded=True,
            )


@define
class _Walk:
    """A walk from an artifact to its inputs, one level after the other."""

    reader: ContentReader
    backends: Backends
    """For hosts that annotations name."""
    root: AnyReference
    depth: int
    found: dict[str, Origin] = field(factory=dict)
    """By `_key`, in the order of the walk."""
    unread: int = 0
    """References that were not followed because of a limit."""

    def run(self, start: Origin) -> tuple[Origin, ...]:
        """Return all artifacts."""
        self.found[_key(start.reference)] = start
        level = self._new(start.inputs)
        for depth in range(1, self.depth + 1):
            if not level:
                break
            origins: dict[str, Origin] = {}

            def work(text: str, _: threading.Event, depth: int = depth, origins: dict[str, Origin] = origins) -> None:
                origins[text] = self._read(text, depth)

            run_parallel(level, work, workers=self.reader.workers)
            self.found |= {_key(text): origins[text] for text in level}
            level = self._new(tuple(source for text in level for source in origins[text].inputs))
        self.unread += len(level)
        problem = f"not read: it is more than {self.depth} steps away"
        self.found |= {_key(text): Origin(reference=text, depth=self.depth + 1, problem=problem) for text in level}
        return tuple(self.found.values())

    def _new(self, inputs: tuple[str, ...]) -> list[str]:
        """Return the references that were not seen before, within the limits."""
        new = list({_key(text): text for text in reversed(inputs) if _key(text) not in self.found}.values())[::-1]
        allowed = max(0, _ARTIFACTS - len(self.found))
        for text in new[allowed:]:
            self.unread += 1
            if len(self.found) < _NAMED:
                self.found[_key(text)] = Origin(reference=text, problem=f"not read: more than {_ARTIFACTS} artifacts")
        return new[:allowed]

    def _read(self, text: str, depth: int) -> Origin:
        """Return an artifact that an annotation names; its problem if it cannot be read."""
        try:
            reference = Reference.parse(text)
            if reference.digest is None:
                return Origin(reference=text, depth=depth, problem="not read: the reference has no digest")
            if enters_this_machine(self.root, reference):
                return Origin(
                    reference=text, depth=depth, problem="not read: it is on this machine, unlike the artifact"
                )
            with self.backends.open_source(reference) as source:
                resolver = Resolver(source, self.reader.cache, get_unknown=True)
                _, document = resolver.resolve_document(reference)
        except NotFound:
            return Origin(reference=text, depth=depth, problem="missing: deleted, or never there")
        except OcikitError as error:
            return Origin(reference=text, depth=depth, problem=f"not read: {error.message}")
        return _origin(text, document, depth)


def _key(text: str) -> str:
    """Return a reference without its tag, if it has a digest.

    >>> _key("a.example:5000/b:v1@sha256:00"), _key("a.example:5000/b:v1")
    ('a.example:5000/b@sha256:00', 'a.example:5000/b:v1')
    """
    name, at, digest = text.partition("@")
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}@{digest}" if at else text


def _origin(text: str, document: Manifest | Index, depth: int) -> Origin:
    notes = document.annotations
    files = len(document.manifests) if isinstance(document, Index) else len(document.named.files)
    return Origin(
        reference=text,
        inputs=read_inputs(notes),
        depth=depth,
        artifact_type=document.kind,
        message=notes.get(MESSAGE, ""),
        files=files,
    )


def lineage(reader: ContentReader, ref: ReferenceLike, *, depth: int, claims: bool) -> Lineage:
    """Return what an artifact was made from; see `ocikit.lineage`."""
    if not isinstance(depth, int) or depth < 0:
        raise InvalidArgument(f"depth={depth!r} is invalid", hint="pass the number of steps, 0 or more")
    reference = parse_reference(ref)
    with reader.backends.open_source(reference) as source:
        resolver = Resolver(source, reader.cache, get_unknown=True)
        descriptor, document = resolver.resolve_document(reference)
    artifact = Artifact(reader, reference, descriptor, document)
    backends = reader.backends.for_named_hosts(reference)
    walk = _Walk(reader=reader, backends=backends, root=reference, depth=depth)
    try:
        found = walk.run(_origin(str(artifact.reference), document, 0))
    finally:
        if backends is not reader.backends:
            backends.close()
    note = f"{display.pluralize(walk.unread, 'reference was', 'references were')} not followed" if walk.unread else ""
    stated = tuple(_read_claims(artifact))[:_CLAIMS] if claims else ()
    return Lineage(reference=artifact.reference, artifacts=found, claims=stated, note=note)


def _read_claims(artifact: Artifact) -> Iterator[Claim]:
    """Yield the origins that the README, a GGUF file and the config of a model state."""
    if artifact.is_index or artifact.is_image:
        return
    with contextlib.suppress(OcikitError):
        if (card := artifact.card) is not None:
            for key in ("base_model", *_DATA_KEYS):
                kind = "base_model" if key == "base_model" else "dataset"
                yield from (Claim(file="README.md", kind=kind, name=text) for text in _texts(card.data.get(key)))
    with contextlib.suppress(OcikitError):
        for file in [file for name, file in artifact.files.items() if name.lower().endswith(".gguf")][:1]:
            for key, value in file.describe().metadata.items():
                origin = next((k for k in ("base_model", "dataset") if key.startswith(f"general.{k}")), None)
                if origin is not None and key.rpartition(".")[2] in {"name", "repo_url", "url", "doi", "datasets"}:
                    yield Claim(file=file.name, kind=origin, name=value[:_CLAIM])
    with contextlib.suppress(OcikitError):
        if (model := artifact.model) is not None and model.parent:
            yield Claim(file="config", kind="base_model", name=model.parent[:_CLAIM])


def _texts(value: Any) -> tuple[str, ...]:
    """Return a text, or the texts of a list."""
    values = value if isinstance(value, tuple) else (value,)
    return tuple(item[:_CLAIM] for item in values if isinstance(item, str))
