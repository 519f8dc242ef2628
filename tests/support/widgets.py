"""State of widgets, as front ends get it."""

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
