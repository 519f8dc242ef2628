"""Real images for tests: a Debian root file system, and a tiny image for fast tests.

images.debian()            a real image in several forms, built once: layers with whiteouts, links, unusual names
images.small(folder)       a layout with one image of a few hundred bytes, without external programs
images.layered(f, *tars)   a layout with one image of these layers
images.docker_archive(f)   the same image in the format of `docker save`
images.unpack(layout, tag, folder)   the root file system as umoci unpacks it
images.snapshot(folder)    the content of a folder as a comparable value
"""

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import frozen
from filelock import FileLock

from tests.support import peers

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


# Debian


@frozen(kw_only=True)
class Debian:
    """One image for linux/amd64 in several forms. The folders are read-only: they outlive the session."""

    folder: Path
    #: The tag in each layout.
    tag: str = "latest"

    @property
    def oci(self) -> Path:
        """An image layout; gzip layers."""
        return self.folder / "oci"

    @property
    def zstd(self) -> Path:
        """An image layout; zstd layers."""
        return self.folder / "zstd"

    @property
    def index(self) -> Path:
        """An image layout whose tag is an index of linux/amd64 and linux/arm64/v8."""
        return self.folder / "index"

    @property
    def docker(self) -> Path:
        """Docker's version 2, schema 2, as skopeo's dir: keeps it."""
        return self.folder / "docker"

    @property
    def docker_archive(self) -> Path:
        """The format of `docker save`: one tar, uncompressed layers."""
        return self.folder / "docker.tar"


def debian() -> Debian:
    """Return a real Debian image from the machine's package mirror. It is built on first use and stored in .peers/images."""
    for name in ("debootstrap", "umoci", "skopeo"):
        peers.find(name)
    if os.geteuid() != 0:
        peers.absent("debootstrap and umoci want to be root")
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]  # a changed recipe is a different image
    images = peers.FOLDER / "images"
    images.mkdir(parents=True, exist_ok=True)
    folder = images / f"debian-{key}"
    with FileLock(images / ".lock"):
        if not folder.exists():
            work = Path(tempfile.mkdtemp(prefix="building-", dir=images))
            try:
                _build(work)
                (work / "done").rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return Debian(folder=folder)


def _build(work: Path) -> None:
    done = work / "done"
    done.mkdir()
    layout, image = done / "oci", f"{done / 'oci'}:latest"
    root = work / "root"
    _bootstrap(root)
    _base(root)

    peers.run("umoci", "init", "--layout", layout)
    peers.run("umoci", "new", "--image", image)
    peers.run("umoci", "unpack", "--image", image, work / "first")
    (work / "first" / "rootfs").rmdir()
    root.rename(work / "first" / "rootfs")
    _repack(image, work / "first", "a Debian root file system")

    _edit(work / "first" / "rootfs")
    _repack(image, work / "first", "deletions, links, odd names and modes")

    # `umoci insert --opaque` is not used: umoci 0.4 does not terminate that layer as tar does; see small(terminated=False).
    opaque = {
        "srv/replaced/.wh..wh..opq": b"",
        "srv/replaced/new": b"the only one here\n",
        "srv/replaced/deep/new": b"and this\n",
    }
    _append(layout, opaque, "another folder instead")

    peers.run("umoci", "unpack", "--image", image, work / "second")
    _change(work / "second" / "rootfs")
    _repack(image, work / "second", "changes of what was there")
    config = ["--config.cmd", "/bin/bash", "--config.env", "LANG=C.UTF-8", "--config.label", "org.example.odd=ża b=c"]
    peers.run("umoci", "config", "--image", image, *config)
    peers.run("umoci", "gc", "--layout", layout)

    skopeo("copy", "--format", "v2s2", f"oci:{image}", f"dir:{done / 'docker'}")
    skopeo("copy", f"oci:{image}", f"docker-archive:{done / 'docker.tar'}:docker.io/library/debian:test")
    skopeo("copy", "--dest-compress-format", "zstd", "--dest-compress", f"oci:{image}", f"oci:{done / 'zstd'}:latest")
    _multiplatform(layout, done / "index")


