"""Server processes on PostgreSQL and an object store: clients, redirects, outages, the stop, metrics and commands."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import ocikit
import pytest
import requests

from tests.interop import test_interop
from tests.interop.test_interop import flat, reachable
from tests.support import cluster, deployment, images, peers
from tests.support.home import tree, write
from tests.support.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]

#: Programs that pull through redirects. None of them may send its credentials to the object store.
CLIENTS = ("ocikit", "oras", "crane", "skopeo", "regctl")

PASSWORD = "lovelace-and-babbage"


class Recorder(TcpProxy):
    """A proxy before the object store that keeps the heads of requests: presigned URLs name its port."""

    def __init__(self, upstream):
        super().__init__(upstream)
        self.heads = []

    def _used(self, block, answers):
        if not answers:
            self.heads.append(block.decode("latin-1"))
        return super()._used(block, answers)


@pytest.fixture(scope="module")
def recorder(s3_server):
    with Recorder(int(s3_server.endpoint.rpartition(":")[2])) as recorder:
        yield recorder


@pytest.fixture(scope="module")
def credentials(s3_server):
    """The credentials of the object store in the environment of this process and its children."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environ.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    from ocikit.server.auth.htpasswd import format_htpasswd

    path = tmp_path_factory.mktemp("users") / "users"
    path.write_text(format_htpasswd({"ada": PASSWORD}))
    return path


@pytest.fixture(scope="module", params=["never", "blobs"])
def machine(request, postgres_server, s3_server, recorder, credentials):
    """A machine with two workers, that sends content itself or redirects to the object store."""
    with (
        postgres_server.database(migrated=True) as metadata,
        cluster.running(
            metadata,
            s3_server.url(public_url=f"http://127.0.0.1:{recorder.port}"),
            machines=1,
            options=("--redirect", request.param, "--log-format", "json"),
        ) as (machine,),
    ):
        machine.redirects = request.param == "blobs"
        yield machine


@pytest.fixture
def stores(postgres_server, s3_server, credentials):
    """The URLs of a new database and an empty object store."""
    with postgres_server.database(migrated=True) as metadata:
        yield metadata, s3_server.url()


def push(host, name, content):
    """Push a blob and return its digest."""
    digest = ocikit.Digest.of(content)
    done = requests.post(f"http://{host}/v2/{name}/blobs/uploads/?digest={digest}", data=content, timeout=60)
    assert done.status_code == 201, done.text
    return digest


def wait_until(condition):
    """Wait until a condition is true; the test's timeout limits this."""
    while not condition():
        time.sleep(0.02)


# Clients


def test_pushed_files_are_pulled_again(machine, home):
    write(home, {"data/small.csv": "x\n1\n", "data/large.bin": os.urandom(20_000_000), "data/empty": ""})
    pushed = ocikit.push(f"{machine.host}/t/files:v1", "data")
    pulled = ocikit.pull(pushed.reference, home / "back")
    assert tree(Path(pulled.path)) == {
        f"data/{name}": (home / "data" / name).read_bytes() for name in ("small.csv", "large.bin", "empty")
    }
    assert list(ocikit.tags(f"{machine.host}/t/files")) == ["v1"]


@pytest.mark.peers(of=["client"])
@pytest.mark.parametrize("client", CLIENTS)
def test_client_pushes_and_pulls(client, machine, recorder, tmp_path):
    content = flat(tmp_path / "flat")
    source, target = f"oci:{content.layout}:v1", f"{machine.host}/t/by-{client}:v1"
    copy(client, source, target, tmp_path)
    recorder.heads.clear()
    copy(client, target, f"oci:{tmp_path / 'layout'}:v1", tmp_path)
    for digest, raw in reachable(content.layout, content.root).items():
        assert images.blob(tmp_path / "layout", digest).read_bytes() == raw
    assert not [head for head in recorder.heads if "authorization:" in head.lower()]


def copy(client, source, target, home):
    if client == "regctl":
        ends = [end.replace("oci:", "ocidir://") for end in (source, target)]
        host = next(end for end in (source, target) if not end.startswith("oci:")).partition("/")[0]
        peers.run("regctl", "--host", f"reg={host},tls=disabled", "image", "copy", *ends)
    else:
        home.mkdir(exist_ok=True)
        test_interop.transfer(client, source, target, home)


# Redirects


