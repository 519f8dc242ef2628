"""The whole client over a socket."""

import contextlib
import itertools
import random
import socket
import threading
import zlib

from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.config.network import Network
from ocikit.remote.http.transport import Transport
from ocikit.remote.registry import Registry
from ocikit.spec.descriptor import Descriptor

from tests.fuzz.archives import LEAF
from tests.fuzz.documents import INDEX, MANIFEST
from tests.fuzz.headers import ANSWER_WORDS, an_answer
from tests.fuzz.target import INDEX_TYPE, LAYER_TYPE, MANIFEST_TYPE, SHA, TARGETS, as_json, target, typed


class _Parrot(threading.Thread):
    """A server that sends the same response to every client and closes the connection."""

    def __init__(self, said: bytes) -> None:
        super().__init__(daemon=True)
        self._said = said
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with contextlib.suppress(OSError), connection:
                    connection.settimeout(2)
                    connection.recv(1 << 16)
                    connection.sendall(self._said.replace(b"HOST", self.host.encode()))
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(0.05)
                    while connection.recv(1 << 16):  # otherwise a reset could discard the response
                        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.join(5)


@target(
    *TARGETS["answer"].seeds,
    an_answer('WWW-Authenticate: Bearer realm="http://HOST/token",service="x"', '{"token":"t"}', "401 Unauthorized"),
    an_answer("Location: http://HOST/v2/elsewhere", status="307 Temporary Redirect"),
    an_answer(f"Content-Type: {MANIFEST_TYPE}", as_json(MANIFEST)),
    an_answer(f"Content-Type: {INDEX_TYPE}\nOCI-Filters-Applied: artifactType", as_json(INDEX)),
    an_answer("Content-Type: application/json", '{"repositories":["a/b",5],"tags":["v1"]}'),
    an_answer("Transfer-Encoding: chunked", "").replace(b"Content-Length: 0\r\n", b"") + b"5;x=y\r\nhello\r\n0\r\n\r\n",
    words=(*ANSWER_WORDS, b"HOST", b"307", b"401", b"404", b"201", b"202", b"206", b"416", b"HTTP/1.0", b"5\r\n", b"ffffffffffffffffff\r\n"),
    examples=12,
)  # fmt: skip
def wire(data: bytes) -> None:
    """Call some verbs of a repository for any response."""
    parrot = _Parrot(data)
    network = Network(retries=0, max_wait=0.0, read_timeout=1.0, connect_timeout=1.0, total_timeout=0.3)
    transport = Transport(parrot.host, network=network, keychain=Keychain(environ={}))
    try:
        registry = Registry(transport)
        place = registry.repository("team/data")
        blob = Descriptor.of(b"content", LAYER_TYPE)
        leaf = Descriptor.of(LEAF, MANIFEST_TYPE)
        verbs = (
            registry.ping, lambda: list(itertools.islice(registry.catalog(), 50)), lambda: place.tags(limit=50), lambda: place.resolve("v1"),
            lambda: place.resolve(SHA), lambda: place.fetch(leaf), lambda: place.open(blob).read(), lambda: place.referrers(leaf), lambda: place.exists(blob),
            lambda: place.push_bytes(blob, b"content"), lambda: place.push_bytes(leaf, LEAF), lambda: place.untag("v1"), lambda: place.delete(leaf), place.can_push,
        )  # fmt: skip
        # Not all verbs each time: some wait before they retry
        for verb in random.Random(zlib.crc32(data)).sample(verbs, 4):
            typed(verb)
    finally:
        transport.close()
        parrot.close()
