"""Explorer widget: from a registry to the bytes of a file, with the equivalent code for each step.

Requests run in the background. The kernel stays responsive, and only the result of the latest click is shown. All lists share
a column, and the rest of the width is for the selected artifact and the preview of a file. On narrow pages they are stacked.
"""

from __future__ import annotations

import contextlib
import glob
import json
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import ipywidgets as w  # type: ignore[import-untyped]  # has no types

from ocikit import display
from ocikit.client.artifact import Artifact, File
from ocikit.client.places import Place
from ocikit.descriptions.describe import is_binary_format
from ocikit.display.html import page
from ocikit.errors import OcikitError, Unauthorized
from ocikit.layers.tar import TarEntry
from ocikit.notebook.assist import assistant
from ocikit.notebook.column import (
    DELAY,
    FEW,
    Column,
    css,
    message,
    named,
    on_enter,
    set_options,
    status,
    styles,
    titled,
)
from ocikit.notebook.jobs import IsStale, Jobs
from ocikit.notebook.login import LoginForm
from ocikit.notebook.previews import load_preview
from ocikit.progress.base import Progress
from ocikit.progress.marimo import in_marimo
from ocikit.spec.annotations import CREATED
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Index
from ocikit.spec.reference import AnyReference, LayoutReference, parse_reference

_ITEMS = 500  # shown files, manifests or referrers; the filter finds the others
_ROWS = 12  # visible files of a list
_NAME = 30  # characters of a name; a column has room for them and a size
_REDRAW = 0.1  # seconds between two updates of the progress bar
_RATE = 3.0  # seconds of which the rate is shown
_TREE_LIMIT = 300_000_000  # bytes of layers that are read to list their files
_MARIMO = 10.0  # seconds; marimo shows the view once, when the cell ends
_SEEN = 50  # names in the view that a saved notebook shows
_SAVED = 200_000  # bytes of that view; a larger one is saved without its preview

#: A registry host without a repository: a name with a dot, "localhost", or any name with a port.
_HOST = re.compile(r"(localhost|[^/:@\s]+\.[^/:@\s]*|\[[0-9A-Fa-f:.]+\])(:\d+)?|[^/:@\s]+:\d{4,5}")


class ExplorerClient(Protocol):
    """The methods of a session that the explorer calls."""

    def catalog(self, host: str) -> Sequence[str]:
        """Return the repositories of a registry."""

    def tags(self, ref: str | AnyReference) -> Sequence[str]:
        """Return the tags of a repository."""

    def inspect(self, ref: str | AnyReference) -> Artifact:
        """Return an artifact without its content."""

    def referrers(self, ref: str | AnyReference) -> Sequence[Descriptor]:
        """Return the referrers of a manifest."""

    def login(self, host: str, username: str = "", password: str | None = None) -> str:
        """Store credentials and return where they are stored."""

    def pull(self, ref: str | AnyReference, to: str, *, include: Iterable[str], progress: Progress) -> Artifact:
        """Pull files of an artifact into a folder."""


class _Stopped(OcikitError):
    """The user stopped a download."""


