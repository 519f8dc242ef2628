"""A custom storage: blobs in any fsspec file system, such as s3:// or gs://; sessions and metadata on local disk.

Run it with ``BLOBS=s3://bucket/registry STATE=./state granian --interface wsgi --factory tests.support.example_storage:registry``.
"""

import os
import secrets
import shutil
from pathlib import Path

import fsspec
from ocikit.server import Application, BlobStore, Storage
from ocikit.server.storage.files import FileUploads
from ocikit.server.storage.sql import SqlMetadata
from ocikit.spec.digest import Digest


class ObjectBlobs(BlobStore):
    """Blobs as objects below a URL, named as in an image layout."""

    def __init__(self, url: str, **options) -> None:
        self._fs, self._root = fsspec.url_to_fs(url, **options)

    def stat(self, digest):
        try:
            return self._fs.info(self._path(digest))["size"]
        except FileNotFoundError:
            return None

    def open(self, digest):
        try:
            return self._fs.open(self._path(digest), "rb")
        except FileNotFoundError as error:
            raise KeyError(digest) from error

    def put(self, digest, stream):
        # Upload to a temporary name first: a broken upload must not have the name of a blob
        temporary, path = f"{self._root}/incoming/{secrets.token_hex(16)}", self._path(digest)
        try:
            for name in (temporary, path):
                self._fs.makedirs(name.rpartition("/")[0], exist_ok=True)
            with self._fs.open(temporary, "wb") as file:
                shutil.copyfileobj(stream, file)
            self._fs.mv(temporary, path)
        except BaseException:
            if self._fs.exists(temporary):
                self._fs.rm_file(temporary)
            raise

    def delete(self, digest):
        try:
            self._fs.rm_file(self._path(digest))
        except FileNotFoundError:
            return

    def iterate(self):
        self._fs.invalidate_cache()
        for path in self._fs.find(f"{self._root}/blobs"):
            algorithm, encoded = path.split("/")[-2:]
            yield Digest(f"{algorithm}:{encoded}")

    def _path(self, digest):
        return f"{self._root}/blobs/{digest.algorithm}/{digest.encoded}"


def registry():
    """Return the application for a WSGI server."""
    state = Path(os.environ["STATE"])
    state.mkdir(parents=True, exist_ok=True)
    storage = Storage(
        ObjectBlobs(os.environ["BLOBS"]), FileUploads(state / "uploads"), SqlMetadata.file(state / "registry.db")
    )
    return Application(storage)
