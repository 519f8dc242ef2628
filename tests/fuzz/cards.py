"""READMEs of strangers: their front matter."""

import sys

from ocikit.descriptions.front_matter import read_front_matter, write_front_matter

from tests.fuzz.target import UNSAFE, target, text_of

YAML_WORDS = (
    b"---\n", b"\n---\n", b"...", b"&a ", b"*a", b"!!python/name:os.system ", b"!x ", b"|\n", b">\n", b"? ", b": ", b"- ", b"[", b"]", b"{", b"}",
    b"#", b"'", b'"', b"%", b"@", b"`", b"<<: ", b"~", b"null", b"no", b"0x1f", b"1e999", b".inf", b"9" * 5000, b"2024-13-45", b"\t", b"\r",
    b"\x00", b"\xff", "\u202e".encode(), "\u2028".encode(), b"[" * 2000, b"a: " * 2000, b"x" * 70_000,
)  # fmt: skip


@target(
    b"---\nlicense: mit\ntags:\n- vision\n- 'two words'\nn: 1.5\n---\n# Title\n",
    b'---\nlicense: "apache-2.0"\ntags: [a, b]\nmetrics: [{"name": "f1", "value": 0.5}]\n---\ntext',
    b"---\nmodel-index:\n- name: m\n  results:\n  - task: {type: x}\n    metrics:\n    - type: f1\n      value: 0.5\n---\ntext",
    words=YAML_WORDS,
)
def front_matter(data: bytes) -> None:
    """Read the front matter of a README with and without PyYAML: what the subset reads, PyYAML reads in the same way."""
    text = text_of(data)
    whole = read_front_matter(text)
    yaml = sys.modules.get("yaml")
    sys.modules["yaml"] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        flat = read_front_matter(text)
    finally:
        del sys.modules["yaml"]
        if yaml is not None:
            sys.modules["yaml"] = yaml
    for found in (whole, flat):
        assert not UNSAFE.search(found.ignored), found.ignored
        assert len(found.ignored) < 500
        hash(found.data)
        if found.ignored:
            assert not found.data
    if not flat.ignored and not whole.ignored:
        assert flat == whole
    if whole.data:
        again = read_front_matter(write_front_matter(whole.data, whole.text))
        assert again.ignored or again == whole
