"""Path traversal: titles of artifacts, archives of layers, and archives of layouts."""

import copy
import json
import os
import stat
import tarfile

import ocikit
from ocikit.layers.compression import import_zstd
from ocikit.layers.layer import LayerLimits
from ocikit.spec import media_types
from ocikit.store.layout.docker import read_docker_archive

from tests.security.attacks import attack, entry, folder, hard, link, sha256, tar, zipped

CONTENT = b"evil"
LONG = "d" * 247  # cpython#135034: sixteen of these exceed the length that realpath checks
UNSAFE = "UnsafeArchive|ContentError|EditedFiles"


# Titles


TITLES = {name: name for name in (
    "../x", "../../x", "a/../../x", "/etc/x", "//x", "..", ".", "", "/", "C:\\x", "C:x", "C:/x", "\\\\server\\share\\x", "a\\..\\..\\x",
    "..\\x", ".ocikit/manifest.json", ".OCIKIT/x", "a/.ocikit/x", "./../x", "x/", "a//b/../../../x", "~/x", "$HOME/x",
)} | {"a NUL": "a\0b", "a line end": "a\nb", "terminal codes": "\x1b]0;x\x07", "a turned direction": "a\u202etxt.exe",
      "half a pair": "\ud800", "a name of 5000 characters": "x" * 5000, "a path of 5000": "x/" * 2500 + "y"}  # fmt: skip


@attack(
    "GHSA-8xwf-rjm4-xvhv, GHSA-m37j-52j7-pjw7",
    "files with the titles {}",
    each={", ".join(TITLES): TITLES},
    ends=f"nothing|{UNSAFE}|InvalidDocument|FileNotInArtifact",
)
def a_title_leads_nowhere_but_into_the_folder(scene, titles):
    for number, title in enumerate(titles.values()):
        ref = scene.artifact(scene.layer(b"%d" % number, title))
        out = scene.work / f"out{number}" / "deep" / "er"
        scene.user(scene.session.pull, ref, out, force=True)
        scene.user(scene.session.pull, ref)
        scene.user(scene.session.download, ref, title)
        found = [p for p in (scene.work / f"out{number}").rglob("*") if p.is_file() and out not in p.parents]
        assert not found, (title, found)
    assert {p.name for p in scene.work.iterdir()} <= {f"out{number}" for number in range(len(titles))}


RESERVED = ["CON", "nul.txt", "aux", "com1.log", "a:b", "a.", "a ", "CONIN$", "file:stream:$DATA"]


@attack("GHSA-m37j-52j7-pjw7", "files with titles that are devices or streams on Windows", ends=f"nothing|{UNSAFE}")
def names_that_mean_something_elsewhere_are_files_or_refused(scene):
    for title in RESERVED:
        ref = scene.artifact(scene.layer(CONTENT, title))
        scene.user(scene.session.pull, ref, "out", force=True)
    assert set(scene.files()) <= set(RESERVED)


@attack("GHSA-8xwf-rjm4-xvhv", "two files with the titles {}", ends=f"nothing|{UNSAFE}|InvalidDocument",
        each={"a and A": ("a", "A"), "a and a": ("a", "a"), "a and a/b": ("a", "a/b"), "é in two spellings": ("\u00e9", "e\u0301"),
              "ß and SS": ("\u00df", "SS"), "K and the Kelvin sign": ("k", "\u212a")})  # fmt: skip
def titles_that_are_one_file_are_refused_or_both_kept(scene, titles):
    layers = [scene.layer(b"%d" % n, title) for n, title in enumerate(titles)]
    scene.user(lambda: scene.session.pull(scene.artifact(*layers), "out"))
    assert not scene.ends[-1] or not scene.files(), "half of it was written"
    assert scene.ends[-1] or len(scene.files()) == 2


@attack("GHSA-8xwf-rjm4-xvhv", "a file below {}, in the folder that is pulled to", ends=f"nothing|{UNSAFE}",
        each={"a link that leads out": "dir", "a link that leads out, two up": "up", "a dangling link": "none"})  # fmt: skip
