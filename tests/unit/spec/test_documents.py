"""Tests of documents: preserved bytes and unknown keys, and errors with paths."""

import copy
import json
import pickle
import re
import threading

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ocikit.errors import InvalidDocument, UnsupportedSchema1, Violation
from ocikit.spec import media_types
from ocikit.spec.annotations import Annotations, FrozenMap, freeze, thaw
from ocikit.spec.config import History, ImageConfig, RootFS
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT, encode, load_json, structure
from ocikit.spec.manifest import ArtifactManifest, Index, Manifest, parse_document
from ocikit.spec.platform import Platform

A, B, C = ("sha256:" + c * 64 for c in "abc")

#: The examples of the image specification.
MANIFEST = """{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": {
    "mediaType": "application/vnd.oci.image.config.v1+json",
    "digest": "sha256:b5b2b2c507a0944348e0303114d8d93aaaa081732b86451d9bce1f432a537bc7",
    "size": 7023
  },
  "layers": [
    {
      "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
      "digest": "sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0",
      "size": 32654
    },
    {
      "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
      "digest": "sha256:3c3a4604a545cdc127456d94e421cd355bca5b528f4a9c1905b15da2eb4a4c6b",
      "size": 16724
    }
  ],
  "subject": {
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "digest": "sha256:5b0bcabd1ed22e9fb1310cf6c2dec7cdef19f0ad69efa1f392e94a4333501270",
    "size": 7682
  },
  "annotations": {
    "com.example.key1": "value1",
    "com.example.key2": "value2"
  }
}
"""
ARTIFACT = """{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "artifactType": "application/vnd.example+type",
  "config": {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "size": 2
  },
  "layers": [
    {
      "mediaType": "application/vnd.oci.empty.v1+json",
      "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
      "size": 2,
      "data": "e30="
    }
  ],
  "annotations": {
    "oci.opencontainers.image.created": "2023-01-02T03:04:05Z",
    "com.example.data": "payload"
  }
}"""
INDEX = """{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.index.v1+json",
  "manifests": [
    {
      "mediaType": "application/vnd.oci.image.manifest.v1+json",
      "size": 7143,
      "digest": "sha256:e692418e4cbaf90ca69d05a66403747baa33ee08806650b51fab815ad7fc331f",
      "platform": {
        "architecture": "ppc64le",
        "os": "linux"
      }
    },
    {
      "mediaType": "application/vnd.oci.image.index.v1+json",
      "size": 7682,
      "digest": "sha256:601570aaff1b68a61eb9c85b8beca1644e698003e0cdb5bce960f193d265a8b7"
    }
  ],
  "annotations": {
    "com.example.key1": "value1",
    "com.example.key2": "value2"
  }
}"""
CONFIG = """{
    "created": "2015-10-31T22:22:56.015925234Z",
    "author": "Alyssa P. Hacker <alyspdev@example.com>",
    "architecture": "amd64",
    "os": "linux",
    "config": {
        "User": "alice",
        "ExposedPorts": {
            "8080/tcp": {}
        },
        "Env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "FOO=oci_is_a",
            "BAR=well_written_spec"
        ],
        "Entrypoint": [
            "/bin/my-app-binary"
        ],
        "WorkingDir": "/home/alice",
        "Labels": {
            "com.example.project.git.url": "https://example.com/project.git"
        }
    },
    "rootfs": {
      "diff_ids": [
        "sha256:c6f988f4874bb0add23a778f753c65efe992244e148a1d2ec2a8b664fb66bbd1",
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
      ],
      "type": "layers"
    },
    "history": [
      {
        "created": "2015-10-31T22:22:54.690851953Z",
        "created_by": "/bin/sh -c #(nop) ADD file:a3bc1e842b69636f9df5256c49c5374fb4eef1e281fe3f282c65fb853ee171c5 in /"
      },
      {
        "created": "2015-10-31T22:22:55.613815829Z",
        "created_by": "/bin/sh -c #(nop) CMD [\\"sh\\"]",
        "empty_layer": true
      }
    ]
}"""
DOCKER_MANIFEST = json.dumps({
    "schemaVersion": 2,
    "mediaType": media_types.DOCKER_MANIFEST,
    "config": {"mediaType": media_types.DOCKER_CONFIG, "size": 7023, "digest": A},
    "layers": [
        {"mediaType": media_types.DOCKER_LAYER_GZIP, "size": 32654, "digest": B},
        {"mediaType": media_types.DOCKER_FOREIGN_LAYER, "size": 1, "digest": C, "urls": ["https://h.io/layer"]},
    ],
}, indent=3)  # fmt: skip
DOCKER_LIST = json.dumps({
    "schemaVersion": 2,
    "mediaType": media_types.DOCKER_INDEX,
    "manifests": [
        {"mediaType": media_types.DOCKER_MANIFEST, "size": 1, "digest": A,
         "platform": {"architecture": "amd64", "os": "linux", "features": ["sse4"]}},
        {"mediaType": media_types.DOCKER_MANIFEST, "size": 2, "digest": B,
         "platform": {"architecture": "amd64", "os": "windows", "os.version": "10.0.17763.1", "os.features": ["win32k"]}},
    ],
}, indent=3)  # fmt: skip
DOCKER_EXTRAS = json.dumps({
    "architecture": "arm", "variant": "v7", "os": "linux", "docker_version": "20.10", "container": "0" * 64,
    "container_config": {"Hostname": "x", "Cmd": None, "Labels": {}}, "config": {"Env": ["A=b"], "Cmd": None, "ArgsEscaped": True},
    "rootfs": {"type": "layers", "diff_ids": None}, "history": None, "moby.buildkit.cache.v0": "x",
})  # fmt: skip

