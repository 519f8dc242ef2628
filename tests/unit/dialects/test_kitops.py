"""ModelKits: names from the Kitfile, old and new layers, models that extend others."""

import json
import sys
from pathlib import Path

import ocikit
import pytest
from ocikit.dialects.kitfile import encode_kitfile

from tests.support import models
from tests.support.fake_registry import FakeRegistry

STORE = Path(__file__).parent / "recorded"
KIT = "application/vnd.kitops.modelkit."
CONFIG = f"{KIT}config.v1+json"

KITFILE = b"""manifestVersion: 1.0.0
package:
  name: tiny
  version: 1.0.0
  description: A tiny model
  license: Apache-2.0
  authors: [Example]
model:
  name: tiny
  path: ./model.safetensors
  framework: pytorch
  version: 1.0.0
  parts:
    - path: ./config.json
    - path: ./tokenizer.json
code:
  - path: ./predict.py
    description: run it
datasets:
  - name: train
    path: ./data
docs:
  - path: ./README.md
  - path: ./LICENSE
"""


def sha(content):
    return str(ocikit.Digest.of(content))


def test_pull_writes_the_files_that_kit_packed(tmp_path):
    ref = f"oci:{STORE}:kit"
    art = ocikit.pull(ref, tmp_path / "m")
    found = models.files(tmp_path / "m")
    assert found.pop("Kitfile") == KITFILE
    assert tuple(found) == models.RECORDED
    assert found["data/train.csv"] == b"a,b\n1,2\n"
    assert " already there)" in ocikit.pull(ref, tmp_path / "m").summary
    assert art.dialect == "kitops"
    assert not ocikit.diff(ref, tmp_path / "m")


def test_files_are_listed_by_the_kitfile():
    art = ocikit.inspect(f"oci:{STORE}:kit")
    assert list(art.files) == [
        "model.safetensors/",
        "config.json/",
        "tokenizer.json/",
        "predict.py/",
        "data/",
        "README.md/",
        "LICENSE/",
        "Kitfile",
    ]
    assert art["Kitfile"].read() == KITFILE
    assert art["Kitfile"].path.read_bytes() == KITFILE
    assert ocikit.pull(f"oci:{STORE}:kit").files.keys() == art.files.keys()


