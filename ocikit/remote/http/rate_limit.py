"""Rate limits of a registry, as Docker Hub and others report them in response headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Self

from attrs import frozen

from ocikit import display

_PREFIXES = ("ratelimit", "x-ratelimit")
_NUMBER = re.compile(r"\s*([0-9]{1,12})\s*(?:[,;].*)?")
_WINDOW = re.compile(r";\s*w=([0-9]{1,9})(?![0-9])")


@display.readable
@frozen(kw_only=True)
class RateLimit:
    """The limit on requests in a time window, and the rest of it.

    >>> limit = ocikit.RateLimit.of({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"})
    >>> str(limit), limit.window
    ('76 of 100 left in 6 h', 21600)
    """

    limit: int
    """Requests, or pulls, in one window."""
    remaining: int
    """Requests that are left in the current window."""
    window: int | None = None
    """Seconds; None if the registry does not report them."""

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self | None:
        """Parse `RateLimit-Limit` and `RateLimit-Remaining`, with the prefix `X-` or without.

        Docker Hub reports the window in a parameter `w`, as drafts of draft-ietf-httpapi-ratelimit-headers did.

        Args:
            headers: Headers of a response, case-insensitive.

        Returns:
            The limit, or None if the headers are missing or invalid.

        >>> ocikit.RateLimit.of({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}).remaining
        76
        """
        for prefix in _PREFIXES:
            remaining = headers.get(f"{prefix}-remaining")
            if remaining is None:
                continue
            limit = headers.get(f"{prefix}-limit") or ""
            most, left = _NUMBER.fullmatch(limit), _NUMBER.fullmatch(remaining)
            if most and left:
                window = _WINDOW.search(limit) or _WINDOW.search(remaining)
                return cls(limit=int(most[1]), remaining=int(left[1]), window=int(window[1]) if window else None)
        return None

    def __str__(self) -> str:
        if not self.window:
            return f"{self.remaining} of {self.limit} left"
        return f"{self.remaining} of {self.limit} left in {display.duration(self.window).removesuffix(' 0 min')}"
