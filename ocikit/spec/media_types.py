"""Media types of the image specification, of Docker's image manifest v2, and of files. image-spec media-types.md.

Manifests contain the media types of files, so the table of files decides about digests. It is part of this module and not
the one of `mimetypes`, which differs between versions of Python and between operating systems.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
#: Artifact manifests of the release candidates of image-spec 1.1 (2022 to 2023), replaced by image manifests with an
#: artifactType. oras 0.15 to 1.0, notation 1.0.0-rc and others pushed signatures and reports with it.
OCI_ARTIFACT: Final = "application/vnd.oci.artifact.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
#: Layers that may not be redistributed. Deprecated, and still in images of Windows. image-spec layer.md#non-distributable-layers
OCI_FOREIGN_LAYER: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_FOREIGN_LAYER_GZIP: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
#: The formats of a folder that is packed into one layer.
Archive: TypeAlias = Literal["tar", "tar+gzip", "tar+zstd"]
ARCHIVES: Final[Mapping[Archive, str]] = {"tar": OCI_LAYER, "tar+gzip": OCI_LAYER_GZIP, "tar+zstd": OCI_LAYER_ZSTD}

ZIP: Final = "application/zip"
TAR: Final = "application/x-tar"
#: The formats of shards: archives without compression that hold the files of a folder together.
Shards: TypeAlias = Literal["zip", "tar"]
SHARDS: Final[Mapping[Shards, str]] = {"zip": ZIP, "tar": TAR}

#: The artifact type of a nested index: an index whose manifests list the files of one artifact.
FOLDER: Final = "application/vnd.ocikit.folder.v1"

#: The content `{}`, for an empty config or layer. image-spec manifest.md#guidance-for-an-empty-descriptor
EMPTY: Final = "application/vnd.oci.empty.v1+json"

DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN_LAYER_TAR: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

#: A list of Ollama's own, which is not an index.
OLLAMA_LIST: Final = "application/vnd.ollama.manifest.list.v2+json"

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

#: Media types in the Accept header of manifest requests. All are necessary, because distribution and Quay respond with
#: 404 if OCI's are missing. Schema 1 is omitted because it is not supported.
ACCEPTED: Final = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX, OCI_ARTIFACT)

#: Media types of files by suffix, without its dot: IANA's where there is one, otherwise the most common.
FILE_TYPES: Final[Mapping[str, str]] = {
    suffix: media_type
    for media_type, suffixes in {
        # text
        "application/json": "json",
        "application/jsonl": "jsonl",
        "application/ld+json": "jsonld",
        "application/rtf": "rtf",
        "application/sql": "sql",
        "application/toml": "toml",
        "application/x-ipynb+json": "ipynb",
        "application/x-ndjson": "ndjson",
        "application/x-sh": "sh",
        "application/x-tex": "tex",
        "application/xml": "xml xsd",
        "application/yaml": "yaml yml",
        "text/calendar": "ics",
        "text/css": "css",
        "text/csv": "csv",
        "text/html": "html htm",
        "text/javascript": "js mjs",
        "text/markdown": "md markdown",
        "text/plain": "txt text log cfg conf ini c h cpp hpp rs go",
        "text/tab-separated-values": "tsv",
        "text/vtt": "vtt",
        "text/x-bibtex": "bib",
        "text/x-fasta": "fasta fa",
        "text/x-julia": "jl",
        "text/x-python": "py",
        "text/x-r": "r rmd qmd",
        "text/x-rst": "rst",
        # tables, arrays, databases
        "application/avro": "avro",
        "application/fits": "fits fit",
        "application/vnd.apache.arrow.file": "arrow feather",
        "application/vnd.apache.arrow.stream": "arrows",
        "application/vnd.apache.parquet": "parquet",
        "application/vnd.dbf": "dbf",
        "application/vnd.sqlite3": "sqlite sqlite3 db",
        "application/vnd.zarr": "zarr",
        "application/x-duckdb": "duckdb",
        "application/x-grib": "grib grib2 grb grb2",
        "application/x-hdf5": "h5 hdf5 hdf he5 h5ad",
        "application/x-matlab-data": "mat",
        "application/x-netcdf": "nc nc4 cdf",
        "application/x-npy": "npy",
        "application/x-npz": "npz",
        "application/x-orc": "orc",
        "application/x-rdata": "rdata rda rds",
        "application/x-sas-data": "sas7bdat",
        "application/x-spss-sav": "sav",
        "application/x-stata-dta": "dta",
        "application/x-tfrecord": "tfrecord tfrecords",
        # models
        "application/x-gguf": "gguf",
        "application/x-joblib": "joblib",
        "application/x-keras": "keras",
        "application/x-onnx": "onnx",
        "application/x-pickle": "pkl pickle",
        "application/x-protobuf": "pb",
        "application/x-pytorch": "pt pth ckpt",
        "application/x-safetensors": "safetensors",
        "application/x-tflite": "tflite",
        # geography, medicine
        "application/dicom": "dcm",
        "application/geo+json": "geojson",
        "application/geopackage+sqlite3": "gpkg",
        "application/vnd.google-earth.kml+xml": "kml",
        "application/vnd.google-earth.kmz": "kmz",
        "application/vnd.las": "las",
        "application/vnd.laszip": "laz",
        "application/vnd.pmtiles": "pmtiles",
        "application/vnd.shp": "shp",
        "application/vnd.shx": "shx",
        "application/x-nifti": "nii",
        # office
        "application/msword": "doc",
        "application/pdf": "pdf",
        "application/postscript": "ps eps",
        "application/epub+zip": "epub",
        "application/vnd.ms-excel": "xls",
        "application/vnd.ms-powerpoint": "ppt",
        "application/vnd.oasis.opendocument.presentation": "odp",
        "application/vnd.oasis.opendocument.spreadsheet": "ods",
        "application/vnd.oasis.opendocument.text": "odt",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
        # archives and compression
        "application/gzip": "gz tgz",
        "application/java-archive": "jar",
        "application/vnd.rar": "rar",
        "application/x-7z-compressed": "7z",
        "application/x-bzip2": "bz2 tbz2",
        "application/x-lz4": "lz4",
        "application/x-tar": "tar",
        "application/x-xz": "xz txz",
        "application/zip": "zip",
        "application/zstd": "zst",
        # pictures, sound, video, bodies
        "image/avif": "avif",
        "image/bmp": "bmp",
        "image/gif": "gif",
        "image/heic": "heic",
        "image/heif": "heif",
        "image/jp2": "jp2",
        "image/jpeg": "jpg jpeg",
        "image/jxl": "jxl",
        "image/png": "png",
        "image/svg+xml": "svg",
        "image/tiff": "tif tiff",
        "image/vnd.microsoft.icon": "ico",
        "image/webp": "webp",
        "image/x-exr": "exr",
        "audio/aac": "aac",
        "audio/flac": "flac",
        "audio/midi": "mid midi",
        "audio/mp4": "m4a",
        "audio/mpeg": "mp3",
        "audio/ogg": "ogg oga opus",
        "audio/vnd.wave": "wav",
        "video/matroska": "mkv",
        "video/mp4": "mp4 m4v",
        "video/mpeg": "mpg mpeg",
        "video/quicktime": "mov",
        "video/webm": "webm",
        "video/x-msvideo": "avi",
        "model/gltf+json": "gltf",
        "model/gltf-binary": "glb",
        "model/obj": "obj",
        "model/stl": "stl",
        "model/x-ply": "ply",
        "application/wasm": "wasm",
        "font/otf": "otf",
        "font/ttf": "ttf",
        "font/woff": "woff",
        "font/woff2": "woff2",
    }.items()
    for suffix in suffixes.split()
}

_LAYER_PREFIXES: Final = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")


def is_document(media_type: str) -> bool:
    """Return True for types of manifests and indexes, which are fetched from the manifests endpoint.

    >>> is_document(OCI_INDEX), is_document(OCI_LAYER)
    (True, False)
    """
    return media_type in MANIFEST_TYPES or media_type in INDEX_TYPES or media_type == OCI_ARTIFACT


def is_layer(media_type: str) -> bool:
    """Return True for types of file system layers."""
    return media_type.startswith(_LAYER_PREFIXES)


def is_foreign(media_type: str) -> bool:
    """Return True for types of non-distributable layers, whose bytes are at the URLs of their descriptor."""
    return is_layer(media_type) and (".nondistributable." in media_type or ".foreign." in media_type)


def media_type_of(name: str) -> str:
    """Return the media type of a file by the suffix of its name, the same on every machine.

    >>> [media_type_of(name) for name in ("data/train.csv", "model.safetensors", "logs.txt.gz", "README.MD", ".csv")]
    ['text/csv', 'application/x-safetensors', 'application/gzip', 'text/markdown', 'application/octet-stream']
    """
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    return FILE_TYPES.get(suffix.lower(), OCTET_STREAM) if stem else OCTET_STREAM
