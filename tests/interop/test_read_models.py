"""Models that other tools write, read by ocikit as these tools extract them."""

import os

import pytest

from tests.support import models, peers
from tests.support.home import write

MODEL = {
    "LICENSE": b"Apache-2.0\n",
    "README.md": b"# tiny\n",
    "config.json": b'{"model_type": "gpt2", "torch_dtype": "float32"}',
    "data/deep/train.csv": b"a,b\n1,2\n",
    "model.safetensors": bytes(range(256)) * 400,
    "predict.py": b"print(1)\n",
    "run.sh": b"#!/bin/sh\n",
}


@pytest.fixture(scope="module", params=["ocikit", "distribution3"])
def registry(request):
    with peers.KINDS[request.param]() as running:
        yield running


def modctl(*arguments, home):
    options = ("--storage-dir", home / "modctl", "--log-dir", home / "logs", "--no-progress")
    return peers.run("modctl", *options, *arguments, home=home)


@pytest.mark.peers("modctl", of=["registry"])
@pytest.mark.parametrize("raw", [True, False])
def test_pull_gives_what_modctl_extracts(session, registry, repo, tmp_path, raw):
    ref = f"{registry.host}/{repo}:v1"
    source = write(tmp_path / "model", MODEL)
    os.chmod(source / "run.sh", 0o755)
    modctl("modelfile", "generate", source, "--output", tmp_path, home=tmp_path)
    modctl("build", f"--raw={str(raw).lower()}", "-f", tmp_path / "Modelfile", "-t", ref, source, home=tmp_path)
    modctl("push", "--plain-http", ref, home=tmp_path)
    modctl("pull", "--plain-http", "--extract-dir", tmp_path / "theirs", "--extract-from-remote", ref, home=tmp_path)
    art = session.pull(ref, tmp_path / "ours")
    theirs = models.files(tmp_path / "theirs")
    assert models.files(tmp_path / "ours") == theirs == MODEL
    assert os.access(tmp_path / "ours" / "run.sh", os.X_OK)
    assert art.dialect in {"modelpack", "cnai"}
    assert (art.model.family, art.model.precision) == ("gpt2", "float32")
    assert sorted(name.rstrip("/") for name in art.files) == sorted(MODEL)
