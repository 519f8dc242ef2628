"""Notes of a version in its annotations: a message, and the artifacts that it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from ocikit import display
from ocikit.client.reader import ContentReader
from ocikit.client.resolver import Resolver
from ocikit.errors import InvalidArgument
from ocikit.spec.annotations import INPUTS, MESSAGE
from ocikit.spec.reference import AnyReference, Reference, ReferenceLike, parse_reference

_INPUTS = 1_000  # references that are read from an annotation; a hostile one could have 50,000
_SHOWN = 60  # characters of an invalid value in a message


def check_message(message: str | None) -> None:
    """Check the message of a version.

    Raises:
        InvalidArgument: It is not text.
    """
    if message is not None and not isinstance(message, str):
        raise InvalidArgument(
            f"message={display.quoted(message, _SHOWN)} is not text", hint="write what has changed as text"
        )


def pin_inputs(reader: ContentReader, inputs: ReferenceLike | Iterable[ReferenceLike]) -> tuple[Reference, ...]:
    """Return the references of inputs, pinned by digest. A tag costs one request.

    Args:
        reader: Resolves the tags.
        inputs: References or artifacts; one of them need not be in a list.

    Raises:
        InvalidArgument: An input is in a layout. Its path would mean nothing elsewhere, and would tell of this machine.
        NotFound: There is no such artifact.
    """
    if isinstance(inputs, str | AnyReference) or hasattr(inputs, "reference"):
        found: Iterable[ReferenceLike] = (inputs,)  # type: ignore[assignment]  # an artifact has a reference
    elif isinstance(inputs, Iterable):
        found = inputs
    else:
        raise InvalidArgument(
            f"inputs={display.quoted(inputs, _SHOWN)} is not a list of references",
            hint='write it like inputs=["host/name:tag"]',
        )
    pinned: dict[str, Reference] = {}
    for text in found:
        reference = parse_reference(text)
        if not isinstance(reference, Reference):
            raise InvalidArgument(
                f"the input {reference} is on disk, where others cannot find it",
                hint="copy it to a registry first, and name that copy",
            )
        if reference.digest is None:
            with reader.backends.open_source(reference) as source:
                digest = Resolver(source, reader.cache).resolve(reference).digest
        else:
            digest = reference.digest
        pinned.setdefault(f"{reference.name}@{digest}", reference.pinned(digest))
    return tuple(pinned.values())


def read_inputs(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Return the texts of the inputs that annotations name. They may be no references.

    >>> read_inputs({"io.ocikit.inputs": '["a.example/b@sha256:…", 7]'}), read_inputs({"io.ocikit.inputs": "{"})
    (('a.example/b@sha256:…',), ())
    """
    try:
        found = json.loads(annotations.get(INPUTS, "[]"))
    except (ValueError, RecursionError):
        return ()
    texts = [text for text in found if isinstance(text, str)] if isinstance(found, list) else []
    return tuple(dict.fromkeys(texts[:_INPUTS]))


def write_inputs(inputs: Iterable[Reference | str], before: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the annotation of inputs, added to those that annotations already name; nothing without inputs."""
    texts = tuple(dict.fromkeys([*read_inputs(before or {}), *map(str, inputs)]))
    return {INPUTS: json.dumps(texts, ensure_ascii=False)} if texts else {}


def write_notes(message: str | None, inputs: Iterable[Reference]) -> dict[str, str]:
    """Return the annotations of a message and of inputs."""
    return ({MESSAGE: message} if message else {}) | write_inputs(inputs)
