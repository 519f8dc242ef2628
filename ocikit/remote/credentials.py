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
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import CredentialsError
from ocikit.spec.reference import DOCKER_HUB

__all__ = ["ANONYMOUS", "Credentials", "Explanation", "Helper", "Keychain", "Step"]

#: Docker Hub's keys, in the order in which they count: `docker login` writes the first, podman the third.
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", DOCKER_HUB, "registry-1.docker.io", "registry.hub.docker.com")  # fmt: skip
_IDENTITY_USER = "<token>"  # docker-credential-helpers: the secret of this user is an identity token
_BARE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOTHING = ("credentials not found", "no credentials server url", "no credentials username")
_ANSWER_LIMIT = 1 << 20  # bytes of a helper's answer, as of a token response
_FILE_LIMIT = 4 << 20  # bytes of a configuration file; the largest honest one is a few KiB
_SECRET_FIELDS = ("auth", "username", "password", "identitytoken", "registrytoken")


@functools.cache
def _salt() -> bytes:
    return secrets.token_bytes(16)


@frozen(kw_only=True, repr=False)
class Credentials(display.Shown):
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
class Helper:
    """A program `docker-credential-NAME` that keeps credentials. github.com/docker/docker-credential-helpers."""

    name: str
    """Bare: "pass", "osxkeychain", "ecr-login"."""
    timeout: float = 30.0
    """Seconds. A helper may ask its user something, so it has longer than a request."""
    environ: Mapping[str, str] | None = field(default=None, repr=False, eq=False)

    @property
    def program(self) -> str:
        """What is looked for on the PATH."""
        return f"docker-credential-{self.name}"

    def get(self, server: str) -> Credentials:
        """What the helper keeps for the server; anonymous if nothing. Raises: CredentialsError: if it fails."""
        status, answer = self._run("get", server)
        if answer.lower().startswith(_NOTHING):
            return ANONYMOUS
        found = self._json("get", server, status, answer)
        username, secret = found.get("Username", ""), found.get("Secret", "")
        if not isinstance(username, str) or not isinstance(secret, str):
            self._fail("get", server, "answered with JSON that is not credentials")
        return _login(username, secret) if secret else ANONYMOUS

    def list(self) -> dict[str, str]:
        """The user for each server that the helper knows. Raises: CredentialsError."""
        found = self._json("list", "", *self._run("list", ""))
        return {str(server): str(user) for server, user in found.items()}

    def store(self, server: str, credentials: Credentials) -> None:
        """Keep the credentials. Raises: CredentialsError."""
        user, secret = credentials.username, credentials.password
        if credentials.identity_token:
            user, secret = _IDENTITY_USER, credentials.identity_token
        status, answer = self._run("store", json.dumps({"ServerURL": server, "Username": user, "Secret": secret}))
        if status:
            self._fail("store", server, _failure(status, answer, secret))

    def erase(self, server: str) -> None:
        """Forget the server; not knowing it is fine. Raises: CredentialsError."""
        status, answer = self._run("erase", server)
        if status and not answer.lower().startswith(_NOTHING):
            self._fail("erase", server, _failure(status, answer))

    def _json(self, verb: str, server: str, status: int, answer: str) -> dict[str, Any]:
        if status:
            self._fail(verb, server, _failure(status, answer))
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            found = None
        # Raised out here: a JSONDecodeError in the chain would carry the answer, and with it the secret.
        if not isinstance(found, dict):
            self._fail(verb, server, "answered with something that is not a JSON object")
        return found

    def _fail(self, verb: str, server: str, problem: str) -> NoReturn:
        about = f" for {server}" if server else ""
        raise CredentialsError(
            f"{self.program} {verb}{about} {problem}",
            hint=f"run `echo {server or '…'} | {self.program} {verb}` to see why, or take {self.name!r} out of "
            '"credHelpers" and "credsStore" in the configuration file',
        )

    def _run(self, verb: str, text: str) -> tuple[int, str]:
        """Exit status and cleaned output. No shell; the server goes to stdin, so no process list shows it."""
        server = text if verb != "store" else ""
        if not _BARE.fullmatch(self.name):
            self._fail(verb, server, "was not run: a helper's name has letters, digits, '.', '_' and '-' only")
        environ = dict(os.environ if self.environ is None else self.environ)
        path = shutil.which(self.program, path=environ.get("PATH", os.defpath))
        if path is None:
            self._fail(verb, server, "could not be run: there is no such program on the PATH")
        try:
            process = subprocess.Popen(  # noqa: S603 - the name is bare and comes from the user's own configuration
                [path, verb], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ
            )
        except OSError as error:
            raise CredentialsError(
                f"{self.program} could not be run: {error.strerror}", hint="check that it is executable"
            ) from error
        # A thread, because a helper may leave a child behind that holds its output open for ever.
        answer: list[bytes] = []
        talk = threading.Thread(
            target=_talk, args=(process, text.encode(errors="surrogateescape"), answer), daemon=True
        )
        deadline = time.monotonic() + self.timeout
        try:
            talk.start()
            talk.join(self.timeout)
            if talk.is_alive():
                self._fail(verb, server, f"took longer than {display.duration(self.timeout)} and was stopped")
            if len(output := b"".join(answer)) > _ANSWER_LIMIT:
                self._fail(verb, server, f"answered with more than {_ANSWER_LIMIT} bytes")
            try:
                status = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._fail(verb, server, f"took longer than {display.duration(self.timeout)} and was stopped")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return status, output.decode("utf-8", "replace").strip()


