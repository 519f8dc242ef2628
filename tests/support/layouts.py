"""Helpers to inspect and change layouts on disk, and to use them in other processes."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def read_index(layout) -> dict:
    return json.loads((layout.path / "index.json").read_bytes())


def write_index(layout, value) -> None:
    (layout.path / "index.json").write_text(json.dumps(value))


def blob_digests(layout) -> set[str]:
    """Return the digests of all files in the blobs folder."""
    return {f"{path.parent.name}:{path.name}" for path in layout.path.glob("blobs/*/*")}


def content_of(layout, descriptor) -> set[str]:
    """Return the digests of a manifest, its config and its layers."""
    return {str(descriptor.digest), *(str(blob.digest) for blob in layout.document(descriptor).blobs)}


def make_old(layout, seconds: float = 7200) -> None:
    """Set the modification time of all blobs to some seconds ago."""
    changed = time.time() - seconds
    for path in layout.path.glob("blobs/*/*"):
        os.utime(path, (changed, changed))


def start_python(code: str, *arguments, **options) -> subprocess.Popen:
    """Start another process that runs the code."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def wait_for(process: subprocess.Popen) -> str:
    """Wait for a process to succeed and return its output."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out
