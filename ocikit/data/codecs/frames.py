"""Tables of pandas, polars and arrow as Parquet or Arrow files.

Parquet does not keep all types of Arrow, such as dictionaries of numbers and times in seconds, and pandas does not tell
Arrow the frequency of an index. Both are written into the metadata of the file, as a table without rows and as JSON. Other
libraries ignore them.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from ocikit import display
from ocikit.client.artifact import File
from ocikit.data.codecs.format import Format, Part, absent, invalid, is_a, refused
from ocikit.packages import package

_KEY: Final = b"ocikit"  # of the metadata
_STRINGS: Final = 32 << 20  # bytes of a text in a footer
_CONTAINERS: Final = 1 << 20  # elements of a list in a footer
_GROUP_ROWS: Final = 1 << 20
_GROUP_SIZE: Final = 64 << 20  # bytes of rows that are collected from a stream before they are written
_SAMPLE: Final = 100  # rows that are read back, to compare what a table is
_INSTANTS: Final = ("DatetimeIndex", "TimedeltaIndex")


# Arrow


def _write(table: Any, path: Path, name: str) -> None:
    """Write a table of arrow."""
    pa, parquet = package("pyarrow", "a table"), package("pyarrow.parquet", "a table")
    if name == "arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    else:
        parquet.write_table(_with_lost_types(table), str(path), compression="zstd")


def _with_lost_types(table: Any) -> Any:
    """Return a table whose metadata has the types that Parquet does not keep."""
    table = table.unify_dictionaries()
    lost = _lost(table.schema)
    return _annotated(table, {"types": _template(table.select(lost))}) if lost else table


def _lost(schema: Any) -> list[str]:
    """Return the columns that are read from Parquet with other types or dictionaries."""
    parquet = package("pyarrow.parquet", "a table")
    if len(set(schema.names)) < len(schema.names):
        raise refused("the table", "two columns have one name", "rename one of them")
    buffer = io.BytesIO()
    parquet.write_table(schema.empty_table(), buffer)
    buffer.seek(0)
    written = parquet.read_schema(buffer)
    return [field.name for field in schema if field.type != written.field(field.name).type or _has_values(field.type)]


def _has_values(kind: Any) -> bool:
    """Return True for a dictionary of other values than text, which Parquet stores without the dictionary."""
    types = package("pyarrow.types", "a table")
    if not types.is_dictionary(kind):
        return False
    return not bool(types.is_string(kind.value_type) or types.is_binary(kind.value_type))


def _template(table: Any) -> str:
    """Return the types and dictionaries of a table as text."""
    pa = package("pyarrow", "a table")
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        # A row, because batches without rows have no dictionaries
        writer.write_table(table.slice(0, 1))
    return base64.b64encode(buffer.getvalue()).decode()


def _annotated(table: Any, values: Mapping[str, Any]) -> Any:
    metadata = dict(table.schema.metadata or {})
    own = {**_own(metadata), **values}
    return table.replace_schema_metadata({**metadata, _KEY: json.dumps(own, sort_keys=True).encode()})


def _own(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Return what this module has written into the metadata of a file; other content is ignored."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads((metadata or {}).get(_KEY, b"{}"))
        if isinstance(value, dict):
            return value
    return {}


def _restored(table: Any) -> Any:
    """Return a table with the types that Parquet does not keep."""
    pa, compute = package("pyarrow", "a table"), package("pyarrow.compute", "a table")
    types = _own(table.schema.metadata).get("types")
    if not isinstance(types, str):
        return table
    template = pa.ipc.open_stream(base64.b64decode(types)).read_all()
    template.validate(full=True)
    for field in template.schema:
        place = table.schema.get_field_index(field.name)
        if place < 0:
            continue  # a column that is not loaded
        column = table.column(place)
        if pa.types.is_dictionary(field.type):
            values = template.column(field.name).chunks[0].dictionary if template.num_rows else None
            if values is None:
                values = pa.array([], field.type.value_type)
            codes = compute.index_in(column.cast(field.type.value_type), value_set=values).cast(field.type.index_type)
            chunks = [
                pa.DictionaryArray.from_arrays(chunk, values, ordered=field.type.ordered) for chunk in codes.chunks
            ]
            column = pa.chunked_array(chunks, field.type)
        else:
            column = column.cast(field.type)
        table = table.set_column(place, table.schema.field(place).with_type(field.type), column)
    return table


def _without_own(table: Any) -> Any:
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != _KEY}
    return table.replace_schema_metadata(metadata or None)


@contextlib.contextmanager
def _opened(file: File, part: Part) -> Iterator[BinaryIO | str]:
    """Open a file: the verified one on disk, or a stream that requests what is read."""
    if part.is_whole:
        yield str(file.path)
    else:
        with file.open() as stream:
            yield stream


def _read(file: File, part: Part, name: str, *, index: bool = False) -> Any:
    """Return a table of arrow, with the metadata of its file."""
    with _opened(file, part) as source:
        table = _read_arrow(file, source, part) if name == "arrow" else _read_parquet(file, source, part, index=index)
    # Arrow's readers do not check all offsets and indexes, and invalid ones would crash the interpreter
    table.validate(full=True)
    return _restored(table)


def _read_parquet(file: File, source: BinaryIO | str, part: Part, *, index: bool) -> Any:
    pa, parquet = package("pyarrow", "a table"), package("pyarrow.parquet", "a table")
    limits = {"thrift_string_size_limit": _STRINGS, "thrift_container_size_limit": _CONTAINERS}
    columns = None if part.columns is None else list(part.columns)
    if part.rows is None or part.filters is not None:
        schema = parquet.ParquetFile(source, **limits).schema_arrow
        _check_columns(file, columns, schema)
        if not isinstance(source, str):
            source.seek(0)
        table = parquet.read_table(
            source, columns=columns, filters=part.filters, use_pandas_metadata=index, partitioning=None, **limits
        )
        return table.replace_schema_metadata(schema.metadata).slice(0, part.rows)
    opened = parquet.ParquetFile(source, pre_buffer=False, **limits)
    schema = opened.schema_arrow
    _check_columns(file, columns, schema)
    if columns is not None and index:
        columns += [name for name in _index_columns(schema) if name not in columns]
    batches, missing = [], part.rows
    for batch in opened.iter_batches(batch_size=max(1, min(missing, _GROUP_ROWS)), columns=columns):
        batches.append(batch.slice(0, missing))
        missing -= batches[-1].num_rows
        if missing <= 0:
            break
    if not batches:
        schema = schema if columns is None else pa.schema([schema.field(name) for name in columns], schema.metadata)
        return schema.empty_table()
    return pa.Table.from_batches(batches).slice(0, part.rows).replace_schema_metadata(schema.metadata)


def _check_columns(file: File, columns: Iterable[str] | None, schema: Any) -> None:
    """Check that a table has columns, because the library leaves out those that it does not find.

    Raises:
        InvalidArgument: There is no such column.
    """
    for name in columns or ():
        if name not in schema.names and name.partition(".")[0] not in schema.names:  # "a.b" is a part of a struct
            raise absent(file, "column", name, schema.names)


def _index_columns(schema: Any) -> list[str]:
    """Return the columns that are the index of a frame."""
    names = (schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in names if isinstance(name, str) and name in schema.names]


def _read_arrow(file: File, source: BinaryIO | str, part: Part) -> Any:
    pa, dataset = package("pyarrow", "a table"), package("pyarrow.parquet", "a table")
    reader = pa.ipc.open_file(source)
    names = list(reader.schema.names)
    if part.columns is not None:
        wanted = [*part.columns, *(name for name in _index_columns(reader.schema) if name not in part.columns)]
        _check_columns(file, wanted, reader.schema)
        if part.filters is None:  # conditions need other columns, too
            options = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in wanted])
            if not isinstance(source, str):
                source.seek(0)
            reader = pa.ipc.open_file(source, options=options)
    else:
        wanted = names
    batches, count = [], 0
    for number in range(reader.num_record_batches):
        if part.filters is None and part.rows is not None and count >= part.rows:
            break
        batches.append(reader.get_batch(number))
        count += batches[-1].num_rows
    table = pa.Table.from_batches(batches, reader.schema)
    if part.filters is not None:
        table = table.filter(dataset.filters_to_expression(part.filters))
    return table.select(wanted).slice(0, part.rows)


def _dump_arrow(obj: Any, path: Path, name: str) -> None:
    pa = package("pyarrow", "a table")
    if isinstance(obj, pa.RecordBatch):
        obj = pa.Table.from_batches([obj])
    if isinstance(obj, pa.Table):
        _write(obj, path, name)
        _check_schema(obj.schema, path, name)
        return
    batches = obj.to_batches() if hasattr(obj, "to_batches") else obj
    _write_stream(obj.schema, batches, path, name)
    _check_schema(obj.schema, path, name)


def _write_stream(schema: Any, batches: Any, path: Path, name: str) -> None:
    """Write a stream of batches, of which few are in memory at the same time."""
    pa, parquet = package("pyarrow", "a table"), package("pyarrow.parquet", "a table")
    lost = _lost(schema) if name == "parquet" else []
    if any(_has_values(schema.field(column).type) for column in lost):
        raise refused(
            "the stream", "it has a dictionary of other values than text", 'use format="arrow", or cast the column'
        )
    if lost:
        types = _template(schema.empty_table().select(lost))
        schema = _annotated(schema.empty_table(), {"types": types}).schema
    writer = (
        pa.ipc.new_file(str(path), schema)
        if name == "arrow"
        else parquet.ParquetWriter(str(path), schema, compression="zstd")
    )
    with writer:
        waiting: list[Any] = []
        rows = size = 0
        for batch in batches:
            if name == "arrow":
                writer.write_batch(batch)
                continue
            waiting.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows >= _GROUP_ROWS or size >= _GROUP_SIZE:
                writer.write_table(pa.Table.from_batches(waiting).replace_schema_metadata(schema.metadata))
                waiting, rows, size = [], 0, 0
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting).replace_schema_metadata(schema.metadata))


def _check_schema(schema: Any, path: Path, name: str) -> None:
    """Check that the file has the types of a table.

    Raises:
        InvalidArgument: It does not.
    """
    pa, parquet = package("pyarrow", "a table"), package("pyarrow.parquet", "a table")
    if name == "arrow":
        written = pa.ipc.open_file(str(path)).schema
    else:
        written = _restored(parquet.read_schema(str(path)).empty_table()).schema
    for before, after in zip(schema, written, strict=True):
        if before.type != after.type:
            raise refused(
                "the table",
                f"Parquet keeps the column {display.quoted(before.name)} as {after.type}, not {before.type}",
                'use format="arrow", or cast the column',
            )


# pandas


def _dump_pandas(obj: Any, path: Path, name: str) -> None:
    pa, pd = package("pyarrow", "a table of pandas"), package("pandas", "a table of pandas")
    own: dict[str, Any] = {}
    if isinstance(obj, pd.Series):
        if not (obj.name is None or type(obj.name) in {str, int}):
            raise refused("the Series", f"its name {display.quoted(obj.name)} is not text", "use .rename(…)")
        own["name"] = obj.name
        frame = obj.to_frame("value")
        frame.attrs = dict(obj.attrs)
    elif isinstance(obj, pd.Index):
        frame = pd.DataFrame({"value": False}, index=obj)
    else:
        frame = obj
    _check_frame(pd, frame)
    table = pa.Table.from_pandas(frame)
    frequencies = {"index": _frequency(frame.index), "columns": _frequency(frame.columns)}
    if any(frequencies.values()):
        own["freq"] = {key: value for key, value in frequencies.items() if value}
    if isinstance(frame.columns, pd.RangeIndex):
        own["range"] = [frame.columns.start, frame.columns.stop, frame.columns.step]
    if objects := _objects(pd, frame, table):
        own["objects"] = objects
    if own:
        table = _annotated(table, own)
    _check_values(pd, frame, table)
    _check_sample(pd, pa, frame, own, name)
    _write(table, path, name)


def _objects(pd: Any, frame: Any, table: Any) -> dict[str, str]:
    """Return the columns of Python objects, by their names in the table, with the value that stands for a missing one."""
    objects = {}
    for place in range(len(frame.columns)):
        column = frame.iloc[:, place]
        if pd.api.types.is_object_dtype(column.dtype):
            has_nan = any(isinstance(value, float) for value in column[column.isna()])
            objects[table.schema.names[place]] = "nan" if has_nan else "none"
    return objects


def _frequency(index: Any) -> str | None:
    return index.freqstr if type(index).__name__ in _INSTANTS and index.freq is not None else None


def _check_frame(pd: Any, frame: Any) -> None:
    """Check the names of columns, which the libraries would change with a warning or an unclear error.

    Raises:
        InvalidArgument: Names are repeated, or of several types.
    """
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise refused("the DataFrame", f"two columns have the name {display.quoted(twice)}", "rename one of them")
    if pd.api.types.infer_dtype(frame.columns).startswith("mixed") and not isinstance(frame.columns, pd.MultiIndex):
        raise refused(
            "the DataFrame",
            "its column names are of several types, which would become text",
            "use one type: df.columns = df.columns.map(str)",
        )


def _check_values(pd: Any, frame: Any, table: Any) -> None:
    """Check that the values of objects and extension types are read back as they are, column by column.

    Arrow infers the type of objects: a column of 1 and 2.5 would become one of decimal numbers, and a list an array.

    Raises:
        InvalidArgument: A column would come back changed; the message names it.
    """
    for place in range(len(frame.columns)):
        column = frame.iloc[:, place]
        if not (pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_extension_array_dtype(column.dtype)):
            continue
        try:
            back = _to_frame(table.select([place])).iloc[:, 0]
            pd.testing.assert_series_equal(
                column.reset_index(drop=True), back.reset_index(drop=True), check_exact=True, check_names=False
            )
            _check_same_types(column, back)
        except (AssertionError, TypeError) as error:
            raise refused(
                "the DataFrame",
                f"the column {display.quoted(frame.columns[place])} would come back changed:"
                f" {display.shorten(' '.join(str(error).split()), 200)}",
                "convert the column to one type, or save a pyarrow.Table, which has lists and structs",
            ) from None


def _check_same_types(before: Any, after: Any) -> None:
    """Check the types of objects, because pandas regards 1 as equal to True and a list as equal to an array."""
    if before.dtype == object:
        for left, right in zip(before, after, strict=True):
            if type(left) is not type(right):
                raise AssertionError(f"{type(left).__name__} as {type(right).__name__}")


def _check_sample(pd: Any, pa: Any, frame: Any, own: Mapping[str, Any], name: str) -> None:
    """Check that the types, the index and the attributes are read back as they are, with the first rows.

    Raises:
        InvalidArgument: They would come back changed.
    """
    sample = frame.iloc[:_SAMPLE]
    table = pa.Table.from_pandas(sample)
    table = _annotated(table, own) if own else table
    if name == "parquet":
        parquet = package("pyarrow.parquet", "a table of pandas")
        buffer = io.BytesIO()
        parquet.write_table(_with_lost_types(table), buffer)
        buffer.seek(0)
        table = _restored(parquet.read_table(buffer))
    back = _to_frame(table)
    objects = [
        place for place, dtype in enumerate(sample.dtypes) if pd.api.types.is_object_dtype(dtype)
    ]  # their types depend on all rows
    try:
        keep = [place for place in range(len(sample.columns)) if place not in objects]
        pd.testing.assert_frame_equal(
            sample.iloc[:, keep],
            back.iloc[:, keep],
            check_exact=True,
            check_freq=True,
            check_index_type=True,
            check_column_type="equiv",
        )
        pd.testing.assert_index_equal(sample.columns, back.columns, exact=True)
        if sample.attrs != back.attrs:
            raise AssertionError("its attrs are not JSON")
    except AssertionError as error:
        raise refused(
            "the DataFrame",
            f"{name} would not keep it: {display.shorten(' '.join(str(error).split()), 200)}",
            'convert what the message names, or try format="arrow"',
        ) from None


def _to_frame(table: Any) -> Any:
    """Return a DataFrame with its columns of Python objects, and with the frequency of its index."""
    pd = package("pandas", "a table of pandas")
    frame = table.to_pandas()
    own = _own(table.schema.metadata)
    if isinstance(own.get("objects"), dict):
        hidden = _index_columns(table.schema)
        for place, name in enumerate(name for name in table.schema.names if name not in hidden):
            if name in own["objects"] and place < len(frame.columns):
                column = frame.iloc[:, place].astype(object)
                missing = float("nan") if own["objects"][name] == "nan" else None
                frame.isetitem(place, column.where(column.notna(), missing))
    columns = _to_range(pd, own.get("range"))
    if columns is not None and len(columns) == len(frame.columns) and all(columns == frame.columns):
        frame.columns = columns.rename(frame.columns.name)
    frequencies = own.get("freq")
    if isinstance(frequencies, dict):
        for axis in ("index", "columns"):
            index, frequency = getattr(frame, axis), frequencies.get(axis)
            if isinstance(frequency, str) and type(index).__name__ in _INSTANTS:
                with contextlib.suppress(ValueError):  # some rows were left out
                    setattr(frame, axis, getattr(pd, type(index).__name__)(index, freq=frequency))
    return frame


def _to_range(pd: Any, value: Any) -> Any:
    """Return the range of a file's metadata, or None if it is not a range."""
    if isinstance(value, list) and len(value) == 3 and all(type(each) is int for each in value) and value[2]:
        return pd.RangeIndex(*value)
    return None


