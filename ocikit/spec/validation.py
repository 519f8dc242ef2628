"""Validation of documents with the JSON schemas of the image specification.

The folder `schema/` has the published schemas: image-spec schema/. jsonschema is an optional dependency and is imported
on first use.
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

#: The most violations that are reported for one document.
MAX_VIOLATIONS: Final = 100

#: The failures of a keyword: messages, each with the keys of the path below the value.
_Failures: TypeAlias = Iterator[tuple[str, tuple[str, ...]]]

_MANIFEST: Final = "image-manifest-schema.json"
_LAYOUT: Final = "application/vnd.oci.layout.header.v1+json"

#: Docker's documents have the same structure as OCI's.
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

#: The assumed type of a document without a known type, by a key that only one type has.
_SHAPES: Final = {"manifests": media_types.OCI_INDEX, "rootfs": media_types.OCI_CONFIG, "imageLayoutVersion": _LAYOUT}

#: Types that do not determine the schema.
_VAGUE: Final = frozenset({"", "application/json", "text/plain", media_types.OCTET_STREAM})


def find_violations(raw: bytes, media_type: str | None = None, *, limit: int = DOCUMENT_LIMIT) -> tuple[Violation, ...]:
    """Return the violations of a document's JSON schema, in the order of the schema.

    >>> from ocikit.spec.validation import find_violations
    >>> find_violations(b'{"schemaVersion": 2, "manifests": [{"size": "7"}]}')[0]
    Violation(path='$.manifests[0].mediaType', message='required field missing')

    Args:
        raw: The document.
        media_type: The announced type, without regard to parameters: a manifest, an index or an image config of OCI or
            Docker. None uses the type in the document, or infers it from its keys. Types without schema are valid.
        limit: Size of the largest document to validate, in bytes.

    Raises:
        OcikitError: jsonschema is not installed.
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
    violations = [
        Violation(path=json_path(error.path), message=error.message)
        for error in itertools.islice(_validator(_SCHEMAS[kind]).iter_errors(value), MAX_VIOLATIONS + 1)
    ]
    if len(violations) > MAX_VIOLATIONS:
        violations[MAX_VIOLATIONS:] = [Violation(path="$", message=f"only the first {MAX_VIOLATIONS} are reported")]
    return tuple(violations)