def nothing_is_written_through_a_link_in_the_folder(scene, where):
    out = scene.work / "out"
    out.mkdir()
    target = scene.root / "attacker"
    (out / "sub").symlink_to({"dir": target, "up": "../../../attacker", "none": target / "new"}[where])
    (out / "file").symlink_to(scene.root / "secret")
    for force in (False, True):
        ref = scene.artifact(scene.layer(CONTENT, "sub/x"))
        scene.user(scene.session.pull, ref, "out", force=force)
        ref = scene.artifact(scene.layer(CONTENT, "file"))
        scene.user(scene.session.pull, ref, "out", force=force)
    assert not list(target.iterdir())


@attack(
    "GHSA-8xwf-rjm4-xvhv",
    "an archive with a link out, and then a file with a title below it",
    ends=f"nothing|{UNSAFE}|InvalidDocument",
)
def a_link_that_one_layer_brings_is_not_followed_by_the_next(scene):
    packed = data_layer(scene, tar(folder("sub"), link("sub/out", "../../../attacker")), "sub")
    ref = scene.artifact(packed, scene.layer(CONTENT, "sub/out/x"))
    scene.user(lambda: scene.session.pull(ref, "out"))
    scene.user(lambda: scene.session.pull(ref, "out", force=True))
    assert not list((scene.root / "attacker").iterdir())


@attack("GHSA-8xwf-rjm4-xvhv", "a pull to a folder whose records were replaced by a link", ends=f"nothing|{UNSAFE}")
def the_records_of_a_folder_are_not_written_through_a_link(scene):
    (scene.work / "out").mkdir()
    (scene.work / "out/.ocikit").symlink_to(scene.root / "attacker")
    scene.user(lambda: scene.session.pull(scene.artifact(scene.layer(CONTENT)), "out"))
    for path in (scene.root / "attacker").rglob("*"):
        assert path.is_dir() or CONTENT not in path.read_bytes()


# Archives


def path_max():
    """Build the path of CVE-2025-4517: realpath stops at PATH_MAX and does not check the rest."""
    members, path = [], ""
    for step in "abcdefghijklmnop":
        members += [folder(path + LONG), link(path + step, LONG)]
        path += LONG + "/"
    short = "/".join("abcdefghijklmnop")
    return [*members, link(f"{short}/{'l' * 254}", "../" * 16), link("escape", f"{short}/{'l' * 254}/../../../attacker"),
            hard("hard", "escape/../secret"), entry("escape/x", CONTENT), entry("hard", CONTENT)]  # fmt: skip


def sparse(size):
    """Build a sparse file of that size without data. GNU PAX 1.0."""
    body = b"0\n".ljust(512, b"\0")
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "x",
        "GNU.sparse.realsize": str(size),
    }
    return entry("GNUSparseFile.0/x", body, pax_headers=headers)


def pax(count, value="y"):
    return entry("x", CONTENT, pax_headers={f"k{n}": value for n in range(count)})


def with_mode(mode, name="x", **fields):
    return entry(name, CONTENT, mode=mode, **fields)


