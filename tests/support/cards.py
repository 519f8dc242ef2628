"""Examples of all displayable objects, built without a network.

python -m tests.support.cards FOLDER writes a page for each, and all of them as a terminal shows them.
"""

import contextlib
import functools
import html
import html.parser
import json
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import attrs
import ocikit
from ocikit import display
from ocikit.client.artifact import Artifact
from ocikit.client.describe import Descriptions
from ocikit.client.listing import Listing
from ocikit.client.plans import DeletePlan, EditPlan, TagPlan
from ocikit.client.validate import DocumentViolation, ValidationReport
from ocikit.data.diff import Change, Diff, Rename
from ocikit.data.lineage import Claim, Origin
from ocikit.data.load import Objects
from ocikit.data.tables import TableChange
from ocikit.data.watch import Options, Watch
from ocikit.descriptions.card import Card
from ocikit.descriptions.model import Column, Description, Tensor
from ocikit.dialects.model import Model
from ocikit.errors import Violation
from ocikit.folder.folder import Folder
from ocikit.layers.pack import pack
from ocikit.layers.tar import TarEntry
from ocikit.layers.unpack import SkippedEntry, Unpacked
from ocikit.remote.auth.keychain import Credentials, Keychain
from ocikit.remote.auth.tokens import TokenCache
from ocikit.remote.registry import Ping
from ocikit.spec import media_types
from ocikit.spec.config import History, ImageConfig, RootFS
from ocikit.spec.manifest import Manifest
from ocikit.store.cache.scan import CachedRepository, CacheInfo
from ocikit.store.layout.layout import Layout
from ocikit.store.memory import MemoryStore
from ocikit.store.results import CorruptBlob, GCResult, RemovedBlob, VerifyResult
from ocikit.transfer.plan import plan

HOST = "registry.example"
DATA = f"{HOST}/weather/stations"
IMAGE = f"{HOST}/library/python"
OCI = "org.opencontainers.image."

NOTES = {
    f"{OCI}created": "2026-11-03T14:05:00Z",
    f"{OCI}description": "Hourly readings of 214 stations, cleaned, 2019 to 2025; one Parquet file for each year.",
    f"{OCI}licenses": "CC-BY-4.0",
    f"{OCI}source": "https://git.example/weather/stations",
    f"{OCI}version": "2.1.0",
}


README = f"""---
license: cc-by-4.0
tags: [weather, hourly, tabular]
language: en
homepage: https://git.example/weather/stations
---
# Stations

Hourly readings of **214 stations**, *cleaned*, 2019 to 2025. See [the code]({NOTES[f"{OCI}source"]}).

| column | unit |
|---|---|
| `temperature` | °C |

1. One Parquet file for each year
2. `stations.csv` has the places

```python
ocikit.scan("{DATA}:v2.1", "2024.parquet")
```
"""


@functools.cache
def folder() -> Path:
    """Return a folder that is deleted at exit."""
    temporary = tempfile.TemporaryDirectory(prefix="ocikit-cards-")
    path = Path(temporary.name)
    path.joinpath("keep").mkdir()
    folder.temporary = temporary
    return path


@functools.cache
def session() -> ocikit.Session:
    return ocikit.Session(cache=folder() / "cache", progress=False, credentials={})


def layer(title, size, media_type="application/vnd.apache.parquet", **notes):
    return ocikit.Descriptor(
        media_type=media_type,
        digest=ocikit.Digest.of(f"{title}{size}".encode()),
        size=size,
        annotations=({f"{OCI}title": title} if title else {}) | notes,
    )


def data_manifest(**more):
    layers = [layer(f"{year}.parquet", 1_000_000 * (year - 1950) + year) for year in range(2019, 2026)]
    layers += [layer("README.md", 2_318, "text/markdown"), layer("stations.csv", 61_204, "text/csv")]
    fields = {"layers": layers, "config": ocikit.Descriptor.of(b"{}", media_types.EMPTY), "annotations": NOTES} | more
    return ocikit.Manifest(artifact_type="application/vnd.example.dataset", **fields)