def json_path(steps: Iterable[str | int]) -> str:
    """Return the JSON path of keys and indexes.

    >>> from ocikit.spec.validation import json_path
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
    """Return the type whose schema applies: as announced, else as in the document, else inferred from its keys."""
    if announced in _SCHEMAS:
        return announced
    stated = value.get("mediaType")
    if isinstance(stated, str) and stated.lower() in _SCHEMAS:
        return stated.lower()
    if stated == media_types.OCI_ARTIFACT:
        return None
    inferred = (kind for key, kind in _SHAPES.items() if key in value)
    return next(inferred, media_types.OCI_MANIFEST) if announced in _VAGUE else None


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    """Return a Docker document without nulls: moby writes `"Env": null`, and null means absent.

    moby/docker-image-spec spec.md#image-json-field-descriptions.
    """
    result = {key: item for key, item in value.items() if item is not None}
    for key in ("config", "rootfs"):
        if isinstance(result.get(key), dict):
            result[key] = {name: item for name, item in result[key].items() if item is not None}
    return result


# The schemas


@functools.cache
def _validator(name: str) -> Any:
    """Return the validator of a schema.

    Raises:
        OcikitError: jsonschema is not installed.
    """
    try:
        import jsonschema  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise OcikitError(
            "jsonschema is needed to validate documents and is not installed", hint="pip install ocikit[validate]"
        ) from error
    schema = _resolved(_read(name), _read(name))
    if name == _MANIFEST:
        # The schema is stricter than the text. A manifest without layers is valid (image-spec manifest.md: "For
        # portability, `layers` SHOULD have at least one entry"), and the conformance suite pushes one.
        del schema["properties"]["layers"]["minItems"]

    def failing(keyword: Callable[[Any, Any, Any], _Failures]) -> Callable[..., Any]:
        """Return a keyword in the form that jsonschema calls."""

        def call(_: Any, expected: Any, value: Any, schema: Any) -> Iterator[Any]:
            for message, path in keyword(expected, value, schema):
                yield jsonschema.ValidationError(message, path=path)

        return call

    # Replace jsonschema's messages, which contain the whole value. DoS: a hostile document would make them huge, slow
    # to build and too deeply nested for repr.
    keywords = {key: failing(keyword) for key, keyword in _KEYWORDS.items()}
    validator = jsonschema.validators.extend(
        jsonschema.Draft4Validator, {**keywords, "items": _items, "oneOf": _one_of}
    )
    return validator(schema)


@functools.cache
def _read(name: str) -> Any:
    from importlib import resources  # noqa: PLC0415 - used only together with jsonschema

    return json.loads((resources.files("ocikit.spec") / "schema" / name).read_text("utf-8"))


def _resolved(schema: Any, document: Any) -> Any:
    """Return a copy of a schema with every `$ref` replaced by its target.

    This needs no network and no lookup per descriptor. The files refer to each other by file name, not by their `id`s
    on opencontainers.org, and have no circular references.
    """
    if isinstance(schema, list):
        return [_resolved(item, document) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(target := schema.get("$ref"), str):
        file, _, pointer = target.partition("#")
        document = _read(file) if file else document
        steps = [step for step in pointer.split("/") if step]
        resolved = _resolved(functools.reduce(lambda value, step: value[step], steps, document), document)
        return {"title": _TITLES[steps[-1]], **resolved} if steps and steps[-1] in _TITLES else resolved
    # Remove `$schema`: jsonschema would use its own keywords below it.
    copy = {key: _resolved(item, document) for key, item in schema.items() if key != "$schema"}
    if isinstance(pattern := copy.get("pattern"), str):
        # In ECMA 262 `$` matches only at the end; in Python it also matches before a final newline.
        copy["pattern"] = re.sub(r"\$$", r"\\Z", pattern)
    if copy.get("maximum") == 9223372036854776000:
        copy["maximum"] = 2**63 - 1  # JavaScript rounded it
    return copy


#: Descriptions of the definitions with patterns, for messages.
_TITLES: Final = {
    "mediaType": 'a media type such as "application/json"',
    "digest": 'a digest such as "sha256:" and 64 hex digits',
}


# The keywords


def _items(validator: Any, schema: Any, value: Any, _: Any) -> Iterator[Any]:
    """Validate items as jsonschema does, but with one validator.

    This is three times as fast for a document with a million empty strings.
    """
    if isinstance(value, list):
        item_validator = validator.evolve(schema=schema)
        for index, item in enumerate(value):
            for error in item_validator.iter_errors(item):
                error.path.appendleft(index)
                yield error


def _one_of(validator: Any, schemas: Any, value: Any, _: Any) -> Iterator[Any]:
    """Validate `oneOf`, which in these schemas is one schema or null, so that errors have the path of their value."""
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


def _type(expected: str, value: Any, _: Any) -> _Failures:
    kind, name = _TYPES[expected]
    if type(value) is not kind:  # bool is an int in Python, not in JSON
        yield f"expected {name}, found {_NAMES[type(value)]}", ()


def _enum(expected: list[Any], value: Any, _: Any) -> _Failures:
    if isinstance(value, str) and value not in expected:  # another type violates "type"
        yield f"expected {' or '.join(map(display.quoted, expected))}, found {display.quoted(value, 60)}", ()


def _required(expected: list[str], value: Any, _: Any) -> _Failures:
    if isinstance(value, dict):
        yield from (("required field missing", (key,)) for key in expected if key not in value)


def _pattern(expected: str, value: Any, schema: Any) -> _Failures:
    if isinstance(value, str) and not re.search(expected, value):
        yield f"expected {schema.get('title', expected)}, found {display.quoted(value, 60)}", ()


def _minimum(expected: int, value: Any, schema: Any) -> _Failures:
    if type(value) is int and value < expected:
        more = "" if schema.get("maximum") == expected else " or more"
        yield f"expected {expected}{more}, found {display.quoted(value, 40)}", ()


def _maximum(expected: int, value: Any, schema: Any) -> _Failures:
    if type(value) is int and value > expected:
        less = "" if schema.get("minimum") == expected else " or less"
        yield f"expected {expected}{less}, found {display.quoted(value, 40)}", ()


def _format(expected: str, value: Any, _: Any) -> _Failures:
    description, is_valid = _FORMATS[expected]
    if isinstance(value, str) and not is_valid(value):
        yield f"expected {description}, found {display.quoted(value, 60)}", ()


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
