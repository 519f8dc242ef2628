"""Subcommands `serve`, `gc`, `verify` and `rebuild`; the options of `serve` are made from the fields of `ServerOptions`."""

from __future__ import annotations

import argparse
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import attrs

from ocikit import display
from ocikit.cli.arguments import positive_int, seconds
from ocikit.cli.streams import print_message
from ocikit.errors import InvalidArgument
from ocikit.server.http.settings import Limits
from ocikit.server.process.main import inspect_stores, run
from ocikit.server.process.options import ServerConfig, ServerOptions, option_descriptions
from ocikit.server.process.stores import as_cluster, opened, reachable
from ocikit.server.storage.gc import UPLOAD_EXPIRY, gc
from ocikit.server.storage.verify import verify

if TYPE_CHECKING:
    from ocikit.server.storage.cluster.storage import ClusterStorage


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
    parser.add_argument("path", metavar="FOLDER", nargs="?", help="folder of the registry")
    parser.add_argument(
        "--metadata", metavar="URL", help="instead of a folder: a database, postgresql://user@host/name"
    )
    parser.add_argument("--blobs", metavar="URL", help="its object store: s3://bucket/prefix or file:///folder")
    parser.add_argument(
        "--check", action="store_true", help="only open the stores, users and rules, and print what is found"
    )
    parser.add_argument("--port", type=int, default=5000, metavar="N", help="port; 0 selects a free port (5000)")
    parser.add_argument("--htpasswd", metavar="FILE", help="users, from htpasswd -B; without it everything is allowed")
    parser.add_argument("--rules", metavar="FILE", help="access rules, in TOML")
    descriptions = option_descriptions()
    for option in attrs.fields(attrs.resolve_types(ServerOptions)):
        _add_option(parser, option, descriptions.get(option.name, ""))
    parser.set_defaults(run=run_serve)


def _add_stores(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="FOLDER", nargs="?", help="folder of the registry")
    _add_urls(parser, required=False)


def _add_urls(parser: argparse.ArgumentParser, *, required: bool) -> None:
    place = "database" if required else "instead of a folder: a database"
    parser.add_argument("--metadata", metavar="URL", required=required, help=f"{place}, postgresql://user@host/name")
    store = "its object store: s3://bucket/prefix or file:///folder"
    parser.add_argument("--blobs", metavar="URL", required=required, help=store)


def _add_keep_deleted(parser: argparse.ArgumentParser) -> None:
    default = ServerOptions().keep_deleted
    keeping = f"keep the objects of deleted content for this time; only in an object store ({default:g})"
    parser.add_argument("--keep-deleted", type=seconds, default=default, metavar="SECONDS", help=keeping)


def _stores(arguments: argparse.Namespace, **options: float) -> ServerConfig:
    """Return the stores that a command names.

    Raises:
        InvalidArgument: None, or too many are named.
    """
    config = ServerConfig(
        path=arguments.path,
        metadata=arguments.metadata,
        blobs=arguments.blobs,
        options=ServerOptions(**options),  # type: ignore[arg-type]  # all of them are numbers of seconds
    )
    return config.require_store()


def _add_option(parser: argparse.ArgumentParser, option: attrs.Attribute[Any], description: str) -> None:
    flag = "--" + (
        option.metadata.get("flag") or ("no-" if option.default is True else "") + option.name.replace("_", "-")
    )
    text = description.partition(". ")[0].removesuffix(".").replace("%", "%%")
    text = text[:1].lower() + text[1:]
    default = _DEFAULTS.get(option.name, option.default)
    kind = get_origin(option.type)
    if kind not in {Literal, tuple}:
        kind = next(kind for kind in get_args(option.type) or [option.type] if kind is not NoneType)
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
        keywords = {"default": default, **_KEYWORDS[kind]}
        if option.default is None and kind is str:
            keywords["metavar"] = option.metadata.get("metavar", "FILE")
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
    """Serve a registry until a signal arrives, or only check it, and return the exit code."""
    config = ServerConfig(
        path=arguments.path,
        metadata=arguments.metadata,
        blobs=arguments.blobs,
        port=arguments.port,
        htpasswd=arguments.htpasswd,
        rules=arguments.rules,
        options=server_options(arguments),
    )
    if not arguments.check:
        return run(config)
    found = inspect_stores(config)
    for fact in found.facts:
        print(fact)
    for warning in found.warnings:
        print_message(f"warning: {warning}")
    return 0


