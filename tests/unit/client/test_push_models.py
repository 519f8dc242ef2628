"""Pushes of models in the formats of other tools: documents, requests and arguments."""

import json
import os
import time
from collections import Counter

import ocikit
import pytest
from ocikit.errors import ContentError, InvalidArgument, InvalidDocument

from tests.support.home import cli, moved, tree, write
from tests.support.model_files import FILES, gguf, safetensors, write_model

FORMATS = ["modelpack", "kit", "docker"]
FILEPATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"

#: The keys that the schema of ModelPack allows.
DESCRIPTOR = set(
    "createdAt authors family name docURL sourceURL datasetsURL version revision vendor licenses title description".split()
)
TECHNICAL = {"architecture", "format", "paramSize", "precision", "quantization", "capabilities"}
CAPABILITIES = {"inputTypes", "outputTypes", "knowledgeCutoff", "reasoning", "toolUsage", "reward", "languages"}

EVERYTHING = {
    "name": "tiny",
    "family": "waves",
    "version": "1.0",
    "title": "Tiny",
    "description": "It is tiny.",
    "authors": ["Ada"],
    "license": "MIT",
    "vendor": "Org",
    "revision": "abc",
    "created": "2026-01-31T12:00:00Z",
    "documentation": "https://example.org/doc",
    "source": "https://example.org/src",
    "datasets": ["org/waves"],
    "architecture": "cnn",
    "format": "pt",
    "parameters": "1.5B",
    "precision": "float16",
    "quantization": "awq",
    "framework": "pytorch",
    "languages": ["en"],
    "inputs": ["text", "image"],
    "outputs": "text",
    "knowledge_cutoff": "2025-01-31T12:00:00Z",
    "reasoning": True,
    "tool_usage": False,
    "reward": False,
    "context": 512,
}


@pytest.fixture
def model(home):
    return write_model(home / "model")


def config_of(art):
    return json.loads(art.reader.read(art.reference, art.manifest.config))


def digests(art):
    return {layer.annotations[TITLE]: str(layer.digest) for layer in art.manifest.layers}


def test_modelpack_has_one_raw_layer_for_each_file(session, server, model):
    art = session.push(f"{server.host}/m:v1", "model", as_="modelpack")
    assert art.manifest.artifact_type == "application/vnd.cncf.model.manifest.v1+json"
    assert art.manifest.config.media_type == "application/vnd.cncf.model.config.v1+json"
    kinds = {layer.annotations[FILEPATH]: layer.media_type for layer in art.manifest.layers}
    assert kinds == {
        name: f"application/vnd.cncf.model.{kind}.v1.raw"
        for name, kind in {
            "LICENSE": "doc",
            "README.md": "doc",
            "config.json": "weight.config",
            "data/train.csv": "dataset",
            "model.safetensors": "weight",
            "predict.py": "code",
            "tokenizer.json": "weight.config",
        }.items()
    }
    for layer in art.manifest.layers:
        assert layer.annotations == {
            TITLE: layer.annotations[FILEPATH],
            FILEPATH: layer.annotations[TITLE],
            "org.cncf.model.file.mediatype.untested": "true",
        }


def test_modelpack_config_states_what_files_tell(session, server, model):
    art = session.push(f"{server.host}/m:v1", "model", as_="modelpack", model={"name": "tiny"})
    assert config_of(art) == {
        "descriptor": {
            "family": "tiny",
            "name": "tiny",
            "datasetsURL": ["org/waves"],
            "licenses": ["Apache-2.0"],
        },
        "modelfs": {"type": "layers", "diffIds": [str(layer.digest) for layer in art.manifest.layers]},
        "config": {
            "architecture": "TinyForCausalLM",
            "format": "safetensors",
            "paramSize": "5K",
            "precision": "float32",
            "capabilities": {"languages": ["en", "fr"]},
        },
    }


def test_modelpack_config_has_only_keys_of_the_schema(session, server, model):
    config = config_of(session.push(f"{server.host}/m:v1", "model", as_="modelpack", model=EVERYTHING))
    assert set(config) == {"descriptor", "config", "modelfs"}
    assert set(config["descriptor"]) == DESCRIPTOR
    assert set(config["config"]) == TECHNICAL
    assert set(config["config"]["capabilities"]) == CAPABILITIES
    assert config["descriptor"]["createdAt"] == "2026-01-31T12:00:00Z"
    assert config["config"]["capabilities"]["outputTypes"] == ["text"]


