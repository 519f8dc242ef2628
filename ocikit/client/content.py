"""What a dialect reads of an artifact to name its layers: the config, and other artifacts that it names."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from attrs import field, frozen

from ocikit import display
from ocikit.client.reader import ContentReader
from ocikit.client.resolver import Resolver
from ocikit.errors import Denied, InvalidReference
from ocikit.remote.http.urls import is_loopback
from ocikit.spec.document import load_json
from ocikit.spec.manifest import Manifest
from ocikit.spec.reference import AnyReference, Reference


@frozen
class ArtifactContent:
    """The content of an artifact as dialects read it.

    Args:
        reader: Reads it.
        reference: The artifact.
        manifest: Manifest of the artifact.
    """

    _reader: ContentReader = field(repr=False)
    reference: AnyReference
    _manifest: Manifest = field(repr=False)

    def config(self) -> Mapping[str, Any]:
        """Return the JSON of the config, which is requested once and cached.

        Raises:
            InvalidDocument: The config is not a JSON object, or larger than a document may be.
        """
        raw = self._reader.read(self.reference, self._manifest.config)
        return load_json(raw, f"the config of {self.reference}")

    def parent(self, reference: str) -> tuple[str, Manifest, ArtifactContent]:
        """Return another artifact: its name with tag, its manifest, and its content.

        The publisher of this artifact names it, so it is in a registry, and not one that only this machine reaches (SSRF).

        Raises:
            InvalidReference: The reference is invalid, or names no registry.
            Denied: The other artifact is in a registry on this machine or in a private network, and this one is not.
            NotFound: There is no such artifact.
        """
        parsed = Reference.parse(reference)
        host = reference.partition("/")[0]
        if not ({".", ":"} & set(host) and "/" in reference):
            raise InvalidReference(
                f"{display.quoted(reference)} names no registry", hint="kit has it in its own storage on one machine"
            )
        own = self.reference.registry if isinstance(self.reference, Reference) else ""
        if parsed.registry != own and _is_private(parsed.registry):
            raise Denied(
                f"{parsed.registry} is a registry on this machine or in a private network, and {self.reference} is not",
                hint=f"pull {parsed} itself, if it is the right one",
            )
        with self._reader.backends.open_source(parsed) as source:
            descriptor, manifest = Resolver(source, self._reader.cache, get_unknown=True).resolve_manifest(parsed)
        return str(parsed), manifest, ArtifactContent(self._reader, parsed.pinned(descriptor.digest), manifest)


def _is_private(host: str) -> bool:
    """Return True for this machine, and for addresses of private networks."""
    if is_loopback(host):
        return True
    with suppress(ValueError):
        return not ipaddress.ip_address(urlsplit(f"//{host}").hostname or "").is_global
    return False