def _talk(process: subprocess.Popen[bytes], text: bytes, answer: list[bytes]) -> None:
    if process.stdin is None or process.stdout is None:
        return
    with contextlib.suppress(OSError, ValueError), process.stdin as stdin:
        stdin.write(text)
    with contextlib.suppress(OSError, ValueError), process.stdout as stdout:
        answer.append(stdout.read(_ANSWER_LIMIT + 1))


def _failure(status: int, answer: str, secret: str = "") -> str:
    """What to say of a helper that failed: its message, unless that may hold what it should have kept."""
    if status < 0:
        return f"was ended by signal {-status}"
    # Messages are words and paths; a long unbroken run of anything else may be a key.
    said = re.sub(r"[^\s/]{24,}", "***", display.shorten(answer.partition("\n")[0], 120))
    if not said or any(c in answer for c in '{}"=') or (secret and secret in answer):
        return f"failed with exit status {status}"
    return f"failed with exit status {status}: {said}"


@frozen(kw_only=True)
class _Found:
    """What one place has: credentials or None; the key and the means; or why there is nothing."""

    credentials: Credentials | None = None
    key: str = ""
    via: str = ""
    note: str = ""


@frozen(kw_only=True)
class Step:
    """One place that was looked at for credentials."""

    place: str
    username: str = ""
    kind: str = ""
    """As `Credentials.kind`; "" if nothing was found."""
    key: str = ""
    """The key that matched, such as "quay.io/team"."""
    note: str = ""
    """By what means it was found, or why it wasn't."""
    wins: bool = False
    failed: bool = False

    def __str__(self) -> str:
        mark = "->" if self.wins else "!!" if self.failed else "  "
        who = f"{self.username or 'no user name'} ({self.kind})" if self.kind else "nothing"
        rest = [f"key {self.key}" if self.key else "", self.note]
        return display.clean(
            f"{mark} {self.place}: {'; '.join(filter(None, [*([] if self.failed else [who]), *rest]))}"
        )


