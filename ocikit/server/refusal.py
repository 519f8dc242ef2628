"""How the registry says no: a status, one of the specification's codes, and what to do. spec.md#error-codes."""

from __future__ import annotations

from typing import Any

from ocikit.display import clean, shorten

__all__ = ["Refusal"]


class Refusal(Exception):
    """A request that isn't answered as asked.

    Attributes:
        status: the HTTP status.
        code: one of the codes of distribution-spec spec.md#error-codes.
        message: for people; cleaned of control characters.
        detail: JSON for programs.
        headers: what else the response says, such as a challenge.
    """

    def __init__(
        self, status: int, code: str, message: str, *, detail: Any = None, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.status = status
        self.code = code
        self.message = shorten(clean(message), 1000)
        self.detail = detail
        self.headers = headers
        super().__init__(f"{status} {code}: {self.message}")

    @property
    def errors(self) -> dict[str, Any]:
        """The body of the response."""
        details = self.detail if isinstance(self.detail, list) else [self.detail]
        return {
            "errors": [
                {"code": self.code, "message": self.message} | ({} if detail is None else {"detail": detail})
                for detail in details or [None]
            ]
        }
