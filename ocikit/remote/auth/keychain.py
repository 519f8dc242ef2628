"""Who you are: the places where credentials are kept, in the order in which they are asked. containers-auth.json(5).

1. What was passed: a pair, a mapping, a callable.
2. The environment: `OCIKIT_USERNAME` and `OCIKIT_PASSWORD`, or `OCIKIT_TOKEN`, for the host in `OCIKIT_REGISTRY`
   and for no other; then the JSON text in `DOCKER_AUTH_CONFIG`.
3. Files: `REGISTRY_AUTH_FILE` alone if it is set. Else `$DOCKER_CONFIG/config.json` (`~/.docker`),
   `$XDG_RUNTIME_DIR/containers/auth.json` (`/run/containers/$UID`), `$XDG_CONFIG_HOME/containers/auth.json`
   (`~/.config`), `~/.dockercfg`. The first one that has an entry for the registry wins.

Within a file: `credHelpers`, then `credsStore`, then `auths`, the most specific key first. Everything is read when it
is asked for and nothing is kept, so a `docker login` in another window counts at once.
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

from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import CredentialsError
from ocikit.remote.auth import docker_config as configuration
from ocikit.remote.auth.explanation import Explanation, ExplanationStep
from ocikit.remote.auth.helpers import Helper
from ocikit.spec.reference import DOCKER_HUB

_IDENTITY_USER = "<token>"  # docker-credential-helpers: the secret of this user is an identity token
_SENDABLE = re.compile(r"[\x21-\x7e]+")  # RFC 6750 section 2.1, widened
_SECRET_FIELDS = ("auth", "username", "password", "identitytoken", "registrytoken")


@functools.cache
def _salt() -> bytes:
    return secrets.token_bytes(16)


@frozen(kw_only=True, repr=False)
class Credentials(display.Displayable):
    """A user and a password, or a token. It refuses to be pickled: it is a secret.

    >>> Credentials(username="ada", password="not shown")
    Credentials(username='ada', kind='password')
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token, for the token server only. distribution oauth.md#refresh-token-format."""
    registry_token: str = field(default="", repr=False)
    """A bearer token that the registry takes as it is."""

    def __attrs_post_init__(self) -> None:
        """Raises: CredentialsError: for what can't be sent. The libraries that send it would show it in their errors."""
        problem = ""
        if self.registry_token and not _SENDABLE.fullmatch(self.registry_token):
            problem = "the registry token has characters that no header may have"
        try:
            f"{self.username}{self.password}{self.identity_token}".encode()
        except UnicodeEncodeError:
            problem = "a user name, password or token is not Unicode text"
        if problem:
            raise CredentialsError(
                problem, hint="store it once more; ocikit.auth.explain() says where each registry's come from"
            )

    @classmethod
    def of(cls, given: Credentials | tuple[str, str] | None) -> Credentials:
        """The credentials that a user passed: a pair of user and password, or None for anonymous.

        Raises: CredentialsError: if it is something else.
        """
        if given is None:
            return ANONYMOUS
        if isinstance(given, Credentials):
            return given
        if isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, str) for part in given):
            return _login(*given)
        raise CredentialsError(
            f"credentials can't be a {type(given).__name__} of this shape", hint='pass ("user", "password")'
        )

    @property
    def anonymous(self) -> bool:
        """Whether there is nothing to show to a registry."""
        return not (self.password or self.identity_token or self.registry_token)

    @property
    def kind(self) -> str:
        """What there is: "registry token", "identity token", "password" or "anonymous"."""
        if self.registry_token:
            return "registry token"
        if self.identity_token:
            return "identity token"
        return "password" if self.password else "anonymous"

    @property
    def identity(self) -> str:
        """Text that differs between identities and says nothing about them: a key for caches in this process only."""
        if self.anonymous:
            return "anonymous"
        parts = json.dumps([self.username, self.password, self.identity_token, self.registry_token])
        return hashlib.blake2b(parts.encode(), key=_salt(), digest_size=12).hexdigest()

    def __rich_repr__(self) -> display.Description:
        yield "username", self.username, ""
        yield "kind", self.kind

    def __reduce__(self) -> NoReturn:
        raise TypeError("Credentials are secret and can't be pickled; let the other process read its own")


ANONYMOUS = Credentials()


def _login(username: str, secret: str) -> Credentials:
    if username == _IDENTITY_USER:
        return Credentials(username=username, identity_token=secret)
    return Credentials(username=username, password=secret)


