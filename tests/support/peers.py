"""Real registries as processes, and the paths of peer programs.

    with distribution3(htpasswd=("ada", "lovelace")) as registry:
        requests.get(f"{registry.url}/v2/", auth=("ada", "lovelace"))

`bash .ci/peers` installs all peers. The environment variable OCIKIT_PEERS decides what a missing peer means:

| value | meaning |
|---|---|
| (unset) | a missing peer skips a test |
| `required` | a missing peer fails the test |
| `none` | all programs count as missing |
| `oras,skopeo` | all programs but these count as missing |
| `skip` | tests marked interop are skipped, also those that need no peer |

A test declares the programs that it runs: `@pytest.mark.peers("oras", of=["writer"])`, by name, and by the value of a
parameter. tests/conftest.py looks for them before any fixture is made. A test skips as a whole, and leaves nothing half
made in a fixture that it shares with other tests. tests/architecture/test_peers.py compares declarations with calls.
"""

import atexit
import contextlib
import datetime
import ipaddress
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.http import free_port
from tests.support.token_server import TokenServer

ROOT = Path(__file__).resolve().parents[2]

#: The folder for the programs that .ci/peers builds.
FOLDER = Path(os.environ.get("OCIKIT_PEERS_DIR") or ROOT / ".peers").resolve()

#: Programs that .ci/peers cannot install everywhere. A missing one is never a failure.
OPTIONAL = {"zot": "its Go module lives on a host that not every proxy serves; put a zot binary on PATH"}

#: What a peer consists of, where it is not one program of its name.
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "ocikit": (),
    "distribution2": ("docker-registry",),
    "distribution3": ("registry",),
    "ctr": ("containerd", "ctr"),
    "debian": ("debootstrap", "umoci", "skopeo"),
    "postgresql": ("initdb", "postgres"),
}

#: Where Debian has the programs of PostgreSQL, those of the newest version first.
_POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)

START = 30.0  # seconds; zot takes a second on a busy machine


#: Values of OCIKIT_PEERS other than names of programs.
_MODES = {"", "required", "skip"}


def allowed(name: str) -> bool:
    """Return True unless OCIKIT_PEERS hides the program."""
    value = os.environ.get("OCIKIT_PEERS", "")
    return value in _MODES or name in value.split(",")


@cache
def _gopath() -> Path | None:
    go = shutil.which("go")
    if go is None:
        return None
    out = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=False).stdout.strip()
    return Path(out.split(os.pathsep)[0]) if out else None


def where(name: str) -> Path | None:
    """Return the program from .peers/bin, PATH or GOPATH/bin, or None."""
    if not allowed(name):
        return None
    folders = [FOLDER / "bin", *map(Path, os.get_exec_path()), Path("/usr/sbin"), *_POSTGRESQL]
    for folder in folders:
        if found := shutil.which(name, path=str(folder)):
            return Path(found)
    gopath = _gopath()
    found = shutil.which(name, path=str(gopath / "bin")) if gopath else None
    return Path(found) if found else None


def need(*names: str) -> None:
    """Skip the test unless all peers are there: programs, kinds of registries, or our own client and registry."""
    for name in names:
        for program in PROGRAMS.get(name, (name,)):
            find(program)


def find(name: str) -> Path:
    """Return the program, or skip the test; with OCIKIT_PEERS=required, fail it."""
    if path := where(name):
        return path
    if name in OPTIONAL:
        pytest.skip(f"{name} is missing: {OPTIONAL[name]}")
    return absent(f"{name} is missing: run `bash .ci/peers`")


