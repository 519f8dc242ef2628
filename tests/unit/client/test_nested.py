"""Nested indexes: artifacts of more files than one manifest lists, pushed, read in parts, changed and pushed again."""

import os
import pickle

import ocikit
import pytest
from ocikit.client import push
from ocikit.errors import ContentError, FileNotInArtifact, InvalidArgument, InvalidDocument, NoMatchingPlatform
from ocikit.layers.boundaries import cut, folder_ranks
from ocikit.spec.annotations import PREFIX, PREFIX_FIRST, PREFIX_LAST
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.media_types import FOLDER

from tests.support.home import cli, moved, tree, write

FILES = {f"images/{n % 7}/{n:04}.bin": b"%d" % n for n in range(300)} | {"images/readme.md": b"# images"}


@pytest.fixture
def images(home, monkeypatch):
    monkeypatch.setattr(push, "_NESTED_FILES", 50)
    write(home, FILES)
    os.chmod(home / "images/1/0001.bin", 0o755)
    return home


@pytest.fixture
def ref(server, session, images):
    reference = f"{server.host}/ds:v1"
    session.push(reference, "images", index=True)
    moved(server)
    return reference


@pytest.fixture
def reader(home):
    with ocikit.Session(progress=False, cache=home.parent / "reader") as session:
        yield session


def test_index_names_folders_and_titles(session, ref):
    art = session.inspect(ref)
    assert (art.kind, art.is_index, art.is_nested) == (FOLDER, True, True)
    ranges = [
        tuple(child.annotations[key] for key in (PREFIX, PREFIX_FIRST, PREFIX_LAST)) for child in art.index.manifests
    ]
    assert ranges[1] == ("images/1/", "images/1/0001.bin", "images/1/0295.bin")
    assert [first for _, first, _ in ranges] == sorted(first for _, first, _ in ranges)
    assert len(ranges) == 8
    assert all(child.artifact_type == push.FILES_ARTIFACT_TYPE for child in art.index.manifests)


def test_files_are_those_of_all_manifests(reader, ref):
    art = reader.inspect(ref)
    assert dict(art.files).keys() == FILES.keys()
    assert len(art) == len(FILES)
    assert (art.dialect, art.model) == ("files", None)
    assert {name: art[name].read() for name in list(FILES)[:20]} == dict(list(FILES.items())[:20])
    assert art.files["images/1/0001.bin"].descriptor.is_executable
    assert list(art.unnamed) == []
    assert dict(art.members) == {}
    assert len(art.layers) == len(FILES)


def test_one_file_costs_one_manifest(reader, server, ref):
    art = reader.inspect(ref)
    moved(server)
    assert art["images/3/0003.bin"].read() == b"3"
    assert "images/3/0010.bin" in art
    assert "images/nope/0" not in art
    assert moved(server) == ["GET manifests", "GET blobs"]
    with pytest.raises(FileNotInArtifact, match=r"0004.*in this artifact") as caught:
        art["images/3/0004.bin"]
    assert "nearest: " in caught.value.hint
    assert moved(server) == []


def test_views_make_no_requests(reader, server, ref):
    art = reader.inspect(ref)
    moved(server)
    for view in (art, art.files):
        assert "images/3/" in view._repr_html_()
        assert "images/3/0003.bin" in view._repr_html_()
        assert repr(view)
    assert moved(server) == []


def test_pull_restores_the_files(reader, server, ref, tmp_path):
    pulled = reader.pull(ref, tmp_path / "out")
    assert tree(tmp_path / "out") == FILES
    assert os.access(tmp_path / "out/images/1/0001.bin", os.X_OK)
    assert "301 files" in pulled.summary
    moved(server)
    reader.pull(ref, tmp_path / "out")
    assert moved(server) == ["HEAD manifests"]


def test_pull_into_the_cache_links_all_files(reader, ref):
    assert tree(reader.pull(ref).path) == FILES
    assert reader.download(ref, "images/3/0003.bin").read_bytes() == b"3"


def test_selected_pull_requests_few_manifests(reader, server, ref, tmp_path):
    reader.pull(ref, tmp_path / "out", include="images/3/*")
    assert tree(tmp_path / "out") == {name: raw for name, raw in FILES.items() if name.startswith("images/3/")}
    assert moved(server).count("GET manifests") == 2
    reader.pull(ref, tmp_path / "out", include=["*.md", "images/5/"], exclude="images/5/000*")
    kept = ("images/3/", "images/5/", "images/readme.md")
    expected = {n: raw for n, raw in FILES.items() if n.startswith(kept) and not n.startswith("images/5/000")}
    assert tree(tmp_path / "out") == expected


def test_pull_deletes_what_was_removed(session, reader, server, images, ref, tmp_path):
    reader.pull(ref, tmp_path / "out")
    (images / "images/4/0004.bin").unlink()
    session.push(ref, "images", index=True)
    reader.pull(ref, tmp_path / "out", include="images/3/*")
    assert tree(tmp_path / "out") == FILES
    reader.pull(ref, tmp_path / "out")
    assert tree(tmp_path / "out") == {name: raw for name, raw in FILES.items() if name != "images/4/0004.bin"}


