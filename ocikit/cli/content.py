"""The commands that show an artifact's files: `ls`, `cat`, `card`."""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
from typing import Any

import ocikit
from ocikit import display
from ocikit.spec.annotations import thaw

_BLOCK = 1 << 16  # bytes or characters


def add_content(parser: argparse.ArgumentParser, platform: str) -> None:
    """Add the arguments that these commands share."""
    parser.add_argument("reference")
    if parser.prog.endswith(" cat"):
        parser.add_argument("file", help="name of the file, or its digest")
    else:
        parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("--platform", metavar=platform, help="platform of the manifest to select from an index")


def list_files(artifact: ocikit.Artifact, *, as_json: bool) -> None:
    """Print the files of an artifact, with sizes and digests."""
    files = [(file.name, file) for file in (*artifact.files.values(), *artifact.unnamed.values())]
    if as_json:
        entries = [
            {"name": name, "size": file.size, "digest": str(file.digest), "media_type": file.media_type}
            for name, file in files
        ]
        value = {"reference": str(artifact.reference), "kind": artifact.kind, "size": artifact.size, "files": entries}
        print(json.dumps(value, indent=2))
        return
    for name, file in files:
        print(f"{display.size(file.size):>10}  {file.digest.short}  {display.sanitize(name)}")


def print_file(artifact: ocikit.Artifact, name: str) -> None:
    """Write a file to stdout: its exact bytes, or in a terminal its text without terminal escapes.

    The content is verified at its end.
    """
    inside = name not in artifact.files and name in artifact.members
    with artifact.members[name].open() if inside else artifact.open(name) as stream:
        if not sys.stdout.isatty():
            shutil.copyfileobj(stream, sys.stdout.buffer, _BLOCK)
            return
        text = io.TextIOWrapper(stream, "utf-8", "replace")
        while block := text.read(_BLOCK):
            sys.stdout.write(display.sanitize(block, newlines=True))


def print_card(artifact: ocikit.Artifact, *, as_json: bool) -> None:
    """Print README.md, or its text and front matter as JSON.

    Raises:
        NotFound: There is no README.
    """
    card = artifact.card
    if card is None:
        raise ocikit.NotFound(
            f"{artifact.reference} has no README.md",
            hint=f"its files: {display.join_limited(artifact.files, 5) or 'it has none'}",
        )
    if as_json:
        value: dict[str, Any] = {"title": card.title, "license": card.license, "tags": list(card.tags)}
        value |= {"data": thaw(card.data), "text": card.text, "ignored": card.ignored}
        print(json.dumps(value, indent=2))
    else:
        print(card)
