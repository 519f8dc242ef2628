"""Cards of artifacts, and pushes of content in memory."""

from pathlib import Path

import ocikit
import pytest
from ocikit.errors import ContentError, InvalidArgument, NotFound, UnsafeArchive

from tests.support.cards import harmless
from tests.support.home import moved, write

README = "---\nlicense: mit\ntags: [tiny]\n---\n# Waves\n\nSines <script>alert(1)</script>.\n"


@pytest.fixture(params=["registry", "layout"])
def target(request, home):
    if request.param == "registry":
        return f"{request.getfixturevalue('server').host}/t/d:v1"
    return "oci:store:v1"


@pytest.mark.parametrize("kind", ["text", "path", "name", "card"])
def test_pushed_card_is_read_back(session, target, home, kind):
    write(home, {"a.csv": "x\n", "notes/about.md": README})
    card = {
        "text": README,
        "path": Path("notes/about.md"),
        "name": "notes/about.md",
        "card": ocikit.Card.parse(README),
    }[kind]
    artifact = session.push(target, "a.csv", card=card)
    assert list(artifact.files) == ["a.csv", "README.md"]
    assert artifact["README.md"].media_type == "text/markdown"
    found = session.inspect(target).card
    assert (found.title, found.license, found.tags) == ("Waves", "mit", ("tiny",))
    assert found.text == "# Waves\n\nSines <script>alert(1)</script>.\n"
    assert found == ocikit.Card.parse(README)
    assert "<script" not in found._repr_html_() and harmless(found._repr_html_())


def test_text_and_file_as_card_give_one_digest(session, target, home):
    write(home, {"a.csv": "x\n", "README.md": README})
    first = session.push(target, "a.csv", card=README)
    assert session.push(target, "a.csv", card="README.md").digest == first.digest
    assert session.push(target, "a.csv", "README.md").digest == first.digest


def test_card_alone_is_an_artifact(session, target):
    session.push(target, card="# Only a card\n")
    assert session.inspect(target).card.title == "Only a card"


def test_artifact_without_readme_has_no_card(session, target, home):
    write(home, {"a.csv": "x\n"})
    session.push(target, "a.csv")
    assert session.inspect(target).card is None


def test_card_of_pushed_folder_is_found_in_it(session, target, home):
    write(home, {"m/readme.md": "# In a folder\n", "m/deep/a": "1"})
    session.push(target, "m")
    assert session.inspect(target).card.title == "In a folder"


def test_card_costs_one_request_once(session, server):
    ref = f"{server.host}/t/d:v1"
    session.push(ref, {"a": b"1"}, card=README)
    with ocikit.Session(progress=False, cache="other") as fresh:
        artifact = fresh.inspect(ref)
        server.requests.clear()
        assert artifact.card is artifact.card
        assert moved(server) == ["GET blobs"]


def test_license_and_title_of_card_are_in_the_artifacts_card(session, target):
    session.push(target, {"a": b"1"}, card=README)
    artifact = session.inspect(target)
    assert "Waves" not in artifact._repr_html_()  # a view sends no request
    assert artifact.card
    assert "mit" in artifact._repr_html_() and "Waves" in artifact._repr_html_()


def test_license_of_annotations_comes_before_that_of_the_card(session, target):
    session.push(target, {"a": b"1"}, card=README, annotations={"org.opencontainers.image.licenses": "Apache-2.0"})
    artifact = session.inspect(target)
    assert artifact.card.license == "mit"
    assert "<th>license</th><td>Apache-2.0</td>" in artifact._repr_html_()
    assert "<th>license</th><td>mit</td>" not in artifact._repr_html_()


def test_readme_over_1_mib_is_rejected_as_card(session, target):
    session.push(target, {"README.md": b"x" * (1 << 20) + b"y"})
    with pytest.raises(ContentError, match=r"README\.md of .* has 1\.0 MB; a card has at most") as caught:
        session.inspect(target).card  # noqa: B018
    assert "artifact[" in caught.value.hint


@pytest.mark.parametrize(
    ("card", "error", "message"),
    [
        (5, InvalidArgument, "card is a int, not a card"),
        ("missing.md", NotFound, "cannot read 'missing.md'"),
        (Path("missing"), NotFound, "cannot read"),
        (ocikit.Card("", {"x": {1}}), InvalidArgument, "front matter can't be written"),
        ("half a pair \ud800", InvalidArgument, "front matter can't be written"),
    ],
)
def test_wrong_card_is_refused_before_sending(session, server, card, error, message):
    with pytest.raises(error, match=message):
        session.push(f"{server.host}/t/d:v1", {"a": b"1"}, card=card)
    assert not [request for request in server.requests if request.method in {"POST", "PUT", "PATCH"}]


def test_patterns_do_not_apply_to_the_card(session, target, home):
    write(home, {"d/a.csv": "x\n", "d/README.md": "# Of the folder", "d/b.txt": "b"})
    session.push(target, "d/.", card="# Given", include="*.csv", exclude=["*.md"])
    assert list(session.inspect(target).files) == ["a.csv", "README.md"]
    assert session.inspect(target).card.title == "Given"


