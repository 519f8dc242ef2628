"""Front matter: what is read with and without PyYAML, and what is refused."""

import json
import sys

import pytest
import yaml
from ocikit.descriptions.front_matter import DEPTH, LIMIT, FrontMatter, read_front_matter, write_front_matter


@pytest.fixture(params=["pyyaml", "python", "none"])
def parser(request, monkeypatch):
    """Let PyYAML parse with C, with Python, or not at all."""
    if request.param == "none":
        monkeypatch.setitem(sys.modules, "yaml", None)
    if request.param == "python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    return request.param


def read(block):
    return read_front_matter(f"---\n{block}\n---\n# Text\n")


@pytest.mark.parametrize(
    ("block", "data"),
    [
        ("license: mit", {"license": "mit"}),
        ("tags:\n- vision\n- two words", {"tags": ("vision", "two words")}),
        ("tags:\n  - a # why\n  # comment\n\n  - 'it''s'", {"tags": ("a", "it's")}),
        ("tags: [a, b c, 3]", {"tags": ("a", "b c", 3)}),
        ('metrics: [{"name": "f1", "value": 0.5}]', {"metrics": ({"name": "f1", "value": 0.5},)}),
        ("language: no\nn: 5\nx: 1.5e3\nt: true\nz:\nd: 2024-01-02", {"language": "no", "n": 5, "x": 1500.0, "t": True, "z": None, "d": "2024-01-02"}),
        ('title: "a: b # c"\nurl: https://example.org/a#b', {"title": "a: b # c", "url": "https://example.org/a#b"}),
        ("big: " + "9" * 5000 + "\nbigger: 1e999", {"big": "9" * 5000, "bigger": "1e999"}),
        ("1: a\n1.50: b\nTrue: c", {"1": "a", "1.50": "b", "True": "c"}),
        ("", {}),
        ("# only a comment", {}),
    ],
)  # fmt: skip
def test_front_matter_is_read(parser, block, data):
    assert read(block) == FrontMatter(data, "# Text\n")


def test_nested_front_matter_is_read_by_pyyaml():
    block = "model-index:\n- name: m\n  results:\n  - metrics:\n    - {type: f1, value: 0.5}\ntext: |\n  two\n  lines\n"
    assert read(block).data == {
        "model-index": ({"name": "m", "results": ({"metrics": ({"type": "f1", "value": 0.5},)},)},),
        "text": "two\nlines\n",
    }


def test_nested_front_matter_without_pyyaml_is_ignored_with_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    found = read("model-index:\n- name: m\n  results: []")
    assert (found.data, found.ignored) == ({}, "front matter has 'name: m', which needs PyYAML")


@pytest.mark.parametrize("text", ["# Waves\n", "", "a\n---\nb: c\n---\n", "----\na: b\n----\n"])
def test_readme_without_front_matter_is_its_text(text):
    assert read_front_matter(text) == FrontMatter(text=text)


def test_front_matter_may_have_other_line_ends_and_byte_order_mark():
    assert read_front_matter("\ufeff--- \r\na: 1\r\n---\r\ntext") == FrontMatter({"a": 1}, "text")


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("a: !!python/object/apply:os.system ['id']", "has the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("a: !!python/name:os.system", "has the tag"),
        ("a: !!binary aGk=", "has the tag"),
        ("a: !local x", "has the tag"),
        ("a: &x [1]\nb: *x", "has an anchor or an alias"),
        ("&x a: 1", "has an anchor or an alias"),
        ("a: " + "[" * 20 + "]" * 20, f"is nested deeper than {DEPTH} levels"),
        ("a: [" + "1," * 30_000 + "]", "has more than 10,000 values"),
        ("a: 1\na: 2", "has the key 'a' twice"),
        ("a: 1\n...\nb: 2", ""),
        ("? [a]\n: b", "has a key that is not text"),
        ("- a", "is not a mapping"),
        ("words", "is not a mapping"),
        ("a: [1", "is not YAML: did not find expected ',' or ']'"),
        ("a: \x00", "is not YAML"),
        ("a: x" + "y" * LIMIT, "64 KiB"),
    ],
)
def test_hostile_front_matter_is_ignored_with_reason(block, reason):
    found = read(block)
    assert not found.data
    assert found.text == f"---\n{block}\n---\n# Text\n"
    assert found.ignored.startswith("front matter ")
    assert reason in found.ignored


@pytest.mark.parametrize(
    "block",
    ["a: !!str x", "a: &x y", "a: *x", "a: |", "a: >", "a: b: c", "a: - b", "  - x", "a: {b: c}", "a: [b, [c]]", "a:\n  b", "a: b\n  c",
     "a: %x", "a: @x", "a: `x`", "a: 'x", 'a: "x', "<<: *x", "a: 1\na: 2", 'a: {"b": 1, "b": 2}', "a: [NaN, {}]", "a: " + "[" * 9000],
)  # fmt: skip
def test_subset_refuses_what_it_does_not_read(monkeypatch, block):
    monkeypatch.setitem(sys.modules, "yaml", None)
    found = read(block)
    assert not found.data
    assert found.ignored


@pytest.mark.parametrize("data", [
    {"license": "apache-2.0", "tags": ["a", "b: c", "", "no", "- x", "#", "1", "é", "a\nb"], "n": 1, "x": 0.1, "t": True, "z": None},
    {"deep": {"a": [{"b": "c"}]}, "odd key: x": "y", "no": "yes", "1": "0x1f", "date": "2024-01-01"},
])  # fmt: skip
def test_written_front_matter_is_read_back(parser, data):
    found = read_front_matter(write_front_matter(data, "# Text"))
    assert json.loads(json.dumps(found.data, default=dict)) == data
    assert found.text == "# Text"


def test_text_without_data_is_written_without_front_matter():
    assert write_front_matter({}, "# Text") == "# Text"