def test_large_blob_is_redirected_and_small_one_is_not(machine):
    large, small = os.urandom(100_000), b"small"
    for content in (large, small):
        url = f"http://{machine.host}/v2/t/redirects/blobs/{push(machine.host, 't/redirects', content)}"
        first = requests.get(url, allow_redirects=False, timeout=30)
        redirected = machine.redirects and content is large
        assert first.status_code == (307 if redirected else 200)
        assert requests.head(url, allow_redirects=False, timeout=30).status_code == 200
        assert requests.get(url, timeout=30).content == content
        ranged = requests.get(url, headers={"Range": "bytes=2-3"}, timeout=30)
        assert (ranged.status_code, ranged.content) == (206, content[2:4])
        refused = requests.get(url, headers={"X-Ocikit-Redirect": "no"}, allow_redirects=False, timeout=30)
        assert (refused.status_code, refused.content) == (200, content)
        if redirected:
            stored = requests.get(first.headers["Location"], timeout=30)
            assert stored.headers["Content-Type"] == "application/octet-stream"
            assert "immutable" in stored.headers["Cache-Control"]


def test_ranges_of_a_file_need_one_redirect(machine, home, recorder):
    content = os.urandom(20_000_000)
    write(home, {"table.bin": content})
    name = f"t/ranges-{machine.redirects}".lower()
    pushed = ocikit.push(f"{machine.host}/{name}:v1", "table.bin")
    recorder.heads.clear()
    with ocikit.Session(cache=home / "other", progress=False) as session:
        fs = ocikit.fs(session)
        for start in (0, 7_000_000, 19_000_000, 3_000_000):
            assert fs.cat_file(f"{pushed.reference}/table.bin", start, start + 1000) == content[start : start + 1000]

    def asked():
        return [
            line for line in machine.log.splitlines() if f"{name}/blobs/sha256" in line and '"method":"GET"' in line
        ]

    wait_until(lambda: len(asked()) >= (1 if machine.redirects else 4))  # a line is written after its answer
    if machine.redirects:
        assert len(asked()) == 1 and '"status":307' in asked()[0]
        assert len([head for head in recorder.heads if head.startswith("GET ")]) == 4
    else:
        assert len(asked()) == 4 and not recorder.heads


# Several machines


def test_token_of_one_machine_is_valid_at_another(stores, users):
    options = ("--htpasswd", users, "--token")
    with cluster.running(*stores, machines=2, workers=1, options=options) as machines:
        first, second = (f"http://{host}" for host in machines.hosts)
        scope = {"service": "ocikit", "scope": "repository:t/a:pull,push"}
        answer = requests.get(f"{first}/token", params=scope, auth=("ada", PASSWORD), timeout=30)
        token = {"Authorization": f"Bearer {answer.json()['token']}"}
        for url in (first, second):
            assert requests.post(f"{url}/v2/t/a/blobs/uploads/", headers=token, timeout=30).status_code == 202
            assert requests.post(f"{url}/v2/t/a/blobs/uploads/", timeout=30).status_code == 401


def test_failed_logins_at_one_machine_count_at_another(stores, users):
    options = ("--htpasswd", users, "--limit", "failures=3")
    with cluster.running(*stores, machines=2, workers=1, options=options) as machines:
        first, second = (f"http://{host}/v2/" for host in machines.hosts)
        statuses = [requests.get(first, auth=("ada", f"wrong{n}"), timeout=30).status_code for n in range(4)]
        assert statuses == [401, 401, 401, 429]
        # One failure of its own makes a machine look at those of others
        statuses = [requests.get(second, auth=("ada", f"wrong{n}"), timeout=30).status_code for n in range(3)]
        assert statuses[-1] == 429


def test_upload_continues_at_another_machine(stores):
    with cluster.running(*stores, machines=2, workers=2) as machines:
        content = os.urandom(300_000)
        location = requests.post(f"http://{machines.hosts[0]}/v2/t/a/blobs/uploads/", timeout=30).headers["Location"]
        for number, start in enumerate(range(0, len(content), 100_000)):
            url = f"http://{machines.hosts[number % 2]}{location}"
            assert requests.patch(url, data=content[start : start + 100_000], timeout=30).status_code == 202
        digest = ocikit.Digest.of(content)
        assert requests.put(f"{url}?digest={digest}", timeout=30).status_code == 201
        assert requests.get(f"http://{machines.hosts[0]}/v2/t/a/blobs/{digest}", timeout=30).content == content


# Outages


