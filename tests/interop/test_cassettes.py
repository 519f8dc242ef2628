"""Recorded traffic of real registries, replayed without network or registry."""

import base64
import json
import re

import pytest
import yaml

from tests.interop import record
from tests.interop.scenarios import ADA, CELLS, REGISTRY, SCENARIOS, TOKENS, Place

PATHS = sorted(record.FOLDER.rglob("*.yaml"))


@pytest.mark.parametrize(("kind", "name"), CELLS)
def test_recording_replays(kind, name, tmp_path):
    path = record.cassette(kind, name)
    assert path.is_file(), f"record it: python -m tests.interop.record {name}"
    with record.recorder("none").use_cassette(str(path)) as cassette:
        SCENARIOS[name].run(Place(kind, tmp_path, name.replace("_", "-")))
        assert cassette.all_played


def test_every_recording_has_a_scenario():
    assert PATHS == sorted(record.cassette(kind, name) for kind, name in CELLS)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recording_is_small_and_has_no_secret(path):
    text = path.read_text()
    assert path.stat().st_size < record.LIMIT
    for word in ("Set-Cookie", "set-cookie", ADA[1], "babbage", "127.0.0.1", "localhost", "/tmp", "!!python"):
        assert word not in text
    assert not re.search(r"eyJ[\w-]+\.[\w-]+\.", text)  # a JSON web token
    for password in (ADA[1], "babbage"):
        assert base64.b64encode(f"ada:{password}".encode()).decode().rstrip("=") not in text
    assert set(re.findall(r"https?://([^/\s'\"?]+)", text)) <= {REGISTRY, TOKENS}
    for interaction in yaml.safe_load(text)["interactions"]:
        sent = {key.lower(): values for key, values in interaction["request"]["headers"].items()}
        assert sent.keys() <= record.REQUEST_HEADERS
        assert set(sent.get("authorization", ())) <= {"Basic scrubbed", "Bearer scrubbed"}
        answer = interaction["response"]
        assert {key.lower() for key in answer["headers"]} <= record.RESPONSE_HEADERS
        if interaction["request"]["uri"].startswith(f"http://{TOKENS}/"):
            body = json.loads(answer["body"]["string"])
            assert {body[key] for key in ("token", "access_token", "refresh_token") if key in body} <= {"scrubbed"}


def test_recorder_removes_secrets():
    request = record.Request(
        "PUT", "http://registry.test/x", b"content", {"Authorization": "Bearer secret", "Cookie": "c"}
    )
    assert record.scrubbed_request(request).headers == {"Authorization": "Bearer scrubbed"}
    assert request.headers["Authorization"] == "Bearer secret"
    body = b'{"token": "secret", "expires_in": 300}'
    response = {
        "status": {"code": 200, "message": "OK"},
        "headers": {"Set-Cookie": ["secret"], "Content-Length": [str(len(body))], "Date": ["today"]},
        "body": {"string": body},
    }
    clean = record.scrubbed_response(response)
    assert json.loads(clean["body"]["string"]) == {"token": "scrubbed", "expires_in": 300}
    assert clean["headers"] == {"Content-Length": [str(len(clean["body"]["string"]))]}
    assert response["body"]["string"] == body
