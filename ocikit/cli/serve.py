"""Subcommands `serve`, `gc` and `verify`; the options of `serve` are made from the fields of `ServerOptions`."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import attrs

import ocikit
from ocikit import display
from ocikit.cli.arguments import positive_int, seconds
from ocikit.cli.streams import print_message
from ocikit.server.http.settings import Limits
from ocikit.server.process.main import run
from ocikit.server.process.options import ServerConfig, ServerOptions, option_descriptions
from ocikit.server.storage.base import DISK_FULL
from ocikit.server.storage.combined import Storage
from ocikit.server.storage.files import file_storage
from ocikit.server.storage.gc import GRACE, UPLOAD_EXPIRY, gc
from ocikit.server.storage.verify import verify


def _limit(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in (names := [limit.name for limit in attrs.fields(Limits)]):
        raise argparse.ArgumentTypeError(f"unknown limit {name!r}; choose from {', '.join(names)}")
    return name, positive_int(number)


#: Defaults that differ from those of `ServerOptions`: a terminal shows the access log.
_DEFAULTS = {"log_format": "text"}

#: Keywords of `add_argument` by the type of an option.
_KEYWORDS: dict[Any, dict[str, Any]] = {
    int: {"type": positive_int, "metavar": "N"},
    float: {"type": seconds, "metavar": "SECONDS"},
    str: {"metavar": "ADDRESS"},
    tuple: {"action": "append", "default": [], "metavar": "NAME"},
    Limits: {"type": _limit, "action": "append", "default": [], "metavar": "NAME=N"},
}


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    parser.add_argument("path", metavar="FOLDER", help="folder of the registry")
    parser.add_argument("--port", type=int, default=5000, metavar="N", help="port; 0 selects a free port (5000)")
    parser.add_argument("--htpasswd", metavar="FILE", help="users, from htpasswd -B; without it everything is allowed")
    parser.add_argument("--rules", metavar="FILE", help="access rules, in TOML")
    descriptions = option_descriptions()
    for option in attrs.fields(attrs.resolve_types(ServerOptions)):
        _add_option(parser, option, descriptions.get(option.name, ""))
    parser.set_defaults(run=run_serve)


def _add_option(parser: argparse.ArgumentParser, option: attrs.Attribute[Any], description: str) -> None:
    flag = "--" + (
        option.metadata.get("flag") or ("no-" if option.default is True else "") + option.name.replace("_", "-")
    )
    text = description.partition(". ")[0].removesuffix(".").replace("%", "%%")
    text = text[:1].lower() + text[1:]
    default = _DEFAULTS.get(option.name, option.default)
    kind = get_origin(option.type) or option.type
    if kind is bool:
        action = "store_false" if default else "store_true"
        parser.add_argument(flag, dest=option.name, action=action, help=f"do not {text}" if default else text)
        return
    if kind is Limits:
        text += f": {', '.join(limit.name for limit in attrs.fields(Limits))}"
    elif default:
        text += f" ({default:g})" if isinstance(default, float) else f" ({default})"
    if kind is Literal:
        parser.add_argument(flag, dest=option.name, choices=get_args(option.type), default=default, help=text)
    else:
        keywords = {"default": default, **_KEYWORDS.get(kind, {"metavar": "FILE"})}
        parser.add_argument(flag, dest=option.name, help=text, **keywords)


def server_options(arguments: argparse.Namespace) -> ServerOptions:
    """Return the options of parsed arguments.

    Args:
        arguments: Arguments of `serve`.

    Returns:
        The options.

    Raises:
        InvalidArgument: An option is invalid.
    """
    values = {option.name: getattr(arguments, option.name) for option in attrs.fields(ServerOptions)}
    return ServerOptions(**values | {"limits": Limits(**dict(arguments.limits))})


def run_serve(arguments: argparse.Namespace) -> int:
    """Serve a folder until a signal arrives, and return the exit code."""
    config = ServerConfig(
        path=arguments.path,
        port=arguments.port,
        htpasswd=arguments.htpasswd,
        rules=arguments.rules,
        options=server_options(arguments),
    )
    return run(config)


def add_gc(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gc`."""
    parser.add_argument("path", metavar="FOLDER", help="folder of the registry")
    parser.add_argument("--dry-run", action="store_true", help="only list the content that would be deleted")
    parser.add_argument(
        "--grace",
        type=seconds,
        default=3600.0,
        metavar="SECONDS",
        help="keep content that was referenced within this time (3600)",
    )
    parser.add_argument(
        "--expiry",
        type=seconds,
        default=UPLOAD_EXPIRY,
        metavar="SECONDS",
        help=f"keep uploads in progress that were written within this time ({UPLOAD_EXPIRY:g}); "
        "those without bytes are kept for ten minutes at most",
    )
    parser.set_defaults(run=run_gc)


def run_gc(arguments: argparse.Namespace) -> None:
    """Delete unreferenced content from a registry's folder, which may be in use."""
    with _registry(arguments.path, "garbage collection", grace=arguments.grace) as storage:
        result = gc(storage, grace=arguments.grace, expiry=arguments.expiry, dry_run=arguments.dry_run)
    for blob in result.unlinked:
        print(f"{display.size(blob.size):>10}  {blob.digest}  {display.sanitize(blob.repository)}")
    for blob in result.blobs:
        print(f"{display.size(blob.size):>10}  {blob.digest}")
    verb = "would be" if arguments.dry_run else "were"
    uploads = f", {display.pluralize(result.uploads, 'upload')}" if result.uploads else ""
    print_message(
        f"{display.pluralize(len(result.blobs), 'blob')}, {display.size(result.size)}{uploads}, {verb} deleted"
    )


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    parser.add_argument("path", metavar="FOLDER", help="folder of the registry")
    repair = "delete corrupt content: it counts as absent until a client pushes it again"
    parser.add_argument("--repair", action="store_true", help=repair)
    parser.set_defaults(run=run_verify)


def run_verify(arguments: argparse.Namespace) -> int:
    """Hash all content of a registry's folder, which may be in use.

    Args:
        arguments: Arguments of `verify`.

    Returns:
        0 if all content is intact, else 1.
    """
    with _registry(arguments.path, "verification") as storage:
        result = verify(storage, remove=arguments.repair)
    for blob in result.corrupt:
        print(f"{blob.problem:>10}  {blob.digest}  {display.sanitize(', '.join(blob.repositories))}".rstrip())
    checked = f"{display.pluralize(result.checked, 'blob')}, {display.size(result.size)}, hashed"
    if result.ok:
        print_message(f"{checked}: all intact")
        return 0
    effect = (
        "the registry responds 404 for them until they are pushed again"
        if arguments.repair
        else "--repair deletes corrupt content, so that clients push it again"
    )
    print_message(f"{checked}: {len(result.corrupt)} corrupt or missing; {effect}")
    return 1


@contextlib.contextmanager
def _registry(folder: str, operation: str, *, grace: float = GRACE) -> Iterator[Storage]:
    """Open the storage of an existing registry for an operation.

    Raises:
        NotFound: The folder holds no registry.
        ContentError: The disk is full.
    """
    if not os.path.exists(os.path.join(folder, "registry.db")):
        raise ocikit.NotFound(f"{folder} is not the folder of a registry", hint="give the folder that is served")
    try:
        with contextlib.closing(file_storage(folder, grace=grace)) as storage:
            yield storage
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise ocikit.ContentError(
            f"{operation} of {folder} failed: the disk is full",
            hint="free a megabyte on this disk, then run the command again",
        ) from error