EXAMPLES = [
    (Manifest, MANIFEST), (Manifest, ARTIFACT), (Index, INDEX), (ImageConfig, CONFIG),
    (Manifest, DOCKER_MANIFEST), (Index, DOCKER_LIST), (ImageConfig, DOCKER_EXTRAS),
]  # fmt: skip


def manifest(**changes):
    """Return the JSON of a small manifest with changes; the value `...` removes a key."""
    value = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": {"mediaType": "a/b", "digest": A, "size": 1},
        "layers": [{"mediaType": "a/b", "digest": B, "size": 2}],
    } | changes
    return {k: v for k, v in value.items() if v is not ...}


def descriptor(**changes):
    value = {"mediaType": "a/b", "digest": A, "size": 1} | changes
    return {k: v for k, v in value.items() if v is not ...}


def raw(value):
    return json.dumps(value).encode()


# Valid documents


@pytest.mark.parametrize(("cls", "text"), EXAMPLES)
def test_parsed_document_has_original_bytes(cls, text):
    content = text.encode()
    document = cls.parse(content)
    assert document.raw == content
    assert document.size == len(content)
    assert document.digest == Digest.of(content)
    assert document.to_dict() == json.loads(text)
    assert document.descriptor.digest == Digest.of(content)
    assert document.descriptor.size == len(content)


@pytest.mark.parametrize(("cls", "text"), EXAMPLES)
def test_reencoded_document_has_equal_fields(cls, text):
    document = cls.parse(text.encode())
    again = json.loads(encode(document))
    assert again == without_null(json.loads(text), cls)


def without_null(value, cls):
    """Return the value without known keys that are null; empty required arrays are kept."""
    value = copy.deepcopy(value)
    if cls is ImageConfig:
        if value["rootfs"].get("diff_ids") is None:
            value["rootfs"]["diff_ids"] = []
        if value.get("history", ...) is None:
            del value["history"]
    return value


@pytest.mark.parametrize(("cls", "text"), [(cls, text) for cls, text in EXAMPLES if cls is not ImageConfig])
def test_document_class_follows_media_type(cls, text):
    document = parse_document(text.encode())
    assert type(document) is cls
    assert document == cls.parse(text.encode())
    assert parse_document(text.encode(), f"{document.media_type}; charset=utf-8") == document
    assert document.descriptor.media_type == document.media_type


def test_manifest_has_fields_of_its_json():
    m = Manifest.parse(MANIFEST.encode())
    assert (m.schema_version, m.media_type) == (2, media_types.OCI_MANIFEST)
    assert m.config == Descriptor(
        media_type=media_types.OCI_CONFIG,
        digest=Digest("sha256:b5b2b2c507a0944348e0303114d8d93aaaa081732b86451d9bce1f432a537bc7"),
        size=7023,
    )
    assert [layer.size for layer in m.layers] == [32654, 16724]
    assert m.subject.size == 7682
    assert m.annotations == {"com.example.key1": "value1", "com.example.key2": "value2"}
    assert m.is_image
    assert m.kind == media_types.OCI_CONFIG
    assert m.blobs == m.children == (m.config, *m.layers)
    assert m.extra == {}


def test_artifact_kind_is_artifact_type():
    m = Manifest.parse(ARTIFACT.encode())
    assert m.kind == m.artifact_type == m.descriptor.artifact_type == "application/vnd.example+type"
    assert not m.is_image
    assert m.config.key == EMPTY_DESCRIPTOR.key
    assert m.layers[0].data == b"{}"


def test_config_has_fields_of_its_json():
    c = ImageConfig.parse(CONFIG.encode())
    assert c.platform == Platform(os="linux", architecture="amd64")
    assert c.config["Env"][1] == "FOO=oci_is_a"
    assert c.config["ExposedPorts"] == {"8080/tcp": {}}
    assert len(c.rootfs.diff_ids) == 2
    assert all(type(d) is Digest for d in c.rootfs.diff_ids)
    assert [h.empty_layer for h in c.history] == [False, True]
    assert c.descriptor.media_type == media_types.OCI_CONFIG


def test_docker_config_preserves_docker_only_keys():
    c = ImageConfig.parse(DOCKER_EXTRAS.encode())
    assert c.platform == Platform(os="linux", architecture="arm", variant="v7")
    assert c.rootfs.diff_ids == ()
    assert c.history == ()
    assert c.extra["docker_version"] == "20.10"
    assert c.config["Cmd"] is None
    again = json.loads(attrs.evolve(c, author="me").raw)
    assert again["container_config"] == {"Hostname": "x", "Cmd": None, "Labels": {}}
    assert again["config"] == {"Env": ["A=b"], "Cmd": None, "ArgsEscaped": True}
    assert again["author"] == "me"


def test_docker_list_has_windows_versions():
    index = parse_document(DOCKER_LIST.encode())
    assert index.manifests[1].platform.os_version == "10.0.17763.1"
    assert index.manifests[1].platform.os_features == ("win32k",)
    assert index.manifests[0].platform.extra == {"features": ("sse4",)}
    assert json.loads(encode(index)) == json.loads(DOCKER_LIST)


def test_keys_are_encoded_in_specification_order():
    assert list(json.loads(encode(Manifest.parse(MANIFEST.encode())))) == list(json.loads(MANIFEST))
    assert list(json.loads(encode(Manifest.parse(ARTIFACT.encode())))) == list(json.loads(ARTIFACT))


