"""Reading, merging and unpacking layers, hostile ones included."""

import gzip
import hashlib
import io
import itertools
import json
import os
import shutil
import stat
import struct
import sys
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ocikit.errors import ConnectionFailed, ContentError, OcikitError, UnsafeArchive
from ocikit.layers.compression import zstd
from ocikit.layers.header import encode_header
from ocikit.layers.layer import RATIO_FLOOR, LayerLimits, entries, escapes, open_layer
from ocikit.layers.listing import merged_tree
from ocikit.layers.unpack import unpack

from tests.support import images, peers
from tests.support.trees import differences, tree

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

FILE, FOLDER, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def entry(name, content=b"", type=FILE, target="", mode=None, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = type, target, len(content)
    info.mode = mode if mode is not None else (0o755 if type == FOLDER else 0o644)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def tar(*members, format=tarfile.PAX_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for member in members:
            info, content = member if isinstance(member, tuple) else entry(member)
            if isinstance(member, str) and member.endswith("/"):
                info, content = entry(member, type=FOLDER)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def layers(*archives):
    return [(io.BytesIO(archive), "application/vnd.oci.image.layer.v1.tar") for archive in archives]


def files(folder):
    """{path: content, or target, or None for a folder}"""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


@pytest.fixture
def out(tmp_path):
    """Where to unpack, in a folder with a file beside that must stay as it is."""
    (tmp_path / "secret").write_bytes(b"untouched")
    (tmp_path / "secret").chmod(0o600)
    yield tmp_path / "out"
    assert (tmp_path / "secret").read_bytes() == b"untouched"
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert (tmp_path / "secret").stat().st_nlink == 1
    assert {p.name for p in tmp_path.iterdir()} <= {"secret", "out"}, "something was left beside the target"


def refuses(out, *archives, match=None, error=UnsafeArchive, **options):
    with pytest.raises(error, match=match) as caught:
        unpack(layers(*archives), out, **options)
    assert not out.exists(), "nothing may be kept"
    assert caught.value.hint
    return caught.value


# What is unpacked ------------------------------------------------------------------------------------------------------


def test_a_layer_is_unpacked_with_modes_times_and_links(out):
    done = unpack(
        layers(
            tar(
                entry("./", type=FOLDER, mode=0o750),
                entry("./bin/", type=FOLDER, mode=0o555, mtime=1000),
                entry("./bin/tool", b"#!", mode=0o755, mtime=1234.5),
                entry("./bin/alias", type=LINK, target="tool", mtime=77),
                entry("./bin/again", type=HARD, target="./bin/tool"),
                entry("implied/file", b"x"),
            )
        ),
        out,
    )
    assert files(out) == {
        "bin": None, "bin/tool": b"#!", "bin/alias": "tool", "bin/again": b"#!", "implied": None, "implied/file": b"x",
    }  # fmt: skip
    assert (out / "bin/tool").stat().st_ino == (out / "bin/again").stat().st_ino
    assert [stat.S_IMODE((out / p).lstat().st_mode) for p in ("", "bin", "bin/tool", "implied", "implied/file")] == [
        0o750, 0o555, 0o755, 0o755, 0o644,
    ]  # fmt: skip
    assert [(out / p).lstat().st_mtime for p in ("bin", "bin/tool", "bin/alias")] == [1000, 1234.5, 77]
    assert (done.path, done.files, done.size, done.left_out) == (out, 2, 3, ())


def test_names_may_be_long_and_any_bytes(out):
    odd = [
        "n" * 255,
        "/".join("abcdefgh"[i] * 80 for i in range(8)) + "/f",
        "ł" * 127,
        "new\nline",
        "back\\slash",
        "x:y",
    ]
    members = [entry(name, b"1") for name in odd]
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        unpack(layers(tar(*members, format=format)), out, overwrite=True)
        assert {k for k, v in files(out).items() if v} == set(odd)
    raw = bytearray(tar("badbyte"))
    raw[3:4] = b"\xff"
    unpack(layers(checksummed(raw)), out, overwrite=True)
    assert os.listdir(os.fsencode(out)) == [b"bad\xffyte"]


def checksummed(archive, at=0):
    """The archive with the checksum of the header at this offset mended."""
    raw = bytearray(archive)
    raw[at + 148 : at + 156] = b" " * 8
    raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])
    return bytes(raw)


@pytest.mark.parametrize(
    "compress", [gzip.compress, lambda data: zstd().compress(data), bytes], ids=["gzip", "zstd", "no"]
)
def test_compression_is_told_by_the_bytes_and_not_by_the_type(out, compress):
    blob = compress(tar(entry("a", b"1" * 3_000_000)))
    unpack([(io.BytesIO(blob), "application/vnd.oci.image.layer.v1.tar+zstd")], out)
    assert files(out) == {"a": b"1" * 3_000_000}


def test_gzip_members_and_zstd_frames_follow_each_other(out):
    whole = tar(entry("a", os.urandom(100_000)), "b")
    pieces = [whole[i : i + 7000] for i in range(0, len(whole), 7000)]
    for compress, pad in ((gzip.compress, bytes(1000)), (lambda data: zstd().compress(data), b"")):
        blob = compress(b"") + b"".join(map(compress, pieces)) + pad
        assert open_layer(io.BytesIO(blob)).read() == whole
    skippable = struct.pack("<II", 0x184D2A50, 5) + b"12345"
    assert open_layer(io.BytesIO(skippable + zstd().compress(whole) + skippable)).read() == whole


