"""Errors of calls with arguments that a function does not have: a `TypeError` that names the nearest argument."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from ocikit.display import join_limited, quoted
from ocikit.display.signatures import set_signature
from ocikit.display.tracebacks import hide_internal_frames

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_SHOWN = 12  # names of arguments in a message

#: Names of arguments here, and names that other programs have for them.
_SYNONYMS: Mapping[str, Sequence[str]] = {
    "to": ("folder", "dest", "destination", "dir", "directory", "output", "out", "outdir", "path", "local_dir", "target"),
    "path": ("to", "dest", "destination", "folder", "dir", "directory", "file", "filename", "target"),
    "ref": ("reference", "image", "name", "uri", "url", "repo", "repository", "repo_id", "tag", "artifact"),
    "source": ("src", "ref", "from_"),
    "target": ("dst", "dest", "destination", "to"),
    "paths": ("files", "path", "folder", "folder_path"),
    "force": ("overwrite", "replace", "clobber", "exist_ok", "force_download"),
    "overwrite": ("force", "replace", "exist_ok"),
    "include": ("pattern", "patterns", "glob", "files", "filter", "allow_patterns", "only"),
    "exclude": ("ignore", "ignore_patterns", "skip", "without"),
    "pattern": ("filter", "glob", "include", "match"),
    "platform": ("arch", "architecture", "os"),
    "workers": ("max_workers", "threads", "concurrency", "jobs", "n_jobs", "parallel", "num_workers"),
    "progress": ("bar", "pbar", "quiet", "silent", "show_progress", "verbose"),
    "tags": ("tag", "names"),
    "annotations": ("annotation", "labels", "metadata", "meta"),
    "artifact_type": ("type", "kind", "mediatype", "media_type"),
    "message": ("comment", "commit_message", "description", "msg"),
    "referrers": ("recursive", "deep", "all"),
    "dry_run": ("plan", "preview", "simulate"),
    "name": ("file", "filename", "path"),
    "host": ("registry", "url", "hostname"),
    "username": ("user",),
    "password": ("token", "passwd"),
    "credentials": ("user", "username", "password", "auth", "token", "login"),
    "insecure": ("http", "plain_http", "verify", "tls", "tls_verify", "ssl"),
    "cache": ("cache_dir", "cachedir"),
    "read_timeout": ("timeout",),
    "older_than": ("age", "max_age", "days", "before"),
    "limit": ("n", "max", "count"),
    "session": ("client",),
}  # fmt: skip


def explain_call(function: F) -> F:
    """Return a function or method of the same signature whose `TypeError` for wrong arguments has the next step."""
    owner, _, name = function.__qualname__.rpartition(".")
    label = (owner if name == "__init__" else f"{owner}.{name}") if owner else f"ocikit.{name}"

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            own = args[1:] if owner else args
            if (text := describe_mistake(error, function, label, own, kwargs, bound=bool(owner))) is None:
                raise
            raise wrong_call(text) from None

    set_signature(call, function)
    return cast("F", call)


def wrong_call(text: str) -> TypeError:
    """Return the error for a call with wrong arguments."""
    error = TypeError(text)
    hide_internal_frames(error)
    return error


def explain_methods(cls: type[T]) -> type[T]:
    """Give the public methods of a class, and its own calls, what `explain_call` gives a function."""
    for name, method in list(vars(cls).items()):
        if inspect.isfunction(method) and (name == "__init__" or not name.startswith("_")):
            setattr(cls, name, explain_call(method))
    return cls


def describe_mistake(
    error: TypeError,
    function: Callable[..., Any],
    label: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    bound: bool = False,
) -> str | None:
    """Return what is wrong with the arguments of a call, or None if the error is not about them.

    Args:
        error: The error, as the frame that called the function has caught it.
        function: The function.
        label: Name of the function as the caller writes it.
        args: Positional arguments of the call, without `self`.
        kwargs: Arguments by name.
        bound: Whether the first parameter of the function is `self`.
    """
    if error.__traceback__ is None or error.__traceback__.tb_next is not None:
        return None  # raised by the body of the function
    parameters = list(inspect.signature(function).parameters.values())[bound:]
    positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    named = [p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    given = {p.name for p in positional[: len(args)]}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if unknown := [name for name in kwargs if name not in named and not takes_any]:
        problem = f"has no argument {quoted(unknown[0])}; "
        free = [name for name in named if name not in given and name not in kwargs]
        if near := _similar(unknown[0], free):
            return f"{label}() {problem}did you mean {near}=?"
        return f"{label}() {problem}it has {_names(free) or 'no other arguments'}"
    if twice := [name for name in kwargs if name in given]:
        return f"{label}() got {twice[0]} twice, by position and by name; leave one out"
    if len(args) > len(positional) and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        count = f"takes at most {len(positional)} positional argument{'s' * (len(positional) != 1)}"
        others = _names([name for name in named if name not in given])
        more = f"; pass the others by name: {others}" if others else ""
        return f"{label}() {count}, but got {len(args)}{more}"
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in {*given, *kwargs}]
    missing = [p.name for p in parameters if p.name in missing and p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    return f"{label}() needs {' and '.join(missing)}; see help({label})" if missing else None


def _similar(name: str, names: Sequence[str]) -> str:
    """Return the argument that a name most likely means, or ""."""
    lower = name.lower()
    by_letters = next((other for other in names if other.replace("_", "") == lower.replace("_", "")), "")
    by_meaning = next((other for other in names if lower in _SYNONYMS.get(other, ())), "")
    return by_letters or by_meaning or next(iter(difflib.get_close_matches(lower, names, 1)), "")


def _names(names: Sequence[str]) -> str:
    return join_limited([f"{name}=" for name in names], _SHOWN)
