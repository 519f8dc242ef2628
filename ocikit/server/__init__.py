"""A registry for others: a WSGI application, its storage, and who may do what.

>>> from ocikit.server import Application, memory_storage
>>> application = Application(memory_storage())
"""

from ocikit.server.access import ANONYMOUS, Access, Identity, Need, OpenAccess
from ocikit.server.admission import access_from
from ocikit.server.app import Application, Record
from ocikit.server.basic import HtpasswdAccess
from ocikit.server.collect import Collection, collect
from ocikit.server.files import file_storage
from ocikit.server.memory import memory_storage
from ocikit.server.message import Request, Response
from ocikit.server.refusal import Refusal
from ocikit.server.rules import Rule, Rules
from ocikit.server.settings import Limits, Settings
from ocikit.server.storage import BlobStore, Metadata, Storage, UploadStore
from ocikit.server.tokens import TokenAccess
from ocikit.server.verify import Verification, verify

__all__ = [
    "ANONYMOUS",
    "Access",
    "Application",
    "BlobStore",
    "Collection",
    "HtpasswdAccess",
    "Identity",
    "Limits",
    "Metadata",
    "Need",
    "OpenAccess",
    "Record",
    "Refusal",
    "Request",
    "Response",
    "Rule",
    "Rules",
    "Settings",
    "Storage",
    "TokenAccess",
    "UploadStore",
    "Verification",
    "access_from",
    "collect",
    "file_storage",
    "memory_storage",
    "verify",
]