def test_changed_file_pushes_one_manifest(session, server, images, ref):
    before = session.inspect(ref)
    (images / "images/3/0003.bin").write_bytes(b"new")
    moved(server)
    after = session.push(ref, "images", index=True)
    requests = moved(server)
    assert requests.count("GET manifests") == 2
    assert requests.count("PUT manifests") == 2
    assert requests.count("POST uploads") == 1
    assert requests.count("HEAD blobs") == 1
    children = [{child.digest for child in art.index.manifests} for art in (before, after)]
    assert len(children[1] - children[0]) == 1
    assert session.inspect(ref)["images/3/0003.bin"].read() == b"new"


def test_same_files_give_the_same_index(session, server, images, ref):
    first = session.inspect(ref)
    moved(server)
    assert session.push(ref, "images", index=True).digest == first.digest
    requests = moved(server)
    assert "POST uploads" not in requests
    assert requests.count("PUT manifests") == 1
    assert session.push(f"{server.host}/other:v1", "images", index=True).digest == first.digest


def test_file_system_lists_folders_without_manifests(reader, server, ref):
    fs = ocikit.fs(reader)
    assert fs.ls(f"{ref}/images/6", detail=False)[0] == f"{ref}/images/6/0006.bin"
    assert moved(server) == ["GET manifests", "GET manifests"]
    assert fs.ls(ref, detail=False) == [f"{ref}/images"]
    assert moved(server) == []
    listed = fs.ls(f"{ref}/images")
    assert [entry["name"].rpartition("/")[2] for entry in listed] == [*"0123456", "readme.md"]
    assert moved(server) == ["GET manifests"]
    assert fs.cat_file(f"{ref}/images/6/0006.bin") == b"6"
    assert not fs.exists(f"{ref}/images/6/none")
    assert moved(server) == ["GET blobs"]
    assert len(fs.find(ref)) == len(FILES)
    assert fs.glob(f"{ref}/images/*/0003.bin") == [f"{ref}/images/3/0003.bin"]
    with pytest.raises(InvalidDocument, match="nested index"):
        fs.pipe_file(f"{ref}/images/new", b"1")


def test_pickled_artifact_reads_on(reader, ref):
    art = pickle.loads(pickle.dumps(reader.inspect(ref)))
    assert art["images/3/0003.bin"].read() == b"3"


def test_diff_compares_the_files(session, server, images, ref):
    (images / "images/3/0003.bin").write_bytes(b"new")
    (images / "images/4/0004.bin").unlink()
    session.push(f"{server.host}/ds:v2", "images", index=True)
    moved(server)
    found = ocikit.diff(ref, f"{server.host}/ds:v2", session=session)
    assert (list(found.changed), list(found.removed), found.same) == (["images/3/0003.bin"], ["images/4/0004.bin"], 299)
    assert moved(server).count("GET manifests") <= 2 * 9
    assert not ocikit.diff(f"{server.host}/ds:v2", "images", session=session)
    flat = session.push(f"{server.host}/flat:v1", "images")
    assert list(ocikit.diff(ref, flat, session=session).changed) == ["images/3/0003.bin"]


def test_copy_keeps_all_documents(session, server, ref, tmp_path):
    copied = session.copy(ref, f"oci:{tmp_path}/layout:v1")
    assert copied.digest == session.inspect(ref).digest
    assert tree(session.pull(f"oci:{tmp_path}/layout:v1", tmp_path / "out").path) == FILES
    assert session.validate(ref).ok


def test_layout_takes_a_nested_index(session, images, tmp_path):
    art = session.push(f"oci:{tmp_path}/layout:v1", "images", index=True)
    assert tree(session.pull(art.reference, tmp_path / "out").path) == FILES
    assert session.push(f"oci:{tmp_path}/layout:v1", "images", index=True).digest == art.digest


def test_edit_names_the_next_step(session, ref):
    with pytest.raises(InvalidDocument, match="nested index") as caught, session.edit(ref) as edit:
        edit["x"] = b"1"
    assert "index=True" in caught.value.hint


def test_manifest_of_nested_index_is_an_error(session, ref):
    with pytest.raises(InvalidDocument, match="nested index") as caught:
        _ = session.inspect(ref).manifest
    assert ".files" in caught.value.hint
    with pytest.raises(NoMatchingPlatform):
        session.pull(ref, platform="linux/amd64")


@pytest.mark.parametrize(
    "options",
    [
        {"shards": "zip"},
        {"archive": "tar"},
        {"config": b"{}", "config_type": "application/x.x"},
        {"artifact_type": "application/x.x"},
    ],
)
def test_options_that_exclude_an_index_are_refused(session, server, images, options):
    with pytest.raises(InvalidArgument, match="index="):
        session.push(f"{server.host}/ds:v1", "images", index=True, **options)
    assert moved(server) == []


