"""Upload sessions that any process continues: rows in the database, bytes as objects.

Bytes are collected in a file until they are a part of a multipart upload. What is left at the end of a request is a piece: an
object of its own, which later bytes are joined with. An upload that is one piece is that object, without a copy.

The process keeps the running hash of a session, and the row has the hash of what came so far. If requests of one session go to
several processes, the object is read once at its end.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from attrs import define, field

from ocikit.server.storage.base import (
    BlobStore,
    LengthMismatch,
    OffsetMismatch,
    Unavailable,
    UnknownUpload,
    Upload,
    UploadBody,
    UploadDigestMismatch,
    UploadState,
    UploadStore,
)
from ocikit.server.storage.cluster.blobs import ClusterBlobs
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.object_store import InvalidPart, ObjectStore, new_key
from ocikit.server.storage.cluster.sessions import RENEWAL, Multipart, Piece, Received, Session, Sessions
from ocikit.server.storage.hashes import HashCache, RunningHash
from ocikit.spec.digest import Digest
from ocikit.store.files import BUFFER

_log = logging.getLogger("ocikit.server")

#: Bytes that a request keeps in memory before they go to a file.
_IN_MEMORY = 1 << 20

#: Parts of an object at most, a limit of S3. Uploads with an announced size have fewer and larger ones.
_MAX_PARTS, _ANNOUNCED_PARTS = 10_000, 9_600

#: Small pieces after which they are joined, and their size together [bytes].
_MANY_PIECES, _SMALL = 8, 1 << 20


class _Broken(Exception):
    """An object of a session is missing or has other bytes; the session cannot be finished."""


@define(eq=False)
class SqlUploads(UploadStore):
    """Upload sessions in the database and the object store.

    Args:
        database: The rows.
        objects: The bytes.
        state: Folder for the bytes of requests in progress.
    """

    database: Database
    objects: ObjectStore
    state: Path
    _sessions: Sessions = field(init=False, repr=False)
    _hashes: HashCache = field(factory=HashCache, init=False, repr=False)
    _leases: dict[str, int] = field(factory=dict, init=False, repr=False)
    """The leases of this process: session id and epoch."""

    def __attrs_post_init__(self) -> None:
        self._sessions = Sessions(self.database)

    def now(self) -> float:
        """Return the time of the database in seconds since the epoch."""
        return self.database.now()

    def create(self, repository: str, owner: str = "", *, algorithm: str = "sha256", holder: str = "") -> Upload:
        """Insert a row."""
        return self._sessions.create(repository, owner, algorithm=algorithm, holder=holder)

    def size(self, upload: Upload) -> int:
        """Return the number of bytes received.

        Raises:
            UnknownUpload: The session does not exist.
        """
        return self._sessions.size(upload)

    def append(self, upload: Upload, body: UploadBody, *, offset: int | None = None, length: int | None = None) -> int:
        """Append a body as parts and a piece.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: The offset is not the current size, or another request writes.
            LengthMismatch: The body does not have `length` bytes.
        """
        with self._leased(upload, body, offset) as writer:
            writer.receive(body, length)
            return writer.keep()

    def finish(
        self,
        upload: Upload,
        digest: Digest,
        body: UploadBody,
        blobs: BlobStore,
        *,
        offset: int | None = None,
        length: int | None = None,
    ) -> int:
        """Append the last body, verify the digest, and store the blob.

        `ClusterBlobs` take the object of the upload; to other stores it is copied.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: See `append`.
            LengthMismatch: See `append`.
            UploadDigestMismatch: The bytes have another digest.
        """
        if isinstance(blobs, ClusterBlobs):
            received = self.receive(upload, digest, body, offset=offset, length=length)
            blobs.take(digest, received)
            self.forget(received)
            return received.size
        self.append(upload, body, offset=offset, length=length)
        received = self.receive(upload, digest, _NoBody())
        try:
            with self.objects.open(received.key) as file:
                blobs.put(digest, file)
        except BaseException:
            self.release(received)
            raise
        self.drop(received)
        return received.size

    def receive(
        self,
        upload: Upload,
        digest: Digest,
        body: UploadBody,
        *,
        offset: int | None = None,
        length: int | None = None,
    ) -> Received:
        """Append the last body and verify the digest; the caller ends the session in the change that adds the blob.

        Returns:
            The object of the upload. Its session stays leased until `forget`, `release` or `drop`.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: See `append`.
            LengthMismatch: See `append`.
            UploadDigestMismatch: The bytes have another digest; the session is deleted.
        """
        with self._leased(upload, body, offset, digest.algorithm) as writer:
            writer.receive(body, length)
            return writer.finish(digest)

    def forget(self, received: Received) -> None:
        """Forget a session that a change has ended."""
        self._leases.pop(received.upload, None)
        self._hashes.take(received.upload)

    def release(self, received: Received) -> None:
        """End the lease of a session whose change failed, so that a client can try again at once."""
        self.forget(received)
        with contextlib.suppress(Unavailable):
            self._sessions.free(received.upload, received.epoch)

    def release_all(self) -> None:
        """End all leases of this process, whose requests are cut off."""
        leases = list(self._leases.items())
        if leases:
            with contextlib.suppress(Unavailable):
                self._sessions.free_all(leases)

    def drop(self, received: Received) -> None:
        """Delete a session; its objects become garbage."""
        self.forget(received)
        self._sessions.drop(received.upload, received.epoch)

    def abort(self, upload: Upload) -> None:
        """Delete a session; its objects become garbage.

        Raises:
            UnknownUpload: The session does not exist.
        """
        self._sessions.abort(upload)
        self._hashes.take(upload.id)

    def count(self, holder: str | None = None) -> int:
        """Return the number of sessions of one holder, or of all."""
        return self._sessions.count(holder)

    def leased(self) -> int:
        """Return the number of sessions that requests of this process write."""
        return len(self._leases)

    def used_bytes(self, repository: str) -> int:
        """Return the number of bytes that the sessions of a repository have received."""
        return self._sessions.used_bytes(repository)

    def states(self, holder: str | None = None) -> Iterator[UploadState]:
        """Yield the state of each session of one holder, or of all."""
        return self._sessions.states(holder)

    def expire(self, before: float, *, empty_before: float | None = None, holder: str | None = None) -> int:
        """Delete idle sessions, except those that a request is writing."""
        return self._sessions.expire(before, before if empty_before is None else empty_before, holder)

    @contextlib.contextmanager
    def _leased(
        self, upload: Upload, body: UploadBody, offset: int | None, algorithm: str | None = None
    ) -> Iterator[_Writer]:
        """Lease a session for one request.

        Args:
            upload: Session of the upload.
            body: The body; without bytes it needs no key.
            offset: The size that the session must have in bytes.
            algorithm: Algorithm of the digest, if known.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: It has another size, or another request writes.
        """
        key = new_key() if body.length != 0 else None
        session = self._sessions.lease(upload, offset=offset, key=key)
        self._leases[upload.id] = session.epoch
        writer = _Writer(self._sessions, self.objects, self._hashes, self.state, session, key, algorithm)
        try:
            yield writer
        except _Broken as error:
            _log.error("upload %s is deleted: %s", upload.id, error)
            writer.drop()
            raise UnknownUpload(upload.id) from error
        except BaseException:
            self._leases.pop(upload.id, None)
            with contextlib.suppress(Unavailable):
                writer.free()
            raise
        finally:
            writer.close()
            if not writer.held:
                self._leases.pop(upload.id, None)


class _NoBody:
    """A body without bytes."""

    length = 0

    def read_chunk(self, size: int = 0) -> bytes:
        """Return no bytes."""
        return b""


class _Writer:
    """One request that writes to a leased session.

    Args:
        sessions: The rows.
        objects: The bytes.
        hashes: Running hashes of this process.
        state: Folder for files.
        session: The session.
        key: A key with an intent, for the first object.
        algorithm: Algorithm of the digest, if known.
    """

    def __init__(
        self,
        sessions: Sessions,
        objects: ObjectStore,
        hashes: HashCache,
        state: Path,
        session: Session,
        key: str | None,
        algorithm: str | None,
    ) -> None:
        self._sessions = sessions
        self._objects = objects
        self._hashes = hashes
        self._state = state
        self._session = session
        self._key = key
        self._part_size = objects.part_size if session.multipart is None else session.multipart.part_size
        self._hash = self._running_hash(algorithm)
        self._spool = self._new_spool()
        self._spooled = 0
        self._dropped: list[str] = []
        self._renewed = time.monotonic()
        self.held = True

    def receive(self, body: UploadBody, length: int | None) -> None:
        """Read a body, and store its full parts.

        Args:
            body: The bytes. If they end with an error, those that came are kept.
            length: Length that the client announced in bytes. With it, the row is not changed before all bytes are there.

        Raises:
            LengthMismatch: The body does not have `length` bytes.
        """
        expected = body.length if length is None else length
        if self._session.multipart is None:
            self._part_size = _part_size(self._objects.part_size, self._session.size + (expected or 0))
        received = 0
        while expected is None or received <= expected:
            try:
                chunk = body.read_chunk(BUFFER)
            except Exception:
                if length is None:
                    with contextlib.suppress(Unavailable, UnknownUpload, OffsetMismatch):
                        self.keep()
                raise
            if not chunk:
                break
            received += len(chunk)
            self._write(chunk, save=length is None)
            self._renew()
        if length is not None and received != length:
            raise LengthMismatch(length, received)

    def keep(self) -> int:
        """Store the rest as a piece, end the lease, and return the size of the session in bytes."""
        session, used = self._session, None
        if self._spooled:
            used = self._take_key()
            pieces = self._small_pieces()
            file, size = self._joined(pieces)
            with file:
                self._objects.put(used, file, size)
            session.pieces[len(session.pieces) - len(pieces) :] = [Piece(used, size)]
            self._dropped += [piece.key for piece in pieces]
            self._add_spooled()
        self._save(used, free=True)
        self.held = False
        if self._hash is not None and self._hash.count == session.size:
            self._hashes.keep(session.id, self._hash)
        return session.size

    def finish(self, digest: Digest) -> Received:
        """Make one object of all bytes, and verify its digest.

        Raises:
            UploadDigestMismatch: The bytes have another digest; the session is deleted.
            UnknownUpload: The session does not exist.
            OffsetMismatch: Another request has taken the lease.
        """
        session = self._session
        size = session.size + self._spooled
        actual = self._known_hash(digest.algorithm, size)
        self._verify(digest, actual)
        if session.multipart is not None and session.etags:
            key = session.multipart.key
            actual = actual if self._complete(session.multipart) else None
        elif len(session.pieces) == 1 and not self._spooled:
            key = session.pieces[0].key
        else:
            file, _ = self._joined(session.pieces)
            with file:
                if actual is None:
                    actual = _hash_of(file, digest.algorithm)
                    file.seek(0)
                self._verify(digest, actual)
                # The intent stays if the store fails: it may have the object, whose answer was lost
                key = self._take_key()
                self._objects.put(key, file, size, digest=digest)
        if actual is None:
            self._verify(digest, self._read_hash(key, digest.algorithm, size))
        return Received(session.id, session.epoch, key, size)

    def free(self) -> None:
        """End the lease, unless it has ended; the row stays as it is."""
        if self.held:
            self.held = False
            self._sessions.free(self._session.id, self._session.epoch, unused=self._key)

    def drop(self) -> None:
        """Delete the session."""
        self.held = False
        self._sessions.drop(self._session.id, self._session.epoch, unused=self._key)

    def close(self) -> None:
        """Close the file."""
        self._spool.close()

    def _running_hash(self, algorithm: str | None) -> RunningHash | None:
        """Return the hash of all bytes of the session; None if this process does not have it."""
        session = self._session
        running = self._hashes.take(session.id)
        if session.size == 0:
            return RunningHash(algorithm or session.algorithm)
        if (
            running is not None
            and (running.algorithm, running.count) == (session.algorithm, session.size)
            and bytes.fromhex(running.hexdigest()) == session.hash
        ):
            return running
        return None

    def _known_hash(self, algorithm: str, size: int) -> str | None:
        """Return the hash of all bytes, if it is known without reading them."""
        if self._hash is not None and (self._hash.algorithm, self._hash.count) == (algorithm, size):
            return self._hash.hexdigest()
        if not self._spooled and self._session.algorithm == algorithm and self._session.hash is not None:
            return self._session.hash.hex()
        return None

    def _verify(self, digest: Digest, actual: str | None) -> None:
        """Delete the session if its bytes have another digest.

        Raises:
            UploadDigestMismatch: They have.
        """
        if actual is None or actual == digest.encoded:
            return
        self.drop()
        raise UploadDigestMismatch(
            f"the uploaded bytes have the digest {digest.algorithm}:{actual}; the upload was deleted"
        )

    def _write(self, chunk: bytes, *, save: bool) -> None:
        """Add bytes, and store each part that is full."""
        session = self._session
        if session.is_sealed:
            raise OffsetMismatch(session.size)
        view = memoryview(chunk)
        while view:
            taken = view[: self._part_size - session.pending - self._spooled]
            self._spool.write(taken)
            if self._hash is not None:
                self._hash.update(taken)
            self._spooled += len(taken)
            view = view[len(taken) :]
            if session.pending + self._spooled == self._part_size:
                self._store_part()
                if save:
                    self._save()

    def _store_part(self) -> None:
        """Store the pieces and the new bytes as the next part."""
        session = self._session
        if session.multipart is None:
            key = self._take_key()
            session.multipart = Multipart(key, self._objects.begin_parts(key), self._part_size)
            # At once: until then, nothing but the object store knows the multipart upload
            self._sessions.save(session, used=key)
        if len(session.etags) == _MAX_PARTS:
            raise OSError(
                errno.EFBIG, f"the upload has more than {_MAX_PARTS} parts; announce its size with Content-Length"
            )
        multipart, number = session.multipart, len(session.etags) + 1
        file, size = self._joined(session.pieces)
        try:
            with file:
                session.etags.append(self._objects.put_part(multipart.key, multipart.id, number, file, size))
        except KeyError as error:
            self.drop()
            raise UnknownUpload(session.id) from error
        self._dropped += [piece.key for piece in session.pieces]
        session.pieces = []
        self._add_spooled()

    def _complete(self, multipart: Multipart) -> bool:
        """Complete the multipart upload.

        Returns:
            Whether this call has made the object. Otherwise its bytes must be read: another request has made it.

        Raises:
            _Broken: A part or the object is missing.
        """
        session = self._session
        if session.pieces or self._spooled:
            self._store_part()
        if len(session.etags) > session.saved_parts or self._key is not None:
            # If the process ends after the object is complete, the next request finds it by the row
            self._save(last=True)
        try:
            self._objects.complete_parts(multipart.key, multipart.id, session.etags)
        except KeyError:
            return False
        except InvalidPart as error:
            raise _Broken(str(error)) from error
        return True

    def _read_hash(self, key: str, algorithm: str, size: int) -> str:
        """Return the hash of an object.

        Raises:
            _Broken: It is missing or has another size.
        """
        running = RunningHash(algorithm)
        try:
            with self._objects.open(key) as file:
                while chunk := file.read(BUFFER):
                    running.update(chunk)
                    self._renew()
        except KeyError as error:
            raise _Broken("its object is missing") from error
        if running.count != size:
            raise _Broken(f"its object has {running.count} bytes instead of {size}")
        return running.hexdigest()

    def _joined(self, pieces: list[Piece]) -> tuple[BinaryIO, int]:
        """Return a file of pieces and the new bytes, and its size in bytes; start a new file for bytes that follow.

        Raises:
            _Broken: A piece is missing or has another size.
        """
        if not pieces:
            file, self._spool = self._spool, self._new_spool()
        else:
            file = self._new_spool()
            try:
                for piece in pieces:
                    self._copy_piece(piece, file)
                self._spool.seek(0)
                _copy(cast("BinaryIO", self._spool), file)
            except BaseException:
                file.close()
                raise
            self._spool.close()
            self._spool = self._new_spool()
        file.seek(0)
        return cast("BinaryIO", file), sum(piece.size for piece in pieces) + self._spooled

    def _copy_piece(self, piece: Piece, file: IO[bytes]) -> None:
        try:
            with self._objects.open(piece.key) as source:
                copied = _copy(source, file)
        except KeyError as error:
            raise _Broken("a piece is missing") from error
        if copied != piece.size:
            raise _Broken(f"a piece has {copied} bytes instead of {piece.size}")
        self._renew()

    def _small_pieces(self) -> list[Piece]:
        """Return the last pieces if there are many small ones, so that the row stays short."""
        size, count = self._spooled, 0
        for piece in reversed(self._session.pieces):
            size += piece.size
            if size > _SMALL:
                break
            count += 1
        return self._session.pieces[len(self._session.pieces) - count :] if count >= _MANY_PIECES else []

    def _add_spooled(self) -> None:
        """Count the new bytes as bytes of the session."""
        session = self._session
        session.size += self._spooled
        self._spooled = 0
        session.hash = None
        if self._hash is not None:
            session.hash, session.algorithm = bytes.fromhex(self._hash.hexdigest()), self._hash.algorithm

    def _save(self, used: str | None = None, *, last: bool = False, free: bool = False) -> None:
        """Save the session.

        Args:
            used: A new key.
            last: Whether no object follows.
            free: Whether the lease ends.
        """
        unused = self._key if last or free else None
        self._sessions.save(self._session, used=used, unused=unused, dropped=self._dropped, free=free)
        if unused is not None:
            self._key = None
        self._dropped = []
        self._renewed = time.monotonic()

    def _take_key(self) -> str:
        """Return a key with an intent."""
        key, self._key = self._key, None
        if key is None:
            key = new_key()
            self._sessions.intend(key)
        return key

    def _renew(self) -> None:
        """Renew the lease if it is time."""
        if time.monotonic() - self._renewed > RENEWAL:
            self._renewed = time.monotonic()
            self._sessions.renew(self._session)

    def _new_spool(self) -> IO[bytes]:
        return tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=os.fspath(self._state))


def _part_size(smallest: int, announced: int) -> int:
    """Return the size of the parts of an upload in bytes, a whole number of MiB."""
    if announced <= smallest * _ANNOUNCED_PARTS:
        return smallest
    return (announced // _ANNOUNCED_PARTS + (1 << 20)) >> 20 << 20


def _copy(source: BinaryIO, target: IO[bytes]) -> int:
    """Copy the rest of a file, and return its number of bytes."""
    copied = 0
    while chunk := source.read(BUFFER):
        target.write(chunk)
        copied += len(chunk)
    return copied


def _hash_of(file: BinaryIO, algorithm: str) -> str:
    """Return the hash of a file."""
    running = RunningHash(algorithm)
    running.hash_rest(file)
    return running.hexdigest()
