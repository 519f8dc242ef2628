"""Artifacts: what verbs give back. Documents are at hand; content is fetched when it is asked for."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from ocikit import display
from ocikit.errors import ContentError, FileNotInArtifact, InvalidDocument, NotFound, OcikitError
from ocikit.spec import media_types
from ocikit.spec.annotations import TITLE, UNPACK, Annotations, FrozenMap, freeze
from ocikit.spec.config import ImageConfig
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest, index_sections, manifest_card, parse_document
from ocikit.spec.platform import Platform
from ocikit.spec.reference import AnyReference
from ocikit.spec.titles import layers_by_path
from ocikit.store.streams import ByteStream, VerifiedReader

if TYPE_CHECKING:
    from ocikit.client.listing import Listing
    from ocikit.client.session import Session
    from ocikit.folder.plan import FolderPlan
    from ocikit.layers.tar import TarEntry
    from ocikit.layers.unpack import Unpacked
    from ocikit.transfer.run import Plan

_NEAREST = 3  # names offered when one isn't there
_SMALL = 1 << 16  # bytes of a manifest that is looked at for a card


class File(display.Displayable, os.PathLike[str]):
    """One file of an artifact. As a path it is on disk: in the folder that was pulled to, or fetched to the cache."""

    def __init__(self, artifact: Artifact, name: str, descriptor: Descriptor) -> None:
        self._artifact = artifact
        self.name = name
        self.descriptor = descriptor

    @property
    def size(self) -> int:
        """Bytes."""
        return self.descriptor.size

    @property
    def digest(self) -> Digest:
        """The content's digest."""
        return self.descriptor.digest

    @property
    def media_type(self) -> str:
        """The content's media type."""
        return self.descriptor.media_type

    def open(self) -> BinaryIO:
        """A seekable stream, from disk or the registry; reading it from start to end verifies it."""
        return self._artifact.session.open_content(self._artifact, self.name, self.descriptor)

    def read(self) -> bytes:
        """All bytes, verified, in memory."""
        with self.open() as stream:
            return stream.read()

    def head(self, size: int) -> bytes:
        """The first `size` bytes, without fetching the rest: to look at, for they can't be verified."""
        return self._artifact.session.head_content(self._artifact, self.name, self.descriptor, size)

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of it as text."""
        return self.read().decode(encoding)

    def __fspath__(self) -> str:
        return os.fspath(self._artifact.session.fetch_file(self._artifact, self.name))

    def __rich_repr__(self) -> display.Description:
        yield "name", self.name
        yield "size", display.Size(self.size)
        yield "media_type", self.media_type
        yield "digest", display.DigestCell(self.digest)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__())
        yield "of", display.Code(self._artifact.reference)
        yield "path", display.code_call("ocikit.fetch", self._artifact.reference, self.name)
        yield "stream", display.code_call("ocikit.open", self._artifact.reference, self.name)

    def _sections(self) -> Iterator[display.Section]:
        yield from display.annotations_section(
            {key: value for key, value in self.descriptor.annotations.items() if key != TITLE}
        )


class Files(Mapping[str, File], display.Displayable):
    """An artifact's files by name, in its order."""

    def __init__(self, files: Mapping[str, File]) -> None:
        self._files = dict(files)

    def __getitem__(self, name: str) -> File:
        try:
            return self._files[name]
        except KeyError:
            if near := display.nearest(name, self._files, _NEAREST):
                hint = f"nearest: {display.join_limited(near)}"
            else:
                hint = (
                    f"there is {display.join_limited(self._files, _NEAREST)}"
                    if self._files
                    else "this artifact has no files"
                )
            raise FileNotInArtifact(f"no file {display.quoted(name)} among {len(self._files)}", hint=hint) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._files)

    def __rich_repr__(self) -> display.Description:
        yield "files", len(self)
        yield "size", display.Size(sum(f.size for f in self.values()))

    def _facts(self) -> Iterator[tuple[str, object]]:
        return iter(())

    def _sections(self) -> Iterator[display.Section]:
        size = display.Size(sum(f.size for f in self.values()))
        yield _table(((f.name, f.descriptor) for f in self.values()), len(self), size)


