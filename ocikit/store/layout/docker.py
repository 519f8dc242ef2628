"""What `docker save` writes: one tar of layers and configs, listed in `manifest.json`, with no manifest of their own.

Reading makes an OCI manifest from the config and the layers as they are; nothing is compressed anew, so the same archive
always gives the same digest. Archives of Docker 25 and newer are image layouts too: `open_archive` reads them as such.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ocikit.errors import InvalidDocument, NotFound, UnsafeArchive
from ocikit.layers.compression import GZIP, compression_of, zstd
from ocikit.spec import media_types
from ocikit.spec.config import ImageConfig
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest, PlatformLike
from ocikit.store.base import Store
from ocikit.store.graph import STORED_LIMIT
from ocikit.store.layout.archive import add_blob, add_file, members, new_tar, open_tar
from ocikit.store.layout.layout import Layout

_LINKS = 8  # links in a row: docker writes one, from a layer to another image's


def read_docker_archive(path: Path | str, store: Store) -> tuple[Descriptor, ...]:
    """Add every image in an archive to a store, under its names there, such as "alpine:3.20". Gives the manifests.

    Args:
        path: the tar; it may be compressed.
        store: where to; one that takes such names, as layouts do.
    Raises:
        NotFound: if the archive isn't there, or isn't one of docker's.
        InvalidDocument: if `manifest.json` or a config isn't what it should be.
        DigestMismatch: if a layer isn't the one that its config names.
    """
    path = Path(path)
    found = []
    with open_tar(path) as tar:
        files = {posixpath.normpath(member.name): member for member in members(tar)}
        if "manifest.json" not in files:
            raise NotFound(
                f"{path} has no manifest.json", hint="docker save writes one; a layout's tar is oci-archive:"
            )
        for image in _images(_small(tar, files, "manifest.json")):
            descriptor, raw = _take(tar, files, image, store)
            store.push_bytes(descriptor, raw)
            for name in image.get("RepoTags") or ():
                store.tag(descriptor, name)
            if not image.get("RepoTags"):
                store.keep(descriptor)
            found.append(descriptor)
    return tuple(found)


def _images(raw: bytes) -> list[dict[str, Any]]:
    """The images that `manifest.json` lists."""
    try:
        images = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"manifest.json is not JSON: {error}") from error
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise InvalidDocument("manifest.json: expected an array of objects @ $")
    for i, image in enumerate(images):
        if not isinstance(image.get("Config"), str):
            raise InvalidDocument(f"manifest.json: expected a string @ $[{i}].Config")
        for key in ("Layers", "RepoTags"):
            value = image.get(key) or []
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise InvalidDocument(f"manifest.json: expected an array of strings @ $[{i}].{key}")
    return images


def _take(
    tar: tarfile.TarFile, files: Mapping[str, tarfile.TarInfo], image: dict[str, Any], store: Store
) -> tuple[Descriptor, bytes]:
    """Push an image's config and layers; its manifest."""
    raw = _small(tar, files, image["Config"])
    config = ImageConfig.parse(raw, limit=STORED_LIMIT)
    names, diff_ids = image.get("Layers") or [], config.rootfs.diff_ids
    if len(names) != len(diff_ids):
        raise InvalidDocument(
            f"manifest.json lists {len(names)} layers, but the config {image['Config']} has {len(diff_ids)} @ $.rootfs",
            hint="the archive is damaged; save it again",
        )
    layers = [_layer(tar, files, name, diff_id, store) for name, diff_id in zip(names, diff_ids, strict=True)]
    described = Descriptor.of(raw, media_types.OCI_CONFIG)
    store.push_bytes(described, raw)
    manifest = Manifest(config=described, layers=tuple(layers))
    return manifest.descriptor, manifest.raw


