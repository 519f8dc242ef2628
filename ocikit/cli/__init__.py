"""The command line: the verbs of the API, thin.

python -m ocikit quickstart [--registry HOST]
python -m ocikit pull REFERENCE [FOLDER]
python -m ocikit push REFERENCE PATH…
python -m ocikit inspect|tags|validate REFERENCE
python -m ocikit catalog HOST
python -m ocikit copy SOURCE TARGET
python -m ocikit serve|collect FOLDER
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import ocikit
from ocikit import display
from ocikit.spec import media_types
from ocikit.transfer.pool import WORKERS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. 0 is success, 1 a failure that was told, 2 wrong usage, 130 Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 2
    try:
        status = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has enough, as `head` does. What is still buffered would fail again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ocikit.OcikitError as error:
        print(f"ocikit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ocikit: stopped; what was received whole is kept, and the rest resumes", file=sys.stderr)
        return 130
    return int(status or 0)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return found


def _limit(text: str) -> tuple[str, int]:
    import attrs  # noqa: PLC0415 - one option of many

    from ocikit.server.http.settings import Limits  # noqa: PLC0415

    name, _, number = text.partition("=")
    if name not in (names := [each.name for each in attrs.fields(Limits)]):
        raise argparse.ArgumentTypeError(f"there is no limit {name!r}; there are {', '.join(names)}")
    return name, _count(number)


def _annotation(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ocikit", description="Data sets, models and images in any OCI registry.")
    parser.add_argument("--version", action="version", version=f"ocikit {ocikit.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, run: Any, words: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words)
        made.set_defaults(run=run)
        return made

    def network(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--insecure", action="append", default=[], metavar="HOST", help="allow plain http or an unknown certificate"
        )
        made.add_argument("--workers", type=_count, default=WORKERS, metavar="N", help=f"transfers at once ({WORKERS})")
        made.add_argument("--quiet", action="store_true", help="no progress bar")

    made = command("quickstart", _quickstart, "push, list, inspect, attach and pull a small data set")
    made.add_argument(
        "--registry", metavar="HOST", help="a registry to use; without it, one of our own, for the time of the tour"
    )
    network(made)

    made = command("pull", _pull, "fetch an artifact, to the cache or as files in a folder")
    made.add_argument("reference")
    made.add_argument("folder", nargs="?")
    made.add_argument("--include", action="append", default=[], metavar="PATTERN")
    made.add_argument("--exclude", action="append", default=[], metavar="PATTERN")
    made.add_argument("--platform", metavar="OS/ARCH[/VARIANT]")
    made.add_argument("--force", action="store_true", help="overwrite files that were edited")
    network(made)

    made = command("push", _push, "push files and folders as an artifact")
    made.add_argument("reference")
    made.add_argument("paths", nargs="+")
    made.add_argument("--artifact-type", metavar="TYPE")
    made.add_argument("--annotation", action="append", type=_annotation, default=[], metavar="KEY=VALUE")
    made.add_argument("--archive", choices=("tar", "tar+gzip", "tar+zstd"))
    made.add_argument("--subject", metavar="REFERENCE")
    network(made)

    made = command("inspect", _inspect, "show the documents of an artifact or image")
    made.add_argument("reference")
    made.add_argument("--raw", action="store_true", help="the exact bytes")
    network(made)

    made = command("validate", _validate, "say what is wrong with the documents of an artifact or image")
    made.add_argument("reference")
    made.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="only that manifest of an index")
    network(made)

    made = command("tags", _tags, "list the tags of a repository")
    made.add_argument("reference")
    network(made)

    made = command("catalog", _catalog, "list the repositories of a registry")
    made.add_argument("host")
    network(made)

    made = command("copy", _copy, "copy between registries, and to and from layouts")
    made.add_argument("source")
    made.add_argument("target")
    made.add_argument("--referrers", action="store_true", help="also what is attached")
    made.add_argument("--platform", metavar="OS/ARCH[/VARIANT]")
    network(made)

    _add_serve(command("serve", _serve, "run a registry; its content is in a folder"))

    made = command("collect", _collect, "delete what nobody names from a registry's folder, which may be in use")
    made.add_argument("path", metavar="FOLDER")
    made.add_argument("--dry-run", action="store_true", help="only list it")
    made.add_argument(
        "--grace", type=_seconds, default=3600.0, metavar="SECONDS", help="keep what was named since (3600)"
    )
    return parser


def _add_serve(made: argparse.ArgumentParser) -> None:
    made.add_argument("path", metavar="FOLDER")
    made.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (127.0.0.1)")
    made.add_argument("--port", type=int, default=5000, metavar="N", help="0 for one that is free (5000)")
    made.add_argument(
        "--htpasswd", metavar="FILE", help="users, from htpasswd -B; without it, everybody may do everything"
    )
    made.add_argument("--token", action="store_true", help="clients get tokens for passwords")
    made.add_argument("--rules", metavar="FILE", help="who may do what, in TOML")
    made.add_argument("--anonymous-pull", action="store_true", help="everybody may pull")
    made.add_argument("--allow-plain-http", action="store_true", help="take passwords from elsewhere without TLS")
    made.add_argument("--tls-cert", metavar="FILE", help="speak https; PEM")
    made.add_argument("--tls-key", metavar="FILE")
    made.add_argument("--workers", type=_count, default=1, metavar="N", help="processes that answer (1)")
    made.add_argument("--read-only", action="store_true", help="refuse every change")
    made.add_argument("--no-delete", action="store_true", help="refuse deletion")
    made.add_argument(
        "--references",
        choices=("strict", "sparse"),
        default="strict",
        help="take manifests after what they reference, or before it, too",
    )
    made.add_argument(
        "--validate", choices=("structure", "schema"), default="structure", help="how manifests are checked"
    )
    made.add_argument(
        "--limit",
        type=_limit,
        action="append",
        default=[],
        metavar="NAME=N",
        help="the most of a thing: manifest, blob, repository (bytes), sessions, …",
    )
    made.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name that clients may call it by"
    )
    made.add_argument(
        "--trusted-proxy", action="append", default=[], metavar="ADDRESS", help="believe its X-Forwarded headers"
    )
    made.add_argument("--no-metrics", action="store_true", help="no /metrics")
    made.add_argument(
        "--log-format",
        choices=("json", "text", "none"),
        default="text",
        help="a line for each request, on stderr (text)",
    )
    made.add_argument("--collect-every", type=_seconds, default=3600.0, metavar="SECONDS", help="0 for never (3600)")
    made.add_argument(
        "--grace", type=_seconds, default=3600.0, metavar="SECONDS", help="keep what nobody names so long (3600)"
    )
    made.add_argument(
        "--timeout",
        type=_seconds,
        default=120.0,
        metavar="SECONDS",
        help="end connections that move nothing so long (120)",
    )
    made.add_argument("--no-sync", action="store_true", help="answer before the disk has it; a power cut may lose that")
    made.add_argument("--attached", metavar="FOLDER", help=argparse.SUPPRESS)


def _session(options: argparse.Namespace) -> ocikit.Session:
    return ocikit.Session(
        insecure=options.insecure, workers=options.workers, progress="none" if options.quiet else None
    )


def _pull(options: argparse.Namespace) -> None:
    with _session(options) as session:
        artifact = session.pull(
            options.reference, options.folder, include=options.include, exclude=options.exclude,
            platform=options.platform, force=options.force,
        )  # fmt: skip
    _summary(artifact)
    print(artifact.path or artifact.reference)


def _push(options: argparse.Namespace) -> None:
    with _session(options) as session:
        artifact = session.push(
            options.reference, *options.paths, artifact_type=options.artifact_type, archive=options.archive,
            annotations=dict(options.annotation), subject=options.subject,
        )  # fmt: skip
    _summary(artifact)
    print(artifact.reference)


def _copy(options: argparse.Namespace) -> None:
    with _session(options) as session:
        artifact = session.copy(options.source, options.target, referrers=options.referrers, platform=options.platform)
    _summary(artifact)
    print(artifact.reference)


def _summary(artifact: ocikit.Artifact) -> None:
    # A terminal has it from the progress already; the result alone goes to stdout, for pipes
    if not sys.stderr.isatty():
        print(display.sanitize(artifact.summary), file=sys.stderr)


def _inspect(options: argparse.Namespace) -> None:
    with _session(options) as session:
        artifact = session.inspect(options.reference)
    if options.raw:
        sys.stdout.buffer.write(artifact.document.raw)
        return
    print(f"{display.sanitize(artifact.reference)}  {display.sanitize(artifact.kind)}  {display.size(artifact.size)}")
    for key, value in artifact.annotations.items():
        print(f"  {display.sanitize(key)}: {display.sanitize(value)}")
    if artifact.is_index:
        for manifest in artifact.index.manifests:
            print(f"  {display.sanitize(manifest.platform or manifest.media_type):24}  {manifest.digest}")
    else:
        # Not by .files: titles that can't be files are shown, too
        for layer in artifact.manifest.layers:
            if layer.media_type != media_types.EMPTY:
                name = layer.title if layer.title is not None else layer.media_type
                print(f"  {display.size(layer.size):>10}  {layer.digest.short}  {display.sanitize(name)}")


def _validate(options: argparse.Namespace) -> int:
    with _session(options) as session:
        report = session.validate(options.reference, platform=options.platform)
    for finding in report:
        print(display.sanitize(finding))
    print(report.summary, file=sys.stderr)
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
    from ocikit.cli.quickstart import quickstart  # noqa: PLC0415 - one command of many

    with _session(options) as session:
        for line in quickstart(session, options.registry):
            print(display.sanitize(line))


def _serve(options: argparse.Namespace) -> int:
    from ocikit.server.http.settings import Limits, Settings  # noqa: PLC0415
    from ocikit.server.process.main import run  # noqa: PLC0415
    from ocikit.server.process.options import Options  # noqa: PLC0415 - one command of many

    settings = Settings(
        references=options.references, validate=options.validate, read_only=options.read_only,
        deletion=() if options.no_delete else ("manifests", "blobs", "tags"), hosts=tuple(options.allow_host),
        trusted_proxies=tuple(options.trusted_proxy), metrics=not options.no_metrics, limits=Limits(**dict(options.limit)),
    )  # fmt: skip
    same = ("path", "host", "port", "htpasswd", "token", "rules", "anonymous_pull", "allow_plain_http", "tls_cert", "tls_key",
            "workers", "log_format", "collect_every", "grace", "timeout", "attached")  # fmt: skip
    return run(
        Options(settings=settings, durable=not options.no_sync, **{name: getattr(options, name) for name in same})
    )


def _collect(options: argparse.Namespace) -> None:
    from ocikit.server.storage.files import file_storage  # noqa: PLC0415
    from ocikit.server.storage.gc import collect  # noqa: PLC0415 - one command of many

    if not os.path.exists(os.path.join(options.path, "registry.db")):
        raise ocikit.NotFound(f"{options.path} is no registry's folder", hint="name the one that is given to serve")
    storage = file_storage(options.path, grace=options.grace)
    try:
        found = collect(storage, grace=options.grace, dry_run=options.dry_run)
    finally:
        storage.close()
    for name, digest, size in found.blobs:
        print(f"{display.size(size):>10}  {digest}  {display.sanitize(name)}")
    for digest, size in found.content:
        print(f"{display.size(size):>10}  {digest}")
    verb = "would be" if options.dry_run else "were"
    print(f"{len(found.content)} contents, {display.size(found.size)}, {verb} deleted", file=sys.stderr)
