"""The session that one-line functions share: connections, tokens, and when it is replaced."""

import base64
import contextlib
import json
import os
import pickle
import subprocess
import sys
import threading
import time

import ocikit
import pytest
from ocikit.client import backends, shared
from ocikit.client.shared import shared_session
from ocikit.remote.http import retry

from tests.support.fake_registry import FakeRegistry, Handler, Response
from tests.support.home import ROOT, moved, write


@pytest.fixture(autouse=True)
def _new_session():
    """Begin and end each test without a session."""
    shared_session.drop()
    yield
    shared_session.drop()


@pytest.fixture
def ref(server, home, session):
    """Return the reference of an artifact with the file a.csv; nothing of it is cached."""
    write(home, {"a.csv": "x\n1\n" * 2000})
    session.push(f"{server.host}/t/d:v1", "a.csv")
    session.close()
    server.requests.clear()
    server.connections = 0
    return f"{server.host}/t/d:v1"


def require(server, user, password):
    """Let the server require Basic authentication."""
    wanted = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"

    def guard(request):
        if request.headers.get("Authorization") == wanted:
            return None
        return Response(401, {"WWW-Authenticate": 'Basic realm="test"'}, b"{}")

    server.guard = guard


def docker_login(folder, host, user, password):
    """Store credentials as `docker login` does."""
    folder.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


def test_one_liners_share_one_connection(server, ref, home):
    ocikit.inspect(ref)
    ocikit.pull(ref)
    ocikit.pull(ref, "folder")
    assert list(ocikit.tags(ref)) == ["v1"]
    write(home, {"b.csv": "x\n2\n"})
    ocikit.push(f"{server.host}/t/e:v1", "b.csv", workers=1)
    ocikit.tag(ref, "v2")
    assert server.connections == 1


def test_cached_pinned_one_liners_send_no_request(server, ref):
    pinned = str(ocikit.pull(ref).reference)
    server.requests.clear()
    ocikit.pull(pinned)
    ocikit.inspect(pinned)
    ocikit.download(pinned, "a.csv")
    with ocikit.open(pinned, "a.csv") as file:
        file.read(10)
    assert server.requests == []


@pytest.mark.parametrize("call", ["pull", "inspect", "download", "open"])
def test_cached_tag_costs_one_head_request(server, ref, call):
    ocikit.pull(ref)
    server.requests.clear()
    if call in ("download", "open"):
        getattr(ocikit, call)(ref, "a.csv")
    else:
        getattr(ocikit, call)(ref)
    assert [request.method for request in server.requests] == ["HEAD"]


def test_threads_share_the_session(server, ref):
    failures = []

    def read():
        try:
            for _ in range(5):
                with ocikit.open(ref, "a.csv") as file:
                    assert file.read() == b"x\n1\n" * 2000
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert failures == []
    assert server.connections <= 16


def test_closed_kept_connection_causes_no_error(server, ref, home, monkeypatch):
    """The server closes a connection 0.2 s after a response, and does not announce it."""
    monkeypatch.setattr(Handler, "timeout", 0.2)
    write(home, {"b.csv": "x\n2\n"})
    for n in range(2):
        ocikit.push(f"{server.host}/t/e:v{n}", "b.csv")
        time.sleep(0.5)
        ocikit.pull(ref)
        time.sleep(0.5)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ".*/manifests/.*"), ("POST", ".*/uploads/"), ("PUT", ".*/uploads/.*"), ("PUT", ".*/manifests/.*")],
)
def test_connection_closed_by_a_request_causes_no_error(server, ref, home, method, path, reset):
    """The server closes a kept connection in the moment in which the client uses it."""
    write(home, {"b.csv": "x\n2\n"})
    ocikit.inspect(ref)
    fault = server.on(method, path, drop="before", reset=reset)
    ocikit.push(f"{server.host}/t/e:v1", "b.csv")
    ocikit.pull(f"{server.host}/t/e:v1")
    assert fault.fired or method == "PUT"  # a blob may be sent with its POST
    assert ocikit.inspect(f"{server.host}/t/e:v1")["b.csv"].read() == b"x\n2\n"


def test_idle_connection_is_replaced(server, ref, monkeypatch):
    ocikit.inspect(ref)
    monkeypatch.setattr(shared, "_IDLE", 0.0)
    ocikit.inspect(ref)
    assert server.connections == 2


def test_session_in_use_is_not_idle(server, ref, monkeypatch):
    monkeypatch.setattr(shared, "_IDLE", 0.0)
    with shared_session.use() as first, shared_session.use() as second:
        assert first is second


def test_dropped_session_stays_open_for_its_calls(server, ref):
    with shared_session.use() as first:
        first.inspect(ref)
        shared_session.drop()
        first.inspect(ref)
        with shared_session.use() as second:
            assert second is not first
        assert server.connections == 1


