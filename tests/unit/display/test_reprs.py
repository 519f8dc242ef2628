"""Cards of all public objects: safe with hostile text, bounded, without I/O."""

import gc
import importlib
import io
import json
import os
import pkgutil
import re
import subprocess
import sys
import threading
import traceback
from pathlib import Path, PurePath

import attrs
import msgspec
import ocikit
import pytest
from ocikit import display
from ocikit.client.artifact import Artifact, Files
from ocikit.client.listing import Listing
from ocikit.display.html import css
from ocikit.errors import OcikitError
from ocikit.spec.annotations import Annotations, FrozenMap
from ocikit.spec.document import Document
from ocikit.spec.reference import LayoutReference, Reference
from ocikit.spec.tag_order import TagSummary

from tests.support import cards
from tests.support.cards import CARDS, harmless

TAG = '"><img src=x onerror=alert(1)>'
BAD = (
    TAG
    + "\x1b[31m\x1b]0;title\x07\r\n\x85\x9b\x7f\u202e\u2066\u200f\u2028\ud800'</td></table></details><script>[red]{{"
)

#: Characters that must not reach a terminal or a page.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")

#: Fields that the library sets itself, not a registry; objects cannot be shown with other values.
INTERNAL = {"decision", "outcome", "_kind", "_verb"}

#: Objects that a card does not read.
TOOLS = (ocikit.Session, ocikit.Cache)