def test_null_of_known_key_means_absent():
    m = parse_document(raw(manifest(layers=None, annotations=None, subject=None, artifactType=None)))
    assert (m.layers, m.annotations, m.subject, m.artifact_type) == ((), {}, None, None)
    i = parse_document(raw({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": None}))
    assert i.manifests == ()
    d = structure(descriptor(urls=None, annotations=None, data=None, platform=None), Descriptor)
    assert d == structure(descriptor(), Descriptor)


def test_null_in_annotations_and_lists_of_strings_means_absent():
    m = parse_document(
        raw(manifest(annotations={"a": None, "b": "c"}, layers=[descriptor(urls=[None, "https://h.io"])]))
    )
    assert (m.annotations, m.layers[0].urls) == ({"b": "c"}, ("https://h.io",))
    config = ImageConfig.parse(
        raw({"architecture": "a", "os": None, "os.features": [None], "rootfs": {"diff_ids": None}})
    )
    assert (config.os, config.os_features, config.rootfs.diff_ids) == ("", (), ())


@pytest.mark.parametrize("platform", [{}, None, {"os": ""}, {"os": "", "architecture": ""}, {"variant": None}])
def test_empty_platform_means_absent(platform):
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [descriptor(platform=platform)]}
    document = parse_document(raw(index))
    assert document.manifests[0].platform is None
    assert document.platforms == ()
    assert document.select() == document.manifests[0]
    assert document.raw == raw(index)


def test_missing_part_of_platform_is_empty():
    linux = structure(descriptor(platform={"os": "linux"}), Descriptor).platform
    assert (linux.os, linux.architecture, str(linux)) == ("linux", "", "linux")
    assert Platform.parse("linux/amd64").rank(linux) is None


def test_config_without_fields_is_read_as_empty():
    config = ImageConfig.parse(b"{}")
    assert (config.os, config.architecture, config.rootfs.diff_ids) == ("", "", ())


@pytest.mark.parametrize("value", [bytearray(MANIFEST.encode()), memoryview(MANIFEST.encode())])
def test_raw_is_bytes_for_any_buffer_type(value):
    for document in (Manifest.parse(value), parse_document(value)):
        assert type(document.raw) is bytes
        assert document.raw == MANIFEST.encode()


# Evolved documents


def test_evolved_document_has_all_fields_but_new_bytes():
    old = Manifest.parse(raw(manifest(
        artifactType="a/t", subject=descriptor(artifactType="x/y", digest=C), future=[1, {"a": None}],
        layers=[descriptor(artifactType="l/t", future=1, data="YQ==", urls=["https://h.io"])],
    )))  # fmt: skip
    assert old.digest  # cached
    new = attrs.evolve(old, annotations=Annotations({"a": "b"}))
    assert new.raw != old.raw
    assert new.digest == Digest.of(new.raw) != old.digest
    assert new.size == len(new.raw)
    said = json.loads(new.raw)
    assert said.pop("annotations") == {"a": "b"}
    assert said == json.loads(old.raw)
    assert (new.artifact_type, new.subject, new.extra, new.layers) == (
        old.artifact_type, old.subject, old.extra, old.layers,
    )  # fmt: skip


def test_evolved_descriptor_keeps_artifact_type_and_unknown_keys():
    d = structure(descriptor(artifactType="x/y", future={"a": 1}), Descriptor)
    moved = attrs.evolve(d, size=2)
    assert (moved.artifact_type, moved.extra) == ("x/y", {"future": {"a": 1}})
    noted = d.annotated(**{"a.b": "c"})
    assert (noted.artifact_type, noted.extra, noted.annotations) == ("x/y", {"future": {"a": 1}}, {"a.b": "c"})


def test_evolve_without_change_keeps_fields_but_not_digest():
    old = Manifest.parse(MANIFEST.encode())
    new = attrs.evolve(old)
    assert new == old
    assert hash(new) == hash(old)
    assert new.digest != old.digest
    assert json.loads(new.raw) == json.loads(old.raw)


#: The paths of objects in documents.
PLACES = [
    (Manifest, MANIFEST, ()), (Manifest, MANIFEST, ("config",)), (Manifest, MANIFEST, ("layers", 1)),
    (Manifest, MANIFEST, ("subject",)), (Index, INDEX, ()), (Index, INDEX, ("manifests", 0)),
    (Index, INDEX, ("manifests", 0, "platform")), (ImageConfig, CONFIG, ()), (ImageConfig, CONFIG, ("rootfs",)),
    (ImageConfig, CONFIG, ("config",)), (ImageConfig, CONFIG, ("history", 0)),
]  # fmt: skip

FUTURE = {
    "fromTheFuture": {"nested": [1, 2.5, None, {"deep": True}], "text": "é漢😀"},
    "extra": "a key of our field's name",
    "media_type": "a key of our other field's name",
    "_raw": 1,
    "": "no name",
    "nothing": None,
}


@pytest.mark.parametrize(("cls", "text", "place"), PLACES)
def test_unknown_keys_survive_parse_evolve_and_encode(cls, text, place):
    value = json.loads(text)
    spot = value
    for step in place:
        spot = spot[step]
    spot.update(FUTURE)
    document = cls.parse(raw(value))
    again = attrs.evolve(document)
    assert again.raw == encode(document)
    assert json.loads(again.raw) == value
    assert cls.parse(again.raw) == document
    assert pickle.loads(pickle.dumps(document)) == document
    hash(document)


def test_every_model_preserves_unknown_keys():
    for cls in (Descriptor, Platform, RootFS, History, Manifest, Index, ImageConfig):
        assert attrs.fields(cls).extra.default is not attrs.NOTHING


def test_extra_keys_never_replace_known_keys():
    d = Descriptor(media_type="a/b", digest=Digest(A), size=1)
    m = Manifest(config=d, extra={"layers": "hidden", "future": 1})
    assert json.loads(m.raw)["layers"] == []
    assert json.loads(m.raw)["future"] == 1


def test_evolved_document_without_media_type_gets_one():
    for announced in (None, "application/json", media_types.OCI_MANIFEST, media_types.DOCKER_MANIFEST):
        content = raw(manifest(mediaType=...))
        m = parse_document(content, announced)
        expected = announced if announced in media_types.MANIFEST_TYPES else media_types.OCI_MANIFEST
        assert m.media_type == expected
        assert m.raw == content
        assert m.descriptor.media_type == expected
        assert json.loads(attrs.evolve(m).raw)["mediaType"] == expected


def test_missing_media_type_is_not_encoded_as_null():
    m = Manifest(media_type=None, config=EMPTY_DESCRIPTOR)
    assert "mediaType" not in json.loads(m.raw)
    assert m.descriptor.media_type == media_types.OCI_MANIFEST


# Values


@pytest.mark.parametrize(("cls", "text"), EXAMPLES)
def test_equal_documents_have_equal_hashes(cls, text):
    one, two = cls.parse(text.encode()), cls.parse(json.dumps(json.loads(text)).encode())
    assert one == two
    assert hash(one) == hash(two)
    assert len({one, two}) == 1
    assert one.digest != two.digest or one.raw == two.raw
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.extra = {}


@pytest.mark.parametrize(("cls", "text"), EXAMPLES)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_pickled_document_keeps_its_bytes(cls, text, protocol):
    one = cls.parse(text.encode())
    for twin in (pickle.loads(pickle.dumps(one, protocol)), copy.deepcopy(one), copy.copy(one)):
        assert twin == one
        assert twin.raw == text.encode()
        assert twin.digest == one.digest
        assert type(twin.digest) is Digest
        assert hash(twin) == hash(one)


def test_lists_become_tuples_and_maps_immutable():
    d = Descriptor(
        media_type="a/b", digest=Digest(A), size=1, urls=["u"], annotations={"a": "b"}, extra={"k": [1, {"x": [2]}]}
    )
    p = Platform(os="linux", architecture="amd64", os_features=["f"], extra={"k": []})
    m = Manifest(config=d, layers=[d], annotations={"a": "b"}, extra={"k": [1]})
    i = Index(manifests=iter([d]))
    c = ImageConfig(
        os="linux", architecture="amd64", rootfs=RootFS(diff_ids=[Digest(A)]), history=[History()], config={"Env": ["a"]},
        os_features=["f"],
    )  # fmt: skip
    for value in (d, p, m, i, c, c.rootfs, c.history[0]):
        hash(value)
        assert pickle.loads(pickle.dumps(value)) == value
    assert d.extra["k"] == (1, {"x": (2,)})
    assert json.loads(m.raw)["config"]["k"] == [1, {"x": [2]}]


def test_value_ignores_later_changes_of_arguments():
    notes = {"a": "b"}
    d = Descriptor(media_type="a/b", digest=Digest(A), size=1, annotations=notes)
    notes["a"] = "changed"
    assert d.annotations == {"a": "b"}
    with pytest.raises(TypeError):
        d.annotations["a"] = "changed"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_thawed_value_equals_original_json(value):
    frozen = freeze(value)
    assert thaw(frozen) == value
    assert hash(frozen) == hash(freeze(value))
    assert pickle.loads(pickle.dumps(frozen)) == frozen
    assert isinstance(frozen, FrozenMap)


def test_many_threads_get_one_document_digest():
    m = attrs.evolve(Manifest.parse(MANIFEST.encode()))
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(m.digest)) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(seen) == {Digest.of(m.raw)}
    assert len(seen) == 16


# Invalid documents and their paths

WRONG = [
    (manifest(config=descriptor(digest=...)), "required field missing @ $.config.digest"),
    (manifest(config=descriptor(digest=None)), "required field missing @ $.config.digest"),
    (manifest(config=descriptor(mediaType=...)), "required field missing @ $.config.mediaType"),
    (manifest(config=descriptor(size=...)), "required field missing @ $.config.size"),
    (manifest(config=...), "required field missing @ $.config"),
    (manifest(config=None), "required field missing @ $.config"),
    (manifest(config=[]), "expected an object, found an array @ $.config"),
    (manifest(config="x"), "expected an object, found a string @ $.config"),
    (manifest(layers={}), "expected an array, found an object @ $.layers"),
    (manifest(layers="abc"), "expected an array, found a string @ $.layers"),
    (manifest(layers=5), "expected an array, found an integer @ $.layers"),
    (manifest(layers=[None]), "expected an object, found null @ $.layers[0]"),
    (manifest(layers=[[]]), "expected an object, found an array @ $.layers[0]"),
    (manifest(layers=[descriptor(), descriptor(size=-1)]), "-1 is not between 0 and 2^63-1 @ $.layers[1].size"),
    (manifest(layers=[descriptor(size=2**63)]), f"{2**63} is not between 0 and 2^63-1 @ $.layers[0].size"),
    (manifest(layers=[descriptor(size=True)]), "expected an integer, found true or false @ $.layers[0].size"),
    (manifest(layers=[descriptor(size=1.0)]), "expected an integer, found a number @ $.layers[0].size"),
    (manifest(layers=[descriptor(size="1")]), "expected an integer, found a string @ $.layers[0].size"),
    (
        manifest(layers=[descriptor(digest="sha256:ab")]),
        "'sha256:ab' has 2 characters after 'sha256' @ $.layers[0].digest",
    ),
    (manifest(layers=[descriptor(digest=A.upper())]), "has upper-case letters @ $.layers[0].digest"),
    (manifest(layers=[descriptor(digest=5)]), "5 is not a digest @ $.layers[0].digest"),
    (manifest(layers=[descriptor(mediaType=5)]), "expected a string, found an integer @ $.layers[0].mediaType"),
    (manifest(layers=[descriptor(urls="https://h.io")]), "expected an array, found a string @ $.layers[0].urls"),
    (manifest(layers=[descriptor(urls=[1])]), "expected a string, found an integer @ $.layers[0].urls[0]"),
    (manifest(layers=[descriptor(data="!")]), "not base64 @ $.layers[0].data"),
    (manifest(layers=[descriptor(data="YQ")]), "not base64 @ $.layers[0].data"),
    (manifest(layers=[descriptor(data=["YQ=="])]), "expected a string, found an array @ $.layers[0].data"),
    (manifest(layers=[descriptor(annotations=[])]), "expected an object, found an array @ $.layers[0].annotations"),
    (manifest(annotations={"a.b": 5}), "expected a string, found an integer @ $.annotations['a.b']"),
    (manifest(annotations="x"), "expected an object, found a string @ $.annotations"),
    (manifest(artifactType=5), "expected a string, found an integer @ $.artifactType"),
    (manifest(subject=[]), "expected an object, found an array @ $.subject"),
    (manifest(subject={}), "required field missing @ $.subject.digest"),
    (manifest(schemaVersion="2"), "expected an integer, found a string @ $.schemaVersion"),
    (manifest(schemaVersion=True), "expected an integer, found true or false @ $.schemaVersion"),
    (manifest(schemaVersion=1.0), "expected an integer, found a number @ $.schemaVersion"),
    (manifest(schemaVersion=3), "schemaVersion 3, expected 2 @ $.schemaVersion"),
    (manifest(mediaType=5), "expected a string @ $.mediaType"),
    (manifest(mediaType="text/plain"), "'text/plain' is not a manifest or index type"),
]
WRONG_INDEX = [
    ({"manifests": [descriptor(platform="linux/amd64")]}, "expected an object, found a string @ $.manifests[0].platform"),
    ({"manifests": [descriptor(platform={"os": "l", "architecture": "a", "os.version": 1})]},
     "expected a string, found an integer @ $.manifests[0].platform.os.version"),
    ({"manifests": [descriptor(platform={"os": "l", "architecture": "a", "os.features": "win32k"})]},
     "expected an array, found a string @ $.manifests[0].platform.os.features"),
    ({"manifests": {"a": descriptor()}}, "expected an array, found an object @ $.manifests"),
]  # fmt: skip
WRONG_CONFIG = [
    ({"architecture": "a", "os": 5, "rootfs": {}}, "expected a string, found an integer @ $.os"),
    ({"architecture": "a", "os": "l", "rootfs": {"diff_ids": ["x"]}}, "'x' is not a digest @ $.rootfs.diff_ids[0]"),
    ({"architecture": "a", "os": "l", "rootfs": {}, "history": [{"empty_layer": 1}]},
     "expected true or false, found an integer @ $.history[0].empty_layer"),
    ({"architecture": "a", "os": "l", "rootfs": {}, "config": []}, "expected an object, found an array @ $.config"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "problem"), WRONG)
def test_invalid_manifest_error_has_path(value, problem):
    for parse in (parse_document, Manifest.parse):
        with pytest.raises(InvalidDocument) as caught:
            parse(raw(value))
        assert problem in caught.value.message


@pytest.mark.parametrize(("value", "problem"), WRONG_INDEX)
def test_invalid_index_error_has_path(value, problem):
    with pytest.raises(InvalidDocument, match=re.escape(problem)):
        Index.parse(raw({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX} | value))


@pytest.mark.parametrize(("value", "problem"), WRONG_CONFIG)
def test_invalid_config_error_has_path(value, problem):
    with pytest.raises(InvalidDocument, match=re.escape(problem)):
        ImageConfig.parse(raw(value))


def test_error_lists_several_problems_up_to_limit():
    with pytest.raises(InvalidDocument) as caught:
        Manifest.parse(raw(manifest(config={}, layers=[descriptor(size=-1)] * 100, annotations={"a": 1, "b": 2})))
    message = caught.value.message
    assert "$.config.digest" in message
    assert "more" in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    "value",
    [
        manifest(annotations={"k" * 100_000: 5}),
        manifest(layers=[descriptor(digest="x" * 100_000)]),
        manifest(mediaType="x" * 100_000),
        manifest(layers=[descriptor(size=10**4000)]),
    ],
)
def test_error_of_huge_invalid_value_is_short(value):
    with pytest.raises(InvalidDocument) as caught:
        parse_document(raw(value))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("size", [0, 1, 2**53 + 1, 2**63 - 1])
