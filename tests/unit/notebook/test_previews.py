"""Previews: the format is detected from the first bytes, and all text is escaped."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocikit.notebook.previews import NOTEBOOK, PICTURE, TEXT, preview, preview_size

from tests.support.explored import README, SVG, notebook, picture

PNG = picture(30, 20)


def test_text_is_escaped_and_limited_in_lines():
    shown = preview("notes.txt", b"<script>alert(1)</script>\n" * 500, 26 * 500)
    assert "&lt;script&gt;" in shown
    assert "<script" not in shown
    assert "300 more lines" in shown


def test_csv_becomes_table_of_first_rows():
    shown = preview("t.csv", b"a,b\n" + b"1,<b>\n" * 100, 4 + 6 * 100)
    assert "<th>a</th>" in shown
    assert shown.count("<tr>") == 21
    assert "&lt;b&gt;" in shown
    assert "80 more lines" in shown
    assert "csv, 100 rows, 2 columns" in shown


def test_truncated_table_omits_incomplete_line():
    head = b"a,b\n1,2\n3,4567"
    assert "4567" not in preview("t.csv", head, 1000)


def test_complete_json_is_indented():
    raw = json.dumps({"a": [1, {"b": "ü"}]}).encode()
    assert "\n  &quot;a&quot;: [" in preview("x.json", raw, len(raw))
    assert "ü" in preview("x", raw, len(raw))
    assert preview("x.json", raw, len(raw) + 1).count("\n") < 3


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("a.png", 10_000, 10_000),
        ("a.webp", 70_000, 70_000),
        ("a.PNG", PICTURE + 1, TEXT),
        ("a.ipynb", NOTEBOOK, NOTEBOOK),
        ("a.ipynb", NOTEBOOK + 1, TEXT),
        ("a.txt", 10, 10),
        ("a.bin", 1 << 40, TEXT),
    ],
)
def test_preview_size_is_limited(name, size, expected):
    assert preview_size(name, size) == expected


def test_complete_picture_is_shown_at_its_size():
    shown = preview("a", PNG, len(PNG))
    assert f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}"' in shown
    assert "30 × 20 pixels" in shown
    cut = preview("a.png", PNG, len(PNG) + 1)
    assert "<img" not in cut
    assert "too large" in cut


def test_picture_of_too_many_pixels_is_not_shown():
    bomb = PNG[:16] + (50_000).to_bytes(4, "big") * 2 + PNG[24:]
    shown = preview("a.png", bomb, len(bomb))
    assert "<img" not in shown
    assert "50,000 × 50,000 pixels" in shown and "too large" in shown


def test_svg_is_shown_as_image_only():
    raw = SVG.replace("<rect", "<script>alert(1)</script><rect").encode()
    shown = preview("a.svg", raw, len(raw))
    assert "<svg" not in shown and "<script" not in shown
    assert f"data:image/svg+xml;base64,{base64.b64encode(raw).decode()}" in shown
    assert "<img" not in preview("a.txt", raw, len(raw))


def test_markdown_is_formatted_with_its_front_matter():
    shown = preview("README.md", README.encode(), len(README))
    assert "<h3>Waves</h3>" in shown and "<strong>several</strong>" in shown
    assert "<th>license</th><td>mit</td>" in shown
    hostile = b"# <img src=x onerror=alert(1)>\n[x](javascript:alert(1))\n<script>alert(1)</script>"
    shown = preview("a.md", hostile, len(hostile))
    assert "<img" not in shown and "<script" not in shown and "href" not in shown


def test_notebook_shows_cells_with_the_text_of_outputs():
    raw = notebook(("markdown", "# Look\nat **this**", ""), ("code", "print('<b>')", "\x1b[31m<b>\n"))
    shown = preview("a.ipynb", raw, len(raw))
    assert "<strong>this</strong>" in shown
    assert '<pre class="ocikit-in">print(&#x27;&lt;b&gt;&#x27;)</pre><pre class="ocikit-out">&lt;b&gt;\n</pre>' in shown


@pytest.mark.parametrize(
    "cells",
    [None, 1, "x", [1, None], [{}], [{"source": 5, "outputs": 7}], [{"outputs": [1, {"data": 2}, {"text": {}}]}]],
)
def test_invalid_notebook_has_a_preview(cells):
    raw = json.dumps({"cells": cells}).encode()
    assert "a.ipynb" in preview("a.ipynb", raw, len(raw))


def test_text_with_incomplete_last_character_is_shown():
    head = "ü".encode() * 10
    assert "üüü" in preview("a.txt", head[:-1], 1000)


def test_binary_content_is_shown_as_hexadecimal():
    assert "000000  00 01 02" in preview("a.bin", bytes(range(256)) * 2, 512)


@pytest.mark.parametrize("suffix", ["", ".md", ".ipynb", ".csv", ".svg", ".json", ".png"])
@given(st.text(max_size=12), st.binary(max_size=400), st.integers(0, 1000))
def test_preview_of_any_content_is_escaped(suffix, name, head, more):
    shown = preview(name + suffix, head + b"<script>\x1b[31m\xe2\x80\xae", len(head) + 13 + more)
    assert "<script" not in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