def model_manifest():
    kind = "application/vnd.cncf.model."
    layers = [
        layer("", 2_200_119_864, f"{kind}weight.v1.raw", **{"org.cncf.model.filepath": "model.safetensors"}),
        layer("", 661, f"{kind}weight.config.v1.raw", **{"org.cncf.model.filepath": "config.json"}),
        layer("", 40_960, f"{kind}code.v1.tar", **{"org.cncf.model.filepath": "src"}),
    ]
    config = ocikit.Descriptor.of(b"{}", f"{kind}config.v1+json")
    return ocikit.Manifest(artifact_type=f"{kind}manifest.v1+json", config=config, layers=layers)


def model():
    return Model(
        dialect="modelpack",
        name="tiny",
        family="llama3",
        parameters="1.1B",
        license="Apache-2.0",
        framework="pytorch",
        format="safetensors",
        precision="bfloat16",
        context=131_072,
        description="A small model for examples.",
        authors=("Ada", "Grace"),
        languages=("en", "de"),
        inputs=("text",),
        outputs=("text",),
        created="2026-11-28T18:54:10Z",
        source="https://git.example/models/tiny",
    )


def many_manifest(n=10_000):
    return data_manifest(
        layers=[layer(f"images/{i // 100:03}/{i:05}.jpeg", 20_000 + i, "image/jpeg") for i in range(n)]
    )


def artifact(document, reference=f"{DATA}:v2.1", **more):
    return Artifact(session()._reader, ocikit.Reference.parse(reference), document.descriptor, document, **more)


def partial_artifact():
    """Return an artifact of which a pull selected two files."""
    found = artifact(data_manifest(), path=Path("data"))
    chosen = {"2024.parquet", "2025.parquet"}
    found.pulled = frozenset((layer.title, layer.digest) for layer in found.manifest.layers if layer.title in chosen)
    return found


def image_config():
    digests = [ocikit.Digest.of(str(i).encode()) for i in range(4)]
    steps = [
        ("ADD rootfs.tar.xz / # buildkit", False),
        ('CMD ["bash"]', True),
        (
            "RUN /bin/sh -c set -eux; apt-get update; apt-get install -y --no-install-recommends ca-certificates netbase tzdata; rm -rf /var/lib/apt/lists/*",
            False,
        ),
        ("ENV PYTHON_VERSION=3.14.1", True),
        ("RUN /bin/sh -c set -eux; make -j; make install", False),
        ("COPY entrypoint.sh /", False),
    ]
    return ImageConfig(
        architecture="arm64",
        os="linux",
        variant="v8",
        created="2026-10-30T09:12:44.123456789Z",
        author="the Python people",
        config={
            "Env": [
                "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG=C.UTF-8",
                "PYTHON_VERSION=3.14.1",
            ],
            "Entrypoint": ["/entrypoint.sh"],
            "Cmd": ["python3"],
            "WorkingDir": "/srv",
            "User": "nobody",
            "ExposedPorts": {"8000/tcp": {}},
            "Labels": {"maintainer": "people@example.org"},
            "StopSignal": "SIGINT",
        },
        rootfs=RootFS(diff_ids=digests),
        history=[History(created="2026-10-30T09:12:44Z", created_by=by, empty_layer=empty) for by, empty in steps],
    )


def image_manifest(architecture="amd64"):
    config = ocikit.Descriptor(
        media_type=media_types.OCI_CONFIG, digest=ocikit.Digest.of(architecture.encode()), size=6_321
    )
    layers = [
        layer(f"{architecture}{i}", size, media_types.OCI_LAYER_GZIP)
        for i, size in enumerate((29_772_801, 3_512_004, 12_411_003, 249))
    ]
    bare = [ocikit.Descriptor(media_type=d.media_type, digest=d.digest, size=d.size) for d in layers]
    return ocikit.Manifest(config=config, layers=bare, annotations={f"{OCI}base.name": "docker.io/library/debian:13"})


