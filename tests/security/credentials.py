"""Credential forwarding: uploads, redirects, token servers, lists and layers on other hosts."""

import json
import os

import ocikit
from ocikit.remote.auth.keychain import Credentials

from tests.security.attacks import ADA, IDENTITY, PASSWORD, TOKEN, attack, sha256

CONTENT = b"what is pushed " * 100
TO_EVIL = {"elsewhere": "{evil}/x", "with a user": "http://ada@{evil_host}/x", "by protocol-relative URL": "//{evil_host}/x",
           "behind a backslash": "http://{evil_host}\\@{host}/x", "behind a relative backslash": "//{evil_host}\\@{host}/x",
           "without a path": "{evil}?sig=a"}  # fmt: skip


def url(scene, pattern):
    return pattern.format(
        evil=scene.evil.url, evil_host=scene.evil.host, host=scene.registry.host, port=scene.evil.port
    )


def authorized(request):
    return "Authorization" in request.headers


def push(scene):
    (scene.work / "file").write_bytes(CONTENT)
    return scene.user(lambda: scene.session.push(f"{scene.registry.host}/a/b:v1", "file"))


# Uploads


@attack(
    "GHSA-jxpm-75mh-9fp7 (CVE-2026-50151)",
    "Location: {} to the POST of an upload",
    each=TO_EVIL,
    ends="nothing|InvalidResponse",
)
def an_upload_location_on_another_host_gets_the_content_and_no_credential(scene, location):
    scene.protect()
    scene.registry.on("POST", ".*/uploads/", when=authorized, times=None, status=202, headers={"Location": url(scene, location)})  # fmt: skip
    scene.evil.on("PUT", ".*", times=None, status=201)
    push(scene)
    if "\\" not in location:
        assert {r.body for r in scene.evil.seen("PUT")} == {CONTENT, b"{}"}


@attack("GHSA-jxpm-75mh-9fp7 (CVE-2026-50151)", "another host as the Location of {}", ends="nothing|UploadUnknown|RegistryError",
        each={"a PATCH, for the closing PUT": (), "a PATCH, which then wants to be asked where it is": (416, 204),
              "a PATCH, which then fails and is cancelled": (500, 500)})  # fmt: skip
def an_upload_that_changes_hosts_midway_takes_no_credential_along(scene, answers):
    scene.protect()
    scene.registry.on("PUT", ".*/uploads/.*", when=lambda r: authorized(r) and r.body, times=2, status=413)
    scene.registry.on("PATCH", ".*", when=authorized, times=None, status=202, headers={"Location": f"{scene.evil.url}/up"})  # fmt: skip
    scene.evil.on("PUT", ".*", times=None, status=201)
    for status in answers:
        scene.evil.on("PUT", ".*", status=status, times=2)
        scene.evil.on("GET|DELETE", ".*", status=204, headers={"Location": "/up", "Range": "0-10"}, times=None)
    push(scene)
    assert scene.evil.seen("PUT")


@attack("GHSA-jxpm-75mh-9fp7 (CVE-2026-50151)", "307 to another host, to {}", each={m: m for m in ("POST", "PUT", "PATCH")},
        ends="nothing|InvalidResponse|UploadUnknown")  # fmt: skip
def a_write_that_is_redirected_takes_no_credential_along(scene, method):
    scene.protect()
    if method == "PATCH":
        scene.registry.on("PUT", ".*/uploads/.*", when=lambda r: authorized(r) and r.body, times=2, status=413)
    scene.registry.on(method, ".*/blobs/uploads/.*", when=authorized, times=None, status=307,
                      headers={"Location": f"{scene.evil.url}/grab"})  # fmt: skip
    scene.evil.on("POST|PATCH", ".*", times=None, status=202, headers={"Location": f"{scene.evil.url}/next"})
    scene.evil.on("PUT", ".*", times=None, status=201)
    push(scene)
    assert scene.evil.requests


