"""Models of Ollama."""

import ocikit
import pytest
from ocikit.spec.manifest import parse_document

from tests.support import models

OLLAMA = "application/vnd.ollama.image."
CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def push(tmp_path, *layers, **config):
    return models.push(tmp_path / "s", CONFIG, *layers, config=config, media_type=MANIFEST)


def test_pull_writes_files_by_the_types_of_layers(tmp_path):
    ref = push(
        tmp_path,
        (b"GGUF", f"{OLLAMA}model"),
        (b"{{ .Prompt }}", f"{OLLAMA}template"),
        (b"{}", f"{OLLAMA}params"),
        (b"MIT", f"{OLLAMA}license"),
        model_family="llama",
        model_type="8B",
        file_type="Q4_K_M",
        model_format="gguf",
        context_length=8192,
    )
    art = ocikit.pull(ref, tmp_path / "m")
    assert models.files(tmp_path / "m") == {
        "LICENSE": b"MIT",
        "model.gguf": b"GGUF",
        "params.json": b"{}",
        "template.txt": b"{{ .Prompt }}",
    }
    assert not art.is_image
    assert art.model == ocikit.Model(
        dialect="ollama", family="llama", parameters="8B", quantization="Q4_K_M", format="gguf", context=8192
    )
    assert art.config["model_family"] == "llama"


def test_several_layers_of_a_type_are_numbered(tmp_path):
    ref = push(
        tmp_path,
        (b"1", f"{OLLAMA}license"),
        (b"2", f"{OLLAMA}license"),
        (b"3", f"{OLLAMA}model; type=gguf"),
        (b"4", f"{OLLAMA}projector"),
        (b"5", f"{OLLAMA}adapter"),
        (b"6", f"{OLLAMA}system"),
        (b"7", f"{OLLAMA}messages"),
    )
    names = ["LICENSE", "LICENSE-2", "model.gguf", "mmproj.gguf", "adapter.gguf", "system.txt", "messages.json"]
    assert list(ocikit.inspect(ref).files) == names


def test_tensors_have_names_of_their_own(tmp_path):
    ref = push(
        tmp_path,
        (b"1", f"{OLLAMA}tensor", {"name": "blk/0.weight"}),
        (b"2", f"{OLLAMA}json", {"name": "config.json"}),
        (b"3", f"{OLLAMA}tensor", {"name": "../x"}),
    )
    art = ocikit.inspect(ref)
    assert list(art.files) == ["blk/0.weight", "config.json"]
    assert len(art.unnamed) == 1
    with pytest.raises(ocikit.UnsafeArchive):
        ocikit.pull(ref, tmp_path / "m")


def test_models_elsewhere_name_their_origin(tmp_path):
    ref = push(tmp_path, remote_host="https://ollama.com", remote_model="big:120b")
    assert ocikit.inspect(ref).dialect == "image"
    ref = push(tmp_path, (b"1", f"{OLLAMA}license"), remote_host="https://ollama.com", remote_model="big:120b")
    assert ocikit.inspect(ref).model.parent == "https://ollama.com/big:120b"


def test_lists_of_ollama_name_the_way_to_a_model():
    raw = b'{"schemaVersion": 2, "mediaType": "application/vnd.ollama.manifest.list.v2+json", "manifests": []}'
    with pytest.raises(ocikit.InvalidDocument) as caught:
        parse_document(raw)
    assert "name one of them by its digest" in caught.value.hint