Given: TypeAlias = Credentials | tuple[str, str] | None
Explicit: TypeAlias = Given | Mapping[str, Given] | Callable[[str, str], Given]


@frozen(kw_only=True)
class _Found:
    """What one place has: credentials or None; the key and the means; or why there is nothing."""

    credentials: Credentials | None = None
    key: str = ""
    via: str = ""
    note: str = ""


def _entry(entry: Any, key: str, where: str) -> Credentials:
    """The credentials in an entry of `auths`; anonymous if it is empty."""
    values: dict[str, str] = {}
    for name in _SECRET_FIELDS:
        value = (entry.get(name) if isinstance(entry, dict) else entry) or ""
        if not isinstance(value, str) or (value and not isinstance(entry, dict)):
            configuration.malformed(where, f"is malformed: the entry {key!r} has a wrong shape")
        values[name] = value
    username, password = values["username"], values["password"]
    if auth := values["auth"]:
        text = ""
        with contextlib.suppress(binascii.Error, UnicodeError, ValueError):
            text = base64.b64decode(auth).decode()
        username, colon, password = text.partition(":")
        if not colon:
            configuration.malformed(where, f"is malformed: 'auth' of the entry {key!r} is not user:password in base64")
    password = password.rstrip("\0")  # docker pads it, so do others: containers/image trims it, too
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
    return configuration.malformed(where, f"is malformed: in the entry {key!r}, {problem}")


