"""Converted images are accepted by real registries and read by skopeo."""

import json

import pytest
from ocikit.client.session import Session
from ocikit.remote.auth.keychain import ANONYMOUS

from tests.support import peers
from tests.support.manifests import docker_list


@pytest.mark.peers("skopeo")
def test_converted_image_is_read_by_skopeo(registry, repo, tmp_path):
    with Session(credentials=ANONYMOUS, cache=tmp_path / "cache", progress=False) as session:
        docker_list(session.repository(f"{registry.host}/{repo}", push=True), foreign=False)
        copied = session.copy(f"{registry.host}/{repo}:v1", f"{registry.host}/{repo}-oci:v1", convert="oci")
        assert session.validate(copied).ok
    name = f"docker://{registry.host}/{repo}-oci:v1"
    raw = json.loads(peers.run("skopeo", "inspect", "--tls-verify=false", "--raw", name).stdout)
    assert raw["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert {m["mediaType"] for m in raw["manifests"]} == {"application/vnd.oci.image.manifest.v1+json"}
    for architecture in ("amd64", "arm64"):
        chosen = ("--override-os", "linux", "--override-arch", architecture)
        shown = json.loads(peers.run("skopeo", *chosen, "inspect", "--tls-verify=false", name).stdout)
        assert (shown["Architecture"], len(shown["Layers"])) == (architecture, 2)
    layout = f"oci:{tmp_path / 'layout'}:v1"
    peers.run("skopeo", "copy", "--all", "--preserve-digests", "--src-tls-verify=false", name, layout)
    assert json.loads(peers.run("skopeo", "inspect", "--raw", layout).stdout) == raw
