"""Metrics of a registry in a database and an object store."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ocikit.server.process.stores import CLOCK_SKEW
from ocikit.server.storage.base import Unavailable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from ocikit.server.storage.cluster.storage import ClusterStorage

_log = logging.getLogger("ocikit.server")

#: Rows that are counted at most: a page of metrics must not read a large table.
_COUNTED = 100_000

#: What the rows tell of the work that waits. Each part reads a few index entries, or `_COUNTED` at most.
_STATE = f"""
SELECT
    extract(epoch FROM clock_timestamp())::float8 AS now,
    (SELECT count(*) FROM (SELECT FROM garbage WHERE after < now() LIMIT {_COUNTED}) AS due)::float8 AS garbage,
    (SELECT coalesce(greatest(extract(epoch FROM now() - min(after)), 0), 0) FROM garbage)::float8 AS garbage_oldest,
    (SELECT coalesce(greatest(extract(epoch FROM now() - min(after)), 0), 0) FROM review)::float8 AS review_oldest,
    (SELECT coalesce(greatest(extract(epoch FROM now() - min(after)), 0), 0) FROM copies)::float8 AS copies_oldest,
    (SELECT count(*) FROM (SELECT FROM uploads WHERE lease > now() LIMIT {_COUNTED}) AS leased)::float8 AS leased,
    (SELECT version_num FROM alembic_version LIMIT 1) AS version
"""  # noqa: S608 - a constant

#: Gauges from `_STATE`.
_GAUGES = {
    "garbage": ("ocikit_garbage_keys", "Objects that may be deleted now, 100000 at most."),
    "garbage_oldest": ("ocikit_garbage_oldest_seconds", "Seconds since the oldest object could have been deleted."),
    "review_oldest": ("ocikit_review_oldest_seconds", "Seconds that the oldest entry of garbage collection waits."),
    "copies_oldest": ("ocikit_copies_oldest_seconds", "Seconds that the oldest copy of a manifest or tag waits."),
    "leased": ("ocikit_uploads_leased", "Uploads that a request writes to now."),
}

#: Counters of the process, summed over all: the name of a counter, its help, its label, and the object with its counts.
_COUNTERS = (
    ("ocikit_db_calls", "Calls of the database.", "op", "database", "calls"),
    (
        "ocikit_db_seconds",
        "Seconds of calls of the database, with retries and the wait for a connection.",
        "op",
        "database",
        "seconds",
    ),
    ("ocikit_db_retries", "Further attempts of calls of the database.", "sqlstate", "database", "retries"),
    ("ocikit_db_failures", "Calls that the database did not answer.", "sqlstate", "database", "failures"),
    ("ocikit_objects_calls", "Calls of the object store.", "op", "objects", "calls"),
    (
        "ocikit_objects_seconds",
        "Seconds of calls of the object store, without those of reading a body.",
        "op",
        "objects",
        "seconds",
    ),
    ("ocikit_objects_failures", "Calls that the object store did not answer.", "op", "objects", "failures"),
)


class ClusterMetrics:
    """Counters of this process, and gauges of the stores that all processes share.

    Args:
        storage: The storage of the process.
        registry: Where the counters of the process are registered.
    """

    def __init__(self, storage: ClusterStorage, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter as PrometheusCounter  # noqa: PLC0415 - optional package

        self._storage = storage
        self._counters = [
            (PrometheusCounter(name, text, (label,), registry=registry), owner, counts, Counter[str]())
            for name, text, label, owner, counts in _COUNTERS
        ]
        self._warned = False

    def update(self) -> None:
        """Add what was counted since the last call, so that the pages of all processes have it."""
        for counter, owner, counts, seen in self._counters:
            current: Mapping[str, float] = getattr(getattr(self._storage, owner).statistics, counts)
            for label, value in list(current.items()):
                if (grown := value - seen[label]) > 0:
                    counter.labels(label).inc(grown)
                    seen[label] = value  # type: ignore[assignment]  # counts of seconds are floats

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges, measured now."""
        from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415 - optional package

        database = self._storage.database
        in_use = database.connections_in_use
        yield GaugeMetricFamily(
            "ocikit_db_connections_in_use", "Connections in use, of the process that answers.", in_use
        )
        yield GaugeMetricFamily(
            "ocikit_db_connections", "Connections at most, of the process that answers.", database.pool
        )
        state = self._state()
        available = 0 if state is None else 1
        yield GaugeMetricFamily("ocikit_db_available", "Whether the database answers.", available)
        if state is None:
            return
        row, skew = state
        for column, (name, text) in _GAUGES.items():
            yield GaugeMetricFamily(name, text, getattr(row, column))
        yield GaugeMetricFamily("ocikit_clock_skew_seconds", "Clock of the database, less that of this machine.", skew)
        if row.version.isdecimal():
            yield GaugeMetricFamily("ocikit_schema_version", "Version of the tables.", int(row.version))

    def _state(self) -> tuple[Any, float] | None:
        """Return the row of `_STATE` and the clock skew; None while the database is away."""
        started = time.time()
        try:
            row = self._storage.database.row(_STATE)
        except Unavailable:
            return None
        skew = row.now - (started + time.time()) / 2
        if abs(skew) > CLOCK_SKEW and not self._warned:
            self._warned = True
            _log.warning(
                "the clock of this machine differs by %.0f s from that of the database; check its time service", skew
            )
        return row, skew
