"""Lookup and storage of credentials. containers-auth.json(5).

Credentials come from the first of these sources that has some for the registry:

1. The passed ones: a pair, a mapping, a callable.
2. The environment: `OCIKIT_USERNAME` and `OCIKIT_PASSWORD`, or `OCIKIT_TOKEN`, for the host in `OCIKIT_REGISTRY` only;
   then the JSON text in `DOCKER_AUTH_CONFIG`.
3. Files: only `REGISTRY_AUTH_FILE` if it is set. Otherwise `$DOCKER_CONFIG/config.json` (`~/.docker`),
   `$XDG_RUNTIME_DIR/containers/auth.json` (`/run/containers/$UID`), `$XDG_CONFIG_HOME/containers/auth.json`
   (`~/.config`), `~/.dockercfg`.

Within a file: `credHelpers`, then `credsStore`, then `auths`, the most specific key first. Sources are read for each
lookup and nothing is cached, so a `docker login` in another process takes effect at once.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import attrs
from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import CredentialsError
from ocikit.remote.auth import docker_config
from ocikit.remote.auth.explanation import Explanation, ExplanationStep
from ocikit.remote.auth.helpers import Helper
from ocikit.spec.reference import DOCKER_HUB

_IDENTITY_USER = "<token>"  # docker-credential-helpers: the secret of this user is an identity token
_SENDABLE = re.compile(r"[\x21-\x7e]+")  # RFC 6750 section 2.1, with more characters
_VARIABLES = ("OCIKIT_USERNAME", "OCIKIT_PASSWORD", "OCIKIT_TOKEN", "OCIKIT_REGISTRY", "DOCKER_AUTH_CONFIG", "PATH")
_NO_HOST = "host.invalid"  # RFC 6761: no registry has this name
_SECRET_FIELDS = ("auth", "username", "password", "identitytoken", "registrytoken")


@functools.cache
def _salt() -> bytes:
    return secrets.token_bytes(16)


@frozen(kw_only=True, repr=False)
class Credentials(display.Displayable):
    """A user name and a password, or a token. It is a secret and can't be pickled.

    >>> ocikit.Credentials(username="ada", password="not shown")
    Credentials(username='ada', kind='password')

    Raises:
        CredentialsError: A value can't be sent in a header.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token, for the token server only. distribution oauth.md#refresh-token-format."""
    registry_token: str = field(default="", repr=False)
    """A bearer token that is sent unchanged to the registry."""

    def __attrs_post_init__(self) -> None:
        # Reject values that can't be sent: the HTTP libraries would show the secret in their errors.
        problem = ""
        if self.registry_token and not _SENDABLE.fullmatch(self.registry_token):
            problem = "the registry token has characters that are invalid in a header"
        try:
            f"{self.username}{self.password}{self.identity_token}".encode()
        except UnicodeEncodeError:
            problem = "a user name, password or token is not Unicode text"
        if problem:
            raise CredentialsError(
                problem, hint="store it again; ocikit.auth.explain() shows where credentials come from"
            )

    @classmethod
    def of(cls, value: Credentials | tuple[str, str] | None) -> Credentials:
        """Return the credentials of a (user, password) pair, or anonymous ones for None.

        Raises:
            CredentialsError: The value has another type.

        >>> ocikit.Credentials.of(("ada", "not shown"))
        Credentials(username='ada', kind='password')
        """
        if value is None:
            return ANONYMOUS
        if isinstance(value, Credentials):
            return value
        if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, str) for part in value):
            return _from_login(*value)
        raise CredentialsError(
            f"credentials can't be a {type(value).__name__} of this shape",
            hint='pass ("user", "password"), or such pairs by host: {"ghcr.io": ("user", "password")}',
        )

    @property
    def anonymous(self) -> bool:
        """True without password and tokens."""
        return not (self.password or self.identity_token or self.registry_token)

    @property
    def kind(self) -> str:
        """The type: "registry token", "identity token", "password" or "anonymous"."""
        if self.registry_token:
            return "registry token"
        if self.identity_token:
            return "identity token"
        return "password" if self.password else "anonymous"

    @property
    def identity(self) -> str:
        """A keyed hash of the credentials, for caches in this process only."""
        if self.anonymous:
            return "anonymous"
        parts = json.dumps([self.username, self.password, self.identity_token, self.registry_token])
        return hashlib.blake2b(parts.encode(), key=_salt(), digest_size=12).hexdigest()

    def __rich_repr__(self) -> display.Description:
        yield "username", self.username, ""
        yield "kind", self.kind

    def __reduce__(self) -> NoReturn:
        raise TypeError("Credentials are secret and can't be pickled; read them in the other process")


