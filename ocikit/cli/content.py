"""The commands that show an artifact's files: `ls`, `cat`, `card`, `describe`."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import ocikit
from ocikit import display
from ocikit.cli.command import argument, command
from ocikit.cli.options import (
    dialect_option,
    joined,
    json_option,
    number_option,
    platform_option,
    reference,
    with_session,
)
from ocikit.cli.results import print_json
from ocikit.spec.annotations import thaw

_BLOCK = 1 << 16  # bytes or characters
_LINES = 10  # of a file, as in coreutils

_selection = joined(platform_option("select"), dialect_option)


@command(
    schema="ls",
    examples=(
        ("Sizes, digests and names", "ocikit ls ghcr.io/ada/waves:v1"),
        ("Names only", "ocikit ls ghcr.io/ada/waves:v1 --json | jq -r '.files[].name'"),
    ),
)
@reference()
@json_option
@_selection
@with_session
def ls(session: ocikit.Session, ref: str, *, as_json: bool, **settings: Any) -> None:
    """List the files of an artifact.

    Each line has size, digest and name.
    """
    artifact = session.inspect(ref, **settings)
    files = [(file.name, file) for file in (*artifact.files.values(), *artifact.unnamed.values())]
    if as_json:
        entries = [
            {"name": name, "size": file.size, "digest": str(file.digest), "media_type": file.media_type}
            for name, file in files
        ]
        value = {"reference": str(artifact.reference), "kind": artifact.kind, "size": artifact.size, "files": entries}
        print_json(value)
        return
    for name, file in files:
        print(f"{display.size(file.size):>10}  {file.digest.short}  {display.sanitize(name)}")


@command(
    examples=(
        ("The first lines of a table", "ocikit cat ghcr.io/ada/waves:v1 sine.csv | head -3"),
        ("One file, under another name", "ocikit cat ghcr.io/ada/waves:v1 sine.csv > wave.csv"),
    )
)
@reference()
@argument("name", "FILE", "Name of the file, or its digest.", complete="files")
@_selection
@with_session
def cat(session: ocikit.Session, ref: str, name: str, **settings: Any) -> None:
    """Write a file of an artifact to stdout.

    A pipe receives the exact bytes. A terminal shows text without terminal escapes. The content is verified at its end.
    """
    with _opened(session.inspect(ref, **settings), name) as stream:
        if not sys.stdout.isatty():
            shutil.copyfileobj(stream, sys.stdout.buffer, _BLOCK)
            return
        text = io.TextIOWrapper(stream, "utf-8", "replace")
        while block := text.read(_BLOCK):
            sys.stdout.write(display.sanitize(block, newlines=True))


def _opened(artifact: ocikit.Artifact, name: str) -> BinaryIO:
    """Open a file of an artifact, or a member of a shard."""
    inside = name not in artifact.files and name in artifact.members
    return artifact.members[name].open() if inside else artifact.open(name)


@command(
    examples=(
        ("The first 10 lines", "ocikit head ghcr.io/ada/waves:v1 sine.csv"),
        ("The first 3 lines", "ocikit head ghcr.io/ada/waves:v1 sine.csv --lines 3"),
        ("The first 64 bytes", "ocikit head ghcr.io/ada/waves:v1 sine.npy --bytes 64 | xxd"),
    )
)
@reference()
@argument("name", "FILE", "Name of the file, or its digest.")
@number_option("-n", "--lines", help="Number of lines (10).")
@number_option("-c", "--bytes", "size", help="Number of bytes, instead of lines.")
@_selection
@with_session
def head(session: ocikit.Session, ref: str, name: str, *, lines: int | None, size: int | None, **settings: Any) -> None:
    """Show the first lines of a file of an artifact.

    Of a file over 4 MiB, only the beginning is transferred, so it is not verified. A terminal shows text without terminal
    escapes.
    """
    if lines is not None and size is not None:
        raise ocikit.InvalidArgument("lines and bytes exclude each other", hint="use --lines or --bytes")
    with _opened(session.inspect(ref, **settings), name) as stream:
        for block in _first_lines(stream, lines or _LINES) if size is None else _first_bytes(stream, size):
            if sys.stdout.isatty():
                sys.stdout.write(display.sanitize(block.decode("utf-8", "replace"), newlines=True))
            else:
                sys.stdout.buffer.write(block)


def _first_bytes(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size and (block := stream.read(min(size, _BLOCK))):
        size -= len(block)
        yield block


def _first_lines(stream: BinaryIO, count: int) -> Iterator[bytes]:
    while count and (block := stream.readline(_BLOCK)):  # a limit, because a line may be as long as the file
        count -= block.endswith(b"\n")
        yield block


@command(
    schema="card",
    examples=(
        ("Read it", "ocikit card ghcr.io/ada/waves:v1"),
        ("Its license", "ocikit card ghcr.io/ada/waves:v1 --json | jq -r .license"),
    ),
)
@reference()
@json_option
@_selection
@with_session
def card(session: ocikit.Session, ref: str, *, as_json: bool, **settings: Any) -> None:
    """Show README.md of an artifact.

    With --json, its text and its front matter.
    """
    artifact = session.inspect(ref, **settings)
    found = artifact.card
    if found is None:
        raise ocikit.NotFound(
            f"{artifact.reference} has no README.md",
            hint=f"its files: {display.join_limited(artifact.files, 5) or 'it has none'}",
        )
    if as_json:
        value: dict[str, Any] = {"title": found.title, "license": found.license, "tags": list(found.tags)}
        value |= {"data": thaw(found.data), "text": found.text, "ignored": found.ignored}
        print_json(value)
    else:
        print(found)


@command(
    schema="describe",
    examples=(
        ("All files, a line each", "ocikit describe ghcr.io/ada/waves:v1"),
        ("The columns of one table", "ocikit describe ghcr.io/ada/waves:v1 sine.parquet"),
    ),
)
@reference()
@argument("name", "[FILE]", "Name of one file, which is described in full.", complete="files")
@json_option
@number_option("--requests", default=2, help="Ranges of each file that may be requested (2).")
@platform_option("describe")
@dialect_option
@with_session
def describe(session: ocikit.Session, ref: str, name: str | None, *, as_json: bool, **settings: Any) -> int:
    """Show what is in files: columns, tensors, members.

    Only the headers of files are requested. The exit code is 1 if a file cannot be described.
    """
    found = session.describe(ref, name, **settings)
    if isinstance(found, ocikit.Descriptions):
        found.load()
        print(found.to_json(indent=2) if as_json else found)
        return 1 if found.problems else 0
    print(found.to_json(indent=2) if as_json else found.to_text())
    return 0
