"""A database or an object store that is away, and text that a database refuses."""

import base64
import io
import logging

import pytest
from ocikit.server import Application, HtpasswdAccess, Problem, TokenAccess, memory_storage
from ocikit.server.process.slow_clients import SlowClients
from ocikit.server.storage.base import StoredBlob, Unavailable
from ocikit.server.storage.combined import Storage

from tests.support.wsgi import MANIFEST, NAME, Registry, digest_of, environ_of
from tests.unit.server.endpoints import ABSENT

MESSAGE = "the database does not answer"


class Outage:
    """A store that can be away: its methods raise `Unavailable` then."""

    def __init__(self, store, retry_after=2.0):
        self.store, self.away, self.retry_after = store, False, retry_after

    def __getattr__(self, name):
        if self.away:
            raise Unavailable(MESSAGE, retry_after=self.retry_after)
        return getattr(self.store, name)


@pytest.fixture
def outage():
    return Outage(memory_storage().metadata)


@pytest.fixture
def registry(outage):
    stores = memory_storage()
    return Registry(Application(Storage(stores.blobs, stores.uploads, outage)))


def requests_of(registry):
    """Return a request of each endpoint that needs the rows."""
    raw = registry.image()
    manifest = registry.pushed(raw, "v1")
    blob = registry.blob(b"content")["digest"]
    put = {"Content-Type": MANIFEST}
    location = registry("POST", f"/v2/{NAME}/blobs/uploads/").headers["location"]
    return [
        ("GET", "/v2/_catalog", {}, b""),
        ("GET", f"/v2/{NAME}/tags/list", {}, b""),
        ("GET", f"/v2/{NAME}/manifests/v1", {}, b""),
        ("GET", f"/v2/{NAME}/manifests/{manifest}", {}, b""),
        ("GET", f"/v2/{NAME}/manifests/none", {}, b""),
        ("PUT", f"/v2/{NAME}/manifests/v2", put, raw),
        ("DELETE", f"/v2/{NAME}/manifests/v1", {}, b""),
        ("DELETE", f"/v2/{NAME}/manifests/{manifest}", {}, b""),
        ("GET", f"/v2/{NAME}/blobs/{blob}", {}, b""),
        ("GET", f"/v2/{NAME}/blobs/{ABSENT}", {}, b""),
        ("DELETE", f"/v2/{NAME}/blobs/{blob}", {}, b""),
        ("GET", f"/v2/{NAME}/referrers/{manifest}", {}, b""),
        ("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest_of(b'x')}", {}, b"x"),
        ("POST", f"/v2/other/blobs/uploads/?mount={blob}&from={NAME}", {}, b""),
        ("POST", f"/v2/other/blobs/uploads/?mount={blob}", {}, b""),
        ("PUT", f"{location}?digest={digest_of(b'y')}", {}, b"y"),
    ]


def test_each_endpoint_returns_503_while_database_is_away(registry, outage):
    requests = requests_of(registry)
    outage.away = True
    for request in requests:
        response = registry(*request)
        assert (response.status, response.code) == (503, "UNAVAILABLE"), (request, response)
        assert 1 <= int(response.headers["retry-after"]) <= 5
        assert MESSAGE not in response.errors[0]["message"]  # clients see nothing of the inside
        if request[0] == "GET":
            assert registry("HEAD", *request[1:]).status == 503
    outage.away = False
    assert registry("GET", f"/v2/{NAME}/manifests/v1").status == 200


def test_request_succeeds_again_after_an_outage(registry, outage):
    for request in requests_of(registry):
        outage.away = True
        assert registry(*request).status == 503
        outage.away = False
    assert registry("GET", f"/v2/{NAME}/tags/list").status == 200


@pytest.mark.parametrize(("seconds", "least", "most"), [(0.0, 1, 1), (2.0, 1, 3), (60.0, 5, 5)])
def test_retry_after_has_jitter_within_limits(registry, outage, seconds, least, most):
    outage.away, outage.retry_after = True, seconds
    seen = {int(registry("GET", "/v2/_catalog").headers["retry-after"]) for _ in range(50)}
    assert least <= min(seen) <= max(seen) <= most
    assert len(seen) == 1 or least != most


def test_outage_logs_one_line_without_traceback(registry, outage, caplog):
    outage.away = True
    for _ in range(20):
        registry("GET", "/v2/_catalog")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and record.exc_info is None
    assert MESSAGE in record.getMessage() and "/v2/_catalog" in record.getMessage()


def test_log_of_a_failure_masks_the_id_of_an_upload(registry, outage, caplog):
    location = registry("POST", f"/v2/{NAME}/blobs/uploads/").headers["location"]
    outage.away = True
    registry("PUT", f"{location}?digest={digest_of(b'y')}", {}, b"y")
    (record,) = caplog.records
    assert "/blobs/uploads/" in record.getMessage()
    assert location.rpartition("/")[2] not in record.getMessage()


class BreakingBlob(StoredBlob):
    """A blob of 1 MiB whose store goes away after 256 KiB."""

    size = 1 << 20

    def open(self, first, length):
        return BreakingFile(bytes(1 << 18))


class BreakingFile(io.BytesIO):
    """A file that raises `Unavailable` at its end."""

    def read(self, size=-1):
        if chunk := super().read(size):
            return chunk
        raise Unavailable("the object store does not answer")


class BreakingStorage(Storage):
    """A storage whose blobs break off."""

    def find_blob(self, repository, digest):
        return BreakingBlob()


@pytest.fixture
def breaking():
    stores = memory_storage()
    records = []
    application = Application(BreakingStorage(stores.blobs, stores.uploads, stores.metadata), on_request=records.append)
    application.records = records
    return application


