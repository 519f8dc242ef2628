"""The script of the explorer: arrow keys within lists, live regions and copies, which the controls of ipywidgets lack.

It is a widget of anywidget that marks the controls around it. Without anywidget, or in a front end that cannot load it, the
explorer works without these.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any


@functools.cache
def read_text(name: str) -> str:
    """Return the text of a file of this package."""
    return resources.files("ocikit.notebook").joinpath(name).read_text(encoding="utf-8")


def assistant() -> tuple[Any, ...]:
    """Return the widget of the script, or nothing without anywidget."""
    try:
        import anywidget  # noqa: PLC0415 - optional
    except ImportError:
        return ()

    class Assistant(anywidget.AnyWidget):
        _esm = read_text("assist.js")

    return (Assistant(),)
