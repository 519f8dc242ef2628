"""Command line of ocikit.

python -m ocikit quickstart [--registry HOST]
python -m ocikit pull REFERENCE [FOLDER]
python -m ocikit push REFERENCE PATH…
python -m ocikit inspect|tags|validate REFERENCE
python -m ocikit ls|card REFERENCE
python -m ocikit cat REFERENCE FILE
python -m ocikit catalog HOST
python -m ocikit copy SOURCE TARGET
python -m ocikit describe REFERENCE [FILE]
python -m ocikit diff REFERENCE REFERENCE|FOLDER
python -m ocikit edit REFERENCE --add PATH --remove PATTERN --rename NAME=NEW …
python -m ocikit history|lineage REFERENCE
python -m ocikit watch FOLDER REFERENCE
python -m ocikit cache ls|verify|prune
python -m ocikit serve|gc|verify FOLDER
python -m ocikit migrate --metadata URL
python -m ocikit rebuild --metadata URL --blobs URL

The exit code is 0 for success and 1 for an error, which is printed to stderr. `diff --exit-code` exits with 1 if there are
differences, `validate` if there are violations, `describe` if a file cannot be described, `cache verify` if content is damaged, and
`migrate --check` if there are changes to make. It is 2 for invalid usage, and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

import ocikit
from ocikit import display
from ocikit.cli.arguments import key_value, positive_int, seconds, with_options
from ocikit.cli.cache import add_cache
from ocikit.cli.content import add_content, list_files, print_card, print_file
from ocikit.cli.edit import add_edit, edit, plan_lines
from ocikit.cli.streams import discard, prepare_streams, print_message
from ocikit.client.arguments import WRITTEN
from ocikit.dialects.recognise import AUTO
from ocikit.progress.base import INTERRUPTED
from ocikit.spec import media_types
from ocikit.spec.titles import LINKS, layer_name
from ocikit.transfer.pool import WORKERS

_Run: TypeAlias = Callable[[argparse.Namespace], int | None]

_PLATFORM = "OS/ARCH[/VARIANT]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Arguments of the command; None takes those of the process.

    Returns:
        0 for success, 1 for an error, which was printed, 2 for invalid usage, 130 after Ctrl-C.
    """
    prepare_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser, options = command_line(arguments), argparse.Namespace()
    try:
        try:
            parser.parse_args(arguments, options)
        except SystemExit:  # after the help, or for invalid usage
            sys.stdout.flush()
            raise
        if hasattr(options, "run"):
            status = options.run(options)
        else:
            parser.print_help()
            status = 2
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        discard(sys.stdout)
        return 1
    except ocikit.OcikitError as error:
        print_message(f"ocikit: {with_options(str(error), options)}")
        return 1
    except OSError as error:  # such as a full disk behind stdout
        discard(sys.stdout)
        print_message(f"ocikit: {display.sanitize(error)}")
        return 1
    except KeyboardInterrupt:
        print_message(f"ocikit: {INTERRUPTED}")
        return 130
    return int(status or 0)


