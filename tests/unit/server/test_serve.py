"""`ocikit.serve` and the `serve` and `gc` commands: start, stop, options, logs and metrics."""

import contextlib
import gc
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import attrs
import cattrs
import ocikit
import pytest
import requests
from ocikit.cli import serve as commands
from ocikit.server.http.settings import Limits
from ocikit.server.process.options import ServerConfig, option_descriptions

from tests.support.home import ROOT, cli, tree, write

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def shared():
    """Return a server with default options, for tests that do not stop it."""
    with ocikit.serve() as server:
        yield server


def process_ids(server):
    """Return the ids of the process_ids of a server: all session_members of its session."""
    return session_members(server._child.process.pid)


def session_members(session):
    pids = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                pids.add(int(path.parent.name))
    return pids


def wait_until(condition):
    """Wait wait_until a condition is true; the test's timeout limits this."""
    while not condition():
        time.sleep(0.01)


def all_ended(pids):
    def dead(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    return all(map(dead, pids))


def connect(server):
    host, port = server.host.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def send_request(server, method, path, body=None, **headers):
    host, port = server.host.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def stalled_upload(server, repository="t/half"):
    """Return a connection with an upload that stalled in the middle of its body."""
    location = send_request(server, "POST", f"/v2/{repository}/blobs/uploads/")[1]["Location"]
    connection = connect(server)
    connection.sendall(
        f"PATCH {location} HTTP/1.1\r\nHost: {server.host}\r\nContent-Length: 1000000\r\n\r\nhalf".encode()
    )
    return connection


def refuses_connections(server):
    try:
        connect(server).close()
    except ConnectionRefusedError:
        return True
    return False


# Start


def test_server_stores_pushed_content(home, tmp_path):
    write(home, {"data/a.csv": "x\n1\n"})
    with ocikit.serve() as server:
        assert server.url == f"http://{server.host}" and server.running
        assert requests.get(f"{server.url}/v2/", timeout=10).status_code == 200
        pushed = ocikit.push(f"{server.host}/waves:v1", "data")
        assert ocikit.tags(f"{server.host}/waves")[:] == ["v1"]
        pulled = ocikit.pull(pushed.reference, tmp_path / "back")
        assert tree(Path(pulled.path)) == {"data/a.csv": b"x\n1\n"}
        store = server.path
        assert (store / "registry.db").exists()
    assert not server.running and not store.exists()


def test_two_servers_run_at_once(home):
    write(home, {"data/a.csv": "x\n1\n"})
    with ocikit.serve() as one, ocikit.serve() as two:
        assert one.host != two.host
        ocikit.push(f"{one.host}/waves:v1", "data")
        ocikit.copy(f"{one.host}/waves:v1", f"{two.host}/waves:v2")
        assert list(ocikit.tags(f"{two.host}/waves")) == ["v2"]


def test_given_folder_remains_and_can_be_served_again(home):
    write(home, {"data/a.csv": "x\n1\n"})
    with ocikit.serve("store") as server:
        assert server.path == home / "store"
        ocikit.push(f"{server.host}/waves:v1", "data")
    with ocikit.serve("store", options=ocikit.ServerOptions(read_only=True)) as server:
        assert ocikit.inspect(f"{server.host}/waves:v1").files
        with pytest.raises(ocikit.OcikitError, match="read-only"):
            ocikit.push(f"{server.host}/waves:v2", "data")
        assert "ocikit.pull(" in repr(server)
    assert sorted(p.name for p in (home / "store").iterdir() if p.suffix not in {".db-shm", ".db-wal"}) >= ["blobs"]


def test_workers_share_one_registry(home):
    write(home, {"data/a.csv": "x\n1\n"})
    with ocikit.serve(options=ocikit.ServerOptions(workers=2)) as server:
        wait_until(lambda: len(process_ids(server)) == 3)
        for i in range(8):
            ocikit.push(f"{server.host}/waves:v{i}", "data")
        assert len(list(ocikit.tags(f"{server.host}/waves"))) == 8
        pids = process_ids(server)
    assert all_ended(pids)


def test_crashed_worker_is_replaced(home):
    with ocikit.serve() as server:
        (worker,) = process_ids(server) - {server._child.process.pid}
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: process_ids(server) - {server._child.process.pid, worker})

        def answers():
            with contextlib.suppress(OSError):
                return send_request(server, "GET", "/v2/")[0] == 200

        wait_until(answers)
        assert server.running


