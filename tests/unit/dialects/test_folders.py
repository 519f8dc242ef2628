"""Helm, Flux, and folders as on the Hugging Face Hub."""

import json

import ocikit
import pytest

from tests.support import models
from tests.support.home import write

HELM = "application/vnd.cncf.helm."
FLUX = "application/vnd.cncf.flux."
CHART = models.tar({"web/Chart.yaml": b"name: web", "web/templates/a.yaml": b"kind: Pod"}, "w:gz")


def test_charts_have_the_name_that_helm_gives_them(tmp_path):
    ref = models.push(
        tmp_path / "s",
        f"{HELM}config.v1+json",
        (CHART, f"{HELM}chart.content.v1.tar+gzip"),
        (b"-----BEGIN PGP", f"{HELM}chart.provenance.v1.prov"),
        config={"name": "web", "version": "1.2.3", "apiVersion": "v2"},
    )
    art = ocikit.pull(ref, tmp_path / "m")
    assert models.files(tmp_path / "m") == {"web-1.2.3.tgz": CHART, "web-1.2.3.tgz.prov": b"-----BEGIN PGP"}
    assert (art.dialect, art.model) == ("helm", None)
    ocikit.pull(ref, tmp_path / "n", archive=True, include="*.tgz")
    assert set(models.files(tmp_path / "n")) == {"web/Chart.yaml", "web/templates/a.yaml"}


@pytest.mark.parametrize("config", [b"[]", b"{}", b'{"name": {}, "version": []}'])
def test_charts_without_a_name_stay_as_they_are(config, tmp_path):
    ref = models.push(
        tmp_path / "s", f"{HELM}config.v1+json", (CHART, f"{HELM}chart.content.v1.tar+gzip"), config=config
    )
    assert [name[-7:] for name in ocikit.inspect(ref).files] == [".tar.gz"]


def test_unsafe_names_of_charts_are_refused(tmp_path):
    config = {"name": "../x", "version": "1"}
    ref = models.push(
        tmp_path / "s", f"{HELM}config.v1+json", (CHART, f"{HELM}chart.content.v1.tar+gzip"), config=config
    )
    with pytest.raises(ocikit.UnsafeArchive):
        ocikit.pull(ref, tmp_path / "m")


def test_artifacts_of_flux_are_unpacked(tmp_path):
    raw = models.tar({"a.yaml": b"1", "b/c.yaml": b"2"}, "w:gz")
    ref = models.push(tmp_path / "s", f"{FLUX}config.v1+json", (raw, f"{FLUX}content.v1.tar+gzip"))
    art = ocikit.pull(ref, tmp_path / "m")
    assert models.files(tmp_path / "m") == {"a.yaml": b"1", "b/c.yaml": b"2"}
    assert (art.dialect, list(art.files)) == ("flux", ["content/"])


FOLDER = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# tiny\n",
    "config.json": json.dumps(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "max_position_embeddings": 4096,
        }
    ).encode(),
    "model.safetensors": b"1",
}


@pytest.mark.parametrize("path", ["model", "model/."])
def test_folders_of_the_hub_have_facts(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "model", FOLDER)
    art = ocikit.push("oci:store:v1", path)
    assert art.dialect == "huggingface"
    assert art.model == ocikit.Model(
        dialect="huggingface",
        family="llama",
        license="apache-2.0",
        format="safetensors",
        precision="bfloat16",
        architecture="LlamaForCausalLM",
        context=4096,
    )
    ocikit.pull("oci:store:v1", tmp_path / "m")
    assert {name.removeprefix("model/"): content for name, content in models.files(tmp_path / "m").items()} == FOLDER


def test_other_files_are_not_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"config.json": b"{}", "a.csv": b"1"})
    art = ocikit.push("oci:store:v1", "config.json", "a.csv")
    assert (art.dialect, art.model) == ("files", None)
