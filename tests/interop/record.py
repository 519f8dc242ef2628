"""Record the cassettes from real registries on this machine: python -m tests.interop.record [KIND | SCENARIO]..."""

import contextlib
import copy
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import urllib3.util.connection
import vcr
from vcr.request import Request

from tests.interop.scenarios import ADA, CELLS, KINDS, REGISTRY, SCENARIOS, TOKENS, Place
from tests.support import peers
from tests.support.token_server import TokenServer

FOLDER = Path(__file__).resolve().parents[2] / "cassettes"
LIMIT = 64 << 10  # bytes of a cassette

#: Response headers that clients read. Other headers are noise and may contain secrets.
RESPONSE_HEADERS = {
    "content-length", "content-range", "content-type", "docker-content-digest", "docker-distribution-api-version",
    "etag", "link", "location", "oci-chunk-min-length", "oci-filters-applied", "oci-subject", "oci-tag", "range",
    "retry-after", "warning", "www-authenticate",
}  # fmt: skip
REQUEST_HEADERS = {"accept", "authorization", "content-length", "content-range", "content-type", "if-match", "range"}


def cassette(kind: str, scenario: str) -> Path:
    return FOLDER / kind / f"{scenario}.yaml"


def recorder(mode: str) -> vcr.VCR:
    """Return a recorder ("all") or player ("none") that stores no secret."""
    return vcr.VCR(
        record_mode=mode,
        match_on=["method", "scheme", "host", "port", "path", "query"],
        before_record_request=scrubbed_request,
        before_record_response=scrubbed_response,
    )


def scrubbed_request(request: Any) -> Any:
    """Remove request headers without meaning, and the secret part of Authorization."""
    headers = {
        name: f"{value.partition(' ')[0]} scrubbed" if name.lower() == "authorization" else value
        for name, value in request.headers.items()
        if name.lower() in REQUEST_HEADERS
    }
    body = request.body.read() if hasattr(request.body, "read") else request.body
    return Request(request.method, request.uri, body, headers)


def scrubbed_response(response: dict[str, Any]) -> dict[str, Any]:
    """Remove response headers that clients ignore, and tokens."""
    clean = copy.deepcopy(response)
    clean["headers"] = {
        name: values for name, values in response["headers"].items() if name.lower() in RESPONSE_HEADERS
    }
    with contextlib.suppress(ValueError):
        body = json.loads(clean["body"]["string"])
        if isinstance(body, dict) and {"token", "access_token", "refresh_token"} & body.keys():
            for key in {"token", "access_token", "refresh_token"} & body.keys():
                body[key] = "scrubbed"
            clean["body"]["string"] = json.dumps(body).encode()
            for name in clean["headers"]:
                if name.lower() == "content-length":
                    clean["headers"][name] = [str(len(clean["body"]["string"]))]
    return clean


class NamedTokenServer(TokenServer):
    """A registry under its name in cassettes."""

    @property
    def realm(self) -> str:
        return f"http://{TOKENS}/token"


@contextlib.contextmanager
def running(kind: str, access: str) -> Iterator[dict[str, str]]:
    """Start a registry and yield the addresses for the names in cassettes."""
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {}
        addresses = {}
        if access == "htpasswd":
            options["htpasswd"] = ADA
        if access == "token":
            options["token"] = stack.enter_context(NamedTokenServer(users=dict([ADA]), issued_at=False))
            addresses[TOKENS] = options["token"].host
        addresses[REGISTRY] = stack.enter_context(peers.KINDS[kind](**options)).host
        yield addresses


@contextlib.contextmanager
def named(addresses: dict[str, str]) -> Iterator[None]:
    """Route connections by name to addresses, so that URLs are equal in each recording."""
    original = urllib3.util.connection.create_connection

    def create_connection(address: tuple[str, int], *args: Any, **kwargs: Any) -> Any:
        host, _, port = addresses[address[0]].rpartition(":")
        return original((host, int(port)), *args, **kwargs)

    urllib3.util.connection.create_connection = create_connection
    try:
        yield
    finally:
        urllib3.util.connection.create_connection = original


def record(kind: str, name: str, addresses: dict[str, str]) -> None:
    path = cassette(kind, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        _record(path, kind, name, addresses)
    except BaseException:
        path.unlink(missing_ok=True)  # a failed recording
        raise
    print(f"{path.relative_to(FOLDER.parent)}  {path.stat().st_size} bytes")


def _record(path: Path, kind: str, name: str, addresses: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder, named(addresses):
        with recorder("all").use_cassette(str(path)):
            SCENARIOS[name].run(Place(kind, Path(folder), name.replace("_", "-")))


def main(wanted: list[str]) -> int:
    for kind, accesses in KINDS.items():
        for access in accesses:
            names = [
                name
                for where, name in CELLS
                if where == kind and SCENARIOS[name].access == access and (not wanted or {kind, name} & set(wanted))
            ]
            if names:
                with running(kind, access) as addresses:
                    for name in names:
                        record(kind, name, addresses)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
