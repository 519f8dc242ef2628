"""Documents with false sizes, digests, types and relations."""

import json
import os

from ocikit.errors import ConnectionFailed
from ocikit.spec import media_types

from tests.security.attacks import attack, sha256

CONTENT = b"content"
SIZES = {"2^62": 2**62, "2^63": 2**63, "10^400": 10**400, "-1": -1, "1.5": 1.5, "1e30": 1e30, "'7'": "7",
         "true": True, "null": None, "[7]": [7]}  # fmt: skip
REFUSED = "InvalidDocument|SizeMismatch|ContentError|ConnectionFailed|UnsafeArchive|TooLarge|BlobUnknown"


def everything(scene, ref):
    """Run every call that a user has for an artifact."""
    with scene.memory():
        scene.user(lambda: scene.session.pull(ref, "out"))
        if not scene.ends[-1] or isinstance(scene.ends[-1], ConnectionFailed):
            return  # every verb resumes it a few times
        scene.user(lambda: scene.session.pull(ref))
        scene.user(lambda: scene.session.copy(ref, "oci:copy:v1"))
        scene.user(lambda: scene.session.open(ref, "file").read(100))
        scene.user(lambda: scene.session.inspect(ref).config)
        scene.user(lambda: scene.session.inspect(ref)._repr_html_() and None)


@attack("GHSA-f36w-mj3v-6jqv", "a layer whose size is {}", each=SIZES, ends=f"nothing|CopyError|{REFUSED}")
def the_size_of_a_layer_is_a_claim_and_sets_no_memory_aside(scene, size):
    everything(scene, scene.artifact(scene.layer(CONTENT, size=size)))
    assert not scene.files()
    assert sum(f.stat().st_blocks * 512 for f in scene.root.rglob("*") if f.is_file()) < 1 << 20


@attack(
    "GHSA-f36w-mj3v-6jqv",
    "a config whose size is {}",
    each={n: SIZES[n] for n in ("2^62", "-1", "10^400")},
    ends=f"nothing|CopyError|{REFUSED}",
)
def the_size_of_a_config_is_a_claim_and_sets_no_memory_aside(scene, size):
    config = {"mediaType": "application/vnd.example.config", "digest": sha256(b"{}"), "size": size}
    everything(scene, scene.artifact(scene.layer(CONTENT), config=config))


@attack("GHSA-f36w-mj3v-6jqv", "an index whose manifest has the size {}", each={n: SIZES[n] for n in ("2^62", "-1", "1.5", "10^400")},
        ends=f"CopyError|{REFUSED}")  # fmt: skip
def the_size_of_a_manifest_is_a_claim_and_sets_no_memory_aside(scene, size):
    ref = scene.artifact(scene.layer(CONTENT))
    child = {"mediaType": media_types.OCI_MANIFEST, "digest": scene.registry.tags["a/b", "v1"], "size": size,
             "platform": {"os": "linux", "architecture": "amd64"}}  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [child]}
    scene.registry.manifest("a/b", index, "v1", media_type=media_types.OCI_INDEX)
    with scene.memory():
        scene.user(lambda: scene.session.pull(ref, "out", platform="linux/amd64"))
        scene.user(lambda: scene.session.copy(ref, "oci:copy:v1"))


@attack("GHSA-f36w-mj3v-6jqv", "referrers with the size {}", each={n: SIZES[n] for n in ("2^62", "-1", "'7'", "10^400")},
        ends="nothing|InvalidDocument|InvalidResponse|CopyError|SizeMismatch|ManifestUnknown")  # fmt: skip
def the_size_of_a_referrer_is_a_claim_and_sets_no_memory_aside(scene, size):
    ref = scene.artifact(scene.layer(CONTENT))
    listed = {"mediaType": media_types.OCI_MANIFEST, "digest": sha256(b"x"), "size": size, "artifactType": "a/b"}
    body = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [listed]}).encode()
    scene.registry.on("GET", ".*/referrers/.*", times=None, status=200, headers={"Content-Type": media_types.OCI_INDEX}, body=body)  # fmt: skip
    with scene.memory():
        scene.user(lambda: list(scene.session.referrers(ref)))
        scene.user(lambda: scene.session.copy(ref, "oci:copy:v1", referrers=True))


