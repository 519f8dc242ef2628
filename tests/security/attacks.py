"""Attacks as small functions: an attacker's servers and files, a user who calls the verbs, and the result.

The modules next to this one register their attacks with `attack`. tests/security/test_attacks.py runs and judges them, and
`python -m tests.tools.attack_table` prints them as a table. Everything is on loopback: names such as registry.example
lead to the scene's own servers, and every other name or address leads to a trap that records its requests.
"""

import base64
import contextlib
import gzip
import hashlib
import io
import json
import logging
import os
import re
import socket
import tarfile
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import ocikit
from attrs import define, field, frozen
from ocikit.errors import OcikitError
from ocikit.spec import media_types

from tests.support.fake_registry import FakeRegistry, Response, certificate

PASSWORD = "hunter2CorrectHorse"
IDENTITY = "identityTokenBatteryStaple"
TOKEN = "registryTokenTroubadour"
ADA = ("ada", PASSWORD)
BASIC = "Basic " + base64.b64encode(f"ada:{PASSWORD}".encode()).decode()
#: Secrets that only their own server may see, plain and encoded.
SECRETS = {"password": PASSWORD, "password (base64)": BASIC[6:], "identity token": IDENTITY, "token": TOKEN}

NETWORK = ocikit.Network(retries=1, connect_timeout=2, read_timeout=5, max_wait=2)
TITLE = "org.opencontainers.image.title"
NOTHING = "nothing"  # the user's call succeeded


@frozen
class Attack:
    """An attack, as text and as a function of a scene."""

    id: str
    """The advisory, or the source of the idea."""
    about: str
    """The expected behaviour as a sentence, from the function's name."""
    sent: str
    """The attacker's data."""
    ends: frozenset[str]
    """Allowed results of the user's calls: names of errors, or "nothing"."""
    run: Callable[["AttackScene"], object] = field(repr=False)


ATTACKS: list[Attack] = []


def attack(id: str, sent: str, *, ends: str, each: Mapping[str, Any] | None = None) -> Callable[[Any], Any]:
    """Register an attack, or one for each of the given values; {} in *sent* is the value's name.

    Args:
        id: The advisory.
        sent: The attacker's data.
        ends: Allowed results of the user's calls: "InvalidResponse", "nothing|UnsafeArchive".
        each: Values by name, passed to the function.
    """

    def register(run: Any) -> Any:
        about = run.__name__.replace("_", " ")
        allowed = frozenset(ends.split("|"))
        if each is None:
            ATTACKS.append(Attack(id, about, sent, allowed, run))
        for name, value in (each or {}).items():
            ATTACKS.append(Attack(id, about, sent.format(name), allowed, lambda scene, v=value: run(scene, v)))
        return run

    return register


