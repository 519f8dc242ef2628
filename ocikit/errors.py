"""What can go wrong, as one tree.

::

    OcikitError
    ├─ InvalidReference, InvalidDigest, InvalidArgument    also ValueError
    ├─ InvalidDocument                                     also ValueError
    │  └─ UnsupportedSchema1
    ├─ ContentError
    │  ├─ DigestMismatch, SizeMismatch
    │  └─ UnverifiableDigest                               also ValueError
    ├─ NotFound                                            also LookupError
    │  └─ NoMatchingPlatform, FileNotInArtifact
    ├─ CopyError(side, descriptor)
    ├─ CredentialsError, UnsafeArchive, OfflineError
    ├─ RegistryError                                       also OSError
    │  ├─ Unauthorized, Denied, RateLimited, Unsupported, TooLarge
    │  ├─ RangeInvalid, InvalidResponse
    │  ├─ UploadInvalid
    │  │  └─ ManifestBlobUnknown
    │  └─ ManifestUnknown, BlobUnknown, NameUnknown, UploadUnknown     also NotFound
    ├─ ConnectionFailed                                    also OSError
    │  └─ TimedOut                                         also TimeoutError
    └─ ServerFailed                                        also OSError

Every message says what happened, to what, and what to do next (`hint`). A registry's own words are repeated, cleaned
of control characters and secrets. All errors survive a pickle. In IPython, their tracebacks end where the library begins;
`%xmode Verbose` or `OCIKIT_TRACEBACK=full` shows all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote_plus, urlsplit, urlunsplit

from ocikit.display import Code, Description, Displayable, Section, sanitize, shorten

#: Query keys of the distribution specification: their values are names, never secrets.
_OPEN_QUERY = frozenset(
    {"artifactType", "digest", "digest-algorithm", "from", "last", "mount", "n", "ns", "scope", "service", "tag"}
)

_CAUSES = 5  # of an error, told with it

#: A digest within words; whoever uses it looks whether it is one.
_DIGEST = re.compile(r"\b[a-z0-9]{3,32}:[0-9a-f]{32,128}\b")


def redact(url: str) -> str:
    """The URL without user, password, fragment, or the value of any query key that is not the specification's.

    >>> redact("https://u:p@cdn.example/b?X-Amz-Signature=abc&digest=sha256:00")
    'https://cdn.example/b?X-Amz-Signature=***&digest=sha256:00'
    """
    try:
        # Cleaned last: a terminal sequence may have an @ or a / in it
        parts = urlsplit(url)
        _ = parts.port  # not a number: part of a password that holds one of / ? #
        query = "&".join(_redacted(pair) for pair in parts.query.split("&") if pair)
    except ValueError:
        return "<unreadable URL>"
    if "@" in parts.path:
        # A password with a slash in it, or no scheme: what stands before the last @ may be secret
        after = parts.path.rpartition("@")[2]
        scheme = f"{parts.scheme}://" if parts.netloc else ""
        return sanitize(f"{scheme}***@{after}" + (f"?{query}" if query else ""))
    return sanitize(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, "")))


def _redacted(pair: str) -> str:
    """One `key=value` of a query; a lone word, perhaps with the padding of base64, is a value without its key."""
    key, _, value = pair.partition("=")
    if key in _OPEN_QUERY:
        return f"{key}={quote(unquote_plus(value), safe=':/+,', errors='replace')}"
    return f"{key}=***" if value.strip("=") else "***"


class OcikitError(Exception, Displayable):
    """The root: `except ocikit.OcikitError` catches whatever this library raises on purpose.

    Attributes:
        message: what happened, to what.
        hint: what to do next; may be empty.
    """

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        self.message = sanitize(message, newlines=True)
        self.hint = sanitize(hint, newlines=True)
        # The positional argument alone goes to Exception: pickle calls the class with it and restores the rest.
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message

    __repr__ = Displayable.__repr__

    def _line(self) -> str:
        # In full: what to do next stands at its end
        hint = f", hint={sanitize(repr(self.hint))}" if self.hint else ""
        return f"{type(self).__name__}({sanitize(repr(self.message))}{hint})"

    def _render_traceback_(self) -> list[str]:
        """What IPython shows when nobody catches it."""
        from ocikit.display.tracebacks import short_traceback  # noqa: PLC0415 - for IPython alone

        return short_traceback(self, list(_causes(self)))

    def __rich_repr__(self) -> Description:
        yield "message", self.message
        yield "hint", self.hint, ""

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "what happened", self.message
        if self.hint:
            yield "what to do", self.hint

    def _sections(self) -> Iterator[Section]:
        if causes := list(_causes(self)):
            rows = ((type(each).__name__, getattr(each, "message", each), getattr(each, "hint", "")) for each in causes)
            yield Section(title="because", headers=("error", "what happened", "what to do"), rows=rows, unfolded=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What an error was raised from, the nearest first."""
    seen = {id(error)}
    while (cause := error.__cause__) is not None and id(cause) not in seen and len(seen) < _CAUSES:
        seen.add(id(cause))
        yield cause
        error = cause


class InvalidReference(OcikitError, ValueError):
    """The text is not a reference; the message names the part that is wrong."""


class InvalidDigest(OcikitError, ValueError):
    """The text is not a digest of the grammar `algorithm:encoded`."""


class InvalidArgument(OcikitError, ValueError):
    """An argument that a call can't work with; the message names it."""


