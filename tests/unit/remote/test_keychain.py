"""Tests of credentials: sources, their order, storage, and redaction."""

import base64
import copy
import json
import multiprocessing
import os
import pickle
import stat
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocikit.errors import CredentialsError
from ocikit.remote.auth import docker_config
from ocikit.remote.auth.docker_config import lookup_keys, normalize_key
from ocikit.remote.auth.explanation import Explanation
from ocikit.remote.auth.helpers import Helper
from ocikit.remote.auth.keychain import ANONYMOUS, Credentials, Keychain
from ocikit.store.locks import exclusive

SECRET = "hunter2-correct-horse-battery"
HUB = "https://index.docker.io/v1/"


def auth(user="ada", password=SECRET):
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def visible(error):
    """Return all that a traceback, a log or a debugger shows of an error and its causes."""
    text = "".join(traceback.format_exception(error))
    while error is not None:
        text += f"{error!r}{vars(error)}{error.args}{getattr(error, 'doc', '')}{getattr(error, 'object', '')}"
        error = error.__cause__ or error.__context__
    return text


class Environment:
    """An empty home folder and an environment that points to it."""

    def __init__(self, folder):
        self.home = folder / "home"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.home.mkdir()
        self.environ = {
            "HOME": str(self.home),
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "XDG_RUNTIME_DIR": str(folder / "run"),
        }
        self.docker = self.home / ".docker" / "config.json"
        self.runtime = folder / "run" / "containers" / "auth.json"
        self.podman = self.home / ".config" / "containers" / "auth.json"
        self.legacy = self.home / ".dockercfg"

    def keychain(self, explicit=None, **options):
        return Keychain(explicit, environ=self.environ, **options)

    def find(self, host, repository="", **options):
        return self.keychain(**options).for_reference(host, repository)

    def write(self, config, path=None):
        path = path or self.docker
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        return path

    def helper(self, name, body):
        path = self.bin / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    def calls(self):
        log = self.home / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def good_helper(self, name="good", user="ada", secret=SECRET):
        """Add a helper that has ghcr.io and Docker Hub and records its calls."""
        self.helper(
            name,
            f"""server=$(cat); echo "$# $1 $server" >> $HOME/calls
case "$1 $server" in
"get ghcr.io"|"get {HUB}") echo '{{"ServerURL":"'$server'","Username":"{user}","Secret":"{secret}"}}';;
get*) echo "credentials not found in native keychain"; exit 1;;
list*) echo '{{"ghcr.io":"{user}"}}';;
esac""",
        )


@pytest.fixture
def env(tmp_path):
    return Environment(tmp_path)


# -- values


def secret_kinds():
    return [
        Credentials(username="ada", password=SECRET),
        Credentials(username="ada", identity_token=SECRET),
        Credentials(registry_token=SECRET),
    ]


@pytest.mark.parametrize("credentials", secret_kinds())
def test_credentials_neither_show_nor_pickle_secret(credentials):
    for text in (repr(credentials), str(credentials), f"{credentials}", f"{[credentials]}", credentials._repr_html_()):
        assert SECRET not in text
    assert not hasattr(credentials, "__dict__")
    assert not credentials.anonymous
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(credentials, protocol)
    with pytest.raises(TypeError, match="secret"):
        copy.deepcopy(credentials)


def test_keychain_neither_shows_nor_pickles_secret(env):
    env.environ["OCIKIT_PASSWORD"] = SECRET
    for explicit in [("ada", SECRET), {"ghcr.io": ("ada", SECRET)}, *secret_kinds()]:
        keys = env.keychain(explicit, helper_timeout=3, home=env.home)
        keys.for_reference("ghcr.io")
        for text in (repr(keys), str(keys), f"{keys}", keys._repr_html_()):
            assert SECRET not in text
        data = pickle.dumps(keys)
        assert SECRET.encode() not in data
        again = pickle.loads(data)
        assert (again.explicit, again.environ, again.helper_timeout, again.home) == (None, None, 3, env.home)
        assert not hasattr(keys, "__dict__")


def test_identity_differs_by_secret_and_reveals_none():
    identities = {c.identity for c in [*secret_kinds(), Credentials(username="bob", password=SECRET), ANONYMOUS]}
    assert len(identities) == 5
    assert Credentials(username="ada", password=SECRET).identity == secret_kinds()[0].identity
    assert Credentials(username="bob").identity == ANONYMOUS.identity
    run = [
        sys.executable,
        "-c",
        "from ocikit.remote.auth.keychain import *; print(Credentials(username='a',password='b').identity)",
    ]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    assert len({subprocess.run(run, capture_output=True, check=True, env=env).stdout for _ in range(2)}) == 2


def test_invalid_pair_is_rejected_without_showing_it():
    for wrong in [("ada", SECRET, "x"), ("ada", None), (SECRET,), 7, [SECRET]]:
        with pytest.raises(CredentialsError) as caught:
            Keychain(wrong, environ={}).for_reference("ghcr.io")
        assert SECRET not in visible(caught.value)


