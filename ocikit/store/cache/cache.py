"""The cache of blobs, tags and snapshots (artifacts as folders of files).

It needs no locks, because home folders are often on network file systems: all files are written atomically and never
changed in place. Missing and corrupt files count as absent and are downloaded again.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

import attrs
from attrs import define, field

from ocikit import display
from ocikit.errors import (
    ContentError,
    DigestMismatch,
    InvalidDocument,
    ManifestUnknown,
    NotFound,
    SizeMismatch,
    UnverifiableDigest,
    UploadInvalid,
)
from ocikit.spec.arguments import to_seconds
from ocikit.spec.calls import explain_call
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.spec.reference import Reference
from ocikit.spec.titles import layers_by_path
from ocikit.store.base import Store, blob_not_found
from ocikit.store.cache.verified import VerifiedFiles, discard, forget
from ocikit.store.files import blob_path, create_private_folder, open_file, read_file, write_atomically
from ocikit.store.memo import FileMemo
from ocikit.store.parts import write_blob
from ocikit.store.reflink import LinkMethod, link
from ocikit.store.streams import ByteStream

if TYPE_CHECKING:
    from ocikit.store.cache.hashes import HashCache
    from ocikit.store.cache.prune import PrunePlan
    from ocikit.store.cache.scan import CacheInfo
    from ocikit.store.results import GCResult, VerifyResult

log = logging.getLogger("ocikit")

#: Marker for backup programs, which exclude such folders. https://bford.info/cachedir/
_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Created by ocikit. It can be deleted at any time.\n"

#: Parts of repository names that could be mistaken for tag files (`data.json`) or snapshots (`sha256-<hex>`).
_RESERVED = re.compile(r".*\.json|[a-z0-9]+-[0-9a-f]{64,}")


#: Variables that platformdirs reads for the default folder.
_ROOT_VARIABLES = ("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA", "USERPROFILE", "WIN_PD_OVERRIDE_LOCAL_APPDATA")

_FOLDERS = 32  # of earlier pulls that are searched for content

#: Caches whose failed writes were logged.
_reported: set[Path] = set()


def offline() -> bool:
    """Return True if `OCIKIT_OFFLINE` forbids requests."""
    return os.environ.get("OCIKIT_OFFLINE", "").strip().lower() not in {"", "0", "false", "no", "off"}


#: Documents of cached artifacts whose files are read.
_documents: Final[FileMemo[Manifest | Index]] = FileMemo(limit=16 << 20)


def _load_document(path: Path, digest: Digest) -> Manifest | Index:
    raw = read_file(path, DOCUMENT_LIMIT)
    digest.verify(raw)
    return parse_document(raw)


class Remembered(NamedTuple):
    """Descriptor of a tag in the cache."""

    descriptor: Descriptor
    fetched_at: datetime
    """When a registry last returned the descriptor."""


@functools.lru_cache(maxsize=4)
def _plain(path: str) -> Path | None:
    """Return a path that depends on neither the working folder nor the user; None for another one."""
    return Path(path) if os.path.isabs(path) else None


def _absolute(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path).expanduser().absolute()


@functools.lru_cache(maxsize=1)
def _default_root(*_variables: str | None) -> Path:
    """Return the platform's folder for these variables; platformdirs takes as long as opening a file."""
    import platformdirs  # noqa: PLC0415 - import time; only the default folder needs it

    return platformdirs.user_cache_path("ocikit", appauthor=False)