@define(eq=False)
class AttackScene:
    """A user's home, the user's registry, and the attacker's servers."""

    root: Path
    registry: FakeRegistry
    """The registry with ada's account. It is public until `protect` is called."""
    auth: FakeRegistry
    """The registry's token server."""
    evil: FakeRegistry
    """The attacker's host. It records every request."""
    trap: FakeRegistry
    """The server for every other host."""
    network: ocikit.Network = NETWORK
    names: dict[str, FakeRegistry] = field(factory=dict)
    given: str = "no credential"
    """What the attacker legitimately receives from the user; `judge` checks the rest."""
    ends: list[OcikitError | None] = field(factory=list)
    """Results of the user's calls."""
    seen: list[str] = field(factory=list)
    """All other output: log, warnings, representations."""
    _stack: contextlib.ExitStack = field(factory=contextlib.ExitStack)
    _session: ocikit.Session | None = None
    _warnings: list[Any] = field(factory=list)

    # The user

    @property
    def work(self) -> Path:
        """The user's working folder."""
        return self.root / "house" / "work"

    @property
    def session(self) -> ocikit.Session:
        """Ada's session. Her password belongs to the registry only."""
        if self._session is None:
            self._session = self.open_session()
        return self._session

    def open_session(self, credentials: Any = ADA, **options: Any) -> ocikit.Session:
        keys = {self.registry.host: credentials, "registry.example": credentials}
        options = {"network": self.network, "credentials": keys, "progress": False} | options
        return self._stack.enter_context(ocikit.Session(**options))

    def user(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Run a call of the user. Errors that are not typed errors of ocikit propagate."""
        try:
            result = call(*arguments, **options)
        except OcikitError as error:
            self.ends.append(error)
            self.seen += [str(error), repr(error)]
            return None
        self.ends.append(None)
        self.seen.append(repr(result))
        return result

    @contextlib.contextmanager
    def memory(self, limit: int = 64 << 20) -> Iterator[None]:
        """Limit the memory of the block [bytes]."""
        tracemalloc.start()
        try:
            yield
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < limit, f"{peak} bytes were set aside"

    # The registry

    def protect(self) -> None:
        """Require a token of the registry's token server."""
        self.auth.on("GET|POST", "/token", times=None, status=200, body=json.dumps({"token": TOKEN}).encode())
        self.challenge(f"{self.auth.url}/token")

    def challenge(self, realm: str, server: FakeRegistry | None = None) -> None:
        """Require a token from a realm."""
        quoted = realm.replace("\\", "\\\\")
        asks = {"WWW-Authenticate": f'Bearer realm="{quoted}",service="registry",scope="repository:a/b:pull,push"'}
        (server or self.registry).guard = lambda r: (
            None if r.path == "/token" or r.headers.get("Authorization") == f"Bearer {TOKEN}" else Response(401, asks)
        )

    def public(self) -> FakeRegistry:
        """Start registry.example over TLS; ada's session trusts its certificate."""
        folder = self.root / "tls"
        folder.mkdir()
        pair = certificate(folder)
        server = self._stack.enter_context(FakeRegistry(tls=pair))
        self.names["registry.example"] = server
        self.network = attrs.evolve(NETWORK, retries=0, ca=str(pair[0]))
        return server

    def artifact(self, *layers: dict[str, Any], server: FakeRegistry | None = None, **fields: Any) -> str:
        """Store a manifest of these layers as a/b:v1 and return the reference."""
        server = server or self.registry
        config = server.blob("a/b", b"{}")
        document = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "artifactType": "application/vnd.example.data",
            "config": {"mediaType": media_types.EMPTY, "digest": config, "size": 2},
            "layers": list(layers),
        }
        server.manifest("a/b", document | fields, "v1")
        return f"{'registry.example' if server.tls else server.host}/a/b:v1"

    def layer(self, content: bytes, title: str | None = "file", **fields: Any) -> dict[str, Any]:
        """Store a blob and return its descriptor, with a title and these fields."""
        for server in {self.registry, *self.names.values()} - {self.trap}:
            server.blob("a/b", content)
        described = {"mediaType": "text/plain", "digest": sha256(content), "size": len(content)}
        return described | ({"annotations": {TITLE: title}} if title is not None else {}) | fields

    def image(self, *tars: bytes, media_type: str = media_types.OCI_LAYER) -> str:
        """Store an image of these layers and return the reference."""
        rootfs = {"type": "layers", "diff_ids": [sha256(each) for each in tars]}
        config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": rootfs})
        described = {"mediaType": media_types.OCI_CONFIG, "digest": self.registry.blob("a/b", config.encode()),
                     "size": len(config)}  # fmt: skip
        layers = [self.layer(each, None, mediaType=media_type) for each in tars]
        return self.artifact(*layers, config=described, artifactType=None)

    def files(self, folder: str = "out") -> dict[str, Any]:
        """Return the content of a user's folder: bytes or link targets, without ocikit's records."""
        found: dict[str, Any] = {}
        for path in sorted((self.work / folder).rglob("*")):
            name = path.relative_to(self.work / folder)
            if ".ocikit" not in name.parts and (path.is_symlink() or not path.is_dir()):
                found[name.as_posix()] = os.readlink(path) if path.is_symlink() else path.read_bytes()
        return found

    # The result

    def received(self) -> str:
        """Describe what the attacker received."""
        requests = [*self.evil.requests, *self.trap.requests]
        if not requests:
            came = self.evil.connections + self.trap.connections
            return f"{came} connections, no request" if came else "nothing"
        kinds: dict[str, int] = {}
        for request in requests:
            what = request.method + (f" with {len(request.body)} B" if request.body else "")
            kinds[what] = kinds.get(what, 0) + 1
        return ", ".join(f"{n}x {what}" if n > 1 else what for what, n in kinds.items()) + f"; {self.given}"

    def judge(self, attack: Attack) -> None:
        """Check that the attack did no harm.

        Raises:
            AssertionError: It did harm.
        """
        for request in [*self.evil.requests, *self.trap.requests]:
            flat = "\n".join([request.target, *(f"{k}: {v}" for k, v in request.headers.items())]).encode()
            for what, secret in SECRETS.items():
                assert secret.encode() not in flat + request.body, f"the attacker got the {what}: {request}"
        for text in [*self.seen, *(str(warning.message) for warning in self._warnings)]:
            for what, secret in SECRETS.items():
                assert secret not in text, f"the {what} is shown: {text}"
            assert not _CONTROLS.search(text), f"control characters are shown: {text!r}"
        assert self.ends, "the user did nothing"
        for error in self.ends:
            name = type(error).__name__ if error else NOTHING
            assert name in attack.ends, f"{name}: {error}"
            assert error is None or (error.message and len(str(error)) < 2000)
        secret = self.root / "secret"
        assert (
            secret.read_bytes() == b"untouched"
            and secret.stat().st_nlink == 1
            and secret.stat().st_mode & 0o777 == 0o600
        )
        assert {p.name for p in self.root.iterdir()} <= {"secret", "house", "tls", "attacker"}, (
            "something was put outside"
        )
        assert {p.name for p in (self.root / "house").iterdir()} <= {
            "work",
            "cache",
            ".docker",
            "run",
            ".config",
            ".netrc",
        }