def test_user_token_means_identity_token():
    assert Credentials.of(("<token>", SECRET)).identity_token == SECRET
    assert Credentials.of(None) is ANONYMOUS


# -- the order of sources


def test_missing_credentials_are_anonymous(env):
    assert env.find("ghcr.io", "org/model") is ANONYMOUS


def test_sources_are_used_in_documented_order(env):
    config = {"auths": {"ghcr.io": auth("PLACE")}}

    def put(user, path):
        env.write({"auths": {"ghcr.io": auth(user)}}, path)

    env.write({"ghcr.io": auth("legacy")}, env.legacy)
    assert env.find("ghcr.io").username == "legacy"
    put("podman", env.podman)
    assert env.find("ghcr.io").username == "podman"
    put("runtime", env.runtime)
    assert env.find("ghcr.io").username == "runtime"
    put("docker", env.docker)
    assert env.find("ghcr.io").username == "docker"
    put("alone", env.home / "alone.json")
    env.environ["REGISTRY_AUTH_FILE"] = str(env.home / "alone.json")
    assert env.find("ghcr.io").username == "alone"
    env.environ["DOCKER_AUTH_CONFIG"] = json.dumps(config).replace(auth("PLACE")["auth"], auth("json")["auth"])
    assert env.find("ghcr.io").username == "json"
    env.environ |= {"OCIKIT_USERNAME": "env", "OCIKIT_PASSWORD": SECRET, "OCIKIT_REGISTRY": "ghcr.io"}
    assert env.find("ghcr.io").username == "env"
    assert env.find("ghcr.io", explicit=("passed", SECRET)).username == "passed"


def test_file_without_entry_is_skipped(env):
    env.write({"auths": {"quay.io": auth("docker"), "ghcr.io": {}}})
    env.write({"auths": {"ghcr.io": auth("podman")}}, env.podman)
    assert env.find("ghcr.io").username == "podman"
    assert env.find("quay.io").username == "docker"


def test_registry_auth_file_replaces_other_files(env):
    env.write({"auths": {"ghcr.io": auth()}})
    env.environ["REGISTRY_AUTH_FILE"] = str(env.write({"auths": {}}, env.home / "alone.json"))
    assert env.find("ghcr.io") is ANONYMOUS


def test_docker_config_and_xdg_variables_change_paths(env):
    other = env.home / "elsewhere"
    env.write({"auths": {"a.example": auth("docker")}}, other / "config.json")
    env.write({"auths": {"b.example": auth("podman")}}, other / "containers" / "auth.json")
    env.environ |= {"DOCKER_CONFIG": str(other), "XDG_CONFIG_HOME": str(other)}
    assert env.find("a.example").username == "docker"
    assert env.find("b.example").username == "podman"


def test_login_of_another_process_takes_effect_at_once(env):
    keys = env.keychain()
    assert keys.for_reference("ghcr.io") is ANONYMOUS
    env.write({"auths": {"ghcr.io": auth("first")}})
    assert keys.for_reference("ghcr.io").username == "first"
    env.write({"auths": {"ghcr.io": auth("other")}})
    assert keys.for_reference("ghcr.io").username == "other"


# -- passed credentials


def test_passed_pair_is_for_one_registry_only(env):
    keys = env.keychain(("ada", SECRET))
    assert keys.explain("mirror.example").winner.username == "ada"  # explain binds no pair
    assert keys.for_reference("ghcr.io").password == SECRET
    assert keys.for_reference("mirror.example") is ANONYMOUS
    assert "for ghcr.io only" in str(keys.explain("mirror.example"))
    named = env.keychain(("ada", SECRET), registry="docker.io")
    assert named.for_reference("mirror.example") is ANONYMOUS
    assert named.for_reference("registry-1.docker.io", "library/alpine").username == "ada"


def test_passed_mapping_uses_most_specific_key(env):
    env.write({"auths": {"quay.io": auth("file")}})
    keys = env.keychain(
        {"ghcr.io": ("host", "x"), "ghcr.io/org": Credentials(username="org", password="x"), "quay.io/open": None}
    )
    assert keys.for_reference("ghcr.io", "other/model").username == "host"
    assert keys.for_reference("ghcr.io", "org/model").username == "org"
    assert keys.for_reference("quay.io", "team/model").username == "file"
    assert keys.for_reference("quay.io", "open/model") is ANONYMOUS


def test_passed_function_may_defer_to_next_source(env):
    env.write({"auths": {"quay.io": auth("file")}})
    keys = env.keychain(lambda host, repository: ("fn", repository) if host == "ghcr.io" else None)
    assert keys.for_reference("ghcr.io", "org/model") == Credentials(username="fn", password="org/model")
    assert keys.for_reference("quay.io").username == "file"


def test_passed_anonymous_disables_other_sources(env):
    env.write({"auths": {"ghcr.io": auth()}})
    keys = env.keychain(ANONYMOUS)
    assert keys.for_reference("ghcr.io").anonymous
    assert keys.for_reference("quay.io").anonymous
    assert keys.explain("ghcr.io").winner.place == "passed credentials"


