"""Image layouts in one tar, `oci-archive:`: unpacked beside, used as a layout, written back as a whole.

Nothing in an archive decides where a file goes: only `oci-layout`, `index.json` and blobs named by their digests are
taken, and blobs are verified on the way. The tar that is written depends on its content alone. image-spec
image-layout.md.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import posixpath
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from lzma import LZMAError
from pathlib import Path
from typing import BinaryIO, Literal, Self, cast

from ocikit import display
from ocikit.errors import ContentError, InvalidDigest, InvalidDocument, NotFound, OcikitError, UnsafeArchive
from ocikit.spec import media_types
from ocikit.spec.annotations import REF_NAME
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.store.files import atomic_writer, blob_path, write_blob
from ocikit.store.graph import unknown_reference
from ocikit.store.layout.disk import LayoutDisk, links_from
from ocikit.store.layout.index import HEADER, INDEX_LIMIT, encode_index, name_of, without_name
from ocikit.store.layout.layout import Layout
from ocikit.store.streams import ByteStream, VerifiedReader

#: Bytes of an extended header or a long name. Names of blobs need none, and what docker and podman add is below one KiB.
#: tarfile keeps them in memory, and before Python 3.11.10 went over them once for each digit in them: CVE-2024-6232.
_EXTENDED_LIMIT = 1 << 14

#: What tarfile and the decompressors below it raise for damaged bytes.
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, LZMAError, gzip.BadGzipFile, RecursionError)


@contextlib.contextmanager
def open_archive(path: Path | str, mode: Literal["r", "a", "w"] = "r") -> Iterator[Layout]:
    """The layout in an archive, unpacked for the time of the block.

    Args:
        path: the tar; for reading it may be compressed.
        mode: "r" reads; "a" changes it, or makes one; "w" makes a new one. At the end of a block that raised nothing,
            a changed layout replaces the archive as a whole.
    Raises:
        NotFound: if the archive isn't there, or holds no layout.
        DigestMismatch, SizeMismatch, UnsafeArchive, ContentError: if it can't be trusted or read.
    """
    path = Path(path)
    with _folder_beside(path) as folder:
        # Path.exists raises in folders that one may not look into; writing there is an error of ours
        if mode == "r" or (mode == "a" and os.path.exists(path)):
            _unpack_layout(path, folder)
        before = _state(folder)
        with Layout(folder, create=mode != "r") as layout:
            yield layout
        if mode != "r" and (mode == "w" or _state(folder) != before):
            write_archive(Layout(folder), path)


def read_archive(path: Path | str, layout: Layout) -> tuple[Descriptor, ...]:
    """Add everything in an archive to a layout, names included; names in use move. Gives the archive's entries.

    Raises: as `open_archive`.
    """

    def take(descriptor: Descriptor, stream: ByteStream) -> None:
        layout.push(descriptor, stream)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _unpack(Path(path), folder, take)
        entries = Layout(folder, create=False).entries()
    for entry in entries:
        # A layout may name what it doesn't have
        if layout.blob(entry.digest).exists():
            name = entry.annotations.get(REF_NAME)
            if name is None:
                layout.keep(entry)
            else:
                layout.tag(entry, name)
    return tuple(map(without_name, entries))


def write_archive(layout: Layout, path: Path | str, *names: str) -> None:
    """Write a layout to a tar: beside first, then renamed. The same content gives the same bytes.

    Args:
        layout: what to write.
        path: replaced if it is there.
        names: write these names and what they lead to; everything without.
    Raises:
        ManifestUnknown: for a name that isn't there.
        DigestMismatch: if a blob of the layout is damaged.
        ContentError: if the archive can't be written.
    """
    disk = LayoutDisk(layout.path, create=layout.create)
    index = disk.read_index()
    content = {digest: status.st_size for digest, status in disk.blobs()}
    raw = encode_index(index)
    if names:
        for name in names:
            if name not in layout.tags():
                raise unknown_reference(name, str(layout.path), layout.tags())
        index["manifests"] = [entry for entry in index["manifests"] if name_of(entry) in names]
        raw = encode_index(index)
        roots = [one for one in layout.entries() if one.annotations.get(REF_NAME) in names]
        reached = disk.graph().walk(links_from(roots), subjects=False)
        content = {digest: size for digest, size in content.items() if digest in reached}
    elif (layout.path / "index.json").exists():
        raw = (layout.path / "index.json").read_bytes()
    header = layout.path / "oci-layout"
    with new_tar(Path(path)) as tar:
        add_file(tar, "oci-layout", header.read_bytes() if header.exists() else HEADER)
        add_file(tar, "index.json", raw)
        _add_folder(tar, "blobs")
        for algorithm in sorted({digest.algorithm for digest in content}):
            _add_folder(tar, f"blobs/{algorithm}")
        for digest in sorted(content):
            descriptor = Descriptor(media_type=media_types.OCTET_STREAM, digest=digest, size=content[digest])
            add_blob(tar, f"blobs/{digest.algorithm}/{digest.encoded}", layout, descriptor)


# Tars


class _Header(tarfile.TarInfo):
    """A header, looked at before tarfile goes by it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:
            raise UnsafeArchive(
                f"{member.name!r} in the archive declares a size of {member.size} bytes",
                hint="the archive is damaged or hostile",
            )
        if member.type in _EXTENSIONS and member.size > _EXTENDED_LIMIT:
            raise UnsafeArchive(
                f"the archive has an extended header of {member.size} bytes",
                hint=f"at most {_EXTENDED_LIMIT} are read; real archives need a few hundred",
            )
        return member


