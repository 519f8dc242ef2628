"""Objects that no row names: left by a process that was stopped for a day, or by a restore of an older database."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.listing import list_content, named_keys
from ocikit.server.storage.cluster.object_store import ObjectStore

#: Seconds that an object is kept without a row: longer than any upload takes from its object to its row.
_AGE = 7 * 24 * 3600.0

#: Keys of one statement.
_BATCH = 1000

_DISCARD = """
INSERT INTO garbage (key, after) SELECT key, clock_timestamp() + %(keep)s * interval '1 second' FROM unnest(%(keys)s::text[]) AS key
ON CONFLICT (key) DO NOTHING
"""


@frozen(kw_only=True)
class Strays:
    """Objects that no row names."""

    count: int
    size: int
    """Bytes."""


def strays(
    database: Database,
    objects: ObjectStore,
    *,
    state: Path,
    keep_deleted: float,
    age: float = _AGE,
    dry_run: bool = False,
) -> Strays:
    """Find objects that no row names, and queue them for deletion.

    Parts of a multipart upload whose session is lost are not listed. A lifecycle rule of the bucket deletes them
    (AbortIncompleteMultipartUpload).

    Args:
        database: Database of the registry.
        objects: Object store of the registry.
        state: Folder for the list of all objects.
        keep_deleted: Seconds after which the next sweep deletes the objects.
        age: Seconds that an object is kept at least.
        dry_run: Only count them.

    Returns:
        The number of objects and their size.

    Raises:
        Unavailable: The database or the object store cannot be reached.
    """
    count = size = 0
    with list_content(objects, state, before=database.now() - age) as listing:
        for keys in named_keys(database):
            listing.discard(keys)
        for batch in listing.batches(_BATCH):
            count, size = count + len(batch), size + sum(length for _, length in batch)
            if not dry_run:
                database.change(_DISCARD, {"keys": [key for key, _ in batch], "keep": keep_deleted})
    return Strays(count=count, size=size)
