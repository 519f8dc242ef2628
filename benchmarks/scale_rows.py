"""Requests to a registry with millions of rows in PostgreSQL compared with a small one: `python -m benchmarks scale_rows`.

Fills two databases with synthetic rows (`benchmarks.synthetic`): `--large` and `--small` blobs, with twice as many tags. Then
sends the same requests to both in turn, through the application and without a server, and prints:

- the latency of each request, and its ratio to the small database;
- each statement that PostgreSQL received, as its module auto_explain logs it, with the plan, and the pages that it read; scans of
  whole tables are marked;
- the time of a sweep with nothing to do;
- the bytes of a row in each table and index, and what `--paper` blobs would take.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from attrs import define, field

from benchmarks import synthetic
from benchmarks.clients import MANIFEST, digest_of
from benchmarks.measure import machine
from ocikit.server import Application, Settings
from ocikit.server.http.settings import Limits
from ocikit.server.storage.cluster.migrations import migrate
from ocikit.server.storage.cluster.storage import ClusterStorage, cluster_storage
from ocikit.server.storage.cluster.sweep import sweep
from tests.support import postgres
from tests.support.wsgi import Registry

#: Settings of a server that fills millions of rows fast.
_SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "maintenance_work_mem": "512MB",
}

#: Tables that may be read as a whole, because they stay small.
_SMALL_TABLES = frozenset({"alembic_version", "secrets", "leases"})

#: Groups of manifests whose repositories have a quota.
_LIMITED = 40

#: More rows than this that an index found and a filter dropped are marked.
_MANY_ROWS = 200

_EXPLAIN = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_format": "json",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_nested_statements": "on",
}


# The synthetic rows, as the requests need them ------------------------------------------------------------------------------------


def blob(n: int) -> str:
    return digest_of(f"blob {n}".encode())


def layer(digest: str, kind: str = "layer.v1.tar+gzip") -> str:
    return f'{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":1048576}}'


def document(j: int) -> bytes:
    """Return the manifest that `benchmarks.synthetic` makes."""
    first = j * synthetic.LAYERS
    layers = [
        digest_of(f"shared {j % synthetic.SHARED}".encode()),
        *(blob(first + n) for n in range(1, synthetic.LAYERS)),
    ]
    text = (
        '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":'
        f'{layer(blob(first), "config.v1+json")},"layers":[{",".join(map(layer, layers))}]'
    )
    if j % synthetic.GROUP == synthetic.GROUP - 1:
        subject = digest_of(document(j - synthetic.GROUP + 1))
        text += f',"artifactType":"application/x-signature","subject":{layer(subject, "manifest.v1+json")}'
    return (text + "}").encode()


def repository(j: int, blobs: int) -> str:
    """Return the name of the repository of a manifest."""
    group = j // synthetic.GROUP
    if group % synthetic.SKEW == 0:
        return synthetic.LARGE
    n = 2 + group % (synthetic.repositories_of(blobs) - 1)
    return f"team-{n % 97}/service-{n}"


# Requests -----------------------------------------------------------------------------------------------------------------------


@define(eq=False)
class Place:
    """A filled database with a registry."""

    blobs: int
    url: str
    folder: Path
    seconds: dict[str, list[float]] = field(factory=dict)
    storage: ClusterStorage = field(init=False)
    registry: Registry = field(init=False)
    limited: Registry = field(init=False)

    def open(self) -> None:
        """Open the storage, with new connections."""
        (self.folder / "objects").mkdir(parents=True, exist_ok=True)
        self.storage = cluster_storage(
            self.url, (self.folder / "objects").as_uri(), state=self.folder / "state", pool=1
        )
        self.registry = Registry(Application(self.storage, settings=Settings()))
        self.limited = Registry(Application(self.storage, settings=Settings(limits=Limits(repository=1 << 50))))

    def close(self) -> None:
        self.storage.close()

    def pick(self, dice: random.Random) -> int:
        """Return a manifest without a subject: one in two is in the large repository."""
        groups = self.blobs // synthetic.LAYERS // synthetic.GROUP
        if dice.random() < 0.5:
            group = dice.randrange(groups // synthetic.SKEW) * synthetic.SKEW
        else:
            group = dice.randrange(groups)
        return group * synthetic.GROUP + dice.randrange(synthetic.GROUP - 1)

    def send(
        self,
        what: str,
        method: str,
        path: str,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        expect: int = 200,
    ) -> Any:
        """Send a request and keep its time under a name."""
        registry = self.limited if what.endswith("quota") else self.registry
        begun = time.perf_counter()
        answer = registry(method, path, headers, body)
        self.seconds.setdefault(what, []).append(time.perf_counter() - begun)
        if answer.status != expect:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.body[:300]!r}")
        return answer

    def reads(self, dice: random.Random) -> None:
        """Send one of each request that reads."""
        j = self.pick(dice)
        at = f"/v2/{repository(j, self.blobs)}"
        tag = f"v{j}.{dice.randrange(synthetic.TAGS)}"
        digest, part = digest_of(document(j)), blob(j * synthetic.LAYERS + 1)
        accept = [("Accept", MANIFEST)]
        subject = digest_of(document(j - j % synthetic.GROUP))
        self.send("GET manifest by tag", "GET", f"{at}/manifests/{tag}", accept)
        self.send("HEAD manifest by tag", "HEAD", f"{at}/manifests/{tag}", accept)
        self.send("GET manifest by digest", "GET", f"{at}/manifests/{digest}", accept)
        self.send("GET manifest, missing tag", "GET", f"{at}/manifests/missing", accept, expect=404)
        self.send("HEAD blob", "HEAD", f"{at}/blobs/{part}")
        self.send("HEAD blob, missing", "HEAD", f"{at}/blobs/{digest_of(tag.encode())}", expect=404)
        self.send("list 100 tags after one", "GET", f"{at}/tags/list?n=100&last={tag}")
        self.send("list 100 tags", "GET", f"{at}/tags/list?n=100")
        self.send("list 100 repositories", "GET", f"/v2/_catalog?n=100&last={repository(j, self.blobs)}")
        self.send("list referrers", "GET", f"{at}/referrers/{subject}")
        self.send("list referrers of a type", "GET", f"{at}/referrers/{subject}?artifactType=application/x-signature")

    def measure(self) -> float:
        """Send the first request with a quota to each repository that gets one, and return the longest time in seconds."""
        times = []
        for group in range(_LIMITED):
            begun = time.perf_counter()
            path = f"/v2/{repository(group * synthetic.GROUP, self.blobs)}/blobs/uploads/"
            started = self.send("first quota", "POST", path, expect=202).headers["location"]
            times.append(time.perf_counter() - begun)
            self.send("DELETE upload", "DELETE", started, expect=204)
        return max(times)

    def writes(self, dice: random.Random) -> None:
        """Send one of each request that writes; what they add is deleted, except for content."""
        j, other = self.pick(dice), self.pick(dice)
        at, source = f"/v2/{repository(j, self.blobs)}", repository(other, self.blobs)
        data, mark = os.urandom(4096), os.urandom(8).hex()  # not those of another run
        digest, present, mounted = digest_of(data), blob(j * synthetic.LAYERS), blob(other * synthetic.LAYERS + 2)
        uploads = f"{at}/blobs/uploads/"
        started = self.send("POST upload", "POST", uploads, expect=202).headers["location"]
        appended = self.send("PATCH upload", "PATCH", started, body=data, expect=202).headers["location"]
        self.send("GET upload", "GET", appended, expect=204)
        separator = "&" if "?" in appended else "?"
        self.send("PUT upload: new blob", "PUT", f"{appended}{separator}digest={digest}", expect=201)
        self.send("GET blob", "GET", f"{at}/blobs/{digest}")
        limited = repository(dice.randrange(_LIMITED) * synthetic.GROUP, self.blobs)
        started = self.send("POST upload, quota", "POST", f"/v2/{limited}/blobs/uploads/", expect=202).headers[
            "location"
        ]
        self.send("DELETE upload", "DELETE", started, expect=204)
        self.send("POST whole blob", "POST", f"{uploads}?digest={digest_of(data[1:])}", body=data[1:], expect=201)
        self.send(
            "POST whole blob, present", "POST", f"{uploads}?digest={digest_of(data[1:])}", body=data[1:], expect=201
        )
        self.send("mount", "POST", f"{uploads}?mount={mounted}&from={source}", expect=201)
        value = json.loads(document(j))
        value.pop("subject", None)
        raw = json.dumps(value | {"annotations": {"mark": mark}}).encode()
        typed = [("Content-Type", MANIFEST)]
        self.send("PUT manifest + tag", "PUT", f"{at}/manifests/new-{mark}", typed, raw, expect=201)
        self.send("PUT manifest, present", "PUT", f"{at}/manifests/new-{mark}", typed, raw, expect=201)
        next_raw = raw.replace(b'"mark"', b'"next"')
        expected = ("If-Match", f'"{digest_of(raw)}"')
        self.send(
            "PUT manifest if match", "PUT", f"{at}/manifests/new-{mark}", [*typed, expected], next_raw, expect=201
        )
        absent = ("If-None-Match", "*")
        self.send("PUT manifest if none", "PUT", f"{at}/manifests/other-{mark}", [*typed, absent], raw, expect=201)
        subject = layer(digest_of(document(j)), "manifest.v1+json")
        signed = raw[:-1] + f',"subject":{subject},"artifactType":"application/x"}}'.encode()
        self.send("PUT referrer", "PUT", f"{at}/manifests/{digest_of(signed)}", typed, signed, expect=201)
        config = layer(digest_of(data[1:]), "config.v1+json")
        small = f'{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[],"annotations":{{"n":"{mark}"}}}}'
        self.send(
            "POST whole blob, quota",
            "POST",
            f"/v2/{limited}/blobs/uploads/?digest={digest_of(data[1:])}",
            body=data[1:],
            expect=201,
        )
        to = f"/v2/{limited}/manifests/{digest_of(small.encode())}"
        self.send("PUT manifest, quota", "PUT", to, typed, small.encode(), expect=201)
        self.send("DELETE manifest", "DELETE", to, expect=202)
        self.send("DELETE tag", "DELETE", f"{at}/manifests/other-{mark}", expect=202)
        for each in (raw, next_raw, signed):
            self.send("DELETE manifest", "DELETE", f"{at}/manifests/{digest_of(each)}", expect=202)
        self.send("DELETE blob", "DELETE", f"{at}/blobs/{digest}", expect=202)
        self.send("DELETE blob in use", "DELETE", f"{at}/blobs/{present}", expect=405)


# Plans --------------------------------------------------------------------------------------------------------------------------


@define
class Statement:
    """A statement as PostgreSQL ran it."""

    text: str
    pages: list[int] = field(factory=list)
    nodes: set[str] = field(factory=set)
    marks: set[str] = field(factory=set)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def plans(log: str) -> Iterator[dict[str, Any]]:
    """Yield what auto_explain logged."""
    for entry in re.findall(r"LOG:  duration: [\d.]+ ms  plan:\n((?:\t.*\n)+)", log):
        yield json.loads(entry)


def collect(log: str, known: dict[str, Statement]) -> None:
    """Add the statements of a log by their text."""
    for entry in plans(log):
        text = " ".join(re.sub(r"'(?:[^']|'')*'", "'…'", entry["Query Text"]).split())
        statement = known.setdefault(text, Statement(text))
        plan = entry["Plan"]
        statement.pages.append(plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0))
        for node in nodes(plan):
            kind, table = node["Node Type"], node.get("Relation Name", "")
            if kind in {"Seq Scan", "Bitmap Heap Scan", "Index Scan", "Index Only Scan"}:
                name = node.get("Index Name", "")
                statement.nodes.add(f"{kind} {name or table}")
            if kind == "Seq Scan" and table not in _SMALL_TABLES:
                statement.marks.add(f"SCAN OF {table}")
            dropped = node.get("Rows Removed by Filter", 0)
            if dropped > _MANY_ROWS:
                statement.marks.add(f"{dropped} rows of {table} dropped")


def explained(
    server: psycopg.Connection[Any], place: Place, log: Path, work: Callable[[], None]
) -> dict[str, Statement]:
    """Run requests on new connections whose statements PostgreSQL explains."""
    name = place.url.rpartition("/")[2]
    for setting, value in _EXPLAIN.items():
        server.execute(f"ALTER DATABASE \"{name}\" SET {setting} = '{value}'")
    place.close()
    place.open()
    start = log.stat().st_size
    try:
        work()
    finally:
        place.close()
        for setting in _EXPLAIN:
            server.execute(f'ALTER DATABASE "{name}" RESET {setting}')
        place.open()
    with log.open("rb") as file:
        file.seek(start)
        known: dict[str, Statement] = {}
        collect(file.read().decode(errors="replace"), known)
    return known


# Tables -------------------------------------------------------------------------------------------------------------------------


def report_latencies(small: Place, large: Place) -> None:
    """Print the latencies of the requests."""
    print(f"\n| request | {small.blobs} p50 ms | {large.blobs} p50 ms | ratio | p95 ms | p95 ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for what, times in small.seconds.items():
        cells = []
        for share in (50, 95):
            one, other = (statistics.quantiles(each, n=100)[share - 1] * 1000 for each in (times, large.seconds[what]))
            cells += [f"{one:.2f}", f"{other:.2f}", f"{other / one:.2f}"]
        print(f"| {what} | {' | '.join(cells)} |")


def report_plans(small: dict[str, Statement], large: dict[str, Statement]) -> int:
    """Print the statements, the worst ones first, and return the number of marked ones."""
    marked = [statement for statement in large.values() if statement.marks]
    print(f"\n{len(large)} statements, {len(marked)} marked\n\n| pages small | large | marks | nodes | statement |")
    print("|---|---|---|---|---|")
    for statement in sorted(large.values(), key=lambda each: (not each.marks, -statistics.median(each.pages))):
        other = small.get(statement.text)
        pages = f"{statistics.median(other.pages):.0f}" if other else "-"
        print(
            f"| {pages} | {statistics.median(statement.pages):.0f} | {', '.join(sorted(statement.marks))} "
            f"| {', '.join(sorted(statement.nodes))} | {statement.text[:160]} |"
        )
    return len(marked)


_SIZES = """
SELECT c.relname AS table, c.reltuples::bigint AS rows, pg_table_size(c.oid) AS bytes, i.indexrelid::regclass::text AS index,
    pg_relation_size(i.indexrelid) AS index_bytes
FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.reltuples > 0 ORDER BY 3 DESC, 5 DESC
"""


def report_sizes(connection: psycopg.Connection[Any], blobs: int, paper: int) -> None:
    """Print the bytes of a row, and of all tables with so many blobs on paper."""
    tables: dict[str, tuple[int, int, list[tuple[str, int]]]] = {}
    for table, rows, size, index, index_size in connection.execute(_SIZES):
        entry = tables.setdefault(table, (rows, size, []))
        if index:
            entry[2].append((index, index_size))
    print(
        f"\n| table | rows | bytes a row | indexes, bytes a row | MB | GB at {paper:,} blobs |\n|---|---|---|---|---|---|"
    )
    total = 0.0
    for table, (rows, size, indexes) in tables.items():
        if table in {"review", "garbage", "failures", "uploads", "alembic_version"}:
            continue
        every = size + sum(each for _, each in indexes)
        total += every * paper / blobs
        names = " + ".join(f"{each / rows:.0f} {name}" for name, each in indexes)
        print(
            f"| {table} | {rows:,} | {size / rows:.0f} | {names} | {every / 1e6:.0f} | {every * paper / blobs / 1e9:.1f} |"
        )
    print(f"| together | | | | | {total / 1e9:.0f} |")


def sweeps(place: Place, rounds: int) -> float:
    """Return the median seconds of a sweep with nothing to do."""
    sweep(place.storage, grace=3600)
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        sweep(place.storage, grace=3600)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


@contextmanager
def server_of(url: str | None) -> Iterator[tuple[str, Path]]:
    """Start PostgreSQL, or use a running one; yield the superuser's URL and the log."""
    if url:
        base, _, log = url.partition("#")
        yield base, Path(log)
        return
    with postgres.running(settings=_SETTINGS) as server:
        yield server.url("postgres", user="postgres"), server.service.log