class InvalidDocument(OcikitError, ValueError):
    """The bytes are not the document that they should be; the message holds JSON paths."""


class UnsupportedSchema1(InvalidDocument):
    """A Docker schema 1 manifest: recognised, not supported. `raw` holds its bytes as the registry sent them."""

    def __init__(self, message: str = "", *, hint: str = "", raw: bytes = b"") -> None:
        super().__init__(message, hint=hint)
        self.raw = raw


class ContentError(OcikitError):
    """Content is not what its descriptor says, or could not be kept."""


class DigestMismatch(ContentError):
    """The bytes hash to another digest than expected."""

    def __init__(self, message: str = "", *, hint: str = "", expected: str = "", actual: str = "") -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.actual = actual


class SizeMismatch(ContentError):
    """More or fewer bytes than the descriptor says. Sizes are in bytes."""

    def __init__(
        self, message: str = "", *, hint: str = "", expected: int | None = None, actual: int | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.actual = actual


class UnverifiableDigest(ContentError, ValueError):
    """A well-formed digest whose algorithm this library cannot compute: the content can't be verified."""


class NotFound(OcikitError, LookupError):
    """Something that was named isn't there."""


class NoMatchingPlatform(NotFound):
    """The index has no manifest for the platform; `available` lists the platforms that it has."""

    def __init__(self, message: str = "", *, hint: str = "", available: Sequence[Any] = ()) -> None:
        super().__init__(message, hint=hint)
        self.available = tuple(available)


class FileNotInArtifact(NotFound):
    """The artifact has no file of that name; the message lists near ones."""


class CopyError(OcikitError):
    """A copy stopped; `side` is "source" or "target", `descriptor` what was under way. The cause is chained."""

    def __init__(self, message: str = "", *, hint: str = "", side: str = "", descriptor: Any = None) -> None:
        super().__init__(message, hint=hint)
        self.side = side
        self.descriptor = descriptor


class CredentialsError(OcikitError):
    """Stored credentials could not be read or kept, or a credential helper failed."""


class UnsafeArchive(OcikitError):
    """An archive or a title that would write outside its folder, or exceed a limit."""


class OfflineError(OcikitError):
    """Offline mode, and the content isn't in the cache."""


class RegistryError(OcikitError, OSError):
    """A registry answered, and the answer is not what the call needs.

    Attributes:
        method, url: the request; the URL is redacted.
        status: HTTP status.
        errors: the registry's error list, `{"code", "message", "detail"}` each, unknown codes kept.
        code: the first error's code, or "".
        request_id: what to quote to the registry's operators, or "".
        host: the registry.
        retry_after: seconds that the registry asks to wait, with 429 and 503, or None.
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

    @property
    def code(self) -> str:
        """The first error's code, such as "MANIFEST_UNKNOWN", or ""."""
        first = self.errors[0] if self.errors else None
        return sanitize(first.get("code") or "") if isinstance(first, Mapping) else ""

    def _sections(self) -> Iterator[Section]:
        yield from super()._sections()
        if said := [each for each in self.errors if isinstance(each, Mapping)]:
            words = ((each.get("code"), each.get("message"), shorten(each.get("detail") or "", 160)) for each in said)
            headers = ("code", "message", "detail")
            yield Section(
                title="the registry's own words", headers=headers, rows=words, count=len(said), unfolded=False
            )
        asked = {
            "status": self.status or "",
            "request": f"{self.method} {self.url}".strip(),
            "request id": self.request_id,
        }
        if rows := [(name, Code(value) if name == "request" else value) for name, value in asked.items() if value]:
            yield Section(title="the request", rows=rows, unfolded=False)


class Unauthorized(RegistryError):
    """401: credentials are missing or wrong."""


class Denied(RegistryError):
    """403: who you are is known; you may not."""


class RateLimited(RegistryError):
    """429, after the retries."""


class Unsupported(RegistryError):
    """The registry does not offer the operation."""


class TooLarge(RegistryError):
    """413, or an answer above a limit of ours."""


class RangeInvalid(RegistryError):
    """416: a range or a chunk offset that the registry refuses."""


class InvalidResponse(RegistryError):
    """An answer that the specification doesn't allow, such as an HTML page where JSON was expected."""


class UploadInvalid(RegistryError):
    """The registry refused an upload, a digest or a manifest."""


class ManifestBlobUnknown(UploadInvalid):
    """The registry refused a manifest, because it doesn't have what the manifest names."""

    @property
    def digests(self) -> tuple[str, ...]:
        """What it doesn't have, as far as it says; it may say nothing."""
        said = json.dumps([(e.get("message"), e.get("detail")) for e in self.errors])
        return tuple(dict.fromkeys(_DIGEST.findall(said)))


class ManifestUnknown(RegistryError, NotFound):
    """No such tag or manifest."""


class BlobUnknown(RegistryError, NotFound):
    """No such blob in the repository."""


class NameUnknown(RegistryError, NotFound):
    """No such repository."""


class UploadUnknown(RegistryError, NotFound):
    """The upload session is gone."""


class ConnectionFailed(OcikitError, OSError):
    """No connection, or one that broke and couldn't be mended."""


class TimedOut(ConnectionFailed, TimeoutError):
    """The registry took longer than the timeout."""


class ServerFailed(OcikitError, OSError):
    """A registry of one's own couldn't start; the message has its last words."""
