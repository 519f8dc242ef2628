"""Platforms, and which of an index's manifests suits one. image-spec image-index.md#image-index-property-descriptions."""

from __future__ import annotations

import platform as host_platform
import re
from typing import Any

from attrs import field, frozen

from ocikit import display
from ocikit.errors import InvalidReference
from ocikit.spec.annotations import FrozenMap, to_frozen, to_strings

#: Machine names as kernels say them, and as Go and the image specification do.
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "armv7l": "arm", "armv6l": "arm",
             "i386": "386", "i686": "386", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64",
             "loongarch64": "loong64"}  # fmt: skip

_GRAMMAR = re.compile(
    r"(?P<os>[A-Za-z0-9_.-]+)/(?P<architecture>[A-Za-z0-9_.-]+)(?:/(?P<variant>[A-Za-z0-9_.-]+))?"
    r"(?::(?P<version>[A-Za-z0-9_.+-]+))?"
)

#: What an architecture means when it names no variant. Its variants are levels: a machine runs its own and lower ones.
_USUAL = {"arm64": "v8", "amd64": "v1", "arm": "v7"}

_LEVEL = re.compile(r"v([0-9]{1,3})(?:\.([0-9]{1,3}))?")

#: An offer that names no variant where the wish does: taken to run anywhere, as the last choice.
_LAST = 1_000_000


@frozen(kw_only=True, repr=False)
class Platform(display.Displayable):
    """An operating system, an architecture and perhaps a variant: `os/architecture[/variant][:os.version]`.

    >>> Platform.parse("linux/arm64/v8")
    Platform(os='linux', architecture='arm64', variant='v8')
    >>> str(Platform.parse("linux/arm/v7"))
    'linux/arm/v7'
    """

    os: str
    architecture: str
    variant: str | None = None
    os_version: str | None = field(default=None, metadata={"wire": "os.version"})
    os_features: tuple[str, ...] = field(default=(), converter=to_strings, metadata={"wire": "os.features"})
    extra: FrozenMap[Any] = field(factory=FrozenMap, converter=to_frozen)

    @classmethod
    def parse(cls, text: str | Platform) -> Platform:
        """The platform that `os/architecture[/variant][:os.version]` spells. Raises: InvalidReference."""
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
        """This machine, as container images see it: macOS counts as linux, since that is what runs there."""
        machine = host_platform.machine().lower()
        system = "windows" if host_platform.system() == "Windows" else "linux"
        variant = {"armv7l": "v7", "armv6l": "v6"}.get(machine)
        return cls(os=system, architecture=_MACHINES.get(machine, machine), variant=variant)

    @property
    def known(self) -> bool:
        """False for `unknown/unknown`, which marks attestations in an index."""
        return self.os != "unknown" and self.architecture != "unknown"

    def rank(self, offered: Platform) -> int | None:
        """How well an offered platform suits this wish: 0 is exact, more is worse, None is not at all.

        A wish without a variant means the architecture's usual one (arm64 is arm64/v8, amd64 is amd64/v1); a variant
        takes that or lower ones, the nearest first. An offer of bare "arm" may be anything from v5 up, so it comes
        last. A wished `os_version` must agree in its first three parts (Windows' build number), and wished
        `os_features` must be offered.
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
        usual = _USUAL.get(self.architecture)
        if usual is None or (offered.variant is None and self.architecture == "arm"):
            return _LAST if offered.variant is None else None
        wished = self.variant or usual
        have = offered.variant or usual
        return 0 if wished == have else _distance(wished, have)

    def __str__(self) -> str:
        text = "/".join(part for part in (self.os, self.architecture, self.variant) if part)
        return display.sanitize(f"{text}:{self.os_version}" if self.os_version else text)

    def __rich_repr__(self) -> display.Description:
        yield "os", self.os
        yield "architecture", self.architecture
        yield "variant", self.variant, None
        yield "os_version", self.os_version, None
        yield "os_features", self.os_features, ()


def _distance(machine: str, level: str) -> int | None:
    """How far below a machine's level another one is, or None if the machine doesn't run it."""
    high, low = _LEVEL.fullmatch(machine), _LEVEL.fullmatch(level)
    if high is None or low is None:
        return None
    major, minor = int(high[1]) - int(low[1]), int(high[2] or 0) - int(low[2] or 0)
    # Each major version of Arm's 64-bit architecture has what the fifth minor one of the version before has
    if major < 0 or minor + 5 * major < 0:
        return None
    return major * 1000 + minor
