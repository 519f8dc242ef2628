"""Tests of artifacts and files: display, completion and content without requests."""

import json
import time
from datetime import UTC, datetime

import attrs
import ocikit
import pytest
from ocikit.client.artifact import Artifact, Files
from ocikit.spec import media_types

from tests.support.cards import harmless
from tests.support.home import moved, write

HOSTILE = '"><img src=x onerror=alert(1)>\x1b[31m\u202e</pre><script>alert(2)</script>&amp;\r\n\x85'
BARE = ocikit.Descriptor.of(b"{}", media_types.EMPTY)


def artifact(session, document, reference="localhost:5000/team/data:v1", **more):
    return Artifact(session._reader, ocikit.Reference.parse(reference), document.descriptor, document, **more)


def layers(titles, media_type="text/csv"):
    return tuple(
        ocikit.Descriptor.of(str(i).encode(), media_type, annotations={"org.opencontainers.image.title": t})
        for i, t in enumerate(titles)
    )


def plain(shown, limit=100):
    assert len(shown) <= limit and "\n" not in shown, shown
    assert not set("\x1b\u202e\r\x85") & set(shown)
    return True


@pytest.fixture
def hostile(session):
    """Return an artifact with hostile text in every field; its titles are valid file names."""
    title = '"><img src=x onerror=alert(1)>'
    manifest = ocikit.Manifest(
        config=ocikit.Descriptor(media_type=HOSTILE, digest=BARE.digest, size=2),
        artifact_type=HOSTILE,
        layers=layers([title], HOSTILE),
        annotations={HOSTILE: HOSTILE},
    )
    return artifact(session, manifest)


def test_artifact_has_name_tag_and_creation_time(session):
    created = "2026-11-20T10:00:00Z"
    document = ocikit.Manifest(config=BARE, annotations={"org.opencontainers.image.created": created})
    found = artifact(session, document)
    assert (found.name, found.tag) == ("localhost:5000/team/data", "v1")
    assert found.created == datetime(2026, 11, 20, 10, tzinfo=UTC)
    by_digest = artifact(
        session, ocikit.Manifest(config=BARE), f"localhost:5000/team/data@{ocikit.Manifest(config=BARE).digest}"
    )
    assert by_digest.tag is None and by_digest.created is None
    assert (
        artifact(session, attrs.evolve(document, annotations={"org.opencontainers.image.created": "soon"})).created
        is None
    )


def test_image_states_creation_time_in_its_config(session, server, home):
    config = ocikit.Descriptor.of(
        raw := b'{"os":"linux","architecture":"amd64","created":"2026-11-20T10:00:00Z"}', media_types.OCI_CONFIG
    )
    layer = ocikit.Descriptor.of(b"", media_types.OCI_LAYER)
    document = ocikit.Manifest(config=config, layers=(layer,))
    repository = session.repository(f"{server.host}/t/i", push=True)
    repository.push_bytes(config, raw)
    repository.push_bytes(layer, b"")
    repository.push_bytes(document.descriptor, document.raw, tag="v1")
    assert session.inspect(f"{server.host}/t/i:v1").created == datetime(2026, 11, 20, 10, tzinfo=UTC)


def test_reprs_are_one_short_line(hostile, session):
    for shown in (
        hostile,
        next(iter(hostile.files.values())),
        hostile.manifest,
        session,
        session.registry("localhost:5000"),
    ):
        assert plain(repr(shown)), shown
    long = artifact(session, ocikit.Manifest(config=BARE), f"localhost:5000/{'n' * 200}:{'t' * 128}")
    assert plain(repr(long))


def test_repr_of_artifact_names_reference_and_size(session):
    one = artifact(session, ocikit.Manifest(config=BARE, layers=layers(["a.csv"])))
    assert repr(one) == f"Artifact('localhost:5000/team/data:v1@{one.digest.short}', 1 B)"
    assert str(one) == f"localhost:5000/team/data:v1@{one.digest}"
    assert repr(one["a.csv"]) == "File('a.csv', 1 B)"
    assert str(one["a.csv"]) == "a.csv"


def test_repr_of_files_is_a_table(session):
    one = artifact(session, ocikit.Manifest(config=BARE, layers=layers(["a.csv", "b/plot.png"])))
    assert repr(one.files).splitlines() == [
        "2 files  2 B · localhost:5000/team/data:v1",
        "name        size  kind",
        "a.csv        1 B  CSV table",
        "b/plot.png   1 B  CSV table",
    ]


