"""`docker-archive:` references in the verbs of a session."""

import attrs
import ocikit
import pytest
from ocikit.store.layout.layout import Layout

from tests.contracts.store import on, push_index
from tests.unit.store.test_docker_archive import push_plain_image

ARCHIVE = "docker-archive:images.tar"


@pytest.fixture
def image(home):
    """An index at `oci:store:v1` with an image for this machine and one for another platform."""
    layout = Layout(home / "store")
    image, other = push_plain_image(layout), push_plain_image(layout)
    host = attrs.evolve(image, platform=ocikit.Platform.host())
    push_index(layout, [on(other, "linux/mips"), host], tag="v1")
    return image


def test_copy_to_a_docker_archive_takes_the_image_of_this_machine(image, session, home):
    copied = session.copy("oci:store:v1", f"{ARCHIVE}:team/app:1.0")
    assert copied.digest == image.digest
    assert list(session.tags(ARCHIVE)) == ["docker.io/team/app:1.0"]
    assert session.inspect(ARCHIVE).digest == image.digest
    assert session.inspect(f"{ARCHIVE}:team/app:1.0").digest == image.digest
    with pytest.raises(ocikit.NoMatchingPlatform):
        session.copy("oci:store:v1", f"{ARCHIVE}:team/app:2.0", platform="linux/s390x")


def test_docker_archive_is_copied_to_a_registry_under_its_tag(image, session, server, home):
    session.copy("oci:store:v1", f"{ARCHIVE}:team/app:1.0")
    session.copy(f"{ARCHIVE}:team/app:1.0", f"{server.host}/t/app")
    assert list(session.tags(f"{server.host}/t/app")) == ["1.0"]
    session.copy(f"{server.host}/t/app:1.0", "docker-archive:back.tar")
    assert list(session.tags("docker-archive:back.tar")) == [f"{server.host}/t/app:1.0"]
    assert session.pull("docker-archive:back.tar").digest == image.digest


def test_images_of_a_docker_archive_are_tagged_and_deleted(image, session, home):
    session.copy("oci:store:v1", f"{ARCHIVE}:app:1")
    session.tag(f"{ARCHIVE}:app:1", "app:2")
    session.delete(f"{ARCHIVE}:app:1")
    assert list(session.tags(ARCHIVE)) == ["docker.io/library/app:2"]


def test_artifact_is_not_pushed_to_a_docker_archive(session, home):
    (home / "a.csv").write_text("1")
    with pytest.raises(ocikit.InvalidDocument, match="not an image"):
        session.push(f"{ARCHIVE}:data:v1", "a.csv")
    assert not (home / "images.tar").exists()


def test_command_line_reads_a_docker_archive(image, session, home, capsys):
    from ocikit.cli import main

    session.copy("oci:store:v1", f"{ARCHIVE}:team/app:1.0")
    main(["inspect", f"{ARCHIVE}:team/app:1.0"])
    assert image.digest.short in capsys.readouterr().out
