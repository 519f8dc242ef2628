"""Every card, as it is and with every text in it replaced: nothing gets out raw, is looked at in vain, or asks anybody."""

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
import ocikit
import pytest
from ocikit import display
from ocikit.client.artifact import Artifact, Files
from ocikit.client.listing import Listing
from ocikit.client.tag_order import TagSummary
from ocikit.display.html import css
from ocikit.errors import OcikitError
from ocikit.spec.annotations import Annotations, FrozenMap
from ocikit.spec.document import Document
from ocikit.spec.reference import LayoutReference, Reference

from tests.support import cards
from tests.support.cards import CARDS, harmless

TAG = '"><img src=x onerror=alert(1)>'
BAD = (
    TAG
    + "\x1b[31m\x1b]0;title\x07\r\n\x85\x9b\x7f\u202e\u2066\u200f\u2028\ud800'</td></table></details><script>[red]{{"
)

#: What must not reach a terminal or a page.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")

#: They are for a program, not from a registry: what is left of a plan if they were replaced is nothing.
OURS = {"decision", "fate", "_what", "_verb"}

#: What a card doesn't look into.
TOOLS = (ocikit.Session, ocikit.Cache)


def poisoned(value, name="", done=None):
    """The same object, with every text in it replaced by a hostile one."""
    done = {} if done is None else done
    if name in OURS or isinstance(value, (ocikit.Digest, TagSummary, *TOOLS)):
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
        _ = value.digest  # of the bytes, which stay
    if isinstance(value, display.Displayable) or attrs.has(type(value)):
        if id(value) not in done:
            done[id(value)] = made = value.__new__(type(value))
            for attribute in attributes(value):
                object.__setattr__(made, attribute, poisoned(getattr(value, attribute), attribute, done))
        return done[id(value)]
    return value


def attributes(value):
    slots = [s for c in type(value).__mro__ for s in getattr(c, "__slots__", ()) if s != "__weakref__"]
    names = [*slots, *getattr(value, "__dict__", ())]
    return [n for n in dict.fromkeys(names) if hasattr(value, n)]


def in_a_terminal(value, width=100):
    rich = pytest.importorskip("rich.console")
    console = rich.Console(file=io.StringIO(), width=width)
    console.print(value)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def made():
    """Every card's object, made once."""
    objects = {name: make() for name, make in CARDS.items()}
    yield objects
    objects["server"].stop()


def shown_classes():
    for module in pkgutil.walk_packages(ocikit.__path__, "ocikit."):
        if not module.name.endswith("__main__") and ".notebook." not in module.name:
            importlib.import_module(module.name)
    gc.collect()  # attrs replaces a class by one with slots; the first one lives until it is collected
    waiting, found = [display.Displayable], []
    while waiting:
        for cls in waiting.pop().__subclasses__():
            if cls.__module__.startswith("ocikit.") and cls not in found:
                waiting.append(cls)
                found.append(cls)
    return found


def test_there_is_a_card_for_each_class_that_shows_itself(made):
    have = {type(value) for value in made.values()}
    bases = {base for cls in have for base in cls.__mro__}
    looks = {"__rich_repr__", "_line", "_facts", "_sections", "_card"}
    lacking = [c for c in shown_classes() if c not in bases and not issubclass(c, OcikitError) and looks & set(vars(c))]
    assert not lacking


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_a_short_line_a_small_harmless_page_and_a_tree(name, made):
    value = made[name]
    line, page, tree = repr(value), value._repr_html_(), in_a_terminal(value)
    assert len(line) <= display.LINE or isinstance(value, Reference | LayoutReference | OcikitError)
    assert len(line.splitlines()) == 1
    assert "failed" not in line + page.removeprefix(css()) + tree
    assert harmless(page)
    assert len(page.encode()) < 20_000
    assert page.count("<style>") == 1
    assert " at 0x" not in line + page + tree