def test_a_stream_may_give_its_bytes_in_any_pieces():
    whole = tar(entry("a", os.urandom(10_000)), entry("b/c", b"x" * 700))

    class Dribble(io.RawIOBase):
        def __init__(self, data, step):
            self.data, self.step = data, step

        def read(self, size=-1):
            piece, self.data = self.data[: min(size, self.step)], self.data[min(size, self.step) :]
            return piece

    for data, step in itertools.product((whole, gzip.compress(whole), zstd().compress(whole)), (1, 5, 511, 513)):
        assert [(e.path, e.size) for e in entries(Dribble(data, step))] == [("a", 10_000), ("b/c", 700)]


def test_a_stream_is_read_to_its_end_so_that_its_digest_can_be_checked(out):
    class Verified(io.BytesIO):
        ended = False

        def read(self, size=-1):
            piece = super().read(size)
            if not piece and size:
                self.ended = True
                raise ContentError("digest mismatch", hint="from the store")
            return piece

    for blob in (tar("a") + bytes(100_000), gzip.compress(tar("a")), zstd().compress(tar("a"))):
        stream = Verified(blob)
        with pytest.raises(ContentError, match="digest mismatch"):
            unpack([(stream, "")], out)
        assert stream.ended
        assert not out.exists()


def test_an_archive_may_end_without_padding_or_end_marker(out, tmp_path_factory):
    layout = images.small(tmp_path_factory.mktemp("layout"), terminated=False)
    [blob] = [b for b in (layout / "blobs/sha256").iterdir() if b.read_bytes()[:2] == b"\x1f\x8b"]
    with blob.open("rb") as stream:
        unpack([(stream, "")], out)
    assert {k: v for k, v in files(out).items() if v is not None} == images.FILES
    unpack(layers(b"", tar("a")[:512], tar("a")[:1024]), out, overwrite=True)
    assert files(out) == {"a": b""}


def test_sparse_files_of_every_format_are_read(out, tmp_path_factory):
    tool = shutil.which("tar") or pytest.skip("GNU tar is missing: apt install tar")
    source = tmp_path_factory.mktemp("sparse")
    with (source / "holes").open("wb") as file:
        for i in range(60):  # more than one block of a map holds
            file.seek(i * 1_000_000)
            file.write(b"x" * 5000 + bytes([i]))
        file.truncate(70_000_000)
    with (source / "all-hole").open("wb") as file:
        file.truncate(5_000_000)
    (source / "plain").write_bytes(b"p")
    options = [["--format=gnu"], *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))]
    for option in options:
        archive = source / "archive.tar"
        command = [tool, "-C", source, "-S", *option, "-cf", archive, "holes", "all-hole", "plain"]
        assert os.spawnv(os.P_WAIT, tool, [str(c) for c in command]) == 0
        assert archive.stat().st_size < 1_000_000, "tar found no holes"
        with archive.open("rb") as stream:
            unpack([(stream, "")], out, overwrite=True)
        for name in ("holes", "all-hole", "plain"):
            assert (out / name).read_bytes() == (source / name).read_bytes(), (option, name)
        assert (out / "holes").stat().st_blocks * 512 < 10_000_000
        with archive.open("rb") as stream:
            assert [(e.path, e.size) for e in entries(stream)] == [
                ("holes", 70_000_000),
                ("all-hole", 5_000_000),
                ("plain", 1),
            ]


def test_old_archives_and_global_headers_are_read(out):
    v7 = bytearray(tar("old/", "old/file", format=tarfile.USTAR_FORMAT))
    for at in (0, 512):
        v7[at + 156 : at + 157] = b"\0"
        v7[at + 257 : at + 265] = bytes(8)
        v7 = bytearray(checksummed(v7, at))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", pax_headers={"comment": "of git archive", "path": "evil"}) as archive:
        archive.addfile(*entry("new"))
    unpack(layers(bytes(v7), stream.getvalue()), out)
    assert files(out) == {"old": None, "old/file": b"", "new": b""}


# Layers over layers ----------------------------------------------------------------------------------------------------

