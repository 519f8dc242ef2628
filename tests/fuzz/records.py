"""ocikit's own files, possibly changed by another process or user."""

from ocikit.folder.archives import Archive
from ocikit.folder.folder import Folder
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.reference import Reference
from ocikit.store.cache.cache import Cache

from tests.fuzz.archives import plant
from tests.fuzz.documents import MANIFEST
from tests.fuzz.target import JSON_WORDS, LAYER_TYPE, MANIFEST_TYPE, SHA, as_json, scratch, target, typed

RECORD = {
    "reference": f"ghcr.io/org/model:v1@{SHA}", "document": as_json(MANIFEST).decode(), "expected": {"a/b": [SHA]},
    "files": {
        "a/b": {"digest": SHA, "size": 7, "mtime_ns": 1700000000000000000, "source": "ghcr.io/org/model"},
        "a/c": {"digest": SHA, "size": 7, "mtime_ns": 1700000000000000000, "archive": SHA, "link": True},
    },
    "archives": {SHA: 1},
}  # fmt: skip


@target(
    as_json(RECORD),
    words=(
        *JSON_WORDS,
        b'"files"',
        b'"document"',
        b'"expected"',
        b'"mtime_ns"',
        b'"source"',
        b'"archive"',
        b'"archives"',
        b'"link"',
        b'"/etc/passwd"',
        b'"a"',
        b'"a/b"',
    ),
    examples=60,
)
def record(data: bytes) -> None:
    """Parse `.ocikit/manifest.json` of an untrusted folder."""
    with scratch() as root:
        (root / ".ocikit").mkdir()
        (root / "a").mkdir()
        (root / "a" / "b").write_bytes(b"content")
        (root / ".ocikit" / "manifest.json").write_bytes(data)
        folder = Folder(root, sync=False)
        read = folder.record
        typed(lambda: folder.document)
        layer = Descriptor.of(b"content", LAYER_TYPE)
        typed(folder.unedited, "a/b", layer)
        reference = Reference.parse("ghcr.io/org/model:v1")
        packed = Archive(layer=Descriptor(media_type=LAYER_TYPE, digest=Digest(SHA), size=7))
        for archives in ((), (packed,)):
            plan = typed(folder.plan, {"a/b": layer}, reference=reference, archives=archives)
            if plan is not None:
                repr(plan), plan._repr_html_()
        read.save(root / ".ocikit" / "again.json", sync=False)
        assert type(read).load(root / ".ocikit" / "again.json") == read


NOTED = {
    "reference": "ghcr.io/org/model:v1",
    "digest": SHA,
    "mediaType": MANIFEST_TYPE,
    "size": 7,
    "fetched_at": "2024-01-01T00:00:00+00:00",
}


@target(
    as_json(NOTED),
    words=(*JSON_WORDS, b'"reference"', b'"fetched_at"', b'"2024-01-01"', b'"0001-01-01T00:00:00+23:59"', b'"ghcr.io/org/model:v1"', b'"ghcr.io/x"'),
    examples=60,
)  # fmt: skip
def cache_note(data: bytes) -> None:
    """Parse refs/*.json of a cache, and a cached document."""
    place = Reference.parse("ghcr.io/org/model:v1")
    with scratch() as root:
        cache = Cache(root)
        path = cache.reference_path(place)
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        plant(root, data)
        found = cache.recall(place)
        if found is not None:
            assert found.descriptor.size >= 0
            found.fetched_at.strftime("%Y-%m-%d %H:%M")
            repr(found.descriptor)
            typed(cache.fetch, found.descriptor)
        typed(cache.resolve, str(place))
        typed(cache.resolve, str(Digest.of(data)))
        for verb in (cache.scan, cache.verify, lambda: cache.prune(older_than=0.0, grace=0.0)):
            info = typed(verb)
            repr(info), info._repr_html_() if info is not None else None
