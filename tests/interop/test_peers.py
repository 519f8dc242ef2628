"""The peers work: registries respond, clients push and pull, tokens grant access, images have the documented content."""

import base64
import json
import tarfile

import pytest
import requests

from tests.support import images, peers
from tests.support.token_server import TokenServer

pytestmark = pytest.mark.interop

CLIENTS = ("crane", "regctl", "oras", "skopeo", "buildah", "umoci")


@pytest.mark.peers(of=["name"])
@pytest.mark.parametrize("name", [*CLIENTS, "debootstrap", "docker-credential-pass", "htpasswd", "zstd"])
def test_program_is_found(name):
    assert peers.find(name).is_file()


@pytest.mark.peers("crane")
def test_registry_stores_an_image(registry, repo, tmp_path):
    assert requests.get(f"{registry.url}/v2/", timeout=5).status_code == 200

    tarball = images.docker_archive(tmp_path / "small.tar")
    reference = registry.reference(repo, "v1")
    peers.run("crane", "push", tarball, reference)
    assert peers.run("crane", "ls", registry.reference(repo).rpartition(":")[0]).stdout.split() == ["v1"]

    peers.run("crane", "pull", "--format=oci", reference, tmp_path / "back")
    digest = peers.run("crane", "digest", reference).stdout.strip()
    assert images.blob(tmp_path / "back", digest).exists()


@pytest.mark.peers("skopeo")
def test_registry_deletes_content(registry, repo, tmp_path):
    layout = images.small(tmp_path / "layout")
    images.skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{registry.reference(repo)}")
    images.skopeo("delete", "--tls-verify=false", f"docker://{registry.reference(repo)}")
    assert requests.get(f"{registry.url}/v2/{repo}/manifests/latest", timeout=5).status_code == 404


@pytest.mark.peers("skopeo")
def test_registry_accepts_docker_manifests(registry, repo, tmp_path):
    layout = images.small(tmp_path / "layout")
    reference = f"docker://{registry.reference(repo)}"
    images.skopeo("copy", "--format=v2s2", "--dest-tls-verify=false", f"oci:{layout}:latest", reference)
    manifest = json.loads(images.skopeo("inspect", "--raw", "--tls-verify=false", reference).stdout)
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"


@pytest.mark.peers("oras", "regctl")
def test_oras_and_regctl_read_each_others_artifacts(registry, repo, tmp_path):
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    reference = registry.reference(repo, "v1")
    peers.run("oras", "push", "--plain-http", reference, "data.csv:text/csv", cwd=tmp_path)
    manifest = json.loads(
        peers.run(
            "regctl",
            "--host",
            f"reg={registry.host},tls=disabled",
            "manifest",
            "get",
            "--format",
            "{{jsonPretty .}}",
            reference,
        ).stdout
    )
    assert manifest["layers"][0]["annotations"]["org.opencontainers.image.title"] == "data.csv"


@pytest.mark.peers(of=["kind"])
@pytest.mark.parametrize("kind", peers.KINDS)
def test_registry_stops_at_end_of_block(kind):
    with peers.KINDS[kind]() as registry:
        pass
    assert registry.process.poll() is not None
    assert not registry.storage.exists()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{registry.url}/v2/", timeout=1)


@pytest.mark.peers("distribution3")
def test_registry_start_failure_has_reason(tmp_path):
    (tmp_path / "certificate.pem").write_text("not one")
    with pytest.raises(RuntimeError, match="(?i)pem"):
        with peers.distribution3(tls=(tmp_path / "certificate.pem", tmp_path / "certificate.pem")):
            pass


@pytest.mark.peers(of=["kind"])
@pytest.mark.parametrize("kind", ["distribution2", "distribution3", "olareg"])
def test_registry_serves_tls(kind, certificate):
    with peers.KINDS[kind](tls=certificate) as registry:
        assert requests.get(f"{registry.url}/v2/", verify=str(certificate[0]), timeout=5).status_code == 200