EXAMPLES = {
    "explicit whiteouts hide single paths": (
        [["file1", "a/", "a/file2", "b/", "c/", "c/file3"], [".wh.file1", "a/.wh.file2", ".wh.b", "file4"]],
        {"a", "c", "c/file3", "file4"},
    ),
    "an opaque whiteout hides all siblings below": (
        [["bin/tool", "bin/tools/one"], ["bin/.wh..wh..opq"]],
        {"bin"},
    ),
    "an opaque whiteout before its siblings": (
        [["a/", "a/b/", "a/b/c/", "a/b/c/bar"], ["a/", "a/.wh..wh..opq", "a/b/", "a/b/c/", "a/b/c/foo"]],
        {"a", "a/b", "a/b/c", "a/b/c/foo"},
    ),
    "an opaque whiteout after its siblings": (
        [["a/", "a/b/", "a/b/c/", "a/b/c/bar"], ["a/", "a/b/", "a/b/c/", "a/b/c/foo", "a/.wh..wh..opq"]],
        {"a", "a/b", "a/b/c", "a/b/c/foo"},
    ),
    "a whiteout after its own layer's file": ([["x"], ["x", ".wh.x"]], {"x"}),
    "a whiteout after its own layer's folder": ([["d/old"], ["d/", "d/new", ".wh.d"]], {"d", "d/new"}),
    "a whiteout after a file in an implied folder": (
        [["d/old", "d/e/old"], ["d/e/new", ".wh.d"]],
        {"d", "d/e", "d/e/new"},
    ),
    "a whiteout in the first layer": ([["x", ".wh.x", ".wh..wh..opq"]], {"x"}),
    "a whiteout of nothing": ([["x"], [".wh.y", "no/such/.wh.z", "x/.wh.z", "no/.wh..wh..opq"]], {"x"}),
    "an opaque whiteout at the top": ([["x", "d/y"], ["z", ".wh..wh..opq"]], {"z"}),
    "a whiteout, and later the name again": ([["d/old"], [".wh.d"], ["d/new"]], {"d", "d/new"}),
    "a file over a folder": ([["d/x"], ["d"]], {"d"}),
    "a folder over a file": ([["d"], ["d/", "d/x"]], {"d", "d/x"}),
    "AUFS bookkeeping": ([[".wh..wh.aufs", ".wh..wh.plnk/", ".wh..wh.plnk/1.2", "x"]], {"x"}),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_whiteouts(out, name):
    stack, expected = EXAMPLES[name]
    archives = [tar(*members) for members in stack]
    unpack(layers(*archives), out)
    assert set(files(out)) == expected
    assert set(merged_tree(layers(*archives))) == expected


def test_later_layers_replace_files_and_break_hard_links(out):
    unpack(
        layers(
            tar(entry("a", b"old"), entry("b", type=HARD, target="a"), entry("l", type=LINK, target="a"), "d/x"),
            tar(entry("b", b"new"), entry("l", b"file now"), entry("d", type=LINK, target="a")),
        ),
        out,
    )
    assert files(out) == {"a": b"old", "b": b"new", "l": b"file now", "d": "a"}


def test_a_folder_over_a_folder_takes_the_new_mode_and_keeps_the_content(out):
    first = tar(entry("d", type=FOLDER, mode=0o700, mtime=1), "d/x")
    unpack(layers(first, tar(entry("d", type=FOLDER, mode=0o555, mtime=2))), out)
    assert files(out) == {"d": None, "d/x": b""}
    assert (stat.S_IMODE((out / "d").stat().st_mode), (out / "d").stat().st_mtime) == (0o555, 2)


def test_a_path_through_a_link_to_a_folder_stays_in_the_root(out):
    """Debian's merged /usr: later layers may still say lib/x."""
    base = tar(
        "usr/", "usr/lib/", entry("lib", type=LINK, target="usr/lib"), entry("abs", type=LINK, target="/usr/lib")
    )
    upper = tar("lib/x", "abs/y", entry("deep", type=LINK, target="../../../../usr"), "deep/lib/z", "lib/gone")
    archives = [base, upper, tar("lib/.wh.gone", entry("hard", type=HARD, target="abs/x"))]
    unpack(layers(*archives), out)
    assert {"usr/lib/x", "usr/lib/y", "usr/lib/z", "lib", "hard"} <= set(files(out))
    assert "usr/lib/gone" not in files(out)
    assert (out / "lib").is_symlink()
    merged = merged_tree(layers(*archives))
    assert set(merged) == set(files(out))
    assert (merged["usr/lib/x"].layer, merged["usr/lib/x"].stored_as) == (1, "lib/x")
    assert (merged["hard"].type, merged["hard"].target, merged["hard"].stored_as) == ("hardlink", "usr/lib/x", "lib/x")


def test_a_link_to_a_folder_that_is_not_there_yet_makes_it_in_the_root(out):
    unpack(layers(tar(entry("srv", type=LINK, target="/../data/srv"), "srv/x")), out)
    assert files(out) == {"srv": "/../data/srv", "data": None, "data/srv": None, "data/srv/x": b""}


def test_a_folder_replaces_a_link_to_a_folder(out):
    unpack(layers(tar("usr/lib/", entry("lib", type=LINK, target="usr/lib")), tar("lib/", "lib/x")), out)
    assert set(files(out)) == {"usr", "usr/lib", "lib", "lib/x"}
    assert not (out / "lib").is_symlink()


def test_a_merged_tree_has_what_a_listing_shows():
    merged = merged_tree(
        layers(
            tar(entry("./etc/motd", b"hello", mode=0o600), "etc/gone", entry("a", type=LINK, target="etc")),
            tar(
                "etc/.wh.gone",
                entry("b", type=HARD, target="etc/motd"),
                entry("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
            ),
        )
    )
    assert list(merged) == ["a", "b", "dev", "dev/null", "etc", "etc/motd"]
    assert (merged["etc/motd"].size, merged["etc/motd"].mode, merged["etc/motd"].layer) == (5, 0o600, 0)
    assert (merged["b"].size, merged["b"].target, merged["b"].layer) == (5, "etc/motd", 0)
    assert merged["dev/null"].device == (1, 3)
    assert merged["etc"].type == "directory"


names = st.sampled_from(["a", "b", "c", "a/a", "a/b", "b/a", "b/c/a", "a/b/c"])
targets = st.sampled_from(["a", "b", "../a", "/b", "b/../../c", ".", "nowhere", "/", "a/b"])
things = st.one_of(
    st.builds(lambda n: entry(n, b"x"), names),
    st.builds(lambda n: entry(n, type=FOLDER), names),
    st.builds(lambda n, t: entry(n, type=LINK, target=t), names, targets),
    st.builds(lambda n, t: entry(n, type=HARD, target=t), names, names),
    st.builds(lambda n: entry("/".join([*n.split("/")[:-1], ".wh." + n.split("/")[-1]])), names),
    st.builds(lambda n: entry(n + "/.wh..wh..opq"), names),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(things, max_size=6), min_size=1, max_size=3))
def test_the_merged_tree_is_what_is_unpacked_whatever_the_layers(tmp_path, stack):
    archives = [tar(*members) for members in stack]
    outer = tmp_path / "outer"
    shutil.rmtree(outer, ignore_errors=True)
    outer.mkdir()
    try:
        unpack(layers(*archives), outer / "out")
    except OcikitError as error:
        assert not list(outer.iterdir())
        with pytest.raises(type(error)):
            merged_tree(layers(*archives))
        return
    assert [p.name for p in outer.iterdir()] == ["out"]
    merged = merged_tree(layers(*archives))
    on_disk = {k: ("file" if v == b"x" else "directory" if v is None else v) for k, v in files(outer / "out").items()}
    assert on_disk == {
        k: e.target if e.type == "symlink" else "file" if e.type == "hardlink" else e.type for k, e in merged.items()
    }


# Attacks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../secret", "a/../../secret", "./../secret", "a/..", "..", "C:\\windows", "C:/windows", "c:", "//x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("type", [FILE, FOLDER, LINK])
def test_paths_that_leave_the_root_are_refused_by_name(out, name, type):
    error = refuses(out, tar("fine", entry(name, type=type, target="x")))
    assert name.rstrip("/") in error.message.replace("\\\\", "\\")
    with pytest.raises(UnsafeArchive):
        list(entries(io.BytesIO(tar(name))))
    with pytest.raises(UnsafeArchive):
        merged_tree(layers(tar(name)))


def test_nothing_is_written_through_a_link_that_leaves_the_root(out):
    """Image mode: the link is kept as it is, and leads, for us, to a place inside the root."""
    outside = out.parent
    unpack(
        layers(
            tar(
                entry("up", type=LINK, target=".."),
                entry("up/secret", b"evil"),
                entry("abs", type=LINK, target=str(outside)),
                entry("abs/secret", b"evil"),
                entry("l", type=LINK, target=str(outside / "secret")),
                entry("l", b"evil"),
                entry("m", type=LINK, target="../secret"),
                entry("n", type=HARD, target="m"),
                entry("n", b"evil"),
            )
        ),
        out,
    )
    assert (out / "secret").read_bytes() == b"evil"
    assert out.joinpath(*(outside / "secret").parts[1:]).read_bytes() == b"evil"
    assert not (out / "l").is_symlink()


def test_a_folder_that_becomes_a_link_is_not_followed(out):
    """The swap: a folder is used, replaced by a link, and used again."""
    archive = tar("d/", "d/x", entry("d", type=LINK, target="../"), entry("d/secret", b"evil"), "d/x")
    unpack(layers(archive), out)
    assert files(out) == {"d": "../", "secret": b"evil", "x": b""}
    refuses(out.with_name("other"), archive, confined=True, match="leads? out|lead out")


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../secret", "d/../../secret", "here/../../secret", "/", "..", "./.././secret", "here/.."],
)
def test_links_out_of_a_folder_of_data_are_refused(out, target):
    archive = tar("d/", entry("here", type=LINK, target="."), entry("l", type=LINK, target=target))
    assert "l" in refuses(out, archive, confined=True).message


