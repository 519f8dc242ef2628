"""Tags of cosign, which attach signatures to an artifact by name: `sha256-….sig`, `.att` and `.sbom`.

Cosign writes them where it does not use referrers. They have no subject, so referrers do not include them.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from ocikit import display
from ocikit.errors import NotFound
from ocikit.spec.digest import Digest
from ocikit.store.base import Source
from ocikit.transfer.pool import run_parallel

SUFFIXES = (".sig", ".att", ".sbom")

_SHOWN = 3  # tags in a summary


def cosign_tags(source: Source, digests: Iterable[Digest], *, workers: int) -> tuple[str, ...]:
    """Return the tags of cosign for manifests that a source has.

    Args:
        source: The repository or layout.
        digests: The digests of the manifests.
        workers: Number of parallel requests.
    """
    names = [f"{digest.algorithm}-{digest.encoded}{suffix}" for digest in digests for suffix in SUFFIXES]
    found: set[str] = set()

    def look_up(name: str, _: object) -> None:
        with suppress(NotFound):
            source.resolve(name)
            found.add(name)

    run_parallel(names, look_up, workers=workers)
    return tuple(name for name in names if name in found)


def describe_cosign_tags(tags: Iterable[str]) -> str:
    """Return the end of a copy's summary about tags that were not copied."""
    names = display.join_limited(tags, _SHOWN)
    return f"; not copied: {names} of cosign (cosign=True copies them)" if names else ""
