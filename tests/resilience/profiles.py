"""Profiles of real registries: name, authentication, quirks, and unsupported operations."""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen
from ocikit import errors

from tests.resilience.quirks import QUIRKS
from tests.support.site import Site


@frozen
class Cannot:
    """The expected error of an unsupported operation."""

    kind: type[errors.OcikitError]
    hint: str
    """A regular expression for the error's hint or message."""
    said: str = ""
    """A regular expression for the message."""


@frozen(kw_only=True)
class Profile:
    """A registry profile."""

    name: str
    host: str
    quirks: tuple[str, ...]
    """The first installed quirk is nearest to the client."""
    auth: Callable[[Site], None] = lambda _: None
    storage: str = ""
    api_host: str = ""
    options: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    """Names of quirks."""
    cannot: Mapping[str, Cannot] = field(factory=dict)
    """Expected errors by operation."""
    mounts: bool = True
    """True if blobs can be mounted from another repository."""
    public: bool = False
    """True if `seed/…` is public."""
    chunk: int = 2 << 20
    """Size of upload chunks [bytes]."""

    def scene(self, upstream: str) -> Site:
        """Return the site, not yet started."""
        return Site(upstream, self.host, storage=self.storage, api_host=self.api_host)

    def settle(self, scene: Site) -> None:
        """Install authentication and quirks on a running site."""
        self.auth(scene)
        for name in self.quirks:
            QUIRKS[name].install(scene, **self.options.get(name, {}))

    def expected(self, operation: str) -> set[str]:
        """Return the quirks that an operation must trigger."""
        return {name for name in self.quirks if operation in QUIRKS[name].at}


_LOGIN = Cannot(errors.Unauthorized, "log in")
_REJECTED = Cannot(errors.Unauthorized, "log in", "rejected|were rejected")
_NO_CATALOG = Cannot(errors.Unauthorized, r"list its tags: ocikit\.tags")
_NO_DELETE = Cannot(errors.Unsupported, "web interface")
_NO_TAG_DELETE = Cannot(errors.Unsupported, "delete the manifest by its digest|web interface")
_ODD = Cannot(errors.UploadInvalid, "", "odd")


def _ecr(scene: Site) -> None:
    scene.basic("AWS", "eyJwYXlsb2FkIjoi", realm="https://ecr.eu-central-1.amazonaws.com/")


def _token(realm: str, user: str, password: str, **options: Any) -> Callable[[Site], None]:
    return lambda scene: scene.bearer(realm, user=user, password=password, **options)


