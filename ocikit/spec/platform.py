"""Platforms, and which of an index's manifests suits one. image-spec image-index.md#image-index-property-descriptions."""

from __future__ import annotations

import platform as host_platform
import re
from typing import Any

from attrs import field, frozen

from ocikit import display
from ocikit.errors import InvalidReference
from ocikit.spec.annotations import FrozenMap

__all__ = ["Platform"]

#: Machine names as kernels say them, and as Go and the image specification do.
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "armv7l": "arm", "armv6l": "arm",
             "i386": "386", "i686": "386", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64",
             "loongarch64": "loong64"}  # fmt: skip

#: Variants that run on a machine of the given one, best first. Arm machines run older instruction sets, amd64 lower levels.
_RUNS = {
    "arm": ("v8", "v7", "v6", "v5"),
    "amd64": ("v4", "v3", "v2", "v1"),
    "arm64": ("v9", "v8"),
}

#: What an architecture means when it names no variant.
_DEFAULT_VARIANT = {"arm64": "v8", "amd64": "v1", "arm": "v7"}


@frozen(kw_only=True, repr=False)
class Platform(display.Shown):
    """An operating system, an architecture and perhaps a variant.

    >>> Platform.parse("linux/arm64/v8")
    Platform(os='linux', architecture='arm64', variant='v8')
    >>> str(Platform.parse("linux/arm/v7"))
    'linux/arm/v7'
    """

    os: str
    architecture: str
    variant: str | None = None
    os_version: str | None = field(default=None, metadata={"wire": "os.version"})
    os_features: tuple[str, ...] = field(default=(), metadata={"wire": "os.features"})
    extra: FrozenMap[Any] = field(factory=FrozenMap)

    @classmethod
    def parse(cls, text: str | Platform) -> Platform:
        """The platform that "os/architecture[/variant]" spells. Raises: InvalidReference."""
        if isinstance(text, Platform):
            return text
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or not all(re.fullmatch(r"[A-Za-z0-9_.-]+", part) for part in parts):
            raise InvalidReference(
                f"{text!r} is not a platform", hint='write it like "linux/amd64" or "linux/arm64/v8"'
            )
        architecture = parts[1].lower()
        return cls(
            os=parts[0].lower(),
            architecture=_MACHINES.get(architecture, architecture),
            variant=parts[2].lower() if len(parts) == 3 else None,
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

        A wish without a variant takes the architecture's usual one (arm64 means v8) and older ones; a wish with a
        variant takes that or older ones; an offer without a variant comes last. A wished `os_version` must agree
        in its first three parts (Windows' build number), and wished `os_features` must be offered.
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
        usual = _DEFAULT_VARIANT.get(self.architecture)
        wished = self.variant or usual
        # arm64 and amd64 without a variant are the baseline; bare "arm" may be anything from v5 up, so it comes last.
        have = offered.variant or (usual if self.architecture != "arm" else None)
        if wished == have:
            return 1
        runs = _RUNS.get(self.architecture, ())
        if wished in runs and offered.variant in runs:
            distance = runs.index(offered.variant) - runs.index(wished)
            return 1 + distance if distance > 0 else None
        # An offer that names no variant is taken to run anywhere, as the last choice.
        return 100 if offered.variant is None else None

    def __str__(self) -> str:
        text = "/".join(part for part in (self.os, self.architecture, self.variant) if part)
        return display.clean(f"{text}:{self.os_version}" if self.os_version else text)

    def __rich_repr__(self) -> display.Description:
        yield "os", self.os
        yield "architecture", self.architecture
        yield "variant", self.variant, None
        yield "os_version", self.os_version, None
        yield "os_features", self.os_features, ()