class Explorer:
    """A widget that shows a registry, a repository, an artifact or a layout.

    Args:
        client: Session that reads.
        start: A reference, a registry host, or a layout such as "oci:folder".
        places: Addresses that are offered without a start.

    Raises:
        InvalidReference: `start` is none of these.
    """

    def __init__(self, client: ExplorerClient, start: str = "", places: Sequence[Place] = ()) -> None:
        self._client = client
        self._jobs = Jobs()
        self._artifact: Artifact | None = None
        self._files: list[str] = []
        self._filling = False
        self._stop = threading.Event()
        self._history: list[str] = []
        self._host = ""
        self._repository = ""
        self._reference = ""
        self._problem = ""
        self._id = f"ocikit-seen-{secrets.token_hex(4)}"
        self._handles: list[Any] = []
        self._build_navigation(places)
        self._build_documents()
        self._build_files()
        self._build_layout()
        self._connect()
        if start:
            _parse_address(start)  # raise for an invalid start instead of showing it in the widget
            self.address.value = start
        else:
            self.open_start()

    def _build_navigation(self, places: Sequence[Place]) -> None:
        self.address = w.Text(
            placeholder="ghcr.io/org/model:v1, localhost:5000, oci:folder",
            continuous_update=False,
            layout=w.Layout(flex="1 1 200px", width="auto"),
        )
        named(self.address, "address")
        self.go = w.Button(description="Open", layout=w.Layout(width="70px"))
        self.back = w.Button(description="Back", layout=w.Layout(width="70px"), disabled=True)
        self.crumbs = w.HBox([], layout=w.Layout(display="none"))
        self.crumbs.add_class("ocikit-crumbs")
        self.status = status()
        self.login_form: LoginForm | None = None
        self.login_box = w.VBox([])
        self.places = titled(w.Select(rows=min(12, max(2, len(places))), layout=w.Layout(width="auto")), "start with")
        set_options(self.places, [(_aligned(place.address, place.note), place.address) for place in places], None)
        self.places_box = w.VBox([self.places], layout=w.Layout(display="none"))
        self.repositories = Column(
            "repositories", "repository", self._jobs, self._open_repository, self._listed, sortable=False
        )
        self.tags = Column("tags", "tag", self._jobs, self._open_tag, self._listed, sortable=True)
        self.code = named(w.Text(value="", layout=w.Layout(width="auto", flex="1 1 auto")), "in code")
        self.copy = w.Button(description="Copy", layout=w.Layout(width="80px"), tooltip="copy the code")
        self.copy.add_class("ocikit-copy-code")

    def _build_documents(self) -> None:
        self.card = w.HTML()
        self.manifests = titled(w.Select(options=[], rows=5, layout=w.Layout(width="auto")), "manifests")
        self.manifests_box = w.VBox([self.manifests], layout=w.Layout(display="none"))
        self.referrers = titled(w.Select(options=[], rows=3, layout=w.Layout(width="auto")), "referrers")
        self.referrers_box = w.VBox([self.referrers], layout=w.Layout(display="none"))

    def _build_files(self) -> None:
        self.filter = w.Text(placeholder="filter files, Enter shows the first", layout=w.Layout(width="auto"))
        named(self.filter, "filter files")
        self.files = titled(w.SelectMultiple(options=[], rows=8, layout=w.Layout(width="auto")), "files")
        self.files_status = status()
        self.files_box = w.VBox([self.files, self.filter, self.files_status], layout=w.Layout(display="none"))
        self.tree = w.Button(description="List the files in its layers", layout=w.Layout(width="auto", display="none"))
        folder = w.Layout(flex="0 1 220px", width="auto")
        self.folder = w.Text(value="downloads", description="to folder", layout=folder)
        self.download = w.Button(description="Save here", layout=w.Layout(width="100px"))
        self.stop = w.Button(description="Stop", layout=w.Layout(width="70px", display="none"))
        self.bar = w.HTML(layout=w.Layout(display="none"))
        self.saving = status()
        row = w.HBox([self.folder, self.download, self.stop])
        row.add_class("ocikit-row")
        self.save_box = w.VBox([row, self.saving, self.bar], layout=w.Layout(display="none"))
        self.preview = w.HTML()

    def _build_layout(self) -> None:
        names = [self.places_box, self.repositories.widget, self.tags.widget, self.manifests_box, self.files_box]
        lists = w.VBox([*names, self.referrers_box])
        details = w.VBox([self.card, self.tree, self.save_box, self.preview])
        self.body = w.HBox([lists, details])
        self.body.add_class("ocikit-body")
        navigation = w.HBox([self.back, self.address, self.go])
        self.code_box = w.HBox([self.code, self.copy])
        for row in (navigation, self.code_box):
            row.add_class("ocikit-row")
        self.code_box.add_class("ocikit-code")
        seen = f"<style>.{self._id},.jp-OutputArea-child:has(.{self._id}){{display:none}}</style>"
        hidden = w.Box([styles(), w.HTML(seen), *assistant()], layout=w.Layout(display="none"))
        self.widget = w.VBox([hidden, navigation, self.crumbs, self.status, self.login_box, self.body, self.code_box])
        self.widget.add_class("ocikit-explorer")

    def _connect(self) -> None:
        self.address.observe(lambda change: self.open(change["new"]), "value")
        self.go.on_click(lambda _: self.open(self.address.value))
        self.back.on_click(lambda _: self._go_back())
        self.places.observe(self._on_place, "value")
        self.manifests.observe(self._on_manifest, "value")
        self.referrers.observe(self._on_referrer, "value")
        self.filter.observe(lambda _: self._list_files(), "value")
        self.files.observe(lambda _: self._on_files(), "value")
        on_enter(self.filter, self._select_first_file)
        self.folder.observe(lambda _: self._show_target(), "value")
        self.download.on_click(lambda _: self._download())
        self.stop.on_click(lambda _: self._stop.set())
        self.tree.on_click(lambda _: self._list_tree())

    def __repr__(self) -> str:
        return f"<ocikit explorer at {display.shorten(self.address.value or '(no address)', 60)}>"

    # Display protocols

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Return the widget, and the present view as HTML for pages without widgets."""
        if in_marimo():
            self.wait(_MARIMO)
            return self._seen_bundle()
        return self._bundle(**kwargs) | {"text/html": self.seen()}

    def _bundle(self, **kwargs: Any) -> dict[str, Any]:
        bundle = self.widget._repr_mimebundle_(**kwargs)
        data: dict[str, Any] = bundle[0] if isinstance(bundle, tuple) else bundle
        data["text/plain"] = f"{self!r}: {self.code.value}"
        return data

    def _ipython_display_(self) -> None:
        """Show the widget, and below it the view that a saved notebook shows. The widget hides it while it lives."""
        from IPython.display import display as show  # noqa: PLC0415 - a kernel has it loaded

        show(self._bundle(), raw=True)  # type: ignore[no-untyped-call]
        self._handles.append(show(self._seen_bundle(), raw=True, display_id=True))  # type: ignore[no-untyped-call]

    def _seen_bundle(self) -> dict[str, str]:
        return {"text/plain": f"{self!r}: {self.code.value}", "text/html": self.seen()}

    def seen(self) -> str:
        """Return the present view as HTML: names or the artifact, the preview of a file, and the code."""
        names = [] if self._artifact is not None else [*(self.tags.shown or self.repositories.shown)]
        noun = "tags" if self.tags.shown else "repositories"
        more = f"<small>… {len(names) - _SEEN:,} more</small>" if len(names) > _SEEN else ""
        listed = " ".join(f"<code>{display.escape(name)}</code>" for name in names[:_SEEN])
        parts = [f"<div><small>{noun}</small> {listed} {more}</div>" if names else "", self._problem]
        parts += [self.card.value, self.preview.value]
        if sum(map(len, parts)) > _SAVED:
            parts[-1] = message("the preview is too large for a saved notebook")
        how = "as it was last seen; run the cell to explore"
        if in_marimo():
            how = "without its controls, because marimo shows no ipywidgets; other notebooks show them"
        head = f"<div><small>ocikit explorer, {how}</small></div>"
        code = f"<pre>{display.escape(self.code.value, 2000)}</pre>" if self.code.value else ""
        return f'<div class="{self._id}">{css()}<div class="ocikit-preview">{head}{code}</div>{"".join(parts)}</div>'

    def _remember(self) -> None:
        """Update the view that a saved notebook shows."""
        for handle in self._handles:
            handle.update(self._seen_bundle(), raw=True)

    def wait(self, timeout: float = 30.0) -> bool:
        """Wait until all requests have finished; meant for scripts.

        Args:
            timeout: Maximum time to wait, in seconds.

        Returns:
            False if a request is still in progress.
        """
        return self._jobs.wait(timeout)

    # Navigation

    def open_start(self) -> None:
        """Show the known addresses."""
        self._visit("")
        self._host = self._repository = ""
        self.repositories.hide()
        self.tags.hide()
        self._clear()
        self.address.value = ""
        self.crumbs.layout.display = "none"
        self._show_code("")
        known = bool(self.places.options)
        set_options(self.places, self.places.options, None)
        self.places_box.layout.display = None if known else "none"
        choose = ", or choose a registry or a repository that this computer knows" if known else ""
        self._show_status(f"enter a registry, a repository or a reference{choose}")

    def open(self, address: str) -> None:
        """Show a host, a repository, a reference or a layout; errors are shown, not raised."""
        address = address.strip()
        if not address:
            return
        try:
            host, repository, tag, reference = _parse_address(address)
        except OcikitError as error:
            self._show_error(error)
            return
        if self.address.value != address:
            self.address.value = address  # calls this method again
            return
        self._visit(address)
        self.places_box.layout.display = "none"
        self._show_status("")
        self.login_box.children = ()
        self._show_crumbs(host, repository, reference)
        if host and not repository:
            self._host = host
            self._repository = ""
            self.tags.hide()
            self._clear()
            self._show_code(_call("ocikit.catalog", host))
            self.repositories.show(lambda: self._client.catalog(host))
            return
        if host != self._host:
            self.repositories.hide()
            self._host = host
        self.repositories.select(repository.removeprefix(f"{host}/"))
        self._show_repository(repository, tag)
        if reference:
            self._load(reference)
        else:
            self._clear()

    def _listed(self, error: OcikitError | None) -> None:
        """Handle a list that has changed, or the error of its request."""
        if error is not None:
            self._offer_login(error)
        elif not self._reference and (self.tags.shown or self.repositories.shown):
            self.card.value = message("select a tag to see its files" if self.tags.shown else "select a repository")
        self._remember()

    def _offer_login(self, error: OcikitError) -> None:
        """Show a login form for a registry that requires credentials, once for each address."""
        if isinstance(error, Unauthorized) and self._host and not self.login_box.children:
            self.login_form = LoginForm(self._host, "", self._client.login, self._open_again)
            self.login_box.children = (self.login_form.widget,)

    def _open_again(self) -> None:
        self._repository = ""
        self.open(self.address.value)

    def _visit(self, address: str) -> None:
        if not self._history or self._history[-1] != address:
            self._history.append(address)
        self.back.disabled = len(self._history) < 2

    def _go_back(self) -> None:
        if len(self._history) > 1:
            self._history.pop()
            previous = self._history[-1]
            self.open(previous) if previous else self.open_start()

    def _show_crumbs(self, host: str, repository: str, reference: str) -> None:
        """Show the parts of an address as buttons; the last one is where we are."""
        short = repository.removeprefix(f"{host}/") if host else repository
        parts = [(host, host), (short, repository), (_target(reference), reference)]
        crumbs = []
        shown = [(label, address) for label, address in parts if label]
        for label, address in shown:
            crumb = w.Button(description=display.shorten(label, 60), disabled=address == shown[-1][1])
            crumb.on_click(lambda _, address=address: self.open(address))
            crumbs.append(crumb)
        for old in self.crumbs.children:
            old.close()
        self.crumbs.children = tuple(crumbs)
        self.crumbs.layout.display = None

    def _on_place(self, change: Mapping[str, Any]) -> None:
        if change["new"]:
            self.open(change["new"])

    def _open_repository(self, name: str) -> None:
        self.open(f"{self._host}/{name}")

    def _open_tag(self, tag: str) -> None:
        self.open(f"{self._repository}:{tag}")

    def _show_repository(self, repository: str, tag: str) -> None:
        if repository != self._repository:
            self._repository = repository
            self.tags.show(lambda: self._client.tags(repository), tag)
        else:
            self.tags.select(tag)
        self._show_code(_call("ocikit.tags", repository))

    # Documents

    def _load(self, reference: str, *, from_index: bool = False) -> None:
        """Load and show an artifact; with `from_index`, the list of its siblings stays visible."""
        if not from_index:
            self._clear()
        self._reference = reference
        self._show_code(_call("ocikit.inspect", reference))
        self._show_status(f"loading {reference} …")

        def work(is_stale: IsStale) -> Artifact | None:
            time.sleep(DELAY)
            if is_stale():
                return None
            artifact = self._client.inspect(reference)
            with contextlib.suppress(OcikitError):  # an error is shown with the files
                _ = () if artifact.is_index else artifact.layers  # the names of some models are in their config
            return artifact

        def then(artifact: Artifact | None) -> None:
            if artifact is not None:
                self._show_status("")
                self._show(artifact, keep_manifests=from_index)
                self._remember()

        self._jobs.run("artifact", work, then, self._show_error)

    def _show(self, artifact: Artifact, *, keep_manifests: bool) -> None:
        self._artifact = artifact
        self._show_card()
        if isinstance(artifact.document, Index):
            set_options(self.manifests, _options(artifact.document.manifests, _manifest_label), None)
            self.manifests_box.layout.display = None
            self.files_box.layout.display = self.save_box.layout.display = "none"
        else:
            if not keep_manifests:
                self.manifests_box.layout.display = "none"
            self._show_files(artifact)
        self._show_referrers(artifact)

    def _show_card(self) -> None:
        """Show the card of the artifact, folded if the preview of a file is shown."""
        artifact = self._artifact
        if artifact is None:
            return
        # Collapse all sections: files and manifests are in the lists, where they can be selected
        card = display.card_of(artifact)
        collapsed = attrs.evolve(card, sections=tuple(attrs.evolve(s, unfolded=False) for s in card.sections))
        shown = page(collapsed) or message(str(artifact))
        if self.files.value:
            name = display.escape(self._reference, 200)
            shown = f'<details class="ocikit-folded"><summary>{name}</summary>{shown}</details>'
        self.card.value = shown

    def _show_files(self, artifact: Artifact) -> None:
        self.files.value = ()
        try:
            self._files = list(artifact.files)
        except OcikitError as error:
            self._files = []
            self._show_error(error)
        visible = None if self._files else "none"
        self.files_box.layout.display = self.save_box.layout.display = visible
        self.filter.layout.display = None if len(self._files) > FEW else "none"
        self.tree.layout.display = None if artifact.is_image else "none"
        self.filter.value = ""
        self._list_files()
        self._show_target()

    def _show_referrers(self, artifact: Artifact) -> None:
        def work(is_stale: IsStale) -> list[Descriptor]:
            return [] if is_stale() else list(self._client.referrers(artifact.reference))

        def then(referrers: list[Descriptor]) -> None:
            set_options(self.referrers, _options(referrers, _referrer_label), None, rows=min(6, 1 + len(referrers)))
            self.referrers_box.layout.display = None if referrers else "none"

        self._jobs.run("referrers", work, then, lambda _: None)  # an error leaves the box hidden

    def _on_manifest(self, change: Mapping[str, Any]) -> None:
        if change["new"] and self._artifact is not None:
            self._load(f"{self._artifact.reference.name}@{change['new']}", from_index=True)

    def _on_referrer(self, change: Mapping[str, Any]) -> None:
        if change["new"] and self._artifact is not None:
            self.open(f"{self._artifact.reference.name}@{change['new']}")

    # Files

    def _list_files(self) -> None:
        text = self.filter.value.strip().lower()
        matches = [i for i, name in enumerate(self._files) if text in name.lower()]
        shown, before = matches[:_ITEMS], self.files.value
        # Preserve the selection of visible files: the last letter of a filter may arrive after Enter
        selected = tuple(i for i in before if i in shown)
        self._filling = True
        try:
            options = [(self._label(self._files[i]), i) for i in shown]
            set_options(self.files, options, selected, rows=min(_ROWS, max(2, len(shown))))
        finally:
            self._filling = False
        if selected != before:
            self._on_files()
        more = len(matches) - _ITEMS
        count = f"{len(matches):,} of {display.pluralize(len(self._files), 'file')}" if text or more > 0 else ""
        omitted = f"; {more:,} more not shown" if more > 0 else ""
        self.files_status.value = message(f"{count}{omitted}") if count else ""

    def _label(self, name: str) -> str:
        size = display.size(self._artifact[name].size) if self._artifact is not None else ""
        return _aligned(name, size)

    def _select_first_file(self) -> None:
        self.files.value = tuple(index for _, index in self.files.options[:1])

    def _selected(self) -> list[File]:
        artifact = self._artifact
        return [] if artifact is None else [artifact[self._files[i]] for i in self.files.value]

    def _on_files(self) -> None:
        if self._filling:
            return
        selected, artifact = self._selected(), self._artifact
        self.preview.value = ""
        self._show_card()
        self._show_target()
        if len(selected) == 1:
            self._show_preview(selected[0])
            return
        self._jobs.cancel("preview")
        if artifact is not None:
            self._show_code(self._pull_code(selected) if selected else _call("ocikit.inspect", self._reference))
            self._remember()

    def _show_preview(self, file: File) -> None:
        call = "ocikit.describe" if is_binary_format(file.name, file.media_type) else "ocikit.open"
        self._show_code(_call(call, self._reference, file.name))
        self.preview.value = message("loading the preview …")

        def work(is_stale: IsStale) -> str:
            time.sleep(DELAY)
            return "" if is_stale() else load_preview(file)

        self._jobs.run("preview", work, self._show_page, self._show_preview_error)

    def _show_page(self, html: str) -> None:
        self.preview.value = html
        self._remember()

    def _list_tree(self) -> None:
        artifact = self._artifact
        if artifact is None:
            return
        self._show_code(f"{_call('ocikit.inspect', self._reference)}.tree()")
        if artifact.size > _TREE_LIMIT:
            size = display.size(artifact.size)
            text = f"listing {size} of layers would take long here\nrun the code below in a cell of its own"
            self.preview.value = message(text, problem=True)
            return
        self.preview.value = message(f"reading {display.size(artifact.size)} of layers …")

        def then(tree: Mapping[str, TarEntry]) -> None:
            rows = [(path, entry.type, display.Size(entry.size)) for path, entry in tree.items()]
            self._show_page(f'<div class="ocikit">{display.table(("path", "type", "size"), rows, 200)}</div>')

        self._jobs.run("preview", lambda _: artifact.tree(), then, self._show_preview_error)

    def _show_preview_error(self, error: OcikitError) -> None:
        self._show_page(message(str(error), problem=True))

    # Downloads

    def _pull_code(self, selected: Sequence[File]) -> str:
        include = [glob.escape(file.name) for file in selected]
        return _call(
            "ocikit.pull", self._reference, self.folder.value.strip(), **({"include": include} if include else {})
        )

    def _show_target(self) -> None:
        """Show what a download saves, and where."""
        if self._artifact is None or self.download.disabled:
            return
        files = self._selected() or [self._artifact[name] for name in self._files]
        size = display.size(sum(file.size for file in files))
        every = "all " if len(files) > 1 and not self.files.value else ""
        what = f"{every}{display.pluralize(len(files), 'file')} ({size})"
        self.saving.value = message(f"saves {what} to {_absolute(self.folder.value)}")

    def _download(self) -> None:
        artifact, selected, folder = self._artifact, self._selected(), self.folder.value.strip()
        if artifact is None:
            return
        if not folder:
            self.saving.value = message("enter a folder first", problem=True)
            return
        self._show_code(self._pull_code(selected))
        self._stop.clear()
        self.download.disabled = True
        self.stop.layout.display = self.bar.layout.display = None
        self.saving.value = message(f"saving to {_absolute(folder)} …")
        include = [glob.escape(f.name) for f in selected]
        progress = _WidgetProgress(self.bar, self.saving, self._stop)

        def work(_: IsStale) -> Artifact:
            return self._client.pull(artifact.reference, folder, include=include, progress=progress)

        def then(pulled: Artifact) -> None:
            done = pulled.summary.rpartition(" -> ")[0] or pulled.summary
            self._end_download(message(f"{done}: saved in {_absolute(folder)}"))

        def failed(error: OcikitError) -> None:
            if self._stop.is_set():
                self._end_download(message("stopped; received data is stored, the next download resumes"))
            else:
                self._end_download(message(str(error), problem=True))

        self._jobs.run("download", work, then, failed)

    def _end_download(self, text: str) -> None:
        self.download.disabled = False
        self.stop.layout.display = self.bar.layout.display = "none"
        self.bar.value = ""
        self.saving.value = text

    # Display

    def _clear(self) -> None:
        for slot in ("artifact", "referrers", "preview"):
            self._jobs.cancel(slot)
        self._artifact, self._files, self._reference = None, [], ""
        self.card.value = self.preview.value = self._problem = ""
        for box in (self.manifests_box, self.files_box, self.referrers_box, self.save_box, self.tree):
            box.layout.display = "none"

    def _show_code(self, line: str) -> None:
        self.code.value = display.sanitize(line)
        self.code_box.layout.display = None if line else "none"

    def _show_status(self, text: str) -> None:
        self.status.value = message(text) if text else ""

    def _show_error(self, error: OcikitError) -> None:
        self._problem = self.status.value = message(str(error), problem=True)
        self._offer_login(error)
        self._remember()


class _WidgetProgress(Progress):
    """Progress shown by a bar with its numbers; an event stops the transfer."""

    def __init__(self, bar: w.HTML, status: w.HTML, stop: threading.Event) -> None:
        self._bar = bar
        self._status = status
        self._stop = stop
        self._done = 0
        self._size = 1
        self._seen: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()  # events come from several threads
        self._draw()

    def begin(self, title: str, *, size: int, count: int) -> None:
        with self._lock:
            self._size = max(1, size)
            self._draw()

    def advance(self, descriptor: Descriptor, n: int) -> None:
        if self._stop.is_set():
            raise _Stopped("stopped")
        with self._lock:
            self._done += n
            if time.monotonic() - self._seen[-1][0] > _REDRAW:
                self._draw()

    def note(self, text: str) -> None:
        self._status.value = message(text)

    def _draw(self) -> None:
        """Show the share and the rate of the last seconds; data of an earlier call counts for a moment only."""
        now = time.monotonic()
        done = min(max(0, self._done), self._size)
        self._seen.append((now, done))
        while self._seen[0][0] < now - _RATE:
            self._seen.popleft()
        then, before = self._seen[0]
        rate = f", {display.size(int(max(0, done - before) / (now - then)))}/s" if now > then else ""
        text = f"{done * 100 // self._size} %, {display.size(done)} of {display.size(self._size)}{rate}"
        self._bar.value = (
            f'<progress aria-label="saved" max="{self._size}" value="{done}"></progress> <small>{text}</small>'
        )


def _parse_address(address: str) -> tuple[str, str, str, str]:
    """Return host, repository, tag and reference of an address, each "" if missing.

    Raises:
        InvalidReference: The address is not a host, a reference or a layout.
    """
    address = address.strip().rstrip("/")
    if _HOST.fullmatch(address):
        return address, "", "", ""
    reference = parse_reference(address)
    host = "" if isinstance(reference, LayoutReference) else reference.registry
    full = str(reference) if reference.tag or reference.digest else ""
    return host, reference.name, reference.tag or "", full


def _target(reference: str) -> str:
    """Return the tag of a reference, or its short digest."""
    if not reference:
        return ""
    parsed = parse_reference(reference)
    return parsed.tag or (parsed.digest.short if parsed.digest else "")


def _absolute(folder: str) -> str:
    """Return the absolute path of a folder, in which the home folder is `~`."""
    path = Path(folder.strip() or ".").expanduser().absolute()
    with contextlib.suppress(RuntimeError):  # a user without a home folder
        home = Path.home()
        if home != Path(home.anchor) and path.is_relative_to(home):
            return f"~/{path.relative_to(home).as_posix()}".removesuffix("/.")
    return str(path)


def _call(verb: str, *arguments: object, **options: object) -> str:
    """Return the source text of a call, with the same quotes everywhere."""
    texts = [json.dumps(value, ensure_ascii=False) for value in arguments]
    texts += [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in options.items()]
    return f"{verb}({', '.join(texts)})"


def _aligned(name: str, note: str) -> str:
    """Return a label in two columns: options of a list have one font and keep only spaces that do not break."""
    shown = display.sanitize(name)
    if len(shown) > _NAME:  # the end of a path identifies it better than its middle
        shown = f"{shown[: _NAME // 3]}…{shown[1 + _NAME // 3 - _NAME :]}"
    return f"{shown.ljust(_NAME)} {note.rjust(8)}".replace(" ", "\N{NO-BREAK SPACE}")


def _options(descriptors: Sequence[Descriptor], label: Callable[[Descriptor], str]) -> list[tuple[str, str | None]]:
    """Return the options of a selection list: the first `_ITEMS` descriptors, and a line about the others."""
    more = len(descriptors) - _ITEMS
    rest: list[tuple[str, str | None]] = [(f"… {more:,} more are not shown", None)] if more > 0 else []
    return [*((label(d), str(d.digest)) for d in descriptors[:_ITEMS]), *rest]


def _manifest_label(descriptor: Descriptor) -> str:
    kind = str(descriptor.platform) if descriptor.platform else descriptor.artifact_type or descriptor.media_type
    return display.shorten(f"{kind}  {descriptor.digest.short}", 120)


def _referrer_label(descriptor: Descriptor) -> str:
    kind = descriptor.artifact_type or descriptor.media_type
    created = descriptor.annotations.get(CREATED, "")
    return display.shorten(f"{kind}  {descriptor.digest.short}  {created}", 160)