def prepared(admin: psycopg.Connection[Any], base: str, blobs: int) -> str:
    """Return the URL of a database with so many blobs, which is filled first if it does not exist."""
    name = f"rows_{blobs}"
    url = base.rpartition("/")[0].replace("postgres@", f"{postgres.ROLE}@") + f"/{name}"
    if admin.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
        admin.execute(f"CREATE DATABASE {name} OWNER {postgres.ROLE}")
        migrate(url)
        with psycopg.connect(base.rpartition("/")[0] + f"/{name}", autocommit=True) as connection:
            synthetic.fill(connection, blobs, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    return url


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale_rows", description=__doc__)
    parser.add_argument("--small", type=int, default=50_000, help="blobs")
    parser.add_argument("--large", type=int, default=5_000_000, help="blobs")
    parser.add_argument("--paper", type=int, default=100_000_000, help="blobs on paper")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument(
        "--server", metavar="URL#LOG", help="superuser's URL and log of a running server that keeps its databases"
    )
    options = parser.parse_args()
    dice = random.Random(1)  # noqa: S311 - the same requests in each run
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocikit-rows-")))
        base, log = stack.enter_context(server_of(options.server))
        admin = stack.enter_context(psycopg.connect(base, autocommit=True))
        places = [
            Place(count, prepared(admin, base, count), folder / str(count)) for count in (options.small, options.large)
        ]
        print(f"rounds: {options.rounds}; {machine(sha=True)}", flush=True)
        for place in places:
            place.open()
            print(f"{place.blobs}: the longest first request with a quota: {place.measure():.2f} s", flush=True)
        for turn in range(options.rounds + 20):
            for place in places if turn % 2 else list(reversed(places)):
                place.reads(dice)
                place.writes(dice)
            if turn == 19:  # pages and plans are warm
                for place in places:
                    place.seconds.clear()
        small, large = places
        report_latencies(small, large)
        print("\na sweep with nothing to do: " + ", ".join(f"{sweeps(place, 10) * 1000:.1f} ms" for place in places))
        found = []
        for place in places:

            def work(at: Place = place) -> None:
                for _ in range(20):  # PostgreSQL chooses a generic plan after five executions
                    at.reads(dice)
                    at.writes(dice)
                    sweep(at.storage, grace=3600)

            found.append(explained(admin, place, log, work))
        report_plans(*found)
        with psycopg.connect(base.rpartition("/")[0] + f"/rows_{options.large}", autocommit=True) as connection:
            report_sizes(connection, options.large, options.paper)
        for place in places:
            place.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
