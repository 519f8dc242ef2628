"""Build the site and check that a search finds what people look for: python -m tests.tools.site [FOLDER]"""

import html
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Words that people type, and a page of the site that each must lead to.
SEARCHES = {
    "parquet": "how-to/files_by_url.html",
    "huggingface": "how-to/from_huggingface.html",
    "resume": "how-to/large_files.html",
    "login": "start/login.html",
    "install": "start/install.html",
    "proxy": "how-to/proxies_and_mirrors.html",
    "ecr": "how-to/ecr.html",
    "dvc": "how-to/from_dvc.html",
    "s3": "how-to/from_s3.html",
    "serve": "how-to/run_a_registry.html",
    "digest": "explanation/concepts.html",
    "offline": "explanation/cache.html",
    "ocikit_cache": "reference/environment.html",
    "prune": "reference/cache.html",
    "safetensors": "how-to/models.html",
}


def build(folder: Path) -> None:
    """Build the site into a folder; a warning is an error."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "-f",
        ".ci/docs/mkdocs.yml",
        "-d",
        str(folder),
    ]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})


def index(folder: Path) -> dict[str, set[str]]:
    """Return the words of the search index, each with the pages that have it.

    The search of the site finds words that begin with what was typed.
    """
    found = json.loads((folder / "search" / "search_index.json").read_text())
    separator = re.compile(found["config"]["separator"])
    pages: dict[str, set[str]] = {}
    for entry in found["docs"]:
        text = html.unescape(re.sub(r"<[^>]+>", " ", f"{entry['title']} {entry['text']}"))
        for word in _words(separator, text):
            pages.setdefault(word, set()).add(entry["location"].partition("#")[0])
    return pages


def _words(separator: re.Pattern[str], text: str) -> Iterator[str]:
    for word in separator.split(text):
        if word and (trimmed := re.sub(r"^\W+|\W+$", "", word.lower())):
            yield trimmed


def missing(folder: Path) -> list[str]:
    """Return the searches of `SEARCHES` that do not lead to their page."""
    pages = index(folder)
    separator = re.compile(json.loads((folder / "search" / "search_index.json").read_text())["config"]["separator"])
    return [
        f"{query} does not find {page}"
        for query, page in SEARCHES.items()
        if not all(
            any(page in found for word, found in pages.items() if word.startswith(part))
            for part in _words(separator, query)
        )
    ]


def main() -> None:
    """Build and check."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary) / "site"
        build(folder)
        if problems := missing(folder):
            raise SystemExit("\n".join(problems))
        print(f"the site has {len(list(folder.rglob('*.html')))} pages; all {len(SEARCHES)} searches find theirs")


if __name__ == "__main__":
    main()
