"""Validation of all documents of a reference in registries, layouts and archives."""

import hashlib
import json
import os
import pickle
import shutil

import ocikit
import pytest
from ocikit.cli import main
from ocikit.spec import media_types
from ocikit.spec.document import DOCUMENT_LIMIT

from tests.support.home import moved, write

MANIFEST, INDEX, CONFIG = media_types.OCI_MANIFEST, media_types.OCI_INDEX, media_types.OCI_CONFIG
LAYER = {"mediaType": media_types.OCI_LAYER, "digest": "sha256:" + "1" * 64, "size": 9}
ROOTFS = {"type": "layers", "diff_ids": ["sha256:" + "2" * 64]}


class Registry:
    """Pushes valid and invalid documents to a fake registry, which accepts both."""

    def __init__(self, server):
        self.server = server
        self.name = f"{server.host}/t/d"

    def blob(self, value):
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        return raw, self.server.blob("t/d", raw)

    def manifest(self, value, kind, *tags):
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        return raw, self.server.manifest("t/d", raw, *tags, media_type=kind)


class Folder:
    """Writes valid and invalid documents to a layout."""

    def __init__(self, home):
        self.path, self.name, self.entries = home / "layout", "oci:layout", []
        (self.path / "blobs/sha256").mkdir(parents=True)
        (self.path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.write()

    def write(self):
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.entries}))

    def blob(self, value):
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        digest = hashlib.sha256(raw).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(raw)
        return raw, f"sha256:{digest}"

    def manifest(self, value, kind, *tags):
        raw, digest = self.blob(value)
        for tag in tags:
            names = {"annotations": {"org.opencontainers.image.ref.name": tag}}
            self.entries.append({"mediaType": kind, "digest": digest, "size": len(raw)} | names)
        self.write()
        return raw, digest


class Archive(Folder):
    """Writes the layout as a tar archive."""

    def write(self):
        super().write()
        archive = shutil.make_archive(str(self.path), "tar", self.path)
        self.name = f"oci-archive:{os.path.basename(archive)}"


@pytest.fixture(params=["registry", "layout", "archive"])
def place(request, home):
    if request.param == "registry":
        return Registry(request.getfixturevalue("server"))
    return (Folder if request.param == "layout" else Archive)(home)


def descriptor(blob, kind, **more):
    raw, digest = blob
    return {"mediaType": kind, "digest": digest, "size": len(raw)} | more


def image(place, *tags, config=None, layers=1, kind=MANIFEST, **more):
    """Push an image, possibly with an invalid config, and return its descriptor."""
    config = config or {"architecture": "amd64", "os": "linux", "rootfs": ROOTFS}
    described = descriptor(place.blob(config), CONFIG)
    value = {"schemaVersion": 2, "mediaType": kind, "config": described, "layers": [LAYER] * layers} | more
    return descriptor(place.manifest(value, kind, *tags), kind)


def index(place, *children, tag="v1", **more):
    return place.manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(children)} | more, INDEX, tag)[1]


def violations(report):
    return [(str(f.digest), f.path, f.message) for f in report.violations]


# Valid documents


def test_valid_image_has_no_violations(place, session):
    manifest = image(place, "v1")
    report = session.validate(f"{place.name}:v1")
    assert report.ok and report.violations == ()
    assert [d.media_type for d in report.documents] == [MANIFEST, CONFIG]
    assert str(report.reference) == f"{place.name}:v1@{manifest['digest']}"
    assert report.summary == f"{report.reference}: 2 documents, no violations"


def test_pushed_artifact_has_no_violations(place, session, home):
    write(home, {"data/a.csv": "x\n1\n", "data/b.csv": ""})
    session.push(f"{place.name}:v1", "data", annotations={"a": "b"})
    session.attach(f"{place.name}:v1", "data/a.csv", artifact_type="application/vnd.example.report", tags=["about"])
    assert session.validate(f"{place.name}:v1").ok
    assert session.validate(f"{place.name}:about").ok


def test_module_function_validates(home):
    place = Folder(home)
    image(place, "v1")
    assert ocikit.validate("oci:layout:v1").ok
    assert ocikit.validate(ocikit.LayoutReference.parse("oci:layout:v1"), platform="linux/amd64").ok


def test_config_of_artifact_is_not_validated(place, session):
    config = descriptor(place.blob(b"not JSON"), "application/vnd.example.config")
    place.manifest({"schemaVersion": 2, "config": config, "layers": []}, MANIFEST, "v1")
    report = session.validate(f"{place.name}:v1")
    assert report.ok
    assert len(report.documents) == 1


