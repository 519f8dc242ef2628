"""Lineages: the artifacts that an artifact was made from, across registries."""

import json

import ocikit
import pytest
from ocikit.data import lineage as lineages
from ocikit.remote.auth.keychain import Keychain
from ocikit.spec.annotations import INPUTS

from tests.support.cards import harmless
from tests.support.fake_registry import error_response
from tests.support.home import moved, write

NOWHERE = "sha256:" + "0" * 64


@pytest.fixture
def make(session, server, home):
    """Push an artifact with one file."""

    def making(name, *inputs, at=server, **options):
        write(home, {"f.txt": name})
        return session.push(f"{at.host}/t/{name}:v1", "f.txt", inputs=inputs, **options)

    return making


def names(found):
    return [artifact.name.rpartition("/")[2] for artifact in found]


def test_lineage_walks_inputs_on_all_registries(session, make, server, other):
    raw = make("raw", at=other, message="as measured")
    clean = make("clean", raw)
    model = make("model", clean, raw)
    found = ocikit.lineage(model, session=session)
    assert [(artifact.name, artifact.depth) for artifact in found] == [
        (f"{server.host}/t/model:v1", 0),
        (f"{server.host}/t/clean:v1", 1),
        (f"{other.host}/t/raw:v1", 1),
    ]
    assert found.artifacts[2].message == "as measured" and found.artifacts[2].files == 1
    assert found.missing == () and len(found) == 3
    assert str(found).splitlines() == [
        f"{server.host}/t/model:v1  {model.digest.short}",
        f"├── {server.host}/t/clean:v1  {clean.digest.short}",
        f"│   └── {other.host}/t/raw:v1  as measured",
        f"└── {other.host}/t/raw:v1  as measured",
    ]


def test_lineage_requests_each_manifest_once(make, server, home):
    layers = [make("base")]
    for level in range(5):  # 2^5 ways lead to the base
        layers = [make(f"l{level}-{side}", *layers) for side in "ab"]
    top = make("top", *layers)
    moved(server)
    with ocikit.Session(progress=False, cache=home / "fresh") as fresh:
        found = ocikit.lineage(top.reference, session=fresh)
        assert len(found) == 12
        assert moved(server) == ["GET manifests"] * 12
        ocikit.lineage(top.reference, session=fresh)
        assert moved(server) == []


def test_missing_input_is_listed(session, make, server):
    model = make("model", f"{server.host}/t/lost:v1@{NOWHERE}", make("here"))
    found = ocikit.lineage(model, session=session)
    (lost,) = found.missing
    assert (lost.name, lost.problem) == (f"{server.host}/t/lost:v1", "missing: deleted, or never there")
    assert "lost:v1  missing: deleted" in str(found)


def test_denied_and_unreachable_inputs_are_listed(session, make, server, other):
    other.guard = lambda request: error_response(403, "DENIED")
    model = make("model", f"{other.host}/t/d@{NOWHERE}", f"127.0.0.1:1/t/d@{NOWHERE}")
    found = ocikit.lineage(model, session=session)
    assert all(artifact.problem.startswith("not read: ") for artifact in found.missing)
    assert len(found.missing) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("host.example/t/d:v1", "no digest"),
        ("oci:/etc/passwd:v1", "not read"),
        (f"oci:/etc/passwd@{NOWHERE}", "not read"),
        ("../x", "not read"),
        ("\x1b[31m<script>", "not read"),
        (f"169.254.169.254/latest/meta-data@{NOWHERE}", "not read"),
    ],
)
def test_input_that_is_not_pinned_in_a_registry_is_not_followed(session, make, text, problem, monkeypatch):
    if text.startswith("169"):
        monkeypatch.setattr("ocikit.data.lineage.enters_this_machine", lambda *_: True)
    model = make("model", annotations={INPUTS: json.dumps([text])})
    found = ocikit.lineage(model, session=session)
    (artifact,) = found.missing
    assert problem in artifact.problem
    assert harmless(found._repr_html_()) and harmless(artifact._repr_html_())
    assert "\x1b" not in str(found)


@pytest.mark.parametrize("text", ["{", "7", '{"a": 1}', "[[[", "[7, null]", "[" * 100_000])
def test_invalid_annotation_names_nothing(session, make, text):
    assert len(ocikit.lineage(make("model", annotations={INPUTS: text}), session=session)) == 1