@attack(
    "GHSA-jxpm-75mh-9fp7 (CVE-2026-50151)",
    "401 with a challenge, from the host that the upload went to",
    ends="Unauthorized",
)
def a_challenge_from_where_an_upload_leads_is_not_answered(scene):
    scene.protect()
    scene.registry.on("POST", ".*/uploads/", when=authorized, times=None, status=202, headers={"Location": f"{scene.evil.url}/x"})  # fmt: skip
    scene.evil.on(".*", ".*", times=None, status=401, headers={"WWW-Authenticate": f'Bearer realm="{scene.evil.url}/token"'})  # fmt: skip
    push(scene)
    assert not scene.evil.seen(path="/token")


@attack(
    "GHSA-jxpm-75mh-9fp7 (CVE-2026-50151)",
    "another host as the Location of a mount that isn't granted",
    ends="nothing|CopyError",
)
def a_mount_that_opens_an_upload_elsewhere_gives_no_credential_away(scene):
    ref = scene.artifact(scene.layer(CONTENT))
    scene.protect()
    scene.registry.on("POST", "/v2/c/d/.*", when=authorized, times=None, status=202, headers={"Location": f"{scene.evil.url}/x"})  # fmt: skip
    scene.evil.on("PUT", ".*", times=None, status=201)
    scene.user(lambda: scene.session.copy(ref, f"{scene.registry.host}/c/d:v1"))


# Redirects and lists


@attack(
    "GHSA-vh4v-2xq2-g5cg",
    "a redirect of a blob: {}",
    each=TO_EVIL,
    ends="nothing|InvalidResponse|BlobUnknown|ConnectionFailed",
)
def a_redirect_to_another_port_takes_no_credential_along(scene, location):
    ref = scene.artifact(scene.layer(CONTENT))
    scene.protect()
    scene.registry.on("GET", ".*/blobs/.*", when=authorized, times=None, status=307, headers={"Location": url(scene, location)})  # fmt: skip
    scene.evil.on("GET", ".*", times=None, status=200, body=CONTENT)
    scene.user(lambda: scene.session.pull(ref, "out"))


@attack("GHSA-vh4v-2xq2-g5cg", "a redirect from https to {}", ends="InvalidResponse|nothing",
        each={"http on the same host": "http://registry.example/x", "http on another port": "http://registry.example:8080/x",
              "https on another port": "https://registry.example:8443/v2/a/b/blobs/{digest}",
              "the same host with a dot at its end": "https://registry.example.:8443/x"})  # fmt: skip
def a_redirect_to_another_scheme_or_port_takes_no_credential_along(scene, location):
    server = scene.public()
    ref = scene.artifact(scene.layer(CONTENT), server=server)
    scene.challenge("https://registry.example/token", server)
    server.on("GET", "/token", times=None, status=200, body=json.dumps({"token": TOKEN}).encode())
    scene.evil.tls = server.tls
    scene.evil.blob("a/b", CONTENT)
    scene.names |= {"registry.example:443": server, "registry.example": scene.evil, "registry.example.": scene.evil}
    server.on("GET", ".*/blobs/.*", when=authorized, times=None, status=307, headers={"Location": location.format(digest=sha256(CONTENT))})  # fmt: skip
    scene.evil.on("GET", "/x", times=None, status=200, body=CONTENT)
    with_dot = "example.:" in location
    scene.user(lambda: scene.session.pull(ref, "out")) if not with_dot else scene.user(lambda: scene.session.pull(ref))


@attack(
    "GHSA-vh4v-2xq2-g5cg",
    "redirects there and back again, to another repository",
    ends="nothing|Unauthorized|BlobUnknown",
)
def a_redirect_back_from_a_stranger_is_followed_without_a_credential(scene):
    ref = scene.artifact(scene.layer(CONTENT))
    scene.protect()
    scene.registry.on("GET", "/v2/a/b/blobs/.*", when=authorized, times=None, status=307, headers={"Location": f"{scene.evil.url}/x"})  # fmt: skip
    scene.evil.on("GET", ".*", times=None, status=307, headers={"Location": f"{scene.registry.url}/v2/private/x/blobs/{sha256(CONTENT)}"})  # fmt: skip
    scene.user(lambda: scene.session.pull(ref, "out"))
    assert not any(map(authorized, scene.registry.seen(path="/v2/private/.*")))


