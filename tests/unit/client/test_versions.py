"""Versions: messages, inputs, the version before, and numbered tags."""

import json
import threading
from contextlib import nullcontext

import ocikit
import pytest
from ocikit.client import commit as commits
from ocikit.client import versions
from ocikit.spec.annotations import BASE_DIGEST, BASE_NAME, INPUTS, MESSAGE

from tests.support.home import moved, write


@pytest.fixture(autouse=True)
def short_looks(monkeypatch):
    monkeypatch.setattr(commits, "_LOOK", 0.01)


@pytest.fixture(params=["registry", "without conditions", "layout"])
def ref(request, server, home):
    """The tag `latest` of a new repository or layout."""
    server.conditions = request.param == "registry"
    return "oci:layout:latest" if request.param == "layout" else f"{server.host}/t/model:latest"


def with_tag(ref, tag):
    return ref.rpartition(":")[0] + f":{tag}"


@pytest.fixture
def publish(session, ref, home):
    """Push a text as the next version."""

    def publishing(text, message=None, **options):
        write(home, {"m.txt": text})
        return session.push(ref, "m.txt", version="next", message=message, **options)

    return publishing


# Messages and inputs


def test_push_writes_message_and_stays_reproducible(session, server, home):
    write(home, {"a": "1"})
    ref = f"{server.host}/t/d:v1"
    first = session.push(ref, "a", message="first try")
    assert first.annotations == {MESSAGE: "first try"}
    assert session.push(ref, "a", message="first try").digest == first.digest
    assert session.push(ref, "a").annotations == {}
    assert session.push(ref, "a", message="").annotations == {}


def test_inputs_are_pinned_and_cost_a_request_each(session, server, other, home):
    write(home, {"a": "1", "b": "2"})
    data = session.push(f"{other.host}/t/data:v1", "a")
    server.requests.clear()
    other.requests.clear()
    made = session.push(f"{server.host}/t/model:v1", "b", inputs=[f"{other.host}/t/data:v1", data])
    assert json.loads(made.annotations[INPUTS]) == [f"{other.host}/t/data:v1@{data.digest}"]
    assert moved(other) == ["HEAD manifests"]
    again = session.push(f"{server.host}/t/model:v2", "b", inputs=data)
    assert again.digest == made.digest
    assert moved(other) == []


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"message": 7}, ocikit.InvalidArgument, "not text"),
        ({"inputs": 7}, ocikit.InvalidArgument, "not a list of references"),
        ({"inputs": ["oci:folder:v1"]}, ocikit.InvalidArgument, "is on disk"),
        ({"inputs": ["{host}/t/none:v1"]}, ocikit.NotFound, "none"),
        ({"version": "v7"}, ocikit.InvalidArgument, "unknown"),
    ],
)
def test_wrong_argument_is_refused_before_anything_is_sent(session, server, home, options, kind, message):
    write(home, {"a": "1"})
    if "{host}" in str(options):
        options = {"inputs": [f"{server.host}/t/none:v1"]}
    with pytest.raises(kind, match=message):
        session.push(f"{server.host}/t/d:v1", "a", **options)
    with pytest.raises(kind, match=message), session.edit(f"{server.host}/t/d:v1", **options) as e:
        e["a"] = b"1"
    assert server.blobs == {}


def test_attached_or_pinned_artifact_gets_no_version(session, server, home):
    write(home, {"a": "1"})
    made = session.push(f"{server.host}/t/d:v1", "a")
    with pytest.raises(ocikit.InvalidArgument, match="attached artifact"):
        session.push(f"{server.host}/t/d", "a", subject=made, version="next")
    with pytest.raises(ocikit.InvalidArgument, match="can't get a version"):
        session.push(made, "a", version="next")


# Edits


def test_edit_names_the_version_before(session, server, home):
    write(home, {"a": "1"})
    ref = f"{server.host}/t/d:v1"
    before = session.push(ref, "a", message="first")
    with session.edit(ref, message="second") as e:
        e["b"] = b"2"
    assert e.artifact.annotations == {BASE_DIGEST: before.digest, BASE_NAME: ref, MESSAGE: "second"}
    with session.edit(ref) as silent:
        silent["c"] = b"3"
    assert silent.artifact.annotations == {BASE_DIGEST: e.artifact.digest, BASE_NAME: ref}


