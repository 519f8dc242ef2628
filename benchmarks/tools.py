"""The commands of each tool that pull an artifact into a folder, and that push files.

| tool | pulls to | pushes from |
|---|---|---|
| ocikit, oras | files | files |
| crane, skopeo, regctl | an image layout | an image layout |
| curl (floor) | files, without verifying them | |
| openssl (floor) | | files, hashing without sending them |

`before` is ocikit of another checkout, for a comparison of two revisions in one run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from benchmarks.measure import WITHOUT_SHA
from tests.support import peers

#: In the order of the first round.
TOOLS = ("ocikit", "before", "oras", "crane", "skopeo", "regctl", "curl", "openssl")

#: Tools that the others are compared with. They do less than a transfer.
FLOORS = ("curl", "openssl")

#: Returns the command that pulls into a folder.
Pull: TypeAlias = Callable[[Path], list[str]]
#: Returns the command that pushes to a reference.
Push: TypeAlias = Callable[[str], list[str]]


def environment(folder: Path, *, certificate: Path | None = None, sha: bool = True) -> dict[str, str]:
    """Return an environment without credentials and caches of the machine.

    Args:
        folder: The home folder.
        certificate: The only certificate to trust.
        sha: Use the SHA instructions of the processor.
    """
    own = {"OCIKIT_CACHE": str(folder / "cache"), "OCIKIT_PROGRESS": "none"}
    trust = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), str(certificate))
    # An installed package has its bytecode
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return inherited | peers.isolated(folder) | own | (trust if certificate else {}) | ({} if sha else WITHOUT_SHA)


def ocikit(*arguments: str, checkout: Path | None = None) -> list[str]:
    """Return a command of ocikit, by default of this checkout."""
    command = [sys.executable, "-m", "ocikit", *arguments]
    return ["env", f"PYTHONPATH={checkout}", *command] if checkout else command


def _peer(name: str, *arguments: str) -> list[str]:
    return [str(peers.find(name)), *arguments]


def _regctl(host: str, tls: bool, *arguments: str) -> list[str]:
    return _peer("regctl", "--host", f"reg={host},tls={'enabled' if tls else 'disabled'}", "image", "copy", *arguments)


def pulls(
    host: str, repository: str, blobs: Sequence[str], *, tls: bool = False, before: Path | None = None
) -> dict[str, Pull]:
    """Return the commands that pull the artifact `v1` of a repository, by tool."""
    reference = f"{host}/{repository}:v1"

    def curl(out: Path) -> list[str]:
        root = f"{'https' if tls else 'http'}://{host}/v2/{repository}/blobs"
        (out / "curl.txt").write_text("".join(f'url = "{root}/{d}"\noutput = "{out / d[7:]}"\n' for d in blobs))
        return _peer("curl", "-sS", "--fail", "-K", str(out / "curl.txt"))

    commands: dict[str, Pull] = {
        "ocikit": lambda out: ocikit("pull", "--quiet", reference, str(out)),
        "before": lambda out: ocikit("pull", "--quiet", reference, str(out), checkout=before),
        "oras": lambda out: _peer("oras", "pull", *([] if tls else ["--plain-http"]), reference, "-o", str(out)),
        "crane": lambda out: _peer(
            "crane", "pull", *([] if tls else ["--insecure"]), "--format=oci", reference, str(out)
        ),
        "skopeo": lambda out: _peer(
            "skopeo",
            "--insecure-policy",
            "copy",
            f"--src-tls-verify={'true' if tls else 'false'}",
            "--preserve-digests",
            f"docker://{reference}",
            f"oci:{out}:v1",
        ),
        "regctl": lambda out: _regctl(host, tls, reference, f"ocidir://{out}:v1"),
        "curl": curl,
    }
    return {tool: command for tool, command in commands.items() if tool != "before" or before}


def pushes(
    host: str, files: Sequence[Path], layout: Path, *, tls: bool = False, before: Path | None = None
) -> dict[str, Push]:
    """Return the commands that push files, or the layout of them, by tool."""
    names = [f.name for f in files]
    plain = [] if tls else ["--plain-http"]
    commands: dict[str, Push] = {
        "ocikit": lambda ref: ocikit("push", "--quiet", ref, *names),
        "before": lambda ref: ocikit("push", "--quiet", ref, *names, checkout=before),
        "oras": lambda ref: _peer("oras", "push", *plain, "--artifact-type", "application/x.bench", ref, *names),
        "crane": lambda ref: _peer("crane", "push", *([] if tls else ["--insecure"]), str(layout), ref),
        "skopeo": lambda ref: _peer(
            "skopeo",
            "--insecure-policy",
            "copy",
            f"--dest-tls-verify={'true' if tls else 'false'}",
            "--preserve-digests",
            f"oci:{layout}:v1",
            f"docker://{ref}",
        ),
        "regctl": lambda ref: _regctl(host, tls, f"ocidir://{layout}:v1", ref),
        # sha256sum has no use for the SHA instructions of the processor
        "openssl": lambda _: _peer("openssl", "dgst", "-sha256", *names),
    }
    return {tool: command for tool, command in commands.items() if tool != "before" or before}


def missing() -> list[str]:
    """Return the tools that this machine lacks."""
    return [tool for tool in TOOLS if tool not in {"ocikit", "before"} and not peers.where(tool)]


def versions() -> str:
    """Return the versions of the peers that .ci/peers has built, and of skopeo."""
    found = [stamp.name for stamp in sorted((peers.FOLDER / "stamps").glob("*"))]
    found = [name for name in found if name.startswith(("crane", "oras", "reg"))]
    if peers.where("skopeo"):
        words = subprocess.run(_peer("skopeo", "--version"), capture_output=True, text=True, check=True).stdout.split()
        found.append(f"skopeo-{words[2]}")
    return ", ".join(found)
