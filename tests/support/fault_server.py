"""A registry that misbehaves on request, over real sockets, and remembers what it was sent.

    with FaultServer() as server:
        digest = server.blob("a/b", content)
        server.on("GET", r"/v2/.*/blobs/.*", cut=12345)         # once: the connection ends after 12345 bytes of body
        server.on("GET", r"/v2/.*/tags/list", status=429, headers={"Retry-After": "1"})
        ...
        assert [r.method for r in server.requests] == ["GET", "GET"]

A second instance is another host: every origin has its own port.
"""

import datetime
import gzip as gzip_module
import ipaddress
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.small_registry import Answer, Request, SmallRegistry, error

__all__ = ["Answer", "Fault", "FaultServer", "Handler", "Listener", "Request", "Script", "certificate", "error"]


@define(kw_only=True)
class Fault:
    """What goes wrong, and how often; see `FaultServer.on`."""

    method: str
    path: str
    times: int | None = 1
    fired: int = 0
    when: Callable[[Request], bool] | None = None
    status: int | None = None
    headers: Mapping[str, Any] = field(factory=dict)
    without: tuple[str, ...] = ()
    body: bytes | None = None
    change: Callable[[Request, Answer], Answer | None] | None = None
    cut: int | None = None
    cut_request: int | None = None
    drop: str = ""
    reset: bool = False
    stall: float = 0.0
    delay: float = 0.0
    length: int | None = None
    chunked: bool = False
    gzip: bool = False
    throttle: float = 0.0

    def suits(self, request: Request) -> bool:
        named = re.fullmatch(self.method, request.method) and re.fullmatch(self.path, request.path)
        return bool(self.times != 0 and named and (self.when is None or self.when(request)))

    def fire(self) -> None:
        self.fired += 1
        self.times = None if self.times is None else self.times - 1


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@define(eq=False, slots=False)
class Script:
    """A server on a free loopback port: what shall go wrong, and what came in. Subclasses have `listen`."""

    #: Called before anything else; an Answer from it is sent, such as a 401
    guard: Callable[[Request], Answer | None] | None = field(default=None, init=False, repr=False)

    requests: list[Request] = field(factory=list, init=False, repr=False)
    faults: list[Fault] = field(factory=list, init=False, repr=False)
    _lock: threading.RLock = field(factory=threading.RLock, init=False, repr=False)
    _server: ThreadingHTTPServer = field(init=False, repr=False)

    def listen(self) -> ThreadingHTTPServer:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._server = self.listen()
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def on(self, method: str, path: str, **fault: Any) -> Fault:
        """Let the next request that suits go wrong; what was said last counts first.

        Args:
            method, path: regular expressions for all of it; the path without the query.
            times: how many requests; None for all.
            when: a further condition on the request.
            status: answers this instead of asking the registry, with `headers` and `body`.
            headers, without, body: else they alter the registry's answer. `change` is called with request and answer.
            cut: bytes of the answer's body after which the connection ends; with `stall`, after that many seconds.
            cut_request: bytes of the request's body that are read, or passed on, before the connection ends.
            drop: "before" ends the connection instead of doing anything, "after" instead of answering.
            reset: ends connections with a reset instead of a clean end.
            delay: seconds before the answer. throttle: bytes a second, of `tests.resilience.proxy` only.
            length: the Content-Length to claim. chunked, gzip: how the body travels.
        """
        made = Fault(method=method, path=path, **fault)
        self.faults.insert(0, made)
        return made

    def seen(self, method: str = ".*", path: str = ".*") -> list[Request]:
        """The requests that came, by regular expressions for method and path."""
        return [r for r in self.requests if re.fullmatch(method, r.method) and re.fullmatch(path, r.path)]

    def pick(self, request: Request) -> Fault:
        """The fault for a request, counted; one that does nothing if there is none. The request is remembered."""
        with self._lock:
            self.requests.append(request)
            fault = next((f for f in self.faults if f.suits(request)), None)
            if fault is None:
                return Fault(method="", path="")
            fault.fire()
            return fault


