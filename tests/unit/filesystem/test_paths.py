"""Paths of the file system: where references end."""

import ocikit
import pytest
from ocikit.filesystem.paths import parse_path, path_of, strip_protocol


@pytest.mark.parametrize(
    ("path", "root", "name"),
    [
        ("h:1/r:t/a:b/c@d", "h:1/r:t", "a:b/c@d"),
        ("ocikit://ghcr.io/team/data:v1/train.csv", "ghcr.io/team/data:v1", "train.csv"),
        ("ocikit://ghcr.io/team/data:v1/", "ghcr.io/team/data:v1", ""),
        ("ghcr.io/team/data", "ghcr.io/team/data", ""),
        ("ghcr.io", "ghcr.io", ""),
        ("", "", ""),
        ("localhost:5000/a/b:v1@sha256:" + "0" * 64 + "/x/y", "localhost:5000/a/b:v1@sha256:" + "0" * 64, "x/y"),
        ("ocikit:///data/layout:v1/a.csv", "/data/layout:v1", "a.csv"),
        ("[::1]:5000/a:v1/x", "[::1]:5000/a:v1", "x"),
    ],
)
def test_path_has_root_and_name(path, root, name):
    location = parse_path(path)
    assert (location.root, location.name) == (root, name)


def test_docker_hub_has_one_path():
    assert parse_path("index.docker.io/library/alpine:3").root == "docker.io/library/alpine:3"


def test_empty_parts_are_removed():
    assert strip_protocol("ocikit://ghcr.io//a:v1///x//y/") == "ghcr.io/a:v1/x/y"


def test_location_has_reference():
    assert str(parse_path("h:1/a/b:v1/x").reference) == "h:1/a/b:v1"


def test_layout_location_has_reference(tmp_path):
    assert str(parse_path(f"{tmp_path}/images:v1/x").reference) == f"oci:{tmp_path}/images:v1"


@pytest.mark.parametrize("text", ["h:1/a/b:v1", "oci:/tmp/x:v1"])
def test_path_of_reference_leads_back(text):
    reference = ocikit.Reference.parse(text) if text[0] == "h" else ocikit.LayoutReference.parse(text)
    assert parse_path(path_of(reference)).reference == reference


def test_user_in_url_is_rejected_without_password():
    with pytest.raises(ocikit.InvalidReference) as caught:
        parse_path("ocikit://ada:hunter2@ghcr.io/a:v1/x")
    assert "ocikit.login" in caught.value.hint
    assert "hunter2" not in str(caught.value)


def test_ipv6_url_is_rejected_with_hint():
    with pytest.raises(ocikit.InvalidReference) as caught:
        parse_path("ocikit://[")
    assert "IPv6" in str(caught.value)