def _bootstrap(root: Path) -> None:
    release = platform.freedesktop_os_release()
    suite = release.get("VERSION_CODENAME", "bookworm") if release["ID"] == "debian" else "bookworm"
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {suite}"]
    found = subprocess.run(targets, capture_output=True, text=True, check=False).stdout.split()
    command = [str(peers.find("debootstrap")), "--variant=minbase", suite, str(root), *found[:1]]
    with (root.parent / "debootstrap.log").open("w+") as log:
        if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False).returncode:
            log.seek(0)
            inner = root / "debootstrap" / "debootstrap.log"
            raise RuntimeError(f"debootstrap failed\n{log.read()}{inner.read_text() if inner.exists() else ''}")
    # Remove files that an image does not need, and devices, which only root can unpack.
    for folder in ("dev", "var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/locale"):
        for path in (root / folder).iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _base(root: Path) -> None:
    """Write files for later layers to remove, replace and change."""
    srv = root / "srv"
    for name in ("gone/deep/er", "replaced/old", "data", "becomes-a-link", "links"):
        (srv / name).mkdir(parents=True)
    (srv / "gone" / "deep" / "er" / "file").write_text("you won't see me\n")
    (srv / "replaced" / "old" / "file").write_text("nor me\n")
    (srv / "replaced" / "file").write_text("nor me\n")
    (srv / "becomes-a-link" / "file").write_text("nor me\n")
    (srv / "becomes-a-folder").write_text("a file, so far\n")
    (srv / "becomes-a-file").symlink_to("/etc/passwd")
    for name in ("removed", "changed", "mode", "kept"):
        (srv / "data" / name).write_text(f"{name}, first\n" * 100)


def _edit(root: Path) -> None:
    srv = root / "srv"
    shutil.rmtree(srv / "gone")
    (srv / "data" / "removed").unlink()
    shutil.rmtree(root / "usr/share/man", ignore_errors=True)

    links = srv / "links"
    (links / "one").write_bytes(b"shared\n" * 1000)
    os.link(links / "one", links / "two")
    (links / "deeper").mkdir()
    os.link(links / "one", links / "deeper" / "three")
    (links / "relative").symlink_to("one")
    (links / "absolute").symlink_to("/srv/links/one")
    (links / "dangling").symlink_to("nowhere")
    (links / "climbing").symlink_to("../../../../../etc/hostname")  # stops at the root of the image
    (links / "folder").symlink_to("deeper")

    names = srv / "names"
    names.mkdir()
    (names / ("n" * 120)).write_text("longer than ustar's name\n")
    (names / ("ł" * 127)).write_text("254 bytes of UTF-8\n")
    deep = names
    for letter in "abcd":
        deep /= letter * 80
    deep.mkdir(parents=True)
    (deep / "file").write_text("a path longer than ustar's prefix and name\n")
    (deep / "link").symlink_to("/".join(["x" * 60] * 4))  # a target over 100 bytes
    for name in (
        "żółw 🐢.txt",
        "cafe\u0301",
        " leading and trailing ",
        "-rf",
        "semi;colon",
        "back\\slash",
        "new\nline",
        "per%20cent",
    ):
        (names / name).write_text(name)

    kinds = srv / "kinds"
    kinds.mkdir()
    os.mkfifo(kinds / "fifo")
    (kinds / "empty").touch()
    (kinds / "empty-folder").mkdir()
    (kinds / "zeros").write_bytes(bytes(1 << 20))
    for name, mode in (
        ("setuid", 0o4755),
        ("setgid", 0o2755),
        ("unreadable", 0o000),
        ("read-only", 0o444),
        ("executable", 0o755),
    ):
        (kinds / name).write_text("#!/bin/sh\n")
        (kinds / name).chmod(mode)
    (kinds / "sticky").mkdir()
    (kinds / "sticky").chmod(0o1777)
    (kinds / "read-only-folder").mkdir()
    (kinds / "read-only-folder" / "file").write_text("inside\n")
    (kinds / "read-only-folder").chmod(0o555)
    (kinds / "owned").write_text("by others\n")
    os.chown(kinds / "owned", 1000, 3_000_000)  # the group overflows the octal field of ustar
    (kinds / "old").write_text("from 1980\n")
    os.utime(kinds / "old", (315532800.25, 315532800.25))
    (kinds / "attributes").write_text("has some\n")
    try:
        os.setxattr(kinds / "attributes", "user.ocikit", b"binary\0value\xff")
    except OSError:  # tmpfs and overlay lack them
        pass


