"""Flags for opening files one name at a time, relative to the descriptor of their folder and never through a symlink.

A path that was checked may lead elsewhere when it is used (TOCTOU); a descriptor does not. Windows has neither these
flags nor `dir_fd`.
"""

from __future__ import annotations

import os
from typing import Final

#: Whether the platform opens files relative to folders.
HAS_DIR_FD: Final = os.open in os.supports_dir_fd

OPEN_FOLDER: Final = (
    os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
)
NEW_FILE: Final = (
    os.O_RDWR
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
#: O_NONBLOCK: an untrusted folder may contain a FIFO, which would block. It has no effect on regular files.
READ_FILE: Final = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
