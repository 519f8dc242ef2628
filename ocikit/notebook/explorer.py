"""Explorer widget: from a registry to the bytes of a file, with the equivalent code for each step.

Requests run in the background. The kernel stays responsive, and only the result of the latest click is shown.
"""

from __future__ import annotations

import contextlib
import glob
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import ipywidgets as w  # type: ignore[import-untyped]  # has no types

from ocikit import display
from ocikit.client.artifact import Artifact, File
from ocikit.descriptions.describe import is_binary_format
from ocikit.descriptions.model import Description
from ocikit.display.html import page
from ocikit.errors import OcikitError
from ocikit.layers.tar import TarEntry
from ocikit.notebook.column import Column, message, named, on_enter, set_options, styles, titled
from ocikit.notebook.jobs import IsStale, Jobs
from ocikit.notebook.previews import preview, preview_size
from ocikit.progress.base import Progress
from ocikit.spec.annotations import CREATED
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Index
from ocikit.spec.reference import AnyReference, LayoutReference, parse_reference

_DELAY = 0.2  # seconds before a request: moving through a list with the arrow keys must not fetch every item
_ITEMS = 500  # shown files, manifests or referrers; the filter finds the others
_REDRAW = 0.1  # seconds between two updates of the progress bar
_TREE_LIMIT = 300_000_000  # bytes of layers that are read to list their files

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

    def pull(self, ref: str | AnyReference, to: str, *, include: Iterable[str], progress: Progress) -> Artifact:
        """Pull files of an artifact into a folder."""


class _Stopped(OcikitError):
    """The user stopped a download."""


