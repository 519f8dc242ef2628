"""Histories follow the chain of versions, then the tags."""

import json

import ocikit
import pytest
from ocikit.client import commit as commits
from ocikit.spec.annotations import BASE_DIGEST

from tests.support.home import moved, write


@pytest.fixture(autouse=True)
def short_looks(monkeypatch):
    monkeypatch.setattr(commits, "_LOOK", 0.01)


@pytest.fixture(params=["registry", "layout"])
def ref(request, server, home):
    return "oci:layout:latest" if request.param == "layout" else f"{server.host}/t/model:latest"


@pytest.fixture
def remote(server, home):
    return f"{server.host}/t/model:latest"


def tagged(ref, tag):
    return ref.rpartition(":")[0] + f":{tag}"


@pytest.fixture
def publish(session, home):
    def publishing(ref, files, message=None, **options):
        folder = home / f"pushed-{len(list(home.iterdir()))}"
        write(folder, files)
        return session.push(ref, f"{folder}/.", version="next", message=message, **options)

    return publishing


def three(publish, ref):
    return [
        publish(ref, {"m": "one", "old": "x"}, "first"),
        publish(ref, {"m": "two!", "old": "x"}, "better"),
        publish(ref, {"m": "two!", "new": "yy"}, "cleaner"),
    ]


def test_history_lists_the_newest_first(session, ref, publish):
    made = three(publish, ref)
    found = ocikit.history(ref, session=session)
    assert [version.tags for version in found] == [("v3", "latest"), ("v2",), ("v1",)]
    assert [version.message for version in found] == ["cleaner", "better", "first"]
    assert [version.digest for version in found] == [artifact.digest for artifact in reversed(made)]
    assert [version.difference for version in found] == ["+1 \N{MINUS SIGN}1", "~1", "+2"]
    assert [version.delta for version in found] == [1, 1, 4]
    assert [version.gap for version in found] == ["", "", "its manifest names no version before"]
    assert found.end == "the chain ends at v1: its manifest names no version before"
    assert found["v2"] is found[1] and found[made[0].digest] is found[2] and len(found[:2]) == 2
    with pytest.raises(KeyError):
        found["v9"]


def test_versions_of_history_are_references(session, ref, publish):
    three(publish, ref)
    found = ocikit.history(ref, session=session)
    assert session.pull(found["v1"]).read("m") == b"one"
    assert set(ocikit.diff(found[1], found[0], session=session).added) == {"new"}


def test_history_costs_one_request_for_each_version(server, remote, publish):
    three(publish, remote)
    moved(server)
    with ocikit.Session(progress=False, cache="fresh") as fresh:
        ocikit.history(remote, session=fresh)
        assert sorted(moved(server)) == [*["GET manifests"] * 4, "GET tags"]
        ocikit.history(remote, session=fresh)
        assert sorted(moved(server)) == ["GET tags", *["HEAD manifests"] * 4]


def test_history_begins_at_the_named_version(session, ref, publish):
    three(publish, ref)
    assert [version.tags for version in ocikit.history(tagged(ref, "v2"), session=session)] == [("v2",), ("v1",)]
    pinned = session.pin(tagged(ref, "v2"))
    found = ocikit.history(pinned, session=session)
    assert [(v.message, v.tags) for v in found] == [("better", ("v2",)), ("first", ("v1",))]


def test_history_follows_edits_without_tags(session, ref, publish):
    publish(ref, {"m": "one"}, "first")
    for number in range(2):
        with session.edit(ref, message=f"edit {number}") as e:
            e[f"more{number}"] = b"x"
    found = ocikit.history(ref, session=session)
    assert [(v.message, v.tags) for v in found] == [("edit 1", ("latest",)), ("edit 0", ()), ("first", ("v1",))]
    assert found[1].reference.digest == found[0].digest or found[1].label.startswith("sha256:")


def test_history_names_the_end_of_a_broken_chain(session, server, remote, publish):
    made = three(publish, remote)
    del server.tags["t/model", "v2"], server.manifests["t/model", made[1].digest]
    with ocikit.Session(progress=False, cache="fresh") as fresh:
        found = ocikit.history(remote, session=fresh)
    assert [version.tags for version in found] == [("v3", "latest"), ("v1",)]
    assert found.end == (
        f"the chain ends at v3: the version before is no longer here: {made[1].digest.short} was deleted, or collected"
        " without a tag; older versions are known by their tags only"
    )
    assert found[0].added is None and found[0].delta is None and found[1].difference == "+2"


def test_history_of_layout_ends_at_collected_version(session, publish, home):
    three(publish, "oci:layout:latest")
    session.delete("oci:layout:v2")
    assert len(ocikit.history("oci:layout:latest", session=session)) == 3
    ocikit.Layout("layout").gc(grace=0)
    found = ocikit.history("oci:layout:latest", session=session)
    assert [version.tags for version in found] == [("v3", "latest"), ("v1",)]
    assert "the chain ends at v3: the version before is no longer here: sha256:" in found.end