ARCHIVES = {
    "a path that goes up": [entry("../../x", CONTENT)],
    "an absolute path": [entry("/etc/x", CONTENT)],
    "a path of Windows": [entry("C:\\x", CONTENT), entry("..\\..\\x", CONTENT)],
    "a link out, and a file below it": [link("a", "../../attacker"), entry("a/x", CONTENT)],
    "an absolute link, and a file below it": [link("a", "{root}/attacker"), entry("a/x", CONTENT)],
    "a link to a link out": [link("a", "b"), link("b", "../.."), entry("a/attacker/x", CONTENT)],
    "CVE-2025-4517: a path longer than realpath looks": path_max(),
    "CVE-2025-4330: a hard link to what a link leads to": [
        link("a", "../../secret"),
        hard("b", "a"),
        entry("b", CONTENT),
    ],
    "CVE-2025-4138: a link through a link": [
        folder("d"),
        link("d/a", ".."),
        link("b", "d/a/../../secret"),
        entry("b", CONTENT),
    ],
    "CVE-2024-12718: modes through a link": [
        link("a", "../../secret"),
        hard("b", "a"),
        with_mode(0o777, "b"),
        folder("a", 0o777),
    ],
    "CVE-2025-4435: something refused, and more after it": [
        entry("../x", CONTENT),
        link("a", "../.."),
        entry("a/attacker/x", CONTENT),
    ],
    "cpython#149486: a folder that becomes a link": [
        folder("a"),
        entry("a/y", b""),
        link("a", "../../attacker"),
        entry("a/x", CONTENT),
    ],
    "cpython#151558: a link that is replaced by a hard link": [
        link("a", "x"),
        hard("a", "../../secret"),
        entry("a", CONTENT),
    ],
    "cpython#157190: a hard link to a name outside": [hard("a", "../../secret"), entry("a", CONTENT)],
    "a hard link to an absolute name": [hard("a", "{root}/secret"), entry("a", CONTENT)],
    "a hard link through a link": [link("d", "../.."), hard("a", "d/secret"), entry("a", CONTENT)],
    "a link to a device, and a file over it": [link("a", "/dev/null"), entry("a", CONTENT)],
    "a character device": [entry("a", type=tarfile.CHRTYPE, devmajor=1, devminor=5)],
    "a block device": [entry("a", type=tarfile.BLKTYPE, devmajor=8, devminor=0)],
    "a FIFO, and a file over it": [entry("a", type=tarfile.FIFOTYPE), entry("a", CONTENT)],
    "a file with setuid": [with_mode(0o4755)],
    "a folder without permissions, and a file in it": [folder("d", 0), entry("d/x", CONTENT)],
    "the root as a link": [link(".", "../../attacker"), entry("x", CONTENT)],
    "the root as a file": [entry("./", CONTENT)],
    "a whiteout of the root": [entry(".wh..", b""), entry(".wh...", b""), entry(".wh.", b"")],
    "a whiteout outside": [entry("../.wh.secret", b""), entry("a/../../../.wh.secret", b"")],
    "a whiteout with a path in it": [entry(".wh.../../secret", b"")],
    "names that are one elsewhere": [entry("a", b"1"), entry("A", b"2")],
    "names with NUL and escapes": [entry("a\x1b[31m", CONTENT), entry("b\nc", CONTENT)],
    "a path of 5000 bytes": [entry("x" * 5000, CONTENT)],
    "ten thousand folders in each other": [entry("a/" * 10_000 + "x", CONTENT)],
    "a hundred links in a circle": [link(f"l{n}", f"l{(n + 1) % 100}/x") for n in range(100)]
    + [entry("l0/x", CONTENT)],
    "a hole of 2^60 bytes": [sparse(1 << 60)],
    "a hole of 10^30 bytes": [sparse(10**30)],
    "an extended header of 64 MB": [pax(1, "y" * (64 << 20))],
    "an extended header with 20,000 keys": [pax(20_000)],
    "a path in an extended header": [entry("x", CONTENT, pax_headers={"path": "../../x", "linkpath": "../../secret"})],
    "a size in an extended header": [entry("x", CONTENT, pax_headers={"size": str(1 << 62)})],
}
ARCHIVES_END = f"nothing|{UNSAFE}"


def built(scene, members):
    """Build a tar of members, with {root} in link targets replaced by the scene's root."""
    copies = [(copy.copy(info), content) for info, content in members]
    for info, _ in copies:
        info.linkname = info.linkname.replace("{root}", str(scene.root))
    return tar(*copies)


def data_layer(scene, packed, title="data"):
    """Write a folder of data like that of a push."""
    unpack = {"org.opencontainers.image.title": title, "io.deis.oras.content.unpack": "true",
              "io.deis.oras.content.digest": sha256(packed)}  # fmt: skip
    return scene.layer(zipped(packed), title, mediaType=media_types.OCI_LAYER_GZIP, annotations=unpack)


def nothing_escaped(scene):
    assert not list((scene.root / "attacker").iterdir())
    for base, folders, names in os.walk(scene.work):
        for name in [*folders, *names]:
            mode = os.lstat(os.path.join(base, name)).st_mode
            assert not stat.S_ISCHR(mode) and not stat.S_ISBLK(mode) and not mode & (stat.S_ISUID | stat.S_ISGID), name
    assert {p.name for p in scene.work.iterdir()} <= {"out", "image"}


@attack(
    "GHSA-8xwf-rjm4-xvhv, CVE-2025-4517 and relatives", "an image's layer with {}", each=ARCHIVES, ends=ARCHIVES_END
)
def an_image_is_unpacked_within_its_folder(scene, members):
    ref = scene.image(built(scene, members))
    with scene.memory(200 << 20):
        scene.user(lambda: scene.session.inspect(ref).unpack("image"))
        scene.user(lambda: len(scene.session.inspect(ref).tree()))
    nothing_escaped(scene)


