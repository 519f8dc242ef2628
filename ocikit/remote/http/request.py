"""Requests before authentication and redirects, with bodies that can be sent again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from attrs import frozen


class BodyStream(Protocol):
    """A stream as the body of a request."""

    def read(self, size: int = ..., /) -> bytes:
        """Read at most `size` bytes."""

    def seekable(self) -> bool:
        """Return True if the body can be sent again."""

    def seek(self, offset: int, /) -> int:
        """Move to an offset."""

    def tell(self) -> int:
        """Return the position."""


class Body:
    """A request body, and the position to which it is rewound for another attempt."""

    def __init__(self, content: bytes | BodyStream | None = None) -> None:
        self.content = content
        self._start: int | None = None
        if content is not None and not isinstance(content, bytes) and content.seekable():
            self._start = content.tell()
        self.repeatable = content is None or isinstance(content, bytes) or self._start is not None
        """Whether the body can be sent again."""

    def rewind(self) -> None:
        """Seek to the start of the content, if it is a stream."""
        if self._start is not None and self.content is not None and not isinstance(self.content, bytes):
            self.content.seek(self._start)


@frozen
class Request:
    """A request to a registry."""

    method: str
    url: str
    """Absolute."""
    headers: Mapping[str, str]
    body: Body
    length: int | None = None
    """Bytes of a stream."""
    timeout: float | None = None
    """Seconds without data, if not the network's."""