def test_sizes_up_to_limit_are_exact(size):
    m = parse_document(raw(manifest(layers=[descriptor(size=size)])))
    assert m.layers[0].size == size


# Bytes that are not a document

BROKEN = [
    (b"", "not JSON"),
    (b" ", "not JSON"),
    (b"{", "not JSON"),
    (b"<html><body>Login</body></html>", "not JSON"),
    (b"null", "expected an object, found null"),
    (b"[]", "expected an object, found an array"),
    (b'"x"', "expected an object, found a string"),
    (b"5", "expected an object, found an integer"),
    (b"true", "expected an object, found true or false"),
    (b"{}{}", "not JSON"),
    (b"\xef\xbb\xbf" + MANIFEST.encode(), "not JSON"),
    (MANIFEST.encode("utf-16"), "not JSON"),
    (MANIFEST.encode("utf-16-le"), "not JSON"),
    (MANIFEST.encode("utf-32"), "not JSON"),
    (b'{"a": "\xff"}', "not JSON"),
    (b'{"a": "\xc0\x80"}', "not JSON"),
    (b'{"a": "\xed\xa0\x80"}', "not JSON"),  # a surrogate, encoded
    (b'{"a": NaN}', "NaN is not a JSON value"),
    (b'{"a": Infinity}', "Infinity is not a JSON value"),
    (b'{"a": -Infinity}', "-Infinity is not a JSON value"),
    (b'{"a": 1' + b"0" * 5000 + b"}", "not JSON"),
    (b'{"layers": [], "layers": []}', "duplicate key 'layers'"),
    (b'{"a": {"x": 1, "y": 2, "x": 3}}', "duplicate key 'x'"),
    (b'{"a": "x\x00"}', "not JSON"),
    (b"\x00" * 100, "not JSON"),
    (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
    (b'{"a": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "not JSON"),
]


@pytest.mark.parametrize(("content", "problem"), BROKEN)
@pytest.mark.parametrize("parse", [parse_document, Manifest.parse, Index.parse, ImageConfig.parse])
def test_non_json_object_is_rejected(parse, content, problem):
    with pytest.raises(InvalidDocument) as caught:
        parse(content)
    assert problem in caught.value.message
    assert len(str(caught.value)) < 500
    str(caught.value).encode()


@pytest.mark.parametrize("depth", [65, 200, 400, 900])
@pytest.mark.parametrize("place", ["future", "layers", "annotations", "config", "subject"])
def test_too_deep_nesting_is_rejected_with_path(depth, place):
    bomb = "[" * depth + "]" * depth
    value = manifest()
    value[place] = "BOMB"
    with pytest.raises(InvalidDocument):
        parse_document(json.dumps(value).replace('"BOMB"', bomb).encode())
    with pytest.raises(InvalidDocument, match=r"nested deeper than 64 levels @ \$"):
        ImageConfig.parse(raw({"architecture": "a", "os": "l", "rootfs": {}, "x": 1}).replace(b"1", bomb.encode()))


def test_moderate_nesting_is_preserved():
    value = "leaf"
    for _ in range(60):
        value = [value]
    m = parse_document(raw(manifest(future=value)))
    assert json.loads(attrs.evolve(m).raw)["future"] == value
    assert pickle.loads(pickle.dumps(m)) == m
    hash(m)
    assert len(repr(m.extra)) > 60


def test_document_above_limit_is_rejected_before_parsing():
    big = raw(manifest(future="x" * DOCUMENT_LIMIT))
    for parse in (parse_document, Manifest.parse):
        with pytest.raises(InvalidDocument, match="larger than the limit of 4194304"):
            parse(big)
        assert parse(big, limit=8 * 1024 * 1024).raw == big
    exact = raw(manifest())
    assert parse_document(exact, limit=len(exact)).raw == exact
    with pytest.raises(InvalidDocument):
        parse_document(exact, limit=len(exact) - 1)


def test_lone_surrogate_is_preserved_but_not_reencoded():
    content = json.dumps(manifest(annotations={"a": "\ud800"})).encode()
    m = parse_document(content)
    assert m.raw == content
    assert m.digest == Digest.of(content)
    changed = attrs.evolve(m, artifact_type="x/y")
    for ask in (lambda: changed.raw, lambda: changed.digest, lambda: changed.size, lambda: changed.descriptor):
        with pytest.raises(InvalidDocument, match="not Unicode text") as caught:
            ask()
        str(caught.value).encode()
    assert hash(changed)
    repr(changed).encode()


@pytest.mark.parametrize(
    "extra", [{"a": float("inf")}, {"a": float("nan")}, {"a": object()}, {"a": {1, 2}}, {"a": b"x"}]
)
def test_non_json_value_raises_when_encoded(extra):
    with pytest.raises(InvalidDocument, match="can't be encoded"):
        _ = Manifest(config=EMPTY_DESCRIPTOR, extra=extra).raw


def test_infinite_number_is_preserved_but_not_reencoded():
    m = parse_document(raw(manifest(future=0)).replace(b'"future": 0', b'"future": 1e999'))
    assert b"1e999" in m.raw
    with pytest.raises(InvalidDocument):
        _ = attrs.evolve(m).raw


KEYS = st.sampled_from(
    ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "annotations", "artifactType", "digest",
     "size", "urls", "data", "platform", "os", "architecture", "os.features", "os.version", "rootfs", "diff_ids", "history",
     "empty_layer", "created", "extra"]
)  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([2, 1, A, media_types.OCI_MANIFEST, media_types.OCI_INDEX, media_types.DOCKER_MANIFEST, "e30="])
)  # fmt: skip
OBJECTS = st.dictionaries(
    KEYS | st.text(max_size=3),
    st.recursive(
        LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), v, max_size=5)
    ),
    max_size=8,
)


