"""Pages of the site, built from the project's files, so that no text exists twice.

A hook of mkdocs: it adds README, changelog, notebooks, and the reference pages of the Python interface to those in `pages/`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from reference import REFERENCE, VERBS

ROOT = Path(__file__).resolve().parent.parent.parent

#: The notebooks, in the order in which a newcomer needs them.
TUTORIALS = (
    "quickstart",
    "datasets_and_models",
    "tables_by_url",
    "models",
    "explore_an_image",
    "your_own_registry",
    "when_things_go_wrong",
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the parts of the navigation that follow from existing files."""
    config.nav = _filled(
        config.nav,
        {
            "NOTEBOOKS": [{_heading(_notebook(name)): f"notebooks/{name}.ipynb"} for name in TUTORIALS],
            "PYTHON": [{name.capitalize(): f"reference/{name}.md"} for name in REFERENCE if name != "errors"],
        },
    )
    return config


def _filled(nav: Any, parts: Mapping[str, Any]) -> Any:
    """Return a navigation with its placeholders replaced."""
    if isinstance(nav, list):
        return [_filled(entry, parts) for entry in nav]
    if isinstance(nav, dict):
        return {title: _filled(entry, parts) for title, entry in nav.items()}
    return parts.get(nav, nav)


def _notebook(name: str) -> Path:
    return ROOT / "notebooks" / f"{name}.ipynb"


@event_priority(100)  # before the plugin that renders notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every page."""
    pages = {
        "index.md": _linked((ROOT / "README.md").read_text()),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(),
    }
    for name, (about, parts) in REFERENCE.items():
        pages[f"reference/{name}.md"] = f"# {name.capitalize()}\n\n{about}\n\n" + "\n\n".join(map(_block, parts)) + "\n"
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    for name in TUTORIALS:
        files.append(_as_it_is(f"notebooks/{name}.ipynb", config))
    for picture in sorted((ROOT / "notebooks").glob("*.png")):
        files.append(_as_it_is(f"notebooks/{picture.name}", config))
    return files


def on_post_page(output: str, **_: Any) -> str:
    """Add what the theme and the notebooks lack for screen readers and keyboards."""
    output = output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )
    return output.replace('<div class="highlight-ipynb', '<div tabindex="0" class="highlight-ipynb')


def _as_it_is(path: str, config: MkDocsConfig) -> File:
    return File(path, str(ROOT), config.site_dir, config.use_directory_urls)


def _block(part: str) -> str:
    kind, _, name = part.partition(" ")
    if kind == "verb":
        return f"::: ocikit.client.session.Session.{name}\n    options:\n      heading: ocikit.{name}\n      toc_label: {name}"
    if kind == "session":
        others = [f"!^{verb}$" for verb in VERBS]
        return f"::: ocikit.client.session.Session\n    options:\n      filters: {json.dumps(['!^_', *others])}"
    module, _, names = part.partition(":")
    if not names:
        return f"::: {module}\n    options:\n      show_root_full_path: true\n      heading_level: 2"
    return "\n\n".join(f"::: {module}.{name}" for name in names.split())


def _heading(path: Path) -> str:
    """Return the first heading of a notebook."""
    first = "".join(json.loads(path.read_text())["cells"][0]["source"])
    found = re.search(r"^# +(.+)$", first, re.MULTILINE)
    return found[1].strip() if found else path.stem


def _linked(text: str) -> str:
    """Return the README with links to files of the project as links to pages."""
    text = text.replace("](CONTRIBUTING.md)", "](contributing.md)").replace("](CHANGELOG.md)", "](changelog.md)")
    return text.replace("](.ci/docs/pages/", "](")