@attack(
    "GHSA-8xwf-rjm4-xvhv, CVE-2025-4517 and relatives", "a folder of data with {}", each=ARCHIVES, ends=ARCHIVES_END
)
def a_folder_of_data_is_unpacked_within_its_folder(scene, members):
    packed = built(scene, [(i, c) for i, c in members])
    ref = scene.artifact(data_layer(scene, packed))
    with scene.memory(200 << 20):
        scene.user(lambda: scene.session.pull(ref, "out"))
        scene.user(lambda: scene.session.pull(ref, "out", force=True))
    nothing_escaped(scene)
    assert not any(
        isinstance(found, str) and (found.startswith("/") or ".." in found) for found in scene.files().values()
    )


@attack("CVE-2025-4517 and relatives", "an image whose second layer goes through {}", ends=ARCHIVES_END,
        each={"a link of the first": [entry("a/attacker/x", CONTENT)], "a link of the first, with a whiteout": [entry("a/.wh.secret", b"")],
              "a link of the first, opaque": [entry("a/.wh..wh..opq", b"")], "a hard link to the first's": [hard("b", "a/secret"), entry("b", CONTENT)]})  # fmt: skip
def a_layer_goes_nowhere_through_the_links_of_another(scene, members):
    ref = scene.image(tar(link("a", "../..")), tar(*members))
    scene.user(lambda: scene.session.inspect(ref).unpack("image"))
    nothing_escaped(scene)


def zeros(size, pack):
    """Build a tar with one file of so many zeros, packed in chunks."""
    info = tarfile.TarInfo("bomb")
    info.size = size
    return pack(info.tobuf()) + pack(bytes(1 << 20)) * (size >> 20)


BOMBS = {
    "gzip of 200 MiB of zeros": lambda: zeros(200 << 20, zipped),
    "zstd of 4 GiB of zeros": lambda: zeros(4 << 30, import_zstd().compress),
    "a hundred thousand empty gzip members": lambda: zipped(b"") * 100_000,
    "gzip in gzip in gzip": lambda: zipped(zipped(zeros(50 << 20, zipped))),
    "a gzip that ends in the middle": lambda: zipped(tar(entry("x", CONTENT * 1000)))[:-20],
    "a gzip that follows itself a thousand times": lambda: zipped(tar(entry("x", CONTENT))) * 1000,
}


@attack("decompression bombs", "a layer that is {}", each=BOMBS, ends=ARCHIVES_END)
def a_bomb_is_given_up_before_it_fills_anything(scene, make):
    ref = scene.image(make(), media_type=media_types.OCI_LAYER_GZIP)
    with scene.memory():
        scene.user(lambda: scene.session.inspect(ref).unpack("image", limits=LayerLimits(size=300 << 20)))
        scene.user(lambda: len(scene.session.inspect(ref).tree()))
    assert sum(p.stat().st_size for p in scene.work.rglob("*") if p.is_file()) <= 300 << 20


# Archives of layouts


