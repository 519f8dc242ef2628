"""JSON documents with the exact bytes that they were parsed from."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Self, TypeVar

from attrs import field, frozen

from ocikit import display
from ocikit.errors import InvalidDocument, OcikitError, Violation
from ocikit.spec.annotations import FrozenMap, to_frozen
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest

T = TypeVar("T")

#: Bytes. Registries must take manifests of 4 MiB (distribution-spec spec.md#pushing-manifests); most take no more.
DOCUMENT_LIMIT = 4 * 1024 * 1024

#: Levels of nested indexes that are followed; real ones have two.
MAX_INDEX_DEPTH = 8


@frozen(kw_only=True, repr=False)
class Document(display.Displayable):
    """A JSON document with the exact bytes that it was parsed from.

    Documents with equal fields may differ in bytes, and so in digest. Compare digests to compare content.
    `attrs.evolve` returns a document without the old bytes, which is encoded again on the first use of `raw`.
    """

    media_type: str | None = None
    extra: FrozenMap[Any] = field(factory=FrozenMap, converter=to_frozen)
    """Unknown keys, which are encoded again."""
    _raw: bytes | None = field(default=None, init=False, eq=False, repr=False)
    _digest: Digest | None = field(default=None, init=False, eq=False, repr=False)

    #: The type of a document without a media type.
    default_media_type: ClassVar[str] = ""

    @classmethod
    def parse(cls, raw: bytes, *, limit: int = DOCUMENT_LIMIT) -> Self:
        """Return the document that is encoded in the bytes.

        Args:
            raw: JSON in UTF-8, stored unchanged.
            limit: Size of the largest document to accept, in bytes.

        Raises:
            InvalidDocument: The bytes are not such a document; `problems` has each violation.

        >>> config = ocikit.ImageConfig.parse(b'{"os": "linux", "architecture": "arm64", "rootfs": {"type": "layers", "diff_ids": []}}')
        >>> config.platform
        Platform(os='linux', architecture='arm64')
        """
        document = structure(load_json(raw, cls.__name__, limit=limit), cls)
        object.__setattr__(document, "_raw", bytes(raw))
        return document

    @property
    def raw(self) -> bytes:
        """The bytes: as parsed, or encoded on first use.

        Raises:
            InvalidDocument: The document can't be encoded; see `encode`.
        """
        if self._raw is not None:
            return self._raw
        raw = encode(self)
        object.__setattr__(self, "_raw", raw)
        return raw

    @property
    def digest(self) -> Digest:
        """The sha256 digest of `raw`."""
        if self._digest is not None:
            return self._digest
        digest = Digest.of(self.raw)
        object.__setattr__(self, "_digest", digest)
        return digest

    @property
    def size(self) -> int:
        """The length of `raw`, in bytes."""
        return len(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of this document."""
        return Descriptor(
            media_type=self.media_type or self.default_media_type,
            digest=self.digest,
            size=self.size,
            artifact_type=getattr(self, "artifact_type", None),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the document as plain JSON values, unknown keys included.

        >>> index = ocikit.Index(manifests=[])
        >>> index.to_dict()
        {'schemaVersion': 2, 'mediaType': 'application/vnd.oci.image.index.v1+json', 'manifests': []}
        """
        value: dict[str, Any] = json.loads(self.raw)
        return value


def load_json(raw: bytes, what: str, *, limit: int = DOCUMENT_LIMIT) -> dict[str, Any]:
    """Return the JSON object that is encoded in the bytes.

    Args:
        raw: JSON in UTF-8.
        what: Name of the document in messages.
        limit: Size of the largest document to accept, in bytes.

    Raises:
        InvalidDocument: The bytes are too many, not JSON, or not an object.
    """
    if len(raw) > limit:
        raise InvalidDocument(
            f"{what} of {len(raw)} bytes is larger than the limit of {limit}",
            hint="registries reject such documents too; move the content into a blob",
        )
    try:
        # Decode here: json.loads would accept UTF-16, UTF-32 and encoded surrogates. json.loads rejects a byte order
        # mark, as clients written in Go do.
        value = json.loads(bytes(raw).decode(), object_pairs_hook=_object, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        start = display.shorten(bytes(raw[:60]).decode("utf-8", "replace"), 60)
        reason = error.message if isinstance(error, OcikitError) else error
        raise InvalidDocument(
            f"{what} is not JSON: {reason}", hint=f"it begins with: {start or '(nothing)'}"
        ) from error
    if not isinstance(value, dict):
        from ocikit.spec.converter import json_name  # noqa: PLC0415 - imports cattrs

        problem = Violation(path="$", message=f"expected an object, found {json_name(value)}")
        raise InvalidDocument.from_problems(what, [problem])
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object without duplicate keys, which parsers could interpret in different ways."""
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidDocument(f"duplicate key {display.quoted(key)}")
            seen.add(key)
    return value


def _reject_constant(name: str) -> Any:
    raise InvalidDocument(f"{name} is not a JSON value")


def structure(value: Any, cls: type[T]) -> T:
    """Return a model from JSON values.

    Raises:
        InvalidDocument: The value does not fit the model; `problems` has each violation.
    """
    from ocikit.spec import converter  # noqa: PLC0415 - imports cattrs, which takes 40 ms

    return converter.structure(value, cls)


def unstructure(model: Any) -> dict[str, Any]:
    """Return the JSON object of a model."""
    from ocikit.spec import converter  # noqa: PLC0415 - imports cattrs, which takes 40 ms

    return converter.unstructure(model)


def encode(document: Document) -> bytes:
    """Return the JSON bytes of a document, with fields ordered as in the specification's examples.

    Raises:
        InvalidDocument: The document holds a value that JSON in UTF-8 can't represent: a surrogate (Python's form of a
            file name that is not text), infinity, or an object that is not JSON.
    """
    try:
        value = unstructure(document)
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError, RecursionError) as error:
        reason = (
            f"{display.quoted(error.object[error.start : error.end])} is not Unicode text"
            if isinstance(error, UnicodeEncodeError)
            else display.sanitize(error)
        )
        raise InvalidDocument(
            f"{type(document).__name__} can't be encoded: {reason}",
            hint="check its annotations and titles; a parsed document has its original bytes in .raw",
        ) from error