def test_modelpack_of_plain_files_has_all_objects(session, server, home):
    write(home, {"a.txt": "x"})
    config = config_of(session.push(f"{server.host}/m:v1", "a.txt", as_="modelpack"))
    assert (config["descriptor"], config["config"], len(config["modelfs"]["diffIds"])) == ({}, {}, 1)


def test_kitfile_lists_the_layers_in_order(session, server, model):
    write(model, {"model-2.safetensors": safetensors(weight=(1,)), "also.py": "", "more.md": ""})
    art = session.push(f"{server.host}/m:v1", "model", as_="kit", model=EVERYTHING)
    assert art.manifest.artifact_type == "application/vnd.kitops.modelkit.manifest.v1+json"
    assert art.manifest.config.media_type == "application/vnd.kitops.modelkit.config.v1+json"
    kitfile, names = config_of(art), digests(art)
    parts = kitfile["model"].pop("parts")
    entries = {
        "model": [kitfile["model"]],
        "modelpart": parts,
        "code": kitfile["code"],
        "dataset": kitfile["datasets"],
        "docs": kitfile["docs"],
    }
    for kind, listed in entries.items():
        layers = [
            layer
            for layer in art.manifest.layers
            if layer.media_type == f"application/vnd.kitops.modelkit.{kind}.v1.raw"
        ]
        assert [entry["path"] for entry in listed] == [layer.annotations[FILEPATH] for layer in layers], kind
        assert all(entry["digest"] == entry["diffId"] == names[entry["path"]] for entry in listed)
    assert sum(map(len, entries.values())) == len(art.manifest.layers) == 10
    assert kitfile["manifestVersion"] == "1.0.0"
    assert kitfile["package"] == {
        "name": "tiny",
        "version": "1.0",
        "description": "It is tiny.",
        "license": "MIT",
        "authors": ["Ada"],
    }
    assert (kitfile["model"]["framework"], kitfile["model"]["format"]) == ("pytorch", "pt")


def test_kitfile_without_weights_has_no_model(session, server, home):
    write(home, {"m/config.json": "{}", "m/a.csv": "x"})
    art = session.push(f"{server.host}/m:v1", "m", as_="kit")
    assert [entry["path"] for entry in config_of(art)["datasets"]] == ["a.csv", "config.json"]
    assert "model" not in config_of(art)


@pytest.mark.skipif(os.name == "nt", reason="no colon in file names")
def test_kit_model_is_not_taken_for_a_reference(session, server, home):
    write(home, {"m/ab:c.gguf": "x", "m/c.gguf": "y"})
    model = config_of(session.push(f"{server.host}/m:v1", "m", as_="kit"))["model"]
    assert (model["path"], [part["path"] for part in model["parts"]]) == ("c.gguf", ["ab:c.gguf"])


def test_docker_model_has_a_type_for_each_kind_of_file(session, server, home):
    names = {
        "model.gguf": "gguf.v3",
        "mmproj-model-f16.gguf": "mmproj",
        "LICENSE": "license",
        "chat_template.jinja": "chat.template.jinja",
        "config.json": "model.file",
        "deep/notes.txt": "model.file",
    }
    weights = {"model.gguf": gguf(general__architecture="llama", general__file_type=15, llama__context_length=4096)}
    write(home / "m", dict.fromkeys(names, b"{}") | weights)
    art = session.push(f"{server.host}/m:v1", "m", as_="docker", model={"name": "tiny"})
    assert art.manifest.config.media_type == "application/vnd.docker.ai.model.config.v0.2+json"
    kinds = {layer.annotations[FILEPATH]: layer.media_type for layer in art.manifest.layers}
    assert kinds == {name: f"application/vnd.docker.ai.{kind}" for name, kind in names.items()}
    assert config_of(art) == {
        "config": {
            "format": "gguf",
            "quantization": "Q4_K_M",
            "parameters": "2K",
            "architecture": "llama",
            "size": "0.00 MiB",
            "gguf": {"general.name": "tiny", "general.architecture": "llama"},
            "context_size": 4096,
        },
        "descriptor": {},
        "rootfs": {"type": "rootfs", "diff_ids": [str(layer.digest) for layer in art.manifest.layers]},
    }


