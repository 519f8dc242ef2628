"""How the registry says no: a status, one of the specification's codes, and what to do. spec.md#error-codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ocikit.display import sanitize, shorten
from ocikit.errors import OcikitError


class ErrorResponse(Exception):
    """A request that isn't answered as asked.

    Attributes:
        status: the HTTP status.
        code: one of the codes of distribution-spec spec.md#error-codes.
        message: for people; cleaned of control characters.
        detail: JSON for programs; a list gives one error for each of its items.
        headers: what else the response says, such as a challenge.
        each: messages for the items of *detail*, instead of the one.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        detail: Any = None,
        headers: tuple[tuple[str, str], ...] = (),
        each: Sequence[str] = (),
    ) -> None:
        self.status = status
        self.code = code
        self.message = _line(message)
        self.detail = detail
        self.headers = headers
        self.each = tuple(map(_line, each))
        super().__init__(f"{status} {code}: {self.message}")

    @property
    def errors(self) -> dict[str, Any]:
        """The body of the response."""
        details = (self.detail if isinstance(self.detail, list) else [self.detail]) or [None]
        messages = self.each or [self.message] * len(details)
        return {
            "errors": [
                {"code": self.code, "message": message} | ({} if detail is None else {"detail": detail})
                for message, detail in zip(messages, details, strict=True)
            ]
        }


def advice(error: OcikitError) -> str:
    """What is wrong and what to do, on one line.

    >>> advice(OcikitError("no such tag", hint="push it"))
    'no such tag: push it'
    """
    return f"{error.message}: {error.hint}" if error.hint else error.message


def _line(text: str) -> str:
    return shorten(sanitize(text), 1000)
