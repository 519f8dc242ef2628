"""Previews: what a file is shows in its first bytes, and nothing in it gets out raw."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocikit.notebook.previews import PICTURE, TEXT, preview, preview_size

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


def test_text_is_shown_escaped_and_up_to_so_many_lines():
    shown = preview("notes.txt", b"<script>alert(1)</script>\n" * 500, 26 * 500).html
    assert "&lt;script&gt;" in shown
    assert "<script" not in shown
    assert "300 more lines" in shown


def test_a_table_is_one_with_its_first_rows():
    shown = preview("t.csv", b"a,b\n" + b"1,<b>\n" * 100, 4 + 6 * 100).html
    assert "<th>a</th>" in shown
    assert shown.count("<tr>") == 21
    assert "&lt;b&gt;" in shown
    assert "80 more lines" in shown


def test_a_table_that_is_cut_ends_with_a_whole_line():
    head = b"a,b\n1,2\n3,4567"
    assert "4567" not in preview("t.csv", head, 1000).html


def test_json_is_indented_if_it_is_whole():
    raw = json.dumps({"a": [1, {"b": "ü"}]}).encode()
    assert "\n  &quot;a&quot;: [" in preview("x.json", raw, len(raw)).html
    assert "ü" in preview("x", raw, len(raw)).html
    assert preview("x.json", raw, len(raw) + 1).html.count("\n") < 3


@pytest.mark.parametrize(("name", "size", "bytes_"), [
    ("a.png", 10_000, 10_000), ("a.PNG", PICTURE + 1, TEXT), ("a.txt", 10, 10), ("a.bin", 1 << 40, TEXT),
])  # fmt: skip
def test_no_more_is_read_than_is_shown(name, size, bytes_):
    assert preview_size(name, size) == bytes_


def test_a_picture_is_given_as_one_if_it_is_whole():
    assert preview("a", PNG, len(PNG)).picture == PNG
    assert preview("a.png", PNG, len(PNG)).format == "png"
    cut = preview("a.png", PNG, len(PNG) + 1)
    assert cut.picture == b""
    assert "too large" in cut.html


def test_a_picture_that_may_hold_scripts_is_text():
    shown = preview("a.svg", b"<svg onload=alert(1)>", 21)
    assert shown.picture == b""
    assert "<svg" not in shown.html


def test_a_character_that_is_cut_in_two_is_no_reason_to_give_up():
    head = "ü".encode() * 10
    assert "üüü" in preview("a.txt", head[:-1], 1000).html


def test_bytes_are_shown_as_numbers():
    assert "000000  00 01 02" in preview("a.bin", bytes(range(256)) * 2, 512).html


@given(st.text(max_size=12), st.binary(max_size=400), st.integers(0, 1000))
def test_anything_can_be_previewed_and_nothing_is_raw(name, head, more):
    shown = preview(name, head + b"<script>\x1b[31m\xe2\x80\xae", len(head) + 13 + more).html
    assert "<script" not in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
