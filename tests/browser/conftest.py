"""One lab and one browser for all of these tests; each test has its own notebooks."""

import os
import re
from pathlib import Path

import pytest

from tests.browser import lab as labs
from tests.browser.page import Browser


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.peers("chromium"))


# Scope "package": tests after these may need an event loop in this thread
@pytest.fixture(scope="package")
def browser():
    with Browser() as running:
        yield running


@pytest.fixture(scope="package")
def lab(browser):
    """A running JupyterLab; kernels start in `.folder`."""
    with labs.lab() as running:
        yield running


@pytest.fixture
def notebook(lab, browser):
    """Open a notebook with the given cells: `with notebook(["1 + 1"]) as open: …`; as `tests.browser.lab.opened`."""

    def open_(cells, **options):
        return labs.opened(lab, browser, cells, **options)

    return open_


@pytest.fixture
def shots(request, tmp_path):
    """Return the path of a picture by name, in $OCIKIT_SHOTS or pytest's folder."""
    folder = Path(os.environ.get("OCIKIT_SHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def place(name):
        return folder / f"{re.sub(r'[^a-z0-9-]+', '-', name.lower()).strip('-')}.png"

    return place
