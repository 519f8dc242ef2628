"""ModelPack, its older form, and Docker's models: names, archives, facts."""

import gzip
import json
import os
import pickle
import tarfile
from pathlib import Path

import ocikit
import pytest

from tests.support import models

STORE = Path(__file__).parent / "recorded"
MODELPACK = "application/vnd.cncf.model."
CONFIG = f"{MODELPACK}config.v1+json"
DOCKER = "application/vnd.docker.ai."


def at(path):
    return {models.FILEPATH: path}


@pytest.mark.parametrize("tag", ["modelpack", "modelpack-tar"])
def test_pull_writes_the_files_that_modctl_packed(tag, tmp_path):
    art = ocikit.pull(f"oci:{STORE}:{tag}", tmp_path / "m")
    found = models.files(tmp_path / "m")
    assert tuple(found) == models.RECORDED
    assert found["data/train.csv"] == b"a,b\n1,2\n"
    assert json.loads(found["config.json"])["model_type"] == "gpt2"
    assert art.dialect == "modelpack"
    assert " already there)" in ocikit.pull(f"oci:{STORE}:{tag}", tmp_path / "m").summary


def test_files_have_the_names_of_the_dialect():
    art = ocikit.inspect(f"oci:{STORE}:modelpack")
    assert sorted(art.files) == list(models.RECORDED)
    assert art["config.json"].read() == ocikit.open(f"oci:{STORE}:modelpack", "config.json").read()
    assert ocikit.download(f"oci:{STORE}:modelpack", "data/train.csv").name == "train.csv"
    assert sorted(ocikit.pull(f"oci:{STORE}:modelpack").files) == list(models.RECORDED)


def test_archives_are_listed_as_folders():
    art = ocikit.inspect(f"oci:{STORE}:modelpack-tar")
    assert sorted(art.files) == [f"{name}/" for name in models.RECORDED]
    assert all(file.archive for file in art.files.values())
    assert set(art.tree()) >= set(models.RECORDED)
    assert art["data/train.csv/"].path.name == "train.csv.tar"


def test_archives_stay_files_on_request(tmp_path):
    ocikit.pull(f"oci:{STORE}:modelpack-tar", tmp_path / "m", archive=False)
    assert set(models.files(tmp_path / "m")) == {f"{name}.tar" for name in models.RECORDED}


def test_no_dialect_gives_the_layers_as_they_are(tmp_path):
    ref = f"oci:{STORE}:modelpack"
    art = ocikit.inspect(ref, dialect=None)
    assert all(name.startswith("sha256-") for name in art.files)
    assert art.dialect == "modelpack"
    assert list(pickle.loads(pickle.dumps(art)).files) == list(art.files)
    ocikit.pull(ref, tmp_path / "m", dialect=None)
    assert all(name.startswith("sha256-") for name in os.listdir(tmp_path / "m") if name != ".ocikit")
    assert ocikit.download(ref, next(iter(art.files)), dialect=None).exists()
    art.pull(tmp_path / "n")
    assert models.files(tmp_path / "n") == models.files(tmp_path / "m")
    with pytest.raises(ocikit.InvalidArgument, match="is not a choice"):
        ocikit.inspect(ref, dialect="docker")


def test_patterns_select_names_of_the_dialect(tmp_path):
    ocikit.pull(f"oci:{STORE}:modelpack", tmp_path / "m", include="*.json")
    assert tuple(models.files(tmp_path / "m")) == ("config.json", "tokenizer.json")
    ocikit.pull(f"oci:{STORE}:modelpack-tar", tmp_path / "t", include="data/")
    assert tuple(models.files(tmp_path / "t")) == ("data/train.csv",)


def test_model_has_the_facts_of_the_config():
    model = ocikit.inspect(f"oci:{STORE}:modelpack").model
    assert (model.dialect, model.name, model.family, model.precision) == ("modelpack", "m2", "gpt2", "float32")
    assert "gpt2" in model._repr_html_()
    assert model.created.startswith("2026-11-28T")


def test_all_facts_of_modelpack_are_read(tmp_path):
    config = {
        "descriptor": {
            "name": "n",
            "family": "f",
            "licenses": ["MIT", "Apache-2.0"],
            "authors": ["A"],
            "vendor": "V",
            "version": "1",
            "sourceURL": "https://example.com",
            "docURL": "https://example.com/docs",
        },
        "config": {
            "architecture": "transformer",
            "format": "gguf",
            "paramSize": "8b",
            "quantization": "Q4_0",
            "capabilities": {"inputTypes": ["text", "image"], "outputTypes": ["text"], "languages": ["en"]},
        },
    }
    model = ocikit.inspect(models.push(tmp_path / "s", CONFIG, config=config)).model
    assert model == ocikit.Model(
        dialect="modelpack",
        name="n",
        family="f",
        parameters="8b",
        license="MIT, Apache-2.0",
        format="gguf",
        quantization="Q4_0",
        architecture="transformer",
        version="1",
        vendor="V",
        authors=("A",),
        languages=("en",),
        inputs=("text", "image"),
        outputs=("text",),
        source="https://example.com",
        documentation="https://example.com/docs",
    )
    assert model.licence == "MIT, Apache-2.0"


