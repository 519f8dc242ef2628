"""Arguments of wrong types, and FIFOs instead of files, raise an error with the right form."""

import json
import os
import subprocess
import sys

import ocikit
import pytest
from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.config.network import Network
from ocikit.spec.challenge import Scope
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR
from ocikit.store.memory import MemoryStore
from ocikit.transfer.plan import plan

from tests.support.home import write

LETTERS = [
    ("insecure", lambda home: Network(insecure="host:5000"), "write it as a list: insecure=['host:5000']"),
    ("blocked", lambda home: Network(blocked="docker.io"), "write it as a list: blocked=['docker.io']"),
    ("session", lambda home: ocikit.Session(insecure="host:5000"), "write it as a list: insecure=['host:5000']"),
    ("conf", lambda home: Network.from_registries_conf(write_conf(home), insecure="h:1"), "insecure=['h:1']"),
    ("bytes", lambda home: Network(insecure=b"host"), 'write it like insecure=["…", "…"]'),
    ("number", lambda home: Network(insecure=5), 'write it like insecure=["…", "…"]'),
    ("numbers", lambda home: Network(insecure=[5]), 'write it like insecure=["…", "…"]'),
    ("headers", lambda home: Network(headers="X: y"), "write it like headers="),
    ("header", lambda home: Network(headers={"X": 5}), "write it like headers="),
    ("proxies", lambda home: Network(proxies="http://user:hunter2@proxy:1"), "write it like proxies="),
    ("schemes", lambda home: Network(schemes="http"), "write it like schemes="),
    ("ca", lambda home: Network(ca=["a.pem"]), 'write it like ca="ca.pem"'),
    ("certificate", lambda home: Network(certificate=["a", "b"]), "write it like certificate="),
    ("timeout", lambda home: Network(read_timeout="10"), "pass a number of at least"),
    ("no timeout", lambda home: Network(read_timeout=0), "pass a number of at least"),
    ("nan", lambda home: Network(total_timeout=float("nan")), "pass a number of at least"),
    ("retries", lambda home: Network(retries=1.5), "pass a whole number of at least 0"),
    ("connections", lambda home: Network(connections=True), "pass a whole number of at least 1"),
    ("urls", lambda home: ocikit.Descriptor.of(b"x", "a/b", urls="https://x"), "write it as a list: ['https://x']"),
    ("features", lambda home: ocikit.Platform(os="a", architecture="b", os_features="x"), "write it as a list: ['x']"),
    ("scope", lambda home: Scope(resource_type="repository", name="a", actions="pull"), "write it as a list: ['pull']"),
    ("plan", lambda home: plan(MemoryStore(), EMPTY_DESCRIPTOR, MemoryStore(), tags="v1"), "tags=['v1']"),
    ("document", lambda home: MemoryStore().push_document(EMPTY_DESCRIPTOR, b"{}", tags="v1"), "tags=['v1']"),
    ("push tags", lambda home: ocikit.push("oci:x:v1", "data", tags=5), 'write it like tags=["…", "…"]'),
    ("annotations", lambda home: ocikit.push("oci:x:v1", "data", annotations="x"), "write it like annotations="),
    ("tag", lambda home: ocikit.tag("oci:x:v1", ["a", "b"]), "unpack the list: tag(ref, *tags)"),
]  # fmt: skip


def write_conf(home):
    (home / "registries.conf").write_text("")
    return home / "registries.conf"


@pytest.mark.parametrize(
    ("call", "hint"), [(call, hint) for _, call, hint in LETTERS], ids=[name for name, *_ in LETTERS]
)
def test_wrong_type_is_refused_with_right_way(home, call, hint):
    write(home, {"data/a.txt": "a"})
    manifest = ocikit.Manifest(config=EMPTY_DESCRIPTOR, layers=())
    layout = ocikit.Layout(home / "x")
    layout.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    layout.push_bytes(manifest.descriptor, manifest.raw, tag="v1")
    with pytest.raises(ocikit.InvalidArgument) as caught:
        call(home)
    assert hint in caught.value.hint and "hunter2" not in str(caught.value)


