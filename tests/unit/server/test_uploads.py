"""Upload endpoints: sessions, chunks, limits, mounts."""

import io
import time
from functools import partial

import pytest
from ocikit.server import Access, Identity, Limits
from ocikit.server.auth.access import ANONYMOUS

from tests.support.wsgi import MANIFEST, NAME, digest_of
from tests.unit.server.endpoints import begin, upload_size


def test_post_then_put_stores_blob(app):
    location = begin(app)
    digest = digest_of(b"hello")
    response = app("PUT", f"{location}?digest={digest}", {"Content-Type": "application/octet-stream"}, b"hello")
    assert response.status == 201
    assert response.headers["location"] == f"/v2/{NAME}/blobs/{digest}"
    assert response.headers["docker-content-digest"] == digest
    assert app("GET", response.headers["location"]).body == b"hello"
    assert app("GET", location).status == 404


def test_single_post_stores_blob(app):
    digest = digest_of(b"hello")
    response = app("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}", body=b"hello")
    assert (response.status, response.headers["location"]) == (201, f"/v2/{NAME}/blobs/{digest}")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_chunks_with_ranges_store_blob(app, algorithm):
    content = bytes(range(250))
    location = begin(app, query=f"?digest-algorithm={algorithm}")
    for first in (0, 100):
        response = app("PATCH", location, {"Content-Range": f"{first}-{first + 99}"}, content[first : first + 100])
        assert (response.status, response.headers["range"]) == (202, f"0-{first + 99}")
        location = response.headers["location"]
        assert upload_size(app, location) == first + 100
    digest = digest_of(content, algorithm)
    response = app("PUT", f"{location}?digest={digest}", {"Content-Range": "200-249"}, content[200:])
    assert (response.status, response.headers["docker-content-digest"]) == (201, digest)
    assert app("GET", f"/v2/{NAME}/blobs/{digest}").body == content


@pytest.mark.parametrize("announced", ["sha256", "sha512"])
@pytest.mark.parametrize("used", ["sha256", "sha512"])
def test_digest_algorithm_may_differ_from_announced_one(app, announced, used):
    location = begin(app, query=f"?digest-algorithm={announced}")
    app("PATCH", location, body=b"abc")
    assert app("PUT", f"{location}?digest={digest_of(b'abc', used)}").status == 201


def test_chunks_without_range_are_appended(app):
    location = begin(app)
    for chunk in (b"abc", [b"de", b"f"], b"", [], b"g"):
        response = app("PATCH", location, body=chunk)
        assert response.status == 202
    assert response.headers["range"] == "0-6"
    assert app("PUT", f"{location}?digest={digest_of(b'abcdefg')}").status == 201


def test_chunked_body_without_length_is_accepted(app):
    location = begin(app)
    assert app("PATCH", location, body=[b"abc", b"def"]).headers["range"] == "0-5"
    assert app("PUT", f"{location}?digest={digest_of(b'abcdef')}", body=[]).status == 201


@pytest.mark.parametrize("header", ["bytes 3-5/*", "bytes=3-5", "bytes 3-5/6", "3-5"])
def test_content_range_of_old_clients_is_accepted(app, header):
    location = begin(app)
    app("PATCH", location, body=b"abc")
    assert app("PATCH", location, {"Content-Range": header}, b"def").headers["range"] == "0-5"


