"""One lab and one browser for all of these tests; each has notebooks of its own."""

import os
import re
from pathlib import Path

import pytest

from tests.browser import lab as labs
from tests.browser.page import Browser


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.interop)


# For the package, not the session: what runs after these tests may want an event loop of its own in this thread
@pytest.fixture(scope="package")
def browser():
    with Browser() as running:
        yield running


@pytest.fixture(scope="package")
def lab(browser):
    """A running JupyterLab: `.folder` is where kernels start."""
    with labs.lab() as running:
        yield running


@pytest.fixture
def notebook(lab, browser):
    """Opens a notebook with the cells that it is given: `with notebook(["1 + 1"]) as open: …`; as `tests.browser.lab.opened`."""

    def open_(cells, **options):
        return labs.opened(lab, browser, cells, **options)

    return open_


@pytest.fixture
def shots(request, tmp_path):
    """Where pictures go: a file of $OCIKIT_SHOTS, or of pytest's folder, by name."""
    folder = Path(os.environ.get("OCIKIT_SHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def place(name):
        return folder / f"{re.sub(r'[^a-z0-9-]+', '-', name.lower()).strip('-')}.png"

    return place
