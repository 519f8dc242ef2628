"""Archives of `docker save` (`docker-archive:`).

An archive is a tar of layers and configs, which `manifest.json` lists. The format stores no OCI manifests. Reading
builds one from the config and the unchanged layers, so the same archive always gives the same digest. Archives of
Docker 25 and newer are image layouts, too: `open_archive` reads them as such.
"""

from __future__ import annotations

import contextlib
import io
import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from attrs import frozen

from ocikit.errors import InvalidDocument, InvalidReference, NotFound, UnsafeArchive
from ocikit.layers.compression import MAGIC_SIZE, detect_compression
from ocikit.layers.layer import LayerLimits, open_layer
from ocikit.spec import media_types
from ocikit.spec.config import ImageConfig
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, new_hasher
from ocikit.spec.manifest import Manifest, PlatformLike
from ocikit.spec.reference import Reference
from ocikit.store.base import Store
from ocikit.store.files import BUFFER
from ocikit.store.graph import STORED_LIMIT, parse_digest
from ocikit.store.layout.archive import Mode, add_blob, add_file, create_tar, iter_members, open_tar, open_unpacked
from ocikit.store.layout.disk import LayoutDisk
from ocikit.store.layout.layout import Layout
from ocikit.store.selection import select_manifest

#: Limits for hashing only: nothing is unpacked, and layers of zeros have a ratio above the default.
_UNLIMITED = LayerLimits(size=2**63, ratio=2**63)

_MAX_LINKS = 8  # consecutive links; docker writes one, from a layer to a layer of another image


@contextlib.contextmanager
def open_docker_archive(path: Path | str, mode: Mode = "r") -> Iterator[Layout]:
    """Open an archive of `docker save` as a layout.

    It is unpacked to a temporary folder for the block. Names are those of Docker: `alpine` means
    `docker.io/library/alpine:latest`.

    Args:
        path: The tar; an archive to read may be compressed.
        mode: "r" reads, "a" changes or creates, "w" creates or replaces. Changed images replace the archive
            atomically at the end of the block, unless the block raises.

    Raises:
        NotFound: The archive does not exist or is not one of docker.
        InvalidDocument: `manifest.json` or a config is invalid, or the layout to write holds more than images.
        DigestMismatch: A layer is not the one that its config names.
        UnsafeArchive: The archive is hostile.
        ContentError: The archive cannot be read or written.
    """
    with open_unpacked(Path(path), mode, read=_unpack, write=_write, layout_type=_DockerLayout) as layout:
        yield layout


class _DockerLayout(Layout):
    """A layout whose names are Docker references."""

    def resolve(self, reference: str) -> Descriptor:
        return super().resolve(reference if parse_digest(reference) else _full_name(reference))

    def tag(self, descriptor: Descriptor, tag: str) -> None:
        super().tag(descriptor, _full_name(tag))

    def untag(self, tag: str) -> None:
        super().untag(_full_name(tag))


def _full_name(name: str) -> str:
    """Return a name with registry and tag, as skopeo writes it.

    Names that are not references are returned unchanged.
    """
    try:
        reference = Reference.parse(name)
        return str(reference.tagged(reference.tag or "latest"))
    except InvalidReference:
        return name


def _unpack(path: Path, folder: Path) -> None:
    # An archive may have no images, so that no push creates the layout
    disk = LayoutDisk(folder)
    with disk.locked():
        disk.initialize()
    with _DockerLayout(folder) as layout:
        read_docker_archive(path, layout)


def _write(layout: Layout, path: Path) -> None:
    images: dict[str, list[str]] = {entry.digest: [] for entry in layout.entries()}
    for name in layout.tags():
        images[layout.resolve(name).digest].append(name)
    write_docker_archive(layout, path, images)