INVALID_CONTENT_RANGES = [
    "abc",
    "3",
    "-",
    "3-",
    "-5",
    "5-3",
    "0-5",
    "4-6",
    "3--5",
    "3-5,6-7",
    " 3-5",
    "3-5 ",
    "3-5\t",
    "+3-5",
    "0x3-5",
    "٣-٥",
    "3.0-5",
    "items 3-5/6",
    "bytes 3-5/x",
    f"3-{'9' * 30}",
    f"{'9' * 300}-{'9' * 301}",
    "3-9",
    "3-3",
    "2-4",
]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_invalid_content_range_changes_nothing(app, method, chunked):
    location = begin(app)
    app("PATCH", location, body=b"abc")
    url = f"{location}?digest={digest_of(b'abcdef')}" if method == "PUT" else location
    for header in INVALID_CONTENT_RANGES:
        response = app(method, url, {"Content-Range": header}, [b"def"] if chunked else b"def")
        assert response.status in {400, 416}, header
        if response.status == 416:
            assert response.code == "BLOB_UPLOAD_INVALID"
            assert (response.headers["location"], response.headers["range"]) == (location, "0-2")
        assert upload_size(app, location) == 3
    response = app(method, url, {"Content-Range": "3-5"}, b"def")
    assert response.status == (201 if method == "PUT" else 202)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_out_of_order_chunk_returns_416_and_session_stays(app, method):
    location = begin(app)
    content = b"0123456789"
    for first, last in ((5, 9), (1, 4)):
        url = f"{location}?digest={digest_of(content)}" if method == "PUT" else location
        response = app(method, url, {"Content-Range": f"{first}-{last}"}, content[first : last + 1])
        assert (response.status, response.headers["location"], response.headers["range"]) == (416, location, "0-0")
    app("PATCH", location, {"Content-Range": "0-4"}, content[:5])
    url = f"{location}?digest={digest_of(content)}"
    for first, last in ((0, 4), (6, 9), (4, 8)):
        assert app("PUT", url, {"Content-Range": f"{first}-{last}"}, content[first : last + 1]).status == 416
        assert upload_size(app, location) == 5
    assert app("PUT", url, {"Content-Range": "5-9"}, content[5:]).status == 201


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_short_body_returns_400_and_upload_can_resume(app, method):
    location = begin(app)
    app("PATCH", location, body=b"abc")
    url = f"{location}?digest={digest_of(b'abcdefghi')}" if method == "PUT" else location
    response = app(method, url, body=io.BytesIO(b"def"), CONTENT_LENGTH="6")
    assert (response.status, response.code) == (400, "SIZE_INVALID")
    assert upload_size(app, location) in {3, 6}
    app("PATCH", location, body=b"defghi"[upload_size(app, location) - 3 :])
    assert app("PUT", f"{location}?digest={digest_of(b'abcdefghi')}").status == 201


def test_short_body_with_content_range_is_dropped(app):
    location = begin(app)
    app("PATCH", location, body=b"abc")
    response = app("PATCH", location, {"Content-Range": "3-8"}, io.BytesIO(b"def"), CONTENT_LENGTH="6")
    assert response.status == 400
    assert upload_size(app, location) == 3


@pytest.mark.parametrize("error", [ConnectionResetError("closed"), ValueError("no chunk"), TimeoutError("slow")])
def test_lost_connection_keeps_received_bytes(app, error):
    class Input(io.BytesIO):
        def read(self, size=-1):
            if chunk := super().read(size):
                return chunk
            raise error

    location = begin(app)
    for length in ("6", None):
        terminated = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"} if length is None else {}
        response = app("PATCH", location, body=Input(b"abc"), CONTENT_LENGTH=length, **terminated)
        assert (response.status, response.code) == (400, "SIZE_INVALID")
    size = upload_size(app, location)
    assert app("PUT", f"{location}?digest={digest_of(b'abcabc'[:size])}").status == 201


def test_bytes_above_content_length_are_not_read(app):
    location = begin(app)
    response = app("PATCH", location, body=io.BytesIO(b"abcGET / HTTP/1.1"), CONTENT_LENGTH="3")
    assert response.headers["range"] == "0-2"


def test_request_without_length_has_no_body(app):
    location = begin(app)
    response = app("PATCH", location, body=io.BytesIO(b"left over"), CONTENT_LENGTH=None)
    assert (response.status, response.headers["range"]) == (202, "0-0")
    raw = app.image()
    response = app("PUT", f"/v2/{NAME}/manifests/v1", {"Content-Type": MANIFEST}, io.BytesIO(raw), CONTENT_LENGTH=None)
    assert response.status == 400
    # In HTTP/2 a body may have neither Content-Length nor Transfer-Encoding
    response = app("PATCH", location, body=io.BytesIO(b"abc"), CONTENT_LENGTH=None, **{"wsgi.input_terminated": True})
    assert response.headers["range"] == "0-2"