ANONYMOUS = Credentials()


def _from_login(username: str, secret: str) -> Credentials:
    if username == _IDENTITY_USER:
        return Credentials(username=username, identity_token=secret)
    return Credentials(username=username, password=secret)


#: Credentials for one registry.
LoginLike: TypeAlias = Credentials | tuple[str, str] | None
#: Credentials that a user passes, by registry or for one.
Explicit: TypeAlias = LoginLike | Mapping[str, LoginLike] | Callable[[str, str], LoginLike]


@frozen(kw_only=True)
class _Result:
    """The result of a lookup in one source."""

    credentials: Credentials | None = None
    key: str = ""
    """The matching key."""
    via: str = ""
    """The credential helper."""
    note: str = ""
    """The reason why there are no credentials."""


def _from_entry(entry: Any, key: str, where: str) -> Credentials:
    """Return the credentials of an entry of `auths`, anonymous for an empty one."""
    values: dict[str, str] = {}
    for name in _SECRET_FIELDS:
        value = (entry.get(name) if isinstance(entry, dict) else entry) or ""
        if not isinstance(value, str) or (value and not isinstance(entry, dict)):
            docker_config.malformed(where, f"is malformed: the entry {key!r} is invalid")
        values[name] = value
    username, password = values["username"], values["password"]
    if auth := values["auth"]:
        text = ""
        with contextlib.suppress(binascii.Error, UnicodeError, ValueError):
            text = base64.b64decode(auth).decode()
        username, colon, password = text.partition(":")
        if not colon:
            docker_config.malformed(where, f"is malformed: 'auth' of the entry {key!r} is not user:password in base64")
    password = password.rstrip("\0")  # docker pads passwords with NUL; containers/image trims it too
    identity_token = values["identitytoken"]
    if username == _IDENTITY_USER and password:
        password, identity_token = "", password
    try:
        return Credentials(
            username=username,
            password=password,
            identity_token=identity_token,
            registry_token=values["registrytoken"],
        )
    except CredentialsError as error:
        problem = error.message
    return docker_config.malformed(where, f"is malformed: in the entry {key!r}, {problem}")


def _check_explicit(_keychain: Keychain, _field: object, value: Explicit) -> None:
    """Check what a user passes as credentials. The message does not show it, because it may be a secret.

    Raises:
        CredentialsError: It is something else.
    """
    if not (callable(value) or isinstance(value, Mapping)):
        Credentials.of(value)