def test_links_within_a_folder_of_data_are_kept(out):
    members = [
        entry("d/e/up", type=LINK, target="../../a"),
        entry("b", type=LINK, target="./d//e/up"),
        entry("a", b"1"),
    ]
    unpack(layers(tar(*members, entry("d/top", type=LINK, target=".."))), out, confined=True)
    assert (out / "b").read_bytes() == b"1"
    assert (out / "d/top").resolve() == out


def test_nothing_is_written_through_a_link_in_a_folder_of_data(out):
    archive = tar("d/", entry("l", type=LINK, target="d"), entry("l/x", b"evil"))
    refuses(out, archive, confined=True, match="through the link 'l'")
    refuses(out, tar("d/x", entry("l", type=LINK, target="d"), entry("h", type=HARD, target="l/x")), confined=True)


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "c", ""]), max_size=6), st.integers(0, 3))
def test_no_confined_link_escapes_even_if_every_name_is_a_link_to_the_top(parts, depth):
    target = "/".join(parts)
    if escapes(depth, target):
        return
    assert not target.startswith("/")
    position = depth
    for part in parts:
        if part == "..":
            position -= 1
        elif part not in {"", "."}:
            position = 0  # the worst that a name inside can be: a link to the top
        assert position >= 0


@pytest.mark.parametrize(
    "target", ["../secret", "/etc/passwd", "d", "nowhere", "up/secret", "a/../../secret", ".", "", "C:\\x"]
)
def test_hard_links_lead_to_files_inside_only(out, target):
    refuses(out, tar("d/", entry("up", type=LINK, target=".."), entry("h", type=HARD, target=target)))