def test_wrong_digest_leaves_no_blob(app):
    wrong = digest_of(b"something else")
    location = begin(app)
    app("PATCH", location, body=b"abc")
    assert app("PUT", f"{location}?digest={wrong}").code == "DIGEST_INVALID"
    assert app("POST", f"/v2/{NAME}/blobs/uploads/?digest={wrong}", body=b"abc").code == "DIGEST_INVALID"
    for digest in (wrong, digest_of(b"abc")):
        assert app("GET", f"/v2/{NAME}/blobs/{digest}").status == 404
    assert app("GET", location).status == 404


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:abc", f"sha384:{'0' * 96}", f"md5:{'0' * 32}", f"SHA256:{'0' * 64}"]
)
def test_finish_without_valid_digest_returns_400_and_session_stays(app, digest):
    location = begin(app)
    app("PATCH", location, body=b"abc")
    assert app("PUT", f"{location}?digest={digest}").status == 400
    assert app("PUT", location).status == 400
    assert upload_size(app, location) == 3


def test_cancelled_upload_returns_404(app):
    location = begin(app)
    app("PATCH", location, body=b"abc")
    assert app("DELETE", location).status == 204
    for method in ("GET", "PATCH", "DELETE"):
        assert app(method, location).status == 404


def test_upload_is_unknown_in_other_repository(app):
    location = begin(app)
    app("PATCH", location, body=b"abc")
    elsewhere = location.replace(NAME, "other")
    for method in ("GET", "PATCH", "DELETE"):
        assert app(method, elsewhere).code if method != "GET" else app(method, elsewhere).status == 404
    assert app("PUT", f"{elsewhere}?digest={digest_of(b'abc')}").code == "BLOB_UPLOAD_UNKNOWN"
    assert upload_size(app, location) == 3


@pytest.mark.parametrize("chunked", [False, True])
def test_upload_above_blob_limit_returns_413(make_registry, chunked):
    registry = make_registry(limits=Limits(blob=10))

    def body(content):
        return [content[at : at + 4] for at in range(0, len(content), 4)] if chunked else content

    def post(content):
        return registry("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest_of(content)}", body=body(content)).status

    assert (post(b"x" * 10), post(b"x" * 11)) == (201, 413)
    location = begin(registry)
    registry("PATCH", location, body=body(b"abcdef"))
    response = registry("PATCH", location, body=body(b"ghijklmno"))
    assert response.status == 413 and "10 bytes" in response.errors[0]["message"]
    size = upload_size(registry, location)
    assert 6 <= size <= 10
    assert registry("PATCH", location, body=body(b"ghijklmno"[size - 6 : 4])).headers["range"] == "0-9"
    assert registry("PUT", f"{location}?digest={digest_of(b'abcdefghijk')}", body=body(b"k")).status == 413
    assert registry("PUT", f"{location}?digest={digest_of(b'abcdefghij')}").status == 201


def test_push_above_quota_returns_413(make_registry):
    registry = make_registry(limits=Limits(repository=10))
    first = registry.blob(b"123456")["digest"]

    def post(content, name=NAME):
        return registry("POST", f"/v2/{name}/blobs/uploads/?digest={digest_of(content)}", body=content)

    response = post(b"12345")
    assert response.status == 413 and "4 more bytes" in response.errors[0]["message"]
    assert post(b"12345", "other").status == 201
    location = begin(registry)
    registry("PATCH", location, body=b"abcd")
    assert registry("PATCH", location, body=b"e").status == 413
    response = post(b"1")
    assert (response.status, response.code) == (413, "DENIED")
    assert registry("PUT", f"{location}?digest={digest_of(b'abcd')}").status == 201
    registry("DELETE", f"/v2/{NAME}/blobs/{first}")
    assert post(b"123456").status == 201