def image_index():
    """Return an index of which only the amd64 manifest is cached."""
    manifests = []
    for name in ("linux/amd64", "linux/arm64/v8", "linux/s390x", "windows/amd64:10.0.26100.2314"):
        platform = ocikit.Platform.parse(name)
        manifest = image_manifest(platform.architecture + platform.os)
        manifests.append(
            ocikit.Descriptor(
                media_type=media_types.OCI_MANIFEST, digest=manifest.digest, size=manifest.size, platform=platform
            )
        )
        if name == "linux/amd64":
            session().cache.push_bytes(manifest.descriptor, manifest.raw)
    for image in manifests[:3]:
        manifests.append(
            ocikit.Descriptor(
                media_type=media_types.OCI_MANIFEST,
                digest=ocikit.Digest.of(image.digest.encode()),
                size=841,
                platform=ocikit.Platform(os="unknown", architecture="unknown"),
                annotations={
                    "vnd.docker.reference.type": "attestation-manifest",
                    "vnd.docker.reference.digest": image.digest,
                },
            )
        )
    return ocikit.Index(
        manifests=manifests, annotations={f"{OCI}source": "https://git.example/python", f"{OCI}version": "3.14.1"}
    )


def tags(n=500):
    names = [f"v{major}.{minor}.{patch}" for major in range(1, 4) for minor in range(12) for patch in range(11)]
    names += ["latest", "main", "nightly-2026-11-20", "v3.12.0-rc1", "edge"]
    names += [f"sha256-{ocikit.Digest.of(str(i).encode()).encoded}.sig" for i in range(n - len(names))]
    return ocikit.Tags(iter(sorted(names)), DATA)


def read_all(listing):
    len(listing)
    return listing


def referrers():
    def referrer(kind, size, **notes):
        return ocikit.Descriptor(
            media_type=media_types.OCI_MANIFEST,
            digest=ocikit.Digest.of(repr((kind, notes)).encode()),
            size=size,
            artifact_type=kind,
            annotations={f"{OCI}{key}": value for key, value in notes.items()},
        )

    descriptors = [
        referrer(
            "application/vnd.example.evaluation+json", 512, created="2026-11-04T10:00:00Z", title="accuracy on 2025"
        ),
        referrer(
            "application/vnd.example.evaluation+json", 514, created="2026-11-10T10:00:00Z", title="accuracy on 2026"
        ),
        attrs.evolve(
            referrer("application/vnd.example.metrics", 498, created="2026-11-12T10:00:00Z"),
            annotations={f"{OCI}created": "2026-11-12T10:00:00Z", "auc": "0.93", "rows": "1750400"},
        ),
        referrer("application/vnd.dev.sigstore.bundle.v0.3+json", 744, created="2026-11-03T14:06:10Z"),
        referrer("application/spdx+json", 690),
    ]
    return read_all(Listing(iter(descriptors), "referrers", f"{DATA}:v2.1"))


def home():
    """Return a folder of files to push."""
    path = folder() / "stations"
    path.mkdir(exist_ok=True)
    for name, text in {
        "2024.csv": "station,rain\n1,3\n" * 900,
        "2025.csv": "station,rain\n1,4\n" * 1200,
        "README.md": "# Rain\n",
    }.items():
        path.joinpath(name).write_text(text)
    return path


def layout():
    path = folder() / "layout"
    if not path.exists():
        session().push(f"oci:{path}:v1", home())
    return Layout(path)


def copy_plan():
    store, target = layout(), MemoryStore()
    root = store.resolve("v1")
    target.push_bytes(first := Manifest.parse(store.fetch(root)).layers[0], store.fetch(first))
    return plan(store, root, target, tags=("v1",), check=True)


def folder_plan():
    layout()
    path = folder() / "pulled"
    if not path.exists():
        session().pull(f"oci:{folder() / 'layout'}:v1", path, include="*.csv")
        path.joinpath("stations", "2024.csv").write_text("edited")
    return session().pull(f"oci:{folder() / 'layout'}:v1", path, dry_run=True).plan


