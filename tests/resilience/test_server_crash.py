"""Crashes of the registry at any moment: acknowledged writes survive, and others are not partially visible."""

import json
import os
import subprocess
import sys

import ocikit
import pytest
from ocikit.spec.digest import Digest

from tests.support.home import ROOT
from tests.tools import crash_steps, soak_crash

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the crash steps need os.fork")

#: Every how many steps of an operation a crash is tested; `python -m tests.tools.crash_steps upload` tests all.
EVERY = 13


@pytest.fixture(scope="module", params=crash_steps.OPERATIONS)
def crashes(request):
    """Return the name of an operation, and the state after a crash at each step."""
    command = [sys.executable, "-m", "tests.tools.crash_steps", request.param, str(EVERY)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return request.param, [json.loads(line) for line in output.splitlines()]


def test_crash_at_any_step_leaves_no_dangling_reference(crashes):
    assert len(crashes[1]) > 5
    assert all(state["sound"] and state["both tags or none"] for state in crashes[1])


def test_crash_at_any_step_allows_a_retry(crashes):
    assert all(state["done again"] and state["sound again"] for state in crashes[1])


def test_leftovers_of_a_crash_are_cleaned_up(crashes):
    assert all(state["clean"] for state in crashes[1])


def test_operation_becomes_visible_in_one_step(crashes):
    name, states = crashes
    seen = [(state["blob"], state["manifest"]) for state in states]
    size = len(crash_steps.CONTENT)
    stages = {
        "upload": [(None, False), (size, False)],
        "put": [(size, False), (size, True)],
        "delete": [(size, True), (size, False), (None, False)],
        "collect": [(None, False)],
    }[name]
    assert list(dict.fromkeys(seen)) == stages[: len(set(seen))]
    assert sorted(seen, key=stages.index) == seen
    assert seen[0] == stages[0]


def test_killed_server_keeps_acknowledged_writes():
    result = soak_crash.soak(3, longest=0.5)
    assert result["writes"] > 0


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_upload_resumes_after_server_is_killed(tmp_path, size):
    content = os.urandom(100_000)
    client = soak_crash.Client("a", None)
    with ocikit.serve(tmp_path) as server:
        client.connect(server.host)
        location = client.expect({202}, client.ask("POST", "/v2/a/blobs/uploads/"))[1]["Location"]
        if size:
            client.expect({202}, client.ask("PATCH", location, content[:size]))
        os.killpg(server._child.process.pid, 9)
    with ocikit.serve(tmp_path) as server:
        client.connect(server.host)
        status, headers, _ = client.ask("GET", location)
        assert (status, headers["Range"]) == (204, f"0-{max(size - 1, 0)}")
        rest = content[size:]
        content_range = f"{size}-{len(content) - 1}"
        assert client.ask("PATCH", location, rest, Content_Range=content_range)[0] == 202
        assert client.ask("PUT", f"{location}?digest={Digest.of(content)}")[0] == 201
        assert client.ask("GET", f"/v2/a/blobs/{Digest.of(content)}")[2] == content
        client.connect("")
