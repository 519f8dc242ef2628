"""Run the command line: `python -m ocikit`."""

from ocikit.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
