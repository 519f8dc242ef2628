"""The explorer: from a registry to the bytes of a file, by clicks; every step shows the line of code that does the same.

Everything is asked in the background: the kernel stays free, and what was clicked last is what is shown.
"""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import ipywidgets as w  # type: ignore[import-untyped]  # it has no types

from ocikit import display
from ocikit.client.artifact import Artifact, File
from ocikit.display.html import page
from ocikit.errors import OcikitError
from ocikit.notebook.column import Column, message, on_enter
from ocikit.notebook.jobs import Jobs
from ocikit.notebook.previews import preview, wanted
from ocikit.progress.base import Progress
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Index
from ocikit.spec.reference import LayoutReference, parse_reference

_PAUSE = 0.2  # seconds: who goes through a list with the arrow keys doesn't want each of its names fetched
_FILES = 500  # shown at once, of manifests and referrers, too; the filter is for more
_DRAWN = 0.1  # seconds between two moves of a bar
_TREE = 300_000_000  # bytes of an image's layers that are read to list what is in them

#: A registry's host without a repository: a name with a dot, "localhost", or any name with a port's number.
_HOST = re.compile(r"(localhost|[^/:@\s]+\.[^/:@\s]*|\[[0-9A-Fa-f:.]+\])(:\d+)?|[^/:@\s]+:\d{4,5}")


class Verbs(Protocol):
    """What the explorer asks of a session."""

    def catalog(self, host: str) -> Sequence[str]: ...  # noqa: D102 - as Session's
    def tags(self, ref: Any) -> Sequence[str]: ...  # noqa: D102
    def inspect(self, ref: Any) -> Artifact: ...  # noqa: D102
    def referrers(self, ref: Any) -> Sequence[Descriptor]: ...  # noqa: D102
    def pull(self, ref: Any, to: Any, *, include: Any, progress: Any) -> Artifact: ...  # noqa: D102


class _Stopped(OcikitError):
    """Somebody pressed "stop"."""


