"""What a server tells of requests: lines that nobody can forge, without secrets, and numbers that add up."""

import json
import logging

import pytest
from ocikit.server import AccessRecord, file_storage
from ocikit.server.process.access_log import access_log, config
from ocikit.server.process.metrics import Metrics

HOSTILE = 'x\r\n{"status":200}\x1b[31m\x9b\u2028\u202e\x00\'"='
ID = "abcdefghijklmnopqrstuvwxyz012345"


def record(**fields):
    usual = {"remote": "127.0.0.1", "user": "", "method": "GET", "path": "/v2/", "status": 200, "received": 0, "sent": 2,
             "seconds": 0.25, "agent": ""}  # fmt: skip
    return AccessRecord(**usual | fields)


@pytest.fixture(params=["json", "text"])
def line(request, caplog):
    """Gives the line of the log about a request."""
    told = access_log(request.param)

    def said(**fields):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="ocikit.server.access"):
            told(record(**fields))
        (entry,) = caplog.records
        return entry.getMessage()

    said.json = request.param == "json"
    return said


def test_a_line_has_what_there_is_to_say(line):
    text = line(user="ada", method="PUT", path="/v2/t/a/manifests/v1", status=400, code="MANIFEST_INVALID", received=5,
                agent="oras/1.2 (linux)", query=(("digest", "sha256:00"),))  # fmt: skip
    if line.json:
        said = json.loads(text)
        assert said.pop("time").endswith("Z")
        assert said == {
            "remote": "127.0.0.1", "user": "ada", "method": "PUT", "path": "/v2/t/a/manifests/v1", "query": "digest=sha256:00",
            "status": 400, "code": "MANIFEST_INVALID", "received": 5, "sent": 2, "seconds": 0.25, "agent": "oras/1.2 (linux)",
        }  # fmt: skip
    else:
        assert 'user=ada method=PUT path=/v2/t/a/manifests/v1 query="digest=sha256:00" status=400' in text
        assert text.endswith('agent="oras/1.2 (linux)"')


@pytest.mark.parametrize("field", ["remote", "user", "method", "path", "agent", "code"])
def test_nobody_forges_a_line_or_reaches_the_terminal(line, field):
    text = line(**{field: HOSTILE})
    assert text.isprintable() and len(text.splitlines()) == 1
    if line.json:
        assert json.loads(text)["status"] == 200
        assert json.loads(text)[field].startswith("x")
    else:
        assert f'{field}="x' in text


def test_lines_are_short_whatever_clients_send(line):
    text = line(remote="r" * 10_000, user="u" * 10_000, method="m" * 10_000, path="/" + "p" * 100_000, agent="a" * 10_000,
                query=(("q" * 10_000, "v" * 10_000), *[("n", "1")] * 1000))  # fmt: skip
    assert len(text) < 2500


def test_values_are_shown_where_the_specification_gives_them_a_meaning(line):
    text = line(query=(("n", "5"), ("mount", "sha256:00"), ("from", "t/b"), ("_state", "hidden"), ("X-Amz-Signature", "hidden"),
                       ("token", "hidden")))  # fmt: skip
    assert "hidden" not in text
    assert "n=5&mount=sha256:00&from=t/b&_state=***&X-Amz-Signature=***&token=***" in text


def test_the_id_of_an_upload_is_a_secret(line):
    for path in (f"/v2/t/a/blobs/uploads/{ID}", f"/v2/blobs/uploads/x/blobs/uploads/{ID}"):
        text = line(path=path)
        assert ID not in text and f"{path[:-26]}…" in text


def test_a_log_of_nothing_is_nothing():
    assert access_log("none") is None


def test_loggers_of_others_are_left_alone():
    found = config()
    assert not found["disable_existing_loggers"]
    assert all(name.startswith(("ocikit.server", "_granian")) for name in found["loggers"])


@pytest.fixture
def metrics(tmp_path):
    """Makes the numbers of one more process."""
    (tmp_path / "scratch").mkdir()
    storage = file_storage(tmp_path / "store")
    yield lambda: Metrics(tmp_path / "scratch", storage, tmp_path / "store")
    storage.close()


def numbers(metrics):
    """What the page says, by name and labels."""
    page = metrics.page()
    assert page.status == 200 and dict(page.headers)["Content-Type"].startswith("text/plain; version=0.0.4")
    (text,) = page.body
    assert dict(page.headers)["Content-Length"] == str(len(text)) and text.endswith(b"\n")
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(number) for name, number in (line.rsplit(" ", 1) for line in lines)}


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/v2/", "base"),
        ("/v2", "base"),
        ("/v2/_catalog", "catalog"),
        ("/v2/t/a/tags/list", "tags"),
        ("/v2/t/a/referrers/sha256:00", "referrers"),
        ("/v2/t/a/manifests/v1", "manifests"),
        ("/v2/t/a/manifests/list", "manifests"),
        ("/v2/t/a/blobs/sha256:00", "blobs"),
        ("/v2/t/a/blobs/uploads/", "uploads"),
        ("/v2/t/a/blobs/uploads", "uploads"),
        ("/v2/t/a/blobs/uploads/id", "uploads"),
        ("/v2/blobs/uploads/tags/list", "tags"),
        ("/v2/uploads/manifests/v1", "manifests"),
        ("/healthz", "other"),
        ("", "other"),
        ("/v2/t/a/else/v1", "other"),
    ],
)
def test_requests_are_counted_by_what_they_are_for(metrics, path, kind):
    one = metrics()
    one.told(record(path=path))
    found = numbers(one)
    assert found[f'ocikit_requests_total{{method="GET",endpoint="{kind}",status="2xx"}}'] == 1
    assert found[f'ocikit_request_seconds_count{{endpoint="{kind}"}}'] == 1
    assert sum(n for name, n in found.items() if name.startswith("ocikit_requests_total")) == 1


def test_numbers_of_all_processes_add_up_and_outlive_them(metrics):
    one, two = metrics(), metrics()
    for each, seconds in ((one, 0.002), (one, 5), (two, 5000)):
        each.told(record(seconds=seconds, received=10, sent=3, method="BREW", status=418))
    del one
    found = numbers(two)
    assert found['ocikit_requests_total{method="other",endpoint="base",status="4xx"}'] == 3
    bucket = 'ocikit_request_seconds_bucket{{endpoint="base",le="{}"}}'.format
    assert [found[bucket(le)] for le in ("0.001", "0.005", "2.0", "10.0", "1800.0", "+Inf")] == [0, 1, 1, 2, 2, 3]
    assert found['ocikit_request_seconds_sum{endpoint="base"}'] == pytest.approx(5005.002)
    assert (found["ocikit_received_bytes_total"], found["ocikit_sent_bytes_total"]) == (30, 9)
    assert found["ocikit_uploads"] == 0 and found["ocikit_disk_free_bytes"] > 0


def test_a_status_that_is_none_is_counted_somewhere(metrics):
    one = metrics()
    for status in (100, 999):
        one.told(record(status=status))
    assert sum(n for name, n in numbers(one).items() if name.startswith("ocikit_requests_total")) == 2
