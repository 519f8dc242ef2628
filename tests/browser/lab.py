"""JupyterLab as a process, and notebooks in it as a user sees them.

    with lab() as running, Browser() as browser, opened(running, browser, ["1 + 1"], theme="dark", width=480) as notebook:
        notebook.run()
        assert notebook.output(0).inner_text() == "2"

The lab listens on loopback, ignores the user's settings, and requests no news, updates or extensions.
"""

import contextlib
import itertools
import json
import os
import secrets
import shutil
import sys
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
from attrs import define, field, frozen

from tests.browser.page import Browser, Seen
from tests.support import peers
from tests.support.http import free_port

THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

#: JupyterLab's settings by plugin: no news, no updates, and all cells rendered, visible or not.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}

CELL = ".jp-Notebook-cell"
OUTPUT = ".jp-OutputArea-output"
LOOKS = Path(__file__).with_name("looks.js").read_text()

_numbers = itertools.count(1)


@frozen
class Lab:
    """A running JupyterLab."""

    url: str
    token: str = field(repr=False)
    folder: Path
    """The folder of its notebooks and kernels."""
    environment: Mapping[str, str] = field(repr=False)
    """The environment of the kernels."""


@contextmanager
def lab() -> Iterator[Lab]:
    """Start a lab for the block."""
    if find_spec("jupyterlab") is None:
        peers.absent("jupyterlab is missing: pip install 'ocikit[browser]'")
    home = Path(tempfile.mkdtemp(prefix="ocikit-lab-"))
    try:
        work = home / "work"
        work.mkdir()
        (home / "settings").mkdir()
        _kernel_without_widgets(home)
        token = secrets.token_hex(16)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OCIKIT_", "JUPYTER", "IPYTHON", "DOCKER_"))}
        environment = kept | {
            "HOME": str(home), "TMPDIR": str(home), "OCIKIT_CACHE": str(home / "cache"), "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "PYTHONPATH": str(peers.ROOT), "PYTHONWARNINGS": "default",
        }  # fmt: skip
        port = free_port()
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
            "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={work}",
            "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly", "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--ServerApp.terminals_enabled=False",
        ]  # fmt: skip
        with peers.process(command, home / "log", environment) as process:
            running = Lab(f"http://127.0.0.1:{port}", token, work, environment)
            deadline = time.monotonic() + 60
            while not _answers(running):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"JupyterLab does not start:\n{(home / 'log').read_text()[-4000:]}")
                time.sleep(0.1)
            yield running
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _answers(running: Lab) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{running.url}/api?token={running.token}", timeout=5):
        return True
    return False


def _kernel_without_widgets(home: Path) -> None:
    """Write a kernel whose installed ipywidgets cannot be imported, as after a broken installation."""
    broken = home / "broken" / "ipywidgets"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text('raise ImportError("no ipywidgets here")\n')
    spec = home / "data" / "kernels" / "bare"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {
        "argv": command,
        "display_name": "Bare",
        "language": "python",
        "env": {"PYTHONPATH": f"{broken.parent}:{peers.ROOT}"},
    }
    (spec / "kernel.json").write_text(json.dumps(about))


@define(eq=False)
class Notebook:
    """An open notebook in a browser. Cells are counted from 0."""

    page: Any
    """The page of Playwright."""
    seen: Seen
    path: Path

    def start(self) -> None:
        """Start all cells and return at once."""
        self.page.evaluate("() => { window.__run = jupyterapp.commands.execute('notebook:run-all-cells') }")

    def wait(self) -> None:
        """Wait until the started cells have run."""
        self.page.evaluate("async () => { await window.__run }")

    def run(self) -> None:
        """Run all cells and wait."""
        self.start()
        self.wait()

    def idle(self) -> None:
        """Wait until every cell that a key started has run: none shows a star."""
        self.page.wait_for_function(
            "() => ![...document.querySelectorAll('.jp-InputPrompt')].some(p => p.textContent.includes('*'))"
        )

    def interrupt(self) -> None:
        """Press the stop button."""
        self.page.locator('[data-command="notebook:interrupt-kernel"], [data-jp-item-name="interrupt"]').first.click()

    def output(self, cell: int) -> Any:
        """Return a locator for all outputs of a cell."""
        return self.page.locator(CELL).nth(cell).locator(OUTPUT)

    def look(self, theme: str, width: int, height: int = 900) -> None:
        """Set the theme, "light" or "dark", and the window size in pixels."""
        self.page.set_viewport_size({"width": width, "height": height})
        if self.page.evaluate("document.body.dataset.jpThemeLight") != str(theme == "light").lower():
            self.page.emulate_media(color_scheme=theme)
            self.page.evaluate(
                "theme => jupyterapp.commands.execute('apputils:change-theme', { theme })", THEMES[theme]
            )
            self.page.wait_for_function(f"document.body.dataset.jpThemeLight === '{str(theme == 'light').lower()}'")

    def flaws(self) -> list[list[str]]:
        """Return the defects of each cell's first output: illegible text, and overflow at the sides."""
        first = f"[...document.querySelectorAll('{CELL}')].map(cell => cell.querySelector('{OUTPUT}'))"
        return self.page.evaluate(f"{first}.map(output => output ? ({LOOKS})(output) : [])")

    def fold(self, *, unfold: bool = False) -> None:
        """Open or close all foldable sections."""
        self.page.locator(f"{OUTPUT} details").evaluate_all(
            "(all, open) => all.forEach(details => { details.open = open })", unfold
        )

    def picture(self, path: Path) -> None:
        """Take a screenshot of the whole notebook, up to a maximum height."""
        panel = self.page.locator(".jp-WindowedPanel-outer")
        width, height = self.page.viewport_size["width"], panel.evaluate("panel => panel.scrollHeight")
        self.page.set_viewport_size({"width": width, "height": min(height + 150, 8000)})
        panel.evaluate("panel => { panel.scrollTop = 0 }")
        self.page.screenshot(path=path)
        self.page.set_viewport_size({"width": width, "height": 900})

    def saved(self) -> Any:
        """Return the saved notebook file."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
        return nbformat.read(self.path, as_version=4)


@contextmanager
def opened(
    running: Lab,
    browser: Browser,
    cells: Sequence[str],
    *,
    theme: str = "light",
    width: int = 1280,
    kernel: str = "python3",
) -> Iterator[Notebook]:
    """Open a new notebook with these cells in a new page."""
    for plugin, values in {**SETTINGS, "@jupyterlab/apputils-extension:themes": {"theme": THEMES[theme]}}.items():
        name, _, part = plugin.partition(":")
        place = Path(running.environment["JUPYTERLAB_SETTINGS_DIR"]) / name / f"{part}.jupyterlab-settings"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(values))
    path = running.folder / f"notebook-{next(_numbers)}.ipynb"
    about = {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}}
    made = [nbformat.v4.new_code_cell(textwrap.dedent(source).strip()) for source in cells]
    notebook = nbformat.v4.new_notebook(cells=made, metadata=about)
    nbformat.write(notebook, path)
    with browser.page(running.url, width=width, dark=theme == "dark") as (page, seen):
        page.goto(f"{running.url}/doc/tree/{path.name}?reset&token={running.token}")
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        try:
            yield Notebook(page, seen, path)
        finally:
            page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
