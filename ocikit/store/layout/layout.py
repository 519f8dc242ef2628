"""Image layouts on disk, compatible with skopeo, oras and crane.

Reading takes no lock. Writers hold an inter-process lock and replace `index.json` atomically. A name is an entry of
`index.json` with the annotation `org.opencontainers.image.ref.name`. Removing a name removes the entry; `gc()` deletes
the content. image-spec image-layout.md.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attrs import define, field

from ocikit import display
from ocikit.errors import InUse, InvalidReference, NotFound, OcikitError
from ocikit.spec import media_types
from ocikit.spec.annotations import REF_NAME
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import parse_document
from ocikit.spec.reference import check_ref_name
from ocikit.store.base import Store, Swap, blob_not_found
from ocikit.store.files import open_file
from ocikit.store.graph import STORED_LIMIT, parse_digest, unknown_reference
from ocikit.store.layout import gc
from ocikit.store.layout.disk import LayoutDisk, links_from
from ocikit.store.layout.index import digest_of, name_of, new_entry, rename, to_descriptor, without_name
from ocikit.store.parts import write_blob
from ocikit.store.results import GCResult, VerifyResult
from ocikit.store.streams import ByteStream, read_verified

if TYPE_CHECKING:
    from filelock import BaseFileLock


@define(eq=False, repr=False, weakref_slot=True)
class Layout(display.Displayable, Store):
    """An image layout in a folder.

    Args:
        path: Folder of the layout.
        create: Whether a folder without a layout is read as an empty layout; the first write creates the files.
            Otherwise such a folder is an error.

    Raises:
        NotFound: There is no layout and `create` is False.
        InvalidDocument: `oci-layout` or `index.json` is invalid.

    >>> layout = ocikit.Layout("waves")
    >>> layout.tags()
    []
    """

    path: Path = field(converter=Path)
    create: bool = field(default=True, kw_only=True)
    _disk: LayoutDisk = field(init=False)
    _first_check: float | None = field(default=None, init=False)
    """Time of the first successful `exists`, in seconds since the epoch."""
    _lease: BaseFileLock | None = field(default=None, init=False)
    _referrers: dict[Digest, tuple[Digest | None, Descriptor]] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._disk = LayoutDisk(self.path, create=self.create)
        self._disk.entries()

    # Reading

    def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of a name or digest.

        Among entries with the same name, it is the first. A digest does not have to be in `index.json`: the blob of a
        manifest is enough.

        Raises:
            ManifestUnknown: There is no such name or digest; the hint lists similar names.
        """
        digest = parse_digest(reference)
        for entry in self._disk.entries():
            if (digest_of(entry) == digest) if digest else (name_of(entry) == reference):
                return without_name(to_descriptor(entry))
        if digest and (descriptor := self._describe_unlisted(digest)) is not None:
            return descriptor
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
        """Return the image that a bare reference means: `latest`, or the only image.

        Referrers without a name do not count.

        Raises:
            NotFound: There is no image, or there are several; the hint lists their names.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> ocikit.Layout("waves").only().digest == artifact.digest
        True
        """
        images: dict[str, Descriptor] = {}
        for entry in self._disk.entries():
            if name_of(entry) == "latest":
                return without_name(to_descriptor(entry))
            images.setdefault(str(digest_of(entry)), to_descriptor(entry))
        if len(images) > 1:
            images = {
                digest: image
                for digest, image in images.items()
                if REF_NAME in image.annotations or not self._subject(image)
            }
        if len(images) == 1:
            return without_name(next(iter(images.values())))
        names = self.tags()
        raise NotFound(
            f"{self.path} has {len(images) or 'no'} images, and the reference names none of them",
            hint=f"add one of these as a tag: {display.join_limited(names)}" if names else "add the digest of one",
        )

    def open(self, descriptor: Descriptor) -> ByteStream:
        """Open the content as an unbuffered file.

        Raises:
            BlobUnknown: The layout does not have the blob.
        """
        try:
            return cast("ByteStream", open_file(self.blob(descriptor.digest)))
        except FileNotFoundError as error:
            raise blob_not_found(descriptor, str(self.path)) from error

    def exists(self, descriptor: Descriptor) -> bool:
        """Return True if the content is present in this size.

        Protect it from `gc()` like a new blob.
        """
        path = self.blob(descriptor.digest)
        try:
            if path.stat().st_size != descriptor.size:
                return False
            # The caller is about to rely on the blob, so a sweep in another process must see it as recent
            os.utime(path)
            self._first_check = self._first_check or time.time()
        except FileNotFoundError:
            return False
        except OSError:  # another user's file, or a read-only file system
            return path.exists()
        return True

    def tags(self) -> Sequence[str]:
        """Return all names, sorted."""
        return sorted({name for entry in self._disk.entries() if (name := name_of(entry)) is not None})

    def entries(self) -> Sequence[Descriptor]:
        """Return the descriptors in `index.json` with their names as annotations.

        Raises:
            InvalidDocument: An entry is not a descriptor.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> [dict(entry.annotations) for entry in ocikit.Layout("waves").entries()]
        [{'org.opencontainers.image.ref.name': 'v1'}]
        """
        return tuple(map(to_descriptor, self._disk.entries()))

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> Sequence[Descriptor]:
        """Return the manifests with this subject, among entries and children of indexes.

        Args:
            descriptor: The subject.
            artifact_type: Return only artifacts of this type; None returns all.
        """
        matches: dict[Digest, Descriptor] = {}
        pending = [entry for entry in reversed(self.entries()) if entry.is_document]
        seen: set[Digest] = set()
        while pending:
            document = pending.pop()
            if document.digest in seen:
                continue
            seen.add(document.digest)
            subject, listed = self._referrer(document)
            if subject == descriptor.digest and artifact_type in (None, listed.artifact_type):
                matches[listed.digest] = listed
            if document.media_type in media_types.INDEX_TYPES:
                with contextlib.suppress(OcikitError, OSError):
                    children = self.document(document).children
                    pending.extend(child for child in reversed(children) if child.is_document)
        return list(matches.values())

    def blob(self, digest: Digest) -> Path:
        """Return the path of a blob, whether it exists or not.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> ocikit.Layout("waves").blob(ocikit.Digest.of(b"hello")).read_bytes()
        b'hello'
        """
        return self._disk.blob(digest)

    # Writing

    def push(self, descriptor: Descriptor, stream: ByteStream, *, tag: str | None = None) -> None:
        """Store verified content, optionally under a name.

        A referrer gets an entry without a name, so that `referrers` finds it. Other manifests without a tag get no
        entry: they are assumed to be children of an index. Call `keep` otherwise.

        Args:
            descriptor: Media type, digest and size of the content.
            stream: The content.
            tag: A name for the content.

        Raises:
            SizeMismatch: The content has another size; nothing is stored.
            DigestMismatch: The content has another digest; nothing is stored.
            InvalidDocument: The content is not a valid manifest or index.
            ContentError: The disk is full or cannot be written.
        """
        if tag is not None:
            _check_name(tag)
        self._start_writing()
        subject = None
        if descriptor.is_document:
            content = read_verified(stream, descriptor, limit=STORED_LIMIT)
            subject = parse_document(content, descriptor.media_type, limit=STORED_LIMIT).subject
            stream = io.BytesIO(content)
        write_blob(stream, descriptor, self.blob(descriptor.digest), parts=self._disk.partial)
        if tag is not None:
            self.tag(descriptor, tag)
        elif subject is not None:
            self.keep(descriptor)

    def tag(self, descriptor: Descriptor, tag: str) -> None:
        """Give stored content a name; a name in use moves.

        Args:
            descriptor: Stored content.
            tag: The name.

        Raises:
            BlobUnknown: The layout does not have the content.
            InvalidReference: The name is invalid.
        """
        _check_name(tag)
        with self._disk.locked(), self._disk.edit_entries() as entries:
            self._set_name(entries, descriptor, tag)

    def swap(self, descriptor: Descriptor, raw: bytes, tag: str, expected: Digest | None) -> Swap:
        """Store a manifest under a name if the name is still that of the expected one.

        Args:
            descriptor: Descriptor of the manifest.
            raw: Bytes of the manifest.
            tag: The tag to set.
            expected: Digest that the tag must name; None if there must be no such tag.

        Returns:
            "done" if the name was set, and "moved" if it names something else: nothing was changed.
        """
        _check_name(tag)
        self.push_bytes(descriptor, raw)
        with self._disk.locked(), self._disk.edit_entries() as entries:
            current = next((digest_of(entry) for entry in entries if name_of(entry) == tag), None)
            if current != expected:
                return "moved"
            self._set_name(entries, descriptor, tag)
        return "done"

    def _set_name(self, entries: list[Any], descriptor: Descriptor, tag: str) -> None:
        self._require_content(descriptor, entries)
        same = [entry for entry in entries if digest_of(entry) == descriptor.digest]
        named = [entry for entry in entries if name_of(entry) == tag]
        if current := [entry for entry in named if digest_of(entry) == descriptor.digest]:
            named = [entry for entry in named if entry is not current[0]]
        elif unnamed := [entry for entry in same if name_of(entry) is None]:
            rename(unnamed[0], tag)
        else:
            known = to_descriptor(same[0]) if same else descriptor
            entries.append(new_entry(known, name=tag))
        self._remove_names(entries, named)

    def keep(self, descriptor: Descriptor) -> None:
        """Protect content without a name from `gc()` by an entry without a name.

        Raises:
            BlobUnknown: The layout does not have the content.
        """
        with self._disk.locked(), self._disk.edit_entries() as entries:
            self._require_content(descriptor, entries)
            if descriptor.digest not in map(digest_of, entries):
                entries.append(new_entry(descriptor))

    def untag(self, tag: str) -> None:
        """Remove a name; `gc()` deletes the content.

        A referrer keeps an entry without a name.

        Raises:
            ManifestUnknown: There is no such name.
        """
        with self._disk.locked(), self._disk.edit_entries() as entries:
            named = [entry for entry in entries if name_of(entry) == tag]
            if not named:
                raise unknown_reference(tag, str(self.path), self.tags())
            self._remove_names(entries, named)

    def delete(self, descriptor: Descriptor) -> None:
        """Delete content and all its names.

        `gc()` deletes the content that it references; referrers are kept.

        Raises:
            BlobUnknown: The layout does not have the content.
            InUse: Another entry references the content; nothing is changed.
        """
        digest = descriptor.digest
        path = self.blob(digest)
        with self._disk.locked():
            with self._disk.edit_entries() as entries:
                if digest not in map(digest_of, entries) and not path.exists():
                    raise blob_not_found(descriptor, str(self.path))
                graph = self._disk.graph(strict=False)
                others = [to_descriptor(entry) for entry in entries if digest_of(entry) != digest]
                users = [other for other in others if digest in graph.walk(links_from([other]), subjects=False)]
                if users:
                    names = dict.fromkeys(user.annotations.get(REF_NAME, user.digest.short) for user in users)
                    raise InUse(
                        f"{digest} in {self.path} is part of {display.join_limited(names)}",
                        hint="untag or delete these first; gc() then deletes the content that no entry references",
                        users=users,
                    )
                entries[:] = [entry for entry in entries if digest_of(entry) != digest]
            path.unlink(missing_ok=True)

    def gc(self, *, dry_run: bool = False, grace: float = 3600.0) -> GCResult:
        """Delete the blobs that are unreachable from the entries.

        Links in OCI and Docker documents are followed, and subjects in both directions. Entries with and without names
        count. Other processes may push at the same time: recent blobs are not deleted, nor are blobs that were pushed
        by a `Layout` that is still open in another process.

        Args:
            dry_run: Whether to delete nothing; `run()` of the result then deletes.
            grace: Seconds since the last change for which a blob is not deleted. Use 0 only for layouts without
                other writers.

        Returns:
            What was deleted, or what would be with `dry_run`.

        Raises:
            InvalidDocument: A document is unreadable, so the content that it references is unknown. Nothing is
                deleted.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> layout = ocikit.Layout("waves")
        >>> layout.untag("v1")
        >>> result = layout.gc(dry_run=True, grace=0)
        >>> len(result.blobs), result.size > 0
        (3, True)
        """
        lease = self._lease.lock_file if self._lease else None
        run = functools.partial(self.gc, grace=grace)
        with contextlib.nullcontext() if dry_run else self._disk.locked():
            return gc.collect(self._disk, dry_run=dry_run, grace=grace, lease=lease, run=run)

    def verify(self, *, workers: int = 4) -> VerifyResult:
        """Hash all blobs.

        Args:
            workers: Number of threads. Hashing one blob uses one processor core.

        Returns:
            The number of hashed blobs, and those that are corrupt or missing.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> result = ocikit.Layout("waves").verify()
        >>> result.checked, result.ok
        (3, True)
        """
        return gc.verify(self._disk, workers=workers)

    def close(self) -> None:
        """End the protection of pushed content from sweeps in other processes.

        >>> layout = ocikit.Layout("waves")
        >>> layout.push_bytes(ocikit.Descriptor.of(b"hello", "text/plain"), b"hello")
        >>> layout.close()
        """
        lease, self._lease, self._first_check = self._lease, None, None
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
        yield "folder", display.Code(display.display_path(self.path))
        yield "tags", display.Code(".tags()")
        yield "check", display.Code(".verify()")
        yield "free space", display.Code(".gc(dry_run=True)")

    # Internals

    def _describe_unlisted(self, digest: Digest) -> Descriptor | None:
        """Return the descriptor of a document without an entry.

        A missing media type is inferred from the fields of the document.
        """
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
        """Return the digest of the subject, and the descriptor for the list of referrers.

        Results are cached: the bytes of a digest do not change.
        """
        known = self._referrers.get(descriptor.digest)
        if known is not None and self.blob(descriptor.digest).exists():
            return known
        try:
            content = self.fetch(descriptor, limit=STORED_LIMIT)
            document = parse_document(content, descriptor.media_type, limit=STORED_LIMIT)
        except (OSError, OcikitError):
            return None, descriptor
        subject = document.subject.digest if document.subject else None
        listed = document.as_referrer(descriptor.digest) if subject else descriptor.bare()
        self._referrers[descriptor.digest] = (subject, listed)
        return subject, listed

    def _subject(self, descriptor: Descriptor) -> Digest | None:
        return self._referrer(descriptor)[0] if descriptor.is_document else None

    def _require_content(self, descriptor: Descriptor, entries: Iterable[Any]) -> None:
        if not self.blob(descriptor.digest).exists() and descriptor.digest not in map(digest_of, entries):
            raise blob_not_found(descriptor, str(self.path))

    def _remove_names(self, entries: list[Any], named: Sequence[Any]) -> None:
        """Remove named entries; the entries of referrers only lose their names."""
        for entry in named:
            others = [other for other in entries if other is not entry]
            descriptor = to_descriptor(entry)
            if self._subject(descriptor) and descriptor.digest not in map(digest_of, others):
                rename(entry, None)
            else:
                entries[:] = others

    def _start_writing(self) -> None:
        """Create the layout if necessary, and protect pushed content by a lease."""
        if self._lease is not None:
            return
        with self._disk.locked():
            self._disk.initialize()
            if self._lease is None:
                self._lease = self._disk.acquire_lease(self._first_check)


def _check_name(name: str) -> None:
    """Reject invalid names, and names that could be mistaken for a digest."""
    check_ref_name(name)
    if name.startswith(("sha256:", "sha512:", "blake3:")):
        raise InvalidReference(f"the name {name!r} starts like a digest", hint="choose a name without this prefix")