def layout(scene, **changed):
    """Write the attacker's layout with one manifest and return its folder."""
    place = scene.root / "attacker" / "layout"
    (place / "blobs/sha256").mkdir(parents=True)
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    manifest = {"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "artifactType": "a/b", "layers": [scene.layer(CONTENT)],
                "config": {"mediaType": media_types.EMPTY, "digest": sha256(b"{}"), "size": 2}}  # fmt: skip
    raw = json.dumps(manifest).encode()
    for content in (raw, CONTENT, b"{}"):
        (place / "blobs/sha256" / sha256(content)[7:]).write_bytes(content)
    named = {"org.opencontainers.image.ref.name": "v1"}
    described = {"mediaType": media_types.OCI_MANIFEST, "digest": sha256(raw), "size": len(raw), "annotations": named}
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described | changed]}))
    return place


def use_layout(scene, place, *, copy=True):
    ref = f"oci:{place}:v1"
    with scene.memory():
        scene.user(lambda: scene.session.pull(ref, "out"))
        scene.user(lambda: scene.session.inspect(ref))
        scene.user(lambda: list(scene.session.tags(ref)))
        if copy:
            scene.user(lambda: scene.session.copy(ref, f"{scene.registry.host}/c/d:v1"))


@attack("GHSA-f36w-mj3v-6jqv", "an index.json of a layout, with the size {}", each={n: SIZES[n] for n in ("2^62", "-1", "1.5", "'7'", "10^400")},
        ends=f"nothing|CopyError|{REFUSED}|ManifestUnknown|NotFound")  # fmt: skip
def the_size_of_an_entry_is_a_claim_and_sets_no_memory_aside(scene, size):
    use_layout(scene, layout(scene, size=size))
    assert not scene.files()


LAYOUT_ENDS = f"nothing|CopyError|{REFUSED}|ManifestUnknown|NotFound|DigestMismatch"


@attack(
    "image-layout",
    "a layout whose {} is a FIFO",
    each={n: n for n in ("oci-layout", "index.json", "manifest", "layer", "blobs/sha256")},
    ends=LAYOUT_ENDS,
)
def a_fifo_in_a_layout_does_not_hang(scene, what):
    place = layout(scene)
    path = replaced(place, what)
    os.mkfifo(path)
    use_layout(scene, place)


@attack(
    "image-layout",
    "a layout whose {} is a symlink to a file of the user's",
    each={n: n for n in ("oci-layout", "index.json", "manifest", "layer")},
    ends=LAYOUT_ENDS,
)
def a_link_out_of_a_layout_gives_no_file_away(scene, what):
    place = layout(scene)
    replaced(place, what).symlink_to(scene.root / "secret")
    use_layout(scene, place)
    assert b"untouched" not in [*scene.files().values(), *scene.registry.blobs.values()]
    assert not any("untouched" in str(error) for error in scene.ends)


@attack(
    "image-layout",
    "a layout whose {} is an endless device",
    each={n: n for n in ("oci-layout", "index.json", "manifest", "layer")},
    ends=LAYOUT_ENDS,
)
def a_device_in_a_layout_is_not_read_without_end(scene, what):
    place = layout(scene)
    replaced(place, what).symlink_to("/dev/zero")
    use_layout(scene, place)


@attack(
    "image-layout",
    "a layout whose {} is a file of 1 GB",
    each={n: n for n in ("oci-layout", "index.json", "manifest")},
    ends=LAYOUT_ENDS,
)
def a_huge_document_of_a_layout_is_not_read(scene, what):
    place = layout(scene)
    with replaced(place, what).open("wb") as sparse:
        sparse.truncate(1 << 30)
    use_layout(scene, place)