def test_outage_of_the_database_is_503_and_ends(postgres_server, s3_server, stores):
    metadata, blobs = stores
    with (
        TcpProxy(postgres_server.port) as proxy,
        cluster.running(proxy.url(metadata), blobs, machines=1) as (machine,),
    ):
        digest = push(machine.host, "t/a", b"content")
        proxy.refuse = True
        proxy.cut(reset=True)
        for path in ("/v2/_catalog", f"/v2/t/a/blobs/{digest}", "/v2/t/a/tags/list", "/v2/t/a/manifests/v1"):
            answer = requests.get(f"http://{machine.host}{path}", timeout=30)
            assert answer.status_code == 503 and answer.json()["errors"][0]["code"] == "UNAVAILABLE"
            assert 1 <= int(answer.headers["Retry-After"]) <= 5
        wait_until(lambda: machine.status("/readyz") == 503)
        assert "database" in requests.get(f"http://{machine.host}/readyz", timeout=30).text
        assert machine.status("/healthz") == 200
        assert requests.get(f"http://{machine.host}/metrics", timeout=30).status_code == 200
        # A worker that is started during the outage answers, too
        machine.kill_worker(0)
        machine.kill_worker(1)
        wait_until(lambda: machine.status("/v2/_catalog") == 503)
        proxy.refuse = False
        wait_until(lambda: machine.status("/readyz") == 200)
        # The other worker connects within half a second, too
        wait_until(
            lambda: requests.get(f"http://{machine.host}/v2/t/a/blobs/{digest}", timeout=30).content == b"content"
        )
        assert "Traceback" not in machine.log


def test_outage_of_the_object_store_is_503_and_ends(s3_server, stores):
    metadata, _ = stores
    with (
        TcpProxy(int(s3_server.endpoint.rpartition(":")[2])) as proxy,
        cluster.running(metadata, s3_server.url(endpoint=f"http://127.0.0.1:{proxy.port}"), machines=1) as (machine,),
    ):
        content = os.urandom(100_000)
        digest = push(machine.host, "t/a", content)
        proxy.refuse = True
        proxy.cut(reset=True)
        url = f"http://{machine.host}/v2/t/a/blobs/{digest}"
        assert requests.get(url, timeout=60).status_code == 503
        assert requests.head(url, timeout=30).status_code == 200  # the rows know it
        assert requests.get(f"http://{machine.host}/v2/_catalog", timeout=30).json() == {"repositories": ["t/a"]}
        wait_until(lambda: machine.status("/readyz") == 503)
        assert "object store" in requests.get(f"http://{machine.host}/readyz", timeout=30).text
        proxy.refuse = False
        wait_until(lambda: machine.status("/readyz") == 200)
        assert requests.get(url, timeout=60).content == content
        assert "Traceback" not in machine.log


# The stop


def test_lease_of_a_cut_off_upload_is_free_after_the_stop(stores):
    with cluster.running(*stores, machines=2, workers=1, options=("--drain", "4")) as machines:
        one, other = machines
        location = requests.post(f"http://{one.host}/v2/t/a/blobs/uploads/", timeout=30).headers["Location"]
        host, port = one.host.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"PATCH {location} HTTP/1.1\r\nHost: {one.host}\r\nContent-Length: 1000\r\n\r\nhalf"
            connection.sendall(head.encode())
            url = f"http://{other.host}{location}"
            # Another request may not write while the lease is held
            wait_until(lambda: requests.patch(url, data=b"", timeout=30).status_code == 416)
            one.stop()
        assert requests.patch(url, data=b"rest", timeout=30).headers["Range"] == "0-7"


# Metrics


def test_metrics_show_database_objects_and_waiting_work(machine):
    push(machine.host, "t/metrics", os.urandom(100))
    names = (
        "ocikit_db_seconds_total", "ocikit_db_calls_total", "ocikit_objects_calls_total", "ocikit_objects_seconds_total",
        "ocikit_db_connections_in_use", "ocikit_db_available 1.0", "ocikit_garbage_keys", "ocikit_garbage_oldest_seconds",
        "ocikit_review_oldest_seconds", "ocikit_uploads_leased", "ocikit_schema_version 1.0", "ocikit_clock_skew_seconds",
        "ocikit_redirects_total", "ocikit_uploads ",
    )  # fmt: skip

    def complete():  # the worker that answers has what another has counted a second ago
        text = requests.get(f"http://{machine.host}/metrics", timeout=30).text
        return all(f"\n{name}" in text for name in names)

    wait_until(complete)


# Start and commands


def command(*arguments, **environ):
    return subprocess.run(
        [sys.executable, "-m", "ocikit", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | environ,
    )


def test_check_prints_the_stores_without_user_names(stores):
    metadata, blobs = stores
    done = command("serve", "--metadata", metadata, "--blobs", blobs, "--check")
    assert done.returncode == 0, done.stderr
    assert "rows in postgresql://127.0.0.1:" in done.stdout and "content in s3://registry/" in done.stdout
    assert "ocikit@" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["closed", "tables", "password", "bucket", "scheme"])
