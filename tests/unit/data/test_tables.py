"""Tables are compared by their footers, with two small ranges of each file."""

import io
import os
import random
import sys

import ocikit
import pyarrow as pa
import pytest
from ocikit.data.tables import StatedChange, Table, compare_tables, read_table, table_format
from pyarrow import feather, parquet

from tests.support.home import write

TABLE = pa.table({"k": pa.array(range(100_000), pa.int32()), "c": pa.array(map(float, range(100_000)))})


def encoded(kind, table=TABLE, **options):
    file = io.BytesIO()
    parquet.write_table(table, file, **options) if kind == "parquet" else feather.write_feather(table, file, **options)
    return file.getvalue()


def ranges(content, requested=None):
    def read(spans):
        if requested is not None:
            requested.append(list(spans))
        return [content[offset : offset + length] for offset, length in spans]

    return read


# Footers


def test_parquet_is_described_by_one_small_range():
    content, requested = encoded("parquet"), []
    table = read_table("parquet", len(content), ranges(content, requested))
    assert (table.columns, table.rows) == ({"k": "int32", "c": "double"}, 100_000)
    assert {name: (c.nulls, c.min, c.max) for name, c in table.stated.items()} == {
        "k": (0, "0", "99999"),
        "c": (0, "-0.0", "99999.0"),
    }
    assert requested == [[(len(content) - 65_536, 65_536)]]


def test_large_footer_is_a_second_range():
    wide = pa.table({f"a_column_with_a_long_name_{i}": [1, 2, 3] for i in range(2000)})
    content, requested = encoded("parquet", wide, row_group_size=1), []
    table = read_table("parquet", len(content), ranges(content, requested))
    assert (len(table.columns), table.rows, len(requested)) == (2000, 3, 2)
    ((start, length),) = requested[1]
    assert start + length == len(content) - 65_536


@pytest.mark.parametrize(
    "options", [{}, {"chunksize": 10_000}, {"compression": "zstd"}, {"compression": "uncompressed"}]
)
def test_arrow_is_described_by_the_headers_of_its_batches(options):
    content, requested = encoded("arrow", **options), []
    table = read_table("arrow", len(content), ranges(content, requested))
    assert table == Table(columns={"k": "int32", "c": "double"}, rows=100_000)
    assert len(requested) <= 2
    assert sum(length for _, length in requested[-1]) < 65_537


def test_arrow_with_many_batches_has_no_rows():
    content = encoded("arrow", chunksize=100)
    assert read_table("arrow", len(content), ranges(content)) == Table(columns={"k": "int32", "c": "double"})


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("empty", [pa.table({}), TABLE.slice(0, 0)])
def test_table_without_rows_is_described(kind, empty):
    content = encoded(kind, empty)
    table = read_table(kind, len(content), ranges(content))
    assert (list(table.columns), table.rows) == (empty.column_names, 0)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_damaged_table_is_an_error_with_a_next_step(kind):
    content = encoded(kind, TABLE.slice(0, 100), compression="zstd")
    magic = b"PAR1" if kind == "parquet" else b"ARROW1"
    cases = [b"", magic, b"x" * 100, content[:-1], content[-60:], b"\xff" * 100 + b"\xff\xff\xff\x7f" + magic]
    for case in cases:
        with pytest.raises(ocikit.ContentError) as caught:
            read_table(kind, len(case), ranges(case))
        assert caught.value.hint
    chance = random.Random(7)
    for _ in range(2000):
        damaged = bytearray(content)
        for _ in range(chance.randrange(1, 8)):
            damaged[-chance.randrange(1, min(len(content), 800))] = chance.randrange(256)
        try:
            read_table(kind, len(damaged), ranges(bytes(damaged)))
        except ocikit.ContentError:
            pass


def test_error_of_the_source_is_raised_as_it_is():
    def fail(spans):
        raise ocikit.TimedOut("slow")

    with pytest.raises(ocikit.TimedOut):
        read_table("parquet", 100, fail)


def test_format_is_that_of_media_type_or_name():
    assert table_format("a.bin", "application/vnd.apache.parquet") == "parquet"
    assert table_format("a.feather", "application/octet-stream") == "arrow"
    assert table_format("a.csv", "text/csv") is None


# Differences


