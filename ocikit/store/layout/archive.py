"""Image layouts in a tar (`oci-archive:`).

An archive is unpacked to a temporary folder, used as a layout, and replaced atomically. Member names never decide where
a file is written (path traversal): only `oci-layout`, `index.json` and blobs named by their digests are read, and blobs
are verified. A written tar depends only on its content. image-spec image-layout.md.
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
from typing import BinaryIO, Literal, Self, TypeAlias, cast

from ocikit import display
from ocikit.errors import ContentError, InvalidDigest, InvalidDocument, NotFound, OcikitError, UnsafeArchive
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.store.files import atomic_writer, blob_path, check_regular_file
from ocikit.store.layout.disk import LayoutDisk
from ocikit.store.layout.index import HEADER, INDEX_LIMIT, encode_index
from ocikit.store.layout.layout import Layout
from ocikit.store.parts import write_blob
from ocikit.store.streams import ByteStream, VerifiedReader

#: "r" reads an archive, "a" changes an archive or creates it, "w" creates or replaces it.
Mode: TypeAlias = Literal["r", "a", "w"]

#: Bytes of an extended header or a long name. Blob names need none, and docker and podman add less than one KiB.
#: tarfile reads them into memory, and before Python 3.11.10 with quadratic time: CVE-2024-6232 (DoS).
_EXTENDED_LIMIT = 1 << 14

#: Errors of tarfile and its decompressors for corrupt data.
_CORRUPT_ERRORS = (tarfile.TarError, EOFError, zlib.error, LZMAError, gzip.BadGzipFile, RecursionError)


@contextlib.contextmanager
def open_archive(path: Path | str, mode: Mode = "r") -> Iterator[Layout]:
    """Open the layout in an archive, unpacked to a temporary folder for the block.

    Args:
        path: The tar; an archive to read may be compressed.
        mode: "r" reads, "a" changes or creates, "w" creates or replaces. A changed layout replaces the archive
            atomically at the end of the block, unless the block raises.

    Raises:
        NotFound: The archive does not exist or holds no layout.
        DigestMismatch: A blob does not match its digest.
        SizeMismatch: A blob is truncated.
        UnsafeArchive: The archive is hostile.
        ContentError: The archive cannot be read or written.
    """
    with open_unpacked(Path(path), mode, read=_unpack_layout, write=write_archive) as layout:
        yield layout


@contextlib.contextmanager
def open_unpacked(
    path: Path,
    mode: Mode,
    *,
    read: Callable[[Path, Path], None],
    write: Callable[[Layout, Path], None],
    layout_type: type[Layout] = Layout,
) -> Iterator[Layout]:
    """Open the layout that `read` unpacks to a folder; `write` replaces the archive."""
    with _temporary_folder(path) as folder:
        # Path.exists raises for folders that may not be searched; writing there raises a ContentError later
        if mode == "r" or (mode == "a" and os.path.exists(path)):
            read(path, folder)
        before = _state(folder)
        with layout_type(folder, create=mode != "r") as layout:
            yield layout
        if mode == "w" or (mode == "a" and _state(folder) != before):
            write(layout_type(folder), path)


def write_archive(layout: Layout, path: Path) -> None:
    """Write a layout to a tar atomically. The same content gives the same bytes.

    Args:
        layout: The layout to write.
        path: The tar; an existing file is replaced.

    Raises:
        DigestMismatch: A blob of the layout is corrupt.
        ContentError: The archive cannot be written.
    """
    disk = LayoutDisk(layout.path, create=layout.create)
    content = {digest: status.st_size for digest, status in disk.blobs()}
    index = layout.path / "index.json"
    header = layout.path / "oci-layout"
    with create_tar(path) as tar:
        add_file(tar, "oci-layout", header.read_bytes() if header.exists() else HEADER)
        add_file(tar, "index.json", index.read_bytes() if index.exists() else encode_index(disk.read_index()))
        _add_folder(tar, "blobs")
        for algorithm in sorted({digest.algorithm for digest in content}):
            _add_folder(tar, f"blobs/{algorithm}")
        for digest in sorted(content):
            descriptor = Descriptor(media_type=media_types.OCTET_STREAM, digest=digest, size=content[digest])
            add_blob(tar, f"blobs/{digest.algorithm}/{digest.encoded}", layout, descriptor)


# Tars


class _SafeHeader(tarfile.TarInfo):
    """A header that is validated before tarfile uses it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:
            raise UnsafeArchive(
                f"{member.name!r} in the archive declares a size of {member.size} bytes",
                hint="the archive is corrupt or hostile",
            )
        if member.type in _EXTENSIONS and member.size > _EXTENDED_LIMIT:
            raise UnsafeArchive(
                f"the archive has an extended header of {member.size} bytes, above the limit of {_EXTENDED_LIMIT}",
                hint="the archive is corrupt or hostile; real archives need a few hundred bytes",
            )
        return member


_EXTENSIONS = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