def poisoned(value, name="", done=None):
    """Return a copy of the object with hostile text in every string."""
    done = {} if done is None else done
    if name in INTERNAL or isinstance(value, (ocikit.Digest, TagSummary, *TOOLS)):
        return value
    if isinstance(value, str):
        return BAD
    if isinstance(value, PurePath):
        return Path(BAD)
    if isinstance(value, FrozenMap):
        texts = {key: poisoned(item, done=done) for key, item in value.items()}
        return type(value)(texts | {BAD + key: item for key, item in texts.items()})
    if isinstance(value, dict):
        return {poisoned(key, done=done): poisoned(item, done=done) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return type(value)(poisoned(item, done=done) for item in value)
    if isinstance(value, Document):
        _ = value.digest  # computed from the original bytes
    if isinstance(value, display.Displayable) or attrs.has(type(value)):
        if id(value) not in done:
            done[id(value)] = copy = value.__new__(type(value))
            for attribute in attributes(value):
                object.__setattr__(copy, attribute, poisoned(getattr(value, attribute), attribute, done))
        return done[id(value)]
    return value


def attributes(value):
    slots = [s for c in type(value).__mro__ for s in getattr(c, "__slots__", ()) if s != "__weakref__"]
    names = [*slots, *getattr(value, "__dict__", ())]
    return [n for n in dict.fromkeys(names) if hasattr(value, n)]


def terminal_output(value, width=100):
    rich = pytest.importorskip("rich.console")
    console = rich.Console(file=io.StringIO(), width=width)
    console.print(value)
    return console.file.getvalue()


def pretty_output(value):
    """Return what IPython prints in a terminal."""
    return pytest.importorskip("IPython.lib.pretty").pretty(value)


@pytest.fixture(scope="module")
def objects_shown():
    """Return the object of every card."""
    objects = {name: make() for name, make in CARDS.items()}
    yield objects
    objects["server"].stop()


def displayable_classes():
    for module in pkgutil.walk_packages(ocikit.__path__, "ocikit."):
        if not module.name.endswith("__main__") and ".notebook." not in module.name:
            importlib.import_module(module.name)
    gc.collect()  # attrs replaces a class by one with slots; the first one lives until it is collected
    pending, found = [display.Displayable], []
    while pending:
        for cls in pending.pop().__subclasses__():
            if cls.__module__.startswith("ocikit.") and cls not in found:
                pending.append(cls)
                found.append(cls)
    return found


def test_every_displayable_class_has_a_card(objects_shown):
    shown = {type(value) for value in objects_shown.values()}
    bases = {base for cls in shown for base in cls.__mro__}
    methods = {"__rich_repr__", "_line", "_facts", "_sections", "_card", "_card_title", "_card_notes", "_card_lead"}
    missing = [
        c for c in displayable_classes() if c not in bases and not issubclass(c, OcikitError) and methods & set(vars(c))
    ]
    assert not missing


@pytest.mark.parametrize("name", CARDS)
def test_card_has_short_repr_small_safe_html_and_tree(name, objects_shown):
    value = objects_shown[name]
    line, page, tree = repr(value), value._repr_html_(), terminal_output(value)
    if not isinstance(value, Files):  # its repr is a table
        assert len(line) <= display.LINE or isinstance(value, Reference | LayoutReference | OcikitError)
        assert len(line.splitlines()) == 1
    assert "failed" not in line + page.removeprefix(css()) + tree
    assert harmless(page)
    assert len(page.encode()) < 20_000
    assert page.count("<style>") == 1
    assert " at 0x" not in line + page + tree


@pytest.mark.parametrize("name", CARDS)
def test_display_values_are_exactly_strings(name, objects_shown):
    """marimo and others encode with msgspec, which refuses subclasses of `str`."""
    value, hostile = objects_shown[name], poisoned(objects_shown[name])
    keys = getattr(value, "_ipython_key_completions_", tuple)()
    shown = [text for one in (value, hostile) for text in (repr(one), one._repr_html_(), terminal_output(one))]
    for texts in (shown, [str(value), *keys], value._render_traceback_() if isinstance(value, OcikitError) else []):
        assert [type(text) for text in texts] == [str] * len(texts)
        assert msgspec.json.decode(msgspec.json.encode(texts)) == texts


@pytest.mark.parametrize("name", CARDS)
def test_hostile_text_in_card_is_escaped(name, objects_shown):
    value = poisoned(objects_shown[name])
    line, page, tree, pretty = repr(value), value._repr_html_(), terminal_output(value), pretty_output(value)
    assert "repr failed" not in line + page + tree + pretty
    if isinstance(value, Files):
        line = line.replace("\n", " ")
    for text in (line, page, tree.replace("\n", ""), pretty.replace("\n", "")):
        assert not UNSAFE.search(text)
        text.encode()
    assert harmless(page)
    assert "<img" not in page and "<script" not in page
    assert page.count("<table ") == page.count("</table>") and page.count("<details") == page.count("</details>")
    assert len(page.encode()) < display.HTML_LIMIT
    assert len(line.splitlines()) == 1


def test_hostile_cards_show_the_hostile_text(objects_shown):
    """Otherwise the test above would pass for cards that show nothing."""
    for name in (
        "artifact",
        "config",
        "error",
        "explanation",
        "referrers",
        "tags",
        "cache_inventory",
        "plan_copy",
        "report",
    ):
        assert "&lt;img src=x onerror" in poisoned(objects_shown[name])._repr_html_(), name


@pytest.mark.parametrize("cls", displayable_classes(), ids=lambda cls: cls.__name__)
def test_uninitialized_object_has_repr(cls):
    value = cls.__new__(cls)
    assert "\n" not in repr(value)
    assert harmless(value._repr_html_())
    assert terminal_output(value)


@pytest.mark.parametrize(
    "text",
    [
        "javascript:alert(1)",
        "data:text/html,<script>",
        "//host/x",
        "https://",
        "https://good.example@evil.example/",
        "https://a.example/\u202egpj.exe",
        "https://a.example/\nb",
        " https://a.example",
        "https://a.example\\@evil.example",
        "https://[::1",
        "https://a.example:port/",
        "vbscript:x",
        "HTTPS:alert(1)",
        "https://a.example/" + "x" * 600,
    ],
)
def test_unsafe_url_is_not_a_link(text):
    assert "<a" not in display.Link(text).html()


def test_url_is_a_link_without_referrer():
    link = display.Link('https://a.example/?q="<b>"&x=1').html()
    assert link.startswith('<a href="https://a.example/?q=&quot;&lt;b&gt;&quot;&amp;x=1" rel="noopener noreferrer"')
    assert harmless(link)


def test_style_is_small_and_loads_nothing():
    assert len(css()) < 4096
    assert not re.search(r"url\(|@import|@font|expression|http", css())
    for rule in re.findall(r"[^{}]*\{[^{}]*\}", css().replace("<style>", "").replace("</style>", "")):
        assert ".ocikit" in rule, f"{rule} would style other elements of the page"


def test_text_and_background_colour_are_set_together():
    rule = re.search(r"\.ocikit\{color:.*?\}", css())[0]
    assert "color:var(--jp-content-font-color1" in rule and "background:var(--jp-layout-color0" in rule


# I/O

DISPLAYING = threading.local()


def listen(event, args):
    if getattr(DISPLAYING, "events", None) is not None and re.match(
        r"open|os\.|socket\.|subprocess\.|shutil\.|sqlite", event
    ):
        DISPLAYING.events.append((event, args))


@pytest.fixture(scope="module")
def hook():
    sys.addaudithook(listen)  # cannot be removed again


@pytest.mark.parametrize("name", CARDS)
def test_display_opens_no_file_and_no_connection(name, objects_shown, hook):
    value = objects_shown[name]
    renderers = (repr, str, type(value)._repr_html_, terminal_output)
    for render in renderers:
        render(value)  # the first call imports modules
    DISPLAYING.events = []
    try:
        for render in renderers:
            render(value)
        assert DISPLAYING.events == []
    finally:
        DISPLAYING.events = None


def test_listing_can_be_shown_while_it_fetches():
    arrived, go_on = threading.Event(), threading.Event()

    def pages():
        yield from (f"v{i}" for i in range(150))
        arrived.set()
        go_on.wait(60)

    listing = Listing(pages(), "tags", cards.DATA)
    reader = threading.Thread(target=len, args=(listing,))
    reader.start()
    try:
        assert arrived.wait(60)
        seen = []
        viewer = threading.Thread(target=lambda: seen.append((repr(listing), listing._repr_html_())), daemon=True)
        viewer.start()
        viewer.join(60)
        assert seen, "the display waits for the page"
        assert "150 or more tags" in seen[0][0]
    finally:
        go_on.set()
        reader.join(60)


# Bounded work


class Counted(str):
    """A string that counts its conversions to text."""

    times = 0

    def __str__(self):
        Counted.times += 1
        return str.__str__(self)


def layers(n):
    title = "org.opencontainers.image.title"
    return tuple(
        ocikit.Descriptor(
            media_type=Counted("text/csv"),
            digest=ocikit.Digest(f"sha256:{i:064x}"),
            size=i,
            annotations=Annotations({title: Counted(f"f{i}")}),
        )
        for i in range(n)
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda d: cards.data_manifest(layers=d),
        lambda d: cards.artifact(cards.data_manifest(layers=d)),
        lambda d: cards.artifact(cards.data_manifest(layers=d)).files,
        lambda d: Listing(iter([Counted(f"v1.{i}") for i in range(len(d))]), "tags", cards.DATA),
        lambda d: Listing(iter([Counted(f"a/b{i}") for i in range(len(d))]), "repositories", cards.HOST),
        lambda d: Listing(iter(d), "referrers", cards.DATA),
        lambda d: attrs.evolve(cards.image_index(), manifests=d),
        lambda d: attrs.evolve(cards.copy_plan(), blobs=d),
    ],
    ids=["manifest", "artifact", "files", "tags", "catalog", "referrers", "index", "plan"],
)
def test_only_shown_items_are_converted(build):
    value = build(layers(10_000))
    if isinstance(value, Listing):
        len(value)
    Counted.times = 0
    line, page = repr(value), value._repr_html_()
    assert Counted.times < 400, "each of the twenty items is converted for a line, a table and its tooltip"
    assert len(line.splitlines()[0]) <= display.LINE
    assert len(line.splitlines()) <= 1 or isinstance(value, Files)
    assert len(page) < 30_000
    assert "9,980 more" in page


