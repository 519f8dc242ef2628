"""The tour of `python -m ocikit quickstart`: what one does with a data set, once through, for real."""

from __future__ import annotations

import contextlib
import csv
import math
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ocikit import display
from ocikit.client.session import Session
from ocikit.errors import ContentError
from ocikit.spec.annotations import DESCRIPTION

_REPORT = "application/vnd.example.evaluation.v1+json"


def quickstart(session: Session, registry: str | None = None) -> Iterator[str]:
    """Make a small data set, push it, list, inspect, attach, pull it back and compare; a line for each step.

    Args:
        session: what to do it with.
        registry: the host of a registry; None starts one of our own, for as long as it takes.

    Raises:
        ContentError: if what came back isn't what went out.
        ServerFailed: if a registry of our own can't be started.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocikit-")))
        if registry is None:
            from ocikit.server.process.serve import serve  # noqa: PLC0415 - an extra, on use

            registry = stack.enter_context(serve()).host
            yield f"serving   a registry of our own at {registry}"
        place = f"{registry}/ocikit-quickstart/waves-{secrets.token_hex(3)}"
        data = folder / "waves"
        _make(data)
        with contextlib.chdir(folder):
            pushed = session.push(f"{place}:v1", "waves", annotations={DESCRIPTION: "three waves"})
        yield f"pushed    {pushed.summary.removeprefix('pushed ')}"
        yield f"tags      {', '.join(session.tags(place))}"
        found = session.inspect(f"{place}:v1")
        yield f"inspected {found.kind}, {display.size(found.size)}: {', '.join(found.files)}"
        report = folder / "evaluation.json"
        report.write_text('{"rows": 300}\n')
        attached = session.attach(f"{place}:v1", report, artifact_type=_REPORT)
        yield f"attached  {attached.kind} {attached.digest.short}"
        yield f"referrers {', '.join(str(r.artifact_type) for r in session.referrers(f'{place}:v1'))}"
        first = session.open(f"{place}:v1", "waves/sine.csv").readline().decode().strip()
        yield f"opened    waves/sine.csv begins with {first!r}"
        pulled = session.pull(pushed.reference, folder / "back")
        yield f"pulled    {pulled.summary.removeprefix('pulled ')}"
        for path in sorted(data.iterdir()):
            if (folder / "back" / "waves" / path.name).read_bytes() != path.read_bytes():
                raise ContentError(f"{path.name} came back changed", hint="report this: it must not happen")
        yield f"compared  {len(list(data.iterdir()))} files, equal byte for byte"


def _make(folder: Path) -> None:
    """Three small tables."""
    folder.mkdir()
    waves: dict[str, Callable[[float], float]] = {
        "sine": math.sin,
        "cosine": math.cos,
        "triangle": lambda x: 2 / math.pi * math.asin(math.sin(x)),
    }
    for name, wave in waves.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("x", "y"))
            writer.writerows((i / 10, round(wave(i / 10), 6)) for i in range(100))
