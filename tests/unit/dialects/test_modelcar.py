"""Images with a model in a folder, as KServe runs them."""

import ocikit
import pytest

from tests.support import images, models


@pytest.fixture
def image(tmp_path):
    """Return a function that makes an image of layers and returns its reference."""

    def make(*layers):
        return f"oci:{images.layered(tmp_path / 'image', *map(models.tar, layers))}:latest"

    return make


def test_pull_writes_only_the_folder_of_the_model(image, tmp_path):
    ref = image(
        {"bin": None, "bin/sh": b"sh", "models": None, "models/old": b"0", "models/a": b"1"},
        {"models/.wh.old": b"", "models/sub/b": b"2", "etc/passwd": b"root"},
    )
    art = ocikit.pull(ref, tmp_path / "m", root="models")
    assert models.files(tmp_path / "m") == {"a": b"1", "sub/b": b"2"}
    assert art.path == tmp_path / "m"
    assert "unpacked to 3 files" in art.summary  # with the one that the second layer hides


def test_whiteouts_of_the_folder_are_applied(image, tmp_path):
    ref = image({"models/a": b"1"}, {".wh.models": b""}, {"models/b": b"2"})
    ocikit.pull(ref, tmp_path / "m", root="models/")
    assert models.files(tmp_path / "m") == {"b": b"2"}
    ref = image({"a/models/a": b"1"}, {"a/.wh..wh..opq": b"", "a/models/c": b"3"})
    ocikit.pull(ref, tmp_path / "n", root="/a/models")
    assert models.files(tmp_path / "n") == {"c": b"3"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../etc/passwd"])
def test_links_out_of_the_folder_are_refused(target, image, tmp_path):
    ref = image({"etc/passwd": b"root", "models/x": target})
    with pytest.raises(ocikit.UnsafeArchive, match="may lead out of the folder"):
        ocikit.pull(ref, tmp_path / "m", root="models")
    assert not (tmp_path / "m").exists()


def test_images_without_the_folder_are_refused(image, tmp_path):
    with pytest.raises(ocikit.ContentError, match="no folder 'models'"):
        ocikit.pull(image({"a": b"1"}), tmp_path / "m", root="models")
    with pytest.raises(ocikit.UnsafeArchive, match="would make the root a symlink"):
        ocikit.pull(image({"models": "/a"}), tmp_path / "m", root="models")


def test_edited_folders_are_replaced_by_force_only(image, tmp_path):
    ref = image({"models/a": b"1"})
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").write_bytes(b"1")
    with pytest.raises(ocikit.ContentError, match="is not empty"):
        ocikit.pull(ref, tmp_path / "m", root="models")
    ocikit.pull(ref, tmp_path / "m", root="models", force=True)
    assert models.files(tmp_path / "m") == {"a": b"1"}


@pytest.mark.parametrize(
    "arguments", [{"root": ".."}, {"root": ""}, {"root": "models", "include": "*"}, {"root": "models", "to": None}]
)
def test_wrong_arguments_are_refused(arguments, image, tmp_path):
    with pytest.raises(ocikit.InvalidArgument):
        ocikit.pull(image({"models/a": b"1"}), **({"to": tmp_path / "m"} | arguments))


def test_root_is_for_images(tmp_path):
    ref = models.push(tmp_path / "s", "application/vnd.oci.empty.v1+json", (b"1", "text/plain"))
    with pytest.raises(ocikit.InvalidArgument, match="is for images"):
        ocikit.pull(ref, tmp_path / "m", root="models")
