"""What a registry said of documents before their content was asked for: by a HEAD only, or with the content itself."""

from __future__ import annotations

from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest

_HEARD = 1000  # descriptors that are remembered


class ManifestHints:
    """What was heard of the documents of one repository. Safe in threads: what is forgotten costs a request."""

    def __init__(self) -> None:
        self._announced: set[tuple[str, int]] = set()
        self._came: tuple[Digest, bytes] | None = None

    def announce(self, descriptor: Descriptor) -> None:
        """Note that a descriptor is made of the headers of a HEAD request: nobody has seen the bytes that it counts."""
        if len(self._announced) >= _HEARD:
            self._announced.clear()
        self._announced.add(descriptor.key)

    def is_announced(self, descriptor: Descriptor) -> bool:
        """Whether a descriptor's size is only announced."""
        return descriptor.key in self._announced

    def keep(self, digest: Digest, raw: bytes) -> None:
        """Keep a document that came with its description until it is asked for, or the next one comes."""
        self._came = digest, raw

    def take(self, descriptor: Descriptor) -> bytes | None:
        """The document that was kept, once, if it is this."""
        came = self._came
        if came is None or (came[0], len(came[1])) != descriptor.key:
            return None
        self._came = None
        return came[1]