def test_columns_and_rows_of_tables_are_compared():
    before = Table(columns={"a": "int32", "b": "string", "c": "double"}, rows=10)
    change = compare_tables(before, Table(columns={"a": "int64", "c": "double", "d": "bool"}, rows=12))
    assert (change.added, change.removed) == ({"d": "bool"}, {"b": "string"})
    assert change.retyped == {"a": ("int32", "int64")}
    assert str(change) == "+ d: bool, − b, ~ a: int32 → int64; 10 → 12 rows"
    assert str(compare_tables(before, before)) == "10 rows"


def test_statistics_of_changed_columns_are_compared():
    def table(values, **options):
        content = encoded("parquet", pa.table({"k": values, "same": [1, 2, 3], "text": ["a", "b", "c"]}), **options)
        return read_table("parquet", len(content), ranges(content))

    change = compare_tables(table([1, 2, 3]), table([None, 2, 30]))
    assert change.stated == {"k": StatedChange(nulls=(0, 1), min=("1", "2"), max=("3", "30"))}
    assert str(change) == "3 rows; stated by the writer: k nulls 0 → 1, min 1 → 2, max 3 → 30"
    assert not compare_tables(table([1, 2, 3]), table([1, 2, 4], write_statistics=False)).stated
    assert not compare_tables(table([1, 2, 3]), table([1, 2, 3])).stated


@pytest.fixture
def two(session, server, home):
    """Two versions of a table that does not fit into one request, in two formats, and a file that only looks like one."""
    extra = pa.array([os.urandom(8) for _ in range(100_000)])
    for version, table in (("v1", TABLE), ("v2", TABLE.slice(7).append_column("new", extra.slice(7)))):
        files = {f"{kind}.{kind}": encoded(kind, table) for kind in ("parquet", "arrow")}
        write(home, {**files, "fake.parquet": version * 9, "table.csv": version})
        session.push(f"{server.host}/t/d:{version}", *files, "fake.parquet", "table.csv")
    server.requests.clear()
    return f"{server.host}/t/d:v1", f"{server.host}/t/d:v2"


def test_new_column_is_found_by_two_small_ranges(session, server, two):
    found = ocikit.diff(*two, include="parquet.parquet", tables=True, session=session)
    change = found.changed["parquet.parquet"].table
    assert (change.added, change.removed, change.rows) == ({"new": "binary"}, {}, (100_000, 99_993))
    wanted = [r.headers["Range"] for r in server.requests if "/blobs/" in r.path]
    assert len(wanted) == 2
    for header in wanted:
        first, last = map(int, header.removeprefix("bytes=").split("-"))
        assert last - first < 65_536
    assert found.to_dict()["modified"][0]["table"]["added"] == {"new": "binary"}
    assert "+ new: binary; 100,000 → 99,993 rows" in str(found)


def test_each_format_is_compared_and_others_are_not(session, two):
    found = ocikit.diff(*two, tables=True, session=session)
    assert found.changed["arrow.arrow"].table.added == {"new": "binary"}
    assert "does not end with 'PAR1'" in found.changed["fake.parquet"].table.problem
    assert found.changed["table.csv"].table is None
    assert ocikit.diff(*two, session=session).changed["arrow.arrow"].table is None


def test_tables_on_disk_are_compared(session, two, home):
    session.pull(two[0], "out")
    write(home, {"out/parquet.parquet": encoded("parquet", TABLE.rename_columns(["k", "renamed"]))})
    found = ocikit.diff(two[0], "out", tables=True, session=session)
    assert list(found.changed) == ["parquet.parquet"]
    assert (found.changed["parquet.parquet"].table.added) == {"renamed": "double"}


def test_more_than_200_tables_are_compared_by_size_only(session, server, home):
    for version in ("v1", "v2"):
        write(home, {f"d/{i}.parquet": f"{version} {i}" for i in range(201)})
        session.push(f"{server.host}/t/d:{version}", "d")
    server.requests.clear()
    found = ocikit.diff(f"{server.host}/t/d:v1", f"{server.host}/t/d:v2", tables=True, session=session)
    assert (len(found.changed), {change.table for change in found.changed.values()}) == (201, {None})
    assert not [r for r in server.requests if "/blobs/" in r.path]
    assert "201 tables differ" in str(found)


def test_missing_pyarrow_is_named(session, two, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ocikit.OcikitError, match="needs pyarrow") as caught:
        ocikit.diff(*two, tables=True, session=session)
    assert caught.value.hint == "pip install 'ocikit[data]'"
    assert ocikit.diff(*two, session=session)
