"""Files within shards, read one by one as if they were files of the artifact.

The directory of a zip is at its end. It is fetched once, verified by the digest in the shard's annotations, and stored in the
content cache. Then one request reads one member, verified by the CRC-32 in that directory. CRC-32 detects damage, but no
attack: only the digest of the whole shard detects that. A tar has no directory, so its first use fetches all of it.
"""

from __future__ import annotations

import io
import shutil
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Never

import attrs

from ocikit import display
from ocikit.client.pull import SelectedMembers
from ocikit.client.reader import ContentReader
from ocikit.errors import ContentError, FileNotInArtifact, InvalidDigest, Unsupported
from ocikit.forks import ForkSafeLock
from ocikit.layers.tar import members
from ocikit.layers.zip import encode_local, parse_directory
from ocikit.spec import media_types
from ocikit.spec.annotations import SHARD, SHARD_DIRECTORY, SHARD_DIRECTORY_SIZE
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.reference import AnyReference
from ocikit.spec.title_ranges import TitleRange
from ocikit.spec.titles import is_selected, is_shard, layer_path, safe_title
from ocikit.store.files import atomic_writer
from ocikit.store.streams import PositionedStream, WholeReader, check_spans
from ocikit.transfer.pool import run_parallel

_DIRECTORY_LIMIT: Final = 256 << 20  # bytes; a member takes about 80
_WHOLE: Final = 4 << 20  # bytes of a member that is read at once
_REQUEST: Final = 256 << 10  # bytes that are transferred in the time of a request
_PARALLEL = 8  # directories that are fetched at once
_NEAREST = 3  # similar names in the hint for a missing file


class _Place(NamedTuple):
    """Where a member is in its shard."""

    offset: int
    """Of the content."""
    size: int
    header: bytes = b""
    """Before the content, in a zip."""
    crc: int | None = None
    """None in a tar."""
    executable: bool = False


class Member:
    """A file within a shard.

    Args:
        reader: Reads the shard.
        reference: The artifact.
        layer: The shard.
        name: Title of the file.
        place: Where it is in the shard.
    """

    __slots__ = ("_place", "_reader", "_reference", "layer", "name")

    def __init__(
        self, reader: ContentReader, reference: AnyReference, layer: Descriptor, name: str, place: _Place
    ) -> None:
        self._reader = reader
        self._reference = reference
        self.layer = layer
        self.name = name
        self._place = place

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self._place.size

    @property
    def media_type(self) -> str:
        """Media type of the content, by its name."""
        return media_types.media_type_of(self.name)

    @property
    def key(self) -> str:
        """What identifies the content: the digest of the shard, and the place in it."""
        return f"{self.layer.digest}/{self._place.offset}"

    def read_bytes(self) -> bytes:
        """Return the content. Its CRC-32 is checked in a zip; a tar was verified as a whole.

        Raises:
            ContentError: The content is damaged.
        """
        place = self._place
        if not place.size:
            return b""
        start = place.offset - len(place.header)
        (raw,) = self._reader.ranges(self._reference, self.layer, [(start, len(place.header) + place.size)])
        content = raw[len(place.header) :]
        if not raw.startswith(place.header) or (place.crc is not None and zlib.crc32(content) != place.crc):
            raise self._damaged()
        return content

    def ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return ranges of the content, unverified.

        Args:
            spans: Offset and length of each range, in bytes.
        """
        check_spans(attrs.evolve(self.layer, size=self.size), spans)
        offset = self._place.offset
        return self._reader.ranges(self._reference, self.layer, [(offset + start, length) for start, length in spans])

    def open(self) -> BinaryIO:
        """Return a seekable stream; reading it from start to end checks the CRC-32."""
        if self.size <= _WHOLE:
            raw: io.RawIOBase = WholeReader(self.size, self.read_bytes)
        else:
            raw = _Window(self._reader.open(self._reference, self.layer), self)
        return io.BufferedReader(raw)

    def save(self, path: Path) -> None:
        """Write a copy, which appears when it is complete and checked."""
        mode = 0o777 if self._place.executable else 0o666
        with self.open() as stream, atomic_writer(path, mode=mode, sync=False) as file:
            shutil.copyfileobj(stream, file, 1 << 20)

    def url(self, *, signed: bool = False) -> Never:
        """Raise an error, because a member has no URL.

        Raises:
            Unsupported: In all cases.
        """
        raise Unsupported(
            f"{display.quoted(self.name)} is a part of a blob and has no URL", hint=f"use that of {self.layer.title}"
        )

    def _damaged(self) -> ContentError:
        return ContentError(
            f"the content of {display.quoted(self.name)} is damaged: it does not match the directory of its shard",
            hint="read it again, or fetch the whole shard, which is verified",
        )

    def __repr__(self) -> str:
        return f"Member({self.name!r}, {self.size} bytes in {self.layer.title!r})"


class _Window(PositionedStream):
    """The part of a shard's stream that is one member; checks the CRC-32 when it is read from start to end."""

    def __init__(self, stream: BinaryIO, member: Member) -> None:
        super().__init__(member.size)
        self._stream = stream
        self._member = member
        self._checked = self._crc = 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        place = self._member._place  # noqa: SLF001 - a class of this module
        data = b""
        if (left := min(len(buffer), place.size - self._position)) > 0:
            self._stream.seek(place.offset + self._position)
            data = self._stream.read(left)
        buffer[: len(data)] = data
        if self._position == self._checked:
            self._crc = zlib.crc32(data, self._crc)
            self._checked += len(data)
            if self._checked == place.size and data and place.crc not in {None, self._crc}:
                raise self._member._damaged()  # noqa: SLF001 - as above
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