def test_html_of_artifact_is_escaped(hostile):
    for shown in (hostile, hostile.files, next(iter(hostile.files.values())), hostile.manifest):
        assert harmless(shown._repr_html_())
    assert "&lt;img src=x onerror" in hostile._repr_html_()


def test_html_of_index_escapes_platforms(session):
    platform = ocikit.Platform(os=HOSTILE, architecture=HOSTILE)
    child = ocikit.Descriptor(media_type=media_types.OCI_MANIFEST, digest=BARE.digest, size=2, platform=platform)
    index = ocikit.Index(manifests=(child,), annotations={"k": HOSTILE})
    one = artifact(session, index)
    assert harmless(one._repr_html_()) and plain(repr(one))
    assert one._ipython_key_completions_() == []
    with pytest.raises(ocikit.InvalidDocument, match="is an index, not a manifest") as caught:
        _ = one.files
    assert "platform=" in caught.value.hint and "\x1b" not in str(caught.value)


def test_artifact_of_index_is_true_without_reading_files(session):
    assert artifact(session, ocikit.Index(manifests=()))


def test_html_shows_next_calls(session):
    one = artifact(
        session,
        ocikit.Manifest(
            config=BARE, artifact_type="application/x.set", layers=layers(["a.csv", "b/c.csv"]), annotations={"k": "v"}
        ),
    )
    shown = one._repr_html_()
    for words in (
        str(one.reference),
        "application/x.set",
        "a.csv",
        "b/c.csv",
        "CSV table",
        "<td>k</td><td>v</td>",
        '.pull("folder/")',
    ):
        assert words in shown.replace("&quot;", '"'), words


@pytest.mark.timeout(60)
def test_ten_thousand_files_display_fast_and_small(session):
    one = artifact(
        session,
        ocikit.Manifest(
            config=BARE,
            layers=layers([f"data/part-{i:05}.parquet" for i in range(10_000)]),
            annotations={f"k{i}": "v" * 100 for i in range(1000)},
        ),
    )
    one.files  # noqa: B018 - the first access checks the titles
    started = time.perf_counter()
    shown = one._repr_html_()
    assert time.perf_counter() - started < 2
    assert len(shown.encode()) < 100_000 and "9,980 more" in shown
    assert one._ipython_key_completions_()[9999] == "data/part-09999.parquet"
    started = time.perf_counter()
    with pytest.raises(ocikit.FileNotInArtifact, match="among 10000") as caught:
        one["data/part-1234.parquet"]
    assert "part-" in caught.value.hint


def test_rich_shows_same_description(session):
    one = artifact(session, ocikit.Manifest(config=BARE, layers=layers(["a.csv"])))
    assert dict(item[:2] for item in one.__rich_repr__())["files"] == 1
    pretty = pytest.importorskip("rich.pretty")
    shown = pretty.pretty_repr(one)
    assert shown.startswith("Artifact(") and str(one.digest) in shown


def test_display_and_completion_send_no_request(server, session, home):
    write(home, {"data/a.csv": "x", "data/b.csv": "y"})
    session.push(f"{server.host}/t/d:v1", "data")
    art = session.inspect(f"{server.host}/t/d:v1")
    server.requests.clear()
    (
        repr(art),
        str(art),
        art._repr_html_(),
        list(art.__rich_repr__()),
        bool(art),
        art.size,
        art.kind,
        art.annotations,
        art.platforms,
    )
    repr(art["data/a.csv"]), art["data/a.csv"]._repr_html_(), dir(art)
    assert art._ipython_key_completions_() == list(art) == ["data/a.csv", "data/b.csv"]
    assert art.files._ipython_key_completions_() == list(art.files)
    assert "data/a.csv" in art and "x" not in art and len(art.files) == 2
    assert moved(server) == []


def test_repr_of_artifact_never_raises(session):
    class Broken(Files):
        def __len__(self):
            raise RuntimeError("no")

    broken = Broken(None, {})
    assert repr(broken) == "<ocikit.Broken: repr failed: RuntimeError>"
    assert "repr failed" in broken._repr_html_()


