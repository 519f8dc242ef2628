"""The command `quickstart`: a guided tour."""

from __future__ import annotations

import contextlib
import csv
import math
import secrets
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ocikit import display
from ocikit.cli.command import command
from ocikit.cli.options import option, with_session
from ocikit.client.session import Session
from ocikit.errors import ContentError
from ocikit.spec.annotations import DESCRIPTION

_REPORT = "application/vnd.example.evaluation.v1+json"


@command(
    examples=(
        ("With a temporary registry", "ocikit quickstart"),
        ("With a registry that you can push to", "ocikit quickstart --registry localhost:5000"),
    )
)
@option("--registry", metavar="HOST", complete="hosts", help="Registry to use; without it, a temporary one is started.")
@partial(with_session, temporary=True)
def quickstart(session: Session, *, registry: str | None) -> None:
    """Push, list, attach and pull a small data set.

    Each step is printed, and nothing but a repository of a given registry remains.
    """
    for line in tour(session, registry):
        print(display.sanitize(line))


def tour(session: Session, registry: str | None = None) -> Iterator[str]:
    """Push, list, inspect, attach and pull a small data set; yield one line per step.

    Args:
        session: Session that does the transfers.
        registry: Host of a registry; None starts a temporary one.

    Raises:
        ContentError: The pulled files differ from the pushed ones.
        ServerFailed: The temporary registry could not be started.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocikit-")))
        if registry is None:
            from ocikit.server.process.serve import serve  # noqa: PLC0415 - the server is an extra

            registry = stack.enter_context(serve()).host
            yield f"serving a temporary registry at {registry}"
        repository = f"{registry}/ocikit-quickstart/waves-{secrets.token_hex(3)}"
        data = folder / "waves"
        _write_tables(data)
        with contextlib.chdir(folder):
            pushed = session.push(f"{repository}:v1", "waves", annotations={DESCRIPTION: "three waves"})
        yield pushed.summary
        yield f"tags {', '.join(session.tags(repository))}"
        artifact = session.inspect(f"{repository}:v1")
        yield f"inspected {artifact.kind}, {display.size(artifact.size)}: {', '.join(artifact.files)}"
        report = folder / "evaluation.json"
        report.write_text('{"rows": 300}\n')
        attached = session.attach(f"{repository}:v1", report, artifact_type=_REPORT)
        yield f"attached {attached.kind} {attached.digest.short}"
        yield f"referrers {', '.join(str(r.artifact_type) for r in session.referrers(f'{repository}:v1'))}"
        first = session.open(f"{repository}:v1", "waves/sine.csv").readline().decode().strip()
        yield f"opened waves/sine.csv begins with {first!r}"
        pulled = session.pull(pushed.reference, folder / "back")
        yield pulled.summary
        for path in sorted(data.iterdir()):
            if (folder / "back" / "waves" / path.name).read_bytes() != path.read_bytes():
                raise ContentError(f"{path.name} was changed by the transfer", hint="this is a bug; report it")
        yield f"compared {len(list(data.iterdir()))} files, equal byte for byte"


def _write_tables(folder: Path) -> None:
    """Write three small tables."""
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
