"""Reading, merging and unpacking of layers, including hostile ones."""

import bz2
import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
import shutil
import stat
import struct
import sys
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ocikit.errors import ConnectionFailed, ContentError, OcikitError, UnsafeArchive
from ocikit.layers.compression import import_zstd
from ocikit.layers.header import encode_header
from ocikit.layers.layer import RATIO_FLOOR, LayerLimits, entries, escapes, open_layer
from ocikit.layers.listing import merged_tree
from ocikit.layers.unpack import unpack
from ocikit.spec.digest import Digest

from tests.support import images
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
    """Return {path: content of a file, target of a link, or None for a folder}."""
    contents = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        contents[name] = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return contents


@pytest.fixture
def out(tmp_path):
    """The target folder, next to a file that must not change."""
    (tmp_path / "secret").write_bytes(b"untouched")
    (tmp_path / "secret").chmod(0o600)
    yield tmp_path / "out"
    assert (tmp_path / "secret").read_bytes() == b"untouched"
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert (tmp_path / "secret").stat().st_nlink == 1
    assert {p.name for p in tmp_path.iterdir()} <= {"secret", "out"}, "files were left next to the target"


def assert_rejected(out, *archives, match=None, error=UnsafeArchive, **options):
    with pytest.raises(error, match=match) as caught:
        unpack(layers(*archives), out, **options)
    assert not out.exists(), "nothing may be unpacked"
    assert caught.value.hint
    return caught.value


# Unpacking


def test_unpack_sets_modes_times_and_links(out):
    result = unpack(
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
        "bin": None,
        "bin/tool": b"#!",
        "bin/alias": "tool",
        "bin/again": b"#!",
        "implied": None,
        "implied/file": b"x",
    }
    assert (out / "bin/tool").stat().st_ino == (out / "bin/again").stat().st_ino
    assert [stat.S_IMODE((out / p).lstat().st_mode) for p in ("", "bin", "bin/tool", "implied", "implied/file")] == [
        0o750,
        0o555,
        0o755,
        0o755,
        0o644,
    ]
    assert [(out / p).lstat().st_mtime for p in ("bin", "bin/tool", "bin/alias")] == [1000, 1234.5, 77]
    assert (result.path, result.files, result.size, result.skipped) == (out, 2, 3, ())


def test_names_can_be_long_and_any_bytes(out):
    names = [
        "n" * 255,
        "/".join("abcdefgh"[i] * 80 for i in range(8)) + "/f",
        "ł" * 127,
        "new\nline",
        "back\\slash",
        "x:y",
    ]
    members = [entry(name, b"1") for name in names]
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        unpack(layers(tar(*members, format=format)), out, overwrite=True)
        assert {k for k, v in files(out).items() if v} == set(names)
    raw = bytearray(tar("badbyte"))
    raw[3:4] = b"\xff"
    unpack(layers(checksummed(raw)), out, overwrite=True)
    assert os.listdir(os.fsencode(out)) == [b"bad\xffyte"]


def checksummed(archive, at=0):
    """Return the archive with a correct checksum of the header at this offset."""
    raw = bytearray(archive)
    raw[at + 148 : at + 156] = b" " * 8
    raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])
    return bytes(raw)


