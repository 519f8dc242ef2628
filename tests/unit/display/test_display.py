"""Display: untrusted text is escaped, nothing raises, all output is bounded."""

import html
import re

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from ocikit import display
from ocikit.spec.annotations import Annotations, FrozenMap
from ocikit.spec.config import History, ImageConfig, RootFS
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.platform import Platform
from ocikit.spec.reference import LayoutReference, Reference

TAG = '"><img src=x onerror=alert(1)>'
BAD = TAG + "\x1b[31m\x1b]0;title\x07\x00\r\n\x85\x9b\x7f\u202e\u2066\u200f\u2028\ud800'</td></table><script>"
SHA = Digest("sha256:" + "ab" * 32)

#: Characters that must not reach a terminal or a page.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")

BAD_PLATFORM = Platform(
    os=BAD, architecture=BAD, variant=BAD, os_version=BAD, os_features=(BAD, BAD), extra=FrozenMap({BAD: BAD})
)
BAD_NOTES = Annotations({BAD: BAD, "org.opencontainers.image.title": BAD})
BAD_DESCRIPTOR = Descriptor(
    media_type=BAD,
    digest=SHA,
    size=3,
    urls=(BAD, BAD),
    annotations=BAD_NOTES,
    data=BAD.encode("utf-8", "surrogatepass"),
    artifact_type=BAD,
    platform=BAD_PLATFORM,
    extra=FrozenMap({BAD: BAD}),
)
DOCUMENT_FIELDS = {
    "media_type": BAD,
    "artifact_type": BAD,
    "annotations": BAD_NOTES,
    "extra": FrozenMap({BAD: (BAD,)}),
    "subject": BAD_DESCRIPTOR,
}


def with_bytes(document):
    """Return the document with raw bytes, as after parsing; its text cannot be encoded again."""
    object.__setattr__(document, "_raw", b"{}")
    return document


BAD_VALUES = [
    BAD_PLATFORM,
    BAD_DESCRIPTOR,
    RootFS(type=BAD, diff_ids=(SHA,), extra=FrozenMap({BAD: BAD})),
    History(created=BAD, author=BAD, created_by=BAD, comment=BAD, extra=FrozenMap({BAD: BAD})),
    with_bytes(Manifest(config=BAD_DESCRIPTOR, layers=(BAD_DESCRIPTOR,) * 3, **DOCUMENT_FIELDS)),
    with_bytes(Index(manifests=(BAD_DESCRIPTOR,) * 3, **DOCUMENT_FIELDS)),
    with_bytes(
        ImageConfig(
            architecture=BAD,
            os=BAD,
            variant=BAD,
            os_version=BAD,
            os_features=(BAD,),
            created=BAD,
            author=BAD,
            config=FrozenMap({BAD: (BAD,), "Env": (BAD,)}),
            rootfs=RootFS(type=BAD),
            history=(History(comment=BAD),),
            extra=FrozenMap({BAD: BAD}),
        )
    ),
    Reference(registry=BAD, repository=BAD, tag=BAD, digest=SHA),
    LayoutReference(path=BAD, tag=BAD, digest=SHA),
]
IDS = [type(v).__name__ for v in BAD_VALUES]


@pytest.mark.parametrize("value", BAD_VALUES, ids=IDS)
def test_hostile_field_text_is_escaped(value):
    for text in (repr(value), str(value), value._repr_html_()):
        assert not UNSAFE.search(text)
        assert "repr failed" not in text
        text.encode()
    page = value._repr_html_()
    assert "<img" not in page
    assert "<script" not in page
    assert page.count("<table ") == page.count("</table>")


@pytest.mark.parametrize("value", BAD_VALUES, ids=IDS)
def test_repr_is_one_short_line(value):
    assert len(repr(value)) <= 100 or isinstance(value, Reference | LayoutReference)
    assert len(repr(value).splitlines()) == 1
    assert len(str(value).splitlines()) == 1


@pytest.mark.parametrize("value", BAD_VALUES, ids=IDS)
def test_html_is_small_without_scripts_or_network(value):
    page = value._repr_html_()
    assert len(page.encode()) <= display.HTML_LIMIT
    assert not re.search(
        r"<(script|img|link|iframe|object)|\son\w+=|url\(|javascript:", re.sub(r'title="[^"]*"', "", html_only(page))
    )


def html_only(page):
    """Return the tags of a page without the text between them."""
    return " ".join(re.findall(r"<[^>]*>", page))


