"""Tests of schema validation: all violations with paths, in bounded time."""

import copy
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import referencing
import referencing.jsonschema
from hypothesis import given
from hypothesis import strategies as st
from ocikit.errors import OcikitError, Violation
from ocikit.spec import media_types, validation
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.validation import MAX_VIOLATIONS, find_violations, json_path

from tests.unit.spec.test_documents import ARTIFACT, CONFIG, INDEX, MANIFEST

SCHEMAS = Path(validation.__file__).parent / "schema"
DESCRIPTOR = {"mediaType": "text/plain", "digest": "sha256:" + "a" * 64, "size": 3}
SMALL = {"schemaVersion": 2, "config": DESCRIPTOR, "layers": [DESCRIPTOR]}
SMALL_CONFIG = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}

EXAMPLES = {
    media_types.OCI_MANIFEST: (MANIFEST, ARTIFACT),
    media_types.DOCKER_MANIFEST: (MANIFEST.replace(media_types.OCI_MANIFEST, media_types.DOCKER_MANIFEST),),
    media_types.OCI_INDEX: (INDEX,),
    media_types.DOCKER_INDEX: (INDEX.replace(media_types.OCI_INDEX, media_types.DOCKER_INDEX),),
    media_types.OCI_CONFIG: (CONFIG,),
    media_types.DOCKER_CONFIG: (CONFIG,),
    "application/vnd.oci.descriptor.v1+json": (json.dumps(DESCRIPTOR),),
    "application/vnd.oci.layout.header.v1+json": ('{"imageLayoutVersion": "1.0.0"}',),
}
PAIRS = [(kind, text) for kind, texts in EXAMPLES.items() for text in texts]


def violation_pairs(document, kind=None):
    """Return the violations as pairs."""
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return [(v.path, v.message) for v in find_violations(raw, kind)]


# Valid documents


@pytest.mark.parametrize(("kind", "text"), PAIRS)
def test_specification_examples_have_no_violations(kind, text):
    assert find_violations(text.encode(), kind) == ()
    assert find_violations(text.encode(), f"{kind.upper()}; charset=utf-8") == ()


@pytest.mark.parametrize("text", [MANIFEST, ARTIFACT, INDEX, CONFIG, '{"imageLayoutVersion": "1.0.0"}'])
@pytest.mark.parametrize("kind", [None, "", "application/json"])
def test_missing_type_is_inferred_from_document(text, kind):
    assert find_violations(text.encode(), kind) == ()
    less = json.loads(text)
    less.pop("mediaType", None)
    assert violation_pairs(less, kind) == []
    for key in ("config", "manifests", "rootfs", "imageLayoutVersion"):
        if key in less:
            assert violation_pairs(less | {key: 7}, kind)[0][0] == f"$.{key}"


def test_manifest_without_layers_is_valid():
    assert violation_pairs(SMALL | {"layers": []}, media_types.OCI_MANIFEST) == []
    assert violation_pairs({k: v for k, v in SMALL.items() if k != "layers"}, media_types.OCI_MANIFEST) == [
        ("$.layers", "required field missing")
    ]


def test_type_without_schema_has_no_violations():
    assert violation_pairs({"anything": 1}, "application/vnd.example.config.v1+json") == []
    assert violation_pairs([], "application/vnd.example.config.v1+json") == [
        ("$", "expected an object, found an array")
    ]


def test_unknown_keys_have_no_violations():
    assert violation_pairs(SMALL | {"future": {"deep": [1, None]}}, media_types.OCI_MANIFEST) == []


def test_null_is_valid_in_docker_and_invalid_in_oci():
    config = SMALL_CONFIG | {"author": None, "config": {"Env": None, "ExposedPorts": None, "Cmd": None}}
    assert violation_pairs(config, media_types.DOCKER_CONFIG) == []
    assert violation_pairs(config, media_types.OCI_CONFIG) == [
        ("$.author", "expected a string, found null"),
        ("$.config.ExposedPorts", "expected an object, found null"),
        ("$.config.Env", "expected an array, found null"),
    ]
    assert (
        violation_pairs(SMALL_CONFIG | {"config": {"Entrypoint": None, "Cmd": None, "Volumes": None, "Labels": None}})
        == []
    )
    typed = SMALL | {"mediaType": media_types.DOCKER_MANIFEST, "annotations": None}
    assert violation_pairs(typed) == violation_pairs(typed, media_types.DOCKER_MANIFEST) == []


