"""Completion in bash, zsh and fish: the scripts, and the values that are offered.

Values come from this machine: the cache, the hosts with a login, and the file system. No request is made.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

if TYPE_CHECKING:
    from ocikit import Session

#: The variable in which a shell asks for completion.
VARIABLE = "_OCIKIT_COMPLETE"

_LIMIT = 200  # offered values
_LOCAL = re.compile(r"(oci|oci-archive|docker-archive):")
_SPECIAL = re.compile(r"""[\s'"\\$`&|;<>()*?\[\]#~!{}]""")

Completer: TypeAlias = "Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]"


@add_completion_class
class _Bash(BashComplete):
    """Completion of words with colons, which bash splits."""

    name = "bash"
    source_template = """\
%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=',' read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            open) compopt -o nospace; COMPREPLY+=("$value") ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""
    _trimmed = 0

    @staticmethod
    def _check_version() -> None:
        """Run no other bash; the script needs 4.4, which is from 2016."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the word at the cursor."""
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)[1:]
        incomplete = "" if not words or line[-1:].isspace() else words.pop()
        # Bash replaces only what follows the last of these characters
        breaks = set(os.environ.get("COMP_WORDBREAKS", "")) & set(":=")
        self._trimmed = max((incomplete.rfind(each) for each in breaks), default=-1) + 1
        return words, incomplete

    def format_completion(self, item: CompletionItem[str]) -> str:
        """Return a line for the script."""
        value = _SPECIAL.sub(lambda match: f"\\{match[0]}", item.value[self._trimmed :])
        kind = "open" if item.type == "plain" and item.value.endswith(("/", ":")) else item.type
        return f"{kind},{value}"


def _items(values: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    """Return the values that begin as typed; names with control characters are left out."""
    found = dict.fromkeys(each for each in values if each.startswith(incomplete) and each.isprintable())
    return [CompletionItem(each) for each in list(found)[:_LIMIT]]


def complete_paths(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Let the shell complete files and folders."""
    return [CompletionItem(incomplete, type="file")]


def complete_folders(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Let the shell complete folders."""
    return [CompletionItem(incomplete, type="dir")]


def complete_platforms(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer common platforms."""
    machines = ("amd64", "arm64", "arm/v7", "386", "ppc64le", "riscv64", "s390x")
    return _items((*(f"linux/{each}" for each in machines), "windows/amd64"), incomplete)


def complete_hosts(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer the registries with a login, and those of the cache."""
    with _session() as session:
        return _items(_hosts(session, incomplete), incomplete)


def complete_references(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer cached references, registries with a login, and layouts and archives on disk."""
    if scheme := _LOCAL.match(incomplete):
        return _items(_local(scheme[0], incomplete), incomplete)
    with _session() as session:
        return _items(_references(session, incomplete), incomplete)


def complete_files(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer the files of the artifact that the command names, if its manifest is in the cache."""
    ref = ctx.params.get("ref")
    if not ref:
        return []
    os.environ["OCIKIT_OFFLINE"] = "1"  # this process only completes
    logging.disable()  # a message would be written over the line that is typed
    with _session() as session:
        from ocikit.errors import OcikitError  # noqa: PLC0415 - as below

        try:
            return _items(session.inspect(ref).files, incomplete)
        except OcikitError:
            return []


def _session() -> Session:
    import ocikit  # noqa: PLC0415 - completion of commands and options needs no session

    return ocikit.Session(progress=False)


def _hosts(session: Session, incomplete: str) -> Iterator[str]:
    from ocikit.client.places import known_places  # noqa: PLC0415 - as above
    from ocikit.remote.auth.keychain import Keychain  # noqa: PLC0415 - as above

    for place in known_places(session.cache, Keychain()):
        yield place.address.partition("/")[0]
    if incomplete:  # registries of this machine may have stopped: only if one begins to type the address
        yield from session.cache.hosts()


def _references(session: Session, incomplete: str) -> Iterator[str]:
    cache = session.cache
    host = incomplete.partition("/")[0]
    if "/" not in incomplete:
        for each in dict.fromkeys(_hosts(session, incomplete)):
            yield f"{each}/"
        return
    for name in cache.repositories(host):
        repository = f"{host}/{name}"
        if not repository.startswith(incomplete) and not incomplete.startswith(repository):
            continue
        tags = cache.repository_tags(host, name)
        yield from (f"{repository}:{tag}" for tag in tags)
        if not tags:
            yield repository


def _local(scheme: str, incomplete: str) -> Iterator[str]:
    """Yield layouts, or archives, below the folder that is typed."""
    typed = incomplete.removeprefix(scheme)
    folder = os.path.dirname(typed)
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                path = os.path.join(folder, entry.name)
                if entry.is_dir():
                    is_layout = scheme == "oci:" and os.path.exists(os.path.join(entry.path, "oci-layout"))
                    yield f"{scheme}{path}" if is_layout else f"{scheme}{path}/"
                elif scheme != "oci:" and entry.name.endswith((".tar", ".tgz", ".gz")):
                    yield f"{scheme}{path}"
    except OSError:
        return
