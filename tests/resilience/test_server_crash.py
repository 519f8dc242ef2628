"""The registry may end at any moment: what was acknowledged is there, and what was not is not there by half."""

import json
import os
import subprocess
import sys

import ocikit
import pytest
from ocikit.spec.digest import Digest

from tests.support.home import ROOT
from tests.tools import crash_steps, soak_crash

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are ended between two steps after a fork")

#: Of the steps of an operation, one in so many; `python -m tests.tools.crash_steps upload` takes them all.
EVERY = 13


@pytest.fixture(scope="module", params=crash_steps.OPERATIONS)
def ends(request):
    """What each end at a step left behind: name of the operation, and lines."""
    command = [sys.executable, "-m", "tests.tools.crash_steps", request.param, str(EVERY)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return request.param, [json.loads(line) for line in said.splitlines()]


def test_crash_at_any_step_leaves_no_dangling_reference(ends):
    assert len(ends[1]) > 5
    assert all(each["sound"] and each["both tags or none"] for each in ends[1])


def test_crash_at_any_step_allows_a_retry(ends):
    assert all(each["done again"] and each["sound again"] for each in ends[1])


def test_leftovers_of_a_crash_are_cleaned_up(ends):
    assert all(each["clean"] for each in ends[1])


def test_operation_becomes_visible_in_one_step(ends):
    name, lines = ends
    seen = [(each["blob"], each["manifest"]) for each in lines]
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
    found = soak_crash.soak(3, longest=0.5)
    assert found["writes"] > 0


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
        said = f"{size}-{len(content) - 1}"
        assert client.ask("PATCH", location, rest, Content_Range=said)[0] == 202
        assert client.ask("PUT", f"{location}?digest={Digest.of(content)}")[0] == 201
        assert client.ask("GET", f"/v2/a/blobs/{Digest.of(content)}")[2] == content
        client.connect("")