_ALL = (
    Profile(
        name="ecr",
        host="123456789012.dkr.ecr.eu-central-1.amazonaws.com",
        auth=_ecr,
        storage="https://prod-eu-central-1-starport-layer-bucket.s3.eu-central-1.amazonaws.com",
        quirks=("ecr-patch-201", "ecr-stale-range", "ecr-restart-416", "ecr-no-repository", "ecr-n-1000", "ghcr-no-referrers",
                "ecr-old-index", "ecr-media-type", "s3-one-auth-mechanism", "cdn-signed-url-expires"),
        cannot={"push-new": Cannot(errors.NameUnknown, "aws ecr create-repository"), "pull-anonymous": _LOGIN, "pull-stale": _REJECTED},
    ),
    Profile(
        name="ghcr",
        host="ghcr.io",
        auth=_token("https://ghcr.io/token", "octocat", "ghp_16C7e42F292c6912E7", anonymous=["seed/*"], catalog=False, service="ghcr.io"),
        storage="https://pkg-containers.githubusercontent.com",
        quirks=("ghcr-patch-4-mib", "ghcr-no-referrers", "hub-no-delete", "ghcr-expired-pat", "s3-one-auth-mechanism", "cdn-signed-url-expires"),
        public=True,
        chunk=5 << 20,
        cannot={"catalog": _NO_CATALOG, "delete-tag": _NO_TAG_DELETE, "delete-manifest": _NO_DELETE},
    ),
    Profile(
        name="gar",
        host="europe-west3-docker.pkg.dev",
        auth=_token("https://europe-west3-docker.pkg.dev/v2/token", "_json_key", '{"type": "service_account", "private_key": "MIIEvQ"}',
                    catalog=False, service="europe-west3-docker.pkg.dev"),
        quirks=("gar-location", "gar-referrers-html", "harbor-head-length"),
        cannot={"catalog": _NO_CATALOG, "pull-anonymous": _LOGIN, "pull-stale": _REJECTED},
    ),
    Profile(
        name="acr",
        host="acme.azurecr.io",
        auth=_token("https://acme.azurecr.io/oauth2/token", "00000000-0000-0000-0000-000000000000", "not used", service="acme.azurecr.io"),
        storage="https://acmestorage.blob.core.windows.net",
        quirks=("acr-access-token", "s3-one-auth-mechanism", "distribution-null-tags", "cdn-signed-url-expires"),
        options={"distribution-null-tags": {"gone": True}},
        cannot={"pull-anonymous": _LOGIN, "pull-stale": _REJECTED},
    ),
    Profile(
        name="harbor",
        host="harbor.acme.example",
        auth=_token("https://harbor.acme.example/service/token", "robot$ci", "Hb0r-secret", anonymous=["seed/*"], catalog=False,
                    service="harbor-registry"),
        quirks=("harbor-mount-401", "harbor-head-length", "harbor-filters", "gar-referrer-sizes"),
        public=True,
        mounts=False,
        cannot={"catalog": _NO_CATALOG},
    ),
    Profile(
        name="quay",
        host="quay.io",
        auth=_token("https://quay.io/v2/auth", "acme+ci", "QUAYR0B0T", anonymous=["seed/*"], catalog=False, service="quay.io"),
        storage="https://cdn03.quay.io",
        quirks=("quay-mount-from", "quay-types", "quay-next-page", "s3-one-auth-mechanism"),
        public=True,
        cannot={"catalog": _NO_CATALOG, "push-odd": _ODD},
    ),
    Profile(
        name="gitlab",
        host="registry.gitlab.com",
        auth=_token("https://gitlab.com/jwt/auth", "gitlab-ci-token", "glcbt-64_abcdef", catalog=False, service="container_registry"),
        storage="https://cdn.registry.gitlab-static.net",
        quirks=("gitlab-token-expires", "gitlab-allow-list", "ghcr-no-referrers", "gitlab-digest-tag", "s3-one-auth-mechanism"),
        cannot={"catalog": _NO_CATALOG, "push-odd": _ODD, "pull-anonymous": _LOGIN, "pull-stale": _REJECTED},
    ),
    Profile(
        name="artifactory",
        host="acme.jfrog.io",
        auth=_token("https://acme.jfrog.io/v2/token", "ci@acme.example", "cmVmdGtuOjAx", service="acme.jfrog.io"),
        quirks=("artifactory-head-403",),
        cannot={"pull-anonymous": _LOGIN, "pull-stale": _REJECTED, "pull-absent": Cannot(errors.Denied, "account")},
    ),
    Profile(
        name="nexus",
        host="nexus.acme.example:8443",
        auth=lambda scene: scene.basic("deployer", "n3xus-secret", realm="Sonatype Nexus Repository Manager"),
        quirks=("nexus-odd-tags", "distribution-null-tags", "ghcr-no-referrers", "head-without-digest"),
        cannot={"pull-anonymous": _LOGIN, "pull-stale": _REJECTED},
    ),
    Profile(
        name="hub",
        host="docker.io",
        api_host="registry-1.docker.io",
        auth=_token("https://auth.docker.io/token", "ada", "dckr_pat_0123456789", anonymous=["seed/*"], catalog=False,
                    service="registry.docker.io"),
        storage="https://production.cloudfront.docker.com",
        quirks=("hub-mount-scope", "hub-rate-limit", "hub-no-delete", "s3-one-auth-mechanism", "distribution-range-0-0"),
        public=True,
        mounts=False,
        cannot={"catalog": _NO_CATALOG, "delete-tag": _NO_TAG_DELETE, "delete-manifest": _NO_DELETE},
    ),
    Profile(
        name="distribution-ha",
        host="registry.acme.example",
        quirks=("distribution-ha-state", "distribution-n-refused", "distribution-null-tags", "distribution-range-0-0",
                "ghcr-no-referrers"),
        public=True,
    ),
    Profile(name="zot", host="zot.acme.example", quirks=("zot-late-delete",), public=True),
    Profile(
        name="gc-registry",
        host="registry.kube-system.example",
        quirks=("gc-registry-patch-204", "head-without-digest"),
        public=True,
    ),
    Profile(
        name="proxy",
        host="mirror.corp.example",
        auth=lambda scene: scene.basic("corp\\ada", "pr0xy-secret", realm="Corporate"),
        quirks=("head-without-digest", "proxy-gzip"),
        options={"head-without-digest": {"stripped": True}},
        cannot={"pull-anonymous": _LOGIN, "pull-stale": _REJECTED},
    ),
    Profile(
        name="worst",
        host="registry.worst.example:8443",
        auth=_token("https://auth.worst.example/token", "ada", "w0rst-secret", catalog=False, service="worst"),
        storage="https://cdn.worst.example",
        quirks=("gitlab-token-expires", "hub-mount-scope", "gar-location", "ecr-patch-201", "ecr-stale-range", "ecr-restart-416",
                "distribution-range-0-0", "ghcr-patch-4-mib", "ghcr-no-referrers", "gitlab-digest-tag", "ecr-old-index",
                "ecr-media-type", "quay-types", "harbor-head-length", "head-without-digest", "hub-rate-limit", "artifactory-head-403",
                "nexus-odd-tags", "distribution-null-tags", "distribution-n-refused", "zot-late-delete", "proxy-gzip",
                "s3-one-auth-mechanism", "cdn-signed-url-expires", "distribution-ha-state"),
        mounts=False,
        chunk=5 << 20,
        cannot={"catalog": _NO_CATALOG, "push-odd": _ODD, "pull-anonymous": _LOGIN, "pull-stale": _REJECTED,
                "pull-absent": Cannot(errors.Denied, "account")},
    ),
)  # fmt: skip

#: All profiles by name.
PROFILES = {profile.name: profile for profile in _ALL}
