"""Layers, layouts on disk, and both as tar archives."""

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import zlib
from pathlib import Path

from backports import zstd
from ocikit.client.members import tar_places
from ocikit.layers.compression import MAGIC_SIZE, detect_compression
from ocikit.layers.layer import LayerLimits, entries, open_layer
from ocikit.layers.listing import merged_tree
from ocikit.layers.zip import ZipMember, encode_directory, encode_local, parse_directory
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.store.layout.archive import open_archive
from ocikit.store.layout.docker import read_docker_archive
from ocikit.store.layout.layout import Layout
from ocikit.store.memory import MemoryStore

from tests.fuzz.documents import CONFIG, DESCRIPTOR, INDEX, MANIFEST
from tests.fuzz.target import (
    JSON_WORDS,
    LAYER_TYPE,
    MANIFEST_TYPE,
    SHA,
    as_json,
    scratch,
    target,
    typed,
)


def archive(*members: tuple[str, bytes], format: int = tarfile.PAX_FORMAT, **fields) -> bytes:
    """Build a tar of files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _sealed(data: bytes) -> bytes:
    """Repair the checksums of intact headers, because checksums alone would detect nearly all damage."""
    whole = bytearray(data)
    for at in range(0, len(whole) - 511, 512):
        if whole[at + 257 : at + 262] == b"ustar":
            whole[at + 148 : at + 156] = b" " * 8
            whole[at + 148 : at + 156] = b"%06o\0 " % sum(whole[at : at + 512])
    return bytes(whole)


TAR_WORDS = (
    b"0", b"1", b"2", b"3", b"5", b"7", b"x", b"g", b"L", b"K", b"S", b"\0", b"\xff", b"\x80", b"/", b"../", b".wh..wh..opq", b".wh.", b"30 size=99\n",
    b"\xff" * 11 + b"\0", b"\xff" * 10 + b"\xfc\0", b"\x80" + b"\xff" * 11, b"77777777777\0", b"22 GNU.sparse.major=1\n", b"22 GNU.sparse.minor=0\n",
    b"GNU.sparse.map=0,1", b"size=-512", b"ustar\0", b"ustar  \0", bytes(512),
)  # fmt: skip

TARS = (
    archive(("a", b"x"), ("d/b", b"y" * 700), ("n" * 150, b"z")),
    archive(("l" * 120, b"x" * 513), format=tarfile.GNU_FORMAT, mtime=1.5),
    archive(("a", b"x"), mtime=1.25, pax_headers={"SCHILY.xattr.user.a": "b", "path": "p/q"}),
    archive(("s", b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)), pax_headers={
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "9000"}),
)  # fmt: skip

LIMITS = LayerLimits(size=1 << 22, entries=1000)


@target(*TARS, words=TAR_WORDS, text=False, examples=80)
def layer(data: bytes) -> None:
    """Parse the entries of a layer and build its tree."""
    for whole in {data, _sealed(data)}:
        found = typed(lambda: list(entries(io.BytesIO(whole), limits=LIMITS)))  # noqa: B023 - called here
        merged = typed(merged_tree, [(io.BytesIO(whole), LAYER_TYPE)], limits=LIMITS)
        for entry in (*(found or ()), *(merged or {}).values()):
            repr(entry)
            assert entry.size >= 0
            assert ".." not in entry.path.split("/") and not entry.path.startswith("/")


@target(
    gzip.compress(TARS[0], mtime=0), gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0) + bytes(10),
    zstd.compress(TARS[0]), zstd.compress(b"one") + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstd.compress(b"two"), TARS[0],
    lzma.compress(TARS[0]), lzma.compress(b"one") + lzma.compress(b"two") + bytes(8), bz2.compress(TARS[0]), bz2.compress(b""),
    words=(b"\x1f\x8b", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"BZh", b"\xfd7zXZ\0", b"\xff", b"\0", b"\x1c"),
    text=False, examples=100,
)  # fmt: skip
def compressed(data: bytes) -> None:
    """Parse gzip, zstd, xz and bzip2 framing. Accepted input equals the output of Python's modules."""
    ours = typed(lambda: open_layer(io.BytesIO(data), limits=LIMITS).read())
    if ours is not None and data.startswith(b"\x1f\x8b"):
        theirs = b""
        with (
            contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile),
            gzip.GzipFile(fileobj=io.BytesIO(data)) as file,
        ):
            theirs = file.read(LIMITS.size)
            assert ours == theirs
    elif ours is not None and (kind := detect_compression(data[:MAGIC_SIZE])) in {"xz", "bzip2"}:
        with contextlib.suppress(EOFError, lzma.LZMAError, OSError):
            # Python's lzma stops at the zeros between streams, which xz accepts
            assert ours.startswith((lzma if kind == "xz" else bz2).decompress(data))
    elif ours is not None and not data.startswith(b"\x28\xb5\x2f\xfd") and data[1:4] != b"\x2a\x4d\x18":
        assert ours == data


