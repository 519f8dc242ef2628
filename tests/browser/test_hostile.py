"""Documents with an attack in every text: results on a page, in a bar, in a traceback and in a terminal."""

import re

import pytest

from tests.browser import hostile
from tests.browser.hostile import SEEN, UNSAFE
from tests.support.cards import CARDS
from tests.unit.progress.test_bars import run_in_terminal

#: Colours and weights, and tqdm's cursor movements.
OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[A")


@pytest.fixture(scope="module")
def evil():
    with hostile.registry() as running:
        yield running


#: The tested expressions.
LOOKED_AT = [
    "ocikit.inspect(f'{place}:v1')",
    "caught(getattr, ocikit.inspect(f'{place}:v1'), 'files')",
    "ocikit.inspect(f'{place}:v1').manifest",
    "ocikit.inspect(f'{place}:v1').manifest.layers[0]",
    "ocikit.inspect(f'{place}:v1').annotations",
    "ocikit.inspect(f'{place}:index')",
    "ocikit.inspect(f'{place}:index').index",
    "ocikit.inspect(f'{place}:index').index.manifests[0]",
    "ocikit.inspect(f'{place}:image')",
    "ocikit.inspect(f'{place}:image').config",
    "ocikit.tags(place)",
    "ocikit.catalog(host)",
    "ocikit.referrers(f'{place}:v1')",
    "ocikit.validate(f'{place}:index')",
    "ocikit.copy(f'{place}:v1', 'oci:copied', dry_run=True)",
    "caught(ocikit.inspect, f'{place}:missing')",
    "caught(ocikit.tags, f'{host}/denied/data')",
    "caught(ocikit.pull, f'{place}:v1', 'pulled')",
]

START = """
import ocikit
host = {host!r}
place = host + "/evil/data"

def caught(verb, *args):
    try:
        return list(verb(*args))
    except ocikit.OcikitError as error:
        return error
"""

BAR = """
from ocikit.progress.bars import bars
from tests.browser.hostile import BAD
bar = bars(True)
bar.begin(BAD, size=1000, count=1)
bar.note(BAD)
"""


def test_hostile_text_stays_text_in_notebook(notebook, evil, shots):
    cells = [START.format(host=evil.host)]
    cells += [
        f"from IPython.display import display\nvalue = {what}\nprint(value)\nprint(repr(value))\ndisplay(value)"
        for what in LOOKED_AT
    ]
    cells += [
        BAR,
        "import logging\nlogging.getLogger('ocikit').warning('%s', caught(ocikit.inspect, f'{place}:missing'))",
    ]
    cells += ["ocikit.inspect(f'{place}:missing')"]
    with notebook(cells) as open_:
        open_.run()
        open_.fold(unfold=True)
        open_.picture(shots("hostile"))
        untouched(open_)
        for number, what in enumerate(LOOKED_AT, 1):
            assert "repr failed" not in open_.output(number).last.inner_text(), what
            assert open_.output(number).count() >= 2, what
        for number in (1, 4, 6, 9, 10, 11, 13, 16, len(LOOKED_AT) + 1, len(LOOKED_AT) + 3):
            assert SEEN in " ".join(open_.output(number).all_inner_texts()), number


def test_hostile_cards_run_and_load_nothing(notebook, shots):
    cells = ["from tests.support.cards import CARDS\nfrom tests.unit.display.test_reprs import poisoned"]
    cells += [f"poisoned(CARDS[{name!r}]())" for name in CARDS]
    with notebook(cells, theme="dark", width=480) as open_:
        open_.run()
        open_.fold(unfold=True)
        untouched(open_)
        texts = [open_.output(number + 1).first.inner_text() for number in range(len(CARDS))]
        assert sum("<img src=x onerror=alert(1)>" in text for text in texts) > len(CARDS) / 2
        flaws = {name: found for name, found in zip(CARDS, open_.flaws()[1:], strict=True) if found}
        for name in flaws:
            open_.output(list(CARDS).index(name) + 1).first.screenshot(path=shots(f"hostile-{name}-dark-480"))
        assert flaws == {}


def untouched(open_):
    """Check that no script ran, no resource was loaded, and no control character is on the page. (Network requests and
    dialogs are checked when the page closes.)"""
    page = open_.page
    assert page.evaluate("window.__pwned") is None
    outputs = page.locator(".jp-OutputArea-output")
    assert outputs.locator("img, script, iframe, object, embed, form, link, meta, base").count() == 0
    # JupyterLab turns URLs in plain text into links; ours are in cards
    targets = "all => all.map(a => a.protocol)"
    assert set(outputs.locator(".ocikit a").evaluate_all(targets)) <= {"http:", "https:"}
    assert "javascript:" not in outputs.locator("a").evaluate_all(targets)
    # The page's text and its tooltips
    hidden = "[...document.querySelectorAll('.jp-OutputArea-output [title]')].map(e => e.title).join(' ')"
    for text in (page.evaluate("document.body.textContent"), page.evaluate(hidden)):
        assert not UNSAFE.search(text), UNSAFE.search(text)


def test_terminal_receives_only_colours_and_bars(evil, tmp_path):
    code = START.format(host=evil.host) + "import rich.console\nconsole = rich.console.Console(force_terminal=True)\n"
    for what in LOOKED_AT:
        code += f"value = {what}\nprint(value)\nprint(repr(value))\nconsole.print(value)\n"
    code += BAR + "bar.end()\nbar.summary(BAD)\nocikit.copy(f'{place}:v1', 'oci:copied')\n"
    code += "ocikit.inspect(f'{place}:missing')\n"
    written, status = run_in_terminal(code, tmp_path)
    assert status == 1, written[-3000:]
    assert "ManifestUnknown" in written
    assert SEEN in written.replace("\r\n", "")
    rest = OURS.sub("", written).replace("\r", "")
    assert not UNSAFE.search(rest), rest[max(0, UNSAFE.search(rest).start() - 200) :][:400]