#: Terminal control characters, and characters that change the direction of text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@contextlib.contextmanager
def scene() -> Iterator[AttackScene]:
    """Create a scene with its own environment, working folder and host names for the block."""
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocikit-attack-")))
        registry, auth, evil, trap = (stack.enter_context(_server()) for _ in range(4))
        made = AttackScene(root, registry, auth, evil, trap, stack=stack)
        made.work.mkdir(parents=True)
        (root / "attacker").mkdir()
        (root / "secret").write_bytes(b"untouched")
        (root / "secret").chmod(0o600)
        _environment(stack, root / "house")
        stack.callback(os.chdir, os.getcwd())
        os.chdir(made.work)
        real = socket.getaddrinfo
        stack.callback(setattr, socket, "getaddrinfo", real)
        socket.getaddrinfo = _resolver(made, real)
        made._warnings = stack.enter_context(warnings.catch_warnings(record=True)) or []
        warnings.simplefilter("always")
        stack.enter_context(_listening(made))
        yield made


_idle: list[FakeRegistry] = []


@contextlib.contextmanager
def _server() -> Iterator[FakeRegistry]:
    """Return a reset server. Servers are reused, because stopping one takes longer than most attacks."""
    server = _idle.pop() if _idle else FakeRegistry().__enter__()
    yield server
    for kept in (server.blobs, server.manifests, server.tags, server.uploads, server.requests, server.faults):
        kept.clear()
    server.guard, server.tls, server.connections = None, None, 0
    _idle.append(server)


def _environment(stack: contextlib.ExitStack, house: Path) -> None:
    saved = dict(os.environ)

    def restore() -> None:
        os.environ.clear()
        os.environ.update(saved)

    stack.callback(restore)
    for name in saved:
        if name.startswith(("OCIKIT_", "DOCKER_", "REGISTRY_", "XDG_")) or name.lower().endswith(("_proxy", "_bundle")):
            del os.environ[name]
    folders = {"HOME": "", "DOCKER_CONFIG": ".docker", "XDG_CONFIG_HOME": ".config", "XDG_RUNTIME_DIR": "run"}
    os.environ.update({name: str(house / folder) for name, folder in folders.items()})
    os.environ.update(OCIKIT_CACHE=str(house / "cache"), OCIKIT_PROGRESS="none")


def _resolver(scene: AttackScene, real: Any) -> Any:
    def resolve(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name in {"127.0.0.1", "localhost"} and f"{name}:{port}" not in scene.names:
            return real(host, port, *rest, **more)
        server = scene.names.get(f"{name}:{port}") or scene.names.get(name, scene.trap)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]

    return resolve


@contextlib.contextmanager
def _listening(scene: AttackScene) -> Iterator[None]:
    """Record everything that is logged at any level."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not record.name.startswith(
                "urllib3"
            ):  # urllib3 logs whole URLs, signatures included, at a level that callers must enable
                scene.seen.append(self.format(record))

    logger, handler = logging.getLogger(), Handler()
    ours = logging.getLogger("ocikit")
    levels = logger.level, ours.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    ours.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(levels[0])
        ours.setLevel(levels[1])


# The attacker's files


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def entry(name: str, content: bytes = b"", type: bytes = tarfile.REGTYPE, target: str = "", **fields: Any) -> Any:
    """Return a member of a tar with its content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = type, target, len(content)
    info.mode = 0o755 if type == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def link(name: str, target: str) -> Any:
    return entry(name, type=tarfile.SYMTYPE, target=target)


def hard(name: str, target: str) -> Any:
    return entry(name, type=tarfile.LNKTYPE, target=target)


def folder(name: str, mode: int = 0o755) -> Any:
    return entry(name, type=tarfile.DIRTYPE, mode=mode)


def tar(*members: Any, format: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)