# -- the environment


def test_environment_is_for_its_registry_only(env):
    env.environ |= {"OCIKIT_USERNAME": "ada", "OCIKIT_PASSWORD": SECRET}
    assert env.find("ghcr.io") is ANONYMOUS
    assert "OCIKIT_REGISTRY" in str(env.keychain().explain("ghcr.io"))
    env.environ["OCIKIT_REGISTRY"] = "ghcr.io"
    assert env.find("ghcr.io", "org/model") == Credentials(username="ada", password=SECRET)
    assert env.find("ghcr.io.evil.example") is ANONYMOUS
    assert env.find("evil.example", "ghcr.io") is ANONYMOUS
    env.environ["OCIKIT_REGISTRY"] = "ghcr.io/org"
    assert env.find("ghcr.io", "org/model").username == "ada"
    assert env.find("ghcr.io", "other/model") is ANONYMOUS


def test_environment_token_is_registry_token(env):
    env.environ |= {"OCIKIT_TOKEN": f"{SECRET}\n", "OCIKIT_REGISTRY": "https://ghcr.io/v2/"}
    assert env.find("ghcr.io").registry_token == SECRET


def test_user_without_password_is_not_used(env):
    env.environ |= {"OCIKIT_USERNAME": "ada", "OCIKIT_REGISTRY": "ghcr.io"}
    assert env.find("ghcr.io") is ANONYMOUS


def test_environment_is_read_for_each_call(monkeypatch, env):
    for name in (
        "OCIKIT_USERNAME",
        "OCIKIT_PASSWORD",
        "OCIKIT_TOKEN",
        "DOCKER_AUTH_CONFIG",
        "REGISTRY_AUTH_FILE",
        "DOCKER_CONFIG",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, env.environ[name])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(env.home / ".config"))
    keys = Keychain()
    assert keys.for_reference("ghcr.io") is ANONYMOUS
    monkeypatch.setenv("OCIKIT_TOKEN", SECRET)
    monkeypatch.setenv("OCIKIT_REGISTRY", "ghcr.io")
    assert keys.for_reference("ghcr.io").registry_token == SECRET


# -- entries


@pytest.mark.parametrize(
    "key", [HUB, "index.docker.io", "docker.io", "registry-1.docker.io", "https://index.docker.io/v1"]
)
@pytest.mark.parametrize("host", ["docker.io", "registry-1.docker.io", "index.docker.io"])
def test_docker_hub_names_are_equal(env, key, host):
    env.write({"auths": {key: auth()}})
    assert env.find(host, "library/alpine").username == "ada"
    assert env.find("ghcr.io") is ANONYMOUS


def test_docker_login_key_of_docker_hub_has_precedence(env):
    env.write({"auths": {"docker.io": auth("podman"), HUB: auth("docker"), "docker.io/library": auth("library")}})
    assert env.find("docker.io", "org/model").username == "docker"
    assert env.find("docker.io", "library/alpine").username == "library"


@pytest.mark.parametrize(
    "key",
    ["https://r.example:5000", "http://r.example:5000/", "r.example:5000/v2/", "R.example:5000/v1/", "r.example:5000"],
)
def test_key_may_have_scheme_and_api_version(env, key):
    env.write({"auths": {key: auth()}})
    assert env.find("r.example:5000", "a").username == "ada"
    assert env.find("r.example") is ANONYMOUS
    assert env.find("r.example:5001") is ANONYMOUS


def test_most_specific_key_wins(env):
    keys = ["quay.io", "quay.io/ns/repo", "quay.io/ns", "quay.io/ns/v2"]
    env.write({"auths": {key: auth(key) for key in keys}})
    found = {
        r: env.find("quay.io", r).username for r in ("ns/repo", "ns/other", "nsx/repo", "", "ns/repo/deep", "ns/v2")
    }
    assert found == {
        "ns/repo": "quay.io/ns/repo", "ns/other": "quay.io/ns", "nsx/repo": "quay.io", "": "quay.io",
        "ns/repo/deep": "quay.io/ns/repo", "ns/v2": "quay.io/ns/v2",
    }  # fmt: skip


@given(st.lists(st.from_regex(r"[a-z0-9]{1,4}", fullmatch=True), max_size=4))
def test_lookup_keys_go_from_repository_to_host(parts):
    wished = lookup_keys("GHCR.io", "/".join(parts))
    assert wished[-1] == "ghcr.io"
    assert len(wished) == len(parts) + 1
    assert all(longer.startswith(shorter) for longer, shorter in zip(wished, wished[1:], strict=False))


@given(st.text())
def test_normalize_key_is_idempotent(key):
    assert (
        normalize_key("https://" + normalize_key(key)) == normalize_key(normalize_key(key))
        or "v1" in key
        or "v2" in key
        or "://" in key
        or key != key.strip()
    )