def _change(root: Path) -> None:
    srv = root / "srv"
    (srv / "data" / "changed").write_text("changed, second\n")
    (srv / "data" / "mode").chmod(0o600)
    (srv / "links" / "two").unlink()
    shutil.rmtree(srv / "becomes-a-link")
    (srv / "becomes-a-link").symlink_to("data")
    (srv / "becomes-a-folder").unlink()
    (srv / "becomes-a-folder").mkdir()
    (srv / "becomes-a-folder" / "file").write_text("inside\n")
    (srv / "becomes-a-file").unlink()
    (srv / "becomes-a-file").write_text("a file now\n")


def _repack(image: str, bundle: Path, comment: str) -> None:
    peers.run("umoci", "repack", "--refresh-bundle", "--history.comment", comment, "--image", image, bundle)


def _append(layout: Path, files: dict[str, bytes], comment: str) -> None:
    """Add one layer to the only image of a layout."""
    [named] = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(layout, named["digest"]).read_bytes())
    config = json.loads(blob(layout, manifest["config"]["digest"]).read_bytes())
    layer, plain = _layer(files)
    config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(plain).hexdigest())
    config["history"].append({"created_by": "tests/support/images.py", "comment": comment})
    manifest["layers"].append(put(layout, LAYER, layer))
    manifest["config"] = put(layout, CONFIG, encode(config))
    _tag(layout, put(layout, MANIFEST, encode(manifest)), "latest")


def _multiplatform(source: Path, target: Path) -> None:
    """Write an index of the image and a copy with another architecture in its config."""
    target.mkdir()
    shutil.copytree(source / "blobs", target / "blobs", copy_function=os.link)
    shutil.copy(source / "oci-layout", target)
    [amd64] = json.loads((source / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(source, amd64["digest"]).read_bytes())
    config = json.loads(blob(source, manifest["config"]["digest"]).read_bytes())
    config |= {"architecture": "arm64", "variant": "v8"}
    manifest["config"] = put(target, CONFIG, encode(config))
    arm64 = put(target, MANIFEST, encode(manifest))
    first = {"mediaType": MANIFEST, "digest": amd64["digest"], "size": amd64["size"]}
    entries = [
        first | {"platform": {"architecture": "amd64", "os": "linux"}},
        arm64 | {"platform": {"architecture": "arm64", "os": "linux", "variant": "v8"}},
    ]
    index = put(target, INDEX, encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))
    _tag(target, index, "latest")


# By hand


FILES = {"etc/motd": b"hello\n", "bin/true": b"#!/bin/sh\n"}