def test_edit_without_a_change_makes_no_version(session, server, home):
    write(home, {"a": "1"})
    ref = f"{server.host}/t/d:v1"
    before = session.push(ref, "a")
    with session.edit(ref, message="nothing") as e:
        e["a"] = b"1"
    assert e.artifact.digest == before.digest


def test_new_artifact_of_edit_names_no_version_before(session, server, home):
    with session.edit(f"{server.host}/t/d:v1", message="new") as e:
        e["a"] = b"1"
    assert e.artifact.annotations == {MESSAGE: "new"}


def test_edit_to_another_tag_names_its_source(session, server, home):
    write(home, {"a": "1"})
    before = session.push(f"{server.host}/t/d:v1", "a")
    session.push(f"{server.host}/t/d:v2", "a", annotations={"other": "x"})
    with session.edit(f"{server.host}/t/d:v1", to=f"{server.host}/t/d:v2") as e:
        e["b"] = b"2"
    assert e.artifact.annotations == {BASE_DIGEST: before.digest, BASE_NAME: f"{server.host}/t/d:v1"}


def test_edit_adds_inputs_to_those_before(session, server, home):
    write(home, {"a": "1"})
    one, two = (session.push(f"{server.host}/t/{name}:v1", "a") for name in ("one", "two"))
    ref = f"{server.host}/t/d:v1"
    session.push(ref, "a", inputs=[one])
    with session.edit(ref, inputs=[two, one]) as e:
        pass
    assert json.loads(e.artifact.annotations[INPUTS]) == [str(one.reference), str(two.reference)]
    assert str(e.plan) == "annotations set"


def test_save_of_all_files_replaces_the_inputs(session, server, home):
    write(home, {"a": "1"})
    one, two = (session.push(f"{server.host}/t/{name}:v1", "a") for name in ("one", "two"))
    ref = f"{server.host}/t/d"
    ocikit.save(ref, {"x": b"1"}, inputs=[one], session=session)
    first = ocikit.save(ref, {"y": b"2"}, inputs=[two], session=session)
    assert first.annotations[BASE_NAME] == f"{ref}:latest"
    assert json.loads(first.annotations[INPUTS]) == [str(one.reference), str(two.reference)]
    second = ocikit.save(ref, {"y": b"2"}, inputs=[two], replace="all", session=session)
    assert json.loads(second.annotations[INPUTS]) == [str(two.reference)]
    assert ocikit.save(ref, {"y": b"2"}, inputs=[two], replace="all", session=session).digest == second.digest
    assert INPUTS not in ocikit.save(ref, {"y": b"2"}, replace="all", session=session).annotations


