"""Objects that verbs return: protocols of the standard library, copies and pickles, other libraries, other verbs."""

import concurrent.futures
import copy
import csv
import gzip
import io
import json
import multiprocessing
import os
import pickle
import shutil
import zipfile
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import ocikit
import pytest
from ocikit.folder import record
from ocikit.spec import manifest as manifest_module

from tests.support.home import moved, write

CSV = b"x,y\n1,2\n3,4\n"


@pytest.fixture
def art(server, session, home):
    """Push three files and return the artifact; the cache stays empty."""
    write(home, {"a.csv": CSV, "b/c.bin": bytes(range(256)) * 300, "d.json": b'{"k": 1}'})
    pushed = session.push(f"{server.host}/t/d:v1", "a.csv", "b", "d.json")
    server.requests.clear()
    return pushed


# Protocols


def test_missing_name_is_absent_in_files_and_artifact(art):
    files = art.files
    assert "zzz" not in files and "zzz" not in art and 5 not in files and None not in art
    assert files.get("zzz") is None and files.get("zzz", 7) == 7 and files.get(5) is None
    assert "a.csv" in files and "a.csv" in art and files.get("a.csv") == art["a.csv"]


def test_files_keep_the_protocol_of_mappings(art):
    files = art.files
    assert isinstance(files, Mapping)
    assert list(files) == list(files.keys()) == [name for name, _ in files.items()] == list(art)
    assert len(files) == len(list(files)) == len(art) == 3 and bool(files)
    assert dict(files) == files == {**files} and files == art.files
    assert [file.name for file in files.values()] == list(files)
    assert list(reversed(list(files))) == list(files)[::-1]
    with pytest.raises(TypeError):
        hash(files)


def test_missing_file_is_also_key_error_and_file_not_found_error(art):
    with pytest.raises(ocikit.FileNotInArtifact) as caught:
        art["a.cvs"]
    error = caught.value
    assert isinstance(error, KeyError) and isinstance(error, FileNotFoundError) and isinstance(error, ocikit.NotFound)
    assert error.errno == 2 and str(error).startswith("no file 'a.cvs' among 3") and "nearest: a.csv" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.hint, type(again)) == (str(error), error.hint, type(error))


def test_listing_keeps_the_protocol_of_sequences(art, session, server):
    tags = session.tags(f"{server.host}/t/d")
    assert isinstance(tags, Sequence) and not isinstance(tags, Hashable)
    assert tags[0] == tags[-1] == "v1" and list(tags[:5]) == ["v1"] and tags.index("v1") == 0 and tags.count("x") == 0
    assert list(reversed(tags)) == ["v1"] and "v1" in tags and "x" not in tags and bool(tags) and len(tags) == 1
    with pytest.raises(IndexError):
        tags[5]
    none = session.referrers(art)
    assert not none and len(none) == 0 and list(none) == []


def test_equal_artifacts_and_files_are_equal(art, session):
    other = session.inspect(str(art.reference))
    assert other == art and hash(other) == hash(art) and len({other, art}) == 1
    assert other["a.csv"] == art["a.csv"] and len({other["a.csv"], art["a.csv"]}) == 1
    assert art["a.csv"] != art["d.json"] and art != "text" and art["a.csv"] != "a.csv"


def test_sized_objects_are_true_as_their_length_is(art, session, server):
    from tests.unit.display.test_reprs import displayable_classes

    # A listing reads one page for its truth instead of all; an artifact exists without files, too
    own = {c.__name__ for c in displayable_classes() if {"__len__", "__bool__"} <= set(vars(c))}
    assert own == {"Artifact", "Listing"}
    report = session.validate(art)
    assert not hasattr(report, "__len__") and report.ok
    assert not session.referrers(art) and session.tags(art) and art and art.files
    assert not ocikit.inspect(art).unnamed


def test_context_managers_close_what_they_open(art, session, home):
    with ocikit.Session(progress=False) as other:
        assert other.inspect(art).digest == art.digest
    with art["a.csv"] as file, art["a.csv"].open() as stream:
        assert file.read(3) == stream.read(3) == b"x,y"
    assert stream.closed
    with pytest.raises(ValueError, match="closed"):
        stream.read()


