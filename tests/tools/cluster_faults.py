"""Faults of storage that several machines share: `python -m tests.tools.cluster_faults` prints a row of a Markdown table for each.

Each fault lost content, held up other machines or gave a wrong status in registries that keep rows in a database under one lock, content by its digest, and
sessions in files. Requests go to the WSGI application of each machine.
"""

import contextlib
import itertools
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from attrs import define, field
from ocikit.server import Application
from ocikit.server.storage.gc import gc
from psycopg import sql

from tests.support import postgres, s3, wsgi
from tests.support.tcp_proxy import TcpProxy

ROW = "| {} | {:<44} | {:<70} | {:<4} |"

#: Rows of content and blobs.
MANY = 200_000

#: URLs with a NUL.
NULS = (
    "/v2/_catalog?last=%00",
    "/v2/a/tags/list?last=%00",
    f"/v2/a/referrers/{wsgi.digest_of(b'')}?artifactType=%00",
    "/v2/a/manifests/%00",
    "/v2/%00/tags/list",
)

Answer = tuple[str, bool]


@define
class Collector:
    """A machine whose deletions of objects can be held or slowed down."""

    storage: object
    hold: Callable[[], None]
    release: Callable[[], None]
    slow: Callable[[float], None]


@define
class Stack:
    """Storage on PostgreSQL with an object store."""

    server: postgres.PostgresServer
    store: s3.S3Server
    folder: Path
    url: str = ""
    blobs: str = ""
    opened: list = field(factory=list)

    def fresh(self) -> None:
        """Use a new database and a new prefix."""
        self.url, self.blobs = self.server.create(migrated=True), self.store.url()

    def open(self, machine: int = 0, *, url: str | None = None, blobs: str | None = None, grace: float = 3600.0):
        """Return the storage of a machine."""
        from ocikit.server.storage.cluster.storage import cluster_storage

        state = self.folder / f"machine{machine}"
        state.mkdir(exist_ok=True)
        storage = cluster_storage(url or self.url, blobs or self.blobs, grace=grace, keep_deleted=0, state=state)
        self.opened.append(storage)
        return storage

    def app(self, machine: int = 0, **options) -> wsgi.Registry:
        """Return the application of a machine."""
        return wsgi.Registry(Application(self.open(machine, **options)))

    @contextmanager
    def collector(self) -> Iterator[Collector]:
        """Open a machine with a proxy before its object store."""
        with TcpProxy(int(self.store.endpoint.rpartition(":")[2])) as proxy:
            host = f"127.0.0.1:{proxy.port}"
            blobs = self.blobs.replace(self.store.host.replace(":", "%3A"), host.replace(":", "%3A"))
            storage = self.open(9, blobs=blobs, grace=0.0)
            yield Collector(
                storage,
                lambda: setattr(proxy, "black_hole", True),
                lambda: setattr(proxy, "black_hole", False),
                lambda seconds: setattr(proxy, "delay", seconds),
            )

    def fill(self, count: int) -> None:
        """Insert rows of blobs that a manifest uses."""
        with self.server.connect(self.url.rpartition("/")[2]) as connection:
            for words in _FILL:
                connection.execute(words, {"count": count})
            connection.execute("VACUUM ANALYZE")

    def close(self) -> None:
        """Close all storage."""
        while self.opened:
            self.opened.pop().close()


_FILL = (
    "INSERT INTO repositories (name) SELECT 'r' || n FROM generate_series(0, 99) n",
    "INSERT INTO content (digest, size, key) SELECT '\\x01'::bytea || sha256(n::text::bytea), 10, 'c/00/' || n"
    " FROM generate_series(1, %(count)s) n",
    "INSERT INTO content (digest, size, inline) SELECT '\\x01'::bytea || sha256(('m' || n)::bytea), 2, '{}'"
    " FROM generate_series(0, 99) n",
    "INSERT INTO manifests (repository, digest, media_type) SELECT id, '\\x01'::bytea || sha256(('m' || substr(name, 2))::bytea), 'x'"
    " FROM repositories",
    "INSERT INTO blobs (repository, digest) SELECT id, '\\x01'::bytea || sha256(n::text::bytea)"
    " FROM generate_series(1, %(count)s) n JOIN repositories ON name = 'r' || (n %% 100)",
    "INSERT INTO children (repository, manifest, child) SELECT b.repository, m.digest, b.digest FROM blobs b"
    " JOIN manifests m USING (repository)",
    "INSERT INTO tags (repository, name, digest) SELECT repository, 'v1', digest FROM manifests",
)