class Members(Mapping[str, Member]):
    """The files in the shards of an artifact by name; directories are fetched as far as they are needed.

    Args:
        reader: Reads the shards.
        reference: The artifact.
        layers: Layers of the artifact, of which only the shards are used.
    """

    def __init__(self, reader: ContentReader, reference: AnyReference, layers: Iterable[Descriptor]) -> None:
        self._reader = reader
        self._reference = reference
        self.parts = tuple((layer, TitleRange.of_shard(layer)) for layer in layers if is_shard(layer))
        self.shards = tuple(layer for layer, _ in self.parts)
        self._loaded: dict[Digest, dict[str, Member]] = {}
        self._lock = ForkSafeLock()

    def __getitem__(self, name: str) -> Member:
        for layer in self._around(name):
            if (member := self._members(layer).get(name)) is not None:
                return member
        raise FileNotInArtifact(
            f"no file {display.quoted(name)} in {display.pluralize(len(self.shards), 'shard')}",
            hint="list them with list(artifact.members)",
        )

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(name in self._members(layer) for layer in self._around(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.load(self.shards))

    def __len__(self) -> int:
        return len(self.load(self.shards))

    def __repr__(self) -> str:
        return f"Members({len(self.shards)} shards)"

    def below(self, name: str) -> tuple[Descriptor, ...]:
        """Return the shards that may have a file of this name, or files in the folder of this name."""
        return tuple(layer for layer, titles in self.parts if titles.is_below(name))

    def listed_in(self, folder: str) -> tuple[Descriptor, ...]:
        """Return the shards whose directories must be read to list a folder."""
        return tuple(layer for layer, titles in self.parts if titles.is_listed_in(folder))

    def _around(self, title: str) -> tuple[Descriptor, ...]:
        return tuple(layer for layer, titles in self.parts if titles.holds(title))

    def select(self, include: Sequence[str], exclude: Sequence[str]) -> dict[Digest, SelectedMembers]:
        """Return which files of each shard match the patterns, for the shards that are not selected as a whole.

        Patterns are compared with the names of the files, and with that of the shard. Directories are requested where the
        titles of a shard do not tell.

        Args:
            include: Glob patterns; none selects all.
            exclude: Glob patterns to skip.
        """
        found: dict[Digest, SelectedMembers] = {}
        unknown: dict[Digest, tuple[Descriptor, Sequence[str]]] = {}
        for layer, titles in self.parts:
            name = layer_path(layer)
            wanted = () if include and is_selected(name, include) else include
            if not is_selected(name, (), exclude) or not titles.may_match(wanted):
                found[layer.digest] = SelectedMembers(titles=frozenset(), hidden=1)
            elif wanted or (exclude and titles.may_match(exclude)):
                unknown[layer.digest] = (layer, wanted)
        self.load(layer for layer, _ in unknown.values())
        for digest, (layer, wanted) in unknown.items():
            members = self._members(layer)
            chosen = frozenset(title for title in members if is_selected(title, wanted, exclude))
            cost = sum(members[title].size + _REQUEST for title in chosen)
            by_ranges = layer.media_type == media_types.ZIP and layer.size > _WHOLE and cost < layer.size
            found[digest] = SelectedMembers(
                titles=chosen,
                hidden=len(members) - len(chosen),
                save=partial(_save, members) if by_ranges else None,
            )
        return found

    def load(self, shards: Iterable[Descriptor]) -> dict[str, Member]:
        """Return the files of some shards; fetch their directories in parallel.

        Raises:
            ContentError: A directory is damaged.
            UnsafeArchive: A name leads out of its folder.
        """
        shards = list(shards)
        missing = [layer for layer in shards if layer.digest not in self._loaded]
        if missing:

            def load(layer: Descriptor, _: threading.Event) -> None:
                self._members(layer)

            run_parallel(missing, load, workers=min(_PARALLEL, len(missing)))
        return {name: member for layer in shards for name, member in self._members(layer).items()}

    def _members(self, layer: Descriptor) -> dict[str, Member]:
        with self._lock:
            found = self._loaded.get(layer.digest)
        if found is None:
            places = self._tar_places(layer) if layer.media_type == media_types.TAR else self._zip_places(layer)
            found = {
                name: Member(self._reader, self._reference, layer, name, place)
                for name, place in _checked(layer, places)
            }
            with self._lock:
                found = self._loaded.setdefault(layer.digest, found)
        return found

    def _zip_places(self, layer: Descriptor) -> list[tuple[str, _Place]]:
        try:
            digest = Digest(layer.annotations[SHARD_DIRECTORY])
            size = int(layer.annotations[SHARD_DIRECTORY_SIZE])
        except (KeyError, ValueError, InvalidDigest) as error:
            raise _no_directory(layer) from error
        if not 0 < size <= min(layer.size, _DIRECTORY_LIMIT) or not digest.verifiable:
            raise _no_directory(layer)
        offset, cache = layer.size - size, self._reader.cache
        directory = Descriptor(media_type=media_types.OCTET_STREAM, digest=digest, size=size)
        if cache.exists(directory):
            raw = cache.fetch(directory, limit=_DIRECTORY_LIMIT)
        else:
            (raw,) = self._reader.ranges(self._reference, layer, [(offset, size)])
            digest.verify(raw, f"the directory of {layer.title}")
            with cache.optional_write():
                cache.push_bytes(directory, raw)
        places = []
        for member in parse_directory(raw, offset):
            header = encode_local(member.name, member.size, member.crc, executable=member.executable)
            places.append(
                (member.name, _Place(member.offset + len(header), member.size, header, member.crc, member.executable))
            )
        return places

    def _tar_places(self, layer: Descriptor) -> list[tuple[str, _Place]]:
        self._reader.fetch(self._reference, [layer], progress=False)
        with self._reader.open(self._reference, layer) as stream:
            return [(name, _Place(offset, size)) for name, offset, size in tar_places(stream)]


def _save(members: Mapping[str, Member], title: str, path: Path) -> None:
    members[title].save(path)


def tar_places(stream: BinaryIO) -> list[tuple[str, int, int]]:
    """Return name, offset and size of each file in a tar.

    Raises:
        ContentError: The content is not a tar archive, or is damaged.
        UnsafeArchive: The archive has malicious headers.
    """
    return [
        (entry.path, body.offset, entry.size)
        for entry, body in members(stream, media_types.TAR)
        if entry.type == "file" and body.segments == ((0, entry.size),)
    ]


def _checked(layer: Descriptor, places: Iterable[tuple[str, _Place]]) -> Iterator[tuple[str, _Place]]:
    """Check that names are safe and below the folder of their shard (path traversal)."""
    prefix = layer.annotations.get(SHARD, "")
    seen: set[str] = set()
    for name, place in places:
        if safe_title(name).as_posix() != name or not name.startswith(prefix) or name in seen:
            raise ContentError(
                f"{layer.title} has the name {display.quoted(name)} outside of its folder, or twice",
                hint="ask its publisher for a new one",
            )
        if place.offset + place.size > layer.size:
            raise ContentError(f"{layer.title} ends within {display.quoted(name)}", hint="fetch the shard again")
        seen.add(name)
        yield name, place


def _no_directory(layer: Descriptor) -> ContentError:
    return ContentError(
        f"{layer.title} names no directory of its files",
        hint="pull the artifact to a folder, or open the whole shard as a zip file",
    )