@define(eq=False)
class FaultServer(Script, SmallRegistry):
    """Runs on a free loopback port; a context manager. Fields, the registry's too, may be changed while it runs."""

    #: Certificate and key: TLS, and a 400 as Go's for plain HTTP; `client_ca` asks the client for a certificate
    tls: tuple[Path, Path] | None = None
    tls_words: bool = True  # False hangs up instead, as distribution's does not
    client_ca: Path | None = None

    connections: int = field(default=0, init=False)

    def listen(self) -> ThreadingHTTPServer:
        listener = _Listener(("127.0.0.1", 0), _handler(self))
        listener.fault_server = self
        return listener

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def _answer(self, request: Request) -> tuple[Answer | None, Fault]:
        fault = self.pick(request)
        time.sleep(fault.delay)
        if fault.drop == "before":
            return None, fault
        if fault.status is not None:
            answer = Answer(fault.status, dict(fault.headers), fault.body or b"")
        else:
            with self._lock:
                answer = (self.guard and self.guard(request)) or self.answer(request)
            answer.headers = {k: v for k, v in answer.headers.items() if k not in fault.without} | dict(fault.headers)
            answer.body = answer.body if fault.body is None else fault.body
        if fault.change is not None:
            answer = fault.change(request, answer) or answer
        return (None if fault.drop == "after" else answer), fault


class _Listener(Listener):
    fault_server: FaultServer

    def finish_request(self, request, client_address):
        server = self.fault_server
        server.connections += 1
        with suppress(OSError):
            if server.tls:
                if request.recv(1, socket.MSG_PEEK) != b"\x16":  # of a TLS handshake
                    words = b"Client sent an HTTP request to an HTTPS server.\n"
                    request.recv(65536)
                    if server.tls_words:
                        request.sendall(b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\n" + words)
                    return
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*server.tls)
                if server.client_ca:
                    context.load_verify_locations(server.client_ca)
                    context.verify_mode = ssl.CERT_REQUIRED
                with context.wrap_socket(request, server_side=True) as protected:
                    super().finish_request(protected, client_address)
                return
            super().finish_request(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """How a connection is spoken, and how it goes wrong; subclasses have `serve`."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True

    def serve(self) -> None:
        raise NotImplementedError

    def send_head(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            for one in value if isinstance(value, list) else [value]:
                self.send_header(name, one)

    def send_answer(self, answer: Answer, fault: Fault) -> None:
        body = answer.body
        self.send_head(answer)
        if fault.gzip:
            body = gzip_module.compress(body)
            self.send_header("Content-Encoding", "gzip")
        if fault.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            pieces = [body[i : i + 1000] for i in range(0, len(body), 1000)]
            body = b"".join(f"{len(p):x}\r\n".encode() + p + b"\r\n" for p in pieces) + b"0\r\n\r\n"
        elif not any(name.lower() == "content-length" for name in answer.headers) and answer.status != 204:
            self.send_header("Content-Length", str(len(body) if fault.length is None else fault.length))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if fault.cut is None else body[: fault.cut])
        if fault.cut is not None:
            self.wfile.flush()
            time.sleep(fault.stall)
            self.end(fault.reset)

    def end(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        self.serve()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_CONNECT = _serve

    def log_message(self, *_: object) -> None:
        """Tests read `requests`."""


def _handler(server: FaultServer) -> type[Handler]:
    class FaultHandler(Handler):
        def serve(self) -> None:
            early = next((f for f in server.faults if f.cut_request is not None and f.suits(
                Request(self.command, self.path, self.headers, b""))), None)  # fmt: skip
            if early is not None:
                early.fire()
                server.requests.append(
                    Request(self.command, self.path, self.headers, self.rfile.read(early.cut_request))
                )
                return self.end(early.reset)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if len(body) < int(self.headers.get("Content-Length") or 0):
                return self.end(reset=False)  # the client broke off
            answer, fault = server._answer(Request(self.command, self.path, self.headers, body))
            if answer is None:
                return self.end(fault.reset)
            with suppress(ConnectionError, ssl.SSLError):
                self.send_answer(answer, fault)

    return FaultHandler


def certificate(folder: Path, name: str = "server") -> tuple[Path, Path]:
    """A certificate for localhost and registry.example that vouches for itself, and its key: two PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    now, subject = datetime.datetime.now(datetime.UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = [
        x509.DNSName("localhost"),
        x509.DNSName("registry.example"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
    made = made.not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    # Python 3.13 verifies strictly
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    signs = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
                           "encipher_only", "decipher_only"), False)  # fmt: skip
    made = made.add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, **signs), critical=True)
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    paths[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(*plain))
    return paths
