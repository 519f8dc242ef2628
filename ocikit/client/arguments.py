"""Checks of the arguments of verbs, made before anything is read or sent."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, TypeAlias, get_args

from ocikit import display
from ocikit.dialects.recognise import AUTO
from ocikit.errors import ContentError, InvalidArgument, InvalidReference, NotFound, OcikitError
from ocikit.progress.base import Progress
from ocikit.spec.arguments import check_mapping, to_texts
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.media_types import ARCHIVES, SHARDS
from ocikit.spec.reference import AnyReference, Reference, RegistryHost, parse_reference
from ocikit.spec.titles import LINKS

if TYPE_CHECKING:
    from ocikit.descriptions.card import Card

StrPath: TypeAlias = str | os.PathLike[str]

#: What is pushed: the path of a file or folder, or contents by name. A content is bytes, a path, or a file object.
PushedPath: TypeAlias = StrPath | Mapping[str, bytes | bytearray | memoryview | StrPath | BinaryIO]

#: How a call shows progress: True or "auto" as fits the environment, False or "none" not at all, or a listener.
ProgressLike: TypeAlias = bool | str | Progress | None

#: RFC 6838 section 4.2; image-spec manifest.md requires it of artifact types.
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")

_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*(?:([KMGT])(i)?)?B?\s*", re.IGNORECASE)

#: The formats of other tools' models that a push writes. "kitops" is "kit", by the name that artifacts have.
Written: TypeAlias = Literal["modelpack", "kit", "kitops", "docker"]
WRITTEN: Final[tuple[Written, ...]] = get_args(Written)

#: Settings of `progress` as text.
_PROGRESS: Final = ("auto", "text", "none")

_SHOWN = 60  # characters of an invalid value in a message


def check_workers(workers: int) -> int:
    """Return the number of workers.

    Raises:
        InvalidArgument: It is below one.
    """
    if not isinstance(workers, int) or workers < 1:
        raise InvalidArgument(
            f"workers={workers!r} is invalid", hint="pass the number of parallel transfers, 1 or more"
        )
    return workers


def to_bytes(size: int | str, name: str) -> int:
    """Return a number of bytes, from a number or a text such as "256MiB".

    Args:
        size: The number or text.
        name: The argument, for the message.

    >>> to_bytes("256MiB", "shard_size"), to_bytes("1.5 GB", "shard_size")
    (268435456, 1500000000)

    Raises:
        InvalidArgument: It is neither, or not above 0.
    """
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is not None:
        number = float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index((match[2] or " ").upper())
    else:
        number = size if isinstance(size, int) and not isinstance(size, bool) else 0
    if number < 1:
        raise InvalidArgument(
            f"{name}={display.quoted(size, _SHOWN)} is not a size",
            hint='write it like "256MiB", or as a number of bytes',
        )
    return int(number)


def check_progress(progress: ProgressLike) -> ProgressLike:
    """Return the argument `progress` of sessions and verbs.

    Raises:
        InvalidArgument: It is not a setting of bars.
    """
    if (
        progress is None
        or isinstance(progress, bool | Progress)
        or (isinstance(progress, str) and progress in _PROGRESS)
    ):
        return progress
    raise InvalidArgument(
        f"progress={display.quoted(progress, _SHOWN)} is unknown",
        hint=f"use True, False, {display.join_limited(map(repr, _PROGRESS))} or a Progress",
    )


def check_artifact_type(artifact_type: str | None) -> str | None:
    """Return the argument `artifact_type` of a selection.

    Raises:
        InvalidArgument: It is not text.
    """
    if artifact_type is not None and not isinstance(artifact_type, str):
        raise InvalidArgument(
            f"artifact_type={display.quoted(artifact_type, _SHOWN)} is not a media type",
            hint='write it like "application/spdx+json"',
        )
    return artifact_type


def check_login_key(host: str) -> str:
    """Return a host, or a host with a path, under which credentials are stored.

    Raises:
        InvalidReference: It is empty or not a string.
    """
    return host if isinstance(host, str) and host.strip() else RegistryHost.parse(host).name


def to_patterns(patterns: str | Iterable[str], example: str = "*.csv") -> tuple[str, ...]:
    """Return one or several patterns as a tuple.

    Args:
        patterns: The argument.
        example: A pattern, for the message.

    Raises:
        InvalidArgument: A pattern is not a string.
    """
    if isinstance(patterns, str):
        return (patterns,)
    result = tuple(patterns) if isinstance(patterns, Iterable) else (patterns,)
    for pattern in result:
        if not isinstance(pattern, str):
            raise InvalidArgument(
                f"a pattern is text, not {type(pattern).__name__}: {display.quoted(pattern, _SHOWN)}",
                hint=f'write it like "{example}"; pass several as a list',
            )
    return result


def tags_of(reference: AnyReference, tags: Iterable[str], *, default: bool) -> tuple[str, ...]:
    """Return the tag of a reference and more tags, each once.

    Args:
        reference: The reference to push to.
        tags: More tags.
        default: Use "latest" if the reference has neither tag nor digest.
    """
    tags = [tags] if isinstance(tags, str) else to_texts(tags, "tags")
    first = [reference.tag] if reference.tag else ["latest"] if default and reference.digest is None else []
    return tuple(dict.fromkeys([*first, *tags]))


def check_digest(reference: AnyReference, root: Descriptor) -> None:
    """Compare the digest in a target reference with the content to push.

    Raises:
        InvalidReference: The digests differ.
    """
    if reference.digest is not None and reference.digest != root.digest:
        raise InvalidReference(
            f"the content for {reference.name} has the digest {root.digest}, not {reference.digest}",
            hint="leave the digest out of the target",
        )


def check_push(
    paths: Sequence[Any],
    archive: str | None,
    shards: str | None,
    links: str,
    config: Any,
    annotations: Any,
    types: Mapping[str, str | None],
    *,
    index: bool = False,
) -> bytes | None:
    """Check the arguments of a push and return the bytes of the config.

    Args:
        paths: Files and folders.
        archive: Kind of archive for folders.
        shards: Kind of shards for folders.
        links: How to handle symlinks.
        config: Bytes, or a mapping to write as JSON.
        annotations: Annotations of the manifest.
        types: Media types by the names of their arguments.
        index: Whether to write a nested index.

    Raises:
        InvalidArgument: An argument has the wrong type or value.
    """
    for path in paths:
        _check_path(path)
    if archive is not None and archive not in ARCHIVES:
        raise InvalidArgument(f"archive={archive!r} is unknown", hint=f"use one of {display.join_limited(ARCHIVES)}")
    if shards is not None and shards not in SHARDS:
        raise InvalidArgument(f"shards={shards!r} is unknown", hint=f"use one of {display.join_limited(SHARDS)}")
    if shards is not None and archive is not None:
        raise InvalidArgument("archive= and shards= exclude each other", hint="use one of them")
    if index and (archive is not None or shards is not None):
        raise InvalidArgument(
            f"index= and {'archive' if archive is not None else 'shards'}= exclude each other", hint="use one of them"
        )
    if index and (config is not None or any(text is not None for text in types.values())):
        raise InvalidArgument(
            "index=True takes no config= and no artifact_type=: a nested index has a type of its own and no config",
            hint="describe it with annotations=, or push without index=",
        )
    if links not in LINKS:
        raise InvalidArgument(f"links={links!r} is unknown", hint=f"use one of {display.join_limited(LINKS)}")
    if annotations is not None and not isinstance(annotations, Mapping):
        check_mapping(annotations, "annotations", '{"org.example.key": "value"}')
    for key, value in dict(annotations or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgument(
                f"the annotation {display.quoted(key, _SHOWN)} is not text: {display.quoted(value, _SHOWN)}",
                hint="convert the value with str(…)",
            )
    for name, text in types.items():
        if text is not None and (not isinstance(text, str) or _MEDIA_TYPE.fullmatch(text) is None):
            raise InvalidArgument(
                f"{name}={display.quoted(text, _SHOWN)} is not a media type",
                hint='write it like "application/vnd.example.report.v1+json"',
            )
    return _config_bytes(config)


def _check_path(path: Any) -> None:
    """Check a path, or a mapping from names to paths and bytes."""
    if isinstance(path, Mapping):
        for title, content in path.items():
            if not isinstance(title, str):
                raise InvalidArgument(
                    f"the name of a file is text, not {type(title).__name__}: {display.quoted(title, _SHOWN)}",
                    hint='write it like {"notes.txt": b"…"}',
                )
            _check_content(title, content)
    elif not isinstance(path, str | os.PathLike):
        kind = type(path).__name__
        # The repr of other objects, such as tables, has many lines
        shown = (
            f": {display.quoted(path, _SHOWN)}"
            if isinstance(path, int | float | bytes | list | tuple | set | None)
            else ""
        )
        if isinstance(path, list | tuple | set):
            hint = "unpack the list: push(ref, *paths)"
        elif isinstance(path, int | float | bytes | bytearray | None) or hasattr(path, "read"):
            hint = 'pass a str or a Path, or content with its name: {"notes.txt": b"…"}'
        else:
            hint = f"save it in a format for its kind: ocikit.save(ref, {kind.lower()})"
        raise InvalidArgument(f"a path cannot be of type {kind}{shown}", hint=hint)
    elif getattr(path, "path", "") is None and isinstance(found := getattr(path, "reference", None), AnyReference):
        raise InvalidArgument(
            f"{found.name} is an artifact that is not in a folder",
            hint="copy it: ocikit.copy(artifact, ref); or name files of it: push(ref, artifact[name])",
        )


def _check_content(title: str, content: Any) -> None:
    """Check the content of a file that a mapping names."""
    if isinstance(content, bytes | bytearray | memoryview | str | os.PathLike) or callable(
        getattr(content, "read", None)
    ):
        return
    plain = isinstance(content, int | float | list | tuple | dict | set | None)
    raise InvalidArgument(
        f"the content of {display.quoted(title, _SHOWN)} cannot be of type {type(content).__name__}",
        hint="pass bytes, the path of a file, or a file that is open for reading"
        if plain
        else f"save it in a format for its kind: ocikit.save(ref, {{{display.quoted(title, _SHOWN)}: …}})",
    )


def check_order(ref: Any, paths: Sequence[Any]) -> None:
    """Check that the arguments of a push are not swapped: a path first, and then the reference.

    Raises:
        InvalidReference: They are.
    """
    path, other = ref, paths[-1] if paths else None
    if (
        not isinstance(path, str | PurePath)
        or not isinstance(other, str)
        or not os.path.exists(os.path.expanduser(path))
    ):
        return
    try:
        is_swapped = str(parse_reference(other)).startswith(other) and not os.path.exists(os.path.expanduser(other))
    except OcikitError:
        return
    if is_swapped:
        raise InvalidReference(
            f"{display.quoted(str(path), _SHOWN)} is a path, not a reference",
            hint=f"the reference comes first: push({other!r}, {display.quoted(str(path), _SHOWN)})",
        )


def check_target(ref: Any) -> None:
    """Check that a push or copy does not go to an official image of Docker Hub, which a bare name stands for.

    Raises:
        InvalidReference: It does. Only Docker's own builds write there.
    """
    if isinstance(ref, str) and not set(ref) & set("/@"):
        reference = parse_reference(ref)
        if isinstance(reference, Reference):
            account = f"docker.io/ACCOUNT/{ref}"
            raise InvalidReference(
                f"{display.quoted(ref, _SHOWN)} is the official image {reference} of Docker Hub, which is read-only",
                hint=f"a folder on disk is written {display.quoted(f'oci:{ref}', _SHOWN)}, your own repository {display.quoted(account, _SHOWN)}",
            )


def to_readme(card: Card | StrPath) -> bytes:
    """Return the README of an artifact.

    Args:
        card: A card, the text of one, or the path of a README. Text of one line that ends with ".md" is a path.

    Raises:
        InvalidArgument: It is none of these, or its front matter cannot be written.
        NotFound: There is no such file.
        ContentError: It is larger than a card may be, or cannot be read.
    """
    from ocikit.descriptions.card import LIMIT, Card  # noqa: PLC0415 - 5 ms that few calls need

    if isinstance(card, Card):
        content = card.to_bytes()
    elif isinstance(card, os.PathLike) or (isinstance(card, str) and card.lower().endswith(".md") and "\n" not in card):
        content = _read_start(os.path.expanduser(card), LIMIT + 1)
    elif isinstance(card, str):
        content = Card(card).to_bytes()
    else:
        raise InvalidArgument(
            f"card is a {type(card).__name__}, not a card", hint="pass text, the path of a README, or an ocikit.Card"
        )
    if len(content) > LIMIT:
        raise ContentError(
            f"the card has more than {display.size(LIMIT)}, which is the limit",
            hint='push it as a file of another name: {"notes.md": "README.md"}',
        )
    return content


def _read_start(path: str, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except FileNotFoundError as error:
        raise NotFound(
            f"cannot read {path!r}: {error.strerror}",
            hint='a card is text, or the path of a README such as "README.md"',
        ) from error
    except OSError as error:
        raise ContentError(
            f"reading {path!r} failed: {error.strerror or error}", hint="make it readable for this user"
        ) from error


def check_written(as_: str | None, only: Mapping[str, Any], excluded: Mapping[str, Any]) -> None:
    """Check the arguments of a push that depend on its dialect.

    Args:
        as_: The dialect, or None.
        only: Arguments that need a dialect.
        excluded: Arguments that a dialect sets itself.

    Raises:
        InvalidArgument: The dialect is unknown, or an argument does not fit.
    """
    if as_ is not None and as_ not in WRITTEN:
        raise InvalidArgument(
            f"as_={display.quoted(as_, _SHOWN)} is unknown", hint=f"use one of {display.join_limited(WRITTEN)}"
        )
    for name, value in only.items():
        if value is not None and as_ is None:
            raise InvalidArgument(f"{name}= needs as_=", hint=f'name the format of the model: as_="{WRITTEN[0]}"')
        if value is not None and not isinstance(value, Mapping):
            check_mapping(value, name, '{"name": "tiny"}' if name == "model" else '{"*.csv": "dataset"}')
    names = [f"{name}=" for name, value in excluded.items() if value is not None and as_ is not None]
    if names:
        raise InvalidArgument(
            f"as_={as_!r} excludes {display.join_limited(names)}",
            hint="leave them out: the format of the model decides about types, config and layers",
        )


def _config_bytes(config: Any) -> bytes | None:
    if config is None or isinstance(config, bytes):
        return config
    if not isinstance(config, Mapping):
        raise InvalidArgument(
            f"config is a {type(config).__name__}, not a mapping", hint="pass a mapping for JSON, or bytes"
        )
    try:
        return json.dumps(dict(config)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"config can't be written as JSON: {error}", hint="pass bytes, or plain values"
        ) from error


def check_dialect(dialect: str | None) -> str | None:
    """Return the argument `dialect` of verbs.

    Raises:
        InvalidArgument: It is neither "auto" nor None.
    """
    if dialect not in {None, AUTO}:
        raise InvalidArgument(
            f"dialect={display.quoted(dialect)} is not a choice",
            hint="leave it out, or pass dialect=None for the layers as they are",
        )
    return dialect


def check_root(
    root: str, to: StrPath | None, include: str | Iterable[str], exclude: str | Iterable[str], archive: bool | None
) -> None:
    """Check the arguments of a pull with `root`.

    Raises:
        InvalidArgument: It is not a folder within an image, there is no folder to pull to, or another argument chooses
            layers.
    """
    if not isinstance(root, str) or not root.strip("/.") or ".." in root.split("/"):
        raise InvalidArgument(f"root={display.quoted(root)} is not a folder of an image", hint='such as root="models"')
    if to is None:
        raise InvalidArgument("root= needs a folder to write to", hint='pull(ref, "folder/", root="models")')
    if include or exclude or archive is not None:
        raise InvalidArgument(
            "root= does not go with include=, exclude= or archive=",
            hint="they choose layers, and root= a folder in them",
        )
