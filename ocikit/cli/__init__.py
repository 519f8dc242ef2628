"""The command line: the verbs of the API, thin.

python -m ocikit quickstart [--registry HOST]
python -m ocikit pull REFERENCE [FOLDER]
python -m ocikit push REFERENCE PATH…
python -m ocikit inspect|tags|validate REFERENCE
python -m ocikit catalog HOST
python -m ocikit copy SOURCE TARGET
python -m ocikit serve|gc FOLDER
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import ocikit
from ocikit import display
from ocikit.cli.arguments import positive_int
from ocikit.spec import media_types
from ocikit.transfer.pool import WORKERS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. 0 is success, 1 a failure that was told, 2 wrong usage, 130 Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser(arguments)
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


def _annotation(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ocikit", description="Data sets, models and images in any OCI registry.")
    parser.add_argument("--version", action="version", version=f"ocikit {ocikit.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, words: str, run: Any = None) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words)
        if run is not None:
            made.set_defaults(run=run)
        return made

    def network(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--insecure", action="append", default=[], metavar="HOST", help="allow plain http or an unknown certificate"
        )
        made.add_argument(
            "--workers", type=positive_int, default=WORKERS, metavar="N", help=f"transfers at once ({WORKERS})"
        )
        made.add_argument("--quiet", action="store_true", help="no progress bar")

    made = command("quickstart", "push, list, inspect, attach and pull a small data set", _quickstart)
    made.add_argument(
        "--registry", metavar="HOST", help="a registry to use; without it, one of our own, for the time of the tour"
    )
    network(made)

    made = command("pull", "fetch an artifact, to the cache or as files in a folder", _pull)
    made.add_argument("reference")
    made.add_argument("folder", nargs="?")
    made.add_argument("--include", action="append", default=[], metavar="PATTERN")
    made.add_argument("--exclude", action="append", default=[], metavar="PATTERN")
    made.add_argument("--platform", metavar="OS/ARCH[/VARIANT]")
    made.add_argument("--force", action="store_true", help="overwrite files that were edited")
    network(made)

    made = command("push", "push files and folders as an artifact", _push)
    made.add_argument("reference")
    made.add_argument("paths", nargs="+")
    made.add_argument("--artifact-type", metavar="TYPE")
    made.add_argument("--annotation", action="append", type=_annotation, default=[], metavar="KEY=VALUE")
    made.add_argument("--archive", choices=("tar", "tar+gzip", "tar+zstd"))
    made.add_argument("--subject", metavar="REFERENCE")
    network(made)

    made = command("inspect", "show the documents of an artifact or image", _inspect)
    made.add_argument("reference")
    made.add_argument("--raw", action="store_true", help="the exact bytes")
    network(made)

    made = command("validate", "say what is wrong with the documents of an artifact or image", _validate)
    made.add_argument("reference")
    made.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="only that manifest of an index")
    network(made)

    made = command("tags", "list the tags of a repository", _tags)
    made.add_argument("reference")
    network(made)

    made = command("catalog", "list the repositories of a registry", _catalog)
    made.add_argument("host")
    network(made)

    made = command("copy", "copy between registries, and to and from layouts", _copy)
    made.add_argument("source")
    made.add_argument("target")
    made.add_argument("--referrers", action="store_true", help="also what is attached")
    made.add_argument("--platform", metavar="OS/ARCH[/VARIANT]")
    network(made)

    server = {
        "serve": command("serve", "run a registry; its content is in a folder"),
        "gc": command("gc", "delete unreferenced content from a registry's folder, which may be in use"),
    }
    if not server.keys().isdisjoint(arguments):
        from ocikit.cli.serve import add_gc, add_serve  # noqa: PLC0415 - imports the server

        add_serve(server["serve"])
        add_gc(server["gc"])
    return parser


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
    for violation in report.violations:
        print(display.sanitize(violation))
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
