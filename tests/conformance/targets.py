"""The registries that are asked: ours in every mode, or the one that the environment names."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

USER, PASSWORD = "ada", "love:lace é"

#: USER and PASSWORD in bcrypt. Cost 4, the least there is: everybody can read them here.
HTPASSWD = "ada:$2y$04$jzc8Y.NMaY5sLAeDkFKLl.rgtPacaoOnCQkeraJqTgR86u7U1Mwbu"


@frozen
class Target:
    """A registry to start, or one that runs already."""

    #: "dev", "stable" or "read-only"
    mode: str
    #: "open", "htpasswd" or "bearer"
    access: str = "open"
    workers: int = 1
    #: Of one that runs already.
    url: str | None = None
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        if self.url:
            return f"{self.mode} {self.url}"
        return f"{self.mode}, {self.access}, {self.workers} worker{'s' * (self.workers > 1)}"

    @property
    def ordinary(self) -> bool:
        """Whether it is asked in every run of the tests; the others take the time that only a gate has."""
        return bool(self.url) or (self.access == "open" and self.workers == 1)


OURS = (
    *(Target("dev", access, workers) for access in ("open", "htpasswd", "bearer") for workers in (1, 2)),
    Target("stable"),
    Target("read-only"),
)


def targets() -> tuple[Target, ...]:
    """Ours, or the one of OCIKIT_CONFORMANCE_URL, _MODE, _USER and _PASSWORD."""
    said = {key: os.environ.get(f"OCIKIT_CONFORMANCE_{key.upper()}") for key in ("url", "mode", "user", "password")}
    if not said["url"]:
        return OURS
    return (Target(said["mode"] or "dev", url=said["url"], user=said["user"], password=said["password"]),)


@contextmanager
def running(target: Target, folder: Path, *, keep: bool = False) -> Iterator[Target]:
    """The target, with the URL at which it answers, and credentials.

    Args:
        target: what to start.
        folder: for its files.
        keep: whether its content stays there, for one that is read-only to find.
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
    # Content that nobody keeps needn't survive a power cut, and is quicker for it
    path = folder / "registry" if keep or read_only else None
    with ocikit.serve(path, htpasswd=accounts, options=ocikit.ServerOptions(read_only=read_only, **options)) as server:
        yield Target(target.mode, target.access, target.workers, server.url, user, password)