def absent(why: str) -> Any:
    """Skip the test; with OCIKIT_PEERS=required, fail it."""
    if os.environ.get("OCIKIT_PEERS") == "required":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def run(
    name: str,
    *arguments: str | Path,
    home: Path | None = None,
    check: bool = True,
    timeout: float = 240,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a peer with its credentials in `home`, isolated from the user's credentials.

    Raises:
        AssertionError: The program failed and `check` is on. The message has its output.
    """
    env = dict(options.pop("env", None) or {})
    home = home or _nobody()
    env = os.environ | isolated(home) | env
    command = [str(find(name)), *map(str, arguments)]
    done = subprocess.run(
        command,
        env=env,
        text=True,
        capture_output=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL if "input" not in options else None,
        **options,
    )
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join([name, *command[1:]])} exited with {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done


def isolated(home: Path) -> dict[str, str]:
    """Return an environment that keeps the credentials of docker-like and podman-like tools in `home`."""
    return {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "DOCKER_CONFIG": str(home / ".docker"),
        "REGISTRY_AUTH_FILE": str(home / ".docker" / "config.json"),
        "REGCTL_CONFIG": str(home / ".regctl" / "config.json"),
    }


@cache
def _nobody() -> Path:
    # Stored until the interpreter exits, because TemporaryDirectory would warn about its own removal.
    folder = Path(tempfile.mkdtemp(prefix="ocikit-home-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@define(eq=False)
class Registry:
    """A running registry."""

    kind: str
    #: 127.0.0.1:PORT
    host: str
    process: subprocess.Popen[bytes] = field(repr=False)
    log: Path
    storage: Path
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: TokenServer | None = field(default=None, repr=False)
    tls: tuple[Path, Path] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def auth(self) -> tuple[str, str] | None:
        """The `auth` argument for `requests`."""
        return (self.user, self.password) if self.user is not None and self.password is not None else None

    def reference(self, repository: str, tag: str = "latest") -> str:
        return f"{self.host}/{repository}:{tag}"


def htpasswd_line(user: str, password: str) -> str:
    """Return user:bcrypt. The cost is 5, because every request pays for the hash of a public test password."""
    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()}\n"


# Registries


def distribution2(
    *,
    htpasswd: tuple[str, str] | None = None,
    token: TokenServer | None = None,
    delete: bool = True,
    tls: tuple[Path, Path] | None = None,
) -> AbstractContextManager[Registry]:
    """CNCF distribution 2.8, Debian's docker-registry."""
    return _distribution("distribution2", "docker-registry", {}, htpasswd, token, delete, tls)


def distribution3(
    *,
    htpasswd: tuple[str, str] | None = None,
    token: TokenServer | None = None,
    delete: bool = True,
    tls: tuple[Path, Path] | None = None,
) -> AbstractContextManager[Registry]:
    """CNCF distribution 3."""
    # Without validation it accepts an index before its manifests, and any urls, as 2.8 does.
    return _distribution("distribution3", "registry", {"validation": {"disabled": True}}, htpasswd, token, delete, tls)


def zot(
    *,
    htpasswd: tuple[str, str] | None = None,
    token: TokenServer | None = None,
    delete: bool = True,
    tls: tuple[Path, Path] | None = None,
) -> AbstractContextManager[Registry]:
    """Start zot if its binary is on PATH. It always deletes."""

    def configure(folder: Path, port: int) -> Sequence[str | Path]:
        http: dict[str, Any] = {"address": "127.0.0.1", "port": str(port), "compat": ["docker2s2"]}
        auth: dict[str, Any] = {}
        if htpasswd:
            auth["htpasswd"] = {"path": str(_passwords(folder, htpasswd))}
        if token:
            auth["bearer"] = {"realm": token.realm, "service": token.service, "cert": str(token.certificate)}
        if auth:
            http["auth"] = auth
        if tls:
            http["tls"] = {"cert": str(tls[0]), "key": str(tls[1])}
        storage = {"rootDirectory": str(folder / "storage"), "dedupe": False, "commit": False, "gc": False}
        config = {"distSpecVersion": "1.1.1", "storage": storage, "http": http, "log": {"level": "error"}}
        path = folder / "config.json"
        path.write_text(json.dumps(config, indent=1))
        return [find("zot"), "serve", path]

    return _running("zot", configure, htpasswd, token, tls)


def olareg(
    *,
    htpasswd: tuple[str, str] | None = None,
    token: TokenServer | None = None,
    delete: bool = True,
    tls: tuple[Path, Path] | None = None,
) -> AbstractContextManager[Registry]:
    """Start olareg: OCI 1.1 with the referrers API, which distribution lacks, without accounts.

    Its storage is one image layout per repository.
    """
    if htpasswd or token:
        raise ValueError("olareg has no authentication")

    def configure(folder: Path, port: int) -> Sequence[str | Path]:
        switch = "true" if delete else "false"
        command: list[str | Path] = [find("olareg"), "serve", "--addr", "127.0.0.1", "--port", str(port)]
        command += ["--dir", folder / "storage", f"--api-delete={switch}", f"--api-blob-delete={switch}"]
        command += ["--gc-frequency", "-1s"]  # uploaded content stays until the test removes it
        if tls:
            command += ["--tls-cert", tls[0], "--tls-key", tls[1]]
        return command

    return _running("olareg", configure, None, None, tls)


def ocikit(
    *,
    htpasswd: tuple[str, str] | None = None,
    token: TokenServer | None = None,
    delete: bool = True,
    tls: tuple[Path, Path] | None = None,
    workers: int = 1,
    options: Sequence[str] = (),
) -> AbstractContextManager[Registry]:
    """Start our own registry. It issues its own tokens."""
    if token:
        raise ValueError("our registry has a token endpoint of its own")

    def configure(folder: Path, port: int) -> Sequence[str | Path]:
        command: list[str | Path] = [sys.executable, "-m", "ocikit", "serve", folder / "storage"]
        # Like the other registries: an index may be pushed before its manifests
        command += ["--port", str(port), "--workers", str(workers), "--references", "sparse", *options]
        if not delete:
            command += ["--no-delete"]
        if htpasswd:
            # Tests send many wrong passwords
            command += ["--htpasswd", _passwords(folder, htpasswd), "--limit", "failures=10000"]
        if tls:
            command += ["--tls-cert", tls[0], "--tls-key", tls[1]]
        return command

    return _running("ocikit", configure, htpasswd, None, tls)


#: Every registry by its kind.
KINDS: Mapping[str, Callable[..., AbstractContextManager[Registry]]] = {
    "ocikit": ocikit,
    "distribution2": distribution2,
    "distribution3": distribution3,
    "olareg": olareg,
    "zot": zot,
}


def _distribution(kind, program, extra, htpasswd, token, delete, tls) -> AbstractContextManager[Registry]:
    def configure(folder: Path, port: int) -> Sequence[str | Path]:
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(folder / "storage")},
                "delete": {"enabled": delete},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": f"127.0.0.1:{port}", "secret": "the same for all", "headers": {}},
            **extra,
        }
        if tls:
            config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
        if htpasswd:
            config["auth"] = {"htpasswd": {"realm": "ocikit tests", "path": str(_passwords(folder, htpasswd))}}
        if token:
            config["auth"] = {
                "token": {
                    "realm": token.realm,
                    "service": token.service,
                    "issuer": token.issuer,
                    "rootcertbundle": str(token.certificate),
                }
            }
            if kind == "distribution3":
                config["auth"]["token"]["jwks"] = str(token.jwks)
        path = folder / "config.yml"
        path.write_text(json.dumps(config, indent=1))  # JSON is YAML
        return [find(program), "serve", path]

    return _running(kind, configure, htpasswd, token, tls)


