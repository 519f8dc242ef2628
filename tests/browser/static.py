"""Saved notebooks as a site shows them: without kernel and scripts, and optionally without style, as on GitHub."""

import re
import warnings
from pathlib import Path


def page(notebook: Path, *, style: bool = True, theme: str = "light") -> str:
    """Return nbconvert's HTML of a notebook without scripts, which sites do not run; without `style` also without style sheets."""
    with warnings.catch_warnings():
        # Jupyter's packages deprecate each other
        warnings.simplefilter("ignore")
        from nbconvert import HTMLExporter  # an extra of the browser tests only

        text, _ = HTMLExporter(theme=theme).from_filename(str(notebook))
    text = re.sub(r"(?is)<script\b.*?</script\s*>", "", text)
    return text if style else re.sub(r"(?is)<style\b.*?</style\s*>", "", text)
