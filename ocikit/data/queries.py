"""Queries over tables in artifacts, by polars and duckdb. Both read the columns and row groups that a query needs.

An artifact is resolved once, so that all parts of a query read one version.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ocikit import display
from ocikit.client.artifact import Artifact, File
from ocikit.errors import FileNotInArtifact, InvalidArgument, OcikitError
from ocikit.spec.reference import AnyReference

if TYPE_CHECKING:
    import duckdb
    import polars as pl

    from ocikit.filesystem.filesystem import OcikitFileSystem

#: Opens an artifact by its reference.
Inspect: TypeAlias = Callable[[str | AnyReference | Artifact], Artifact]

#: One or more files as a table: "reference::pattern", the same as a pair, or a file.
TableLike: TypeAlias = "str | tuple[str | AnyReference | Artifact, str] | File"

#: Formats by the last part of a name, as pyarrow calls them.
_FORMATS: Mapping[str, str] = {
    "parquet": "parquet",
    "pq": "parquet",
    "arrow": "ipc",
    "ipc": "ipc",
    "feather": "feather",
    "csv": "csv",
    "json": "json",
    "jsonl": "json",
    "ndjson": "json",
}
_CODECS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}  # those that pyarrow decompresses
_CHUNK = 64 << 10  # bytes per read of the first line of a file
_COMPRESSED = {"gz", "bz2", "zst", "xz"}  # a further suffix of text, which libraries decompress


def scan(artifact: Artifact, name: str) -> pl.LazyFrame:
    """Return tables as one lazy frame of polars.

    Args:
        artifact: Has the files.
        name: A file, a folder, or a pattern with "*".

    Raises:
        FileNotInArtifact: There is no such file.
        InvalidArgument: The files have different or unknown formats.
        OcikitError: polars or pyarrow is not installed.
    """
    try:
        import polars as pl  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise OcikitError("scan needs polars", hint="pip install 'ocikit[data]' polars") from error
    files = _file_system(artifact)
    names = _select(files, artifact, name)
    return pl.scan_pyarrow_dataset(_dataset(files, artifact, names, hive=[name] != names))


def sql(inspect: Inspect, query: str, tables: Mapping[str, TableLike]) -> duckdb.DuckDBPyRelation:
    """Return the result of a query as a lazy relation of duckdb.

    Args:
        inspect: Opens an artifact by its reference.
        query: SQL, with the names of the tables.
        tables: Files by the name of their table in the query.

    Raises:
        FileNotInArtifact: There is no such file.
        InvalidArgument: A table is none of these, or its files have different or unknown formats.
        OcikitError: duckdb or fsspec is not installed.
    """
    try:
        import duckdb  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise OcikitError("sql needs duckdb", hint="pip install 'ocikit[data]' duckdb") from error
    opened: dict[str, Artifact] = {}

    def once(reference: str | AnyReference | Artifact) -> Artifact:
        if isinstance(reference, Artifact):
            return reference
        if (known := opened.get(str(reference))) is None:
            known = opened[str(reference)] = inspect(reference)
        return known

    connection = duckdb.connect()
    files: OcikitFileSystem | None = None
    for table, value in tables.items():
        artifact, name = _table(once, table, value)
        if files is None:
            files = _file_system(artifact)
            connection.register_filesystem(files)
        files.adopt(artifact)
        names = _select(files, artifact, name)
        hive = [name] != names
        urls = [files.unstrip_protocol(f"{files.root_of(artifact)}/{each}") for each in names]
        match _format(names):
            case "parquet":
                connection.read_parquet(urls, hive_partitioning=hive).create_view(table)
            case "csv":
                connection.read_csv(urls, hive_partitioning=hive).create_view(table)
            case "json":
                connection.read_json(urls, hive_partitioning=hive).create_view(table)
            case _:
                connection.register(table, _dataset(files, artifact, names, hive=hive))
    return connection.sql(query)


def _table(inspect: Inspect, table: str, value: TableLike) -> tuple[Artifact, str]:
    """Return the artifact of a table, and the pattern of its files."""
    match value:
        case File():
            return value.artifact, value.name
        case str() if "::" in value:
            reference, _, name = value.partition("::")
            return inspect(reference), name
        case (reference, str(name)):
            return inspect(reference), name
    raise InvalidArgument(
        f"table {display.quoted(table)} is {display.quoted(str(value))}, which names no file",
        hint=f'use {table}="reference::name.parquet", {table}=(reference, "*.parquet"), or a file of an artifact',
    )


def _select(files: OcikitFileSystem, artifact: Artifact, name: str) -> list[str]:
    """Return the names of files: that file, those of a folder, or those that match a pattern, in order.

    Files in shards count, too.

    Raises:
        FileNotInArtifact: There is none.
    """
    if name in artifact.files:
        return [name]
    root = f"{files.root_of(artifact)}/"
    known = [path.removeprefix(root) for path in files.find(root)]
    if name in known:
        return [name]
    if any(magic in name for magic in "*?["):
        names = [each for each in known if fnmatch.fnmatchcase(each, name)]
    else:
        folder = name.strip("/")
        names = [each for each in known if not folder or each.startswith(f"{folder}/")]
        names = [each for each in names if _format_of(each)]
    if not names:
        near = display.nearest(name, known, 3)
        hint = f"nearest: {display.join_limited(near)}" if near else f"there is {display.join_limited(known, 3)}"
        raise FileNotInArtifact(f"{artifact.reference} has no table {display.quoted(name)}", hint=hint)
    return sorted(names)


def _format_of(name: str) -> str | None:
    stem, _, suffix = name.lower().rpartition(".")
    return _FORMATS.get(stem.rpartition(".")[2] if suffix in _COMPRESSED else suffix)


def _format(names: Iterable[str]) -> str:
    """Return the format of files.

    Raises:
        InvalidArgument: There is more than one, or it is unknown.
    """
    found = {_format_of(name): name for name in names}
    if None in found:
        raise InvalidArgument(
            f"{display.quoted(found[None])} has no known suffix of a table",
            hint=f"known are {display.join_limited(sorted(_FORMATS), len(_FORMATS))}; ocikit.open reads any file",
        )
    if len(found) > 1:
        raise InvalidArgument(
            f"the files have different formats: {display.join_limited(sorted(found.values()), 3)}",
            hint='choose files of one format, such as "*.parquet"',
        )
    (only,) = found
    return str(only)


def _dataset(files: OcikitFileSystem, artifact: Artifact, names: Iterable[str], *, hive: bool) -> Any:
    """Return files as a data set of pyarrow. The folders of several files may be columns, as in `year=2024/a.parquet`."""
    try:
        import pyarrow.dataset as ds  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise OcikitError("tables need pyarrow", hint="pip install 'ocikit[data]'") from error
    names = list(names)
    root = files.root_of(artifact)
    paths, kind = [f"{root}/{name}" for name in names], _format(names)
    source = _with_line_endings(files) if kind == "json" else files
    return ds.dataset(paths, filesystem=source, format=kind, partitioning="hive" if hive else None)


def _with_line_endings(files: OcikitFileSystem) -> Any:
    """Return a file system of pyarrow that ends the only line of a file.

    pyarrow reads nulls from a file of one JSON line without a line ending (apache/arrow#45394).
    """
    import pyarrow as pa  # noqa: PLC0415 - an optional package
    from pyarrow.fs import FSSpecHandler, PyFileSystem  # type: ignore[import-untyped]  # noqa: PLC0415 - likewise

    class Handler(FSSpecHandler):  # type: ignore[misc]  # pyarrow has no types
        def open_input_file(self, path: str) -> Any:
            codec = _CODECS.get(path.lower().rpartition(".")[2])
            line = b""
            with pa.input_stream(files.open(path, "rb"), compression=codec) as stream:
                while b"\n" not in line and (chunk := stream.read(_CHUNK)):
                    line += chunk
            if not line or b"\n" in line:
                return super().open_input_file(path)
            ended = pa.BufferOutputStream()
            with pa.output_stream(ended, compression=codec) as stream:
                stream.write(line + b"\n")
            return pa.BufferReader(ended.getvalue())

    return PyFileSystem(Handler(files))


def _file_system(artifact: Artifact) -> OcikitFileSystem:
    """Return a file system that reads with the artifact's session."""
    try:
        from ocikit.filesystem.filesystem import OcikitFileSystem  # noqa: PLC0415 - needs fsspec
    except ImportError as error:
        raise OcikitError("tables need fsspec", hint="pip install 'ocikit[data]'") from error
    return OcikitFileSystem(artifact=artifact, skip_instance_cache=True)
