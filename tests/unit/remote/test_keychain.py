"""Credentials: where they are looked for, in which order, how they are kept, and that they are never shown."""

import base64
import copy
import json
import os
import pickle
import stat
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocikit.errors import CredentialsError
from ocikit.remote.auth.docker_config import lookup_keys, normalize_key
from ocikit.remote.auth.explanation import Explanation
from ocikit.remote.auth.helpers import Helper
from ocikit.remote.auth.keychain import ANONYMOUS, Credentials, Keychain

SECRET = "hunter2-correct-horse-battery"
HUB = "https://index.docker.io/v1/"


def auth(user="ada", password=SECRET):
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def visible(error):
    """Everything that a traceback, a log or a debugger shows of an error and of what led to it."""
    text = "".join(traceback.format_exception(error))
    while error is not None:
        text += f"{error!r}{vars(error)}{error.args}{getattr(error, 'doc', '')}{getattr(error, 'object', '')}"
        error = error.__cause__ or error.__context__
    return text


class Place:
    """A home folder with nothing in it, and an environment that points to it."""

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
        """Knows ghcr.io and Docker Hub; notes what it is called with."""
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
def place(tmp_path):
    return Place(tmp_path)


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


def test_keychain_neither_shows_nor_pickles_secret(place):
    place.environ["OCIKIT_PASSWORD"] = SECRET
    for explicit in [("ada", SECRET), {"ghcr.io": ("ada", SECRET)}, *secret_kinds()]:
        keys = place.keychain(explicit, helper_timeout=3, home=place.home)
        keys.for_reference("ghcr.io")
        for text in (repr(keys), str(keys), f"{keys}", keys._repr_html_()):
            assert SECRET not in text
        data = pickle.dumps(keys)
        assert SECRET.encode() not in data
        again = pickle.loads(data)
        assert (again.explicit, again.environ, again.helper_timeout, again.home) == (None, None, 3, place.home)
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


# -- the order of places


def test_missing_credentials_are_anonymous(place):
    assert place.find("ghcr.io", "org/model") is ANONYMOUS


def test_sources_are_used_in_documented_order(place):
    config = {"auths": {"ghcr.io": auth("PLACE")}}

    def put(user, path):
        place.write({"auths": {"ghcr.io": auth(user)}}, path)

    place.write({"ghcr.io": auth("legacy")}, place.legacy)
    assert place.find("ghcr.io").username == "legacy"
    put("podman", place.podman)
    assert place.find("ghcr.io").username == "podman"
    put("runtime", place.runtime)
    assert place.find("ghcr.io").username == "runtime"
    put("docker", place.docker)
    assert place.find("ghcr.io").username == "docker"
    put("alone", place.home / "alone.json")
    place.environ["REGISTRY_AUTH_FILE"] = str(place.home / "alone.json")
    assert place.find("ghcr.io").username == "alone"
    place.environ["DOCKER_AUTH_CONFIG"] = json.dumps(config).replace(auth("PLACE")["auth"], auth("json")["auth"])
    assert place.find("ghcr.io").username == "json"
    place.environ |= {"OCIKIT_USERNAME": "env", "OCIKIT_PASSWORD": SECRET, "OCIKIT_REGISTRY": "ghcr.io"}
    assert place.find("ghcr.io").username == "env"
    assert place.find("ghcr.io", explicit=("passed", SECRET)).username == "passed"


def test_file_without_entry_is_skipped(place):
    place.write({"auths": {"quay.io": auth("docker"), "ghcr.io": {}}})
    place.write({"auths": {"ghcr.io": auth("podman")}}, place.podman)
    assert place.find("ghcr.io").username == "podman"
    assert place.find("quay.io").username == "docker"


def test_registry_auth_file_replaces_other_files(place):
    place.write({"auths": {"ghcr.io": auth()}})
    place.environ["REGISTRY_AUTH_FILE"] = str(place.write({"auths": {}}, place.home / "alone.json"))
    assert place.find("ghcr.io") is ANONYMOUS


