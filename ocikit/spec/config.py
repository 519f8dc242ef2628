"""Image configuration. image-spec config.md."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from attrs import field, frozen

from ocikit import display
from ocikit.spec import media_types
from ocikit.spec.annotations import FrozenMap, to_frozen, to_strings
from ocikit.spec.digest import Digest
from ocikit.spec.document import Document
from ocikit.spec.platform import Platform


def _digests(items: Iterable[Digest]) -> tuple[Digest, ...]:
    return tuple(items)


@frozen(kw_only=True, repr=False)
class RootFS(display.Displayable):
    """The digests of the uncompressed layers, lowest first.

    >>> from ocikit.spec.config import RootFS
    >>> layer = ocikit.Digest.of(b"the uncompressed tar")
    >>> RootFS(diff_ids=[layer]).diff_ids[0] == layer
    True
    """

    type: str = field(default="layers", metadata={"always": True})
    diff_ids: tuple[Digest, ...] = field(default=(), converter=_digests, metadata={"wire": "diff_ids", "always": True})
    extra: FrozenMap[Any] = field(factory=FrozenMap, converter=to_frozen)

    def __rich_repr__(self) -> display.Description:
        yield "type", self.type, "layers"
        yield "diff_ids", tuple(map(display.DigestCell, self.diff_ids))

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "type", self.type

    def _sections(self) -> Iterator[display.Section]:
        rows = ((position, display.DigestCell(digest)) for position, digest in enumerate(self.diff_ids))
        yield display.Section(title="diff_ids", headers=("layer", "digest"), rows=rows, count=len(self.diff_ids))


@frozen(kw_only=True, repr=False)
class History(display.Displayable):
    """The origin of one layer.

    >>> from ocikit.spec.config import History
    >>> History(created_by="RUN make install", empty_layer=True).created_by
    'RUN make install'
    """

    created: str | None = field(default=None, metadata={"show": display.Timestamp})
    """RFC 3339."""
    author: str | None = None
    created_by: str | None = field(default=None, metadata={"wire": "created_by"})
    comment: str | None = None
    empty_layer: bool = field(default=False, metadata={"wire": "empty_layer"})
    extra: FrozenMap[Any] = field(factory=FrozenMap, converter=to_frozen, repr=False)


def _history(items: Iterable[History]) -> tuple[History, ...]:
    return tuple(items)


@frozen(kw_only=True, repr=False)
class ImageConfig(Document):
    """The settings to run an image, and the digests of its unpacked layers.

    It has no mediaType field.

    >>> raw = b'{"os": "linux", "architecture": "amd64", "config": {"Cmd": ["sh"]}, "rootfs": {"type": "layers", "diff_ids": []}}'
    >>> config = ocikit.ImageConfig.parse(raw)
    >>> config.platform, config.config["Cmd"]
    (Platform(os='linux', architecture='amd64'), ('sh',))
    """

    media_type: str | None = field(default=None, init=False)
    architecture: str = field(default="", metadata={"always": True})
    """Empty if the document has none, as in clients written in Go."""
    os: str = field(default="", metadata={"always": True})
    variant: str | None = None
    os_version: str | None = field(default=None, metadata={"wire": "os.version"})
    os_features: tuple[str, ...] = field(default=(), converter=to_strings, metadata={"wire": "os.features"})
    created: str | None = None
    """RFC 3339."""
    author: str | None = None
    config: FrozenMap[Any] = field(factory=FrozenMap, converter=to_frozen)
    """Env, Cmd, Entrypoint and others by their names in the specification."""
    rootfs: RootFS = field(factory=RootFS, metadata={"always": True})
    history: tuple[History, ...] = field(default=(), converter=_history)

    default_media_type: ClassVar[str] = media_types.OCI_CONFIG

    @property
    def platform(self) -> Platform:
        """The platform that the image runs on."""
        return Platform(
            os=self.os,
            architecture=self.architecture,
            variant=self.variant,
            os_version=self.os_version,
            os_features=self.os_features,
        )

    def __rich_repr__(self) -> display.Description:
        yield "platform", str(self.platform)
        yield "created", self.created and display.Timestamp(self.created), None
        yield "layers", len(self.rootfs.diff_ids)
        yield "config", dict(self.config), {}

    def _card_title(self) -> object:
        return "image config"

    def _card_notes(self) -> Iterator[object]:
        yield str(self.platform)

    def _facts(self) -> Iterator[tuple[str, object]]:
        if self.created:
            yield "created", display.Timestamp(self.created)
        if self.author:
            yield "author", self.author
        for key in ("Entrypoint", "Cmd"):
            if isinstance(command := self.config.get(key), tuple):
                yield key.lower(), display.Code(shlex.join(map(str, command[: display.ROWS])))

    def _sections(self) -> Iterator[display.Section]:
        variables = self.config.get("Env")
        if isinstance(variables, tuple) and variables:
            pairs = (str(variable).partition("=")[::2] for variable in variables)
            yield display.Section(title="environment", headers=("name", "value"), rows=pairs, count=len(variables))
        settings = {key: value for key, value in self.config.items() if key not in {"Env", "Entrypoint", "Cmd"}}
        if settings:
            yield display.Section(
                title="settings", headers=("name", "value"), rows=settings.items(), count=len(settings)
            )
        if self.history:
            rows = (
                (
                    item.created and display.Timestamp(item.created),
                    item.created_by or item.comment,
                    "no layer" if item.empty_layer else "",
                )
                for item in self.history
            )
            yield display.Section(
                title="history", headers=("created", "by", ""), rows=rows, count=len(self.history), unfolded=True
            )
        yield from display.card_of(self.rootfs).sections
