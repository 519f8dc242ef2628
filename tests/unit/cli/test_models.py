"""Models on the command line."""

import ocikit
import pytest
from ocikit.cli import main

from tests.support import images, models
from tests.support.home import tree

MODELPACK = "application/vnd.cncf.model."
KIT = "application/vnd.kitops.modelkit."


@pytest.fixture
def model(home):
    layers = (
        (b"1", f"{MODELPACK}weight.v1.raw", {models.FILEPATH: "m.gguf"}),
        (models.tar({"a.py": b"2"}), f"{MODELPACK}code.v1.tar", {models.FILEPATH: "src"}),
    )
    return models.push(home / "store", f"{MODELPACK}config.v1+json", *layers)


def test_pull_and_inspect_have_the_names_of_the_dialect(model, home, capsys):
    assert main(["pull", model, "out"]) == 0
    assert tree(home / "out") == {"m.gguf": b"1", "a.py": b"2"}
    assert main(["inspect", model]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[-2:]] == ["m.gguf", "src/"]


def test_dialect_none_gives_the_layers_as_they_are(model, home, capsys):
    assert main(["pull", "--dialect", "none", model, "out"]) == 0
    assert all(name.startswith("sha256-") for name in tree(home / "out"))
    assert main(["inspect", "--dialect", "none", model]) == 0
    assert f"{MODELPACK}weight.v1.raw" in capsys.readouterr().out


def test_hints_name_the_option_for_the_dialect(home, capsys):
    ref = models.push(home / "store", f"{KIT}config.v1+json", config={"model": {"path": "org/base:v1"}})
    assert main(["pull", ref, "out"]) == 2
    assert "--dialect none gives its own layers" in capsys.readouterr().err


def test_root_writes_the_folder_of_an_image(home, capsys):
    layout = images.layered(home / "image", models.tar({"bin/sh": b"sh", "models/m.gguf": b"1"}))
    assert main(["pull", "--root", "models", f"oci:{layout}:latest", "out"]) == 0
    assert tree(home / "out") == {"m.gguf": b"1"}
    assert main(["pull", "--root", "models", f"oci:{layout}:latest"]) == 2
    assert "--root needs a folder" in capsys.readouterr().err


def test_files_of_a_wrong_model_are_refused(home, capsys):
    ref = models.push(home / "store", f"{KIT}config.v1+json", config=b"[]")
    assert main(["inspect", ref]) == 6
    assert "expected an object" in capsys.readouterr().err
    assert ocikit.inspect(ref, dialect=None).dialect == "kitops"
