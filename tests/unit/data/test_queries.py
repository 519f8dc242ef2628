"""Queries over tables by polars and duckdb: `ocikit.scan` and `ocikit.sql`."""

import gzip
import sys

import ocikit
import pytest

from tests.support.home import write

pl = pytest.importorskip("polars")
duckdb = pytest.importorskip("duckdb")
pytest.importorskip("pyarrow")


@pytest.fixture
def ref(session, server, home):
    for year in (2023, 2024):
        (home / f"year={year}").mkdir()
        pl.DataFrame({"k": range(100), "x": [year] * 100}).write_parquet(home / f"year={year}/a.parquet")
    pl.DataFrame({"k": [1, 2], "name": ["one", "two"]}).write_csv(home / "names.csv")
    pl.DataFrame({"k": [1, 2]}).write_ndjson(home / "lines.jsonl")
    pl.DataFrame({"k": [5]}).write_ipc(home / "t.arrow")
    write(home, {"notes.txt": "no table"})
    return str(session.push(f"{server.host}/ds:v1", f"{home}/.").reference).partition("@")[0]


def test_scan_reads_one_file(ref):
    frame = ocikit.scan(ref, "year=2023/a.parquet")
    assert isinstance(frame, pl.LazyFrame)
    assert frame.filter(pl.col("k") < 3).collect().to_dict(as_series=False) == {"k": [0, 1, 2], "x": [2023] * 3}


@pytest.mark.parametrize("name", ["*.parquet", "year=*/a.parquet", "*/*.parquet"])
def test_scan_reads_folders_as_columns(ref, name):
    found = ocikit.scan(ref, name).group_by("year").agg(pl.len()).sort("year").collect()
    assert found.rows() == [(2023, 100), (2024, 100)]


def test_scan_reads_a_folder(ref):
    assert ocikit.scan(ref, "year=2024").collect()["x"].unique().to_list() == [2024]
    assert ocikit.scan(ref, "year=2024/").collect().height == 100


def test_tables_in_shards_are_read(session, server, home):
    for year in (2023, 2024):
        (home / f"shards/year={year}").mkdir(parents=True)
        pl.DataFrame({"k": range(10)}).write_parquet(home / f"shards/year={year}/a.parquet")
    session.push(f"{server.host}/s:v1", "shards", shards="zip")
    ref = f"{server.host}/s:v1"
    assert ocikit.scan(ref, "shards/year=2023/a.parquet").collect().height == 10
    assert ocikit.scan(ref, "*.parquet").collect()["year"].unique().sort().to_list() == [2023, 2024]
    assert ocikit.sql("select count(*) from t", t=(ref, "shards")).fetchall() == [(20,)]


@pytest.mark.parametrize("name", ["names.csv", "lines.jsonl", "t.arrow"])
def test_scan_reads_other_formats(ref, name):
    assert ocikit.scan(ref, name).select("k").collect()["k"].to_list() in ([1, 2], [5])


@pytest.mark.parametrize("name", ["one.jsonl", "one.jsonl.gz"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_scan_reads_only_line_without_line_ending(name, end, home):
    """Pyarrow reads nulls from such a file (apache/arrow#45394)."""
    line = b'{"k": 7, "name": "seven"}' + end
    ocikit.push("oci:lines:v1", {name: gzip.compress(line) if name.endswith(".gz") else line})
    assert ocikit.scan("oci:lines:v1", name).collect().to_dicts() == [{"k": 7, "name": "seven"}]


def test_scan_reads_long_only_line(home):
    ocikit.push("oci:lines:v1", {"one.jsonl": b'{"name": "%s"}' % (b"a" * 200_000)})
    assert ocikit.scan("oci:lines:v1", "one.jsonl").collect()["name"].str.len_bytes().to_list() == [200_000]


def test_scan_stays_at_the_version_it_resolved(ref, session, home):
    frame = ocikit.scan(ref, "names.csv")
    write(home, {"names.csv": "k,name\n9,nine\n"})
    session.push(ref, "names.csv")
    assert frame.collect()["k"].to_list() == [1, 2]
    assert ocikit.scan(ref, "names.csv").collect()["k"].to_list() == [9]


def test_scan_of_an_artifact_uses_its_session(ref, session, home):
    assert ocikit.scan(session.inspect(ref), "names.csv").collect().height == 2


@pytest.mark.parametrize("table", ["string", "pair", "artifact", "file"])
def test_sql_takes_each_kind_of_table(ref, session, table):
    art = session.inspect(ref)
    values = {
        "string": f"{ref}::year=2023/a.parquet",
        "pair": (ref, "year=2023/a.parquet"),
        "artifact": (art, "year=2023/a.parquet"),
        "file": art["year=2023/a.parquet"],
    }
    assert ocikit.sql("select count(*), sum(k) from t", t=values[table]).fetchall() == [(100, 4950)]


def test_sql_joins_tables_of_different_formats(ref):
    query = "select n.name, count(*) from t join n using (k) join l using (k) group by all order by all"
    found = ocikit.sql(query, t=(ref, "*.parquet"), n=f"{ref}::names.csv", l=f"{ref}::lines.jsonl")
    assert found.fetchall() == [("one", 2), ("two", 2)]
    assert ocikit.sql("select k from t", t=(ref, "t.arrow")).fetchall() == [(5,)]


def test_sql_reads_folders_as_columns(ref):
    found = ocikit.sql("select year, count(*) from t group by all order by all", t=(ref, "year=*/*.parquet"))
    assert found.fetchall() == [(2023, 100), (2024, 100)]


def test_sql_resolves_a_tag_once(ref, server):
    ocikit.sql("select 1 from a, b limit 1", a=(ref, "names.csv"), b=f"{ref}::t.arrow").fetchall()
    server.requests.clear()
    ocikit.sql("select 1 from a, b limit 1", a=(ref, "names.csv"), b=f"{ref}::t.arrow").fetchall()
    assert [r.method for r in server.seen("HEAD|GET", "/v2/ds/manifests/.*")] == ["HEAD"]


def test_sql_keeps_an_odd_name_of_a_table(ref):
    assert ocikit.sql('select count(*) from "a b""c"', **{'a b"c': (ref, "names.csv")}).fetchall() == [(2,)]


@pytest.mark.parametrize("value", ["names.csv", 5, ("a", 5)])
def test_sql_without_a_file_raises(ref, value):
    with pytest.raises(ocikit.InvalidArgument, match="table 't'"):
        ocikit.sql("select 1", t=value)


def test_missing_table_names_the_nearest(ref):
    with pytest.raises(ocikit.FileNotInArtifact) as caught:
        ocikit.scan(ref, "name.csv")
    assert "names.csv" in caught.value.hint
    with pytest.raises(FileNotFoundError):
        ocikit.sql("select 1", t=(ref, "*.nothing"))


def test_file_of_unknown_format_raises(ref):
    with pytest.raises(ocikit.InvalidArgument, match=r"notes\.txt"):
        ocikit.scan(ref, "notes.txt")
    with pytest.raises(ocikit.InvalidArgument, match="different formats"):
        ocikit.scan(ref, "")


@pytest.mark.parametrize(("package", "call"), [("polars", "scan"), ("pyarrow.dataset", "scan"), ("duckdb", "sql")])
def test_missing_package_is_named(ref, monkeypatch, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ocikit.OcikitError) as caught:
        ocikit.scan(ref, "names.csv") if call == "scan" else ocikit.sql("select 1", t=(ref, "names.csv"))
    assert "pip install" in caught.value.hint and package.partition(".")[0] in f"{caught.value} {caught.value.hint}"