#: Functions that compress, by format.
COMPRESS = {
    "gzip": gzip.compress,
    "zstd": lambda data: import_zstd().compress(data),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


@pytest.mark.parametrize("compress", [*COMPRESS.values(), bytes], ids=[*COMPRESS, "no"])
def test_compression_is_detected_by_bytes_not_by_type(out, compress):
    blob = compress(tar(entry("a", b"1" * 3_000_000)))
    unpack([(io.BytesIO(blob), "application/vnd.oci.image.layer.v1.tar+zstd")], out)
    assert files(out) == {"a": b"1" * 3_000_000}


def test_concatenated_compressed_members_are_read(out):
    whole = tar(entry("a", os.urandom(100_000)), "b")
    pieces = [whole[i : i + 7000] for i in range(0, len(whole), 7000)]
    for compress, pad in zip(COMPRESS.values(), (bytes(1000), b"", bytes(1000), b""), strict=True):
        blob = compress(b"") + b"".join(map(compress, pieces)) + pad
        assert open_layer(io.BytesIO(blob)).read() == whole
    skippable = struct.pack("<II", 0x184D2A50, 5) + b"12345"
    assert open_layer(io.BytesIO(skippable + import_zstd().compress(whole) + skippable)).read() == whole


def test_stream_can_return_any_number_of_bytes():
    whole = tar(entry("a", os.urandom(10_000)), entry("b/c", b"x" * 700))

    class Dribble(io.RawIOBase):
        def __init__(self, data, step):
            self.data, self.step = data, step

        def read(self, size=-1):
            data, self.data = self.data[: min(size, self.step)], self.data[min(size, self.step) :]
            return data

    compressed = [compress(whole) for compress in COMPRESS.values()]
    for data, step in itertools.product((whole, *compressed), (1, 5, 511, 513)):
        assert [(e.path, e.size) for e in entries(Dribble(data, step))] == [("a", 10_000), ("b/c", 700)]


def test_stream_is_read_to_its_end_to_check_digest(out):
    class Verified(io.BytesIO):
        ended = False

        def read(self, size=-1):
            data = super().read(size)
            if not data and size:
                self.ended = True
                raise ContentError("digest mismatch", hint="from the store")
            return data

    for blob in (tar("a") + bytes(100_000), *(compress(tar("a")) for compress in COMPRESS.values())):
        stream = Verified(blob)
        with pytest.raises(ContentError, match="digest mismatch"):
            unpack([(stream, "")], out)
        assert stream.ended
        assert not out.exists()


def test_archive_can_end_without_padding_or_end_marker(out, tmp_path_factory):
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
        for i in range(60):  # more than fit into one block of the map
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


# Layers over layers

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
    "a whiteout after a file of the same layer": ([["x"], ["x", ".wh.x"]], {"x"}),
    "a whiteout after a folder of the same layer": ([["d/old"], ["d/", "d/new", ".wh.d"]], {"d", "d/new"}),
    "a whiteout after a file in an implied folder": (
        [["d/old", "d/e/old"], ["d/e/new", ".wh.d"]],
        {"d", "d/e", "d/e/new"},
    ),
    "a whiteout in the first layer": ([["x", ".wh.x", ".wh..wh..opq"]], {"x"}),
    "a whiteout of a missing path": ([["x"], [".wh.y", "no/such/.wh.z", "x/.wh.z", "no/.wh..wh..opq"]], {"x"}),
    "an opaque whiteout at the top": ([["x", "d/y"], ["z", ".wh..wh..opq"]], {"z"}),
    "a whiteout, then the name again": ([["d/old"], [".wh.d"], ["d/new"]], {"d", "d/new"}),
    "a file over a folder": ([["d/x"], ["d"]], {"d"}),
    "a folder over a file": ([["d"], ["d/", "d/x"]], {"d", "d/x"}),
    "AUFS bookkeeping": ([[".wh..wh.aufs", ".wh..wh.plnk/", ".wh..wh.plnk/1.2", "x"]], {"x"}),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_whiteouts_hide_lower_layers(out, name):
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


def test_repeated_folder_gets_new_mode_and_keeps_content(out):
    first = tar(entry("d", type=FOLDER, mode=0o700, mtime=1), "d/x")
    unpack(layers(first, tar(entry("d", type=FOLDER, mode=0o555, mtime=2))), out)
    assert files(out) == {"d": None, "d/x": b""}
    assert (stat.S_IMODE((out / "d").stat().st_mode), (out / "d").stat().st_mtime) == (0o555, 2)


def test_path_through_folder_link_stays_in_root(out):
    """Debian's merged /usr: later layers may contain lib/x."""
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


def test_path_through_dangling_link_makes_folder_in_root(out):
    unpack(layers(tar(entry("srv", type=LINK, target="/../data/srv"), "srv/x")), out)
    assert files(out) == {"srv": "/../data/srv", "data": None, "data/srv": None, "data/srv/x": b""}


def test_folder_replaces_link_to_folder(out):
    unpack(layers(tar("usr/lib/", entry("lib", type=LINK, target="usr/lib")), tar("lib/", "lib/x")), out)
    assert set(files(out)) == {"usr", "usr/lib", "lib", "lib/x"}
    assert not (out / "lib").is_symlink()


def test_merged_tree_has_sizes_modes_links_and_layers():
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


paths = st.sampled_from(["a", "b", "c", "a/a", "a/b", "b/a", "b/c/a", "a/b/c"])
targets = st.sampled_from(["a", "b", "../a", "/b", "b/../../c", ".", "nowhere", "/", "a/b"])
members = st.one_of(
    st.builds(lambda n: entry(n, b"x"), paths),
    st.builds(lambda n: entry(n, type=FOLDER), paths),
    st.builds(lambda n, t: entry(n, type=LINK, target=t), paths, targets),
    st.builds(lambda n, t: entry(n, type=HARD, target=t), paths, paths),
    st.builds(lambda n: entry("/".join([*n.split("/")[:-1], ".wh." + n.split("/")[-1]])), paths),
    st.builds(lambda n: entry(n + "/.wh..wh..opq"), paths),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(members, max_size=6), min_size=1, max_size=3))
def test_merged_tree_equals_unpacked_tree(tmp_path, stack):
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


# Attacks


