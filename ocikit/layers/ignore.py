"""What a push leaves out by default, `.ocikitignore` files, and names that look like secrets.

A folder that is pushed often holds more than its data: the history of git, checkpoints of notebooks, caches of tools,
files of the operating system. These are left out. A `.ocikitignore` file leaves out more, in the syntax of gitignore, or
takes something back with "!". What looks like a secret is not left out: a caller must see it, and decide.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import frozen

from ocikit.errors import ContentError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

#: The file with patterns in the syntax of gitignore; it is never pushed itself.
IGNORE_FILE: Final = ".ocikitignore"

#: Names of files and folders that are left out, in lower case.
LEFT_OUT: Final = frozenset(
    {
        # version control
        ".bzr",
        ".git",
        ".hg",
        ".svn",
        # checkpoints and caches
        "$recycle.bin",
        ".cache",
        ".hypothesis",
        ".ipynb_checkpoints",
        ".mypy_cache",
        ".nox",
        ".pytest_cache",
        ".ruff_cache",
        ".tox",
        ".venv",
        "__pycache__",
        # operating systems
        ".directory",
        ".ds_store",
        ".fseventsd",
        ".spotlight-v100",
        ".temporaryitems",
        ".trashes",
        "__macosx",
        "desktop.ini",
        "lost+found",
        "system volume information",
        "thumbs.db",
    }
)
#: AppleDouble files, removed files that NFS keeps, trash folders, and swap and lock files of vim and of office programs.
_LEFT_OUT_PATTERN = re.compile(r"\._.*|\.nfs[0-9a-f]{16,}|\.trash-\d+|\..*\.sw[opx]|\.~lock\..*#|~\$.*")

#: Names of files that hold secrets, in lower case.
_SECRET_NAMES: Final = frozenset(
    {
        ".boto",
        ".databrickscfg",
        ".dockercfg",
        ".env",
        ".envrc",
        ".git-credentials",
        ".htpasswd",
        ".kaggle.json",
        ".my.cnf",
        ".netrc",
        ".npmrc",
        ".pgpass",
        ".pypirc",
        ".renviron",
        ".s3cfg",
        ".vault-token",
        "_netrc",
        "application_default_credentials.json",
        "id_dsa",
        "id_ecdsa",
        "id_ecdsa_sk",
        "id_ed25519",
        "id_ed25519_sk",
        "id_rsa",
        "kaggle.json",
    }
)
#: Names of files that hold secrets in folders of these names, in lower case.
_SECRET_PATHS: Final[Mapping[str, frozenset[str]]] = {
    "config": frozenset({".kube"}),
    "config.json": frozenset({".docker"}),
    "credentials": frozenset({".aws"}),
    "secrets.toml": frozenset({".streamlit"}),
    "token": frozenset({".huggingface", "huggingface"}),
}
_SECRET_SUFFIXES: Final = (".jks", ".kdbx", ".keystore", ".p12", ".pfx", ".ppk")
#: `.env.example` and the like are published on purpose.
_EXAMPLES: Final = (".example", ".sample", ".template", ".dist")
#: Suffixes of keys, and of certificates and presentations, which are public: the content decides.
_KEY_SUFFIXES: Final = (".key", ".pem")
_KEY_HEAD: Final = 1 << 16  # bytes
_DER: Final = b"\x30\x82"  # ASN.1 SEQUENCE with a length of two bytes: a key without PEM armor


def is_left_out(name: str) -> bool:
    """Return True for the name of a file or folder that a push leaves out by default.

    >>> is_left_out(".git"), is_left_out(".DS_Store"), is_left_out(".gitignore")
    (True, True, False)
    """
    name = name.casefold()
    return name in LEFT_OUT or _LEFT_OUT_PATTERN.fullmatch(name) is not None


def looks_secret(path: Path, content: bytes | None = None) -> bool:
    """Return True if a file looks like a secret, by its name, or for `.pem` and `.key` by its first bytes.

    The file is read, unless its content is given.

    >>> looks_secret(Path("a/.env")), looks_secret(Path("a/.env.example")), looks_secret(Path("id_rsa.pub"))
    (True, False, False)
    """
    name = path.name.casefold()
    if name in _SECRET_NAMES or name.endswith(_SECRET_SUFFIXES):
        return True
    if name in _SECRET_PATHS:
        return Path(os.path.abspath(path)).parent.name.casefold() in _SECRET_PATHS[name]
    if name.startswith(".env."):
        return not name.endswith(_EXAMPLES)
    if not name.endswith(_KEY_SUFFIXES):
        return False
    if content is None and not path.is_file():
        return False  # opening a FIFO would block; the walk refuses it
    try:
        with path.open("rb") if content is None else io.BytesIO(content) as file:
            head = file.read(_KEY_HEAD)
    except OSError:
        return True  # unreadable: hashing reports it
    return b"PRIVATE KEY-----" in head or (name.endswith(".key") and head.startswith(_DER))


@frozen
class IgnoreFile:
    """The patterns of a `.ocikitignore` file.

    Args:
        folder: The title of its folder; "" for the root.
        patterns: Patterns of the file.
    """

    folder: str
    patterns: GitIgnoreSpec

    @classmethod
    def read(cls, path: Path, folder: str) -> IgnoreFile:
        """Read a file.

        Args:
            path: The file.
            folder: The title of its folder; "" for the root.

        Raises:
            ContentError: The file cannot be read, or has an invalid pattern.
        """
        if not path.is_file():
            raise ContentError(f"{path} is not a regular file", hint="replace it with a file of patterns, or delete it")
        from pathspec import GitIgnoreSpec  # noqa: PLC0415 - 20 ms of import time that few pushes need

        try:
            return cls(folder, GitIgnoreSpec.from_lines(path.read_text("utf-8-sig").splitlines()))
        except (OSError, ValueError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            raise ContentError(
                f"reading {str(path)!r} failed: {problem}",
                hint="it holds patterns like a .gitignore file, as text in UTF-8",
            ) from error

    def ignores(self, title: str, *, is_folder: bool) -> bool | None:
        """Return True for an ignored title, False for one that "!" takes back, None if no pattern matches."""
        path = title[len(self.folder) + 1 :] if self.folder else title
        return self.patterns.check_file(f"{path}/" if is_folder else path).include