class Explorer:
    """A registry, a repository, an artifact or a layout to look into.

    Args:
        session: who asks.
        start: a reference, a registry's host, or a layout such as "oci:folder".

    Raises: InvalidReference: for a start that is none of these.
    """

    def __init__(self, session: Verbs, start: str = "") -> None:
        self._session = session
        self._jobs = Jobs()
        self._artifact: Artifact | None = None
        self._files: list[File] = []
        self._filling = False
        self._stop = False
        narrow = w.Layout(width="auto")
        self.address = w.Text(
            placeholder="ghcr.io/org/model:v1, localhost:5000, oci:folder", continuous_update=False,
            layout=w.Layout(flex="1 1 240px", width="auto"),
        )  # fmt: skip
        self.go = w.Button(description="Open", layout=w.Layout(width="80px"))
        self.back = w.Button(description="Back", layout=w.Layout(width="70px"), disabled=True)
        self.status = w.HTML()
        self.repositories = Column("repositories", self._jobs, self._open_repository)
        self.tags = Column("tags", self._jobs, self._open_tag, sortable=True)
        self.card = w.HTML()
        self.manifests = w.Select(options=[], rows=5, layout=narrow)
        self.manifests_box = w.VBox([w.HTML("<b>manifests</b>"), self.manifests], layout=w.Layout(display="none"))
        self.filter = w.Text(placeholder="filter files, Enter shows the first", layout=narrow)
        self.files = w.SelectMultiple(options=[], rows=8, layout=narrow)
        self.files_status = w.HTML()
        self.folder = w.Text(
            value="downloads", description="to folder", layout=w.Layout(flex="1 1 160px", width="auto")
        )
        self.download = w.Button(description="Download", layout=w.Layout(width="110px"))
        self.stop = w.Button(description="Stop", layout=w.Layout(width="70px", display="none"))
        self.bar = w.FloatProgress(layout=w.Layout(width="auto", display="none"))
        self.tree = w.Button(description="List the files in its layers", layout=w.Layout(width="auto", display="none"))
        self.preview_text = w.HTML()
        self.preview_picture = w.Image(layout=w.Layout(display="none", max_width="100%"))
        self.files_box = w.VBox(
            [
                w.HTML("<b>files</b>"), self.filter, self.files, self.files_status, self.tree,
                w.HBox([self.folder, self.download, self.stop], layout=w.Layout(flex_flow="row wrap")),
                self.bar, self.preview_text, self.preview_picture,
            ],
            layout=w.Layout(display="none"),
        )  # fmt: skip
        self.referrers = w.Select(options=[], rows=3, layout=narrow)
        self.referrers_box = w.VBox([w.HTML("<b>attached to it</b>"), self.referrers], layout=w.Layout(display="none"))
        self.code = w.Text(value="", layout=w.Layout(width="auto"))
        self.code.tooltip = "the line that does what is shown: copy it"
        self.details = w.VBox(
            [self.card, self.manifests_box, self.files_box, self.referrers_box],
            layout=w.Layout(flex="3 1 360px", min_width="240px", max_width="100%"),
        )
        self.widget = w.VBox(
            [
                w.HBox([self.back, self.address, self.go], layout=w.Layout(flex_flow="row wrap")),
                self.status,
                w.HBox(
                    [self.repositories.widget, self.tags.widget, self.details],
                    layout=w.Layout(flex_flow="row wrap", align_items="flex-start"),
                ),
                w.HTML("<small>in code</small>"),
                self.code,
            ]
        )
        self._been: list[str] = []
        self._host = ""
        self._place = ""
        self.address.observe(lambda change: self.open(change["new"]), "value")
        self.go.on_click(lambda _: self.open(self.address.value))
        self.back.on_click(lambda _: self._return())
        self.manifests.observe(self._pick_manifest, "value")
        self.referrers.observe(self._pick_referrer, "value")
        self.filter.observe(lambda _: self._list_files(), "value")
        self.files.observe(self._pick_files, "value")
        on_enter(self.filter, self._first_file)
        self.download.on_click(lambda _: self._download())
        self.stop.on_click(lambda _: self._stop_download())
        self.tree.on_click(lambda _: self._list_tree())
        if start:
            _target(start)  # a mistake is the caller's to see, not the widget's
            self.address.value = start

    def __repr__(self) -> str:
        return f"<ocikit explorer at {display.shorten(self.address.value or 'nowhere yet', 60)}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget; where there is none, as in a saved page, what was shown last."""
        bundle = self.widget._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["text/plain"] = f"{self!r}: {self.code.value}"
        data["text/html"] = f"{self.card.value}<pre>{display.escape(self.code.value, 400)}</pre>"
        return data

    def wait(self, timeout: float = 30.0) -> bool:
        """Whether everything asked for has come within so many seconds: for scripts, people just look."""
        return self._jobs.wait(timeout)

    # Where to look

    def open(self, where: str) -> None:
        """Look at a host, a repository, a reference or a layout. Nothing is raised: problems are shown."""
        where = where.strip()
        if not where:
            return
        try:
            host, repository, tag, reference = _target(where)
        except OcikitError as error:
            self._say(str(error), problem=True)
            return
        if self.address.value != where:
            self.address.value = where  # which calls this again
            return
        if not self._been or self._been[-1] != where:
            self._been.append(where)
        self.back.disabled = len(self._been) < 2
        self._say("")
        if host and not repository:
            self._host = host
            self._place = ""
            self.tags.hide()
            self._clear()
            self._code(f'ocikit.catalog("{host}")')
            self.repositories.show(lambda: self._session.catalog(host))
            return
        if host != self._host:
            self.repositories.hide()
            self._host = host
        self._show_repository(repository, tag)
        if reference:
            self._look(reference)
        else:
            self._clear()

    def _return(self) -> None:
        if len(self._been) > 1:
            self._been.pop()
            self.open(self._been[-1])

    def _open_repository(self, name: str) -> None:
        self.open(f"{self._host}/{name}")

    def _open_tag(self, tag: str) -> None:
        self.open(f"{self._place}:{tag}")

    def _show_repository(self, place: str, tag: str) -> None:
        if place != self._place:
            self._place = place
            self.tags.show(lambda: self._session.tags(place), tag)
        self._code(f'ocikit.tags("{place}")')

    # What is there

    def _look(self, reference: str, *, manifest: bool = False) -> None:
        """Show what a reference names; with `manifest`, below the index that it was chosen from."""
        if not manifest:
            self._clear()
        self._code(f'ocikit.inspect("{reference}")')
        self._say(f"asking for {reference} …")

        def work(stale: Callable[[], bool]) -> Artifact | None:
            time.sleep(_PAUSE)
            return None if stale() else self._session.inspect(reference)

        def then(artifact: Artifact | None) -> None:
            if artifact is not None:
                self._say("")
                self._show(artifact, keep_manifests=manifest)

        self._jobs.run("artifact", work, then, self._problem)

    def _show(self, artifact: Artifact, *, keep_manifests: bool) -> None:
        self._artifact = artifact
        # Folded: its files and manifests are below, to be chosen from
        card = display.card_of(artifact)
        folded = attrs.evolve(card, sections=tuple(attrs.evolve(s, unfolded=False) for s in card.sections))
        self.card.value = page(folded) or message(str(artifact))
        if isinstance(artifact.document, Index):
            self.manifests.options = _choices(artifact.document.manifests, _manifest_label)
            self.manifests_box.layout.display = None
            self.files_box.layout.display = "none"
        else:
            if not keep_manifests:
                self.manifests_box.layout.display = "none"
            self.files.value = ()
            try:
                self._files = list(artifact.files.values())
            except OcikitError as error:
                self._files = []
                self._problem(error)
            self.files_box.layout.display = None if self._files else "none"
            self.tree.layout.display = None if artifact.is_image else "none"
            self.filter.value = ""
            self._list_files()
        self._show_referrers(artifact)

    def _show_referrers(self, artifact: Artifact) -> None:
        def work(stale: Callable[[], bool]) -> list[Descriptor]:
            return [] if stale() else list(self._session.referrers(artifact.reference))

        def then(found: list[Descriptor]) -> None:
            self.referrers.options = _choices(found, _referrer_label)
            self.referrers_box.layout.display = None if found else "none"

        self._jobs.run("referrers", work, then, lambda _: None)  # what can't be asked is nothing to look at

    def _pick_manifest(self, change: Mapping[str, Any]) -> None:
        if change["new"] and self._artifact is not None:
            self._look(f"{self._artifact.reference.name}@{change['new']}", manifest=True)

    def _pick_referrer(self, change: Mapping[str, Any]) -> None:
        if change["new"] and self._artifact is not None:
            self.open(f"{self._artifact.reference.name}@{change['new']}")

    # Files

    def _list_files(self) -> None:
        text = self.filter.value.strip().lower()
        found = [(i, f) for i, f in enumerate(self._files) if text in f.name.lower()]
        shown, chosen = found[:_FILES], self.files.value
        # What was chosen stays so while it is in sight: a filter's last letter may come after Enter
        kept = tuple(i for i in chosen if i in {i for i, _ in shown})
        self._filling = True
        try:
            self.files.options = [(f"{display.shorten(f.name, 120)}  ({display.size(f.size)})", i) for i, f in shown]
            self.files.rows = min(10, max(3, len(shown) + 1))
            self.files.value = kept
        finally:
            self._filling = False
        if kept != chosen:
            self._pick_files(None)
        more = len(found) - _FILES
        self.files_status.value = message(f"{len(found):,} of {len(self._files):,}" + (f"; {more:,} more not shown" if more > 0 else ""))  # fmt: skip

    def _first_file(self) -> None:
        self.files.value = tuple(index for _, index in self.files.options[:1])

    def _chosen(self) -> list[File]:
        return [self._files[i] for i in self.files.value]

    def _pick_files(self, _: object) -> None:
        if self._filling:
            return
        chosen, artifact = self._chosen(), self._artifact
        self.preview_picture.layout.display = "none"
        self.preview_text.value = ""
        if artifact is None or not chosen:
            return
        if len(chosen) > 1:
            self._jobs.cancel("preview")
            self._code(self._pull_line(artifact, chosen))
            return
        file = chosen[0]
        self._code(f"ocikit.open({str(artifact.reference)!r}, {file.name!r})")
        self.preview_text.value = message("reading its beginning …")

        def work(stale: Callable[[], bool]) -> bytes:
            time.sleep(_PAUSE)
            return b"" if stale() else file.head(wanted(file.name, file.size))

        def then(head: bytes) -> None:
            shown = preview(file.name, head, file.size)
            self.preview_text.value = f'<div class="ocikit">{shown.html}</div>'
            if shown.picture:
                self.preview_picture.value, self.preview_picture.format = shown.picture, shown.format
                self.preview_picture.layout.display = None

        def failed(error: OcikitError) -> None:
            self.preview_text.value = message(str(error), problem=True)

        self._jobs.run("preview", work, then, failed)

    def _list_tree(self) -> None:
        artifact = self._artifact
        if artifact is None:
            return
        self._code(f"ocikit.inspect({str(artifact.reference)!r}).tree()")
        if artifact.size > _TREE:
            self.preview_text.value = message(
                f"its layers are {display.size(artifact.size)}: to list them all would take long here\n"
                "run the line below in a cell of its own", problem=True,
            )  # fmt: skip
            return
        self.preview_text.value = message(f"reading {display.size(artifact.size)} of layers …")

        def then(tree: Mapping[str, Any]) -> None:
            rows = [(path, entry.type, display.Size(entry.size)) for path, entry in tree.items()]
            self.preview_text.value = f'<div class="ocikit">{display.table(("path", "type", "size"), rows, 200)}</div>'

        def failed(error: OcikitError) -> None:
            self.preview_text.value = message(str(error), problem=True)

        self._jobs.run("preview", lambda _: artifact.tree(), then, failed)

    # Downloads

    def _pull_line(self, artifact: Artifact, chosen: Sequence[File]) -> str:
        names = f", include={[glob.escape(f.name) for f in chosen]!r}" if chosen else ""
        return f"ocikit.pull({str(artifact.reference)!r}, {self.folder.value!r}{names})"

    def _download(self) -> None:
        artifact, chosen, folder = self._artifact, self._chosen(), self.folder.value.strip()
        if artifact is None:
            return
        if not folder:
            self.files_status.value = message("name a folder first", problem=True)
            return
        self._code(self._pull_line(artifact, chosen))
        self._stop = False
        self.download.disabled = True
        self.stop.layout.display = self.bar.layout.display = None
        self.bar.value, self.bar.bar_style = 0.0, ""
        include = [glob.escape(f.name) for f in chosen]

        def work(_: Callable[[], bool]) -> Artifact:
            return self._session.pull(artifact.reference, folder, include=include, progress=_Bar(self))

        def then(pulled: Artifact) -> None:
            self._downloaded(message(pulled.summary))
            self.bar.value, self.bar.bar_style = self.bar.max, "success"

        def failed(error: OcikitError) -> None:
            self._downloaded(message("stopped; what came is kept and resumed" if self._stop else str(error), problem=not self._stop))  # fmt: skip
            self.bar.bar_style = "warning" if self._stop else "danger"

        self._jobs.run("download", work, then, failed)

    def _downloaded(self, line: str) -> None:
        self.download.disabled = False
        self.stop.layout.display = "none"
        self.files_status.value = line

    def _stop_download(self) -> None:
        self._stop = True

    # The rest

    def _clear(self) -> None:
        for slot in ("artifact", "referrers", "preview"):
            self._jobs.cancel(slot)
        self._artifact, self._files = None, []
        self.card.value = self.preview_text.value = ""
        for box in (self.manifests_box, self.files_box, self.referrers_box, self.preview_picture):
            box.layout.display = "none"

    def _code(self, line: str) -> None:
        self.code.value = display.sanitize(line)

    def _say(self, text: str, *, problem: bool = False) -> None:
        self.status.value = message(text, problem=problem) if text else ""

    def _problem(self, error: OcikitError) -> None:
        self._say(str(error), problem=True)