def replaced(place, what):
    """Return the path of a part of a layout, after removing it."""
    if what == "blobs/sha256":
        (place / what).rename(place / "aside")
        return place / what
    if what in {"manifest", "layer"}:
        digest = json.loads((place / "index.json").read_bytes())["manifests"][0]["digest"]
        what = f"blobs/sha256/{(digest if what == 'manifest' else sha256(CONTENT))[7:]}"
    (place / what).unlink()
    return place / what


@attack("image-layout", "a push to a layout whose {} leads out of it", each={n: n for n in ("blobs", "blobs/sha256", "index.json", ".ocikit", "oci-layout")},
        ends=f"nothing|{REFUSED}|NotFound")  # fmt: skip
def a_push_to_a_hostile_layout_writes_nothing_elsewhere(scene, what):
    """A layout's owner may place links in it: they are followed, but no existing file is changed."""
    place = scene.root / "attacker/layout"
    outside = scene.root / "attacker/outside"
    place.mkdir()
    outside.mkdir()
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (place / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    (place / what).parent.mkdir(exist_ok=True)
    if (place / what).is_file():
        (place / what).unlink()
        (place / what).symlink_to(scene.root / "secret")
    else:
        (place / what).symlink_to(outside)
    (scene.work / "file").write_bytes(CONTENT)
    scene.user(lambda: scene.session.push(f"oci:{place}:v1", "file"))


# False content


LIES = {"other bytes than the digest's": b"evil!!!", "more bytes": CONTENT + b"!", "fewer bytes": CONTENT[:3]}


@attack(
    "distribution-spec, digests",
    "a blob with {}",
    each=LIES,
    ends="DigestMismatch|SizeMismatch|ConnectionFailed|CopyError|ContentError",
)
def a_blob_that_is_not_what_its_digest_says_is_not_kept(scene, body):
    ref = scene.artifact(scene.layer(CONTENT))
    scene.registry.on("GET", f".*/blobs/{sha256(CONTENT)}", times=None, status=200, body=body)
    scene.user(lambda: scene.session.pull(ref, "out"))
    if len(body) >= len(CONTENT):  # other verbs resume it a few times
        scene.user(lambda: scene.session.pull(ref))
        scene.user(lambda: scene.session.copy(ref, "oci:copy:v1"))
        scene.user(lambda: scene.session.open(ref, "file").read())
    assert not scene.files() and not list(scene.root.rglob(sha256(CONTENT)[7:]))


@attack("distribution-spec, digests", "a manifest with other bytes than {}", each={"the digest that was asked for": True, "the digest that is announced": False},
        ends="DigestMismatch|SizeMismatch|CopyError")  # fmt: skip
def a_manifest_that_is_not_what_its_digest_says_is_refused(scene, pinned):
    ref = scene.artifact(scene.layer(CONTENT))
    digest = scene.registry.tags["a/b", "v1"]
    other = json.dumps({"schemaVersion": 2, "layers": [], "config": {"mediaType": "a/b", "digest": sha256(b"{}"), "size": 2}}).encode()  # fmt: skip
    scene.registry.on("GET", ".*/manifests/.*", times=None, body=other)
    if pinned:
        ref = ref.replace(":v1", f"@{digest}")
    scene.user(lambda: scene.session.pull(ref, "out"))
    scene.user(lambda: scene.session.inspect(ref))
    scene.user(lambda: scene.session.copy(ref, "oci:copy:v1"))


@attack(
    "distribution-spec, tags",
    "another manifest for a tag, between the HEAD and the GET",
    ends="nothing|ManifestUnknown",
)
def a_tag_that_moves_while_it_is_read_gives_one_of_the_two(scene):
    ref = scene.artifact(scene.layer(b"new", "new"))
    old = scene.artifact(scene.layer(b"old", "old"))

    def swap(request, answer):
        scene.artifact(scene.layer(b"new", "new"))
        return answer

    scene.registry.on("HEAD", ".*/manifests/v1", change=swap)
    artifact = scene.user(lambda: scene.session.pull(old, "out"))
    assert (
        ref == old
        and scene.files() in ({"old": b"old"}, {"new": b"new"})
        and list(artifact.files) == list(scene.files())
    )


@attack("distribution-spec, digests", "a layer whose digest is {}", ends="UnverifiableDigest|InvalidDigest|InvalidDocument|CopyError",
        each={"md5's": "md5:" + "0" * 32, "sha1's": "sha1:" + "0" * 40, "in capitals": sha256(CONTENT).upper(), "with capital hex": "sha256:" + "A" * 64,
              "too short": "sha256:00", "blake3's": "blake3:" + "0" * 64, "a path": "sha256:../../../../etc/passwd",
              "a path of another algorithm": "x:../../secret", "no algorithm's": "..:..", "a URL": "sha256:" + "0" * 60 + "/../"})  # fmt: skip
def a_digest_that_cannot_be_verified_is_refused(scene, digest):
    everything_but = scene.artifact(scene.layer(CONTENT, digest=digest))
    scene.registry.on("GET", ".*/blobs/.*", times=None, status=200, body=CONTENT)
    scene.user(lambda: scene.session.pull(everything_but, "out"))
    scene.user(lambda: scene.session.pull(everything_but))
    scene.user(lambda: scene.session.copy(everything_but, "oci:copy:v1"))
    assert not scene.files()


@attack("CVE-2021-41190", "a document that is both manifest and index, as {}", ends="InvalidDocument|CopyError",
        each={"a manifest": media_types.OCI_MANIFEST, "an index": media_types.OCI_INDEX, "no type at all": ""})  # fmt: skip
def a_document_that_can_be_read_in_two_ways_is_refused(scene, kind):
    ref = scene.artifact(scene.layer(CONTENT), manifests=[], mediaType=kind or None)
    raw, _ = scene.registry.manifests["a/b", scene.registry.tags["a/b", "v1"]]
    scene.registry.manifest("a/b", raw, "v1", media_type=kind or "application/json")
    scene.user(lambda: scene.session.pull(ref, "out"))
    scene.user(lambda: scene.session.inspect(ref))


@attack("CVE-2021-41190", "an index that is served as a manifest, and the other way round: {}", ends="InvalidDocument|CopyError",
        each={"Content-Type": True, "mediaType": False})  # fmt: skip
def a_type_that_differs_from_the_documents_is_refused(scene, header):
    ref = scene.artifact(scene.layer(CONTENT), mediaType=media_types.OCI_MANIFEST if header else media_types.OCI_INDEX)
    raw, _ = scene.registry.manifests["a/b", scene.registry.tags["a/b", "v1"]]
    scene.registry.manifest("a/b", raw, "v1", media_type=media_types.OCI_INDEX if header else media_types.OCI_MANIFEST)
    scene.user(lambda: scene.session.pull(ref, "out"))
    scene.user(lambda: scene.session.inspect(ref))


@attack("image-spec, data", "a layer whose data is {}", ends="nothing|DigestMismatch|SizeMismatch|InvalidDocument|CopyError",
        each={"another content": "ZXZpbCEh", "of another length": "ZXZpbA==", "no base64": "!!!", "a number": 5})  # fmt: skip
def embedded_content_that_lies_is_not_taken(scene, data):
    ref = scene.artifact(scene.layer(CONTENT, data=data))
    scene.user(lambda: scene.session.pull(ref, "out"))
    scene.user(lambda: scene.session.pull(ref))
    scene.user(lambda: scene.session.open(ref, "file").read())
    scene.user(lambda: scene.session.copy(ref, "oci:copy:v1"))
    assert scene.files() in ({}, {"file": CONTENT})


@attack("distribution-spec, referrers", "referrers that {}", ends="nothing|InvalidDocument|InvalidResponse|CopyError|ManifestUnknown|DigestMismatch|SizeMismatch|BlobUnknown",
        each={"are of another repository": "absent", "are about something else": "other", "are the subject itself": "self"})  # fmt: skip
def a_list_of_referrers_that_lies_brings_nothing_but_what_it_names(scene, how):
    about = scene.artifact(scene.layer(b"other", "other"))
    other = scene.registry.tags["a/b", "v1"]
    ref = scene.artifact(scene.layer(CONTENT))
    digest = {"absent": sha256(b"private"), "other": other, "self": scene.registry.tags["a/b", "v1"]}[how]
    scene.registry.manifest("private/x", b"private")
    size = len(scene.registry.manifests.get(("a/b", digest), (b"private", ""))[0])
    listed = {"mediaType": media_types.OCI_MANIFEST, "digest": digest, "size": size}
    body = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [listed]}).encode()
    scene.registry.on("GET", ".*/referrers/.*", times=None, status=200, headers={"Content-Type": media_types.OCI_INDEX}, body=body)  # fmt: skip
    scene.user(lambda: list(scene.session.referrers(ref)))
    scene.user(lambda: scene.session.copy(ref, "oci:copy:v1", referrers=True))
    assert about == ref and not scene.registry.seen(path="/v2/private/.*")