def _layer(
    tar: tarfile.TarFile, files: Mapping[str, tarfile.TarInfo], name: str, diff_id: Digest, store: Store
) -> Descriptor:
    """Push one layer: verified by the config, which names the uncompressed tar."""
    member = _find(files, name)
    with _open(tar, member) as file:
        compression = compression_of(file.read(8))
    if not compression:
        descriptor = Descriptor(media_type=media_types.OCI_LAYER, digest=diff_id, size=member.size)
    else:
        with (
            _open(tar, member) as file,
            gzip.GzipFile(fileobj=file) if compression == GZIP else zstd().ZstdFile(file) as plain,
        ):
            diff_id.check(hashlib.file_digest(plain, diff_id.hasher).hexdigest(), f"layer {name}")  # type: ignore[arg-type]  # typeshed's hash objects have more than is asked of them
        # What is compressed has no digest of its own in the archive
        with _open(tar, member) as file:
            digest = Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
        kind = media_types.OCI_LAYER_GZIP if compression == GZIP else media_types.OCI_LAYER_ZSTD
        descriptor = Descriptor(media_type=kind, digest=digest, size=member.size)
    if not store.exists(descriptor):
        with _open(tar, member) as file:
            store.push(descriptor, file)
    return descriptor


def _find(files: Mapping[str, tarfile.TarInfo], name: str) -> tarfile.TarInfo:
    """The regular file of that name; docker links layers that images share."""
    at = posixpath.normpath(name)
    for _ in range(_LINKS):
        member = files.get(at)
        if member is None:
            raise NotFound(f"the archive has no {at!r}, which its manifest.json names", hint="save it again")
        if member.isreg() and not member.issparse():  # a few bytes may stand for holes of any size
            return member
        if member.issym():
            at = posixpath.normpath(posixpath.join(posixpath.dirname(at), member.linkname))
        elif member.islnk():
            at = posixpath.normpath(member.linkname)
        else:
            break
    raise UnsafeArchive(f"{name!r} in the archive is no whole file, or links in circles", hint="save it again")


def _open(tar: tarfile.TarFile, member: tarfile.TarInfo) -> io.BufferedReader:
    return cast("io.BufferedReader", tar.extractfile(member))


def _small(tar: tarfile.TarFile, files: Mapping[str, tarfile.TarInfo], name: str) -> bytes:
    member = _find(files, name)
    if member.size > STORED_LIMIT:
        raise InvalidDocument(f"{name} is {member.size} bytes, above the limit of {STORED_LIMIT}")
    with _open(tar, member) as file:
        return file.read()


def write_docker_archive(
    layout: Layout, path: Path | str, images: Mapping[str, str], *, platform: PlatformLike | None = None
) -> None:
    """Write images for `docker load`. The same content gives the same bytes.

    Args:
        layout: where they are.
        path: the tar; replaced if it is there.
        images: docker's names, such as "alpine:3.20", to names or digests in the layout.
        platform: which image of an index; this machine's by default.
    Raises:
        ManifestUnknown, BlobUnknown, NoMatchingPlatform: if something isn't there.
        InvalidDocument: for an artifact, which docker can't load.
    """
    listed: dict[Digest, dict[str, Any]] = {}
    content: dict[str, Descriptor] = {}
    for name, reference in images.items():
        manifest = layout.document(layout.resolve(reference))
        while isinstance(manifest, Index):
            manifest = layout.document(manifest.select(platform))
        if not manifest.is_image:
            raise InvalidDocument(f"{reference} is {manifest.kind}, not an image", hint="write_archive keeps artifacts")
        config = f"{manifest.config.digest.encoded}.json"
        layers = [f"{layer.digest.encoded}.tar" for layer in manifest.layers]
        entry = listed.setdefault(manifest.digest, {"Config": config, "RepoTags": [], "Layers": layers})
        entry["RepoTags"].append(name)
        content |= {config: manifest.config, **dict(zip(layers, manifest.layers, strict=True))}
    with new_tar(Path(path)) as tar:
        for file, descriptor in sorted(content.items()):
            add_blob(tar, file, layout, descriptor)
        add_file(tar, "manifest.json", json.dumps(list(listed.values()), separators=(",", ":")).encode())
