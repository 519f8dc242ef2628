"""First rows of Parquet files: few bytes, and errors that are ours."""

import io

import pyarrow as pa
import pytest
from ocikit.descriptions import rows as module
from ocikit.descriptions.rows import read_rows
from ocikit.errors import ContentError

from tests.unit.descriptions.files import parquet_file

TABLE = pa.table({"a": list(range(1000)), "wide": ["x" * 50] * 1000, "nested": [{"b": n} for n in range(1000)]})


def test_first_rows_of_all_columns_are_read():
    found = read_rows(io.BytesIO(parquet_file(TABLE)), rows=3, columns=10)
    assert found.rows == 1000 and list(found.names) == ["a", "wide", "nested"]
    assert found.columns == {"a": [0, 1, 2], "wide": ["x" * 50] * 3, "nested": [{"b": 0}, {"b": 1}, {"b": 2}]}


def test_columns_are_limited_by_number_and_size(monkeypatch):
    assert list(read_rows(io.BytesIO(parquet_file(TABLE)), rows=3, columns=1).columns) == ["a"]
    monkeypatch.setattr(module, "_UNPACKED", 20_000)
    plain = parquet_file(TABLE, use_dictionary=False, compression="NONE")
    assert list(read_rows(io.BytesIO(plain), rows=3, columns=10).columns) == ["a", "nested"]


def test_file_without_rows_has_no_values():
    found = read_rows(io.BytesIO(parquet_file(TABLE.slice(0, 0))), rows=3, columns=10)
    assert found.rows == 0 and not any(found.columns.values())


@pytest.mark.parametrize("damage", [b"", b"PAR1", bytes(100), parquet_file(TABLE)[:-20]])
def test_damaged_file_raises_content_error(damage):
    with pytest.raises(ContentError):
        read_rows(io.BytesIO(damage), rows=3, columns=10)