def test_docker_config_and_xdg_variables_change_paths(place):
    other = place.home / "elsewhere"
    place.write({"auths": {"a.example": auth("docker")}}, other / "config.json")
    place.write({"auths": {"b.example": auth("podman")}}, other / "containers" / "auth.json")
    place.environ |= {"DOCKER_CONFIG": str(other), "XDG_CONFIG_HOME": str(other)}
    assert place.find("a.example").username == "docker"
    assert place.find("b.example").username == "podman"


def test_login_of_another_process_takes_effect_at_once(place):
    keys = place.keychain()
    assert keys.for_reference("ghcr.io") is ANONYMOUS
    place.write({"auths": {"ghcr.io": auth("first")}})
    assert keys.for_reference("ghcr.io").username == "first"
    place.write({"auths": {"ghcr.io": auth("other")}})
    assert keys.for_reference("ghcr.io").username == "other"


# -- passed credentials


def test_passed_pair_is_for_one_registry_only(place):
    keys = place.keychain(("ada", SECRET))
    assert keys.explain("mirror.example").winner.username == "ada"  # explaining binds nothing
    assert keys.for_reference("ghcr.io").password == SECRET
    assert keys.for_reference("mirror.example") is ANONYMOUS
    assert "for ghcr.io only" in str(keys.explain("mirror.example"))
    named = place.keychain(("ada", SECRET), registry="docker.io")
    assert named.for_reference("mirror.example") is ANONYMOUS
    assert named.for_reference("registry-1.docker.io", "library/alpine").username == "ada"


def test_passed_mapping_uses_most_specific_key(place):
    place.write({"auths": {"quay.io": auth("file")}})
    keys = place.keychain(
        {"ghcr.io": ("host", "x"), "ghcr.io/org": Credentials(username="org", password="x"), "quay.io/open": None}
    )
    assert keys.for_reference("ghcr.io", "other/model").username == "host"
    assert keys.for_reference("ghcr.io", "org/model").username == "org"
    assert keys.for_reference("quay.io", "team/model").username == "file"
    assert keys.for_reference("quay.io", "open/model") is ANONYMOUS


def test_passed_function_may_defer_to_next_source(place):
    place.write({"auths": {"quay.io": auth("file")}})
    keys = place.keychain(lambda host, repository: ("fn", repository) if host == "ghcr.io" else None)
    assert keys.for_reference("ghcr.io", "org/model") == Credentials(username="fn", password="org/model")
    assert keys.for_reference("quay.io").username == "file"


def test_passed_anonymous_disables_other_sources(place):
    place.write({"auths": {"ghcr.io": auth()}})
    keys = place.keychain(ANONYMOUS)
    assert keys.for_reference("ghcr.io").anonymous
    assert keys.for_reference("quay.io").anonymous
    assert keys.explain("ghcr.io").winner.place == "passed credentials"


# -- the environment


def test_environment_is_for_its_registry_only(place):
    place.environ |= {"OCIKIT_USERNAME": "ada", "OCIKIT_PASSWORD": SECRET}
    assert place.find("ghcr.io") is ANONYMOUS
    assert "OCIKIT_REGISTRY" in str(place.keychain().explain("ghcr.io"))
    place.environ["OCIKIT_REGISTRY"] = "ghcr.io"
    assert place.find("ghcr.io", "org/model") == Credentials(username="ada", password=SECRET)
    assert place.find("ghcr.io.evil.example") is ANONYMOUS
    assert place.find("evil.example", "ghcr.io") is ANONYMOUS
    place.environ["OCIKIT_REGISTRY"] = "ghcr.io/org"
    assert place.find("ghcr.io", "org/model").username == "ada"
    assert place.find("ghcr.io", "other/model") is ANONYMOUS


def test_environment_token_is_registry_token(place):
    place.environ |= {"OCIKIT_TOKEN": f"{SECRET}\n", "OCIKIT_REGISTRY": "https://ghcr.io/v2/"}
    assert place.find("ghcr.io").registry_token == SECRET