def test_plain_pushes_are_listed_by_their_tags(session, ref, home):
    for number, text in enumerate(["1", "2", "2"]):
        write(home, {"m": text})
        session.push(tagged(ref, f"1.{9 + number}"), "m")
    write(home, {"m": "dev"})
    session.push(tagged(ref, "dev"), "m")
    found = ocikit.history(tagged(ref, "1.11"), session=session)
    assert [version.tags for version in found] == [("1.11", "1.10"), ("1.9",)]
    assert found.end.startswith(
        "the chain ends at 1.11: its manifest names no version before; older versions are known"
    )
    assert [v.tags[0] for v in ocikit.history(tagged(ref, "dev"), session=session)] == ["dev", "1.11", "1.9"]


def test_reference_without_tag_begins_at_the_newest(session, server, home):
    write(home, {"m": "1"})
    for tag in ("v1", "v2"):
        session.push(f"{server.host}/t/d:{tag}", "m", annotations={"tag": tag})
    found = ocikit.history(f"{server.host}/t/d", session=session)
    assert [version.tags for version in found] == [("v2",), ("v1",)]


def test_limit_is_reported(session, ref, publish):
    three(publish, ref)
    found = ocikit.history(ref, limit=2, session=session)
    assert len(found) == 2 and found[1].difference == "~1"
    assert found.end == "versions before v2 are not listed (limit=2)"
    with pytest.raises(ocikit.InvalidArgument, match="limit=0"):
        ocikit.history(ref, limit=0, session=session)


def test_missing_artifact_is_an_error(session, server, home):
    with pytest.raises(ocikit.NotFound):
        ocikit.history(f"{server.host}/t/none:v1", session=session)


def test_unlisted_tags_leave_the_chain(session, server, remote, publish):
    three(publish, remote)
    server.on("GET", "/v2/t/model/tags/list", times=None, status=403)
    found = ocikit.history(remote, session=session)
    assert [version.message for version in found] == ["cleaner", "better", "first"]
    assert "the tags could not be listed" in found.end


@pytest.mark.parametrize("digest", ["nonsense", "sha256:" + "0" * 64])
def test_unusable_base_ends_the_chain(session, server, home, digest):
    write(home, {"m": "1"})
    ref = f"{server.host}/t/d:v1"
    session.push(ref, "m", annotations={BASE_DIGEST: digest})
    found = ocikit.history(ref, session=session)
    assert len(found) == 1 and "invalid digest" in found.end or "no longer here" in found.end


def test_base_of_an_image_is_not_a_version(session, server, home):
    config = server.blob("t/i", b'{"rootfs":{"type":"layers","diff_ids":[]}}')
    image = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 42},
        "layers": [],
        "annotations": {BASE_DIGEST: "sha256:" + "1" * 64},
    }
    server.manifest("t/i", image, "v1")
    server.requests.clear()
    assert len(ocikit.history(f"{server.host}/t/i:v1", session=session)) == 1
    assert not any("1111" in request.path for request in server.requests)


def test_edit_to_another_repository_names_its_source(session, server, home):
    write(home, {"m": "1"})
    source, target = f"{server.host}/t/source:v1", f"{server.host}/t/target:v1"
    session.push(source, "m")
    with session.edit(source, to=target) as e:
        e["more"] = b"x"
    found = ocikit.history(target, session=session)
    assert found.end.endswith(f"is one of {source}") and len(found) == 1


def test_index_has_a_history_by_tags(session, server, home):
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
    for number in (1, 2):
        kind = index["mediaType"]
        server.manifest("t/i", index | {"annotations": {"n": str(number)}}, f"v{number}", media_type=kind)
    assert [v.tags for v in ocikit.history(f"{server.host}/t/i:v2", session=session)] == [("v2",), ("v1",)]


def test_history_is_text_and_json(session, ref, publish):
    three(publish, ref)
    found = ocikit.history(ref, session=session)
    lines = str(found).splitlines()
    assert lines[0].startswith("v3, latest  sha256:") and lines[0].endswith("cleaner")
    assert lines[-1] == found.end
    value = json.loads(found.to_json())
    assert [version["message"] for version in value["versions"]] == ["cleaner", "better", "first"]
    assert value["versions"][0]["added"] == 1 and value["end"] == found.end


def test_hostile_texts_are_shown_harmlessly(session, server, home):
    write(home, {"m": "1"})
    ref = f"{server.host}/t/d:v1"
    session.push(ref, "m", message="\x1b[31mred\n<script>alert(1)</script>\u202e")
    found = ocikit.history(ref, session=session)
    shown = found._repr_html_() + found[0]._repr_html_()
    assert "<script>" not in shown
    assert not set("\x1b\u202e") & set(shown + str(found) + repr(found))