@attack("distribution-spec, indexes", "an index that {}", ends="nothing|InvalidReference|InvalidDocument|CopyError|NoMatchingPlatform|TooLarge",
        each={"is in an index, a hundred times": 100, "names two thousand manifests": -2000})  # fmt: skip
def indexes_without_an_end_come_to_one(scene, depth):
    ref = scene.artifact(scene.layer(CONTENT))
    digest = scene.registry.tags["a/b", "v1"]
    raw, kind = scene.registry.manifests["a/b", digest]
    for _ in range(max(1, depth)):
        child = {"mediaType": kind, "digest": sha256(raw), "size": len(raw), "platform": {"os": "linux", "architecture": "amd64"}}  # fmt: skip
        raw, kind = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [child] * max(1, -depth)}).encode(), media_types.OCI_INDEX  # fmt: skip
        scene.registry.manifest("a/b", raw, "v1", media_type=kind)
    with scene.memory():
        scene.user(lambda: scene.session.pull(ref, "out", platform="linux/amd64"))
        scene.user(lambda: scene.session.copy(ref, "oci:copy:v1"))


@attack("resource use", "{}", ends="TooLarge|InvalidDocument|InvalidResponse|CopyError",
        each={"a manifest of 20 MB": b'{"x": "' + b"y" * 20_000_000 + b'"}', "a manifest of 100,000 arrays in arrays": b"[" * 100_000,
              "a manifest with a number of 100,000 digits": b'{"schemaVersion": ' + b"9" * 100_000 + b"}", "a manifest that is a list": b"[]"})  # fmt: skip