@frozen(kw_only=True, repr=False)
class Explanation(display.Shown):
    """Where credentials for a registry were looked for, in order, and which ones are used. `print` it for all of it."""

    host: str
    repository: str = ""
    steps: tuple[Step, ...] = ()

    @property
    def winner(self) -> Step | None:
        """The place whose credentials are used; None if access is anonymous, or fails before one is found."""
        return next((step for step in self.steps if step.wins), None)

    @property
    def failure(self) -> Step | None:
        """The place that can't be read, if it comes before any that has credentials: every use would fail there."""
        step = next((step for step in self.steps if step.wins or step.failed), None)
        return step if step and step.failed else None

    def __rich_repr__(self) -> display.Description:
        yield "host", self.host
        yield "repository", self.repository, ""
        if step := self.winner:
            yield "username", step.username, ""
            yield "kind", step.kind
            yield "place", step.place
        else:
            yield "kind", "failure" if self.failure else "anonymous"
            yield "place", self.failure.place if self.failure else "", ""

    def __str__(self) -> str:
        where = f"{self.host}/{self.repository}" if self.repository else self.host
        return "\n".join([f"credentials for {display.clean(where)}:", *map(str, self.steps)])

    def _html_parts(self) -> Iterable[str]:
        yield display.table(
            ("", "place", "user", "kind", "key", "note"),
            [("✓" if s.wins else "✗" if s.failed else "", s.place, s.username, s.kind, s.key, s.note)
             for s in self.steps],
        )  # fmt: skip


def _place(key: str) -> str:
    """What a key names: host and perhaps path, without scheme and API version, Docker Hub by one name."""
    text = key.strip()
    scheme = re.match(r"(?i)https?://", text)
    host, slash, path = text[scheme.end() if scheme else 0 :].partition("/")
    # Without a scheme only a whole path "v1" is a version: `quay.io/team/v2` may be a repository.
    path = re.sub(r"(?:^|/)v[12]/?$" if scheme else r"^v[12]/?$", "", path).strip("/")
    host = host.lower()
    return (DOCKER_HUB if host in _HUB_KEYS else host) + (slash and path and f"/{path}")


def _wishes(host: str, repository: str = "") -> list[str]:
    """What may answer for a repository, most specific first: `host/team/model`, `host/team`, `host`."""
    whole = _place(host) + (f"/{repository}" if repository else "")
    parts = whole.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]


def _matching(keys: Iterable[str], wishes: Iterable[str]) -> Iterator[str]:
    """The keys that suit, most specific first."""
    places = [(key, _place(key)) for key in keys]
    for wish in wishes:
        suits = [key for key, place in places if place == wish]
        yield from sorted(suits, key=lambda k: (_HUB_KEYS.index(k) if k in _HUB_KEYS else len(_HUB_KEYS), k != wish))


def _servers(key: str) -> tuple[str, ...]:
    """What to ask a helper for: Docker Hub is kept under another name by docker than by podman."""
    place = _place(key)
    return (_HUB_KEYS[0], DOCKER_HUB) if place == DOCKER_HUB else tuple(dict.fromkeys((place, key)))


def _malformed(where: str, problem: str) -> NoReturn:
    raise CredentialsError(
        f"{where} {problem}", hint="correct it, or move it away and log in again; nothing was changed"
    )