class Artifact(display.Displayable):
    """A manifest or an index somewhere, and what it names.

    `art["train.csv"]` is a file; `os.fspath(art)` is its folder once it is on disk.
    """

    def __init__(
        self,
        session: Session,
        reference: AnyReference,
        descriptor: Descriptor,
        document: Manifest | Index,
        *,
        path: Path | None = None,
        plan: Plan | FolderPlan | None = None,
    ) -> None:
        self.session = session
        self.reference = reference.pinned(descriptor.digest)
        """Pinned by digest; the tag that it was found under stays as a note."""
        self.descriptor = descriptor
        self.document = document
        self.path = path
        """The folder on disk, or None."""
        self.summary = ""
        """What the call that gave this did, in a line."""
        self.plan = plan
        """After a dry run, what would have been moved."""
        self._files: Files | None = None
        self._known = _at_hand(session, document) if isinstance(document, Index) else {}

    @property
    def digest(self) -> Digest:
        """The document's digest."""
        return self.descriptor.digest

    @property
    def manifest(self) -> Manifest:
        """The manifest. Raises: InvalidDocument: if this is an index; it has `.platforms` to choose from."""
        if isinstance(self.document, Manifest):
            return self.document
        raise InvalidDocument(
            f"{self.reference} is an index, not a manifest",
            hint=f"choose with platform=…: {display.join_limited(self.platforms) or 'it names none'}; or look at .index",
        )

    @property
    def index(self) -> Index:
        """The index. Raises: InvalidDocument: if this is a manifest."""
        if isinstance(self.document, Index):
            return self.document
        raise InvalidDocument(f"{self.reference} is a manifest, not an index", hint="look at .manifest")

    @property
    def is_index(self) -> bool:
        """Whether this is an index."""
        return isinstance(self.document, Index)

    @property
    def is_image(self) -> bool:
        """Whether this is a container image: its layers unpack to a file system."""
        return isinstance(self.document, Manifest) and self.document.is_image

    @property
    def kind(self) -> str:
        """What it is: its artifact type, or its config's media type."""
        return self.document.kind

    @property
    def annotations(self) -> Annotations:
        """The document's annotations."""
        return self.document.annotations

    @property
    def size(self) -> int:
        """Bytes of all layers, each digest once; of an index, of its manifests' documents."""
        named = self.document.blobs if isinstance(self.document, Manifest) else self.document.manifests
        return sum({d.digest: d.size for d in named if d.media_type != media_types.EMPTY}.values())

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """An index's platforms; empty for a manifest, whose platform is in `.config`."""
        return self.document.platforms if isinstance(self.document, Index) else ()

    @property
    def config(self) -> ImageConfig | FrozenMap[Any] | bytes:
        """The config: an `ImageConfig` for images, else a mapping if it is a JSON object, else its bytes. Fetched if need be."""
        described = self.manifest.config
        raw = self.session.content(self, described)
        if self.is_image:
            return ImageConfig.parse(raw)
        try:
            value = json.loads(raw)
            frozen: FrozenMap[Any] | None = freeze(value) if isinstance(value, dict) else None
        except (ValueError, RecursionError):
            return raw
        return raw if frozen is None else frozen

    @property
    def files(self) -> Files:
        """Files by name: the titled layers. For an image each layer is a file; `tree()` lists what is in them."""
        if self._files is None:
            named = layers_by_path(self.manifest.layers)
            self._files = Files({name: File(self, name, layer) for name, layer in named.items()})
        return self._files

    def tree(self) -> Mapping[str, TarEntry]:
        """The merged file tree of an image's layers, whiteouts applied. Reads every layer."""
        from ocikit.layers.listing import merged_tree  # noqa: PLC0415 - tar and decompression are loaded for images only

        return merged_tree(self._streams(self.manifest.layers))

    def open(self, name: str) -> BinaryIO:
        """One file as a seekable stream. Raises: FileNotInArtifact: with the nearest names."""
        return self.files[name].open()

    def read(self, name: str) -> bytes:
        """One file's bytes, verified. Raises: FileNotInArtifact."""
        return self.files[name].read()

    def save(self, folder: str | os.PathLike[str], *, force: bool = False) -> Artifact:
        """The files in a folder, as `pull(…, to=folder)`. Raises: ContentError: if edited files are in the way."""
        return self.session.pull(self.reference, folder, force=force)

    def unpack(self, folder: str | os.PathLike[str], **options: Any) -> Unpacked:
        """An image's root file system below `folder`, or the folders that were pushed as archives, each under its title.

        Options are those of `ocikit.layers.unpack.unpack`: `owner`, `special`, `keep_setuid`, `xattrs`, `overwrite`, `limits`.

        Raises: ContentError: there is nothing to unpack, or `folder` isn't empty. UnsafeArchive: nothing is left behind.
        """
        from ocikit.layers.unpack import unpack  # noqa: PLC0415 - as above

        layers = self.manifest.layers
        if not self.is_image:
            layers = tuple(layer for layer in layers if layer.annotations.get(UNPACK) == "true")
        if not layers:
            raise ContentError(
                f"{self.reference} has no archives to unpack", hint="its files are as they are: .save(folder)"
            )
        self.session.ensure(self, layers)
        return unpack(self._streams(layers), folder, confined=not self.is_image, **options)

    def _streams(self, layers: Iterable[Descriptor]) -> Iterator[tuple[BinaryIO, str]]:
        """Layers one after another, each closed when the next is asked for."""
        for layer in layers:
            with self.session.open_content(self, "", layer) as stream:
                yield stream, layer.media_type

    def referrers(self, artifact_type: str | None = None) -> Listing[Descriptor]:
        """What was attached to this."""
        return self.session.referrers(self.reference, artifact_type)

    def __getitem__(self, name: str) -> File:
        return self.files[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __bool__(self) -> bool:
        return True

    def __fspath__(self) -> str:
        if self.path is None:
            raise NotFound(
                f"{self.reference} isn't on disk as a folder",
                hint="ocikit.pull(…, to=folder), or .unpack(folder) for an image",
            )
        return str(self.path)

    def _ipython_key_completions_(self) -> list[str]:
        try:
            return list(self.files) if isinstance(self.document, Manifest) else []
        except OcikitError:  # titles that can't be files
            return []

    def __str__(self) -> str:
        return str(self.reference)

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.reference)
        yield "kind", self.kind
        if isinstance(self.document, Manifest):
            yield "files" if not self.is_image else "layers", len(self.document.layers)
        yield "size", display.Size(self.size)
        yield "platforms", [str(p) for p in self.platforms], []
        yield "path", display.display_path(self.path) if self.path else None, None
        yield "plan", self.plan, None
        yield "annotations", dict(self.annotations), {}

    def _line(self) -> str:
        # The whole reference is what people copy from here
        short = f"{self.reference.name}{f':{self.reference.tag}' if self.reference.tag else ''}@{self.digest.short}"
        held = (
            display.pluralize(len(self.document.manifests), "manifest")
            if isinstance(self.document, Index)
            else display.size(self.size)
        )
        return display.shorten(f"Artifact({short!r}, {held})", display.LINE)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "reference", display.Code(self.reference)
        yield "kind", self.kind
        if isinstance(self.document, Manifest):
            yield "size", display.Size(self.size)
            if self.document.config.media_type != media_types.EMPTY:
                yield "config", str(self.document.config)
            if self.document.subject is not None:
                yield "about", display.Code(f"{self.reference.name}@{self.document.subject.digest}")
        if self.plan is not None:
            yield "plan", "nothing was moved: a dry run"
        elif self.path is not None:
            yield "path", display.display_path(self.path)
        else:
            # The tag is enough to type; who needs exactly this has it above
            tag = f"{self.reference.name}:{self.reference.tag}" if self.reference.tag else self.reference
            if self.is_image:
                yield "unpack", display.Code(f'{display.code_call("ocikit.pull", tag)}.unpack("rootfs/")')
            else:
                yield "fetch", display.code_call("ocikit.pull", tag, "folder/")

    def _sections(self) -> Iterator[display.Section]:
        if self.plan is not None:
            yield from display.card_of(self.plan).sections
            yield from display.annotations_section(self.annotations)
        elif isinstance(self.document, Index):
            yield from index_sections(self.document, self._child)
        elif self.is_image:
            yield from display.card_of(self.document).sections
        else:
            files = [layer for layer in self.document.layers if layer.media_type != media_types.EMPTY]
            rows = ((layer.title if layer.title is not None else f"({layer.media_type})", layer) for layer in files)
            yield _table(rows, len(files), display.Size(self.size))
            yield from display.annotations_section(self.annotations)

    def _child(self, descriptor: Descriptor) -> display.Card:
        """A manifest of an index: its layers if it is at hand, else how to look at it."""
        card = manifest_card(descriptor)
        if (known := self._known.get(descriptor.digest)) is not None:
            size = display.Size(sum(layer.size for layer in known.layers))
            notes = (*card.notes, display.pluralize(len(known.layers), "layer"), size)
            return attrs.evolve(card, notes=notes, sections=display.card_of(known).sections)
        look = display.code_call("ocikit.inspect", f"{self.reference.name}@{descriptor.digest}")
        return attrs.evolve(card, facts=(("look", look),))


def _table(files: Iterable[tuple[str, Descriptor]], count: int, size: object) -> display.Section:
    """Files by name; none of those that aren't shown is looked at."""
    return display.Section(
        title="files",
        headers=("name", "size", "type", "digest"),
        rows=((name, display.Size(d.size), d.media_type, display.DigestCell(d.digest)) for name, d in files),
        count=count,
        note=size if count else "",
        unfolded=True,
    )


def _at_hand(session: Session, index: Index) -> dict[Digest, Manifest]:
    """The manifests of an index that are in the cache, those that its card shows: so that nobody asks for them to see it."""
    found = {}
    for each in index.manifests[: display.ROWS]:
        with contextlib.suppress(OcikitError, OSError):
            if each.size <= _SMALL and session.cache.exists(each):
                document = parse_document(session.cache.fetch(each), each.media_type)
                if isinstance(document, Manifest):
                    found[each.digest] = document
    return found


def verified(stream: ByteStream, descriptor: Descriptor) -> BinaryIO:
    """A buffered stream that verifies what is read from start to end."""
    return io.BufferedReader(VerifiedReader(stream, descriptor), 1 << 16)