class _Bar(Progress):
    """Moves the explorer's bar, and stops the transfer when somebody wants that."""

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        self._done = 0
        self._drawn = 0.0

    def begin(self, title: str, *, size: int, count: int) -> None:
        self._explorer.bar.max = float(max(1, size))

    def advance(self, descriptor: Descriptor, n: int) -> None:
        if self._explorer._stop:  # noqa: SLF001 - two halves of one thing
            raise _Stopped("stopped")
        self._done += n
        if time.monotonic() - self._drawn > _DRAWN:
            self._drawn = time.monotonic()
            self._explorer.bar.value = float(self._done)

    def note(self, message_: str) -> None:
        self._explorer.files_status.value = message(message_)


def _target(where: str) -> tuple[str, str, str, str]:
    """Host, repository, tag and reference that a text means; "" for what it doesn't have. Raises: InvalidReference."""
    where = where.strip().rstrip("/")
    if _HOST.fullmatch(where):
        return where, "", "", ""
    reference = parse_reference(where)
    host = "" if isinstance(reference, LayoutReference) else reference.registry
    whole = str(reference) if reference.tag or reference.digest else ""
    return host, reference.name, reference.tag or "", whole


def _choices(found: Sequence[Descriptor], label: Callable[[Descriptor], str]) -> list[tuple[str, str | None]]:
    """What a list offers: some hundred names at most, and first of all nothing."""
    more = len(found) - _FILES
    head = f"choose one … ({more:,} more are not shown)" if more > 0 else "choose one …"
    return [(head, None), *((label(d), str(d.digest)) for d in found[:_FILES])]


def _manifest_label(descriptor: Descriptor) -> str:
    what = str(descriptor.platform) if descriptor.platform else descriptor.artifact_type or descriptor.media_type
    return display.shorten(f"{what}  {descriptor.digest.short}", 120)


def _referrer_label(descriptor: Descriptor) -> str:
    what = descriptor.artifact_type or descriptor.media_type
    made = descriptor.annotations.get("org.opencontainers.image.created", "")
    return display.shorten(f"{what}  {descriptor.digest.short}  {made}", 160)