def test_file_keeps_the_protocol_of_binary_streams(art, home):
    ours = art["b/c.bin"]
    content = ours.read()
    assert content == ours.read() == ours.read_bytes() == bytes(range(256)) * 300
    theirs = io.BytesIO(content)
    assert ours.readable() and ours.seekable() and not ours.writable() and not ours.closed
    for name, *arguments in (
        ("tell",),
        ("read", 10),
        ("tell",),
        ("seek", -5, os.SEEK_END),
        ("read",),
        ("read",),
        ("read", 4),
        ("seek", 100),
        ("readline",),
        ("read1", 7),
        ("seek", 3, os.SEEK_CUR),
        ("readlines", 30),
        ("tell",),
        ("seek", 0),
        ("read", None),
    ):
        assert getattr(ours, name)(*arguments) == getattr(theirs, name)(*arguments), name
    buffer = bytearray(9)
    ours.seek(1)
    assert ours.readinto(buffer) == 9 and buffer == content[1:10] and ours.readinto1(memoryview(buffer)) == 9
    ours.close()
    assert ours.tell() == 0 and ours.read() == content
    with pytest.raises(io.UnsupportedOperation):
        ours.write(b"x")


# Time by the number of all files


def test_call_about_one_file_parses_no_list_of_files_again(art, session, monkeypatch, home):
    pulled, ref = session.pull(art, home / "to"), str(art.reference.tagged("v1"))

    def calls():
        assert pulled["a.csv"].read() == CSV and Path(pulled["a.csv"]).read_bytes() == CSV
        assert session.inspect(ref)["a.csv"].read() == CSV
        assert session.download(ref, "a.csv").read_bytes() == session.open(ref, "a.csv").read() == CSV
        assert session.download(art.reference, "a.csv").read_bytes() == CSV and "a.csv" in pulled

    calls()

    def fail(*_, **__):
        raise AssertionError("parsed again")

    monkeypatch.setattr(record, "_parse_items", fail)
    monkeypatch.setattr(manifest_module, "name_layers", fail)
    monkeypatch.setattr(manifest_module, "_parse", fail)
    calls()


def test_changed_record_and_damaged_document_are_read_again(art, session, home):
    pulled = session.pull(art, home / "to")
    assert Path(pulled["a.csv"]).parent == home / "to"
    (home / "to/.ocikit/manifest.json").unlink()
    assert Path(pulled["a.csv"]).parent != home / "to" and Path(pulled["a.csv"]).read_bytes() == CSV
    again = session.pull(art, home / "to")
    assert Path(again["a.csv"]).parent == home / "to"
    document = session.cache.path(art.digest)
    raw = document.read_bytes()
    os.chmod(document, 0o644)
    document.write_bytes(raw[::-1])
    assert session.inspect(art).manifest.raw == raw


# Copies and pickles


def test_pickled_artifact_and_file_read_the_same_content(art, session, home):
    for one in (art, session.inspect(art), session.pull(art), session.pull(art, home / "to")):
        again = pickle.loads(pickle.dumps(one))
        assert again == one and again.reference == one.reference and again.path == one.path
        assert again.document == one.document and again.summary == one.summary
        assert again["a.csv"].read() == CSV and list(again) == list(one)
        file = pickle.loads(pickle.dumps(one["a.csv"]))
        assert file == one["a.csv"] and file.read() == CSV and Path(file).read_bytes() == CSV
    for duplicate in (copy.deepcopy(art), copy.copy(art)):
        assert duplicate == art and duplicate["a.csv"].read() == CSV
    assert copy.deepcopy(art["a.csv"]) == copy.copy(art["a.csv"]) == art["a.csv"]


def test_pickle_of_large_artifact_leaves_its_document_out(server, session, monkeypatch):
    from ocikit.client import artifact as module

    monkeypatch.setattr(module, "_MAX_SHOWN", 10)
    write(Path.cwd(), {"a.csv": CSV})
    art = session.push(f"{server.host}/t/large:v1", "a.csv")
    again = pickle.loads(pickle.dumps(art))
    server.requests.clear()
    assert again.digest == art.digest and moved(server) == []
    assert again["a.csv"].read() == CSV and "GET manifests" in moved(server)


