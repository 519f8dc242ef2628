"""The mistakes that people make most, as they see them: in a notebook, in Python, and on the command line.

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
from typing import Any

import ocikit
from attrs import frozen

from tests.support.fake_registry import FakeRegistry, certificate
from tests.tools import notebooks

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@frozen
class Mistake:
    """What somebody typed, and what they have to be told."""

    name: str
    #: A line of Python.
    code: str
    error: str
    #: In the message, and in what to do next.
    words: str
    remedy: str
    #: The same on the command line, if it can be made there.
    command: tuple[str, ...] = ()


MISTAKES = [
    Mistake(
        "a tag that isn't there",
        'ocikit.pull("{host}/lab/waves:v12")',
        "ManifestUnknown", "has no tag 'v12'", "nearest: v1", ("pull", "{host}/lab/waves:v12"),
    ),
    Mistake(
        "a repository that isn't there",
        'ocikit.pull("{host}/lab/wavs:v1")',
        "NameUnknown", "has no repository lab/wavs", "ocikit.catalog", ("pull", "{host}/lab/wavs:v1"),
    ),
    Mistake(
        "a URL for a reference",
        'ocikit.pull("https://{host}/lab/waves:v1")',
        "InvalidReference", "is a URL", "leave out the scheme", ("pull", "https://{host}/lab/waves:v1"),
    ),
    Mistake(
        "upper case in a name",
        'ocikit.push("{host}/Lab/Waves:v1", "waves")',
        "InvalidReference", "upper-case letters", "'lab/waves'", ("push", "{host}/Lab/Waves:v1", "waves"),
    ),
    Mistake(
        "path and reference the wrong way round",
        'ocikit.push("./waves", "{host}/lab/waves:v1")',
        "InvalidReference", "is a path", "the reference comes first", ("push", "./waves", "{host}/lab/waves:v1"),
    ),
    Mistake(
        "a file that isn't in the artifact",
        'ocikit.open("{host}/lab/waves:v1", "waves/sinus.csv")',
        "FileNotInArtifact", "no file 'waves/sinus.csv'", "nearest: waves/sine.csv",
    ),
    Mistake(
        "a folder that isn't there",
        'ocikit.push("{host}/lab/waves:v2", "weaves")',
        "NotFound", "cannot read 'weaves'", "relative paths start at", ("push", "{host}/lab/waves:v2", "weaves"),
    ),
    Mistake(
        "a registry that isn't running",
        'ocikit.pull("localhost:1/lab/waves:v1")',
        "ConnectionFailed", "Connection refused", "that the registry is running", ("pull", "localhost:1/lab/waves:v1"),
    ),
    Mistake(
        "not logged in",
        'ocikit.pull("{guarded}/lab/waves:v1")',
        "Unauthorized", "returned 401 Unauthorized", "ocikit.login(", ("pull", "{guarded}/lab/waves:v1"),
    ),
    Mistake(
        "a certificate that nobody vouches for",
        'ocikit.pull("{tls}/lab/waves:v1")',
        "ConnectionFailed", "certificate", "ca=", ("pull", "{tls}/lab/waves:v1"),
    ),
    Mistake(
        "files in the way that were edited",
        'ocikit.pull("{host}/lab/waves:v1", "mine")',
        "ContentError", "was edited", "force=True", ("pull", "{host}/lab/waves:v1", "mine"),
    ),
]  # fmt: skip


@contextmanager
def places(folder: Path) -> Iterator[dict[str, str]]:
    """A registry with a data set, one with a password, one with a certificate of its own; and `folder` with files."""
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


def in_a_notebook(codes: list[str], folder: Path) -> list[str]:
    """What a notebook shows below each line, as text."""
    cells = notebooks.run_cells(
        [f"import os, ocikit; os.chdir({str(folder)!r})", *codes], folder, tags={"raises-exception"}
    )
    return [
        "\n".join(ANSI.sub("", line) for o in cell.outputs for line in o.get("traceback", ())) for cell in cells[1:]
    ]


def in_a_terminal(arguments: list[str], folder: Path) -> str:
    """What a command says when it fails."""
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
    with tempfile.TemporaryDirectory() as name, places(Path(name)) as where:
        folder = Path(name)
        shown = in_a_notebook([m.code.format_map(where) for m in MISTAKES], folder)
        for mistake, text in zip(MISTAKES, shown, strict=True):
            code = mistake.code.format_map(where)
            said: list[Any] = [f"### {mistake.name}", f"In a notebook, `{code}`:", f"```text\n{text.strip()}\n```"]
            if mistake.command:
                command = [part.format_map(where) for part in mistake.command]
                terminal = in_a_terminal(["-m", "ocikit", *command], folder)
                said += [f"In a terminal, `ocikit {' '.join(command)}`:", f"```text\n{terminal.strip()}\n```"]
            print("\n\n".join(said), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