def late_deletion(stack: Stack) -> Answer:
    """A deletion of an object arrives after the content was pushed again."""
    app, raw = stack.app(1), b"precious"
    digest = app.blob(raw)["digest"]
    app("DELETE", f"/v2/{wsgi.NAME}/blobs/{digest}")
    with stack.collector() as collector:
        collector.hold()
        sweeping = threading.Thread(target=_quietly, args=(lambda: gc(collector.storage, grace=0),), daemon=True)
        sweeping.start()
        time.sleep(1.5)
        stack.server.cut_connections(stack.url.rpartition("/")[2])  # as a failover does
        time.sleep(0.5)
        statuses = []
        for _ in range(2):  # clients repeat requests
            statuses.append(app("POST", f"/v2/{wsgi.NAME}/blobs/uploads/?digest={digest}", body=raw).status)
        collector.release()
        sweeping.join(30)
        time.sleep(1)
        found = app("GET", f"/v2/{wsgi.NAME}/blobs/{digest}")
    return f"pushed again twice: {statuses}, then GET {found.status}", statuses == [201, 201] and found.body == raw


def clock_ahead(stack: Stack) -> Answer:
    """The clock of a machine is two hours ahead, and it collects."""
    app = stack.app(1)
    digest, there = app.blob(b"new")["digest"], stack.open(2)
    real = time.time
    with mock.patch("time.time", lambda: real() + 7200):
        gc(there, grace=3600)
    status = app("HEAD", f"/v2/{wsgi.NAME}/blobs/{digest}").status
    return f"HEAD of a blob that was pushed just before: {status}", status == 200


def slow_deletion(stack: Stack) -> Answer:
    """Deletions of objects take 50 ms, while another machine writes."""
    app = stack.app(1)
    for n in range(150):
        digest = app.blob(b"old %d" % n)["digest"]
        app("DELETE", f"/v2/{wsgi.NAME}/blobs/{digest}")
    counter = itertools.count()

    def writes(seconds: float) -> tuple[float, float]:
        times, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            begun = time.monotonic()
            app("PUT", f"/v2/{wsgi.NAME}/manifests/v1", {"Content-Type": wsgi.INDEX}, wsgi.encoded({
                "schemaVersion": 2, "mediaType": wsgi.INDEX, "manifests": [], "annotations": {"n": str(next(counter))},
            }))  # fmt: skip
            times.append(time.monotonic() - begun)
        return len(times) / seconds, max(times) * 1e3

    alone, _ = writes(3)
    with stack.collector() as collector:
        collector.slow(0.05)
        sweeping = threading.Thread(target=_quietly, args=(lambda: gc(collector.storage, grace=0),), daemon=True)
        sweeping.start()
        beside, longest = writes(3)
        sweeping.join(60)
    return f"{alone:.0f} writes/s alone, {beside:.0f} meanwhile, the longest {longest:.0f} ms", beside > alone / 2


def nul(stack: Stack) -> Answer:
    """A NUL in a URL."""
    app = stack.app(1)
    app.pushed(app.image("a"), name="a")
    statuses = [app("GET", url).status for url in NULS]
    return f"statuses {statuses}", all(status < 500 for status in statuses)


def database_away(stack: Stack) -> Answer:
    """PostgreSQL stops for three seconds under eight clients."""
    app = stack.app(1)
    digest = app.blob(b"x")["digest"]
    seen: list[tuple[float, int, bool]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.02):
            for method, url in (
                ("HEAD", f"/v2/{wsgi.NAME}/blobs/{digest}"),
                ("POST", f"/v2/{wsgi.NAME}/blobs/uploads/?digest={digest}"),
            ):
                begun = time.monotonic()
                answer = app(method, url, body=b"x" if method == "POST" else b"")
                seen.append((begun, answer.status, "retry-after" in answer.headers))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    stack.server.crash()
    time.sleep(3)
    stack.server.start()
    back = time.monotonic()
    time.sleep(4)
    stop.set()
    for thread in threads:
        thread.join(30)
    counts = Counter(status for _, status, _ in seen)
    bad = {status: n for status, n in counts.items() if status not in (200, 201, 503)}
    late = max([begun - back for begun, status, _ in seen if status >= 500 and begun > back], default=0.0)
    told = all(told for _, status, told in seen if status == 503)
    ok = not bad and counts[503] > 0 and told and late < 2
    return f"{dict(counts)}, Retry-After {told}, serves {late:.1f} s after the start", ok


def few_connections(stack: Stack) -> Answer:
    """The database allows 10 connections, and four machines use 16 threads each."""
    role = f"few{time.monotonic_ns()}"
    with stack.server.connect() as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT 10 IN ROLE ocikit").format(sql.Identifier(role)))
    url = stack.url.replace("ocikit@", f"{role}@")
    apps = [stack.app(n, url=url) for n in range(4)]
    digest = apps[0].blob(b"x")["digest"]

    def ask(n: int) -> list[int]:
        app = apps[n % 4]
        return [app("HEAD", f"/v2/{wsgi.NAME}/blobs/{digest}").status for _ in range(30)]

    with ThreadPoolExecutor(64) as pool:
        counts = Counter(itertools.chain.from_iterable(pool.map(ask, range(64))))
    return f"{dict(counts)}", set(counts) <= {200, 503}


def other_machine(stack: Stack) -> Answer:
    """A chunk of an upload goes to another machine."""
    first, second = stack.app(1), stack.app(2)
    location = first("POST", f"/v2/{wsgi.NAME}/blobs/uploads/").headers["location"]
    patched = second("PATCH", location, body=b"half").status
    digest = wsgi.digest_of(b"half and half")
    status = first("PUT", f"{location}?digest={digest}", body=b" and half").status
    return f"PATCH {patched}, PUT at the first one again {status}", (patched, status) == (202, 201)


