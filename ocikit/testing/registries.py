"""A registry for tests, which behaves as a profile names it and fails on demand."""

from __future__ import annotations

import base64
import importlib.util
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from attrs import define, evolve, field

from ocikit.errors import InvalidArgument, OcikitError
from ocikit.server import Application, memory_storage
from ocikit.testing.application import ApplicationServer
from ocikit.testing.faults import Fault
from ocikit.testing.logins import LOGINS, write_config
from ocikit.testing.messages import Request, error_response
from ocikit.testing.profiles import Profile, find
from ocikit.testing.quirks import QUIRKS
from ocikit.testing.site import BLOB, TOKEN, UPLOAD, Site
from ocikit.testing.tokens import TokenRequest

#: The packages of the registry. They are those of the extra "server".
_PACKAGES = ("sqlalchemy", "jwt")

#: Repositories that can be pulled without a login, where a registry has public ones.
PUBLIC = ("public/*",)


@define(eq=False)
class Registry:
    """A registry on a free port of loopback, a context manager.

    Its text is its host, so `f"{registry}/project/data:v1"` is a reference. Any client in any language can use it, over
    HTTP without TLS.

    Methods for faults take regular expressions for the whole method and the whole path of requests. `ocikit.testing` has
    patterns for paths: `BLOB`, `MANIFEST`, `REFERRERS`, `TAGS`, `TOKEN` and `UPLOAD`. A fault holds for the next requests
    that match, as many as `times`; None is all. The newest fault is tried first. Each method returns the `Fault`, and its
    `fired` counts the requests that had it.

    Example:
        >>> with ocikit.testing.registry() as registry:
        ...     busy = registry.fail("PUT", ocikit.testing.MANIFEST, status=503, retry_after=0)
        ...     artifact = ocikit.push(f"{registry}/ada/notes:v1", {"notes.txt": b"a few words"})
        ...     busy.fired, [request.method for request in registry.seen(path=ocikit.testing.MANIFEST)]
        (1, ['PUT', 'PUT'])
    """

    profile: Profile
    """The behaviour."""
    public: tuple[str, ...] = field(default=PUBLIC, kw_only=True)
    """Patterns of repositories that can be pulled without a login, for profiles with public repositories."""
    auth: bool = field(default=True, kw_only=True)
    """Whether clients need credentials, for profiles with an account."""
    login: bool = field(default=True, kw_only=True)
    """Whether this process and its children are logged in while the registry runs."""
    port: int = field(default=0, kw_only=True)
    """The port of the API; 0 is a free one."""

    _started: Site | None = field(default=None, init=False, repr=False)
    _folder: Path = field(init=False, repr=False)
    _stack: ExitStack = field(factory=ExitStack, init=False, repr=False)

    def __enter__(self) -> Self:
        application = Application(memory_storage())
        profile = self.profile
        try:
            upstream = self._stack.enter_context(ApplicationServer(application))
            site = self._started = self._stack.enter_context(
                Site(upstream.url, profile.host, profile.storage, profile.api_host, pages=profile.pages, port=self.port)
            )
            profile.settle(site, public=self.public, auth=self.auth)
            if site.redirects:
                site.store.faults = site.proxy.faults
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ocikit-testing-")))
            self._log_in()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __str__(self) -> str:
        return self.host

    def __repr__(self) -> str:
        return f"<Registry {self.profile.name}{f' at {self.host}' if self._started else ', not started'}>"

    def _stop(self) -> None:
        if self._started is not None:
            LOGINS.remove(self.host)
        self._stack.close()
        self._started = None

    @property
    def _site(self) -> Site:
        if self._started is None:
            raise InvalidArgument(
                f"the registry {self.profile.name!r} does not run",
                hint=f'with ocikit.testing.registry("{self.profile.name}") as host: …',
            )
        return self._started

    # Addresses and credentials

    @property
    def host(self) -> str:
        """The host for references, such as "127.0.0.1:40123"."""
        return self._site.proxy.host

    @property
    def url(self) -> str:
        """The origin of the API, such as "http://127.0.0.1:40123"."""
        return self._site.proxy.url

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password, or None if clients need none. The user `<token>` stands for an identity token as password."""
        return self._site.credentials

    @property
    def username(self) -> str:
        """The user, or ""."""
        return (self.credentials or ("", ""))[0]

    @property
    def password(self) -> str:
        """The password, or ""."""
        return (self.credentials or ("", ""))[1]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that log a child process in: those of docker's and podman's credential files."""
        return write_config(self._folder, self._entry())

    # Requests

    @property
    def requests(self) -> list[Request]:
        """All requests to the API, in order, without those to the token server."""
        return [request for request in list(self._site.proxy.requests) if request.path != TOKEN]

    @property
    def token_requests(self) -> list[TokenRequest]:
        """All requests to the token server, in order; they name user, scopes and status."""
        return list(self._site.tokens.requests) if self._site.has_tokens else []

    @property
    def storage_requests(self) -> list[Request]:
        """All requests to the storage that blobs are redirected to, in order."""
        return list(self._site.store.requests) if self._site.redirects else []

    @property
    def triggered(self) -> Counter[str]:
        """Number of uses of each quirk, by name."""
        return Counter(self._site.triggered)

    def seen(self, method: str = ".*", path: str = ".*") -> list[Request]:
        """Return the requests to the API that match.

        Args:
            method: A regular expression for the method.
            path: A regular expression for the path without the query.

        Example:
            >>> with ocikit.testing.registry() as registry:
            ...     exists = ocikit.exists(f"{registry}/ada/notes:v1")
            ...     [request.method for request in registry.seen(path=ocikit.testing.MANIFEST)]
            ['HEAD']
        """
        return [r for r in self.requests if re.fullmatch(method, r.method) and re.fullmatch(path, r.path)]

    def leaks(self, text: str = "") -> list[str]:
        """Return where credentials and tokens went that must not have them, one line each.

        Args:
            text: Output of the program under test, which must contain no secret.

        Example:
            >>> with ocikit.testing.registry("ghcr") as registry:
            ...     exists = ocikit.exists(f"{registry}/ada/notes:v1")
            ...     registry.leaks(), registry.leaks(f"password={registry.password}")
            ([], ['a secret is in the text'])
        """
        return self._site.leaks(text)

    # Faults

    def on(self, method: str = ".*", path: str = ".*", **fault: Any) -> Fault:
        """Script any fault; the other methods are its usual forms.

        Args:
            method: A regular expression for the method.
            path: A regular expression for the path without the query.
            fault: Fields of a `Fault`.

        Example:
            >>> with ocikit.testing.registry() as registry:
            ...     old = registry.on("GET", "/v2/", status=404, times=None)
            ...     bool(ocikit.ping(registry.host))
            False
        """
        return self._site.proxy.on(method, path, **fault)

    def fail(
        self,
        method: str = ".*",
        path: str = ".*",
        *,
        status: int = 503,
        code: str = "UNAVAILABLE",
        message: str = "",
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        times: int | None = 1,
    ) -> Fault:
        """Respond with an error, without processing the request.

        Args:
            method: A regular expression for the method.
            path: A regular expression for the path without the query.
            status: The HTTP status, such as 429.
            code: The error code, such as "TOOMANYREQUESTS".
            message: The message of the error.
            headers: Further headers.
            retry_after: Seconds for the Retry-After header; None sends no such header.
            times: Number of requests; None is all.

        Example:
            >>> with ocikit.testing.registry() as registry:
            ...     busy = registry.fail(status=429, code="TOOMANYREQUESTS", retry_after=0)
            ...     ocikit.exists(f"{registry}/ada/notes:v1"), busy.fired
            (False, 1)
        """
        response = error_response(status, code, message, **(headers or {}))
        if retry_after is not None:
            response.headers["Retry-After"] = f"{retry_after:g}"
        return self.on(method, path, status=status, headers=response.headers, body=response.body, times=times)

    def cut(
        self,
        method: str = "GET",
        path: str = BLOB,
        *,
        after: int = 0,
        stall: float = 0.0,
        reset: bool = False,
        times: int | None = 1,
    ) -> Fault:
        """Close the connection within the body of a response.

        Args:
            method: A regular expression for the method.
            path: A regular expression for the path without the query.
            after: Bytes of the body that are sent.
            stall: Seconds between the last byte and the end.
            reset: Whether the connection ends with a TCP reset.
            times: Number of requests; None is all.

        Example:
            >>> with ocikit.testing.registry() as registry, ocikit.Session(cache="empty") as session:
            ...     artifact = ocikit.push(f"{registry}/ada/notes:v1", {"notes.txt": b"a few words"})
            ...     cut = registry.cut(after=5)
            ...     session.pull(f"{registry}/ada/notes:v1").read("notes.txt"), cut.fired
            (b'a few words', 1)
        """
        return self.on(method, path, cut=after, stall=stall, reset=reset, times=times)

    def cut_upload(
        self,
        method: str = "POST|PATCH|PUT",
        path: str = UPLOAD,
        *,
        after: int = 0,
        reset: bool = False,
        times: int | None = 1,
    ) -> Fault:
        """Close the connection within the body of a request. The registry gets the bytes before.

        Args:
            method: A regular expression for the method.
            path: A regular expression for the path without the query.
            after: Bytes of the body that the registry gets.
            reset: Whether the connection ends with a TCP reset.
            times: Number of requests; None is all.

        Example:
            >>> with ocikit.testing.registry() as registry:
            ...     cut = registry.cut_upload(after=5)
            ...     artifact = ocikit.push(f"{registry}/ada/notes:v1", {"notes.txt": b"a few words"})
            ...     cut.fired
            1
        """
        return self.on(method, path, cut_request=after, reset=reset, times=times, when=_has_body(after))

    def drop(
        self,
        method: str = ".*",
        path: str = ".*",
        *,
        processed: bool = False,
        reset: bool = False,
        times: int | None = 1,
    ) -> Fault:
        """Close the connection without a response.

        Args:
            method: A regular expression for the method.
            path: A regular expression for the path without the query.
            processed: Whether the registry processes the request before.
            reset: Whether the connection ends with a TCP reset.
            times: Number of requests; None is all.

        Example:
            >>> with ocikit.testing.registry() as registry:
            ...     lost = registry.drop("PUT", ocikit.testing.MANIFEST, processed=True)
            ...     artifact = ocikit.push(f"{registry}/ada/notes:v1", {"notes.txt": b"a few words"})
            ...     len(registry.seen("PUT", ocikit.testing.MANIFEST))
            2
        """
        return self.on(method, path, drop="after" if processed else "before", reset=reset, times=times)

    def delay(self, seconds: float, method: str = ".*", path: str = ".*", *, times: int | None = 1) -> Fault:
        """Wait before a request is processed.

        Args:
            seconds: Seconds to wait.
            method: A regular expression for the method.
            path: A regular expression for the path without the query.
            times: Number of requests; None is all.

        Example:
            >>> with ocikit.testing.registry() as registry:
            ...     slow = registry.delay(0.01)
            ...     ocikit.exists(f"{registry}/ada/notes:v1"), slow.fired
            (False, 1)
        """
        return self.on(method, path, delay=seconds, times=times)

    def throttle(self, rate: float, method: str = ".*", path: str = ".*", *, times: int | None = None) -> Fault:
        """Limit the rate of both bodies.

        Args:
            rate: Bytes a second.
            method: A regular expression for the method.
            path: A regular expression for the path without the query.
            times: Number of requests; None is all.

        Example:
            >>> with ocikit.testing.registry() as registry:
            ...     slow = registry.throttle(1_000_000, "PUT", ocikit.testing.UPLOAD)
            ...     artifact = ocikit.push(f"{registry}/ada/notes:v1", {"notes.txt": b"a few words"})
            ...     slow.fired > 0
            True
        """
        return self.on(method, path, throttle=rate, times=times)

    def corrupt(self, method: str = "GET", path: str = BLOB, *, times: int | None = 1) -> Fault:
        """Change one bit of the body of a response, so that its digest is wrong.

        Args:
            method: A regular expression for the method.
            path: A regular expression for the path without the query.
            times: Number of requests; None is all.

        Example:
            >>> with ocikit.testing.registry() as registry, ocikit.Session(cache="empty") as session:
            ...     artifact = ocikit.push(f"{registry}/ada/notes:v1", {"notes.txt": b"a few words"})
            ...     wrong = registry.corrupt(times=None)
            ...     session.pull(f"{registry}/ada/notes:v1").read("notes.txt")
            Traceback (most recent call last):
            ocikit.errors.DigestMismatch: ...
        """
        return self.on(method, path, corrupt=True, times=times)

    def expire_tokens(self) -> None:
        """Make all issued tokens invalid. Clients must get new ones with their credentials.

        Raises:
            InvalidArgument: The registry has no token server.

        Example:
            >>> with ocikit.testing.registry("token") as registry, ocikit.Session() as session:
            ...     before = session.exists(f"{registry}/ada/notes:v1")
            ...     registry.expire_tokens()
            ...     after = session.exists(f"{registry}/ada/notes:v1")
            ...     len(registry.token_requests)
            2
        """
        if not self._site.has_tokens:
            raise InvalidArgument(
                f"the registry {self.profile.name!r} has no tokens", hint='use a profile with tokens, such as "token"'
            )
        self._site.tokens.revoke()

    def change_password(self, password: str) -> None:
        """Make the credentials invalid that clients have, also in running sessions. Issued tokens expire too.

        Args:
            password: The new password. `login=True` does not pass it on: clients must log in again.

        Raises:
            InvalidArgument: The registry has no account.

        Example:
            >>> with ocikit.testing.registry("basic") as registry:
            ...     registry.change_password("another")
            ...     ocikit.exists(f"{registry}/ada/notes:v1")
            Traceback (most recent call last):
            ocikit.errors.Unauthorized: ...
        """
        account = self.profile.account
        if account is None or not self.auth:
            raise InvalidArgument(
                f"the registry {self.profile.name!r} has no account", hint='use another profile, such as "basic"'
            )
        self._site.account(account.user, password)
        if self._site.has_tokens:
            self._site.tokens.refresh_tokens.clear()
            self._site.tokens.revoke()

    def clear(self) -> None:
        """Remove all faults and forget all requests. Content and quirks stay.

        Example:
            >>> with ocikit.testing.registry() as registry:
            ...     busy = registry.fail(times=None)
            ...     registry.clear()
            ...     ocikit.exists(f"{registry}/ada/notes:v1"), len(registry.requests)
            (False, 1)
        """
        site = self._site
        site.proxy.faults.clear()
        for log in (site.proxy, *([site.store] if site.redirects else ()), *([site.auth] if site.has_tokens else ())):
            log.requests.clear()
        if site.has_tokens:
            site.tokens.requests.clear()
        site.triggered.clear()

    def _log_in(self) -> None:
        if self.login and self.credentials is not None:
            LOGINS.add(self.host, self._entry()[self.host])

    def _entry(self) -> dict[str, Any]:
        """Return the entry of docker's config.json."""
        if self.credentials is None:
            return {}
        user, password = self.credentials
        if user != "<token>":
            return {self.host: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}}
        account = f"{self.profile.account.user if self.profile.account else ''}:".encode()
        return {self.host: {"auth": base64.b64encode(account).decode(), "identitytoken": password}}


