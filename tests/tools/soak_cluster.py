"""Kill parts of a cluster while clients write to it: `python -m tests.tools.soak_cluster --seconds 600`.

Two machines with two workers each serve from PostgreSQL and an S3 server. Every five seconds a worker or a machine, PostgreSQL and
the S3 server get SIGKILL (PostgreSQL stops "immediate") and are started again. Each request goes to the next machine.

While something is away, requests that need it may fail with 503, and those of a killed worker may lose their connection. Every other failure
is an error. With --network a proxy injects faults
of the network instead of kills. At the end all acknowledged content is read and hashed, uploads are continued, and rows are compared with objects.
"""

import argparse
import contextlib
import http.client
import json
import random
import secrets
import select
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
from attrs import define, field, frozen
from ocikit.spec.digest import Digest

from tests.support import cluster
from tests.tools import soak_crash
from tests.tools.soak_crash import Upload, Wrong

#: Seconds: the longest answer.
LONGEST = 15.0

#: Seconds after which everything serves again.
RECOVERY = 2.0

#: Seconds that a lease of a killed worker lasts, and a little more.
LEASE = 12.0

#: Seconds of a client's socket: longer than LONGEST, so that a late answer is seen.
TIMEOUT = 40.0

#: Bytes: more than a part of a multipart upload.
LARGE = 20 << 20

#: Requests that need no object.
ROWS = ("HEAD", "manifest")


class Away(Exception):
    """The registry refused the request with 503, or the connection was lost."""


class Leased(Exception):
    """A killed worker still holds the lease of an upload."""


@frozen
class Asked:
    """A request."""

    kind: str
    begun: float
    ended: float
    status: int
    """0: the connection was lost. -1: no connection."""
    machine: int
    detail: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


@define
class Outage:
    """Something was away."""

    what: str
    begun: float
    ended: float = float("inf")
    machine: int = -1
    detail: str = ""
    """The fault of the network."""
    failures: int = 0
    longest: float = 0.0
    """Seconds of the longest request."""
    serves: float = 0.0
    """Seconds from the start of the process until the last failure."""

    def fails(self, asked: Asked) -> None:
        """Count a failed request that needed it."""
        self.failures += 1
        if asked.begun > self.ended:
            self.serves = max(self.serves, asked.ended - self.ended)

    def touches(self, asked: Asked, *, after: float) -> bool:
        return asked.begun <= self.ended + after and asked.ended >= self.begun


@define
class Report:
    """What clients saw."""

    asked: list[Asked] = field(factory=list)
    wrong: list[str] = field(factory=list)
    lock: threading.Lock = field(factory=threading.Lock)

    def record(self, asked: Asked) -> None:
        with self.lock:
            self.asked.append(asked)

    def fail(self, text: str) -> None:
        with self.lock:
            self.wrong.append(text)


