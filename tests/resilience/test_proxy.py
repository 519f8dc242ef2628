"""The proxy of the fault tests forwards bytes and injects the scripted faults."""

import hashlib
import io

import pytest
import requests
import urllib3
from ocikit.remote.auth.keychain import ANONYMOUS, Keychain
from ocikit.remote.config.network import Network
from ocikit.remote.http.transport import Transport
from ocikit.remote.registry import Registry
from ocikit.spec.descriptor import Descriptor
from ocikit.testing.proxy import SMALL, Proxy

from tests.support import peers
from tests.support.fake_registry import Response
from tests.support.proxy import Scatter

BIG = bytes(range(256)) * 4096 * 5  # 5 MiB: streamed
BLOBS = r"/v2/.*/blobs/sha256:.*"


@pytest.fixture(scope="module")
def upstream():
    with peers.ocikit() as running:
        yield running


@pytest.fixture
def proxy(upstream):
    with Proxy(upstream.url) as running:
        yield running


@pytest.fixture
def repository(proxy, repo):
    transport = Transport(proxy.host, network=Network(), keychain=Keychain(ANONYMOUS, environ={}))
    yield Registry(transport).repository(repo, push=True)
    transport.close()


def pushed(repository, content):
    descriptor = Descriptor.of(content, "application/octet-stream")
    repository.push(descriptor, io.BytesIO(content))
    return descriptor


@pytest.mark.parametrize("content", [b"", b"small", BIG], ids=len)
def test_proxy_passes_bytes_both_ways(proxy, repository, content):
    descriptor = pushed(repository, content)
    with repository.open(descriptor) as stream:
        assert stream.read() == content
    assert sum(p.received for p in proxy.passed) == len(content) == sum(p.sent for p in proxy.passed)
    assert {r.headers["Host"] for r in proxy.requests} == {proxy.host}


def test_proxy_passes_body_of_unknown_length(proxy, repo):
    where = requests.post(f"{proxy.url}/v2/{repo}/blobs/uploads/", timeout=10).headers["Location"]
    answer = requests.patch(
        requests.compat.urljoin(proxy.url, where), data=iter([BIG[:70000], BIG[70000:]]), timeout=10
    )
    assert (answer.status_code, answer.headers["Range"]) == (202, f"0-{len(BIG) - 1}")


@pytest.mark.parametrize("cut", [0, 1, 100_000, len(BIG) - 1])
def test_response_is_cut_at_exact_byte(proxy, repository, repo, cut):
    descriptor = pushed(repository, BIG)
    proxy.on("GET", BLOBS, cut=cut)
    answer = requests.get(f"{proxy.url}/v2/{repo}/blobs/{descriptor.digest}", stream=True, timeout=10)
    assert int(answer.headers["Content-Length"]) == len(BIG)
    with pytest.raises(urllib3.exceptions.ProtocolError):
        answer.raw.read()
    assert proxy.passed[-1].sent == cut
    with repository.open(descriptor) as stream:
        assert hashlib.sha256(stream.read()).hexdigest() == descriptor.digest.encoded


@pytest.mark.parametrize("size", [SMALL // 2, len(BIG)])
def test_request_is_cut_at_exact_byte(proxy, repo, size):
    where = requests.post(f"{proxy.url}/v2/{repo}/blobs/uploads/", timeout=10).headers["Location"]
    proxy.on("PATCH", ".*", cut_request=1000)
    with pytest.raises(requests.ConnectionError):
        requests.patch(requests.compat.urljoin(proxy.url, where), data=BIG[:size], timeout=10)
    assert proxy.passed[-1].status == 0
    assert proxy.passed[-1].received == (1000 if size > SMALL else size)


def test_hooks_see_and_change_requests_and_responses(proxy, repo):
    proxy.before.append(lambda r: Response(418, {}, b"tea") if r.path == "/tea" else None)
    proxy.after.append(lambda _, answer: answer.headers.update(Warning="brewed"))
    answer = requests.get(f"{proxy.url}/tea", timeout=10)
    assert (answer.status_code, answer.content, answer.headers["Warning"]) == (418, b"tea", "brewed")
    assert requests.get(f"{proxy.url}/v2/", timeout=10).headers["Warning"] == "brewed"


def test_fault_counts_its_uses(proxy):
    fault = proxy.on("GET", "/v2/", status=503, times=2)
    assert [requests.get(f"{proxy.url}/v2/", timeout=10).status_code for _ in range(3)] == [503, 503, 200]
    assert fault.fired == 2


def test_equal_seed_gives_equal_faults(upstream):
    seen = []
    for _ in range(2):
        with Scatter(upstream.url, seed=3, rate=0.5) as proxy:
            for _ in range(20):
                try:
                    requests.get(f"{proxy.url}/v2/", timeout=10)
                except requests.ConnectionError:
                    continue
            seen.append(dict(proxy.counts))
    assert seen[0] == seen[1] != {}