@define(eq=False, repr=False)
class Keychain(display.Displayable):
    """Finds, keeps and forgets credentials. A pickle of it has none: the other process reads its own files.

    >>> keys = Keychain({"ghcr.io": ("ada", "not shown")}, environ={}, home=Path("/nonexistent"))
    >>> keys.for_reference("ghcr.io", "org/model")
    Credentials(username='ada', kind='password')
    >>> keys.for_reference("quay.io").anonymous
    True
    """

    explicit: Explicit = field(default=None)
    """Asked first. None: nothing was passed. `ANONYMOUS`: use none, look nowhere else. A mapping has keys like those of
    `auths`. A callable gets host and repository; None from it means look on. A pair is for one registry only."""
    registry: str = ""
    """The host that an explicit pair is for; if "", it is for the first one asked for, and for no other."""
    environ: Mapping[str, str] | None = None
    """Instead of `os.environ`, which is read at each call."""
    home: Path | None = None
    """Instead of the home folder."""
    helper_timeout: float = 30.0
    """Seconds."""
    _bound: dict[str, str] = field(factory=dict, init=False)

    def for_reference(self, host: str, repository: str = "") -> Credentials:
        """The credentials for a registry, or for a repository in it; `ANONYMOUS` if there are none.

        Raises:
            CredentialsError: if a file is malformed or unreadable, or a helper fails; it names which.
        """
        wishes = configuration.lookup_keys(host, repository)
        if isinstance(self.explicit, tuple | Credentials) and not Credentials.of(self.explicit).anonymous:
            self._bound.setdefault("host", configuration.normalize_key(self.registry or host))
        for _, look in self._places(host, repository, wishes):
            if (found := look(True)).credentials is not None:
                return found.credentials
        return ANONYMOUS

    def explain(self, host: str, repository: str = "") -> Explanation:
        """Where credentials are looked for, what is there, and which are used; without secrets.

        Places after the winner are listed, too, except that no helper is run for them.
        """
        steps: list[ExplanationStep] = []
        decided = False
        for place, look in self._places(host, repository, configuration.lookup_keys(host, repository)):
            try:
                found = look(not decided)
            except CredentialsError as error:
                steps.append(ExplanationStep(place=place, note=error.message, failed=True))
                decided = True
                continue
            if (credentials := found.credentials) is None:
                steps.append(ExplanationStep(place=place, note=found.note or found.via))
                continue
            steps.append(
                ExplanationStep(place=place, username=credentials.username, kind=credentials.kind, key=found.key, wins=not decided,
                     note="; ".join(filter(None, [found.via, "an earlier place decides" if decided else ""])))
            )  # fmt: skip
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
        """Keep credentials for a registry, where docker and podman find them, too; gives the place.

        They go to the credential helper that the configuration file names for the registry, else into the file:
        `REGISTRY_AUTH_FILE` if set, else `$DOCKER_CONFIG/config.json`. The file is replaced at once, with mode 0600;
        what else is in it stays.

        Args:
            host: such as "ghcr.io"; Docker Hub's names mean the same place.
            username: without a colon, if there is no helper.
            password: or a personal access token.
            identity_token: instead of a password.
            verify: called with the credentials before anything is stored; what it raises stops the login.

        Raises:
            CredentialsError: if the file can't be read or written, or the helper fails. The old file is untouched.
        """
        credentials = _login(username, password)
        if identity_token:
            credentials = Credentials(username=username, identity_token=identity_token)
        key = self._key(host)
        if credentials.anonymous or not (username or identity_token):
            raise CredentialsError(f"nothing to log in to {key} with", hint="pass a user name and a password")
        path = self._primary()
        config = configuration.read(path, self._short(path)) or {}
        helper = self._helper(config, key, self._short(path))
        if helper is None and ":" in username:
            raise CredentialsError(
                f"a user name with a colon can't be kept in {self._short(path)}", hint="configure a credential helper"
            )
        if verify is not None:
            verify(credentials)
            config = configuration.read(path, self._short(path)) or {}  # it took a while
        auths = configuration.section(config, "auths", self._short(path))
        entry = auths.get(key)
        kept = {n: v for n, v in entry.items() if n not in _SECRET_FIELDS} if isinstance(entry, dict) else {}
        if helper is not None:
            user, secret = credentials.username, credentials.password
            if credentials.identity_token:
                user, secret = _IDENTITY_USER, credentials.identity_token
            helper.store(key, user, secret)  # the file gets an empty entry, as docker's does: it tells what there is
        else:
            pair = f"{credentials.username}:{credentials.password}".encode(errors="surrogateescape")
            kept["auth"] = base64.b64encode(pair).decode()
            kept |= {"identitytoken": credentials.identity_token} if credentials.identity_token else {}
        config["auths"] = auths | {key: kept}
        configuration.write(path, config, self._short(path))
        return helper.program if helper is not None else self._short(path)

    def logout(self, host: str) -> bool:
        """Forget the registry in the file that `login` writes, and in its helpers; False if it wasn't there.

        Other files stay as they are, and so do keys for single repositories; `explain` shows what is left.

        Raises:
            CredentialsError: if the file can't be read or written, or the helper fails.
        """
        path = self._primary()
        config = configuration.read(path, self._short(path)) or {}
        key = self._key(host)
        gone = False
        if helper := self._helper(config, key, self._short(path)):
            for server in configuration.helper_keys(key):
                # Asked first: some helpers, pass among them, fail at erasing what they don't have.
                if helper.get(server):
                    helper.erase(server)
                    gone = True
        auths = configuration.section(config, "auths", self._short(path))
        if stale := list(configuration.matching_keys(auths, [configuration.normalize_key(host)])):
            config["auths"] = {name: entry for name, entry in auths.items() if name not in stale}
            configuration.write(path, config, self._short(path))
        return gone or bool(stale)

    # -- the places

    def _places(self, host: str, repository: str, wishes: list[str]) -> Iterator[tuple[str, Callable[[bool], _Found]]]:
        """Each place's name, and what looks there; helpers are run only if it is called with True."""
        if self.explicit is not None:
            yield "passed credentials", lambda _: self._passed(host, repository, wishes)
        yield "environment OCIKIT_*", lambda _: self._variables(wishes)
        if text := self._env("DOCKER_AUTH_CONFIG"):
            where = "environment DOCKER_AUTH_CONFIG"
            yield (
                where,
                lambda ask: self._in_config(
                    configuration.parse(text.encode(errors="surrogateescape"), where), where, wishes, ask=ask
                ),
            )
        for path in self._files():
            yield self._short(path), functools.partial(self._in_file, path, wishes)

    def _passed(self, host: str, repository: str, wishes: list[str]) -> _Found:
        given = self.explicit
        if isinstance(given, tuple | Credentials):
            credentials = Credentials.of(given)
            bound = self._bound.get("host") or configuration.normalize_key(self.registry or host)
            if not credentials.anonymous and bound != configuration.normalize_key(host):
                return _Found(note=f"for {bound} only")
            return _Found(credentials=credentials)
        if isinstance(given, Mapping):
            key = next(configuration.matching_keys(given, wishes), None)
            return _Found(note="no entry") if key is None else _Found(credentials=Credentials.of(given[key]), key=key)
        if not callable(given):
            raise CredentialsError(
                f"credentials can't be a {type(given).__name__}",
                hint='pass ("user", "password"), a mapping of hosts to such pairs, or a function of host and repository',
            )
        answer = given(host, repository)
        return _Found(note="the function gave None") if answer is None else _Found(credentials=Credentials.of(answer))

    def _variables(self, wishes: list[str]) -> _Found:
        username, password = self._env("OCIKIT_USERNAME"), self._env("OCIKIT_PASSWORD")
        token, registry = self._env("OCIKIT_TOKEN").strip(), self._env("OCIKIT_REGISTRY").strip()
        if not (username or password or token):
            return _Found(note="not set")
        if not registry:
            return _Found(note="not used: OCIKIT_REGISTRY does not say which host they are for")
        if configuration.normalize_key(registry) not in wishes:
            return _Found(note=f"for {registry} only")
        if token:
            return _Found(credentials=Credentials(username=username, registry_token=token), key=registry)
        if not (username and password):
            return _Found(note="not used: OCIKIT_USERNAME and OCIKIT_PASSWORD belong together")
        return _Found(credentials=Credentials(username=username, password=password), key=registry)

    def _in_file(self, path: Path, wishes: list[str], ask: bool) -> _Found:
        where = self._short(path)
        config = configuration.read(path, where)
        if config is None:
            return _Found(note="no such file")
        return self._in_config({"auths": config} if path.name == ".dockercfg" else config, where, wishes, ask=ask)

    def _in_config(self, config: dict[str, Any], where: str, wishes: list[str], *, ask: bool) -> _Found:
        """What a configuration has: `credHelpers`, then `credsStore`, then `auths`."""
        notes = []
        for key, helper in self._helpers(config, wishes, where):
            if not ask:
                notes.append(f"{helper.program} not asked: an earlier place decides")
                continue
            for server in configuration.helper_keys(key):
                if pair := helper.get(server):
                    return _Found(credentials=_login(*pair), key=server, via=f"from {helper.program}")
            notes.append(f"{helper.program} has none")
        auths = configuration.section(config, "auths", where)
        for key in configuration.matching_keys(auths, wishes):
            if not (credentials := _entry(auths[key], key, where)).anonymous:
                return _Found(credentials=credentials, key=key, via="; ".join(notes))
        return _Found(note="; ".join([*dict.fromkeys(notes), "no entry"]))

    def _helpers(self, config: dict[str, Any], wishes: list[str], where: str) -> Iterator[tuple[str, Helper]]:
        """The helpers to ask, and for what: those of matching keys, then the one for everything."""
        chosen = configuration.section(config, "credHelpers", where)
        named = [(key, chosen[key]) for key in configuration.matching_keys(chosen, wishes)]
        # The store for everything knows registries, not repositories: one question, not one per level.
        for key, name in [*named, (wishes[-1], config.get("credsStore"))]:
            if name is not None and not isinstance(name, str):
                configuration.malformed(where, "is malformed: the name of a credential helper is not text")
            if name:
                yield key, Helper(name=name, timeout=self.helper_timeout, environ=self.environ)

    def _helper(self, config: dict[str, Any], key: str, where: str) -> Helper | None:
        return next((helper for _, helper in self._helpers(config, configuration.lookup_keys(key), where)), None)

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
        if alone := self._env("REGISTRY_AUTH_FILE"):
            return [Path(alone)]
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

    def _primary(self) -> Path:
        """The file that is written: the first one that is read, which is docker's or `REGISTRY_AUTH_FILE`."""
        if not (self._env("REGISTRY_AUTH_FILE") or self._env("DOCKER_CONFIG") or self._home()):
            raise CredentialsError("there is no home folder to keep credentials in", hint="set DOCKER_CONFIG")
        return self._files()[0]

    def _short(self, path: Path) -> str:
        home = self._home()
        return f"~/{path.relative_to(home)}" if home and path.is_relative_to(home) else str(path)

    def _key(self, host: str) -> str:
        """The key under which credentials are kept. Docker Hub's is the one that `docker login` writes."""
        place = configuration.normalize_key(host)
        if not place or re.search(r"[\s\x00-\x1f@?#]", place):
            raise CredentialsError(f"{host!r} is not a registry host", hint='it looks like "ghcr.io"')
        return configuration.HUB_KEYS[0] if place == DOCKER_HUB else place

    def __rich_repr__(self) -> display.Description:
        given = self.explicit
        kind = "" if given is None else type(given).__name__
        yield "explicit", f"{len(given)} hosts" if isinstance(given, Mapping) else kind, ""
        yield "registry", self._bound.get("host", self.registry), ""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return functools.partial(Keychain, home=self.home, helper_timeout=self.helper_timeout), ()