def test_body_fails_if_store_goes_away_within_it(breaking, caplog):
    chunks = breaking(environ_of("GET", f"/v2/{NAME}/blobs/{ABSENT}"), lambda *_: None)
    assert len(next(chunks)) == 1 << 18
    with pytest.raises(Unavailable):
        next(chunks)
    chunks.close()
    (record,) = breaking.records
    assert (record.status, record.sent, record.code) == (200, 1 << 18, "UNAVAILABLE")
    assert [record.exc_info for record in caplog.records] == [None]


def test_process_ends_a_broken_body_early_without_error(breaking):
    started = []
    body = SlowClients(breaking, 10)(
        environ_of("GET", f"/v2/{NAME}/blobs/{ABSENT}"), lambda status, headers: started.append(dict(headers))
    )
    assert sum(map(len, body)) == 1 << 18
    # The server closes the connection of a body that is shorter than announced
    assert started[0]["Content-Length"] == str(1 << 20)


def test_readyz_names_what_is_away(registry, outage):
    assert registry("GET", "/readyz").json == {"status": "ok"}
    outage.away = True
    response = registry("GET", "/readyz")
    assert (response.status, response.json) == (503, {"status": "unavailable", "problems": [MESSAGE]})
    assert registry("GET", "/healthz").json == {"status": "ok"}
    outage.away = False
    assert registry("GET", "/readyz").status == 200


def test_readyz_reports_problems_of_the_process(outage):
    stores, problems = memory_storage(), []
    registry = Registry(Application(stores, problems=lambda: problems))
    assert registry("GET", "/readyz").status == 200
    problems.append(Problem("this process stops"))
    assert registry("GET", "/readyz").json["problems"] == ["this process stops"]
    assert registry("GET", f"/v2/{NAME}/tags/list").status == 404


# Text that PostgreSQL refuses


NUL_URLS = [
    "/v2/_catalog?last=a%00",
    "/v2/_catalog?n=%00",
    f"/v2/{NAME}/tags/list?last=%00",
    f"/v2/{NAME}/tags/list?n=1%00",
    f"/v2/{NAME}/referrers/{ABSENT}?last=%00",
    f"/v2/{NAME}/referrers/{ABSENT}?artifactType=a%00",
    f"/v2/{NAME}/referrers/sha256:%00",
    "/v2/a%00b/tags/list",
    "/v2/a%00b/manifests/v1",
    f"/v2/{NAME}/manifests/v%001",
    f"/v2/{NAME}/manifests/sha256:%00",
    f"/v2/{NAME}/blobs/sha256:%00",
    f"/v2/{NAME}/blobs/uploads/%00",
    f"/v2/{NAME}/blobs/uploads/a%00?digest={ABSENT}",
    "/%00",
    "/token?account=%00",
]


@pytest.mark.parametrize("url", NUL_URLS)
def test_nul_in_url_is_refused_at_each_endpoint(app, caplog, url):
    app.pushed(app.image(), "v1")
    for method in ("GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"):
        assert app(method, url, {}, b"{}" if method in {"PUT", "PATCH", "POST"} else b"").status == 400
    assert not caplog.records


@pytest.mark.parametrize(
    "query", ["digest=%00", f"mount={ABSENT}&from=a%00", "mount=%00", "digest-algorithm=%00", "x=%00"]
)
def test_nul_in_parameters_of_an_upload_is_refused(app, caplog, query):
    assert app("POST", f"/v2/{NAME}/blobs/uploads/?{query}", {}, b"").status == 400
    assert not caplog.records


@pytest.mark.parametrize("text", ["%ff", "%ed%a0%80", "%c3%28"])
def test_invalid_utf8_in_url_is_refused(app, caplog, text):
    for url in ("/v2/_catalog?last=", f"/v2/{NAME}/tags/list?last=", f"/v2/{NAME}/referrers/{ABSENT}?artifactType="):
        assert app("GET", url + text).status == 400
    assert app("GET", f"/v2/{NAME}/manifests/{text}").status == 400
    assert not caplog.records


def test_longest_and_strangest_text_of_lists_is_answered(app, caplog):
    app.pushed(app.image(), "v1")
    for text in ("%F0%9F%A6%80", "%01", "%7f", "%27%3B--", "%5C", "x" * 5000, "%E2%80%AE"):
        assert app("GET", f"/v2/_catalog?last={text}").status == 200
        assert app("GET", f"/v2/{NAME}/tags/list?last={text}").status == 200
        assert app("GET", f"/v2/{NAME}/referrers/{ABSENT}?last={text}").status == 200
        assert app("GET", f"/v2/{NAME}/referrers/{ABSENT}?artifactType={text}").status == 200
    assert not caplog.records


@pytest.fixture
def users(tmp_path):
    path = tmp_path / "users"
    path.write_text("ada:$2b$04$abcdefghijklmnopqrstuuSIyJyxCfCNzVTDMi4iOI8sIzUiMzA7y\n")
    return path


def basic(user, password="x"):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_nul_in_user_name_is_a_failed_login(make_registry, users, tmp_path, caplog):
    plain = make_registry(HtpasswdAccess(users))
    assert plain("GET", "/v2/", basic("a\0da")).status == 401
    tokens = make_registry(TokenAccess(users, tmp_path / "token.key"))
    assert tokens("GET", "/token", basic("a\0da")).status == 401
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = b"grant_type=password&service=ocikit&client_id=x&username=%00&password=x"
    assert tokens("POST", "/token", form, body).status == 400
    assert not caplog.records
