"""Saved notebooks as a site shows them: no kernel, no script, and, as on GitHub, perhaps no style either."""

import re
import warnings
from pathlib import Path


def page(notebook: Path, *, style: bool = True, theme: str = "light") -> str:
    """The HTML of a notebook by nbconvert, less its scripts, which sites don't run; without `style`, less every style sheet."""
    with warnings.catch_warnings():
        # Jupyter's packages deprecate each other
        warnings.simplefilter("ignore")
        from nbconvert import HTMLExporter  # what the browser's tests need isn't installed for all

        text, _ = HTMLExporter(theme=theme).from_filename(str(notebook))
    text = re.sub(r"(?is)<script\b.*?</script\s*>", "", text)
    return text if style else re.sub(r"(?is)<style\b.*?</style\s*>", "", text)
