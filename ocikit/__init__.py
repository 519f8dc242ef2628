"""Data sets, models and images in any OCI registry.

>>> import ocikit
>>> ocikit.Reference.parse("ghcr.io/org/model:v1").repository
'org/model'
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from ocikit import auth
from ocikit.api import (
    attach,
    catalog,
    copy,
    delete,
    download,
    explore,
    inspect,
    open,  # noqa: A004 - ocikit.open reads as it does
    pin,
    ping,
    pull,
    push,
    referrers,
    tag,
    tags,
    validate,
)
from ocikit.auth import login, login_form, logout
from ocikit.client.artifact import Artifact, File
from ocikit.client.session import Session
from ocikit.errors import (
    BlobUnknown,
    ConnectionFailed,
    ContentError,
    CopyError,
    CredentialsError,
    Denied,
    DigestMismatch,
    FileNotInArtifact,
    InUse,
    InvalidArgument,
    InvalidDigest,
    InvalidDocument,
    InvalidReference,
    InvalidResponse,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
    NoMatchingPlatform,
    NotFound,
    OcikitError,
    OfflineError,
    RangeInvalid,
    RateLimited,
    RegistryError,
    ServerFailed,
    SizeMismatch,
    TimedOut,
    TooLarge,
    Unauthorized,
    UnsafeArchive,
    Unsupported,
    UnsupportedSchema1,
    UnverifiableDigest,
    UploadInvalid,
    UploadUnknown,
)
from ocikit.progress.base import Progress
from ocikit.remote.config.mirror import Mirror
from ocikit.remote.config.network import Network
from ocikit.spec.config import ImageConfig
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.platform import Platform
from ocikit.spec.reference import LayoutReference, Reference
from ocikit.store.cache.cache import Cache

if _TYPE_CHECKING:
    from ocikit.server.process.options import ServerOptions
    from ocikit.server.process.serve import serve
    from ocikit.store.layout.layout import Layout
    from ocikit.store.memory import MemoryStore

#: The cache that the one-liners use: `OCIKIT_CACHE`, or the platform's cache folder. Looked at when it is asked.
cache = Cache()

__all__ = [
    "Artifact",
    "BlobUnknown",
    "Cache",
    "ConnectionFailed",
    "ContentError",
    "CopyError",
    "CredentialsError",
    "Denied",
    "Descriptor",
    "Digest",
    "DigestMismatch",
    "File",
    "FileNotInArtifact",
    "ImageConfig",
    "InUse",
    "Index",
    "InvalidArgument",
    "InvalidDigest",
    "InvalidDocument",
    "InvalidReference",
    "InvalidResponse",
    "Layout",
    "LayoutReference",
    "Manifest",
    "ManifestBlobUnknown",
    "ManifestUnknown",
    "MemoryStore",
    "Mirror",
    "NameUnknown",
    "Network",
    "NoMatchingPlatform",
    "NotFound",
    "OcikitError",
    "OfflineError",
    "Platform",
    "Progress",
    "RangeInvalid",
    "RateLimited",
    "Reference",
    "RegistryError",
    "ServerFailed",
    "ServerOptions",
    "Session",
    "SizeMismatch",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "UnsafeArchive",
    "Unsupported",
    "UnsupportedSchema1",
    "UnverifiableDigest",
    "UploadInvalid",
    "UploadUnknown",
    "attach",
    "auth",
    "cache",
    "catalog",
    "copy",
    "delete",
    "download",
    "explore",
    "inspect",
    "login",
    "login_form",
    "logout",
    "open",
    "pin",
    "ping",
    "pull",
    "push",
    "referrers",
    "serve",
    "tag",
    "tags",
    "validate",
]


#: What is loaded when it is asked for: pulling and pushing don't need it.
_ON_USE = {
    "Layout": "ocikit.store.layout.layout",
    "MemoryStore": "ocikit.store.memory",
    "ServerOptions": "ocikit.server.process.options",
    "serve": "ocikit.server.process.serve",
}


def __getattr__(name: str) -> _Any:
    if name in _ON_USE:
        return getattr(_import_module(_ON_USE[name]), name)
    if name == "__version__":
        from ocikit._version import __version__  # noqa: PLC0415 - asked for rarely

        return __version__
    raise AttributeError(f"module 'ocikit' has no attribute {name!r}")
