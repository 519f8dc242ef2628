"""All operations over a faulty network: `python -m tests.tools.soak_wild --minutes 60 --processes 4`.

Each process pushes, pulls, copies, attaches, deletes and cleans up, on one shared cache, layout and registry. Traffic to
the registry passes a proxy that injects faults into a share of all requests. A failure is an OcikitError and breaks
nothing. Acknowledged content exists byte by byte until its process deletes it. Files are named after their content, so
that each process can verify the files of the others.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ocikit
from attrs import define, field
from ocikit.errors import NotFound, OcikitError
from ocikit.remote.config.network import Network
from ocikit.server.storage.files import file_storage
from ocikit.server.storage.verify import verify
from ocikit.store.cache.cache import Cache
from ocikit.store.layout.layout import Layout

SIZES = (1, 5_000, 200_000, 200_000, 2_000_000, 6_000_000)
SHARED = 5  # contents that all processes share
KEPT = 12  # artifacts of one process in one store; the oldest are deleted
GRACE = 60.0  # seconds: longer than any operation takes from its first blob to its manifest
NETWORK = Network(read_timeout=20)
HASTY = Network(read_timeout=20, retries=0)  # otherwise repairs by other processes count as failures
#: Operations of a process and their weights.
DEEDS = {
    "push": 4, "pull": 3, "pull_to": 3, "pull_layout": 2, "pull_others": 2, "copy": 2, "copy_to_layout": 2,
    "copy_from_layout": 2, "attach": 2, "referrers": 2, "delete": 2, "sweep": 0.5, "prune": 0.5,
}  # fmt: skip
_PATIENCE = 30  # seconds after the end for operations that have not succeeded once


class Wrong(Exception):
    """A guarantee was broken."""


def content(name: str) -> bytes:
    """Return the content of a file by its name."""
    seed, size = name.removesuffix(".bin").split("-")
    return random.Random(int(seed)).randbytes(int(size))


def check(folder: Path, names: set[str]) -> None:
    """Check the files of a folder and their content.

    Raises:
        Wrong: A file is missing or damaged.
    """
    found = {path.name: path for path in folder.rglob("*.bin")}
    if set(found) != names:
        raise Wrong(f"{folder} has {sorted(found)} instead of {sorted(names)}")
    for name, path in found.items():
        if path.read_bytes() != content(name):
            raise Wrong(f"{path} is damaged")


def lost(error: BaseException | None) -> bool:
    """Return True if the reason of a failure is missing content."""
    while error is not None:
        if isinstance(error, NotFound):
            return True
        error = error.__cause__
    return False


@define(eq=False)
class Kept:
    """An artifact that was acknowledged to a process."""

    place: str
    """Its reference without tag and digest."""
    digest: str
    tag: str
    names: set[str]
    referrers: list["Kept"] = field(factory=list)

    def __str__(self) -> str:
        return f"{self.place}:{self.tag}" if self.tag else f"{self.place}@{self.digest}"


@define(eq=False)
class Process:
    """One participating process."""

    host: str
    folder: Path
    number: int
    dice: random.Random
    session: ocikit.Session
    grace: float
    mine: dict[str, list[Kept]] = field(factory=dict)
    dying: list[Kept] = field(factory=list)
    """Content whose deletion failed: it may exist or not."""
    count: int = 0
    done: Counter[str] = field(factory=Counter)
    errors: Counter[str] = field(factory=Counter)
    samples: dict[str, str] = field(factory=dict)
    """The first message of each error class."""
    wrong: list[str] = field(factory=list)

    @property
    def registry(self) -> str:
        return f"{self.host}/soak/p{self.number}"

    @property
    def layout(self) -> str:
        return f"oci:{self.folder / 'layout'}"

    def run(self, end: float, pause: float) -> None:
        tell = time.time()
        while len(self.wrong) < 5 and os.getppid() != 1:
            deeds = DEEDS
            if time.time() >= end:  # then only what has not succeeded once, because a short soak may not choose it
                deeds = {deed: 1 for deed in DEEDS if not self.done[deed]}
                if not deeds or time.time() >= end + _PATIENCE:
                    break
            self.one(self.dice.choices(list(deeds), list(deeds.values()))[0])
            time.sleep(self.dice.uniform(0, 2 * pause))
            if time.time() > tell:
                self.tell()
                tell = time.time() + 10
        self.tell()

    def one(self, deed: str) -> None:
        try:
            getattr(self, deed)()
            self.done[deed] += 1
        except OcikitError as error:
            kind = f"{deed}: {type(error).__name__}"
            kind += f" of {type(error.__cause__).__name__}" if error.__cause__ is not None else ""
            self.errors[kind] += 1
            self.samples.setdefault(kind, str(error))
        except Exception:
            self.wrong.append(f"{time.strftime('%X')} {deed}\n{traceback.format_exc()}")

    def tell(self) -> None:
        path = self.folder / f"told-{self.number}.json"
        path.with_suffix(".new").write_text(
            json.dumps([self.done, self.errors, self.samples, self.wrong, len(self.dying)])
        )
        path.with_suffix(".new").replace(path)

    # Operations

    def push(self) -> None:
        """Push to the registry, sometimes to a tag that already exists."""
        with self.files(self.dice.randint(1, 3)) as folder:
            tag = "moving" if self.dice.random() < 0.25 else self.tag()
            names = {path.name for path in folder.iterdir()}
            for each in self.mine.get(self.registry, ()):
                if each.tag == tag:
                    each.tag = ""
            pushed = self.session.push(f"{self.registry}:{tag}", folder)
            self.keep(self.registry, str(pushed.digest), tag, names)

    def pull(self) -> None:
        """Pull to the shared cache."""
        if kept := self.pick(self.registry):
            with self.there(kept):
                artifact = self.session.pull(str(kept))
            if artifact.digest != kept.digest:
                raise Wrong(f"{kept} is {artifact.digest} instead of {kept.digest}")
            check(Path(artifact), kept.names)

    def pull_to(self) -> None:
        """Pull to a folder with a new session and no cache; a failed pull resumes at the second try."""
        if kept := self.pick(self.registry):
            out = self.folder / f"out-{self.number}"
            try:
                with ocikit.Session(cache=out / "cache", network=NETWORK, progress=False) as session:
                    for last in (False, True):
                        try:
                            with self.there(kept):
                                session.pull(str(kept), out / "files")
                            break
                        except OcikitError:
                            if last:
                                raise
                check(out / "files", kept.names)
            finally:
                shutil.rmtree(out, ignore_errors=True)

    def pull_layout(self) -> None:
        if kept := self.pick(self.layout):
            with self.there(kept):
                artifact = self.session.pull(str(kept))
            check(Path(artifact), kept.names)

    def pull_others(self) -> None:
        """Pull an artifact of another process, which may just have been deleted."""
        place = f"{self.host}/soak/p{self.dice.randrange(4)}"
        try:
            tag = self.dice.choice(list(self.session.tags(place)) or ["none"])
            artifact = self.session.pull(f"{place}:{tag}")
        except NotFound:
            return
        check(Path(artifact), {layer.annotations["org.opencontainers.image.title"].rpartition("/")[2]
                               for layer in artifact.manifest.layers})  # fmt: skip

    def copy(self) -> None:
        """Copy to another repository with referrers."""
        self.copied(self.registry, f"{self.registry}/copies")

    def copy_to_layout(self) -> None:
        self.copied(self.dice.choice([self.registry, f"{self.registry}/copies"]), self.layout)

    def copy_from_layout(self) -> None:
        self.copied(self.layout, f"{self.registry}/back")

    def attach(self) -> None:
        if (kept := self.pick(self.dice.choice([self.registry, self.layout]))) and len(kept.referrers) < 3:
            with self.files(1) as folder, self.there(kept):
                names = {path.name for path in folder.iterdir()}
                made = self.session.attach(f"{kept.place}@{kept.digest}", folder, artifact_type="application/x-soak")
            kept.referrers.append(Kept(kept.place, str(made.digest), "", names))

    def referrers(self) -> None:
        """Check that all referrers are listed and unchanged."""
        kept = self.pick(self.dice.choice([self.registry, f"{self.registry}/copies", self.layout]))
        if kept and kept.referrers:
            found = {str(each.digest) for each in self.session.referrers(str(kept))}
            if not {each.digest for each in kept.referrers} <= found:
                raise Wrong(f"{kept} has {len(kept.referrers)} referrers, found were {len(found)}")
            each = self.dice.choice(kept.referrers)
            with self.there(each):
                artifact = self.session.pull(str(each))
            check(Path(artifact), each.names)

    def delete(self) -> None:
        """Delete the oldest artifact of a store."""
        place = self.dice.choice([each for each, kept in self.mine.items() if kept] or [""])
        if place:
            self.drop(self.mine[place].pop(0))
        for each in list(self.dying):
            with suppress(NotFound):
                self.session.delete(f"{each.place}@{each.digest}")
            self.dying.remove(each)

    def sweep(self) -> None:
        with Layout(self.folder / "layout") as layout:
            layout.gc(grace=self.grace)

    def prune(self) -> None:
        Cache(self.folder / "cache").prune(older_than=2 * self.grace, grace=self.grace).run()

    # Helpers

    @contextmanager
    def files(self, count: int) -> Iterator[Path]:
        """Write files: some are shared, and one is unique, so no two processes have the same artifact."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            for n in range(count):
                seed = self.dice.randrange(SHARED) if n else self.dice.getrandbits(60)
                name = f"{seed}-{SIZES[seed] if n else self.dice.choice(SIZES)}.bin"
                (Path(folder) / name).write_bytes(content(name))
            yield Path(folder)

    @contextmanager
    def there(self, kept: Kept) -> Iterator[None]:
        """Check acknowledged content.

        Raises:
            Wrong: Content is missing.
        """
        try:
            yield
        except OcikitError as error:
            if lost(error):
                raise Wrong(f"{kept} is lost") from error
            raise

    def tag(self) -> str:
        self.count += 1
        return f"p{self.number}-{self.count}"

    def keep(self, place: str, digest: str, tag: str, names: set[str]) -> Kept:
        kept = self.mine.setdefault(place, [])
        made = Kept(place, digest, tag, names)
        kept.append(made)
        if len(kept) > KEPT:
            self.drop(kept.pop(0))
        return made

    def pick(self, place: str) -> Kept | None:
        kept = self.mine.get(place)
        return self.dice.choice(kept) if kept else None

    def copied(self, source: str, target: str) -> None:
        known = {each.digest for each in self.mine.get(target, [])}
        kept = self.pick(source)
        # One tag per digest, because a deletion by digest removes all tags
        if kept and kept.digest not in known | {each.digest for each in self.dying if each.place == target}:
            tag, attached = self.tag(), list(kept.referrers)
            with self.there(kept):
                self.session.copy(str(kept), f"{target}:{tag}", referrers=True)
            made = self.keep(target, kept.digest, tag, kept.names)
            made.referrers += [Kept(target, each.digest, "", each.names) for each in attached]

    def drop(self, kept: Kept) -> None:
        self.dying += [*kept.referrers, kept]


