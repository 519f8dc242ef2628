"""Every card in a real notebook: legible, within its bounds, light and dark, wide and narrow."""

import itertools
import os

import pytest

from tests.browser import axe
from tests.browser import lab as labs
from tests.support.cards import CARDS

NAMES = list(CARDS)
LOOKS = list(itertools.product(["light", "dark"], [1280, 480]))

#: Expected text by card.
FACTS = {
    "artifact": ["2025.parquet", "Parquet table", "registry.example/weather/stations:v2.1", "Hourly readings"],
    "artifact_index": ["linux/amd64", "linux/arm64/v8"],
    "artifact_many_files": ["10,000", "images/000/00000.jpeg", "more"],
    "config": ["/entrypoint.sh", "C.UTF-8"],
    "tags": ["latest", "v3.11.10", "more"],
    "referrers": ["accuracy on 2026", "application/spdx+json"],
    "explanation": ["registry.example", "ada"],
    "ping_unreachable": ["no such host"],
    "error": ["has no tag 'v21'", "nearest: v2.1, v2.0"],
}


@pytest.fixture(scope="module")
def gallery(lab, browser):
    """A notebook with a cell for each card, with outputs on the page."""
    cells = [f"from tests.support.cards import CARDS\nCARDS[{name!r}]()" for name in NAMES]
    with labs.opened(lab, browser, cells) as notebook:
        notebook.run()
        yield notebook


@pytest.mark.parametrize(("theme", "width"), LOOKS)
def test_cards_are_legible_and_within_bounds(gallery, shots, theme, width):
    gallery.look(theme, width)
    gallery.fold()
    folded = gallery.flaws()
    gallery.fold(unfold=True)
    unfolded = gallery.flaws()
    flaws = {name: {*f, *u} for name, f, u in zip(NAMES, folded, unfolded, strict=True) if f or u}
    gallery.look(theme, width, height=4000)
    for cell, name in enumerate(NAMES):
        if name in flaws or os.environ.get("OCIKIT_SHOTS"):
            gallery.output(cell).screenshot(path=shots(f"{name}-{theme}-{width}"))
    assert flaws == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_cards_have_no_serious_violation_of_accessibility(gallery, theme):
    gallery.look(theme, 1280)
    gallery.fold(unfold=True)
    assert axe.problems(gallery.page, f"{labs.OUTPUT} .ocikit") == []


def test_no_card_is_an_error(gallery):
    for cell, name in enumerate(NAMES):
        assert gallery.output(cell).count() == 1, name
        text = gallery.output(cell).inner_text()
        assert text.strip(), name
        assert "repr failed" not in text, name
        assert "Traceback" not in text, name
    assert gallery.seen.errors == []


@pytest.mark.parametrize("name", FACTS)
def test_card_shows_expected_facts(gallery, name):
    gallery.fold(unfold=True)
    text = gallery.output(NAMES.index(name)).inner_text()
    assert [fact for fact in FACTS[name] if fact not in text] == []


def test_click_unfolds_section(gallery):
    gallery.look("light", 1280)
    gallery.fold()
    clicked = 0
    for cell, name in enumerate(NAMES):
        details = gallery.output(cell).locator("details").first
        if not details.count():
            continue
        summary, inside = details.locator("summary").first, details.locator(":scope > :not(summary)").first
        assert not inside.is_visible(), name
        summary.click()
        assert inside.is_visible(), name
        summary.focus()
        gallery.page.keyboard.press("Enter")
        assert not inside.is_visible(), name
        clicked += 1
    assert clicked
