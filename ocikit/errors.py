"""Exception hierarchy of ocikit.

::

    OcikitError
    ├─ InvalidReference, InvalidDigest, InvalidArgument    also ValueError
    ├─ InvalidDocument                                     also ValueError
    │  └─ UnsupportedSchema1
    ├─ ContentError
    │  ├─ DigestMismatch, SizeMismatch
    │  ├─ EditedFiles(files), InUse(users)
    │  └─ UnverifiableDigest                               also ValueError
    ├─ NotFound                                            also LookupError
    │  ├─ NoMatchingPlatform
    │  └─ FileNotInArtifact                                also KeyError, FileNotFoundError
    ├─ CopyError(side, descriptor)
    ├─ Conflict(base, theirs, titles)
    ├─ CredentialsError, UnsafeArchive, UnsafeFormat, OfflineError
    ├─ RegistryError                                       also OSError
    │  ├─ Unauthorized, Denied                             also PermissionError
    │  ├─ RateLimited, Unsupported, TooLarge
    │  ├─ RangeInvalid, InvalidResponse
    │  ├─ UploadInvalid
    │  │  └─ ManifestBlobUnknown
    │  └─ ManifestUnknown, BlobUnknown, NameUnknown, UploadUnknown     also NotFound
    ├─ ConnectionFailed                                    also OSError
    │  └─ TimedOut                                         also TimeoutError
    └─ ServerFailed                                        also OSError

Every message states what failed and why; `hint` gives the next step. Text from a registry is repeated without control
characters and secrets. All errors can be pickled. In IPython, tracebacks omit the library's frames; `%xmode Verbose` or
`OCIKIT_TRACEBACK=full` shows them.
"""

from __future__ import annotations

import copy
import errno
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar, overload
from urllib.parse import quote, unquote_plus, urlsplit, urlunsplit

from attrs import frozen

from ocikit.display import Code, Description, Displayable, Section, sanitize, shorten

#: Query keys of the distribution specification. Their values are names, never secrets.
_OPEN_QUERY = frozenset(
    {"artifactType", "digest", "digest-algorithm", "from", "last", "mount", "n", "ns", "scope", "service", "tag"}
)

_PROBLEMS = 5  # violations in a message

_CAUSES = 5  # causes listed with an error

#: A possible digest within text; the caller validates it.
_DIGEST = re.compile(r"\b[a-z0-9]{3,32}:[0-9a-f]{32,128}\b")


def redact(url: str) -> str:
    """Return `url` without secrets.

    The result has no user, password or fragment. Values of query keys outside the specification become `***`.

    >>> from ocikit.errors import redact
    >>> redact("https://u:p@cdn.example/b?X-Amz-Signature=abc&digest=sha256:00")
    'https://cdn.example/b?X-Amz-Signature=***&digest=sha256:00'
    """
    try:
        # Sanitize last: a terminal sequence may contain @ or /
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if a password with / ? or # was parsed as the port
        query = "&".join(_redacted(pair) for pair in parts.query.split("&") if pair)
    except ValueError:
        return "<unreadable URL>"
    if "@" in parts.path:
        # The password contains a slash or the scheme is missing: text before the last @ may be secret
        after = parts.path.rpartition("@")[2]
        scheme = f"{parts.scheme}://" if parts.netloc else ""
        return sanitize(f"{scheme}***@{after}" + (f"?{query}" if query else ""))
    return sanitize(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, "")))


def _redacted(pair: str) -> str:
    """Return one `key=value` pair of a query without its secret.

    A pair without a key, possibly with base64 padding, is a value and becomes `***`.
    """
    key, _, value = pair.partition("=")
    if key in _OPEN_QUERY:
        return f"{key}={quote(unquote_plus(value), safe=':/+,', errors='replace')}"
    return f"{key}=***" if value.strip("=") else "***"


