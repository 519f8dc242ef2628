"""Logging in by hand: a question or a form, and no secret in anything that is kept."""

import base64
import json
import os
from pathlib import Path

import ocikit
import pytest
from ocikit import errors

from tests.support.fake_registry import Response
from tests.tools import notebooks

SECRET = "hunter2-correct-horse"


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    """Where credentials would be kept: a folder of one's own."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_AUTH_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "docker" / "config.json"


@pytest.fixture
def guarded(server):
    """A registry that wants ada's password."""
    wanted = "Basic " + base64.b64encode(f"ada:{SECRET}".encode()).decode()
    refusal = {"WWW-Authenticate": 'Basic realm="r"'}
    server.guard = lambda request: None if request.headers.get("Authorization") == wanted else Response(401, refusal)
    return server


@pytest.fixture
def typed(monkeypatch):
    """What somebody types, and what they were asked: `typed.user`, `typed.secret`, `typed.asked`."""

    class Typed:
        user, secret = "ada", SECRET
        asked = []

    Typed.asked = []
    monkeypatch.setattr("builtins.input", lambda words: Typed.asked.append(words) or Typed.user)
    monkeypatch.setattr("getpass.getpass", lambda words: Typed.asked.append(words) or Typed.secret)
    return Typed


def stored(config):
    return json.loads(config.read_text())["auths"]


def test_a_password_is_asked_for_unseen(guarded, typed, config):
    place = ocikit.login(guarded.host, "ada")
    assert typed.asked == [f"Password or token of ada at {guarded.host}: "]
    assert list(stored(config)) == [guarded.host]
    assert SECRET not in place


def test_a_user_name_is_asked_for_too(guarded, typed, config):
    ocikit.login(guarded.host)
    assert typed.asked == [f"User name at {guarded.host}: ", f"Password or token of ada at {guarded.host}: "]
    assert list(stored(config)) == [guarded.host]


@pytest.mark.parametrize("refusal", [EOFError, OSError, RuntimeError])
def test_where_nobody_can_be_asked_says_so(monkeypatch, refusal):
    def refuse(words):
        raise refusal

    monkeypatch.setattr("getpass.getpass", refuse)
    with pytest.raises(errors.CredentialsError, match="cannot be prompted for") as caught:
        ocikit.login("localhost:5000", "ada")
    assert "os.environ" in caught.value.hint


def test_a_form_checks_before_it_keeps(guarded, config):
    form = ocikit.login_form(guarded.host)
    assert guarded.requests == []
    form.username.value, form.password.value = "ada", "wrong-secret"
    form.button.click()
    assert form.wait()
    assert "nothing was stored" in form.status.value
    assert form.password.value == ""
    assert not config.exists()
    form.password.value = SECRET
    form.button.click()
    assert form.wait()
    assert "logged in as ada; stored in" in form.status.value
    assert form.password.value == ""
    assert list(stored(config)) == [guarded.host]
    assert form.button.disabled


def test_a_form_wants_both(guarded):
    form = ocikit.login_form(guarded.host, "ada")
    form.button.click()
    assert form.wait()
    assert "enter user name and password" in form.status.value
    assert guarded.requests == []


def test_a_form_shows_no_secret(guarded):
    form = ocikit.login_form(guarded.host, "ada")
    form.password.value = SECRET
    assert SECRET not in repr(form) + json.dumps(form._repr_mimebundle_())


def test_a_kernel_without_a_front_end_says_that_nobody_can_be_asked(tmp_path):
    code = "try:\n    ocikit.login('localhost:5000', 'ada')\nexcept ocikit.CredentialsError as error:\n    print(error)"
    cells = notebooks.run_cells(["import ocikit", code], tmp_path)
    assert "cannot be prompted for" in cells[1].outputs[0].text


def test_a_login_that_a_helper_keeps_goes_there(guarded, typed, config, tmp_path, monkeypatch):
    helper = tmp_path / "bin" / "docker-credential-box"
    helper.parent.mkdir()
    helper.write_text(f"#!/bin/sh\ncat > {tmp_path}/box.json\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}{os.pathsep}{os.environ['PATH']}")
    config.parent.mkdir()
    config.write_text(json.dumps({"credsStore": "box"}))
    assert ocikit.login(guarded.host, "ada") == "docker-credential-box"
    assert json.loads(Path(tmp_path / "box.json").read_text())["Secret"] == SECRET
    assert SECRET not in config.read_text()