def test_unfinished_uploads_count_in_quota(make_registry):
    registry = make_registry(limits=Limits(repository=10))
    locations = [begin(registry), begin(registry)]
    assert registry("PATCH", locations[0], body=b"123456").status == 202
    assert registry("PATCH", locations[1], body=b"12345").status == 413
    assert registry("PATCH", locations[1], body=b"1234").status == 202
    assert registry("PATCH", locations[1], body=[b"5"]).status == 413
    response = registry("POST", f"/v2/{NAME}/blobs/uploads/")
    assert (response.status, response.code) == (413, "DENIED")
    assert registry("DELETE", locations[0]).status == 204
    assert registry("PATCH", locations[1], body=b"567890").status == 202
    assert registry("PUT", f"{locations[1]}?digest={digest_of(b'1234567890')}").status == 201


def test_concurrent_uploads_share_the_quota(make_registry):
    registry = make_registry(limits=Limits(repository=4 << 20))
    first, second = begin(registry), begin(registry)

    class Stream:
        """3 MiB; the other upload is sent after the first MiB."""

        remaining, statuses = 3 << 20, []

        def read(self, size):
            if self.remaining <= 2 << 20 and not self.statuses:
                self.statuses.append(registry("PATCH", second, body=bytes(3 << 20)).status)
            count = min(size, self.remaining, 1 << 18)
            self.remaining -= count
            return bytes(count)

    stream = Stream()
    response = registry("PATCH", first, {"Content-Length": str(3 << 20)}, body=stream)
    assert (stream.statuses, response.status, response.code) == ([202], 413, "DENIED")
    assert upload_size(registry, first) + upload_size(registry, second) < 6 << 20


def test_too_many_uploads_of_user_or_all_return_429(make_registry):
    class Names(Access):
        def identify(self, request):
            return Identity(request.header("X-User"))

        def allows(self, identity, permission):
            return True

    registry = make_registry(Names(), limits=Limits(sessions=5, sessions_each=2))

    def create_upload(user):
        return registry("POST", f"/v2/{NAME}/blobs/uploads/", {"X-User": user})

    locations = [create_upload("ada").headers["location"] for _ in range(2)]
    response = create_upload("ada")
    assert (response.status, response.code, response.headers["retry-after"]) == (429, "TOOMANYREQUESTS", "60")
    assert [create_upload(user).status for user in ("bob", "bob", "eve", "eve")] == [202, 202, 202, 429]
    for location in locations:
        assert registry("DELETE", location, {"X-User": "ada"}).status == 204
    assert [create_upload(user).status for user in ("eve", "eve", "ada", "ada")] == [202, 429, 202, 429]


def test_abandoned_uploads_of_one_address_block_no_others(make_registry):
    registry = make_registry(limits=Limits(sessions=10, sessions_each=3))

    def create_upload(address):
        return registry("POST", f"/v2/{NAME}/blobs/uploads/", REMOTE_ADDR=address)

    assert [create_upload("192.0.2.1").status for _ in range(4)] == [202, 202, 202, 429]
    assert create_upload("192.0.2.2").status == 202
    # A client has all addresses of an IPv6 network
    assert [create_upload(f"2001:db8::{last}").status for last in range(4)] == [202, 202, 202, 429]


def test_upload_continues_from_another_address(app):
    location = app("POST", f"/v2/{NAME}/blobs/uploads/", REMOTE_ADDR="192.0.2.1").headers["location"]
    assert app("PATCH", location, body=b"abc", REMOTE_ADDR="192.0.2.2").status == 202
    response = app("PUT", f"{location}?digest={digest_of(b'abc')}", REMOTE_ADDR="192.0.2.3")
    assert response.status == 201


def test_idle_uploads_give_way_to_new_ones(make_registry, monkeypatch):
    registry, real = make_registry(limits=Limits(sessions_each=2)), time.time
    create_upload = partial(registry, "POST", f"/v2/{NAME}/blobs/uploads/")
    empty, used = (create_upload().headers["location"] for _ in range(2))
    registry("PATCH", used, body=b"abc")
    assert create_upload().headers["retry-after"] == "60"
    monkeypatch.setattr(time, "time", lambda: real() + 40)
    assert create_upload().headers["retry-after"] in {"20", "21"}
    monkeypatch.setattr(time, "time", lambda: real() + 61)
    assert create_upload().status == 202
    assert (registry("GET", empty).status, registry("GET", used).status) == (404, 204)
    monkeypatch.setattr(time, "time", lambda: real() + 601)
    assert create_upload().status == 202
    assert registry("GET", used).status == 404


