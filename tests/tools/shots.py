"""Screenshots for review: python -m tests.tools.shots FOLDER

Every card, light and dark, at 1280 and 480 pixels; moving bars; hostile documents; saved notebooks on a static page. The
tests of tests/browser take them.
"""

import os
import sys
from pathlib import Path

import pytest


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    folder = Path(sys.argv[1]).resolve()
    os.environ |= {"OCIKIT_SHOTS": str(folder), "OCIKIT_PEERS": "required"}
    status = pytest.main(["-q", "--no-header", str(Path(__file__).parents[1] / "browser")])
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