def test_a_hard_link_to_a_link_is_a_link_in_an_image_and_refused_in_data(out):
    archive = tar(entry("d/l", type=LINK, target="../x"), entry("h", type=HARD, target="d/l"))
    refuses(out, archive, confined=True, match="hard link to 'd/l', which is a symlink")
    unpack(layers(archive), out)
    assert os.readlink(out / "h") == "../x"


def test_a_hard_link_to_itself_changes_nothing(out):
    unpack(layers(tar(entry("a", b"1"), entry("a", type=HARD, target="./a"))), out)
    assert files(out) == {"a": b"1"}
    refuses(
        out.with_name("other"),
        tar("d/x", entry("d", type=HARD, target="d/x")),
        match="replaces what it is a hard link to",
    )


@pytest.mark.parametrize("type", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_left_out_of_images_and_refused_in_data(out, type):
    device = entry("dev/x", type=type, devmajor=1, devminor=3)
    refuses(out, tar(device), confined=True, match="'dev/x' is a (character device|block device|fifo)")
    done = unpack(layers(tar("dev/x"), tar(device, entry("dev/y", type=HARD, target="dev/x"))), out)
    assert files(out) == {"dev": None}, "what a device replaces is gone too"
    assert [note.path for note in done.left_out] == ["dev/x", "dev/y"]
    assert done.left_out[0].what in {"character device", "block device", "fifo"}


def test_fifos_are_made_when_asked_for(out):
    unpack(layers(tar(entry("p", type=tarfile.FIFOTYPE, mode=0o640))), out, special=True)
    assert stat.S_ISFIFO((out / "p").stat().st_mode)
    assert stat.S_IMODE((out / "p").stat().st_mode) == 0o640


@pytest.mark.skipif(not ROOT, reason="only root makes devices: run the tests as root")
def test_devices_are_made_when_asked_for(out):
    unpack(layers(tar(entry("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666))), out, special=True)
    assert (out / "null").stat().st_rdev == os.makedev(1, 3)
    refuses(
        out.with_name("x"),
        tar(entry("n", type=tarfile.BLKTYPE, devmajor=2097151, devminor=3)),
        special=True,
        error=OcikitError,
    )


def test_setuid_is_stripped_and_named_unless_asked_for(out):
    archive = tar(entry("su", mode=0o4755), entry("both", mode=0o6711), entry("tmp", type=FOLDER, mode=0o3777))
    done = unpack(layers(archive), out)
    assert [stat.S_IMODE((out / n).stat().st_mode) for n in ("su", "both", "tmp")] == [0o755, 0o711, 0o1777]
    assert {(note.path, note.what) for note in done.left_out} == {
        ("su", "setuid"), ("both", "setuid and setgid"), ("tmp", "setgid"),
    }  # fmt: skip
    done = unpack(layers(archive), out, keep_setuid=True, overwrite=True)
    assert [stat.S_IMODE((out / n).stat().st_mode) for n in ("su", "both", "tmp")] == [0o4755, 0o6711, 0o3777]
    assert done.left_out == ()


def test_owners_are_ours_unless_asked_for(out):
    archive = tar(entry("a", uid=1234, gid=3_000_000), entry("l", type=LINK, target="a", uid=1234))
    unpack(layers(archive), out)
    assert (out / "a").stat().st_uid == os.geteuid()
    if ROOT:
        unpack(layers(archive), out, owner=True, overwrite=True)
        assert ((out / "a").stat().st_uid, (out / "a").stat().st_gid) == (1234, 3_000_000)
        assert (out / "l").lstat().st_uid == 1234
        refuses(out.with_name("x"), tar(entry("a", uid=2**32 - 1)), owner=True, match="belongs to")


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="extended attributes need Linux")
def test_extended_attributes_are_set_when_asked_for(out):
    archive = tar(entry("a", pax_headers={"SCHILY.xattr.user.ocikit": "v"}))
    unpack(layers(archive), out)
    assert "user.ocikit" not in os.listxattr(out / "a")
    done = unpack(layers(archive), out, xattrs=True, overwrite=True)
    if not done.left_out:  # the file system has them
        assert os.getxattr(out / "a", "user.ocikit") == b"v"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh...", "d/.wh.."])
def test_whiteouts_of_the_folder_itself_or_its_parent_are_refused(out, name):
    refuses(out, tar("d/x", "y"), tar(name), match="whiteout of nothing")


def test_whiteouts_stay_in_the_root(out):
    up = entry("d/up", type=LINK, target="../../..")
    unpack(layers(tar("d/x", "secret", up), tar("d/up/.wh.secret", "d/up/.wh.other", "d/up/d/.wh..wh..opq")), out)
    assert files(out) == {"d": None}
    refuses(out.with_name("x"), tar("d/x"), tar("../.wh.secret"), match="'../.wh.secret'")
    refuses(out.with_name("x"), tar("d/.wh.x/y"), match="inside a whiteout")


def test_the_root_stays_a_folder(out):
    for type in (LINK, FILE, HARD, tarfile.FIFOTYPE):
        refuses(out, tar(entry("./", type=type, target="/etc")), match="root")


def test_duplicate_names_end_with_the_last_one(out):
    unpack(
        layers(tar(entry("a", b"1"), entry("a", type=LINK, target="/etc/passwd"), entry("a", b"2"), "d", "d/", "d/x")),
        out,
    )
    assert files(out) == {"a": b"2", "d": None, "d/x": b""}


def test_links_in_a_circle_are_refused(out):
    archive = tar(entry("a", type=LINK, target="b"), entry("b", type=LINK, target="a"), "a/x")
    refuses(out, archive, match="more than 40 links")


def test_a_file_is_no_folder(out):
    refuses(out, tar("a", "a/b"), match="below 'a', which is a file")


def test_names_that_differ_in_case_are_all_there_or_none(out):
    archive = tar(entry("Name", b"1"), entry("name", b"2"), "Folder/x", "folder/y")
    try:
        unpack(layers(archive), out)
    except ContentError:
        assert not out.exists()  # a file system that ignores case
    except UnsafeArchive:
        assert not out.exists()
    else:
        assert set(files(out)) >= {"Name", "name", "Folder/x", "folder/y"} or len(files(out)) < 6


def test_our_own_records_are_not_for_archives_of_data(out):
    refuses(out, tar(".ocikit/manifest.json"), confined=True, match="own records")
    refuses(out, tar("d/.OCIKIT/manifest.json"), confined=True, match="own records")
    unpack(layers(tar(".ocikit/manifest.json")), out)


# Limits ----------------------------------------------------------------------------------------------------------------


def test_an_archive_may_not_grow_beyond_the_size_limit(out):
    blob = gzip.compress(tar(entry("small", b"1"), entry("bomb", bytes(5_000_000))))
    assert "'bomb'" in refuses(out, blob, limits=LayerLimits(size=2_000_000)).message
    # Extended headers are no files, but cost bytes too.
    padding = b"".join(tar(entry("x" * 300))[:1536] for _ in range(3000))
    refuses(out, padding, limits=LayerLimits(size=1_000_000), match="more than 1.0 MB")
    # All layers of a call count together.
    refuses(out, *[tar(entry(f"f{i}", bytes(100_000))) for i in range(12)], limits=LayerLimits(size=1_000_000))


def test_a_declared_size_is_refused_before_a_byte_is_written(out):
    head = encode_header("huge", "file", size=1 << 62, mode=0o644)
    assert "'huge' declares" in refuses(out, head + b"x").message
    assert (
        "in the middle of 'huge'"
        in refuses(out, head + b"x" * 5000, limits=LayerLimits(size=1 << 62 | 1 << 30), error=ContentError).message
    )


def test_holes_count_as_bytes(out):
    header = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "hole",
        "GNU.sparse.realsize": str(1 << 50),
    }
    archive = tar(entry("x", b"0\n".ljust(512, b"\0"), pax_headers=header))
    assert [e.size for e in entries(io.BytesIO(archive), limits=LayerLimits(size=1 << 60))] == [1 << 50]
    refuses(out, archive, match="'hole' declares")


def test_a_ratio_beyond_the_limit_is_refused(out):
    def zeros():
        compressor = zstd().ZstdCompressor()
        head = encode_header("zeros", "file", size=RATIO_FLOOR * 3, mode=0o644)
        yield compressor.compress(head)
        for _ in range(300):
            yield compressor.compress(bytes(1 << 20))
        yield compressor.flush()

    blob = b"".join(zeros())
    assert len(blob) < 100_000
    assert "'zeros'" in refuses(out, blob, match="more than 1000-fold").message
    assert sum(e.size for e in entries(io.BytesIO(blob), limits=LayerLimits(ratio=100_000))) == RATIO_FLOOR * 3


def test_entries_depth_and_names_have_limits(out):
    refuses(out, tar("a", "b", "c"), limits=LayerLimits(entries=2), match="more than 2 entries, at 'c'")
    refuses(out, tar("/".join("d" * 200)), match="200 folders deep; the limit is 128")
    refuses(out, tar("n" * 256), match="name of 256 bytes; the limit is 255")
    refuses(out, tar("ł" * 128), match="name of 256 bytes")
    refuses(out, tar("/".join(["n" * 250] * 20)), match="5019 bytes long; the limit is 4096")


def test_links_do_not_make_trees_deeper_than_the_limit(out):
    archive = tar(
        "a/a/a/a/",
        entry("l", type=LINK, target="a/a/a/a"),
        "l/b/b/b/",
        entry("m", type=LINK, target="l/b/b/b"),
        "m/c/c/c/",
    )
    refuses(out, archive, limits=LayerLimits(depth=8), match="more than 8 folders deep")


# Damage ----------------------------------------------------------------------------------------------------------------


def test_damaged_archives_give_a_typed_error(out):
    whole = tar(entry("a", b"x" * 5000), entry("b" * 200, b"y"))
    for blob in (b"{}", b"not a tar at all" * 100, os.urandom(2048), whole[:700], whole[:6900], whole[512:]):
        refuses(out, blob, error=ContentError)
    refuses(out, b"\xfd7zXZ\0 and more", error=ContentError, match="compressed with xz")


def test_an_archive_that_goes_on_after_a_zero_block_is_refused(out):
    refuses(out, tar("a")[:512] + bytes(512) + tar("hidden"), error=ContentError, match="goes on after an end")


@pytest.mark.parametrize("compress", [gzip.compress, lambda data: zstd().compress(data)], ids=["gzip", "zstd"])
def test_damaged_compression_gives_a_typed_error(out, compress):
    whole = compress(tar(entry("a", os.urandom(50_000))))
    broken = bytearray(whole)
    broken[len(broken) // 2 :] = bytes(len(broken) - len(broken) // 2)
    for blob in (whole[:-5], whole[: len(whole) // 2], whole[:7], bytes(broken), whole + b"garbage"):
        refuses(out, blob, error=ContentError)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_damage_gives_anything_but_a_typed_error(data):
    header = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "9000"}
    whole = bytearray(
        tar(
            entry("n" * 150, b"x" * 600, mtime=1.5, pax_headers={"SCHILY.xattr.user.a": "b"}),
            entry("s", b"1\n0\n512\n".ljust(512, b"\0") + bytes(512), pax_headers=header),
            entry("l", type=LINK, target="t" * 150),
        )[:6144]
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.one_of(st.sampled_from(b"0179 =\n\0\xff"), st.integers(0, 255)))
    block = at - at % 512
    blob = checksummed(whole, block) if data.draw(st.booleans()) else bytes(whole)
    try:
        for found in entries(io.BytesIO(blob), limits=LayerLimits(size=1 << 62)):
            assert found.size >= 0
    except OcikitError as error:
        assert error.hint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (slice(124, 136), b"\xff" * 12), (slice(124, 136), b"-0000000001\0"), (slice(124, 136), b"0o17\0\0\0\0\0\0\0\0"),
        (slice(100, 108), b"99999999"), (slice(156, 157), b"M"), (slice(156, 157), b"Z"), (slice(136, 148), b"1_0 \0\0\0\0\0\0\0\0"),
    ],
)  # fmt: skip
def test_headers_with_wrong_fields_are_refused(out, field, value):
    raw = bytearray(tar("a"))
    raw[field] = value
    refuses(out, checksummed(raw), error=OcikitError)


def test_extended_headers_have_limits_and_no_hidden_ends(out):
    size = (1 << 20) + 1
    long_name = bytearray(encode_header("././@LongLink", "file", size=size, mode=0o644))
    long_name[156:157] = b"L"
    refuses(out, checksummed(long_name) + bytes(size), match="long name of 1048577 bytes")
    for record in ("path=a\0b", "linkpath=a\0b"):
        key, value = record.split("=")
        refuses(out, tar(entry("x", type=LINK, pax_headers={key: value})), match="NUL")
    for bad in (b"99 path=x\n", b"path=x\n", b"0 path=x\n", b"-1 path=x\n", b"10 path\n", b"9" * 30 + b" a=b\n", b"\n"):
        head = bytearray(encode_header("x", "file", size=len(bad), mode=0o644))
        head[156:157] = b"x"
        refuses(out, checksummed(head) + bad.ljust(512, b"\0") + tar("a"), error=ContentError, match="extended header")


@pytest.mark.parametrize("map", ["0,10,5,10", "5", "0,600", "0,-1", "9000,512", "x,1", "0,1,", "1," * 100_000])
def test_maps_of_holes_that_contradict_themselves_are_refused(out, map):
    header = {"GNU.sparse.map": map, "GNU.sparse.size": "9000"}
    refuses(out, tar(entry("x", bytes(512), pax_headers=header)), error=OcikitError)


# The target ------------------------------------------------------------------------------------------------------------


def test_a_target_with_content_is_kept_unless_told_otherwise(out):
    out.mkdir()
    unpack(layers(tar(entry("a", b"1"))), out)  # an empty folder is fine
    with pytest.raises(ContentError, match="not empty") as caught:
        unpack(layers(tar("b")), out)
    assert "overwrite=True" in caught.value.hint
    assert files(out) == {"a": b"1"}
    with pytest.raises(UnsafeArchive):
        unpack(layers(tar("b", "../x")), out, overwrite=True)
    assert files(out) == {"a": b"1"}, "the old folder stays until all of the new one is there"
    unpack(layers(tar("b")), out, overwrite=True)
    assert files(out) == {"b": b""}
    with pytest.raises(ContentError, match="not a folder"):
        unpack(layers(tar("b")), out / "b", overwrite=True)


def test_the_target_appears_only_when_all_is_there(out):
    def watching():
        for i in range(3):
            assert not out.exists()
            yield io.BytesIO(tar(f"f{i}")), ""

    unpack(watching(), out)
    assert set(files(out)) == {"f0", "f1", "f2"}


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ConnectionFailed("gone", hint="later"), OSError("disk")])
def test_a_failure_of_the_source_leaves_nothing_behind(out, failure):
    def failing():
        yield io.BytesIO(tar(entry("d", type=FOLDER, mode=0o000), "d/x")), ""
        raise failure

    with pytest.raises(failure if isinstance(failure, type) else type(failure)):
        unpack(failing(), out)
    assert not out.exists()


def test_a_source_that_breaks_keeps_its_own_error(out):
    class Breaking(io.BytesIO):
        def read(self, size=-1):
            raise ConnectionFailed("gone", hint="later")

    with pytest.raises(ConnectionFailed):
        unpack([(Breaking(), "")], out)


def test_a_target_that_is_a_link_is_the_folder_that_it_leads_to(out, tmp_path_factory):
    real = tmp_path_factory.mktemp("real")
    (real / "link").symlink_to(real / "data")
    done = unpack(layers(tar("a")), real / "link")
    assert (done.path, (real / "link").is_symlink(), (real / "data/a").exists()) == (real / "data", True, True)


def test_memory_stays_flat_whatever_the_size_of_a_file(out):
    size = 300 << 20
    head = encode_header("zeros", "file", size=size, mode=0o644)

    class Zeros(io.RawIOBase):
        left = [head, size]

        def read(self, most=-1):
            if self.left[0]:
                piece, self.left[0] = self.left[0][:most], self.left[0][most:]
                return piece
            count = min(most, self.left[1])
            self.left[1] -= count
            return bytes(count)

    tracemalloc.start()
    try:
        done = unpack([(Zeros(), "")], out)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert done.size == (out / "zeros").stat().st_size == size


def test_missing_parents_of_the_target_are_made(out):
    unpack(layers(tar("a")), out / "x" / "y")
    assert (out / "x/y/a").exists()


def test_folders_without_permissions_are_unpacked_and_removed_again(out):
    members = [entry("d", type=FOLDER, mode=0o000), entry("d/e", type=FOLDER, mode=0o500), "d/e/x"]
    refuses(out, tar(*members), tar("../x"))
    unpack(layers(tar(*members), tar("d/e/y")), out)
    assert stat.S_IMODE((out / "d").stat().st_mode) == 0
    (out / "d").chmod(0o700)
    assert set(files(out)) == {"d", "d/e", "d/e/x", "d/e/y"}


def test_a_leading_folder_can_be_left_out(out):
    archive = tar("data/", entry("data/a", b"1"), entry("./data/b", type=HARD, target="data/a"))
    unpack(layers(archive), out, strip="data", confined=True)
    assert files(out) == {"a": b"1", "b": b"1"}
    refuses(out.with_name("x"), archive, strip="other", match="not below 'other'")
    refuses(out.with_name("x"), tar("data/x", "database"), strip="data", match="not below 'data'")


def test_no_descriptor_is_left_open(out):
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    unpack(layers(tar(*[f"d{i}/e{i}/f" for i in range(300)])), out)
    with pytest.raises(OcikitError):
        unpack(layers(tar("a/b/c", "../x")), out, overwrite=True)
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


# Peers -----------------------------------------------------------------------------------------------------------------

COMPARED = {"special": True, "keep_setuid": True, "owner": True, "xattrs": True}


def stored(layout, tag="latest"):
    """(stream, media type) of each layer of an image."""
    for named in json.loads((layout / "index.json").read_bytes())["manifests"]:
        if named["annotations"]["org.opencontainers.image.ref.name"] == tag:
            manifest = json.loads(images.blob(layout, named["digest"]).read_bytes())
    for layer in manifest["layers"]:
        with images.blob(layout, layer["digest"]).open("rb") as stream:
            yield stream, layer["mediaType"]


@pytest.mark.interop
@pytest.mark.skipif(not ROOT, reason="umoci unpacks owners and devices as root only")
def test_a_root_file_system_is_what_umoci_makes_of_it(tmp_path):
    peers.find("umoci")
    layout = images.small(tmp_path / "layout")
    stack = [
        tar(
            entry("./", type=FOLDER), "usr/lib/", entry("lib", type=LINK, target="usr/lib"), entry("usr/lib/libc", b"elf"),
            entry("bin/su", b"su", mode=0o4755), entry("tmp", type=FOLDER, mode=0o1777), "opt/x", "opt/y/z", "gone", "d/x",
            entry("a", b"shared"), entry("b", type=HARD, target="a"), entry("s", type=LINK, target="/etc/passwd"),
            entry("s2", type=HARD, target="s"), entry("fifo", type=tarfile.FIFOTYPE),
            entry("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666), entry("owned", uid=1000, gid=1001),
        ),
        tar("lib/extra", ".wh.gone", "opt/new", "opt/.wh..wh..opq", entry("b", b"own"), entry("d", b"file"), "q/w/.wh.e"),
        tar(entry("lib", type=FOLDER, mode=0o700), "lib/more", ".wh.opt", "opt/again", entry("a", type=LINK, target="b")),
    ]  # fmt: skip
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "config": images.put(
            layout, images.CONFIG,
            images.encode({
                "architecture": "amd64", "os": "linux", "config": {},
                "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(t).hexdigest() for t in stack]},
            }),
        ),
        "layers": [images.put(layout, images.LAYER, gzip.compress(t)) for t in stack],
    }  # fmt: skip
    images._tag(layout, images.put(layout, images.MANIFEST, images.encode(manifest)), "latest")
    theirs = images.unpack(layout, "latest", tmp_path / "umoci")
    unpack(stored(layout), tmp_path / "ours", **COMPARED)
    assert differences(tree(tmp_path / "ours", owner=True), tree(theirs, owner=True)) == []


@pytest.mark.interop
@pytest.mark.parametrize("form", ["oci", "zstd"])
def test_debian_is_what_umoci_makes_of_it(debian, form, tmp_path):
    theirs = images.unpack(debian.oci, debian.tag, tmp_path / "umoci")
    done = unpack(stored(getattr(debian, form)), tmp_path / "ours", **COMPARED)
    assert differences(tree(tmp_path / "ours", owner=True), tree(theirs, owner=True)) == []
    assert done.left_out == ()
    merged = merged_tree(stored(getattr(debian, form)))
    assert set(merged) == set(tree(theirs)) - {"."}
