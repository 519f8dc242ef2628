"""A real image through a real registry: ocikit and umoci unpack equal trees."""

import os

import pytest
from ocikit.client.session import Session
from ocikit.errors import NoMatchingPlatform
from ocikit.remote.auth.keychain import ANONYMOUS
from ocikit.spec import media_types as mt

from tests.support import images, peers

pytestmark = [
    pytest.mark.peers("debian", "distribution3"),
    pytest.mark.skipif(os.geteuid() != 0, reason="umoci gives files their owners as root only"),
]

#: The top-level folders of a root file system.
WHOLE = {"owner": True, "special": True, "keep_setuid": True, "xattrs": True}

#: Folders without an entry of their own in the opaque layer: umoci gives them the time of unpacking.
UNTIMED = {"srv/replaced", "srv/replaced/deep"}


@pytest.fixture(scope="module")
def host():
    with peers.distribution3() as registry:
        yield registry.host


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with Session(credentials=ANONYMOUS, cache=tmp_path_factory.mktemp("cache"), progress=False) as session:
        yield session


@pytest.fixture(scope="module")
def expected(debian, tmp_path_factory):
    """Unpack the image with umoci."""
    return everything(images.unpack(debian.oci, debian.tag, tmp_path_factory.mktemp("umoci") / "bundle"))


def everything(root):
    """Return paths, types, modes, owners, times, link targets and groups, contents and attributes."""
    found = images.snapshot(root, times=True)
    for name, entry in found.items():
        path = root / name
        if path.is_dir() and not path.is_symlink() and name not in UNTIMED:
            found[name] = (*entry, int(path.stat().st_mtime))
    return found


def differences(ours, theirs):
    """Return the first differences between two trees."""
    names = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    return [(name, ours.get(name), theirs.get(name)) for name in names[:10]]


@pytest.mark.parametrize(
    ("form", "kind", "layer"),
    [
        ("oci", mt.OCI_MANIFEST, mt.OCI_LAYER_GZIP),
        ("docker", mt.DOCKER_MANIFEST, mt.DOCKER_LAYER_GZIP),
        ("zstd", mt.OCI_MANIFEST, mt.OCI_LAYER_ZSTD),
    ],
)
def test_unpacked_debian_equals_that_of_umoci(host, session, debian, expected, tmp_path, form, kind, layer):
    reference = f"{host}/debian/{form}:v1"
    if form == "docker":
        images.skopeo("copy", "--dest-tls-verify=false", f"dir:{debian.docker}", f"docker://{reference}")
    else:
        session.copy(f"oci:{debian.folder / form}:{debian.tag}", reference)
    image = session.pull(reference)
    assert image.is_image
    assert image.manifest.media_type == kind
    assert {one.media_type for one in image.manifest.layers} == {layer}
    assert image.config.config["Cmd"] == ("/bin/bash",)
    done = image.unpack(tmp_path / "root", **WHOLE)
    assert done.skipped == ()
    ours = everything(done.path)
    assert differences(ours, expected) == []
    assert len(ours) > 3000


def test_platform_of_index_is_selected_and_unpacked(host, session, debian, expected, tmp_path):
    reference = f"{host}/debian/index:v1"
    copied = session.copy(f"oci:{debian.index}:{debian.tag}", reference)
    assert [str(platform) for platform in copied.platforms] == ["linux/amd64", "linux/arm64/v8"]
    inspected = session.inspect(reference)
    assert inspected.digest == copied.digest
    for platform, architecture in {"linux/arm64": "arm64", "linux/arm64/v8": "arm64", "linux/amd64": "amd64"}.items():
        image = session.pull(reference, platform=platform)
        assert image.config.architecture == architecture
    done = session.pull(reference, platform="linux/arm64").unpack(tmp_path / "root", **WHOLE)
    assert differences(everything(done.path), expected) == []


def test_missing_platform_error_lists_available_ones(host, session, debian, tmp_path):
    reference = f"{host}/debian/platforms:v1"
    session.copy(f"oci:{debian.index}:{debian.tag}", reference)
    with pytest.raises(NoMatchingPlatform) as caught:
        session.pull(reference, platform="linux/riscv64")
    assert "linux/riscv64" in str(caught.value)
    assert "linux/amd64, linux/arm64/v8" in str(caught.value)
    assert [str(one) for one in caught.value.available] == ["linux/amd64", "linux/arm64/v8"]
    with pytest.raises(NoMatchingPlatform):
        session.copy(reference, f"oci:{tmp_path / 'never'}", platform="windows/amd64")


def test_one_platform_is_copied_alone(host, session, debian, tmp_path):
    reference = f"{host}/debian/one:v1"
    session.copy(f"oci:{debian.index}:{debian.tag}", reference)
    copied = session.copy(reference, f"oci:{tmp_path / 'layout'}:arm", platform="linux/arm64")
    assert not copied.is_index
    config = peers.run("skopeo", "inspect", "--config", f"oci:{tmp_path / 'layout'}:arm").stdout
    assert '"arm64"' in config
    assert images.unpack(tmp_path / "layout", "arm", tmp_path / "bundle").is_dir()


def test_image_tree_is_listed_without_unpacking(host, session, debian, expected):
    reference = f"{host}/debian/tree:v1"
    session.copy(f"oci:{debian.oci}:{debian.tag}", reference)
    listed = {name.rstrip("/") for name in session.pull(reference).tree()}
    assert {name.encode("utf-8", "surrogateescape") for name in listed} >= {
        name.encode("utf-8", "surrogateescape") for name in expected
    }