def cache_with_content():
    manifest = data_manifest(layers=[ocikit.Descriptor.of(b"a,b\n", "text/csv", annotations={f"{OCI}title": "a.csv"})])
    cache = ocikit.Cache(folder() / "used")
    cache.push_bytes(manifest.layers[0], b"a,b\n")
    cache.push_bytes(manifest.descriptor, manifest.raw, tag=f"{DATA}:v2.1")
    cache.snapshot(ocikit.Reference.parse(f"{DATA}:v2.1"), manifest)
    return cache


def inventory():
    sizes = [
        ("library/python", 912_004_113),
        ("weather/stations", 503_412_998),
        ("models/whisper-small", 487_001_002),
        ("team/a-rather-long-name-for-a-repository/of-many-parts", 1_204),
    ]
    return CacheInfo(
        root=folder() / "cache",
        blobs=118,
        size=1_811_402_331,
        partial=20_971_520,
        repositories=tuple(
            CachedRepository(
                name=f"{HOST}/{name}",
                tags=tuple(f"v{i}" for i in range(n * 4 + 1)),
                snapshots=n,
                size=size,
                last_used=datetime(2026, 11, 20 - n, 8, 30, tzinfo=UTC),
            )
            for n, (name, size) in enumerate(sizes)
        ),
    )


def explanation():
    config = folder() / "docker"
    config.mkdir(exist_ok=True)
    config.joinpath("config.json").write_text(json.dumps({"auths": {HOST: {"auth": "YWRhOmh1bnRlcjI="}}}))
    return Keychain(environ={"DOCKER_CONFIG": str(config)}, home=folder()).explain(HOST, "weather/stations")


def violations():
    manifest = data_manifest()
    problems = [
        ("$.layers[2].digest", "'sha256:xyz' is not a digest"),
        ("$.annotations", "expected an object, found an array"),
        ("$.config.mediaType", "required field missing"),
    ]
    return ValidationReport(
        reference=ocikit.Reference.parse(f"{DATA}:v2.1").pinned(manifest.digest),
        documents=(manifest.descriptor,),
        violations=tuple(
            DocumentViolation(path=path, message=message, digest=manifest.digest) for path, message in problems
        ),
    )


def error(kind, *args, cause=None, **fields):
    """Return an error that was raised, with its cause."""
    try:
        raise kind(*args, **fields) from cause
    except ocikit.OcikitError as caught:
        return caught


