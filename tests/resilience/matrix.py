"""The fault matrix: requests, faults, and results of each client.

    image = Image.made(folder)
    with peers.ocikit() as registry, Proxy(registry.url) as proxy:
        outcome = pull("crane", image, proxy, Cell("GET blob", "cut", 12345), folder)
        assert outcome.survived and outcome.moved <= image.size + (1 << 20)

Clients move an image between a layout and a registry, because all of them support that.
"""

import hashlib
import itertools
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from email.message import Message
from email.utils import formatdate
from pathlib import Path
from typing import Any

import ocikit
import requests
from attrs import evolve, frozen
from ocikit.errors import OcikitError
from ocikit.remote.auth.keychain import ANONYMOUS
from ocikit.remote.config.network import Network
from ocikit.testing.proxy import Proxy

from tests.support import images, peers
from tests.support.fake_registry import Request

MIB = 1 << 20
READ_TIMEOUT = 1.0  # seconds, for ocikit
WAITS = 2.0  # seconds without a response from the proxy
PATIENCE = 60  # seconds for a client
CLIENTS = ("ocikit", "oras", "crane", "skopeo", "regctl")
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"

#: Requests by their common names: method and path.
REQUESTS = {
    "HEAD manifest": ("HEAD", r"/v2/.+/manifests/[^/]+"),
    "GET token": ("GET", r"/token"),
    "GET manifest": ("GET", r"/v2/.+/manifests/[^/]+"),
    "GET blob": ("GET", r"/v2/.+/blobs/sha256:.+"),
    "HEAD blob": ("HEAD", r"/v2/.+/blobs/sha256:.+"),
    "POST": ("POST", r"/v2/.+/blobs/uploads/"),
    "PATCH": ("PATCH", r"/v2/.+/blobs/uploads/.+"),
    "PUT blob": ("PUT", r"/v2/.+/blobs/uploads/.+"),
    "PUT manifest": ("PUT", r"/v2/.+/manifests/[^/]+"),
}
PULLS = ("HEAD manifest", "GET manifest", "GET blob")
PUSHES = ("HEAD blob", "POST", "PUT blob", "PUT manifest")


def _ranged(request: Request) -> bool:
    return "Range" in request.headers


def _after_a_cut(**fault: Any) -> Callable[[int], list[dict[str, Any]]]:
    """Cut the response, then return a wrong response to the request for the rest."""
    return lambda at: [{"cut": at}, {"when": _ranged, **fault}]


#: Faults for `Proxy.on` by kind, given a position.
FORMS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    # At a byte of the response
    "cut": lambda at: [{"cut": at}],
    "reset": lambda at: [{"cut": at, "reset": True}],
    "stall": lambda at: [{"cut": at, "stall": WAITS}],
    "chunked, cut": lambda at: [{"chunked": True, "cut": at}],
    "short": lambda at: [{"cut": at, "without": ("Content-Length",), "headers": {"Content-Length": str(at)}}],
    "short, chunked": lambda at: [{"change": lambda _, answer: evolve(answer, body=answer.body[:at]), "chunked": True}],
    "wrong Content-Range": _after_a_cut(headers={"Content-Range": "bytes 5-9/10"}),
    "200 to a range": _after_a_cut(unranged=True),
    "416": _after_a_cut(status=416, body=b"{}"),
    # At a byte of the request
    "request cut": lambda at: [{"cut_request": at}],
    "request reset": lambda at: [{"cut_request": at, "reset": True}],
    # At any request
    "500": lambda _: [{"status": 500}],
    "502, HTML": lambda _: [{"status": 502, "headers": {"Content-Type": "text/html"}, "body": _HTML}],
    "503, seconds": lambda _: [{"status": 503, "headers": {"Retry-After": "1"}}],
    "503, date": lambda _: [{"status": 503, "headers": {"Retry-After": formatdate(time.time() + 1, usegmt=True)}}],
    "429": lambda _: [{"status": 429, "headers": {"Retry-After": "1"}}],
    "never asked": lambda _: [{"drop": "before"}],
    "answer lost": lambda _: [{"drop": "after"}],
    "answer lost, reset": lambda _: [{"drop": "after", "reset": True}],
    "no answer": lambda _: [{"delay": WAITS, "drop": "before"}],
    "slow": lambda _: [{"throttle": 16.0 * MIB}],
    "gzip": lambda _: [{"gzip": True}],
}
IN_ANSWERS = (
    "cut",
    "reset",
    "stall",
    "chunked, cut",
    "short",
    "short, chunked",
    "wrong Content-Range",
    "200 to a range",
    "416",
)
IN_REQUESTS = ("request cut", "request reset")