@pytest.mark.parametrize("name", CARDS)
def test_hostile_text_anywhere_in_a_card_never_shows_raw(name, made):
    value = poisoned(made[name])
    line, page, tree = repr(value), value._repr_html_(), in_a_terminal(value)
    assert "repr failed" not in line + page + tree
    for text in (line, page, tree.replace("\n", "")):
        assert not UNSAFE.search(text)
        text.encode()
    assert harmless(page)
    assert "<img" not in page and "<script" not in page
    assert page.count("<table ") == page.count("</table>") and page.count("<details") == page.count("</details>")
    assert len(page.encode()) < display.HTML_LIMIT
    assert len(line.splitlines()) == 1


def test_the_hostile_cards_show_what_is_hostile_in_them(made):
    """Else the test above would pass for cards that show nothing."""
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
        assert "&lt;img src=x onerror" in poisoned(made[name])._repr_html_(), name


@pytest.mark.parametrize("cls", shown_classes(), ids=lambda cls: cls.__name__)
def test_an_object_that_was_never_finished_has_a_repr_all_the_same(cls):
    value = cls.__new__(cls)
    assert "\n" not in repr(value)
    assert harmless(value._repr_html_())
    assert in_a_terminal(value)


@pytest.mark.parametrize(
    "text",
    ["javascript:alert(1)", "data:text/html,<script>", "//host/x", "https://", "https://good.example@evil.example/",
     "https://a.example/\u202egpj.exe", "https://a.example/\nb", " https://a.example", "https://a.example\\@evil.example",
     "https://[::1", "https://a.example:port/", "vbscript:x", "HTTPS:alert(1)", "https://a.example/" + "x" * 600],
)  # fmt: skip
def test_what_is_no_plain_address_of_a_page_is_no_link(text):
    assert "<a" not in display.Link(text).html()


def test_the_address_of_a_page_is_a_link_that_tells_nobody_where_one_comes_from():
    link = display.Link('https://a.example/?q="<b>"&x=1').html()
    assert link.startswith('<a href="https://a.example/?q=&quot;&lt;b&gt;&quot;&amp;x=1" rel="noopener noreferrer"')
    assert harmless(link)


def test_the_style_is_small_and_asks_nobody():
    assert len(css()) < 4096
    assert not re.search(r"url\(|@import|@font|expression|http", css())
    for rule in re.findall(r"[^{}]*\{[^{}]*\}", css().replace("<style>", "").replace("</style>", "")):
        assert ".ocikit" in rule, f"{rule} would style what isn't ours"


def test_both_colours_are_set_together():
    rule = re.search(r"\.ocikit\{color:.*?\}", css())[0]
    assert "color:var(--jp-content-font-color1" in rule and "background:var(--jp-layout-color0" in rule


# Without asking anybody

LOOKING = threading.local()


def listen(event, args):
    if getattr(LOOKING, "asked", None) is not None and re.match(
        r"open|os\.|socket\.|subprocess\.|shutil\.|sqlite", event
    ):
        LOOKING.asked.append((event, args))


@pytest.fixture(scope="module")
def hook():
    sys.addaudithook(listen)  # for good: there is no way to take one away


@pytest.mark.parametrize("name", CARDS)
def test_looking_opens_no_file_and_no_connection(name, made, hook):
    value = made[name]
    looks = (repr, str, type(value)._repr_html_, in_a_terminal)
    for look in looks:
        look(value)  # modules are loaded at the first look
    LOOKING.asked = []
    try:
        for look in looks:
            look(value)
        assert LOOKING.asked == []
    finally:
        LOOKING.asked = None


def test_a_list_that_waits_for_its_next_page_can_be_looked_at():
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
        looker = threading.Thread(target=lambda: seen.append((repr(listing), listing._repr_html_())), daemon=True)
        looker.start()
        looker.join(60)
        assert seen, "it waits for the page"
        assert "150 or more tags" in seen[0][0]
    finally:
        go_on.set()
        reader.join(60)


# No more than is shown


class Counted(str):
    """A text that counts how often it is made into what is shown."""

    times = 0

    def __str__(self):
        Counted.times += 1
        return str.__str__(self)


def layers(n):
    title = "org.opencontainers.image.title"
    return tuple(
        ocikit.Descriptor(
            media_type=Counted("text/csv"), digest=ocikit.Digest(f"sha256:{i:064x}"), size=i, annotations=Annotations({title: Counted(f"f{i}")})
        )
        for i in range(n)
    )  # fmt: skip