@given(OBJECTS)
def test_any_json_object_parses_or_raises_invalid_document(value):
    content = json.dumps(value).encode()
    for parse in (parse_document, Manifest.parse, Index.parse, ImageConfig.parse):
        try:
            document = parse(content)
        except InvalidDocument as error:
            str(error).encode()
        else:
            assert document.raw == content
            hash(document)
            repr(document)
            document._repr_html_()


@given(st.binary(max_size=300))
@example(b'{"schemaVersion":1e400}')
def test_any_bytes_parse_or_raise_invalid_document(content):
    for parse in (parse_document, ImageConfig.parse):
        try:
            parse(content)
        except InvalidDocument:
            pass


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
DIGESTS = st.from_regex(r"sha256:[a-f0-9]{64}|x\+y:[a-zA-Z0-9=_-]{1,9}", fullmatch=True).map(Digest)
NOTES = st.dictionaries(TEXT, TEXT, max_size=3)
PLATFORMS = st.builds(
    Platform,
    os=TEXT,
    architecture=TEXT,
    variant=st.none() | TEXT,
    os_version=st.none() | TEXT,
    os_features=st.lists(TEXT, max_size=2),
)
DESCRIPTORS = st.builds(
    Descriptor, media_type=TEXT, digest=DIGESTS, size=st.integers(0, 2**63 - 1), urls=st.lists(TEXT, max_size=2),
    annotations=NOTES, data=st.none() | st.binary(max_size=9), artifact_type=st.none() | TEXT, platform=st.none() | PLATFORMS,
    extra=st.dictionaries(st.sampled_from(["x", "y.z"]), JSON.filter(lambda v: "\\ud" not in json.dumps(v)), max_size=2),
)  # fmt: skip
MANIFESTS = st.builds(
    Manifest, media_type=st.sampled_from(sorted(media_types.MANIFEST_TYPES)), config=DESCRIPTORS,
    layers=st.lists(DESCRIPTORS, max_size=3), artifact_type=st.none() | TEXT, subject=st.none() | DESCRIPTORS, annotations=NOTES,
)  # fmt: skip
ARTIFACTS = st.builds(
    ArtifactManifest, layers=st.lists(DESCRIPTORS, max_size=3), artifact_type=st.none() | TEXT, subject=st.none() | DESCRIPTORS, annotations=NOTES,
)  # fmt: skip
INDEXES = st.builds(
    Index, media_type=st.sampled_from(sorted(media_types.INDEX_TYPES)), manifests=st.lists(DESCRIPTORS, max_size=3),
    artifact_type=st.none() | TEXT, subject=st.none() | DESCRIPTORS, annotations=NOTES,
)  # fmt: skip


