"""Docstrings for the site, with examples as code. An extension of griffe."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .+(?:\n(?!\n).+)*", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub(lambda match: f"```pycon\n{match[0]}\n```", obj.docstring.value)
            obj.docstring.value = re.sub(r"^::\n", "", text, flags=re.MULTILINE)