def read_docker_archive(path: Path | str, store: Store) -> tuple[Descriptor, ...]:
    """Add the images of an archive to a store, tagged with their names.

    Args:
        path: The tar; it may be compressed.
        store: The target. Its tags must accept such names, as those of layouts do.

    Returns:
        The descriptors of the manifests.

    Raises:
        NotFound: The archive does not exist or is not one of docker.
        InvalidDocument: `manifest.json` or a config is invalid.
        DigestMismatch: A layer is not the one that its config names.
        UnsafeArchive: The archive is hostile.
        ContentError: The archive is corrupt.
    """
    path = Path(path)
    descriptors = []
    with open_tar(path) as tar:
        members = {posixpath.normpath(member.name): member for member in iter_members(tar)}
        if "manifest.json" not in members:
            raise NotFound(
                f"{path} has no manifest.json",
                hint="docker save writes this file; the scheme of a layout's tar is oci-archive:",
            )
        for image in _parse_images(_read_small(tar, members, "manifest.json")):
            manifest = _push_image(tar, members, image, store)
            store.push_bytes(manifest.descriptor, manifest.raw)
            for name in image.names:
                store.tag(manifest.descriptor, name)
            if not image.names:
                store.keep(manifest.descriptor)
            descriptors.append(manifest.descriptor)
    return tuple(descriptors)


@frozen(kw_only=True)
class _SavedImage:
    """An entry of `manifest.json`."""

    config: str
    """Path of the config in the archive."""
    names: tuple[str, ...]
    """Names of the image, such as "alpine:3.20"."""
    layers: tuple[str, ...]
    """Paths of the layers in the archive."""


def _parse_images(raw: bytes) -> list[_SavedImage]:
    """Return the images that `manifest.json` lists."""
    try:
        images = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"manifest.json is not JSON: {error}") from error
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise InvalidDocument("manifest.json: expected an array of objects @ $")
    return [_parse_image(image, f"$[{i}]") for i, image in enumerate(images)]


def _parse_image(image: dict[str, object], path: str) -> _SavedImage:
    config = image.get("Config")
    if not isinstance(config, str):
        raise InvalidDocument(f"manifest.json: expected a string @ {path}.Config")

    def strings(key: str) -> tuple[str, ...]:
        value = image.get(key) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InvalidDocument(f"manifest.json: expected an array of strings @ {path}.{key}")
        return tuple(value)

    return _SavedImage(config=config, layers=strings("Layers"), names=strings("RepoTags"))


def _push_image(
    tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], image: _SavedImage, store: Store
) -> Manifest:
    """Push the config and the layers of an image and return its manifest."""
    raw = _read_small(tar, members, image.config)
    config = ImageConfig.parse(raw, limit=STORED_LIMIT)
    paths, diff_ids = image.layers, config.rootfs.diff_ids
    if len(paths) != len(diff_ids):
        raise InvalidDocument(
            f"manifest.json lists {len(paths)} layers, but the config {image.config} has {len(diff_ids)} @ $.rootfs",
            hint="the archive is corrupt; save it again",
        )
    layers = [_push_layer(tar, members, path, diff_id, store) for path, diff_id in zip(paths, diff_ids, strict=True)]
    descriptor = Descriptor.of(raw, media_types.OCI_CONFIG)
    store.push_bytes(descriptor, raw)
    return Manifest(config=descriptor, layers=tuple(layers))


def _push_layer(
    tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], name: str, diff_id: Digest, store: Store
) -> Descriptor:
    """Push a layer, verified with the digest of its uncompressed tar in the config."""
    member = _find_file(members, name)
    with _open(tar, member) as file:
        compression = detect_compression(file.read(MAGIC_SIZE))
    if not compression:
        descriptor = Descriptor(media_type=media_types.OCI_LAYER, digest=diff_id, size=member.size)
    else:
        with _open(tar, member) as file, open_layer(file, limits=_UNLIMITED) as plain:
            diff_id.check(_hash_stream(plain, diff_id.algorithm).encoded, f"layer {name}")
        # The archive has no digest of the compressed layer
        with _open(tar, member) as file:
            digest = _hash_stream(file, "sha256")
        descriptor = Descriptor(media_type=f"{media_types.OCI_LAYER}+{compression}", digest=digest, size=member.size)
    if not store.exists(descriptor):
        with _open(tar, member) as file:
            store.push(descriptor, file)
    return descriptor


