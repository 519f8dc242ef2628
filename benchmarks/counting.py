"""A proxy that counts requests and connections. Its times mean nothing."""

from __future__ import annotations

from typing import Any

from attrs import define, field, frozen

from ocikit.testing.proxy import Proxy


@frozen
class Count:
    """What a command has sent through the proxy."""

    requests: int
    connections: int
    received: int
    """Bytes of the bodies that the command has received."""


@define(eq=False)
class CountingProxy(Proxy):
    """A proxy that also counts connections."""

    connections: int = field(default=0, init=False)

    def listen(self) -> Any:
        listener = super().listen()
        accept = listener.get_request

        def counted() -> Any:
            self.connections += 1
            return accept()

        listener.get_request = counted  # type: ignore[method-assign]
        return listener

    @property
    def count(self) -> Count:
        """The counts until now."""
        return Count(len(self.passed), self.connections, sum(each.sent for each in self.passed))
