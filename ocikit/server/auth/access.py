"""Who may do what: the interface of access adapters, and the one that lets everybody in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from attrs import field, frozen

from ocikit.server.http.request import Request, Response


@frozen
class Identity:
    """Who sends a request."""

    name: str = ""
    """ "" for somebody who didn't say."""
    grants: tuple[tuple[str, frozenset[str]], ...] | None = None
    """What a token allows, as (repository, actions), with "" and "catalog" for the catalog; None where the name decides."""
    problem: str = field(default="", kw_only=True)
    """What is wrong with the credentials that came, as a challenge says it: "invalid_token". Whoever has a problem may do
    nothing, so that a token that is over isn't taken for somebody without one. RFC 6750 #3.1."""

    @property
    def anonymous(self) -> bool:
        """Whether nobody said who it is."""
        return not self.name


ANONYMOUS = Identity()


@frozen
class Permission:
    """What a request must be allowed: an action on a repository, or on the catalog, where `repository` is ""."""

    action: str
    """ "pull", "push" or "delete"; "catalog"."""
    repository: str = ""


class Access(ABC):
    """Decides. One object serves every request of a process, from many threads.

    The application asks `identify` first and `allows` for each need. Where something isn't allowed, `challenge` says how to
    get in, which makes it a 401; where there is no way, it is a 403.

    An adapter of one's own takes two methods. Here a proxy in front has logged people in, and says who they are in a header.
    Whoever reaches the registry around the proxy can write that header just as well, so it counts from the proxy only:

    >>> from attrs import frozen
    >>> from ocikit.server import ANONYMOUS, Access, Application, Identity, Permission, ErrorResponse, Request, Rules, memory_storage
    >>> @frozen
    ... class ProxyAccess(Access):
    ...     proxy: str
    ...     rules: Rules
    ...
    ...     def identify(self, request: Request) -> Identity:
    ...         if request.environ["REMOTE_ADDR"] != self.proxy:
    ...             raise ErrorResponse(403, "DENIED", "come in through https://hub.example")
    ...         name = request.header("X-Remote-User")
    ...         return Identity(name) if name else ANONYMOUS
    ...
    ...     def allows(self, identity: Identity, need: Permission) -> bool:
    ...         return self.rules.allows(identity.name, need)
    >>> rules = Rules.parse('''
    ... [[rule]]
    ... users = ["ada"]
    ... repositories = ["team/**"]
    ... actions = ["pull", "push"]
    ... ''')
    >>> application = Application(memory_storage(), access=ProxyAccess("10.0.0.1", rules))

    Ada may begin an upload below `team/` and nowhere else; nobody may without the proxy:

    >>> import io
    >>> def begin(repository, user, remote="10.0.0.1"):
    ...     environ = {"REQUEST_METHOD": "POST", "PATH_INFO": f"/v2/{repository}/blobs/uploads/", "REMOTE_ADDR": remote,
    ...                "HTTP_X_REMOTE_USER": user, "wsgi.input": io.BytesIO(), "wsgi.url_scheme": "http"}
    ...     application(environ, lambda status, headers: print(status))
    >>> _ = begin("team/model", "ada"), begin("other", "ada"), begin("team/model", "eve"), begin("team/model", "ada", "10.0.0.9")
    202 Accepted
    403 Forbidden
    403 Forbidden
    403 Forbidden
    """

    @abstractmethod
    def identify(self, request: Request) -> Identity:
        """Who sends it; ANONYMOUS if it has no credentials. Raises: Refusal: 401 for wrong ones, 429 for too many."""

    @abstractmethod
    def allows(self, identity: Identity, need: Permission) -> bool:
        """Whether somebody may."""

    def reads(self, identity: Identity, repository: str) -> bool:
        """Whether somebody may pull from a repository, however little their token says: for the catalog, and for mounts."""
        return self.allows(identity, Permission("pull", repository))

    def challenge(self, request: Request, needs: Sequence[Permission], identity: Identity = ANONYMOUS) -> str:
        """The value of WWW-Authenticate that says how to get in; "" if nothing that this somebody could say would help.

        Args:
            request: what is refused.
            needs: all that it needs, and not only what isn't allowed; none for `/v2/`.
            identity: who it is so far.
        Raises:
            Refusal: to say more than that.
        """
        return ""

    def allows_anonymous_ping(self, request: Request) -> bool:
        """Whether `/v2/` answers those who didn't say who they are. Clients ask there whether to log in at all."""
        return False

    def answer(self, request: Request) -> Response | None:
        """The answer at a path of the adapter's own, such as a token endpoint; None elsewhere."""
        return None


class OpenAccess(Access):
    """Everybody may do everything."""

    def identify(self, request: Request) -> Identity:
        """Nobody is asked."""
        return ANONYMOUS

    def allows(self, identity: Identity, need: Permission) -> bool:
        """Always."""
        return True

    def allows_anonymous_ping(self, request: Request) -> bool:
        """Always."""
        return True