@given(MANIFESTS | ARTIFACTS | INDEXES)
def test_every_document_round_trips(document):
    again = parse_document(document.raw)
    assert again == document
    assert hash(again) == hash(document)
    assert again.digest == document.digest
    assert attrs.evolve(again).raw == document.raw
    assert pickle.loads(pickle.dumps(document)) == again


# Types


SCHEMA1 = raw(
    {
        "schemaVersion": 1,
        "name": "x",
        "tag": "y",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": A}],
        "signatures": [],
    }
)


@pytest.mark.parametrize("announced", [None, "application/json", *sorted(media_types.SCHEMA1_TYPES)])
def test_schema_1_error_has_the_bytes(announced):
    with pytest.raises(UnsupportedSchema1, match="schema 1") as caught:
        parse_document(SCHEMA1, announced and f"{announced}; charset=utf-8")
    assert caught.value.raw == SCHEMA1
    assert caught.value.hint
    assert isinstance(caught.value, InvalidDocument)


@pytest.mark.parametrize("said", sorted(media_types.SCHEMA1_TYPES))
def test_schema_1_is_detected_by_version_or_type(said):
    with pytest.raises(UnsupportedSchema1):
        parse_document(raw({"mediaType": said}))
    with pytest.raises(UnsupportedSchema1):
        parse_document(raw({"name": "x"}), said)
    with pytest.raises(UnsupportedSchema1):
        Manifest.parse(SCHEMA1)