def add_gc(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gc`."""
    _add_stores(parser)
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
    parser.add_argument(
        "--strays", action="store_true", help="also delete old objects that no row names; lists the whole object store"
    )
    parser.add_argument(
        "--copies",
        action="store_true",
        help="write the copies of all manifests and tags again, after a database was restored from a backup",
    )
    _add_keep_deleted(parser)
    parser.set_defaults(run=run_gc)


def run_gc(arguments: argparse.Namespace) -> None:
    """Delete unreferenced content from a registry, which may be in use."""
    config = _stores(arguments, grace=arguments.grace, keep_deleted=arguments.keep_deleted)
    if (arguments.strays or arguments.copies) and not config.clustered:
        raise InvalidArgument(
            f"{'strays' if arguments.strays else 'copies'} is for a registry in a database and an object store",
            hint="leave it out: a folder has all of a registry, and gc finds all of its files",
        )
    with opened(config, "garbage collection") as storage:
        if arguments.strays:
            _print_strays(as_cluster(storage), dry_run=arguments.dry_run)
        if arguments.copies and not arguments.dry_run:
            _write_copies(as_cluster(storage))
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


def _print_strays(storage: ClusterStorage, *, dry_run: bool) -> None:
    from ocikit.server.storage.cluster.strays import strays  # noqa: PLC0415 - needs optional packages

    found = strays(
        storage.database, storage.objects, state=storage.state, keep_deleted=storage.keep_deleted, dry_run=dry_run
    )
    effect = "would be deleted" if dry_run else "will be deleted with the next garbage"
    print_message(f"{display.pluralize(found.count, 'object')} without a row, {display.size(found.size)}, {effect}")


def _write_copies(storage: ClusterStorage) -> None:
    from ocikit.server.storage.cluster.copies import queue_copies, write_copies  # noqa: PLC0415 - optional packages

    queue_copies(storage.database, storage.objects)
    written = write_copies(storage.database, storage.objects)
    print_message(f"{display.pluralize(written, 'manifest or tag', 'manifests and tags')} copied")


def add_rebuild(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rebuild`."""
    _add_urls(parser, required=True)
    _add_keep_deleted(parser)
    parser.set_defaults(run=run_rebuild, path=None)


def run_rebuild(arguments: argparse.Namespace) -> int:
    """Fill an empty database with what an object store has.

    Args:
        arguments: Arguments of `rebuild`.

    Returns:
        0 if everything is restored, else 1.
    """
    from ocikit.server.storage.cluster.rebuild import rebuild  # noqa: PLC0415 - needs optional packages

    config = _stores(arguments, keep_deleted=arguments.keep_deleted)
    with reachable(config, "rebuild"):
        rebuilt = rebuild(arguments.metadata, arguments.blobs, keep_deleted=arguments.keep_deleted)
    for digest in rebuilt.missing:
        print(f"   missing  {digest}")
    for key in rebuilt.damaged:
        print(f"   damaged  {display.sanitize(key)}")
    restored = ", ".join(
        display.pluralize(number, *words)
        for number, *words in (
            (rebuilt.repositories, "repository", "repositories"),
            (rebuilt.manifests, "manifest"),
            (rebuilt.tags, "tag"),
            (rebuilt.blobs, "blob"),
        )
    )
    print_message(f"{restored} were restored; {display.pluralize(rebuilt.unused, 'object')} without a manifest")
    return 1 if rebuilt.missing or rebuilt.damaged else 0


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    _add_stores(parser)
    repair = "delete corrupt content: it counts as absent until a client pushes it again"
    parser.add_argument("--repair", action="store_true", help=repair)
    parser.add_argument("--sizes", action="store_true", help="compare sizes only, and read no content")
    parser.set_defaults(run=run_verify)


def run_verify(arguments: argparse.Namespace) -> int:
    """Hash all content of a registry, which may be in use.

    Args:
        arguments: Arguments of `verify`.

    Returns:
        0 if all content is intact, else 1.
    """
    with opened(_stores(arguments), "verification") as storage:
        result = verify(storage, remove=arguments.repair, sizes=arguments.sizes)
    for blob in result.corrupt:
        print(f"{blob.problem:>10}  {blob.digest}  {display.sanitize(', '.join(blob.repositories))}".rstrip())
    checked = f"{display.pluralize(result.checked, 'blob')}, {display.size(result.size)}, {'compared' if arguments.sizes else 'hashed'}"
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
