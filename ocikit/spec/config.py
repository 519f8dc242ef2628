"""The configuration of an image. image-spec config.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from attrs import field, frozen

from ocikit import display
from ocikit.spec import media_types
from ocikit.spec.annotations import FrozenMap, to_frozen, to_texts
from ocikit.spec.digest import Digest
from ocikit.spec.document import Document
from ocikit.spec.platform import Platform

__all__ = ["History", "ImageConfig", "RootFS"]


def _digests(items: Iterable[Digest]) -> tuple[Digest, ...]:
    return tuple(items)


@frozen(kw_only=True, repr=False)
class RootFS(display.Shown):
    """What the layers unpack to: the digests of the uncompressed tars, bottom first."""

    type: str = field(default="layers", metadata={"always": True})
    diff_ids: tuple[Digest, ...] = field(default=(), converter=_digests, metadata={"wire": "diff_ids", "always": True})
    extra: FrozenMap[Any] = field(factory=FrozenMap, converter=to_frozen)

    def __rich_repr__(self) -> display.Description:
        yield "type", self.type, "layers"
        yield "diff_ids", [digest.short for digest in self.diff_ids]


@frozen(kw_only=True, repr=False)
class History(display.Shown):
    """How a layer came to be."""

    created: str | None = None
    """RFC 3339."""
    author: str | None = None
    created_by: str | None = field(default=None, metadata={"wire": "created_by"})
    comment: str | None = None
    empty_layer: bool = field(default=False, metadata={"wire": "empty_layer"})
    extra: FrozenMap[Any] = field(factory=FrozenMap, converter=to_frozen)

    def __rich_repr__(self) -> display.Description:
        yield "created_by", self.created_by, None
        yield "created", self.created, None
        yield "author", self.author, None
        yield "comment", self.comment, None
        yield "empty_layer", self.empty_layer, False


def _steps(items: Iterable[History]) -> tuple[History, ...]:
    return tuple(items)


@frozen(kw_only=True, repr=False)
class ImageConfig(Document):
    """How to run an image, and what its layers unpack to. It has no mediaType of its own."""

    media_type: str | None = field(default=None, init=False)
    architecture: str
    os: str
    variant: str | None = None
    os_version: str | None = field(default=None, metadata={"wire": "os.version"})
    os_features: tuple[str, ...] = field(default=(), converter=to_texts, metadata={"wire": "os.features"})
    created: str | None = None
    """RFC 3339."""
    author: str | None = None
    config: FrozenMap[Any] = field(factory=FrozenMap, converter=to_frozen)
    """Env, Cmd, Entrypoint and so on, by their names in the specification."""
    rootfs: RootFS = field(metadata={"always": True})
    history: tuple[History, ...] = field(default=(), converter=_steps)

    default_media_type: ClassVar[str] = media_types.OCI_CONFIG

    @property
    def platform(self) -> Platform:
        """What the image runs on."""
        return Platform(
            os=self.os,
            architecture=self.architecture,
            variant=self.variant,
            os_version=self.os_version,
            os_features=self.os_features,
        )

    def __rich_repr__(self) -> display.Description:
        yield "platform", str(self.platform)
        yield "created", self.created, None
        yield "layers", len(self.rootfs.diff_ids)
        yield "config", dict(self.config), {}