def test_wrong_store_fails_with_the_next_step(name, stores, empty_database_url):
    metadata, blobs = stores
    wrong = {
        "closed": ("postgresql://ocikit@127.0.0.1:1/registry", blobs, 5, "check that the database"),
        "tables": (empty_database_url, blobs, 5, "ocikit migrate --metadata"),
        "password": (metadata.replace("ocikit@", f"ocikit:{PASSWORD}@"), blobs, 2, ".pgpass"),
        "bucket": (metadata, blobs.replace("s3://registry/", "s3://no-such-bucket/"), 5, ""),
        "scheme": (metadata, "gopher://x", 2, ""),
    }
    metadata, blobs, code, words = wrong[name]
    done = command("serve", "--metadata", metadata, "--blobs", blobs, "--port", "0")
    assert (done.returncode, done.stdout) == (code, "")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("ocikit: ") and len(lines) == 2 and words in done.stderr, done.stderr
    assert PASSWORD not in done.stderr and "Traceback" not in done.stderr


def test_server_of_a_notebook_has_the_same_words(stores, home):
    metadata, blobs = stores
    write(home, {"data/a.csv": "x\n1\n"})
    with ocikit.serve(metadata=metadata, blobs=blobs, options=ocikit.ServerOptions(workers=2)) as server:
        ocikit.push(f"{server.host}/t/a:v1", "data")
        assert server.path is None
        shown = f"{server!r} {server._repr_html_()}"
        assert "postgresql://127.0.0.1" in shown and "s3://registry/" in shown and "ocikit@" not in shown
        # The URLs are sent to the child on its standard input
        arguments = Path(f"/proc/{server._child.process.pid}/cmdline").read_bytes()
        assert b"postgresql" not in arguments
    with ocikit.serve(metadata=metadata, blobs=blobs) as server:
        assert list(ocikit.tags(f"{server.host}/t/a")) == ["v1"]


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, id=name.replace(" ", "-")) for name, words in deployment.commands() if words[0] == "serve"],
)
def test_deployed_servers_pass_their_check(stores, users, tmp_path, words):
    metadata, blobs = stores
    words = deployment.changed(words, metadata=metadata, blobs=blobs, htpasswd=str(users), state=str(tmp_path))
    done = command(*words, "--check")
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_gc_and_verify_commands_work_on_both_stores(stores):
    metadata, blobs = stores
    where = ("--metadata", metadata, "--blobs", blobs)
    with cluster.running(metadata, blobs, machines=1, workers=1) as (machine,):
        push(machine.host, "t/a", os.urandom(5000))
    done = command("verify", *where)
    assert done.returncode == 0 and "1 blob, 5.0 kB, hashed: all intact" in done.stderr, done.stderr
    done = command("verify", *where, "--sizes")
    assert done.returncode == 0 and "compared: all intact" in done.stderr, done.stderr
    done = command("gc", *where, "--copies")
    assert done.returncode == 0 and "manifests and tags copied" in done.stderr, done.stderr
    done = command("gc", *where, "--grace", "0", "--strays")
    assert done.returncode == 0 and "0 objects without a row" in done.stderr and "deleted" in done.stderr, done.stderr
    assert command("verify", "--metadata", metadata).returncode == 2


def test_rebuild_command_restores_a_lost_database(stores, postgres_server, home):
    metadata, blobs = stores
    write(home, {"data/a.csv": "x\n1\n", "data/b.bin": os.urandom(100_000)})
    with cluster.running(metadata, blobs, machines=1, options=("--collect-every", "0.2")) as (machine,):
        pushed = ocikit.push(f"{machine.host}/t/a:v1", "data")
        waiting = "SELECT count(*) FROM copies"
        with postgres_server.connect(metadata.rpartition("/")[2]) as admin:
            wait_until(lambda: admin.execute(waiting).fetchone() == (0,))
    with postgres_server.database(migrated=True) as empty:
        done = command("rebuild", "--metadata", empty, "--blobs", blobs)
        assert done.returncode == 0 and "1 repository, 1 manifest, 1 tag, 3 blobs were restored" in done.stderr, (
            done.stderr
        )
        with cluster.running(empty, blobs, machines=1) as (machine,), ocikit.Session(cache=home / "other") as session:
            pulled = session.pull(f"{machine.host}/t/a:v1@{pushed.digest}", home / "back")
            assert tree(Path(pulled.path)) == {
                name: (home / name).read_bytes() for name in ("data/a.csv", "data/b.bin")
            }