def layout_tar(*more, index=None, manifest=None):
    raw = manifest or json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "layers": [], "artifactType": "a/b",
                                  "config": {"mediaType": media_types.EMPTY, "digest": sha256(b"{}"), "size": 2}}).encode()  # fmt: skip
    described = {"mediaType": media_types.OCI_MANIFEST, "digest": sha256(raw), "size": len(raw),
                 "annotations": {"org.opencontainers.image.ref.name": "v1"}}  # fmt: skip
    index = index or json.dumps({"schemaVersion": 2, "manifests": [described]}).encode()
    usual = [entry("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'), entry("index.json", index), entry(f"blobs/sha256/{sha256(raw)[7:]}", raw),
             entry(f"blobs/sha256/{sha256(b'{}')[7:]}", b"{}")]  # fmt: skip
    names = {info.name for info, _ in more}
    return [*(one for one in usual if one[0].name not in names), *more]


EMPTY_BLOB = f"blobs/sha256/{sha256(b'{}')[7:]}"
LAYOUTS = {
    "a path that goes up": layout_tar(entry("../x", CONTENT), entry("blobs/../../x", CONTENT)),
    "blobs as a link out": layout_tar(link("blobs", "{root}/attacker")),
    "a blob as a link out": layout_tar(link(EMPTY_BLOB, "{root}/secret")),
    "a blob as a hard link out": layout_tar(hard(EMPTY_BLOB, "{root}/secret")),
    "a blob as a FIFO": layout_tar(entry(EMPTY_BLOB, type=tarfile.FIFOTYPE)),
    "a blob as a device": layout_tar(entry(EMPTY_BLOB, type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
    "index.json as a link": layout_tar(link("index.json", "{root}/secret")),
    "index.json as a FIFO": layout_tar(entry("index.json", type=tarfile.FIFOTYPE)),
    "index.json of 100 MB": layout_tar(index=b" " * 100_000_000),
    "blobs of a lie": layout_tar(entry(f"blobs/sha256/{'0' * 64}", CONTENT)),
    "blobs of a digest that is a path": layout_tar(entry("blobs/sha256/../../../x", CONTENT), entry("blobs/..%2f/x", CONTENT)),
    "a hole of 2^60 bytes": layout_tar(sparse(1 << 60)),
    "a blob that is a hole": layout_tar(entry(f"blobs/sha256/{'1' * 64}", b"0\n".ljust(512, b"\0"), pax_headers={
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": f"blobs/sha256/{'1' * 64}", "GNU.sparse.realsize": str(1 << 60)})),
    "an extended header of 64 MB": layout_tar(pax(1, "y" * (64 << 20))),
    "records of our own": layout_tar(entry(".ocikit/x", CONTENT), link(".ocikit", "../attacker")),
}  # fmt: skip
LAYOUTS_END = "nothing|UnsafeArchive|ContentError|InvalidDocument|NotFound|DigestMismatch|SizeMismatch|BlobUnknown|ManifestUnknown|CopyError"


@attack("image-layout", "an oci-archive with {}", each=LAYOUTS, ends=LAYOUTS_END)
def an_archive_of_a_layout_writes_nothing_elsewhere(scene, members):
    given = scene.work / "hostile.tar"
    given.write_bytes(built(scene, members))
    with scene.memory(300 << 20):
        scene.user(lambda: scene.session.inspect(f"oci-archive:{given}:v1"))
        scene.user(lambda: scene.session.pull(f"oci-archive:{given}:v1", "out"))
        scene.user(lambda: scene.session.copy(f"oci-archive:{given}:v1", f"{scene.registry.host}/c/d:v1"))
    assert not list((scene.root / "attacker").iterdir())
    assert {p.name for p in scene.work.iterdir()} <= {"out", "hostile.tar"}
    assert b"untouched" not in scene.registry.blobs.values() and b"untouched" not in scene.files().values()


@attack("docker archive", "a docker archive with {}", ends=f"{LAYOUTS_END}|InvalidArgument|InvalidReference",
        each={"layers that are a path": [{"Config": "c.json", "RepoTags": ["a:b"], "Layers": ["../../secret", "/etc/passwd"]}],
              "a config that is a path": [{"Config": "{root}/secret", "RepoTags": ["a:b"], "Layers": []}],
              "layers that are links": [{"Config": "c.json", "RepoTags": ["a:b"], "Layers": ["l"]}],
              "a layer that is its own link": [{"Config": "c.json", "RepoTags": ["a:b"], "Layers": ["loop"]}],
              "tags with terminal codes": [{"Config": "c.json", "RepoTags": ["\x1b[31m:b\u202e"], "Layers": ["l"]}],
              "a list without an end": "[" * 100_000, "no list": {"a": 1}, "numbers": [1, 2]})  # fmt: skip
def a_docker_archive_reads_nothing_elsewhere(scene, manifest):
    text = manifest if isinstance(manifest, str) else json.dumps(manifest).replace("{root}", str(scene.root))
    given = scene.work / "docker.tar"
    given.write_bytes(tar(entry("manifest.json", text.encode()), entry("c.json", b'{"os": "linux", "rootfs": {"diff_ids": []}}'),
                          link("l", f"{scene.root}/secret"), link("loop", "loop")))  # fmt: skip
    with ocikit.Layout(scene.work / "out") as made:
        scene.user(lambda: read_docker_archive(given, made))
    assert b"untouched" not in scene.files().values()