class HostileCard(display.Displayable):
    def __rich_repr__(self):
        yield BAD, BAD
        yield "nested", {BAD: [BAD, (BAD,)]}
        yield "bytes", BAD.encode("utf-8", "surrogatepass")
        yield "default", BAD, BAD

    def _sections(self):
        cells = [
            (BAD, display.DigestCell(BAD), display.Timestamp(BAD)),
            (BAD * 100, display.Size(5), display.Link(BAD)),
        ] * 30
        card = display.Card(title=BAD, notes=(BAD,), facts=((BAD, BAD),))
        yield display.Section(title=BAD, headers=(BAD, "b"), rows=cells, note=BAD, hint=display.Code(BAD))
        yield display.Section(title=BAD, names=[BAD] * 30, cards=[card] * 30, hint=BAD)


def test_hostile_names_cells_and_headers_are_escaped():
    value = HostileCard()
    for text in (repr(value), str(value), value._repr_html_()):
        assert not UNSAFE.search(text)
        assert "repr failed" not in text
    assert "<img" not in value._repr_html_()
    assert "<script" not in value._repr_html_()
    assert "default" not in repr(value)


def descriptors(n):
    return tuple(
        Descriptor(
            media_type="application/vnd.oci.image.layer.v1.tar",
            digest=Digest(f"sha256:{i:064x}"),
            size=i,
            annotations={"org.opencontainers.image.title": f"folder/{'long' * 100}/{i}"},
            platform=Platform(os="linux", architecture=f"a{i}"),
        )
        for i in range(n)
    )


@pytest.mark.parametrize("build", [lambda d: Manifest(config=d[0], layers=d), lambda d: Index(manifests=d)])
def test_ten_thousand_layers_give_short_repr_and_small_html(build):
    document = build(descriptors(10_000))
    assert len(repr(document)) <= 100
    page = document._repr_html_()
    assert len(page.encode()) <= 100_000
    assert "9,980 more" in page


class Broken(display.Displayable):
    def __rich_repr__(self):
        yield "fine", 1
        raise ValueError(TAG)


class BrokenSections(display.Displayable):
    def __rich_repr__(self):
        yield "fine", 1

    def _sections(self):
        raise RuntimeError(TAG)


class Unreprable:
    def __repr__(self):
        raise KeyError(TAG)


class BrokenValue(display.Displayable):
    def __rich_repr__(self):
        yield "value", Unreprable()


@pytest.mark.parametrize("cls", [Broken, BrokenValue])
def test_failing_repr_reports_error_instead_of_raising(cls):
    assert re.fullmatch(rf"<ocikit.{cls.__name__}: repr failed: (ValueError|KeyError)>", repr(cls()))
    assert "repr failed" in cls()._repr_html_()
    assert "<ocikit" not in cls()._repr_html_()
    assert "<img" not in cls()._repr_html_()


def test_failing_html_reports_error_while_repr_works():
    assert repr(BrokenSections()) == "BrokenSections(fine=1)"
    assert "repr failed: RuntimeError" in BrokenSections()._repr_html_()


def test_manifest_that_cannot_be_encoded_has_repr():
    manifest = Manifest(config=evolve(BAD_DESCRIPTOR, annotations={"a": "\ud800"}))
    assert "repr failed" in repr(manifest)
    assert "repr failed" in manifest._repr_html_()


class Huge(display.Displayable):
    def __rich_repr__(self):
        for i in range(3000):
            yield f"key{i}", "v" * 70


def test_html_above_limit_falls_back_to_repr():
    page = Huge()._repr_html_()
    assert page == f"<pre>{html.escape(repr(Huge()))}</pre>"


class ManyTooltips(display.Displayable):
    """Twenty cards of twenty rows, all with tooltips."""

    def __rich_repr__(self):
        yield "fine", 1

    def _sections(self):
        inner = display.Section(title="inner", rows=[("<" * 5000, "&" * 5000)] * 20)
        yield display.Section(title="outer", cards=[display.Card(title="card", sections=(inner,))] * 20, count=500)


def test_html_above_limit_omits_tooltips_and_nested_rows():
    page = ManyTooltips()._repr_html_()
    assert len(page) <= display.HTML_LIMIT
    assert page.count("<strong>card</strong>") == 20
    assert "480 more" in page