@pytest.mark.parametrize(
    ("text", "announced"),
    [
        (MANIFEST, media_types.OCI_INDEX),
        (MANIFEST, media_types.DOCKER_MANIFEST),
        (MANIFEST, min(media_types.SCHEMA1_TYPES)),
        (INDEX, media_types.OCI_MANIFEST),
        (DOCKER_MANIFEST, media_types.OCI_MANIFEST),
        (DOCKER_LIST, media_types.OCI_INDEX),
    ],
)
def test_unexpected_document_type_is_rejected(text, announced):
    with pytest.raises(InvalidDocument, match=r"announced .* but the document has .* @ \$\.mediaType") as caught:
        parse_document(text.encode(), announced)
    assert caught.value.hint


@pytest.mark.parametrize(
    "announced",
    ["", "application/json", "application/octet-stream", "text/plain; charset=utf-8", f"{media_types.OCI_MANIFEST}; v=1",
     media_types.OCI_MANIFEST.upper(), f" {media_types.OCI_MANIFEST} "],
)  # fmt: skip
def test_equivalent_announced_types_are_accepted(announced):
    assert parse_document(MANIFEST.encode(), announced).media_type == media_types.OCI_MANIFEST


@pytest.mark.parametrize(
    ("value", "announced"),
    [
        (manifest(manifests=[]), None),
        (manifest(manifests=[descriptor()], mediaType=...), None),
        (manifest(manifests=[descriptor()], mediaType=media_types.OCI_INDEX), None),
        (manifest(mediaType=...), media_types.OCI_INDEX),
        (manifest(mediaType=media_types.OCI_INDEX), None),
        (manifest(mediaType=media_types.DOCKER_INDEX, config=...), None),
        ({"schemaVersion": 2, "manifests": []}, media_types.OCI_MANIFEST),
        ({"schemaVersion": 2, "manifests": [], "mediaType": media_types.OCI_MANIFEST}, None),
        ({"schemaVersion": 2, "manifests": [], "config": {}}, None),
    ],
)
def test_ambiguous_document_is_rejected(value, announced):
    with pytest.raises(InvalidDocument, match="with") as caught:
        parse_document(raw(value), announced)
    assert "two different documents" in caught.value.hint


