"""Pages of the site, built from the project's files, so that no text exists twice.

A hook of mkdocs: it adds README, changelog, notebooks, and the reference pages of the Python interface to those in `pages/`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent.parent

#: Names that `ocikit.api` builds from a session's methods, where they are documented.
VERBS = re.findall(r"^(\w+) = _function\(", (ROOT / "ocikit" / "api.py").read_text(), re.MULTILINE)

#: The most common verbs, in the order in which a newcomer needs them; the others follow by name.
FIRST = ("pull", "push", "inspect", "open", "tags", "copy", "edit", "attach")

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

#: Reference pages: title, summary, and content; "module:name name" selects names of a module.
REFERENCE: Mapping[str, tuple[str, Sequence[str]]] = {
    "verbs": (
        "The functions share connections, tokens and the [cache](cache.md). The methods of a [Session](session.md) do the same with your settings.\n\nExamples run as they stand after `import ocikit`. Those that name `localhost:5000` need a registry there: `ocikit serve store`.",
        [
            *(f"verb {name}" for name in [*FIRST, *sorted(set(VERBS) - set(FIRST))]),
            "ocikit.api:save load scan sql diff history lineage watch explore fs pooch",
            "ocikit.auth:login login_form logout explain",
            "ocikit.server.process.serve:serve Server",
        ],
    ),
    "session": (
        (
            "The [verbs](verbs.md) as methods, with settings, one pool of connections and one cache.\n\n"
            "The functions of `ocikit` share one session. It is dropped when the environment or a file with credentials changes, after "
            "`login` and `logout`, after a fork, and after a minute without calls. `session.registry(host).repository(name)` has "
            "every endpoint of the specification."
        ),
        ["session", "ocikit.remote.config.network", "ocikit.remote.auth.keychain:Credentials Keychain"],
    ),
    "artifacts": (
        "The results of the verbs.",
        [
            "ocikit.client.artifact:Artifact File Files",
            "ocikit.client.listing",
            "ocikit.data.diff:Diff Change Rename",
            "ocikit.data.watch:Watch",
            "ocikit.descriptions.card:Card",
            "ocikit.client.describe:Descriptions",
            "ocikit.descriptions.model:Description Column Tensor Entry",
            "ocikit.data.tables:TableChange",
        ],
    ),
    "cache": (
        "`ocikit.cache` is the cache of the [verbs](verbs.md): a `Cache` in the folder of the user, or in that of `OCIKIT_CACHE`.",
        [
            "ocikit.store.cache.cache:Cache",
            "ocikit.store.cache.scan:CacheInfo",
            "ocikit.store.cache.prune:PrunePlan",
        ],
    ),
    "errors": ("All errors, as a tree.", ["ocikit.errors"]),
    "documents": (
        "The documents in a registry: values that keep the bytes they were parsed from.",
        [
            "ocikit.spec.reference:Reference LayoutReference parse_reference",
            "ocikit.spec.digest",
            "ocikit.spec.descriptor",
            "ocikit.spec.manifest:Manifest Index parse_document",
            "ocikit.spec.config",
            "ocikit.spec.platform",
            "ocikit.spec.validation",
        ],
    ),
    "stores": (
        "Stores of content, and copies between them.",
        [
            "ocikit.store.base:Source Store",
            "ocikit.transfer.plan:plan copy",
            "ocikit.transfer.run:Plan",
            "ocikit.store.layout.layout:Layout",
            "ocikit.store.memory:MemoryStore",
            "ocikit.progress.base:Progress",
            "ocikit.layers.unpack:unpack Unpacked",
        ],
    ),
    "registries": (
        "Every endpoint of the distribution specification as a method.",
        [
            "ocikit.remote.registry:Registry Ping",
            "ocikit.remote.repository:Repository",
            "ocikit.remote.endpoints:Endpoints",
        ],
    ),
    "server": (
        "The parts of a registry of your own. [`ocikit.serve`](verbs.md#ocikit.server.process.serve.serve) starts one.",
        [
            "ocikit.server.process.options:ServerOptions",
            "ocikit.server.http.app:Application",
            "ocikit.server.storage.base",
            "ocikit.server.storage.files:file_storage",
            "ocikit.server.auth.access:Access",
            "ocikit.server.http.settings",
            "ocikit.server.storage.gc",
            "ocikit.server.storage.verify",
            "ocikit.server.testing",
        ],
    ),
    "testing": (
        "Registries for tests. [Test your code](../how-to/test_your_code.md) shows their use.",
        [
            "ocikit.testing.registries:registry Registry describe",
            "ocikit.testing.faults:Fault",
            "ocikit.testing.messages:Request Response",
            "ocikit.testing.profiles:Profile",
            "ocikit.testing.plugin:oci_registry oci_registries",
        ],
    ),
}


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
