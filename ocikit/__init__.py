"""Data sets, models and images in any OCI registry.

>>> import ocikit
>>> ocikit.Reference.parse("ghcr.io/org/model:v1").repository
'org/model'

Each name is imported on its first use, so `import ocikit` takes milliseconds. The errors are in `ocikit.errors`, and each of them here, too.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from ocikit import auth, errors
    from ocikit._version import __version__ as __version__
    from ocikit.api import (
        attach,
        cache,
        catalog,
        copy,
        delete,
        describe,
        diff,
        download,
        edit,
        exists,
        explore,
        fs,
        history,
        inspect,
        lineage,
        load,
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
    from ocikit.api import (
        open as open,  # noqa: A004 - ocikit.open reads as it does
    )
    from ocikit.auth import login, login_form, logout
    from ocikit.client.artifact import Artifact, File, Files
    from ocikit.client.describe import Descriptions
    from ocikit.client.edit import Edit
    from ocikit.client.listing import Listing, Tags
    from ocikit.client.plans import DeletePlan, EditPlan, TagPlan
    from ocikit.client.session import Session
    from ocikit.client.validate import ValidationReport
    from ocikit.data.diff import Diff
    from ocikit.data.history import History, Version
    from ocikit.data.lineage import Lineage
    from ocikit.data.watch import Watch
    from ocikit.descriptions.card import Card
    from ocikit.descriptions.model import Description
    from ocikit.dialects.model import Model
    from ocikit.errors import (
        BlobUnknown,
        Conflict,
        ConnectionFailed,
        ContentError,
        CopyError,
        CredentialsError,
        Denied,
        DigestMismatch,
        EditedFiles,
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
    from ocikit.folder.plan import FolderPlan
    from ocikit.layers.layer import LayerLimits
    from ocikit.layers.tar import TarEntry
    from ocikit.layers.unpack import Unpacked
    from ocikit.progress.base import Progress
    from ocikit.remote.auth.explanation import Explanation
    from ocikit.remote.auth.keychain import Credentials, Keychain
    from ocikit.remote.config.mirror import Mirror
    from ocikit.remote.config.network import Network
    from ocikit.remote.http.rate_limit import RateLimit
    from ocikit.remote.registry import Ping, Registry
    from ocikit.remote.repository import Repository
    from ocikit.server.process.options import ServerOptions
    from ocikit.server.process.serve import Server, serve
    from ocikit.spec.config import ImageConfig
    from ocikit.spec.descriptor import Descriptor
    from ocikit.spec.digest import Digest
    from ocikit.spec.manifest import Index, Manifest
    from ocikit.spec.platform import Platform
    from ocikit.spec.reference import AnyReference, LayoutReference, Reference
    from ocikit.store.cache.cache import Cache
    from ocikit.store.cache.prune import PrunePlan
    from ocikit.store.cache.scan import CacheInfo
    from ocikit.store.layout.layout import Layout
    from ocikit.store.memory import MemoryStore
    from ocikit.store.results import CorruptBlob, GCResult, VerifyResult
    from ocikit.transfer.run import Plan

# `open` is not in it, because `from ocikit import *` must not replace a builtin function
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
    "EditedFiles",
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
    "Tags",
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
    "errors",
    "exists",
    "explore",
    "fs",
    "history",
    "inspect",
    "lineage",
    "load",
    "login",
    "login_form",
    "logout",
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

#: The module of each name. `auth` and `errors` are modules themselves.
_MODULES = {
    "AnyReference": "ocikit.spec.reference",
    "Artifact": "ocikit.client.artifact",
    "BlobUnknown": "ocikit.errors",
    "Cache": "ocikit.store.cache.cache",
    "CacheInfo": "ocikit.store.cache.scan",
    "Card": "ocikit.descriptions.card",
    "Conflict": "ocikit.errors",
    "ConnectionFailed": "ocikit.errors",
    "ContentError": "ocikit.errors",
    "CopyError": "ocikit.errors",
    "CorruptBlob": "ocikit.store.results",
    "Credentials": "ocikit.remote.auth.keychain",
    "CredentialsError": "ocikit.errors",
    "DeletePlan": "ocikit.client.plans",
    "Denied": "ocikit.errors",
    "Description": "ocikit.descriptions.model",
    "Descriptions": "ocikit.client.describe",
    "Descriptor": "ocikit.spec.descriptor",
    "Diff": "ocikit.data.diff",
    "Digest": "ocikit.spec.digest",
    "DigestMismatch": "ocikit.errors",
    "Edit": "ocikit.client.edit",
    "EditPlan": "ocikit.client.plans",
    "EditedFiles": "ocikit.errors",
    "Explanation": "ocikit.remote.auth.explanation",
    "File": "ocikit.client.artifact",
    "FileNotInArtifact": "ocikit.errors",
    "Files": "ocikit.client.artifact",
    "FolderPlan": "ocikit.folder.plan",
    "GCResult": "ocikit.store.results",
    "History": "ocikit.data.history",
    "ImageConfig": "ocikit.spec.config",
    "InUse": "ocikit.errors",
    "Index": "ocikit.spec.manifest",
    "InvalidArgument": "ocikit.errors",
    "InvalidDigest": "ocikit.errors",
    "InvalidDocument": "ocikit.errors",
    "InvalidReference": "ocikit.errors",
    "InvalidResponse": "ocikit.errors",
    "Keychain": "ocikit.remote.auth.keychain",
    "LayerLimits": "ocikit.layers.layer",
    "Layout": "ocikit.store.layout.layout",
    "LayoutReference": "ocikit.spec.reference",
    "Lineage": "ocikit.data.lineage",
    "Listing": "ocikit.client.listing",
    "Manifest": "ocikit.spec.manifest",
    "ManifestBlobUnknown": "ocikit.errors",
    "ManifestUnknown": "ocikit.errors",
    "MemoryStore": "ocikit.store.memory",
    "Mirror": "ocikit.remote.config.mirror",
    "Model": "ocikit.dialects.model",
    "NameUnknown": "ocikit.errors",
    "Network": "ocikit.remote.config.network",
    "NoMatchingPlatform": "ocikit.errors",
    "NotFound": "ocikit.errors",
    "OcikitError": "ocikit.errors",
    "OfflineError": "ocikit.errors",
    "Ping": "ocikit.remote.registry",
    "Plan": "ocikit.transfer.run",
    "Platform": "ocikit.spec.platform",
    "Progress": "ocikit.progress.base",
    "PrunePlan": "ocikit.store.cache.prune",
    "RangeInvalid": "ocikit.errors",
    "RateLimit": "ocikit.remote.http.rate_limit",
    "RateLimited": "ocikit.errors",
    "Reference": "ocikit.spec.reference",
    "Registry": "ocikit.remote.registry",
    "RegistryError": "ocikit.errors",
    "Repository": "ocikit.remote.repository",
    "Server": "ocikit.server.process.serve",
    "ServerFailed": "ocikit.errors",
    "ServerOptions": "ocikit.server.process.options",
    "Session": "ocikit.client.session",
    "SizeMismatch": "ocikit.errors",
    "TagPlan": "ocikit.client.plans",
    "Tags": "ocikit.client.listing",
    "TarEntry": "ocikit.layers.tar",
    "TimedOut": "ocikit.errors",
    "TooLarge": "ocikit.errors",
    "Unauthorized": "ocikit.errors",
    "Unpacked": "ocikit.layers.unpack",
    "UnsafeArchive": "ocikit.errors",
    "UnsafeFormat": "ocikit.errors",
    "Unsupported": "ocikit.errors",
    "UnsupportedSchema1": "ocikit.errors",
    "UnverifiableDigest": "ocikit.errors",
    "UploadInvalid": "ocikit.errors",
    "UploadUnknown": "ocikit.errors",
    "ValidationReport": "ocikit.client.validate",
    "VerifyResult": "ocikit.store.results",
    "Version": "ocikit.data.history",
    "Watch": "ocikit.data.watch",
    "__version__": "ocikit._version",
    "attach": "ocikit.api",
    "cache": "ocikit.api",
    "catalog": "ocikit.api",
    "copy": "ocikit.api",
    "delete": "ocikit.api",
    "describe": "ocikit.api",
    "diff": "ocikit.api",
    "download": "ocikit.api",
    "edit": "ocikit.api",
    "exists": "ocikit.api",
    "explore": "ocikit.api",
    "fs": "ocikit.api",
    "history": "ocikit.api",
    "inspect": "ocikit.api",
    "lineage": "ocikit.api",
    "load": "ocikit.api",
    "login": "ocikit.auth",
    "login_form": "ocikit.auth",
    "logout": "ocikit.auth",
    "open": "ocikit.api",
    "pin": "ocikit.api",
    "ping": "ocikit.api",
    "pooch": "ocikit.api",
    "pull": "ocikit.api",
    "push": "ocikit.api",
    "referrers": "ocikit.api",
    "save": "ocikit.api",
    "scan": "ocikit.api",
    "serve": "ocikit.server.process.serve",
    "sql": "ocikit.api",
    "tag": "ocikit.api",
    "tags": "ocikit.api",
    "validate": "ocikit.api",
    "watch": "ocikit.api",
}

#: What to use instead of names that other programs have.
_GUESSES = {
    "cat": "ocikit.inspect(ref)[name].read_bytes()",
    "clone": "ocikit.pull(ref, folder)",
    "cp": "ocikit.copy(source, target)",
    "discover": "ocikit.referrers(ref)",
    "fetch": "ocikit.pull(ref)",
    "get": "ocikit.pull(ref)",
    "list": "ocikit.tags(ref) or ocikit.inspect(ref).files",
    "list_files": "ocikit.inspect(ref).files",
    "ls": "ocikit.inspect(ref).files",
    "manifest": "ocikit.inspect(ref).document",
    "put": "ocikit.push(ref, files)",
    "read": "ocikit.load(ref, name) or ocikit.open(ref, name)",
    "remove": "ocikit.delete(ref)",
    "resolve": "ocikit.pin(ref)",
    "rm": "ocikit.delete(ref)",
    "search": "ocikit.catalog(host)",
    "size": "ocikit.inspect(ref).size",
    "upload": "ocikit.push(ref, files)",
    "write": "ocikit.save(ref, object)",
}


def __dir__() -> list[str]:
    """Return the names for completion. The errors are left out: `errors` has them."""
    return sorted({*_MODULES, *__all__} - {name for name, module in _MODULES.items() if module == "ocikit.errors"})


if not _TYPE_CHECKING:  # a type checker would accept every name if it saw this function

    def __getattr__(name: str) -> object:
        """Import a name on its first use, or a module of this package."""
        if name in _MODULES:
            # Threads may do this at once, and all must get one object
            return globals().setdefault(name, getattr(_import_module(_MODULES[name]), name))
        if name.startswith("_") or not name.isidentifier():
            raise AttributeError(f"module 'ocikit' has no attribute {name!r}", name=name)
        try:
            return _import_module(f"ocikit.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"ocikit.{name}":
                raise
        from difflib import get_close_matches  # noqa: PLC0415 - only an error needs it

        hint = _GUESSES.get(name) or " or ".join(f"ocikit.{match}" for match in get_close_matches(name, _MODULES, 2))
        more = f"; use {hint}" if hint else ""
        # Without `obj`, an interpreter adds no suggestion of its own to this one
        raise AttributeError(f"module 'ocikit' has no attribute {name!r}{more}", name=name)
