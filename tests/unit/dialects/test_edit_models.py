"""Edits of models: the names of their dialect, and configs that list the layers."""

import ocikit
import pytest

from tests.support import models

MODELPACK = "application/vnd.cncf.model."
DIALECTS = {
    "modelpack": (f"{MODELPACK}config.v1+json", f"{MODELPACK}weight.v1.raw"),
    "cnai": ("application/vnd.cnai.model.config.v1+json", "application/vnd.cnai.model.weight.v1.raw"),
    "docker": ("application/vnd.docker.ai.model.config.v0.2+json", "application/vnd.docker.ai.gguf.v3"),
    "kitops": ("application/vnd.kitops.modelkit.config.v1+json", "application/vnd.kitops.modelkit.model.v1.raw"),
    "ollama": ("application/vnd.docker.container.image.v1+json", "application/vnd.ollama.image.model"),
}


@pytest.fixture(params=DIALECTS)
def model(request, tmp_path):
    config, layer = DIALECTS[request.param]
    return models.push(tmp_path / "s", config, (b"1", layer, {models.FILEPATH: "model.gguf"}))


def test_changed_files_of_a_model_are_refused(model):
    before = ocikit.inspect(model).digest
    with pytest.raises(ocikit.InvalidDocument, match="lists the files"), ocikit.edit(model) as e:
        e["more.txt"] = b"2"
    assert ocikit.inspect(model).digest == before


def test_annotations_of_a_model_are_edited(model):
    with ocikit.edit(model) as e:
        e.annotations["k"] = "v"
    art = ocikit.inspect(model)
    assert art.annotations["k"] == "v"
    assert art.read("model.gguf") == b"1"
    assert art.manifest.layers[0].title is None


def test_edits_have_the_names_of_the_dialect(tmp_path):
    config, layer = DIALECTS["modelpack"]
    ref = models.push(tmp_path / "s", config, (b"1", layer, {models.FILEPATH: "../model.gguf"}))
    with ocikit.edit(ref) as e:
        assert list(e) == ["model.gguf"]
        assert e["model.gguf"].read() == b"1"
        assert e["model.gguf"].path.name == "model.gguf"
        e.annotations["k"] = "v"


def test_models_change_with_a_new_config(tmp_path):
    config, layer = DIALECTS["modelpack"]
    ref = models.push(tmp_path / "s", config, (b"1", layer, {models.FILEPATH: "model.gguf"}))
    with ocikit.edit(ref) as e:
        e["README.md"] = b"2"
        e.config = {
            "modelfs": {"type": "layers", "diffIds": [str(ocikit.Digest.of(b"1")), str(ocikit.Digest.of(b"2"))]}
        }
    assert list(ocikit.inspect(ref).files) == ["model.gguf", "README.md"]