def test_repr_shows_push_command_or_stopped_state():
    rich = pytest.importorskip("rich.console")
    server = ocikit.serve()
    words = f'ocikit.push("{server.host}/name:v1", "folder/")'
    assert words in repr(server) and len(repr(server)) <= 100
    assert words.replace('"', "&quot;") in server._repr_html_()
    console = rich.Console(width=200, file=open(os.devnull, "w"), record=True)
    console.print(server)
    assert words in console.export_text()
    console.file.close()
    server.stop()
    for text, word in ((repr(server), "running=False"), (server._repr_html_(), "stopped")):
        assert "ocikit.push" not in text and word in text


def test_server_writes_nothing_to_stdout_or_stderr(capfd, home):
    with ocikit.serve(options=ocikit.ServerOptions(log_format="text")) as server:
        send_request(server, "GET", "/v2/nothing/tags/list")
        wait_until(lambda: "status=404" in server.log)
    assert capfd.readouterr() == ("", "")


def test_https_with_own_certificate(home, tmp_path):
    certificate, key = self_signed(tmp_path)
    write(home, {"data/a.csv": "x\n1\n"})
    with ocikit.serve(options=ocikit.ServerOptions(tls_cert=certificate, tls_key=key)) as server:
        assert server.url.startswith("https://")
        with ocikit.Session(network=ocikit.Network(ca=str(certificate))) as session:
            session.push(f"{server.host}/waves:v1", "data")
            assert session.tags(f"{server.host}/waves")[:] == ["v1"]
        with pytest.raises(ocikit.ConnectionFailed):
            ocikit.tags(f"{server.host}/waves")[:]
        old = ssl.create_default_context(cafile=certificate)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with old.wrap_socket(connect(server), server_hostname="127.0.0.1") as wrapped:
            assert wrapped.version() == "TLSv1.2"


def self_signed(folder):
    """Create a certificate for the loopback addresses and its key, as PEM files."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1)
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


# Stop


def test_stop_leaves_no_process_thread_descriptor_or_file(home):
    ocikit.serve().stop()
    gc.collect()
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    server = ocikit.serve()
    scratch, pids = server._child.scratch, process_ids(server)
    assert len(pids) == 2 and threading.active_count() == before[0]
    server.stop()
    assert all_ended(pids) and not scratch.exists() and refuses_connections(server)
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
    server.stop()


def test_server_stops_with_transfers_in_progress(home):
    server = ocikit.serve()
    pids = process_ids(server)
    idle = connect(server)
    idle.sendall(f"GET /v2/ HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode())
    assert idle.recv(1000).startswith(b"HTTP/1.1 200")
    fresh, upload = connect(server), stalled_upload(server)
    headers = connect(server)
    headers.sendall(b"GET /v2/ HT")
    digest, size = push_random_blob(server, "t/blob", 30_000_000)
    download = connect(server)
    download.sendall(f"GET /v2/t/blob/blobs/{digest} HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode())
    assert b"200 OK" in download.recv(1000)
    server.stop()
    assert all_ended(pids) and refuses_connections(server)
    for connection in (idle, fresh, upload, headers, download):
        with contextlib.suppress(OSError):
            while connection.recv(1 << 20):
                pass
        connection.close()


def push_random_blob(server, repository, size):
    """Push random bytes and return their digest and size."""
    content = os.urandom(size)
    digest = ocikit.Digest.of(content)
    assert send_request(server, "POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", content)[0] == 201
    return digest, size


def test_unreferenced_server_stops(home):
    server = ocikit.serve()
    pids = process_ids(server)
    server = ocikit.serve()
    gc.collect()
    assert all_ended(pids) and server.running
    server.stop()


def test_server_works_with_contextlib_closing(home):
    with contextlib.closing(ocikit.serve()) as server:
        pids = process_ids(server)
    assert all_ended(pids) and not server.running
    server.close()


def test_serve_with_same_port_replaces_earlier_server(home):
    write(home, {"data/a.csv": "x\n1\n"})
    first = ocikit.serve("store")
    port = int(first.host.split(":")[1])
    first.stop()
    second = ocikit.serve("store", port)
    ocikit.push(f"{second.host}/waves:v1", "data")
    third = ocikit.serve("store", port)
    try:
        assert not second.running and third.running and second.host == third.host
        assert list(ocikit.tags(f"{third.host}/waves")) == ["v1"]
    finally:
        third.stop()


def run_python(program, *arguments, **options):
    """Start a Python program, and return its process and its first line of output."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **options,
    )
    return process, process.stdout.readline()