def _load_pandas(file: File, part: Part, name: str, kind: str) -> Any:
    table = _read(file, part, name, index=True)
    frame = _to_frame(table)
    if kind == "pandas.DataFrame":
        return frame
    if list(frame.columns) != ["value"]:
        raise invalid(file, f"it has other columns than a {kind}")
    if kind == "pandas.Index":
        return frame.index
    own = _own(table.schema.metadata).get("name")
    series = frame["value"].rename(own if isinstance(own, str | int) else None)
    series.attrs = dict(frame.attrs)
    return series


def _load_arrow(file: File, part: Part, name: str) -> Any:
    return _without_own(_read(file, part, name))


# polars


def _dump_polars(obj: Any, path: Path, name: str) -> None:
    pl = package("polars", "a table of polars")
    if isinstance(obj, pl.Series):
        obj = obj.to_frame()
    if isinstance(obj, pl.LazyFrame):
        obj.sink_ipc(path, compression="uncompressed") if name == "arrow" else obj.sink_parquet(path)
        schema = obj.collect_schema()
    else:
        obj.write_ipc(path, compression="uncompressed") if name == "arrow" else obj.write_parquet(path)
        schema = obj.schema
    written = pl.read_ipc_schema(path) if name == "arrow" else pl.read_parquet_schema(path)
    for column, before in schema.items():
        if (after := written.get(column)) != before:
            raise refused(
                "the table",
                f"{name} keeps the column {display.quoted(column)} as {after}, not {before}",
                "cast the column",
            )


