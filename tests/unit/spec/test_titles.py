"""Titles of files in artifacts as safe relative paths."""

import json
import os
import re
from pathlib import PurePosixPath
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocikit.errors import UnsafeArchive
from ocikit.spec import titles
from ocikit.spec.annotations import TITLE
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.titles import check_titles, layers_by_path, name_layers, safe_title


@pytest.mark.parametrize(
    "title", ["a", "data/train.csv", "./a", "a//b", "ż/🐢", ".hidden", "a b", "...", "-rf", "ab:c"]
)
def test_ordinary_titles_are_safe(title):
    assert safe_title(title) == PurePosixPath(title)


@pytest.mark.parametrize(
    "title",
    [
        "",
        " ",
        ".",
        "./",
        "/",
        "/etc/passwd",
        "..",
        "../x",
        "a/../b",
        "a/..",
        "C:\\x",
        "C:/x",
        "c:x",
        "a\\b",
        "..\\x",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "a\x7f",
        "a\x85",
        ".ocikit",
        ".ocikit/manifest.json",
        ".OciKit/x",
        "a/.ocikit/x",
        "x" * 256,
        "ł" * 128,
        "/".join(["x" * 200] * 21),
        "bad\udcff",
    ],
)
def test_unsafe_title_is_rejected_with_hint(title):
    with pytest.raises(UnsafeArchive, match="the title") as caught:
        safe_title(title)
    assert caught.value.hint


@given(st.one_of(st.text(), st.lists(st.sampled_from(["..", ".", "", "a", "C:", "\\", "/", "\0", " "])).map("/".join)))
def test_accepted_title_stays_in_folder(title):
    try:
        path = safe_title(title)
    except UnsafeArchive:
        return
    root = "/root/of/it"
    joined = os.path.normpath(os.path.join(root, path))
    assert joined.startswith(root + "/")
    assert joined == os.path.join(root, path), "the path is already normalized"
    json.dumps(title).encode("utf-8", "strict")


def test_conflicting_titles_are_rejected():
    assert check_titles(["a", "b/c", "b/d"]) == (PurePosixPath("a"), PurePosixPath("b/c"), PurePosixPath("b/d"))
    with pytest.raises(UnsafeArchive, match="two files have the title 'a'"):
        check_titles(["a", "./a"])
    for pair in (["a", "a/b"], ["a/b/c", "a/b"]):
        with pytest.raises(UnsafeArchive, match="is a file, but a folder in"):
            check_titles(pair)
    check_titles(["A", "a", "B", "b/c"])
    for pair in (["A", "a"], ["B", "b/c"], ["cafe\u0301", "caf\u00e9"], ["Straße", "STRASSE"]):
        with pytest.raises(UnsafeArchive):
            check_titles(pair, fold_case=True)


def layer(title, content=b""):
    return Descriptor.of(content, "text/csv", annotations={TITLE: title})


def test_unusable_title_does_not_affect_other_layers():
    good, bad, nested, twin, other = layers = [
        layer("good.csv"),
        layer("/home/ci/bad.bin"),
        layer("good.csv/x"),
        layer("twin", b"1"),
        layer("./twin", b"2"),
    ]
    named = name_layers([*layers, good])
    assert named.files == {"good.csv": good, "good.csv/x": nested}
    assert named.unusable == (
        (bad, "is an absolute path"),
        (twin, "is that of 2 files"),
        (other, "is that of 2 files"),
    )
    with pytest.raises(UnsafeArchive, match="'/home/ci/bad.bin' is an absolute path") as caught:
        layers_by_path(layers)
    assert "exclude='/home/ci/bad.bin'" in caught.value.hint and f"open(ref, '{bad.digest}')" in caught.value.hint


@given(st.text(alphabet="aZ0_-./ \\:é", max_size=12) | st.text(alphabet="a/.", min_size=250, max_size=260))
def test_plain_titles_have_no_problem(title):
    """Most titles are accepted by one expression: it must accept no title that the single checks refuse."""
    with mock.patch.object(titles, "_PLAIN", re.compile("(?!)")):
        slow = refused(title)
    assert refused(title) == slow


def refused(title):
    try:
        return safe_title(title)
    except UnsafeArchive as error:
        return error.message
