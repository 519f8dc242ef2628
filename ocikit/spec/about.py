"""What the annotations of a document tell people: description, license, time and links."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ocikit.display import Link, Timestamp
from ocikit.spec.annotations import CREATED, DESCRIPTION, LICENSES, MESSAGE, TITLE, VERSION

_OCI: Final = "org.opencontainers.image."

#: Annotations that cards show as facts, with their names there.
_NAMES: Final[Mapping[str, str]] = {
    MESSAGE: "message",
    CREATED: "created",
    LICENSES: "license",
    VERSION: "version",
    f"{_OCI}authors": "authors",
    f"{_OCI}source": "source",
    f"{_OCI}url": "web page",
    f"{_OCI}documentation": "documentation",
}

#: The keys of annotations that `lead_of` and `about_facts` show.
ABOUT: Final = frozenset({DESCRIPTION, *_NAMES})


def lead_of(annotations: Mapping[str, str]) -> str:
    """Return the description, or else the title."""
    return annotations.get(DESCRIPTION) or annotations.get(TITLE) or ""


def about_facts(annotations: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    """Yield names and values of the annotations that most people ask for.

    >>> dict(about_facts({CREATED: "2026-11-03T14:05:00Z", "rows": "3"}))
    {'created': '2026-11-03 14:05 UTC'}
    """
    for key, name in _NAMES.items():
        if value := annotations.get(key):
            yield name, Timestamp(value) if key == CREATED else Link(value)
