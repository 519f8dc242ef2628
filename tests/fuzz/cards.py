"""READMEs of other people: their front matter and their text."""

import sys

from ocikit.descriptions.card import Card
from ocikit.descriptions.front_matter import read_front_matter, write_front_matter
from ocikit.display import Markdown

from tests.fuzz.target import UNSAFE, target, text_of
from tests.support.cards import harmless

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


MARKDOWN_WORDS = (
    b"<", b">", b"<!--", b"-->", b"<script>", b"</", b"<img src=x onerror=alert(1)>", b"[a](", b"](https://a.example/", b"](javascript:alert(1))", b")",
    b"![", b"`", b"```", b"~~", b"**", b"_", b"|", b"\n|---|\n", b"\n\n", b"- ", b"1. ", b"> ", b"# ", b"&lt;", b"&#106;", b'"', b"'", b"\\", b"  \n",
    b"[x]: javascript:x\n", b"<https://a.example>", b"\x1b[31m", b"\x00", b"\xff", "\u202e".encode(), b"[" * 3000, b"> " * 3000, b"*a " * 3000,
)  # fmt: skip


@target(
    b"---\nlicense: mit\n---\n# Title\n\nText *a* **b** [c](https://a.example/x) ![d](https://a.example/d.png)\n\n| a |\n|---|\n| b |\n",
    b"<div align=center><img src=x></div>\n\n- a\n  1. b\n\n```py\nx\n```\n\n<!-- c -->\n> q\n\n[x]: https://a.example\n[x]",
    words=(*MARKDOWN_WORDS, *YAML_WORDS[:8]),
)
def readme(data: bytes) -> None:
    """Show a README in a notebook and in a terminal."""
    card = Card.parse(data)
    assert harmless(card._repr_html_())
    assert not UNSAFE.search(repr(card)) and not UNSAFE.search(str(card))
    assert not UNSAFE.search(Markdown(card.text).text())
    if not card.ignored and not card.text.startswith("---"):
        again = Card.parse(card.to_bytes())
        assert again.ignored or (again.text, again.data) == (card.text, card.data)