@define(eq=False)
class Client(soak_crash.Client):
    """A client whose requests go to each machine in turn."""

    hosts: list[str] = field(factory=list)
    report: Report = field(factory=Report)
    connections: dict[str, http.client.HTTPConnection] = field(factory=dict)
    turn: int = 0
    #: Uploads whose last request had no answer.
    finishing: list[Upload] = field(factory=list)
    failed: float = 0.0
    """When a request failed last."""
    large: float = 0.003
    """Share of large uploads."""
    restarted: int = 0
    """Uploads that the S3 server has lost before they were acknowledged."""

    def connect(self, host):
        for connection in self.connections.values():
            connection.close()
        self.connections.clear()

    def ask(self, method, path, body=None, **headers):
        """Return status, headers and body.

        Raises:
            Away: The registry cannot answer now.
        """
        if path.startswith("http"):
            path = "/" + path.split("/", 3)[3]
        self.turn += 1
        machine = self.turn % len(self.hosts)
        host = self.hosts[machine]
        kind = f"{method} {'manifest' if '/manifests/' in path else 'blob' if '/blobs/sha' in path else 'upload'}"
        begun = time.monotonic()
        new = host not in self.connections
        if new:
            self.connections[host] = http.client.HTTPConnection(host, timeout=TIMEOUT)
        connection = self.connections[host]
        if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
            connection.close()  # the server has closed it while it was idle
        try:
            if connection.sock is None:
                try:
                    connection.connect()
                except OSError as error:
                    self.lost(host, Asked(kind, begun, time.monotonic(), -1, machine, repr(error)))
            with contextlib.suppress(
                BrokenPipeError, ConnectionResetError
            ):  # the server may answer before it has read the body
                connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            found = answer.status, answer.headers, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.lost(host, Asked(kind, begun, time.monotonic(), 0, machine, repr(error)))
        detail = "" if found[0] < 400 else f"{path} {found[2][:200]!r}"
        self.report.record(Asked(kind, begun, time.monotonic(), found[0], machine, detail))
        if found[0] == 503:
            if found[1].get("Retry-After") is None:
                raise Wrong("503 without Retry-After")
            self.failed = time.monotonic()
            raise Away(503)
        return found

    def lost(self, host, asked):
        self.report.record(asked)
        self.connections.pop(host).close()
        self.failed = time.monotonic()
        raise Away(asked.status)

    def run(self, stop):
        deeds = [self.push, self.push_parts, self.put, self.retag, self.delete, self.read, self.finish_again]
        while not stop.is_set():
            try:
                self.random.choices(deeds, [4, 3, 5, 2, 1, 6, 2])[0]()
                self.done += 1
            except Away:
                # A statement of a killed worker may still run for a moment
                stop.wait(self.random.uniform(0.1, 0.4))
            except Leased:
                stop.wait(0.5)
            except Exception as error:
                self.report.fail(f"{time.monotonic():.1f} {type(error).__name__} {error}")
                stop.wait(0.1)

    def read(self):
        """Read something acknowledged, and compare its bytes."""
        if self.manifests and self.random.random() < 0.5:
            digest = self.random.choice(list(self.manifests))
            if self.expect({200}, self.ask("GET", f"/v2/{self.name}/manifests/{digest}"))[2] != self.manifests[digest]:
                raise Wrong(f"{self.name}: {digest} has other bytes")
        elif self.blobs:
            digest = self.random.choice(list(self.blobs))
            self.look(digest, self.random.random() < 0.7)

    def look(self, digest, whole=True):
        answer = self.expect({200}, self.ask("GET" if whole else "HEAD", f"/v2/{self.name}/blobs/{digest}"))
        if whole and Digest.of(answer[2]) != digest:
            raise Wrong(f"{self.name}: {digest} has other bytes")

    def push_parts(self):
        if self.upload is not None:
            return self.resume(self.upload)
        large = self.random.random() < self.large
        content = self.random.randbytes(LARGE if large else self.random.choice([1000, 100_000, 500_000]))
        location = self.expect({202}, self.ask("POST", f"/v2/{self.name}/blobs/uploads/"))[1]["Location"]
        self.upload = Upload(location, content)
        self.go_on(self.upload)

    def resume(self, upload):
        try:
            super().resume(upload)
        except Wrong as error:
            if ": 416 " in str(error) and time.monotonic() - self.failed < LEASE:
                raise Leased from error
            raise

    def go_on(self, upload):
        try:
            super().go_on(upload)
        except BaseException:
            if self.upload is None:  # the last request may have finished the upload
                self.finishing.append(upload)
            raise

    def finish_again(self):
        """Repeat the last request of an upload: it succeeds, or the blob is there."""
        if not self.finishing:
            return
        upload = self.finishing[0]
        digest = Digest.of(upload.content)
        answer = self.ask("PUT", f"{upload.location}?digest={digest}")
        if answer[0] == 416:
            if time.monotonic() - self.failed < LEASE:
                raise Leased
            self.expect({201}, answer)
        self.finishing.pop(0)
        if self.expect({201, 404}, answer)[0] == 404:
            if len(upload.content) == LARGE and self.ask("HEAD", f"/v2/{self.name}/blobs/{digest}")[0] == 404:
                # versitygw renames a multipart upload while it completes it (posix.go), and loses it if it is killed then: the
                # registry answers that the upload is unknown, and clients push again
                self.restarted += 1
                return
            self.look(digest)
        self.blobs[digest] = time.monotonic()

    def settle(self):
        """Finish what is open, and check all acknowledged content."""
        deadline = time.monotonic() + 2 * LEASE
        while self.upload is not None or self.finishing:
            try:
                if self.upload is not None:
                    self.resume(self.upload)
                self.finish_again()
            except Leased:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        self.check()
        self.connect("")

    def check(self):
        # All of it: nothing is collected in the time of a soak
        for digest in self.blobs:
            self.blobs[digest] = time.monotonic()
        super().check()