@define(eq=False, repr=False)
class Cache(display.Displayable, Store):
    """Downloaded content on disk.

    The tags of this store are full references: `resolve("ghcr.io/org/model:v1")`.

    Args:
        root: Folder of the cache; by default `OCIKIT_CACHE`, else the platform's folder for caches. The default is
            evaluated on each use. The first write creates the folder, and other users cannot read it. To share a cache
            between users, create the folder with their permissions first.

    >>> cache = ocikit.Cache("cache")
    >>> with ocikit.Session(cache=cache) as session:
    ...     artifact = session.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
    ...     artifact = session.pull("localhost:5000/ada/waves:v1")
    >>> cache.resolve("localhost:5000/ada/waves:v1").digest == artifact.digest
    True
    """

    _root: Path | None = field(default=None, converter=_absolute)
    _verified: VerifiedFiles = field(factory=VerifiedFiles, init=False)

    @property
    def root(self) -> Path:
        """Folder of the cache, whether it exists or not."""
        if self._root is not None:
            return self._root
        if path := os.environ.get("OCIKIT_CACHE"):
            return _plain(path) or Path(path).expanduser().absolute()
        return _default_root(*map(os.environ.get, _ROOT_VARIABLES))

    # Blobs

    def path(self, digest: str) -> Path:
        """Return the path of a blob, whether it exists or not.

        >>> cache = ocikit.Cache("cache")
        >>> cache.path(ocikit.Digest.of(b"hello")).relative_to(cache.root).parts[:2]
        ('blobs', 'sha256')
        """
        return blob_path(self.root, Digest(digest))

    def exists(self, descriptor: Descriptor, *, quick: bool = False) -> bool:
        """Return True if the cache has a blob of this digest and size.

        A blob that has changed since it was verified is verified again, see `ocikit.store.cache.verified`.

        Args:
            descriptor: The blob.
            quick: Whether a large blob that has to be verified counts as missing.
        """
        root = self.root
        return self._verified.is_intact(root, blob_path(root, descriptor.digest), descriptor, quick=quick)

    def discard(self, descriptor: Descriptor) -> None:
        """Delete a blob that has proved damaged; it is fetched again when it is needed.

        >>> cache, blob = ocikit.Cache("cache"), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> cache.push_bytes(blob, b"hello")
        >>> cache.discard(blob)
        >>> cache.exists(blob)
        False
        """
        discard(self.path(descriptor.digest))

    def open(self, descriptor: Descriptor) -> ByteStream:
        """Open a blob as a seekable stream.

        Raises:
            BlobUnknown: The cache does not have the blob.
        """
        if self.exists(descriptor):
            with contextlib.suppress(FileNotFoundError):
                return open_file(self.path(descriptor.digest))
        if (embedded := descriptor.embedded) is not None:
            return io.BytesIO(embedded)
        raise blob_not_found(descriptor, f"the cache at {self.root}")

    def fetch(self, descriptor: Descriptor, *, limit: int = DOCUMENT_LIMIT) -> bytes:
        """Return verified content. A corrupt blob is deleted and counts as absent.

        Args:
            descriptor: The content.
            limit: Greatest size, in bytes.

        Raises:
            BlobUnknown: The cache does not have the blob.
        """
        try:
            return Store.fetch(self, descriptor, limit=limit)
        except DigestMismatch as error:
            self.path(descriptor.digest).unlink(missing_ok=True)
            raise blob_not_found(descriptor, f"the cache at {self.root}") from error

    def document(self, descriptor: Descriptor) -> Manifest | Index:
        """Return a verified manifest or index; it is parsed once while its file is unchanged.

        Raises:
            BlobUnknown: The cache does not have the document.
            InvalidDocument: The bytes are not a valid manifest or index.
        """
        if not self.exists(descriptor):
            return Store.document(self, descriptor)
        path = self.path(descriptor.digest)
        # As `lookup` parses it: a call with a digest needs the document twice
        with contextlib.suppress(OSError, ContentError, InvalidDocument):
            document = _documents.get(path, functools.partial(_load_document, digest=descriptor.digest))
            if document.media_type == descriptor.media_type:
                return document
        load = functools.partial(Store.document, self, descriptor)
        return _documents.get(path, lambda _: load(), descriptor.media_type)

    def push(self, descriptor: Descriptor, stream: ByteStream, *, tag: str | None = None) -> None:
        """Store a verified blob.

        Args:
            descriptor: Digest and size of the blob.
            stream: The content.
            tag: A full reference to remember for the blob.
        """
        self.add(descriptor, stream)
        if tag is not None:
            self.tag(descriptor, tag)

    def add(self, descriptor: Descriptor, stream: ByteStream) -> bool:
        """Store a verified blob; return False if the cache has it, or another process stores it meanwhile.

        Args:
            descriptor: Digest and size of the blob.
            stream: The content.

        >>> import io
        >>> cache, blob = ocikit.Cache("cache"), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> cache.add(blob, io.BytesIO(b"hello")), cache.add(blob, io.BytesIO(b"hello"))
        (True, False)
        """
        if self.exists(descriptor):
            return False
        parts, path = self._create_root() / "partial", self.path(descriptor.digest)
        written = write_blob(stream, descriptor, path, parts=parts, reuse=True)
        if written:
            self._verified.record(self.root, path, descriptor.digest)
        return written

    def delete(self, descriptor: Descriptor) -> None:
        """Delete a blob and all tags for it.

        Raises:
            BlobUnknown: The cache does not have the blob.
        """
        from ocikit.store.cache.scan import read_names  # noqa: PLC0415 - import time; most sessions delete nothing

        for name in read_names(self.root):
            if not name.is_snapshot and name.digest == descriptor.digest:
                name.path.unlink(missing_ok=True)
        try:
            self.path(descriptor.digest).unlink()
        except FileNotFoundError:
            raise blob_not_found(descriptor, f"the cache at {self.root}") from None
        forget(self.path(descriptor.digest))

    @contextlib.contextmanager
    def optional_write(self) -> Iterator[None]:
        """Let a write of the block fail if it only saves work next time.

        The cache may be read-only, full, or belong to another user. The first failure of a process is logged.

        >>> from pathlib import Path
        >>> cache, blob = ocikit.Cache("cache"), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> Path("cache").touch()
        >>> with cache.optional_write():
        ...     cache.push_bytes(blob, b"hello")
        """
        try:
            yield
        except (DigestMismatch, SizeMismatch, UnverifiableDigest):
            raise
        except (ContentError, OSError) as error:
            if self.root not in _reported:
                _reported.add(self.root)
                message = error.message if isinstance(error, ContentError) else str(error)
                log.info("nothing is added to the cache: %s", message)

    def lock_folder(self) -> Path | None:
        """Return the folder for locks that exclude other processes; None if the cache cannot be written.

        >>> ocikit.Cache("cache").lock_folder().name
        'locks'
        """
        try:
            folder = self._create_root() / "locks"
            folder.mkdir(exist_ok=True)
        except (ContentError, OSError):
            return None
        return folder

    # References

    def remember(self, reference: Reference, descriptor: Descriptor) -> None:
        """Record what a registry has just returned for a tag, if the cache can be written.

        Ignore references with a digest.

        Args:
            reference: Reference with a tag.
            descriptor: Descriptor that the tag names.

        >>> cache, blob = ocikit.Cache("cache"), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> reference = ocikit.Reference.parse("ghcr.io/org/data:v1")
        >>> cache.remember(reference, blob)
        >>> cache.recall(reference).descriptor == blob
        True
        """
        if reference.digest is None:
            with self.optional_write():
                self._write_record(reference, descriptor)

    def _write_record(self, reference: Reference, descriptor: Descriptor) -> None:
        reference = reference.tagged(reference.target)
        record = {
            "reference": str(reference),
            "digest": descriptor.digest,
            "mediaType": descriptor.media_type,
            "size": descriptor.size,
            "fetched_at": datetime.now(UTC).isoformat(),
        }
        self._create_root()
        path = self.reference_path(reference)
        for is_last_attempt in (False, True):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                # No fsync: an incomplete record counts as absent and costs one request
                write_atomically(path, json.dumps(record, indent=1).encode(), sync=False)
                return
            except FileNotFoundError:  # prune() removes empty folders
                if is_last_attempt:
                    raise

    def recall(self, reference: Reference) -> Remembered | None:
        """Return the record of a tag; None without a record or for a digest.

        >>> print(ocikit.cache.recall(ocikit.Reference.parse("ghcr.io/org/data:v1")))
        None
        """
        if reference.digest is not None:
            return None
        reference = reference.tagged(reference.target)
        try:
            record = json.loads(read_file(self.reference_path(reference)))
            # Case-insensitive file systems have one file for two tags
            if record["reference"] != str(reference) or type(record["size"]) is not int or record["size"] < 0:
                return None
            descriptor = Descriptor(
                media_type=str(record["mediaType"]), digest=Digest(record["digest"]), size=record["size"]
            )
            return Remembered(descriptor, datetime.fromisoformat(record["fetched_at"]))
        except (OSError, ContentError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def lookup(self, reference: Reference) -> Descriptor | None:
        """Return the descriptor of a pinned manifest or index; None if it is not cached.

        >>> cache, index = ocikit.Cache("cache"), ocikit.Index(manifests=[])
        >>> cache.push_bytes(index.descriptor, index.raw)
        >>> reference = ocikit.Reference.parse("ghcr.io/org/data:v1")
        >>> cache.lookup(reference.pinned(index.digest)) == index.descriptor
        True
        """
        return None if reference.digest is None else self._document(reference.digest)

    def _document(self, digest: Digest) -> Descriptor | None:
        """Return the descriptor of a cached manifest or index, or None."""
        try:
            path = self.path(digest)
            if path.stat().st_size > DOCUMENT_LIMIT:
                return None
            document = _documents.get(path, functools.partial(_load_document, digest=digest))
            return attrs.evolve(document.descriptor, digest=digest)
        except (OSError, ContentError, InvalidDocument):
            return None

    def resolve(self, reference: str) -> Descriptor:
        """Return the cached descriptor of a full reference or a digest.

        Raises:
            ManifestUnknown: The cache has no descriptor for it.
        """
        if reference.startswith(("sha256:", "sha512:")):
            descriptor = self._document(Digest(reference))
        else:
            parsed = Reference.parse(reference)
            recalled = self.recall(parsed)
            descriptor = recalled.descriptor if recalled else self.lookup(parsed)
        if descriptor is None:
            raise ManifestUnknown(
                f"the cache at {self.root} does not have {display.sanitize(reference)}",
                hint="pull it once while the registry is reachable",
            )
        return descriptor

    def tag(self, descriptor: Descriptor, tag: str) -> None:
        """Record a full reference for a cached blob.

        Args:
            descriptor: A cached blob.
            tag: A full reference, such as "ghcr.io/org/model:v1".

        Raises:
            BlobUnknown: The cache does not have the blob.
        """
        if not self.exists(descriptor):
            raise blob_not_found(descriptor, f"the cache at {self.root}")
        if (reference := Reference.parse(tag)).digest is None:
            self._write_record(reference, descriptor)

    def untag(self, tag: str) -> None:
        """Delete the record of a full reference; `gc` and `prune` delete its blobs.

        Raises:
            NotFound: The cache has no such record.
        """
        reference = Reference.parse(tag)
        try:
            self.reference_path(reference).unlink()
        except FileNotFoundError:
            raise NotFound(f"the cache at {self.root} does not have {reference}") from None

    def reference_path(self, reference: Reference) -> Path:
        """Return the path of the record of a tag: `refs/<host>/<repository>/<tag>.json`.

        >>> cache = ocikit.Cache("cache")
        >>> path = cache.reference_path(ocikit.Reference.parse("ghcr.io/org/data:v1"))
        >>> str(path.relative_to(cache.root))
        'refs/ghcr.io/org/data/v1.json'
        """
        return _repository_folder(self.root / "refs", reference) / f"{reference.tag or 'latest'}.json"

    # Snapshots

    def snapshot_path(self, reference: Reference, digest: Digest) -> Path:
        """Return the folder of the files of a manifest, whether it exists or not.

        Args:
            reference: Reference of the artifact.
            digest: Digest of its manifest.

        >>> cache = ocikit.Cache("cache")
        >>> path = cache.snapshot_path(ocikit.Reference.parse("ghcr.io/org/data:v1"), ocikit.Digest.of(b"{}"))
        >>> path.parent.relative_to(cache.root).parts
        ('snapshots', 'ghcr.io', 'org', 'data')
        """
        return _repository_folder(self.root / "snapshots", reference) / f"{digest.algorithm}-{digest.encoded}"

    def snapshot(
        self, reference: Reference, document: Manifest | Index, layers: Iterable[Descriptor] | None = None
    ) -> Path:
        """Return a folder with read-only files of an artifact, linked to cached blobs.

        The folder appears atomically.

        Args:
            reference: Reference that the artifact was pulled from.
            document: The manifest, or a nested index.
            layers: Layers to have as files; by default all that the document lists. Files of earlier calls are not removed.

        Raises:
            BlobUnknown: A blob is not cached. Push it to the cache and call again.
            UnsafeArchive: A title leads out of the folder (path traversal), or two layers have the same path.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
        >>> artifact = ocikit.pull("localhost:5000/ada/waves:v1")
        >>> folder = ocikit.cache.snapshot(artifact.reference, artifact.manifest)
        >>> (folder / "note.txt").read_text()
        'hello'
        """
        # Validate the titles of the requested layers only: another one must not make them unreadable
        listed = document.layers if isinstance(document, Manifest) else ()
        files = layers_by_path(listed if layers is None else layers)
        folder, root = self.snapshot_path(reference, document.digest), self.root
        missing = {
            name: layer for name, layer in files.items() if not self._verified.is_intact(root, folder / name, layer)
        }
        if missing or not folder.is_dir():
            self._assemble(folder, missing)
        with contextlib.suppress(OSError):  # the cache of another user
            os.utime(folder)  # prune() uses this time as the last use
        return folder

    def _assemble(self, folder: Path, files: Mapping[str, Descriptor]) -> None:
        """Link files into a new folder and rename it.

        If the snapshot exists already, the files are moved there.
        """
        parts = self._create_root() / "partial"
        temporary = parts / f"snapshot.{secrets.token_hex(8)}"
        method: LinkMethod = "reflink"
        try:
            temporary.mkdir(parents=True)
            for name, layer in files.items():
                if not self.exists(layer) and (embedded := layer.embedded) is not None:
                    self.push_bytes(layer, embedded)
                if not self.exists(layer):
                    raise blob_not_found(layer, f"the cache at {self.root}")
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                method = link(self.path(layer.digest), temporary / name, layer, parts=parts, start=method)
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(temporary, folder)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.EACCES}:  # Windows raises EACCES
                    raise
                for name in files:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(temporary / name, folder / name)
        except FileNotFoundError as error:
            raise ContentError(
                f"creating {folder} failed: {error.filename} was deleted meanwhile",
                hint="another process prunes the cache; call again",
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    # Folders that pulls have written

    def note_folder(self, folder: Path) -> None:
        """Record a folder with files of a pull. Later pulls copy content from there, see `ocikit.folder.copies`.

        >>> from pathlib import Path
        >>> cache = ocikit.Cache("cache")
        >>> cache.note_folder(Path.cwd())
        >>> cache.folders() == [Path.cwd()]
        True
        """
        with self.optional_write():
            note = self._create_root() / "folders" / Digest.of(os.fsencode(folder)).encoded[:32]
            note.parent.mkdir(exist_ok=True)
            write_atomically(note, os.fsencode(folder), sync=False)

    def folders(self) -> list[Path]:
        """Return the recorded folders that exist, the most recently written first.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> artifact = ocikit.pull("oci:waves:v1", "data")
        >>> [folder.name for folder in ocikit.cache.folders()]
        ['data']
        """
        notes = []
        with contextlib.suppress(OSError), os.scandir(self.root / "folders") as listing:
            notes = sorted(listing, key=lambda entry: -entry.stat().st_mtime)
        found: list[Path] = []
        for note in notes:
            with contextlib.suppress(OSError, ValueError):
                folder = Path(os.fsdecode(Path(note.path).read_bytes()))
                if folder.is_dir() and len(found) < _FOLDERS:
                    found.append(folder)
                else:
                    os.unlink(note.path)
        return found

    # Digests of pushed files

    @contextlib.contextmanager
    def hashes(self) -> Iterator[HashCache]:
        """Yield the digests of files that pushes have hashed; save new ones after the block.

        >>> with ocikit.Cache("cache").hashes() as known:
        ...     type(known).__name__
        'HashCache'
        """
        from ocikit.store.cache.hashes import HashCache  # noqa: PLC0415 - import time; only pushes need it

        known = HashCache(self.root / "hashes", prepare=self._create_root)
        try:
            yield known
        except (UploadInvalid, DigestMismatch, SizeMismatch):
            known.drop_used()  # a digest may be that of earlier content
            raise
        finally:
            with self.optional_write():
                known.save()

    # Housekeeping

    def repositories(self, host: str) -> list[str]:
        """Return cached repositories of a registry, for completion.

        A large cache is searched partially; see `scan`.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
        >>> artifact = ocikit.pull("localhost:5000/ada/waves:v1")
        >>> ocikit.cache.repositories("localhost:5000")
        ['ada/waves']
        """
        from ocikit.store.cache.scan import repositories  # noqa: PLC0415 - import time; most sessions don't need it

        return repositories(self.root, host)

    def repository_tags(self, host: str, repository: str) -> list[str]:
        """Return cached tags of a repository, for completion.

        Args:
            host: Host of the registry.
            repository: Name of the repository.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
        >>> artifact = ocikit.pull("localhost:5000/ada/waves:v1")
        >>> ocikit.cache.repository_tags("localhost:5000", "ada/waves")
        ['v1']
        """
        from ocikit.store.cache.scan import tags  # noqa: PLC0415 - import time; most sessions don't need it

        return tags(self.root, host, repository)

    def hosts(self) -> list[str]:
        """Return the registries whose tags are cached.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
        >>> artifact = ocikit.pull("localhost:5000/ada/waves:v1")
        >>> ocikit.cache.hosts()
        ['localhost:5000']
        """
        from ocikit.store.cache.scan import hosts  # noqa: PLC0415 - import time; most sessions don't need it

        return hosts(self.root)

    @explain_call
    def scan(self) -> CacheInfo:
        """Walk the cache and return its repositories with their sizes.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
        >>> artifact = ocikit.pull("localhost:5000/ada/waves:v1")
        >>> [(repository.name, repository.tags) for repository in ocikit.cache.scan().repositories]
        [('localhost:5000/ada/waves', ('v1',))]
        """
        from ocikit.store.cache.scan import scan  # noqa: PLC0415 - import time; most sessions don't need it

        return scan(self.root)

    @explain_call
    def verify(self, *, remove: bool = False) -> VerifyResult:
        """Hash all blobs.

        Args:
            remove: Whether to delete corrupt blobs and the snapshot files that are links to them. They are downloaded
                again when they are needed.

        Returns:
            The number of hashed blobs, and the corrupt ones.

        >>> cache, blob = ocikit.Cache("cache"), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> cache.push_bytes(blob, b"hello")
        >>> cache.verify()
        VerifyResult(ok=True, checked=1, size=5 B)
        """
        from ocikit.store.cache.scan import verify  # noqa: PLC0415 - import time; most sessions don't need it

        return verify(self.root, remove=remove)

    @explain_call
    def gc(self, *, dry_run: bool = False, grace: float = 3600.0) -> GCResult:
        """Delete the blobs that no tag or snapshot references, and unfinished transfers.

        Args:
            dry_run: Whether to delete nothing; `run()` of the result then deletes.
            grace: Seconds since the last change for which a file is not deleted. A pull in progress writes blobs
                before their tag.

        Returns:
            What was deleted, or what would be with `dry_run`.

        >>> cache, blob = ocikit.Cache("cache"), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> cache.push_bytes(blob, b"hello")
        >>> cache.gc(dry_run=True, grace=0)
        GCResult(dry_run=True, blobs=1, size=5 B)
        """
        from ocikit.store.cache.prune import collect  # noqa: PLC0415 - import time; most sessions don't need it

        return collect(self.root, dry_run=dry_run, grace=grace, run=functools.partial(self.gc, grace=grace))

    @explain_call
    def prune(
        self,
        *,
        older_than: timedelta | float | str | None = None,
        reference: str | Reference | None = None,
        keep: Iterable[str | Reference] = (),
        unreferenced: bool = True,
        grace: float = 3600.0,
        dry_run: bool = True,
    ) -> PrunePlan:
        """Return a plan of what to delete; its `run()` deletes it, and so does `dry_run=False`.

        Args:
            older_than: Delete tags and snapshots that were last used longer ago, such as "30d" or "12h"; also seconds or a
                timedelta.
            reference: Delete only the tags and snapshots of this repository, tag or digest.
            keep: References or patterns such as "ghcr.io/org/*" that are not deleted.
            unreferenced: Whether to delete blobs that no tag or snapshot references, unfinished transfers, and what came from
                temporary registries on this machine that have stopped.
            grace: Seconds since the last change for which unreferenced blobs are not deleted. A pull in progress
                writes blobs before their tag.
            dry_run: Whether to delete nothing; `run()` of the plan then deletes.

        Raises:
            InvalidArgument: `older_than` is not a length of time.

        >>> plan = ocikit.cache.prune(older_than="30d", keep=["ghcr.io/org/*"])
        >>> plan.bytes, plan.run()
        (0, 0)
        """
        from ocikit.store.cache.prune import plan_prune  # noqa: PLC0415 - import time; most sessions don't need it

        plan = plan_prune(
            self.root,
            older_than=None if older_than is None else to_seconds(older_than, "older_than"),
            reference=reference,
            keep=keep,
            unreferenced=unreferenced,
            grace=grace,
        )
        if not dry_run:
            plan.run()
        return plan

    def __rich_repr__(self) -> display.Description:
        yield "root", display.display_path(self.root)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "folder", display.Code(display.display_path(self.root))
        yield "contents", display.Code(".scan()")
        yield "check", display.Code(".verify()")
        yield "free space", display.Code('.prune(older_than="30d")')

    def _create_root(self) -> Path:
        """Return the root; create it and mark it as a cache if necessary."""
        root = self.root
        tag = root / "CACHEDIR.TAG"
        try:
            if not tag.exists():
                create_private_folder(root)
                write_atomically(tag, _TAG, sync=False)
        except OSError as error:
            raise ContentError(
                f"creating the cache at {root} failed: {error.strerror}",
                hint="set OCIKIT_CACHE to a writable folder",
            ) from error
        return root


def _repository_folder(folder: Path, reference: Reference) -> Path:
    """Return the folder of a repository. Escape ports for Windows, and reserved names."""
    host = quote(reference.registry, safe="")
    parts = (_escape(part) if _RESERVED.fullmatch(part) else part for part in reference.repository.split("/"))
    return folder.joinpath(host, *parts)


def _escape(text: str) -> str:
    return re.sub("[.-]", lambda match: f"%{ord(match[0]):02X}", text)