def small(folder: Path, *, tag: str = "latest", files: dict[str, bytes] | None = None, terminated: bool = True) -> Path:
    """Write a layout with one image of one layer and return the folder.

    `terminated=False` omits the padding and the two empty blocks after the last file. `umoci insert` writes such layers.
    Go clients accept them, and Python's tarfile fails with "unexpected end of data".
    """
    layer, plain = _layer(files or FILES, terminated=terminated)
    (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (folder / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": put(folder, CONFIG, encode(_config(plain))),
        "layers": [put(folder, LAYER, layer)],
    }
    _tag(folder, put(folder, MANIFEST, encode(manifest)), tag)
    return folder


def layered(folder: Path, *tars: bytes, tag: str = "latest", diff_ids: Iterable[str] | None = None) -> Path:
    """Write a layout with one image of these uncompressed layers and return the folder.

    `diff_ids` replaces the digests of the layers in the config.
    """
    (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (folder / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
    config = _config(b"")
    config["rootfs"]["diff_ids"] = list(
        (f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars) if diff_ids is None else diff_ids
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": put(folder, CONFIG, encode(config)),
        "layers": [put(folder, LAYER, gzip.compress(tar, mtime=0)) for tar in tars],
    }
    _tag(folder, put(folder, MANIFEST, encode(manifest)), tag)
    return folder


def docker_archive(path: Path, *, tag: str = "small:latest", files: dict[str, bytes] | None = None) -> Path:
    """Write the same image in the format of `docker save`, which `crane push FILE` accepts."""
    _, plain = _layer(files or FILES)
    config = encode(_config(plain))
    name = hashlib.sha256(config).hexdigest() + ".json"
    parts = {
        name: config,
        "layer.tar": plain,
        "manifest.json": encode([{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]),
    }
    path.write_bytes(_tar(parts))
    return path


def blob(layout: Path, digest: str) -> Path:
    """Return the path of content in a layout."""
    return layout.joinpath("blobs", *digest.split(":"))


def put(layout: Path, media_type: str, content: bytes) -> dict[str, Any]:
    """Write a blob and return its descriptor."""
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    blob(layout, digest).write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def encode(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _tag(layout: Path, descriptor: dict[str, Any], tag: str) -> None:
    named = descriptor | {"annotations": {"org.opencontainers.image.ref.name": tag}}
    (layout / "index.json").write_bytes(encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]}))


def _config(layer: bytes) -> dict[str, Any]:
    rootfs = {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}
    return {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}


def _layer(files: dict[str, bytes], *, terminated: bool = True) -> tuple[bytes, bytes]:
    plain = _tar(files)
    if not terminated:
        last = list(files.values())[-1]
        plain = plain[: plain.rindex(last) + len(last)]
    return gzip.compress(plain, mtime=0), plain


def _tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


# What others make of it


def skopeo(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run skopeo with a policy that accepts every signature and with empty credentials."""
    return peers.run("skopeo", "--insecure-policy", *arguments, **options)


def unpack(layout: Path, tag: str, folder: Path) -> Path:
    """Unpack the image's root file system with umoci into `folder`, which must not exist."""
    peers.run("umoci", "unpack", "--image", f"{layout}:{tag}", folder)
    return folder / "rootfs"


def snapshot(folder: Path, *, owners: bool = True, times: bool = False) -> dict[str, tuple[Any, ...]]:
    """Return {relative path: description} with groups of hard links. Equal snapshots are equal trees."""
    groups: dict[tuple[int, int], str] = {}
    entries: dict[str, tuple[Any, ...]] = {}
    for path in sorted(_walk(folder)):
        name = os.fsencode(path.relative_to(folder)).decode("utf-8", "surrogateescape")
        about = path.lstat()
        entry: list[Any] = [stat.filemode(about.st_mode)]
        if owners:
            entry += [about.st_uid, about.st_gid]
        if times and not stat.S_ISDIR(about.st_mode):
            entry.append(int(about.st_mtime))
        if stat.S_ISLNK(about.st_mode):
            entry.append(os.readlink(path))
        elif stat.S_ISREG(about.st_mode):
            entry.append(hashlib.sha256(path.read_bytes()).hexdigest())
            if about.st_nlink > 1:
                entry.append(groups.setdefault((about.st_dev, about.st_ino), name))
        if not stat.S_ISLNK(about.st_mode):
            entry.append(
                tuple((key, os.getxattr(path, key)) for key in sorted(os.listxattr(path)) if key.startswith("user."))
            )
        entries[name] = tuple(entry)
    return entries


def _walk(folder: Path) -> Iterable[Path]:
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            yield Path(parent, name)
