"""Documents: parsed JSON that knows the bytes it came from, and the one converter between the two."""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NoReturn, Self, TypeVar, cast, get_args, get_origin

import attrs
from attrs import field, frozen

from ocikit import display
from ocikit.errors import InvalidDocument, OcikitError
from ocikit.spec.annotations import Annotations, FrozenMap, freeze, thaw, to_frozen
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest

T = TypeVar("T")

#: Bytes. Registries must take manifests of 4 MiB (distribution-spec spec.md#pushing-manifests); most take no more.
DOCUMENT_LIMIT = 4 * 1024 * 1024

#: Levels of nested indexes that are followed; real ones have two.
MAX_INDEX_DEPTH = 8

#: Wrong items of one array that are told apart.
_PROBLEMS = 100

_SIZE_LIMIT = 2**63 - 1  # int64, as every other client reads it


@frozen(kw_only=True, repr=False)
class Document(display.Displayable):
    """A JSON document with the exact bytes it was parsed from.

    Two documents with equal fields may differ in bytes, and so in digest: compare digests to compare content.
    `attrs.evolve` gives a document without the old bytes; it is encoded anew when `raw` is first asked for.
    """

    media_type: str | None = None
    extra: FrozenMap[Any] = field(factory=FrozenMap, converter=to_frozen)
    """Keys that this version doesn't know; they are encoded again."""
    _raw: bytes | None = field(default=None, init=False, eq=False, repr=False)
    _digest: Digest | None = field(default=None, init=False, eq=False, repr=False)

    #: The type of a document that doesn't name one.
    default_media_type: ClassVar[str] = ""

    @classmethod
    def parse(cls, raw: bytes, *, limit: int = DOCUMENT_LIMIT) -> Self:
        """The document that the bytes spell.

        Args:
            raw: JSON in UTF-8; kept as they are.
            limit: the largest document to accept, in bytes.
        Raises:
            InvalidDocument: with a JSON path for each thing that is wrong.
        """
        document = structure(load_json(raw, cls.__name__, limit=limit), cls)
        object.__setattr__(document, "_raw", bytes(raw))
        return document

    @property
    def raw(self) -> bytes:
        """The bytes: as parsed, or encoded once for a document made here. Raises: InvalidDocument: see `encode`."""
        if self._raw is None:
            object.__setattr__(self, "_raw", encode(self))
        return cast("bytes", self._raw)

    @property
    def digest(self) -> Digest:
        """The sha256 digest of `raw`."""
        if self._digest is None:
            object.__setattr__(self, "_digest", Digest.of(self.raw))
        return cast("Digest", self._digest)

    @property
    def size(self) -> int:
        """The length of `raw`, in bytes."""
        return len(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        """What names this document."""
        return Descriptor(
            media_type=self.media_type or self.default_media_type,
            digest=self.digest,
            size=self.size,
            artifact_type=getattr(self, "artifact_type", None),
        )

    def to_dict(self) -> dict[str, Any]:
        """The document as plain JSON values, unknown keys included."""
        return cast("dict[str, Any]", json.loads(self.raw))


def load_json(raw: bytes, what: str, *, limit: int = DOCUMENT_LIMIT) -> dict[str, Any]:
    """A JSON object from bytes. Raises: InvalidDocument: if it is too large, not JSON, or not an object."""
    if len(raw) > limit:
        raise InvalidDocument(
            f"{what} of {len(raw)} bytes is larger than the limit of {limit}",
            hint="registries refuse such documents too; move the content into a blob",
        )
    try:
        # Decoded here: json.loads would take UTF-16, UTF-32 and encoded surrogates too. A byte order mark is refused
        # by it, as by the clients written in Go.
        value = json.loads(bytes(raw).decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        start = display.shorten(bytes(raw[:60]).decode("utf-8", "replace"), 60)
        reason = error.message if isinstance(error, OcikitError) else error
        raise InvalidDocument(
            f"{what} is not JSON: {reason}", hint=f"it begins with: {start or '(nothing)'}"
        ) from error
    if not isinstance(value, dict):
        raise InvalidDocument(f"{what}: expected an object, found {_json_name(value)} @ $")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that stands twice could be read as two different things."""
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # None, on purpose
        raise InvalidDocument(f"the key {display.quoted(twice)} stands twice in one object")
    return value


def _no_constant(name: str) -> Any:
    raise InvalidDocument(f"{name} is not a JSON value")


def structure(value: Any, cls: type[T]) -> T:
    """A model from JSON values. Raises: InvalidDocument: with a JSON path for each thing that is wrong."""
    from cattrs import BaseValidationError  # noqa: PLC0415 - cattrs is loaded when a document is first parsed

    try:
        return cast("T", converter().structure(value, cls))
    except (BaseValidationError, ValueError, TypeError, KeyError, RecursionError) as error:
        problems = list(dict.fromkeys(_problems(error, "$", cls)))
        shown = "; ".join(problems[:5]) + (f"; … {len(problems) - 5} more" if len(problems) > 5 else "")
        # The message says it all; cattrs' tree of errors would bury it
        raise InvalidDocument(f"{cls.__name__}: {shown}") from None


def encode(document: Document) -> bytes:
    """The JSON bytes of a document, in the field order of the specification's examples.

    Raises:
        InvalidDocument: if it holds what JSON in UTF-8 can't say: half a surrogate pair (Python's spelling of a file
            name that isn't text), infinity, or an object that isn't JSON.
    """
    try:
        value = converter().unstructure(document)
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError, RecursionError) as error:
        reason = (
            f"{display.quoted(error.object[error.start : error.end])} is not Unicode text"
            if isinstance(error, UnicodeEncodeError)
            else display.sanitize(error)
        )
        raise InvalidDocument(
            f"{type(document).__name__} can't be encoded: {reason}",
            hint="look at its annotations and titles; a document that was parsed keeps its own bytes in .raw",
        ) from error


@functools.cache
def converter() -> Any:
    """The one cattrs converter: camelCase names, unknown keys kept, nothing coerced."""
    from cattrs import Converter, IterableValidationError, IterableValidationNote  # noqa: PLC0415 - 40 ms, on first use
    from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override  # noqa: PLC0415

    made = Converter(detailed_validation=True)

    def exactly(kind: type, name: str) -> Callable[[Any, Any], Any]:
        def hook(value: Any, _: Any) -> Any:
            # bool is an int in Python, not in JSON
            if type(value) is not kind:
                raise TypeError(f"expected {name}, found {_json_name(value)}")
            return value

        return hook

    def integer(value: Any, _: Any) -> int:
        if type(value) is not int:
            raise TypeError(f"expected an integer, found {_json_name(value)}")
        if not 0 <= value <= _SIZE_LIMIT:
            raise ValueError(f"{display.quoted(value, 40)} is not between 0 and 2^63-1")
        return value

    def data(value: Any, _: Any) -> bytes:
        if type(value) is not str:
            raise TypeError(f"expected a string, found {_json_name(value)}")
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("not base64") from error

    def each(items: Iterable[tuple[int | str, Any]], hook: Callable[[Any, Any], Any], kind: Any) -> NoReturn:
        """Go through items of which one or more are wrong, again, for where they are."""
        wrong = []
        for index, item in items:
            try:
                hook(item, kind)
            except Exception as error:  # noqa: BLE001 - collected, as cattrs does
                error.add_note(IterableValidationNote("", index, kind))
                wrong.append(error)
            if len(wrong) == _PROBLEMS:
                break  # somebody who sends a hundred thousand must not keep us busy with telling
        raise IterableValidationError("", wrong, kind)

    def array(kind: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
        element = get_args(kind)[0]
        hook = made.get_structure_hook(element)

        def structured(value: Any, _: Any) -> tuple[Any, ...]:
            # a string can be iterated over and an object too, but neither is an array
            if type(value) is not list:
                raise TypeError(f"expected an array, found {_json_name(value)}")
            try:
                return tuple([hook(item, element) for item in value])
            except Exception:  # noqa: BLE001 - raised again, with all places
                each(enumerate(value), hook, element)

        return structured

    def annotations(value: Any, _: Any) -> Annotations:
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, found {_json_name(value)}")
        if not all(type(text) is str for text in value.values()):
            each(value.items(), exactly(str, "a string"), str)
        return Annotations(value)

    def frozen_map(value: Any, _: Any) -> FrozenMap[Any]:
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, found {_json_name(value)}")
        return to_frozen(value)

    made.register_structure_hook(str, exactly(str, "a string"))
    made.register_structure_hook(bool, exactly(bool, "true or false"))
    made.register_structure_hook(int, integer)
    # Digest is a str: without a hook of its own, the one for str would leave it unvalidated.
    made.register_structure_hook(Digest, lambda value, _: Digest(value))
    made.register_structure_hook(bytes, data)
    made.register_structure_hook_factory(_is_array, array)
    made.register_structure_hook(Annotations, annotations)
    made.register_structure_hook_func(lambda cls: getattr(cls, "__origin__", cls) is FrozenMap, frozen_map)
    made.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode())
    made.register_unstructure_hook(Digest, str)
    made.register_unstructure_hook(Annotations, dict)
    made.register_unstructure_hook_func(lambda cls: getattr(cls, "__origin__", cls) is FrozenMap, thaw)

    def structure_factory(cls: type) -> Callable[[Any, Any], Any]:
        names = _wire_names(cls)
        overrides = {a.name: override(rename=names[a.name]) for a in _known(cls)}
        overrides |= {a.name: override(omit=True) for a in attrs.fields(cls) if not a.init or a.name == "extra"}
        generated = cast("Callable[[Any, Any], Any]", make_dict_structure_fn(cls, made, **overrides))  # type: ignore[arg-type]  # overrides are a mapping of names
        known = set(names.values())

        def hook(value: Any, kind: Any) -> Any:
            if not isinstance(value, dict):
                raise TypeError(f"expected an object, found {_json_name(value)}")
            # Go clients write `"layers": null` for an empty list: null means absent
            present = {key: item for key, item in value.items() if item is not None}
            result = generated(present, kind)
            unknown = {key: item for key, item in value.items() if key not in known}
            if unknown:
                object.__setattr__(result, "extra", freeze(unknown))
            return result

        return hook

    def unstructure_factory(cls: type) -> Callable[[Any], dict[str, Any]]:
        names = _wire_names(cls)
        overrides = {
            a.name: override(rename=names[a.name], omit_if_default=not a.metadata.get("always")) for a in _known(cls)
        }
        overrides |= {a.name: override(omit=True) for a in attrs.fields(cls) if not a.init or a.name == "extra"}
        generated: Callable[[Any], dict[str, Any]] = make_dict_unstructure_fn(cls, made, **overrides)  # type: ignore[arg-type]  # as above
        order = list(names.values())

        def hook(value: Any) -> dict[str, Any]:
            encoded = generated(value)
            # cattrs writes fields with defaults last; the specification's examples don't. None means absent.
            ordered = {key: item for key in order if (item := encoded.get(key)) is not None}
            return ordered | {key: thaw(item) for key, item in value.extra.items() if key not in names.values()}

        return hook

    made.register_structure_hook_factory(attrs.has, structure_factory)
    made.register_unstructure_hook_factory(attrs.has, unstructure_factory)
    return made


def _is_array(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _known(cls: type) -> Iterator[attrs.Attribute[Any]]:
    """The fields that stand in the JSON, ordered as the specification's examples are."""
    fields = [a for a in attrs.fields(cls) if a.init and a.name != "extra"]
    return iter(sorted(fields, key=lambda a: a.metadata.get("order", 50)))


def _wire_names(cls: type) -> dict[str, str]:
    """Field names to JSON keys: camelCase, unless the field's metadata says otherwise."""
    return {a.name: a.metadata.get("wire") or _camel(a.name) for a in _known(cls)}


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


_JSON_NAMES: Mapping[type, str] = {str: "a string", int: "an integer", float: "a number", bool: "true or false",
                                   list: "an array", dict: "an object", type(None): "null"}  # fmt: skip


def _json_name(value: object) -> str:
    return _JSON_NAMES.get(type(value), type(value).__name__)


def _problems(error: BaseException, path: str, cls: Any) -> Iterator[str]:
    """What is wrong, each with its JSON path, from cattrs' tree of errors."""
    from cattrs import AttributeValidationNote, BaseValidationError, IterableValidationNote  # noqa: PLC0415 - as above

    if not isinstance(error, BaseValidationError):
        yield f"{_reason(error)} @ {path}"
        return
    owner = error.cl if attrs.has(error.cl) else cls
    for inner in error.exceptions:
        note = next((n for n in getattr(inner, "__notes__", ())
                     if isinstance(n, AttributeValidationNote | IterableValidationNote)), None)  # fmt: skip
        if isinstance(note, AttributeValidationNote):
            step = f".{_wire_names(owner).get(note.name, note.name) if attrs.has(owner) else note.name}"
        elif isinstance(note, IterableValidationNote):
            step = f"[{display.quoted(note.index)}]"
        else:
            step = ""
        if isinstance(inner, KeyError) and not isinstance(inner, BaseValidationError):
            yield f"required field missing @ {path}.{inner.args[0]}"
        else:
            yield from _problems(inner, path + step, owner)


def _reason(error: BaseException) -> str:
    return error.message if isinstance(error, OcikitError) else display.sanitize(error)