@given(st.text(st.characters()) | st.text(st.sampled_from("\x1b[]\\\x07\x9b\x85;0m\r\n\tab\u202e\u2028\ud800")))
def test_sanitize_removes_controls_and_is_idempotent(text):
    once = display.sanitize(text)
    assert not UNSAFE.search(once)
    assert display.sanitize(once) == once
    lines = display.sanitize(text, newlines=True)
    assert not UNSAFE.search(lines.replace("\n", ""))
    assert "\r" not in lines


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_sanitize_preserves_printable_text_of_any_script(text):
    assert display.sanitize(text) == text
    assert display.sanitize(f"{text}\n{text}", newlines=True) == f"{text}\n{text}"
    assert display.sanitize(f"{text}\n{text}") == f"{text} {text}"


@pytest.mark.parametrize(
    ("raw", "sanitized"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://evil\x07link\x1b]8;;\x07", "link"),
        ("\x1b]0;title\x1b\\text", "text"),
        ("\x1b]0;unfinished: the rest stays", "0;unfinished: the rest stays"),
        ("a\x1b(Bb", "a(Bb"),
        ("one\ttwo", "one two"),
        ("one\r\ntwo\rthree", "one two three"),
        ("a\u202eb\u2066c\u200f", "abc"),
        ("\ud83d\ude00", ""),
        ("😀 é 漢", "😀 é 漢"),
    ],
)
def test_sanitize_removes_terminal_sequences(raw, sanitized):
    assert display.sanitize(raw) == sanitized


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escape_removes_markup_and_shortens(text):
    cell = display.escape(text, 20)
    assert not re.search(r"<(?!span title=|/span>)", cell)
    shown = html.unescape(re.sub(r"^<span[^>]*>|</span>$", "", cell))
    assert len(shown) <= 20
    assert display.sanitize(text)[:19] == shown[:19]


def test_shortened_cell_has_full_text_in_tooltip():
    cell = display.escape("x" * 79 + '"<' + "y" * 50)
    assert cell.startswith(f'<span title="{"x" * 79}&quot;&lt;')
    assert cell.endswith("…</span>")


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (4_200_000_000, "4.2 GB"),
        (10**15, "1.0 PB"),
        (2**63 - 1, "9223.4 PB"),
    ],
)
def test_size_has_decimal_unit(n, text):
    assert display.size(n) == text
    assert (display.Size(n).text(), repr(display.Size(n)), f"{display.Size(n)}") == (text, text, text)
    assert display.Size(n) == n
    assert f"{n:,} bytes" in display.Size(n).html() or n < 1000
    assert f"{n:,} bytes" in display.Size(n).text(whole=True) or n < 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.25, "0.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (60, "1 min 0 s"),
        (75, "1 min 15 s"),
        (3599.6, "1 h 0 min"),
        (3600, "1 h 0 min"),
        (90_061, "25 h 1 min"),
    ],
)
def test_duration_has_units(seconds, text):
    assert display.duration(seconds) == text


def test_join_limited_counts_omitted_items_and_shortens():
    assert display.join_limited(["a", "b"]) == "a, b"
    assert display.join_limited(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … 2 more"
    assert display.join_limited([]) == ""
    assert len(display.join_limited(["x" * 10_000] * 3)) < 300


def test_quoted_text_is_short_and_sanitized():
    assert display.quoted("a b") == "'a b'"
    assert not UNSAFE.search(display.quoted(BAD))
    assert len(display.quoted("x" * 10_000)) == 120


def test_rich_pretty_repr_shows_same_fields():
    rich = pytest.importorskip("rich.pretty")
    shown = rich.pretty_repr(Descriptor(media_type="text/plain", digest=SHA, size=3))
    assert "media_type='text/plain'" in shown
    assert "title" not in shown


def test_display_path_is_relative_to_folder_or_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert display.display_path(tmp_path / "here" / "data" / "a b") == "data/a b"
    assert display.display_path(tmp_path / "here") == "."
    assert display.display_path(tmp_path / "home" / ".cache" / "ocikit") == "~/.cache/ocikit"
    assert display.display_path(tmp_path / "elsewhere") == str(tmp_path / "elsewhere")
    assert display.display_path("data") == "data"


def test_display_path_works_in_deleted_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    assert display.display_path(tmp_path) == str(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_descriptor_text_prefers_artifact_type():
    digest = Digest("sha256:" + "a" * 64)
    about = Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=digest, size=709)
    assert str(about).startswith("application/vnd.oci.image.manifest.v1+json (")
    assert str(evolve(about, artifact_type="application/vnd.example.report")).startswith(
        "application/vnd.example.report ("
    )
