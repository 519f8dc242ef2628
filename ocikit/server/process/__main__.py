"""Entry point of a server that another process starts: `ocikit.serve`."""

import sys

from ocikit.server.process.main import main

if __name__ == "__main__":
    sys.exit(main())
