"""Classes of a model's files by name."""

import pytest
from ocikit.dialects.classes import classify
from ocikit.errors import ContentError, InvalidArgument

EXPECTED = {
    "weights": "model-00001-of-00002.safetensors Model.GGUF pytorch_model.bin model.onnx deep/er/model.pt w.npz a.skops",
    "config": "config.json tokenizer.json tokenizer.model vocab.txt merges.txt chat_template.jinja model.safetensors.index.json"
    " pytorch_model.bin.index.json spiece.model recipe.yaml",
    "doc": "README.md LICENSE LICENSE.txt docs/guide.pdf notes.txt loss.png USE_POLICY.md",
    "code": "train.py run.ipynb requirements.txt pyproject.toml Dockerfile a.unknown",
    "dataset": "data/train.csv a.parquet b.jsonl c.arrow",
}


@pytest.mark.parametrize(("name", "titles"), EXPECTED.items())
def test_class_follows_the_name(name, titles):
    titles = titles.split()
    assert classify((title, 1) for title in titles) == dict.fromkeys(titles, name)


def test_large_unknown_file_is_weights():
    assert classify([("a.unknown", 200_000_000)]) == {"a.unknown": "weights"}


def test_first_matching_pattern_decides():
    found = classify([("a.csv", 1), ("data/b.csv", 1), ("c.py", 1)], {"data/": "weights", "*.csv": "doc"})
    assert found == {"a.csv": "doc", "data/b.csv": "weights", "c.py": "code"}


@pytest.mark.parametrize("classes", [{"*.csv": "data"}, {"*.csv": None}, {1: "doc"}])
def test_unknown_class_is_rejected(classes):
    with pytest.raises(InvalidArgument, match="unknown class") as caught:
        classify([("a.csv", 1)], classes)
    assert "dataset" in caught.value.hint


def test_pattern_without_files_is_rejected():
    with pytest.raises(ContentError, match="match no file"):
        classify([("a.csv", 1)], {"*.tsv": "doc"})