def _section(config: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    section = config.get(name)
    if section is not None and not isinstance(section, dict):
        _malformed(where, f"is malformed: {name!r} is not a JSON object")
    return section or {}


def _load(text: bytes, where: str) -> dict[str, Any]:
    problem = ""
    config: Any = {}
    try:
        config = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        problem = f"is not JSON: line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        problem = "is not JSON"
    # Raised out here: a JSONDecodeError in the chain would carry the file, and with it the secrets.
    if problem or not isinstance(config, dict):
        _malformed(where, problem or "is malformed: it is not a JSON object")
    return config


def _read(path: Path, where: str) -> dict[str, Any] | None:
    """The configuration in a file, or None if there is no such file."""
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CredentialsError(
            f"{where} can't be read: {error.strerror}", hint="check its permissions; it should be yours, with mode 0600"
        ) from error
    if len(text) > _FILE_LIMIT:
        _malformed(where, f"is over {_FILE_LIMIT} bytes")
    return _load(text, where)


def _entry(entry: Any, key: str, where: str) -> Credentials:
    """The credentials in an entry of `auths`; anonymous if it is empty."""
    values: dict[str, str] = {}
    for name in _SECRET_FIELDS:
        value = (entry.get(name) if isinstance(entry, dict) else entry) or ""
        if not isinstance(value, str) or (value and not isinstance(entry, dict)):
            _malformed(where, f"is malformed: the entry {key!r} has a wrong shape")
        values[name] = value
    username, password = values["username"], values["password"]
    if auth := values["auth"]:
        text = ""
        with contextlib.suppress(binascii.Error, UnicodeError, ValueError):
            text = base64.b64decode(auth).decode()
        username, colon, password = text.partition(":")
        if not colon:
            _malformed(where, f"is malformed: 'auth' of the entry {key!r} is not user:password in base64")
    password = password.rstrip("\0")  # docker pads it, so do others: containers/image trims it, too
    if username == _IDENTITY_USER and password:
        return Credentials(username=username, identity_token=password, registry_token=values["registrytoken"])
    return Credentials(
        username=username,
        password=password,
        identity_token=values["identitytoken"],
        registry_token=values["registrytoken"],
    )


@define(eq=False, repr=False)
class Keychain(display.Shown):
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
        wishes = _wishes(host, repository)
        if isinstance(self.explicit, tuple | Credentials) and not Credentials.of(self.explicit).anonymous:
            self._bound.setdefault("host", _place(self.registry or host))
        for _, look in self._places(host, repository, wishes):
            if (found := look(True)).credentials is not None:
                return found.credentials
        return ANONYMOUS

    def explain(self, host: str, repository: str = "") -> Explanation:
        """Where credentials are looked for, what is there, and which are used; without secrets.

        Places after the winner are listed, too, except that no helper is run for them.
        """
        steps: list[Step] = []
        decided = False
        for place, look in self._places(host, repository, _wishes(host, repository)):
            try:
                found = look(not decided)
            except CredentialsError as error:
                steps.append(Step(place=place, note=error.message, failed=True))
                decided = True
                continue
            if (credentials := found.credentials) is None:
                steps.append(Step(place=place, note=found.note or found.via))
                continue
            steps.append(
                Step(place=place, username=credentials.username, kind=credentials.kind, key=found.key, wins=not decided,
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
        config = _read(path, self._short(path)) or {}
        helper = self._helper(config, key, self._short(path))
        if helper is None and ":" in username:
            raise CredentialsError(
                f"a user name with a colon can't be kept in {self._short(path)}", hint="configure a credential helper"
            )
        if verify is not None:
            verify(credentials)
            config = _read(path, self._short(path)) or {}  # it took a while
        auths = _section(config, "auths", self._short(path))
        entry = auths.get(key)
        kept = {n: v for n, v in entry.items() if n not in _SECRET_FIELDS} if isinstance(entry, dict) else {}
        if helper is not None:
            helper.store(key, credentials)  # the file gets an empty entry, as docker's does: it tells what there is
        else:
            pair = f"{credentials.username}:{credentials.password}".encode(errors="surrogateescape")
            kept["auth"] = base64.b64encode(pair).decode()
            kept |= {"identitytoken": credentials.identity_token} if credentials.identity_token else {}
        config["auths"] = auths | {key: kept}
        self._write(path, config)
        return helper.program if helper is not None else self._short(path)

    def logout(self, host: str) -> bool:
        """Forget the registry in the file that `login` writes, and in its helpers; False if it wasn't there.

        Other files stay as they are, and so do keys for single repositories; `explain` shows what is left.

        Raises:
            CredentialsError: if the file can't be read or written, or the helper fails.
        """
        path = self._primary()
        config = _read(path, self._short(path)) or {}
        key = self._key(host)
        gone = False
        if helper := self._helper(config, key, self._short(path)):
            for server in _servers(key):
                # Asked first: some helpers, pass among them, fail at erasing what they don't have.
                if not helper.get(server).anonymous:
                    helper.erase(server)
                    gone = True
        auths = _section(config, "auths", self._short(path))
        if stale := list(_matching(auths, [_place(host)])):
            config["auths"] = {name: entry for name, entry in auths.items() if name not in stale}
            self._write(path, config)
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
                    _load(text.encode(errors="surrogateescape"), where), where, wishes, ask=ask
                ),
            )
        for path in self._files():
            yield self._short(path), functools.partial(self._in_file, path, wishes)

    def _passed(self, host: str, repository: str, wishes: list[str]) -> _Found:
        given = self.explicit
        if isinstance(given, tuple | Credentials):
            credentials = Credentials.of(given)
            bound = self._bound.get("host") or _place(self.registry or host)
            if not credentials.anonymous and bound != _place(host):
                return _Found(note=f"for {bound} only")
            return _Found(credentials=credentials)
        if isinstance(given, Mapping):
            key = next(_matching(given, wishes), None)
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
        if _place(registry) not in wishes:
            return _Found(note=f"for {registry} only")
        if token:
            return _Found(credentials=Credentials(username=username, registry_token=token), key=registry)
        if not (username and password):
            return _Found(note="not used: OCIKIT_USERNAME and OCIKIT_PASSWORD belong together")
        return _Found(credentials=Credentials(username=username, password=password), key=registry)

    def _in_file(self, path: Path, wishes: list[str], ask: bool) -> _Found:
        where = self._short(path)
        config = _read(path, where)
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
            for server in _servers(key):
                if not (credentials := helper.get(server)).anonymous:
                    return _Found(credentials=credentials, key=server, via=f"from {helper.program}")
            notes.append(f"{helper.program} has none")
        auths = _section(config, "auths", where)
        for key in _matching(auths, wishes):
            if not (credentials := _entry(auths[key], key, where)).anonymous:
                return _Found(credentials=credentials, key=key, via="; ".join(notes))
        return _Found(note="; ".join([*dict.fromkeys(notes), "no entry"]))

    def _helpers(self, config: dict[str, Any], wishes: list[str], where: str) -> Iterator[tuple[str, Helper]]:
        """The helpers to ask, and for what: those of matching keys, then the one for everything."""
        chosen = _section(config, "credHelpers", where)
        named = [(key, chosen[key]) for key in _matching(chosen, wishes)]
        # The store for everything knows registries, not repositories: one question, not one per level.
        for key, name in [*named, (wishes[-1], config.get("credsStore"))]:
            if name is not None and not isinstance(name, str):
                _malformed(where, "is malformed: the name of a credential helper is not text")
            if name:
                yield key, Helper(name=name, timeout=self.helper_timeout, environ=self.environ)

    def _helper(self, config: dict[str, Any], key: str, where: str) -> Helper | None:
        return next((helper for _, helper in self._helpers(config, _wishes(key), where)), None)

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
        place = _place(host)
        if not place or re.search(r"[\s\x00-\x1f@?#]", place):
            raise CredentialsError(f"{host!r} is not a registry host", hint='it looks like "ghcr.io"')
        return _HUB_KEYS[0] if place == DOCKER_HUB else place

    def _write(self, path: Path, config: dict[str, Any]) -> None:
        """Replace the file at once; if it is a link, then what it points to."""
        real = Path(os.path.realpath(path))
        text = json.dumps(config, indent="\t").encode()  # tabs, as docker and podman write
        part = ""
        try:
            real.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)  # mode 0600
            with os.fdopen(handle, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(part).replace(real)
            if os.name == "posix":
                folder = os.open(real.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except OSError as error:
            raise CredentialsError(
                f"{self._short(path)} can't be written: {error.strerror}", hint="check the permissions of its folder"
            ) from error
        finally:
            if part:
                Path(part).unlink(missing_ok=True)

    def __rich_repr__(self) -> display.Description:
        given = self.explicit
        kind = "" if given is None else type(given).__name__
        yield "explicit", f"{len(given)} hosts" if isinstance(given, Mapping) else kind, ""
        yield "registry", self._bound.get("host", self.registry), ""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return functools.partial(Keychain, home=self.home, helper_timeout=self.helper_timeout), ()
