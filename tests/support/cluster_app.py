"""A registry on PostgreSQL and an object store as an application of any WSGI server.

METADATA=postgresql://… BLOBS=s3://… STATE=./state granian --interface wsgi --factory tests.support.cluster_app:registry
"""

import os
from pathlib import Path

from ocikit.server import Application
from ocikit.server.storage.cluster.storage import cluster_storage


def registry():
    """Return the application for a WSGI server."""
    storage = cluster_storage(os.environ["METADATA"], os.environ["BLOBS"], state=Path(os.environ["STATE"]))
    return Application(storage)
