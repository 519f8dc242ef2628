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
    describe,
    diff,
    download,
    edit,
    explore,
    fs,
    history,
    inspect,
    lineage,
    load,
    open,  # noqa: A004 - ocikit.open reads as it does
    pin,
    ping,
    pooch,
    pull,
    push,
    referrers,
    save,
    scan,
    sql,
    tag,
    tags,
    validate,
    watch,
)
from ocikit.auth import login, login_form, logout
from ocikit.client.artifact import Artifact, File, Files
from ocikit.client.listing import Listing
from ocikit.client.plans import DeletePlan, EditPlan, TagPlan
from ocikit.client.session import Session
from ocikit.errors import (
    BlobUnknown,
    Conflict,
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
    UnsafeFormat,
    Unsupported,
    UnsupportedSchema1,
    UnverifiableDigest,
    UploadInvalid,
    UploadUnknown,
)
from ocikit.progress.base import Progress
from ocikit.remote.auth.explanation import Explanation
from ocikit.remote.auth.keychain import Credentials, Keychain
from ocikit.remote.config.mirror import Mirror
from ocikit.remote.config.network import Network
from ocikit.remote.http.rate_limit import RateLimit
from ocikit.remote.registry import Ping, Registry
from ocikit.remote.repository import Repository
from ocikit.spec.config import ImageConfig
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.platform import Platform
from ocikit.spec.reference import AnyReference, LayoutReference, Reference
from ocikit.store.cache.cache import Cache
from ocikit.transfer.run import Plan

if _TYPE_CHECKING:
    from ocikit.client.describe import Descriptions
    from ocikit.client.edit import Edit
    from ocikit.client.validate import ValidationReport
    from ocikit.data.diff import Diff
    from ocikit.data.history import History, Version
    from ocikit.data.lineage import Lineage
    from ocikit.data.watch import Watch
    from ocikit.descriptions.card import Card
    from ocikit.descriptions.model import Description
    from ocikit.dialects.model import Model
    from ocikit.folder.plan import FolderPlan
    from ocikit.layers.layer import LayerLimits
    from ocikit.layers.tar import TarEntry
    from ocikit.layers.unpack import Unpacked
    from ocikit.server.process.options import ServerOptions
    from ocikit.server.process.serve import Server, serve
    from ocikit.store.cache.prune import PrunePlan
    from ocikit.store.cache.scan import CacheInfo
    from ocikit.store.layout.layout import Layout
    from ocikit.store.memory import MemoryStore
    from ocikit.store.results import CorruptBlob, GCResult, VerifyResult

#: The cache of the functions in this module: `OCIKIT_CACHE`, or the platform's cache folder, read on each use.
cache = Cache()

__all__ = [
    "AnyReference",
    "Artifact",
    "BlobUnknown",
    "Cache",
    "CacheInfo",
    "Card",
    "Conflict",
    "ConnectionFailed",
    "ContentError",
    "CopyError",
    "CorruptBlob",
    "Credentials",
    "CredentialsError",
    "DeletePlan",
    "Denied",
    "Description",
    "Descriptions",
    "Descriptor",
    "Diff",
    "Digest",
    "DigestMismatch",
    "Edit",
    "EditPlan",
    "Explanation",
    "File",
    "FileNotInArtifact",
    "Files",
    "FolderPlan",
    "GCResult",
    "History",
    "ImageConfig",
    "InUse",
    "Index",
    "InvalidArgument",
    "InvalidDigest",
    "InvalidDocument",
    "InvalidReference",
    "InvalidResponse",
    "Keychain",
    "LayerLimits",
    "Layout",
    "LayoutReference",
    "Lineage",
    "Listing",
    "Manifest",
    "ManifestBlobUnknown",
    "ManifestUnknown",
    "MemoryStore",
    "Mirror",
    "Model",
    "NameUnknown",
    "Network",
    "NoMatchingPlatform",
    "NotFound",
    "OcikitError",
    "OfflineError",
    "Ping",
    "Plan",
    "Platform",
    "Progress",
    "PrunePlan",
    "RangeInvalid",
    "RateLimit",
    "RateLimited",
    "Reference",
    "Registry",
    "RegistryError",
    "Repository",
    "Server",
    "ServerFailed",
    "ServerOptions",
    "Session",
    "SizeMismatch",
    "TagPlan",
    "TarEntry",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "Unpacked",
    "UnsafeArchive",
    "UnsafeFormat",
    "Unsupported",
    "UnsupportedSchema1",
    "UnverifiableDigest",
    "UploadInvalid",
    "UploadUnknown",
    "ValidationReport",
    "VerifyResult",
    "Version",
    "Watch",
    "attach",
    "auth",
    "cache",
    "catalog",
    "copy",
    "delete",
    "describe",
    "diff",
    "download",
    "edit",
    "explore",
    "fs",
    "history",
    "inspect",
    "lineage",
    "load",
    "login",
    "login_form",
    "logout",
    "open",
    "pin",
    "ping",
    "pooch",
    "pull",
    "push",
    "referrers",
    "save",
    "scan",
    "serve",
    "sql",
    "tag",
    "tags",
    "validate",
    "watch",
]


#: Names that are imported on first use, because pulls and pushes do not need them.
_ON_USE = {
    "CacheInfo": "ocikit.store.cache.scan",
    "Card": "ocikit.descriptions.card",
    "CorruptBlob": "ocikit.store.results",
    "Description": "ocikit.descriptions.model",
    "Descriptions": "ocikit.client.describe",
    "Diff": "ocikit.data.diff",
    "Edit": "ocikit.client.edit",
    "FolderPlan": "ocikit.folder.plan",
    "GCResult": "ocikit.store.results",
    "History": "ocikit.data.history",
    "LayerLimits": "ocikit.layers.layer",
    "Layout": "ocikit.store.layout.layout",
    "Lineage": "ocikit.data.lineage",
    "MemoryStore": "ocikit.store.memory",
    "Model": "ocikit.dialects.model",
    "PrunePlan": "ocikit.store.cache.prune",
    "Server": "ocikit.server.process.serve",
    "ServerOptions": "ocikit.server.process.options",
    "TarEntry": "ocikit.layers.tar",
    "Unpacked": "ocikit.layers.unpack",
    "ValidationReport": "ocikit.client.validate",
    "VerifyResult": "ocikit.store.results",
    "Version": "ocikit.data.history",
    "Watch": "ocikit.data.watch",
    "serve": "ocikit.server.process.serve",
}


def __getattr__(name: str) -> _Any:
    if name in _ON_USE:
        return getattr(_import_module(_ON_USE[name]), name)
    if name == "__version__":
        from ocikit._version import __version__  # noqa: PLC0415 - rarely used

        return __version__
    raise AttributeError(f"module 'ocikit' has no attribute {name!r}")