@frozen
class Cell:
    """One fault at one request."""

    request: str
    kind: str
    at: int = 0
    """Position in bytes, for kinds that have one."""

    def __str__(self) -> str:
        where = f" @{self.at}" if self.kind in (*IN_ANSWERS, *IN_REQUESTS) else ""
        return f"{self.request}: {self.kind}{where}"

    def install(self, proxy: Proxy, layer: str, *, times: int | None = 1) -> None:
        """Script the fault. Faults of blobs apply to the layer. The last one of several runs last."""
        method, path = REQUESTS[self.request]
        for fault in FORMS[self.kind](self.at):
            wanted = fault.pop("when", lambda _: True)
            if fault.pop("unranged", False):
                proxy.before.append(_without_range)
                continue

            def suits(request: Request, wanted: Callable[[Request], bool] = wanted) -> bool:
                about = f"{request.path} {request.query.get('digest')}"
                return wanted(request) and (not self.request.endswith(" blob") or layer in about)

            proxy.on(method, path, times=times, when=suits, **fault)


def _without_range(request: Request) -> Request:
    headers = Message()
    for name, value in request.headers.items():
        if name.lower() != "range":
            headers[name] = value
    return evolve(request, headers=headers)


def _without_mount(request: Request) -> Request:
    """Remove what another cell pushed."""
    return evolve(request, target=request.path) if "mount" in request.query else request