def _zip(*files: tuple[str, bytes], executable: bool = False) -> bytes:
    """Build a shard."""
    raw, members = b"", []
    for name, content in files:
        members.append(ZipMember(name, len(content), zlib.crc32(content), executable, len(raw)))
        raw += encode_local(name, len(content), members[-1].crc, executable=executable) + content
    return raw + encode_directory(members, len(raw))


@target(
    _zip(("a", b"x"), ("d/b", b"y" * 700), ("n" * 150, b"z")), _zip(), _zip(("e", b""), executable=True),
    encode_directory([ZipMember("a", 1 << 33, 7, False, 0), ZipMember("b", 5, 7, True, (1 << 33) + 51)], (1 << 33) + 87),
    *TARS, words=(b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"\xff\xff\xff\xff", b"\1\0\x10\0", b"../", b"\0"),
    text=False, examples=100,
)  # fmt: skip
def shard(data: bytes) -> None:
    """Parse the directory of a shard, and unpack it while it is read."""
    for offset in (0, data.find(b"PK\1\2"), (1 << 33) + 87):
        members = typed(parse_directory, data[max(0, offset) if offset < len(data) else 0 :], max(0, offset))
        end = 0
        for member in members or ():
            assert member.offset == end
            end = member.start + member.size
    merged = typed(merged_tree, [(io.BytesIO(data), "application/zip")], limits=LIMITS)
    for path, entry in (merged or {}).items():
        assert ".." not in path.split("/") and entry.size <= len(data)
    for whole in (data, _sealed(data)):
        for _, offset, size in typed(tar_places, io.BytesIO(whole)) or ():
            assert offset >= 0 and size >= 0


def _layout_files(parts: list[bytes]) -> dict[str, bytes]:
    header, index, blob, *_ = [*parts, b"", b"", b""]
    return {"oci-layout": header, "index.json": index, f"blobs/{SHA.replace(':', '/')}": blob}