class Explorer:
    """A widget that shows a registry, a repository, an artifact or a layout.

    Args:
        client: Session that reads.
        start: A reference, a registry host, or a layout such as "oci:folder".

    Raises:
        InvalidReference: `start` is none of these.
    """

    def __init__(self, client: ExplorerClient, start: str = "") -> None:
        self._client = client
        self._jobs = Jobs()
        self._artifact: Artifact | None = None
        self._files: list[str] = []
        self._filling = False
        self._stop = threading.Event()
        self._history: list[str] = []
        self._host = ""
        self._repository = ""
        self._inspect_code = ""
        self._build_navigation()
        self._build_documents()
        self._build_files()
        self._build_layout()
        self._connect()
        if start:
            _parse_address(start)  # raise for an invalid start instead of showing it in the widget
            self.address.value = start

    def _build_navigation(self) -> None:
        self.address = w.Text(
            placeholder="ghcr.io/org/model:v1, localhost:5000, oci:folder",
            continuous_update=False,
            layout=w.Layout(flex="1 1 240px", width="auto"),
        )
        self.go = w.Button(description="Open", layout=w.Layout(width="80px"))
        self.back = w.Button(description="Back", layout=w.Layout(width="70px"), disabled=True)
        self.status = w.HTML()
        self.repositories = Column("repositories", self._jobs, self._open_repository)
        self.tags = Column("tags", self._jobs, self._open_tag, sortable=True)
        named(self.address, "address")
        self.code = named(w.Text(value="", layout=w.Layout(width="auto")), "in code")
        self.code.tooltip = "code for the current view, to copy"

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
        self.files_status = w.HTML()
        self.tree = w.Button(description="List the files in its layers", layout=w.Layout(width="auto", display="none"))
        folder = w.Layout(flex="1 1 160px", width="auto")
        self.folder = w.Text(value="downloads", description="to folder", layout=folder)
        self.download = w.Button(description="Download", layout=w.Layout(width="110px"))
        self.stop = w.Button(description="Stop", layout=w.Layout(width="70px", display="none"))
        self.bar = w.FloatProgress(layout=w.Layout(width="auto", display="none"))
        self.preview_text = w.HTML()
        self.preview_picture = w.Image(layout=w.Layout(display="none", max_width="100%"))
        downloads = w.HBox([self.folder, self.download, self.stop], layout=w.Layout(flex_flow="row wrap"))
        files = [self.filter, self.files, self.files_status, self.tree]
        previews = [self.bar, self.preview_text, self.preview_picture]
        self.files_box = w.VBox([*files, downloads, *previews], layout=w.Layout(display="none"))

    def _build_layout(self) -> None:
        self.details = w.VBox(
            [self.card, self.manifests_box, self.files_box, self.referrers_box],
            layout=w.Layout(flex="3 1 360px", min_width="240px", max_width="100%"),
        )
        navigation = w.HBox([self.back, self.address, self.go], layout=w.Layout(flex_flow="row wrap"))
        columns = w.HBox(
            [self.repositories.widget, self.tags.widget, self.details],
            layout=w.Layout(flex_flow="row wrap", align_items="flex-start"),
        )
        code = [w.HTML("<small>in code</small>"), self.code]
        self.widget = w.VBox([styles(), navigation, self.status, columns, *code])

    def _connect(self) -> None:
        self.address.observe(lambda change: self.open(change["new"]), "value")
        self.go.on_click(lambda _: self.open(self.address.value))
        self.back.on_click(lambda _: self._go_back())
        self.manifests.observe(self._on_manifest, "value")
        self.referrers.observe(self._on_referrer, "value")
        self.filter.observe(lambda _: self._list_files(), "value")
        self.files.observe(lambda _: self._on_files(), "value")
        on_enter(self.filter, self._select_first_file)
        self.download.on_click(lambda _: self._download())
        self.stop.on_click(lambda _: self._stop.set())
        self.tree.on_click(lambda _: self._list_tree())

    def __repr__(self) -> str:
        return f"<ocikit explorer at {display.shorten(self.address.value or '(no address)', 60)}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Return the widget, and the current view as HTML for saved pages without widgets."""
        bundle = self.widget._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["text/plain"] = f"{self!r}: {self.code.value}"
        data["text/html"] = f"{self.card.value}<pre>{display.escape(self.code.value, 400)}</pre>"
        return data

    def wait(self, timeout: float = 30.0) -> bool:
        """Wait until all requests have finished; meant for scripts.

        Args:
            timeout: Maximum time to wait, in seconds.

        Returns:
            False if a request is still in progress.
        """
        return self._jobs.wait(timeout)

    # Navigation

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
        if not self._history or self._history[-1] != address:
            self._history.append(address)
        self.back.disabled = len(self._history) < 2
        self._show_status("")
        if host and not repository:
            self._host = host
            self._repository = ""
            self.tags.hide()
            self._clear()
            self._show_code(f'ocikit.catalog("{host}")')
            self.repositories.show(lambda: self._client.catalog(host))
            return
        if host != self._host:
            self.repositories.hide()
            self._host = host
        self._show_repository(repository, tag)
        if reference:
            self._load(reference)
        else:
            self._clear()

    def _go_back(self) -> None:
        if len(self._history) > 1:
            self._history.pop()
            self.open(self._history[-1])

    def _open_repository(self, name: str) -> None:
        self.open(f"{self._host}/{name}")

    def _open_tag(self, tag: str) -> None:
        self.open(f"{self._repository}:{tag}")

    def _show_repository(self, repository: str, tag: str) -> None:
        if repository != self._repository:
            self._repository = repository
            self.tags.show(lambda: self._client.tags(repository), tag)
        self._show_code(f'ocikit.tags("{repository}")')

    # Documents

    def _load(self, reference: str, *, from_index: bool = False) -> None:
        """Load and show an artifact; with `from_index`, the list of its siblings stays visible."""
        if not from_index:
            self._clear()
        self._inspect_code = f'ocikit.inspect("{reference}")'
        self._show_code(self._inspect_code)
        self._show_status(f"loading {reference} …")

        def work(is_stale: IsStale) -> Artifact | None:
            time.sleep(_DELAY)
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

        self._jobs.run("artifact", work, then, self._show_error)

    def _show(self, artifact: Artifact, *, keep_manifests: bool) -> None:
        self._artifact = artifact
        # Collapse all sections: files and manifests are listed below, where they can be selected
        card = display.card_of(artifact)
        collapsed = attrs.evolve(card, sections=tuple(attrs.evolve(s, unfolded=False) for s in card.sections))
        self.card.value = page(collapsed) or message(str(artifact))
        if isinstance(artifact.document, Index):
            set_options(self.manifests, _options(artifact.document.manifests, _manifest_label), None)
            self.manifests_box.layout.display = None
            self.files_box.layout.display = "none"
        else:
            if not keep_manifests:
                self.manifests_box.layout.display = "none"
            self._show_files(artifact)
        self._show_referrers(artifact)

    def _show_files(self, artifact: Artifact) -> None:
        self.files.value = ()
        try:
            self._files = list(artifact.files)
        except OcikitError as error:
            self._files = []
            self._show_error(error)
        self.files_box.layout.display = None if self._files else "none"
        self.tree.layout.display = None if artifact.is_image else "none"
        self.filter.value = ""
        self._list_files()

    def _show_referrers(self, artifact: Artifact) -> None:
        def work(is_stale: IsStale) -> list[Descriptor]:
            return [] if is_stale() else list(self._client.referrers(artifact.reference))

        def then(referrers: list[Descriptor]) -> None:
            set_options(self.referrers, _options(referrers, _referrer_label), None)
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
            set_options(self.files, options, selected, rows=min(10, max(3, len(shown) + 1)))
        finally:
            self._filling = False
        if selected != before:
            self._on_files()
        more = len(matches) - _ITEMS
        omitted = f"; {more:,} more not shown" if more > 0 else ""
        self.files_status.value = message(f"{len(matches):,} of {len(self._files):,}{omitted}")

    def _label(self, name: str) -> str:
        size = f"  ({display.size(self._artifact[name].size)})" if self._artifact is not None else ""
        return f"{display.shorten(name, 120)}{size}"

    def _select_first_file(self) -> None:
        self.files.value = tuple(index for _, index in self.files.options[:1])

    def _selected(self) -> list[File]:
        artifact = self._artifact
        return [] if artifact is None else [artifact[self._files[i]] for i in self.files.value]

    def _on_files(self) -> None:
        if self._filling:
            return
        selected, artifact = self._selected(), self._artifact
        self.preview_picture.layout.display = "none"
        self.preview_text.value = ""
        if artifact is None:
            return
        if not selected:
            self._jobs.cancel("preview")
            self._show_code(self._inspect_code)
            return
        if len(selected) > 1:
            self._jobs.cancel("preview")
            self._show_code(self._pull_code(artifact, selected))
        else:
            self._show_preview(artifact, selected[0])

    def _show_preview(self, artifact: Artifact, file: File) -> None:
        call = "describe" if is_binary_format(file.name, file.media_type) else "open"
        self._show_code(f"ocikit.{call}({str(artifact.reference)!r}, {file.name!r})")
        self.preview_text.value = message("loading the preview …")

        def work(is_stale: IsStale) -> bytes | Description:
            time.sleep(_DELAY)
            if is_stale():
                return b""
            if is_binary_format(file.name, file.media_type):
                return file.describe()
            return file.head(preview_size(file.name, file.size))

        def then(head: bytes | Description) -> None:
            if not isinstance(head, bytes):
                self.preview_text.value = head._repr_html_()
                return
            shown = preview(file.name, head, file.size)
            self.preview_text.value = f'<div class="ocikit">{shown.html}</div>'
            if shown.picture:
                self.preview_picture.value, self.preview_picture.format = shown.picture, shown.format
                self.preview_picture.layout.display = None

        self._jobs.run("preview", work, then, self._show_preview_error)

    def _list_tree(self) -> None:
        artifact = self._artifact
        if artifact is None:
            return
        self._show_code(f"ocikit.inspect({str(artifact.reference)!r}).tree()")
        if artifact.size > _TREE_LIMIT:
            size = display.size(artifact.size)
            text = f"listing {size} of layers would take long here\nrun the code below in a cell of its own"
            self.preview_text.value = message(text, problem=True)
            return
        self.preview_text.value = message(f"reading {display.size(artifact.size)} of layers …")

        def then(tree: Mapping[str, TarEntry]) -> None:
            rows = [(path, entry.type, display.Size(entry.size)) for path, entry in tree.items()]
            self.preview_text.value = f'<div class="ocikit">{display.table(("path", "type", "size"), rows, 200)}</div>'

        self._jobs.run("preview", lambda _: artifact.tree(), then, self._show_preview_error)

    def _show_preview_error(self, error: OcikitError) -> None:
        self.preview_text.value = message(str(error), problem=True)

    # Downloads

    def _pull_code(self, artifact: Artifact, selected: Sequence[File]) -> str:
        include = f", include={[glob.escape(f.name) for f in selected]!r}" if selected else ""
        return f"ocikit.pull({str(artifact.reference)!r}, {self.folder.value!r}{include})"

    def _download(self) -> None:
        artifact, selected, folder = self._artifact, self._selected(), self.folder.value.strip()
        if artifact is None:
            return
        if not folder:
            self.files_status.value = message("enter a folder first", problem=True)
            return
        self._show_code(self._pull_code(artifact, selected))
        self._stop.clear()
        self.download.disabled = True
        self.stop.layout.display = self.bar.layout.display = None
        self.bar.value, self.bar.bar_style = 0.0, ""
        include = [glob.escape(f.name) for f in selected]
        progress = _WidgetProgress(self.bar, self.files_status, self._stop)

        def work(_: IsStale) -> Artifact:
            return self._client.pull(artifact.reference, folder, include=include, progress=progress)

        def then(pulled: Artifact) -> None:
            self._end_download(message(pulled.summary), "success")
            self.bar.value = self.bar.max

        def failed(error: OcikitError) -> None:
            if self._stop.is_set():
                self._end_download(message("stopped; received data is stored, the next download resumes"), "warning")
            else:
                self._end_download(message(str(error), problem=True), "danger")

        self._jobs.run("download", work, then, failed)

    def _end_download(self, status: str, style: str) -> None:
        self.download.disabled = False
        self.stop.layout.display = "none"
        self.files_status.value = status
        self.bar.bar_style = style

    # Display

    def _clear(self) -> None:
        for slot in ("artifact", "referrers", "preview"):
            self._jobs.cancel(slot)
        self._artifact, self._files = None, []
        self.card.value = self.preview_text.value = ""
        for box in (self.manifests_box, self.files_box, self.referrers_box, self.preview_picture):
            box.layout.display = "none"

    def _show_code(self, line: str) -> None:
        self.code.value = display.sanitize(line)

    def _show_status(self, text: str) -> None:
        self.status.value = message(text) if text else ""

    def _show_error(self, error: OcikitError) -> None:
        self.status.value = message(str(error), problem=True)


