"""Media types of the image specification and of Docker's image manifest v2. image-spec media-types.md."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
#: How a folder can be packed into one layer.
Archive: TypeAlias = Literal["tar", "tar+gzip", "tar+zstd"]
ARCHIVES: Final[Mapping[Archive, str]] = {"tar": OCI_LAYER, "tar+gzip": OCI_LAYER_GZIP, "tar+zstd": OCI_LAYER_ZSTD}

#: The content `{}`: a config or a layer that says nothing. image-spec manifest.md#guidance-for-an-empty-descriptor
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

#: What a manifest request accepts: all four in one header, since distribution and Quay answer 404 without OCI's.
#: Schema 1 is left out on purpose: it could only be refused afterwards.
ACCEPTED: Final = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX)

_LAYER_PREFIXES: Final = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")


def is_document(media_type: str) -> bool:
    """Whether content of this type is a manifest or an index, and so is fetched from the manifests endpoint.

    >>> is_document(OCI_INDEX), is_document(OCI_LAYER)
    (True, False)
    """
    return media_type in MANIFEST_TYPES or media_type in INDEX_TYPES


def is_layer(media_type: str) -> bool:
    """Whether content of this type is a layer of a file system."""
    return media_type.startswith(_LAYER_PREFIXES)


def is_foreign(media_type: str) -> bool:
    """Whether a layer of this type is non-distributable: its bytes are elsewhere, at the descriptor's urls."""
    return is_layer(media_type) and (".nondistributable." in media_type or ".foreign." in media_type)
