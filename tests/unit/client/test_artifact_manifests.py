"""OCI artifact manifests of 2022 and 2023 as referrers: listed, copied with their blobs, shown, pulled."""

import hashlib
import json

import ocikit
import pytest
from ocikit.spec import media_types
from ocikit.spec.manifest import ArtifactManifest, parse_document

TYPE = "application/vnd.oci.artifact.manifest.v1+json"
BLOB = b'{"payload": "signed"}'


def described(content, media_type, **fields):
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(content)} | fields


def artifact(subject, blob=BLOB, title="signature.json"):
    """The bytes of an artifact manifest about a subject."""
    value = {
        "mediaType": TYPE,
        "artifactType": "application/vnd.cncf.notary.signature",
        "blobs": [described(blob, "application/jose+json", annotations={"org.opencontainers.image.title": title})],
        "subject": subject,
        "annotations": {"created-by": "a client of 2023"},
    }
    return json.dumps(value, indent=1).encode()


@pytest.fixture(params=["registry", "layout"])
def signed(request, session, server, home):
    """Return a reference to an artifact with an artifact manifest as referrer, and the bytes of the latter."""
    (home / "data.txt").write_text("data")
    ref = f"{server.host}/t/d:v1" if request.param == "registry" else "oci:signed:v1"
    pushed = session.push(ref, "data.txt")
    raw = artifact(described(pushed.manifest.raw, media_types.OCI_MANIFEST))
    if request.param == "registry":
        server.blob("t/d", BLOB)
        server.manifest("t/d", raw, media_type=TYPE)
    else:  # as oras 1.0 wrote it
        for content in (BLOB, raw):
            (home / "signed/blobs/sha256" / hashlib.sha256(content).hexdigest()).write_bytes(content)
        index = json.loads((home / "signed/index.json").read_bytes())
        index["manifests"].append(described(raw, TYPE))
        (home / "signed/index.json").write_text(json.dumps(index))
    return ref, raw


def check(session, ref, raw):
    (found,) = session.referrers(ref)
    assert found.media_type == TYPE and found.artifact_type == "application/vnd.cncf.notary.signature"
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    assert found.digest == digest
    signature = session.inspect(f"{ref}@{digest}")
    assert signature.document.raw == raw
    assert signature.read("signature.json") == BLOB


def test_artifact_manifest_is_listed_and_read(session, signed):
    check(session, *signed)


@pytest.mark.parametrize("to", ["oci:copy:v1", "oci-archive:copy.tar:v1", "HOST/t/copy:v1"])
def test_artifact_manifest_is_copied_with_its_blobs(session, signed, server, to):
    ref, raw = signed
    to = to.replace("HOST", server.host)
    session.copy(ref, to, referrers=True)
    check(session, to, raw)


def test_artifact_manifest_is_copied_to_own_registry(session, signed, tmp_path):
    ref, raw = signed
    with ocikit.serve(tmp_path / "registry") as server:
        session.copy(ref, f"{server.host}/t/copy:v1", referrers=True)
        check(session, f"{server.host}/t/copy:v1", raw)


def test_artifact_manifest_is_pulled_shown_and_survives_gc(session, signed, home):
    ref, raw = signed
    pinned = f"{ref}@sha256:{hashlib.sha256(raw).hexdigest()}"
    assert (session.pull(pinned, "out").path / "signature.json").read_bytes() == BLOB
    shown = session.inspect(pinned)
    assert shown.kind == "application/vnd.cncf.notary.signature" and shown.size == len(BLOB)
    assert "notary.signature" in shown._repr_html_() and "signature.json" in shown._repr_html_()
    session.copy(ref, "oci:copy:v1", referrers=True)
    layout = ocikit.Layout("copy")
    layout.gc(grace=0)
    check(session, "oci:copy:v1", raw)
    assert session.validate(pinned).ok


def test_artifact_manifest_keeps_its_bytes_and_form():
    raw = artifact(described(b"{}", media_types.OCI_MANIFEST))
    document = parse_document(raw)
    assert isinstance(document, ArtifactManifest) and document.raw == raw and not document.is_image
    assert [d.title for d in document.children] == ["signature.json"]  # no config
    assert json.loads(ocikit.spec.document.encode(document)) == json.loads(raw)


@pytest.mark.parametrize("field", ["config", "layers", "manifests"])
def test_ambiguous_artifact_manifest_is_rejected(field):
    value = json.loads(artifact(described(b"{}", media_types.OCI_MANIFEST))) | {field: []}
    with pytest.raises(ocikit.InvalidDocument, match=rf"an artifact manifest with \$\.{field}"):
        parse_document(json.dumps(value).encode())