def test_too_many_files_name_both_ways(session, server, images, monkeypatch):
    monkeypatch.setattr(push, "DOCUMENT_LIMIT", 10_000)
    with pytest.raises(ContentError) as caught:
        session.push(f"{server.host}/ds:v1", "images")
    assert "shards=" in caught.value.hint
    assert "index=True" in caught.value.hint


def test_annotations_and_subject_are_those_of_the_index(session, server, ref):
    art = session.push(f"{server.host}/ds:v2", "images/3", index=True, subject=ref, annotations={"a": "b"})
    assert dict(session.inspect(f"{server.host}/ds:v2").annotations) == {"a": "b"}
    assert art.index.subject.digest == session.inspect(ref).digest


def nested(session, ref, *children):
    """Push an index of manifests with the given prefixes, first and last titles, and layers."""
    repository = session.repository(ref, push=True)
    repository.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    descriptors = []
    for prefix, first, last, titles in children:
        layers = [
            ocikit.Descriptor.of(b"{}", "application/json").annotated(**{"org.opencontainers.image.title": t})
            for t in titles
        ]
        manifest = Manifest(config=EMPTY_DESCRIPTOR, layers=layers, artifact_type="application/x.x")
        repository.push_bytes(manifest.descriptor, manifest.raw)
        names = {PREFIX: prefix, PREFIX_FIRST: first, PREFIX_LAST: last}
        descriptors.append(manifest.descriptor.annotated(**names))
    index = Index(artifact_type=FOLDER, manifests=descriptors)
    repository.push_bytes(index.descriptor, index.raw, tag="wrong")
    return ref


@pytest.mark.parametrize(
    "children",
    [
        [("", "b", "c", ["b", "c"]), ("", "a", "a", ["a"])],
        [("", "a", "c", ["a"]), ("", "b", "d", ["d"])],
        [("x/", "x/a", "x/c", ["y/b"])],
        [("", "a", "b", ["c"])],
        [("", "../a", "../b", ["../a"])],
    ],
    ids=["unordered", "overlapping", "prefix", "range", "path traversal"],
)
def test_wrong_ranges_are_refused(session, server, home, tmp_path, children):
    """Files that a range does not show would be found by some calls and not by others."""
    ref = nested(session, f"{server.host}/ds:wrong", *children)
    for call in (
        lambda: list(session.inspect(ref).files),
        lambda: session.pull(ref, tmp_path / "out"),
        lambda: ocikit.fs(session).find(ref),
    ):
        with pytest.raises((InvalidDocument, ocikit.UnsafeArchive)):
            call()
    assert tree(tmp_path / "out") == {}


def test_unsafe_title_leads_out_of_no_folder(session, server, home, tmp_path):
    ref = nested(session, f"{server.host}/ds:wrong", ("", "a", "z", ["b/../../x"]))
    with pytest.raises(ocikit.UnsafeArchive):
        session.pull(ref, tmp_path / "out/in")
    assert list(session.inspect(ref).unnamed) != []
    assert tree(tmp_path / "out") == {}
    assert not (tmp_path / "x").exists()


def test_boundaries_are_between_folders():
    titles = sorted(f"{folder}/{n:03}" for folder in "abcdefgh" for n in range(30))
    parts = cut(folder_ranks(titles), lambda start, end: end - start <= 100)
    assert all(start % 30 == 0 for start, _ in parts)
    assert max(end - start for start, end in parts) <= 100


def test_new_title_moves_near_boundaries_only():
    titles = [f"{n:05}" for n in range(2000)]

    def parts(names):
        return {tuple(names[start:end]) for start, end in cut(folder_ranks(names), lambda s, e: e - s <= 100)}

    assert len(parts(sorted([*titles, "01000x"])) - parts(titles)) <= 2


def test_command_line_pushes_an_index(server, images):
    run = cli("push", f"{server.host}/ds:v1", "images", "--index", "--insecure", server.host)
    assert run.returncode == 0, run.stderr
    run = cli("inspect", f"{server.host}/ds:v1", "--insecure", server.host)
    assert run.stdout.count(".bin") == 300, run.stdout + run.stderr


def test_objects_are_loaded(session, ref):
    assert ocikit.load(ref, "images/readme.md", session=session) == "# images"
    assert session.describe(ref, "images/readme.md").kind == "text"


def test_lost_manifest_is_pushed_again(session, images):
    """The registry has lost a manifest that the tag's index names, and the next push does not send unchanged ones."""
    with ocikit.serve() as server:
        ref = f"{server.host}/ds:v1"
        lost = session.push(ref, "images", index=True).index.manifests[5]
        session.delete(f"{server.host}/ds@{lost.digest}")
        (images / "images/0/0000.bin").write_bytes(b"new")
        session.push(ref, "images", index=True)
        with ocikit.Session(progress=False, cache=images.parent / "reader") as reader:
            assert len(reader.inspect(ref).files) == len(FILES)