@attack("oras-go, Link", 'Link: <another host: {}>; rel="next"', each=TO_EVIL, ends="InvalidResponse")
def a_list_that_goes_on_elsewhere_is_refused(scene, location):
    ref = scene.artifact(scene.layer(CONTENT))
    scene.protect()
    header = {"Link": f'<{url(scene, location)}>; rel="next"'}
    scene.registry.on("GET", ".*/(tags/list|_catalog)", when=authorized, times=None, headers=header)
    scene.user(lambda: list(scene.session.tags(ref)))
    scene.user(lambda: list(scene.session.catalog(scene.registry.host)))
    assert not scene.evil.requests


@attack("oras-go, Link", 'Link: <another host: {}>; rel="next" to referrers', each=TO_EVIL, ends="InvalidResponse")
def a_list_of_referrers_that_goes_on_elsewhere_is_refused(scene, location):
    ref = scene.artifact(scene.layer(CONTENT))
    scene.protect()
    header = {"Link": f'<{url(scene, location)}>; rel="next"'}
    scene.registry.on("GET", ".*/referrers/.*", when=authorized, times=None, headers=header)
    scene.user(lambda: list(scene.session.referrers(ref)))
    assert not scene.evil.requests


# Token servers


PLAIN = ["http://evil.example/token", "http://registry.example/token", "HTTP://evil.example/token"]
PRIVATE = ["https://127.0.0.1/token", "https://2130706433/token", "https://0177.0.0.1/token", "https://0x7f.1/token",
           "https://127.1/token", "https://0.0.0.0/token", "https://[::]/token", "https://[::1]/token",
           "https://[::ffff:127.0.0.1]/token", "https://[::127.0.0.1]/token", "https://[64:ff9b::7f00:1]/token",
           "https://[2002:7f00:1::]/token", "https://[::ffff:0:127.0.0.1]/token", "https://localhost/token",
           "https://localhost./token", "https://LOCALHOST/token", "https://x.localhost/token",
           "https://10.0.0.1/token", "https://192.168.1.1:8443/token", "https://[fd00::1]/token", "https://%31%32%37.0.0.1/token",
           "https://10.0.0.1\\@registry.example/token"]  # fmt: skip
METADATA = ["https://169.254.169.254/token", "https://169.254.169.254./token", "https://2852039166/token",
            "https://0251.0376.0251.0376/token", "https://0xa9fea9fe/token", "https://0xA9.0xFE.0xA9.0xFE/token",
            "https://169.16689662/token", "https://[::ffff:169.254.169.254]/token", "https://[::ffff:a9fe:a9fe]/token",
            "https://[64:ff9b::a9fe:a9fe]/token", "https://[64:ff9b:1::a9fe:a9fe]/token", "https://[::169.254.169.254]/token",
            "https://[2002:a9fe:a9fe::]/token", "https://[fe80::1]/token", "https://[fd00:ec2::254]/token",
            "https://metadata.google.internal/token", "https://metadata.google.internal./token", "https://METADATA/token",
            "https://100.100.100.200/token", "https://%31%36%39.254.169.254/token",
            "https://169.254.169.254%00.example/token"]  # fmt: skip
STRANGE = ["https://ada@evil.example/token", "https://ada:pw@evil.example/token", "ftp://evil.example/token", "file:///etc/passwd",
           "//evil.example/token", "/token", "", "https:///token", "https://evil.example\\@registry.example/token",
           "https://registry.example\\.evil.example/token", "https://evil.example:x/token", "https://[evil.example/token",
           "https://evil.example /token", "javascript:alert(1)", "https://evil.example\t/token"]  # fmt: skip


def refused(scene, realms):
    """Return these realms from a registry in turn; none of them receives a request."""
    server = scene.public()
    for realm in realms:
        scene.challenge(realm, server)
        before = len(server.requests)
        scene.user(lambda: scene.open_session(network=scene.network).inspect("registry.example/a/b:v1"))
        assert not scene.evil.connections and not scene.trap.connections and len(server.requests) == before + 1, realm


