"""Error responses with the specification's codes. spec.md#error-codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ocikit.display import sanitize, shorten
from ocikit.errors import OcikitError

#: Characters of a message.
_MESSAGE_LIMIT = 1000


class ErrorResponse(Exception):
    """A request that ends with an error.

    Args:
        status: HTTP status.
        code: Code of distribution-spec spec.md#error-codes.
        message: Text for people; control characters are removed.
        detail: JSON for programs; a list produces one error for each item.
        headers: Further headers, such as a challenge.
        messages: Messages for the items of `detail`, instead of `message`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        detail: Any = None,
        headers: tuple[tuple[str, str], ...] = (),
        messages: Sequence[str] = (),
    ) -> None:
        self.status = status
        self.code = code
        self.message = _one_line(message)
        self.detail = detail
        self.headers = headers
        self.messages = tuple(map(_one_line, messages))
        super().__init__(f"{status} {code}: {self.message}")

    @property
    def errors(self) -> dict[str, Any]:
        """The JSON body of the response."""
        details = (self.detail if isinstance(self.detail, list) else [self.detail]) or [None]
        messages = self.messages or [self.message] * len(details)
        return {
            "errors": [
                {"code": self.code, "message": message} | ({} if detail is None else {"detail": detail})
                for message, detail in zip(messages, details, strict=True)
            ]
        }


def message_with_hint(error: OcikitError) -> str:
    """Return an error's message and hint on one line.

    >>> message_with_hint(OcikitError("no such tag", hint="push it"))
    'no such tag: push it'
    """
    return f"{error.message}: {error.hint}" if error.hint else error.message


def _one_line(text: str) -> str:
    return shorten(sanitize(text), _MESSAGE_LIMIT)
