"""Artifacts and their files; documents are loaded, content is fetched on demand."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TextIO, overload

import attrs

from ocikit import display
from ocikit.client.arguments import (
    ProgressLike,
    StrPath,
    check_artifact_type,
    check_dialect,
    check_root,
    check_workers,
    to_patterns,
)
from ocikit.client.content import ArtifactContent
from ocikit.client.listing import Listing
from ocikit.client.nested import NestedFiles
from ocikit.client.pull import SelectedMembers, describe_foreign, describe_nesting, open_folder, plan_pull
from ocikit.client.reader import ContentReader, ContentStream
from ocikit.client.resolver import Resolver
from ocikit.dialects.recognise import AUTO, recognise, recognise_model
from ocikit.errors import ContentError, FileNotInArtifact, InvalidArgument, InvalidDocument, NotFound, OcikitError
from ocikit.progress.base import TransferStats
from ocikit.spec import media_types
from ocikit.spec.about import ABOUT, about_facts, lead_of
from ocikit.spec.annotations import (
    CREATED,
    LICENSES,
    PREFIX,
    PREFIX_FIRST,
    PREFIX_LAST,
    TITLE,
    Annotations,
    FrozenMap,
    freeze,
    parse_time,
)
from ocikit.spec.calls import explain_call, explain_methods
from ocikit.spec.config import ImageConfig
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import load_json
from ocikit.spec.kinds import artifact_kind, file_kind
from ocikit.spec.manifest import (
    Index,
    Manifest,
    PlatformLike,
    layers_section,
    manifest_card,
    manifest_sections,
    parse_document,
)
from ocikit.spec.platform import Platform
from ocikit.spec.reference import AnyReference
from ocikit.spec.title_ranges import holds_title
from ocikit.spec.titles import (
    NamedLayers,
    is_archive,
    is_shard,
    is_unpacked_by_pull,
    layer_name,
    layer_path,
    name_layers,
    unpacked_digest,
    unusable_title,
)
from ocikit.store.cache.cache import Cache
from ocikit.store.files import atomic_writer

if TYPE_CHECKING:
    from ocikit.client.members import Members
    from ocikit.client.plans import EditPlan
    from ocikit.descriptions.card import Card
    from ocikit.descriptions.content import Ranges
    from ocikit.descriptions.model import Description
    from ocikit.dialects.model import Model
    from ocikit.folder.plan import FolderPlan
    from ocikit.layers.layer import LayerLimits
    from ocikit.layers.tar import TarEntry
    from ocikit.layers.unpack import Unpacked
    from ocikit.transfer.run import Plan

_NEAREST = 3  # similar names in the hint for a missing file
_MAX_SHOWN = 1 << 16  # bytes; larger manifests are not parsed for a card


class File(display.Displayable, io.BufferedIOBase, os.PathLike[str]):
    """A file of an artifact: a path to the published content, and a stream of it.

    Libraries that take a path get a file on disk, those that take a stream read it. `read()` returns the whole content;
    after `seek` or `read(n)` it returns the rest, as with any stream.

    >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
    >>> file = artifact["sine.csv"]
    >>> file.size, file.read()
    (3, b'x,y')
    """

    def __init__(self, artifact: Artifact, name: str, descriptor: Descriptor) -> None:
        self._artifact = artifact
        self.name = name
        self.descriptor = descriptor
        self._stream: ContentStream | None = None

    @property
    def artifact(self) -> Artifact:
        """The artifact that has the file."""
        return self._artifact

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.descriptor.size

    @property
    def digest(self) -> Digest:
        """Digest of the content."""
        return self.descriptor.digest

    @property
    def media_type(self) -> str:
        """Media type of the content."""
        return self.descriptor.media_type

    @property
    def archive(self) -> bool:
        """Whether this is an archive that a pull unpacks into a folder."""
        return is_unpacked_by_pull(self.descriptor)

    @property
    def path(self) -> Path:
        """Path of the published content on disk, fetched if necessary; see `download`."""
        return self.download()

    @overload
    def open(self, mode: Literal["rb"] = "rb") -> ContentStream: ...

    @overload
    def open(self, mode: Literal["r", "rt"], encoding: str = "utf-8") -> TextIO: ...

    @explain_call
    def open(self, mode: Literal["rb", "r", "rt"] = "rb", encoding: str = "utf-8") -> ContentStream | TextIO:
        """Return a seekable stream; reading it from start to end verifies the content.

        Parts of a large file are requested as they are read. They can't be verified, because a digest is that of the
        whole file. Files up to 4 MiB are requested as a whole, verified, and cached.

        Args:
            mode: "rb" for bytes, "r" for text.
            encoding: Encoding of the text.

        Raises:
            InvalidArgument: The mode is for writing.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> with artifact["sine.csv"].open("r") as stream:
        ...     stream.read()
        'x,y'
        """
        if mode not in {"rb", "r", "rt"}:
            raise InvalidArgument(
                f"open(mode={mode!r}) failed: files of artifacts are read-only", hint='use "rb" or "r", or save a copy'
            )
        artifact = self._artifact
        stream = artifact.reader.open(artifact.reference, self.descriptor, self._pulled())
        return stream if mode == "rb" else io.TextIOWrapper(stream, encoding)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes; without a size the rest, which is the whole content at first.

        The whole content is verified.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> file = artifact["sine.csv"]
        >>> file.read(1), file.read()
        (b'x', b',y')
        """
        if self._stream is None and (size is None or size < 0):
            return self.read_bytes()
        return self._opened().read(-1 if size is None else size)

    def read_bytes(self) -> bytes:
        """Return the whole content, verified.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> artifact["sine.csv"].read_bytes()
        b'x,y'
        """
        artifact = self._artifact
        return artifact.reader.read_all(artifact.reference, self.descriptor, self._pulled())

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the whole content as text.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> artifact["sine.csv"].read_text()
        'x,y'
        """
        return self.read_bytes().decode(encoding)

    def head(self, size: int) -> bytes:
        """Return the first `size` bytes, unverified, without fetching the rest; a file up to 64 KiB is verified.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> artifact["sine.csv"].head(2)
        b'x,'
        """
        artifact = self._artifact
        return artifact.reader.head(artifact.reference, self.descriptor, size, self._pulled())

    def ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return ranges of the content, unverified; those of small files are verified.

        Near ranges are fetched together, the others in parallel.

        Args:
            spans: Offset and length of each range, in bytes.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello world"})
        >>> artifact["note.txt"].ranges([(0, 2), (6, 5)])
        [b'he', b'world']
        """
        artifact = self._artifact
        return artifact.reader.ranges(artifact.reference, self.descriptor, spans, self._pulled())

    @explain_call
    def describe(self, *, requests: int = 2) -> Description:
        """Return what is in the file, from at most two requests and a few KiB of it.

        Formats are recognised by their content: tables, tensors, arrays, archives, pictures and text. Files whose opening
        runs code, such as pickles, are recognised and never parsed. The header of a GGUF file has its vocabulary, which
        may need some MiB. A model in several safetensors files needs one more request for each of them.

        Args:
            requests: How many ranges may be requested. More of them find the types of all arrays in an npz file, and the
                rows of an Arrow file with many batches.

        Raises:
            ContentError: The file is damaged, or its header exceeds a limit.
            OcikitError: The format needs a package that is not installed. Only Parquet and Arrow do: pyarrow.

        >>> artifact = ocikit.push("oci:waves:v1", {"waves.jsonl": b'{"x": 0, "y": 1.5}'})
        >>> [column.name for column in artifact["waves.jsonl"].describe().columns]
        ['x', 'y']
        """
        from ocikit.descriptions.describe import describe  # noqa: PLC0415 - import time that few calls need

        folder, slash, _ = self.name.rpartition("/")

        def sibling(name: str) -> tuple[int, Ranges] | None:
            file = self._artifact.files.get(f"{folder}{slash}{name}")
            return None if file is None else (file.size, file._small_ranges)  # noqa: SLF001 - of this class

        found = describe(
            self.name,
            self.size,
            self._small_ranges,
            media_type=self.media_type,
            requests=requests,
            sibling=sibling,
            verified=True,
        )
        self._artifact.described[self.name] = found.summary
        return found

    def _small_ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return ranges of the content as `ranges` does, but request no more than them: only tiny files are read whole."""
        artifact = self._artifact
        whole = list(spans) == [(0, self.size)]
        return artifact.reader.ranges(artifact.reference, self.descriptor, spans, self._pulled(), whole=whole)

    def url(self, *, signed: bool = False) -> str:
        """Return the URL of the content at its registry.

        Other clients need a token for it, unless the repository is public.

        Args:
            signed: Return the URL that the registry redirects to instead. It has a signature, so it needs no token until
                it expires.

        Raises:
            Unsupported: The file is in a layout on disk, or the registry does not redirect.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"sine.csv": b"x,y"})
        >>> artifact["sine.csv"].url()
        'http://localhost:5000/v2/ada/waves/blobs/sha256:...'
        """
        artifact = self._artifact
        return artifact.reader.url(artifact.reference, self.descriptor, signed=signed)

    @explain_call
    def save(self, path: StrPath) -> Path:
        """Write a copy, which may be edited, and return its path. It appears when it is complete and verified.

        Args:
            path: The file to write or replace, or an existing folder to write to. Missing parent folders are created.

        Raises:
            ContentError: The file cannot be written.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> artifact["sine.csv"].save("copy.csv").read_text()
        'x,y'
        """
        target = Path(path).expanduser()
        if target.is_dir():
            target /= PurePosixPath(self.name).name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._front_to_back() as stream, atomic_writer(target, mode=0o666, sync=False) as file:
                shutil.copyfileobj(stream, file, 1 << 20)
        except OcikitError:  # some of them are subclasses of OSError
            raise
        except OSError as error:
            raise ContentError(
                f"cannot write {target}: {error.strerror or error}", hint="check the folder's permissions and the disk"
            ) from error
        return target

    @explain_call
    def download(self, *, progress: ProgressLike = None) -> Path:
        """Return the path of a file with the published content.

        It is the file in the folder that was pulled to, if it has not been edited since. Otherwise it is a read-only
        file in the cache, fetched if necessary.

        Args:
            progress: True, False or a `Progress`; None uses the session's setting.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"sine.csv": b"x,y"})
        >>> artifact["sine.csv"].download().read_text()
        'x,y'
        """
        if (pulled := self._pulled()) is not None:
            return pulled
        artifact = self._artifact
        layers = [self.descriptor]
        folder = artifact.reader.fetch_files(artifact.reference, artifact.document, layers, progress=progress)
        return folder / layer_path(self.descriptor)

    def _front_to_back(self) -> BinaryIO:
        artifact = self._artifact
        return artifact.reader.stream(artifact.reference, self.descriptor, self._pulled())

    def _pulled(self) -> Path | None:
        """Return the file in the folder that was pulled to, if it is unedited."""
        folder = self._artifact.path
        return None if folder is None else open_folder(folder).unedited(layer_path(self.descriptor), self.descriptor)

    def __fspath__(self) -> str:
        return str(self.download())

    # The stream

    def _opened(self) -> ContentStream:
        if self._stream is None:
            self._stream = self.open()
        return self._stream

    def read1(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes with at most one read of the source."""
        return self._opened().read(size)

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer` and return the number of bytes, 0 at the end."""
        return self._opened().readinto(buffer)

    def readinto1(self, buffer: Any, /) -> int:
        """Fill `buffer` like `readinto`."""
        return self.readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to an offset and return the position, in bytes.

        Args:
            offset: Position in bytes, relative to `whence`.
            whence: 0 for the start, 1 for the position, 2 for the end.
        """
        return self._opened().seek(offset, whence)

    def tell(self) -> int:
        """Return the position, in bytes."""
        return 0 if self._stream is None else self._stream.tell()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the stream; a later read starts again."""
        stream, self._stream = getattr(self, "_stream", None), None
        if stream is not None:
            stream.close()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, File):
            return NotImplemented
        return (self.name, self.descriptor, self._artifact) == (other.name, other.descriptor, other._artifact)

    def __hash__(self) -> int:
        return hash((self.name, self.digest))

    def __reduce__(self) -> tuple[Any, ...]:
        return File, (self._artifact, self.name, self.descriptor)

    def __deepcopy__(self, memo: object) -> File:
        return File(self._artifact, self.name, self.descriptor)

    def __str__(self) -> str:
        return self.name

    def __rich_repr__(self) -> display.Description:
        yield "name", self.name
        yield "size", display.Size(self.size)
        yield "media_type", self.media_type
        yield "digest", display.DigestCell(self.digest)

    def _line(self) -> str:
        return display.shorten(f"File({self.name!r}, {display.size(self.size)})", display.LINE)

    def _card_title(self) -> object:
        return display.Name.of_path(self.name)

    def _card_notes(self) -> Iterator[object]:
        yield file_kind(self.media_type, self.name)
        yield display.Size(self.size)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "artifact", display.title_of(self._artifact)
        if (content := self._artifact.described.get(self.name)) is not None:
            yield "content", content
        yield "read", display.Code(".open()")
        yield "path", display.Code(".path")
        yield "save", display.Code('.save("folder/")')

    def _sections(self) -> Iterator[display.Section]:
        yield from display.annotations_section(
            {key: value for key, value in self.descriptor.annotations.items() if key != TITLE}
        )
        yield from display.details_section(
            (
                ("digest", display.DigestCell(self.digest)),
                ("media type", self.media_type),
                ("size", display.Size(self.size)),
            )
        )


class Files(Mapping[str, File], display.Displayable):
    """Files of an artifact by name, in its order. Those of a nested index are requested as far as they are needed.

    >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y", "logs/1.txt": b""})
    >>> list(artifact.files), "sine.csv" in artifact.files
    (['sine.csv', 'logs/1.txt'], True)
    """

    def __init__(self, artifact: Artifact, layers: Mapping[str, Descriptor]) -> None:
        self._artifact = artifact
        self._layers = layers

    def __getitem__(self, name: str) -> File:
        nested = isinstance(self._layers, NestedFiles)
        layers = self._layers.near(str(name)) if isinstance(self._layers, NestedFiles) else self._layers
        layer = layers.get(name) if isinstance(name, str) else None
        if layer is None:
            near = display.nearest(str(name), layers, _NEAREST)
            hint = f"nearest: {display.join_limited(near)}" if near else "this artifact has no files"
            if layers and not near:
                hint = f"there is {display.join_limited(layers, _NEAREST)}"
            elif nested and not near:
                hint = "list them with list(artifact.files)"
            if not nested and any(holds_title(each, str(name)) for each in layers.values()):
                hint = f"a shard may have it: artifact.members[{str(name)!r}]"
            where = "in this artifact" if nested else f"among {len(layers)}"
            raise FileNotInArtifact(f"no file {display.quoted(name)} {where}", hint=hint)
        return _file_by_digest(self._artifact, layer) if name == layer.digest else File(self._artifact, name, layer)

    def __contains__(self, name: object) -> bool:
        return name in self._layers if isinstance(name, str) else False

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Files):
            return self._layers == other._layers and self._artifact == other._artifact
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as of any mapping

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._layers)

    def __rich_repr__(self) -> display.Description:
        if isinstance(self._layers, NestedFiles):  # a view makes no requests
            yield "manifests", len(self._layers.parts)
            return
        yield "files", len(self)
        yield "size", display.Size(sum(layer.size for layer in self._layers.values()))

    def _line(self) -> str:
        return display.plain_text(self._card())

    def _card_title(self) -> object:
        return "files" if isinstance(self._layers, NestedFiles) else display.pluralize(len(self), "file")

    def _card_notes(self) -> Iterator[object]:
        if not isinstance(self._layers, NestedFiles):
            yield _total(self._layers.values())
        yield display.title_of(self._artifact)

    def _facts(self) -> Iterator[tuple[str, object]]:
        return iter(())

    def _sections(self) -> Iterator[display.Section]:
        if isinstance(self._layers, NestedFiles):
            yield _nested_section(self._layers.index)
        else:
            section = _table(self._layers.items(), len(self), self._artifact)
            yield attrs.evolve(section, title="", note="") if self._layers else section


@explain_methods
class Artifact(display.Displayable):
    """A manifest or an index, and access to the content that it names.

    `artifact["train.csv"]` is a `File`; `os.fspath(artifact)` is the folder of a pull. A pickle has the settings of the
    session and the pinned reference; the other process fetches the document on first use, from its cache if possible.

    >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"}, annotations={"org.opencontainers.image.licenses": "MIT"})
    >>> list(artifact.files), artifact.annotations["org.opencontainers.image.licenses"]
    (['sine.csv'], 'MIT')
    >>> artifact["sine.csv"].read_text()
    'x,y'
    """

    def __init__(
        self,
        reader: ContentReader,
        reference: AnyReference,
        descriptor: Descriptor,
        document: Manifest | Index | None,
        *,
        path: Path | None = None,
        plan: Plan | FolderPlan | EditPlan | None = None,
        dialect: str | None = AUTO,
    ) -> None:
        self.reader = reader
        self.reference = reference.pinned(descriptor.digest)
        """The reference, pinned by digest; it also has the tag that the artifact was resolved by."""
        self.descriptor = descriptor
        self._document = document
        self.path = path
        """The folder on disk, or None."""
        self._summary: str | Callable[[], str] = ""
        self.plan = plan
        """After a dry run, what the call would do."""
        self.converted: Mapping[Digest, Digest] = {}
        """After `copy(convert="oci")`, the digests of converted documents by those before."""
        self._chosen = check_dialect(dialect)
        self._layers: tuple[Descriptor, ...] | None = None
        self._named: NamedLayers | None = None
        self._files: Files | None = None
        self._members: Members | None = None
        self._readme: Card | None = None
        self._nested: NestedFiles | None = None
        self.described: dict[str, str] = {}
        """Summaries by name of the files that were described; the card shows them."""
        self.pulled: frozenset[tuple[str | None, Digest]] | None = None
        """Titles and digests of the layers in `path`, if a pull selected some of them; None is all."""
        self._cached = _cached_manifests(reader.cache, document) if isinstance(document, Index) else {}

    @property
    def summary(self) -> str:
        """One line about what the call that returned the artifact did."""
        if not isinstance(self._summary, str):
            self._summary = self._summary()
        return self._summary

    def summarize(self, summary: str | Callable[[], str]) -> None:
        """Set the summary, or a function that returns it on first use.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> artifact.summarize("pushed by the nightly job")
        >>> artifact.summary
        'pushed by the nightly job'
        """
        self._summary = summary

    @property
    def document(self) -> Manifest | Index:
        """The manifest or index; after a pickle it is fetched on first use."""
        if self._document is None:
            self._document = self.reader.document(self.reference, self.descriptor)
        return self._document

    @property
    def digest(self) -> Digest:
        """Digest of the document."""
        return self.descriptor.digest

    @property
    def name(self) -> str:
        """The repository or layout that has it, such as "ghcr.io/org/name", without tag and digest."""
        return self.reference.name

    @property
    def tag(self) -> str | None:
        """The tag that it was resolved by or pushed to, or None."""
        return self.reference.tag

    @property
    def created(self) -> datetime | None:
        """When it was created, as it states itself; None if it does not.

        It is the annotation `org.opencontainers.image.created`. An image without it has the time in its config, which is
        fetched on demand.
        """
        config = self.config if self.is_image and CREATED not in self.annotations else None
        return parse_time(config.created if isinstance(config, ImageConfig) else self.annotations.get(CREATED))

    @property
    def manifest(self) -> Manifest:
        """The manifest.

        Raises:
            InvalidDocument: The artifact is an index, which has `.platforms` to select from.
        """
        if isinstance(self.document, Manifest):
            return self.document
        if self.is_nested:
            raise InvalidDocument(
                f"{self.reference} has a nested index, so it has no manifest of its own",
                hint="its files are in .files; pull it, or look at .index",
            )
        raise InvalidDocument(
            f"{self.reference} is an index, not a manifest",
            hint=f"choose with platform=…: {display.join_limited(self.platforms) or 'it names none'}; or look at .index",
        )

    @property
    def index(self) -> Index:
        """The index.

        Raises:
            InvalidDocument: The artifact is a manifest.
        """
        if isinstance(self.document, Index):
            return self.document
        raise InvalidDocument(f"{self.reference} is a manifest, not an index", hint="look at .manifest")

    @property
    def is_index(self) -> bool:
        """Whether the document is an index."""
        return isinstance(self.document, Index)

    @property
    def is_nested(self) -> bool:
        """Whether the document is a nested index: its manifests list the files of this one artifact."""
        return isinstance(self.document, Index) and self.document.is_nested

    @property
    def is_image(self) -> bool:
        """Whether this is a container image, whose layers unpack to a file system."""
        return isinstance(self.document, Manifest) and self.document.is_image

    @property
    def kind(self) -> str:
        """Artifact type, or media type of the config."""
        return self.document.kind

    @property
    def dialect(self) -> str:
        """Format of the artifact, such as "modelpack"; "files", "image" or "index" without another one."""
        return recognise_model(self.document).name

    @property
    def model(self) -> Model | None:
        """What the config of a model states, fetched on demand; None if this is not a model.

        It is the config of the manifest, or config.json of a folder as on the Hugging Face Hub.

        Raises:
            InvalidDocument: The config is not a JSON object.
        """
        dialect = recognise_model(self.document)
        if not dialect.describes_model:
            return None
        raw = self.reader.read(self.reference, dialect.facts(self.manifest))
        model = dialect.model(self.manifest, load_json(raw, f"the config of {self.reference}"))
        if model is not None and dialect.name == "huggingface" and self.card is not None:
            model = attrs.evolve(model, license=self.card.license)  # a folder of the Hub has it there only
        return model

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """The layers, with the names that the dialect gives them as titles. Some dialects name them in the config.

        Raises:
            InvalidDocument: The config is not one of the dialect.
        """
        if self._layers is None and self.nested_files is not None:
            self._layers = self.nested_files.manifest()[0].layers
        if self._layers is None:
            manifest = self.manifest
            layers = manifest.layers
            if self._chosen is not None:
                layers = tuple(recognise(manifest).layers(manifest, self._content()))
            self._layers = layers
        return self._layers

    @property
    def named(self) -> NamedLayers:
        """The layers by name; their names are checked once."""
        if self._named is None:
            layers = self.layers
            is_same = self.nested_files is None and layers is self.manifest.layers
            self._named = self.manifest.named if is_same else name_layers(layers)
        return self._named

    def _content(self) -> ArtifactContent:
        return ArtifactContent(self.reader, self.reference, self.manifest)

    @property
    def annotations(self) -> Annotations:
        """Annotations of the document."""
        return self.document.annotations

    @property
    def size(self) -> int:
        """Bytes of all layers, each digest once; for an index, bytes of its manifests."""
        named = self.document.blobs if isinstance(self.document, Manifest) else self.document.manifests
        return sum({d.digest: d.size for d in named if d.media_type != media_types.EMPTY}.values())

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """Platforms of an index; empty for a manifest, whose platform is in `.config`."""
        return self.document.platforms if isinstance(self.document, Index) else ()

    @property
    def config(self) -> ImageConfig | FrozenMap[Any] | bytes:
        """The config, fetched on demand: an `ImageConfig`, a mapping for JSON, or bytes."""
        raw = self.reader.read(self.reference, self.manifest.config)
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
        """Files by name: the layers. `unnamed` has the layers whose title cannot be the name of a file.

        The names of archives that a pull unpacks for the artifact's dialect end with "/". For an image each layer is a file; `tree()` lists their contents.
        """
        if self._files is None:
            nested = self.nested_files
            self._files = Files(self, self.named.files if nested is None else nested)
        return self._files

    @property
    def nested_files(self) -> NestedFiles | None:
        """The layers of a nested index, which are requested as far as they are needed; None without one."""
        if self._nested is None and isinstance(self.document, Index) and self.document.is_nested:
            self._nested = NestedFiles(self.reader, self.reference, self.document)
        return self._nested

    @property
    def members(self) -> Members:
        """Files in shards by name. The directory of a shard is fetched when a file of it is first used.

        A whole member is checked by its CRC-32. Ranges of it are not verified; `files` has the shards, whose digests are.
        """
        if self._members is None:
            from ocikit.client.members import Members  # noqa: PLC0415 - only shards need zip and tar

            layers = () if self.is_nested else self.manifest.named.files.values()
            self._members = Members(self.reader, self.reference, layers)
        return self._members

    @property
    def unnamed(self) -> Files:
        """Files by digest whose title is unusable, such as an absolute path; `open(digest)` reads one."""
        return Files(self, {layer.digest: layer for layer, _ in self.named.unusable})

    @property
    def card(self) -> Card | None:
        """README.md with its front matter, fetched on first use; None if there is none.

        It is at the top, in any case of letters. If all files are in one folder, it is there.

        Raises:
            ContentError: It is larger than 1 MiB.
        """
        from ocikit.descriptions.card import LIMIT, Card, card_name  # noqa: PLC0415 - 5 ms that few calls need

        if self._readme is None and (name := card_name(self.files)) is not None:
            file = self[name]
            if file.size > LIMIT:
                raise ContentError(
                    f"{name} of {self.reference} has {display.size(file.size)}; a card has at most"
                    f" {display.size(LIMIT)}",
                    hint=f"read it as a file: artifact[{display.quoted(name)}].open()",
                )
            self._readme = Card.parse(file.read_bytes())
        return self._readme

    def tree(self) -> Mapping[str, TarEntry]:
        """Return the file tree of an image with whiteouts applied, or of archives; read every layer.

        Raises:
            ContentError: The artifact has plain files only, or a layer isn't the one that the image's config names.

        >>> from pathlib import Path
        >>> Path("logs").mkdir()
        >>> size = Path("logs/1.txt").write_text("loss 0.5")
        >>> artifact = ocikit.push("oci:run:v1", "logs", archive="tar+gzip")
        >>> sorted(artifact.tree())
        ['logs', 'logs/1.txt']
        """
        from ocikit.layers.listing import merged_tree  # noqa: PLC0415 - only images need tar and decompression

        return merged_tree(self._streams(self._archives()), diff_ids=self._diff_ids())

    def open(self, name: str) -> BinaryIO:
        """Return a file as a seekable stream.

        Args:
            name: Name of the file, or its digest.

        Raises:
            FileNotInArtifact: There is no such file; the hint has the nearest names.
            UnsafeArchive: The title cannot be the name of a file; the hint has the digest.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> with artifact.open("sine.csv") as stream:
        ...     stream.read()
        b'x,y'
        """
        return self[name].open()

    def read(self, name: str) -> bytes:
        """Return the content of a file, verified.

        Args:
            name: Name of the file, or its digest.

        Raises:
            FileNotInArtifact: There is no such file; the hint has the nearest names.
            UnsafeArchive: The title cannot be the name of a file; the hint has the digest.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> artifact.read("sine.csv")
        b'x,y'
        """
        return self[name].read()

    def pull(
        self,
        to: StrPath | None = None,
        *,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        platform: PlatformLike | None = None,
        force: bool = False,
        archive: bool | None = None,
        dialect: str | None = AUTO,
        root: str | None = None,
        workers: int | None = None,
        progress: ProgressLike = None,
        dry_run: bool = False,
    ) -> Artifact:
        """Fetch the content into the cache, or as files into a folder.

        Args:
            to: Folder for writable files; a second pull fetches only what has changed. None pulls into the cache.
            include: Glob patterns of file names; none selects all. They also select files in shards: a few files of a
                shard are read by ranges and checked by their CRC-32, of more the shard is fetched.
            exclude: Glob patterns of file names to skip, also in shards.
            platform: Platform to select from an index, such as "linux/arm64"; None selects this machine's.
            force: Overwrite edited files in `to`.
            archive: True unpacks every tar layer into `to`, such as a Helm chart. False keeps archives as files. None
                unpacks folders that were pushed as archives or shards, and archives of models.
            dialect: "auto" gives models the files that their own tools extract. None gives the layers as they are.
            root: For an image: write only what is below this folder, such as "models" of a modelcar, as files into `to`.
            workers: Number of parallel transfers; None uses the session's setting.
            progress: True, False or a `Progress`; None uses the session's setting.
            dry_run: Fetch nothing; the artifact's `.plan` shows what would be fetched.

        Returns:
            The artifact with its `.path` on disk.

        Raises:
            ContentError: Files in `to` were edited, or the disk is full.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y", "note.txt": b"hello"})
        >>> pulled = ocikit.inspect("oci:waves:v1").pull("data", include="*.csv")
        >>> [path.name for path in pulled.path.glob("[a-z]*")]
        ['sine.csv']
        """
        return pull_artifact(
            self.reader,
            self.reference,
            to,
            include=include,
            exclude=exclude,
            platform=platform,
            force=force,
            archive=archive,
            dialect=self._chosen if dialect == AUTO else dialect,
            root=root,
            workers=workers,
            progress=progress,
            dry_run=dry_run,
        )

    def unpack(
        self,
        folder: StrPath,
        *,
        root: str = "",
        limits: LayerLimits | None = None,
        overwrite: bool = False,
        owner: bool = False,
        special: bool = False,
        keep_setuid: bool = False,
        xattrs: bool = False,
    ) -> Unpacked:
        """Unpack an image's root file system, or the archives of another artifact.

        Archives are folders that were pushed as such, and all other tar layers, such as a Helm chart.

        Args:
            folder: Folder to create. It must be absent or empty.
            root: Unpack only what is below this folder of an image, such as "models", as data: no link leads out of it.
            limits: Limits of all layers together, against zip bombs.
            overwrite: Replace a folder that is not empty, after everything is unpacked.
            owner: Set owner and group of files; needs root.
            special: Create devices and FIFOs; devices need root. Otherwise they are skipped and listed in the result.
            keep_setuid: Keep the setuid and setgid bits.
            xattrs: Set extended attributes, including file capabilities.

        Returns:
            The folder, with the numbers of files and bytes and what was skipped.

        Raises:
            InvalidArgument: There is a `root`, and this is not an image.
            ContentError: There is no archive to unpack, or no such `root`, a layer isn't the one that the image's config names, or `folder`
                isn't empty.
            UnsafeArchive: An entry leads out of the folder, or a limit is exceeded; nothing is left behind.

        >>> from pathlib import Path
        >>> Path("logs").mkdir()
        >>> size = Path("logs/1.txt").write_text("loss 0.5")
        >>> artifact = ocikit.push("oci:run:v1", "logs", archive="tar+gzip")
        >>> artifact.unpack("unpacked").files
        1
        """
        from ocikit.layers.unpack import unpack  # noqa: PLC0415 - only images need tar and decompression

        if root:
            _check_image(self, root)
        layers, diff_ids = self._archives(), self._diff_ids()
        self.reader.fetch(self.reference, layers)
        return unpack(
            self._streams(layers),
            folder,
            diff_ids=diff_ids,
            confined=bool(root) or not self.is_image,
            strip=root.strip("/"),
            skip_others=bool(root),
            limits=limits,
            overwrite=overwrite,
            owner=owner,
            special=special,
            keep_setuid=keep_setuid,
            xattrs=xattrs,
        )

    def _archives(self) -> tuple[Descriptor, ...]:
        """Return the layers of an image, or those of another artifact that are tar archives.

        Raises:
            ContentError: There are none.
        """
        layers = self.layers
        if not self.is_image:
            layers = tuple(layer for layer in layers if is_archive(layer))
        if not layers:
            raise ContentError(
                f"{self.reference} has no archives: its layers are plain files",
                hint="list them with list(artifact.files), and write them with .pull(folder)",
            )
        return layers

    def _diff_ids(self) -> tuple[Digest | None, ...]:
        """Return the digests of the uncompressed layers; None for a layer without one.

        Raises:
            ContentError: The config of an image has more or fewer digests than the manifest has layers.
        """
        from ocikit.layers.tree import check_diff_ids  # noqa: PLC0415 - only images need tar and decompression

        config = self.config if self.is_image else None
        if not isinstance(config, ImageConfig):
            return tuple(map(unpacked_digest, self._archives()))
        check_diff_ids(config.rootfs.diff_ids, len(self.manifest.layers))
        return config.rootfs.diff_ids

    def _streams(self, layers: Iterable[Descriptor]) -> Iterator[tuple[BinaryIO, str]]:
        """Yield the stream and media type of each layer; close it after use."""
        for layer in layers:
            with self.reader.stream(self.reference, layer) as stream:
                yield stream, layer.media_type

    @property
    def fs(self) -> Any:
        """A file system with these files for libraries that use fsspec; its paths are the names of files.

        Raises:
            OcikitError: fsspec is not installed.
        """
        try:
            from fsspec import get_filesystem_class  # noqa: PLC0415 - an optional package
            from fsspec.implementations.dirfs import DirFileSystem  # noqa: PLC0415 - as above
        except ImportError as error:
            raise OcikitError("fs needs fsspec", hint="pip install 'ocikit[data]'") from error
        # By its protocol, because the file system is built on this module
        files = get_filesystem_class("ocikit")(artifact=self, skip_instance_cache=True)
        return DirFileSystem(files.root_of(self), files)

    def referrers(self, artifact_type: str | None = None) -> Listing[Descriptor]:
        """Return the descriptors of artifacts that are attached to this one.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> report = ocikit.attach("oci:waves:v1", {"report.json": b"{}"}, artifact_type="application/vnd.example.report")
        >>> [referrer.artifact_type for referrer in artifact.referrers()]
        ['application/vnd.example.report']
        """
        return self.reader.referrers(self.reference, check_artifact_type(artifact_type))

    def __getitem__(self, name: str) -> File:
        try:
            return self.files[name]
        except FileNotInArtifact:
            if self.is_nested and ":" not in str(name):
                raise  # without a request for all manifests
            for layer in self.layers:
                if layer.digest == name:
                    return _file_by_digest(self, layer)
            for layer, problem in self.named.unusable:
                if layer.title == name:
                    raise unusable_title(layer, problem) from None
                if (file := _file_by_digest(self, layer)).name == name:
                    return file
            raise

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def __len__(self) -> int:
        return len(self.files)

    def __bool__(self) -> bool:
        return True  # an artifact exists, also without files

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Artifact):
            return NotImplemented
        return (self.reference.name, self.digest) == (other.reference.name, other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        raw = None if self._document is None or self._document.size > _MAX_SHOWN else self._document.raw
        summary = self._summary if isinstance(self._summary, str) else ""  # a pickle costs no request
        state = self.path, summary, self.plan, self.converted, self._chosen, self.pulled
        return _restore, (self.reader, self.reference, self.descriptor, raw, *state)

    def __deepcopy__(self, memo: object) -> Artifact:
        return copy.copy(self)

    def __copy__(self) -> Artifact:
        artifact = Artifact(
            self.reader,
            self.reference,
            self.descriptor,
            self._document,
            path=self.path,
            plan=self.plan,
            dialect=self._chosen,
        )
        artifact.summarize(self._summary)
        artifact.converted = self.converted
        artifact.pulled = self.pulled
        return artifact

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __fspath__(self) -> str:
        if self.path is None:
            raise NotFound(
                f"{self.reference} isn't on disk as a folder",
                hint="call .pull(folder), or .unpack(folder) for an image",
            )
        return str(self.path)

    def _ipython_key_completions_(self) -> list[str]:
        try:
            return list(self.files) if isinstance(self.document, Manifest) else []
        except OcikitError:  # a title is not a valid file name
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
        # The name and tag must be complete, because users copy them from here
        short = f"{self.reference.name}{f':{self.reference.tag}' if self.reference.tag else ''}@{self.digest.short}"
        if self._document is None:  # a view sends no request
            return display.shorten(f"Artifact({short!r})", display.LINE)
        held = (
            display.pluralize(len(self.document.manifests), "manifest")
            if isinstance(self.document, Index)
            else display.size(self.size)
        )
        return display.shorten(f"Artifact({short!r}, {held})", display.LINE)

    def _card(self) -> display.Card:
        if self._document is not None:
            return super()._card()
        facts = (("manifest", "not fetched yet: read .document"), ("reference", display.Code(self.reference)))
        return display.Card(title=self._card_title(), facts=facts)

    def _card_title(self) -> object:
        return display.title_of(self.reference)

    def _card_notes(self) -> Iterator[object]:
        if not self.reference.tag:
            yield display.DigestCell(self.digest)
        if isinstance(self.document, Index):
            yield "files" if self.is_nested else "image index" if self.platforms else "index"
            return
        dialect = recognise_model(self.document)
        yield f"model ({dialect.name})" if dialect.describes_model else artifact_kind(self.kind)
        yield display.Size(self.size)

    def _card_lead(self) -> str:
        # A README that was fetched before; a view sends no request
        title = "" if self._readme is None else self._readme.title
        return lead_of(self.annotations) or title

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from about_facts(self.annotations)
        if self._readme is not None and self._readme.license and LICENSES not in self.annotations:
            yield "license", self._readme.license
        if self.document.subject is not None:
            yield "attached to", display.DigestCell(self.document.subject.digest)
        if self.plan is not None:
            yield "plan", "dry run: nothing was moved"
        elif self.path is not None:
            yield "on disk", "in the cache" if self._is_cached() else display.Code(display.display_path(self.path))
        elif self.is_image or self.platforms:
            yield "unpack", display.Code('.unpack("rootfs/")' if self.is_image else '.pull().unpack("rootfs/")')
        else:
            yield "fetch", display.Code('.pull("folder/")')

    def _is_cached(self) -> bool:
        return self.path is not None and self.path.is_relative_to(self.reader.cache.root)

    def _details(self) -> Iterator[tuple[str, object]]:
        yield "reference", display.Code(self.reference)
        yield "type", self.kind
        if isinstance(self.document, Manifest):
            yield "size", display.Size(self.size)
            if self.document.config.media_type != media_types.EMPTY:
                yield "config", str(self.document.config)
        yield "media type", self.document.media_type
        if self._is_cached():
            yield "path", display.Code(display.display_path(self.path or ""))

    def _sections(self) -> Iterator[display.Section]:
        if self.plan is not None:
            yield from display.card_of(self.plan).sections
        elif isinstance(self.document, Index) and self.document.is_nested:
            yield _nested_section(self.document)
        elif isinstance(self.document, Index):
            yield from manifest_sections(self.document, self._child)
        elif self.is_image:
            yield layers_section(self.document)
        else:
            yield from self._file_sections(self.document)
        yield from display.annotations_section(self.annotations, without=ABOUT)
        yield from display.details_section(self._details())

    def _file_sections(self, manifest: Manifest) -> Iterator[display.Section]:
        named = self._shown_names()
        layers = manifest.layers if self._layers is None else self._layers
        files = [layer for layer in layers if layer.media_type != media_types.EMPTY]
        if unusable := named.unusable:
            apart = {(layer.title, layer.digest) for layer, _ in unusable}
            files = [layer for layer in files if (layer.title, layer.digest) not in apart]
        rows = ((layer_name(layer) if layer.title is not None else f"({layer.media_type})", layer) for layer in files)
        yield _table(rows, len(files), self, _total(files))
        if unusable:
            yield display.Section(
                title="titles that cannot be file names",
                headers=("title", "reason", "read"),
                rows=(
                    (layer.title, problem, display.code_call("ocikit.open", self.reference, layer.digest))
                    for layer, problem in unusable
                ),
                count=len(unusable),
                unfolded=True,
            )

    def _shown_names(self) -> NamedLayers:
        """Return the layers by name for a card, which costs no request: a config with the names may not be cached."""
        if self._layers is None and recognise(self.manifest).needs_config:
            return self.manifest.named
        return self.named

    def _child(self, descriptor: Descriptor) -> display.Card:
        """Return a manifest's card with its layers, or with the call to inspect it."""
        card = manifest_card(descriptor)
        if (manifest := self._cached.get(descriptor.digest)) is not None:
            size = display.Size(sum(layer.size for layer in manifest.layers))
            notes = (display.pluralize(len(manifest.layers), "layer"), size)
            return attrs.evolve(card, notes=notes, sections=(layers_section(manifest),))
        show = display.code_call("ocikit.inspect", f"{self.reference.name}@{descriptor.digest}")
        return attrs.evolve(card, facts=(("show", show),))


def _file_by_digest(artifact: Artifact, layer: Descriptor) -> File:
    """Return a layer as a file that is named after its digest."""
    annotations = {key: value for key, value in layer.annotations.items() if key != TITLE}
    bare = attrs.evolve(layer, annotations=Annotations(annotations))
    if layer.reference is not None:
        bare = bare.located(layer.reference)
    return File(artifact, layer_path(bare), bare)


def _restore(
    reader: ContentReader,
    reference: AnyReference,
    descriptor: Descriptor,
    raw: bytes | None,
    path: Path | None,
    summary: str,
    plan: Plan | FolderPlan | EditPlan | None,
    converted: Mapping[Digest, Digest],
    dialect: str | None = AUTO,
    pulled: frozenset[tuple[str | None, Digest]] | None = None,
) -> Artifact:
    """Return an artifact from its pickle."""
    document = None if raw is None else parse_document(raw, descriptor.media_type)
    artifact = Artifact(reader, reference, descriptor, document, path=path, plan=plan, dialect=dialect)
    artifact.summarize(summary)
    artifact.converted = converted
    artifact.pulled = pulled
    return artifact


def _total(layers: Iterable[Descriptor]) -> object:
    """Return the size of files; equal files, which are stored once, are counted once."""
    layers = tuple(layers)
    total = sum(layer.size for layer in layers)
    unique = sum({layer.digest: layer.size for layer in layers}.values())
    return display.Size(total) if total == unique else f"{display.size(unique)}, {display.size(total)} with duplicates"


def _table(
    files: Iterable[tuple[str, Descriptor]], count: int, artifact: Artifact, total: object = ""
) -> display.Section:
    """Return a table of files, with the content of those that were described. Rows beyond the shown are not evaluated."""
    described, pulled = artifact.described, artifact.pulled
    partial = pulled is not None and len(pulled) < count

    def row(name: str, layer: Descriptor) -> tuple[object, ...]:
        values: list[object] = [name, display.Size(layer.size), file_kind(layer.media_type, name)]
        if described:
            values.append(described.get(name, ""))
        if partial:
            values.append("✓" if (layer.title, layer.digest) in (pulled or ()) else "")
        return tuple(values)

    headers = ["name", "size", "kind"] + ["content"] * bool(described) + ["on disk"] * partial
    note = f"{display.text_of(total)} · {len(pulled or ()):,} on disk" if partial else total
    return display.Section(
        title="files",
        headers=tuple(headers),
        rows=itertools.starmap(row, files),
        count=count,
        note=note if count else "",
        unfolded=True,
    )


def _nested_section(index: Index) -> display.Section:
    """Return a table of the manifests of a nested index; views request none of them."""
    keys = (PREFIX, PREFIX_FIRST, PREFIX_LAST)
    return display.Section(
        title="manifests of files",
        headers=("folder", "first", "last", "digest"),
        rows=(
            (*(child.annotations.get(key, "") for key in keys), display.DigestCell(child.digest))
            for child in index.manifests
        ),
        count=len(index.manifests),
        unfolded=True,
    )


def _cached_manifests(cache: Cache, index: Index) -> dict[Digest, Manifest]:
    """Return cached manifests that the index's card shows, so that it needs no request."""
    result = {}
    for descriptor in index.manifests[: display.ROWS]:
        with contextlib.suppress(OcikitError, OSError):
            if descriptor.size <= _MAX_SHOWN and cache.exists(descriptor):
                document = parse_document(cache.fetch(descriptor), descriptor.media_type)
                if isinstance(document, Manifest):
                    result[descriptor.digest] = document
    return result


def pull_artifact(
    reader: ContentReader,
    reference: AnyReference,
    to: StrPath | None,
    *,
    include: str | Iterable[str],
    exclude: str | Iterable[str],
    platform: PlatformLike | None,
    force: bool,
    archive: bool | None,
    dialect: str | None,
    root: str | None,
    workers: int | None,
    progress: ProgressLike,
    dry_run: bool,
) -> Artifact:
    """Pull an artifact; see `Session.pull`."""
    folder = to
    if root is not None:
        check_root(root, to, include, exclude, archive)
        to = None  # the layers are fetched into the cache, and unpacked from there
    workers = reader.workers if workers is None else check_workers(workers)
    with reader.backends.open_source(reference) as source:
        descriptor, document = Resolver(source, reader.cache).resolve_files(reference, platform)
        artifact = Artifact(reader, reference, descriptor, document, dialect=dialect)
        if root is not None:
            _check_image(artifact, root)
        if (nested := artifact.nested_files) is None:
            manifest, layers, complete = artifact.manifest, artifact.layers, True
        else:
            manifest, complete = nested.manifest(to_patterns(include))
            layers = manifest.layers
        plan = plan_pull(
            reader.backends.with_others(source, layers),
            reader.cache,
            reference,
            document,
            manifest,
            to,
            layers=layers,
            complete=complete,
            members=_select_members(artifact, to_patterns(include), to_patterns(exclude)),
            include=include,
            exclude=exclude,
            force=force,
            archive=archive,
        )
        if dry_run:
            return Artifact(reader, reference, descriptor, document, plan=plan.steps, dialect=dialect)
        path, stats = plan.run(workers=workers, progress=reader.listener(progress))
    artifact = Artifact(reader, reference, descriptor, document, path=path, dialect=dialect)
    if plan.partial:
        artifact.pulled = frozenset((layer.title, layer.digest) for layer in plan.layers)
    if root is not None and folder is not None:
        unpacked = artifact.unpack(folder, root=root, overwrite=force)
        artifact.path, stats.unpacked = unpacked.path, unpacked.files
    target = "cache" if folder is None else display.display_path(artifact.path or folder)
    note = describe_foreign(manifest.layers) + ("" if to is None else describe_nesting(Path(to), plan.layers))
    summarize(artifact, stats, "pulled", target, note)
    return artifact


def _check_image(artifact: Artifact, root: str) -> None:
    if not artifact.is_image:
        raise InvalidArgument(
            f"root={display.quoted(root)} is for images, and {artifact.reference} is not one",
            hint="choose files with include=",
        )


def _select_members(
    artifact: Artifact, include: Sequence[str], exclude: Sequence[str]
) -> Mapping[Digest, SelectedMembers]:
    """Return which files of shards the patterns select."""
    if not (include or exclude) or artifact.is_nested or not any(map(is_shard, artifact.manifest.layers)):
        return {}
    return artifact.members.select(include, exclude)


def summarize(artifact: Artifact, stats: TransferStats, verb: str, target: str, note: str = "") -> None:
    """Set the artifact's summary and report it to the listener of the transfer.

    Args:
        artifact: What the call returns.
        stats: What it moved.
        verb: What it did, such as "pulled".
        target: Where the content is.
        note: The end of the summary.
    """
    artifact.summarize(stats.describe(verb, target) + note)
    stats.summary(artifact.summary)