@attack("GHSA-xf85-363p-868w (CVE-2026-48978), GHSA-28r5-37g7-p6mp", "Bearer realm=, from a registry over https, {}", ends="InvalidResponse|Unauthorized",
        each={"of a host over http": PLAIN, "that is invalid, ambiguous, or has a user": STRANGE})  # fmt: skip
def a_realm_that_no_password_should_go_to_gets_none(scene, realms):
    refused(scene, realms)


@attack("ggcr#2258, ggcr#2359", "Bearer realm=, from a public registry, {}", ends="InvalidResponse",
        each={"of a private address in every spelling": PRIVATE, "of a metadata service in every spelling": METADATA})  # fmt: skip
def a_realm_inside_the_users_network_is_not_asked(scene, realms):
    refused(scene, realms)


@attack("ggcr#2258, ggcr#2359", "{} a metadata service or the user's machine, in every spelling, from a public registry", ends="InvalidResponse",
        each={"a redirect to": 307, "the Location of": 202})  # fmt: skip
def a_public_registry_leads_nobody_into_their_own_machine(scene, status):
    server = scene.public()
    ref = scene.artifact(scene.layer(CONTENT), server=server)
    (scene.work / "file").write_bytes(b"new")
    private = ("10.", "192.", "fd00")  # many registries store blobs on a neighbouring host
    for realm in [*(r for r in PRIVATE if not any(part in r for part in private) or "\\" in r), *METADATA]:
        headers = {"Location": realm.replace("/token", "/latest/")}
        if status == 202:
            server.on("POST", ".*", times=None, status=status, headers=headers)
            scene.user(lambda: scene.session.push(ref, "file"))
        else:
            server.on("GET", ".*/blobs/.*", times=None, status=status, headers=headers)
            scene.user(lambda: scene.session.pull(ref, "out"))
        assert not scene.trap.connections, realm


@attack("ggcr#2258, ggcr#2359", "a redirect of {} to a metadata service, from a host that was named insecure",
        each={m: m for m in ("GET", "POST")}, ends="InvalidResponse")  # fmt: skip
def laxity_with_a_host_does_not_open_metadata_services(scene, method):
    ref = scene.artifact(scene.layer(CONTENT))
    (scene.work / "file").write_bytes(b"new")
    scene.registry.on(
        method, ".*/blobs/.*", times=None, status=307, headers={"Location": "http://169.254.169.254/latest/"}
    )
    session = scene.open_session(insecure=[scene.registry.host])
    scene.user(lambda: session.pull(ref, "out") if method == "GET" else session.push(ref, "file"))
    assert not scene.trap.connections


@attack(
    "ggcr#2258, ggcr#2359",
    "the Location of a metadata service, from a host that was named insecure",
    ends="InvalidResponse",
)
def laxity_with_a_host_does_not_upload_to_metadata_services(scene):
    (scene.work / "file").write_bytes(CONTENT)
    scene.registry.on("POST", ".*", times=None, status=202, headers={"Location": "http://169.254.169.254/latest/"})
    session = scene.open_session(insecure=[scene.registry.host])
    scene.user(lambda: session.push(f"{scene.registry.host}/a/b:v1", "file"))
    assert not scene.trap.connections


@attack("GHSA-xf85-363p-868w (CVE-2026-48978)", "a {} from the token server to another host", each={"301": 301, "302": 302, "303": 303, "307": 307, "308": 308},
        ends="nothing|Unauthorized|RegistryError")  # fmt: skip
def a_token_server_that_redirects_takes_no_password_along(scene, status):
    ref = scene.artifact(scene.layer(CONTENT))
    scene.protect()
    scene.auth.on("GET", "/token", times=None, status=status, headers={"Location": f"{scene.evil.url}/grab"})
    scene.evil.on("GET", "/grab", times=None, status=200, body=b'{"token": "worthless"}')
    scene.user(lambda: scene.session.inspect(ref))
    assert scene.auth.requests and scene.evil.requests