# The parent process


def look(pid: int) -> dict[str, int] | None:
    """Return open files and sockets, threads, and memory [KiB] of a process, or None if it has ended."""
    try:
        links = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        memory = int(status["VmRSS"].split()[0])
    except (OSError, KeyError):
        return None
    sockets = sum(link.startswith("socket:") for link in links)
    return {"files": len(links), "sockets": sockets, "threads": int(status["Threads"]), "memory": memory}


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for each in found:
        with suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def summed(samples: list[dict[str, int]]) -> dict[str, int]:
    """Return the minimum over a while: between two operations a process has the least open files and memory."""
    return {
        key: int((statistics.median if key == "memory" else min)(sample[key] for sample in samples))
        for key in (samples[0] if samples else ())
    }


def soak(
    seconds,
    *,
    processes=4,
    rate=0.05,
    pause=0.4,
    seed=1,
    grace=GRACE,
    every=5.0,
    collect_every=10.0,
    tell=lambda text: None,
):
    """Run the soak. Return counts, and the open resources of each process: at the start, after a third, and at the end.

    Raises:
        Wrong: A guarantee was broken.
    """
    folder = Path(tempfile.mkdtemp(prefix="ocikit-wild-"))
    children: list[subprocess.Popen[str]] = []
    python = [sys.executable, "-m"]
    try:
        with ocikit.serve(
            folder / "store", options=ocikit.ServerOptions(workers=2, grace=grace, collect_every=collect_every)
        ) as server:
            proxy = subprocess.Popen(
                [*python, "tests.support.proxy", server.url, "--seed", str(seed), "--rate", str(rate)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            children.append(proxy)
            assert proxy.stdin is not None and proxy.stdout is not None
            host, end = proxy.stdout.readline().strip(), time.time() + seconds
            for n in range(processes):
                command = [
                    *python,
                    "tests.tools.soak_wild",
                    "--process",
                    str(n),
                    "--host",
                    host,
                    "--folder",
                    str(folder),
                ]
                command += ["--end", str(end), "--pause", str(pause), "--seed", str(seed), "--grace", str(grace)]
                children.append(subprocess.Popen(command, text=True))
            watched = {"proxy": proxy.pid} | {f"process {n}": each.pid for n, each in enumerate(children[1:])}
            for n, pid in enumerate(family(server._child.process.pid)):
                watched[f"server {n}" if n else "server"] = pid
            samples: dict[str, list[tuple[float, dict[str, int]]]] = {name: [] for name in watched}
            spoke = begun = time.time()
            while any(each.poll() is None for each in children[1:]):
                for name, pid in watched.items():
                    if found := look(pid):
                        samples[name].append((time.time() - begun, found))
                if time.time() - spoke > 60:
                    spoke = time.time()
                    found = gathered(folder)
                    tell(json.dumps({"minutes": round((spoke - begun) / 60, 1), **found, "samples": None,
                                     "now": {name: s[-1][1] for name, s in samples.items() if s}, "disk": disk(folder)}))  # fmt: skip
                time.sleep(every)
            stopped = [each.returncode for each in children[1:]]
            proxy.stdin.close()
            faults = json.loads(proxy.stdout.read().splitlines()[-1])
            proxy.wait(10)
            found = gathered(folder) | {"faults": faults, "disk": disk(folder)}
            wrong = found.pop("wrong") + [f"a process ended with {code}" for code in stopped if code]
            try:
                wrong += inspected(folder, server.host, found)
            except OcikitError:
                wrong.append(traceback.format_exc())
        storage = file_storage(folder / "store")
        try:
            report = verify(storage)
        finally:
            storage.close()
        wrong += [f"the registry: {each}" for each in report.corrupt]
        found |= {"registry blobs": report.checked, "wrong": wrong}
        spans = {"first": (0.0, 0.1), "warm": (0.3, 0.45), "end": (0.85, 1.0)}
        found["open"] = {
            name: {
                span: summed([each for at, each in taken if a * seconds <= at <= b * seconds])
                for span, (a, b) in spans.items()
            }
            for name, taken in samples.items()
        }
        return found
    finally:
        for each in children:
            if each.poll() is None:
                each.kill()
            each.wait()
            for pipe in (each.stdin, each.stdout):
                if pipe is not None:
                    pipe.close()
        shutil.rmtree(folder, ignore_errors=True)


def gathered(folder: Path) -> dict:
    done, errors, samples, wrong = Counter(), Counter(), {}, []
    for path in folder.glob("told-*.json"):
        each = json.loads(path.read_text())
        done.update(each[0])
        errors.update(each[1])
        samples |= each[2]
        wrong += each[3]
    return {"done": dict(done), "errors": dict(errors), "samples": samples, "wrong": wrong}


def inspected(folder: Path, host: str, found: dict) -> list[str]:
    """Return the defects of the remaining content. All processes have ended, and requests bypass the proxy."""
    wrong = []
    audit = Layout(folder / "layout").verify()
    cache = Cache(folder / "cache").verify()
    wrong += [f"the layout: {each}" for each in audit.corrupt] + [f"the cache: {each}" for each in cache.corrupt]
    # A referrer outlives its subject if its push was not acknowledged
    missing = set(map(str, audit.missing)) - subjects(folder / "layout")
    found |= {"layout blobs": audit.checked, "layout misses": len(missing), "cache blobs": cache.checked}
    layout = f"oci:{folder / 'layout'}"
    with ocikit.Session(cache=folder / "last", network=NETWORK, progress=False) as session:
        places = [layout, *(f"{host}/{name}" for name in session.catalog(host))]
        count = 0
        for place in places:
            for tag in session.tags(place):
                try:
                    artifact = session.pull(f"{place}:{tag}")
                    for path in Path(artifact).rglob("*.bin"):
                        count += 1
                        if path.read_bytes() != content(path.name):
                            wrong.append(f"{place}:{tag}: {path.name} is damaged")
                except OcikitError as error:
                    wrong.append(f"{place}:{tag}: {error}")
    return wrong if count else [*wrong, "nothing is left"]


def subjects(layout: Path) -> set[str]:
    """Return the subjects of the documents of a layout."""
    found = set()
    for path in (layout / "blobs" / "sha256").iterdir():
        raw = path.read_bytes()
        if raw.startswith(b'{"schemaVersion"'):
            found.add((json.loads(raw).get("subject") or {}).get("digest"))
    return found


def disk(folder: Path) -> dict[str, int]:
    """Return the size of each part [MiB]."""
    sizes = {}
    for part in ("store", "layout", "cache"):
        total = 0
        for root, _, names in os.walk(folder / part):
            for name in names:
                with suppress(OSError):
                    total += os.stat(os.path.join(root, name)).st_size
        sizes[part] = total >> 20
    return sizes


def table(found: dict) -> str:
    lines = ["| process | files | sockets | threads | memory, MiB |", "|---|---|---|---|---|"]
    for name, spans in found["open"].items():
        cells = [
            " / ".join(str(span[key] >> 10 if key == "memory" else span[key]) if span else "-" for span in spans.values())
            for key in ("files", "sockets", "threads", "memory")
        ]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"{sum(found['done'].values())} done, {sum(found['errors'].values())} failed", ""]
    lines += [f"* {kind}: {n}: {found['samples'][kind]}" for kind, n in sorted(found["errors"].items())]
    rest = {key: value for key, value in found.items() if key not in {"open", "errors", "samples", "wrong"}}
    return "\n".join([*lines, "", json.dumps(rest), "", *(found["wrong"] or ["nothing is wrong"])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.05, help="of all requests, those that go wrong")
    parser.add_argument("--pause", type=float, default=0.4, help="seconds between two deeds of a process")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--grace", type=float, default=GRACE, help="minimum age of unreferenced content [seconds]")
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--host", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--end", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process is None:
        found = soak(options.minutes * 60, processes=options.processes, rate=options.rate, pause=options.pause,
                     seed=options.seed, grace=options.grace, tell=lambda text: print(text, flush=True))  # fmt: skip
        print(f"seed {options.seed}\n\n{table(found)}")
        sys.exit(bool(found["wrong"]))
    dice = random.Random(options.seed * 1000 + options.process)
    network = HASTY if options.process % 2 else NETWORK
    with ocikit.Session(cache=options.folder / "cache", network=network, progress=False, credentials={}) as session:
        Process(options.host, options.folder, options.process, dice, session, options.grace).run(
            options.end, options.pause
        )


if __name__ == "__main__":
    main()
