"""Image layouts: `oci-layout`, `index.json` and `blobs/` in a folder, as skopeo, oras and crane read and write them.

Reading takes no lock. Whoever changes `index.json` holds a lock between processes, and replaces the file as a whole.
A name is an entry of `index.json` with the annotation `org.opencontainers.image.ref.name`; taking a name away removes
the entry and leaves content to `gc()`. What belongs to this library alone is below `.ocikit/`: layouts may hold unknown
files. image-spec image-layout.md.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from attrs import define, field

from ocikit import display
from ocikit.errors import ContentError, InUse, InvalidReference, NotFound, OcikitError
from ocikit.spec import media_types
from ocikit.spec.annotations import REF_NAME
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import parse_document
from ocikit.spec.reference import check_ref_name
from ocikit.store.base import Store, blob_not_found, read_verified
from ocikit.store.files import blob_path, open_file, write_atomically, write_blob
from ocikit.store.graph import STORED_LIMIT, parse_digest, referrer, unknown_reference
from ocikit.store.layout import index as on_disk
from ocikit.store.layout.gc import Audit, Garbage, audit, collect, graph, links_from, live_leases
from ocikit.store.layout.index import digest_of, name_of, to_descriptor, without_name

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_PATIENCE = 300.0  # seconds; changing index.json takes milliseconds, sweeping a large layout perhaps a minute
LOCK_POLL = 0.01  # seconds between two tries


@define(eq=False, repr=False, weakref_slot=True)
class Layout(display.Displayable, Store):
    """An image layout in a folder.

    Args:
        path: the folder.
        create: whether the first write may make a layout of a folder that is absent or has none; until then it reads
            as empty. Otherwise a folder that is no layout is an error.

    Raises:
        NotFound: with `create=False`, if there is no layout.
        InvalidDocument: if `oci-layout` or `index.json` isn't what it should be.

    >>> import tempfile
    >>> layout = Layout(tempfile.mkdtemp())
    >>> layout.tags()
    []
    """

    path: Path = field(converter=Path)
    create: bool = field(default=True, kw_only=True)
    _asked: float | None = field(default=None, init=False)
    _lease: BaseFileLock | None = field(default=None, init=False)
    _referrers: dict[Digest, tuple[Digest | None, Descriptor]] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._entries()

    # Reading

    def resolve(self, reference: str) -> Descriptor:
        """The descriptor that a name or a digest stands for; among entries of one name, the first.

        A digest need not be in `index.json`: a manifest's blob is enough.

        Raises: ManifestUnknown: with the names that come near.
        """
        digest = parse_digest(reference)
        for entry in self._entries():
            if (digest_of(entry) == digest) if digest else (name_of(entry) == reference):
                return without_name(to_descriptor(entry))
        if digest and (found := self._sniff(digest)) is not None:
            return found
        raise unknown_reference(reference, str(self.path), self.tags())

    def raw_document(self, reference: str) -> tuple[Descriptor, bytes]:
        """Return the bytes of a document; with a digest, also of one that can't be parsed.

        Raises:
            ManifestUnknown: There is no such document.
        """
        digest = parse_digest(reference)
        if digest is None or not (path := self.blob(digest)).is_file():
            return super().raw_document(reference)
        descriptor = Descriptor(media_type="", digest=digest, size=path.stat().st_size)
        with path.open("rb") as stream:
            return descriptor, stream.read(DOCUMENT_LIMIT + 1)

    def default_reference(self) -> str:
        """Return the digest that a reference without tag and digest means; see `only`."""
        return self.only().digest

    def only(self) -> Descriptor:
        """What a reference without tag and digest means: `latest` if there is one, else the only image there is.

        Referrers without a name don't count. Raises: NotFound: with the names to choose from.
        """
        found: dict[str, Descriptor] = {}
        for entry in self._entries():
            if name_of(entry) == "latest":
                return without_name(to_descriptor(entry))
            found.setdefault(str(digest_of(entry)), to_descriptor(entry))
        if len(found) > 1:
            found = {key: one for key, one in found.items() if REF_NAME in one.annotations or not self._subject(one)}
        if len(found) == 1:
            return without_name(next(iter(found.values())))
        names = self.tags()
        raise NotFound(
            f"{self.path} has {len(found) or 'no'} images, and none was named",
            hint=f"add one of these as a tag: {display.join_limited(names)}" if names else "name one by its digest",
        )

    def open(self, descriptor: Descriptor) -> BinaryIO:
        """The content as a plain, unbuffered file. Raises: BlobUnknown."""
        try:
            return cast("BinaryIO", open_file(self.blob(descriptor.digest)))
        except FileNotFoundError as error:
            raise blob_not_found(descriptor, str(self.path)) from error

    def exists(self, descriptor: Descriptor) -> bool:
        """Whether the content is there, in this size. What was asked for counts as new for `gc()`."""
        path = self.blob(descriptor.digest)
        try:
            if path.stat().st_size != descriptor.size:
                return False
            # Whoever asks is about to rely on it: a sweep in another process must see it as fresh
            os.utime(path)
            self._asked = self._asked or time.time()
        except FileNotFoundError:
            return False
        except OSError:  # another user's file, or a file system that can't be written
            return path.exists()
        return True

    def tags(self) -> Sequence[str]:
        """Every name, sorted."""
        return sorted({name for entry in self._entries() if (name := name_of(entry)) is not None})

    def entries(self) -> Sequence[Descriptor]:
        """The descriptors in `index.json`, in order, with their names as annotations.

        Raises: InvalidDocument: if one of them isn't a descriptor.
        """
        return tuple(map(to_descriptor, self._entries()))

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> Sequence[Descriptor]:
        """The manifests whose subject is the descriptor's, among the entries and what they lead to."""
        found: dict[Digest, Descriptor] = {}
        left = [entry for entry in reversed(self.entries()) if entry.is_document]
        seen: set[Digest] = set()
        while left:
            document = left.pop()
            if document.digest in seen:
                continue
            seen.add(document.digest)
            subject, shown = self._referrer(document)
            if subject == descriptor.digest and artifact_type in (None, shown.artifact_type):
                found[shown.digest] = shown
            if document.media_type in media_types.INDEX_TYPES:
                with contextlib.suppress(OcikitError, OSError):
                    left.extend(child for child in reversed(self.document(document).children) if child.is_document)
        return list(found.values())

    def blob(self, digest: Digest) -> Path:
        """Where a blob is, or would be."""
        return blob_path(self.path, digest)

    # Writing

    def push(self, descriptor: Descriptor, stream: BinaryIO, *, tag: str | None = None) -> None:
        """Take in content, verified; with a tag, name it so.

        A referrer gets an entry without a name, so that it can be found. Any other manifest pushed without a tag has
        no entry: it is somebody's child, or `keep` it.

        Raises:
            SizeMismatch, DigestMismatch: and nothing is kept.
            InvalidDocument: for a manifest or index that isn't one.
            ContentError: the disk is full or can't be written.
        """
        if tag is not None:
            _check_name(tag)
        self._prepare()
        subject = None
        if descriptor.is_document:
            content = read_verified(stream, descriptor, limit=STORED_LIMIT)
            subject = parse_document(content, descriptor.media_type, limit=STORED_LIMIT).subject
            stream = io.BytesIO(content)
        write_blob(stream, descriptor, self.blob(descriptor.digest), parts=self.path / ".ocikit" / "partial")
        if tag is not None:
            self.tag(descriptor, tag)
        elif subject is not None:
            self.keep(descriptor)

    def tag(self, descriptor: Descriptor, tag: str) -> None:
        """Let a name stand for content that is there; a name in use moves.

        Raises: BlobUnknown, InvalidReference.
        """
        _check_name(tag)
        with self._locked(), self._editing() as entries:
            self._check_there(descriptor, entries)
            same = [entry for entry in entries if digest_of(entry) == descriptor.digest]
            named = [entry for entry in entries if name_of(entry) == tag]
            if already := [entry for entry in named if digest_of(entry) == descriptor.digest]:
                named = [entry for entry in named if entry is not already[0]]
            elif free := [entry for entry in same if name_of(entry) is None]:
                on_disk.rename(free[0], tag)
            else:
                known = to_descriptor(same[0]) if same else descriptor
                entries.append(on_disk.new_entry(known, name=tag))
            self._unname(entries, named)

    def keep(self, descriptor: Descriptor) -> None:
        """Hold on to content that has no name, by an entry without one. Raises: BlobUnknown."""
        with self._locked(), self._editing() as entries:
            self._check_there(descriptor, entries)
            if descriptor.digest not in map(digest_of, entries):
                entries.append(on_disk.new_entry(descriptor))

    def untag(self, tag: str) -> None:
        """Take away one name; its content stays until `gc()`. A referrer keeps an entry without a name.

        Raises: ManifestUnknown.
        """
        with self._locked(), self._editing() as entries:
            named = [entry for entry in entries if name_of(entry) == tag]
            if not named:
                raise unknown_reference(tag, str(self.path), self.tags())
            self._unname(entries, named)

    def delete(self, descriptor: Descriptor) -> None:
        """Remove content with every name of it. What it leads to is left to `gc()`; its referrers stay.

        Raises:
            BlobUnknown: if it isn't there.
            InUse: if another entry leads to it; nothing is changed.
        """
        digest = descriptor.digest
        path = self.blob(digest)
        with self._locked():
            with self._editing() as entries:
                if digest not in map(digest_of, entries) and not path.exists():
                    raise blob_not_found(descriptor, str(self.path))
                links = graph(self, strict=False)
                others = [to_descriptor(entry) for entry in entries if digest_of(entry) != digest]
                users = [one for one in others if digest in links.walk(links_from([one]), subjects=False)]
                if users:
                    names = dict.fromkeys(one.annotations.get(REF_NAME, one.digest.short) for one in users)
                    raise InUse(
                        f"{digest} in {self.path} is part of {display.join_limited(names)}",
                        hint="untag or delete these first; gc() then removes what nothing leads to",
                        users=users,
                    )
                entries[:] = [entry for entry in entries if digest_of(entry) != digest]
            path.unlink(missing_ok=True)

    def gc(self, *, dry_run: bool = False, grace: float = 3600.0) -> Garbage:
        """Remove the blobs that no entry leads to, by digest: through OCI and Docker documents, to and from subjects.

        Every entry counts, named or not. Safe beside other processes that push: what changed within the grace, and
        what was pushed by a `Layout` that is still open elsewhere, stays.

        Args:
            dry_run: only say what would go.
            grace: seconds. 0 is for layouts that nobody else writes to.
        Raises:
            InvalidDocument: if a document can't be read, so that nobody knows what it leads to; nothing is removed.
        """
        lease = self._lease.lock_file if self._lease else None
        if dry_run:
            return collect(self, dry_run=True, grace=grace, lease=lease)
        with self._locked():
            return collect(self, dry_run=False, grace=grace, lease=lease)

    def verify(self, *, workers: int = 4) -> Audit:
        """Hash every blob anew; changes nothing.

        Args:
            workers: threads. Hashing one blob keeps one processor busy.
        """
        return audit(self, workers=workers)

    def close(self) -> None:
        """Say that nothing pushed so far needs protection from sweeps in other processes any longer."""
        lease, self._lease, self._asked = self._lease, None, None
        if lease is not None:
            with contextlib.suppress(OSError):
                os.unlink(lease.lock_file)
            lease.release(force=True)

    def __enter__(self) -> Layout:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Layout], tuple[str]]:
        return type(self), (str(self.path),)

    def __rich_repr__(self) -> display.Description:
        yield "path", display.display_path(self.path)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "path", display.display_path(self.path)
        yield "tags", display.Code(".tags()")
        yield "check", display.Code(".verify()")
        yield "sweep", display.Code(".gc(dry_run=True)")

    # Within

    def _entries(self) -> list[Any]:
        return cast("list[Any]", on_disk.read_index(self.path, create=self.create)["manifests"])

    def _sniff(self, digest: Digest) -> Descriptor | None:
        """The descriptor of a document that has no entry; its type is what it says, or what it looks like."""
        try:
            size = self.blob(digest).stat().st_size
            content = self.fetch(Descriptor(media_type="", digest=digest, size=size), limit=STORED_LIMIT)
            document = parse_document(content, limit=STORED_LIMIT)
        except (OSError, OcikitError):
            return None
        return Descriptor(
            media_type=document.media_type or document.default_media_type,
            digest=digest,
            size=size,
            artifact_type=document.artifact_type,
        )

    def _referrer(self, descriptor: Descriptor) -> tuple[Digest | None, Descriptor]:
        """The subject's digest, and the document as a list of referrers shows it. Remembered: bytes don't change."""
        known = self._referrers.get(descriptor.digest)
        if known is not None and self.blob(descriptor.digest).exists():
            return known
        try:
            content = self.fetch(descriptor, limit=STORED_LIMIT)
            document = parse_document(content, descriptor.media_type, limit=STORED_LIMIT)
        except (OSError, OcikitError):
            return None, descriptor
        subject = document.subject.digest if document.subject else None
        shown = referrer(descriptor, document) if subject else descriptor.bare()
        self._referrers[descriptor.digest] = (subject, shown)
        return subject, shown

    def _subject(self, descriptor: Descriptor) -> Digest | None:
        return self._referrer(descriptor)[0] if descriptor.is_document else None

    def _check_there(self, descriptor: Descriptor, entries: Iterable[Any]) -> None:
        if not self.blob(descriptor.digest).exists() and descriptor.digest not in map(digest_of, entries):
            raise blob_not_found(descriptor, str(self.path))

    def _unname(self, entries: list[Any], named: Sequence[Any]) -> None:
        """Take the names away from entries; only those of referrers stay without."""
        for entry in named:
            others = [one for one in entries if one is not entry]
            descriptor = to_descriptor(entry)
            if self._subject(descriptor) and descriptor.digest not in map(digest_of, others):
                on_disk.rename(entry, None)
            else:
                entries[:] = others

    def _prepare(self) -> None:
        """Make the folder a layout if it isn't one, and tell sweeps in other processes that a push is under way."""
        if self._lease is not None:
            return
        with self._locked():
            path = self.path
            with _writing(path):
                (path / "blobs").mkdir(exist_ok=True)
            index = on_disk.read_index(path, create=self.create)
            if not (path / "index.json").exists():
                write_atomically(path / "index.json", on_disk.encode_index(index))
            # Last: a folder with this file is a layout
            if not (path / "oci-layout").exists():
                write_atomically(path / "oci-layout", on_disk.HEADER)
            if self._lease is None:
                self._lease = self._take_lease(path / ".ocikit" / "leases")

    def _take_lease(self, folder: Path) -> BaseFileLock:
        from filelock import FileLock  # noqa: PLC0415 - 80 ms of import that reading doesn't need

        with _writing(folder):
            folder.mkdir(exist_ok=True)
            list(live_leases(folder, clean=True))
            lease = FileLock(folder / secrets.token_hex(8), thread_local=False)
            lease.acquire(timeout=LOCK_PATIENCE)
            if self._asked is not None:
                # Blobs that were found to be there count as pushed. Files are stamped with a coarser clock than ours
                os.utime(lease.lock_file, (self._asked - 0.1,) * 2)
        return lease

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes and threads from changing the layout. The lock goes with its process."""
        from filelock import FileLock, Timeout  # noqa: PLC0415 - as above

        folder = self.path / ".ocikit"
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / "lock", timeout=LOCK_PATIENCE, poll_interval=LOCK_POLL)
            try:
                lock.acquire()
            except Timeout as error:
                raise ContentError(
                    f"{self.path} has been locked by another process for {display.duration(LOCK_PATIENCE)}",
                    hint="wait for it, or end it: the lock goes with the process",
                ) from error
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _editing(self) -> Iterator[list[Any]]:
        """The entries, to be changed in place; `index.json` is replaced at the end if they were."""
        index = on_disk.read_index(self.path, create=self.create)
        before = json.dumps(index["manifests"])
        yield index["manifests"]
        if json.dumps(index["manifests"]) != before:
            path = self.path / "index.json"
            write_atomically(path, on_disk.encode_index(index), mode=path.stat().st_mode & 0o777)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OcikitError:
        raise
    except OSError as error:
        raise ContentError(
            f"cannot write {path}: {error.strerror or error}", hint="check the folder's permissions and the disk"
        ) from error


def _check_name(name: str) -> None:
    """Raises: InvalidReference: for what isn't a name, or reads as a digest."""
    check_ref_name(name)
    if name.startswith(("sha256:", "sha512:", "blake3:")):
        raise InvalidReference(f"{name!r} reads as a digest, not as a name", hint="choose a name without this prefix")