# Invalid documents


def test_manifest_violations_have_paths():
    document = {
        "schemaVersion": 1,
        "mediaType": "manifest",
        "artifactType": 5,
        "config": {"mediaType": "text/plain", "digest": "sha256", "size": -1},
        "layers": [DESCRIPTOR, {"size": True, "digest": DESCRIPTOR["digest"] + "\n"}, "layer"],
        "subject": DESCRIPTOR | {"urls": ["https://example.com/a", "not a uri"], "size": 2**63},
        "annotations": {"org.example.a": 1, "b": "fine"},
    }
    digest = 'expected a digest such as "sha256:" and 64 hex digits, found '
    kind = 'expected a media type such as "application/json", found '
    assert violation_pairs(document, media_types.OCI_MANIFEST) == [
        ("$.schemaVersion", "expected 2, found 1"),
        ("$.mediaType", kind + "'manifest'"),
        ("$.artifactType", "expected a string, found an integer"),
        ("$.config.size", "expected 0 or more, found -1"),
        ("$.config.digest", digest + "'sha256'"),
        ("$.subject.size", "expected 9223372036854775807 or less, found 9223372036854775808"),
        ("$.subject.urls[1]", "expected a URI such as \"https://example.com/blob\", found 'not a uri'"),
        ("$.layers[1].size", "expected an integer, found true or false"),
        ("$.layers[1].digest", digest + "'sha256:" + "a" * 51 + "…"),
        ("$.layers[1].mediaType", "required field missing"),
        ("$.layers[2]", "expected an object, found a string"),
        ("$.annotations['org.example.a']", "expected a string, found an integer"),
    ]


def test_index_violations_have_paths():
    document = {
        "manifests": [
            DESCRIPTOR | {"platform": {"os": "linux", "os.features": ["a", 1], "os.version": []}},
            DESCRIPTOR | {"size": 1.5},
            {},
        ]
    }
    assert violation_pairs(document, media_types.OCI_INDEX) == violation_pairs(document, media_types.DOCKER_INDEX)
    assert sorted(violation_pairs(document)) == [
        ("$.manifests[0].platform.architecture", "required field missing"),
        ("$.manifests[0].platform['os.features'][1]", "expected a string, found an integer"),
        ("$.manifests[0].platform['os.version']", "expected a string, found an array"),
        ("$.manifests[1].size", "expected an integer, found a number"),
        ("$.manifests[2].digest", "required field missing"),
        ("$.manifests[2].mediaType", "required field missing"),
        ("$.manifests[2].size", "required field missing"),
        ("$.schemaVersion", "required field missing"),
    ]


def test_config_violations_have_paths():
    document = {
        "created": "yesterday",
        "os": "linux",
        "config": {
            "ExposedPorts": {"80": 1},
            "Entrypoint": "sh",
            "Cmd": [1],
            "Labels": {"a.b": None},
            "Volumes": {"/": []},
        },
        "rootfs": {"type": "tarballs", "diff_ids": "none"},
        "history": [{"created": "2023-02-30T00:00:00Z"}, {"empty_layer": "no"}, []],
    }
    when = 'expected a time of RFC 3339 such as "2015-10-31T22:22:56Z", found '
    assert violation_pairs(document, media_types.OCI_CONFIG) == [
        ("$.created", when + "'yesterday'"),
        ("$.config.ExposedPorts['80']", "expected an object, found an integer"),
        ("$.config.Entrypoint", "expected an array, found a string"),
        ("$.config.Cmd[0]", "expected a string, found an integer"),
        ("$.config.Volumes['/']", "expected an object, found an array"),
        ("$.config.Labels['a.b']", "expected a string, found null"),
        ("$.rootfs.diff_ids", "expected an array, found a string"),
        ("$.rootfs.type", "expected 'layers', found 'tarballs'"),
        ("$.history[0].created", when + "'2023-02-30T00:00:00Z'"),
        ("$.history[1].empty_layer", "expected true or false, found a string"),
        ("$.history[2]", "expected an object, found an array"),
        ("$.architecture", "required field missing"),
    ]


def test_descriptors_and_layout_headers_are_validated():
    assert violation_pairs({"size": "3"}, "application/vnd.oci.descriptor.v1+json")[0] == (
        "$.size",
        "expected an integer, found a string",
    )
    assert violation_pairs({"imageLayoutVersion": "2.0.0"}) == [
        ("$.imageLayoutVersion", "expected '1.0.0', found '2.0.0'")
    ]