def test_card_has_tooltips_and_counts_omitted_rows():
    value = cards.artifact(cards.data_manifest(layers=layers(25), annotations={"long": "word " * 40}))
    page = value._repr_html_()
    assert f'<span title="{"word " * 40}">' in page
    assert "… 5 more" in page


# Content of cards


def text(value):
    """Return the text of a card without tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", value._repr_html_().removeprefix(css())))


def test_artifact_card_shows_reference_files_and_pull_call(objects_shown):
    shown = text(objects_shown["artifact"])
    for part in (
        "registry.example/ weather/stations:v2.1 application/vnd.example.dataset · 504.1 MB",
        "Hourly readings of 214 stations, cleaned, 2019 to 2025; one Parquet file for each year.",
        str(objects_shown["artifact"].reference),
        "504.1 MB (504,077,676 bytes)",
        "2019.parquet 69.0 MB Parquet table",
        "README.md 2.3 kB Markdown",
        ".pull(&quot;folder/&quot;)",
        "CC-BY-4.0",
        "2026-11-03 14:05 UTC",
    ):
        assert part in shown


def test_index_card_shows_layers_of_cached_manifests(objects_shown):
    page = objects_shown["artifact_index"]._repr_html_()
    assert "<strong>linux/amd64</strong>" in page and "4 layers" in page and "<td>tar+gzip</td>" in page
    missing = objects_shown["artifact_index"].index.manifests[1]
    assert f"ocikit.inspect(&quot;{cards.IMAGE}@{missing.digest}&quot;)" in page
    assert "attestations" in page and "7 manifests" in repr(objects_shown["artifact_index"])


def test_index_card_ignores_corrupt_cached_manifest(tmp_path):
    manifest = cards.image_manifest()
    index = ocikit.Index(manifests=[manifest.descriptor])
    with ocikit.Session(cache=tmp_path, progress=False) as session:
        session.cache.push_bytes(manifest.descriptor, manifest.raw)
        session.cache.path(manifest.digest).chmod(0o600)
        session.cache.path(manifest.digest).write_bytes(b"x" * manifest.size)
        shown = Artifact(session._reader, Reference.parse(cards.IMAGE), index.descriptor, index)._repr_html_()
    assert "4 layers" not in shown and "ocikit.inspect(" in shown


def test_tags_card_sorts_versions_and_collapses_digests(objects_shown):
    page = objects_shown["tags"]._repr_html_()
    versions = re.findall(r"<code>(v[^<]*)</code>", page)
    assert versions[:4] == ["v3.12.0-rc1", "v3.11.10", "v3.11.9", "v3.11.8"]
    assert re.search(r"<details><summary>digests", page)
    assert "inspect(&quot;registry.example/weather/stations:v3.11.10&quot;)" in page


def test_long_tag_listing_is_sorted_while_reading():
    listing = Listing((f"v{i}" for i in range(5000)), "tags", cards.DATA)
    assert len(listing) == 5000
    assert listing._summary.count >= 4000
    assert "stations:v4999&quot;" in listing._repr_html_()


def test_unnamed_referrer_shows_digest_once():
    digest = ocikit.Digest.of(b"report")
    referrer = ocikit.Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=digest, size=700)
    referrers = Listing(iter([referrer]), "referrers", cards.DATA)
    (summary,) = re.findall(r"<summary>(<strong>.*?)</summary>", referrers._repr_html_())
    assert summary.count(digest.short) == 1
    assert text(referrers).count(digest.encoded[:12]) == 2  # in the heading and in the code
    assert terminal_output(referrers).count(digest.encoded[:12]) == 1


def test_referrer_shows_its_annotations_on_its_line():
    digest = ocikit.Digest.of(b"metrics")
    notes = {"auc": "0.93", "rows": "3", "org.opencontainers.image.created": "2026-11-04T10:00:00Z"}
    referrer = ocikit.Descriptor(
        media_type="application/vnd.oci.image.manifest.v1+json", digest=digest, size=700, annotations=notes
    )
    shown = text(Listing(iter([referrer]), "referrers", cards.DATA))
    assert "auc=0.93, rows=3 2026-11-04 10:00 UTC · 700 B" in shown
    named = attrs.evolve(referrer, annotations=Annotations(notes | {"org.opencontainers.image.title": "metrics.json"}))
    shown = text(Listing(iter([named]), "referrers", cards.DATA))
    assert "metrics.json auc=0.93, rows=3 · 2026-11-04 10:00 UTC · 700 B" in shown


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("artifact_image", ['.unpack("rootfs/")']),
        ("artifact_index", ['.pull().unpack("rootfs/")', "image index"]),
        ("server", [".stop()", "registry · running"]),
        ("server_stopped", ["registry · stopped"]),
        ("explanation_anonymous", ['ocikit.login("registry.example")', "anonymous"]),
        ("explanation", ["password", "ada"]),
        ("network", ["600 s for a request", "mirror.example:5000", "quay.io/old"]),
        ("tags", ["show ocikit.inspect("]),
        ("plan_prune", ["files to delete", ".run()"]),
        ("file", ["2024.parquet", "Parquet table · 74.0 MB", ".open()", ".path", ".save("]),
    ],
)
def test_card_names_the_thing_and_the_next_call(name, words, objects_shown):
    shown = text(objects_shown[name]).replace("&quot;", '"')
    assert [word for word in words if word not in shown] == []


def test_network_shows_no_secret():
    network = ocikit.Network(
        proxies={"https": "http://u:hunter2@p"}, headers={"X-Key": "hunter2"}, certificate="hunter2"
    )
    assert repr(ocikit.Network()) == "Network()"
    assert "hunter2" not in repr(network) + network._repr_html_() + terminal_output(network)


@pytest.mark.parametrize("name", CARDS)
def test_reference_is_in_a_card_at_most_twice(name, objects_shown):
    """Once in the title, and once pinned."""
    page = objects_shown[name]._repr_html_().removeprefix(css())
    digests = re.findall(r"(?<![\w:])[\w./:-]+@(sha256:[0-9a-f]{64})", re.sub(r'title="[^"]*"', "", page))
    assert all(digests.count(digest) == 1 for digest in digests)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (cards.CARDS["manifest_referrer"](), "no layers"),
        (ocikit.Index(manifests=[]), "no manifests"),
        (Files(cards.CARDS["artifact_empty"](), {}), "no files"),
    ],
)
def test_card_reports_empty_section(value, expected):
    assert f"<div>{expected}</div>" in value._repr_html_()
    assert expected in terminal_output(value)


def test_error_card_shows_next_step_and_collapses_response(objects_shown):
    page = objects_shown["error"]._repr_html_()
    assert "next step" in page and "MANIFEST_UNKNOWN" in page
    assert re.search(r"<details><summary>errors from the registry", page)
    assert repr(objects_shown["error"]).endswith('lists all 483")')
    assert "Denied" in objects_shown["error_copy"]._repr_html_()


def test_no_card_shows_a_secret(objects_shown):
    for name, value in objects_shown.items():
        assert "hunter2" not in repr(value) + value._repr_html_() + terminal_output(value), name
        assert "YWRhOmh1bnRlcjI=" not in value._repr_html_()


def test_terminal_shows_same_facts(objects_shown):
    shown = terminal_output(objects_shown["artifact"])
    for part in (
        "registry.example/weather/stations:v2.1  application/vnd.example.dataset · 504.1 MB",
        "2019.parquet  69.0 MB  Parquet table",
        "CC-BY-4.0",
    ):
        assert part in shown


def test_narrow_terminal_wraps_card(objects_shown):
    assert max(map(len, terminal_output(objects_shown["artifact"], 40).splitlines())) <= 40


def test_pages_of_all_cards_can_be_written(tmp_path):
    written = cards.write(tmp_path)
    assert set(CARDS) | {"index", "dark", "terminal"} == set(written)
    assert "2019.parquet  69.0 MB  Parquet table" in written["terminal"].read_text()
    assert 'data-theme="dark"' in written["dark"].read_text()


# Uncaught errors

CELLS = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance(colors="nocolor")
shell.run_cell("import ocikit, pickle")
for mode, cell in json.loads(sys.argv[1]):
    shell.InteractiveTB.set_mode(mode)
    shell.run_cell(cell)
    print("=====")
"""

