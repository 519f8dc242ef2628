"""Registry server: a WSGI application with storage and access control.

>>> from ocikit.server import Application, memory_storage
>>> application = Application(memory_storage())
"""

from ocikit.server.auth.access import ANONYMOUS, Access, Identity, OpenAccess, Permission, Problem
from ocikit.server.auth.basic import HtpasswdAccess
from ocikit.server.auth.factory import access_from
from ocikit.server.auth.rules import Rule, Rules
from ocikit.server.auth.tokens import TokenAccess
from ocikit.server.http.app import AccessRecord, Application
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Request, Response
from ocikit.server.http.settings import Limits, Settings
from ocikit.server.storage.base import BlobStore, Metadata, UploadStore
from ocikit.server.storage.combined import Storage
from ocikit.server.storage.files import file_storage
from ocikit.server.storage.gc import gc
from ocikit.server.storage.memory import memory_storage
from ocikit.server.storage.verify import verify
from ocikit.store.results import GCResult, VerifyResult

__all__ = [
    "ANONYMOUS",
    "Access",
    "AccessRecord",
    "Application",
    "BlobStore",
    "ErrorResponse",
    "GCResult",
    "HtpasswdAccess",
    "Identity",
    "Limits",
    "Metadata",
    "OpenAccess",
    "Permission",
    "Problem",
    "Request",
    "Response",
    "Rule",
    "Rules",
    "Settings",
    "Storage",
    "TokenAccess",
    "UploadStore",
    "VerifyResult",
    "access_from",
    "file_storage",
    "gc",
    "memory_storage",
    "verify",
]