def no_tag():
    return error(
        ocikit.ManifestUnknown,
        f"{DATA} has no tag 'v21'",
        hint=f"nearest: v2.1, v2.0; ocikit.tags('{DATA}') lists all 483",
        status=404,
        host=HOST,
        method="GET",
        url=f"https://{HOST}/v2/weather/stations/manifests/v21",
        request_id="7f3a-11",
        errors=[{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown", "detail": {"Tag": "v21"}}],
    )


def copy_error():
    return error(
        ocikit.CopyError,
        "could not push 2024.parquet to the target",
        side="target",
        descriptor=data_manifest().layers[5],
        cause=error(
            ocikit.Denied,
            f"{HOST} denied ada the push to weather/stations",
            hint="ask its owner for the right to push, or push to a repository of yours",
            status=403,
            host=HOST,
            method="POST",
            url=f"https://{HOST}/v2/weather/stations/blobs/uploads/",
            errors=[{"code": "DENIED", "message": "requested access to the resource is denied"}],
        ),
    )


def stopped():
    server = ocikit.serve()
    server.stop()
    return server


def memory():
    store = MemoryStore()
    layout().path.exists()
    source = layout()
    plan(source, source.resolve("v1"), store, tags=("v1",)).run()
    return store


def table_description():
    """Return a table with more columns than a card shows."""
    columns = [Column(name=f"sensor_{i:02}", type="double", nulls=i, min="-40.5", max="61.2") for i in range(23)]
    return Description(
        name="2024.parquet",
        kind="table",
        format="parquet",
        size=75_002_024,
        rows=1_750_400,
        columns=(
            Column(name="time", type="timestamp[us, tz=UTC]", nulls=0, min="2024-01-01", max="2024-12-31"),
            *columns,
        ),
        metadata={"row groups": "18", "written by": "parquet-cpp-arrow version 26.0.1"},
        bytes_read=65_536,
        requests=1,
    )


def tensor_description():
    return Description(
        name="model.gguf",
        kind="tensors",
        format="gguf",
        size=4_920_739_232,
        tensors={
            "token_embd.weight": Tensor(dtype="Q4_K", shape=(4096, 128_256), size=295_501_824, offset=7_824_128),
            "output_norm.weight": Tensor(dtype="F32", shape=(4096,), size=16_384, offset=303_325_952),
        },
        metadata={"general.architecture": "llama", "tokenizer.ggml.tokens": "128,256 strings"},
        bytes_read=7_824_128,
        requests=2,
    )


def pickle_description():
    return Description(
        name="scores.parquet",
        kind="binary",
        format="pickle",
        size=1_204,
        runs_code=True,
        note="its name or media type is that of parquet",
        bytes_read=1_204,
        requests=1,
        verified=True,
    )


def descriptions():
    """Return the files of an artifact of which one was read."""
    found = Descriptions(artifact(data_manifest()), 2)
    found._found["2019.parquet"] = table_description()
    found._found["stations.csv"] = ocikit.OcikitError("reading the footer of a Parquet file needs pyarrow")
    return found


def difference():
    """Return two versions that differ in every way, and in more files than a table shows."""
    before, after = (layer("2024.parquet", size) for size in (75_002_024, 75_400_118))
    table = TableChange(
        added={"humidity": "double"}, retyped={"station": ("int32", "int64")}, rows=(1_750_400, 1_752_116)
    )
    photos = [layer(f"photos/{i:03}.jpeg", 20_000 + i) for i in range(25)]
    return Diff(
        a=f"{DATA}:v2.0@{data_manifest().digest}",
        b=f"{DATA}:v2.1@{image_manifest().digest}",
        added={d.title: Change(title=d.title, after=d) for d in (layer("2025.parquet", 75_002_025), *photos)},
        removed={"notes.txt": Change(title="notes.txt", before=layer("notes.txt", 812))},
        changed={"2024.parquet": Change(title="2024.parquet", before=before, after=after, table=table)},
        renamed=(Rename(before="readme.md", after="README.md", descriptor=layer("README.md", 2_318)),),
        same=6,
        annotations={f"{OCI}version": ("2.0.0", "2.1.0"), f"{OCI}licenses": (None, "CC-BY-4.0")},
        bytes_to_fetch=150_902_443,
    )


def versions():
    """Return three versions, of which the oldest names one that is no longer there."""
    data = ocikit.Reference.parse(DATA)
    notes = [
        ("v3", "Readings of 2025; stations that moved have a new number", 7, 2_318, (1, 0, 2, 0)),
        ("v2", "Corrected rain gauges", 6, -811, (0, 1, 1, 1)),
        ("v1", "", 6, None, (None,) * 4),
    ]
    names = ("added", "removed", "changed", "renamed")
    found = [
        ocikit.Version(
            reference=data.tagged(tag).pinned(ocikit.Digest.of(tag.encode())),
            tags=(tag, "latest") if tag == "v3" else (tag,),
            created="2026-11-03T14:05:00Z" if tag == "v3" else "",
            message=message,
            inputs=(f"{HOST}/weather/raw:v7@{ocikit.Digest.of(b'raw')}",) if tag == "v3" else (),
            files=files,
            size=503_412_998,
            delta=delta,
            gap=""
            if tag != "v1"
            else "the version before is no longer here: v0 was deleted, or collected without a tag",
            **dict(zip(names, counts, strict=True)),
        )
        for tag, message, files, delta, counts in notes
    ]
    return ocikit.History(reference=data, versions=tuple(found), end=f"the chain ends at v1: {found[-1].gap}")


def origins():
    """Return a model with its data, of which one was deleted, and a base model that names the same data."""

    def pinned(name):
        return f"{HOST}/{name}@{ocikit.Digest.of(name.encode())}"

    model, base, data, lost = map(
        pinned, ("models/rain:v3", "models/base:v7", "weather/stations:v2.1", "weather/old:v1")
    )
    kind = "application/vnd.ocikit.files.v1"
    return ocikit.Lineage(
        reference=ocikit.Reference.parse(model),
        artifacts=(
            Origin(reference=model, inputs=(base, data, lost), artifact_type=kind, files=3, message="Trained on 2025"),
            Origin(reference=base, inputs=(data,), depth=1, artifact_type=kind, files=2),
            Origin(reference=data, depth=1, artifact_type=kind, files=9, message="Corrected rain gauges"),
            Origin(reference=lost, depth=1, problem="missing: deleted, or never there"),
        ),
        claims=(Claim(file="README.md", kind="base_model", name="example/rain-base"),),
    )


CARDS: dict[str, Callable[[], object]] = {
    "reference": lambda: ocikit.Reference.parse(f"{DATA}:v2.1").pinned(data_manifest().digest),
    "reference_layout": lambda: ocikit.LayoutReference.parse("oci:backup/stations:v2.1"),
    "artifact": lambda: artifact(data_manifest()),
    "artifact_partial": partial_artifact,
    "artifact_image": lambda: artifact(image_manifest(), f"{IMAGE}:3.14"),
    "artifact_index": lambda: artifact(image_index(), f"{IMAGE}:3.14"),
    "artifact_many_files": lambda: artifact(many_manifest(), f"{HOST}/vision/cats-and-dogs:2026"),
    "artifact_dry_run": lambda: session().push(f"oci:{folder() / 'other'}:v1", home(), dry_run=True),
    "artifact_empty": lambda: artifact(ocikit.Manifest(config=ocikit.Descriptor.of(b"{}", media_types.EMPTY))),
    "file": lambda: artifact(data_manifest())["2024.parquet"],
    "files": lambda: artifact(data_manifest()).files,
    "objects": lambda: Objects(artifact(data_manifest()), str),
    "manifest": data_manifest,
    "manifest_referrer": lambda: data_manifest(subject=image_manifest().descriptor, layers=()),
    "index": image_index,
    "descriptor": lambda: data_manifest().layers[0],
    "descriptor_platform": lambda: image_index().manifests[1],
    "platform": lambda: ocikit.Platform.parse("windows/amd64:10.0.26100.2314"),
    "config": image_config,
    "config_history": lambda: image_config().history[2],
    "config_rootfs": lambda: image_config().rootfs,
    "tags": lambda: read_all(tags()),
    "tags_first_page": tags,
    "tags_none": lambda: ocikit.Tags(iter(()), DATA),
    "catalog": lambda: read_all(Listing((f"team-{i % 7}/project-{i}" for i in range(120)), "repositories", HOST)),
    "referrers": referrers,
    "plan_copy": copy_plan,
    "plan_copy_step": lambda: copy_plan().items[0],
    "plan_folder": folder_plan,
    "plan_delete": lambda: DeletePlan(reference=ocikit.Reference.parse(f"{DATA}:v2.1"), digest=data_manifest().digest),
    "edit": lambda: session().edit(f"{DATA}:v2.1"),
    "plan_edit": lambda: EditPlan(
        reference=ocikit.Reference.parse(f"{DATA}:v2.1"),
        base=data_manifest().digest,
        added={"2026.parquet": layer("2026.parquet", 76_002_026)},
        changed={"README.md": layer("README.md", 2_401, "text/markdown")},
        removed={"2019.parquet": layer("2019.parquet", 69_002_019)},
        renamed={"stations.csv": "places.csv"},
        annotations={f"{OCI}version": "2.2.0"},
        config=False,
    ),
    "plan_tag": lambda: TagPlan(
        reference=ocikit.Reference.parse(f"{DATA}:v2.1").pinned(data_manifest().digest),
        tags=("latest", "v2.1", "v2"),
        current={"latest": image_manifest().digest, "v2.1": data_manifest().digest},
    ),
    "folder": lambda: Folder(folder() / "pulled"),
    "plan_prune": lambda: cache_with_content().prune(older_than=-1, grace=0),
    "layout": layout,
    "layout_gc": lambda: layout().gc(grace=0, dry_run=True),
    "layout_verify": lambda: layout().verify(),
    "cache": lambda: ocikit.Cache(folder() / "cache"),
    "cache_inventory": inventory,
    "cache_repository": lambda: inventory().repositories[0],
    "cache_verify": lambda: VerifyResult(checked=118, size=1_811_402_331),
    "cache_corrupt": lambda: VerifyResult(
        checked=118,
        size=1_811_402_331,
        removed=True,
        corrupt=(
            CorruptBlob(
                digest=ocikit.Digest.of(b"1"),
                problem="digest",
                detail="its content has digest sha256:" + "cd" * 32,
                path=folder() / "cache" / "blobs" / "sha256" / ("ab" * 32),
            ),
        ),
    ),
    "server": lambda: ocikit.serve(),
    "server_stopped": stopped,
    "server_collected": lambda: GCResult(
        dry_run=True,
        unlinked=(RemovedBlob(digest=ocikit.Digest.of(b"1"), size=3_000_000, repository="weather/stations"),),
        blobs=(
            RemovedBlob(digest=ocikit.Digest.of(b"1"), size=3_000_000),
            RemovedBlob(digest=ocikit.Digest.of(b"2"), size=17),
        ),
    ),
    "server_verified": lambda: VerifyResult(
        checked=3_012,
        size=40_112_000_331,
        corrupt=(
            CorruptBlob(
                digest=ocikit.Digest.of(b"1"), problem="missing", expected_size=12, repositories=("weather/stations",)
            ),
        ),
    ),
    "description_pickle": pickle_description,
    "description_table": table_description,
    "description_tensors": tensor_description,
    "descriptions": descriptions,
    "diff": difference,
    "diff_none": lambda: Diff(a=f"{DATA}:v2.1", b="stations/", same=9),
    "diff_change": lambda: difference().changed["2024.parquet"],
    "diff_rename": lambda: difference().renamed[0],
    "diff_table": lambda: difference().changed["2024.parquet"].table,
    "model": model,
    "artifact_model": lambda: artifact(model_manifest(), f"{HOST}/models/tiny:v1"),
    "history": versions,
    "history_version": lambda: versions()[0],
    "lineage": origins,
    "lineage_origin": lambda: origins().artifacts[1],
    "explanation": explanation,
    "explanation_anonymous": lambda: Keychain(environ={}, home=folder() / "keep").explain(HOST),
    "ping": lambda: Ping(host=HOST, reachable=True, authenticated=True, url=f"https://{HOST}", version="registry/2.0"),
    "ping_unreachable": lambda: Ping(
        host=HOST,
        reachable=False,
        authenticated=False,
        url=f"https://{HOST}",
        problem=f"{HOST} could not be reached: no such host",
    ),
    "readme": lambda: Card.parse(README),
    "readme_ignored": lambda: Card.parse("---\na: &x [1]\nb: *x\n---\n# Stations"),
    "pooch": lambda: ocikit.pooch(progress=False),
    "watch": lambda: Watch(
        "run",
        ocikit.Reference.parse(f"{DATA}:live"),
        use=contextlib.nullcontext,
        every=300,
        options=Options(),
    ),
    "report": violations,
    "report_fine": lambda: ValidationReport(
        reference=ocikit.Reference.parse(f"{DATA}:v2.1"), documents=(data_manifest().descriptor,), violations=()
    ),
    "report_violation": lambda: violations().violations[0],
    "violation": lambda: Violation(path="$.layers[2].size", message="expected an integer, found a string"),
    "unpacked": lambda: Unpacked(
        path=folder() / "rootfs",
        files=3_412,
        size=148_221_003,
        skipped=(
            SkippedEntry(path="dev/null", reason="character device"),
            SkippedEntry(path="usr/bin/passwd", reason="setuid"),
        ),
    ),
    "packed": lambda: pack([home()])[0],
    "packed_layers": lambda: pack([home()]),
    "entry": lambda: TarEntry(path="usr/bin/python3", type="symlink", target="python3.14", mode=0o777, layer=2),
    "error": no_tag,
    "error_copy": copy_error,
    "error_plain": lambda: error(ocikit.InvalidReference, "'Data:v1' has capitals in its name", hint="write 'data:v1'"),
    "session": session,
    "network": lambda: ocikit.Network(
        total_timeout=600, mirrors={"docker.io": ["mirror.example:5000"]}, blocked=["quay.io/old"]
    ),
    "registry": lambda: session().registry(HOST),
    "repository": lambda: session().registry(HOST).repository("weather/stations"),
    "transport": lambda: session().registry(HOST).transport,
    "memory_store": memory,
    "credentials": lambda: Credentials(username="ada", password="hunter2"),
    "keychain": lambda: Keychain({HOST: ("ada", "hunter2")}, environ={}, home=folder()),
    "tokens": TokenCache,
}

#: Page with cards; its theme is marked as in Sphinx.
PAGE = """<!doctype html><html lang="en"{theme}><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><style>body{{margin:16px;font-family:sans-serif}}
html[data-theme=dark] body{{background:#111;color:#ddd}}</style></head><body>{body}</body></html>"""


def page(title: str, body: str, theme: str = "") -> str:
    """Return a page of cards like a static notebook page; `theme` is "light" or "dark"."""
    return PAGE.format(title=html.escape(title), body=body, theme=f' data-theme="{theme}"' if theme else "")


def write(to: Path) -> dict[str, Path]:
    """Write a page for each card, overviews in both themes (`index.html`, `dark.html`), and `terminal.txt`."""
    to.mkdir(parents=True, exist_ok=True)
    written, parts, lines = {}, [], []
    for name, make in CARDS.items():
        value = make()
        shown = value._repr_html_()
        written[name] = to / f"{name}.html"
        written[name].write_text(page(name, shown), "utf-8")
        lines.append(f">>> {name}\n{display.plain_text(display.card_of(value), 100)}\n")
        line = f"<p><a href='{name}.html'>{name}</a> <code>{html.escape(repr(value))}</code></p>"
        parts.append(f"<section id='{name}'>{line}{shown}</section><hr>")
    written["terminal"] = to / "terminal.txt"
    written["terminal"].write_text("\n".join(lines), "utf-8")
    for name, theme in (("index", "light"), ("dark", "dark")):
        written[name] = to / f"{name}.html"
        written[name].write_text(page("Cards", "".join(parts), theme), "utf-8")
    return written


class _Tags(html.parser.HTMLParser):
    """The tags, attributes and links in HTML."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.links = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links |= {value for name, value in attrs if name == "href"}


def harmless(shown: str) -> bool:
    """Return True; fail for HTML with a tag, attribute, link or character that cards do not use."""
    parsed = _Tags(shown)
    known = "style div span strong small table thead tbody tr th td code pre details summary a"
    known += " h3 h4 h5 h6 p ul ol li blockquote em s hr br"  # of Markdown
    known += " svg g rect path text title"  # of drawings
    drawing = "width height viewbox role x y rx d fill stroke stroke-dasharray opacity font-size"
    assert parsed.tags <= set(known.split()), parsed.tags
    table = "tabindex aria-label"  # a table of data scrolls, also with the arrow keys
    known_attributes = {"class", "title", "open", "href", "rel", "target", "start", *drawing.split(), *table.split()}
    assert parsed.attributes <= known_attributes, parsed.attributes
    assert all(link.startswith(("http://", "https://")) for link in parsed.links), parsed.links
    assert not set("\x1b\u202e\r\x85") & set(shown)
    return True


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    print(f"{len(write(Path(sys.argv[1])))} pages in {sys.argv[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