def test_writers_of_one_commit_join_their_messages(session, server, home):
    ref = f"{server.host}/t/d:v1"
    edits = [session.edit(ref, message=f"add {name}") for name in "ab"]
    for number, edit in enumerate(edits):
        edit.__enter__()
        edit[f"f{number}"] = b"x"
    threads = [threading.Thread(target=edit.__exit__, args=(None, None, None)) for edit in edits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = session.inspect(ref)
    assert set(found.files) == {"f0", "f1"}
    messages = found.annotations[MESSAGE].splitlines()
    assert set(messages) <= {"add a", "add b"} and len(messages) == (1 if BASE_DIGEST in found.annotations else 2)


# Numbers


def test_next_versions_are_chained(session, ref, publish):
    made = [publish(text, message=f"made {text}") for text in ("one", "two", "three")]
    assert [artifact.reference.tag for artifact in made] == ["v1", "v2", "v3"]
    assert set(session.tags(ref)) == {"latest", "v1", "v2", "v3"}
    assert session.pin(ref).digest == made[2].digest
    assert BASE_DIGEST not in made[0].annotations
    for before, after, tag in ((made[0], made[1], "v1"), (made[1], made[2], "v2")):
        assert after.annotations[BASE_DIGEST] == before.digest
        assert after.annotations[BASE_NAME] == with_tag(ref, tag)
    assert made[2].annotations[MESSAGE] == "made three"


def test_next_version_costs_few_requests(server, home, publish, ref):
    if "layout" in ref:
        pytest.skip("no requests")
    publish("one")
    moved(server)
    publish("two")
    found = [request for request in moved(server) if "manifests" in request or "tags" in request]
    assert sorted(found) == [
        *["GET manifests"] * 3,
        *["GET tags"] * 2,  # one of them is about whether the repository is new
        *["HEAD manifests"] * (1 if server.conditions else 2),
        *["PUT manifests"] * 2,
    ]


def test_repeated_push_makes_no_new_version(session, ref, publish):
    first = publish("one", message="m")
    again = publish("one", message="m")
    assert again.reference == first.reference
    assert again.summary.endswith("v1, latest: the same as the version before")
    assert publish("one", message="n").reference.tag == "v2"
    assert publish("one", message="n").reference.tag == "v2"


def test_artifact_that_was_pushed_before_gets_a_number(session, ref, home, publish):
    write(home, {"m.txt": "one"})
    plain = session.push(ref, "m.txt")
    made = publish("one")
    assert (made.digest, made.reference.tag) == (plain.digest, "v1")
    assert publish("two").annotations[BASE_DIGEST] == plain.digest


def test_next_version_follows_an_edit(session, ref, publish):
    publish("one")
    with session.edit(ref) as e:
        e["more"] = b"x"
    assert publish("two").annotations[BASE_DIGEST] == e.artifact.digest


def test_push_continues_a_version_whose_tag_was_not_moved(session, ref, publish):
    publish("one")
    two = publish("two", message="m")
    session.tag(with_tag(ref, "v1"), ref.rpartition(":")[2])  # as if the writer of v2 had ended before it moved the tag
    assert publish("two", message="m").reference == two.reference
    assert session.pin(ref).digest == two.digest


def test_edit_gets_the_next_version(session, ref, publish):
    publish("one")
    with session.edit(ref, version="next", message="more") as e:
        e["more"] = b"x"
    assert e.artifact.reference.tag == "v2"
    assert session.pin(ref).digest == session.pin(with_tag(ref, "v2")).digest == e.artifact.digest
    with session.edit(ref, version="next") as unchanged:
        pass
    assert unchanged.artifact.reference == e.artifact.reference


def test_numbered_edit_with_another_message_is_a_version(session, ref, publish):
    publish("one", message="first")
    for message in ("second", "second", "third"):
        with session.edit(ref, version="next", message=message) as e:
            pass
    assert e.artifact.reference.tag == "v3" and e.artifact.annotations[MESSAGE] == "third"
    assert set(session.tags(ref)) == {"latest", "v1", "v2", "v3"}


def test_dry_run_shows_the_next_version(session, ref, publish):
    publish("one")
    plan = publish("two", dry_run=True).plan
    assert set(plan.tags) == {"v2", "latest"}
    assert set(session.tags(ref)) == {"latest", "v1"}


def test_reference_without_tag_moves_latest(session, server, home):
    write(home, {"a": "1"})
    session.push(f"{server.host}/t/d", "a", version="next", tags=["stable"])
    assert set(session.tags(f"{server.host}/t/d")) == {"v1", "latest", "stable"}


def test_writers_in_parallel_get_different_numbers(session, ref, home):
    for number in range(6):
        write(home, {f"{number}/m.txt": str(number)})
    made, errors = {}, []

    def work(number):
        try:
            made[number] = session.push(ref, f"{number}/", version="next")
        except ocikit.OcikitError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    by_tag = {artifact.reference.tag: artifact for artifact in made.values()}
    assert set(by_tag) == {f"v{n}" for n in range(1, 7)}
    for number in range(2, 7):
        assert by_tag[f"v{number}"].annotations[BASE_DIGEST] == by_tag[f"v{number - 1}"].digest
    assert session.pin(ref).digest == by_tag["v6"].digest


# Races with other machines


@pytest.mark.parametrize("conditions", [True, False])
def test_number_taken_by_another_writer_is_not_replaced(session, server, home, publish, ref, conditions, monkeypatch):
    if "layout" in ref or server.conditions != conditions:
        pytest.skip("another store")
    one = publish("one")
    write(home, {"theirs/m.txt": "theirs"})
    theirs = []
    put = versions.Versions._take

    def overtaken(self, number, descriptor, raw):
        if not theirs:
            theirs.append(None)
            with ocikit.Session(progress=False, cache=home / "other") as other:
                theirs[0] = other.push(ref, "theirs/", version="next")
        return put(self, number, descriptor, raw)

    monkeypatch.setattr(versions.Versions, "_take", overtaken)
    monkeypatch.setattr(session.cache, "lock_folder", lambda: None)
    ours = publish("ours")
    assert theirs[0].reference.tag == "v2" and theirs[0].annotations[BASE_DIGEST] == one.digest
    assert ours.reference.tag == "v3" and ours.annotations[BASE_DIGEST] == theirs[0].digest
    assert session.pin(ref).digest == ours.digest


def test_number_overwritten_by_another_writer_is_left(session, server, home, monkeypatch):
    """A registry without conditions: another writer has looked before our push, and pushes after it."""
    server.conditions = False
    ref = f"{server.host}/t/d:latest"
    write(home, {"a": "1"})
    pauses, theirs = [], ocikit.Index(manifests=())

    def overwritten(seconds):
        if not pauses:
            server.manifest("t/d", theirs.raw, "v1", media_type=theirs.media_type)
        pauses.append(seconds)

    monkeypatch.setattr(versions, "wait_to_look", overwritten)
    made = session.push(ref, "a", version="next")
    assert made.reference.tag == "v2"
    assert made.annotations[BASE_DIGEST] == session.pin(f"{server.host}/t/d:v1").digest


def test_tag_of_a_newer_version_is_not_moved_back(session, ref, publish, home, monkeypatch):
    publish("one")
    move = versions.Versions._move
    newer = []

    def late(self, tag, manifest, expected, number):
        if not newer:
            newer.append(None)
            monkeypatch.setattr(versions.Versions, "_move", move)
            monkeypatch.setattr(versions, "locked", lambda *_: nullcontext())
            newer[0] = publish("three")
        move(self, tag, manifest, expected, number)

    monkeypatch.setattr(versions.Versions, "_move", late)
    two = publish("two")
    assert (two.reference.tag, newer[0].reference.tag) == ("v2", "v3")
    assert newer[0].annotations[BASE_DIGEST] == two.digest
    assert session.pin(ref).digest == newer[0].digest


def test_lost_response_does_not_take_two_numbers(session, server, home):
    write(home, {"a": "1"})
    server.on("PUT", "/v2/t/d/manifests/v1", drop="after")
    made = session.push(f"{server.host}/t/d:latest", "a", version="next")
    assert made.reference.tag == "v1"
    assert set(session.tags(f"{server.host}/t/d")) == {"v1", "latest"}


def test_immutable_tag_leaves_the_version_and_is_reported(session, server, home):
    write(home, {"a": "1"})
    ref = f"{server.host}/t/d:latest"
    session.push(ref, "a", version="next")
    server.on("PUT", "/v2/t/d/manifests/latest", status=409)
    write(home, {"a": "2"})
    with pytest.raises(ocikit.RegistryError, match="the version v2 was pushed, but the tag latest was not moved") as e:
        session.push(ref, "a", version="next")
    assert f"{server.host}/t/d:v2" in e.value.hint and "immutable" in e.value.hint
    assert session.inspect(f"{server.host}/t/d:v2").read("a") == b"2"


def test_blob_that_the_registry_lost_is_pushed_again(session, server, home, publish, ref):
    if "layout" in ref or not server.conditions:
        pytest.skip("one store is enough")
    publish("one")
    body = json.dumps({"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "detail": {}}]}).encode()
    server.on("PUT", "/v2/t/model/manifests/v2", status=404, body=body)
    assert publish("two").reference.tag == "v2"