_EXTENSIONS = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members, each of which begins behind the one before. Raises: UnsafeArchive."""
    end = 0
    for member in tar:
        # An extended header may say what a header may not; tarfile would go round in a circle: CVE-2025-8194
        if member.size < 0 or not end <= member.offset < tar.offset:
            raise UnsafeArchive(
                f"{member.name!r} in the archive leads back to where it was", hint="the archive is damaged or hostile"
            )
        end = tar.offset
        yield member


@contextlib.contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar for reading, compressed or not. Raises: NotFound; ContentError: for a damaged one, within the block too."""
    try:
        with tarfile.open(path, "r:*", tarinfo=_Header) as tar:
            yield tar
    except (FileNotFoundError, IsADirectoryError) as error:
        if error.filename is None or os.fspath(error.filename) != os.fspath(path):
            raise
        raise NotFound(
            f"{path} is not there, or is no file", hint="check the path; a folder is written oci:"
        ) from error
    except _DAMAGE as error:
        raise ContentError(
            f"{path} is no readable tar: {_damage(error)}", hint="it may be cut short; fetch or write it again"
        ) from error


def _damage(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it has extended headers of extended headers, and so on"
    text = display.shorten(error, 200)
    # tarfile lists what each decompressor had against it
    return "it is neither a tar nor a compressed one" if "could not be opened" in text else text


@contextlib.contextmanager
def new_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar for writing, which gets its name at the end of a block that raised nothing.

    Raises: ContentError: if it can't be written.
    """
    try:
        with (
            atomic_writer(path, mode=0o666) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            yield tar
    except OcikitError:  # some of ours are OSErrors too
        raise
    except OSError as error:
        raise ContentError(
            f"cannot write {path}: {error.strerror or error}", hint="check the folder's permissions and the disk"
        ) from error


def _member(name: str, size: int, mode: int) -> tarfile.TarInfo:
    """A header without owner and time: what it holds is all that it says."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, mode
    return member


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a small file."""
    tar.addfile(_member(name, len(content), 0o644), io.BytesIO(content))


def add_blob(tar: tarfile.TarFile, name: str, layout: Layout, descriptor: Descriptor) -> None:
    """Add a blob of a layout, verified. Raises: BlobUnknown, SizeMismatch, DigestMismatch."""
    with layout.open(descriptor) as file:
        source = VerifiedReader(file, descriptor) if descriptor.digest.verifiable else file
        tar.addfile(_member(name, descriptor.size, 0o444), source)
        # The digest is checked when the last byte is read, which for no bytes at all is never
        source.read(1)


def _add_folder(tar: tarfile.TarFile, name: str) -> None:
    member = _member(name, 0, 0o755)
    member.type = tarfile.DIRTYPE
    tar.addfile(member)


# Unpacking


def _unpack_layout(path: Path, folder: Path) -> None:
    def take(descriptor: Descriptor, stream: ByteStream) -> None:
        # Not synced: the folder lives as long as the block
        final = blob_path(folder, descriptor.digest)
        write_blob(stream, descriptor, final, parts=folder / ".ocikit" / "partial", sync=False)

    _unpack(path, folder, take)


def _unpack(path: Path, folder: Path, take: Callable[[Descriptor, ByteStream], None]) -> None:
    """Write the two files of a layout to a folder, and hand each blob over. Files with other names are passed by."""
    docker = False
    with open_tar(path) as tar:
        for member in members(tar):
            name = posixpath.normpath(member.name)
            if name in {"oci-layout", "index.json"}:
                if member.size > INDEX_LIMIT:
                    raise InvalidDocument(f"{name} in {path} is {member.size} bytes, above the limit of {INDEX_LIMIT}")
                (folder / name).write_bytes(_file(tar, member, path).read())
            elif (digest := _digest(name)) is not None and not member.isdir():
                stream = _file(tar, member, path)
                take(Descriptor(media_type=media_types.OCTET_STREAM, digest=digest, size=member.size), stream)
            docker = docker or name == "manifest.json"
        # tarfile takes half a header for the end, so that what was cut there would pass for a smaller layout
        end = cast("BinaryIO", tar.fileobj)
        end.seek(tar.offset)
        if 0 < len(end.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")
    if not (folder / "oci-layout").exists() or not (folder / "index.json").exists():
        raise NotFound(
            f"{path} holds no image layout: oci-layout or index.json is missing",
            hint="it is what docker save writes: import it with read_docker_archive" if docker
            else "an archive of a layout has these files at its top",
        )  # fmt: skip


def _digest(name: str) -> Digest | None:
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != "blobs":
        return None
    try:
        return Digest(f"{parts[1]}:{parts[2]}")
    except InvalidDigest:
        return None


def _file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> ByteStream:
    # A few bytes may stand for holes of any size
    if not member.isreg() or member.issparse():
        raise UnsafeArchive(
            f"{member.name} in {path} is not a regular file, or one with holes",
            hint="an image layout has none but whole files and folders",
        )
    return cast("ByteStream", tar.extractfile(member))


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A folder for the time of the block: on the same disk where that can be written, since archives are large."""
    place = path.parent if os.access(path.parent, os.W_OK) else None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=place))
    except OSError as error:
        raise ContentError(
            f"cannot unpack {path}: {error.strerror}", hint="check the folder's permissions and the disk"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _state(folder: Path) -> tuple[bytes, frozenset[str]]:
    index = folder / "index.json"
    names = frozenset(str(path) for path in (folder / "blobs").glob("*/*"))
    return (index.read_bytes() if index.exists() else b""), names
