"""Platforms of images and their compatibility. image-spec image-index.md#image-index-property-descriptions."""

from __future__ import annotations

import platform as host_platform
import re
from typing import Any

from attrs import field, frozen

from ocikit import display
from ocikit.errors import InvalidReference
from ocikit.spec.annotations import FrozenMap, to_frozen, to_strings

#: Machine names of kernels, and the names of Go and the image specification.
_MACHINES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i386": "386",
    "i686": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
}

_GRAMMAR = re.compile(
    r"(?P<os>[A-Za-z0-9_.-]+)/(?P<architecture>[A-Za-z0-9_.-]+)(?:/(?P<variant>[A-Za-z0-9_.-]+))?"
    r"(?::(?P<version>[A-Za-z0-9_.+-]+))?"
)

#: The variant of architectures without one. Variants are levels: a machine runs its own level and lower ones.
_DEFAULT_VARIANTS = {"arm64": "v8", "amd64": "v1", "arm": "v7"}

_LEVEL = re.compile(r"v([0-9]{1,3})(?:\.([0-9]{1,3}))?")

#: Rank of an offered platform without the requested variant: it may run anywhere, so it is the last choice.
_LAST_RANK = 1_000_000


@frozen(kw_only=True, repr=False)
class Platform(display.Displayable):
    """An operating system, an architecture and an optional variant: `os/architecture[/variant][:os.version]`.

    >>> ocikit.Platform.parse("linux/arm64/v8")
    Platform(os='linux', architecture='arm64', variant='v8')
    >>> str(ocikit.Platform.parse("linux/arm/v7"))
    'linux/arm/v7'
    """

    os: str = field(default="", metadata={"always": True})
    """Empty if the document has none, as in clients written in Go."""
    architecture: str = field(default="", metadata={"always": True})
    variant: str | None = None
    os_version: str | None = field(default=None, metadata={"wire": "os.version"})
    os_features: tuple[str, ...] = field(default=(), converter=to_strings, metadata={"wire": "os.features"})
    extra: FrozenMap[Any] = field(factory=FrozenMap, converter=to_frozen, repr=False)

    @classmethod
    def parse(cls, text: str | Platform) -> Platform:
        """Return the platform of a text `os/architecture[/variant][:os.version]`.

        Raises:
            InvalidReference: The text is not a platform.

        >>> ocikit.Platform.parse("linux/arm64")
        Platform(os='linux', architecture='arm64')
        >>> str(ocikit.Platform.parse("linux/arm64/v8"))
        'linux/arm64/v8'
        """
        if isinstance(text, Platform):
            return text
        match = _GRAMMAR.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InvalidReference(
                f"{display.quoted(text)} is not a platform", hint='write it like "linux/amd64" or "linux/arm64/v8"'
            )
        architecture = match["architecture"].lower()
        return cls(
            os=match["os"].lower(),
            architecture=_MACHINES.get(architecture, architecture),
            variant=match["variant"] and match["variant"].lower(),
            os_version=match["version"],
        )

    @classmethod
    def host(cls) -> Platform:
        """Return the platform of this machine.

        Linux on macOS, because containers run in a Linux VM there.

        >>> ocikit.Platform.host().os
        'linux'
        """
        machine = host_platform.machine().lower()
        system = "windows" if host_platform.system() == "Windows" else "linux"
        variant = {"armv7l": "v7", "armv6l": "v6"}.get(machine)
        return cls(os=system, architecture=_MACHINES.get(machine, machine), variant=variant)

    @property
    def known(self) -> bool:
        """False for `unknown/unknown`, the platform of attestations in an index."""
        return self.os != "unknown" and self.architecture != "unknown"

    def rank(self, offered: Platform) -> int | None:
        """Return how well an offered platform suits this requested one: 0 is exact, higher is worse, None is not.

        Without a variant, the architecture's default is requested: arm64 is arm64/v8, amd64 is amd64/v1. A requested
        variant accepts that variant and lower ones, the nearest first. An offered "arm" without variant may be v5 or
        higher, so it comes last. A requested `os_version` must be equal in its first three parts (Windows' build
        number), and all requested `os_features` must be offered.

        >>> requested = ocikit.Platform.parse("linux/arm/v7")
        >>> offers = ["linux/arm/v6", "linux/arm/v7", "linux/amd64"]
        >>> [requested.rank(ocikit.Platform.parse(offer)) for offer in offers]
        [1000, 0, None]
        """
        if (self.os, self.architecture) != (offered.os, offered.architecture):
            return None
        if self.os_version and offered.os_version:
            if self.os_version.split(".")[:3] != offered.os_version.split(".")[:3]:
                return None
        elif self.os_version:
            return None
        if not set(self.os_features) <= set(offered.os_features):
            return None
        if self.variant == offered.variant:
            return 0
        default = _DEFAULT_VARIANTS.get(self.architecture)
        if default is None or (offered.variant is None and self.architecture == "arm"):
            return _LAST_RANK if offered.variant is None else None
        requested_variant = self.variant or default
        offered_variant = offered.variant or default
        return 0 if requested_variant == offered_variant else _distance(requested_variant, offered_variant)

    def _card_title(self) -> object:
        return str(self)

    def __str__(self) -> str:
        text = "/".join(part for part in (self.os, self.architecture, self.variant) if part)
        return display.sanitize(f"{text}:{self.os_version}" if self.os_version else text)


def _distance(machine: str, level: str) -> int | None:
    """Return how far a level is below a machine's level, or None if the machine can't run it."""
    high, low = _LEVEL.fullmatch(machine), _LEVEL.fullmatch(level)
    if high is None or low is None:
        return None
    major, minor = int(high[1]) - int(low[1]), int(high[2] or 0) - int(low[2] or 0)
    # Each major version of 64-bit Arm includes the fifth minor version of the previous major version.
    if major < 0 or minor + 5 * major < 0:
        return None
    return major * 1000 + minor