OUTSIDE = {
    "/etc/passwd": "etc/passwd",
    "../secret": "secret",
    "a/../../secret": "secret",
    "./../secret": "secret",
    "C:\\windows": "C:\\windows",
    "C:/windows": "C:/windows",
    "c:": "c:",
    "//x": "x",
    "/../a/./b/../c": "a/c",
}


@pytest.mark.parametrize("name", [*OUTSIDE, "a/..", "..", "/", ""])
@pytest.mark.parametrize("type", [FILE, FOLDER, LINK])
def test_path_out_of_data_folder_is_rejected_with_name(out, name, type):
    error = assert_rejected(out, tar("fine", entry(name, type=type, target="x")), confined=True)
    assert name.rstrip("/") in error.message.replace("\\\\", "\\")


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("type", [FILE, FOLDER, LINK])
def test_path_in_image_is_resolved_like_after_chroot(out, name, type):
    archive = tar(entry(name, b"new" if type == FILE else b"", type=type, target="target"))
    unpack(layers(archive), out)
    assert files(out)[OUTSIDE[name]] == {FILE: b"new", FOLDER: None, LINK: "target"}[type]
    assert set(merged_tree(layers(archive))) == set(files(out))
    assert [e.path for e in entries(io.BytesIO(archive))] == [OUTSIDE[name]]


@pytest.mark.parametrize("name", ["/", "./", "/.", "a/..", "..", "", "//"])
def test_folder_entry_of_image_root_sets_its_mode(out, name):
    unpack(layers(tar(entry(name, type=FOLDER, mode=0o711), "x")), out)
    assert (set(files(out)), stat.S_IMODE(out.stat().st_mode)) == ({"x"}, 0o711)
    assert set(merged_tree(layers(tar(entry(name, type=FOLDER), "x")))) == {"x"}


def test_absolute_hard_links_and_whiteouts_stay_in_image(out):
    base = tar("/", entry("/bin/a", b"1"), entry("/bin/b", type=HARD, target="/bin/a"), "/tmp/gone", "/opt/old")
    archives = [base, tar("/tmp/.wh.gone", "/opt/.wh..wh..opq", "/opt/new", entry("c", type=HARD, target="/bin/b"))]
    unpack(layers(*archives), out)
    expected = {"bin": None, "bin/a": b"1", "bin/b": b"1", "c": b"1", "opt": None, "opt/new": b"", "tmp": None}
    assert files(out) == expected
    assert len({(out / name).stat().st_ino for name in ("bin/a", "bin/b", "c")}) == 1
    assert set(merged_tree(layers(*archives))) == set(expected)


def test_nothing_is_written_through_link_out_of_root(out):
    """Images keep the link unchanged; unpacking resolves it inside the root."""
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


def test_folder_replaced_by_link_is_not_followed(out):
    """A folder is used, replaced by a link, and used again (TOCTOU)."""
    archive = tar("d/", "d/x", entry("d", type=LINK, target="../"), entry("d/secret", b"evil"), "d/x")
    unpack(layers(archive), out)
    assert files(out) == {"d": "../", "secret": b"evil", "x": b""}
    assert_rejected(out.with_name("other"), archive, confined=True, match="leads? out|lead out")


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../secret", "d/../../secret", "here/../../secret", "/", "..", "./.././secret", "here/.."],
)
def test_link_out_of_confined_folder_is_rejected(out, target):
    archive = tar("d/", entry("here", type=LINK, target="."), entry("l", type=LINK, target=target))
    assert "l" in assert_rejected(out, archive, confined=True).message


def test_link_within_confined_folder_is_kept(out):
    members = [
        entry("d/e/up", type=LINK, target="../../a"),
        entry("b", type=LINK, target="./d//e/up"),
        entry("a", b"1"),
    ]
    unpack(layers(tar(*members, entry("d/top", type=LINK, target=".."))), out, confined=True)
    assert (out / "b").read_bytes() == b"1"
    assert (out / "d/top").resolve() == out


def test_nothing_is_written_through_link_in_confined_folder(out):
    archive = tar("d/", entry("l", type=LINK, target="d"), entry("l/x", b"evil"))
    assert_rejected(out, archive, confined=True, match="through the link 'l'")
    assert_rejected(
        out, tar("d/x", entry("l", type=LINK, target="d"), entry("h", type=HARD, target="l/x")), confined=True
    )


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "c", ""]), max_size=6), st.integers(0, 3))
def test_confined_link_never_escapes_through_other_links(parts, depth):
    target = "/".join(parts)
    if escapes(depth, target):
        return
    assert not target.startswith("/")
    position = depth
    for part in parts:
        if part == "..":
            position -= 1
        elif part not in {"", "."}:
            position = 0  # worst case: the name is a link to the root
        assert position >= 0


