"""The commands: their sections in the help, their summaries, and the modules that hold them."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """The line of a command in the help of the program."""

    section: str
    summary: str
    """Imperative sentence without a full stop."""
    module: str
    """Module of `ocikit.cli` with the command under its own name."""


_TRANSFER, _LOOK, _FIND, _CHANGE = "Transfer", "Look inside", "Find and compare", "Change"
_MACHINE, _SERVER = "This machine", "A registry of your own"

#: All commands, in the order of the help.
COMMANDS: dict[str, Entry] = {
    "pull": Entry(_TRANSFER, "Pull an artifact to the cache, or as files to a folder", "transfer"),
    "push": Entry(_TRANSFER, "Push files and folders as an artifact", "transfer"),
    "copy": Entry(_TRANSFER, "Copy between registries, layouts and archives", "transfer"),
    "save": Entry(_TRANSFER, "Save a table or a JSON value in a format that others read", "objects"),
    "watch": Entry(_TRANSFER, "Push a folder while another program writes to it", "transfer"),
    "ls": Entry(_LOOK, "List the files of an artifact", "content"),
    "cat": Entry(_LOOK, "Write a file of an artifact to stdout", "content"),
    "head": Entry(_LOOK, "Show the first lines of a file of an artifact", "content"),
    "card": Entry(_LOOK, "Show README.md of an artifact", "content"),
    "describe": Entry(_LOOK, "Show what is in files: columns, tensors, members", "content"),
    "load": Entry(_LOOK, "Show or convert a table or another object", "objects"),
    "inspect": Entry(_LOOK, "Show the documents of an artifact or image", "documents"),
    "referrers": Entry(_LOOK, "Show what is attached to an artifact, as a tree", "attached"),
    "validate": Entry(_LOOK, "Check documents against the specification", "documents"),
    "tags": Entry(_FIND, "List the tags of a repository", "documents"),
    "catalog": Entry(_FIND, "List the repositories of a registry", "documents"),
    "exists": Entry(_FIND, "Tell by the exit code whether there is an artifact", "references"),
    "resolve": Entry(_FIND, "Print a reference with the digest that it names now", "references"),
    "diff": Entry(_FIND, "Compare two versions, or an artifact and a folder", "versions"),
    "history": Entry(_FIND, "List the versions of an artifact, the newest first", "versions"),
    "lineage": Entry(_FIND, "Show which artifacts an artifact was made from", "versions"),
    "edit": Entry(_CHANGE, "Change an artifact without downloading what stays", "edit"),
    "attach": Entry(_CHANGE, "Attach files to an artifact, such as a report", "attached"),
    "tag": Entry(_CHANGE, "Give an artifact more tags in its repository", "references"),
    "delete": Entry(_CHANGE, "Delete tags, or manifests with all their tags", "references"),
    "login": Entry(_MACHINE, "Check credentials with a registry and store them", "credentials"),
    "logout": Entry(_MACHINE, "Delete the credentials that were stored for a registry", "credentials"),
    "explain": Entry(_MACHINE, "Show which credentials are used, and where they are", "credentials"),
    "cache": Entry(_MACHINE, "List, verify or prune the cache", "cache"),
    "schema": Entry(_MACHINE, "Print the JSON schema of what --json writes", "schemas"),
    "completion": Entry(_MACHINE, "Print the script that completes commands in a shell", "completion"),
    "quickstart": Entry(_SERVER, "Push, list, attach and pull a small data set", "quickstart"),
    "serve": Entry(_SERVER, "Run a registry on a folder, or on a database and S3", "serve"),
    "gc": Entry(_SERVER, "Delete unreferenced content of a registry", "serve"),
    "verify": Entry(_SERVER, "Hash all content of a registry", "serve"),
    "migrate": Entry(_SERVER, "Make or change a registry's tables in PostgreSQL", "migrate"),
    "rebuild": Entry(_SERVER, "Fill an empty database from a registry's object store", "serve"),
}

#: Exit codes and their meaning; `ocikit.cli.failures` has the errors.
EXIT_CODES = {
    0: "success",
    1: "another error; also differences, violations or damage that a command was asked to find",
    2: "invalid usage, reference or value",
    3: "not found",
    4: "not logged in, or not allowed",
    5: "the network, or a server that fails",
    6: "invalid content, or the disk",
    7: "a conflict with other changes",
    130: "Ctrl-C",
}

#: Other names of commands.
ALIASES = {"collect": "gc"}

#: What other tools call a command, and the commands to suggest for it.
FOREIGN: dict[str, tuple[str, ...]] = {
    "annotate": ("edit",),
    "artifact": ("push", "pull", "ls"),
    "artifacts": ("catalog",),
    "auth": ("login", "logout"),
    "blob": ("cat", "ls"),
    "clean": ("cache",),
    "cp": ("copy",),
    "delete-cache": ("cache",),
    "digest": ("resolve",),
    "discover": ("referrers",),
    "download": ("pull", "cat"),
    "export": ("pull", "copy"),
    "fetch": ("pull",),
    "files": ("ls",),
    "get": ("pull", "cat"),
    "image": ("inspect", "copy"),
    "images": ("cache", "catalog"),
    "index": ("inspect",),
    "info": ("inspect",),
    "list": ("ls", "tags", "catalog"),
    "log": ("history",),
    "manifest": ("inspect",),
    "mirror": ("copy",),
    "mv": ("edit",),
    "prune": ("cache",),
    "put": ("push",),
    "registry": ("serve", "login"),
    "remove": ("delete",),
    "repo": ("catalog", "tags"),
    "repos": ("catalog",),
    "repositories": ("catalog",),
    "rm": ("delete", "edit"),
    "rmi": ("delete",),
    "scan": ("cache",),
    "search": ("catalog",),
    "show": ("inspect", "card"),
    "sync": ("copy", "watch"),
    "tree": ("referrers", "lineage"),
    "untag": ("delete",),
    "upload": ("push",),
    "versions": ("history", "tags"),
    "whoami": ("explain",),
}