def _passwords(folder: Path, account: tuple[str, str]) -> Path:
    path = folder / "htpasswd"
    path.write_text(htpasswd_line(*account))
    return path


@contextmanager
def _running(
    kind: str,
    configure: Callable[[Path, int], Sequence[str | Path]],
    account: tuple[str, str] | None,
    token: TokenServer | None,
    tls: tuple[Path, Path] | None,
) -> Iterator[Registry]:
    folder = Path(tempfile.mkdtemp(prefix=f"ocikit-{kind}-"))
    try:
        (folder / "storage").mkdir()
        for attempt in (1, 2, 3):  # another process may take the port before the registry starts
            port = free_port()
            with process(configure(folder, port), folder / "log") as started:
                registry = Registry(
                    kind=kind,
                    host=f"127.0.0.1:{port}",
                    process=started,
                    log=folder / "log",
                    storage=folder / "storage",
                    user=account[0] if account else None,
                    password=account[1] if account else None,
                    token=token,
                    tls=tls,
                )
                if not _answers(registry):
                    words = registry.log.read_text(errors="replace")
                    if attempt < 3 and "address already in use" in words:
                        continue
                    raise RuntimeError(
                        f"{kind} did not answer on {registry.url}/v2/ within {START:.0f} s:\n{words[-4000:]}"
                    )
                yield registry
                return
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def process(
    command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child process and end it by its id: SIGTERM first, SIGKILL after five seconds."""
    # A REGISTRY_* variable would override the configuration. distribution 3 would look for an OpenTelemetry collector.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
    surroundings = inherited | {"OTEL_TRACES_EXPORTER": "none"} | dict(env or {})
    with log.open("wb") as output:
        started = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=surroundings,
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(5)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _answers(registry: Registry) -> bool:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and registry.process.poll() is None:
        with contextlib.suppress(OSError, HTTPException), contextlib.closing(_connection(registry)) as connection:
            connection.request("GET", "/v2/")
            response = connection.getresponse()
            response.read()
            if response.status in (200, 401):
                return True
        time.sleep(0.02)
    return False


def _connection(registry: Registry) -> HTTPConnection:
    if registry.tls is None:
        return HTTPConnection(registry.host, timeout=5)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the test verifies the certificate
    return HTTPSConnection(registry.host, timeout=5, context=context)


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for localhost and 127.0.0.1 and its key, for `tls=`."""
    now = datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(signed.public_bytes(pem))
    paths[1].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths
