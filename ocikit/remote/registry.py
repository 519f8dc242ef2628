"""One registry: ping, catalog and its repositories."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ocikit import display
from ocikit.errors import ConnectionFailed, OcikitError, RegistryError, Unsupported
from ocikit.remote.http.rate_limit import RateLimit
from ocikit.remote.http.responses import drain
from ocikit.remote.http.transport import Transport
from ocikit.remote.pagination import iter_pages
from ocikit.remote.repository import PAGE_SIZE, KnownNames, Repository, no_names
from ocikit.spec.challenge import Scope

_PING_PROBLEMS = {
    200: "",
    401: "credentials are missing or wrong",
    403: "access denied",
    404: "no registry API at this host",
}


@attrs.frozen(kw_only=True, repr=False)
class Ping(display.Displayable):
    """The result of a first request to a registry.

    >>> ping = ocikit.ping("localhost:5000")
    >>> ping.reachable, ping.authenticated
    (True, True)
    """

    host: str
    reachable: bool
    authenticated: bool
    """Whether the API accepted the request, with credentials or without."""
    requires_login: bool = False
    """Whether the registry asked for credentials, so that it checked them if there are any."""
    problem: str = ""
    """Error message, or an empty string."""
    url: str
    version: str = ""
    """The `Docker-Distribution-API-Version` header."""
    rate_limit: RateLimit | None = attrs.field(default=None, metadata={"show": str})
    """The registry's most recent rate limit; None if it never reported one."""

    def __bool__(self) -> bool:
        return self.reachable and self.authenticated

    def _card_title(self) -> object:
        return display.Name("", self.host)

    def _card_notes(self) -> Iterator[object]:
        yield "ready" if self else "not authorized" if self.reachable else "not reachable"

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "host", "reachable", "authenticated")
        if self.reachable and not self.authenticated:
            yield "log in", display.code_call("ocikit.login", self.host)
            yield "who am I", display.code_call("ocikit.auth.explain", self.host)
        elif self.reachable:
            yield "repositories", display.code_call("ocikit.catalog", self.host)


class Registry(display.Displayable):
    """A registry. `registry["team/data"]` opens one of its repositories.

    Args:
        transport: Connections to the host.
        known: Returns the names of a host's repositories for hints and completion, without a request.

    >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
    >>> registry = ocikit.Session().registry("localhost:5000")
    >>> registry["ada/waves"].tags()
    ['v1']
    """

    def __init__(self, transport: Transport, *, known: KnownNames = no_names) -> None:
        self.transport = transport
        self.host = transport.host
        self._known = known

    def __getitem__(self, name: str) -> Repository:
        return self.repository(name)

    __iter__ = None  # every name is accepted, so iteration would never end; `catalog` lists the existing repositories

    def _ipython_key_completions_(self) -> list[str]:
        try:
            return sorted(self._known(self.host))
        except (OSError, OcikitError):
            return []

    def __rich_repr__(self) -> display.Description:
        yield from self.transport.__rich_repr__()

    def _card_title(self) -> object:
        return display.Name("", self.transport.host)

    def _card_notes(self) -> Iterator[object]:
        yield "registry"

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "repositories", display.Code(".catalog()")
        yield "open one", display.Code('["team/data"]')
        yield from display.non_default_fields(self.transport.__rich_repr__(), "host")

    @property
    def rate_limit(self) -> RateLimit | None:
        """The most recent rate limit that the registry reported in this session, or None.

        Docker Hub reports it with manifests, and counts each GET of one as a pull, but no HEAD: `resolve` is free.
        """
        return self.transport.rate_limit

    def repository(self, name: str, *, push: bool = False) -> Repository:
        """Return one repository, without a request.

        Args:
            name: Such as "team/data".
            push: Request the right to push with the first token.

        Raises:
            InvalidReference: The name is invalid.

        >>> registry = ocikit.Session().registry("localhost:5000")
        >>> registry.repository("ada/waves", push=True).name
        'ada/waves'
        """
        actions = ("pull", "push") if push else ("pull",)
        return Repository(self.transport, name, actions=actions, known=self._known)

    def ping(self) -> Ping:
        """end-1: Check that the registry is reachable.

        distribution-spec spec.md#determining-support.

        Returns:
            The result; errors are reported in it, not raised.

        >>> registry = ocikit.Session().registry("localhost:5000")
        >>> bool(registry.ping())
        True
        """
        try:
            response = self.transport.request("GET", "/v2/", f"reach {self.host}", ok_statuses=(401, 403, 404))
        except OcikitError as error:
            return Ping(
                host=self.host,
                reachable=not isinstance(error, ConnectionFailed),
                authenticated=False,
                url=self.transport.base,
                problem=error.message,
            )
        drain(response)
        status = response.status_code
        return Ping(
            host=self.host,
            reachable=True,
            authenticated=status == 200,
            requires_login=self.transport.challenged,
            url=self.transport.base,
            version=response.headers.get("Docker-Distribution-API-Version", ""),
            problem=_PING_PROBLEMS.get(status, f"unexpected status {status}"),
            rate_limit=self.rate_limit,
        )

    def catalog(self) -> Iterator[str]:
        """Yield the names of all repositories, page by page.

        `_catalog` is not part of the specification, so many registries do not offer it.

        Raises:
            Unauthorized: The registry requires other credentials.
            Denied: The account may not list the repositories.
            Unsupported: The registry does not list its repositories.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
        >>> list(ocikit.Session().registry("localhost:5000").catalog())
        ['ada/waves']
        """
        path, action = f"/v2/_catalog?n={PAGE_SIZE}", f"list the repositories of {self.host}"
        try:
            for page in iter_pages(self.transport, path, action, scopes=(Scope.parse("registry:catalog:*"),)):
                yield from (name for name in page.items("repositories") if isinstance(name, str))
        except RegistryError as error:
            if error.status in {401, 403}:
                others = (
                    "many registries list repositories only for administrators; if you know a name, list its tags:"
                    f" ocikit.tags('{self.host}/name')"
                )
                # A wrong login and a missing permission can both be a 401, so the login comes first
                hint = f"{error.hint}; {others}" if error.status == 401 and error.hint else others
                raise error.reworded(error.message, hint) from error
            if error.status in {404, 405, 501} or isinstance(error, Unsupported):
                raise error.reworded(
                    f"{self.host} does not list its repositories ({error.message})",
                    f"many registries don't; if you know a name, list its tags: ocikit.tags('{self.host}/name')",
                    kind=Unsupported,
                ) from error
            raise