def test_card_over_1_mib_is_refused_before_sending(session, server, home):
    write(home, {"big.md": b"x" * ((1 << 20) + 1)})
    for card in ("big.md", "y\n" * (1 << 20)):
        with pytest.raises(ContentError, match=r"the card has more than 1\.0 MB"):
            session.push(f"{server.host}/t/d:v1", {"a": b"1"}, card=card)
    assert not server.requests


def test_second_readme_is_refused(session, target, home):
    write(home, {"README.md": "# One"})
    with pytest.raises(UnsafeArchive, match=r"two files have the title 'README\.md'"):
        session.push(target, "README.md", card="# Two")


# Content in memory


def test_push_takes_bytes_and_paths_by_name(session, target, home):
    write(home, {"local.csv": "x\n", "folder/deep/b": "b", "c.txt": "c"})
    contents = {
        "a.txt": b"a",
        "d/b.bin": bytearray(b"b"),
        "v": memoryview(b"v"),
        "empty": b"",
        "a.csv": "local.csv",
        "f": Path("folder"),
    }
    artifact = session.push(target, contents, "c.txt", {"last": b"l"}, media_types={"v": "a/b"})
    found = {name: file.read() for name, file in session.inspect(target).files.items()}
    assert found == {
        "a.txt": b"a",
        "d/b.bin": b"b",
        "v": b"v",
        "empty": b"",
        "a.csv": b"x\n",
        "f/deep/b": b"b",
        "c.txt": b"c",
        "last": b"l",
    }
    assert (artifact["a.txt"].media_type, artifact["v"].media_type) == ("text/plain", "a/b")


def test_bytes_and_file_give_one_digest(session, target, home):
    content = bytes(range(256)) * 4000  # more than is sent from memory after hashing
    write(home, {"a.bin": content})
    assert session.push(target, {"a.bin": content}).digest == session.push(target, "a.bin").digest


def test_push_retries_content_in_memory(session, server):
    content = bytes(range(256)) * 4000
    server.on("POST", r".*/blobs/uploads/.*", status=503)
    server.on("PUT", r".*/blobs/uploads/.*", status=503)
    session.push(f"{server.host}/t/d:v1", {"a.bin": content})
    assert session.inspect(f"{server.host}/t/d:v1")["a.bin"].read() == content


def test_later_change_of_a_buffer_does_not_change_the_push(session, target):
    buffer = bytearray(b"before")
    contents = {"a": buffer}
    session.push(target, contents)
    buffer[:] = b"after!"
    assert session.inspect(target)["a"].read() == b"before"


def test_patterns_select_content_in_memory(session, target):
    session.push(target, {"a.csv": b"a", "b.txt": b"b"}, include="*.csv")
    assert list(session.inspect(target).files) == ["a.csv"]


def test_dry_run_plans_content_in_memory(session, server):
    artifact = session.push(f"{server.host}/t/d:v1", {"a": b"1"}, dry_run=True)
    assert list(artifact.files) == ["a"]
    assert not [request for request in server.requests if request.method in {"POST", "PUT"}]


def test_attach_and_edit_take_content_in_memory(session, target):
    session.push(target, {"a": b"1"})
    report = session.attach(target, {"report.json": b"{}"}, artifact_type="application/vnd.example.report")
    assert report["report.json"].read() == b"{}"
    with session.edit(target) as e:
        assert e.add({"b": b"2", "deep/c": b"3"}) == ("b", "deep/c")
    assert {name: file.read() for name, file in session.inspect(target).files.items()} == {
        "a": b"1",
        "b": b"2",
        "deep/c": b"3",
    }


@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        (({},), ContentError, "nothing to push"),
        (({}, {}), ContentError, "nothing to push"),
        (({"../x": b""},), UnsafeArchive, "leaves its folder"),
        (({"/x": b""},), UnsafeArchive, "is an absolute path"),
        (({"": b""},), UnsafeArchive, "is empty"),
        (({".ocikit/x": b""},), UnsafeArchive, "reserved"),
        (({"a": b"1", "a/b": b"2"},), UnsafeArchive, "is a file, but a folder"),
        (({"a": b"1"}, {"a": b"2"}), UnsafeArchive, "two files have the title 'a'"),
        (({"a": 5},), InvalidArgument, "the content of 'a' cannot be of type int"),
        (({"a": None},), InvalidArgument, "the content of 'a' cannot be of type NoneType"),
        (({5: b"x"},), InvalidArgument, "the name of a file is text, not int"),
        (({"a": "missing.csv"},), NotFound, "cannot read 'missing.csv'"),
        ((b"raw",), InvalidArgument, "a path cannot be of type bytes"),
        (({".env": b"KEY=1"},), ContentError, "look like secrets would be published: .env"),
        (({"a.pem": b"-----BEGIN PRIVATE KEY-----"},), ContentError, "look like secrets"),
    ],
)  # fmt: skip
def test_wrong_content_is_refused_before_sending(session, server, paths, error, message):
    with pytest.raises(error, match=message):
        session.push(f"{server.host}/t/d:v1", *paths)
    assert not server.requests


def test_public_certificate_in_memory_is_pushed(session, target):
    session.push(target, {"a.pem": b"-----BEGIN CERTIFICATE-----"})
    session.push(target, {".env": b"KEY=1"}, secrets=True)
    assert list(session.inspect(target).files) == [".env"]
