"""Saved notebooks on a static page: all text is visible, with style and without."""

import re
from importlib.util import find_spec

import nbformat
import pytest

from tests.support import peers
from tests.tools import notebooks

PATHS = sorted(notebooks.FOLDER.glob("*.ipynb"))


@pytest.fixture(params=[True, False], ids=["style", "no style"])
def static(request, browser, tmp_path):
    """Open a notebook's static page."""
    if find_spec("nbconvert") is None:
        peers.absent("nbconvert is missing: pip install 'ocikit[browser]'")
    from tests.browser import static as pages

    def open_(path):
        file = tmp_path / "page.html"
        file.write_text(pages.page(path, style=request.param), "utf-8")
        return browser.page("file:"), file.as_uri()

    open_.styled = request.param
    return open_


def said(notebook):
    """Return the text of the outputs: lines, and the text of cards, as words with single spaces."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                yield from output.text.splitlines()
            elif "text/html" in output.data:
                yield from re.findall(r"<t[dh][^>]*>([^<>&]+)</t[dh]>", output.data["text/html"])
            else:
                yield from output.data["text/plain"].splitlines()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_static_page_has_all_notebook_text(path, static, shots):
    opening, url = static(path)
    with opening as (page, seen):
        page.goto(url)
        page.locator("details").evaluate_all("all => all.forEach(details => { details.open = true })")
        text = " ".join(page.inner_text("body").split())
        facts = [" ".join(line.split()) for line in said(nbformat.read(path, as_version=4))]
        assert [fact for fact in facts if fact not in text] == []
        assert len(facts) > 10
        assert seen.errors == []
        if static.styled:
            # The page's own style gives code a grey background; a notebook may show no code in cards
            grounds = page.locator(".ocikit code").evaluate_all(
                "all => all.map(c => getComputedStyle(c).backgroundColor)"
            )
            assert set(grounds) <= {"rgba(0, 0, 0, 0)"}
        look = "style" if static.styled else "bare"
        for width in (1280, 480):
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=shots(f"static-{path.stem}-{look}-{width}"), full_page=True)