def documents_made_to_break_readers_are_refused(scene, raw):
    scene.registry.manifest("a/b", b"{}", "v1")
    scene.registry.on("GET|HEAD", ".*/manifests/.*", times=None, status=200, headers={"Content-Type": media_types.OCI_MANIFEST}, body=raw)  # fmt: skip
    with scene.memory(100 << 20):
        scene.user(lambda: scene.session.pull(f"{scene.registry.host}/a/b:v1", "out"))


@attack("resource use", "lists of tags {}", ends="InvalidResponse|TooLarge|nothing",
        each={"that lead back to where they were": "circle", "of 20 MB": "large", "of invalid names": "names"})  # fmt: skip
def lists_of_tags_come_to_an_end(scene, how):
    ref = scene.artifact(scene.layer(CONTENT))
    tags = {
        "circle": ["a"],
        "large": ["x" * 1000] * 20_000,
        "names": ["../..", "\x1b[31m", 5, None, {"a": 1}, "a/b", "x" * 200, ""],
    }[how]
    headers = {"Link": '</v2/a/b/tags/list?n=1&last=a>; rel="next"'} if how == "circle" else {}
    scene.registry.on("GET", ".*/tags/list", times=None, status=200, headers={"Content-Type": "application/json"} | headers,
                      body=json.dumps({"name": "a/b", "tags": tags}).encode())  # fmt: skip
    with scene.memory(100 << 20):
        found = scene.user(lambda: list(scene.session.tags(ref)))
    assert how != "names" or found == []
