"""Whether documents are what the image specification's JSON schemas say; every violation, with its place.

The schemas lie beside, in `schema/`, as the specification publishes them: image-spec schema/. jsonschema goes through
them; it is an extra, loaded on use.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import Any, Final, TypeAlias

from ocikit import display
from ocikit.errors import InvalidDocument, OcikitError, Violation
from ocikit.spec import media_types
from ocikit.spec.document import DOCUMENT_LIMIT, load_json

#: The most violations of one document that are told: who made a thousand mistakes made one, a thousand times.
MAX_VIOLATIONS: Final = 100

#: What a keyword finds wrong: messages, each with the keys that lead to its place.
_Failures: TypeAlias = Iterator[tuple[str, tuple[str, ...]]]

_MANIFEST: Final = "image-manifest-schema.json"
_LAYOUT: Final = "application/vnd.oci.layout.header.v1+json"

#: Docker's documents have the same shape as OCI's, which were made from them.
_SCHEMAS: Final = {
    media_types.OCI_MANIFEST: _MANIFEST,
    media_types.DOCKER_MANIFEST: _MANIFEST,
    media_types.OCI_INDEX: "image-index-schema.json",
    media_types.DOCKER_INDEX: "image-index-schema.json",
    media_types.OCI_CONFIG: "config-schema.json",
    media_types.DOCKER_CONFIG: "config-schema.json",
    "application/vnd.oci.descriptor.v1+json": "content-descriptor.json",
    _LAYOUT: "image-layout-schema.json",
}
_DOCKER: Final = frozenset({media_types.DOCKER_MANIFEST, media_types.DOCKER_INDEX, media_types.DOCKER_CONFIG})

#: What a document without a known type is taken for, by a key that only one kind has.
_SHAPES: Final = {"manifests": media_types.OCI_INDEX, "rootfs": media_types.OCI_CONFIG, "imageLayoutVersion": _LAYOUT}

#: Types that say no more than that it is JSON, or not even that.
_VAGUE: Final = frozenset({"", "application/json", "text/plain", media_types.OCTET_STREAM})


def find_violations(raw: bytes, media_type: str | None = None, *, limit: int = DOCUMENT_LIMIT) -> tuple[Violation, ...]:
    """Everything in a document that breaks its JSON schema, in the schema's order; empty if nothing does.

    >>> find_violations(b'{"schemaVersion": 2, "manifests": [{"size": "7"}]}')[0]
    Violation(path='$.manifests[0].mediaType', message='required field missing')

    Args:
        raw: the document.
        media_type: what it was announced as: a manifest, an index or an image's config, OCI's or Docker's; parameters
            are ignored. None goes by what the document says or looks like. Types that have no schema break none.
        limit: the largest document to look into, in bytes.
    Raises:
        OcikitError: if jsonschema is not installed.
    """
    try:
        value = load_json(raw, "the document", limit=limit)
    except InvalidDocument as error:
        return error.problems
    kind = _kind((media_type or "").partition(";")[0].strip().lower(), value)
    if kind is None:
        return ()
    if kind in _DOCKER:
        value = _without_nulls(value)
    found = [
        Violation(path=json_path(error.path), message=error.message)
        for error in itertools.islice(_validator(_SCHEMAS[kind]).iter_errors(value), MAX_VIOLATIONS + 1)
    ]
    if len(found) > MAX_VIOLATIONS:
        found[MAX_VIOLATIONS:] = [Violation(path="$", message=f"and more: these are the first {MAX_VIOLATIONS}")]
    return tuple(found)


def json_path(steps: Iterable[str | int]) -> str:
    """A JSON path from keys and indexes.

    >>> json_path(["layers", 2, "annotations", "org.example.key"])
    "$.layers[2].annotations['org.example.key']"
    """
    return "$" + "".join(
        f".{step}"
        if isinstance(step, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,80}", step)
        else f"[{display.quoted(step)}]"
        for step in steps
    )


def _kind(announced: str, value: dict[str, Any]) -> str | None:
    """The type of a document that has a schema: as announced, else as it says, else as it looks."""
    if announced in _SCHEMAS:
        return announced
    said = value.get("mediaType")
    if isinstance(said, str) and said.lower() in _SCHEMAS:
        return said.lower()
    looks = (kind for key, kind in _SHAPES.items() if key in value)
    return next(looks, media_types.OCI_MANIFEST) if announced in _VAGUE else None


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    """A Docker document less its nulls: moby writes `"Env": null`, where null means absent.

    moby/docker-image-spec spec.md#image-json-field-descriptions.
    """
    kept = {key: item for key, item in value.items() if item is not None}
    for key in ("config", "rootfs"):
        if isinstance(kept.get(key), dict):
            kept[key] = {name: item for name, item in kept[key].items() if item is not None}
    return kept


# The schemas


@functools.cache
def _validator(name: str) -> Any:
    """The validator for one of the schemas. Raises: OcikitError: if it isn't installed."""
    try:
        import jsonschema  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra, loaded when first needed
    except ImportError as error:
        raise OcikitError(
            "jsonschema is needed to validate documents and is not installed", hint="pip install ocikit[validate]"
        ) from error
    schema = _resolved(_read(name), _read(name))
    if name == _MANIFEST:
        # A manifest without layers is legal (image-spec manifest.md: "For portability, `layers` SHOULD have at least
        # one entry"), and the conformance suite pushes one; the schema is stricter than the text
        del schema["properties"]["layers"]["minItems"]

    def failing(keyword: Callable[[Any, Any, Any], _Failures]) -> Callable[..., Any]:
        """A keyword of ours as jsonschema calls it."""

        def call(_: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
            for message, path in keyword(wanted, value, schema):
                yield jsonschema.ValidationError(message, path=path)

        return call

    # Their messages hold the whole value, be it the document: long, slow, and too deep for repr. Ours hold its kind
    keywords = {key: failing(keyword) for key, keyword in _KEYWORDS.items()}
    made = jsonschema.validators.extend(jsonschema.Draft4Validator, {**keywords, "items": _items, "oneOf": _one_of})
    return made(schema)


@functools.cache
def _read(name: str) -> Any:
    from importlib import resources  # noqa: PLC0415 - as above

    return json.loads((resources.files("ocikit.spec") / "schema" / name).read_text("utf-8"))


def _resolved(schema: Any, document: Any) -> Any:
    """A copy of a schema with what `$ref` names in its place: no network, and no look-up for each descriptor.

    Files name each other by their names, not by the `id`s at opencontainers.org; none is in a circle.
    """
    if isinstance(schema, list):
        return [_resolved(item, document) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(target := schema.get("$ref"), str):
        file, _, pointer = target.partition("#")
        document = _read(file) if file else document
        steps = [step for step in pointer.split("/") if step]
        found = _resolved(functools.reduce(lambda value, step: value[step], steps, document), document)
        return {"title": _WORDS[steps[-1]], **found} if steps and steps[-1] in _WORDS else found
    # jsonschema would go on with its own keywords below a `$schema`
    copy = {key: _resolved(item, document) for key, item in schema.items() if key != "$schema"}
    if isinstance(pattern := copy.get("pattern"), str):
        # `$` of ECMA 262 is the end; Python's allows a line's end before it
        copy["pattern"] = re.sub(r"\$$", r"\\Z", pattern)
    if copy.get("maximum") == 9223372036854776000:
        copy["maximum"] = 2**63 - 1  # which JavaScript rounds to that
    return copy


#: What the definitions with patterns mean, for messages.
_WORDS: Final = {
    "mediaType": 'a media type such as "application/json"',
    "digest": 'a digest such as "sha256:" and 64 hex digits',
}


# The keywords


def _items(validator: Any, schema: Any, value: Any, _: Any) -> Iterator[Any]:
    """As jsonschema's, with one validator for all items: a document of a million empty strings takes a third."""
    if isinstance(value, list):
        each = validator.evolve(schema=schema)
        for index, item in enumerate(value):
            for error in each.iter_errors(item):
                error.path.appendleft(index)
                yield error


def _one_of(validator: Any, schemas: Any, value: Any, _: Any) -> Iterator[Any]:
    """In these schemas always one thing or null: what is wrong is told by its place, not as "valid under none"."""
    for schema in schemas:
        if schema != {"type": "null"} and value is not None:
            yield from validator.descend(value, schema)


_TYPES: Final[dict[str, tuple[type, str]]] = {
    "array": (list, "an array"),
    "boolean": (bool, "true or false"),
    "integer": (int, "an integer"),
    "null": (type(None), "null"),
    "object": (dict, "an object"),
    "string": (str, "a string"),
}
_NAMES: Final = dict(_TYPES.values()) | {float: "a number"}


def _type(wanted: str, value: Any, _: Any) -> _Failures:
    kind, name = _TYPES[wanted]
    if type(value) is not kind:  # bool is an int in Python, not in JSON
        yield f"expected {name}, found {_NAMES[type(value)]}", ()


def _enum(wanted: list[Any], value: Any, _: Any) -> _Failures:
    if isinstance(value, str) and value not in wanted:  # what is no string breaks "type"
        yield f"expected {' or '.join(map(display.quoted, wanted))}, found {display.quoted(value, 60)}", ()


def _required(wanted: list[str], value: Any, _: Any) -> _Failures:
    if isinstance(value, dict):
        yield from (("required field missing", (key,)) for key in wanted if key not in value)


def _pattern(wanted: str, value: Any, schema: Any) -> _Failures:
    if isinstance(value, str) and not re.search(wanted, value):
        yield f"expected {schema.get('title', wanted)}, found {display.quoted(value, 60)}", ()


def _minimum(wanted: int, value: Any, schema: Any) -> _Failures:
    if type(value) is int and value < wanted:
        yield (
            f"expected {wanted}{'' if schema.get('maximum') == wanted else ' or more'}, found {display.quoted(value, 40)}",
            (),
        )


def _maximum(wanted: int, value: Any, schema: Any) -> _Failures:
    if type(value) is int and value > wanted:
        yield (
            f"expected {wanted}{'' if schema.get('minimum') == wanted else ' or less'}, found {display.quoted(value, 40)}",
            (),
        )


def _format(wanted: str, value: Any, _: Any) -> _Failures:
    words, fits = _FORMATS[wanted]
    if isinstance(value, str) and not fits(value):
        yield f"expected {words}, found {display.quoted(value, 60)}", ()


_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*")


def _is_time(text: str) -> bool:
    if _TIME.fullmatch(text) is None:
        return False
    try:
        date.fromisoformat(text[:10])
    except ValueError:
        return False
    return True


_FORMATS: Final[dict[str, tuple[str, Callable[[str], bool]]]] = {
    "date-time": ('a time of RFC 3339 such as "2015-10-31T22:22:56Z"', _is_time),
    "uri": ('a URI such as "https://example.com/blob"', lambda text: _URI.fullmatch(text) is not None),
}

_KEYWORDS: Final[dict[str, Callable[[Any, Any, Any], _Failures]]] = {
    "enum": _enum,
    "format": _format,
    "maximum": _maximum,
    "minimum": _minimum,
    "pattern": _pattern,
    "required": _required,
    "type": _type,
}
