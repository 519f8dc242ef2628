"""The picture at the top of README.md: python -m tests.tools.first_look takes it again."""

import sys
import tempfile
from pathlib import Path

import ocikit
from sklearn.datasets import load_wine

from tests.browser.lab import lab, opened
from tests.browser.page import Browser
from tests.tools import notebooks

PICTURE = notebooks.FOLDER / "first-look.png"
PORT = 5000  # a common width

CELLS = [
    f"""import ocikit
import pandas as pd

ocikit.push("localhost:{PORT}/ada/wine:v2.1", "wine/", artifact_type="application/vnd.ada.dataset")""",
    f'ocikit.tags("localhost:{PORT}/ada/wine")',
    f"""table = pd.read_csv(ocikit.open("localhost:{PORT}/ada/wine:v2.1", "wine/wine.csv"))
table.describe().loc[["mean", "max"], :"magnesium"]""",
    f'ocikit.pull("localhost:{PORT}/ada/wine:v2.7", "data/")',
]


def main() -> int:
    wine = load_wine(as_frame=True)
    with (
        tempfile.TemporaryDirectory() as name,
        ocikit.serve(port=PORT),
        ocikit.Session(progress=False, cache=Path(name) / "cache") as session,
        lab() as running,
        Browser() as browser,
    ):
        folder = running.folder / "wine"
        folder.mkdir()
        wine.frame.to_csv(folder / "wine.csv", index=False)
        (folder / "README.md").write_text(wine.DESCR)
        for version in ("v1.0", "v1.1", "v2.0"):
            session.push(f"localhost:{PORT}/ada/wine:{version}", folder)
        with opened(running, browser, CELLS, width=1000) as notebook:
            notebook.run()
            notebook.page.set_viewport_size({"width": 1000, "height": 1800})
            notebook.page.wait_for_timeout(500)
            box = notebook.page.locator(".jp-Notebook-cell").last.bounding_box()
            top = notebook.page.locator(".jp-Notebook-cell").first.bounding_box()
            clip = {
                "x": top["x"],
                "y": top["y"] - 4,
                "width": top["width"],
                "height": box["y"] + box["height"] - top["y"] + 8,
            }
            notebook.page.screenshot(path=PICTURE, clip=clip)
    return 0


if __name__ == "__main__":
    sys.exit(main())