def test_other_content_types_in_index_are_skipped(place, session):
    index(place, descriptor((b"elsewhere", "sha256:" + "3" * 64), "application/vnd.example.thing"), image(place))
    report = session.validate(f"{place.name}:v1")
    assert report.ok
    assert len(report.documents) == 3


# Violations


def test_index_reports_violations_of_all_documents(place, session):
    bad_config = {
        "architecture": "arm64",
        "rootfs": {"type": "tar", "diff_ids": ["sha256:" + "2" * 64]},
        "created": "now",
    }
    good = image(place)
    bad = image(place, config=bad_config, annotations={"org.example.n": 1})
    inner = descriptor(place.manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": [bad]}, INDEX), INDEX)
    root = index(place, good, inner, {"mediaType": "x"}, annotations={"org.example.m": []})
    report = session.validate(f"{place.name}:v1")
    assert not report.ok
    config = str(report.documents[-1].digest)
    assert violations(report) == [
        (root, "$.manifests[2].size", "required field missing"),
        (root, "$.manifests[2].digest", "required field missing"),
        (root, "$.manifests[2].mediaType", "expected a media type such as \"application/json\", found 'x'"),
        (root, "$.annotations['org.example.m']", "expected a string, found an array"),
        (bad["digest"], "$.annotations['org.example.n']", "expected a string, found an integer"),
        (config, "$.created", "expected a time of RFC 3339 such as \"2015-10-31T22:22:56Z\", found 'now'"),
        (config, "$.rootfs.type", "expected 'layers', found 'tar'"),
        (config, "$.os", "required field missing"),
    ]
    assert [d.media_type for d in report.documents] == [INDEX, MANIFEST, CONFIG, INDEX, MANIFEST, CONFIG]
    assert report.summary.endswith("6 documents, 8 violations")


def test_violations_found_by_parser_are_reported(place, session):
    manifest = image(place, "v1", manifests=[])
    assert violations(session.validate(f"{place.name}:v1")) == [
        (manifest["digest"], "$", "an image manifest with $.manifests")
    ]
    short = {"mediaType": "a/b", "digest": "sha256:12", "size": 2}
    digest = place.manifest({"schemaVersion": 2, "config": short, "layers": []}, MANIFEST, "v2")[1]
    (violation,) = session.validate(f"{place.name}:v2").violations
    assert (violation.digest, violation.path) == (digest, "$.config.digest")
    assert violation.message == "'sha256:12' has 2 characters after 'sha256'"


@pytest.mark.parametrize(
    "raw", [b"", b"<html>", b"[]", b"[" * 100_000, b'{"a":1,"a":2}', b'{"manifests":' + b"[" * 500 + b"]" * 500 + b"}"]
)
@pytest.mark.parametrize("kind", [MANIFEST, INDEX])
def test_malformed_document_is_reported_not_raised(place, session, raw, kind):
    digest = place.manifest(raw, kind, "v1")[1]
    report = session.validate(f"{place.name}:v1")
    assert {f.digest for f in report.violations} == {digest}
    assert report.documents[0].digest == digest
    child = descriptor((raw, digest), kind)
    index(place, child, tag="v2")
    assert {f.digest for f in session.validate(f"{place.name}:v2").violations} == {digest}


def test_media_type_mismatch_is_reported(place, session):
    manifest = image(place)
    index(place, manifest | {"mediaType": media_types.DOCKER_MANIFEST})
    (violation,) = session.validate(f"{place.name}:v1").violations
    expected = (
        f"its descriptor {media_types.DOCKER_MANIFEST}"
        if isinstance(place, Folder)
        else f"as {MANIFEST}, its descriptor has"
    )
    assert expected in violation.message


def test_size_mismatch_is_reported_at_descriptor(place, session):
    image(place)
    manifest = image(place)
    root = index(place, manifest | {"size": manifest["size"] + 1}, manifest | {"size": 7})
    findings = list(session.validate(f"{place.name}:v1").violations)
    assert [(f.digest, f.path) for f in findings] == [(root, "$.manifests[0].size"), (root, "$.manifests[1].size")]
    config = descriptor(place.blob(b"{}"), CONFIG, size=3)
    digest = place.manifest({"schemaVersion": 2, "config": config, "layers": []}, MANIFEST, "v2")[1]
    (violation,) = session.validate(f"{place.name}:v2").violations
    assert (violation.digest, violation.path) == (digest, "$.config.size")


def test_digest_mismatch_is_reported_at_descriptor(session, home):
    place = Folder(home)
    manifest = image(place)
    path = place.path / "blobs/sha256" / manifest["digest"][7:]
    path.write_bytes(path.read_bytes().replace(b"amd64", b"AMD64").replace(b'"size"', b'"Size"'))
    root = index(place, manifest)
    (violation,) = session.validate("oci:layout:v1").violations
    assert (violation.digest, violation.path) == (root, "$.manifests[0].digest")
    place.entries.append(manifest | {"annotations": {"org.opencontainers.image.ref.name": "root"}})
    place.write()
    (violation,) = session.validate("oci:layout:root").violations
    assert (violation.digest, violation.path) == (manifest["digest"], "$")
    assert violation.message.startswith(MANIFEST)


def test_corrupt_blob_in_archive_is_reported(session, home):
    place = Folder(home)
    manifest = image(place, "v1")
    (place.path / "blobs/sha256" / manifest["digest"][7:]).write_bytes(b"{}")
    shutil.make_archive("store", "tar", place.path)
    (violation,) = session.validate("oci-archive:store.tar:v1").violations
    assert violation.digest == manifest["digest"]


def test_missing_document_is_reported_and_missing_root_raises(place, session):
    gone = descriptor((b"gone", "sha256:" + hashlib.sha256(b"gone").hexdigest()), MANIFEST)
    root = index(place, image(place), gone)
    (violation,) = session.validate(f"{place.name}:v1").violations
    assert (violation.digest, violation.path) == (root, "$.manifests[1]")
    with pytest.raises(ocikit.NotFound):
        session.validate(f"{place.name}:v2")
    with pytest.raises(ocikit.NotFound):
        session.validate(f"{place.name}@{gone['digest']}")


def test_wrong_number_of_diff_ids_is_reported(place, session):
    config = {"architecture": "amd64", "os": "linux", "rootfs": ROOTFS}
    image(place, "v1", config=config, layers=3)
    (violation,) = session.validate(f"{place.name}:v1").violations
    assert violation.path == "$.rootfs.diff_ids"
    assert violation.message == "expected one for each of the 3 layers of the manifest, found 1"
    # Two manifests share a config; only one of them has the right number of layers
    index(place, image(place, config=config), image(place, config=config, layers=2), tag="v2")
    report = session.validate(f"{place.name}:v2")
    assert len(report.violations) == 1
    assert len(report.documents) == 4


def test_embedded_data_mismatch_is_reported(place, session):
    right = {"mediaType": media_types.EMPTY, "digest": str(ocikit.Digest.of(b"{}")), "size": 2, "data": "e30="}
    manifest = {
        "schemaVersion": 2,
        "config": right,
        "layers": [right, right | {"data": "e3g="}, right | {"data": "e30gIA=="}],
    }
    place.manifest(manifest, MANIFEST, "v1")
    assert [f.path for f in session.validate(f"{place.name}:v1").violations] == ["$.layers[1].data", "$.layers[2].data"]


def test_deeply_nested_indexes_are_reported(place, session):
    manifest = image(place)
    for _ in range(20):
        manifest = descriptor(place.manifest({"schemaVersion": 2, "manifests": [manifest]}, INDEX), INDEX)
    index(place, manifest)
    (violation,) = session.validate(f"{place.name}:v1").violations
    assert violation.message == "indexes are nested more than 8 deep"


def test_document_with_many_references_is_read_once(server, session):
    place = Registry(server)
    manifest = image(place)
    index(place, *[manifest] * 20)
    report = session.validate(f"{place.name}:v1")
    assert report.ok
    assert len(report.documents) == 3
    assert moved(server) == ["HEAD manifests", "GET manifests", "GET manifests", "GET blobs"]


@pytest.mark.timeout(120)
def test_large_document_is_validated_in_bounded_time(session, home):
    place = Folder(home)
    config = {"mediaType": "a/a", "digest": "a:a", "size": 1}
    raw, _ = place.manifest({"schemaVersion": 2, "config": config, "layers": [config] * 60_000}, MANIFEST, "v1")
    assert len(raw) < DOCUMENT_LIMIT
    assert session.validate("oci:layout:v1").ok
    place.manifest({"schemaVersion": 2, "manifests": [{}] * 500_000}, INDEX, "v2")
    assert 100 < len(session.validate("oci:layout:v2").violations) < 110
    place.manifest(b" " * (DOCUMENT_LIMIT + 1), MANIFEST, "v3")
    (violation,) = session.validate("oci:layout:v3").violations
    assert "above the limit" in violation.message


# Platforms


def test_platform_limits_validation_to_its_manifest(place, session):
    arm = {"os": "linux", "architecture": "arm64"}
    broken = image(place, annotations={"a.b": 1})
    index(place, image(place) | {"platform": {"os": "linux", "architecture": "amd64"}}, broken | {"platform": arm})
    assert session.validate(f"{place.name}:v1", platform="linux/amd64").ok
    report = session.validate(f"{place.name}:v1", platform="linux/arm64")
    assert [f.digest for f in report.violations] == [broken["digest"]]
    assert len(report.documents) == 3
    assert len(session.validate(f"{place.name}:v1").documents) == 4
    with pytest.raises(ocikit.NoMatchingPlatform, match="linux/amd64, linux/arm64"):
        session.validate(f"{place.name}:v1", platform="windows/amd64")
    with pytest.raises(ocikit.InvalidReference):
        session.validate(f"{place.name}:v1", platform="no/such/thing/here/it/is")


# Registries, layouts and the cache


@pytest.mark.parametrize("without", [(), ("Docker-Content-Digest",)])
@pytest.mark.parametrize(
    "kind", [MANIFEST, "application/json", "text/plain", "application/vnd.docker.distribution.manifest.v1+json"]
)
def test_registry_without_useful_headers_is_validated(server, session, kind, without):
    place = Registry(server)
    server.on(".*", ".*/manifests/.*", without=without, times=None)
    digest = place.manifest({"schemaVersion": 2, "mediaType": MANIFEST, "layers": 1}, kind, "v1")[1]
    report = session.validate(f"{place.name}:v1")
    assert not report.ok
    assert {f.digest for f in report.violations} == {digest}
    assert report.documents[0].digest == digest


def test_docker_schema_1_is_reported(server, session):
    place = Registry(server)
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    place.manifest({"schemaVersion": 1, "name": "t/d", "fsLayers": []}, kind, "v1")
    (violation,) = session.validate(f"{place.name}:v1").violations
    assert "Docker schema 1" in violation.message


def test_invalid_manifest_without_index_entry_is_reported(session, home):
    place = Folder(home)
    digest = place.manifest({"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}, MANIFEST)[1]
    (violation,) = session.validate(f"oci:layout@{digest}").violations
    assert (violation.digest, violation.path) == (digest, "$.config")


@pytest.mark.parametrize("index", ["{", '{"manifests": 7}', '{"manifests": [7]}', '{"manifests": [{"digest": "x"}]}'])
def test_invalid_layout_index_is_reported(session, home, index):
    place = Folder(home)
    (place.path / "index.json").write_text(index)
    report = session.validate("oci:layout")
    assert not report.ok
    assert {f.digest for f in report.violations} == {None}
    assert "index.json" in str(report.violations[0])


def test_cached_documents_are_validated_offline(server, session, home, monkeypatch):
    place = Registry(server)
    image(place, "v1")
    pinned = session.inspect(f"{place.name}:v1")
    session.cache.push_bytes(pinned.manifest.config, server.blobs["t/d", pinned.manifest.config.digest])
    server.requests.clear()
    monkeypatch.setenv("OCIKIT_OFFLINE", "1")
    assert session.validate(pinned.reference).ok
    assert moved(server) == []
    with pytest.raises(ocikit.OfflineError):
        session.validate(f"{place.name}:v2")


def test_registry_error_raises(server, session):
    place = Registry(server)
    index(place, image(place))
    server.on("GET", ".*/manifests/.*", status=403, times=None)
    with pytest.raises(ocikit.Denied):
        session.validate(f"{place.name}:v1")


# Display


def test_report_has_repr_and_table_and_can_be_pickled(session, home):
    place = Folder(home)
    digest = image(place, "v1", annotations={"<b>\x1b[31m": 1})["digest"]
    report = session.validate("oci:layout:v1")
    assert repr(report).startswith("ValidationReport(reference='oci:layout:v1@sha256:")
    (violation,) = report.violations
    assert str(violation).startswith(f"{digest} $.annotations[")
    assert str(violation).isprintable()
    assert repr(violation).startswith(f"DocumentViolation(digest='{digest[:19]}', path=")
    page = report._repr_html_()
    assert "<b>" not in page
    assert digest[:19] in page
    assert "expected a string, found an integer" in page
    assert pickle.loads(pickle.dumps(report)) == report


def test_command_prints_violations_and_exits_with_1(home, capfd):
    place = Folder(home)
    digest = image(place, "bad", annotations={"a.b": 1, "c\x1b[31m.d": 2})["digest"]
    image(place, "good")
    assert main(["validate", "oci:layout:good"]) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert err.endswith("2 documents, no violations\n")
    assert main(["validate", "oci:layout:bad", "--platform", "linux/amd64"]) == 1
    out, err = capfd.readouterr()
    assert [line.split(": ")[0] for line in out.splitlines()][0] == f"{digest} $.annotations['a.b']"
    assert len(out.splitlines()) == 2
    assert "\x1b" not in out
    assert err.endswith("2 documents, 2 violations\n")
    assert main(["validate", "oci:layout:none"]) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("ocikit: ")