def test_pickle_of_session_has_settings_and_no_secret(server, home):
    network = ocikit.Network(
        retries=7,
        headers={"X-Key": "hunter2-header"},
        proxies={"https": "http://ada:hunter2-proxy@proxy.example"},
        connect_timeout=3,
    )
    session = ocikit.Session(
        credentials=("ada", "hunter2-password"),
        network=network,
        insecure=["host.example"],
        cache=home / "cache",
        workers=3,
        progress=False,
        mirrors={"docker.io": ["mirror.example"]},
    )
    raw = pickle.dumps(session)
    assert b"hunter2" not in raw and b"hunter2" not in pickle.dumps(session.registry("localhost:5000"))
    again = pickle.loads(raw)
    settings = again._backends.network
    assert (settings.retries, settings.connect_timeout, again.workers) == (7, 3, 3)
    assert settings.insecure == {"host.example"} and list(settings.mirrors) == ["docker.io"]
    assert again.cache.root == home / "cache" and again._reader.progress is False
    assert copy.deepcopy(session)._backends.keychain.explicit == ("ada", "hunter2-password")
    assert copy.deepcopy(network) == network


def test_listing_and_plans_are_pickled_complete(art, session, server, home):
    host = server.host
    results = [
        session.tags(f"{host}/t/d"),
        session.referrers(art),
        session.pull(art, home / "plan", dry_run=True).plan,
        session.copy(art, "oci:other:v1", dry_run=True).plan,
        session.push(f"{host}/t/e:v1", "a.csv", dry_run=True),
        session.tag(art, "v2", dry_run=True),
        session.delete(art, dry_run=True),
        session.ping(host),
        session.registry(host),
        session.repository(f"{host}/t/d"),
        session.validate(art.reference),
        session.explain(host),
        session.cache.scan(),
        art.manifest,
        art.config,
    ]
    for result in results:
        for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
            assert type(again) is type(result) and repr(again) == repr(result)


def _size(file):
    return len(file.read()), Path(file).stat().st_size


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_worker_processes_read_files(method, art):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform has no {method}")
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(_size, art.files.values())) == [(f.size, f.size) for f in art.files.values()]


def test_joblib_and_dask_read_files_in_workers(art):
    joblib, dask = pytest.importorskip("joblib"), pytest.importorskip("dask")
    want = [(f.size, f.size) for f in art.files.values()]
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(_size)(f) for f in art.files.values()) == want
    lazy = [dask.delayed(_size)(f) for f in art.files.values()]
    assert list(dask.compute(*lazy, scheduler="processes", num_workers=2)) == want


# Other libraries


def test_file_works_with_standard_library(art, home):
    file = art["a.csv"]
    assert shutil.copy(file, home / "copy.csv") and (home / "copy.csv").read_bytes() == CSV
    with open(home / "again.csv", "wb") as target:
        shutil.copyfileobj(file, target)
    assert (home / "again.csv").read_bytes() == CSV
    assert json.load(art["d.json"]) == {"k": 1}
    with art["a.csv"].open("r") as text:
        assert list(csv.reader(text)) == [["x", "y"], ["1", "2"], ["3", "4"]]
    assert list(art["a.csv"]) == CSV.splitlines(keepends=True)


def test_archives_in_files_are_read(server, session, home):
    with zipfile.ZipFile(home / "z.zip", "w") as archive:
        archive.writestr("in.txt", "zip")
    write(home, {"g.gz": gzip.compress(b"gzip" * 1000), "m.pkl": pickle.dumps({"a": [1, 2]})})
    art = session.push(f"{server.host}/t/z:v1", "z.zip", "g.gz", "m.pkl")
    assert zipfile.ZipFile(art["z.zip"]).read("in.txt") == b"zip"
    with zipfile.ZipFile(io.BufferedReader(art["z.zip"])) as archive:
        assert archive.read("in.txt") == b"zip"
    with gzip.open(art["g.gz"]) as stream:
        assert stream.read() == b"gzip" * 1000
    with gzip.GzipFile(fileobj=art["g.gz"]) as stream:
        assert stream.read() == b"gzip" * 1000
    assert pickle.load(art["m.pkl"]) == {"a": [1, 2]}


def test_file_is_read_by_data_libraries(server, session, home):
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    joblib = pytest.importorskip("joblib")
    write(home, {"a.csv": CSV})
    numpy.save(home / "n.npy", numpy.arange(5))
    numpy.savez(home / "n.npz", x=numpy.arange(3))
    joblib.dump({"model": numpy.arange(4)}, home / "m.joblib")
    art = session.push(f"{server.host}/t/n:v1", "a.csv", "n.npy", "n.npz", "m.joblib")
    assert pandas.read_csv(art["a.csv"]).shape == (2, 2)
    assert numpy.load(art["n.npy"]).tolist() == [0, 1, 2, 3, 4]
    assert numpy.load(art["n.npz"])["x"].tolist() == [0, 1, 2]
    assert joblib.load(art["m.joblib"])["model"].tolist() == [0, 1, 2, 3]