def positions(size: int) -> tuple[int, ...]:
    """Return positions: before the first byte, after the last, and between."""
    return tuple(sorted({0, min(1, size), min(1 << 16, size), size // 2, max(size - 1, 0), size}))


def cells(requests: tuple[str, ...], size: int) -> list[Cell]:
    """Yield every kind at every sensible request and position."""
    made = []
    for request, kind in itertools.product(requests, FORMS):
        head, body = request.startswith("HEAD"), request == "GET blob"
        sends = request.startswith("P") and request != "POST"
        if (kind in IN_REQUESTS and not sends) or (kind in IN_ANSWERS and (head or request.startswith("P"))):
            continue
        if kind in {"wrong Content-Range", "200 to a range", "416"} and not body:
            continue
        if kind in {"slow", "gzip"} and (kind, request) not in {("slow", "GET blob"), ("slow", "PUT blob"), ("slow", "PATCH"),
                                                                ("gzip", "GET blob"), ("gzip", "GET manifest")}:  # fmt: skip
            continue
        where: tuple[int, ...] = (0,)
        if kind in IN_REQUESTS or kind in IN_ANSWERS:
            large = body or request in {"PUT blob", "PATCH"}
            where = (
                (size // 2,)
                if kind in {"wrong Content-Range", "200 to a range", "416"}
                else positions(size)
                if large
                else (0, 100)
            )
        made += [Cell(request, kind, at) for at in where]
    return made


@frozen
class Image:
    """An image with one large layer, in a layout."""

    layout: Path
    layer: str
    """Digest of the layer."""
    size: int
    """Size of the layer [bytes]."""
    root: str
    """Digest of the manifest."""
    config: str

    @classmethod
    def made(cls, folder: Path, size: int = 16 * MIB) -> "Image":
        """Create an image of incompressible bytes."""
        images.small(folder, tag="v1", files={"data": random.Random(size).randbytes(size)})
        root = json.loads((folder / "index.json").read_bytes())["manifests"][0]["digest"]
        manifest = json.loads(images.blob(folder, root).read_bytes())
        layer = manifest["layers"][0]
        return cls(folder, layer["digest"], layer["size"], root, manifest["config"]["digest"])

    def put(self, url: str, repository: str, *, whole: bool) -> None:
        """Push to a registry directly: everything, or only the config, so that the next push moves the layer."""
        for digest in [self.config, self.layer] if whole else [self.config]:
            begun = requests.post(f"{url}/v2/{repository}/blobs/uploads/", timeout=30)
            place = requests.compat.urljoin(begun.url, begun.headers["Location"])
            sep = "&" if "?" in place else "?"
            sent = requests.put(f"{place}{sep}digest={digest}", data=images.blob(self.layout, digest).read_bytes(),
                                headers={"Content-Type": "application/octet-stream"}, timeout=60)  # fmt: skip
            assert sent.status_code == 201, sent.text
        if whole:
            raw = images.blob(self.layout, self.root).read_bytes()
            sent = requests.put(f"{url}/v2/{repository}/manifests/v1", data=raw, headers={"Content-Type": images.MANIFEST},
                                timeout=30)  # fmt: skip
            assert sent.status_code == 201, sent.text

    def on(self, url: str, repository: str) -> bool:
        """Return True if a registry has every byte of the image."""
        named = requests.get(f"{url}/v2/{repository}/manifests/v1", headers={"Accept": images.MANIFEST}, timeout=30)
        layer = requests.get(f"{url}/v2/{repository}/blobs/{self.layer}", timeout=60)
        return _is(named.content, self.root) and _is(layer.content, self.layer)


@frozen
class Outcome:
    """The result of a transfer."""

    why: str
    """The client's last error line; "" on success."""
    whole: bool
    """True if all content arrived unchanged."""
    moved: int
    """Bytes of layer bodies that passed the proxy."""
    seconds: float

    @property
    def survived(self) -> bool:
        """True if the client reported success and the content is correct."""
        return not self.why and self.whole

    @property
    def lied(self) -> bool:
        """True if the client reported success and the content is wrong."""
        return not self.why and not self.whole


class Failed(Exception):
    """A client failed; the message is its output."""


def pull(client: str, image: Image, proxy: Proxy, cell: Cell, home: Path) -> Outcome:
    """Pull an image with a fault on the way."""
    repository = _fresh()
    image.put(proxy.upstream, repository, whole=True)
    out = home / "out"
    shutil.rmtree(out, ignore_errors=True)

    def there() -> bool:
        try:
            return _is(images.blob(out, image.layer).read_bytes(), image.layer)
        except FileNotFoundError:
            return False

    return _run(
        proxy, cell, image, lambda: _transfer(client, f"{proxy.host}/{repository}:v1", f"oci:{out}:v1", home), there
    )


def push(client: str, image: Image, proxy: Proxy, cell: Cell, home: Path) -> Outcome:
    """Push an image with a fault on the way, to a registry that has the config."""
    repository = _fresh()
    image.put(proxy.upstream, repository, whole=False)
    target = f"{proxy.host}/{repository}:v1"
    return _run(proxy, cell, image, lambda: _transfer(client, f"oci:{image.layout}:v1", target, home),
                lambda: image.on(proxy.upstream, repository))  # fmt: skip


def moved(proxy: Proxy, layer: str) -> int:
    """Return the bytes of layer bodies that passed, in both directions."""
    _settle(proxy)
    sent = sum(p.sent for p in proxy.passed if p.request.method == "GET" and layer in p.request.path)
    return sent + sum(p.received for p in proxy.passed if "/blobs/uploads/" in p.request.path)


_numbers = itertools.count(1)


def _fresh() -> str:
    return f"matrix/r{next(_numbers)}"


def _run(proxy: Proxy, cell: Cell, image: Image, act: Callable[[], None], whole: Callable[[], bool]) -> Outcome:
    proxy.faults.clear()
    proxy.passed.clear()
    proxy.requests.clear()
    proxy.before[:] = [_without_mount]
    cell.install(proxy, image.layer)
    begun, why = time.monotonic(), ""
    try:
        act()
    except (Failed, OcikitError) as error:
        why = f"{type(error).__name__}: {error}" if isinstance(error, OcikitError) else str(error)
    seconds = time.monotonic() - begun
    proxy.before.clear()
    return Outcome(why, whole(), moved(proxy, image.layer), seconds)


def _settle(proxy: Proxy) -> None:
    """Wait until the proxy has sent its remaining bytes."""
    until = time.monotonic() + WAITS + 1
    while len(proxy.passed) < len(proxy.requests) and time.monotonic() < until:
        time.sleep(0.01)


def _is(content: bytes, digest: str) -> bool:
    return f"sha256:{hashlib.sha256(content).hexdigest()}" == digest


def _transfer(client: str, source: str, target: str, home: Path) -> None:
    """Copy between a layout, oci:FOLDER:TAG, and a registry.

    Raises:
        Failed: A client failed.
        OcikitError: ocikit failed.
    """
    pushing = source.startswith("oci:")
    here, there = source.removeprefix("oci:"), target.removeprefix("oci:")
    folder = (here if pushing else there).rpartition(":")[0]
    match client:
        case "ocikit":
            network = Network(read_timeout=READ_TIMEOUT)
            with ocikit.Session(
                credentials=ANONYMOUS, cache=home / "cache", network=network, progress=False
            ) as session:
                session.copy(source, target)
            return
        case "oras":
            words = ["cp", *(("--from-oci-layout", "--to-plain-http") if pushing else ("--from-plain-http", "--to-oci-layout")),
                     here, there]  # fmt: skip
        case "crane" if pushing:
            words = ["push", "--insecure", folder, there]
        case "crane":
            words = ["pull", "--insecure", "--format", "oci", here, folder]
        case "skopeo":
            side = "dest" if pushing else "src"
            ends = (source, f"docker://{target}") if pushing else (f"docker://{source}", target)
            words = ["--insecure-policy", "copy", "--preserve-digests", f"--{side}-tls-verify=false", *ends]
        case _:
            host = (there if pushing else here).partition("/")[0]
            ends = (f"ocidir://{here}", there) if pushing else (here, f"ocidir://{there}")
            words = ["--host", f"reg={host},tls=disabled", "image", "copy", *ends]
    try:
        done = peers.run(client, *words, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no end after {PATIENCE} s") from error
    if done.returncode:
        raise Failed((done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2][-300:])
