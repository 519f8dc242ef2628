"""Numbers for Prometheus, in its text format, as prometheus.io/docs/instrumenting/exposition_formats has it.

Every worker process counts in a file of its own that all of them can read: whoever is asked adds them up. What a worker
counted stays when it is replaced. Counters begin at 0 with each start of the server.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path

from ocikit.server.http.app import AccessRecord
from ocikit.server.http.request import Response
from ocikit.server.storage.base import Storage

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other")
_KINDS = ("base", "catalog", "tags", "referrers", "manifests", "blobs", "uploads", "other")
_STATUSES = ("2xx", "3xx", "4xx", "5xx")

#: Seconds: a tag is found in a millisecond, a large blob takes minutes.
_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0)

#: Where numbers stand: requests by method, kind and status; seconds by kind: buckets, all, sum; bytes in and out.
_SECONDS = len(_METHODS) * len(_KINDS) * len(_STATUSES)
_EACH = len(_BUCKETS) + 2
_BYTES = _SECONDS + len(_KINDS) * _EACH
_ALL = _BYTES + 2

_PREFIX = "metrics-"


class Metrics:
    """Counts requests of this process, and tells about all.

    Args:
        folder: that the processes share; each makes a file in it.
        storage: what is told about, too: uploads under way, and room on the disk.
        store: the folder of the storage.
    """

    def __init__(self, folder: Path, storage: Storage, store: Path) -> None:
        self._folder = folder
        self._storage = storage
        self._store = store
        self._lock = threading.Lock()
        fd, _ = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
        try:
            os.ftruncate(fd, _ALL * 8)
            self._mine = memoryview(mmap.mmap(fd, _ALL * 8)).cast("d")
        finally:
            os.close(fd)

    def told(self, record: AccessRecord) -> None:
        """Count a request."""
        method = _METHODS.index(record.method) if record.method in _METHODS else len(_METHODS) - 1
        kind = _KINDS.index(_kind(record.path))
        status = min(max(record.status // 100 - 2, 0), len(_STATUSES) - 1)
        at = _SECONDS + kind * _EACH
        bucket = next((i for i, most in enumerate(_BUCKETS) if record.seconds <= most), len(_BUCKETS))
        with self._lock:
            self._mine[(method * len(_KINDS) + kind) * len(_STATUSES) + status] += 1
            self._mine[at + bucket] += 1
            self._mine[at + _EACH - 1] += record.seconds
            self._mine[_BYTES] += record.received
            self._mine[_BYTES + 1] += record.sent

    def page(self) -> Response:
        """All numbers."""
        text = "".join(f"{line}\n" for line in self._lines(self._sum())).encode()
        headers = (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"), ("Content-Length", str(len(text))))
        return Response(200, (*headers, ("Cache-Control", "no-store")), [text])

    def _sum(self) -> list[float]:
        total = [0.0] * _ALL
        for path in self._folder.glob(f"{_PREFIX}*"):
            numbers = array("d")
            numbers.frombytes(path.read_bytes())
            total = [a + b for a, b in zip(total, numbers, strict=False)] + total[len(numbers) :]
        return total

    def _lines(self, total: list[float]) -> Iterator[str]:
        yield "# TYPE ocikit_requests_total counter"
        numbers = iter(total)
        for method in _METHODS:
            for kind in _KINDS:
                for status in _STATUSES:
                    if number := next(numbers):
                        labels = f'method="{method}",endpoint="{kind}",status="{status}"'
                        yield f"ocikit_requests_total{{{labels}}} {number:.0f}"
        yield "# TYPE ocikit_request_seconds histogram"
        for place, kind in enumerate(_KINDS):
            at = _SECONDS + place * _EACH
            count = 0.0
            if not any(total[at : at + _EACH]):
                continue
            for most, number in zip((*_BUCKETS, "+Inf"), total[at : at + _EACH - 1], strict=True):
                count += number
                yield f'ocikit_request_seconds_bucket{{endpoint="{kind}",le="{most}"}} {count:.0f}'
            yield f'ocikit_request_seconds_sum{{endpoint="{kind}"}} {total[at + _EACH - 1]:.6f}'
            yield f'ocikit_request_seconds_count{{endpoint="{kind}"}} {count:.0f}'
        for name, kind, number in (
            ("received_bytes_total", "counter", total[_BYTES]),
            ("sent_bytes_total", "counter", total[_BYTES + 1]),
            ("uploads", "gauge", self._storage.uploads.count()),
            ("disk_free_bytes", "gauge", shutil.disk_usage(self._store).free),
        ):
            yield f"# TYPE ocikit_{name} {kind}"
            yield f"ocikit_{name} {number:.0f}"


def _kind(path: str) -> str:
    """Which endpoint a path is of: distribution-spec spec.md#endpoints."""
    parts = path.split("/")
    if parts[:2] != ["", "v2"]:
        return "other"
    if len(parts) < 4:
        return {"": "base", "_catalog": "catalog"}.get("".join(parts[2:]), "other")
    if "uploads" in parts[-2:] and "blobs" in parts[-3:-1]:
        return "uploads"
    return parts[-2] if parts[-2] in {"tags", "referrers", "manifests", "blobs"} else "other"
