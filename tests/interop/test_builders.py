"""Images with the layers that builders write: ocikit unpacks the tree that umoci unpacks."""

import io
import os
import tarfile

import pytest
from ocikit.client.session import Session

from tests.support import images

FOLDER, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE

WHOLE = {"owner": True, "special": True, "keep_setuid": True, "xattrs": True}


def file(name, content=b"", mode=0o644, **fields):
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), mode, 1
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def folder(name, mode=0o755, **fields):
    return file(name, mode=mode, type=FOLDER, **fields)


def link(name, target):
    return file(name, mode=0o777, type=LINK, linkname=target)


def hard(name, target, mode=0o644):
    return file(name, type=HARD, linkname=target, mode=mode)


def tar(*members, format=tarfile.PAX_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


BASE = tar(
    folder("bin/"), file("bin/sh", b"#!", 0o755), folder("etc/"), file("etc/passwd", b"root"), folder("tmp/", 0o1777)
)
HASH, OTHER = "nix/store/0c5b8vw40d1178xlpddw65q9gf1h2186-hello", "nix/store/1gf2flfqnpqbr1b4p4qz2f72y42bs56r-gcc"

#: Layers by builder, and the paths of the image.
SHAPES = {
    "kaniko: the root as /, trimmed names": (
        [
            BASE,
            tar(
                folder("/", 0o755),
                folder("etc/"),
                file("etc/hosts", b"::1"),
                hard("etc/again", "etc/hosts"),
                file("etc/.wh.passwd"),
            ),
            tar(folder("/"), folder("workspace/", 0o700), file("workspace/app", b"app", 0o755)),
        ],
        "bin bin/sh etc etc/again etc/hosts tmp workspace workspace/app",
    ),
    "kaniko, older: absolute names": (
        [
            BASE,
            tar(
                folder("/", 0o711),
                folder("/etc/"),
                file("/etc/hosts", b"::1"),
                hard("/etc/again", "/etc/hosts"),
                file("/tmp/.wh..wh..opq"),
                file("/etc/.wh.passwd"),
                link("/sh", "/bin/sh"),
            ),
        ],
        "bin bin/sh etc etc/again etc/hosts sh tmp",
    ),
    "ko: absolute names of the program and its data": (
        [
            BASE,
            tar(
                folder("/var/"),
                folder("/var/run/"),
                folder("/var/run/ko/", 0o555),
                file("/var/run/ko/data.txt", b"d", 0o555),
            ),
            tar(folder("/ko-app", 0o555), file("/ko-app/app", b"ELF", 0o555), link("/ko-app/data", "/var/run/ko")),
        ],
        "bin bin/sh etc etc/passwd ko-app ko-app/app ko-app/data tmp var var/run var/run/ko var/run/ko/data.txt",
    ),
    "distroless: many layers of Debian packages": (
        [
            tar(folder("./"), folder("./usr/"), folder("./usr/lib/"), link("./lib", "usr/lib"), folder("./etc/")),
            tar(file("/etc/os-release", b"ID=x"), link("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC")),
            tar(folder("./"), file("./lib/libc.so.6", b"ELF", 0o755), folder("./home/nonroot/", 0o700, uid=65532)),
            tar(folder("/home", 0o755), file("/home/nonroot/.profile", b"", uid=65532), folder("/", 0o755)),
        ],
        "etc etc/localtime etc/os-release home home/nonroot home/nonroot/.profile lib usr usr/lib usr/lib/libc.so.6",
    ),
    "jib: dependencies, resources and classes": (
        [
            BASE,
            tar(folder("app/"), folder("app/libs/"), file("app/libs/a.jar", b"PK")),
            tar(folder("app/"), folder("app/resources/"), file("app/resources/x.properties", b"a=b")),
            tar(folder("/app/"), folder("/app/classes/"), file("/app/classes/" + "Long" * 40 + ".class", b"cafe")),
        ],
        "app app/classes app/classes/" + "Long" * 40 + ".class app/libs app/libs/a.jar app/resources"
        " app/resources/x.properties bin bin/sh etc etc/passwd tmp",
    ),
    "nix: read-only store paths, hard links": (
        [
            tar(
                folder("./"),
                folder("./nix/"),
                folder("./nix/store/", 0o1775, gid=30000),
                folder(f"./{OTHER}/", 0o555),
                file(f"./{OTHER}/lib.so", b"ELF", 0o444),
                hard(f"./{OTHER}/lib2.so", f"./{OTHER}/lib.so", 0o444),
            ),
            tar(
                folder("/nix", 0o755),
                folder("/nix/store", 0o755),
                folder(f"/{HASH}", 0o555),
                folder(f"/{HASH}/bin", 0o555),
                file(f"/{HASH}/bin/hello", b"ELF", 0o555),
                link(f"/{HASH}/lib", f"/{OTHER}"),
                hard(f"/{HASH}/bin/hello2", f"/{OTHER}/lib.so", 0o444),
            ),
            tar(link("bin", f"/{HASH}/bin")),
        ],
        f"bin nix nix/store {HASH} {HASH}/bin {HASH}/bin/hello {HASH}/bin/hello2 {HASH}/lib"
        f" {OTHER} {OTHER}/lib.so {OTHER}/lib2.so",
    ),
    "bazel: no folders, repeated names, runfiles": (
        [
            tar(file("./app/bin/server", b"old", 0o555), format=tarfile.GNU_FORMAT),
            tar(
                file("/app/bin/server", b"new", 0o555),
                link("/app/bin/server.runfiles/lib", "../../lib"),
                file("app/../app/lib/a", b"a"),
                file("./app/lib/a", b"b"),
                file("/app/bin/server.runfiles/lib/b", b"through the link"),
                format=tarfile.GNU_FORMAT,
            ),
        ],
        "app app/bin app/bin/server app/bin/server.runfiles app/bin/server.runfiles/lib app/lib app/lib/a app/lib/b",
    ),
    "names above the root": (
        [BASE, tar(file("../up", b"1"), file("bin/../../../etc/shadow", b"2"), hard("/../h", "../../etc/passwd"))],
        "bin bin/sh etc etc/passwd etc/shadow h tmp up",
    ),
}


@pytest.fixture
def session(tmp_path):
    with Session(cache=tmp_path / "cache", progress=False) as session:
        yield session


@pytest.mark.parametrize("builder", SHAPES)
def test_image_of_builder_unpacks_to_expected_paths(builder, session, tmp_path):
    archives, expected = SHAPES[builder]
    image = session.inspect(f"oci:{images.layered(tmp_path / 'layout', *archives)}:latest")
    unpacked = image.unpack(tmp_path / "root")
    assert sorted(images.snapshot(unpacked.path)) == sorted(expected.split())
    assert sorted(image.tree()) == sorted(expected.split())


@pytest.mark.interop
@pytest.mark.peers("umoci")
@pytest.mark.skipif(os.geteuid() != 0, reason="umoci gives files their owners as root only")
@pytest.mark.parametrize("builder", SHAPES)
def test_image_of_builder_unpacks_as_with_umoci(builder, session, tmp_path):
    archives, _ = SHAPES[builder]
    layout = images.layered(tmp_path / "layout", *archives)
    root = images.unpack(layout, "latest", tmp_path / "umoci")
    unpacked = session.inspect(f"oci:{layout}:latest").unpack(tmp_path / "root", **WHOLE)
    ours, theirs = (images.snapshot(path, times=True) for path in (unpacked.path, root))
    assert ours == theirs
    assert (unpacked.path.stat().st_mode, unpacked.path.stat().st_uid) == (root.stat().st_mode, root.stat().st_uid)