def test_single_tag_as_text_stays_valid(home):
    write(home, {"data/a.txt": "a"})
    ocikit.push("oci:x:v1", "data", tags="latest", include="*.txt")
    assert sorted(ocikit.tags("oci:x")) == ["latest", "v1"]


# A reader of a FIFO without a writer blocks: each call runs in a process with a deadline
FIFOS = {
    "docker config": (".docker/config.json", "Session().login('r.test', 'ada', 'x')"),
    "explain": (".docker/config.json", "print(Session().explain('r.test')); raise OcikitError('is not a regular file')"),
    "registries.conf": ("conf", "Network.from_registries_conf('conf')"),
    "ca": ("ca.pem", "Session(network=Network(ca='ca.pem', retries=0)).tags('r.test/a/b')"),
    "certificate": ("c.pem", "Session(network=Network(certificate='c.pem', retries=0)).tags('r.test/a/b')"),
    "certs.d": (".config/containers/certs.d/r.test/a.crt", "Session(network=Network(retries=0)).tags('r.test/a/b')"),
    "archive": ("a.tar", "inspect('oci-archive:a.tar:v1')"),
    "docker archive": ("a.tar", "inspect('docker-archive:a.tar')"),
    "layout": ("x/index.json", "inspect('oci:x:v1')"),
    "htpasswd": ("users", "from ocikit.server.auth.htpasswd import HtpasswdEntries as E; E.load('users')"),
    "rules": ("rules", "from ocikit.server.auth.rules import Rules; Rules.load('rules')"),
    "signing key": ("key", "from ocikit.server.auth.jwt import load_key; load_key('key')"),
    "ignore file": ("data/.ocikitignore", "push('oci:y:v1', 'data')"),
    "key in folder": ("data/server.key", "push('oci:y:v1', 'data')"),
    "record": ("out/.ocikit/manifest.json", "push('oci:y:v1', 'plain'); pull('oci:y:v1', 'out'); raise OcikitError('regular file')"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "code"), FIFOS.values(), ids=FIFOS)
def test_fifo_in_place_of_file_is_refused(home, path, code):
    write(home, {"data/a.txt": "a", "plain/a.txt": "a"})
    (home / path).parent.mkdir(parents=True, exist_ok=True)
    if path.startswith("x/"):
        (home / "x/oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    os.mkfifo(home / path)
    (home / path).chmod(0o600)
    environ = os.environ | {"HOME": str(home), "DOCKER_CONFIG": str(home / ".docker"), "XDG_RUNTIME_DIR": str(home)}
    environ.pop("REGISTRY_AUTH_FILE", None)
    result = subprocess.run(
        [sys.executable, "-c", f"from ocikit import *; from ocikit.remote.config.network import Network\n{code}"],
        cwd=home, env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    last = [line for line in result.stderr.splitlines() if line.startswith("ocikit.errors.")]
    assert last and ("regular file" in last[-1] or "FIFO" in last[-1] or "fifo" in last[-1]), result.stderr


def test_secret_as_server_of_helper_is_not_shown(tmp_path):
    secret = "hunter2-correct-horse"
    program = tmp_path / "docker-credential-leak"
    program.write_text(f"""#!/bin/sh\necho '{{"ServerURL":"{secret}","Username":"a","Secret":"{secret}"}}'\n""")
    program.chmod(0o700)
    (tmp_path / "config.json").write_text('{"credsStore":"leak"}')
    keys = Keychain(environ={"PATH": f"{tmp_path}:/bin:/usr/bin", "DOCKER_CONFIG": str(tmp_path)}, home=tmp_path)
    with pytest.raises(ocikit.CredentialsError, match="returned credentials of another server") as caught:
        keys.for_reference("ghcr.io")
    assert secret not in str(caught.value)


def test_long_name_of_helper_is_shortened(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "x:" + "A" * 5000}))
    keys = Keychain(environ={"PATH": str(tmp_path), "DOCKER_CONFIG": str(tmp_path)}, home=tmp_path)
    with pytest.raises(ocikit.CredentialsError, match="was not run") as caught:
        keys.for_reference("ghcr.io")
    assert len(str(caught.value)) < 500
