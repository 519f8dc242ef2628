"""A registry beside the program that uses it: `ocikit.serve()` starts a process, and ends it.

The process is `python -m ocikit serve`, so that its threads and memory are its own. It lives no longer than this one,
however this one ends: it watches a pipe that the system closes then.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import attrs

from ocikit import display
from ocikit.errors import InvalidArgument, ServerFailed
from ocikit.server.http.settings import Limits, Settings
from ocikit.server.process.child import Child, running
from ocikit.server.process.options import EXTRA, Options


class Server(display.Displayable):
    """A registry that runs in a process of its own, until it is stopped, forgotten, or this process ends.

    Attributes:
        host: "127.0.0.1:41234", for references.
        url: "http://127.0.0.1:41234".
        path: the folder where it keeps things.
    """

    def __init__(self, process: Child, *, host: str, url: str, path: Path, read_only: bool = False) -> None:
        self.host = host
        self.url = url
        self.path = path
        self._verb = "pull" if read_only else "push"
        self._process = process
        self._end = weakref.finalize(self, process.stop)

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self._process.running

    @property
    def log(self) -> str:
        """The end of its log; "" once it has been stopped."""
        return self._process.last_words()

    def stop(self) -> None:
        """End it, within a second; what was given as a folder stays, and a temporary one goes. Again does nothing.

        A copy of this process that `os.fork` made can't stop it.
        """
        self._end()

    def close(self) -> None:
        """The same as `stop`, by the name that files and sessions have for it."""
        self.stop()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __rich_repr__(self) -> display.Description:
        yield "host", self.host
        if self.running:
            yield self._verb, display.code_call(f"ocikit.{self._verb}", f"{self.host}/name:v1", "folder/")
        else:
            yield "running", False
        yield "path", display.display_path(self.path)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "path")
        if self.running:
            yield "repositories", display.code_call("ocikit.catalog", self.host)
            yield "url", display.Link(self.url)
        yield "path", display.display_path(self.path)


def serve(
    path: str | os.PathLike[str] | None = None,
    port: int = 0,
    *,
    host: str = "127.0.0.1",
    htpasswd: str | os.PathLike[str] | Mapping[str, str] | None = None,
    token: bool = False,
    rules: str | os.PathLike[str] | None = None,
    anonymous_pull: bool = False,
    allow_plain_http: bool = False,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    workers: int = 1,
    read_only: bool = False,
    references: str = "strict",
    validate: str = "structure",
    delete: bool = True,
    hosts: Sequence[str] = (),
    trusted_proxies: Sequence[str] = (),
    limits: Limits | None = None,
    metrics: bool = True,
    log_format: str = "none",
    collect_every: float = 3600.0,
    grace: float = 3600.0,
    timeout: float = 120.0,
) -> Server:
    """Run a registry of one's own, in a process beside this one, and wait until it answers.

    It stops at `stop()`, at the end of a `with` block, when nothing refers to it any more, and with this process, even
    one that is killed. An earlier server of this process on the same port stops first, so that a cell can run again.

    Args:
        path: the folder to keep things in, on a local disk; None is a temporary one, gone when the server stops.
        port: 0 is one that is free.
        host: the address to listen on. Nobody else reaches 127.0.0.1; "0.0.0.0" is for everybody.
        htpasswd: a file with users and bcrypt passwords, from `htpasswd -B`, or users and their passwords; None lets
            everybody do everything.
        token: whether clients get tokens for passwords, and send those.
        rules: a TOML file that says who may do what.
        anonymous_pull: whether everybody may pull, logged in or not.
        allow_plain_http: whether passwords are taken from other machines without TLS.
        tls_cert: a PEM file; with it and its key it speaks https.
        tls_key: a PEM file.
        workers: processes that answer.
        read_only: whether every change is refused.
        references: "strict" takes a manifest only after what it references, "sparse" before it, too.
        validate: "structure" checks types and digests of manifests, "schema" the specification's JSON schemas, too.
        delete: whether anything may be deleted.
        hosts: names that clients may call it by, beside those of loopback; anything, if it listens elsewhere and none
            are given.
        trusted_proxies: addresses of proxies whose X-Forwarded headers are believed.
        limits: the most of each thing.
        metrics: whether `/metrics` tells Prometheus; where there are users, those who may see the catalog, and with tokens,
            whoever sends one for that. `/healthz` tells everybody that it is well.
        log_format: "json" or "text" for a line about each request, "none" for failures only; see `Server.log`.
        collect_every: seconds between sweeps for content that nobody names; 0 for none.
        grace: seconds that such content is kept.
        timeout: seconds after which a connection that moves nothing is ended.
    Raises:
        ServerFailed: with its last words, if it doesn't come up.
        InvalidArgument: for a setting that there isn't.

    >>> import ocikit
    >>> with ocikit.serve() as server:
    ...     list(ocikit.catalog(server.host))
    []
    """
    settings = Settings(
        references=references, validate=validate, read_only=read_only, hosts=tuple(hosts),
        deletion=("manifests", "blobs", "tags") if delete else (), trusted_proxies=tuple(trusted_proxies),
        metrics=metrics, limits=limits or Limits(),
    )  # fmt: skip
    options = Options(
        path="" if path is None else str(Path(path).absolute()), host=host, port=port, htpasswd="users" if isinstance(htpasswd, Mapping) else _text(htpasswd),
        token=token, rules=_text(rules), anonymous_pull=anonymous_pull, allow_plain_http=allow_plain_http,
        tls_cert=_text(tls_cert), tls_key=_text(tls_key), workers=workers, settings=settings, log_format=log_format,
        collect_every=collect_every, grace=grace, timeout=timeout, durable=path is not None,
    )  # fmt: skip
    for package in ("granian", "sqlalchemy", "bcrypt"):
        if find_spec(package) is None:
            raise ServerFailed(f"serving needs {package}, which isn't installed", hint=EXTRA)
    users = _hashed(htpasswd) if isinstance(htpasswd, Mapping) else None
    for other in [one for one in running() if port and one.address == (host, port)]:
        other.stop()
    scratch = Path(tempfile.mkdtemp(prefix="ocikit-serve-"))
    if users is not None:
        options = attrs.evolve(options, htpasswd=str(scratch / "users"))
        _keep(scratch / "users", users)
    options = attrs.evolve(options, attached=str(scratch), path=options.path or str(scratch / "store"))
    child = Child.start(options.arguments(), scratch, (host, port))
    try:
        said = child.wait_until_ready()
    except BaseException:
        child.stop()
        raise
    return Server(child, host=said["name"], url=said["url"], path=Path(options.path), read_only=read_only)


def _hashed(passwords: Mapping[str, str]) -> str:
    """Users and their passwords as the lines of an htpasswd file. Raises: InvalidArgument."""
    import bcrypt  # noqa: PLC0415 - for those who serve

    for user in passwords:
        if not user or ":" in user or not user.isprintable() or user != user.strip() or user.startswith("#"):
            raise InvalidArgument(f"{display.quoted(user)} is no name for a user", hint="letters and digits will do")
    # bcrypt reads 72 bytes and no more
    hashes = {user: bcrypt.hashpw(word.encode()[:72], bcrypt.gensalt(10)).decode() for user, word in passwords.items()}
    return "".join(f"{user}:{hashed}\n" for user, hashed in hashes.items())


def _keep(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)