def test_idle_uploads_of_others_give_way_above_the_total(make_registry, monkeypatch):
    registry, real = make_registry(limits=Limits(sessions=3)), time.time
    create_upload = partial(registry, "POST", f"/v2/{NAME}/blobs/uploads/")
    for last in range(3):
        assert create_upload(REMOTE_ADDR=f"192.0.2.{last}").status == 202
    assert create_upload(REMOTE_ADDR="192.0.2.9").status == 429
    monkeypatch.setattr(time, "time", lambda: real() + 61)
    assert create_upload(REMOTE_ADDR="192.0.2.9").status == 202


def test_single_request_push_needs_no_free_session(make_registry):
    registry = make_registry(limits=Limits(sessions_each=1))
    assert registry("POST", f"/v2/{NAME}/blobs/uploads/").status == 202
    assert registry("POST", f"/v2/{NAME}/blobs/uploads/").status == 429
    digest = digest_of(b"abc")
    assert registry("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}", body=b"abc").status == 201


# Mounts


def test_blob_is_mounted_from_named_repository(app):
    digest = app.blob(b"abc", "from")["digest"]
    response = app("POST", f"/v2/to/blobs/uploads/?mount={digest}&from=from")
    assert (response.status, response.headers["location"]) == (201, f"/v2/to/blobs/{digest}")
    assert response.headers["docker-content-digest"] == digest
    assert app("GET", f"/v2/to/blobs/{digest}").body == b"abc"
    app("DELETE", f"/v2/from/blobs/{digest}")
    assert app("GET", f"/v2/to/blobs/{digest}").body == b"abc"


@pytest.mark.parametrize("source", ["", "&from="])
def test_mount_without_source_finds_blob(app, source):
    digest = app.blob(b"abc", "from", "sha512")["digest"]
    assert app("POST", f"/v2/to/blobs/uploads/?mount={digest}{source}").status == 201
    assert app("HEAD", f"/v2/to/blobs/{digest}").status == 200


@pytest.mark.parametrize(
    "source", ["&from=from", "&from=none", "", "&from=Not/A/Name", "&from=..%2f..", "&from=a%0d%0aX-Evil:%201"]
)
def test_failed_mount_starts_upload(app, source):
    app.blob(b"other", "from")
    response = app("POST", f"/v2/to/blobs/uploads/?mount={digest_of(b'abc')}{source}")
    assert response.status == 202
    response = app("PUT", f"{response.headers['location']}?digest={digest_of(b'abc')}", body=b"abc")
    assert response.status == 201


class MineAndPublic(Access):
    """Access that allows pushes to "mine" and pulls from "public"."""

    def identify(self, request):
        return ANONYMOUS

    def allows(self, identity, permission):
        return permission.repository == "mine" or (permission.action, permission.repository) == ("pull", "public")


@pytest.mark.parametrize("source", ["&from=secret", ""])
def test_mount_from_unreadable_repository_starts_upload(make_registry, source):
    digest = make_registry().blob(b"secret", "secret")["digest"]
    registry = make_registry(MineAndPublic())
    response = registry("POST", f"/v2/mine/blobs/uploads/?mount={digest}{source}")
    unknown = registry("POST", f"/v2/mine/blobs/uploads/?mount={digest_of(b'none')}{source}")
    assert (
        (response.status, set(response.headers))
        == (unknown.status, set(unknown.headers))
        == (202, set(unknown.headers))
    )
    assert registry("HEAD", f"/v2/mine/blobs/{digest}").status == 404
    make_registry().blob(b"secret", "public")
    assert registry("POST", f"/v2/mine/blobs/uploads/?mount={digest}").status == 201
