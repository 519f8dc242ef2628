"""Prometheus metrics of all worker processes of a server."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ocikit.server.http.app import AccessRecord
from ocikit.server.http.request import Response
from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.combined import Storage

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from ocikit.server.process.cluster_metrics import ClusterMetrics
    from ocikit.server.storage.cluster.storage import ClusterStorage

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REDIRECT = 307

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})

#: Seconds: a tag lookup takes a millisecond, a large blob minutes.
_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0)


class Metrics:
    """Counters of this process, and a page with the sums of all processes.

    Counters start at 0 with each start of the server. The counts of a replaced worker remain.

    Args:
        folder: Folder that the processes share; each writes its counters there.
        storage: Storage whose uploads are counted.
        store: Folder of the storage, whose free disk space is measured; None for a storage without one.
    """

    def __init__(self, folder: Path, storage: Storage, store: Path | None) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram, values  # noqa: PLC0415 - optional package
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415 - optional package

        # The library opens its files in this folder. It names them after the process id, which a later worker can reuse
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        process = secrets.token_hex(8)
        values.ValueClass = values.MultiProcessValue(lambda: process)
        own = CollectorRegistry()
        self._requests = Counter("ocikit_requests", "Requests.", ("method", "endpoint", "status"), registry=own)
        self._seconds = Histogram(
            "ocikit_request_seconds", "Seconds of a request.", ("endpoint",), buckets=_BUCKETS, registry=own
        )
        self._received = Counter("ocikit_received_bytes", "Bytes of request bodies.", registry=own)
        self._sent = Counter("ocikit_sent_bytes", "Bytes of response bodies.", registry=own)
        self._redirects = Counter(
            "ocikit_redirects", "Blobs that clients were sent to the object store for.", registry=own
        )
        self._own = own
        self._cluster: ClusterMetrics | None = None
        self._all = CollectorRegistry()
        MultiProcessCollector(self._all, str(folder))
        self._all.register(_StorageCollector(storage, store))

    def add_cluster(self, storage: ClusterStorage) -> None:
        """Add the metrics of a registry in a database and an object store."""
        from ocikit.server.process.cluster_metrics import ClusterMetrics  # noqa: PLC0415 - not for a folder

        self._cluster = ClusterMetrics(storage, self._own)
        self._all.register(self._cluster)

    def update(self) -> None:
        """Add what the stores of this process have counted, so that the pages of other processes have it."""
        if self._cluster is not None:
            self._cluster.update()

    def count(self, record: AccessRecord) -> None:
        """Count a request."""
        method = record.method if record.method in _METHODS else "other"
        endpoint = _endpoint(record.path)
        status = f"{min(max(record.status // 100, 2), 5)}xx"
        self._requests.labels(method, endpoint, status).inc()
        self._seconds.labels(endpoint).observe(record.seconds)
        self._received.inc(record.received)
        self._sent.inc(record.sent)
        if record.status == _REDIRECT:
            self._redirects.inc()

    def page(self) -> Response:
        """Return the metrics of all processes in the Prometheus text format."""
        from prometheus_client import generate_latest  # noqa: PLC0415 - optional package

        self.update()
        text = generate_latest(self._all)
        headers = (("Content-Type", _CONTENT_TYPE), ("Content-Length", str(len(text))), ("Cache-Control", "no-store"))
        return Response(200, headers, [text])


class _StorageCollector:
    """Gauges of the storage, measured when the page is requested."""

    def __init__(self, storage: Storage, store: Path | None) -> None:
        self._storage = storage
        self._store = store

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415 - optional package

        with contextlib.suppress(Unavailable):
            yield GaugeMetricFamily("ocikit_uploads", "Uploads in progress.", self._storage.uploads.count())
        if self._store is not None:
            free = shutil.disk_usage(self._store).free
            yield GaugeMetricFamily("ocikit_disk_free_bytes", "Free bytes on the disk of the storage.", free)


def _endpoint(path: str) -> str:
    """Return the kind of endpoint of a path (distribution-spec spec.md#endpoints)."""
    parts = path.split("/")
    if parts[:2] != ["", "v2"]:
        return "other"
    if len(parts) < 4:
        return {"": "base", "_catalog": "catalog"}.get("".join(parts[2:]), "other")
    if "uploads" in parts[-2:] and "blobs" in parts[-3:-1]:
        return "uploads"
    return parts[-2] if parts[-2] in {"tags", "referrers", "manifests", "blobs"} else "other"
