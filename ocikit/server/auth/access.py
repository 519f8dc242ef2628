"""Interface of access adapters, and the adapter that allows everything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from attrs import field, frozen

from ocikit.server.http.request import Request, Response


@frozen
class Identity:
    """The sender of a request."""

    name: str = ""
    """Name of the user; "" without a login."""
    grants: tuple[tuple[str, frozenset[str]], ...] | None = None
    """Scopes of a token as (repository, actions), with "" and "catalog" for the catalog; None without a token."""
    error: str = field(default="", kw_only=True)
    """RFC 6750 3.1 error code of invalid credentials, such as "invalid_token". An identity with an error is allowed nothing:
    an expired token must not count as an anonymous request."""

    @property
    def anonymous(self) -> bool:
        """True without a login."""
        return not self.name


ANONYMOUS = Identity()


@frozen
class Permission:
    """An action on a repository, or on the catalog if `repository` is ""."""

    action: str
    """ "pull", "push" or "delete"; "catalog"."""
    repository: str = ""


@frozen
class Problem:
    """A problem of the configuration, for `/readyz`."""

    message: str
    """The problem in words, without secrets and paths: any client can read it."""
    blocking: bool = field(default=True, kw_only=True)
    """Whether requests are rejected because of it."""


class Access(ABC):
    """Interface of adapters that authenticate and authorize requests.

    All threads of a process share one adapter.

    The application calls `identify` first, then `allows` for each permission. If one is missing, `challenge` returns the
    WWW-Authenticate header of a 401 response, or "" for a 403.

    A custom adapter implements two methods. This one uses the user name that an authenticating proxy sends in a header. A
    client that bypasses the proxy could forge the header, so it is accepted from the proxy only:

    >>> from attrs import frozen
    >>> from ocikit.server import ANONYMOUS, Access, Application, Identity, Permission, ErrorResponse, Request, Rules, memory_storage
    >>> @frozen
    ... class ProxyAccess(Access):
    ...     proxy: str
    ...     rules: Rules
    ...
    ...     def identify(self, request: Request) -> Identity:
    ...         if request.environ["REMOTE_ADDR"] != self.proxy:
    ...             raise ErrorResponse(403, "DENIED", "use https://hub.example")
    ...         name = request.header("X-Remote-User")
    ...         return Identity(name) if name else ANONYMOUS
    ...
    ...     def allows(self, identity: Identity, permission: Permission) -> bool:
    ...         return self.rules.allows(identity.name, permission)
    >>> rules = Rules.parse('''
    ... [[rule]]
    ... users = ["ada"]
    ... repositories = ["team/**"]
    ... actions = ["pull", "push"]
    ... ''')
    >>> application = Application(memory_storage(), access=ProxyAccess("10.0.0.1", rules))

    Ada can start uploads below `team/` and nowhere else, and only through the proxy:

    >>> import io
    >>> def start_upload(repository, user, remote="10.0.0.1"):
    ...     environ = {"REQUEST_METHOD": "POST", "PATH_INFO": f"/v2/{repository}/blobs/uploads/", "REMOTE_ADDR": remote,
    ...                "HTTP_X_REMOTE_USER": user, "wsgi.input": io.BytesIO(), "wsgi.url_scheme": "http"}
    ...     application(environ, lambda status, headers: print(status))
    >>> for arguments in [("team/model", "ada"), ("other", "ada"), ("team/model", "eve"), ("team/model", "ada", "10.0.0.9")]:
    ...     start_upload(*arguments)
    202 Accepted
    403 Forbidden
    403 Forbidden
    403 Forbidden
    """

    @abstractmethod
    def identify(self, request: Request) -> Identity:
        """Return the sender of a request.

        Args:
            request: The request.

        Returns:
            The identity; ANONYMOUS without credentials.

        Raises:
            ErrorResponse: 401 for wrong credentials, 429 after too many failures.
        """

    @abstractmethod
    def allows(self, identity: Identity, permission: Permission) -> bool:
        """Return True if an identity has a permission.

        Args:
            identity: Identity of the sender.
            permission: The permission.
        """

    def can_pull(self, identity: Identity, repository: str) -> bool:
        """Return True if the user may pull, regardless of the token's scopes.

        The catalog uses it, and a mount with a source, to choose between a challenge and an upload. It never allows access.

        Args:
            identity: Identity of the sender.
            repository: Repository name.

        >>> from ocikit.server import ANONYMOUS, OpenAccess
        >>> OpenAccess().can_pull(ANONYMOUS, "ada/waves")
        True
        """
        return self.allows(identity, Permission("pull", repository))

    def challenge(self, request: Request, permissions: Sequence[Permission], identity: Identity = ANONYMOUS) -> str:
        """Return the WWW-Authenticate header of a rejected request.

        Args:
            request: The request.
            permissions: All permissions that the request needs, not only the missing ones; none for `/v2/`.
            identity: Current identity of the sender.

        Returns:
            The challenge; "" if no other credentials would help.

        Raises:
            ErrorResponse: A more specific response, such as 403 over plain http.

        >>> from wsgiref.util import setup_testing_defaults
        >>> from ocikit.server import OpenAccess, Request
        >>> environ = {"PATH_INFO": "/v2/"}
        >>> setup_testing_defaults(environ)
        >>> OpenAccess().challenge(Request.from_environ(environ), ())
        ''
        """
        return ""

    def allows_anonymous_ping(self, request: Request) -> bool:
        """Return True if `/v2/` responds without credentials.

        Clients decide there whether to log in.

        >>> from wsgiref.util import setup_testing_defaults
        >>> from ocikit.server import OpenAccess, Request
        >>> environ = {"PATH_INFO": "/v2/"}
        >>> setup_testing_defaults(environ)
        >>> OpenAccess().allows_anonymous_ping(Request.from_environ(environ))
        True
        """
        return False

    def problems(self) -> Sequence[Problem]:
        """Return the current problems, such as a file of users that cannot be loaded.

        >>> from ocikit.server import OpenAccess
        >>> OpenAccess().problems()
        ()
        """
        return ()

    def respond(self, request: Request) -> Response | None:
        """Return the response at a path of the adapter, such as a token endpoint.

        At other paths the result is None.

        >>> from wsgiref.util import setup_testing_defaults
        >>> from ocikit.server import OpenAccess, Request
        >>> environ = {"PATH_INFO": "/token"}
        >>> setup_testing_defaults(environ)
        >>> print(OpenAccess().respond(Request.from_environ(environ)))
        None
        """
        return None


class OpenAccess(Access):
    """Adapter that allows everything without a login."""

    def identify(self, request: Request) -> Identity:
        """Return ANONYMOUS."""
        return ANONYMOUS

    def allows(self, identity: Identity, permission: Permission) -> bool:
        """Return True."""
        return True

    def allows_anonymous_ping(self, request: Request) -> bool:
        """Return True."""
        return True