@pytest.mark.peers("crane")
def test_htpasswd_rejects_anonymous_and_accepts_user(htpasswd_registry, repo, tmp_path):
    registry = htpasswd_registry
    refused = requests.get(f"{registry.url}/v2/", timeout=5)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic ")
    basic = base64.b64encode(f"{registry.user}:{registry.password}".encode()).decode()
    assert (
        requests.get(f"{registry.url}/v2/", headers={"Authorization": f"Basic {basic}"}, timeout=5).status_code == 200
    )

    tarball = images.docker_archive(tmp_path / "small.tar")
    reference = registry.reference(repo)
    assert peers.run("crane", "push", tarball, reference, home=tmp_path, check=False).returncode != 0
    peers.run("crane", "auth", "login", "-u", registry.user, "-p", registry.password, registry.host, home=tmp_path)
    peers.run("crane", "push", tarball, reference, home=tmp_path)


@pytest.mark.peers("crane", "skopeo")
def test_token_grants_user_permissions(token_registry, token_server, repo, tmp_path):
    registry = token_registry
    refused = requests.get(f"{registry.url}/v2/", timeout=5)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith(f'Bearer realm="{token_server.realm}"')

    tarball = images.docker_archive(tmp_path / "small.tar")
    reference = registry.reference(repo)
    peers.run("crane", "auth", "login", "-u", "ada", "-p", registry.password, registry.host, home=tmp_path)
    before = len(token_server.requests)
    peers.run("crane", "push", tarball, reference, home=tmp_path)
    asked = token_server.requests[before:]
    assert {request.user for request in asked} == {"ada"}
    assert any(
        f"repository:{repo}:push" in granted or f"repository:{repo}:push,pull" in granted
        for granted in (r.granted for r in asked)
    )

    images.skopeo("login", "--tls-verify=false", "-u", "bob", "-p", "builder", registry.host, home=tmp_path / "bob")
    options = {"home": tmp_path / "bob", "check": False}
    assert images.skopeo("inspect", "--tls-verify=false", f"docker://{reference}", **options).returncode == 0
    assert images.skopeo("delete", "--tls-verify=false", f"docker://{reference}", **options).returncode != 0
    assert (
        images.skopeo(
            "inspect", "--tls-verify=false", f"docker://{reference}", home=tmp_path / "nobody", check=False
        ).returncode
        != 0
    )


@pytest.mark.peers("skopeo")
def test_anonymous_client_reads_public_content(token_registry, repo, tmp_path):
    registry = token_registry
    layout = images.small(tmp_path / "layout")
    credentials = f"--dest-creds={registry.user}:{registry.password}"
    reference = f"docker://{registry.reference('public/' + repo)}"
    images.skopeo("copy", credentials, "--dest-tls-verify=false", f"oci:{layout}:latest", reference)
    images.skopeo("inspect", "--tls-verify=false", reference)


@pytest.mark.peers(of=["kind"])
@pytest.mark.parametrize(
    ("kind", "header"), [("distribution2", "x5c"), ("distribution3", "x5c"), ("distribution3", "kid")]
)
def test_registry_trusts_only_configured_token_server(kind, header, repo):
    with (
        TokenServer(key_header=header) as server,
        TokenServer(key_header=header) as other,
        peers.KINDS[kind](token=server) as registry,
    ):
        url = f"{registry.url}/v2/{repo}/blobs/uploads/"
        scope = f"repository:{repo}:pull,push"

        def post(token):
            return requests.post(url, headers={"Authorization": f"Bearer {token}"}, timeout=5)

        assert post(server.sign("ada", [scope])).status_code == 202
        assert post(other.sign("ada", [scope])).status_code == 401
        insufficient = post(server.sign("ada", [f"repository:{repo}:pull"]))
        assert insufficient.status_code == 401
        assert 'error="insufficient_scope"' in insufficient.headers["WWW-Authenticate"]
        server.lifetime = -120
        assert post(server.sign("ada", [scope])).status_code == 401


