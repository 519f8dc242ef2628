"""The commands of a registry: `serve`, `gc`, `verify`, `rebuild`.

The options of `serve` are those of `ServerOptions`, with its descriptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import attrs
import click

from ocikit import display
from ocikit.cli.command import argument, command
from ocikit.cli.options import dry_run_option, flag, joined, json_option, option, positive_int, seconds
from ocikit.cli.output import print_note
from ocikit.cli.results import print_json
from ocikit.errors import InvalidArgument
from ocikit.server.http.settings import Limits
from ocikit.server.process.main import inspect_stores, run
from ocikit.server.process.options import ServerConfig, ServerOptions, option_descriptions
from ocikit.server.process.stores import as_cluster, opened, reachable
from ocikit.server.storage.gc import UPLOAD_EXPIRY
from ocikit.server.storage.gc import gc as delete_unreferenced
from ocikit.server.storage.verify import verify as verify_content

if TYPE_CHECKING:
    from ocikit.server.storage.cluster.storage import ClusterStorage


def _limit(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in (names := [limit.name for limit in attrs.fields(Limits)]):
        raise click.BadParameter(f"unknown limit {name!r}; choose from {', '.join(names)}")
    return name, positive_int(number)


#: Defaults that differ from those of `ServerOptions`: a terminal shows the access log.
_DEFAULTS = {"log_format": "text"}

#: Settings of an option by the type of its value.
_SETTINGS: dict[Any, dict[str, Any]] = {
    int: {"type": positive_int, "metavar": "N"},
    float: {"type": seconds, "metavar": "SECONDS"},
    str: {"metavar": "ADDRESS"},
    tuple: {"multiple": True, "metavar": "NAME", "default": ()},
    Limits: {"type": _limit, "multiple": True, "metavar": "NAME=N", "default": ()},
}

_DATABASE = "database, postgresql://user@host/name"
_OBJECTS = "Its object store: s3://bucket/prefix or file:///folder."

_store_options = joined(
    argument("path", "[FOLDER]", "Folder of the registry.", complete="folders"),
    option("--metadata", metavar="URL", help=f"Instead of a folder: a {_DATABASE}."),
    option("--blobs", metavar="URL", help=_OBJECTS),
)

_keep_deleted_option = option(
    "--keep-deleted",
    type=seconds,
    default=ServerOptions().keep_deleted,
    metavar="SECONDS",
    help=f"Keep the objects of deleted content for this time; only in an object store ({ServerOptions().keep_deleted:g}).",
)


def _stores(stores: dict[str, Any], **options: float) -> ServerConfig:
    """Return the stores that a command names.

    Args:
        stores: The values of `path`, `metadata` and `blobs`.
        options: Options of the server.

    Raises:
        InvalidArgument: None, or too many are named.
    """
    settings = ServerOptions(**options)  # type: ignore[arg-type]  # all of them are numbers of seconds
    return ServerConfig(**stores, options=settings).require_store()


def _option_of(field: attrs.Attribute[Any], description: str) -> click.Option:
    """Return the option for a field of `ServerOptions`."""
    name = field.metadata.get("flag") or ("no-" if field.default is True else "") + field.name.replace("_", "-")
    names = [f"--{name}", field.name]
    text = description.partition(". ")[0].removesuffix(".")
    default = _DEFAULTS.get(field.name, field.default)
    kind = get_origin(field.type)
    if kind not in {Literal, tuple}:
        kind = next(kind for kind in get_args(field.type) or [field.type] if kind is not NoneType)
    if kind is bool:
        text = f"Do not {text[:1].lower()}{text[1:]}" if default else text
        return click.Option(names, is_flag=True, flag_value=not default, default=default, help=f"{text}.")
    if kind is Limits:
        text += f": {', '.join(limit.name for limit in attrs.fields(Limits))}"
    elif default:
        text += f" ({default:g})" if isinstance(default, float) else f" ({default})"
    if kind is Literal:
        settings: dict[str, Any] = {"type": click.Choice(get_args(field.type)), "default": default}
    else:
        settings = {"default": default, **_SETTINGS[kind]}
        if field.default is None and kind is str:
            settings["metavar"] = field.metadata.get("metavar", "FILE")
    return click.Option(names, help=f"{text}.", **settings)


def _server_params() -> Iterator[click.Parameter]:
    descriptions = option_descriptions()
    for field in attrs.fields(attrs.resolve_types(ServerOptions)):
        yield _option_of(field, descriptions.get(field.name, ""))


def server_options(values: dict[str, Any]) -> ServerOptions:
    """Return the options of parsed arguments.

    Args:
        values: Arguments of `serve` by name.

    Returns:
        The options.

    Raises:
        InvalidArgument: An option is invalid.
    """
    fields = {field.name: values[field.name] for field in attrs.fields(ServerOptions)}
    return ServerOptions(**fields | {"limits": Limits(**dict(values["limits"]))})


@command(
    examples=(
        ("A registry on this machine, at 127.0.0.1:5000", "ocikit serve store"),
        (
            "With users, for other machines",
            "ocikit serve store --host 0.0.0.0 --htpasswd users \\\n    --tls-cert cert.pem --tls-key key.pem",
        ),
        (
            "On several machines",
            "ocikit serve --metadata postgresql://registry@db/registry \\\n    --blobs s3://bucket/registry",
        ),
    )
)
@_store_options
@flag("--check", help="Only open the stores, users and rules, and print what is found.")
@option("--port", type=int, default=5000, metavar="N", help="Port; 0 selects a free port (5000).")
@option(
    "--htpasswd", metavar="FILE", complete="paths", help="Users, from htpasswd -B; without it everything is allowed."
)
@option("--rules", metavar="FILE", complete="paths", help="Access rules, in TOML.")
def serve(
    *,
    path: str | None,
    metadata: str | None,
    blobs: str | None,
    check: bool,
    port: int,
    htpasswd: str | None,
    rules: str | None,
    **values: Any,
) -> int:
    """Run a registry on a folder, or on a database and S3.

    SIGTERM or Ctrl-C ends it. Transfers in progress have some time to finish.
    """
    config = ServerConfig(
        path=path,
        metadata=metadata,
        blobs=blobs,
        port=port,
        htpasswd=htpasswd,
        rules=rules,
        options=server_options(values),
    )
    if not check:
        return run(config)
    found = inspect_stores(config)
    for fact in found.facts:
        print(fact)
    for warning in found.warnings:
        print_note(f"warning: {warning}")
    return 0


# Before the option --quiet, which all commands have
serve.params[-1:-1] = _server_params()


@command(
    schema="gc",
    examples=(
        ("See what would be deleted", "ocikit gc store --dry-run"),
        ("Without waiting for the grace period", "ocikit gc store --grace 0"),
    ),
)
@_store_options
@dry_run_option
@option(
    "--grace",
    type=seconds,
    default=3600.0,
    metavar="SECONDS",
    help="Keep content that was referenced within this time (3600).",
)
@option(
    "--expiry",
    type=seconds,
    default=UPLOAD_EXPIRY,
    metavar="SECONDS",
    help=f"Keep uploads in progress that were written within this time ({UPLOAD_EXPIRY:g}); "
    "those without bytes are kept for ten minutes at most.",
)
@flag("--strays", help="Also delete old objects that no row names; lists the whole object store.")
@flag(
    "--copies",
    help="Write the copies of all manifests and tags again, after a database was restored from a backup.",
)
@_keep_deleted_option
@json_option
def gc(
    *,
    dry_run: bool,
    grace: float,
    expiry: float,
    strays: bool,
    copies: bool,
    keep_deleted: float,
    as_json: bool,
    **stores: str | None,
) -> None:
    """Delete unreferenced content of a registry.

    The registry may be running. `collect` is another name of this command.
    """
    config = _stores(stores, grace=grace, keep_deleted=keep_deleted)
    if (strays or copies) and not config.clustered:
        raise InvalidArgument(
            f"{'strays' if strays else 'copies'} is for a registry in a database and an object store",
            hint="leave it out: a folder has all of a registry, and gc finds all of its files",
        )
    with opened(config, "garbage collection") as storage:
        if strays:
            _print_strays(as_cluster(storage), dry_run=dry_run)
        if copies and not dry_run:
            _write_copies(as_cluster(storage))
        result = delete_unreferenced(storage, grace=grace, expiry=expiry, dry_run=dry_run)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "blobs": [{"digest": str(blob.digest), "size": blob.size} for blob in result.blobs],
                "unlinked": [
                    {"digest": str(blob.digest), "size": blob.size, "repository": blob.repository}
                    for blob in result.unlinked
                ],
                "uploads": result.uploads,
                "size": result.size,
            }
        )
        return
    for blob in result.unlinked:
        print(f"{display.size(blob.size):>10}  {blob.digest}  {display.sanitize(blob.repository)}")
    for blob in result.blobs:
        print(f"{display.size(blob.size):>10}  {blob.digest}")
    verb = "would be" if dry_run else "were"
    uploads = f", {display.pluralize(result.uploads, 'upload')}" if result.uploads else ""
    print_note(f"{display.pluralize(len(result.blobs), 'blob')}, {display.size(result.size)}{uploads}, {verb} deleted")


def _print_strays(storage: ClusterStorage, *, dry_run: bool) -> None:
    from ocikit.server.storage.cluster.strays import strays  # noqa: PLC0415 - needs optional packages

    found = strays(
        storage.database, storage.objects, state=storage.state, keep_deleted=storage.keep_deleted, dry_run=dry_run
    )
    effect = "would be deleted" if dry_run else "will be deleted with the next garbage"
    print_note(f"{display.pluralize(found.count, 'object')} without a row, {display.size(found.size)}, {effect}")


def _write_copies(storage: ClusterStorage) -> None:
    from ocikit.server.storage.cluster.copies import queue_copies, write_copies  # noqa: PLC0415 - optional packages

    queue_copies(storage.database, storage.objects)
    written = write_copies(storage.database, storage.objects)
    print_note(f"{display.pluralize(written, 'manifest or tag', 'manifests and tags')} copied")


@command(
    examples=(
        (
            "After the loss of the database",
            "ocikit rebuild --metadata postgresql://registry@db/registry \\\n    --blobs s3://bucket/registry",
        ),
        (
            "From a folder that machines share",
            "ocikit rebuild --metadata postgresql://registry@db/registry \\\n    --blobs file:///srv/registry",
        ),
    )
)
@option("--metadata", metavar="URL", required=True, help=f"Empty {_DATABASE}.")
@option("--blobs", metavar="URL", required=True, help=_OBJECTS)
@_keep_deleted_option
def rebuild(*, metadata: str, blobs: str, keep_deleted: float) -> int:
    """Fill an empty database from a registry's object store.

    The exit code is 1 if content is missing or damaged.
    """
    from ocikit.server.storage.cluster.rebuild import rebuild  # noqa: PLC0415 - needs optional packages

    config = _stores({"metadata": metadata, "blobs": blobs}, keep_deleted=keep_deleted)
    with reachable(config, "rebuild"):
        rebuilt = rebuild(metadata, blobs, keep_deleted=keep_deleted)
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
    print_note(f"{restored} were restored; {display.pluralize(rebuilt.unused, 'object')} without a manifest")
    return 1 if rebuilt.missing or rebuilt.damaged else 0


@command(
    schema="verify",
    examples=(
        ("Hash everything", "ocikit verify store"),
        ("Delete corrupt content, so that clients push it again", "ocikit verify store --repair"),
    ),
)
@_store_options
@flag("--repair", help="Delete corrupt content: it counts as absent until a client pushes it again.")
@flag("--sizes", help="Compare sizes only, and read no content.")
@json_option
def verify(*, repair: bool, sizes: bool, as_json: bool, **stores: str | None) -> int:
    """Hash all content of a registry.

    The registry may be running. The exit code is 1 if content is corrupt or missing.
    """
    with opened(_stores(stores), "verification") as storage:
        result = verify_content(storage, remove=repair, sizes=sizes)
    if as_json:
        corrupt = [
            {"digest": str(blob.digest), "problem": blob.problem, "repositories": list(blob.repositories)}
            for blob in result.corrupt
        ]
        facts = {"checked": result.checked, "size": result.size, "corrupt": corrupt, "removed": repair}
        print_json(facts)
        return 0 if result.ok else 1
    for blob in result.corrupt:
        print(f"{blob.problem:>10}  {blob.digest}  {display.sanitize(', '.join(blob.repositories))}".rstrip())
    checked = (
        f"{display.pluralize(result.checked, 'blob')}, {display.size(result.size)}, {'compared' if sizes else 'hashed'}"
    )
    if result.ok:
        print_note(f"{checked}: all intact")
        return 0
    effect = (
        "the registry responds 404 for them until they are pushed again"
        if repair
        else "--repair deletes corrupt content, so that clients push it again"
    )
    print_note(f"{checked}: {len(result.corrupt)} corrupt or missing; {effect}")
    return 1