def faults(found, every, stop, outages, dice):
    """Kill one thing after the other, each once in `every` seconds, and start it again."""

    def worker(turn):
        machine = found.machines[turn % len(found.machines)]
        outage = Outage("worker" if turn // len(found.machines) % 2 == 0 else "machine", time.monotonic())
        outage.machine = turn % len(found.machines)
        outages.append(outage)
        if outage.what == "worker":
            machine.kill_worker(dice.randrange(8))
        else:
            machine.kill()
            stop.wait(0.3)
            machine.start()
        outage.ended = time.monotonic()

    def server(what, service, end):
        outage = Outage(what, time.monotonic())
        outages.append(outage)
        end()
        stop.wait(0.5)
        service.start()
        outage.ended = time.monotonic()

    turn = 0
    while not stop.wait(every / 3):
        worker(turn)
        if stop.wait(every / 3):
            break
        server("postgres", found.postgres, found.postgres.crash)
        if stop.wait(every / 3):
            break
        server("s3", found.s3, found.s3.stop)
        turn += 1


#: Faults of a network: how they begin and end, and the seconds between.
NETWORK = {
    "cut": (lambda proxy: proxy.cut(), lambda proxy: None, 1),
    "reset": (lambda proxy: proxy.cut(reset=True), lambda proxy: None, 1),
    "refuse": (lambda proxy: (setattr(proxy, "refuse", True), proxy.cut()), lambda proxy: setattr(proxy, "refuse", False), 2),
    "delay": (lambda proxy: setattr(proxy, "delay", 0.2), lambda proxy: setattr(proxy, "delay", 0.0), 5),
    "resets": (lambda proxy: setattr(proxy, "resets", 0.01), lambda proxy: setattr(proxy, "resets", 0.0), 5),
    "cut in the middle": (lambda proxy: [proxy.cut_after(n, answers=n % 2 == 0) for n in range(100, 9000, 333)],
                          lambda proxy: None, 3),
    "black hole": (lambda proxy: setattr(proxy, "black_hole", True), lambda proxy: setattr(proxy, "black_hole", False), 12),
}  # fmt: skip


def networks(found, every, stop, outages, names):
    """Inject one fault of the network after the other, before PostgreSQL and before the S3 server."""
    while not stop.is_set():
        for name in names:
            begin, end, seconds = NETWORK[name]
            for what, proxy in (("postgres", found.database_proxy), ("s3", found.objects_proxy)):
                if stop.wait(every):
                    return
                outage = Outage(what, time.monotonic(), detail=name)
                outages.append(outage)
                begin(proxy)
                stop.wait(seconds)
                end(proxy)
                outage.ended = time.monotonic()


def judge(report, outages, recovery=RECOVERY, longest=LONGEST):
    """Return what is wrong with the answers: a status or a lost connection without a reason, and late answers."""
    wrong = []
    for asked in report.asked:
        for outage in outages:
            if outage.touches(asked, after=0):
                outage.longest = max(outage.longest, asked.seconds)
        if asked.seconds > longest:
            wrong.append(f"{asked} took {asked.seconds:.1f} s")
        if asked.status == 503:
            needed = [x for x in outages if x.what in ("postgres", "s3") and x.touches(asked, after=recovery)]
            if not needed:
                wrong.append(f"503 while all was there: {asked}")
            elif all(x.what == "s3" for x in needed) and asked.kind.startswith(ROWS[0]):
                wrong.append(f"503 without a need of objects: {asked}")
            elif all(x.what == "s3" for x in needed) and asked.kind.endswith(ROWS[1]):
                wrong.append(f"503 without a need of objects: {asked}")
            for outage in [x for x in needed if x.touches(asked, after=0)] or needed:
                outage.fails(asked)
        elif asked.status in (0, -1):
            near = [x for x in outages if x.what in ("worker", "machine") and x.machine == asked.machine]
            if asked.kind == "GET blob":  # the object store stopped in the middle of the content
                near += [x for x in outages if x.what == "s3"]
            near = [x for x in near if x.touches(asked, after=recovery)]
            if not near:
                wrong.append(f"lost connection while the machine was there: {asked}")
            for outage in near:
                outage.fails(asked)
        elif asked.status == 500 or asked.status > 503:
            wrong.append(f"{asked.status}: {asked}")
    return wrong


def compare(found):
    """Return the numbers of rows, of rows whose object is missing, and of objects that no row names."""
    with psycopg.connect(found.metadata) as connection:
        content = {key for (key,) in connection.execute("SELECT key FROM content WHERE key IS NOT NULL")}
        named = {key for (key,) in connection.execute("SELECT key FROM garbage")}
        for key, pieces in connection.execute("SELECT key, pieces FROM uploads"):
            named |= {key} | {piece[0] for piece in pieces}
    prefix = found.blobs.partition("?")[0].split("/", 3)[3]
    root = found.s3.bucket / prefix
    objects = {str(path.relative_to(root)) for path in (root / "c").rglob("*") if path.is_file()}
    objects = {name for name in objects if "/.sgwtmp" not in name}
    return {"content": len(content), "missing": len(content - objects), "strays": len(objects - content - named)}


def soak(
    seconds,
    *,
    clients=32,
    every=5.0,
    seed=None,
    durable=False,
    folder=None,
    network=(),
    recovery=RECOVERY,
    longest=LONGEST,
    tell=lambda text: None,
):
    """Run the soak and return what was found; `wrong` is empty if nothing is."""
    seed = secrets.randbits(32) if seed is None else seed
    dice = random.Random(seed)
    report, outages, stop = Report(), [], threading.Event()
    shared = [dice.randbytes(dice.choice([100, 50_000])) for _ in range(5)]
    options = [
        "--references",
        "strict",
        "--collect-every",
        "1",
        "--log-format",
        "none",
        "--limit",
        "sessions_each=10000",
    ]
    with cluster.whole(options=options, durable=durable, folder=folder, proxied=bool(network)) as found:
        begun = time.monotonic()
        crowd = [
            Client(f"c{n}", random.Random(dice.randbytes(8)), shared=shared, hosts=found.machines.hosts, report=report)
            for n in range(clients)
        ]
        for number, client in enumerate(crowd):
            client.turn = number
        threads = [threading.Thread(target=client.run, args=(stop,)) for client in crowd]
        breaking = (networks, network) if network else (faults, dice)
        breaker = threading.Thread(target=breaking[0], args=(found, every, stop, outages, breaking[1]))
        for thread in [*threads, breaker]:
            thread.start()
        while time.monotonic() < begun + seconds and len(report.wrong) < 20:
            time.sleep(1)
            tell(
                f"{time.monotonic() - begun:.0f} s: {len(report.asked)} requests, {len(outages)} outages, {len(report.wrong)} wrong"
            )
        stop.set()
        for thread in [*threads, breaker]:
            thread.join(120)
        written = time.monotonic() - begun
        time.sleep(recovery + 1)
        tell("reading everything")
        calm = time.monotonic()

        def settle(client):
            try:
                client.settle()
            except Exception as error:
                report.fail(f"at the end: {type(error).__name__} {error}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(settle, crowd))
        objects = compare(found)
        wrong = [*report.wrong, *judge(report, outages, recovery, longest)]
        if objects["missing"] or objects["strays"]:
            wrong.append(f"objects: {objects}")
        # A traceback is a bug, also while something is away
        tracebacks = sum(machine.log.count("Traceback") for machine in found.machines)
        if tracebacks:
            wrong.append(f"{tracebacks} tracebacks in the logs")
        if wrong:
            keep = Path(tempfile.mkdtemp(prefix="ocikit-soak-"))
            for number, machine in enumerate(found.machines):
                (keep / f"machine{number}.log").write_text(machine.log)
            (keep / "wrong").write_text("\n".join([*wrong, *map(str, outages)]))
            tell(f"logs are in {keep}")
        statuses = Counter(asked.status for asked in report.asked if asked.begun < calm)
        return {
            "seed": seed, "seconds": round(written), "requests": len(report.asked),
            "acknowledged": sum(n for status, n in statuses.items() if status in (201, 202)),
            "statuses": {str(status): n for status, n in sorted(statuses.items())},
            "blobs": sum(len(client.blobs) for client in crowd), "manifests": sum(len(client.manifests) for client in crowd),
            "resumed": sum(client.resumed for client in crowd),
            "restarted": sum(client.restarted for client in crowd), "objects": objects, "outages": tally(outages),
            "slowest": round(max(asked.seconds for asked in report.asked), 2), "wrong": wrong,
        }  # fmt: skip


def tally(outages):
    """Return for each kind: number, seconds away, failed requests, the longest one, and the seconds until all served again."""
    table = {}
    for what in dict.fromkeys((outage.what, outage.detail) for outage in outages):
        some = [outage for outage in outages if (outage.what, outage.detail) == what and outage.ended < float("inf")]
        if some:
            away = sorted(outage.ended - outage.begun for outage in some)
            table[" ".join(what).strip()] = {
                "number": len(some), "away": round(away[len(away) // 2], 2),
                "failures": sum(outage.failures for outage in some),
                "longest request": round(max(outage.longest for outage in some), 2),
                "serves after": round(max(outage.serves for outage in some), 2),
            }  # fmt: skip
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--every", type=float, default=5, help="seconds between two kills of the same thing")
    parser.add_argument("--network", action="store_true", help="faults of the network instead of kills")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--durable", action="store_true", help="commits wait for the disk")
    options = parser.parse_args()

    def tell(text):
        print(f"\r{text} ", end="", file=sys.stderr)

    found = soak(options.seconds, clients=options.clients, every=options.every, seed=options.seed,
                 durable=options.durable, network=tuple(NETWORK) if options.network else (), tell=tell)  # fmt: skip
    print(json.dumps(found, indent=1))
    return bool(found["wrong"])


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
