"""What a push leaves out, ignores, refuses and cannot read."""

import os
from pathlib import Path

import pytest
from ocikit.errors import ContentError, NotFound
from ocikit.layers.ignore import LEFT_OUT, is_left_out, looks_secret
from ocikit.layers.layer import entries
from ocikit.layers.pack import pack


def write(*names, text="x"):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def titles(*paths, **options):
    return [layer.title for layer in pack(paths, **options)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a folder of data."""
    monkeypatch.chdir(tmp_path)
    write("d/a.csv", "d/sub/b.csv", "d/.gitignore")
    return tmp_path


DATA = ["d/.gitignore", "d/a.csv", "d/sub/b.csv"]
DROPPINGS = [
    "d/.DS_Store",
    "d/.git/config",
    "d/.ipynb_checkpoints/n-checkpoint.ipynb",
    "d/sub/._b.csv",
    "d/sub/.b.csv.swp",
    "d/sub/.cache/huggingface/download/b.metadata",
    "d/sub/__pycache__/m.cpython-311.pyc",
    "d/sub/Thumbs.db",
    "d/sub/.nfs00000000017a2b3c00000001",
]


def test_push_leaves_out_git_checkpoints_caches_and_droppings(here):
    write(*DROPPINGS)
    packed = pack(["d"])
    assert [layer.title for layer in packed] == DATA
    assert sorted(packed.left_out) == [
        "d/.DS_Store",
        "d/.git/",
        "d/.ipynb_checkpoints/",
        "d/sub/._b.csv",
        "d/sub/.b.csv.swp",
        "d/sub/.cache/",
        "d/sub/.nfs00000000017a2b3c00000001",
        "d/sub/Thumbs.db",
        "d/sub/__pycache__/",
    ]
    assert sorted(titles("d", hidden=True)) == sorted(DATA + DROPPINGS)


def test_archive_leaves_out_git_checkpoints_and_caches(here):
    write(*DROPPINGS)
    packed = pack(["d"], archive="tar")
    with packed[0].open() as file:
        names = [entry.path.rstrip("/") for entry in entries(file)]
    assert names == ["d", "d/.gitignore", "d/a.csv", "d/sub", "d/sub/b.csv"]
    assert "d/.git/" in packed.left_out


def test_left_out_files_do_not_change_digest(here):
    before = [layer.descriptor for layer in pack(["d"])]
    archive = pack(["d"], archive="tar+gzip")[0].descriptor
    write(*DROPPINGS)
    assert [layer.descriptor for layer in pack(["d"])] == before
    assert pack(["d"], archive="tar+gzip")[0].descriptor == archive


def test_path_that_is_named_itself_is_not_left_out(here):
    write("d/.git/config", "d/.git/.DS_Store")
    assert titles("d/.git") == ["d/.git/config"]


def test_left_out_names_are_lower_case_and_ignore_case():
    assert all(name == name.casefold() for name in LEFT_OUT)
    assert is_left_out(".DS_STORE") and is_left_out("__MACOSX")
    assert not any(map(is_left_out, [".gitattributes", ".github", "cache", "git", ".config", "a._b"]))


def test_folder_with_only_left_out_files_names_hidden(here):
    write("e/.DS_Store")
    with pytest.raises(ContentError, match="no files to push") as caught:
        pack(["e"])
    assert "e/.DS_Store" in caught.value.hint and "hidden=True" in caught.value.hint


# .ocikitignore


def test_ocikitignore_leaves_out_files_in_gitignore_syntax(here):
    write("d/x.tmp", "d/keep.tmp", "d/sub/y.tmp", "d/raw/1", "d/sub/raw/2", "d/sub/big.bin")
    Path("d/.ocikitignore").write_text("# patterns\n*.tmp\n!keep.tmp\n/raw/\nsub/*.bin\n")
    assert titles("d") == [*DATA[:2], "d/keep.tmp", "d/sub/b.csv", "d/sub/raw/2"]
    assert "d/x.tmp" in titles("d", hidden=True)
    assert titles("d/.") == [".gitignore", "a.csv", "keep.tmp", "sub/b.csv", "sub/raw/2"]


def test_nearest_ocikitignore_decides(here):
    Path("d/.ocikitignore").write_text("*.csv\n")
    Path("d/sub/.ocikitignore").write_text("!b.csv\n")
    assert titles("d") == ["d/.gitignore", "d/sub/b.csv"]


def test_ocikitignore_takes_back_what_is_left_out(here):
    write("d/.git/config", "d/.cache/x")
    Path("d/.ocikitignore").write_text("!.cache/\n")
    assert titles("d") == ["d/.cache/x", *DATA]


def test_unreadable_ocikitignore_is_named(here):
    Path("d/.ocikitignore").write_bytes(b"\xff\xfe")
    with pytest.raises(ContentError, match=r"d/.ocikitignore' failed"):
        pack(["d"])
    Path("d/.ocikitignore").write_text("!\n")
    with pytest.raises(ContentError, match=r"d/.ocikitignore' failed"):
        pack(["d"])


# Secrets

SECRETS = [".env", ".env.local", ".netrc", "id_rsa", ".aws/credentials", "store.p12", "kaggle.json", ".ENVRC"]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("archive", [None, "tar"])
def test_secret_is_refused_unless_asked_for(here, name, archive):
    write(f"d/{name}", text="password")
    with pytest.raises(ContentError, match="look like secrets") as caught:
        pack(["d"], archive=archive)
    assert name in caught.value.message and "password" not in str(caught.value)
    assert f"exclude='d/{name}'" in caught.value.hint and "secrets=True" in caught.value.hint
    assert pack(["d"], archive=archive, secrets=True).secrets == (f"d/{name}",)
    assert pack(["d"], archive=archive, hidden=True).secrets == (f"d/{name}",)
    assert pack(["d"], archive=archive, exclude=[f"d/{name}"]).secrets == ()
    Path("d/.ocikitignore").write_text(name)
    assert pack(["d"], archive=archive).secrets == ()


def test_secret_that_is_named_itself_is_refused(here, monkeypatch):
    write("d/.env", "d/.aws/credentials")
    with pytest.raises(ContentError, match="look like secrets"):
        pack(["d/.env"])
    monkeypatch.chdir(here / "d/.aws")
    with pytest.raises(ContentError, match="look like secrets"):
        pack(["credentials"])


def test_public_files_do_not_look_secret(here):
    write(".env.example", "id_rsa.pub", "environment.yml", "credentials", "config.json", "token", "slides.key")
    write("ca.pem", text="-----BEGIN CERTIFICATE-----\n")
    assert not [name for name in os.listdir() if looks_secret(Path(name))]


def test_private_key_looks_secret_by_its_content(here):
    write("tls.pem", "tls.key", text="-----BEGIN EC PRIVATE KEY-----\n")
    Path("der.key").write_bytes(b"\x30\x82\x04\xa4")
    assert all(looks_secret(Path(name)) for name in ("tls.pem", "tls.key", "der.key"))


# Unreadable files and folders


@pytest.fixture
def unreadable(here, monkeypatch):
    """A folder and a file that cannot be read, also for root."""
    write("d/locked/x", "d/secret.csv")
    scandir, opened = os.scandir, Path.open

    def deny(path):
        if Path(path).name in {"locked", "lost+found", "secret.csv"}:
            raise PermissionError(13, "Permission denied", str(path))

    def checked_scandir(path):
        deny(path)
        return scandir(path)

    def checked_open(path, *args, **options):
        deny(path)
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "scandir", checked_scandir)
    monkeypatch.setattr(Path, "open", checked_open)


@pytest.mark.parametrize("archive", [None, "tar", "tar+gzip"])
def test_unreadable_folder_is_named_with_remedy(here, unreadable, archive):
    with pytest.raises(ContentError, match="d/locked' failed: Permission denied") as caught:
        pack(["d"], archive=archive)
    assert "exclude='d/locked/'" in caught.value.hint


@pytest.mark.parametrize("archive", [None, "tar", "tar+gzip"])
def test_unreadable_file_is_named_with_remedy(here, unreadable, archive):
    with pytest.raises(ContentError, match=r"d/secret.csv' failed: Permission denied") as caught:
        pack(["d"], archive=archive, exclude=["d/locked/"])
    assert "exclude='d/secret.csv'" in caught.value.hint


@pytest.mark.parametrize("pattern", ["d/locked/", "d/locked/*", "d/l*", "*/locked/"])
def test_excluded_folder_is_not_entered(here, unreadable, pattern):
    assert titles("d", exclude=[pattern, "d/secret.csv"]) == DATA


def test_lost_and_found_is_not_entered(here, unreadable):
    Path("d/locked").rename("d/lost+found")
    assert titles("d", exclude=["d/secret.csv"]) == DATA


def test_folder_that_vanishes_while_walked_is_content_error(here, monkeypatch):
    def vanish(path):
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(os, "scandir", vanish)
    with pytest.raises(ContentError, match="'d' failed: No such file"):
        pack(["d"])


def test_full_disk_while_archiving_names_tmpdir(here, monkeypatch, tmp_path):
    with pytest.raises(ContentError, match="archive of 'd' failed") as caught:
        pack(["d"], archive="tar", spool=tmp_path / "missing")
    assert "TMPDIR" in caught.value.hint


@pytest.mark.parametrize("archive", [None, "tar"])
def test_path_below_unreadable_folder_is_content_error(here, monkeypatch, archive):
    stat = os.stat

    def deny(path, *args, **options):
        if Path(path).name == "d" if isinstance(path, str | Path) else False:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", deny)
    with pytest.raises(ContentError, match="reading 'd' failed: Permission denied"):
        pack(["d"], archive=archive)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
@pytest.mark.parametrize("archive", [None, "tar"])
def test_impossible_path_is_not_found(here, path, archive):
    with pytest.raises(NotFound, match="cannot read"):
        pack([path], archive=archive)


def test_deleted_current_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    (tmp_path / "x").rmdir()
    with pytest.raises(NotFound, match="cannot read 'd'") as caught:
        pack(["d"])
    assert "current folder was deleted" in caught.value.hint