def test_token_server_supports_oauth():
    with TokenServer() as server:
        form = {"service": server.service, "client_id": "test", "scope": "repository:a:pull,push repository:b:pull"}
        password = {"grant_type": "password", "username": "ada", "password": "lovelace", "access_type": "offline"}
        first = requests.post(server.realm, data=form | password, timeout=5).json()
        assert first["scope"] == "repository:a:pull,push repository:b:pull"
        assert "token" not in first

        server.rotate = True
        refresh = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
        second = requests.post(server.realm, data=form | refresh, timeout=5).json()
        assert second["refresh_token"] != first["refresh_token"]
        assert server.claims(second["access_token"])["sub"] == "ada"
        assert requests.post(server.realm, data=form | refresh, timeout=5).status_code == 401
        assert [request.grant for request in server.requests] == ["password", "refresh_token", "refresh_token"]


def test_token_server_has_scripted_faults():
    with TokenServer(rights={"ada": {"mine/*": {"pull"}}}) as server:

        def get(*scopes, auth=("ada", "lovelace")):
            return requests.get(server.realm, params={"service": server.service, "scope": scopes}, auth=auth, timeout=5)

        body = get("repository:mine/x:pull,push", "repository:yours:pull").json()
        assert server.claims(body["token"])["access"] == [{"type": "repository", "name": "mine/x", "actions": ["pull"]}]
        assert body["token"] == body["access_token"]
        assert get(auth=("ada", "wrong")).status_code == 401

        server.only_access_token, server.issued_at, server.expires_in = True, False, None
        assert set(get().json()) == {"access_token"}
        server.refuse_scopes = {"repository:yours:pull"}
        assert get("repository:mine/x:pull", "repository:yours:pull").status_code == 403
        server.outage = 1
        assert [get().status_code, get().status_code] == [503, 200]
        server.post = False
        assert requests.post(server.realm, timeout=5).status_code == 404
        assert len(server.requests) == 7


@pytest.mark.peers("umoci")
def test_debian_unpacks_with_whiteouts(debian, tmp_path):
    root = images.unpack(debian.oci, debian.tag, tmp_path / "bundle")
    assert (root / "etc/debian_version").exists()
    tree = images.snapshot(root)
    assert "srv/gone" not in tree
    assert "srv/replaced/old" not in tree
    assert tree["srv/links/deeper/three"][-2] == tree["srv/links/one"][-2] == "srv/links/deeper/three"
    assert tree["srv/kinds/setuid"][0] == "-rwsr-xr-x"
    assert tree["srv/kinds/owned"][1:3] == (1000, 3_000_000)

    manifest = read_manifest(debian.oci)
    names = []
    for layer in manifest["layers"]:
        with tarfile.open(images.blob(debian.oci, layer["digest"])) as archive:
            names.append(archive.getnames())
    assert len(names) == 4
    assert "srv/.wh.gone" in names[1]
    assert "srv/replaced/.wh..wh..opq" in names[2]
    assert max(map(len, names[1])) > 255


def test_debian_has_all_forms(debian):
    kinds = {layer["mediaType"] for layer in read_manifest(debian.zstd)["layers"]}
    assert kinds == {"application/vnd.oci.image.layer.v1.tar+zstd"}
    docker = json.loads((debian.docker / "manifest.json").read_bytes())
    assert docker["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    platforms = [(m["platform"]["os"], m["platform"]["architecture"]) for m in read_manifest(debian.index)["manifests"]]
    assert platforms == [("linux", "amd64"), ("linux", "arm64")]
    with tarfile.open(debian.docker_archive) as archive:
        assert "manifest.json" in archive.getnames()


@pytest.mark.peers("skopeo")
def test_debian_survives_push_and_pull(registry, debian, repo, tmp_path):
    reference = f"docker://{registry.reference(repo)}"
    images.skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{debian.index}:{debian.tag}", reference)
    images.skopeo("copy", "--all", "--src-tls-verify=false", reference, f"oci:{tmp_path / 'back'}:latest")
    assert read_manifest(tmp_path / "back") == read_manifest(debian.index)


def read_manifest(layout):
    [named] = json.loads((layout / "index.json").read_bytes())["manifests"]
    return json.loads(images.blob(layout, named["digest"]).read_bytes())


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1 and its key."""
    return peers.certificate(tmp_path_factory.mktemp("tls"))
