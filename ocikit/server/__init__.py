"""A registry for others: a WSGI application, its storage, and who may do what.

>>> from ocikit.server import Application, memory_storage
>>> application = Application(memory_storage())
"""

from ocikit.server.access import Access, Identity, Need, OpenAccess
from ocikit.server.app import Application, Record
from ocikit.server.collect import Collection, collect
from ocikit.server.files import file_storage
from ocikit.server.memory import memory_storage
from ocikit.server.message import Request, Response
from ocikit.server.refusal import Refusal
from ocikit.server.settings import Limits, Settings
from ocikit.server.storage import BlobStore, Metadata, Storage, UploadStore

__all__ = [
    "Access",
    "Application",
    "BlobStore",
    "Collection",
    "Identity",
    "Limits",
    "Metadata",
    "Need",
    "OpenAccess",
    "Record",
    "Refusal",
    "Request",
    "Response",
    "Settings",
    "Storage",
    "UploadStore",
    "collect",
    "file_storage",
    "memory_storage",
]
