"""The checked registries: ours in every mode, or the one in the environment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

USER, PASSWORD = "ada", "love:lace é"

#: USER and PASSWORD in bcrypt. The cost is 4, the minimum, because the password is public.
HTPASSWD = "ada:$2y$04$jzc8Y.NMaY5sLAeDkFKLl.rgtPacaoOnCQkeraJqTgR86u7U1Mwbu"


@frozen
class Target:
    """A registry to start, or a running one."""

    #: "dev", "stable" or "read-only"
    mode: str
    #: "open", "htpasswd" or "bearer"
    access: str = "open"
    workers: int = 1
    #: The URL of a running registry.
    url: str | None = None
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        if self.url:
            return f"{self.mode} {self.url}"
        return f"{self.mode}, {self.access}, {self.workers} worker{'s' * (self.workers > 1)}"

    @property
    def ordinary(self) -> bool:
        """True if every test run checks it; the others run in the gate only."""
        return bool(self.url) or (self.access == "open" and self.workers == 1)


OURS = (
    *(Target("dev", access, workers) for access in ("open", "htpasswd", "bearer") for workers in (1, 2)),
    Target("stable"),
    Target("read-only"),
)


def targets() -> tuple[Target, ...]:
    """Return ours, or the one of OCIKIT_CONFORMANCE_URL, _MODE, _USER and _PASSWORD."""
    said = {key: os.environ.get(f"OCIKIT_CONFORMANCE_{key.upper()}") for key in ("url", "mode", "user", "password")}
    if not said["url"]:
        return OURS
    return (Target(said["mode"] or "dev", url=said["url"], user=said["user"], password=said["password"]),)


@contextmanager
def running(target: Target, folder: Path, *, keep: bool = False) -> Iterator[Target]:
    """Start the target and yield it with its URL and credentials.

    Args:
        target: The registry.
        folder: Its files.
        keep: True if its content stays there for a read-only registry.
    """
    if target.url:
        yield target
        return
    import ocikit

    options: dict[str, Any] = {"workers": target.workers}
    options["references"] = "strict" if target.mode == "stable" else "sparse"
    user = password = accounts = None
    if target.access != "open":
        accounts = folder / "htpasswd"
        accounts.write_text(HTPASSWD + "\n")
        options["token"] = target.access == "bearer"
        user, password = USER, PASSWORD
    read_only = target.mode == "read-only"
    # Temporary content need not survive a power cut, and writes are faster without sync
    path = folder / "registry" if keep or read_only else None
    with ocikit.serve(path, htpasswd=accounts, options=ocikit.ServerOptions(read_only=read_only, **options)) as server:
        yield Target(target.mode, target.access, target.workers, server.url, user, password)