def with_config(server, session, content, media_type):
    server.blob("t/c", content)
    described = {"mediaType": media_type, "digest": ocikit.Digest.of(content), "size": len(content)}
    server.manifest(
        "t/c", {"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "config": described, "layers": []}, "v1"
    )
    return session.inspect(f"{server.host}/t/c:v1").config


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"rows": 3, "tags": ["a"], "deep": {"x": null}}', {"rows": 3, "tags": ("a",), "deep": {"x": None}}),
        (b"{}", {}),
        (b"[1, 2]", b"[1, 2]"),
        (b"\x80pickle?", b"\x80pickle?"),
        (b"not json", b"not json"),
        (b"", b""),
        (b"[" * 200_000, b"[" * 200_000),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    ],
)
def test_config_is_mapping_for_json_object_else_bytes(content, expected, server, session):
    result = with_config(server, session, content, "application/vnd.example.config+json")
    assert result == expected
    with pytest.raises(TypeError):
        result["new"] = 1


def test_image_config_is_parsed(server, session):
    raw = json.dumps({"os": "linux", "architecture": "s390x", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    result = with_config(server, session, raw, media_types.OCI_CONFIG)
    assert isinstance(result, ocikit.ImageConfig) and result.architecture == "s390x"


def test_config_is_requested_once(server, session):
    with_config(server, session, b'{"rows": 3}', "application/x+json")
    server.requests.clear()
    art = session.inspect(f"{server.host}/t/c:v1")
    assert art.config["rows"] == 3 and moved(server) == ["HEAD manifests"]


def test_file_reads_as_bytes_text_and_stream(server, session, home):
    write(home, {"ü.txt": "größe\n"})
    session.push(f"{server.host}/t/d:v1", "ü.txt")
    file = session.inspect(f"{server.host}/t/d:v1")["ü.txt"]
    assert (file.read(), file.read_text(), file.open().readline()) == (
        "größe\n".encode(),
        "größe\n",
        "größe\n".encode(),
    )
    assert (file.size, file.media_type, file.name, file.digest) == (
        8,
        "text/plain",
        "ü.txt",
        ocikit.Digest.of("größe\n".encode()),
    )


def test_artifact_without_files_is_explained(session):
    one = artifact(session, ocikit.Manifest(config=BARE, layers=(BARE,)))
    assert len(one.files) == 0 and one and list(one.files) == []
    with pytest.raises(ocikit.FileNotInArtifact) as caught:
        one["x"]
    assert caught.value.hint == "this artifact has no files"


def test_completion_offers_cached_repositories_without_request(server, session, home):
    write(home, {"a.csv": "x"})
    for name in ("team/data", "team/deep/er.json", "solo"):
        session.push(f"{server.host}/{name}:v1", "a.csv")
    registry = session.registry(server.host)
    assert registry._ipython_key_completions_() == []
    session.pin(f"{server.host}/team/deep/er.json:v1")
    session.pin(f"{server.host}/solo:v1")
    server.requests.clear()
    assert registry._ipython_key_completions_() == ["solo", "team/deep/er.json"]
    assert moved(server) == []
    assert repr(registry["team/data"]) == f"Repository(name='{server.host}/team/data')"
    with pytest.raises(ocikit.InvalidReference):
        registry["No"]
    with pytest.raises(TypeError):
        iter(registry)


def test_completion_offers_listed_repositories(session):
    with ocikit.serve() as running:
        layer = ocikit.Descriptor.of(b"x", "text/plain")
        for name in ("b", "a/c"):
            repository = session.registry(running.host)[name]
            repository.push_bytes(layer, b"x")
            manifest = ocikit.Manifest(config=layer, layers=[layer])
            repository.push_bytes(manifest.descriptor, manifest.raw, tag="v1")
        assert list(session.catalog(running.host)) == ["a/c", "b"]
        assert session.registry(running.host)._ipython_key_completions_() == ["a/c", "b"]


def test_completion_in_large_cache_is_fast(tmp_path):
    cache = ocikit.Cache(tmp_path)
    for i in range(700):
        folder = tmp_path / "refs" / "registry.example%3A5000" / f"r{i:03}"
        folder.mkdir(parents=True)
        (folder / "v1.json").touch()
    result = cache.repositories("registry.example:5000")
    assert 400 < len(result) < 501
    assert cache.repositories("elsewhere.example") == []