CALLER = """
def caller(reference):
    return ocikit.inspect(reference)

caller("oci:nowhere:v1")
"""

CALLBACK = """
def choose(descriptor):
    return ocikit.Digest("invalid")

index = ocikit.Index(manifests=[ocikit.Descriptor.of(b"1", "text/plain")])
index.select(choose)
"""


def run_cells(*cells, tmp_path, **environment):
    """Return what IPython prints for each `(mode, code)`."""
    home = {
        "HOME": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONPATH": str(Path(cards.__file__).parents[2]),
    }
    run = subprocess.run(
        [sys.executable, "-c", CELLS, json.dumps(cells)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, **home, **environment},
    )
    return run.stdout.split("=====")


def test_uncaught_error_shows_callers_lines_and_hint(tmp_path):
    short, whole, callback = run_cells(
        ["Context", CALLER], ["Verbose", CALLER], ["Context", CALLBACK], tmp_path=tmp_path
    )[:3]
    for shown in (short, whole):
        assert 'caller("oci:nowhere:v1")' in shown and "return ocikit.inspect(reference)" in shown
        assert "NotFound: nowhere" in shown and "\n  -> " in shown
    assert "layout.py" not in short and "frames of ocikit hidden" in short
    assert "layout.py" in whole and "frames of ocikit" not in whole
    assert "return ocikit.Digest(" in callback and "index.select(choose)" in callback


