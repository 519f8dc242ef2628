"""Previews: the format is detected from the first bytes, and all text is escaped."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocikit.notebook.previews import PICTURE, TEXT, preview, preview_size

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


def test_text_is_escaped_and_limited_in_lines():
    shown = preview("notes.txt", b"<script>alert(1)</script>\n" * 500, 26 * 500).html
    assert "&lt;script&gt;" in shown
    assert "<script" not in shown
    assert "300 more lines" in shown


def test_csv_becomes_table_of_first_rows():
    shown = preview("t.csv", b"a,b\n" + b"1,<b>\n" * 100, 4 + 6 * 100).html
    assert "<th>a</th>" in shown
    assert shown.count("<tr>") == 21
    assert "&lt;b&gt;" in shown
    assert "80 more lines" in shown


def test_truncated_table_omits_incomplete_line():
    head = b"a,b\n1,2\n3,4567"
    assert "4567" not in preview("t.csv", head, 1000).html


def test_complete_json_is_indented():
    raw = json.dumps({"a": [1, {"b": "ü"}]}).encode()
    assert "\n  &quot;a&quot;: [" in preview("x.json", raw, len(raw)).html
    assert "ü" in preview("x", raw, len(raw)).html
    assert preview("x.json", raw, len(raw) + 1).html.count("\n") < 3


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("a.png", 10_000, 10_000),
        ("a.PNG", PICTURE + 1, TEXT),
        ("a.txt", 10, 10),
        ("a.bin", 1 << 40, TEXT),
    ],
)
def test_preview_size_is_limited(name, size, expected):
    assert preview_size(name, size) == expected


def test_complete_picture_is_shown():
    assert preview("a", PNG, len(PNG)).picture == PNG
    assert preview("a.png", PNG, len(PNG)).format == "png"
    cut = preview("a.png", PNG, len(PNG) + 1)
    assert cut.picture == b""
    assert "too large" in cut.html


def test_svg_is_shown_as_text():
    shown = preview("a.svg", b"<svg onload=alert(1)>", 21)
    assert shown.picture == b""
    assert "<svg" not in shown.html


def test_text_with_incomplete_last_character_is_shown():
    head = "ü".encode() * 10
    assert "üüü" in preview("a.txt", head[:-1], 1000).html


def test_binary_content_is_shown_as_hexadecimal():
    assert "000000  00 01 02" in preview("a.bin", bytes(range(256)) * 2, 512).html


@given(st.text(max_size=12), st.binary(max_size=400), st.integers(0, 1000))
def test_preview_of_any_content_is_escaped(name, head, more):
    shown = preview(name, head + b"<script>\x1b[31m\xe2\x80\xae", len(head) + 13 + more).html
    assert "<script" not in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
