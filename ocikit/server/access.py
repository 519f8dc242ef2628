"""Who may do what: the interface of access adapters, and the one that lets everybody in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from attrs import frozen

from ocikit.server.message import Request, Response

__all__ = ["ANONYMOUS", "Access", "Identity", "Need", "OpenAccess"]


@frozen
class Identity:
    """Who sends a request."""

    name: str = ""
    """ "" for somebody who didn't say."""
    grants: tuple[tuple[str, frozenset[str]], ...] | None = None
    """What a token allows, as (repository, actions); None where the name alone decides."""

    @property
    def anonymous(self) -> bool:
        """Whether nobody said who it is."""
        return not self.name


ANONYMOUS = Identity()


@frozen
class Need:
    """What a request must be allowed: an action on a repository, or on the catalog, where `repository` is ""."""

    action: str
    """ "pull", "push" or "delete"; "catalog"."""
    repository: str = ""


class Access(ABC):
    """Decides. One object serves every request of a process, from many threads.

    The application asks `identify` first, `allows` for each need, and sends `challenge` with the 401 that follows
    when somebody anonymous may not.
    """

    @abstractmethod
    def identify(self, request: Request) -> Identity:
        """Who sends it; ANONYMOUS if it has no credentials. Raises: Refusal: 401 for wrong ones, 429 for too many."""

    @abstractmethod
    def allows(self, identity: Identity, need: Need) -> bool:
        """Whether somebody may. Called for lists, too: once for each name."""

    def challenge(self, request: Request, needs: Sequence[Need]) -> str:
        """The value of WWW-Authenticate that says how to get in; "" if there is no way."""
        return ""

    @property
    def open(self) -> bool:
        """Whether `/v2/` answers those who didn't say who they are."""
        return False

    def answer(self, request: Request) -> Response | None:
        """The answer at a path of the adapter's own, such as a token endpoint; None elsewhere."""
        return None


class OpenAccess(Access):
    """Everybody may do everything."""

    def identify(self, request: Request) -> Identity:
        """Nobody is asked."""
        return ANONYMOUS

    def allows(self, identity: Identity, need: Need) -> bool:
        """Always."""
        return True

    @property
    def open(self) -> bool:
        """Always."""
        return True