@attack("GHSA-28r5-37g7-p6mp", "a {} of the POST with the refresh token, to another host", each={"301": 301, "302": 302, "303": 303, "307": 307, "308": 308},
        ends="InvalidResponse")  # fmt: skip
def a_refresh_token_is_not_sent_on(scene, status):
    ref = scene.artifact(scene.layer(CONTENT))
    scene.protect()
    scene.auth.on("POST", "/token", times=None, status=status, headers={"Location": f"{scene.evil.url}/grab"})
    session = scene.open_session(credentials=Credentials(identity_token=IDENTITY))
    scene.user(lambda: session.inspect(ref))
    assert IDENTITY.encode() in scene.auth.requests[0].body and not scene.evil.requests


@attack("GHSA-28r5-37g7-p6mp", "a token server over https that redirects to http", ends="InvalidResponse")
def a_token_server_that_steps_down_to_http_is_refused(scene):
    server = scene.public()
    scene.challenge("https://registry.example/token", server)
    server.on("GET", "/token", times=None, status=307, headers={"Location": "http://evil.example/grab"})
    scene.user(lambda: scene.session.inspect("registry.example/a/b:v1"))
    assert not scene.trap.connections


@attack(
    "GHSA-xf85-363p-868w (CVE-2026-48978)",
    "a challenge with another realm, from where a request was redirected",
    ends="Unauthorized|BlobUnknown",
)
def a_realm_that_a_redirect_names_is_not_asked(scene):
    ref = scene.artifact(scene.layer(CONTENT))
    scene.protect()
    scene.registry.on("GET", ".*/blobs/.*", when=authorized, times=None, status=307, headers={"Location": f"{scene.evil.url}/x"})  # fmt: skip
    scene.evil.on("GET", "/x", times=None, status=401, headers={"WWW-Authenticate": f'Bearer realm="{scene.evil.url}/token",service="registry"'})  # fmt: skip
    scene.user(lambda: scene.session.pull(ref, "out"))
    scene.user(lambda: scene.session.pull(ref, "out"))
    assert not scene.evil.seen(path="/token")


@attack(
    "GHSA-xf85-363p-868w (CVE-2026-48978)",
    "a second challenge over https, with a realm over http",
    ends="nothing|InvalidResponse",
)
def a_registry_that_changes_its_realm_to_http_midway_gets_nothing_there(scene):
    server = scene.public()
    ref = scene.artifact(scene.layer(CONTENT), server=server)
    scene.challenge("https://registry.example/token", server)
    server.on("GET", "/token", times=None, status=200, body=json.dumps({"token": TOKEN}).encode())
    scene.user(lambda: scene.session.inspect(ref))
    scene.challenge("http://evil.example/token", server)
    server.on("GET|HEAD", ".*", when=lambda r: r.path != "/token", times=None, status=401,
              headers={"WWW-Authenticate": 'Bearer realm="http://evil.example/token",service="registry"'})  # fmt: skip
    scene.user(lambda: list(scene.session.tags(ref)))
    assert not scene.trap.connections


@attack("GHSA-xf85-363p-868w (CVE-2026-48978)", "a second challenge with another realm, after the first one rotated the refresh token",
        ends="nothing|Unauthorized|RegistryError")  # fmt: skip
def what_one_token_server_gave_is_not_sent_to_another(scene):
    """A registry changes its realm. Each realm gets its own credentials, and tokens of the former realm stay there."""
    ref = scene.artifact(scene.layer(CONTENT))
    scene.protect()
    scene.auth.on("POST", "/token", times=None, status=200, body=json.dumps({"token": TOKEN, "refresh_token": PASSWORD}).encode())  # fmt: skip
    session = scene.open_session(credentials=Credentials(identity_token="goesWhereTheRegistrySays"))
    scene.user(lambda: session.inspect(ref))
    scene.evil.on("POST", "/token", times=None, status=401)
    scene.registry.on("GET|HEAD", ".*", times=None, status=401, headers={"WWW-Authenticate": f'Bearer realm="{scene.evil.url}/token",service="registry"'})  # fmt: skip
    scene.user(lambda: list(session.tags(ref)))
    assert scene.evil.seen("POST", "/token")
    scene.given = "the user's own refresh token: the registry chooses its target"