def test_user_without_password_is_not_used(place):
    place.environ |= {"OCIKIT_USERNAME": "ada", "OCIKIT_REGISTRY": "ghcr.io"}
    assert place.find("ghcr.io") is ANONYMOUS


def test_environment_is_read_for_each_call(monkeypatch, place):
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
        monkeypatch.setenv(name, place.environ[name])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place.home / ".config"))
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
def test_docker_hub_names_are_equal(place, key, host):
    place.write({"auths": {key: auth()}})
    assert place.find(host, "library/alpine").username == "ada"
    assert place.find("ghcr.io") is ANONYMOUS


def test_docker_login_key_of_docker_hub_has_precedence(place):
    place.write({"auths": {"docker.io": auth("podman"), HUB: auth("docker"), "docker.io/library": auth("library")}})
    assert place.find("docker.io", "org/model").username == "docker"
    assert place.find("docker.io", "library/alpine").username == "library"


@pytest.mark.parametrize(
    "key",
    ["https://r.example:5000", "http://r.example:5000/", "r.example:5000/v2/", "R.example:5000/v1/", "r.example:5000"],
)
def test_key_may_have_scheme_and_api_version(place, key):
    place.write({"auths": {key: auth()}})
    assert place.find("r.example:5000", "a").username == "ada"
    assert place.find("r.example") is ANONYMOUS
    assert place.find("r.example:5001") is ANONYMOUS