def test_polars_reads_files(server, session, home):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"x": [1, 2], "y": ["a", "b"]})
    frame.write_parquet(home / "f.parquet")
    frame.write_csv(home / "f.csv")
    frame.write_ipc(home / "f.arrow")
    frame.write_ndjson(home / "f.ndjson")
    art = session.push(f"{server.host}/t/p:v1", "f.parquet", "f.csv", "f.arrow", "f.ndjson")
    for read, name in (("parquet", "f.parquet"), ("csv", "f.csv"), ("ipc", "f.arrow"), ("ndjson", "f.ndjson")):
        for file in (art[name], art[name].path):
            assert getattr(polars, f"read_{read}")(file).equals(frame), read
            assert getattr(polars, f"scan_{read}")(file).collect().equals(frame), read


def test_file_has_path_and_is_saved(art, home):
    file = art["b/c.bin"]
    assert file.path == Path(file) and file.path.read_bytes() == file.read_bytes() and str(file) == "b/c.bin"
    saved = file.save(home / "new/name.bin")
    assert saved == home / "new/name.bin" and saved.read_bytes() == file.read_bytes() and os.access(saved, os.W_OK)
    assert file.save(str(home / "new")) == home / "new/c.bin"
    saved.write_bytes(b"edited")
    assert file.save(saved).read_bytes() == file.read_bytes()
    write(home, {"plain": b""})
    with pytest.raises(ocikit.ContentError, match="cannot write"):
        file.save(home / "plain/x.bin")
    assert sorted(p.name for p in (home / "new").iterdir()) == ["c.bin", "name.bin"]


def test_file_opens_as_text_and_refuses_to_write(art):
    with art["a.csv"].open("r", encoding="utf-8") as text:
        assert text.readline() == "x,y\n"
    with pytest.raises(ocikit.InvalidArgument, match="read-only"):
        art["a.csv"].open("w")


# Verbs take what verbs return


def test_verbs_take_artifacts_and_listed_descriptors(art, session, server, home):
    host = server.host
    report = session.attach(art, "a.csv", artifact_type="application/x.report")
    listed = session.referrers(art)[0]
    assert listed.reference.digest == report.digest and listed.digest == report.digest
    assert session.inspect(listed).digest == session.pull(listed).digest == report.digest
    assert session.pull(art, home / "to")["a.csv"].read() == CSV
    assert session.inspect(art) == art and session.pin(art).digest == art.digest
    assert list(session.tags(art)) == ["v1"] and session.download(art, "a.csv").read_bytes() == CSV
    assert session.open(art, "a.csv").read() == CSV
    assert session.copy(art, "oci:copy:v1").digest == art.digest
    assert session.copy(art, f"{host}/t/other:v1").digest == art.digest
    plan = session.tag(art, "v2", dry_run=True)
    assert session.inspect(plan).digest == art.digest
    assert session.repository(art).name == "t/d"
    assert session.ping(session.registry(host)).reachable
    layout = session.inspect("oci:copy:v1")
    assert session.pull(layout)["a.csv"].read() == CSV
    session.delete(art)
    assert not session.tags(f"{host}/t/d")


@pytest.mark.parametrize("make", [str, ocikit.Digest, lambda text: text.upper().replace("SHA", "sha")])
def test_bare_digest_is_refused_with_the_place_for_it(make, session):
    digest = "sha256:" + "ab" * 32
    for verb in (session.inspect, session.pull, session.tags, session.pin):
        with pytest.raises(ocikit.InvalidReference, match="is a digest without a repository") as caught:
            verb(make(digest))
        assert f"registry.example/team/name@{digest}" in caught.value.hint


def test_descriptor_without_place_is_refused_with_hint(art, session):
    with pytest.raises(ocikit.InvalidReference, match="a Descriptor doesn't name a registry") as caught:
        session.inspect(art.manifest.layers[0])
    assert f"registry.example/team/name@{art.manifest.layers[0].digest}" in caught.value.hint
