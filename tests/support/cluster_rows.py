"""A registry in PostgreSQL and a folder whose rows are made by SQL, for tests of one part of it."""

import io
import os

from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.digests import encode_digest
from ocikit.server.storage.cluster.objects import new_key, open_objects
from ocikit.server.storage.cluster.review import review_blobs, review_content
from ocikit.server.storage.memory import MemoryUploads
from ocikit.spec.digest import Digest

HOUR = 3600.0

_EMPTY = "TRUNCATE repositories, content, uploads, garbage, review, copies, leases, failures RESTART IDENTITY CASCADE"


class Rows:
    """A registry as its rows and objects.

    Args:
        url: URL of a migrated database, which is emptied.
        folder: A new folder for the objects.
    """

    def __init__(self, url, folder):
        folder.mkdir()
        self.folder, self.uploads, self.keep_deleted = folder, MemoryUploads(), 0.0
        self.url, self.objects_url = url, f"file://{folder}"
        self.database = Database(url)
        self.objects = open_objects(self.objects_url, state=folder)
        self.change(_EMPTY)

    def all(self, sql, **params):
        return [tuple(row) for row in self.database.rows(sql, params)]

    def change(self, sql, **params):
        return self.database.change(sql, params)

    def one(self, sql, **params):
        return self.all(sql, **params)[0][0]

    def repository(self, name):
        self.change("INSERT INTO repositories (name) VALUES (%(name)s) ON CONFLICT DO NOTHING", name=name)
        return self.one("SELECT id FROM repositories WHERE name = %(name)s", name=name)

    def put(self, data, *, digest=None):
        """Write an object and return its key."""
        key = new_key()
        self.objects.put(key, io.BytesIO(data), len(data), digest=digest)
        return key

    def push(self, repository="a", data=None):
        """Push a blob that is due for review and return its digest."""
        data = os.urandom(50) if data is None else data
        digest = Digest.of(data)
        raw, number = encode_digest(digest), self.repository(repository)
        self.change(
            "INSERT INTO content (digest, size, key) VALUES (%(d)s, %(s)s, %(k)s) ON CONFLICT DO NOTHING",
            d=raw,
            s=len(data),
            k=self.put(data),
        )
        self.change("INSERT INTO blobs (repository, digest) VALUES (%(r)s, %(d)s)", r=number, d=raw)
        self.queue("b", digest, repository)
        return digest

    def manifest(self, *children, repository="a", tags=(), raw=None):
        """Put a manifest, queue its copies, and return its digest."""
        raw = os.urandom(40) if raw is None else raw
        digest, number = Digest.of(raw), self.repository(repository)
        params = {"r": number, "d": encode_digest(digest), "raw": raw, "s": len(raw)}
        self.change("INSERT INTO content (digest, size, inline) VALUES (%(d)s, %(s)s, %(raw)s)", **params)
        self.change(
            "INSERT INTO manifests (repository, digest, media_type) VALUES (%(r)s, %(d)s, 'application/json')", **params
        )
        for child in children:
            self.change("INSERT INTO children VALUES (%(r)s, %(d)s, %(c)s)", **params, c=encode_digest(child))
        for tag in tags:
            self.change("INSERT INTO tags VALUES (%(r)s, %(t)s, %(d)s)", **params, t=tag)
        for reference in (digest, *tags):
            self.copy(number, reference)
        return digest

    def copy(self, number, reference):
        self.change(
            "INSERT INTO copies VALUES (%(r)s, %(n)s, now() - interval '1 s') ON CONFLICT (repository, reference)"
            " DO UPDATE SET after = EXCLUDED.after",
            r=number,
            n=reference,
        )

    def delete_manifest(self, digest, repository="a"):
        number = self.repository(repository)
        self.change(
            "DELETE FROM manifests WHERE repository = %(r)s AND digest = %(d)s", r=number, d=encode_digest(digest)
        )
        self.queue("c", digest)
        self.copy(number, digest)

    def queue(self, kind, digest, repository=None):
        number = 0 if repository is None else self.repository(repository)
        self.change(
            "INSERT INTO review VALUES (%(k)s, %(r)s, %(d)s, now() - interval '1 s') ON CONFLICT (kind, repository, digest)"
            " DO UPDATE SET after = EXCLUDED.after",
            k=kind,
            r=number,
            d=encode_digest(digest),
        )

    def age(self, seconds=2 * HOUR):
        """Make all rows older."""
        for table, column in {
            "content": "touched",
            "blobs": "touched",
            "manifests": "touched",
            "review": "after",
            "garbage": "after",
        }.items():
            self.change(f"UPDATE {table} SET {column} = {column} - {seconds} * interval '1 second'")

    def review(self, *, grace=HOUR, keep=0.0):
        """Return the digests of removed blobs and of deleted content."""
        blobs = [blob.digest for blob in review_blobs(self.database, grace=grace, beat=lambda: None)]
        content = review_content(self.database, grace=grace, keep_deleted=keep, beat=lambda: None)
        return blobs, [blob.digest for blob in content]

    def key_of(self, digest):
        return self.one("SELECT key FROM content WHERE digest = %(d)s", d=encode_digest(digest))

    def keys(self):
        """Return the keys of all objects with content."""
        return [key for key, _, _ in self.objects.iterate("c/")]