@define(eq=False, repr=False)
class Keychain(display.Displayable):
    """Finds, stores and deletes credentials.

    It is pickled without credentials: the other process reads its own files.

    >>> from pathlib import Path
    >>> keys = ocikit.Keychain({"ghcr.io": ("ada", "not shown")}, environ={}, home=Path("/nonexistent"))
    >>> keys.for_reference("ghcr.io", "org/model")
    Credentials(username='ada', kind='password')
    >>> keys.for_reference("quay.io").anonymous
    True
    """

    explicit: Explicit = field(default=None, validator=_check_explicit)
    """The first source. `ANONYMOUS` disables all other sources. A mapping has keys like those of `auths`. A callable
    gets host and repository, and returns None to continue with the next source. A pair is for one registry only."""
    registry: str = ""
    """The host of an explicit pair; "" is the first host that is looked up."""
    environ: Mapping[str, str] | None = None
    """Environment variables; None reads `os.environ` for each call."""
    home: Path | None = None
    """The home folder; None is the user's."""
    helper_timeout: float = 30.0
    """Seconds that a credential helper may take."""
    _bound: dict[str, str] = field(factory=dict, init=False)

    def for_reference(self, host: str, repository: str = "") -> Credentials:
        """Return the credentials for a registry or a repository on it, or `ANONYMOUS`.

        Args:
            host: Host of the registry.
            repository: Name of a repository, for credentials that apply to a path.

        Raises:
            CredentialsError: A file is malformed or unreadable, or a helper failed.

        >>> keychain = ocikit.Keychain({"ghcr.io": ("ada", "not shown")})
        >>> keychain.for_reference("ghcr.io", "org/data")
        Credentials(username='ada', kind='password')
        """
        keys = docker_config.lookup_keys(host, repository)
        if isinstance(self.explicit, tuple | Credentials) and not Credentials.of(self.explicit).anonymous:
            self._bound.setdefault("host", docker_config.normalize_key(self.registry or host))
        for _, look_up in self._sources(host, repository, keys):
            if (result := look_up(True)).credentials is not None:
                return result.credentials
        return ANONYMOUS

    def for_named_hosts(self, host: str) -> Keychain:
        """Return a keychain for hosts that content names, not the user.

        Against credential forwarding: a pair of user and password is for the first host that is looked up. That must be the
        host that the user named, also if it needs no credentials.

        Args:
            host: The host that the user named, or "" for none. A pair is then for no host.

        >>> keychain = ocikit.Keychain(("ada", "not shown")).for_named_hosts("ghcr.io")
        >>> keychain.for_reference("ghcr.io"), keychain.for_reference("other.example").anonymous
        (Credentials(username='ada', kind='password'), True)
        """
        explicit = self.explicit
        if not isinstance(explicit, tuple | Credentials) or self.registry or "host" in self._bound:
            return self
        return attrs.evolve(self, registry=host or _NO_HOST)

    def explain(self, host: str, repository: str = "") -> Explanation:
        """Return the sources of credentials, their content without secrets, and the one in use.

        Sources after the one in use are listed too, but their helpers are not run.

        Args:
            host: Host of the registry.
            repository: Name of a repository, for credentials that apply to a path.

        >>> ocikit.Keychain({"ghcr.io": ("ada", "not shown")}).explain("ghcr.io")
        Explanation(host='ghcr.io', username='ada', kind='password', place='passed credentials')
        """
        steps: list[ExplanationStep] = []
        decided = False
        for place, look_up in self._sources(host, repository, docker_config.lookup_keys(host, repository)):
            try:
                result = look_up(not decided)
            except CredentialsError as error:
                steps.append(ExplanationStep(place=place, note=error.message, failed=True))
                decided = True
                continue
            if (credentials := result.credentials) is None:
                steps.append(ExplanationStep(place=place, note=result.note or result.via))
                continue
            notes = [result.via, "an earlier source is used" if decided else ""]
            steps.append(
                ExplanationStep(
                    place=place,
                    username=credentials.username,
                    kind=credentials.kind,
                    key=result.key,
                    wins=not decided,
                    note="; ".join(filter(None, notes)),
                )
            )
            decided = True
        return Explanation(host=host, repository=repository, steps=tuple(steps))

    def login(
        self,
        host: str,
        username: str = "",
        password: str = "",
        *,
        identity_token: str = "",
        verify: Callable[[Credentials], object] | None = None,
    ) -> str:
        """Store credentials for a registry where docker and podman find them.

        The credential helper that the configuration file names for the registry stores them, else the file itself:
        `REGISTRY_AUTH_FILE` if set, else `$DOCKER_CONFIG/config.json`. The file is replaced atomically with mode 0600;
        its other content is preserved.

        Args:
            host: The registry, such as "ghcr.io"; Docker Hub's names are equal.
            username: The user name, without a colon unless a helper is used.
            password: The password or a personal access token.
            identity_token: A refresh token instead of a password.
            verify: Called with the credentials before they are stored. An exception from it stops the login.

        Returns:
            The file or the name of the helper that stores them.

        Raises:
            CredentialsError: The file can't be read or written, or the helper failed. The old file is unchanged.

        >>> ocikit.Keychain().login("ghcr.io", "ada", "not shown")
        '~/.docker/config.json'
        """
        credentials = _from_login(username, password)
        if identity_token:
            credentials = Credentials(username=username, identity_token=identity_token)
        key = self._key(host)
        if credentials.anonymous or not (username or identity_token):
            raise CredentialsError(f"no credentials to log in to {key}", hint="pass a user name and a password")
        path = self._primary_file()
        where = self._short(path)
        config = docker_config.read(path, where) or {}
        helper = self._helper(config, key, where)
        if helper is None and ":" in username:
            raise CredentialsError(
                f"a user name with a colon can't be stored in {where}", hint="configure a credential helper"
            )
        if verify is not None:
            verify(credentials)
        docker_config.section(config, "auths", where)  # reject a malformed file before the helper stores anything
        if helper is not None:
            user, secret = credentials.username, credentials.password
            if credentials.identity_token:
                user, secret = _IDENTITY_USER, credentials.identity_token
            helper.store(key, user, secret)  # the file gets an empty entry, as docker writes, which lists the registry
        with docker_config.edit(path, where) as config:
            auths = docker_config.section(config, "auths", where)
            old = auths.get(key)
            entry = (
                {name: item for name, item in old.items() if name not in _SECRET_FIELDS}
                if isinstance(old, dict)
                else {}
            )
            if helper is None:
                pair = f"{credentials.username}:{credentials.password}".encode(errors="surrogateescape")
                entry["auth"] = base64.b64encode(pair).decode()
                entry |= {"identitytoken": credentials.identity_token} if credentials.identity_token else {}
            config["auths"] = auths | {key: entry}
        return helper.program if helper is not None else where

    def logout(self, host: str) -> bool:
        """Delete a registry's credentials from the file that `login` writes and from its helpers.

        Other files and the keys of single repositories are not changed; `explain` shows what remains.

        Returns:
            True if there were credentials.

        Raises:
            CredentialsError: The file can't be read or written, or the helper failed.

        >>> keychain = ocikit.Keychain()
        >>> place = keychain.login("ghcr.io", "ada", "not shown")
        >>> keychain.logout("ghcr.io"), keychain.logout("ghcr.io")
        (True, False)
        """
        path = self._primary_file()
        where = self._short(path)
        config = docker_config.read(path, where) or {}
        key = self._key(host)
        erased = False
        if helper := self._helper(config, key, where):
            for server in docker_config.helper_keys(key):
                # Check first: some helpers, such as pass, fail to erase a missing entry.
                if helper.get(server):
                    helper.erase(server)
                    erased = True
        names = [docker_config.normalize_key(host)]
        if not set(docker_config.matching_keys(docker_config.section(config, "auths", where), names)):
            return erased
        with docker_config.edit(path, where) as config:
            auths = docker_config.section(config, "auths", where)
            stale = set(docker_config.matching_keys(auths, names))
            config["auths"] = {name: entry for name, entry in auths.items() if name not in stale}
        return erased or bool(stale)

    def stored_hosts(self) -> list[str]:
        """Return the registries for which the files have credentials or a helper of their own; no helper is run.

        Raises:
            CredentialsError: A file is malformed or unreadable.

        >>> keychain = ocikit.Keychain()
        >>> place = keychain.login("ghcr.io", "ada", "not shown")
        >>> keychain.stored_hosts()
        ['ghcr.io']
        """
        found: dict[str, None] = {}
        for path in self._files():
            where = self._short(path)
            config = docker_config.read(path, where) or {}
            config = {"auths": config} if path.name == ".dockercfg" else config
            for name in ("auths", "credHelpers"):
                keys = map(docker_config.normalize_key, docker_config.section(config, name, where))
                found |= dict.fromkeys(key.partition("/")[0] for key in keys)
        return sorted(filter(None, found))

    def state(self) -> int:
        """Return a number that changes with the variables and files that a lookup reads; it has no secrets.

        A change of what a credential helper stores does not change it.

        >>> keychain = ocikit.Keychain()
        >>> before = keychain.state()
        >>> place = keychain.login("ghcr.io", "ada", "not shown")
        >>> keychain.state() == before
        False
        """
        files: list[object] = []
        for path in self._files():
            try:
                status = os.stat(path)
                files.append((path, status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                files.append(path)
        return hash((*map(self._env, _VARIABLES), *files))

    # -- sources

    def _sources(self, host: str, repository: str, keys: list[str]) -> Iterator[tuple[str, Callable[[bool], _Result]]]:
        """Return the name of each source and a function that looks up there.

        The argument of the function is True to run helpers.
        """
        if self.explicit is not None:
            yield "passed credentials", lambda _: self._from_argument(host, repository, keys)
        yield "environment OCIKIT_*", lambda _: self._from_variables(keys)
        if text := self._env("DOCKER_AUTH_CONFIG"):
            where = "environment DOCKER_AUTH_CONFIG"
            content = text.encode(errors="surrogateescape")
            yield (
                where,
                lambda run: self._from_config(docker_config.parse(content, where), where, keys, run_helpers=run),
            )
        for path in self._files():
            yield self._short(path), functools.partial(self._from_file, path, keys)

    def _from_argument(self, host: str, repository: str, keys: list[str]) -> _Result:
        explicit = self.explicit
        if isinstance(explicit, tuple | Credentials):
            credentials = Credentials.of(explicit)
            bound = self._bound.get("host") or docker_config.normalize_key(self.registry or host)
            if not credentials.anonymous and bound != docker_config.normalize_key(host):
                return _Result(note=f"for {bound} only")
            return _Result(credentials=credentials)
        if isinstance(explicit, Mapping):
            key = next(docker_config.matching_keys(explicit, keys), None)
            if key is None:
                return _Result(note="no entry")
            return _Result(credentials=Credentials.of(explicit[key]), key=key)
        if not callable(explicit):
            raise CredentialsError(
                f"credentials are a pair, a mapping or a function, not {type(explicit).__name__}",
                hint='pass ("user", "password"), a mapping of hosts to such pairs, or a function of host and repository',
            )
        login = explicit(host, repository)
        return (
            _Result(note="the function returned None") if login is None else _Result(credentials=Credentials.of(login))
        )

    def _from_variables(self, keys: list[str]) -> _Result:
        username, password = self._env("OCIKIT_USERNAME"), self._env("OCIKIT_PASSWORD")
        token, registry = self._env("OCIKIT_TOKEN").strip(), self._env("OCIKIT_REGISTRY").strip()
        if not (username or password or token):
            return _Result(note="not set")
        if not registry:
            return _Result(note="not used: OCIKIT_REGISTRY is not set, so their host is unknown")
        if docker_config.normalize_key(registry) not in keys:
            return _Result(note=f"for {registry} only")
        if token:
            return _Result(credentials=Credentials(username=username, registry_token=token), key=registry)
        if not (username and password):
            return _Result(note="not used: set both OCIKIT_USERNAME and OCIKIT_PASSWORD")
        return _Result(credentials=Credentials(username=username, password=password), key=registry)

    def _from_file(self, path: Path, keys: list[str], run_helpers: bool) -> _Result:
        where = self._short(path)
        config = docker_config.read(path, where)
        if config is None:
            return _Result(note="no such file")
        # A .dockercfg consists of the entries alone.
        config = {"auths": config} if path.name == ".dockercfg" else config
        return self._from_config(config, where, keys, run_helpers=run_helpers)

    def _from_config(self, config: dict[str, Any], where: str, keys: list[str], *, run_helpers: bool) -> _Result:
        """Look up in a configuration: `credHelpers`, then `credsStore`, then `auths`."""
        notes = []
        for key, helper in self._helpers(config, keys, where):
            if not run_helpers:
                notes.append(f"{helper.program} not run: an earlier source is used")
                continue
            for server in docker_config.helper_keys(key):
                if pair := helper.get(server):
                    return _Result(credentials=_from_login(*pair), key=server, via=f"from {helper.program}")
            notes.append(f"{helper.program} has none")
        auths = docker_config.section(config, "auths", where)
        for key in docker_config.matching_keys(auths, keys):
            if not (credentials := _from_entry(auths[key], key, where)).anonymous:
                return _Result(credentials=credentials, key=key, via="; ".join(notes))
        return _Result(note="; ".join([*dict.fromkeys(notes), "no entry"]))

    def _helpers(self, config: dict[str, Any], keys: list[str], where: str) -> Iterator[tuple[str, Helper]]:
        """Return the keys and their helpers: those of matching keys, then the default one."""
        by_key = docker_config.section(config, "credHelpers", where)
        names = [(key, by_key[key]) for key in docker_config.matching_keys(by_key, keys)]
        # The default store has registries, not repositories, so request the host only.
        for key, name in [*names, (keys[-1], config.get("credsStore"))]:
            if name is not None and not isinstance(name, str):
                docker_config.malformed(where, "is malformed: the name of a credential helper is not text")
            if name:
                yield key, Helper(name=name, timeout=self.helper_timeout, environ=self.environ)

    def _helper(self, config: dict[str, Any], key: str, where: str) -> Helper | None:
        return next((helper for _, helper in self._helpers(config, docker_config.lookup_keys(key), where)), None)

    # -- files and environment

    def _env(self, name: str) -> str:
        return (os.environ if self.environ is None else self.environ).get(name, "")

    def _home(self) -> Path | None:
        if self.home is not None:
            return self.home
        try:
            return Path(self._env("HOME") or Path.home())
        except RuntimeError:  # a user without a home folder, as in some containers
            return None

    def _files(self) -> list[Path]:
        if only := self._env("REGISTRY_AUTH_FILE"):
            return [Path(only)]
        home = self._home()
        docker, runtime, config = map(self._env, ("DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"))
        if not runtime and sys.platform == "linux":
            runtime = f"/run/containers/{os.getuid()}"
            run = Path(runtime) / "auth.json"
        else:
            run = Path(runtime) / "containers" / "auth.json"
        paths = [
            Path(docker) / "config.json" if docker else home and home / ".docker" / "config.json",
            run if runtime else None,
            Path(config) / "containers" / "auth.json" if config else home and home / ".config/containers/auth.json",
            home and home / ".dockercfg",
        ]
        return list(dict.fromkeys(path for path in paths if path))

    def _primary_file(self) -> Path:
        """Return the file that `login` writes: the first that is read, `REGISTRY_AUTH_FILE` or docker's."""
        if not (self._env("REGISTRY_AUTH_FILE") or self._env("DOCKER_CONFIG") or self._home()):
            raise CredentialsError("there is no home folder to store credentials in", hint="set DOCKER_CONFIG")
        return self._files()[0]

    def _short(self, path: Path) -> str:
        home = self._home()
        return f"~/{path.relative_to(home)}" if home and path.is_relative_to(home) else str(path)

    def _key(self, host: str) -> str:
        """Return the key that stores a host's credentials.

        Docker Hub's is the one of `docker login`.
        """
        name = docker_config.normalize_key(host)
        if not name or re.search(r"[\s\x00-\x1f@?#]", name):
            raise CredentialsError(f"{host!r} is not a registry host", hint='it looks like "ghcr.io"')
        return docker_config.HUB_KEYS[0] if name == DOCKER_HUB else name

    def __rich_repr__(self) -> display.Description:
        explicit = self.explicit
        kind = "" if explicit is None else type(explicit).__name__
        yield "explicit", f"{len(explicit)} hosts" if isinstance(explicit, Mapping) else kind, ""
        yield "registry", self._bound.get("host", self.registry), ""

    def __deepcopy__(self, memo: object) -> Keychain:
        return self

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return functools.partial(Keychain, home=self.home, helper_timeout=self.helper_timeout), ()
