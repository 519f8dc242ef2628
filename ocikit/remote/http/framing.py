"""The framing of responses, parsed as strictly as RFC 9112 requires.

http.client parses lengths with `int()`, which accepts signs, blanks, underscores and prefixes. A chunk of -1 bytes reads
the whole body into memory, and responses of status 100 or trailers may follow one another indefinitely (DoS).
"""

from __future__ import annotations

import http.client
import re

from ocikit import display
from ocikit.remote.http.causes import cause_chain

#: Interim responses (1xx) before the final one. Registries send at most one.
MAX_INTERIM = 16

#: Lines of trailers after the last chunk; http.client has the same limit for headers.
MAX_TRAILERS = 100

#: A chunk size with its extensions. Fifteen digits are a petabyte. RFC 9112 section 7.1.
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\r\n]*)?\r?\n")
_LENGTH = re.compile(r"[0-9]{1,18}(?:[ \t]*,[ \t]*[0-9]{1,18})*")
_LINE = 65536  # bytes


class InvalidFraming(http.client.HTTPException):
    """A response whose end cannot be determined."""


def framing_error(error: BaseException | None) -> InvalidFraming | None:
    """Return the violation that broke a response, or None if something else did."""
    return next((cause for cause in cause_chain(error) if isinstance(cause, InvalidFraming)), None)


class StrictResponse(http.client.HTTPResponse):
    """A response with strict lengths and a limited number of interim responses."""

    def begin(self) -> None:
        """Read the status and the headers.

        Raises:
            InvalidFraming: The Content-Length is not a number, or there are too many interim responses.
        """
        super().begin()
        for value in self.headers.get_all("Content-Length", ()):
            if not _LENGTH.fullmatch(value.strip(" \t")):
                raise self._violation(f"Content-Length is {display.quoted(value, 40)}")

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # typeshed has no private methods
            if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise self._violation(f"more than {MAX_INTERIM} interim responses precede the final one")

    def _read_next_chunk_size(self) -> int:
        line = self.fp.readline(_LINE + 1)
        if not line.endswith(b"\n") and len(line) <= _LINE:
            raise http.client.IncompleteRead(b"")  # the connection broke
        match = _CHUNK.fullmatch(line)
        if match is None:
            text = line[:80].strip(b"\r\n").decode("latin-1")
            raise self._violation(f"the size of a chunk is {display.quoted(text, 40)}")
        return int(match[1], 16)

    def _read_and_discard_trailer(self) -> None:
        for _ in range(MAX_TRAILERS + 1):
            line = self.fp.readline(_LINE + 1)
            if len(line) > _LINE:
                raise http.client.LineTooLong("trailer line")
            if line in {b"", b"\r\n", b"\n"}:
                return
        raise self._violation(f"more than {MAX_TRAILERS} trailers follow the body")

    def _violation(self, problem: str) -> InvalidFraming:
        """Close the response and return the error for it."""
        self.close()
        return InvalidFraming(problem)