class OcikitError(Exception, Displayable):
    """Base class of all errors that this library raises on purpose.

    Attributes:
        message: What failed and why.
        hint: The next step; may be empty.

    >>> try:
    ...     ocikit.inspect("oci:waves:v1")
    ... except ocikit.OcikitError as error:
    ...     print(error.message)
    ...     print(error.hint)
    waves is not a folder, or does not exist
    to create a layout there, push with Layout(path), or write to "oci:path:tag"
    """

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        self.message = sanitize(message, newlines=True)
        self.hint = sanitize(hint, newlines=True)
        # Pass only the message: pickle calls the class with `args` and restores the other attributes itself
        super().__init__(self.message)

    # Own methods, because libraries such as dask replace the default ones for all exceptions of a process: their copies
    # share the attributes of the original
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, dict(self.__dict__)

    def __copy__(self) -> Self:
        twin = type(self)(*self.args)
        twin.__dict__ |= self.__dict__
        return twin

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message

    __repr__ = Displayable.__repr__

    def reworded(self, message: str, hint: str | None = None) -> Self:
        """Return a copy of the error with another message.

        Args:
            message: The new message.
            hint: The new next step; None keeps the present one.

        >>> error = ocikit.NotFound("no such file", hint="list the files")
        >>> error.reworded("no file sine.csv")
        NotFound('no file sine.csv', hint='list the files')
        """
        error = copy.copy(self)
        error.message = sanitize(message, newlines=True)
        error.args = (error.message,)
        if hint is not None:
            error.hint = sanitize(hint, newlines=True)
        return error

    def _line(self) -> str:
        # Do not shorten: the hint is at the end
        hint = f", hint={sanitize(repr(self.hint))}" if self.hint else ""
        return f"{type(self).__name__}({sanitize(repr(self.message))}{hint})"

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows for an uncaught error."""
        from ocikit.display.tracebacks import short_traceback  # noqa: PLC0415 - only IPython calls this

        return short_traceback(self, list(_causes(self)))

    def __rich_repr__(self) -> Description:
        yield "message", self.message
        yield "hint", self.hint, ""

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "message", self.message
        if self.hint:
            yield "next step", self.hint

    def _sections(self) -> Iterator[Section]:
        if causes := list(_causes(self)):
            rows = ((type(c).__name__, getattr(c, "message", c), getattr(c, "hint", "")) for c in causes)
            yield Section(title="caused by", headers=("error", "message", "next step"), rows=rows, unfolded=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes of an error, nearest first."""
    seen = {id(error)}
    while (cause := error.__cause__) is not None and id(cause) not in seen and len(seen) < _CAUSES:
        seen.add(id(cause))
        yield cause
        error = cause


class InvalidReference(OcikitError, ValueError):
    """The text is not a reference; the message names the invalid part."""


class InvalidDigest(OcikitError, ValueError):
    """The text is not a digest of the form `algorithm:encoded`."""


class InvalidArgument(OcikitError, ValueError):
    """An argument has an invalid value; the message names it."""


