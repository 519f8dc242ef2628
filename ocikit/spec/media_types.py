"""Media types of the image specification and of Docker's image manifest v2. image-spec media-types.md."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
#: The formats of a folder that is packed into one layer.
Archive: TypeAlias = Literal["tar", "tar+gzip", "tar+zstd"]
ARCHIVES: Final[Mapping[Archive, str]] = {"tar": OCI_LAYER, "tar+gzip": OCI_LAYER_GZIP, "tar+zstd": OCI_LAYER_ZSTD}

#: The content `{}`, for an empty config or layer. image-spec manifest.md#guidance-for-an-empty-descriptor
EMPTY: Final = "application/vnd.oci.empty.v1+json"

DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

OCTET_STREAM: Final = "application/octet-stream"

MANIFEST_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
CONFIG_TYPES: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
SCHEMA1_TYPES: Final = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

#: Media types in the Accept header of manifest requests. All four are necessary, because distribution and Quay respond
#: with 404 if OCI's are missing. Schema 1 is omitted because it is not supported.
ACCEPTED: Final = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX)

_LAYER_PREFIXES: Final = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")


def is_document(media_type: str) -> bool:
    """Return True for types of manifests and indexes, which are fetched from the manifests endpoint.

    >>> is_document(OCI_INDEX), is_document(OCI_LAYER)
    (True, False)
    """
    return media_type in MANIFEST_TYPES or media_type in INDEX_TYPES


def is_layer(media_type: str) -> bool:
    """Return True for types of file system layers."""
    return media_type.startswith(_LAYER_PREFIXES)


def is_foreign(media_type: str) -> bool:
    """Return True for types of non-distributable layers, whose bytes are at the URLs of their descriptor."""
    return is_layer(media_type) and (".nondistributable." in media_type or ".foreign." in media_type)