@attack(
    "GHSA-xf85-363p-868w (CVE-2026-48978)",
    "a challenge from a registry that the user has no credentials for",
    ends="Unauthorized|nothing|RegistryError",
)
def another_registry_gets_nothing_of_this_ones(scene):
    scene.protect()
    scene.user(lambda: scene.session.inspect(scene.artifact(scene.layer(CONTENT))))
    scene.challenge(f"{scene.auth.url}/token", scene.evil)  # the registry's own realm
    scene.evil.manifest("a/b", {"x": 1}, "v1")
    before = len(scene.auth.requests)
    scene.auth.on("GET", "/token", times=None, status=200, body=b'{"token": "anonymous"}')
    scene.user(lambda: scene.session.inspect(f"{scene.evil.host}/a/b:v1"))
    assert len(scene.auth.requests) > before
    assert not any(map(authorized, scene.auth.requests[before:]))


@attack(
    "GHSA-xf85-363p-868w (CVE-2026-48978)",
    "a login whose registry redirects /v2/ elsewhere, with a challenge there",
    ends="Unauthorized|InvalidResponse|ConnectionFailed|nothing",
)
def a_login_is_checked_with_its_own_registry_alone(scene):
    scene.registry.on("GET", "/v2/", times=None, status=307, headers={"Location": f"{scene.evil.url}/v2/"})
    scene.evil.on("GET", ".*", times=None, status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    scene.user(lambda: scene.session.login(scene.registry.host, *ADA))
    assert scene.evil.requests and not (scene.root / "house/.docker/config.json").exists()


# Layers on other hosts


@attack("CVE-2020-15157", "a foreign layer whose URL {}", ends="nothing|UnsafeArchive|ContentError|BlobUnknown",
        each={"answers 401 with a challenge": "{evil}/layer", "is a metadata service's": "http://169.254.169.254/latest/",
              "is private": "http://10.0.0.1/layer", "is a file": "file:///etc/passwd"})  # fmt: skip
def the_urls_of_foreign_layers_are_not_asked(scene, where):
    urls = [url(scene, where)]
    foreign = {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": sha256(b"foreign"),
               "size": 7, "urls": urls}  # fmt: skip
    ref = scene.artifact(foreign, scene.layer(CONTENT, urls=urls))
    scene.protect()
    scene.evil.on(".*", ".*", times=None, status=401, headers={"WWW-Authenticate": f'Bearer realm="{scene.auth.url}/token",service="registry"'})  # fmt: skip
    scene.user(lambda: scene.session.pull(ref, "out"))
    scene.user(lambda: scene.session.pull(ref))
    scene.user(lambda: scene.session.copy(ref, "oci:copy:v1"))
    assert not scene.evil.requests and not scene.trap.connections


# Environment


@attack(
    "requests#3929 (netrc), cookies",
    "Set-Cookie, and a redirect; the user has a ~/.netrc for both hosts",
    ends="nothing",
)
def neither_cookies_nor_netrc_are_sent(scene):
    ref = scene.artifact(scene.layer(CONTENT))
    (scene.root / "house/.netrc").write_text(f"machine 127.0.0.1 login ada password {PASSWORD}\n")
    scene.registry.on(".*", ".*", times=None, headers={"Set-Cookie": f"session={TOKEN}; Domain=127.0.0.1; Path=/"})
    scene.registry.on("GET", ".*/blobs/.*", times=None, status=307, headers={"Location": f"{scene.evil.url}/v2/a/b/blobs/{sha256(CONTENT)}",
                      "Set-Cookie": f"session={TOKEN}; Path=/"})  # fmt: skip
    scene.evil.blob("a/b", CONTENT)
    session = ocikit.Session(network=ocikit.Network(), progress=False)
    scene.user(lambda: session.pull(ref, "out"))
    session.close()
    assert not any("Cookie" in r.headers or authorized(r) for r in [*scene.registry.requests, *scene.evil.requests])


@attack("proxies", "a request to {}, through a proxy that wants a password", each={"the registry": "http", "the registry, over https": "https"},
        ends="nothing|ConnectionFailed|ManifestUnknown|Unauthorized|NameUnknown")  # fmt: skip
def the_proxys_password_stays_with_the_proxy(scene, scheme):
    proxy = scene.auth
    os.environ[f"{scheme.upper()}_PROXY"] = f"http://ada:{PASSWORD}@proxy.example:{proxy.port}"
    scene.names |= {"proxy.example": proxy, "evil.example": scene.evil}
    session = scene.open_session(insecure=["evil.example"] if scheme == "http" else [], credentials=None)
    if scheme == "https":
        proxy.on("CONNECT", ".*", times=None, status=407)
    session = ocikit.Session(network=ocikit.Network(retries=0, schemes={"evil.example": scheme}), progress=False)
    scene.user(lambda: session.inspect("evil.example/a/b:v1"))
    session.close()
    assert proxy.requests and not scene.evil.requests and not scene.trap.requests
    assert proxy.requests[0].headers["Proxy-Authorization"].startswith("Basic ")
    if scheme == "https":
        assert {r.method for r in proxy.requests} == {"CONNECT"}  # only the registry sees the content of the tunnel


@attack("docker-credential-helpers", "credHelpers in config.json: {!r}", each={n: n for n in ("../../attacker/run", "/bin/sh", "a/b", "x\x00y", "-h", "x;touch pwned", "$(touch pwned)", "..", "")},
        ends="nothing|CredentialsError")  # fmt: skip
def a_helpers_name_runs_nothing_but_a_helper(scene, name):
    ref = scene.artifact(scene.layer(CONTENT))
    program = scene.root / "attacker/run"
    program.write_text(f"#!/bin/sh\ntouch {scene.root}/pwned\n")
    program.chmod(0o755)
    os.environ["PATH"] = f"{scene.root}/attacker:{os.environ['PATH']}"
    config = scene.root / "house/.docker/config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"credHelpers": {scene.registry.host: name}}))
    scene.challenge(f"{scene.auth.url}/token")
    scene.auth.on("GET", "/token", times=None, status=200, body=json.dumps({"token": TOKEN}).encode())
    with ocikit.Session(progress=False) as session:
        scene.user(lambda: session.inspect(ref))
    assert not (scene.root / "pwned").exists() and not (scene.work / "pwned").exists()


@attack("docker-credential-helpers", "an answer of a credential helper with {}", ends="CredentialsError|Unauthorized|nothing",
        each={"the password where JSON should be": f'echo {PASSWORD}', "the password on stderr": f"echo {PASSWORD} >&2; exit 1",
              "the password in broken JSON": "echo '{\"Secret\": \"" + PASSWORD + "\", '", "terminal codes": "printf '\\033[31m\\033]0;x\\007'; exit 1"})  # fmt: skip
def what_a_helper_says_is_shown_clean_and_without_secrets(scene, body):
    ref = scene.artifact(scene.layer(CONTENT))
    program = scene.root / "attacker/docker-credential-ours"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    os.environ["PATH"] = f"{scene.root}/attacker:{os.environ['PATH']}"
    config = scene.root / "house/.docker/config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"credHelpers": {scene.registry.host: "ours"}}))
    scene.challenge(f"{scene.auth.url}/token")
    scene.auth.on("GET", "/token", times=None, status=401)
    with ocikit.Session(progress=False) as session:
        scene.user(lambda: session.inspect(ref))
        scene.user(lambda: session.explain(scene.registry.host))


@attack(
    "header injection",
    "a token with {}",
    each={"a line break": "x\r\nX-Evil: 1", "a NUL": "x\x00y", "another script": "日本"},
    ends="InvalidResponse|Unauthorized|RegistryError",
)
def a_token_becomes_no_header_of_its_own(scene, token):
    ref = scene.artifact(scene.layer(CONTENT))
    scene.protect()
    scene.auth.on("GET", "/token", times=None, status=200, body=json.dumps({"token": token}).encode())
    scene.user(lambda: scene.session.inspect(ref))
    assert not any("X-Evil" in r.headers for r in scene.registry.requests)