@pytest.mark.parametrize(
    "config",
    [b"[]", b"{", b'{"descriptor": 1, "config": [2]}', b'{"descriptor": {"name": {"a": 1}, "licenses": 7}}', b"\xff"],
)
def test_wrong_configs_do_not_affect_the_files(config, tmp_path):
    ref = models.push(tmp_path / "s", CONFIG, (b"w", f"{MODELPACK}weight.v1.raw", at("w.bin")), config=config)
    art = ocikit.pull(ref, tmp_path / "m")
    assert models.files(tmp_path / "m") == {"w.bin": b"w"}
    if config.startswith(b'{"'):
        assert art.model.name == ""
    else:
        with pytest.raises(ocikit.InvalidDocument):
            art.model  # noqa: B018 - the property is what is tested


@pytest.mark.parametrize("kind", ["tar", "tar+gzip"])
def test_compressed_archives_are_unpacked(kind, tmp_path):
    raw = models.tar({"d": None, "d/a": b"1", "b": b"2"}, "w" if kind == "tar" else "w:gz")
    ref = models.push(tmp_path / "s", CONFIG, (raw, f"{MODELPACK}dataset.v1.{kind}", at("d")))
    ocikit.pull(ref, tmp_path / "m")
    assert models.files(tmp_path / "m") == {"d/a": b"1", "b": b"2"}


def test_executable_files_stay_executable(tmp_path):
    notes = at("run.sh") | {"org.cncf.model.file.metadata+json": json.dumps({"mode": 0o755})}
    ref = models.push(tmp_path / "s", CONFIG, (b"#!", f"{MODELPACK}code.v1.raw", notes))
    ocikit.pull(ref, tmp_path / "m")
    assert os.access(tmp_path / "m" / "run.sh", os.X_OK)


def test_old_cnai_models_have_their_names(tmp_path):
    old = "application/vnd.cnai.model."
    ref = models.push(
        tmp_path / "s",
        f"{old}config.v1+json",
        (b"1", f"{old}weight.v1.raw", {"org.cnai.model.filepath": "a/b.gguf"}),
        (b"2", f"{old}doc.v1.raw", {"org.cnai.model.title": "README.md"}),
        config={"descriptor": {"name": "old"}},
        artifact_type=f"{old}manifest.v1+json",
    )
    art = ocikit.pull(ref, tmp_path / "m")
    assert models.files(tmp_path / "m") == {"a/b.gguf": b"1", "README.md": b"2"}
    assert (art.dialect, art.model.name) == ("cnai", "old")


@pytest.mark.parametrize(
    ("path", "name"), [("../../home/a/x.bin", "home/a/x.bin"), ("./../x", "x"), ("a/./x", "a/x"), ("./x", "x")]
)
def test_leading_parents_are_stripped(path, name, tmp_path):
    ref = models.push(tmp_path / "s", CONFIG, (b"w", f"{MODELPACK}weight.v1.raw", at(path)))
    ocikit.pull(ref, tmp_path / "m")
    assert models.files(tmp_path / "m") == {name: b"w"}