@pytest.mark.parametrize(
    "target", ["../secret", "/etc/passwd", "d", "nowhere", "up/secret", "a/../../secret", ".", "", "C:\\x"]
)
def test_hard_link_to_other_than_inner_file_is_rejected(out, target):
    assert_rejected(out, tar("d/", entry("up", type=LINK, target=".."), entry("h", type=HARD, target=target)))


def test_hard_link_to_symlink_is_allowed_in_images_only(out):
    archive = tar(entry("d/l", type=LINK, target="../x"), entry("h", type=HARD, target="d/l"))
    assert_rejected(out, archive, confined=True, match="hard link to 'd/l', which is a symlink")
    unpack(layers(archive), out)
    assert os.readlink(out / "h") == "../x"


def test_hard_link_to_itself_changes_nothing(out):
    unpack(layers(tar(entry("a", b"1"), entry("a", type=HARD, target="./a"))), out)
    assert files(out) == {"a": b"1"}
    assert_rejected(
        out.with_name("other"),
        tar("d/x", entry("d", type=HARD, target="d/x")),
        match="replaces the target of its own hard link",
    )


@pytest.mark.parametrize("type", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_skipped_in_images_and_rejected_if_confined(out, type):
    device = entry("dev/x", type=type, devmajor=1, devminor=3)
    assert_rejected(out, tar(device), confined=True, match="'dev/x' is a (character device|block device|fifo)")
    result = unpack(layers(tar("dev/x"), tar(device, entry("dev/y", type=HARD, target="dev/x"))), out)
    assert files(out) == {"dev": None}, "a skipped device still replaces the file"
    assert [entry.path for entry in result.skipped] == ["dev/x", "dev/y"]
    assert result.skipped[0].reason in {"character device", "block device", "fifo"}


def test_special_option_makes_fifos(out):
    unpack(layers(tar(entry("p", type=tarfile.FIFOTYPE, mode=0o640))), out, special=True)
    assert stat.S_ISFIFO((out / "p").stat().st_mode)
    assert stat.S_IMODE((out / "p").stat().st_mode) == 0o640


@pytest.mark.skipif(not ROOT, reason="only root makes devices: run the tests as root")
def test_special_option_makes_devices(out):
    unpack(layers(tar(entry("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666))), out, special=True)
    assert (out / "null").stat().st_rdev == os.makedev(1, 3)
    assert_rejected(
        out.with_name("x"),
        tar(entry("n", type=tarfile.BLKTYPE, devmajor=2097151, devminor=3)),
        special=True,
        error=OcikitError,
    )


def test_setuid_is_removed_and_reported_by_default(out):
    archive = tar(entry("su", mode=0o4755), entry("both", mode=0o6711), entry("tmp", type=FOLDER, mode=0o3777))
    result = unpack(layers(archive), out)
    assert [stat.S_IMODE((out / n).stat().st_mode) for n in ("su", "both", "tmp")] == [0o755, 0o711, 0o1777]
    assert {(entry.path, entry.reason) for entry in result.skipped} == {
        ("su", "setuid"),
        ("both", "setuid and setgid"),
        ("tmp", "setgid"),
    }
    result = unpack(layers(archive), out, keep_setuid=True, overwrite=True)
    assert [stat.S_IMODE((out / n).stat().st_mode) for n in ("su", "both", "tmp")] == [0o4755, 0o6711, 0o3777]
    assert result.skipped == ()


def test_owner_option_sets_owners(out):
    archive = tar(entry("a", uid=1234, gid=3_000_000), entry("l", type=LINK, target="a", uid=1234))
    unpack(layers(archive), out)
    assert (out / "a").stat().st_uid == os.geteuid()
    if ROOT:
        unpack(layers(archive), out, owner=True, overwrite=True)
        assert ((out / "a").stat().st_uid, (out / "a").stat().st_gid) == (1234, 3_000_000)
        assert (out / "l").lstat().st_uid == 1234
        assert_rejected(out.with_name("x"), tar(entry("a", uid=2**32 - 1)), owner=True, match="belongs to")


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="extended attributes need Linux")
def test_xattrs_option_sets_extended_attributes(out):
    archive = tar(entry("a", pax_headers={"SCHILY.xattr.user.ocikit": "v"}))
    unpack(layers(archive), out)
    assert "user.ocikit" not in os.listxattr(out / "a")
    result = unpack(layers(archive), out, xattrs=True, overwrite=True)
    if not result.skipped:  # the file system supports them
        assert os.getxattr(out / "a", "user.ocikit") == b"v"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh...", "d/.wh.."])
def test_whiteout_without_valid_name_is_rejected(out, name):
    assert_rejected(out, tar("d/x", "y"), tar(name), match="whiteout without")


def test_whiteouts_stay_in_root(out):
    up = entry("d/up", type=LINK, target="../../..")
    unpack(layers(tar("d/x", "secret", up), tar("d/up/.wh.secret", "d/up/.wh.other", "d/up/d/.wh..wh..opq")), out)
    assert files(out) == {"d": None}
    unpack(layers(tar("d/x", "secret"), tar("../.wh.secret")), out, overwrite=True)
    assert set(files(out)) == {"d", "d/x"}
    assert_rejected(out.with_name("x"), tar("d/.wh.x/y"), match="inside a whiteout")


def test_root_must_be_folder(out):
    for type in (LINK, FILE, HARD, tarfile.FIFOTYPE):
        assert_rejected(out, tar(entry("./", type=type, target="/etc")), match="root")


def test_last_entry_of_duplicate_name_wins(out):
    unpack(
        layers(tar(entry("a", b"1"), entry("a", type=LINK, target="/etc/passwd"), entry("a", b"2"), "d", "d/", "d/x")),
        out,
    )
    assert files(out) == {"a": b"2", "d": None, "d/x": b""}


def test_links_in_circle_are_rejected(out):
    archive = tar(entry("a", type=LINK, target="b"), entry("b", type=LINK, target="a"), "a/x")
    assert_rejected(out, archive, match="more than 40 links")


def test_path_below_file_is_rejected(out):
    assert_rejected(out, tar("a", "a/b"), match="below 'a', which is a file")


def test_names_that_differ_in_case_all_exist_or_none(out):
    archive = tar(entry("Name", b"1"), entry("name", b"2"), "Folder/x", "folder/y")
    try:
        unpack(layers(archive), out)
    except ContentError:
        assert not out.exists()  # the file system ignores case
    except UnsafeArchive:
        assert not out.exists()
    else:
        assert set(files(out)) >= {"Name", "name", "Folder/x", "folder/y"} or len(files(out)) < 6


def test_confined_archive_cannot_contain_ocikit_records(out):
    assert_rejected(out, tar(".ocikit/manifest.json"), confined=True, match="own records")
    assert_rejected(out, tar("d/.OCIKIT/manifest.json"), confined=True, match="own records")
    unpack(layers(tar(".ocikit/manifest.json")), out)


# Limits


def test_archive_beyond_size_limit_is_rejected(out):
    blob = gzip.compress(tar(entry("small", b"1"), entry("bomb", bytes(5_000_000))))
    assert "'bomb'" in assert_rejected(out, blob, limits=LayerLimits(size=2_000_000)).message
    # Extended headers count as bytes, too
    padding = b"".join(tar(entry("x" * 300))[:1536] for _ in range(3000))
    assert_rejected(out, padding, limits=LayerLimits(size=1_000_000), match="more than 1.0 MB")
    # All layers of a call count together
    assert_rejected(out, *[tar(entry(f"f{i}", bytes(100_000))) for i in range(12)], limits=LayerLimits(size=1_000_000))


def test_declared_size_is_checked_before_first_write(out):
    head = encode_header("huge", "file", size=1 << 62, mode=0o644)
    assert "'huge' declares" in assert_rejected(out, head + b"x").message
    assert (
        "in the middle of 'huge'"
        in assert_rejected(
            out, head + b"x" * 5000, limits=LayerLimits(size=1 << 62 | 1 << 30), error=ContentError
        ).message
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
    assert_rejected(out, archive, match="'hole' declares")


def test_ratio_beyond_limit_is_rejected(out):
    def zeros():
        compressor = import_zstd().ZstdCompressor()
        head = encode_header("zeros", "file", size=RATIO_FLOOR * 3, mode=0o644)
        yield compressor.compress(head)
        for _ in range(300):
            yield compressor.compress(bytes(1 << 20))
        yield compressor.flush()

    blob = b"".join(zeros())
    assert len(blob) < 100_000
    assert "'zeros'" in assert_rejected(out, blob, match="more than 1000-fold").message
    assert sum(e.size for e in entries(io.BytesIO(blob), limits=LayerLimits(ratio=100_000))) == RATIO_FLOOR * 3


def test_entries_depth_and_names_have_limits(out):
    assert_rejected(out, tar("a", "b", "c"), limits=LayerLimits(entries=2), match="more than 2 entries, at 'c'")
    assert_rejected(out, tar("/".join("d" * 200)), match="200 folders deep; the limit is 128")
    assert_rejected(out, tar("n" * 256), match="name of 256 bytes; the limit is 255")
    assert_rejected(out, tar("ł" * 128), match="name of 256 bytes")
    assert_rejected(out, tar("/".join(["n" * 250] * 20)), match="5019 bytes long; the limit is 4096")


def test_depth_limit_includes_followed_links(out):
    archive = tar(
        "a/a/a/a/",
        entry("l", type=LINK, target="a/a/a/a"),
        "l/b/b/b/",
        entry("m", type=LINK, target="l/b/b/b"),
        "m/c/c/c/",
    )
    assert_rejected(out, archive, limits=LayerLimits(depth=8), match="more than 8 folders deep")


# Damaged archives


def test_damaged_archive_raises_typed_error(out):
    whole = tar(entry("a", b"x" * 5000), entry("b" * 200, b"y"))
    for blob in (b"{}", b"not a tar at all" * 100, os.urandom(2048), whole[:700], whole[:6900], whole[512:]):
        assert_rejected(out, blob, error=ContentError)
    assert_rejected(out, b"\xfd7zXZ\0 and more", error=ContentError, match="xz data is damaged")
    assert_rejected(out, b"BZh91AY&SY and more", error=ContentError, match="bzip2 data is damaged")


@pytest.mark.parametrize("content", [b"{}", b"a,b\n" * 500, b"BZhello", b"PK\3\4" + bytes(600)])
def test_other_content_than_archive_is_named(out, content):
    for blob in (content, gzip.compress(content)):
        with pytest.raises(ContentError) as caught:
            unpack([(io.BytesIO(blob), "application/vnd.in-toto+json")], out)
        assert caught.value.message == "the content is not a tar archive (its type is application/vnd.in-toto+json)"
        assert caught.value.hint.endswith("get other content with .pull(folder) or .open(name)")
        assert not out.exists()


def test_file_named_like_compression_is_a_plain_tar(out):
    unpack(layers(tar(entry("BZh9 notes", b"1"))), out)
    assert files(out) == {"BZh9 notes": b"1"}


def test_xz_that_needs_much_memory_is_rejected(out):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    blob = bytearray(lzma.compress(tar("a"), filters=filters, check=lzma.CHECK_CRC32))
    header = blob[12 : 12 + (blob[12] + 1) * 4]
    header[4] = 38  # the dictionary's size: 2 GiB
    header[-4:] = zlib.crc32(header[:-4]).to_bytes(4, "little")
    blob[12 : 12 + len(header)] = header
    assert_rejected(out, bytes(blob), match="needs more than 256 MiB of memory")


# Digests of uncompressed layers


def diff_ids(*archives, algorithm="sha256"):
    return [Digest.of(archive, algorithm) for archive in archives]


@pytest.mark.parametrize("compress", [*COMPRESS.values(), bytes], ids=[*COMPRESS, "no"])
def test_layers_with_their_diff_ids_are_unpacked(out, compress):
    archives = [tar(entry("a", b"1" * 3_000_000)), tar("b") + bytes(5000)]
    for algorithm in ("sha256", "sha512"):
        stack = [(io.BytesIO(compress(archive)), "") for archive in archives]
        unpack(stack, out, diff_ids=diff_ids(*archives, algorithm=algorithm), overwrite=True)
    assert set(files(out)) == {"a", "b"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            diff_ids(tar("a"), b"other"),
            "the uncompressed layer 2 is sha256:.*, and its diff_id is sha256:d9298a10d1b07358",
        ),
        (diff_ids(tar("b"), tar("a")), "the uncompressed layer 1 is"),
        (diff_ids(tar("a")), "the image has 2 layers, and its config has 1 diff_id"),
        (diff_ids(tar("a"), tar("b"), b""), "the image has 2 layers, and its config has 3 diff_ids"),
        ([], "the image has 2 layers, and its config has 0 diff_ids"),
    ],
)
def test_layers_with_other_diff_ids_are_rejected(out, wrong, message):
    assert_rejected(out, tar("a"), tar("b"), diff_ids=wrong, error=ContentError, match=message)
    with pytest.raises(ContentError, match=message):
        merged_tree(layers(tar("a"), tar("b")), diff_ids=wrong)


def test_archive_with_data_after_zero_block_is_rejected(out):
    assert_rejected(
        out, tar("a")[:512] + bytes(512) + tar("hidden"), error=ContentError, match="continues after its end"
    )


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)
def test_damaged_compression_raises_typed_error(out, compress):
    whole = compress(tar(entry("a", os.urandom(50_000))))
    broken = bytearray(whole)
    broken[len(broken) // 2 :] = bytes(len(broken) - len(broken) // 2)
    for blob in (whole[:-5], whole[: len(whole) // 2], whole[:7], bytes(broken), whole + b"garbage"):
        assert_rejected(out, blob, error=ContentError)


@settings(max_examples=400)
@given(st.data())
def test_random_damage_raises_typed_errors_only(data):
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
        (slice(124, 136), b"\xff" * 12),
        (slice(124, 136), b"-0000000001\0"),
        (slice(124, 136), b"0o17\0\0\0\0\0\0\0\0"),
        (slice(100, 108), b"99999999"),
        (slice(156, 157), b"M"),
        (slice(156, 157), b"Z"),
        (slice(136, 148), b"1_0 \0\0\0\0\0\0\0\0"),
    ],
)
def test_header_with_invalid_field_is_rejected(out, field, value):
    raw = bytearray(tar("a"))
    raw[field] = value
    assert_rejected(out, checksummed(raw), error=OcikitError)


def test_extended_header_has_size_limit_and_no_nul(out):
    size = (1 << 20) + 1
    long_name = bytearray(encode_header("././@LongLink", "file", size=size, mode=0o644))
    long_name[156:157] = b"L"
    assert_rejected(out, checksummed(long_name) + bytes(size), match="long name of 1048577 bytes")
    for record in ("path=a\0b", "linkpath=a\0b"):
        key, value = record.split("=")
        assert_rejected(out, tar(entry("x", type=LINK, pax_headers={key: value})), match="NUL")
    for invalid in (
        b"99 path=x\n",
        b"path=x\n",
        b"0 path=x\n",
        b"-1 path=x\n",
        b"10 path\n",
        b"9" * 30 + b" a=b\n",
        b"\n",
    ):
        head = bytearray(encode_header("x", "file", size=len(invalid), mode=0o644))
        head[156:157] = b"x"
        assert_rejected(
            out, checksummed(head) + invalid.ljust(512, b"\0") + tar("a"), error=ContentError, match="extended header"
        )


@pytest.mark.parametrize("map", ["0,10,5,10", "5", "0,600", "0,-1", "9000,512", "x,1", "0,1,", "1," * 100_000])
def test_inconsistent_sparse_map_is_rejected(out, map):
    header = {"GNU.sparse.map": map, "GNU.sparse.size": "9000"}
    assert_rejected(out, tar(entry("x", bytes(512), pax_headers=header)), error=OcikitError)


# The target


def test_target_with_content_is_replaced_with_overwrite_only(out):
    out.mkdir()
    unpack(layers(tar(entry("a", b"1"))), out)  # an empty folder is allowed
    with pytest.raises(ContentError, match="not empty") as caught:
        unpack(layers(tar("b")), out)
    assert "overwrite=True" in caught.value.hint
    assert files(out) == {"a": b"1"}
    with pytest.raises(UnsafeArchive):
        unpack(layers(tar("b", "b/x")), out, overwrite=True)
    assert files(out) == {"a": b"1"}, "the old folder stays until the new one is complete"
    unpack(layers(tar("b")), out, overwrite=True)
    assert files(out) == {"b": b""}
    with pytest.raises(ContentError, match="not a folder"):
        unpack(layers(tar("b")), out / "b", overwrite=True)


def test_target_appears_only_when_complete(out):
    def check_target():
        for i in range(3):
            assert not out.exists()
            yield io.BytesIO(tar(f"f{i}")), ""

    unpack(check_target(), out)
    assert set(files(out)) == {"f0", "f1", "f2"}


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ConnectionFailed("gone", hint="later"), OSError("disk")])
def test_failed_source_leaves_no_target(out, failure):
    def failing():
        yield io.BytesIO(tar(entry("d", type=FOLDER, mode=0o000), "d/x")), ""
        raise failure

    with pytest.raises(failure if isinstance(failure, type) else type(failure)):
        unpack(failing(), out)
    assert not out.exists()


def test_failed_source_raises_its_own_error(out):
    class Breaking(io.BytesIO):
        def read(self, size=-1):
            raise ConnectionFailed("gone", hint="later")

    with pytest.raises(ConnectionFailed):
        unpack([(Breaking(), "")], out)


def test_target_symlink_is_resolved(out, tmp_path_factory):
    real = tmp_path_factory.mktemp("real")
    (real / "link").symlink_to(real / "data")
    result = unpack(layers(tar("a")), real / "link")
    assert (result.path, (real / "link").is_symlink(), (real / "data/a").exists()) == (real / "data", True, True)


def test_memory_does_not_grow_with_file_size(out):
    size = 300 << 20
    head = encode_header("zeros", "file", size=size, mode=0o644)

    class Zeros(io.RawIOBase):
        left = [head, size]

        def read(self, size=-1):
            if self.left[0]:
                data, self.left[0] = self.left[0][:size], self.left[0][size:]
                return data
            count = min(size, self.left[1])
            self.left[1] -= count
            return bytes(count)

    tracemalloc.start()
    try:
        result = unpack([(Zeros(), "")], out)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert result.size == (out / "zeros").stat().st_size == size


def test_missing_parents_of_target_are_made(out):
    unpack(layers(tar("a")), out / "x" / "y")
    assert (out / "x/y/a").exists()


def test_folders_without_permissions_are_unpacked_and_removed(out):
    members = [entry("d", type=FOLDER, mode=0o000), entry("d/e", type=FOLDER, mode=0o500), "d/e/x"]
    assert_rejected(out, tar(*members), tar("b", "b/x"))
    unpack(layers(tar(*members), tar("d/e/y")), out)
    assert stat.S_IMODE((out / "d").stat().st_mode) == 0
    (out / "d").chmod(0o700)
    assert set(files(out)) == {"d", "d/e", "d/e/x", "d/e/y"}


def test_strip_removes_leading_folder(out):
    archive = tar("data/", entry("data/a", b"1"), entry("./data/b", type=HARD, target="data/a"))
    unpack(layers(archive), out, strip="data", confined=True)
    assert files(out) == {"a": b"1", "b": b"1"}
    assert_rejected(out.with_name("x"), archive, strip="other", match="not below 'other'")
    assert_rejected(out.with_name("x"), tar("data/x", "database"), strip="data", match="not below 'data'")


def test_unpack_closes_all_descriptors(out):
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    unpack(layers(tar(*[f"d{i}/e{i}/f" for i in range(300)])), out)
    with pytest.raises(OcikitError):
        unpack(layers(tar("a/b/c", "b", "b/x")), out, overwrite=True)
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


# Peers

COMPARED = {"special": True, "keep_setuid": True, "owner": True, "xattrs": True}


def stored_layers(layout, tag="latest"):
    """Yield (stream, media type) of each layer of an image."""
    for entry in json.loads((layout / "index.json").read_bytes())["manifests"]:
        if entry["annotations"]["org.opencontainers.image.ref.name"] == tag:
            manifest = json.loads(images.blob(layout, entry["digest"]).read_bytes())
    for layer in manifest["layers"]:
        with images.blob(layout, layer["digest"]).open("rb") as stream:
            yield stream, layer["mediaType"]


@pytest.mark.peers("umoci")
@pytest.mark.skipif(not ROOT, reason="umoci unpacks owners and devices as root only")
def test_root_file_system_equals_umoci(tmp_path):
    layout = images.small(tmp_path / "layout")
    stack = [
        tar(
            entry("./", type=FOLDER),
            "usr/lib/",
            entry("lib", type=LINK, target="usr/lib"),
            entry("usr/lib/libc", b"elf"),
            entry("bin/su", b"su", mode=0o4755),
            entry("tmp", type=FOLDER, mode=0o1777),
            "opt/x",
            "opt/y/z",
            "gone",
            "d/x",
            entry("a", b"shared"),
            entry("b", type=HARD, target="a"),
            entry("s", type=LINK, target="/etc/passwd"),
            entry("s2", type=HARD, target="s"),
            entry("fifo", type=tarfile.FIFOTYPE),
            entry("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            entry("owned", uid=1000, gid=1001),
        ),
        tar(
            "lib/extra", ".wh.gone", "opt/new", "opt/.wh..wh..opq", entry("b", b"own"), entry("d", b"file"), "q/w/.wh.e"
        ),
        tar(
            entry("lib", type=FOLDER, mode=0o700), "lib/more", ".wh.opt", "opt/again", entry("a", type=LINK, target="b")
        ),
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "config": images.put(
            layout,
            images.CONFIG,
            images.encode(
                {
                    "architecture": "amd64",
                    "os": "linux",
                    "config": {},
                    "rootfs": {
                        "type": "layers",
                        "diff_ids": ["sha256:" + hashlib.sha256(t).hexdigest() for t in stack],
                    },
                }
            ),
        ),
        "layers": [images.put(layout, images.LAYER, gzip.compress(t)) for t in stack],
    }
    images._tag(layout, images.put(layout, images.MANIFEST, images.encode(manifest)), "latest")
    expected = images.unpack(layout, "latest", tmp_path / "umoci")
    unpack(stored_layers(layout), tmp_path / "ours", **COMPARED)
    assert differences(tree(tmp_path / "ours", owner=True), tree(expected, owner=True)) == []


@pytest.mark.peers("debian")
@pytest.mark.parametrize("form", ["oci", "zstd"])
def test_debian_equals_umoci(debian, form, tmp_path):
    expected = images.unpack(debian.oci, debian.tag, tmp_path / "umoci")
    result = unpack(stored_layers(getattr(debian, form)), tmp_path / "ours", **COMPARED)
    assert differences(tree(tmp_path / "ours", owner=True), tree(expected, owner=True)) == []
    assert result.skipped == ()
    merged = merged_tree(stored_layers(getattr(debian, form)))
    assert set(merged) == set(tree(expected)) - {"."}
