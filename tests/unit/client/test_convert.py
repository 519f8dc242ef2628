"""A copy with `convert="oci"` turns Docker's documents into OCI ones, and names the new digests."""

import json
import pickle

import ocikit
import pytest
from ocikit.spec import media_types

from tests.support.home import cli, moved, write
from tests.support.manifests import docker_list

IMAGE = "t/image"


@pytest.fixture
def docker(session, server):
    """The digest of a Docker manifest list in the fake registry."""
    listed = docker_list(session.repository(f"{server.host}/{IMAGE}", push=True))
    server.requests.clear()
    return listed


def types_in(artifact):
    """Return the media types of an artifact's documents and descriptors."""
    found = set()
    for document in [
        artifact.document,
        *(artifact.reader.document(artifact.reference, m) for m in artifact.index.manifests),
    ]:
        found |= {document.media_type, *(child.media_type for child in document.children)}
    return found


def test_list_becomes_an_index_of_oci_manifests(session, server, docker):
    copied = session.copy(f"{server.host}/{IMAGE}:v1", f"{server.host}/t/oci:v1", convert="oci")
    assert not {kind for kind in types_in(copied) if "docker" in kind}
    assert copied.document.media_type == media_types.OCI_INDEX
    assert [str(p) for p in copied.platforms] == ["linux/amd64", "linux/arm64"]
    assert len(copied.converted) == 3  # two images and the list; the attestation is OCI already
    assert copied.converted[docker.digest] == copied.digest
    assert copied.digest.short in copied.summary
    assert "converted to OCI" in copied.summary
    assert session.validate(copied).ok
    for child in copied.index.manifests:
        assert session.inspect(f"{server.host}/t/oci@{child.digest}").digest == child.digest


def test_blobs_keep_their_bytes_and_foreign_layers_their_urls(session, server, docker):
    old = session.inspect(f"{server.host}/{IMAGE}:v1", platform="linux/amd64").manifest
    new = session.copy(f"{server.host}/{IMAGE}:v1", f"{server.host}/t/oci:v1", convert="oci", platform="linux/amd64")
    assert [blob.key for blob in new.manifest.blobs] == [blob.key for blob in old.blobs]
    assert [layer.media_type for layer in new.manifest.layers] == [
        media_types.OCI_LAYER_GZIP,
        media_types.OCI_LAYER,
        media_types.OCI_FOREIGN_LAYER_GZIP,
    ]
    assert new.manifest.layers[2].urls == ("https://example.com/base",)
    assert new.converted == {old.digest: new.digest}
    assert new.config.architecture == "amd64"
    assert "left out: 1 foreign layer" in new.summary


def test_attestation_names_the_converted_manifest(session, server, docker):
    copied = session.copy(f"{server.host}/{IMAGE}:v1", f"{server.host}/t/oci:v1", convert="oci")
    image, _, attestation = copied.index.manifests
    assert attestation.annotations["vnd.docker.reference.digest"] == image.digest
    assert attestation.digest not in copied.converted.values()


def test_dry_run_shows_the_new_digests(session, server, docker):
    planned = session.copy(f"{server.host}/{IMAGE}:v1", f"{server.host}/t/oci:v1", convert="oci", dry_run=True)
    assert planned.converted == planned.plan.converted
    assert docker.digest in planned.converted
    assert planned.digest.short.removeprefix("sha256:") in planned.plan._repr_html_()
    assert not {request for request in moved(server) if request.startswith(("P", "D"))}
    copied = session.copy(f"{server.host}/{IMAGE}:v1", f"{server.host}/t/oci:v1", convert="oci")
    assert (copied.digest, copied.converted) == (planned.digest, planned.converted)
    assert pickle.loads(pickle.dumps(copied)).converted == copied.converted


def test_copy_without_convert_keeps_the_documents(session, server, docker):
    copied = session.copy(f"{server.host}/{IMAGE}:v1", f"{server.host}/t/same:v1")
    assert (copied.digest, copied.converted) == (docker.digest, {})
    assert "convert" not in copied.summary


def test_oci_artifact_keeps_its_bytes_as_the_summary_reports(session, server, home):
    write(home, {"a.csv": "1"})
    pushed = session.push(f"{server.host}/t/d:v1", "a.csv")
    copied = session.copy(pushed, f"{server.host}/t/e:v1", convert="oci")
    assert (copied.digest, copied.converted) == (pushed.digest, {})
    assert copied.summary.endswith("; nothing to convert: the documents are OCI already")


def test_converting_twice_changes_nothing(session, server, docker):
    once = session.copy(f"{server.host}/{IMAGE}:v1", "oci:store:v1", convert="oci")
    twice = session.copy("oci:store:v1", f"{server.host}/t/oci:v1", convert="oci")
    assert (twice.digest, twice.converted) == (once.digest, {})


def test_unknown_keys_annotations_and_platforms_stay(session, server):
    config = ocikit.Descriptor.of(b"{}", media_types.DOCKER_CONFIG)
    value = {
        "schemaVersion": 2,
        "mediaType": media_types.DOCKER_MANIFEST,
        "config": {"mediaType": config.media_type, "digest": config.digest, "size": 2, "com.example": [1]},
        "layers": [],
        "annotations": {"key": "value"},
        "com.example.more": {"a": 1},
    }
    server.blob("t/d", b"{}")
    server.manifest("t/d", value, "v1", media_type=media_types.DOCKER_MANIFEST)
    copied = session.copy(f"{server.host}/t/d:v1", f"{server.host}/t/e:v1", convert="oci")
    found = json.loads(copied.document.raw)
    expected = {**value, "mediaType": media_types.OCI_MANIFEST}
    expected["config"] = {**value["config"], "mediaType": media_types.OCI_CONFIG}
    assert found == expected


def test_type_of_docker_without_counterpart_is_kept(session, server):
    config = ocikit.Descriptor.of(b"{}", "application/vnd.docker.plugin.v1+json")
    plugin = ocikit.Manifest(media_type=media_types.DOCKER_MANIFEST, config=config)
    server.blob("t/d", b"{}")
    server.manifest("t/d", plugin.raw, "v1", media_type=media_types.DOCKER_MANIFEST)
    copied = session.copy(f"{server.host}/t/d:v1", f"{server.host}/t/e:v1", convert="oci")
    assert copied.manifest.config == config
    assert copied.document.media_type == media_types.OCI_MANIFEST


def test_referrers_stay_about_the_digest_before(session, server, docker, home):
    write(home, {"report.json": "{}"})
    report = session.attach(f"{server.host}/{IMAGE}:v1", "report.json", artifact_type="application/vnd.example.report")
    copied = session.copy(f"{server.host}/{IMAGE}:v1", "oci:store:v1", referrers=True, convert="oci")
    assert copied.summary.endswith("; referrers and signatures are about the digests before")
    same = session.inspect(f"oci:store@{report.digest}")
    assert same.manifest.subject.digest == docker.digest


def test_target_pinned_to_the_old_digest_is_refused(session, server, docker):
    with pytest.raises(ocikit.InvalidReference):
        session.copy(f"{server.host}/{IMAGE}:v1", f"{server.host}/t/oci@{docker.digest}", convert="oci")
    with pytest.raises(ocikit.InvalidArgument, match="convert='docker' is unknown"):
        session.copy(f"{server.host}/{IMAGE}:v1", f"{server.host}/t/oci:v1", convert="docker")


def test_command_line_converts(server, docker, home):
    run = cli("copy", f"{server.host}/{IMAGE}:v1", "oci:store:v1", "--convert", "oci")
    assert run.returncode == 0
    assert "converted to OCI" in run.stderr
