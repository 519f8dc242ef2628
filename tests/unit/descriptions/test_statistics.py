"""Statistics of Parquet files, which are read without pyarrow: it ends the process for damaged ones."""

import datetime
import decimal
import io
import random
import struct

import pytest
from ocikit.descriptions.content import Content
from ocikit.descriptions.parquet import read_parquet
from ocikit.descriptions.thrift import parse_struct

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

DAY = datetime.date(2024, 2, 28)
NOON = datetime.datetime(2024, 2, 28, 12)
VALUES = {
    "bool": (pa.bool_(), [True, None, False]),
    **{f"int{bits}": (getattr(pa, f"int{bits}")(), [-5, None, 7]) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (getattr(pa, f"uint{bits}")(), [200, None, 7]) for bits in (8, 16, 32, 64)},
    "large": (pa.uint64(), [2**64 - 1, 2**63, 1]),
    "float": (pa.float32(), [1.5, None, -2.25]),
    "double": (pa.float64(), [1.5, None, -2.25]),
    "text": (pa.string(), ["b", None, "ä"]),
    "view": (pa.large_string(), ["b", None, "a"]),
    "bytes": (pa.binary(), [b"\xff", None, b"a"]),
    "words": (pa.dictionary(pa.int32(), pa.string()), ["b", None, "a"]),
    "date": (pa.date32(), [DAY, None, DAY.replace(year=1969)]),
    "micro": (pa.timestamp("us"), [NOON, None, NOON.replace(year=1969)]),
    "milli": (pa.timestamp("ms"), [NOON, None, NOON]),
    "zone": (pa.timestamp("us", "UTC"), [NOON.replace(tzinfo=datetime.UTC), None, None]),
    "time": (pa.time64("us"), [NOON.time(), None, datetime.time(1)]),
    "small": (pa.decimal128(5, 2), [decimal.Decimal("-1.50"), None, decimal.Decimal("2.25")]),
    "wide": (pa.decimal128(30, 2), [decimal.Decimal("-1.50"), None, decimal.Decimal("2.25")]),
}
TABLE = pa.table({name: pa.array(items, kind) for name, (kind, items) in VALUES.items()})


def encoded(table, **options):
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()


def described(raw):
    content = Content(len(raw), lambda spans: [raw[start : start + length] for start, length in spans])
    return {column.name: column for column in read_parquet(content)["columns"]}


@pytest.mark.parametrize("options", [{}, {"row_group_size": 1}, {"store_decimal_as_integer": True}, {"version": "1.0"}])
def test_statistics_are_those_of_pyarrow(options):
    raw = encoded(TABLE, **options)
    found = described(raw)
    footer = parquet.read_metadata(io.BytesIO(raw))
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    for j, name in enumerate(VALUES):
        stated = [group.column(j).statistics for group in groups]
        assert found[name].nulls == sum(each.null_count for each in stated) == TABLE[name].null_count, name
        if all(each.has_min_max for each in stated) and not isinstance(stated[0].min, bytes):
            least, most = min(each.min for each in stated), max(each.max for each in stated)
            assert (found[name].min, found[name].max) == (str(least), str(most)), name


def test_files_without_statistics_have_none():
    found = described(encoded(TABLE, write_statistics=False))
    assert [(c.nulls, c.min, c.max) for c in found.values()] == [(None, None, None)] * len(VALUES)
    nested = pa.table(
        {"list": [[1, 2]], "struct": [{"a": 1}], "map": pa.array([[("a", 1)]], pa.map_("string", "int8"))}
    )
    assert [(c.nulls, c.min) for c in described(encoded(nested)).values()] == [(None, None)] * 3
    assert described(encoded(TABLE.slice(0, 0)))["int8"].min is None


def test_damaged_footer_does_not_end_the_process():
    """pyarrow 26: ParquetException of a size statistic that contradicts the schema is not caught."""
    raw = encoded(TABLE.select(["int32", "double", "text", "small"]), compression="zstd")
    chance = random.Random(7)
    for _ in range(3000):
        damaged = bytearray(raw)
        for _ in range(chance.randrange(1, 8)):
            damaged[-chance.randrange(9, min(len(raw), 1500))] = chance.randrange(256)
        try:
            described(bytes(damaged))
        except Exception as error:
            assert not isinstance(error, MemoryError | RecursionError)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x15",
        b"\x18\x7f",
        b"\x1c" * 100,
        b"\x19" * 100,
        b"\x1d\x00",
        b"\x15" + b"\xff" * 20,
        b"\x11" * 2_000_000,
        b"\x19\xf1" + b"\xff\xff\xff\xff\x7f" + bytes(10),
        b"\x17" + struct.pack("<f", 1),
    ],
    ids=[
        "empty",
        "no number",
        "short text",
        "nested",
        "lists",
        "type",
        "long number",
        "too many",
        "long list",
        "short double",
    ],
)
def test_damaged_structure_is_an_error(raw):
    with pytest.raises(ValueError, match="it "):
        parse_struct(raw)


def test_random_bytes_raise_nothing_else():
    chance = random.Random(3)
    for _ in range(3000):
        try:
            parse_struct(chance.randbytes(chance.randrange(60)))
        except ValueError:
            pass
