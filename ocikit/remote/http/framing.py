"""The framing of responses, parsed as strictly as RFC 9112 requires.

http.client parses lengths with `int()`, which accepts signs, blanks, underscores and prefixes. A chunk of -1 bytes reads
the whole body into memory, and responses of status 100 or trailers may follow one another indefinitely (DoS). Its headers
end at the first invalid line, so that a Content-Length after it is ignored (response smuggling).
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping

from ocikit import display
from ocikit.remote.http.causes import cause_chain

#: Interim responses (1xx) before the final one. Registries send at most one.
MAX_INTERIM = 16

#: Lines of headers, as in http.client.
MAX_FIELDS = 100

#: Lines of trailers after the last chunk.
MAX_TRAILERS = 100

#: A header. Exclude NUL and CR from values: recipients that end a value there read other headers. RFC 9110 section 5.5.
_FIELD = re.compile(r"^([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([^\r\n\0]*+)\r?\n", re.MULTILINE)
_FOLDED = re.compile(r"[ \t]++([^\r\n\0]*+)\r?\n")  # the rest of a value, from servers before 2014
_ENDS = frozenset({b"\r\n", b"\n"})

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
    """A response with strict headers and lengths, and a limited number of interim responses."""

    fields: list[tuple[str, str]]
    """The names and values of the headers."""

    def begin(self) -> None:
        """Read the status and the headers.

        http.client passes headers to the parser for mail, which accepts nearly anything and costs more than the rest of a
        small request.

        Raises:
            InvalidFraming: A header or the Content-Length is invalid, or there are too many interim responses.
        """
        if self.headers is not None:
            return
        version, self.status, reason = self._read_status()
        self.code, self.reason = self.status, reason.strip()
        if version in {"HTTP/1.0", "HTTP/0.9"}:
            self.version = 10
        elif version.startswith("HTTP/1."):
            self.version = 11
        else:
            raise http.client.UnknownProtocol(version)
        self.fields = self._read_fields()
        lowered = [(name.lower(), value) for name, value in self.fields]
        first = dict(reversed(lowered))
        self.headers = self.msg = http.client.HTTPMessage()
        for name, value in self.fields:
            self.headers.set_raw(name, value)
        self.chunked = first.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        length = self._parse_length([value for name, value in lowered if name == "content-length"])
        bodiless = self.status in {204, 304} or 100 <= self.status < 200 or self._method == "HEAD"
        self.length = 0 if bodiless else None if self.chunked else length
        self.will_close = self._ends_connection(first) or (not self.chunked and self.length is None)

    def _parse_length(self, values: list[str]) -> int | None:
        """Parse the Content-Length, which may be repeated with the same number. RFC 9112 section 6.3."""
        numbers: set[int] = set()
        for value in values:
            if not _LENGTH.fullmatch(value):
                raise self._violation(f"Content-Length is {display.quoted(value, 40)}")
            numbers.update(map(int, value.split(",")))
        if len(numbers) > 1:
            raise self._violation(f"Content-Length is {display.quoted(', '.join(values), 40)}")
        return numbers.pop() if numbers else None

    def _ends_connection(self, fields: Mapping[str, str]) -> bool:
        """Return True if the server closes the connection after the body, as http.client decides it."""
        options = fields.get("connection", "").lower()
        if self.version == 11:
            return "close" in options
        proxied = "keep-alive" in fields.get("proxy-connection", "").lower()
        return not (fields.get("keep-alive") or "keep-alive" in options or proxied)

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # typeshed has no private methods
            if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            self._read_fields()
        raise self._violation(f"more than {MAX_INTERIM} interim responses precede the final one")

    def _read_fields(self) -> list[tuple[str, str]]:
        """Read names and values up to the empty line. RFC 9112 section 5."""
        lines: list[bytes] = []
        while (line := self.fp.readline(_LINE + 1)) not in _ENDS:
            if len(line) > _LINE:
                raise http.client.LineTooLong("header line")
            if not line.endswith(b"\n"):
                raise http.client.IncompleteRead(b"")  # the connection broke
            if len(lines) >= MAX_FIELDS:
                raise http.client.HTTPException(f"got more than {MAX_FIELDS} headers")
            lines.append(line)
        fields = _FIELD.findall(b"".join(lines).decode("latin-1"))
        if len(fields) != len(lines):
            fields = self._unfold(lines)
        return [(name, value.rstrip(" \t")) for name, value in fields]

    def _unfold(self, lines: list[bytes]) -> list[tuple[str, str]]:
        """Parse headers whose values take several lines, or find the invalid one."""
        fields: list[tuple[str, str]] = []
        for line in lines:
            text = line.decode("latin-1")
            if (match := _FIELD.fullmatch(text)) is not None:
                fields.append((match[1], match[2]))
            elif fields and (match := _FOLDED.fullmatch(text)) is not None:
                name, value = fields.pop()
                fields.append((name, f"{value} {match[1]}".strip()))
            else:
                raise self._violation(f"a header is {display.quoted(text[:80].rstrip(), 40)}")
        return fields

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
