"""Access log and metrics of a server: no log injection, no secrets, and counts of all processes."""

import json
import logging

import pytest
from ocikit.server import AccessRecord, file_storage
from ocikit.server.process.access_log import access_log, logging_config

HOSTILE = 'x\r\n{"status":200}\x1b[31m\x9b\u2028\u202e\x00\'"='
UPLOAD_ID = "abcdefghijklmnopqrstuvwxyz012345"


def record(**fields):
    defaults = {
        "remote": "127.0.0.1",
        "user": "",
        "method": "GET",
        "path": "/v2/",
        "status": 200,
        "received": 0,
        "sent": 2,
        "seconds": 0.25,
        "agent": "",
    }
    return AccessRecord(**defaults | fields)


@pytest.fixture(params=["json", "text"])
def line(request, caplog):
    """Return a function that logs a record and returns the line."""
    log = access_log(request.param)

    def line(**fields):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="ocikit.server.access"):
            log(record(**fields))
        (entry,) = caplog.records
        return entry.getMessage()

    line.json = request.param == "json"
    return line


def test_line_contains_all_fields(line):
    text = line(
        user="ada",
        method="PUT",
        path="/v2/t/a/manifests/v1",
        status=400,
        code="MANIFEST_INVALID",
        received=5,
        agent="oras/1.2 (linux)",
        query=(("digest", "sha256:00"),),
    )
    if line.json:
        fields = json.loads(text)
        assert fields.pop("time").endswith("Z")
        assert fields == {
            "remote": "127.0.0.1",
            "user": "ada",
            "method": "PUT",
            "path": "/v2/t/a/manifests/v1",
            "query": "digest=sha256:00",
            "status": 400,
            "code": "MANIFEST_INVALID",
            "received": 5,
            "sent": 2,
            "seconds": 0.25,
            "agent": "oras/1.2 (linux)",
        }
    else:
        assert 'user=ada method=PUT path=/v2/t/a/manifests/v1 query="digest=sha256:00" status=400' in text
        assert text.endswith('agent="oras/1.2 (linux)"')


@pytest.mark.parametrize("field", ["remote", "user", "method", "path", "agent", "code"])
def test_hostile_value_cannot_forge_a_line(line, field):
    text = line(**{field: HOSTILE})
    assert text.isprintable() and len(text.splitlines()) == 1
    if line.json:
        assert json.loads(text)["status"] == 200
        assert json.loads(text)[field].startswith("x")
    else:
        assert f'{field}="x' in text


def test_long_values_are_shortened(line):
    text = line(
        remote="r" * 10_000,
        user="u" * 10_000,
        method="m" * 10_000,
        path="/" + "p" * 100_000,
        agent="a" * 10_000,
        query=(("q" * 10_000, "v" * 10_000), *[("n", "1")] * 1000),
    )
    assert len(text) < 2500


def test_unknown_query_values_are_masked(line):
    text = line(
        query=(
            ("n", "5"),
            ("mount", "sha256:00"),
            ("from", "t/b"),
            ("_state", "hidden"),
            ("X-Amz-Signature", "hidden"),
            ("token", "hidden"),
        )
    )
    assert "hidden" not in text
    assert "n=5&mount=sha256:00&from=t/b&_state=***&X-Amz-Signature=***&token=***" in text


def test_upload_id_is_masked(line):
    for path in (f"/v2/t/a/blobs/uploads/{UPLOAD_ID}", f"/v2/blobs/uploads/x/blobs/uploads/{UPLOAD_ID}"):
        text = line(path=path)
        assert UPLOAD_ID not in text and f"{path[:-26]}…" in text


def test_format_none_disables_the_log():
    assert access_log("none") is None


def test_logging_config_leaves_other_loggers_unchanged():
    config = logging_config()
    assert not config["disable_existing_loggers"]
    assert all(name.startswith(("ocikit.server", "_granian")) for name in config["loggers"])


@pytest.fixture
def make_metrics(tmp_path, monkeypatch):
    """Return a function that returns the metrics of one more process."""
    values = pytest.importorskip("prometheus_client.values")
    from ocikit.server.process.metrics import Metrics

    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    (tmp_path / "scratch").mkdir()
    storage = file_storage(tmp_path / "store")
    yield lambda: Metrics(tmp_path / "scratch", storage, tmp_path / "store")
    storage.close()
    # Since prometheus-client 0.26; older versions leave the files to the end of the process
    getattr(values, "close_all_multiprocess_files", lambda: None)()


def samples(metrics):
    """Return the samples of the page by name and labels."""
    page = metrics.page()
    assert page.status == 200 and dict(page.headers)["Content-Type"].startswith("text/plain; version=0.0.4")
    (text,) = page.body
    assert dict(page.headers)["Content-Length"] == str(len(text)) and text.endswith(b"\n")
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(number) for name, number in (line.rsplit(" ", 1) for line in lines)}


@pytest.mark.parametrize(
    "path, endpoint",
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
def test_requests_are_counted_by_endpoint(make_metrics, path, endpoint):
    metrics = make_metrics()
    metrics.count(record(path=path))
    found = samples(metrics)
    assert found[f'ocikit_requests_total{{endpoint="{endpoint}",method="GET",status="2xx"}}'] == 1
    assert found[f'ocikit_request_seconds_count{{endpoint="{endpoint}"}}'] == 1
    assert sum(n for name, n in found.items() if name.startswith("ocikit_requests_total")) == 1


def test_counts_of_all_processes_add_up_and_outlive_them(make_metrics):
    one, two = make_metrics(), make_metrics()
    for metrics, seconds in ((one, 0.002), (one, 5), (two, 5000)):
        metrics.count(record(seconds=seconds, received=10, sent=3, method="BREW", status=418))
    del one
    found = samples(two)
    assert found['ocikit_requests_total{endpoint="base",method="other",status="4xx"}'] == 3
    bucket = 'ocikit_request_seconds_bucket{{endpoint="base",le="{}"}}'.format
    assert [found[bucket(le)] for le in ("0.001", "0.005", "2.0", "10.0", "1800.0", "+Inf")] == [0, 1, 1, 2, 2, 3]
    assert found['ocikit_request_seconds_sum{endpoint="base"}'] == pytest.approx(5005.002)
    assert (found["ocikit_received_bytes_total"], found["ocikit_sent_bytes_total"]) == (30, 9)
    assert found["ocikit_uploads"] == 0 and found["ocikit_disk_free_bytes"] > 0


def test_unusual_status_is_counted(make_metrics):
    metrics = make_metrics()
    for status in (100, 999):
        metrics.count(record(status=status))
    assert sum(n for name, n in samples(metrics).items() if name.startswith("ocikit_requests_total")) == 2