@pytest.mark.parametrize(
    ("entry", "credentials"),
    [
        (auth("ada", "a:b:c"), Credentials(username="ada", password="a:b:c")),
        (auth("ada", SECRET + "\0\0"), Credentials(username="ada", password=SECRET)),
        (auth("ada", "pässwörd"), Credentials(username="ada", password="pässwörd")),
        ({"username": "ada", "password": SECRET}, Credentials(username="ada", password=SECRET)),
        (
            {**auth("00000000-0000", ""), "identitytoken": SECRET},
            Credentials(username="00000000-0000", identity_token=SECRET),
        ),
        ({"registrytoken": SECRET}, Credentials(registry_token=SECRET)),
        (auth("<token>", SECRET), Credentials(username="<token>", identity_token=SECRET)),
        ({"email": "a@b", **auth()}, Credentials(username="ada", password=SECRET)),
    ],
)
def test_every_form_of_entry_is_parsed(env, entry, credentials):
    env.write({"auths": {"ghcr.io": entry}})
    assert env.find("ghcr.io") == credentials


@pytest.mark.parametrize(
    "entry", [{}, None, {"auth": ""}, {"auth": None}, {"email": "a@b"}, {"username": "ada"}, auth("ada", "")]
)
def test_empty_entry_is_skipped(env, entry):
    env.write({"auths": {"ghcr.io": entry}})
    env.write({"auths": {"ghcr.io": auth("podman")}}, env.podman)
    assert env.find("ghcr.io").username == "podman"


@pytest.mark.parametrize(
    "content",
    [
        f'{{"auths": {{"ghcr.io": {{"auth": "{SECRET}"',
        f'["{SECRET}"]',
        f'"{SECRET}"',
        {"auths": [SECRET]},
        {"auths": {"ghcr.io": SECRET}},
        {"auths": {"ghcr.io": [SECRET]}},
        {"auths": {"ghcr.io": {"auth": [SECRET]}}},
        {"auths": {"ghcr.io": {"auth": SECRET}}},
        {"auths": {"ghcr.io": {"auth": base64.b64encode(SECRET.encode()).decode()}}},
        {"auths": {"ghcr.io": {"auth": base64.b64encode(SECRET.encode() + b":\xff").decode()}}},
        {"credHelpers": [SECRET]},
        {"credsStore": {"x": SECRET}},
        {"credHelpers": {"ghcr.io": [SECRET]}},
        "[" * 100_000 + SECRET,
        f'{{"x": "{SECRET}"}}' + " " * (5 << 20),
    ],
)
def test_malformed_file_error_has_path_but_no_content(env, content):
    env.write(content)
    with pytest.raises(CredentialsError, match=r"~/.docker/config.json") as caught:
        env.find("ghcr.io")
    assert caught.value.hint
    assert SECRET not in visible(caught.value)
    assert base64.b64encode(SECRET.encode()).decode() not in visible(caught.value)
    explanation = env.keychain().explain("ghcr.io")
    assert explanation.winner is None
    assert explanation.failure.place == "~/.docker/config.json"
    assert SECRET not in f"{explanation}{explanation!r}{explanation._repr_html_()}"


def test_malformed_environment_json_is_named(env):
    env.environ["DOCKER_AUTH_CONFIG"] = f'{{"auths": "{SECRET}'
    with pytest.raises(CredentialsError, match="DOCKER_AUTH_CONFIG is not JSON: line 1") as caught:
        env.find("ghcr.io")
    assert SECRET not in visible(caught.value)


def test_folder_as_file_is_unreadable_and_file_as_folder_missing(env):
    env.docker.mkdir(parents=True)
    with pytest.raises(CredentialsError, match="can't be read"):
        env.find("ghcr.io")
    env.docker.rmdir()
    env.docker.parent.rmdir()
    env.docker.parent.write_text("")
    assert env.find("ghcr.io") is ANONYMOUS


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything; run as another user")
def test_unreadable_file_is_named(env):
    env.write({}).chmod(0)
    with pytest.raises(CredentialsError, match="can't be read: Permission denied"):
        env.find("ghcr.io")


def test_byte_order_mark_and_empty_file_are_accepted(env):
    env.write("\ufeff" + json.dumps({"auths": {"ghcr.io": auth()}}))
    assert env.find("ghcr.io").username == "ada"
    env.write(" \n")
    assert env.find("ghcr.io") is ANONYMOUS


# -- helpers


def test_helper_gets_server_on_stdin_only(env):
    env.good_helper()
    env.write({"credsStore": "good"})
    assert env.find("ghcr.io", "org/model") == Credentials(username="ada", password=SECRET)
    assert env.calls() == ["1 get ghcr.io"]


def test_helper_without_credentials_is_skipped(env):
    env.good_helper()
    env.write({"credsStore": "good", "auths": {"quay.io": auth("file")}})
    assert env.find("quay.io").username == "file"
    assert env.find("r.example") is ANONYMOUS


@pytest.mark.parametrize(
    "message", ["credentials not found in native keychain", "no credentials server URL", "no credentials username"]
)
def test_not_found_messages_of_helpers_mean_no_credentials(env, message):
    env.helper("none", f"echo '{message}'; exit 1")
    env.write({"credsStore": "none"})
    assert env.find("ghcr.io") is ANONYMOUS


