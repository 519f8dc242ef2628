"""Models of other tools: names of their layers and facts of their configs, from hostile manifests and configs."""

import json
from collections.abc import Mapping
from typing import Any

from attrs import frozen
from ocikit.dialects.base import Content
from ocikit.dialects.recognise import recognise
from ocikit.errors import OcikitError
from ocikit.spec.document import load_json
from ocikit.spec.manifest import Manifest
from ocikit.spec.reference import AnyReference, Reference
from ocikit.spec.titles import name_layers, safe_title

from tests.fuzz.target import JSON_WORDS, UNSAFE, message_is_safe, target
from tests.support.cards import harmless

_SHA = "sha256:" + "a" * 64
_OTHER = "sha256:" + "b" * 64


def _example(config_type: str, layers: list[dict[str, Any]], config: object) -> bytes:
    descriptors = [{"digest": _SHA, "size": 1, **layer} for layer in layers]
    manifest = {
        "schemaVersion": 2,
        "config": {"mediaType": config_type, "digest": _SHA, "size": 2},
        "layers": descriptors,
    }
    return json.dumps(manifest).encode() + b"\n\n" + json.dumps(config).encode()


_KIT = "application/vnd.kitops.modelkit."
_CNCF = "application/vnd.cncf.model."
_DOCKER = "application/vnd.docker.ai."
_OLLAMA = "application/vnd.ollama.image."
_FILEPATH = "org.cncf.model.filepath"

_EXAMPLES = (
    _example(
        f"{_CNCF}config.v1+json",
        [
            {
                "mediaType": f"{_CNCF}weight.v1.raw",
                "annotations": {_FILEPATH: "../a/b.bin", "org.cncf.model.file.metadata+json": '{"mode": 493}'},
            },
            {"mediaType": f"{_CNCF}dataset.v1.tar+gzip", "digest": _OTHER, "annotations": {_FILEPATH: "data"}},
        ],
        {
            "descriptor": {"name": "n", "licenses": ["MIT"]},
            "config": {"paramSize": "8B", "capabilities": {"languages": ["en"]}},
        },
    ),
    _example(
        f"{_KIT}config.v1+json",
        [{"mediaType": f"{_KIT}model.v1.tar"}, {"mediaType": f"{_KIT}code.v1.raw", "digest": _OTHER}],
        {
            "manifestVersion": "1.0.0",
            "package": {"name": "n", "authors": ["a"]},
            "model": {"path": "./m", "digest": _SHA, "parameters": {"a": [1]}, "parts": [{"path": "x"}]},
            "code": [{"path": "src/", "digest": _OTHER}],
        },
    ),
    _example(f"{_KIT}config.v1+json", [], {"model": {"path": "ghcr.io/a/b:v1"}}),
    _example(
        f"{_KIT}config.v1+json", [], {"package": {"name": "\ud800"}, "model": {"parameters": {"\ud800": ["\udfff"]}}}
    ),
    _example(
        f"{_DOCKER}model.config.v0.1+json",
        [{"mediaType": f"{_DOCKER}gguf.v3"}, {"mediaType": f"{_DOCKER}dir.tar", "digest": _OTHER}],
        {"config": {"format": "gguf", "parameters": "8B", "context_size": 4096, "gguf": {"general.name": "x"}}},
    ),
    _example(
        "application/vnd.docker.container.image.v1+json",
        [
            {"mediaType": f"{_OLLAMA}tensor; type=x", "name": "a/b"},
            {"mediaType": f"{_OLLAMA}license", "digest": _OTHER},
        ],
        {"model_family": "llama", "model_families": ["a"], "context_length": 1},
    ),
)


@frozen
class _Hostile:
    """The content of an artifact: a config from the fuzzer, and the artifact itself as the one that it extends."""

    manifest: Manifest
    raw: bytes
    reference: AnyReference = Reference.parse("ghcr.io/a/b:v1")

    def config(self) -> Mapping[str, Any]:
        return load_json(self.raw, "config")

    def parent(self, reference: str) -> tuple[str, Manifest, Content]:
        return reference, self.manifest, self


@target(
    *_EXAMPLES,
    words=(
        *JSON_WORDS,
        b"../", b"/", b"\\u0000", b"..", b"C:", b"[]", b"{}", b"null", b"1e999", b"-1", b'"' + b"x" * 5000 + b'"', b"[" * 100, b".tar", b".raw",
        b"+gzip", b".ocikit/", b"./", _KIT.encode(), _CNCF.encode(), _DOCKER.encode(), _OLLAMA.encode(), b"\\ud800", b"\\u202e", b"\xff",
    ),
    text=True,
)  # fmt: skip
def dialects(data: bytes) -> None:
    """Name the layers of a model and read its facts: errors have types, names are safe, and cards are harmless."""
    raw, _, config = data.partition(b"\n\n")
    try:
        manifest = Manifest.parse(raw)
        content = _Hostile(manifest, config)
        dialect = recognise(manifest)
        layers = dialect.layers(manifest, content)
        model = dialect.model(manifest, content.config())
    except OcikitError as error:
        message_is_safe(error)
        return
    assert [layer.digest for layer in layers[: len(manifest.layers)]] == [layer.digest for layer in manifest.layers]
    for name in name_layers(layers).files:
        safe_title(name)
    if model is not None:
        assert harmless(model._repr_html_())
        assert not UNSAFE.search(repr(model))
        hash(model)
