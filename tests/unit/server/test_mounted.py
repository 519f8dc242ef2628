"""The registry mounted in Flask, Django and Starlette applications, under real servers."""

import contextlib
import hashlib
import json
import os
import sys
import textwrap
import time

import pytest
import requests
from ocikit.client.session import Session
from ocikit.remote.auth.keychain import ANONYMOUS

from tests.support import peers
from tests.support.http import free_port

#: Applications as users write them. Each has the registry twice: under a prefix, and at the standard path.
APPLICATIONS = {
    "flask": """
        from flask import Flask
        from werkzeug.middleware.dispatcher import DispatcherMiddleware

        app = Flask(__name__)

        @app.get("/hello")
        def hello():
            return "hello"

        app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/registry": registry, "/v2": registry})
        """,
    "django": """
        import django
        from django.conf import settings
        from django.core.wsgi import get_wsgi_application
        from django.http import HttpResponse
        from django.urls import path

        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="tests")
        urlpatterns = [path("hello", lambda request: HttpResponse("hello"))]
        pages = get_wsgi_application()

        def app(environ, start_response):
            for prefix in ("/registry", "/v2"):
                if environ["PATH_INFO"].startswith(f"{prefix}/"):
                    environ["SCRIPT_NAME"] += prefix
                    environ["PATH_INFO"] = environ["PATH_INFO"][len(prefix):]
                    return registry(environ, start_response)
            return pages(environ, start_response)
        """,
    "starlette": """
        from a2wsgi import WSGIMiddleware
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Mount, Route

        async def hello(request):
            return PlainTextResponse("hello")

        app = Starlette(routes=[
            Route("/hello", hello),
            Mount("/registry", WSGIMiddleware(registry)),
            Mount("/v2", WSGIMiddleware(registry)),
        ])
        """,
}

SETUP = """
from pathlib import Path

from ocikit.server import Application, Settings, file_storage

registry = Application(file_storage(Path(__file__).with_name("store")), settings=Settings(trusted_proxies=("127.0.0.1",)))
"""


@pytest.fixture(scope="module", params=APPLICATIONS)
def site(request, tmp_path_factory):
    """Return the host of a running application."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "site_of_tests.py").write_text(SETUP + textwrap.dedent(APPLICATIONS[request.param]))
    port = free_port()
    # a2wsgi expects coroutines, but granian's ASGI passes futures
    program = ["uvicorn"] if request.param == "starlette" else ["granian", "--interface", "wsgi"]
    command = [sys.executable, "-m", *program, "--port", str(port), "site_of_tests:app"]
    with peers.process(command, folder / "log", env={"PYTHONPATH": f"{folder}{os.pathsep}{peers.ROOT}"}):
        for _ in range(600):
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"http://127.0.0.1:{port}/hello", timeout=10).text == "hello":
                    break
            time.sleep(0.05)
        else:
            pytest.fail((folder / "log").read_text())
        yield f"127.0.0.1:{port}"


@pytest.fixture
def http():
    with requests.Session() as session:
        session.trust_env = False
        yield session


def digest_of(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("forwarded", ["", "/above"])
def test_links_contain_the_prefix(site, http, forwarded, repo):
    """The forwarded prefix is that of a proxy in front of the application."""
    base, content = f"http://{site}", os.urandom(300_000)
    http.headers.update({"X-Forwarded-Prefix": forwarded} if forwarded else {})

    def below(location):
        assert location.startswith(f"{forwarded}/registry/v2/{repo}/"), location
        return base + location.removeprefix(forwarded)

    started = http.post(f"{base}/registry/v2/{repo}/blobs/uploads/")
    assert started.status_code == 202
    part = http.patch(below(started.headers["Location"]), data=iter([content[:100_000], content[100_000:200_000]]))
    assert (part.status_code, part.headers["Range"]) == (202, "0-199999")
    upload = below(part.headers["Location"])
    put = http.put(upload, params={"digest": digest_of(content)}, data=content[200_000:])
    assert put.status_code == 201, put.text
    blob = http.get(below(put.headers["Location"]), headers={"Range": "bytes=5-9"})
    assert (blob.status_code, blob.content) == (206, content[5:10])

    entry = {"mediaType": "application/octet-stream", "digest": digest_of(content), "size": len(content)}
    media_type = "application/vnd.oci.image.manifest.v1+json"
    raw = json.dumps({"schemaVersion": 2, "mediaType": media_type, "config": entry, "layers": [entry]}).encode()
    for tag in ("a", "b"):
        url = f"{base}/registry/v2/{repo}/manifests/{tag}"
        response = http.put(url, data=iter([raw]), headers={"Content-Type": media_type})
        assert response.status_code == 201, response.text
        assert http.get(below(response.headers["Location"])).content == raw
    page = http.get(f"{base}/registry/v2/{repo}/tags/list?n=1")
    following = http.get(below(page.headers["Link"].partition(">")[0].lstrip("<")))
    assert (page.json()["tags"], following.json()["tags"]) == (["a"], ["b"])
    assert http.delete(f"{base}/registry/v2/{repo}/manifests/{digest_of(raw)}").status_code == 202
    assert http.get(f"{base}/hello").text == "hello"


def test_client_works_next_to_other_pages(site, repo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.bin").write_bytes(os.urandom(5 << 20))
    with Session(credentials=ANONYMOUS, cache=tmp_path / "cache", progress=False) as session:
        pushed = session.push(f"{site}/{repo}:v1", "data.bin")
        session.pull(pushed.reference, tmp_path / "back")
        assert (tmp_path / "back" / "data.bin").read_bytes() == (tmp_path / "data.bin").read_bytes()
        assert list(session.tags(f"{site}/{repo}")) == ["v1"]
        session.delete(pushed.reference)


def test_errors_of_other_pages_are_unchanged(site, http):
    assert http.get(f"http://{site}/nothing").status_code == 404
    ours = http.get(f"http://{site}/registry/v2/nothing/tags/list")
    assert (ours.status_code, ours.json()["errors"][0]["code"]) == (404, "NAME_UNKNOWN")
