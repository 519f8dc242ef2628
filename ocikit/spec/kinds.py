"""Media types and artifact types in words, such as "Parquet table" for `application/vnd.apache.parquet`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ocikit.display import shorten
from ocikit.spec import media_types
from ocikit.spec.media_types import media_type_of

_LONGEST: Final = 60  # characters of a type that has no words

#: Kinds of files and layers. `_by_family` names other pictures, sounds and videos.
_FILES: Final[Mapping[str, str]] = {
    # text
    "application/json": "JSON",
    "application/jsonl": "JSON lines",
    "application/ld+json": "JSON-LD",
    "application/rtf": "RTF document",
    "application/sql": "SQL",
    "application/toml": "TOML",
    "application/x-ipynb+json": "notebook",
    "application/x-ndjson": "JSON lines",
    "application/x-sh": "shell script",
    "application/x-tex": "TeX",
    "application/xml": "XML",
    "application/yaml": "YAML",
    "text/calendar": "calendar",
    "text/css": "CSS",
    "text/csv": "CSV table",
    "text/html": "HTML",
    "text/javascript": "JavaScript",
    "text/markdown": "Markdown",
    "text/plain": "text",
    "text/tab-separated-values": "TSV table",
    "text/vtt": "subtitles",
    "text/x-bibtex": "BibTeX",
    "text/x-fasta": "FASTA",
    "text/x-julia": "Julia",
    "text/x-python": "Python",
    "text/x-r": "R",
    "text/x-rst": "reStructuredText",
    # tables, arrays, databases
    "application/avro": "Avro table",
    "application/fits": "FITS",
    "application/vnd.apache.arrow.file": "Arrow table",
    "application/vnd.apache.arrow.stream": "Arrow table",
    "application/vnd.apache.parquet": "Parquet table",
    "application/vnd.dbf": "dBase table",
    "application/vnd.sqlite3": "SQLite database",
    "application/vnd.zarr": "Zarr array",
    "application/x-duckdb": "DuckDB database",
    "application/x-grib": "GRIB",
    "application/x-hdf5": "HDF5",
    "application/x-matlab-data": "MATLAB data",
    "application/x-netcdf": "NetCDF",
    "application/x-npy": "NumPy array",
    "application/x-npz": "NumPy arrays",
    "application/x-orc": "ORC table",
    "application/x-rdata": "R data",
    "application/x-sas-data": "SAS table",
    "application/x-spss-sav": "SPSS table",
    "application/x-stata-dta": "Stata table",
    "application/x-tfrecord": "TFRecord",
    # models
    "application/x-gguf": "GGUF model",
    "application/x-joblib": "joblib pickle",
    "application/x-keras": "Keras model",
    "application/x-onnx": "ONNX model",
    "application/x-pickle": "pickle",
    "application/x-protobuf": "protobuf",
    "application/x-pytorch": "PyTorch pickle",
    "application/x-safetensors": "safetensors",
    "application/x-tflite": "TFLite model",
    # geography, medicine
    "application/dicom": "DICOM",
    "application/geo+json": "GeoJSON",
    "application/geopackage+sqlite3": "GeoPackage",
    "application/vnd.google-earth.kml+xml": "KML",
    "application/vnd.google-earth.kmz": "KMZ",
    "application/vnd.las": "LAS point cloud",
    "application/vnd.laszip": "LAZ point cloud",
    "application/vnd.pmtiles": "PMTiles",
    "application/vnd.shp": "Shapefile",
    "application/vnd.shx": "Shapefile index",
    "application/x-nifti": "NIfTI",
    # office
    "application/msword": "Word document",
    "application/pdf": "PDF",
    "application/postscript": "PostScript",
    "application/epub+zip": "EPUB",
    "application/vnd.ms-excel": "Excel sheet",
    "application/vnd.ms-powerpoint": "PowerPoint slides",
    "application/vnd.oasis.opendocument.presentation": "OpenDocument slides",
    "application/vnd.oasis.opendocument.spreadsheet": "OpenDocument sheet",
    "application/vnd.oasis.opendocument.text": "OpenDocument text",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "PowerPoint slides",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "Excel sheet",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "Word document",
    # archives and compression
    "application/gzip": "gzip",
    "application/java-archive": "Java archive",
    "application/vnd.rar": "RAR archive",
    "application/x-7z-compressed": "7z archive",
    "application/x-bzip2": "bzip2",
    "application/x-lz4": "LZ4",
    "application/x-tar": "tar archive",
    "application/x-xz": "xz",
    "application/zip": "zip archive",
    "application/zstd": "zstd",
    media_types.OCI_LAYER: "tar",
    media_types.OCI_LAYER_GZIP: "tar+gzip",
    media_types.OCI_LAYER_ZSTD: "tar+zstd",
    media_types.DOCKER_LAYER: "tar",
    media_types.DOCKER_LAYER_GZIP: "tar+gzip",
    media_types.DOCKER_LAYER_ZSTD: "tar+zstd",
    media_types.EMPTY: "empty",
    # others
    "image/svg+xml": "SVG image",
    "image/vnd.microsoft.icon": "icon",
    "audio/mpeg": "MP3 audio",
    "audio/vnd.wave": "WAV audio",
    "video/matroska": "Matroska video",
    "video/quicktime": "QuickTime video",
    "video/x-msvideo": "AVI video",
    "model/gltf+json": "glTF model",
    "model/gltf-binary": "glTF model",
    "application/wasm": "WebAssembly",
}

#: Kinds of artifacts.
_ARTIFACTS: Final[Mapping[str, str]] = {
    "application/vnd.ocikit.files.v1": "files",
    media_types.FOLDER: "files",
    media_types.OCI_CONFIG: "container image",
    media_types.DOCKER_CONFIG: "container image",
    media_types.OCI_INDEX: "index",
    media_types.DOCKER_INDEX: "index",
    media_types.OCI_MANIFEST: "manifest",
    media_types.DOCKER_MANIFEST: "manifest",
    media_types.OCI_ARTIFACT: "artifact manifest",
    media_types.EMPTY: "artifact",
    "application/vnd.unknown.artifact.v1": "artifact",
    "application/vnd.unknown.config.v1+json": "artifact",
    "application/vnd.cncf.helm.config.v1+json": "Helm chart",
    "application/vnd.cncf.model.manifest.v1+json": "model",
    "application/vnd.dev.cosign.simplesigning.v1+json": "cosign signature",
    "application/vnd.dev.cosign.artifact.sig.v1+json": "cosign signature",
    "application/vnd.cncf.notary.signature": "notation signature",
    "application/vnd.in-toto+json": "in-toto attestation",
    "application/spdx+json": "SPDX SBOM",
    "application/vnd.cyclonedx+json": "CycloneDX SBOM",
    "application/vnd.wasm.config.v0+json": "WebAssembly module",
}

_BUNDLE: Final = "application/vnd.dev.sigstore.bundle"
_FAMILIES: Final[Mapping[str, str]] = {
    "image": "image",
    "audio": "audio",
    "video": "video",
    "model": "3D model",
    "font": "font",
}


def file_kind(media_type: str, name: str = "") -> str:
    """Return the kind of a file in words, by its media type or else by the suffix of its name.

    A type without words is returned as it is.

    >>> file_kind("application/vnd.apache.parquet"), file_kind("application/octet-stream", "x.safetensors")
    ('Parquet table', 'safetensors')
    >>> file_kind("image/png"), file_kind("application/octet-stream", "weights.bin"), file_kind("application/vnd.example.x")
    ('PNG image', 'binary', 'application/vnd.example.x')
    >>> file_kind("application/vnd.cncf.helm.chart.content.v1.tar+gzip")
    'tar+gzip'
    """
    by_name = media_type_of(name)
    if media_type in {media_types.OCTET_STREAM, ""} and by_name == media_types.OCTET_STREAM:
        return "binary"
    for known in (media_type, by_name):
        if kind := _FILES.get(known) or _by_family(known):
            return kind
    archive = next((archive for archive in media_types.ARCHIVES if media_type.endswith(f".{archive}")), None)
    return archive or shorten(media_type, _LONGEST)


def artifact_kind(kind: str) -> str:
    """Return the kind of an artifact in words; a type without words is returned as it is.

    Args:
        kind: Artifact type, or media type of the config.

    >>> artifact_kind("application/vnd.cncf.helm.config.v1+json"), artifact_kind("application/vnd.example.report")
    ('Helm chart', 'application/vnd.example.report')
    """
    if kind.startswith(_BUNDLE):
        return "Sigstore bundle"
    return _ARTIFACTS.get(kind) or _FILES.get(kind) or shorten(kind, _LONGEST)


def _by_family(media_type: str) -> str:
    family, _, name = media_type.partition("/")
    if family not in _FAMILIES or not name.isalnum() or len(name) > 6:
        return ""
    return f"{name.upper()} {_FAMILIES[family]}"