def test_empty_secret_of_helper_means_no_credentials(env):
    env.helper("empty", """echo '{"ServerURL":"ghcr.io","Username":"","Secret":""}'""")
    env.write({"credsStore": "empty"})
    assert env.find("ghcr.io") is ANONYMOUS


def test_docker_hub_is_requested_by_docker_name(env):
    env.good_helper()
    env.write({"credsStore": "good"})
    assert env.find("docker.io", "library/alpine").username == "ada"
    assert env.calls() == [f"1 get {HUB}"]


def test_registry_helper_precedes_default_store(env):
    env.good_helper("one", user="one")
    env.good_helper("all", user="all")
    env.write({"credHelpers": {"https://ghcr.io": "one"}, "credsStore": "all", "auths": {"ghcr.io": auth("file")}})
    assert env.find("ghcr.io").username == "one"
    env.write({"credHelpers": {"quay.io": "one"}, "credsStore": "all", "auths": {"ghcr.io": auth("file")}})
    assert env.find("ghcr.io").username == "all"


def test_user_token_of_helper_means_identity_token(env):
    env.good_helper(user="<token>")
    env.write({"credsStore": "good"})
    assert env.find("ghcr.io") == Credentials(username="<token>", identity_token=SECRET)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("exit 3", "exit status 3"),
        ("echo 'pass not initialized'; exit 1", "pass not initialized"),
        (f"""echo '{{"Username":"ada","Secret":"{SECRET}"'; exit 1""", "exit status 1"),
        (f"echo '{SECRET}'; exit 1", "exit status 1"),
        (f"echo '{SECRET}'", "not a JSON object"),
        (f"""echo '["{SECRET}"]'""", "not a JSON object"),
        (f"""echo '{{"Username":["{SECRET}"],"Secret":7}}'""", "not credentials"),
        (f"echo '{SECRET}' >&2; kill -9 $$", "signal 9"),
        ("exec yes", "more than"),
        ("true", "not a JSON object"),
        (r"""printf '{"Username":"ada","Secret":"caf\351"}'""", "not UTF-8"),
        (
            f"""echo '{{"ServerURL":"quay.io","Username":"ada","Secret":"{SECRET}"}}'""",
            "returned credentials of quay.io",
        ),
        (
            f"""echo '{{"ServerURL":"https://ghcr.io.evil.example","Username":"ada","Secret":"{SECRET}"}}'""",
            "evil.example",
        ),
        (f"echo '{SECRET}' >&2; exit 1", "exit status 1"),
        ("printf '%100000s' | tr ' ' '['", "not a JSON object"),
    ],
)
def test_failed_helper_is_named_without_secret(env, body, says):
    env.helper("bad", body)
    env.write({"credsStore": "bad"})
    with pytest.raises(CredentialsError, match="docker-credential-bad get for ghcr.io") as caught:
        env.find("ghcr.io")
    assert says in str(caught.value)
    assert "docker-credential-bad get" in caught.value.hint
    assert SECRET not in visible(caught.value)
    assert SECRET not in str(env.keychain().explain("ghcr.io"))


@pytest.mark.timeout(25)
@pytest.mark.parametrize("body", ["exec sleep 60", "sleep 20 & exit 0", "exec >&-; exec sleep 60"])
def test_hanging_helper_is_stopped(env, body):
    env.helper("slow", body)
    env.write({"credsStore": "slow"})
    with pytest.raises(CredentialsError, match="took longer than 0.5 s"):
        env.find("ghcr.io", helper_timeout=0.5)


@pytest.mark.parametrize("about", ["https://ghcr.io", "GHCR.IO", "ghcr.io:443", "https://ghcr.io/v1/", ""])
def test_helper_may_return_server_in_other_form(env, about):
    env.helper("other", f"""echo '{{"ServerURL":"{about}","Username":"ada","Secret":"{SECRET}"}}'""")
    env.write({"credsStore": "other"})
    assert env.find("ghcr.io").username == "ada"


def test_helper_may_return_any_docker_hub_name(env):
    env.helper("hub", f"""echo '{{"ServerURL":"registry-1.docker.io","Username":"ada","Secret":"{SECRET}"}}'""")
    env.write({"credsStore": "hub"})
    assert env.find("docker.io").username == "ada"