@pytest.mark.parametrize(
    "path", ["/etc/x", "a/../../x", "..", "../..", "x\0y", "C:/x", "a\\b", ".ocikit/manifest.json"]
)
def test_unsafe_paths_are_refused(path, tmp_path):
    ref = models.push(
        tmp_path / "s",
        CONFIG,
        (b"w", f"{MODELPACK}weight.v1.raw", at(path)),
        (b"ok", f"{MODELPACK}doc.v1.raw", at("README.md")),
    )
    with pytest.raises(ocikit.UnsafeArchive):
        ocikit.pull(ref, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    art = ocikit.inspect(ref)
    assert list(art.files) == ["README.md"]
    assert len(art.unnamed) == 1


@pytest.mark.parametrize("other", ["x", "../x", "./x"])
def test_two_layers_with_one_path_are_refused(other, tmp_path):
    kind = f"{MODELPACK}weight.v1.raw"
    ref = models.push(tmp_path / "s", CONFIG, (b"1", kind, at("x")), (b"2", kind, at(other)))
    with pytest.raises(ocikit.UnsafeArchive, match="two files have the title 'x'"):
        ocikit.pull(ref, tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("members", [{"../x": b"1"}, {"/x": b"1"}, {"l": "/etc", "l/passwd": b"1"}])
def test_archives_stay_within_the_folder(members, tmp_path):
    ref = models.push(tmp_path / "s", CONFIG, (models.tar(members), f"{MODELPACK}weight.v1.tar", at("x")))
    with pytest.raises(ocikit.UnsafeArchive):
        ocikit.pull(ref, tmp_path / "m")
    assert not models.files(tmp_path / "m")


def test_bombs_in_archives_are_refused(tmp_path):
    info = tarfile.TarInfo("x")
    info.size = 2 << 40
    raw = gzip.compress(info.tobuf(tarfile.GNU_FORMAT))
    ref = models.push(tmp_path / "s", CONFIG, (raw, f"{MODELPACK}weight.v1.tar+gzip", at("x")))
    with pytest.raises(ocikit.UnsafeArchive, match="limit"):
        ocikit.pull(ref, tmp_path / "m")
    assert not models.files(tmp_path / "m")


def test_large_configs_are_refused(tmp_path):
    ref = models.push(tmp_path / "s", CONFIG, config=b'{"descriptor": {"name": "' + b"x" * (5 << 20) + b'"}}')
    with pytest.raises(ocikit.InvalidDocument, match="larger than the limit|limit"):
        ocikit.inspect(ref).model  # noqa: B018 - the property is what is tested


def test_file_systems_have_the_names_of_the_dialect():
    art = ocikit.inspect(f"oci:{STORE}:modelpack")
    assert sorted(art.fs.find("")) == list(models.RECORDED)
    assert art.fs.cat_file("data/train.csv") == b"a,b\n1,2\n"
    art = ocikit.inspect(f"oci:{STORE}:modelpack-tar")
    assert art.fs.cat_file("config.json.tar") == art["config.json/"].read()


def test_diffs_have_the_names_of_the_dialect(tmp_path):
    kind = f"{MODELPACK}weight.v1.raw"
    one = models.push(tmp_path / "s", CONFIG, (b"1", kind, at("a")), (b"2", kind, at("b")), tag="v1")
    two = models.push(tmp_path / "s", CONFIG, (b"1", kind, at("c")), (b"3", kind, at("b")), tag="v2")
    diff = ocikit.diff(one, two)
    assert [(rename.before, rename.after) for rename in diff.renamed] == [("a", "c")]
    assert list(diff.changed) == ["b"]
    ocikit.pull(two, tmp_path / "m")
    assert not ocikit.diff(two, tmp_path / "m")


def test_docker_models_have_the_names_of_their_paths(tmp_path):
    ref = models.push(
        tmp_path / "s",
        f"{DOCKER}model.config.v0.2+json",
        (b"1", f"{DOCKER}safetensors", at("text/model.safetensors")),
        (b"2", f"{DOCKER}model.file", at("config.json")),
        config={"config": {"format": "safetensors", "parameters": "8.03B", "context_size": 4096}},
    )
    art = ocikit.pull(ref, tmp_path / "m")
    assert models.files(tmp_path / "m") == {"text/model.safetensors": b"1", "config.json": b"2"}
    assert (art.dialect, art.model.parameters, art.model.context) == ("docker", "8.03B", 4096)


def test_old_docker_models_have_names_by_their_types(tmp_path):
    ref = models.push(
        tmp_path / "s",
        f"{DOCKER}model.config.v0.1+json",
        (b"1", f"{DOCKER}gguf.v3"),
        (b"2", f"{DOCKER}gguf.v3"),
        (b"3", f"{DOCKER}license"),
        (b"4", f"{DOCKER}license"),
        (b"5", f"{DOCKER}chat.template.jinja"),
        (b"6", f"{DOCKER}mmproj"),
        (models.tar({"a/b": b"7"}), f"{DOCKER}dir.tar"),
        (models.tar({"config.json": b"8"}), f"{DOCKER}vllm.config.tar"),
    )
    assert list(ocikit.inspect(ref).files) == [
        "model-00001-of-00002.gguf",
        "model-00002-of-00002.gguf",
        "LICENSE",
        "LICENSE-2",
        "template.jinja",
        "mmproj.gguf",
        "files/",
        "config/",
    ]
    ocikit.pull(ref, tmp_path / "m")
    assert models.files(tmp_path / "m") == {
        "LICENSE": b"3",
        "LICENSE-2": b"4",
        "a/b": b"7",
        "config.json": b"8",
        "mmproj.gguf": b"6",
        "model-00001-of-00002.gguf": b"1",
        "model-00002-of-00002.gguf": b"2",
        "template.jinja": b"5",
    }


def test_one_weight_of_docker_has_a_plain_name(tmp_path):
    ref = models.push(tmp_path / "s", f"{DOCKER}model.config.v0.1+json", (b"1", f"{DOCKER}gguf.v3"))
    assert list(ocikit.inspect(ref).files) == ["model.gguf"]


@pytest.mark.parametrize(
    ("config_type", "layer_type", "dialect"),
    [
        ("application/vnd.oci.empty.v1+json", "text/csv", "files"),
        ("application/vnd.cncf.helm.config.v1+json", "application/x-tar", "helm"),
        ("application/vnd.cncf.flux.config.v1+json", "application/x-tar", "flux"),
        ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar", "image"),
        ("application/vnd.oci.empty.v1+json", f"{MODELPACK}weight.v1.raw", "modelpack"),
    ],
)
def test_dialects_are_recognized_by_media_types(config_type, layer_type, dialect, tmp_path):
    art = ocikit.inspect(models.push(tmp_path / "s", config_type, (b"1", layer_type, {})))
    assert art.dialect == dialect
    assert (art.model is None) == (dialect != "modelpack")