def test_docker_model_needs_weights(session, server, home):
    write(home, {"m/model.onnx": "x"})
    with pytest.raises(ContentError, match="needs weights") as caught:
        session.push(f"{server.host}/m:v1", "m", as_="docker")
    assert "modelpack" in caught.value.hint
    assert moved(server) == []


@pytest.mark.parametrize("as_", FORMATS)
def test_pull_restores_the_model(session, server, model, tmp_path, as_):
    os.chmod(model / "predict.py", 0o755)
    session.push(f"{server.host}/m:v1", "model/", as_=as_)
    session.pull(f"{server.host}/m:v1", tmp_path / "out")
    pulled = tree(tmp_path / "out")
    pulled.pop("Kitfile", None)  # of the config, as kit writes it
    assert pulled == {name: raw.encode() if isinstance(raw, str) else raw for name, raw in FILES.items()}
    assert os.access(tmp_path / "out/predict.py", os.X_OK)


@pytest.mark.parametrize("as_", FORMATS)
def test_pulled_model_can_be_pushed_again(session, server, model, tmp_path, as_):
    first = session.push(f"{server.host}/m:v1", "model", as_=as_)
    session.pull(f"{server.host}/m:v1", tmp_path / "out")
    assert session.push(f"{server.host}/m:v2", tmp_path / "out", as_=as_).digest == first.digest


@pytest.mark.parametrize("as_", FORMATS)
def test_equal_models_have_one_digest(session, server, model, home, as_):
    first = session.push(f"{server.host}/m:v1", "model", as_=as_)
    copy = write_model(home / "elsewhere")
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    assert session.push(f"{server.host}/other:v1", copy, as_=as_).digest == first.digest


@pytest.mark.parametrize("as_", FORMATS)
def test_push_needs_no_more_requests_than_of_files(session, server, other, model, as_):
    write(model, {"model.safetensors": safetensors(weight=(3_000_000,))})  # 12 MB: hashed while it is sent
    session.push(f"{other.host}/m:v1", "model/.")
    session.push(f"{server.host}/m:v1", "model/.", as_=as_)
    model_push, file_push = moved(server), moved(other)
    assert not Counter(model_push) - Counter(file_push)
    assert model_push.count("PUT uploads") == len(FILES) + 1
    session.push(f"{other.host}/m:v1", "model/.")
    session.push(f"{server.host}/m:v1", "model/.", as_=as_)
    again = moved(server)
    assert not Counter(again) - Counter(moved(other))
    assert not {"POST uploads", "PATCH uploads", "PUT uploads"} & set(again)


def test_formats_share_the_files(session, server, model):
    session.push(f"{server.host}/m:files", "model/.")
    moved(server)
    session.push(f"{server.host}/m:modelpack", "model", as_="modelpack")
    assert moved(server).count("POST uploads") == 1  # the config