SERVE_PROGRAM = """
    import os, sys, time, ocikit
    server = ocikit.serve(options=ocikit.ServerOptions(workers=2))
    print(server._child.process.pid, server.host, server._child.scratch, flush=True)
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "the end", "an exception", "os._exit"])
def test_server_ends_with_its_parent_process(home, how):
    last = {"an exception": "raise SystemExit(3)", "os._exit": "os._exit(3)", "the end": ""}.get(how, "time.sleep(600)")
    process, line = run_python(SERVE_PROGRAM + f"    {last}\n")
    pid, _, scratch = line.split()
    if last.startswith("time"):
        assert len(session_members(int(pid))) >= 2
        process.send_signal(getattr(signal, how))
    process.wait()
    process.stdout.close()
    wait_until(lambda: not session_members(int(pid)))
    wait_until(lambda: not Path(scratch).exists())


@pytest.mark.parametrize("which", ["main", "worker"])
def test_workers_end_with_their_main_process(home, which):
    server = ocikit.serve(options=ocikit.ServerOptions(workers=2))
    pids = process_ids(server)
    os.kill(server._child.process.pid, signal.SIGKILL)
    wait_until(lambda: all_ended(pids))
    assert not server.running and "running=False" in repr(server)
    server.stop()


def test_forked_copy_neither_stops_server_nor_keeps_it_running(home):
    process, line = run_python(
        SERVE_PROGRAM
        + """
    if os.fork() == 0:
        server.stop()
        del server
        sys.exit(0)
    os.wait()
    assert server.running
    ocikit.ping(server.host)
    if os.fork() == 0:
        time.sleep(600)
    print("forked", flush=True)
    time.sleep(600)
    """,
        start_new_session=True,
    )
    pid, _, scratch = line.split()
    assert process.stdout.readline() == "forked\n"
    process.kill()
    process.wait()
    try:
        wait_until(lambda: not session_members(int(pid)))
        wait_until(lambda: not Path(scratch).exists())
        assert session_members(process.pid)  # the copy still runs, without its server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_ctrl_c_in_parent_keeps_server_running(home):
    process, line = run_python(
        SERVE_PROGRAM
        + """
    try:
        print("waits", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        ocikit.ping(server.host)
        server.stop()
        print("stopped", flush=True)
    """,
        start_new_session=True,
    )
    assert process.stdout.readline() == "waits\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole process group
    assert process.communicate() == ("stopped\n", None) and process.returncode == 0
    assert not session_members(int(line.split()[0]))


def test_interrupt_during_start_leaves_nothing(home, monkeypatch):
    from ocikit.server.process.child import Child, running_children

    started = []

    def interrupted(child):
        started.append(child)
        raise KeyboardInterrupt

    monkeypatch.setattr(Child, "wait_until_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ocikit.serve()
    assert not session_members(started[0].process.pid) and not started[0].scratch.exists()
    assert started[0] not in running_children()


# Failures at the start


def test_taken_port_raises_server_failed(home, shared):
    port = int(shared.host.split(":")[1])
    process, line = run_python(
        f"import ocikit\ntry: ocikit.serve(port={port})\nexcept ocikit.ServerFailed as e: print(repr(str(e)))"
    )
    process.wait()
    process.stdout.close()
    assert f"127.0.0.1:{port}" in line and "in use" in line and "another port" in line
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(ocikit.ServerFailed, match="in use"):
            ocikit.serve(port=other.getsockname()[1])
    assert shared.running and send_request(shared, "GET", "/v2/")[0] == 200


def test_one_of_many_servers_gets_the_port(home):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    start_command = [sys.executable, "-m", "ocikit", "serve", str(home / "store"), "--port", str(port)]
    servers = [
        subprocess.Popen(start_command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    wait_until(lambda: sum(server.poll() is None for server in servers) == 1)
    (winner,) = (server for server in servers if server.poll() is None)
    assert winner.stdout.readline().startswith("serving ")
    winner.terminate()
    for server in servers:
        _, stderr = server.communicate()
        assert server.returncode == (0 if server is winner else 5)
        assert ("in use" in stderr) != (server is winner)


def test_start_failure_names_the_cause(home, tmp_path):
    write(home, {"users": "not a line of htpasswd\n", "empty": "", "data": "a file"})
    for arguments, words in (
        ({"htpasswd": "users"}, "users"),
        ({"htpasswd": "nothere"}, "nothere"),
        ({"htpasswd": "empty", "rules": "nothere"}, "nothere"),
        ({"path": "data"}, "data"),
        ({"path": "data/below"}, "data"),
        ({"path": "/proc/nothing"}, "/proc/nothing"),
        ({"options": ocikit.ServerOptions(tls_cert="users", tls_key="users")}, "users"),
        ({"options": ocikit.ServerOptions(host="192.0.2.1")}, "192.0.2.1"),
        ({"options": ocikit.ServerOptions(host="no.such.host.invalid")}, "no.such.host"),
    ):
        with pytest.raises(ocikit.ServerFailed, match=words) as caught:
            ocikit.serve(**arguments)
        assert "Traceback" not in str(caught.value), (arguments, caught.value)
    for wrong in (
        {"references": "loose"},
        {"validate": "never"},
        {"log_format": "xml"},
        {"tls_cert": "users"},
        {"workers": 0},
        {"timeout": -1},
        {"grace": float("nan")},
        {"drain": 0},
        {"drain_delay": -1},
        {"keep_deleted": float("inf")},
        {"pool": 0},
        {"redirect": "always"},
        {"token_key": "database"},
    ):
        with pytest.raises(ocikit.InvalidArgument, match=next(iter(wrong)).removeprefix("tls_")):
            ocikit.ServerOptions(**wrong)
    with pytest.raises(ocikit.InvalidArgument, match="port"):
        ocikit.serve(port=70000)


def test_missing_extra_error_shows_install_command(home, monkeypatch):
    from ocikit.server.process import serve

    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "granian" else object())
    with pytest.raises(ocikit.ServerFailed, match=r"pip install 'ocikit\[server\]'"):
        ocikit.serve()


# Options


def parse_options(*arguments):
    """Return the options of a command line."""
    return commands.server_options(commands.serve.make_context("serve", ["store", *arguments]).params)


def test_every_option_has_a_description():
    assert list(option_descriptions()) == [option.name for option in attrs.fields(ocikit.ServerOptions)]


def test_command_line_has_the_default_options():
    assert parse_options() == ocikit.ServerOptions(log_format="text")


def test_command_line_sets_every_option():
    options = parse_options(
        *(
            "--host",
            "::1",
            "--token",
            "--allow-anonymous-pull",
            "--allow-plain-http",
            "--tls-cert",
            "c",
            "--tls-key",
            "k",
        ),
        *("--workers", "2", "--read-only", "--no-delete", "--references", "sparse", "--validate", "schema"),
        *(
            "--limit",
            "blob=5",
            "--limit",
            "page=6",
            "--allow-host",
            "a",
            "--allow-host",
            "b",
            "--trusted-proxy",
            "10.0.0.1",
        ),
        *(
            "--no-metrics",
            "--log-format",
            "json",
            "--collect-every",
            "1",
            "--grace",
            "2",
            "--timeout",
            "3",
            "--no-sync",
        ),
        *("--drain", "4", "--drain-delay", "5", "--state", "s", "--redirect", "blobs", "--token-key", "t"),
        *("--keep-deleted", "6", "--pool", "7"),
    )
    assert options == ocikit.ServerOptions(
        host="::1",
        token=True,
        allow_anonymous_pull=True,
        allow_plain_http=True,
        tls_cert="c",
        tls_key="k",
        workers=2,
        read_only=True,
        allow_delete=False,
        references="sparse",
        validate="schema",
        limits=Limits(blob=5, page=6),
        hosts=("a", "b"),
        trusted_proxies=("10.0.0.1",),
        metrics=False,
        log_format="json",
        collect_every=1,
        grace=2,
        timeout=3,
        sync=False,
        drain=4,
        drain_delay=5,
        state="s",
        redirect="blobs",
        token_key="t",
        keep_deleted=6,
        pool=7,
    )
    default = ocikit.ServerOptions()
    assert not [name for name in attrs.asdict(default) if getattr(options, name) == getattr(default, name)]


def test_configuration_survives_json():
    options = ocikit.ServerOptions(hosts="hub.lab", limits=Limits(blob=5), references="sparse", sync=False)
    config = ServerConfig(path="store", port=1, htpasswd="users", options=options, attached="scratch")
    assert cattrs.Converter().structure(json.loads(json.dumps(attrs.asdict(config))), ServerConfig) == config


DATABASE, OBJECTS = (
    "postgresql://byron@db.lab/registry?sslmode=require",
    "s3://bucket/prefix?endpoint_url=https://s3.lab",
)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"path": "store", "metadata": DATABASE, "blobs": OBJECTS}, "leave out the folder"),
        ({"path": "store", "blobs": OBJECTS}, "leave out the folder"),
        ({"metadata": DATABASE}, "blobs is missing"),
        ({"blobs": OBJECTS}, "metadata is missing"),
        ({"path": "store", "options": ocikit.ServerOptions(redirect="blobs")}, "redirect is for"),
        ({"path": "store", "options": ocikit.ServerOptions(state="x")}, "state is for"),
        ({"path": "store", "options": ocikit.ServerOptions(pool=2)}, "pool is for"),
        ({"path": "store", "options": ocikit.ServerOptions(keep_deleted=2)}, "keep_deleted is for"),
        ({"path": "store", "options": ocikit.ServerOptions(token=True, token_key="database")}, "token_key='database'"),
        ({"metadata": DATABASE, "blobs": OBJECTS, "options": ocikit.ServerOptions(sync=False)}, "sync=False"),
    ],
)
def test_stores_and_options_that_contradict_are_rejected(arguments, words):
    with pytest.raises(ocikit.InvalidArgument, match=words) as caught:
        ocikit.serve(**arguments)
    assert caught.value.hint
    assert "byron" not in f"{caught.value.message} {caught.value.hint}"


def test_command_without_a_registry_is_rejected(home):
    done = cli("serve")
    assert done.returncode == 2 and "no registry is named" in done.stderr and "give a folder" in done.stderr


def test_configuration_shows_stores_without_user_names():
    config = ServerConfig(
        metadata="postgresql://byron:lovelace@db/registry?user=mallory", blobs=OBJECTS, token_secret=b"secret"
    )
    shown = f"{config!r} {config} {config.store}"
    assert "postgresql://db/registry and s3://bucket/prefix" in shown
    assert not [word for word in ("byron", "lovelace", "mallory", "b'secret'") if word in shown]


def test_check_option_prints_what_is_found(home):
    done = cli("serve", "store", "--check")
    assert (done.returncode, done.stdout) == (0, "a registry in store\n")
    write(home, {"file": ""})
    assert cli("serve", "file", "--check").returncode == 5


# Serving


@pytest.mark.parametrize("count", [12, 100])
def test_stalled_clients_are_closed_and_block_no_others(home, count):
    write(home, {"data/a.csv": "x\n1\n"})
    with ocikit.serve(options=ocikit.ServerOptions(timeout=2)) as server:
        stalled = [stalled_upload(server) for _ in range(count)]
        for _ in range(count):
            stalled.append(connect(server))
            stalled[-1].sendall(b"GET /v2/ HT")
        ocikit.push(f"{server.host}/waves:v1", "data")
        assert len(list(ocikit.tags(f"{server.host}/waves"))) == 1
        for connection in stalled:
            with contextlib.suppress(ConnectionError):
                while connection.recv(1000):
                    pass
            connection.close()
        # The part that arrived is stored
        uploads = server.path / "uploads"
        wait_until(lambda: [path.stat().st_size for path in uploads.iterdir()] == [4] * count)


def test_stalled_reader_is_closed(home):
    with ocikit.serve(options=ocikit.ServerOptions(timeout=2, log_format="json")) as server:
        digest, size = push_random_blob(server, "t/blob", 30_000_000)
        with connect(server) as slow:
            slow.sendall(f"GET /v2/t/blob/blobs/{digest} HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode())
            wait_until(lambda: any(entry["method"] == "GET" and entry["sent"] < size for entry in log_entries(server)))


def test_loopback_server_rejects_other_host_names(shared):
    for name, status in (
        ("localhost", 200),
        ("127.0.0.1", 200),
        ("[::1]", 200),
        ("LOCALHOST", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
    ):
        port = shared.host.split(":")[1]
        assert send_request(shared, "GET", "/v2/", Host=f"{name}:{port}")[0] == status, name
    assert send_request(shared, "GET", "/metrics", Host="evil.example")[0] == 421
    with ocikit.serve(options=ocikit.ServerOptions(hosts=["hub.lab"])) as server:
        assert send_request(server, "GET", "/v2/", Host="hub.lab")[0] == 200
        assert send_request(server, "GET", "/v2/", Host="evil.example")[0] == 421
        assert send_request(server, "GET", "/v2/")[0] == 200


def test_non_loopback_server_accepts_any_host_by_default(home):
    with ocikit.serve(options=ocikit.ServerOptions(host="0.0.0.0")) as server:
        assert server.host.startswith("127.0.0.1:")
        assert send_request(server, "GET", "/v2/", Host="hub.lab")[0] == 200
    with ocikit.serve(options=ocikit.ServerOptions(host="0.0.0.0", hosts=["hub.lab"])) as server:
        assert send_request(server, "GET", "/v2/", Host="hub.lab")[0] == 200
        assert send_request(server, "GET", "/v2/", Host="evil.example")[0] == 421


def test_server_listens_on_ipv6(home):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("the kernel has no IPv6")
    with ocikit.serve(options=ocikit.ServerOptions(host="::1")) as server:
        assert server.host.startswith("[::1]:")
        assert requests.get(f"{server.url}/v2/", timeout=10).status_code == 200


def test_htpasswd_file_allows_its_users_only(home):
    import bcrypt

    write(home, {"users": f"ada:{bcrypt.hashpw(b'lovelace', bcrypt.gensalt(4)).decode()}\n", "data/a.csv": "x\n"})
    with ocikit.serve(htpasswd="users", options=ocikit.ServerOptions(log_format="json")) as server:
        assert send_request(server, "GET", "/v2/")[0] == 401
        with ocikit.Session(credentials=("ada", "lovelace")) as session:
            session.push(f"{server.host}/waves:v1", "data")
        if find_spec("prometheus_client"):
            assert send_request(server, "GET", "/metrics")[0] == 401
            assert requests.get(f"{server.url}/metrics", auth=("ada", "lovelace"), timeout=10).status_code == 200
        assert "ada" in {entry.get("user") for entry in log_entries(server)}
        assert "lovelace" not in server.log and "Basic" not in server.log


def test_htpasswd_accepts_a_mapping_of_passwords(home):
    write(home, {"data/a.csv": "x\n"})
    with ocikit.serve(htpasswd={"ada": "lovelace", "bob": "b" * 100}) as server:
        assert send_request(server, "GET", "/v2/")[0] == 401
        for credentials in (("ada", "lovelace"), ("bob", "b" * 100)):
            with ocikit.Session(credentials=credentials) as session:
                session.push(f"{server.host}/waves:v1", "data")
        assert "lovelace" not in repr(server) + server.log


@pytest.mark.parametrize("user", ["", "a:b", "a\nb:x", " a", "#a"])
def test_invalid_user_name_is_rejected(user):
    with pytest.raises(ocikit.InvalidArgument, match="invalid user name"):
        ocikit.serve(htpasswd={user: "x"})


def test_options_reach_the_registry(home):
    with ocikit.serve(
        options=ocikit.ServerOptions(limits=Limits(blob=10), allow_delete=False, metrics=False)
    ) as server:
        content = b"x" * 11
        digest = ocikit.Digest.of(content)
        assert send_request(server, "POST", f"/v2/t/a/blobs/uploads/?digest={digest}", content)[0] == 413
        assert send_request(server, "DELETE", f"/v2/t/a/blobs/{digest}")[0] == 405
        assert send_request(server, "GET", "/metrics")[0] == 404


# Log and metrics


def log_entries(server):
    """Return the log_entries of the JSON log."""
    return [json.loads(line) for line in server.log.splitlines() if line.startswith("{") and line.endswith("}")]


def test_log_contains_no_secrets_and_no_forged_lines(home):
    with ocikit.serve(options=ocikit.ServerOptions(log_format="json")) as server:
        forged = "x%0d%0a%7b%22status%22%3a200%7d%1b%5b31m"
        send_request(
            server,
            "GET",
            f"/v2/{forged}/tags/list?n=5&state=hidden&token=hidden&last=v1",
            Authorization="Basic aGlkZGVu",
            User_Agent="\x9b31mred",
        )
        upload = send_request(server, "POST", "/v2/t/a/blobs/uploads/?from=t/b")[1]["Location"]
        send_request(server, "GET", f"{upload}?_state=hidden")
        send_request(server, "GET", "/v2/" + "a" * 5000)
        wait_until(lambda: len(log_entries(server)) >= 5)
        log = server.log
    assert "hidden" not in log and "aGlkZGVu" not in log and "\x1b" not in log and "\x9b" not in log and "\r" not in log
    assert upload.rpartition("/")[2] not in log
    assert "n=5&state=***&token=***&last=v1" in log and "from=t/b" in log
    assert max(map(len, log.splitlines())) < 2000
    assert all(line.startswith("{") for line in log.splitlines())


def test_metrics_add_up_all_workers(home):
    pytest.importorskip("prometheus_client")
    write(home, {"data/a.csv": "x\n1\n"})
    with ocikit.serve(options=ocikit.ServerOptions(workers=2)) as server:
        assert send_request(server, "GET", "/healthz")[0] == 200
        for i in range(20):
            send_request(server, "GET", f"/v2/t/none/tags/list?n={i}")
        stalled = stalled_upload(server)

        def number(name):
            status, headers, body = send_request(server, "GET", "/metrics")
            assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
            return dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if line[0] != "#").get(name)

        name = 'ocikit_requests_total{endpoint="tags",method="GET",status="4xx"}'
        assert {number(name) for _ in range(10)} == {"20.0"}
        assert number('ocikit_request_seconds_count{endpoint="tags"}') == "20.0"
        assert number("ocikit_uploads") == "1.0"
        stalled.close()


# Commands


def start_command(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "ocikit", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_commands_prints_url_and_stops_at_signal(home, number):
    process = start_command(
        "serve", "store", "--port", "0", "--log-format", "json", "--workers", "2", start_new_session=True
    )
    first, second = process.stdout.readline(), process.stdout.readline()
    url = first.split()[3].rstrip(";")
    assert first.startswith("serving store at http://127.0.0.1:") and f"push {url[7:]}/" in second
    assert requests.get(f"{url}/v2/t/a/tags/list?n=1", timeout=10).status_code == 404
    os.killpg(process.pid, number)  # as a terminal does
    out, err = process.communicate()
    assert (process.returncode, out) == (0, "")
    # The first is the server's own readiness check
    assert [json.loads(line)["path"] for line in err.splitlines()] == ["/v2/", "/v2/t/a/tags/list"]
    assert not session_members(process.pid)


def test_commands_fails_with_two_lines(home):
    write(home, {"file": ""})
    done = cli("serve", "file", "--port", "0")
    assert done.returncode == 5 and done.stdout == ""
    assert done.stderr.startswith("ocikit: ") and len(done.stderr.splitlines()) == 2
    for wrong in (
        ("--workers", "0"),
        ("--limit", "size=1"),
        ("--limit", "blob=x"),
        ("--timeout", "-1"),
        ("--port", "x"),
    ):
        assert cli("serve", "store", *wrong).returncode == 2
    assert not (home / "store").exists()


def test_gc_command_lists_and_deletes_unreferenced_blobs(home):
    with ocikit.serve("store") as server:
        digest, _ = push_random_blob(server, "t/a", 5000)
    done = cli("gc", "store", "--dry-run", "--grace", "0")
    assert done.returncode == 0 and f"5.0 kB  {digest}  t/a" in done.stdout
    assert list((home / "store/blobs/sha256").iterdir())
    for _ in range(2):
        assert cli("gc", "store", "--grace", "0").returncode == 0
    assert not list((home / "store/blobs/sha256").iterdir())
    done = cli("gc", "nothere")
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 2


def test_gc_command_deletes_idle_uploads(home):
    with ocikit.serve("store") as server:
        for _ in range(2):
            send_request(server, "POST", "/v2/t/x/blobs/uploads/")
        location = send_request(server, "POST", "/v2/t/x/blobs/uploads/")[1]["Location"]
        send_request(server, "PATCH", location, b"abc")
    uploads = list(Path("store/uploads").iterdir())
    for upload in uploads:
        os.utime(upload, (time.time() - 700,) * 2)
    assert cli("gc", "store").stderr == "0 blobs, 0 B, 2 uploads, were deleted\n"
    assert cli("gc", "store", "--expiry", "800").stderr == "0 blobs, 0 B, were deleted\n"
    assert cli("gc", "store", "--expiry", "600").stderr == "0 blobs, 0 B, 1 upload, were deleted\n"


def test_server_collects_garbage_periodically(home):
    with ocikit.serve("store", options=ocikit.ServerOptions(collect_every=0.2, grace=0, workers=2)) as server:
        push_random_blob(server, "t/a", 5000)
        wait_until(lambda: not list((home / "store/blobs/sha256").iterdir()))
        assert send_request(server, "GET", "/healthz")[0] == 200
