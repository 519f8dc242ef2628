"""Frequent mistakes and their messages in a notebook, in Python and on the command line.

python -m tests.tools.error_messages prints all of them.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ocikit
from attrs import frozen

from tests.support.fake_registry import FakeRegistry, certificate
from tests.tools import notebooks

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@frozen
class Mistake:
    """A line of code with a mistake, and its expected error."""

    name: str
    #: Line of Python.
    code: str
    error: str
    #: Parts of the message and of the hint.
    message: str
    hint: str
    #: Arguments of the command line with the same mistake, if possible.
    command: tuple[str, ...] = ()


MISTAKES = [
    Mistake(
        "unknown tag",
        'ocikit.pull("{host}/lab/waves:v12")',
        "ManifestUnknown",
        "has no tag 'v12'",
        "nearest: v1",
        ("pull", "{host}/lab/waves:v12"),
    ),
    Mistake(
        "unknown repository",
        'ocikit.pull("{host}/lab/wavs:v1")',
        "NameUnknown",
        "has no repository lab/wavs",
        "ocikit.catalog",
        ("pull", "{host}/lab/wavs:v1"),
    ),
    Mistake(
        "URL instead of a reference",
        'ocikit.pull("https://{host}/lab/waves:v1")',
        "InvalidReference",
        "is a URL",
        "leave out the scheme",
        ("pull", "https://{host}/lab/waves:v1"),
    ),
    Mistake(
        "upper case in a name",
        'ocikit.push("{host}/Lab/Waves:v1", "waves")',
        "InvalidReference",
        "upper-case letters",
        "'lab/waves'",
        ("push", "{host}/Lab/Waves:v1", "waves"),
    ),
    Mistake(
        "path and reference swapped",
        'ocikit.push("./waves", "{host}/lab/waves:v1")',
        "InvalidReference",
        "is a path",
        "the reference comes first",
        ("push", "./waves", "{host}/lab/waves:v1"),
    ),
    Mistake(
        "unknown file of an artifact",
        'ocikit.open("{host}/lab/waves:v1", "waves/sinus.csv")',
        "FileNotInArtifact",
        "no file 'waves/sinus.csv'",
        "nearest: waves/sine.csv",
    ),
    Mistake(
        "unknown folder",
        'ocikit.push("{host}/lab/waves:v2", "weaves")',
        "NotFound",
        "cannot read 'weaves'",
        "relative paths start at",
        ("push", "{host}/lab/waves:v2", "weaves"),
    ),
    Mistake(
        "registry not running",
        'ocikit.pull("localhost:1/lab/waves:v1")',
        "ConnectionFailed",
        "Connection refused",
        "that the registry is running",
        ("pull", "localhost:1/lab/waves:v1"),
    ),
    Mistake(
        "not logged in",
        'ocikit.pull("{guarded}/lab/waves:v1")',
        "Unauthorized",
        "returned 401 Unauthorized",
        "ocikit.login(",
        ("pull", "{guarded}/lab/waves:v1"),
    ),
    Mistake(
        "unknown certificate authority",
        'ocikit.pull("{tls}/lab/waves:v1")',
        "ConnectionFailed",
        "certificate",
        "ca=",
        ("pull", "{tls}/lab/waves:v1"),
    ),
    Mistake(
        "edited files in the target folder",
        'ocikit.pull("{host}/lab/waves:v1", "mine")',
        "EditedFiles",
        "was edited",
        "force=True",
        ("pull", "{host}/lab/waves:v1", "mine"),
    ),
]


@contextmanager
def demo_registries(folder: Path) -> Iterator[dict[str, str]]:
    """Run three registries and yield their hosts: with a data set, with a password, with its own certificate."""
    (folder / "waves").mkdir()
    (folder / "waves" / "sine.csv").write_text("t,y\n0,0\n")
    with (
        ocikit.serve() as open_,
        ocikit.serve(htpasswd={"ada": "lovelace"}) as guarded,
        FakeRegistry(tls=certificate(folder)) as tls,
        ocikit.Session(progress=False, cache=folder / "cache") as session,
    ):
        session.push(f"{open_.host}/lab/waves:v1", folder / "waves")
        session.pull(f"{open_.host}/lab/waves:v1", folder / "mine")
        (folder / "mine" / "waves" / "sine.csv").write_text("t,y\n0,1\n")
        yield {"host": open_.host, "guarded": guarded.host, "tls": tls.host}


def run_in_notebook(codes: list[str], folder: Path) -> list[str]:
    """Return the traceback that a notebook shows for each line of code."""
    cells = notebooks.run_cells(
        [f"import os, ocikit; os.chdir({str(folder)!r})", *codes], folder, tags={"raises-exception"}
    )
    return [
        "\n".join(ANSI.sub("", line) for o in cell.outputs for line in o.get("traceback", ())) for cell in cells[1:]
    ]


def run_in_terminal(arguments: list[str], folder: Path) -> str:
    """Return the stderr of a failing command."""
    environment = os.environ | {"OCIKIT_CACHE": str(folder / "cache"), "PYTHONPATH": str(notebooks.FOLDER.parent)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if not done.returncode:
        raise AssertionError(f"{arguments} did not fail")
    return done.stderr


def main() -> int:
    with tempfile.TemporaryDirectory() as name, demo_registries(Path(name)) as hosts:
        folder = Path(name)
        shown = run_in_notebook([m.code.format_map(hosts) for m in MISTAKES], folder)
        for mistake, text in zip(MISTAKES, shown, strict=True):
            code = mistake.code.format_map(hosts)
            lines: list[str] = [f"### {mistake.name}", f"In a notebook, `{code}`:", f"```text\n{text.strip()}\n```"]
            if mistake.command:
                command = [part.format_map(hosts) for part in mistake.command]
                terminal = run_in_terminal(["-m", "ocikit", *command], folder)
                lines += [f"In a terminal, `ocikit {' '.join(command)}`:", f"```text\n{terminal.strip()}\n```"]
            print("\n\n".join(lines), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