@pytest.mark.parametrize(
    "of",
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
def test_of_ten_thousand_things_only_those_that_are_shown_are_looked_at(of):
    value = of(layers(10_000))
    if isinstance(value, Listing):
        len(value)
    Counted.times = 0
    line, page = repr(value), value._repr_html_()
    assert Counted.times < 400, "each of the twenty is looked at in a line, a table and its tooltip"
    assert len(line) <= display.LINE
    assert len(page) < 30_000
    assert "9,980 more" in page


def test_a_cell_that_is_cut_has_the_whole_in_its_tooltip_and_a_card_says_how_many_more_there_are():
    value = cards.artifact(cards.data_manifest(layers=layers(25), annotations={"long": "word " * 40}))
    page = value._repr_html_()
    assert f'<span title="{"word " * 40}">' in page
    assert "… 5 more" in page


# What cards say


def text(value):
    """The words of a card, without tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", value._repr_html_().removeprefix(css())))


def test_an_artifacts_card_says_what_it_is_what_is_in_it_and_how_to_get_it(made):
    words = text(made["artifact"])
    for part in (str(made["artifact"].reference), "504.1 MB (504,077,676 bytes)", "2019.parquet", "text/markdown",
                 "ocikit.pull(&quot;registry.example/weather/stations:v2.1&quot;, &quot;folder/&quot;)", "CC-BY-4.0",
                 "2026-11-03 14:05 UTC"):  # fmt: skip
        assert part in words


def test_an_index_opens_into_the_layers_that_are_at_hand_and_says_how_to_see_the_others(made):
    page = made["artifact_index"]._repr_html_()
    assert (
        "<strong>linux/amd64</strong>" in page
        and "4 layers" in page
        and "application/vnd.oci.image.layer.v1.tar+gzip" in page
    )
    missing = made["artifact_index"].index.manifests[1]
    assert f"ocikit.inspect(&quot;{cards.IMAGE}@{missing.digest}&quot;)" in page
    assert "attestations" in page and "7 manifests" in repr(made["artifact_index"])


def test_a_manifest_of_an_index_that_is_damaged_in_the_cache_counts_as_not_at_hand(tmp_path):
    manifest = cards.image_manifest()
    index = ocikit.Index(manifests=[manifest.descriptor])
    with ocikit.Session(cache=tmp_path, progress=False) as session:
        session.cache.push_bytes(manifest.descriptor, manifest.raw)
        session.cache.path(manifest.digest).chmod(0o600)
        session.cache.path(manifest.digest).write_bytes(b"x" * manifest.size)
        shown = Artifact(session._reader, Reference.parse(cards.IMAGE), index.descriptor, index)._repr_html_()
    assert "4 layers" not in shown and "ocikit.inspect(" in shown


def test_tags_are_sorted_by_version_the_newest_first_and_digests_are_folded_away(made):
    page = made["tags"]._repr_html_()
    versions = re.findall(r"<code>(v[^<]*)</code>", page)
    assert versions[:4] == ["v3.12.0-rc1", "v3.11.10", "v3.11.9", "v3.11.8"]
    assert re.search(r"<details><summary>digests", page)
    assert "inspect(&quot;registry.example/weather/stations:v3.11.10&quot;)" in page


def test_a_long_list_of_tags_is_sorted_while_it_is_read():
    listing = Listing((f"v{i}" for i in range(5000)), "tags", cards.DATA)
    assert len(listing) == 5000
    assert listing._summary.count >= 4000
    assert "stations:v4999&quot;" in listing._repr_html_()


def test_a_referrer_without_a_name_shows_its_digest_once():
    digest = ocikit.Digest.of(b"report")
    found = ocikit.Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=digest, size=700)
    referrers = Listing(iter([found]), "referrers", cards.DATA)
    (summary,) = re.findall(r"<summary>(<strong>.*?)</summary>", referrers._repr_html_())
    assert summary.count(digest.short) == 1
    assert text(referrers).count(digest.encoded[:12]) == 2  # in the heading, and in the line to copy
    assert in_a_terminal(referrers).count(digest.encoded[:12]) == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (cards.CARDS["manifest_referrer"](), "no layers"),
        (ocikit.Index(manifests=[]), "no manifests"),
        (Files({}), "no files"),
    ],
)
def test_a_card_says_that_there_is_nothing(value, words):
    assert f"<div>{words}</div>" in value._repr_html_()
    assert words in in_a_terminal(value)


def test_an_errors_card_says_what_to_do_and_folds_the_registrys_words(made):
    page = made["error"]._repr_html_()
    assert "next step" in page and "MANIFEST_UNKNOWN" in page
    assert re.search(r"<details><summary>errors from the registry", page)
    assert repr(made["error"]).endswith('lists all 483")')
    assert "Denied" in made["error_copy"]._repr_html_()


def test_no_card_shows_a_secret(made):
    for name, value in made.items():
        assert "hunter2" not in repr(value) + value._repr_html_() + in_a_terminal(value), name
        assert "YWRhOmh1bnRlcjI=" not in value._repr_html_()


def test_a_terminal_shows_the_same_facts(made):
    shown = in_a_terminal(made["artifact"])
    for part in (
        "registry.example/weather/stations:v2.1@sha256:",
        "504.1 MB (504,077,676 bytes)",
        "2019.parquet",
        "CC-BY-4.0",
    ):
        assert part in shown.replace("\n", "") or part in shown


def test_a_narrow_terminal_shows_it_too(made):
    assert max(map(len, in_a_terminal(made["artifact"], 40).splitlines())) <= 40


def test_pages_of_all_cards_can_be_written(tmp_path):
    written = cards.write(tmp_path)
    assert set(CARDS) | {"index", "dark"} == set(written)
    assert 'data-theme="dark"' in written["dark"].read_text()


# When nobody catches it

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

MINE = """
def mine(reference):
    return ocikit.inspect(reference)

mine("oci:nowhere:v1")
"""

CALLBACK = """
def choose(descriptor):
    return ocikit.Digest("mine is wrong")

index = ocikit.Index(manifests=[ocikit.Descriptor.of(b"1", "text/plain")])
index.select(choose)
"""


def cells(*given, tmp_path, **environment):
    """What IPython shows of these cells."""
    home = {
        "HOME": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONPATH": str(Path(cards.__file__).parents[2]),
    }
    run = subprocess.run(
        [sys.executable, "-c", CELLS, json.dumps(given)], capture_output=True, text=True, check=True, timeout=120,
        cwd=tmp_path, env={**os.environ, **home, **environment},
    )  # fmt: skip
    return run.stdout.split("=====")


def test_an_error_that_nobody_catches_shows_the_callers_lines_and_what_to_do(tmp_path):
    short, whole, callback = cells(["Context", MINE], ["Verbose", MINE], ["Context", CALLBACK], tmp_path=tmp_path)[:3]
    for shown in (short, whole):
        assert 'mine("oci:nowhere:v1")' in shown and "return ocikit.inspect(reference)" in shown
        assert "NotFound: nowhere" in shown and "\n  -> " in shown
    assert "layout.py" not in short and "frames of ocikit hidden" in short
    assert "layout.py" in whole and "frames of ocikit" not in whole
    assert "return ocikit.Digest(" in callback and "index.select(choose)" in callback


def test_an_error_shows_all_of_its_traceback_on_request(tmp_path):
    (shown, *_) = cells(["Context", MINE], tmp_path=tmp_path, OCIKIT_TRACEBACK="full")
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
def test_an_interrupt_shows_the_callers_lines(called, waits, tmp_path):
    code = INTERRUPTED.replace("CALLED", called).replace("WAITS", waits)
    short, whole = cells(["Context", code], ["Verbose", code], tmp_path=tmp_path)[:2]
    for shown in (short, whole):
        assert f'{waits}(f"{{server.host}}/a/b:v1")' in shown and "KeyboardInterrupt" in shown
    assert "threading.py" not in short and "/ocikit/" not in short and "frames of ocikit hidden" in short
    assert "/ocikit/" in whole and "frames of ocikit" not in whole


def test_an_error_has_all_of_its_traceback_and_its_causes_wherever_else_it_is_shown(made):
    shown = "".join(traceback.format_exception(made["error_copy"]))
    assert "The above exception was the direct cause" in shown
    assert made["error_copy"]._render_traceback_() == shown.splitlines()
