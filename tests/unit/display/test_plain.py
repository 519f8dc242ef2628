"""Cards as plain text, for terminals."""

import builtins
import pickle
import sys

import pytest
from IPython.lib.pretty import pretty
from ocikit.display import Card, Code, DigestCell, Name, Section, Size, plain_text, table

from tests.support import cards
from tests.support.cards import CARDS

CARD = Card(
    title=Name("registry.example/", "ada/waves:v1"),
    notes=("files", Size(1500)),
    lead="Sines and other waves, " * 5,
    facts=(("created", "today"), ("fetch", Code('.pull("folder/")'))),
    sections=(
        Section(
            title="files",
            headers=("name", "size", "digest"),
            rows=(
                (f"a{'b' * 60}.csv", Size(4_000_000), DigestCell("sha256:" + "ab" * 32)),
                ("日本.csv", Size(12), DigestCell("sha256:" + "cd" * 32)),
            ),
            count=302,
            note=Size(1500),
            unfolded=True,
        ),
        Section(title="tags", names=("v1", "v2"), unfolded=False),
        Section(title="details", facts=(("media type", "x/y"),), unfolded=False),
    ),
)


def test_plain_text_has_all_parts_within_the_width():
    shown = plain_text(CARD, 60)
    assert shown.splitlines() == [
        "registry.example/ada/waves:v1  files · 1.5 kB",
        "Sines and other waves, Sines and other waves, Sines and",
        "other waves, Sines and other waves, Sines and other waves,",
        "created  today",
        'fetch    .pull("folder/")',
        "files  302 · 1.5 kB",
        "  name                             size  digest",
        "  abbbbbbbbbbbbbbbbbbbbbbbbbbb…  4.0 MB  sha256:abababababab",
        "  日本.csv                         12 B  sha256:cdcdcdcdcdcd",
        "  … 300 more",
        "tags  2",
    ]


def test_narrow_table_cuts_values_last():
    lines = plain_text(CARD, 40).splitlines()
    assert [line for line in lines if line.startswith("  abb")] == ["  abbbbbbb…  4.0 MB  sha256:abababababab"]


@pytest.mark.parametrize("name", CARDS)
def test_plain_text_of_every_card(name):
    value = CARDS[name]()
    try:
        shown = plain_text(value._card(), 80)
    finally:
        if name == "server":
            value.stop()
    assert shown.strip()
    assert len(shown) < 20_000


def test_ipython_prints_a_card_but_one_line_within_a_list():
    artifact = CARDS["artifact"]()
    assert "2019.parquet  69.0 MB  Parquet table" in pretty(artifact)
    assert pretty([artifact]) == f"[{artifact!r}]"
    assert pretty(CARDS["platform"]()) == repr(CARDS["platform"]())
    error = CARDS["error"]()
    assert pretty(error) == repr(error)


def test_terminal_needs_no_package(monkeypatch):
    def without_rich(name, *args, **kwargs):
        assert not name.startswith("rich")
        return original(name, *args, **kwargs)

    original = builtins.__import__
    for name in [name for name in sys.modules if name.startswith("rich")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_rich)
    assert "2019.parquet" in repr(CARDS["files"]())


def test_width_is_that_of_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    rows = plain_text(cards.artifact(cards.many_manifest(30))._card()).splitlines()
    assert max(len(row) for row in rows if row.startswith("  images/")) <= 50


def test_table_of_data_keeps_its_header_and_scrolls():
    """Rows of files become paragraphs in a narrow page; columns of data would lose their meaning."""
    shown = table(("a", "b"), [(1, 2)])
    assert 'aria-label="table"><table class="ocikit-columns"><thead>' in shown
    assert "ocikit-rows" not in shown
    for name in ("description_table", "description_tensors", "history"):
        assert "ocikit-columns" in CARDS[name]()._repr_html_()
    assert "ocikit-columns" not in CARDS["artifact"]()._repr_html_()


def test_equal_files_are_counted_once():
    layer = cards.layer("a.csv", 1_000_000, "text/csv")
    twins = [layer, cards.ocikit.Descriptor(media_type="text/csv", digest=layer.digest, size=layer.size)]
    artifact = cards.artifact(cards.data_manifest(layers=twins))
    shown = "1.0 MB, 2.0 MB with duplicates"
    assert shown in repr(artifact.files)
    assert f"files  2 · {shown}" in plain_text(artifact._card())


def test_view_of_an_unpickled_artifact_sends_no_request(monkeypatch):
    """A pickle has no large manifest; it is fetched on first use, and a view is not one."""
    artifact = pickle.loads(pickle.dumps(cards.artifact(cards.many_manifest(1000))))

    def fetch(*_):
        raise AssertionError("a view fetched the manifest")

    monkeypatch.setattr(type(artifact.reader), "document", fetch)
    assert repr(artifact).startswith("Artifact('registry.example/weather/stations:v2.1@sha256:")
    assert str(artifact.reference) in artifact._repr_html_()
    assert "not fetched yet" in plain_text(artifact._card())


def test_card_marks_the_files_that_a_pull_selected(tmp_path):
    with cards.ocikit.Session(cache=tmp_path / "cache", progress=False) as session:
        session.push(f"oci:{tmp_path / 'layout'}:v1", cards.home())
        artifact = session.pull(f"oci:{tmp_path / 'layout'}:v1", tmp_path / "out", include="*.md")
        assert "1 on disk" in plain_text(artifact._card())
        lines = {line.split()[0]: line for line in repr(artifact.files).splitlines() if "stations/" in line}
        assert lines["stations/README.md"].endswith("✓")
        assert not lines["stations/2024.csv"].endswith("✓")
        assert "on disk" not in repr(session.pull(f"oci:{tmp_path / 'layout'}:v1", tmp_path / "all").files)
        cached = session.pull(f"oci:{tmp_path / 'layout'}:v1")
        assert cached.summary.endswith("-> cache")
        assert "on disk  in the cache" in plain_text(cached._card())
