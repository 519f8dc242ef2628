"""Models that ocikit writes, read by the tools of their formats; and names in tools that know no formats."""

import json

import pytest

from tests.support import peers
from tests.support.home import tree
from tests.support.model_files import safetensors, write_model

FORMATS = ["modelpack", "kit", "docker"]


@pytest.fixture(scope="module", params=["ocikit", "distribution3"])
def registry(request):
    with peers.KINDS[request.param]() as running:
        yield running


@pytest.fixture
def model(home):
    return write_model(home / "model", **{"deep/er/model-2.safetensors": safetensors(weight=(300_000,))})


@pytest.fixture
def expected(model):
    return tree(model)


def modctl(*arguments, home):
    return peers.run(
        "modctl", "--storage-dir", home / "modctl", "--log-dir", home / "logs", "--no-progress", *arguments
    )


@pytest.mark.peers("modctl", of=["registry"])
@pytest.mark.parametrize("straight", [True, False])
def test_modctl_extracts_our_modelpack(session, registry, model, expected, tmp_path, repo, straight):
    ref = f"{registry.host}/{repo}:v1"
    session.push(ref, "model", as_="modelpack")
    out = tmp_path / "out"
    options = ("--extract-from-remote",) if straight else ()
    modctl("pull", "--plain-http", "--extract-dir", out, *options, ref, home=tmp_path)
    assert tree(out) == expected


@pytest.mark.peers("modctl", of=["registry"])
def test_modctl_reads_our_config(session, registry, model, tmp_path, repo):
    ref = f"{registry.host}/{repo}:v1"
    session.push(ref, "model", as_="modelpack", model={"name": "tiny", "reasoning": True})
    shown = json.loads(modctl("inspect", "--remote", "--plain-http", ref, home=tmp_path).stdout)
    facts = {key: shown[key] for key in ("Name", "Family", "Architecture", "Format", "ParamSize", "Precision")}
    assert facts == {
        "Name": "tiny",
        "Family": "tiny",
        "Architecture": "TinyForCausalLM",
        "Format": "safetensors",
        "ParamSize": "5K",
        "Precision": "float32",
    }
    assert {layer["Filepath"] for layer in shown["Layers"]} == set(tree(model))


@pytest.mark.peers("modctl", of=["registry"])
def test_modctl_and_ocikit_push_equal_blobs(session, registry, model, tmp_path, repo):
    ref = f"{registry.host}/{repo}:v1"
    modctl("modelfile", "generate", model, "--output", tmp_path, home=tmp_path)
    modctl("build", "--raw", "-f", tmp_path / "Modelfile", "-t", ref, model, home=tmp_path)
    modctl("push", "--plain-http", ref, home=tmp_path)
    theirs = session.inspect(ref)
    ours = session.push(f"{registry.host}/{repo}:ours", "model", as_="modelpack")
    assert {layer.digest for layer in ours.manifest.layers} == {layer.digest for layer in theirs.manifest.layers}


@pytest.mark.peers("oras", of=["registry"])
@pytest.mark.parametrize("as_", FORMATS)
def test_oras_pulls_our_models_with_names(session, registry, model, expected, tmp_path, repo, as_):
    ref = f"{registry.host}/{repo}:v1"
    session.push(ref, "model", as_=as_)
    peers.run("oras", "pull", "--plain-http", "-o", tmp_path / "out", ref, home=tmp_path)
    assert tree(tmp_path / "out") == expected


@pytest.mark.peers("crane", of=["registry"])
@pytest.mark.parametrize("as_", FORMATS)
def test_crane_accepts_our_models(session, registry, model, home, tmp_path, repo, as_):
    ref = f"{registry.host}/{repo}:v1"
    art = session.push(ref, "model", as_=as_)
    done = peers.run("crane", "--insecure", "copy", ref, f"{registry.host}/{repo}:copy", home=tmp_path)
    assert done.returncode == 0
    assert session.inspect(f"{registry.host}/{repo}:copy").digest == art.digest
    assert session.validate(ref).ok
