"""Total timeouts, custom adapters, and warnings."""

import logging
import time

import ocikit
import pytest
import requests.adapters
from ocikit.errors import TimedOut
from ocikit.remote.config.network import Network
from ocikit.remote.http.transport import Transport
from ocikit.remote.registry import Registry
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.platform import Platform
from ocikit.store.memory import MemoryStore
from ocikit.transfer.plan import plan

from tests.support.fake_registry import FakeRegistry


@pytest.fixture
def server():
    with FakeRegistry() as running:
        yield running


def repository(server, **settings):
    return Registry(Transport(server.host, network=Network(**settings))).repository("t/d")


@pytest.mark.timeout(60)
def test_retries_end_at_the_total_timeout(server):
    server.on("GET", "/v2/", status=503, times=None)
    registry = Registry(Transport(server.host, network=Network(total_timeout=0.3, retries=50)))
    answer = registry.ping()
    assert not answer
    assert "in total" in answer.problem


def test_slow_blob_ends_at_total_timeout(server):
    content = bytes(1_000_000)
    descriptor = Descriptor.of(content, "application/octet-stream")
    server.blob("t/d", content)
    server.on("GET", ".*/blobs/.*", cut=100_000, times=None)
    with repository(server, total_timeout=0.2).open(descriptor) as stream, pytest.raises(TimedOut, match="in total"):
        while stream.read(1000):
            time.sleep(0.001)


def test_custom_adapter_carries_requests(server):
    seen = []

    class Watching(requests.adapters.HTTPAdapter):
        def send(self, request, **options):
            seen.append((request.method, request.url))
            return super().send(request, **options)

    origins = []

    def adapter(origin):
        origins.append(origin)
        return Watching()

    registry = Registry(Transport(server.host, network=Network(adapter=adapter)))
    assert registry.ping()
    assert seen == [("GET", f"http://{server.host}/v2/")] and origins == [f"http://{server.host}"]


def test_copy_of_one_platform_warns_of_new_digest(caplog):
    store = MemoryStore()
    store.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    manifest = Manifest(config=EMPTY_DESCRIPTOR, layers=(EMPTY_DESCRIPTOR,))
    store.push_bytes(manifest.descriptor, manifest.raw)
    listed = ocikit.Descriptor(
        media_type=manifest.media_type,
        digest=manifest.digest,
        size=manifest.size,
        platform=Platform.parse("linux/amd64"),
    )
    index = Index(manifests=(listed,))
    store.push_bytes(index.descriptor, index.raw, tag="v1")
    with caplog.at_level(logging.WARNING, "ocikit"):
        assert plan(store, "v1", MemoryStore(), platform="linux/amd64").root.digest == manifest.digest
    assert manifest.digest.short in caplog.text and index.digest.short in caplog.text