def test_full_traceback_is_shown_on_request(tmp_path):
    (shown, *_) = run_cells(["Context", CALLER], tmp_path=tmp_path, OCIKIT_TRACEBACK="full")
    assert "layout.py" in shown and "frames of ocikit" not in shown


INTERRUPTED = """
import os, signal
from tests.support.fake_registry import FakeRegistry

def interrupt(request, answer):
    os.kill(os.getpid(), signal.SIGINT)
    return answer

with FakeRegistry() as server, ocikit.Session(progress=False) as session:
    content = os.urandom(9)
    layer = ocikit.Descriptor.of(content, "text/plain")
    server.blob("a/b", content)
    manifest = ocikit.Manifest(config=layer, layers=[layer])
    server.manifest("a/b", manifest.raw, "v1")
    server.on("GET", "/v2/a/b/CALLED/.*", change=interrupt)
    WAITS(f"{server.host}/a/b:v1")
"""


@pytest.mark.parametrize(
    ("called", "waits"),
    [("manifests", "ocikit.inspect"), ("blobs", "ocikit.pull"), ("blobs", "session.pull")],
)
def test_interrupt_shows_callers_lines(called, waits, tmp_path):
    code = INTERRUPTED.replace("CALLED", called).replace("WAITS", waits)
    short, whole = run_cells(["Context", code], ["Verbose", code], tmp_path=tmp_path)[:2]
    for shown in (short, whole):
        assert f'{waits}(f"{{server.host}}/a/b:v1")' in shown and "KeyboardInterrupt" in shown
    assert "threading.py" not in short and "/ocikit/" not in short and "frames of ocikit hidden" in short
    assert "/ocikit/" in whole and "frames of ocikit" not in whole
    # What an interrupted transfer has received is not lost
    for shown in (short, whole):
        assert ("received data is stored, the next call resumes" in shown) == (called == "blobs")


def test_traceback_outside_ipython_is_complete(objects_shown):
    shown = "".join(traceback.format_exception(objects_shown["error_copy"]))
    assert "The above exception was the direct cause" in shown
    assert objects_shown["error_copy"]._render_traceback_() == shown.splitlines()
