"""Interactive login: prompt and form; no secret is saved in a notebook."""

import base64
import json
import os
import sys
from pathlib import Path

import ocikit
import pytest
from ocikit import errors

from tests.support.fake_registry import Response
from tests.support.widgets import encode_strictly, marimo_module
from tests.tools import notebooks

SECRET = "hunter2-correct-horse"


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    """Use an empty folder for stored credentials."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_AUTH_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "docker" / "config.json"


@pytest.fixture
def guarded(server):
    """Return a registry that requires ada's password."""
    expected = "Basic " + base64.b64encode(f"ada:{SECRET}".encode()).decode()
    challenge = {"WWW-Authenticate": 'Basic realm="r"'}
    server.guard = lambda request: (
        None if request.headers.get("Authorization") == expected else Response(401, challenge)
    )
    return server


@pytest.fixture
def typed(monkeypatch):
    """Simulate a user: `typed.user` and `typed.secret` are the input, `typed.asked` the prompts."""

    class Typed:
        user, secret = "ada", SECRET
        asked = []

    Typed.asked = []
    monkeypatch.setattr("builtins.input", lambda prompt: Typed.asked.append(prompt) or Typed.user)
    monkeypatch.setattr("getpass.getpass", lambda prompt: Typed.asked.append(prompt) or Typed.secret)
    return Typed


def stored(config):
    return json.loads(config.read_text())["auths"]


def test_login_prompts_for_password(guarded, typed, config):
    place = ocikit.login(guarded.host, "ada")
    assert typed.asked == [f"Password or token of ada at {guarded.host}: "]
    assert list(stored(config)) == [guarded.host]
    assert SECRET not in place


def test_login_prompts_for_user_name(guarded, typed, config):
    ocikit.login(guarded.host)
    assert typed.asked == [f"User name at {guarded.host}: ", f"Password or token of ada at {guarded.host}: "]
    assert list(stored(config)) == [guarded.host]


@pytest.mark.parametrize("failure", [EOFError, OSError, RuntimeError])
def test_impossible_prompt_raises_credentials_error(monkeypatch, failure):
    def fail(prompt):
        raise failure

    monkeypatch.setattr("getpass.getpass", fail)
    with pytest.raises(errors.CredentialsError, match="cannot be prompted for") as caught:
        ocikit.login("localhost:5000", "ada")
    assert "os.environ" in caught.value.hint


def test_form_stores_only_valid_credentials(guarded, config):
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


def test_form_requires_user_name_and_password(guarded):
    form = ocikit.login_form(guarded.host, "ada")
    form.button.click()
    assert form.wait()
    assert "enter user name and password" in form.status.value
    assert guarded.requests == []


@pytest.mark.parametrize("order", ["value first", "value last", "value unchanged"])
def test_enter_in_password_submits_form(guarded, config, order):
    form = ocikit.login_form(guarded.host, "ada")
    enter = lambda: form.password._handle_custom_msg({"event": "submit"}, [])  # noqa: E731
    if order == "value last":
        enter()
        form.password.value = SECRET
    else:
        form.password.value = SECRET
        enter()
    if order == "value unchanged":
        assert "checking" not in form.status.value
    assert form.wait()
    assert "logged in as ada" in form.status.value
    assert list(stored(config)) == [guarded.host]
    assert form.password.value == ""


def test_leaving_the_password_field_submits_nothing(guarded):
    form = ocikit.login_form(guarded.host, "ada")
    form.password.value = SECRET
    assert form.wait()
    assert guarded.requests == [] and form.password.value == SECRET


def test_form_fields_have_labels_and_strict_state(guarded):
    form = ocikit.login_form(guarded.host, "ada")
    assert [(field.description, field.description_allow_html) for field in (form.username, form.password)] == [
        ("user name", False),
        ("password or token", False),
    ]
    encode_strictly(form.widget)


def test_form_contains_no_secret(guarded):
    form = ocikit.login_form(guarded.host, "ada")
    form.password.value = SECRET
    assert SECRET not in repr(form) + json.dumps(form._repr_mimebundle_())


def test_marimo_shows_how_to_log_in(guarded, monkeypatch):
    monkeypatch.setitem(sys.modules, "marimo", marimo_module([]))
    data = ocikit.login_form(guarded.host, "ada")._repr_mimebundle_()
    assert set(data) == {"text/plain", "text/html"}
    assert f"ocikit login {guarded.host}" in data["text/html"]


def test_kernel_without_front_end_cannot_prompt(tmp_path):
    code = "try:\n    ocikit.login('localhost:5000', 'ada')\nexcept ocikit.CredentialsError as error:\n    print(error)"
    cells = notebooks.run_cells(["import ocikit", code], tmp_path)
    assert "cannot be prompted for" in cells[1].outputs[0].text


def test_login_stores_credentials_in_helper(guarded, typed, config, tmp_path, monkeypatch):
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
