"""Pictures of the explorer for review: python -m tests.tools.explorer_shots FOLDER [LOOKS]

LOOKS is a number, to take the first looks only. Its states (start, repositories, tags, files, previews, download), light and dark, at 1280 and 480 pixels, in JupyterLab.
"""

import itertools
import os
import sys
import tempfile
from pathlib import Path

import ocikit

from tests.browser import lab as labs
from tests.browser.page import Browser
from tests.support import peers
from tests.support.explored import write_files

#: Files whose previews are taken.
PREVIEWS = (
    "README.md",
    "stations.parquet",
    "sine.csv",
    "model.safetensors",
    "plot.png",
    "logo.svg",
    "look.ipynb",
    "raw.bin",
)


def main() -> int:
    if len(sys.argv) not in {2, 3}:
        print(__doc__)
        return 2
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    looks = list(itertools.product(["light", "dark"], [1280, 480]))
    looks = looks[: int(sys.argv[2]) if len(sys.argv) == 3 else None]
    with (
        tempfile.TemporaryDirectory() as temporary,
        peers.ocikit() as registry,
        labs.lab() as running,
        Browser() as browser,
    ):
        os.environ["OCIKIT_CACHE"] = f"{temporary}/cache"
        place = f"{registry.host}/lab/waves"
        write_files(Path(temporary) / "waves")
        with ocikit.Session(progress=False) as session:
            notes = {
                "org.opencontainers.image.description": "Waves and stations",
                "org.opencontainers.image.licenses": "MIT",
            }
            for version in ("v1.2", "v1.9", "v1.10"):
                session.push(f"{place}:{version}", Path(temporary) / "waves", annotations=notes)
            session.push(f"{registry.host}/lab/other:v1", Path(temporary) / "waves", include="*.md")
        for theme, width in looks:
            take(running, browser, registry.host, folder, theme, width)
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")
    return 0


def take(running: labs.Lab, browser: Browser, host: str, folder: Path, theme: str, width: int) -> None:
    """Take the pictures of one look."""
    start = f"import ocikit\nserver = ocikit.serve()\nocikit.inspect({f'{host}/lab/waves:v1.10'!r})\n"
    cells = [f"{start}ocikit.explore()", f"ocikit.explore({host!r})"]
    with labs.opened(running, browser, cells, theme=theme, width=width) as notebook:
        notebook.run()
        notebook.page.set_viewport_size({"width": width, "height": 1800})
        area = notebook.output(1)

        def shot(name: str, cell: int = 1) -> None:
            notebook.page.wait_for_timeout(600)
            notebook.output(cell).first.screenshot(path=folder / f"{name}-{theme}-{width}.png")

        def choose(title: str, text: str) -> None:
            items = area.get_by_label(title, exact=True).first
            option = items.locator("option", has_text=text).first
            option.wait_for(state="attached")
            items.select_option(index=option.evaluate("option => option.index"))

        area.get_by_label("repositories", exact=True).first.locator("option", has_text="lab/waves").wait_for(
            state="attached"
        )
        shot("1-start", 0)
        shot("2-repositories")
        choose("repositories", "lab/waves")
        area.get_by_label("tags", exact=True).first.locator("option", has_text="v1.10").wait_for(state="attached")
        shot("3-repository")
        choose("tags", "v1.10")
        area.get_by_label("files", exact=True).first.locator("option", has_text="sine.csv").wait_for(state="attached")
        shot("4-artifact")
        for name in PREVIEWS:
            choose("files", name)
            notebook.page.wait_for_timeout(1200)
            shot(f"5-preview-{name.replace('.', '-')}")
        area.get_by_role("button", name="Download").or_(area.get_by_role("button", name="Save")).first.click()
        area.get_by_text("pulled 1 file").or_(area.get_by_text("1 file, ")).first.wait_for()
        shot("6-download")


if __name__ == "__main__":
    sys.exit(main())