def test_docker_login_is_used_by_next_call(server, ref, home, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    docker_login(home / "docker", server.host, "ada", "first")
    require(server, "ada", "first")
    ocikit.inspect(ref)
    require(server, "ada", "second")
    docker_login(home / "docker", server.host, "ada", "second")
    server.requests.clear()
    ocikit.inspect(ref)
    assert [request.headers.get("Authorization") is None for request in server.requests] == [True, False]


def test_changed_environment_is_used_by_next_call(server, ref, home, monkeypatch):
    for name in ("first", "second"):
        docker_login(home / name, server.host, "ada", name)
    require(server, "ada", "first")
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "first"))
    ocikit.inspect(ref)
    require(server, "ada", "second")
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "second"))
    assert ocikit.inspect(ref).reference.tag == "v1"


def test_cache_and_offline_follow_the_environment(server, ref, home, monkeypatch):
    ocikit.pull(ref)
    monkeypatch.setenv("OCIKIT_CACHE", str(home / "other"))
    monkeypatch.setenv("OCIKIT_OFFLINE", "1")
    with pytest.raises(ocikit.OfflineError):
        ocikit.pull(ref)
    monkeypatch.delenv("OCIKIT_OFFLINE")
    ocikit.pull(ref)
    assert (home / "other").is_dir()


def test_new_proxy_is_used_by_next_call(server, other, home, monkeypatch):
    monkeypatch.setattr(retry, "backoff", lambda attempt: 0.0)
    for proxy in (server, other):
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        with pytest.raises(ocikit.OcikitError):
            ocikit.inspect("registry.invalid/t/d")
        assert proxy.seen("CONNECT")


def test_login_and_logout_replace_the_session(server, ref):
    require(server, "ada", "secret")
    with pytest.raises(ocikit.Unauthorized):
        ocikit.inspect(ref)
    ocikit.login(server.host, "ada", "secret")
    ocikit.inspect(ref)
    ocikit.logout(server.host)
    with pytest.raises(ocikit.Unauthorized):
        ocikit.inspect(ref)


def test_rejected_call_replaces_the_session(server, ref):
    """The user may log in again with a credential helper, which no file shows."""
    with shared_session.use() as before:
        pass
    server.guard = lambda request: Response(403, {}, b"{}")
    with pytest.raises(ocikit.Denied):
        ocikit.inspect(ref)
    with shared_session.use() as after:
        assert after is not before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_child_uses_its_own_session(server, ref):
    ocikit.inspect(ref)
    with shared_session.use() as parents:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                with shared_session.use() as childs:
                    status = int(childs is parents)
                status += ocikit.inspect(ref).reference.tag != "v1"
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
    assert server.connections == 2
    ocikit.inspect(ref)
    assert server.connections == 2


def test_process_ends_without_open_sockets_or_threads(server, ref):
    code = f"import ocikit, threading; ocikit.inspect({ref!r}); print(threading.active_count())"
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert (run.stdout, run.stderr) == ("1\n", "")


def test_many_hosts_keep_few_connections(home, monkeypatch):
    monkeypatch.setattr(backends, "_HOSTS", 4)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(FakeRegistry()) for _ in range(8)]
        for server in [*servers, servers[-1], servers[0]]:
            ocikit.ping(server.host)
        assert [server.connections for server in servers] == [2, 1, 1, 1, 1, 1, 1, 1]


def test_ten_reads_of_a_file_use_one_connection(server, ref):
    for _ in range(10):
        with ocikit.open(ref, "a.csv") as file:
            assert file.read(10) == b"x\n1\nx\n1\nx\n"
    kinds = moved(server)
    assert (kinds.count("HEAD manifests"), kinds.count("GET manifests")) == (9, 1)


def test_open_of_unknown_tag_costs_one_request_for_the_manifest(server, ref):
    ocikit.download(ref, "a.csv")
    assert moved(server) == ["GET manifests", "GET blobs"]


def test_file_systems_use_the_shared_session(server, ref, home, monkeypatch):
    pytest.importorskip("fsspec")
    ocikit.inspect(ref)
    fs = ocikit.fs()
    assert fs.cat_file(f"{ref}/a.csv") == ocikit.inspect(ref).read("a.csv")
    assert len(fs.ls(ref)) == len(ocikit.inspect(ref).files)
    assert server.connections == 1
    require(server, "ada", "secret")
    docker_login(home / "docker", server.host, "ada", "secret")
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    fs.invalidate_cache()
    assert fs.exists(f"{ref}/a.csv")
    copy = pickle.loads(pickle.dumps(fs))
    assert copy.exists(f"{ref}/a.csv")
