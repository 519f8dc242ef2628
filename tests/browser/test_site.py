"""The site can be used by keyboard and screen reader: axe-core finds nothing serious on pages of each kind."""

from importlib.util import find_spec

import pytest

from tests.browser import axe
from tests.support import peers
from tests.tools import site as sites

PAGES = (
    "index.html",
    "start/install.html",
    "how-to/ghcr.html",
    "explanation/concepts.html",
    "explanation/why.html",
    "reference/verbs.html",
    "reference/errors.html",
    "notebooks/models.html",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if find_spec("mkdocs_jupyter") is None:
        peers.absent("mkdocs is missing: pip install 'ocikit[docs]'")
    folder = tmp_path_factory.mktemp("site")
    sites.build(folder)
    return folder


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_site_has_no_serious_violation(name, dark, site, browser):
    with browser.page("file:", dark=dark) as (page, _):
        page.goto((site / name).as_uri())
        page.wait_for_selector("article")
        assert axe.problems(page) == []