def iter_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Iterate over the members of a tar.

    Raises:
        UnsafeArchive: A member does not begin after the one before.
    """
    end = 0
    for member in tar:
        # An extended header can set a negative size, with which tarfile loops indefinitely: CVE-2025-8194 (DoS)
        if member.size < 0 or not end <= member.offset < tar.offset:
            raise UnsafeArchive(
                f"{member.name!r} in the archive begins before the end of the previous member",
                hint="the archive is corrupt or hostile",
            )
        end = tar.offset
        yield member


@contextlib.contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar for reading; it may be compressed.

    Raises:
        NotFound: There is no such file.
        ContentError: The tar is corrupt. The block may raise it, too.
    """
    try:
        if not path.is_dir():
            check_regular_file(path)
        with tarfile.open(path, "r:*", tarinfo=_SafeHeader) as tar:
            yield tar
    except (FileNotFoundError, IsADirectoryError) as error:
        if error.filename is None or os.fspath(error.filename) != os.fspath(path):
            raise
        raise NotFound(
            f"{path} is not a file, or does not exist", hint="check the path; the scheme of a folder is oci:"
        ) from error
    except _CORRUPT_ERRORS as error:
        raise ContentError(
            f"reading the archive {path} failed: {_cause(error)}",
            hint="it may be truncated; download or write it again",
        ) from error


def _cause(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "its extended headers are nested too deeply"
    text = display.shorten(error, 200)
    # tarfile lists the error of each decompressor
    return "it is neither a tar nor a compressed tar" if "could not be opened" in text else text


@contextlib.contextmanager
def create_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Write a tar that appears at its path after a block that did not raise.

    Raises:
        ContentError: The tar cannot be written.
    """
    try:
        with (
            atomic_writer(path, mode=0o666) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            yield tar
    except OcikitError:  # some of them are subclasses of OSError
        raise
    except OSError as error:
        raise ContentError(
            f"cannot write {path}: {error.strerror or error}", hint="check the folder's permissions and the disk"
        ) from error


def _member(name: str, size: int, mode: int) -> tarfile.TarInfo:
    """Return a reproducible header, without owner and time."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, mode
    return member


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a small file to a tar."""
    tar.addfile(_member(name, len(content), 0o644), io.BytesIO(content))


def add_blob(tar: tarfile.TarFile, name: str, layout: Layout, descriptor: Descriptor) -> None:
    """Add a verified blob of a layout to a tar.

    Raises:
        BlobUnknown: The layout does not have the blob.
        SizeMismatch: The blob is truncated.
        DigestMismatch: The blob is corrupt.
    """
    with layout.open(descriptor) as file:
        source = VerifiedReader(file, descriptor) if descriptor.digest.verifiable else file
        tar.addfile(_member(name, descriptor.size, 0o444), source)
        # The last read checks the digest, and tarfile never reads an empty file
        source.read(1)


def _add_folder(tar: tarfile.TarFile, name: str) -> None:
    member = _member(name, 0, 0o755)
    member.type = tarfile.DIRTYPE
    tar.addfile(member)


# Unpacking


def _unpack_layout(path: Path, folder: Path) -> None:
    """Write the two files of a layout and its verified blobs to a folder.

    Skip other files.
    """
    is_docker = False
    with open_tar(path) as tar:
        for member in iter_members(tar):
            name = posixpath.normpath(member.name)
            if name in {"oci-layout", "index.json"}:
                if member.size > INDEX_LIMIT:
                    raise InvalidDocument(f"{name} in {path} is {member.size} bytes, above the limit of {INDEX_LIMIT}")
                (folder / name).write_bytes(_open_member(tar, member, path).read())
            elif (digest := _digest_of(name)) is not None and not member.isdir():
                descriptor = Descriptor(media_type=media_types.OCTET_STREAM, digest=digest, size=member.size)
                # No fsync: the folder is temporary
                write_blob(
                    _open_member(tar, member, path),
                    descriptor,
                    blob_path(folder, digest),
                    parts=folder / ".ocikit" / "partial",
                    sync=False,
                )
            is_docker = is_docker or name == "manifest.json"
        # tarfile reads a truncated header as the end of the archive, so a truncated tar looks like a smaller layout
        end = cast("BinaryIO", tar.fileobj)
        end.seek(tar.offset)
        if 0 < len(end.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")
    if not (folder / "oci-layout").exists() or not (folder / "index.json").exists():
        raise NotFound(
            f"{path} holds no image layout: oci-layout or index.json is missing",
            hint=f"it is an archive of docker save: write docker-archive:{path}"
            if is_docker
            else "these files must be at the top of the archive",
        )


def _digest_of(name: str) -> Digest | None:
    """Return the digest of a blob's path, or None for other paths."""
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != "blobs":
        return None
    try:
        return Digest(f"{parts[1]}:{parts[2]}")
    except InvalidDigest:
        return None


def _open_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> ByteStream:
    # Zip bomb: a sparse file of a few bytes can declare holes of any size
    if not member.isreg() or member.issparse():
        raise UnsafeArchive(
            f"{member.name} in {path} is a sparse file, or not a regular file",
            hint="the files of an image layout are regular files and folders",
        )
    return cast("ByteStream", tar.extractfile(member))


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Create a temporary folder for the block.

    Archives are large, so it is on the disk of `path` if possible.
    """
    parent = path.parent if os.access(path.parent, os.W_OK) else None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    except OSError as error:
        raise ContentError(
            f"unpacking {path} failed: {error.strerror}", hint="check the folder's permissions and the disk"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _state(folder: Path) -> tuple[bytes, frozenset[str]]:
    """Return a value that changes with the content of a layout."""
    index = folder / "index.json"
    names = frozenset(str(path) for path in (folder / "blobs").glob("*/*"))
    return (index.read_bytes() if index.exists() else b""), names
