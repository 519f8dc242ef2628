"""State of widgets, as front ends get it; a stand-in for marimo."""

import threading
import types

import msgspec


def tree(widget):
    """Yield a widget and everything inside it."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from tree(child)


def encode_strictly(widget):
    """Encode the state of a widget with all its children and layouts, without subclasses of `str`."""
    for part in tree(widget):
        for one in (part, getattr(part, "layout", None)):
            if one is not None:
                state = one.get_state()
                msgspec.json.encode(state)


def marimo_module(drawn):
    """Return a module with the functions of marimo that are used; `drawn` gets the texts of its progress bar."""

    class ProgressBar:
        def __init__(self, *, total, title, show_rate, remove_on_exit):
            drawn.append(title)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            drawn.append("removed")

        def update(self, *, increment, subtitle):
            drawn.append(f"{increment}: {subtitle}")

    module = types.ModuleType("marimo")
    module.running_in_notebook = lambda: True
    module.Thread = threading.Thread
    module.status = types.SimpleNamespace(progress_bar=ProgressBar)
    return module