@pytest.mark.parametrize(
    "text",
    ["2015-10-31T22:22:56Z", "2015-10-31T22:22:56.015925234+02:00", "0001-01-01T00:00:00Z", "2016-12-31T23:59:60z"],
)
def test_rfc_3339_times_are_valid(text):
    assert violation_pairs(SMALL_CONFIG | {"created": text}) == []


@pytest.mark.parametrize(
    "text",
    ["", "2015-10-31", "2015-10-31T22:22:56", "2015-13-01T00:00:00Z", "2015-10-31T24:00:00Z", "2015-10-31T22:22:56Z\n"],
)
def test_other_times_are_invalid(text):
    assert [path for path, _ in violation_pairs(SMALL_CONFIG | {"created": text})] == ["$.created"]


# Bytes that are not a document


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": NaN}', "NaN is not a JSON value"),
        (b'{"layers": [], "layers": []}', "duplicate key 'layers'"),
        (b"[]", "expected an object, found an array"),
        (b"7", "expected an object, found an integer"),
        (b" " * (DOCUMENT_LIMIT + 1), "larger than the limit of 4194304"),
    ],
)
def test_non_json_object_is_one_violation(raw, words):
    (found,) = find_violations(raw, media_types.OCI_MANIFEST)
    assert found.path == "$"
    assert words in found.message
    assert "@" not in found.message


def test_size_limit_can_be_raised():
    raw = json.dumps(SMALL).encode() + b" " * DOCUMENT_LIMIT
    assert find_violations(raw, limit=2 * DOCUMENT_LIMIT) == ()