def _has_body(size: int) -> Any:
    """Return a condition: the request has a body of more than `size` bytes, or of unknown length."""

    def long(request: Request) -> bool:
        length = request.headers.get("Content-Length")
        return "chunked" in request.headers.get("Transfer-Encoding", "").lower() or int(length or 0) > size

    return long


def registry(
    profile: str = "plain",
    *,
    auth: bool = True,
    login: bool = True,
    public: Iterable[str] = PUBLIC,
    quirks: Iterable[str] | Mapping[str, Mapping[str, Any]] = (),
    port: int = 0,
) -> Registry:
    """Return a registry for tests, to be used as a context manager.

    It behaves as a product: `describe(profile)` returns the differences from the specification with their evidence, and
    what is not imitated. Its content is in memory. Each registry has a port of its own.

    Args:
        profile: "plain" follows the specification; "basic" and "token" also require credentials. The products are "ecr",
            "ghcr", "gar", "acr", "harbor", "quay", "gitlab", "artifactory", "nexus", "hub", and further ones in `PROFILES`.
        auth: Whether clients need credentials, for profiles with an account.
        login: Whether this process and its children are logged in while the registry runs: the environment variables
            `DOCKER_CONFIG` and `REGISTRY_AUTH_FILE` name a file with the credentials.
        public: Patterns of repositories that can be pulled without a login, for profiles with public repositories.
        quirks: Names of further quirks, or a mapping of names to their options: `{"hub-rate-limit": {"limit": 3}}`.
        port: The port of the API; 0 is a free one.

    Raises:
        InvalidArgument: No profile or quirk has this name.
        OcikitError: A package is missing. The hint has the command that installs it.

    Example:
        >>> import ocikit.testing
        >>> with ocikit.testing.registry("ghcr") as host:
        ...     artifact = ocikit.push(f"{host}/project/notes:v1", {"notes.txt": b"a few words"})
        ...     ocikit.pull(f"{host}/project/notes:v1").read("notes.txt")
        b'a few words'
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise OcikitError(f"a registry for tests needs {' and '.join(missing)}", hint="pip install 'ocikit[server]'")
    found = find(profile)
    options = dict(quirks) if isinstance(quirks, Mapping) else {name: {} for name in quirks}
    for name in options:
        _check(name, found, auth=auth)
    if options:
        further = tuple(name for name in options if name not in found.quirks)
        found = evolve(found, quirks=(*further, *found.quirks), options={**found.options, **options})
    return Registry(found, public=tuple(public), auth=auth, login=login, port=port)


def _check(name: str, profile: Profile, *, auth: bool) -> None:
    """Check that a profile can have a quirk.

    Raises:
        InvalidArgument: The quirk does not exist, or it needs a server that the profile has not.
    """
    if name not in QUIRKS:
        raise InvalidArgument(f"no quirk has the name {name!r}", hint="the names are the keys of ocikit.testing.QUIRKS")
    has_tokens = auth and profile.account is not None and bool(profile.account.service)
    if not {"": True, "storage": bool(profile.storage), "tokens": has_tokens}[QUIRKS[name].needs]:
        raise InvalidArgument(
            f"the quirk {name!r} needs {QUIRKS[name].needs}, which the registry {profile.name!r} has not",
            hint='use a profile that has it, such as "ghcr"',
        )


def describe(profile: str) -> str:
    """Return what a profile does differently from the specification, with the evidence, and what it does not imitate.

    Args:
        profile: The name, such as "ecr".

    Raises:
        InvalidArgument: No profile has this name.

    Example:
        >>> print(ocikit.testing.describe("zot").partition("Limits")[0])
        zot: zot
        Listings have at most 10 tags and 100 repositories a page.
        zot-late-delete: returns 202 for a deletion, and deletes later (oras#1083)
    """
    return find(profile).describe()