@frozen(kw_only=True, repr=False)
class Violation(Displayable):
    """A violation of the specification at one place of a document.

    >>> from ocikit.errors import Violation
    >>> Violation(path="$.config", message="required field missing").path
    '$.config'
    """

    path: str
    """JSON path, such as "$.layers[2].digest"; "$" is the whole document."""
    message: str
    """What was expected and what was found."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidDocument(OcikitError, ValueError):
    """The bytes are not a valid document of the expected type.

    Attributes:
        problems: All violations with their JSON paths; the message contains the first ones.
    """

    def __init__(self, message: str = "", *, hint: str = "", problems: Iterable[Violation] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems) or (Violation(path="$", message=self.message),)

    @classmethod
    def from_problems(cls, what: str, problems: Sequence[Violation], *, hint: str = "") -> Self:
        """Return the error for a document with violations.

        Args:
            what: Name of the document in the message.
            problems: At least one violation.
            hint: The next step.
        """
        texts = [f"{problem.message} @ {problem.path}" for problem in problems[:_PROBLEMS]]
        if len(problems) > _PROBLEMS:
            texts.append(f"… {len(problems) - _PROBLEMS} more")
        return cls(f"{what}: {'; '.join(texts)}", hint=hint, problems=problems)


class UnsupportedSchema1(InvalidDocument):
    """A Docker schema 1 manifest, which is not supported; `raw` holds the bytes that the registry sent."""

    def __init__(self, message: str = "", *, hint: str = "", raw: bytes = b"") -> None:
        super().__init__(message, hint=hint)
        self.raw = raw


class ContentError(OcikitError):
    """Content differs from its descriptor, or cannot be stored or deleted."""


class DigestMismatch(ContentError):
    """The content has another digest than expected."""

    def __init__(self, message: str = "", *, hint: str = "", expected: str = "", actual: str = "") -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.actual = actual


class SizeMismatch(ContentError):
    """The content has another size than the descriptor. Sizes are in bytes."""

    def __init__(
        self, message: str = "", *, hint: str = "", expected: int | None = None, actual: int | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.actual = actual


class EditedFiles(ContentError):
    """A pull would overwrite files that a user created or edited; `files` lists them. Nothing was changed."""

    def __init__(self, message: str = "", *, hint: str = "", files: Iterable[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.files = tuple(files)


class InUse(ContentError):
    """Content cannot be deleted because other content references it; `users` lists the referencing entries."""

    def __init__(self, message: str = "", *, hint: str = "", users: Sequence[Any] = ()) -> None:
        super().__init__(message, hint=hint)
        self.users = tuple(users)


class UnverifiableDigest(ContentError, ValueError):
    """The content cannot be verified: this library does not implement the algorithm of its digest."""


class NotFound(OcikitError, LookupError):
    """A named thing does not exist."""


class NoMatchingPlatform(NotFound):
    """The index has no manifest for the platform; `available` lists its platforms."""

    def __init__(self, message: str = "", *, hint: str = "", available: Sequence[Any] = ()) -> None:
        super().__init__(message, hint=hint)
        self.available = tuple(available)


class FileNotInArtifact(NotFound, FileNotFoundError, KeyError):
    """The artifact has no file of that name; the hint lists the nearest names."""

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.errno = errno.ENOENT

    __str__ = OcikitError.__str__  # KeyError shows the repr of its argument


class CopyError(OcikitError):
    """A copy failed. `side` is "source" or "target", `descriptor` the content in transfer; the cause is chained."""

    def __init__(self, message: str = "", *, hint: str = "", side: str = "", descriptor: Any = None) -> None:
        super().__init__(message, hint=hint)
        self.side = side
        self.descriptor = descriptor


class Conflict(OcikitError):
    """Another writer has changed what a commit would change; the tag was not moved.

    Attributes:
        base: Digest that the commit was made for, or "" if the tag did not exist.
        theirs: Digest that the tag names now, or "" without a tag.
        titles: Names of files that both sides changed.
    """

    def __init__(
        self, message: str = "", *, hint: str = "", base: str = "", theirs: str = "", titles: Iterable[str] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.base = base
        self.theirs = theirs
        self.titles = tuple(titles)


class CredentialsError(OcikitError):
    """Stored credentials could not be read or written, or a credential helper failed."""


class UnsafeArchive(OcikitError):
    """An archive or a file title would write outside its folder (path traversal) or exceeds a limit (zip bomb)."""


class UnsafeFormat(OcikitError):
    """A file could run code of its author when it is opened as an object, such as a pickle."""


class OfflineError(OcikitError):
    """Offline mode is on and the content is not in the cache."""


E = TypeVar("E", bound="RegistryError")


class RegistryError(OcikitError, OSError):
    """A registry responded with an error, or with a response that the call cannot use.

    Attributes:
        method: HTTP method of the request.
        url: URL of the request, without secrets.
        status: HTTP status.
        errors: Error list of the registry, each `{"code", "message", "detail"}`; unknown codes are preserved.
        code: Code of the first error, or "".
        request_id: Request ID for the registry's operators, or "".
        host: Host of the registry.
        retry_after: Seconds to wait before the next request (429 and 503), or None.
    """

    def __init__(
        self,
        message: str = "",
        *,
        hint: str = "",
        method: str = "",
        url: str = "",
        status: int = 0,
        errors: Sequence[dict[str, Any]] = (),
        request_id: str = "",
        host: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.method = sanitize(method)
        self.url = redact(url)
        self.status = status
        self.errors = tuple(errors)
        self.request_id = sanitize(request_id)
        self.host = sanitize(host)
        self.retry_after = retry_after

    @overload
    def reworded(self, message: str, hint: str | None = None) -> Self: ...

    @overload
    def reworded(self, message: str, hint: str | None = None, *, kind: type[E]) -> E: ...

    def reworded(
        self, message: str, hint: str | None = None, *, kind: type[RegistryError] | None = None
    ) -> RegistryError:
        """Return a copy of the error with another message.

        Args:
            message: The new message.
            hint: The new next step; None keeps the present one.
            kind: The class of the copy, if it is not the class of this error.
        """
        error = super().reworded(message, hint)
        if kind is None:
            return error
        twin = kind(error.message, hint=error.hint)
        twin.__dict__.update(error.__dict__)
        return twin

    @property
    def code(self) -> str:
        """The code of the first error, such as "MANIFEST_UNKNOWN", or ""."""
        first = self.errors[0] if self.errors else None
        return sanitize(first.get("code") or "") if isinstance(first, Mapping) else ""

    def _sections(self) -> Iterator[Section]:
        yield from super()._sections()
        if errors := [error for error in self.errors if isinstance(error, Mapping)]:
            errors_rows = ((e.get("code"), e.get("message"), shorten(e.get("detail") or "", 160)) for e in errors)
            headers = ("code", "message", "detail")
            yield Section(
                title="errors from the registry", headers=headers, rows=errors_rows, count=len(errors), unfolded=False
            )
        request = {
            "status": self.status or "",
            "request": Code(f"{self.method} {self.url}".strip()),
            "request id": self.request_id,
        }
        if rows := [(name, value) for name, value in request.items() if value]:
            yield Section(title="request", rows=rows, unfolded=False)


class Unauthorized(RegistryError, PermissionError):
    """401: credentials are missing or invalid."""


class Denied(RegistryError, PermissionError):
    """403: the user has no permission for the operation."""


class RateLimited(RegistryError):
    """429: the rate limit still applied after all retries."""


class Unsupported(RegistryError):
    """The registry does not support the operation."""


class TooLarge(RegistryError):
    """413, or a response that exceeds a limit of this library."""


class RangeInvalid(RegistryError):
    """416: the registry rejected a range or a chunk offset."""


class InvalidResponse(RegistryError):
    """The response violates the specification, such as an HTML page instead of JSON."""


class UploadInvalid(RegistryError):
    """The registry rejected an upload, a digest or a manifest."""


class ManifestBlobUnknown(UploadInvalid):
    """The registry rejected a manifest because content that it references is missing."""

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests of the missing content, as far as the registry reports them."""
        text = json.dumps([(e.get("message"), e.get("detail")) for e in self.errors])
        return tuple(dict.fromkeys(_DIGEST.findall(text)))


class ManifestUnknown(RegistryError, NotFound):
    """The repository has no such tag or manifest."""


class BlobUnknown(RegistryError, NotFound):
    """The repository has no such blob."""


class NameUnknown(RegistryError, NotFound):
    """The registry has no such repository."""


class UploadUnknown(RegistryError, NotFound):
    """The upload session has expired or was cancelled."""


class ConnectionFailed(OcikitError, OSError):
    """A connection could not be opened, or broke and could not be resumed."""


class TimedOut(ConnectionFailed, TimeoutError):
    """The registry did not respond within the timeout."""


class ServerFailed(OcikitError, OSError):
    """The local registry server failed to start; the message contains its last log lines."""