def _load_polars(file: File, part: Part, name: str, kind: str) -> Any:
    pl = package("polars", "a table of polars")
    if part.is_whole:
        path = file.path
        if name == "arrow":
            _read(file, part, name)  # checks the content
        frame = pl.read_ipc(path) if name == "arrow" else pl.read_parquet(path, hive_partitioning=False)
    else:
        frame = pl.from_arrow(_without_own(_read(file, part, name)))
    return frame if kind == "polars.DataFrame" else frame.to_series()


# The formats

_PARTS: Final = frozenset({"columns", "filters", "rows"})


def _formats() -> Iterator[Format]:
    for name, magic in (("parquet", b"PAR1"), ("arrow", b"ARROW1\0\0")):

        def table(kind: str, *classes: str, name: str = name, magic: bytes = magic, **rest: Any) -> Format:
            library, _, class_name = kind.partition(".")
            return Format(
                name=name,
                ending=f".{name}",
                magic=(magic,),
                kind=kind,
                library=library,
                matches=partial(_matches, library, classes or (class_name,)),
                **rest,
            )

        for kind in ("pandas.DataFrame", "pandas.Series", "pandas.Index"):
            parts = _PARTS if kind == "pandas.DataFrame" else frozenset({"rows"})
            load = partial(_load_pandas, name=name, kind=kind)
            yield table(kind, dump=partial(_dump_pandas, name=name), load=load, parts=parts)
        load = partial(_load_polars, name=name, kind="polars.DataFrame")
        dump = partial(_dump_polars, name=name)
        yield table("polars.DataFrame", "DataFrame", "LazyFrame", dump=dump, load=load, parts=_PARTS)
        load = partial(_load_polars, name=name, kind="polars.Series")
        yield table("polars.Series", dump=dump, load=load, parts=frozenset({"rows"}))
        yield table(
            "pyarrow.Table",
            *("Table", "RecordBatch", "RecordBatchReader", "Dataset"),
            dump=partial(_dump_arrow, name=name),
            load=partial(_load_arrow, name=name),
            parts=_PARTS,
        )


def _matches(library: str, classes: tuple[str, ...], obj: Any) -> bool:
    """Return True for the classes of tables; those of arrow and an index have subclasses that a file keeps."""
    exact = library != "pyarrow" and classes != ("Index",)
    return is_a(obj, library, *classes, exact=exact) or is_a(obj, f"{library}.dataset", *classes, exact=False)


#: The first one of an ending is its default.
FORMATS: Final = tuple(_formats())