def test_interrupted_push_sends_large_files_once(session, server, model, monkeypatch):
    """The config is sent last, so it can't show that an earlier push was interrupted: recorded digests do."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 10_000_000_000)  # the files are long unchanged
    write(model, {"model.safetensors": safetensors(weight=(3_000_000,))})
    server.on("PUT", ".*/manifests/.*", status=403)
    with pytest.raises(ocikit.errors.Denied):
        session.push(f"{server.host}/m:v1", "model", as_="modelpack")
    assert moved(server).count("PATCH uploads") == 1
    session.push(f"{server.host}/m:v1", "model", as_="modelpack")
    assert moved(server).count("PATCH uploads") == 0


def test_single_folder_is_the_root_of_the_model(session, server, model, home):
    write(home, {"extra.py": ""})
    art = session.push(f"{server.host}/m:v1", "model", "extra.py", as_="modelpack")
    assert {"model/config.json", "extra.py"} <= set(digests(art))
    art = session.push(f"{server.host}/m:v1", "model/model.safetensors", as_="modelpack")
    assert set(digests(art)) == {"model/model.safetensors"}


def test_card_and_memory_are_files_of_the_model(session, server, model):
    (model / "README.md").unlink()
    (model / "model.safetensors").unlink()
    extra = {"deep/model.safetensors": safetensors(weight=(2000,))}
    card = ocikit.Card("# Tiny", {"license": "mit"})
    art = session.push(f"{server.host}/m:v1", "model", extra, as_="modelpack", card=card)
    assert {"README.md", "config.json", "deep/model.safetensors"} <= set(digests(art))
    config = config_of(art)
    assert (config["descriptor"]["licenses"], config["config"]["paramSize"]) == (["MIT"], "2K")


def test_pushed_model_is_recognised(session, server, model):
    art = session.push(f"{server.host}/m:v1", "model", as_="modelpack", model={"name": "tiny"})
    assert (art.dialect, art.model.name, art.model.license, art.model.parameters) == (
        "modelpack",
        "tiny",
        "Apache-2.0",
        "5K",
    )


@pytest.mark.parametrize("as_", FORMATS)
def test_edit_names_the_push_that_keeps_the_format(session, server, model, as_):
    art = session.push(f"{server.host}/m:v1", "model", as_=as_)
    with pytest.raises(InvalidDocument, match="lists the files") as caught:
        with session.edit(f"{server.host}/m:v1") as edit:
            edit["new.txt"] = b"x"
    assert f'as_="{art.dialect}"' in caught.value.hint
    assert session.push(f"{server.host}/m:v1", "model", as_=art.dialect).digest == art.digest


def test_model_can_be_a_numbered_version(session, server, model):
    for _ in range(2):
        art = session.push(f"{server.host}/m:latest", "model", as_="modelpack", version="next")
        write(model, {"new.py": ""})
    assert art.reference.tag == "v2"
    assert len(config_of(session.inspect(f"{server.host}/m:v2"))["modelfs"]["diffIds"]) == len(FILES) + 1


def test_layout_takes_a_model(session, model, home):
    art = session.push("oci:layout:v1", "model", as_="modelpack")
    assert config_of(session.inspect("oci:layout:v1")) == config_of(art)


def test_dry_run_sends_nothing(session, server, model):
    planned = session.push(f"{server.host}/m:v1", "model", as_="modelpack", dry_run=True)
    assert not {"POST uploads", "PUT manifests"} & set(moved(server))
    assert planned.digest == session.push(f"{server.host}/m:v1", "model", as_="modelpack").digest


def test_classes_decide_about_types(session, server, model):
    art = session.push(f"{server.host}/m:v1", "model", as_="modelpack", classes={"*.csv": "doc"})
    kinds = {layer.annotations[TITLE]: layer.media_type for layer in art.manifest.layers}
    assert kinds["data/train.csv"] == "application/vnd.cncf.model.doc.v1.raw"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"as_": "docker-v9"}, "docker-v9"),
        ({"model": {"name": "x"}}, "model= needs as_="),
        ({"classes": {"*": "doc"}}, "classes= needs as_="),
        ({"as_": "modelpack", "model": "tiny"}, "model"),
        ({"as_": "modelpack", "model": {"nmae": "x"}}, "nmae"),
        ({"as_": "modelpack", "classes": {"*": "docs"}}, "docs"),
        ({"as_": "modelpack", "artifact_type": "a/b"}, "artifact_type="),
        ({"as_": "kit", "config": {}, "config_type": "a/b"}, "config"),
        ({"as_": "kit", "archive": "tar"}, "archive="),
        ({"as_": "kit", "shards": "zip"}, "shards="),
        ({"as_": "kit", "media_types": {"LICENSE": "text/plain"}}, "media_types="),
    ],
)
def test_wrong_arguments_send_nothing(session, server, model, options, message):
    with pytest.raises(InvalidArgument, match=message):
        session.push(f"{server.host}/m:v1", "model", **options)
    assert moved(server) == []


def test_model_without_files_is_rejected(session, server):
    with pytest.raises(ContentError, match="nothing to push"):
        session.push(f"{server.host}/m:v1", as_="modelpack", subject=f"{server.host}/m:v0")


def test_command_line_writes_a_model(server, model, home):
    arguments = ("--as", "modelpack", "--model", "name=tiny", "--model", "reasoning=true", "--class", "*.csv=doc")
    done = cli("push", "--quiet", f"{server.host}/m:v1", "model", *arguments)
    assert done.returncode == 0, done.stderr
    with ocikit.Session() as session:
        config = config_of(session.inspect(f"{server.host}/m:v1"))
    assert config["descriptor"]["name"] == "tiny"
    assert config["config"]["capabilities"]["reasoning"] is True