# Limits


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"layers":[', b'{"config":'])
@pytest.mark.parametrize("depth", [100, 900, 100_000])
def test_deep_document_neither_crashes_nor_hangs(opening, depth):
    closing = {b"[": b"]", b'{"a":': b"}", b'{"layers":[': b"]}", b'{"config":': b"}"}[opening]
    bomb = opening * depth + b"1" + closing * depth
    for raw in (bomb, b'{"rootfs":{"type":%b,"diff_ids":%b}}' % (bomb, bomb), b'{"annotations":%b}' % bomb):
        for kind in (None, *EXAMPLES):
            assert find_violations(raw, kind)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("document", "count"),
    [
        (SMALL | {"layers": [{"mediaType": "a/a", "size": 1, "digest": "a:a"}] * 95_000}, 0),
        (SMALL | {"layers": [{}] * 1_000_000}, MAX_VIOLATIONS + 1),
        (SMALL | {"layers": [1] * 2_000_000}, MAX_VIOLATIONS + 1),
        (SMALL | {"annotations": {str(i): "" for i in range(300_000)}}, 0),
        (SMALL | {"annotations": {str(i): 1 for i in range(300_000)}}, MAX_VIOLATIONS + 1),
        (SMALL | {"config": DESCRIPTOR | {"digest": "a." * 2_000_000}}, 1),
        (SMALL | {"annotations": {"\x1b" * 600_000: 1}}, 1),
        (SMALL_CONFIG | {"os.features": [""] * 1_300_000}, 0),
        (SMALL_CONFIG | {"history": [{}] * 1_300_000}, 0),
        (SMALL_CONFIG | {"config": {"Labels": {str(i): 1 for i in range(300_000)}}}, MAX_VIOLATIONS + 1),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value),
)
def test_largest_document_is_validated_within_seconds(document, count):
    raw = json.dumps(document, separators=(",", ":")).encode()
    assert 3_000_000 < len(raw) <= DOCUMENT_LIMIT
    found = find_violations(raw)  # about two seconds; the timeout is for slow machines
    assert len(found) == count
    assert all(len(v.path) < 300 and len(v.message) < 300 for v in found)


def test_omitted_violations_are_reported_in_stable_order():
    raw = json.dumps(SMALL | {"layers": [{}] * 1000}).encode()
    found = find_violations(raw)
    assert found[-1] == Violation(path="$", message="only the first 100 are reported")
    assert found[0].path == "$.layers[0].mediaType"
    assert find_violations(raw) == found
    exact = json.dumps(SMALL | {"layers": [1] * MAX_VIOLATIONS}).encode()
    assert len(find_violations(exact)) == MAX_VIOLATIONS
    assert find_violations(exact)[-1].path == f"$.layers[{MAX_VIOLATIONS - 1}]"


# Comparison with jsonschema


def published_schema(name):
    """Return the published schema without `minItems`; `$ref`s are resolved by file name."""

    def retrieve(uri):
        contents = json.loads((SCHEMAS / uri.rpartition("/")[2]).read_text())
        return referencing.Resource.from_contents(contents, referencing.jsonschema.DRAFT4)

    schema = json.loads((SCHEMAS / name).read_text())
    schema["properties"].get("layers", {}).pop("minItems", None)
    return jsonschema.Draft4Validator(schema, registry=referencing.Registry(retrieve=retrieve))


STOCK = {"image-manifest-schema.json": MANIFEST, "image-index-schema.json": INDEX, "config-schema.json": CONFIG}
VALUES = st.sampled_from(
    [None, True, 0, 1, -1, 2.0, 1.5, "", "a/a", "a:a", "layers", [], {}, [{}], [""], {"": 1}, {"a": {}}]
)


def nodes(value, way=()):
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from nodes(item, (*way, key))


@st.composite
def mutated(draw, text):
    value = json.loads(text)
    for _ in range(draw(st.integers(1, 4))):
        *way, last = draw(st.sampled_from([way for way in nodes(value) if way] or [("added",)]))
        owner = value
        for step in way:
            owner = owner[step]
        if isinstance(owner, dict) and draw(st.booleans()):
            owner.pop(last, None)
        else:
            owner[last] = copy.deepcopy(draw(VALUES))
    return value


@pytest.mark.parametrize("name", STOCK)
@given(data=st.data())
def test_violations_match_jsonschema_on_published_schemas(name, data):
    document = data.draw(mutated(STOCK[name]))
    kind = next(k for k, schema in validation._SCHEMAS.items() if schema == name)
    ours = {path for path, message in violation_pairs(document, kind) if not re.match("expected a (time|URI)", message)}
    theirs = set()

    def collect(error):
        if error.validator == "oneOf":  # one schema or null: the errors of the schema
            for inner in error.context:
                if inner.schema != {"type": "null"}:
                    collect(inner)
        else:
            missing = [error.message.split("'")[1]] if error.validator == "required" else []
            theirs.add(json_path([*error.absolute_path, *missing]))

    for error in published_schema(name).iter_errors(document):
        collect(error)
    assert ours == theirs


def test_schemas_match_specification():
    names = sorted(path.name for path in SCHEMAS.glob("*.json"))
    assert names == [
        "config-schema.json", "content-descriptor.json", "defs-descriptor.json", "defs.json", "image-index-schema.json",
        "image-layout-schema.json", "image-manifest-schema.json",
    ]  # fmt: skip
    assert set(validation._SCHEMAS.values()) | {"defs.json", "defs-descriptor.json"} == set(names)


# Display, and the optional dependency


def test_violation_display_is_sanitized():
    (found,) = find_violations(json.dumps(SMALL | {"annotations": {"<b>\x1b[31m\u202e": 1}}).encode())
    assert str(found).isprintable()
    assert repr(found).startswith("Violation(path=")
    assert "<b>" not in found._repr_html_()
    assert pickle.loads(pickle.dumps(found)) == found
    assert len({found, found}) == 1


def test_missing_jsonschema_error_has_install_hint(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    validation._validator.cache_clear()
    with pytest.raises(OcikitError, match=re.escape("pip install ocikit[validate]")):
        find_violations(MANIFEST.encode())
    monkeypatch.undo()
    assert find_violations(MANIFEST.encode()) == ()


def test_validation_needs_no_network():
    code = f"""
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("a connection")
socket.socket.connect = socket.getaddrinfo = refuse
from ocikit.spec.validation import find_violations
assert "jsonschema" not in sys.modules
for kind in {list(EXAMPLES)!r}:
    find_violations(b"{{}}", kind)
assert "jsonschema" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_empty_platform_and_nulls_are_reported():
    entry = DESCRIPTOR | {"platform": {}, "annotations": {"a": None}}
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [entry]}
    found = {(v.path, v.message) for v in find_violations(json.dumps(index).encode())}
    assert {
        ("$.manifests[0].platform.architecture", "required field missing"),
        ("$.manifests[0].platform.os", "required field missing"),
        ("$.manifests[0].annotations.a", "expected a string, found null"),
    } <= found
    config = {v.path for v in find_violations(b"{}", media_types.OCI_CONFIG)}
    assert {"$.architecture", "$.os", "$.rootfs"} <= config