def hash_again(stack: Stack) -> Answer:
    """Chunks of an upload go to two machines in turn: the CPU of the last request."""
    apps = stack.app(1), stack.app(2)
    block = random.Random(1).randbytes(1 << 20)
    costs = []
    for one in (True, False):
        raw = b"".join(block[n:] + block[:n] for n in range(64))
        location = apps[0]("POST", f"/v2/{wsgi.NAME}/blobs/uploads/").headers["location"]
        for n in range(4):
            at = n << 24
            status = apps[0 if one else n % 2]("PATCH", location, body=raw[at : at + (1 << 24)]).status
            if status != 202:
                return f"PATCH {status}", False
        begun = time.process_time()
        status = apps[0]("PUT", f"{location}?digest={wsgi.digest_of(raw)}").status
        costs.append(time.process_time() - begun)
        if status != 201:
            return f"PUT {status}", False
        gc(stack.open(3, grace=0.0), grace=0)
    return f"64 MiB: {costs[0]:.2f} s CPU at one machine, {costs[1]:.2f} s at two", costs[1] < 1


def pages_of_references(stack: Stack) -> Answer:
    """`verify` reads all references in pages."""
    stack.fill(MANY)
    storage = stack.open(1)
    begun = time.monotonic()
    count = sum(1 for _ in itertools.islice(storage.metadata.iter_references(), 20_000))
    seconds = (time.monotonic() - begun) / (count / 1000)
    return f"{seconds * 1e3:.0f} ms for each 1000 of {MANY} references", seconds < 0.03


def idle_sweep(stack: Stack) -> Answer:
    """A collector has nothing to do."""
    stack.fill(MANY)
    storage = stack.open(1)
    _collect(storage)
    begun = time.monotonic()
    _collect(storage)
    seconds = time.monotonic() - begun
    return f"{seconds * 1e3:.0f} ms at {MANY} rows", seconds < 0.1


def black_hole(stack: Stack) -> Answer:
    """Nothing arrives at PostgreSQL, without an error."""
    with TcpProxy(stack.server.port) as proxy:
        app = stack.app(1, url=proxy.url(stack.url))
        digest = app.blob(b"x")["digest"]
        proxy.black_hole = True

        def ask(_: int) -> tuple[int, float]:
            begun = time.monotonic()
            return app("HEAD", f"/v2/{wsgi.NAME}/blobs/{digest}").status, time.monotonic() - begun

        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, n) for n in range(8)]
            time.sleep(20)
            done = [each.result() for each in asked if each.done()]
            proxy.black_hole = False
            proxy.cut()
            for each in asked:
                each.result()
    counts, longest = Counter(status for status, _ in done), max([seconds for _, seconds in done], default=0)
    return f"{len(done)} of 8 answered: {dict(counts)}, after {longest:.1f} s", len(done) == 8 and longest < 15


def _collect(storage) -> None:
    try:
        from ocikit.server.storage.cluster.sweep import sweep
    except ImportError:
        gc(storage, grace=3600)
    else:
        sweep(storage, grace=3600)


FAULTS: dict[str, Callable[[Stack], Answer]] = {
    "A": late_deletion, "B": clock_ahead, "C": slow_deletion, "D": nul, "E": database_away, "F": few_connections,
    "G": other_machine, "H": hash_again, "I": pages_of_references, "J": idle_sweep, "L": black_hole,
}  # fmt: skip


def _quietly(work: Callable[[], object]) -> None:
    """Run a collection whose connection or object store may go away."""
    with contextlib.suppress(Exception):
        work()


@contextmanager
def stacks(kind: type[Stack] = Stack) -> Iterator[Stack]:
    """Start the servers."""
    with postgres.running() as server, s3.running() as store, tempfile.TemporaryDirectory() as folder:
        with mock.patch.dict(os.environ, store.environ):
            yield kind(server, store, Path(folder))


def table(names: str = "", kind: type[Stack] = Stack) -> dict[str, Answer]:
    """Run the faults with these letters, or all; print a row for each, and return the answers."""
    found = {}
    with stacks(kind) as stack:
        for letter, fault in FAULTS.items():
            if names and letter not in names:
                continue
            stack.fresh()
            try:
                found[letter] = fault(stack)
            except Exception as error:
                found[letter] = (f"{type(error).__name__}: {error}"[:200], False)
            finally:
                stack.close()
            text, ok = found[letter]
            summary = (fault.__doc__ or "").splitlines()[0].rstrip(".")
            print(ROW.format(letter, summary, text, "yes" if ok else "NO"), flush=True)
    return found


if __name__ == "__main__":
    print(ROW.format("", "fault", "what happens", "good"))
    print("|---|---|---|---|")
    sys.exit(not all(ok for _, ok in table(sys.argv[1] if len(sys.argv) > 1 else "").values()))