def test_kitfile_is_json_without_the_package_for_yaml(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    ocikit.pull(f"oci:{STORE}:kit", tmp_path / "m")
    assert json.loads((tmp_path / "m" / "Kitfile.json").read_bytes())["model"]["framework"] == "pytorch"
    assert not (tmp_path / "m" / "Kitfile").exists()


def test_large_kitfiles_are_json(tmp_path):
    config = {"model": {"parameters": ["x"] * 100_000}}
    assert list(ocikit.inspect(models.push(tmp_path / "s", CONFIG, config=config)).files) == ["Kitfile.json"]


def test_lone_surrogates_are_replaced(tmp_path):
    config = (
        b'{"package": {"name": "a\\ud800", "\\udfff": "\\ud800"}, "model": {"parameters": {"\\ud800": ["\\ud800"]}}}'
    )
    art = ocikit.inspect(models.push(tmp_path / "s", CONFIG, config=config))
    assert art["Kitfile"].read_text().splitlines()[1] == "  name: a\ufffd"
    assert art.model.name == "a\ufffd"


def test_deep_kitfiles_are_refused(tmp_path):
    config = b'{"model": {"parameters":' + b"[" * 900 + b"]" * 900 + b"}}"
    art = ocikit.inspect(models.push(tmp_path / "s", CONFIG, config=config))
    with pytest.raises(ocikit.InvalidDocument, match="the Kitfile is nested deeper"):
        art.files  # noqa: B018 - the property is what is tested


#: Texts whose style in YAML depends on the encoder, and how kit's encoder writes them.
STYLES = {
    "1.0": '"1.0"',
    "1.0.0": "1.0.0",
    "yes": '"yes"',
    "~": '"~"',
    "1e3": '"1e3"',
    "0o7": '"0o7"',
    "2020-01-01": '"2020-01-01"',
    "a: b": "'a: b'",
    "a #b": "'a #b'",
    "@x": "'@x'",
    "é": "é",
    "😀": '"\\U0001F600"',
    "=": "=",
    "tab\tx": '"tab\\tx"',
    "x" * 300 + " y": "x" * 300 + " y",
    "two\nlines": "|-\n    two\n    lines",
}


@pytest.mark.parametrize("text", STYLES)
def test_kitfile_has_the_style_of_kit(text):
    name, raw = encode_kitfile({"package": {"description": text, "authors": [], "version": ""}})
    assert (name, raw.decode()) == ("Kitfile", f"package:\n  description: {STYLES[text]}\n")


def test_parameters_are_sorted():
    raw = encode_kitfile(
        {"model": {"path": "m", "parameters": {"b": "", "a": [1, {"d": 1, "c": True}]}, "digest": "x"}}
    )[1]
    assert (
        raw
        == b"""model:
  path: m
  parameters:
    a:
      - 1
      - c: true
        d: 1
    b: ""
"""
    )


def test_model_has_the_facts_of_the_kitfile():
    model = ocikit.inspect(f"oci:{STORE}:kit").model
    assert model == ocikit.Model(
        dialect="kitops",
        name="tiny",
        license="Apache-2.0",
        framework="pytorch",
        version="1.0.0",
        description="A tiny model",
        authors=("Example",),
    )


def test_old_layers_are_unpacked_below_the_folder_of_their_path(tmp_path):
    """Kitfiles before 2025 have no digests, and the archives have paths relative to the folder of theirs."""
    config = {
        "manifestVersion": "1.0.0",
        "model": {"name": "m", "path": "weights/m.bin", "parts": [{"path": "p/one"}, {"path": "two"}]},
        "code": [{"path": "./src/"}],
        "datasets": [{"path": "."}],
    }
    ref = models.push(
        tmp_path / "s",
        CONFIG,
        (models.tar({"m.bin": b"1"}), f"{KIT}model.v1.tar"),
        (models.tar({"one": b"2"}, "w:gz"), f"{KIT}modelpart.v1.tar+gzip"),
        (models.tar({"two": b"3"}), f"{KIT}modelpart.v1.tar"),
        (models.tar({"src": None, "src/a.py": b"4"}), f"{KIT}code.v1.tar"),
        (models.tar({"t.csv": b"5"}), f"{KIT}dataset.v1.tar"),
        config=config,
    )
    ocikit.pull(ref, tmp_path / "m", exclude="Kitfile")
    assert models.files(tmp_path / "m") == {
        "weights/m.bin": b"1",
        "p/one": b"2",
        "two": b"3",
        "src/a.py": b"4",
        "t.csv": b"5",
    }
    assert list(ocikit.inspect(ref).files)[-2:] == ["dataset/", "Kitfile"]


def test_raw_layers_have_the_paths_of_their_entries(tmp_path):
    config = {
        "model": {"path": "./m.bin", "digest": sha(b"1"), "parts": [{"path": "c.json", "digest": sha(b"2")}]},
        "prompts": [{"path": "prompts/a.txt", "digest": sha(b"3")}],
    }
    ref = models.push(
        tmp_path / "s",
        CONFIG,
        (b"2", f"{KIT}modelpart.v1.raw"),
        (b"1", f"{KIT}model.v1.raw"),
        (b"3", f"{KIT}prompt.v1.raw"),
        (b"4", f"{KIT}docs.v1.raw", {models.FILEPATH: "docs/x.md"}),
        config=config,
        artifact_type=f"{KIT}manifest.v1+json",
    )
    ocikit.pull(ref, tmp_path / "m", exclude="Kitfile")
    assert models.files(tmp_path / "m") == {"m.bin": b"1", "c.json": b"2", "prompts/a.txt": b"3", "docs/x.md": b"4"}


def test_archives_of_jozu_are_unpacked(tmp_path):
    jozu = "application/vnd.jozu.model."
    raw = models.tar({"a": b"1"}, "w:gz")
    ref = models.push(tmp_path / "s", f"{jozu}config.v1+json", (raw, f"{jozu}content.v1.tar+gzip"))
    assert ocikit.pull(ref, tmp_path / "m", exclude="Kitfile").dialect == "kitops"
    assert models.files(tmp_path / "m") == {"a": b"1"}


@pytest.mark.parametrize(
    "config", [b"[]", b"{", b'{"model": 7, "code": {"path": 1}}', b'{"model": {"parts": [1, null]}, "datasets": "x"}']
)
def test_wrong_kitfiles_are_refused_or_ignored(config, tmp_path):
    ref = models.push(tmp_path / "s", CONFIG, (b"1", f"{KIT}model.v1.raw"), config=config)
    art = ocikit.inspect(ref)
    assert art._repr_html_()
    if config.startswith(b'{"'):
        assert [name for name in art.files if name.startswith("sha256-")]
    else:
        with pytest.raises(ocikit.InvalidDocument):
            art.files  # noqa: B018 - the property is what is tested
    assert len(ocikit.inspect(ref, dialect=None).files) == 1


@pytest.mark.parametrize("path", ["/etc/x", "a/../../b", "x\0", "..", ".ocikit/x"])
def test_unsafe_paths_of_a_kitfile_are_refused(path, tmp_path):
    config = {"model": {"path": path, "digest": sha(b"1")}}
    ref = models.push(tmp_path / "s", CONFIG, (b"1", f"{KIT}model.v1.raw"), config=config)
    with pytest.raises(ocikit.UnsafeArchive):
        ocikit.pull(ref, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_two_entries_with_one_path_are_refused(tmp_path):
    entries = [{"path": "x", "digest": sha(content)} for content in (b"1", b"2")]
    layers = [(content, f"{KIT}code.v1.raw") for content in (b"1", b"2")]
    ref = models.push(tmp_path / "s", CONFIG, *layers, config={"code": entries})
    with pytest.raises(ocikit.UnsafeArchive, match="two files have the title 'x'"):
        ocikit.pull(ref, tmp_path / "m")


# Models that extend others


def push_kit(registry, name, path, *layers, home):
    """Push a ModelKit to a registry and return its reference."""
    ref = models.push(home / name.replace(":", "-"), CONFIG, *layers, config={"model": {"path": path}})
    target = f"{registry.host}/{name}"
    ocikit.copy(ref, target)
    return target


@pytest.fixture
def fake():
    with FakeRegistry() as registry:
        yield registry


def test_weights_of_parents_are_pulled(fake, tmp_path):
    base = push_kit(
        fake,
        "base:v1",
        "w.bin",
        (b"weights", f"{KIT}model.v1.raw"),
        (b"doc", f"{KIT}docs.v1.raw", {models.FILEPATH: "doc.md"}),
        home=tmp_path,
    )
    middle = push_kit(
        fake, "middle:v1", base, (b"part", f"{KIT}modelpart.v1.raw", {models.FILEPATH: "p"}), home=tmp_path
    )
    top = push_kit(fake, "top:v1", middle, (b"code", f"{KIT}code.v1.raw", {models.FILEPATH: "a.py"}), home=tmp_path)
    art = ocikit.pull(top, tmp_path / "m", exclude="Kitfile")
    assert models.files(tmp_path / "m") == {"a.py": b"code", "p": b"part", "w.bin": b"weights"}
    assert art.model.parent == middle
    art = ocikit.inspect(top)
    assert list(art.files) == ["a.py", "p", "w.bin", "Kitfile"]
    assert (art["w.bin"].read(), art[sha(b"weights")].read()) == (b"weights", b"weights")
    assert list(ocikit.inspect(top, dialect=None).files) == [f"sha256-{sha(b'code')[7:19]}"]


def test_parents_in_a_circle_are_refused(fake, tmp_path):
    push_kit(fake, "a:v1", f"{fake.host}/b:v1", home=tmp_path)
    b = push_kit(fake, "b:v1", f"{fake.host}/a:v1", home=tmp_path)
    with pytest.raises(ocikit.InvalidDocument, match="extend each other in a circle: .*b:v1"):
        ocikit.pull(b, tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("parents", [10, 11])
def test_ten_parents_are_the_limit(parents, fake, tmp_path):
    push_kit(fake, "m0:v1", "w", (b"w", f"{KIT}model.v1.raw"), home=tmp_path)
    for i in range(1, parents + 1):
        push_kit(fake, f"m{i}:v1", f"{fake.host}/m{i - 1}:v1", home=tmp_path)
    top = f"{fake.host}/m{parents}:v1"
    if parents == 10:
        ocikit.pull(top, tmp_path / "m", exclude="Kitfile")
        assert models.files(tmp_path / "m") == {"w": b"w"}
    else:
        with pytest.raises(ocikit.InvalidDocument, match="more than 10 models"):
            ocikit.pull(top, tmp_path / "m")


@pytest.mark.parametrize("parent", ["org/base:v1", "base:v1"])
def test_parents_without_a_registry_are_refused(parent, tmp_path):
    ref = models.push(tmp_path / "s", CONFIG, config={"model": {"path": parent}})
    with pytest.raises(ocikit.InvalidReference, match="names no registry"):
        ocikit.pull(ref, tmp_path / "m")
    ocikit.pull(ref, tmp_path / "m", dialect=None)


@pytest.mark.parametrize("host", ["localhost:5000", "127.0.0.1:5000", "10.0.0.1", "169.254.169.254", "[::1]:5000"])
def test_parents_in_private_networks_are_refused(host, tmp_path):
    """A Kitfile must not send requests to registries that only this machine reaches (SSRF)."""
    ref = models.push(tmp_path / "s", CONFIG, config={"model": {"path": f"{host}/base:v1"}})
    with pytest.raises(ocikit.Denied, match="in a private network"):
        ocikit.pull(ref, tmp_path / "m")


def test_missing_parents_are_named(fake, tmp_path):
    ref = push_kit(fake, "a:v1", f"{fake.host}/none:v1", home=tmp_path)
    with pytest.raises(ocikit.NotFound, match="this model => .*none:v1") as caught:
        ocikit.inspect(ref).files  # noqa: B018 - the property is what is tested
    assert "dialect=None" in caught.value.hint