def has_ended(pid):
    """Return True if a process has ended; a zombie counts, because only its parent can reap it."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("end", ["wait", "exit 0", "exec >&-; wait", "trap '' TERM; wait"])
def test_hanging_helper_is_stopped_with_its_children(env, end):
    env.helper("slow", f"echo $$ > $HOME/pids; sleep 60 & echo $! >> $HOME/pids; {end}")
    env.write({"credsStore": "slow"})
    with pytest.raises(CredentialsError, match="docker-credential-slow .* took longer"):
        env.find("ghcr.io", helper_timeout=0.5)
    helper, child = (env.home / "pids").read_text().split()
    assert not Path(f"/proc/{helper}").exists(), "no zombie stays"
    until = time.monotonic() + 20
    while not has_ended(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert has_ended(child)


def test_missing_helper_is_named(env):
    env.write({"credsStore": "absent"})
    with pytest.raises(CredentialsError, match="docker-credential-absent .* no such program"):
        env.find("ghcr.io")


def test_helper_that_cannot_start_is_named(env):
    path = env.helper("broken", "")
    path.write_bytes(b"\x7fELF, but not really")
    with pytest.raises(CredentialsError, match="docker-credential-broken could not be run"):
        Helper(name="broken", environ=env.environ).get("ghcr.io")


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "a b", ".hidden", "a;b", "-x", "a\nb", "x\\y"])
def test_helper_name_with_path_is_not_run(env, name):
    env.write({"credsStore": name})
    with pytest.raises(CredentialsError, match="was not run"):
        env.find("ghcr.io")


def test_helper_lists_and_erases(env):
    env.good_helper()
    helper = Helper(name="good", environ=env.environ)
    assert helper.list() == {"ghcr.io": "ada"}
    helper.erase("ghcr.io")
    assert env.calls()[-1] == "1 erase ghcr.io"
    assert "environ" not in repr(helper)


# -- explain


def test_explain_lists_all_sources(env):
    env.good_helper()
    env.write({"auths": {"ghcr.io/org": auth("docker")}})
    env.write({"credsStore": "good"}, env.runtime)
    env.write({"auths": {"ghcr.io": auth("podman")}}, env.podman)
    explanation = env.keychain().explain("ghcr.io", "org/model")
    assert isinstance(explanation, Explanation)
    assert [s.place.replace(str(env.home.parent), "") for s in explanation.steps] == [
        "environment OCIKIT_*", "~/.docker/config.json", "/run/containers/auth.json", "~/.config/containers/auth.json", "~/.dockercfg",
    ]  # fmt: skip
    winner = explanation.winner
    assert (winner.place, winner.username, winner.kind, winner.key) == (
        "~/.docker/config.json",
        "docker",
        "password",
        "ghcr.io/org",
    )
    assert [s.username for s in explanation.steps if s.kind and not s.wins] == ["podman"]
    assert env.calls() == []  # helpers of later sources are not run
    assert repr(explanation).startswith(
        "Explanation(host='ghcr.io', repository='org/model', username='docker', kind='password'"
    )
    for text in (str(explanation), repr(explanation), explanation._repr_html_(), repr(explanation.steps)):
        assert SECRET not in text
        assert auth("docker")["auth"] not in text
    assert "-> ~/.docker/config.json: docker (password); key ghcr.io/org" in str(explanation)
    assert "<th>key</th>" in explanation._repr_html_()
    assert SECRET not in str(pickle.loads(pickle.dumps(explanation)))


def test_explain_agrees_with_for_reference(env):
    env.good_helper()
    env.write({"credsStore": "good", "auths": {"quay.io": auth("file")}})
    for host in ("ghcr.io", "quay.io", "docker.io", "r.example"):
        found, winner = env.find(host), env.keychain().explain(host).winner
        assert (winner.username, winner.kind) == (found.username, found.kind) if winner else found.anonymous


def test_explain_continues_after_failed_source(env):
    env.write("{")
    env.write({"auths": {"ghcr.io": auth("podman")}}, env.podman)
    explanation = env.keychain().explain("ghcr.io")
    assert explanation.winner is None
    assert "!! ~/.docker/config.json: ~/.docker/config.json is not JSON" in str(explanation)
    assert "podman" in str(explanation)
    assert "failure" in repr(explanation)


def test_explain_sanitizes_file_content(env):
    env.write({"auths": {"ghcr.io": auth("<script>\x1b[31m")}})
    explanation = env.keychain().explain("ghcr.io")
    assert "<script>" not in explanation._repr_html_()
    assert "\x1b" not in f"{explanation}{explanation!r}"


# -- login and logout


def test_login_is_found_and_private_to_owner(env):
    assert env.keychain().login("ghcr.io", "ada", SECRET) == "~/.docker/config.json"
    assert json.loads(env.docker.read_text()) == {"auths": {"ghcr.io": auth()}}
    assert stat.S_IMODE(env.docker.stat().st_mode) == 0o600
    assert stat.S_IMODE(env.docker.parent.stat().st_mode) == 0o700
    assert env.find("ghcr.io", "org/model") == Credentials(username="ada", password=SECRET)
    assert {p.name for p in env.docker.parent.iterdir()} == {"config.json", "config.json.lock"}


def test_login_preserves_other_entries_and_order(env):
    before = {
        "zeta": {"unknown": [1, 2.5, None]},
        "auths": {
            "quay.io": auth("bob"),
            "ghcr.io": {"email": "a@b", "future": True, "identitytoken": "old"},
            "a.example": {},
        },
        "HttpHeaders": {"X": "é"},
    }
    env.write(before).chmod(0o644)
    env.keychain().login("ghcr.io", "ada", SECRET)
    after = json.loads(env.docker.read_text())
    assert list(after) == list(before)
    assert list(after["auths"]) == list(before["auths"])
    assert after["auths"].pop("ghcr.io") == {"email": "a@b", "future": True, **auth()}
    before["auths"].pop("ghcr.io")
    assert after == before
    assert stat.S_IMODE(env.docker.stat().st_mode) == 0o600


def test_docker_hub_login_uses_docker_key(env):
    env.keychain().login("docker.io", "ada", SECRET)
    assert list(json.loads(env.docker.read_text())["auths"]) == [HUB]
    assert env.find("registry-1.docker.io", "library/alpine").username == "ada"


def test_login_is_verified_before_storing(env):
    seen = []

    def refuse(credentials):
        seen.append(credentials)
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        env.keychain().login("ghcr.io", "ada", SECRET, verify=refuse)
    assert seen == [Credentials(username="ada", password=SECRET)]
    assert not env.docker.exists()
    env.keychain().login("ghcr.io", "ada", SECRET, verify=seen.append)
    assert env.docker.exists()


def test_login_during_verification_of_another_is_preserved(env):
    env.keychain().login("ghcr.io", "ada", SECRET, verify=lambda _: env.keychain().login("quay.io", "bob", SECRET))
    assert env.find("quay.io").username == "bob"
    assert env.find("ghcr.io").username == "ada"


HOSTS = [f"registry{n}.example" for n in range(8)]


def _edit(environ, action, host, barrier):
    keys = Keychain(environ=environ)
    barrier.wait()
    if action == "login":
        keys.login(host, "ada", SECRET)
    else:
        assert keys.logout(host)


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_concurrent_logins_and_logouts_lose_no_entry(env, kind):
    env.docker.parent.mkdir()
    env.docker.write_text(json.dumps({"auths": {"quay.io": auth("bob")}, "HttpHeaders": {"X": "y"}}))
    context = multiprocessing.get_context("spawn")
    for action, entries in (("login", {*HOSTS, "quay.io"}), ("logout", {"quay.io"})):
        barrier = context.Barrier(8) if kind == "processes" else threading.Barrier(8)
        start = context.Process if kind == "processes" else threading.Thread
        workers = [start(target=_edit, args=(env.environ, action, host, barrier)) for host in HOSTS]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if kind == "processes":
            assert [worker.exitcode for worker in workers] == [0] * 8
        config = json.loads(env.docker.read_text())
        assert set(config["auths"]) == entries
        assert config["HttpHeaders"] == {"X": "y"}
    assert stat.S_IMODE(env.docker.stat().st_mode) == 0o600


def test_login_locks_target_of_link(env, tmp_path):
    """The lock is next to the file that the link leads to, so that both names have one lock."""
    env.docker.parent.mkdir()
    real = tmp_path / "dotfiles.json"
    real.write_text("{}")
    env.docker.symlink_to(real)
    env.keychain().login("ghcr.io", "ada", SECRET)
    assert (tmp_path / "dotfiles.json.lock").exists() and env.docker.is_symlink()


def test_lock_that_is_never_released_is_named(env, monkeypatch):
    monkeypatch.setattr(docker_config, "_LOCK_TIMEOUT", 0.05)
    env.docker.parent.mkdir()
    lock = exclusive(env.docker.with_name("config.json.lock"), 1)
    with lock, pytest.raises(CredentialsError, match="can't be locked"):
        env.keychain().login("ghcr.io", "ada", SECRET)


def test_login_writes_target_of_link(env):
    real = env.write({"x": 1}, env.home / "dotfiles" / "docker.json")
    env.docker.parent.mkdir()
    env.docker.symlink_to(real)
    env.keychain().login("ghcr.io", "ada", SECRET)
    assert env.docker.is_symlink()
    assert json.loads(real.read_text())["x"] == 1
    assert env.find("ghcr.io").username == "ada"


def test_login_stores_identity_token(env):
    env.keychain().login("r.azurecr.io", "guid", identity_token=SECRET)
    assert env.find("r.azurecr.io") == Credentials(username="guid", identity_token=SECRET)


def test_login_writes_registry_auth_file(env):
    env.environ["REGISTRY_AUTH_FILE"] = str(env.home / "new" / "auth.json")
    env.keychain().login("ghcr.io", "ada", SECRET)
    assert not env.docker.exists()
    assert env.find("ghcr.io").username == "ada"


def test_login_never_replaces_malformed_file(env):
    env.write("{ not json")
    with pytest.raises(CredentialsError, match="is not JSON"):
        env.keychain().login("ghcr.io", "ada", SECRET)
    assert env.docker.read_text() == "{ not json"


@pytest.mark.parametrize(
    ("host", "user", "password"),
    [("", "ada", "x"), ("a b", "ada", "x"), ("u@h", "ada", "x"), ("h", "", "x"), ("h", "ada", ""), ("h", "a:b", "x")],
)
def test_invalid_login_is_rejected(env, host, user, password):
    with pytest.raises(CredentialsError):
        env.keychain().login(host, user, password)
    assert not env.docker.exists()


def test_unwritable_folder_is_named_and_unchanged(env):
    env.docker.parent.write_text("a file")
    with pytest.raises(CredentialsError, match=r"~/.docker/config.json can't be written") as caught:
        env.keychain().login("ghcr.io", "ada", SECRET)
    assert SECRET not in visible(caught.value)


def test_login_uses_configured_helper(env):
    env.helper("keep", 'cat > "$HOME/$1.json"')
    env.write({"credsStore": "keep", "auths": {"ghcr.io": auth("stale")}})
    assert env.keychain().login("ghcr.io", "ada", SECRET) == "docker-credential-keep"
    assert json.loads((env.home / "store.json").read_text()) == {
        "ServerURL": "ghcr.io",
        "Username": "ada",
        "Secret": SECRET,
    }
    assert json.loads(env.docker.read_text()) == {"credsStore": "keep", "auths": {"ghcr.io": {}}}


def test_failed_store_of_helper_is_named_without_secret(env):
    env.helper("full", "cat; exit 1")
    env.helper("echo", "cat | sed 's/.*Secret...//; s/..$//' ; exit 1")
    words = " ".join(["two", "words"])
    for name in ("full", "echo"):
        before = env.write({"credsStore": name}).read_text()
        with pytest.raises(CredentialsError, match=f"docker-credential-{name} store for ghcr.io failed") as caught:
            env.keychain().login("ghcr.io", "ada", words)
        assert words not in visible(caught.value)
        assert env.docker.read_text() == before


def test_logout_removes_all_keys_of_registry_only(env):
    keys = env.keychain()
    env.write({"auths": {HUB: auth(), "docker.io": auth(), "ghcr.io": auth(), "docker.io/org": auth()}, "x": 1})
    assert keys.logout("docker.io") is True
    assert json.loads(env.docker.read_text()) == {"auths": {"ghcr.io": auth(), "docker.io/org": auth()}, "x": 1}
    assert keys.logout("docker.io") is False
    assert keys.logout("quay.io") is False


def test_logout_without_file_creates_none(env):
    assert env.keychain().logout("ghcr.io") is False
    assert not env.docker.exists()


def test_logout_erases_in_helper(env):
    env.good_helper()
    env.write({"credsStore": "good", "auths": {"ghcr.io": {}}})
    assert env.keychain().logout("ghcr.io") is True
    assert env.calls()[-1] == "1 erase ghcr.io"
    assert json.loads(env.docker.read_text()) == {"credsStore": "good", "auths": {}}


# -- a real helper


@pytest.mark.peers("docker-credential-pass", "pass", "gpg", "gpgconf")
def test_pass_helper_stores_gets_lists_and_erases(env, tmp_path):
    from tests.support.peers import find

    programs = [find(name) for name in ("docker-credential-pass", "pass", "gpg", "gpgconf")]
    # gpg-agent's socket has a path limit of about 100 characters, so not under tmp_path.
    import shutil
    import tempfile

    gnupg = Path(tempfile.mkdtemp(prefix="ocikit-gpg-"))
    environ = env.environ
    environ["PATH"] = os.pathsep.join([*dict.fromkeys(str(p.parent) for p in programs), "/usr/bin", "/bin"])
    environ |= {"GNUPGHOME": str(gnupg), "PASSWORD_STORE_DIR": str(tmp_path / "store")}
    try:
        key = [
            "gpg",
            "--batch",
            "--passphrase",
            "",
            "--quick-generate-key",
            "ocikit@example.invalid",
            "default",
            "default",
            "never",
        ]
        subprocess.run(key, env=environ, check=True, capture_output=True, timeout=120)
        subprocess.run(
            ["pass", "init", "ocikit@example.invalid"], env=environ, check=True, capture_output=True, timeout=60
        )
        env.write({"credsStore": "pass"})
        keys = env.keychain()
        for host in ("ghcr.io", "docker.io"):
            assert keys.for_reference(host) is ANONYMOUS
            assert keys.login(host, "ada", SECRET) == "docker-credential-pass"
            assert keys.for_reference(host) == Credentials(username="ada", password=SECRET)
            winner = keys.explain(host).winner
            assert (winner.username, winner.note) == ("ada", "from docker-credential-pass")
        assert Helper(name="pass", environ=environ).list() == {"ghcr.io": "ada", HUB: "ada"}
        assert SECRET not in env.docker.read_text()
        keys.login("r.azurecr.io", identity_token=SECRET)
        assert keys.for_reference("r.azurecr.io").identity_token == SECRET
        assert keys.logout("ghcr.io") is True
        assert keys.for_reference("ghcr.io") is ANONYMOUS
        assert keys.logout("ghcr.io") is False
    finally:
        subprocess.run(["gpgconf", "--kill", "gpg-agent"], env=environ, check=False, capture_output=True)
        shutil.rmtree(gnupg, ignore_errors=True)
