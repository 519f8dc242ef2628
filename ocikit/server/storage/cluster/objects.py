"""Object stores by URL: S3, or a folder."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from ocikit.errors import InvalidArgument
from ocikit.server.storage.cluster.folder import FolderObjects
from ocikit.server.storage.cluster.object_store import InvalidPart, ObjectStore, new_key
from ocikit.server.storage.cluster.s3 import S3Objects, s3_place

__all__ = ["InvalidPart", "ObjectStore", "new_key", "open_objects"]

_HINT = "write s3://bucket/prefix or file:///folder"


def open_objects(url: str, *, state: Path | None = None) -> ObjectStore:  # noqa: ARG001 - other stores may keep files there
    """Return the object store of a URL.

    Args:
        url: `s3://bucket/prefix?endpoint_url=…&region=…&path_style=1&public_url=…`, or `file:///folder`. It has no credentials.
        state: A folder of this machine for temporary files. No store of this module needs one.

    Raises:
        InvalidArgument: The URL is invalid, its folder is missing, or there are no credentials.
    """
    scheme = url.partition(":")[0]
    if scheme == "s3":
        return S3Objects(s3_place(url))
    if scheme == "file":
        return FolderObjects(_folder(url))
    raise InvalidArgument("the URL of the object store has an unknown scheme", hint=_HINT)


def _folder(url: str) -> Path:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment or not path.is_absolute():
        raise InvalidArgument("the URL of the object store is not file:/// with an absolute path", hint=_HINT)
    return path
