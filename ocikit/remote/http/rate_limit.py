"""How many requests a registry still takes, as Docker Hub and others say it with their answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Self

from attrs import frozen

from ocikit import display

_NAMES = ("ratelimit", "x-ratelimit")
_NUMBER = re.compile(r"\s*([0-9]{1,12})\s*(?:[,;].*)?")
_WINDOW = re.compile(r";\s*w=([0-9]{1,9})(?![0-9])")


@frozen(kw_only=True)
class RateLimit:
    """What a registry says of how often it may be asked.

    >>> limit = RateLimit.of({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"})
    >>> str(limit), limit.window
    ('76 of 100 left in 6 h', 21600)
    """

    limit: int
    """Requests, or pulls, in one window."""
    remaining: int
    """Those that are left."""
    window: int | None = None
    """Seconds; None if the registry doesn't say."""

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self | None:
        """What an answer says: `RateLimit-Limit` and `RateLimit-Remaining`, with `X-` or without; None if it doesn't.

        Docker Hub gives the window as a parameter `w`, as the drafts of draft-ietf-httpapi-ratelimit-headers did.
        """
        for name in _NAMES:
            remaining = headers.get(f"{name}-remaining")
            if remaining is None:
                continue
            limit = headers.get(f"{name}-limit") or ""
            most, left = _NUMBER.fullmatch(limit), _NUMBER.fullmatch(remaining)
            if most and left:
                window = _WINDOW.search(limit) or _WINDOW.search(remaining)
                return cls(limit=int(most[1]), remaining=int(left[1]), window=int(window[1]) if window else None)
        return None

    def __str__(self) -> str:
        if not self.window:
            return f"{self.remaining} of {self.limit} left"
        return f"{self.remaining} of {self.limit} left in {display.duration(self.window).removesuffix(' 0 min')}"
