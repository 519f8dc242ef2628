"""The cache: blobs by digest, what tags named when last asked, and snapshots, which are artifacts as folders of files.

It is correct without locks, because home folders are often on network file systems: every file is written beside and
renamed, nothing is changed in place, and whatever is gone or damaged counts as absent and is fetched again.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import attrs
from attrs import define, field

from ocikit import display
from ocikit.errors import ContentError, DigestMismatch, InvalidDocument, ManifestUnknown, NotFound
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import Manifest, parse_document
from ocikit.spec.reference import Reference
from ocikit.spec.titles import layers_by_path
from ocikit.store.base import Store, blob_not_found
from ocikit.store.files import blob_path, write_atomically, write_blob
from ocikit.store.reflink import LinkMethod, link
from ocikit.store.streams import ByteStream

if TYPE_CHECKING:
    from ocikit.store.cache.prune import PrunePlan
    from ocikit.store.cache.scan import CacheInfo
    from ocikit.store.results import GCResult, VerifyResult

#: https://bford.info/cachedir/: backup programs leave such folders out.
_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Kept by ocikit. It can be deleted at any time.\n"

#: Parts of repository names that would look like files or folders of ours: `data.json`, `sha256-<hex>`.
_OURS = re.compile(r".*\.json|[a-z0-9]+-[0-9a-f]{64,}")


def offline() -> bool:
    """Whether `OCIKIT_OFFLINE` asks for no requests, read now."""
    return os.environ.get("OCIKIT_OFFLINE", "").strip().lower() not in {"", "0", "false", "no", "off"}


class Remembered(NamedTuple):
    """What a tag named, and when a registry last said so."""

    descriptor: Descriptor
    fetched_at: datetime


def _absolute(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path).expanduser().absolute()


@define(eq=False, repr=False)
class Cache(display.Displayable, Store):
    """What is on disk already. As a store, its tags are whole references: `resolve("ghcr.io/org/model:v1")`.

    Args:
        root: the folder; else `OCIKIT_CACHE`, else the platform's folder for caches, each time it is asked for.
            Nothing is created before something is kept.
    """

    _root: Path | None = field(default=None, converter=_absolute)

    @property
    def root(self) -> Path:
        """The folder, whether it exists yet or not."""
        if self._root is not None:
            return self._root
        if named := os.environ.get("OCIKIT_CACHE"):
            return Path(named).expanduser().absolute()
        import platformdirs  # noqa: PLC0415 - not needed by who names a folder

        return platformdirs.user_cache_path("ocikit", appauthor=False)

    # Blobs

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        return blob_path(self.root, Digest(digest))

    def exists(self, descriptor: Descriptor) -> bool:
        """Whether a blob of that digest and size is on disk."""
        try:
            return os.stat(self.path(descriptor.digest)).st_size == descriptor.size
        except OSError:
            return False

    def open(self, descriptor: Descriptor) -> ByteStream:
        """The blob, seekable. Raises: NotFound."""
        if self.exists(descriptor):
            with contextlib.suppress(FileNotFoundError):
                return open(self.path(descriptor.digest), "rb")
        if (embedded := descriptor.embedded) is not None:
            return io.BytesIO(embedded)
        raise blob_not_found(descriptor, f"the cache at {self.root}")

    def fetch(self, descriptor: Descriptor, *, limit: int = DOCUMENT_LIMIT) -> bytes:
        """The verified content. A blob that is damaged is removed and counts as absent. Raises: NotFound."""
        try:
            return Store.fetch(self, descriptor, limit=limit)
        except DigestMismatch as error:
            self.path(descriptor.digest).unlink(missing_ok=True)
            raise blob_not_found(descriptor, f"the cache at {self.root}") from error

    def push(self, descriptor: Descriptor, stream: ByteStream, *, tag: str | None = None) -> None:
        """Keep a blob, verified; with a whole reference as *tag*, remember that it names the blob."""
        if not self.exists(descriptor):
            write_blob(stream, descriptor, self.path(descriptor.digest), parts=self._home() / "partial")
        if tag is not None:
            self.tag(descriptor, tag)

    def delete(self, descriptor: Descriptor) -> None:
        """Forget a blob and every tag that names it. Raises: NotFound."""
        from ocikit.store.cache.scan import read_names  # noqa: PLC0415 - as below

        for name in read_names(self.root):
            if not name.is_snapshot and name.digest == descriptor.digest:
                name.path.unlink(missing_ok=True)
        try:
            self.path(descriptor.digest).unlink()
        except FileNotFoundError:
            raise blob_not_found(descriptor, f"the cache at {self.root}") from None

    # References

    def remember(self, reference: Reference, descriptor: Descriptor) -> None:
        """Note that a registry said just now that the tag names this; a reference by digest needs no note."""
        if reference.digest is not None:
            return
        reference = reference.tagged(reference.target)
        noted = {
            "reference": str(reference),
            "digest": descriptor.digest,
            "mediaType": descriptor.media_type,
            "size": descriptor.size,
            "fetched_at": datetime.now(UTC).isoformat(),
        }
        self._home()
        path = self.reference_path(reference)
        for last in (False, True):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Not synced: a torn note counts as absent, and costs one request
                write_atomically(path, json.dumps(noted, indent=1).encode(), sync=False)
                return
            except FileNotFoundError:  # prune() removes empty folders
                if last:
                    raise

    def recall(self, reference: Reference) -> Remembered | None:
        """What the tag named when it was last asked for; None if that isn't known or the reference is by digest."""
        if reference.digest is not None:
            return None
        reference = reference.tagged(reference.target)
        try:
            noted = json.loads(self.reference_path(reference).read_bytes())
            # File systems that ignore case hold one note for two tags
            if noted["reference"] != str(reference) or type(noted["size"]) is not int or noted["size"] < 0:
                return None
            descriptor = Descriptor(
                media_type=str(noted["mediaType"]), digest=Digest(noted["digest"]), size=noted["size"]
            )
            return Remembered(descriptor, datetime.fromisoformat(noted["fetched_at"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def lookup(self, reference: Reference) -> Descriptor | None:
        """The descriptor of a manifest or index that the reference pins, from its own bytes; None if not cached."""
        return None if reference.digest is None else self._document(reference.digest)

    def _document(self, digest: Digest) -> Descriptor | None:
        """The descriptor of a cached manifest or index; None if there is no such document."""
        try:
            path = self.path(digest)
            if path.stat().st_size > DOCUMENT_LIMIT:
                return None
            raw = path.read_bytes()
            digest.verify(raw)
            return attrs.evolve(parse_document(raw).descriptor, digest=digest)
        except (OSError, ContentError, InvalidDocument):
            return None

    def resolve(self, reference: str) -> Descriptor:
        """What a whole reference, or a digest, names as far as the cache knows. Raises: NotFound."""
        if reference.startswith(("sha256:", "sha512:")):
            found = self._document(Digest(reference))
        else:
            parsed = Reference.parse(reference)
            recalled = self.recall(parsed)
            found = recalled.descriptor if recalled else self.lookup(parsed)
        if found is None:
            raise ManifestUnknown(
                f"the cache at {self.root} doesn't know {display.sanitize(reference)}",
                hint="pull it once while the registry can be reached",
            )
        return found

    def tag(self, descriptor: Descriptor, tag: str) -> None:
        """Remember that a whole reference names a blob that is here. Raises: NotFound."""
        if not self.exists(descriptor):
            raise blob_not_found(descriptor, f"the cache at {self.root}")
        self.remember(Reference.parse(tag), descriptor)

    def untag(self, tag: str) -> None:
        """Forget what a whole reference names; blobs stay until `prune`. Raises: NotFound."""
        reference = Reference.parse(tag)
        try:
            self.reference_path(reference).unlink()
        except FileNotFoundError:
            raise NotFound(f"the cache at {self.root} doesn't know {reference}") from None

    def reference_path(self, reference: Reference) -> Path:
        """Where the note on a tag is, or would be: `refs/<host>/<repository>/<tag>.json`."""
        return _below(self.root / "refs", reference) / f"{reference.tag or 'latest'}.json"

    # Snapshots

    def snapshot_path(self, reference: Reference, digest: Digest) -> Path:
        """Where the files of a manifest are, or would be."""
        return _below(self.root / "snapshots", reference) / f"{digest.algorithm}-{digest.encoded}"

    def snapshot(self, reference: Reference, manifest: Manifest, layers: Iterable[Descriptor] | None = None) -> Path:
        """A folder with the manifest's files, read-only, made of cached blobs; complete when it appears.

        Args:
            reference: where it is from.
            manifest: what it is.
            layers: those to have as files, else all; what an earlier call asked for stays.
        Raises:
            NotFound: if a blob isn't cached; `Cache.push` it and call again.
            UnsafeArchive: if a title leads out of the folder or two layers claim one path.
        """
        files = layers_by_path(manifest.layers)
        if layers is not None:
            files = layers_by_path(layers)
        folder = self.snapshot_path(reference, manifest.digest)
        lacking = {name: layer for name, layer in files.items() if not _in_place(folder / name, layer)}
        if lacking or not folder.is_dir():
            self._assemble(folder, lacking)
        with contextlib.suppress(OSError):  # another user's cache
            os.utime(folder)  # prune() goes by when it was last used
        return folder

    def _assemble(self, folder: Path, files: Mapping[str, Descriptor]) -> None:
        """Link files to a new folder and rename it; if another process was faster, or some were there, add to those."""
        parts = self._home() / "partial"
        beside = parts / f"snapshot.{secrets.token_hex(8)}"
        means: LinkMethod = "reflink"
        try:
            beside.mkdir(parents=True)
            for name, layer in files.items():
                if not self.exists(layer) and (embedded := layer.embedded) is not None:
                    self.push_bytes(layer, embedded)
                if not self.exists(layer):
                    raise blob_not_found(layer, f"the cache at {self.root}")
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                means = link(self.path(layer.digest), beside / name, layer, parts=parts, start=means)
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(beside, folder)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.EACCES}:  # Windows says EACCES
                    raise
                for name in files:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(beside / name, folder / name)
        except FileNotFoundError as error:
            raise ContentError(
                f"{folder} could not be made: {error.filename} vanished",
                hint="another process is pruning the cache; call again",
            ) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    # Housekeeping

    def repositories(self, host: str) -> list[str]:
        """The names at a registry that are known here, after a short look: for completion. `scan` knows all."""
        from ocikit.store.cache.scan import repositories  # noqa: PLC0415 - as below

        return repositories(self.root, host)

    def scan(self) -> CacheInfo:
        """What is on disk, by repository, with sizes. Walks the folder."""
        from ocikit.store.cache.scan import scan  # noqa: PLC0415 - housekeeping is loaded when it is done

        return scan(self.root)

    def verify(self, *, remove: bool = False) -> VerifyResult:
        """Hash all blobs.

        Args:
            remove: Whether to delete corrupt blobs and the snapshot files that are links to them. They are downloaded
                again when they are needed.
        """
        from ocikit.store.cache.scan import verify  # noqa: PLC0415 - housekeeping is loaded when it is done

        return verify(self.root, remove=remove)

    def gc(self, *, dry_run: bool = False, grace: float = 3600.0) -> GCResult:
        """Delete the blobs that no tag or snapshot references, and unfinished transfers.

        Args:
            dry_run: Whether to delete nothing; `run()` of the result then deletes.
            grace: Seconds since the last change for which a file is not deleted. A pull in progress writes blobs
                before their tag.
        """
        from ocikit.store.cache.prune import collect  # noqa: PLC0415 - housekeeping is loaded when it is done

        return collect(self.root, dry_run=dry_run, grace=grace, run=functools.partial(self.gc, grace=grace))

    def prune(
        self,
        *,
        older_than: timedelta | float | None = None,
        reference: str | Reference | None = None,
        keep: Iterable[str | Reference] = (),
        unreferenced: bool = True,
        grace: float = 3600.0,
    ) -> PrunePlan:
        """What could be deleted; `.run()` on the plan deletes it.

        Args:
            older_than: forget tags and snapshots that were last used longer ago; seconds or a timedelta.
            reference: forget only those of this repository, or of this tag or digest in it.
            keep: references or patterns such as "ghcr.io/org/*" that stay in any case.
            unreferenced: whether blobs that no tag or snapshot names, and what broken transfers left, go too.
            grace: seconds for which such blobs stay: a pull that is under way writes them before its tag.
        """
        from ocikit.store.cache.prune import plan_prune  # noqa: PLC0415 - as above

        return plan_prune(
            self.root,
            older_than=older_than.total_seconds() if isinstance(older_than, timedelta) else older_than,
            reference=reference,
            keep=keep,
            unreferenced=unreferenced,
            grace=grace,
        )

    def __rich_repr__(self) -> display.Description:
        yield "root", display.display_path(self.root)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "root", display.display_path(self.root)
        yield "what is in it", display.Code(".scan()")
        yield "check", display.Code(".verify()")
        yield "make room", display.Code(".prune(older_than=timedelta(days=30))")

    def _home(self) -> Path:
        """The root, made if need be and marked as a cache."""
        root = self.root
        tag = root / "CACHEDIR.TAG"
        try:
            if not tag.exists():
                root.mkdir(parents=True, exist_ok=True)
                write_atomically(tag, _TAG, sync=False)
        except OSError as error:
            raise ContentError(
                f"cannot keep a cache at {root}: {error.strerror}",
                hint="set OCIKIT_CACHE to a folder that you can write to",
            ) from error
        return root


def _below(folder: Path, reference: Reference) -> Path:
    """The folder of a repository. Ports are escaped for Windows, and names that would look like files of ours."""
    host = quote(reference.registry, safe="")
    parts = (re.sub("[.-]", _escaped, p) if _OURS.fullmatch(p) else p for p in reference.repository.split("/"))
    return folder.joinpath(host, *parts)


def _escaped(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def _in_place(path: Path, layer: Descriptor) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == layer.size