def _hash_stream(stream: BinaryIO | io.BufferedIOBase, algorithm: str) -> Digest:
    hasher = new_hasher(algorithm)
    while chunk := stream.read(BUFFER):
        hasher.update(chunk)
    return Digest(f"{algorithm}:{hasher.hexdigest()}")


def _find_file(members: Mapping[str, tarfile.TarInfo], name: str) -> tarfile.TarInfo:
    """Return the regular file of a name.

    Follow links: docker links layers that several images share.
    """
    path = posixpath.normpath(name)
    for _ in range(_MAX_LINKS):
        member = members.get(path)
        if member is None:
            raise NotFound(f"the archive has no {path!r}, which its manifest.json names", hint="save it again")
        # Zip bomb: a sparse file of a few bytes can declare holes of any size
        if member.isreg() and not member.issparse():
            return member
        if member.issym():
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
        elif member.islnk():
            path = posixpath.normpath(member.linkname)
        else:
            break
    raise UnsafeArchive(
        f"{name!r} in the archive is not a regular file, or is a circular link", hint="save the archive again"
    )


def _open(tar: tarfile.TarFile, member: tarfile.TarInfo) -> io.BufferedReader:
    return cast("io.BufferedReader", tar.extractfile(member))


def _read_small(tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], name: str) -> bytes:
    member = _find_file(members, name)
    if member.size > STORED_LIMIT:
        raise InvalidDocument(f"{name} is {member.size} bytes, above the limit of {STORED_LIMIT}")
    with _open(tar, member) as file:
        return file.read()


def write_docker_archive(
    layout: Layout, path: Path | str, images: Mapping[str, Sequence[str]], *, platform: PlatformLike | None = None
) -> None:
    """Write images for `docker load` atomically.

    The same content gives the same bytes.

    Args:
        layout: The layout that has the images.
        path: The tar; an existing file is replaced.
        images: Names or digests in the layout, each with its Docker names such as "alpine:3.20".
        platform: The image to take from an index; by default, the one for the platform of this machine.

    Raises:
        ManifestUnknown: The layout does not have an image.
        BlobUnknown: The layout does not have a config or layer.
        NoMatchingPlatform: An index has no image for the platform, or a single image has another one.
        InvalidDocument: An artifact is not an image, so docker cannot load it.
        ContentError: The archive cannot be written.
    """
    listed: dict[Digest, _SavedImage] = {}
    content: dict[str, Descriptor] = {}
    for reference, names in images.items():
        _, manifest = select_manifest(layout.resolve(reference), platform, document=layout.document, blob=layout.fetch)
        if not manifest.is_image:
            raise InvalidDocument(
                f"{reference} is {manifest.kind}, not an image",
                hint="docker archives hold images only; write artifacts to oci-archive:",
            )
        config = f"{manifest.config.digest.encoded}.json"
        layers = [f"{layer.digest.encoded}.tar" for layer in manifest.layers]
        listed_names = listed[manifest.digest].names if manifest.digest in listed else ()
        listed[manifest.digest] = _SavedImage(config=config, names=(*listed_names, *names), layers=tuple(layers))
        content |= {config: manifest.config, **dict(zip(layers, manifest.layers, strict=True))}
    with create_tar(Path(path)) as tar:
        for name, descriptor in sorted(content.items()):
            add_blob(tar, name, layout, descriptor)
        entries = [
            {"Config": image.config, "RepoTags": image.names, "Layers": image.layers} for image in listed.values()
        ]
        add_file(tar, "manifest.json", json.dumps(entries, separators=(",", ":")).encode())