def command_line(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        arguments: The arguments that it will parse: a command's own arguments are added only if they name it.
    """
    codes = "Exit codes: 0 success, 1 an error, differences or violations, 2 invalid usage, 130 Ctrl-C."
    description = "Data sets, models and images in any OCI registry."
    parser = argparse.ArgumentParser(prog="ocikit", description=description, epilog=codes)
    parser.add_argument("--version", action="version", version=f"ocikit {ocikit.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, description: str, run: _Run | None = None) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=description, description=description)
        if run is not None:
            subparser.set_defaults(run=run)
            _add_session(subparser)
        return subparser

    quickstart = command("quickstart", "push, list, inspect, attach and pull a small data set", _quickstart)
    quickstart.add_argument("--registry", metavar="HOST", help="registry to use; the default starts a temporary one")
    _add_pull(command("pull", "pull an artifact to the cache, or as files to a folder", _pull))
    _add_push(command("push", "push files and folders as an artifact", _push))
    inspect = command("inspect", "show the documents of an artifact or image", _inspect)
    inspect.add_argument("reference")
    inspect.add_argument("--raw", action="store_true", help="write the exact bytes of the document")
    _add_dialect(inspect)
    validate = command("validate", "check the documents of an artifact or image against the specification", _validate)
    validate.add_argument("reference")
    validate.add_argument("--platform", metavar=_PLATFORM, help="check only the manifest of this platform")
    for name, description, run in (
        ("ls", "list the files of an artifact", _ls),
        ("cat", "write a file of an artifact to stdout", _cat),
        ("card", "show README.md of an artifact", _card),
    ):
        content = command(name, description, run)
        add_content(content, _PLATFORM)
        _add_dialect(content)
    _add_watch(command("watch", "push a folder while another program writes to it, until Ctrl-C", _watch))
    add_cache(command("cache", "list, verify or prune the cache"))
    command("tags", "list the tags of a repository", _tags).add_argument("reference")
    command("catalog", "list the repositories of a registry", _catalog).add_argument("host")
    _add_copy(command("copy", "copy between registries and layouts", _copy))
    _add_describe(command("describe", "show what is in the files of an artifact: columns, tensors, members", _describe))
    _add_diff(command("diff", "show what differs between two versions, or an artifact and a folder", _diff))
    editing = command("edit", "change an artifact without downloading what stays", _edit)
    add_edit(editing)
    _add_notes(editing)
    _add_history(command("history", "list the versions of an artifact, the newest first", _history))
    _add_lineage(command("lineage", "show which artifacts an artifact was made from", _lineage))
    server = {
        "serve": command("serve", "run a registry with its content in a folder, or in a database and an object store"),
        "gc": command("gc", "delete unreferenced content from a registry, which may be running"),
        "verify": command("verify", "hash all content of a registry, which may be running"),
        "rebuild": command("rebuild", "fill an empty database with what the object store of a registry has"),
    }
    if not server.keys().isdisjoint(arguments):
        from ocikit.cli.serve import add_gc, add_rebuild, add_serve, add_verify  # noqa: PLC0415 - imports the server

        add_serve(server["serve"])
        add_gc(server["gc"])
        add_verify(server["verify"])
        add_rebuild(server["rebuild"])
    migrate = command("migrate", "make or change the tables of a registry in PostgreSQL, which may be running")
    if "migrate" in arguments:
        from ocikit.cli.migrate import add_migrate  # noqa: PLC0415 - imports the server

        add_migrate(migrate)
    return parser


def _add_session(parser: argparse.ArgumentParser) -> None:
    insecure = "allow plain http or an unverified certificate for this host"
    parser.add_argument("--insecure", action="append", default=[], metavar="HOST", help=insecure)
    workers = f"number of parallel transfers ({WORKERS})"
    parser.add_argument("--workers", type=positive_int, default=WORKERS, metavar="N", help=workers)
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def _add_pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference")
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--include", action="append", default=[], metavar="PATTERN", help="pull only these files")
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="do not pull these files")
    parser.add_argument("--platform", metavar=_PLATFORM, help="platform of the manifest to pull from an index")
    parser.add_argument("--force", action="store_true", help="overwrite edited files")
    archive = "unpack all tar layers, or none; by default, folders that were pushed as archives are unpacked"
    parser.add_argument("--archive", action=argparse.BooleanOptionalAction, default=None, help=archive)
    _add_dialect(parser)
    root = "write only what is below this folder of an image, such as models"
    parser.add_argument("--root", metavar="FOLDER", help=root)


def _add_dialect(parser: argparse.ArgumentParser) -> None:
    dialect = "name the files of models as their own tools do, or show the layers as they are"
    parser.add_argument("--dialect", choices=(AUTO, "none"), default=AUTO, help=dialect)


def _dialect(options: argparse.Namespace) -> str | None:
    return None if options.dialect == "none" else AUTO


def _add_push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference")
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--artifact-type", metavar="TYPE", help="media type that describes the artifact")
    annotation = "annotation of the manifest"
    parser.add_argument(
        "--annotation", action="append", type=key_value, default=[], metavar="KEY=VALUE", help=annotation
    )
    archive = "push each folder as one archive of this format"
    parser.add_argument("--archive", choices=("tar", "tar+gzip", "tar+zstd"), help=archive)
    shards = "push the files of each folder in archives without compression, for very many files"
    parser.add_argument("--shards", choices=tuple(media_types.SHARDS), help=shards)
    parser.add_argument("--shard-size", default="256MiB", metavar="SIZE", help="size of the largest shard (256MiB)")
    index = "list the files in several manifests, for more files than one manifest can list"
    parser.add_argument("--index", action="store_true", help=index)
    parser.add_argument(
        "--as", dest="as_", choices=WRITTEN, help="write the model format of the CNCF, KitOps or Docker"
    )
    fact = "with --as, a fact about the model, such as name=tiny or license=MIT"
    parser.add_argument("--model", action="append", type=key_value, default=[], metavar="KEY=VALUE", help=fact)
    kind = "with --as, the class of files: weights, config, doc, code or dataset"
    parser.add_argument(
        "--class", dest="classes", action="append", type=key_value, default=[], metavar="PATTERN=CLASS", help=kind
    )
    parser.add_argument("--subject", metavar="REFERENCE", help="artifact that the new one refers to")
    _add_notes(parser)
    parser.add_argument("--include", action="append", default=[], metavar="PATTERN", help="push only these files")
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="do not push these files")
    links = "follow symlinks that stay in their folder (the default), follow all, or skip all"
    parser.add_argument("--links", choices=LINKS, default="inside", help=links)
    hidden = "push all files: also .git, caches, files of .ocikitignore, and what looks like a secret"
    parser.add_argument("--hidden", action="store_true", help=hidden)
    parser.add_argument("--secrets", action="store_true", help="push files that look like secrets, such as .env")


def _add_copy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--referrers", action="store_true", help="copy the referrers, too")
    parser.add_argument("--cosign", action="store_true", help="copy the tags of cosign's signatures, too")
    parser.add_argument("--platform", metavar=_PLATFORM, help="platform of the only manifest of an index to copy")
    convert = "write Docker's manifests and lists as OCI ones; their digests change"
    parser.add_argument("--convert", choices=("oci",), help=convert)


def _add_describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference")
    parser.add_argument("file", nargs="?", help="name of one file")
    parser.add_argument("--json", action="store_true", help="write JSON")
    requests = "ranges of each file that may be requested (2)"
    parser.add_argument("--requests", type=positive_int, default=2, metavar="N", help=requests)
    parser.add_argument("--platform", metavar=_PLATFORM, help="platform of the manifest to describe from an index")
    _add_dialect(parser)


def _add_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="reference")
    parser.add_argument("after", metavar="reference|folder")
    parser.add_argument("--include", action="append", default=[], metavar="PATTERN", help="compare only these files")
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="do not compare these files")
    parser.add_argument("--platform", metavar=_PLATFORM, help="platform of the manifest to compare from an index")
    parser.add_argument("--tables", action="store_true", help="compare columns and row counts of tables")
    parser.add_argument("--json", action="store_true", help="write JSON, with the keys of dvc diff")
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 if they differ")


def _add_notes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--message", metavar="TEXT", help="what this version changes, for its history")
    inputs = "artifact that this one was made from; it is pinned"
    parser.add_argument("--input", action="append", default=[], metavar="REFERENCE", help=inputs)
    version = "give the artifact the next free tag of v1, v2, …, too"
    parser.add_argument("--version", choices=("next",), help=version)


def _add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder")
    parser.add_argument("reference")
    parser.add_argument("--every", type=seconds, default=300, metavar="SECONDS", help="time between pushes (300)")
    parser.add_argument("--include", action="append", default=[], metavar="PATTERN", help="push only these files")
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="do not push these files")
    parser.add_argument("--links", choices=LINKS, default="inside", help="how to handle symlinks, as in push")
    parser.add_argument("--hidden", action="store_true", help="push all files, as in push")
    parser.add_argument("--secrets", action="store_true", help="push files that look like secrets, such as .env")


def _add_history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference")
    parser.add_argument("--limit", type=positive_int, default=20, metavar="N", help="number of versions (20)")
    parser.add_argument("--json", action="store_true", help="write JSON")


def _add_lineage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference")
    parser.add_argument("--depth", type=positive_int, default=10, metavar="N", help="number of steps (10)")
    parser.add_argument("--json", action="store_true", help="write JSON")


def _session(options: argparse.Namespace) -> ocikit.Session:
    return ocikit.Session(
        insecure=options.insecure, workers=options.workers, progress="none" if options.quiet else None
    )


def _pull(options: argparse.Namespace) -> None:
    with _session(options) as session:
        artifact = session.pull(
            options.reference,
            options.folder,
            include=options.include,
            exclude=options.exclude,
            platform=options.platform,
            force=options.force,
            archive=options.archive,
            dialect=_dialect(options),
            root=options.root,
        )
    _print_summary(artifact)
    print(artifact.path or artifact.reference)


def _push(options: argparse.Namespace) -> None:
    with _session(options) as session:
        artifact = session.push(
            options.reference,
            *options.paths,
            artifact_type=options.artifact_type,
            archive=options.archive,
            shards=options.shards,
            shard_size=options.shard_size,
            index=options.index,
            annotations=dict(options.annotation),
            as_=options.as_,
            model=dict(options.model) or None,
            classes=dict(options.classes) or None,
            subject=options.subject,
            message=options.message,
            inputs=options.input,
            version=options.version,
            include=options.include,
            exclude=options.exclude,
            links=options.links,
            hidden=options.hidden,
            secrets=options.secrets,
        )
    _print_summary(artifact)
    print(artifact.reference)


def _opened(options: argparse.Namespace, session: ocikit.Session) -> ocikit.Artifact:
    return session.inspect(options.reference, platform=options.platform, dialect=_dialect(options))


def _ls(options: argparse.Namespace) -> None:
    with _session(options) as session:
        list_files(_opened(options, session), as_json=options.json)


def _cat(options: argparse.Namespace) -> None:
    with _session(options) as session:
        print_file(_opened(options, session), options.file)


def _card(options: argparse.Namespace) -> None:
    with _session(options) as session:
        print_card(_opened(options, session), as_json=options.json)


def _copy(options: argparse.Namespace) -> None:
    with _session(options) as session:
        artifact = session.copy(
            options.source,
            options.target,
            referrers=options.referrers,
            cosign=options.cosign,
            platform=options.platform,
            convert=options.convert,
        )
    _print_summary(artifact)
    print(artifact.reference)


def _describe(options: argparse.Namespace) -> int:
    with _session(options) as session:
        found = session.describe(
            options.reference,
            options.file,
            requests=options.requests,
            platform=options.platform,
            dialect=_dialect(options),
        )
        if isinstance(found, ocikit.Descriptions):
            found.load()
            print(found.to_json(indent=2) if options.json else found)
            return 1 if found.problems else 0
    print(found.to_json(indent=2) if options.json else found.to_text())
    return 0


def _diff(options: argparse.Namespace) -> int:
    with _session(options) as session:
        found = ocikit.diff(
            options.before,
            options.after,
            include=options.include,
            exclude=options.exclude,
            platform=options.platform,
            tables=options.tables,
            session=session,
        )
    print(found.to_json(indent=2) if options.json else found)
    return 1 if options.exit_code and found else 0


def _edit(options: argparse.Namespace) -> None:
    with _session(options) as session:
        done = edit(session, options)
    if done.plan is not None and options.dry_run:
        print("\n".join(plan_lines(done.plan)))
    elif done.artifact is not None:
        _print_summary(done.artifact)
        print(done.artifact.reference)


def _watch(options: argparse.Namespace) -> None:
    with (
        _session(options) as session,
        ocikit.watch(
            options.folder,
            options.reference,
            every=options.every,
            include=options.include,
            exclude=options.exclude,
            links=options.links,
            hidden=options.hidden,
            secrets=options.secrets,
            session=session,
        ) as watch,
        suppress(KeyboardInterrupt),
    ):
        print_message(f"watching {display.display_path(watch.folder)}; Ctrl-C ends with a last push")
        watch.block()
    print(watch.artifact.reference if watch.artifact is not None else "nothing was pushed")


def _history(options: argparse.Namespace) -> None:
    with _session(options) as session:
        found = ocikit.history(options.reference, limit=options.limit, session=session)
    print(found.to_json(indent=2) if options.json else found)


def _lineage(options: argparse.Namespace) -> None:
    with _session(options) as session:
        found = ocikit.lineage(options.reference, depth=options.depth, session=session)
    print(found.to_json(indent=2) if options.json else found)


def _print_summary(artifact: ocikit.Artifact) -> None:
    # In a terminal the progress bar has printed the summary. Print it to stderr: stdout holds only the result, for pipes
    if not sys.stderr.isatty():
        print_message(display.sanitize(artifact.summary))


def _inspect(options: argparse.Namespace) -> None:
    with _session(options) as session:
        artifact = session.inspect(options.reference, dialect=_dialect(options))
    if options.raw:
        sys.stdout.buffer.write(artifact.document.raw)
        return
    print(f"{display.sanitize(artifact.reference)}  {display.sanitize(artifact.kind)}  {display.size(artifact.size)}")
    for key, value in artifact.annotations.items():
        print(f"  {display.sanitize(key)}: {display.sanitize(value)}")
    if artifact.is_index and not artifact.is_nested:
        for manifest in artifact.index.manifests:
            print(f"  {display.sanitize(manifest.platform or manifest.media_type):24}  {manifest.digest}")
    else:
        # Do not use .files: it omits layers whose title is not a valid file name
        unnamed = artifact.unnamed
        for layer in artifact.layers:
            if layer.media_type != media_types.EMPTY:
                name = layer_name(layer) if layer.title is not None else layer.media_type
                # Unusable titles are shown with the whole digest, which is the only name of their content
                digest = layer.digest if layer.digest in unnamed else layer.digest.short
                print(f"  {display.size(layer.size):>10}  {digest}  {display.sanitize(name)}")


def _validate(options: argparse.Namespace) -> int:
    with _session(options) as session:
        report = session.validate(options.reference, platform=options.platform)
    for violation in report.violations:
        print(display.sanitize(violation))
    print_message(report.summary)
    return 0 if report.ok else 1


def _tags(options: argparse.Namespace) -> None:
    with _session(options) as session:
        for tag in session.tags(options.reference):
            print(display.sanitize(tag))


def _catalog(options: argparse.Namespace) -> None:
    with _session(options) as session:
        for name in session.catalog(options.host):
            print(display.sanitize(name))


def _quickstart(options: argparse.Namespace) -> None:
    from ocikit.cli.quickstart import quickstart  # noqa: PLC0415 - only this command needs it

    with _session(options) as session:
        for line in quickstart(session, options.registry):
            print(display.sanitize(line))