HEADER = b'{"imageLayoutVersion":"1.0.0"}'
REF_NAME = "org.opencontainers.image.ref.name"
ENTRY = {"mediaType": MANIFEST_TYPE, "digest": SHA, "size": len(as_json(MANIFEST)), "annotations": {REF_NAME: "v1"}}
#: A document with a correct digest
LEAF = as_json(
    {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": DESCRIPTOR, "layers": [], "subject": DESCRIPTOR}
)
LEAF_ENTRY = {
    "mediaType": MANIFEST_TYPE,
    "digest": Digest.of(LEAF),
    "size": len(LEAF),
    "annotations": {REF_NAME: "good"},
}


@target(
    b"\n".join((HEADER, as_json({"schemaVersion": 2, "manifests": [ENTRY, {**ENTRY, "annotations": {}}, LEAF_ENTRY]}), as_json(MANIFEST))),
    b"\n".join((HEADER, as_json({"schemaVersion": 2, "manifests": [LEAF_ENTRY, {**LEAF_ENTRY, "annotations": ["x"]}]}), as_json(INDEX))),
    words=(*JSON_WORDS, b'"v1"', b'"good"', b'"%b"' % REF_NAME.encode(), b'"1.9"', b'"2.0"', b"\n"),
    examples=40,
)  # fmt: skip
def layout(data: bytes) -> None:
    """Read and change a layout on disk: oci-layout, index.json and a manifest, one line each."""
    with scratch() as root:
        for name, content in _layout_files(data.split(b"\n", 2)).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        plant(root, LEAF)
        found = typed(Layout, root, create=False)
        if found is None:
            return
        for verb in (
            found.tags, found.entries, found.only, found.verify, lambda: found.gc(dry_run=True, grace=0.0),
            lambda: found.resolve("v1"), lambda: found.resolve(SHA), lambda: found.referrers(found.resolve("good")),
            lambda: [found.document(one) for one in found.entries() if one.is_document], lambda: [found.exists(one) for one in found.entries()],
            lambda: found.tag(Descriptor.of(LEAF, MANIFEST_TYPE), "new"), lambda: found.untag("v1"), lambda: found.keep(found.resolve("good")),
            lambda: found.delete(found.resolve("good")), lambda: found.gc(grace=0.0), found.tags,
        ):  # fmt: skip
            typed(verb)
        found.close()


def plant(root: Path, content: bytes) -> None:
    path = root / "blobs" / "sha256" / Digest.of(content).encoded
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


CONFIG_BYTES = as_json({**CONFIG, "rootfs": {"type": "layers", "diff_ids": [Digest.of(TARS[0])]}})
IMAGES = as_json([{"Config": "c.json", "RepoTags": ["alpine:3.20"], "Layers": ["l.tar"]}])
DOCKER_TAR = archive(("manifest.json", IMAGES), ("c.json", CONFIG_BYTES), ("l.tar", TARS[0]))
LAYOUT_TAR = archive(
    ("oci-layout", HEADER), ("index.json", as_json({"schemaVersion": 2, "manifests": [LEAF_ENTRY]})), (f"blobs/sha256/{Digest.of(LEAF).encoded}", LEAF),
)  # fmt: skip


@target(
    LAYOUT_TAR, DOCKER_TAR, gzip.compress(LAYOUT_TAR, mtime=0), words=(*TAR_WORDS, b"1" * 9000), text=False, examples=60
)
def tar_file(data: bytes) -> None:
    """Read a layout in a tar, and the output of `docker save`."""
    with scratch() as folder:
        for whole in {data, _sealed(data)}:
            path = folder / "it.tar"
            path.write_bytes(whole)
            typed(_read_archives, path)
            typed(read_docker_archive, path, MemoryStore())


def _read_archives(path: Path) -> None:
    with open_archive(path) as found:
        found.tags(), found.entries()


@target(
    IMAGES + b"\n" + CONFIG_BYTES, IMAGES + b"\n" + as_json(CONFIG),
    words=(*JSON_WORDS, b'"Config"', b'"Layers"', b'"RepoTags"', b'"c.json"', b'"l.tar"', b'"g.tar"', b'"./l.tar"', b'"manifest.json"', b'"alpine:3.20"',
           b'"diff_ids"', b'"md5:x"', b'"shake_128:x"', b'"blake3:' + b"0" * 64 + b'"', b'"sha256:' + b"0" * 64 + b'"'),
    examples=60,
)  # fmt: skip
def docker_images(data: bytes) -> None:
    """Read manifest.json and a config of `docker save`, one line each, in a tar that has the layers."""
    images, _, config = data.partition(b"\n")
    with scratch() as folder:
        (folder / "it.tar").write_bytes(
            archive(
                ("manifest.json", images),
                ("c.json", config),
                ("l.tar", TARS[0]),
                ("g.tar", gzip.compress(TARS[0], mtime=0)),
            )
        )
        typed(read_docker_archive, folder / "it.tar", Layout(folder / "layout"))