def test_parse_rejects_other_document_class():
    for text in (MANIFEST, DOCKER_MANIFEST):
        with pytest.raises(InvalidDocument, match="expected application/vnd.oci.image.index"):
            Index.parse(text.encode())
    for text in (INDEX, DOCKER_LIST):
        with pytest.raises(InvalidDocument, match="expected application/vnd.oci.image.manifest"):
            Manifest.parse(text.encode())


def test_index_without_media_type_is_detected_by_manifests():
    content = raw({"schemaVersion": 2, "manifests": [descriptor()]})
    assert type(parse_document(content)) is Index
    assert type(parse_document(content, media_types.DOCKER_INDEX)) is Index
    assert parse_document(content, media_types.DOCKER_INDEX).media_type == media_types.DOCKER_INDEX


# Descriptors


def test_empty_descriptor_matches_specification():
    assert EMPTY_DESCRIPTOR.digest == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert (EMPTY_DESCRIPTOR.size, EMPTY_DESCRIPTOR.data) == (2, b"{}")
    assert EMPTY_DESCRIPTOR.media_type == "application/vnd.oci.empty.v1+json"
    said = json.loads(Manifest(config=EMPTY_DESCRIPTOR).raw)["config"]
    assert said["data"] == "e30="


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_embedded_content_needs_matching_digest_and_size(algorithm):
    good = Descriptor.of(b"hello", "text/plain", algorithm=algorithm, data=b"hello")
    assert good.embedded == b"hello"
    assert attrs.evolve(good, data=None).embedded is None
    assert attrs.evolve(good, data=b"hellO").embedded is None
    assert attrs.evolve(good, data=b"hello!").embedded is None
    assert attrs.evolve(good, size=6).embedded is None
    assert attrs.evolve(good, digest=Digest(A)).embedded is None
    assert attrs.evolve(good, digest=Digest("md5:5d41402abc4b2a76b9719d911017c592")).embedded is None


def test_empty_content_can_be_embedded():
    assert Descriptor.of(b"", "text/plain", data=b"").embedded == b""


def test_empty_object_needs_no_embedded_data():
    plain = Descriptor.of(b"{}", "application/json")
    assert plain.embedded == b"{}"
    assert attrs.evolve(plain, data=b"lies").embedded == b"{}"
    assert attrs.evolve(plain, size=3).embedded is None


def test_content_key_ignores_other_fields():
    one = Descriptor.of(b"x", "text/plain", annotations={"a": "b"})
    two = Descriptor.of(b"x", "text/html", urls=("https://h.io",))
    assert one != two
    assert one.key == two.key
    assert one.bare() == Descriptor.of(b"x", "text/plain")


@pytest.mark.parametrize("kind", sorted(media_types.MANIFEST_TYPES | media_types.INDEX_TYPES))
def test_docker_manifests_and_indexes_are_documents(kind):
    assert Descriptor.of(b"x", kind).is_document
    assert kind in media_types.ACCEPTED


def test_foreign_layers_are_distinguished_from_layers():
    assert media_types.is_layer(media_types.OCI_LAYER_ZSTD)
    assert media_types.is_layer(media_types.DOCKER_LAYER)
    assert media_types.is_foreign(media_types.DOCKER_FOREIGN_LAYER)
    assert media_types.is_foreign("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")
    assert not media_types.is_foreign(media_types.OCI_LAYER)
    assert not media_types.is_layer("text/plain")


def test_load_json_error_names_the_document():
    with pytest.raises(InvalidDocument, match="token response is not JSON") as caught:
        load_json(b"<html>", "token response")
    assert "it begins with: <html>" in caught.value.hint


def test_hostile_documents_are_rejected_quickly():
    """Count operations instead of time. Once, quadratic key comparison and one error per item took minutes."""
    many = b"{" + b",".join(b'"k%d":1' % i for i in range(100_000)) + b',"k5":2}'
    with pytest.raises(InvalidDocument, match="duplicate key 'k5'"):
        parse_document(many)
    empty = b'{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}' % (
        media_types.OCI_INDEX.encode(),
        b",".join([b"{}"] * 100_000),
    )
    with pytest.raises(InvalidDocument, match=r"295 more"):
        parse_document(empty)


def test_manifest_as_referrer_uses_config_type_without_artifact_type():
    manifest = Manifest.parse(MANIFEST.encode())
    referrer = manifest.as_referrer()
    assert (referrer.digest, referrer.size, referrer.media_type) == (
        manifest.digest,
        manifest.size,
        manifest.media_type,
    )
    assert referrer.artifact_type == manifest.config.media_type
    assert referrer.annotations == manifest.annotations
    assert attrs.evolve(manifest, artifact_type="application/x").as_referrer().artifact_type == "application/x"


def test_index_as_referrer_has_given_digest_and_no_config_type():
    index = Index(manifests=(), annotations={"a": "b"})
    digest = Digest.of(index.raw, "sha512")
    assert index.as_referrer(digest) == attrs.evolve(index.descriptor, digest=digest, annotations={"a": "b"})
    assert index.as_referrer().artifact_type is None


def test_invalid_document_has_every_problem_with_its_path():
    layers = [descriptor(size=-1)] * 7
    with pytest.raises(InvalidDocument, match=r"@ \$\.layers\[4\]\.size; … 2 more") as caught:
        Manifest.parse(raw(manifest(layers=layers)))
    problems = pickle.loads(pickle.dumps(caught.value)).problems
    assert [p.path for p in problems] == [f"$.layers[{n}].size" for n in range(7)]
    assert {p.message for p in problems} == {"-1 is not between 0 and 2^63-1"}


def test_invalid_document_without_path_has_one_problem():
    with pytest.raises(InvalidDocument) as caught:
        load_json(b"x", "manifest")
    assert caught.value.problems == (Violation(path="$", message=caught.value.message),)
