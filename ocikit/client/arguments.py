"""What verbs are given, looked at before anything is done: a slip costs a message, not half a push."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ocikit import display
from ocikit.errors import InvalidArgument, InvalidReference
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.media_types import ARCHIVES
from ocikit.spec.reference import AnyReference, RegistryHost

#: RFC 6838 section 4.2; image-spec manifest.md wants artifact types to be so.
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


def check_workers(workers: int) -> int:
    """The number of workers. Raises: InvalidArgument: below one."""
    if not isinstance(workers, int) or workers < 1:
        raise InvalidArgument(f"workers={workers!r}", hint="how many transfers at once: 1 or more")
    return workers


def check_name(host: str) -> str:
    """The name under which credentials are kept, if it is one at all. Raises: InvalidReference."""
    return host if isinstance(host, str) and host.strip() else RegistryHost.parse(host).name


def to_patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    """One pattern or many as a tuple. Raises: InvalidArgument: for what is no text."""
    patterns = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else (given,)
    if wrong := [p for p in patterns if not isinstance(p, str)]:
        raise InvalidArgument(
            f"a pattern is text, not {type(wrong[0]).__name__}: {display.quoted(wrong[0], 60)}",
            hint='write it like "*.csv" or "data/"; several go in a list',
        )
    return patterns


def check_digest(reference: AnyReference, root: Descriptor) -> None:
    """Raises: InvalidReference: if a target names another digest than what goes there."""
    if reference.digest is not None and reference.digest != root.digest:
        raise InvalidReference(
            f"{reference.name} would get {root.digest}, but {reference.digest} was asked for",
            hint="leave the digest out of the target",
        )


def check_push(
    paths: Sequence[Any], archive: str | None, config: Any, annotations: Any, types: Mapping[str, str | None]
) -> bytes | None:
    """Look at the arguments of a push before anything is read; gives the config's bytes. Raises: InvalidArgument."""
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            hint = (
                "unpack the list: push(ref, *paths)" if isinstance(path, list | tuple | set) else "pass a str or a Path"
            )
            raise InvalidArgument(f"a path is text, not {type(path).__name__}: {display.quoted(path, 60)}", hint=hint)
    if archive is not None and archive not in ARCHIVES:
        raise InvalidArgument(
            f"archive={archive!r} is no kind of archive", hint=f"there is {display.join_limited(ARCHIVES)}"
        )
    for key, value in dict(annotations or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgument(
                f"the annotation {display.quoted(key, 60)} is {display.quoted(value, 60)}",
                hint="annotations are texts: convert the value with str(…)",
            )
    for name, text in types.items():
        if text is not None and (not isinstance(text, str) or _MEDIA_TYPE.fullmatch(text) is None):
            raise InvalidArgument(
                f"{name}={display.quoted(text, 60)} is not a media type",
                hint='write it like "application/vnd.example.report.v1+json"',
            )
    if config is None or isinstance(config, bytes):
        return config
    try:
        if isinstance(config, Mapping):
            return json.dumps(dict(config)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"config can't be written as JSON: {error}", hint="pass bytes, or plain values"
        ) from error
    raise InvalidArgument(f"config is a {type(config).__name__}", hint="pass a mapping for JSON, or bytes")