def test_most_specific_key_wins(place):
    keys = ["quay.io", "quay.io/ns/repo", "quay.io/ns", "quay.io/ns/v2"]
    place.write({"auths": {key: auth(key) for key in keys}})
    found = {
        r: place.find("quay.io", r).username for r in ("ns/repo", "ns/other", "nsx/repo", "", "ns/repo/deep", "ns/v2")
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
def test_every_form_of_entry_is_parsed(place, entry, credentials):
    place.write({"auths": {"ghcr.io": entry}})
    assert place.find("ghcr.io") == credentials


@pytest.mark.parametrize(
    "entry", [{}, None, {"auth": ""}, {"auth": None}, {"email": "a@b"}, {"username": "ada"}, auth("ada", "")]
)
def test_empty_entry_is_skipped(place, entry):
    place.write({"auths": {"ghcr.io": entry}})
    place.write({"auths": {"ghcr.io": auth("podman")}}, place.podman)
    assert place.find("ghcr.io").username == "podman"


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
def test_malformed_file_error_has_path_but_no_content(place, content):
    place.write(content)
    with pytest.raises(CredentialsError, match=r"~/.docker/config.json") as caught:
        place.find("ghcr.io")
    assert caught.value.hint
    assert SECRET not in visible(caught.value)
    assert base64.b64encode(SECRET.encode()).decode() not in visible(caught.value)
    explanation = place.keychain().explain("ghcr.io")
    assert explanation.winner is None
    assert explanation.failure.place == "~/.docker/config.json"
    assert SECRET not in f"{explanation}{explanation!r}{explanation._repr_html_()}"


def test_malformed_environment_json_is_named(place):
    place.environ["DOCKER_AUTH_CONFIG"] = f'{{"auths": "{SECRET}'
    with pytest.raises(CredentialsError, match="DOCKER_AUTH_CONFIG is not JSON: line 1") as caught:
        place.find("ghcr.io")
    assert SECRET not in visible(caught.value)


def test_folder_as_file_is_unreadable_and_file_as_folder_missing(place):
    place.docker.mkdir(parents=True)
    with pytest.raises(CredentialsError, match="can't be read"):
        place.find("ghcr.io")
    place.docker.rmdir()
    place.docker.parent.rmdir()
    place.docker.parent.write_text("")
    assert place.find("ghcr.io") is ANONYMOUS


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything; run as another user")
def test_unreadable_file_is_named(place):
    place.write({}).chmod(0)
    with pytest.raises(CredentialsError, match="can't be read: Permission denied"):
        place.find("ghcr.io")


def test_byte_order_mark_and_empty_file_are_accepted(place):
    place.write("\ufeff" + json.dumps({"auths": {"ghcr.io": auth()}}))
    assert place.find("ghcr.io").username == "ada"
    place.write(" \n")
    assert place.find("ghcr.io") is ANONYMOUS


# -- helpers


def test_helper_gets_server_on_stdin_only(place):
    place.good_helper()
    place.write({"credsStore": "good"})
    assert place.find("ghcr.io", "org/model") == Credentials(username="ada", password=SECRET)
    assert place.calls() == ["1 get ghcr.io"]


def test_helper_without_credentials_is_skipped(place):
    place.good_helper()
    place.write({"credsStore": "good", "auths": {"quay.io": auth("file")}})
    assert place.find("quay.io").username == "file"
    assert place.find("r.example") is ANONYMOUS


@pytest.mark.parametrize(
    "message", ["credentials not found in native keychain", "no credentials server URL", "no credentials username"]
)
def test_not_found_messages_of_helpers_mean_no_credentials(place, message):
    place.helper("none", f"echo '{message}'; exit 1")
    place.write({"credsStore": "none"})
    assert place.find("ghcr.io") is ANONYMOUS


def test_empty_secret_of_helper_means_no_credentials(place):
    place.helper("empty", """echo '{"ServerURL":"ghcr.io","Username":"","Secret":""}'""")
    place.write({"credsStore": "empty"})
    assert place.find("ghcr.io") is ANONYMOUS


def test_docker_hub_is_requested_by_docker_name(place):
    place.good_helper()
    place.write({"credsStore": "good"})
    assert place.find("docker.io", "library/alpine").username == "ada"
    assert place.calls() == [f"1 get {HUB}"]


def test_registry_helper_precedes_default_store(place):
    place.good_helper("one", user="one")
    place.good_helper("all", user="all")
    place.write({"credHelpers": {"https://ghcr.io": "one"}, "credsStore": "all", "auths": {"ghcr.io": auth("file")}})
    assert place.find("ghcr.io").username == "one"
    place.write({"credHelpers": {"quay.io": "one"}, "credsStore": "all", "auths": {"ghcr.io": auth("file")}})
    assert place.find("ghcr.io").username == "all"


def test_user_token_of_helper_means_identity_token(place):
    place.good_helper(user="<token>")
    place.write({"credsStore": "good"})
    assert place.find("ghcr.io") == Credentials(username="<token>", identity_token=SECRET)


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
def test_failed_helper_is_named_without_secret(place, body, says):
    place.helper("bad", body)
    place.write({"credsStore": "bad"})
    with pytest.raises(CredentialsError, match="docker-credential-bad get for ghcr.io") as caught:
        place.find("ghcr.io")
    assert says in str(caught.value)
    assert "docker-credential-bad get" in caught.value.hint
    assert SECRET not in visible(caught.value)
    assert SECRET not in str(place.keychain().explain("ghcr.io"))


@pytest.mark.timeout(25)
@pytest.mark.parametrize("body", ["exec sleep 60", "sleep 20 & exit 0", "exec >&-; exec sleep 60"])
def test_hanging_helper_is_stopped(place, body):
    place.helper("slow", body)
    place.write({"credsStore": "slow"})
    with pytest.raises(CredentialsError, match="took longer than 0.5 s"):
        place.find("ghcr.io", helper_timeout=0.5)


@pytest.mark.parametrize("about", ["https://ghcr.io", "GHCR.IO", "ghcr.io:443", "https://ghcr.io/v1/", ""])
def test_helper_may_return_server_in_other_form(place, about):
    place.helper("other", f"""echo '{{"ServerURL":"{about}","Username":"ada","Secret":"{SECRET}"}}'""")
    place.write({"credsStore": "other"})
    assert place.find("ghcr.io").username == "ada"


def test_helper_may_return_any_docker_hub_name(place):
    place.helper("hub", f"""echo '{{"ServerURL":"registry-1.docker.io","Username":"ada","Secret":"{SECRET}"}}'""")
    place.write({"credsStore": "hub"})
    assert place.find("docker.io").username == "ada"


def gone(pid):
    """Whether a process has ended; nobody but its own parent can do more about what is left of it."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("end", ["wait", "exit 0", "exec >&-; wait", "trap '' TERM; wait"])
def test_hanging_helper_is_stopped_with_its_children(place, end):
    place.helper("slow", f"echo $$ > $HOME/pids; sleep 60 & echo $! >> $HOME/pids; {end}")
    place.write({"credsStore": "slow"})
    with pytest.raises(CredentialsError, match="docker-credential-slow .* took longer"):
        place.find("ghcr.io", helper_timeout=0.5)
    helper, child = (place.home / "pids").read_text().split()
    assert not Path(f"/proc/{helper}").exists(), "no zombie stays"
    until = time.monotonic() + 20
    while not gone(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert gone(child)


def test_missing_helper_is_named(place):
    place.write({"credsStore": "absent"})
    with pytest.raises(CredentialsError, match="docker-credential-absent .* no such program"):
        place.find("ghcr.io")


def test_helper_that_cannot_start_is_named(place):
    path = place.helper("broken", "")
    path.write_bytes(b"\x7fELF, but not really")
    with pytest.raises(CredentialsError, match="docker-credential-broken could not be run"):
        Helper(name="broken", environ=place.environ).get("ghcr.io")


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "a b", ".hidden", "a;b", "-x", "a\nb", "x\\y"])
def test_helper_name_with_path_is_not_run(place, name):
    place.write({"credsStore": name})
    with pytest.raises(CredentialsError, match="was not run"):
        place.find("ghcr.io")


def test_helper_lists_and_erases(place):
    place.good_helper()
    helper = Helper(name="good", environ=place.environ)
    assert helper.list() == {"ghcr.io": "ada"}
    helper.erase("ghcr.io")
    assert place.calls()[-1] == "1 erase ghcr.io"
    assert "environ" not in repr(helper)


# -- explain


def test_explain_lists_all_sources(place):
    place.good_helper()
    place.write({"auths": {"ghcr.io/org": auth("docker")}})
    place.write({"credsStore": "good"}, place.runtime)
    place.write({"auths": {"ghcr.io": auth("podman")}}, place.podman)
    explanation = place.keychain().explain("ghcr.io", "org/model")
    assert isinstance(explanation, Explanation)
    assert [s.place.replace(str(place.home.parent), "") for s in explanation.steps] == [
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
    assert place.calls() == []  # no helper is run for places that don't matter
    assert repr(explanation).startswith(
        "Explanation(host='ghcr.io', repository='org/model', username='docker', kind='password'"
    )
    for text in (str(explanation), repr(explanation), explanation._repr_html_(), repr(explanation.steps)):
        assert SECRET not in text
        assert auth("docker")["auth"] not in text
    assert "-> ~/.docker/config.json: docker (password); key ghcr.io/org" in str(explanation)
    assert "<th>key</th>" in explanation._repr_html_()
    assert SECRET not in str(pickle.loads(pickle.dumps(explanation)))


def test_explain_agrees_with_for_reference(place):
    place.good_helper()
    place.write({"credsStore": "good", "auths": {"quay.io": auth("file")}})
    for host in ("ghcr.io", "quay.io", "docker.io", "r.example"):
        found, winner = place.find(host), place.keychain().explain(host).winner
        assert (winner.username, winner.kind) == (found.username, found.kind) if winner else found.anonymous


def test_explain_continues_after_failed_source(place):
    place.write("{")
    place.write({"auths": {"ghcr.io": auth("podman")}}, place.podman)
    explanation = place.keychain().explain("ghcr.io")
    assert explanation.winner is None
    assert "!! ~/.docker/config.json: ~/.docker/config.json is not JSON" in str(explanation)
    assert "podman" in str(explanation)
    assert "failure" in repr(explanation)


def test_explain_sanitizes_file_content(place):
    place.write({"auths": {"ghcr.io": auth("<script>\x1b[31m")}})
    explanation = place.keychain().explain("ghcr.io")
    assert "<script>" not in explanation._repr_html_()
    assert "\x1b" not in f"{explanation}{explanation!r}"


# -- login and logout


def test_login_is_found_and_private_to_owner(place):
    assert place.keychain().login("ghcr.io", "ada", SECRET) == "~/.docker/config.json"
    assert json.loads(place.docker.read_text()) == {"auths": {"ghcr.io": auth()}}
    assert stat.S_IMODE(place.docker.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.docker.parent.stat().st_mode) == 0o700
    assert place.find("ghcr.io", "org/model") == Credentials(username="ada", password=SECRET)
    assert [p.name for p in place.docker.parent.iterdir()] == ["config.json"]


def test_login_preserves_other_entries_and_order(place):
    before = {
        "zeta": {"unknown": [1, 2.5, None]},
        "auths": {
            "quay.io": auth("bob"),
            "ghcr.io": {"email": "a@b", "future": True, "identitytoken": "old"},
            "a.example": {},
        },
        "HttpHeaders": {"X": "é"},
    }
    place.write(before).chmod(0o644)
    place.keychain().login("ghcr.io", "ada", SECRET)
    after = json.loads(place.docker.read_text())
    assert list(after) == list(before)
    assert list(after["auths"]) == list(before["auths"])
    assert after["auths"].pop("ghcr.io") == {"email": "a@b", "future": True, **auth()}
    before["auths"].pop("ghcr.io")
    assert after == before
    assert stat.S_IMODE(place.docker.stat().st_mode) == 0o600


def test_docker_hub_login_uses_docker_key(place):
    place.keychain().login("docker.io", "ada", SECRET)
    assert list(json.loads(place.docker.read_text())["auths"]) == [HUB]
    assert place.find("registry-1.docker.io", "library/alpine").username == "ada"


def test_login_is_verified_before_storing(place):
    seen = []

    def refuse(credentials):
        seen.append(credentials)
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        place.keychain().login("ghcr.io", "ada", SECRET, verify=refuse)
    assert seen == [Credentials(username="ada", password=SECRET)]
    assert not place.docker.exists()
    place.keychain().login("ghcr.io", "ada", SECRET, verify=seen.append)
    assert place.docker.exists()


def test_login_during_verification_of_another_is_preserved(place):
    place.keychain().login("ghcr.io", "ada", SECRET, verify=lambda _: place.keychain().login("quay.io", "bob", SECRET))
    assert place.find("quay.io").username == "bob"
    assert place.find("ghcr.io").username == "ada"


def test_login_writes_target_of_link(place):
    real = place.write({"x": 1}, place.home / "dotfiles" / "docker.json")
    place.docker.parent.mkdir()
    place.docker.symlink_to(real)
    place.keychain().login("ghcr.io", "ada", SECRET)
    assert place.docker.is_symlink()
    assert json.loads(real.read_text())["x"] == 1
    assert place.find("ghcr.io").username == "ada"


def test_login_stores_identity_token(place):
    place.keychain().login("r.azurecr.io", "guid", identity_token=SECRET)
    assert place.find("r.azurecr.io") == Credentials(username="guid", identity_token=SECRET)


def test_login_writes_registry_auth_file(place):
    place.environ["REGISTRY_AUTH_FILE"] = str(place.home / "new" / "auth.json")
    place.keychain().login("ghcr.io", "ada", SECRET)
    assert not place.docker.exists()
    assert place.find("ghcr.io").username == "ada"


def test_login_never_replaces_malformed_file(place):
    place.write("{ not json")
    with pytest.raises(CredentialsError, match="is not JSON"):
        place.keychain().login("ghcr.io", "ada", SECRET)
    assert place.docker.read_text() == "{ not json"


@pytest.mark.parametrize(
    ("host", "user", "password"),
    [("", "ada", "x"), ("a b", "ada", "x"), ("u@h", "ada", "x"), ("h", "", "x"), ("h", "ada", ""), ("h", "a:b", "x")],
)
def test_invalid_login_is_rejected(place, host, user, password):
    with pytest.raises(CredentialsError):
        place.keychain().login(host, user, password)
    assert not place.docker.exists()


def test_unwritable_folder_is_named_and_unchanged(place):
    place.docker.parent.write_text("a file")
    with pytest.raises(CredentialsError, match=r"~/.docker/config.json can't be written") as caught:
        place.keychain().login("ghcr.io", "ada", SECRET)
    assert SECRET not in visible(caught.value)


def test_login_uses_configured_helper(place):
    place.helper("keep", 'cat > "$HOME/$1.json"')
    place.write({"credsStore": "keep", "auths": {"ghcr.io": auth("stale")}})
    assert place.keychain().login("ghcr.io", "ada", SECRET) == "docker-credential-keep"
    assert json.loads((place.home / "store.json").read_text()) == {
        "ServerURL": "ghcr.io",
        "Username": "ada",
        "Secret": SECRET,
    }
    assert json.loads(place.docker.read_text()) == {"credsStore": "keep", "auths": {"ghcr.io": {}}}


def test_failed_store_of_helper_is_named_without_secret(place):
    place.helper("full", "cat; exit 1")
    place.helper("echo", "cat | sed 's/.*Secret...//; s/..$//' ; exit 1")
    words = " ".join(["two", "words"])
    for name in ("full", "echo"):
        before = place.write({"credsStore": name}).read_text()
        with pytest.raises(CredentialsError, match=f"docker-credential-{name} store for ghcr.io failed") as caught:
            place.keychain().login("ghcr.io", "ada", words)
        assert words not in visible(caught.value)
        assert place.docker.read_text() == before


def test_logout_removes_all_keys_of_registry_only(place):
    keys = place.keychain()
    place.write({"auths": {HUB: auth(), "docker.io": auth(), "ghcr.io": auth(), "docker.io/org": auth()}, "x": 1})
    assert keys.logout("docker.io") is True
    assert json.loads(place.docker.read_text()) == {"auths": {"ghcr.io": auth(), "docker.io/org": auth()}, "x": 1}
    assert keys.logout("docker.io") is False
    assert keys.logout("quay.io") is False


def test_logout_without_file_creates_none(place):
    assert place.keychain().logout("ghcr.io") is False
    assert not place.docker.exists()


def test_logout_erases_in_helper(place):
    place.good_helper()
    place.write({"credsStore": "good", "auths": {"ghcr.io": {}}})
    assert place.keychain().logout("ghcr.io") is True
    assert place.calls()[-1] == "1 erase ghcr.io"
    assert json.loads(place.docker.read_text()) == {"credsStore": "good", "auths": {}}


# -- a real helper


@pytest.mark.interop
def test_pass_helper_stores_gets_lists_and_erases(place, tmp_path):
    from tests.support.peers import find

    programs = [find(name) for name in ("docker-credential-pass", "pass", "gpg", "gpgconf")]
    # gpg-agent's socket has a path limit of about 100 characters, so not under tmp_path.
    import shutil
    import tempfile

    gnupg = Path(tempfile.mkdtemp(prefix="ocikit-gpg-"))
    environ = place.environ
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
        place.write({"credsStore": "pass"})
        keys = place.keychain()
        for host in ("ghcr.io", "docker.io"):
            assert keys.for_reference(host) is ANONYMOUS
            assert keys.login(host, "ada", SECRET) == "docker-credential-pass"
            assert keys.for_reference(host) == Credentials(username="ada", password=SECRET)
            winner = keys.explain(host).winner
            assert (winner.username, winner.note) == ("ada", "from docker-credential-pass")
        assert Helper(name="pass", environ=environ).list() == {"ghcr.io": "ada", HUB: "ada"}
        assert SECRET not in place.docker.read_text()
        keys.login("r.azurecr.io", identity_token=SECRET)
        assert keys.for_reference("r.azurecr.io").identity_token == SECRET
        assert keys.logout("ghcr.io") is True
        assert keys.for_reference("ghcr.io") is ANONYMOUS
        assert keys.logout("ghcr.io") is False
    finally:
        subprocess.run(["gpgconf", "--kill", "gpg-agent"], env=environ, check=False, capture_output=True)
        shutil.rmtree(gnupg, ignore_errors=True)
