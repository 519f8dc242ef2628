"""A fake registry over real sockets, with scripted faults, that records its requests.

    with FakeRegistry() as server:
        digest = server.blob("a/b", content)
        server.on("GET", r"/v2/.*/blobs/.*", cut=12345)         # once: the connection ends after 12345 bytes of body
        server.on("GET", r"/v2/.*/tags/list", status=429, headers={"Retry-After": "1"})
        ...
        assert [r.method for r in server.requests] == ["GET", "GET"]

The registry follows the specification and nothing else, so that a test names what is special about its case. A second
instance is another host: every origin has its own port. `ocikit.testing.proxy` puts the same faults in front of a
real registry.
"""

import datetime
import hashlib
import ipaddress
import itertools
import json
import re
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ocikit.testing.faults import Fault, Handler, Listener, Script
from ocikit.testing.messages import Request, Response, error_response

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@define(eq=False)
class RegistryContent:
    """Blobs and manifests by repository and digest, tags by repository and name, uploads by session."""

    referrers: bool = True
    tag_delete: bool = True
    multi_tags: bool = False
    etags: bool = False
    conditions: bool = True  # whether If-Match and If-None-Match of a PUT are honoured
    post_blobs: bool = False
    page: int = 0  # maximum number of names on a page; 0 means unlimited

    blobs: dict[tuple[str, str], bytes] = field(factory=dict, init=False, repr=False)
    manifests: dict[tuple[str, str], tuple[bytes, str]] = field(factory=dict, init=False, repr=False)
    tags: dict[tuple[str, str], str] = field(factory=dict, init=False, repr=False)
    uploads: dict[str, bytearray] = field(factory=dict, init=False, repr=False)
    _sessions: Any = field(factory=lambda: itertools.count(1), init=False, repr=False)

    def blob(self, name: str, content: bytes, algorithm: str = "sha256") -> str:
        digest = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
        self.blobs[name, digest] = content
        return digest

    def manifest(self, name: str, content: bytes | dict, *tags: str, media_type: str = MANIFEST) -> str:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        self.manifests[name, digest] = raw, media_type
        self.tags |= {(name, tag): digest for tag in tags}
        return digest

    def answer(self, r: Request) -> Response:
        if r.path == "/v2/":
            return Response(200, {"Docker-Distribution-API-Version": "registry/2.0"}, b"{}")
        if r.path == "/v2/_catalog":
            return self._page(r, sorted({name for name, _ in [*self.manifests, *self.blobs]}), "repositories")
        for kind in ("blobs/uploads", "blobs", "manifests", "tags", "referrers"):
            if match := re.fullmatch(rf"/v2/(.+)/{kind}/([^/]*)", r.path):
                return getattr(self, "_" + kind.rpartition("/")[2])(r, *match.groups())
        return error_response(404, "NOT_FOUND")

    def _blobs(self, r: Request, name: str, digest: str) -> Response:
        content = self.blobs.get((name, digest))
        if content is None:
            return error_response(404, "BLOB_UNKNOWN")
        if r.method == "DELETE":
            del self.blobs[name, digest]
            return Response(202)
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", r.headers.get("Range", ""))
        if wanted is None:
            return Response(200, headers, content)
        start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        if start >= len(content):
            return Response(416, {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return Response(206, headers, content[start : end + 1])

    def _uploads(self, r: Request, name: str, session: str) -> Response:
        digest = next(iter(r.query.get("digest", ())), "")
        if r.method == "POST":
            mount, source = (next(iter(r.query.get(key, ())), "") for key in ("mount", "from"))
            if (source, mount) in self.blobs:
                self.blobs[name, mount] = self.blobs[source, mount]
                return Response(201, {"Location": f"/v2/{name}/blobs/{mount}", "Docker-Content-Digest": mount})
            if digest and self.post_blobs:
                if digest != self._digest(r.body, digest):
                    return error_response(400, "DIGEST_INVALID")
                self.blobs[name, digest] = r.body
                return Response(201, {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})
            session = f"s{next(self._sessions)}"
            self.uploads[session] = bytearray()
        if session not in self.uploads:
            return error_response(404, "BLOB_UPLOAD_UNKNOWN")
        taken = self.uploads[session]
        where = {"Location": f"/v2/{name}/blobs/uploads/{session}?_state=a%2Bb%3D&n={len(taken)}"}
        if r.method == "POST":
            return Response(202, where)
        at = {"Range": f"0-{max(0, len(taken) - 1)}"}
        if r.method == "GET":
            return Response(204, where | at)
        if r.method == "DELETE":
            del self.uploads[session]
            return Response(204)
        span = re.fullmatch(r"(\d+)-(\d+)", r.headers.get("Content-Range", ""))
        if span and (int(span[1]) != len(taken) or int(span[2]) - int(span[1]) + 1 != len(r.body)):
            return Response(416, where | at)
        taken += r.body
        if r.method == "PATCH":
            where["Location"] = where["Location"].rpartition("=")[0] + f"={len(taken)}"
            return Response(202, where | {"Range": f"0-{max(0, len(taken) - 1)}"})
        del self.uploads[session]
        if digest != self._digest(bytes(taken), digest):
            return error_response(400, "DIGEST_INVALID")
        self.blobs[name, digest] = bytes(taken)
        return Response(201, {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})

    def _manifests(self, r: Request, name: str, target: str) -> Response:
        digest = target if ":" in target else self.tags.get((name, target), "")
        if r.method == "PUT":
            digest = self._digest(r.body, target if ":" in target else "sha256:")
            if ":" in target and digest != target:
                return error_response(400, "DIGEST_INVALID")
            old = self.tags.get((name, target))
            failed = r.headers.get("If-Match", f'"{old}"') != f'"{old}"' or ("If-None-Match" in r.headers and old)
            if self.conditions and failed:
                return error_response(412, "PRECONDITION_FAILED")
            self.manifests[name, digest] = r.body, r.headers.get("Content-Type", "")
            extra = r.query.get("tag", []) if self.multi_tags else []
            self.tags |= {(name, tag): digest for tag in [*extra, *([target] if ":" not in target else [])]}
            headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
            headers |= {"OCI-Tag": ", ".join(extra)} if extra else {}
            subject = json.loads(r.body).get("subject")
            return Response(201, headers | ({"OCI-Subject": subject["digest"]} if subject and self.referrers else {}))
        if (name, digest) not in self.manifests:
            known = any(n == name for n, _ in [*self.manifests, *self.blobs])
            return error_response(404, "MANIFEST_UNKNOWN" if known else "NAME_UNKNOWN")
        if r.method == "DELETE":
            if ":" not in target:
                if not self.tag_delete:
                    return error_response(400, "DIGEST_INVALID")
                del self.tags[name, target]
                return Response(202)
            del self.manifests[name, digest]
            self.tags = {key: d for key, d in self.tags.items() if (key[0], d) != (name, digest)}
            return Response(202)
        raw, media_type = self.manifests[name, digest]
        headers = {"Docker-Content-Digest": digest, "Content-Type": media_type}
        return Response(200, headers | ({"ETag": f'"{digest}"'} if self.etags else {}), raw)

    def _tags(self, r: Request, name: str, _: str) -> Response:
        if not any(n == name for n, _ in [*self.manifests, *self.blobs]):
            return error_response(404, "NAME_UNKNOWN")
        return self._page(r, sorted(tag for n, tag in self.tags if n == name), "tags", name=name)

    def _referrers(self, r: Request, name: str, digest: str) -> Response:
        if not self.referrers:
            return error_response(404, "NOT_FOUND")
        found = []
        for (n, d), (raw, media_type) in self.manifests.items():
            document = json.loads(raw)
            if n == name and (document.get("subject") or {}).get("digest") == digest:
                kind = document.get("artifactType") or document.get("config", {}).get("mediaType")
                found.append({"mediaType": media_type, "digest": d, "size": len(raw), "artifactType": kind}
                             | ({"annotations": a} if (a := document.get("annotations")) else {}))  # fmt: skip
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": found}).encode()
        return Response(200, {"Content-Type": INDEX}, body)

    def _page(self, r: Request, names: list[str], key: str, **rest: Any) -> Response:
        last, n = (next(iter(r.query.get(k, ())), "") for k in ("last", "n"))
        names = [name for name in names if name > last]
        size = min(filter(None, (int(n or 0), self.page)), default=len(names))
        more = {"Link": f'<{r.path}?n={size}&last={names[size - 1]}>; rel="next"'} if len(names) > size else {}
        headers = {"Content-Type": "application/json"} | more
        return Response(200, headers, json.dumps(rest | {key: names[:size]}).encode())

    def _digest(self, content: bytes, like: str) -> str:
        algorithm = like.partition(":")[0]
        return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


@define(eq=False)
class FakeRegistry(Script, RegistryContent):
    """The fake registry on a free loopback port, a context manager. Its fields may change while it runs."""

    #: Certificate and key for TLS. Plain HTTP gets a 400 as from Go. `client_ca` requires a client certificate
    tls: tuple[Path, Path] | None = None
    tls_words: bool = True  # False closes the connection instead; distribution responds
    client_ca: Path | None = None

    connections: int = field(default=0, init=False)

    def listen(self) -> Listener:
        listener = _Listener(("127.0.0.1", 0), _handler(self))
        listener.fault_server = self
        return listener

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def _answer(self, request: Request) -> tuple[Response | None, Fault]:
        fault = self.pick(request)
        self._server.closing.wait(fault.delay)
        if fault.drop == "before":
            return None, fault
        if fault.status is not None:
            answer = Response(fault.status, dict(fault.headers), fault.body or b"")
        else:
            with self._lock:
                answer = (self.guard and self.guard(request)) or self.answer(request)
            answer.headers = {k: v for k, v in answer.headers.items() if k not in fault.without} | dict(fault.headers)
            answer.body = answer.body if fault.body is None else fault.body
        if fault.change is not None:
            answer = fault.change(request, answer) or answer
        return (None if fault.drop == "after" else answer), fault


class _Listener(Listener):
    fault_server: FakeRegistry

    def finish_request(self, request, client_address):
        server = self.fault_server
        server.connections += 1
        with suppress(OSError):
            if server.tls:
                if request.recv(1, socket.MSG_PEEK) != b"\x16":  # first byte of a TLS handshake
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


def _handler(server: FakeRegistry) -> type[Handler]:
    class FaultHandler(Handler):
        def serve(self) -> None:
            early = next((f for f in server.faults if f.cut_request is not None and f.suits(
                Request(self.command, self.path, self.headers, b""))), None)  # fmt: skip
            if early is not None:
                early.claim(Request(self.command, self.path, self.headers, b""))
                server.requests.append(
                    Request(self.command, self.path, self.headers, self.rfile.read(early.cut_request))
                )
                return self.end(reset=early.reset)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if len(body) < int(self.headers.get("Content-Length") or 0):
                return self.end(reset=False)  # the client closed the connection
            answer, fault = server._answer(Request(self.command, self.path, self.headers, body))
            if answer is None:
                return self.end(reset=fault.reset)
            with suppress(ConnectionError, ssl.SSLError):
                self.send_answer(answer, fault)

    return FaultHandler


def certificate(folder: Path, name: str = "server") -> tuple[Path, Path]:
    """Write a self-signed certificate for localhost and registry.example, and its key, as PEM files."""
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