def test_depth_is_limited(session, make):
    made = make("a")
    for name in "bcd":
        made = make(name, made)
    found = ocikit.lineage(made, depth=2, session=session)
    assert names(found) == ["d:v1", "c:v1", "b:v1", "a:v1"]
    assert found.artifacts[-1].problem == "not read: it is more than 2 steps away"
    assert found.note == "1 reference was not followed"
    assert ocikit.lineage(made, depth=0, session=session).artifacts[1].problem
    with pytest.raises(ocikit.InvalidArgument, match="depth=-1"):
        ocikit.lineage(made, depth=-1, session=session)


def test_number_of_requests_is_limited(session, make, server, monkeypatch):
    monkeypatch.setattr(lineages, "_ARTIFACTS", 10)
    monkeypatch.setattr(lineages, "_NAMED", 20)
    inputs = [f"{server.host}/t/d{number}@{NOWHERE}" for number in range(500)]
    model = make("model", annotations={INPUTS: json.dumps(inputs)})
    moved(server)
    found = ocikit.lineage(model, session=session)
    assert len([request for request in moved(server) if "manifests" in request]) <= 20
    assert len(found) < 30 and found.note == "491 references were not followed"


def test_registry_on_this_machine_is_not_contacted_for_another_host(session, make, server, other, monkeypatch):
    secret = make("secret", at=other)
    model = make("model", secret)
    other.requests.clear()
    monkeypatch.setattr("ocikit.client.backends.is_loopback", lambda host: host == other.host)
    with ocikit.Session(progress=False, cache="fresh") as fresh:
        found = ocikit.lineage(model.reference, session=fresh)
    assert found.missing[0].problem == "not read: it is on this machine, unlike the artifact"
    assert other.requests == []


def challenge(request):
    if "Authorization" not in request.headers:
        return error_response(401, "UNAUTHORIZED", **{"WWW-Authenticate": 'Basic realm="r"'})
    return None


@pytest.mark.parametrize("layout", [False, True])
def test_pair_is_sent_to_no_host_that_only_an_annotation_names(session, make, server, other, layout):
    """The registry of the artifact needs no credentials, so nothing has bound the pair to it."""
    raw = make("raw", at=other)
    model = make("model", raw)
    reference = session.copy(model, "oci:here:v1").reference if layout else model.reference
    other.guard = challenge
    other.requests.clear()
    keychain = Keychain(("ada", "hunter2"), environ={}, home=session.cache.root)
    with ocikit.Session(progress=False, cache="fresh", credentials=keychain) as fresh:
        found = ocikit.lineage(reference, session=fresh)
    assert found.missing[0].name.startswith(other.host)
    assert other.requests and not any("Authorization" in request.headers for request in other.requests)


def test_credentials_of_each_host_are_used(session, make, server, other):
    raw = make("raw", at=other)
    model = make("model", raw)
    other.guard = challenge
    server.requests.clear()
    keychain = Keychain({other.host: ("ada", "hunter2")}, environ={}, home=session.cache.root)
    with ocikit.Session(progress=False, cache="fresh", credentials=keychain) as fresh:
        assert ocikit.lineage(model.reference, session=fresh).missing == ()
    assert not any("Authorization" in request.headers for request in server.requests)


def test_claims_of_readme_are_listed(session, make, server, home):
    write(home, {"README.md": "---\nbase_model: org/base\ndatasets: [a/b, c/d]\n---\n# Model\n", "m.bin": "x"})
    model = session.push(f"{server.host}/t/model:v1", "README.md", "m.bin", inputs=[make("raw")])
    found = ocikit.lineage(model, session=session)
    assert [str(claim) for claim in found.claims] == [
        "base_model: org/base (README.md)",
        "dataset: a/b (README.md)",
        "dataset: c/d (README.md)",
    ]
    assert "claims dataset: a/b (README.md)" in str(found)
    assert ocikit.lineage(model, claims=False, session=session).claims == ()


def test_lineage_is_drawn_without_a_script(session, make):
    found = ocikit.lineage(make("model", make("raw"), message="<script>alert(1)</script>"), session=session)
    shown = found._repr_html_()
    assert "<svg" in shown and "<script" not in shown and harmless(shown)


def test_lineage_is_json(session, make):
    model = make("model", make("raw"))
    value = json.loads(ocikit.lineage(model, session=session).to_json())
    assert value["reference"] == str(model.reference)
    assert value["artifacts"][0]["inputs"] == [value["artifacts"][1]["reference"]]
