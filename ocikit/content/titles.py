"""What the layers of a manifest are called as files: their titles, made safe, or a name from the digest."""

from __future__ import annotations

from collections.abc import Iterable

from ocikit.content.names import check_titles, safe_title
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor

__all__ = ["name_of", "titled"]

#: Endings of layers that have no title, by the end of their media type.
_ENDINGS = {
    ".tar+gzip": ".tar.gz",
    ".tar.gzip": ".tar.gz",
    ".tar+zstd": ".tar.zst",
    ".tar": ".tar",
    "+json": ".json",
    "/json": ".json",
}


def name_of(layer: Descriptor) -> str:
    """The layer's relative path, with "/" between its parts.

    >>> name_of(Descriptor.of(b"", media_types.OCI_LAYER_GZIP))
    'sha256-e3b0c44298fc.tar.gz'

    Raises: UnsafeArchive: if its title leads out of the folder.
    """
    if layer.title is not None:
        return safe_title(layer.title).as_posix()
    ending = next((end for kind, end in _ENDINGS.items() if layer.media_type.endswith(kind)), "")
    return f"{layer.digest.algorithm}-{layer.digest.encoded[:12]}{ending}"


def titled(layers: Iterable[Descriptor], *, fold_case: bool = False) -> dict[str, Descriptor]:
    """The layers by relative path, in order; empty descriptors are no files.

    A layer without title that is listed twice is one file.

    Raises: UnsafeArchive: if a title leads out of the folder, two layers claim one path, or one is a file where
        another needs a folder. With *fold_case*, titles that differ in case only claim one path too.
    """
    files = [layer for layer in layers if layer.media_type != media_types.EMPTY]
    untitled = {layer.key: layer for layer in files if layer.title is None}
    files = [layer for layer in files if layer.title is not None or untitled.pop(layer.key, None) is not None]
    names = [name_of(layer) for layer in files]
    check_titles(names, fold_case=fold_case)
    return dict(zip(names, files, strict=True))