class _WidgetProgress(Progress):
    """Progress shown by a bar widget; an event stops the transfer."""

    def __init__(self, bar: w.FloatProgress, status: w.HTML, stop: threading.Event) -> None:
        self._bar = bar
        self._status = status
        self._stop = stop
        self._done = 0
        self._drawn = 0.0

    def begin(self, title: str, *, size: int, count: int) -> None:
        self._bar.max = float(max(1, size))

    def advance(self, descriptor: Descriptor, n: int) -> None:
        if self._stop.is_set():
            raise _Stopped("stopped")
        self._done += n
        if time.monotonic() - self._drawn > _REDRAW:
            self._drawn = time.monotonic()
            self._bar.value = float(self._done)

    def note(self, text: str) -> None:
        self._status.value = message(text)


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


def _options(descriptors: Sequence[Descriptor], label: Callable[[Descriptor], str]) -> list[tuple[str, str | None]]:
    """Return the options of a selection list: a prompt, then the first `_ITEMS` descriptors."""
    more = len(descriptors) - _ITEMS
    prompt = f"select one … ({more:,} more are not shown)" if more > 0 else "select one …"
    return [(prompt, None), *((label(d), str(d.digest)) for d in descriptors[:_ITEMS])]


def _manifest_label(descriptor: Descriptor) -> str:
    kind = str(descriptor.platform) if descriptor.platform else descriptor.artifact_type or descriptor.media_type
    return display.shorten(f"{kind}  {descriptor.digest.short}", 120)


def _referrer_label(descriptor: Descriptor) -> str:
    kind = descriptor.artifact_type or descriptor.media_type
    created = descriptor.annotations.get(CREATED, "")
    return display.shorten(f"{kind}  {descriptor.digest.short}  {created}", 160)
