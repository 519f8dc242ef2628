"""Profiles: how the registries of known products differ from the specification, and from each other.

A profile is a name, an account with its kind of authentication, servers, and quirks with their evidence.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen

from ocikit.errors import InvalidArgument
from ocikit.testing.quirks import QUIRKS
from ocikit.testing.site import PAGES, Site

#: What holds for every profile, for readers who compare it with the product.
LIMITS = (
    "HTTP on loopback, without TLS. Content is in memory and ends with the registry.",
    "One account, which may do everything in all repositories.",
    "Repositories, permissions, quotas, retention and webhooks of the product do not exist, and neither does its web interface.",
    "Limits of sizes and rates are imitated where a quirk names one.",
    "A quirk that rejects unknown types rejects the artifact type application/vnd.odd.thing.v1 in their place.",
)


@frozen(kw_only=True)
class Account:
    """The account of a registry, and how clients prove it."""

    user: str
    password: str = field(repr=False)
    realm: str
    """For tokens, the URL of the token server. For Basic authentication, the name in the challenge."""
    service: str = ""
    """The name of the registry in challenges for tokens; "" for Basic authentication."""
    catalog: bool = True
    """Whether a token may list all repositories."""


@frozen(kw_only=True)
class Profile:
    """The behaviour of a registry.

    Example:
        >>> from ocikit.testing import PROFILES
        >>> PROFILES["zot"].quirks
        ('zot-late-delete',)
    """

    name: str
    about: str
    """The product."""
    host: str = ""
    """A host of the product, as a reference contains it."""
    quirks: tuple[str, ...] = ()
    """Names of quirks. The first one is nearest to the client."""
    account: Account | None = None
    """The account; None is a registry without authentication."""
    public: bool = False
    """Whether repositories can be public."""
    storage: str = ""
    """The origin of the storage that blobs are redirected to; "" for none."""
    api_host: str = ""
    """The host of the API, if it is not `host`."""
    options: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    """Options of quirks by name."""
    pages: bool = True
    """Whether listings have short pages."""

    def settle(self, site: Site, *, public: Iterable[str] = (), auth: bool = True) -> None:
        """Install authentication and quirks at a running site.

        Args:
            site: The site.
            public: Patterns of public repositories, for registries that have them.
            auth: Whether clients need credentials.

        Example:
            >>> from ocikit.testing import PROFILES
            >>> from ocikit.testing.site import Site
            >>> with Site("http://127.0.0.1:5000") as site:
            ...     PROFILES["basic"].settle(site)
            ...     site.credentials
            ('ada', 'lovelace')
        """
        account = self.account if auth else None
        if account is not None and account.service:
            site.bearer(
                account.realm,
                user=account.user,
                password=account.password,
                anonymous=public if self.public else (),
                catalog=account.catalog,
                service=account.service,
            )
        elif account is not None:
            site.basic(account.user, account.password, account.realm)
        for name in self.quirks:
            QUIRKS[name].install(site, **self.options.get(name, {}))

    def describe(self) -> str:
        """Return what the profile does differently, with the evidence, and what it does not imitate.

        Example:
            >>> from ocikit.testing import PROFILES
            >>> PROFILES["gar"].describe().splitlines()[0]
            'gar: Google Artifact Registry'
        """
        lines = [f"{self.name}: {self.about}"]
        if self.account is not None:
            kind = "tokens" if self.account.service else "Basic authentication"
            lines.append(f"Login with {kind}, as {self.account.user}.")
            if not self.account.catalog:
                lines.append("No account may list all repositories.")
        if self.account is not None and self.public:
            lines.append("Repositories below public/ can be pulled without a login.")
        if self.storage:
            lines.append("Downloads of blobs are redirected to a storage, which is another host.")
        if self.pages:
            lines.append(
                f"Listings have at most {PAGES['tags/list']} tags and {PAGES['_catalog']} repositories a page."
            )
        lines += [f"{name}: {QUIRKS[name].about} ({QUIRKS[name].evidence})" for name in self.quirks]
        lines += ["Limits:", *LIMITS]
        return "\n".join(_wrap(line) for line in lines)


def _wrap(line: str) -> str:
    return textwrap.fill(line, 120, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def find(name: str) -> Profile:
    """Return a profile.

    Args:
        name: Name of the profile, such as "ecr".

    Raises:
        InvalidArgument: No profile has this name.
    """
    if (profile := PROFILES.get(name.lower())) is not None:
        return profile
    near = difflib.get_close_matches(name.lower(), PROFILES, n=1)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise InvalidArgument(f"no registry profile has the name {name!r}", hint=f"{hint}choose from {', '.join(PROFILES)}")


_ALL = (
    Profile(name="plain", about="a registry that follows the specification", pages=False),
    Profile(
        name="basic",
        about="a registry that follows the specification, with user and password",
        account=Account(user="ada", password="lovelace", realm="Registry"),
        pages=False,
    ),
    Profile(
        name="token",
        about="a registry that follows the specification, with tokens",
        account=Account(user="ada", password="lovelace", realm="https://auth.example/token", service="registry"),
        public=True,
        pages=False,
    ),
    Profile(
        name="ecr",
        about="Amazon Elastic Container Registry. Repositories below new/ do not exist before they are created",
        host="123456789012.dkr.ecr.eu-central-1.amazonaws.com",
        account=Account(user="AWS", password="eyJwYXlsb2FkIjoi", realm="https://ecr.eu-central-1.amazonaws.com/"),
        storage="https://prod-eu-central-1-starport-layer-bucket.s3.eu-central-1.amazonaws.com",
        quirks=("ecr-patch-201", "ecr-stale-range", "ecr-restart-416", "ecr-no-repository", "ecr-n-1000", "ghcr-no-referrers",
                "ecr-old-index", "ecr-media-type", "s3-one-auth-mechanism", "cdn-signed-url-expires"),
    ),
    Profile(
        name="ghcr",
        about="GitHub Container Registry",
        host="ghcr.io",
        account=Account(user="octocat", password="ghp_16C7e42F292c6912E7", realm="https://ghcr.io/token", service="ghcr.io",
                        catalog=False),
        storage="https://pkg-containers.githubusercontent.com",
        quirks=("ghcr-patch-4-mib", "ghcr-no-referrers", "hub-no-delete", "ghcr-expired-pat", "s3-one-auth-mechanism", "cdn-signed-url-expires"),
        public=True,
    ),
    Profile(
        name="gar",
        about="Google Artifact Registry",
        host="europe-west3-docker.pkg.dev",
        account=Account(user="_json_key", password='{"type": "service_account", "private_key": "MIIEvQ"}',
                        realm="https://europe-west3-docker.pkg.dev/v2/token", service="europe-west3-docker.pkg.dev", catalog=False),
        quirks=("gar-location", "gar-referrers-html", "harbor-head-length"),
    ),
    Profile(
        name="acr",
        about="Azure Container Registry",
        host="acme.azurecr.io",
        account=Account(user="00000000-0000-0000-0000-000000000000", password="not used", realm="https://acme.azurecr.io/oauth2/token",
                        service="acme.azurecr.io"),
        storage="https://acmestorage.blob.core.windows.net",
        quirks=("acr-access-token", "s3-one-auth-mechanism", "distribution-null-tags", "cdn-signed-url-expires"),
        options={"distribution-null-tags": {"gone": True}},
    ),
    Profile(
        name="harbor",
        about="Harbor. Repositories below foreign/ do not exist as the source of a mount",
        host="harbor.acme.example",
        account=Account(user="robot$ci", password="Hb0r-secret", realm="https://harbor.acme.example/service/token",
                        service="harbor-registry", catalog=False),
        quirks=("harbor-mount-401", "harbor-head-length", "harbor-filters", "gar-referrer-sizes"),
        public=True,
    ),
    Profile(
        name="quay",
        about="Quay",
        host="quay.io",
        account=Account(user="acme+ci", password="QUAYR0B0T", realm="https://quay.io/v2/auth", service="quay.io", catalog=False),
        storage="https://cdn03.quay.io",
        quirks=("quay-mount-from", "quay-types", "quay-next-page", "s3-one-auth-mechanism"),
        public=True,
    ),
    Profile(
        name="gitlab",
        about="GitLab Container Registry",
        host="registry.gitlab.com",
        account=Account(user="gitlab-ci-token", password="glcbt-64_abcdef", realm="https://gitlab.com/jwt/auth",
                        service="container_registry", catalog=False),
        storage="https://cdn.registry.gitlab-static.net",
        quirks=("gitlab-token-expires", "gitlab-allow-list", "ghcr-no-referrers", "gitlab-digest-tag", "s3-one-auth-mechanism"),
    ),
    Profile(
        name="artifactory",
        about="JFrog Artifactory, as a virtual repository of which the account cannot reach a part",
        host="acme.jfrog.io",
        account=Account(user="ci@acme.example", password="cmVmdGtuOjAx", realm="https://acme.jfrog.io/v2/token", service="acme.jfrog.io"),
        quirks=("artifactory-head-403",),
    ),
    Profile(
        name="nexus",
        about="Sonatype Nexus Repository",
        host="nexus.acme.example:8443",
        account=Account(user="deployer", password="n3xus-secret", realm="Sonatype Nexus Repository Manager"),
        quirks=("nexus-odd-tags", "distribution-null-tags", "ghcr-no-referrers", "head-without-digest"),
    ),
    Profile(
        name="hub",
        about="Docker Hub. Repositories below foreign/ are out of reach as the source of a mount",
        host="docker.io",
        api_host="registry-1.docker.io",
        account=Account(user="ada", password="dckr_pat_0123456789", realm="https://auth.docker.io/token", service="registry.docker.io",
                        catalog=False),
        storage="https://production.cloudfront.docker.com",
        quirks=("hub-mount-scope", "hub-rate-limit", "hub-no-delete", "s3-one-auth-mechanism", "distribution-range-0-0"),
        public=True,
    ),
    Profile(
        name="distribution-ha",
        about="CNCF distribution with several replicas. One large upload fails",
        host="registry.acme.example",
        quirks=("distribution-ha-state", "distribution-n-refused", "distribution-null-tags", "distribution-range-0-0",
                "ghcr-no-referrers"),
        public=True,
    ),
    Profile(name="zot", about="zot", host="zot.acme.example", quirks=("zot-late-delete",), public=True),
    Profile(
        name="gc-registry",
        about="the registry of go-containerregistry",
        host="registry.kube-system.example",
        quirks=("gc-registry-patch-204", "head-without-digest"),
        public=True,
    ),
    Profile(
        name="proxy",
        about="a company's proxy in front of a registry",
        host="mirror.corp.example",
        account=Account(user="corp\\ada", password="pr0xy-secret", realm="Corporate"),
        quirks=("head-without-digest", "proxy-gzip"),
        options={"head-without-digest": {"stripped": True}},
    ),
    Profile(
        name="worst",
        about="all quirks that one registry can have at once. Few clients work with it",
        host="registry.worst.example:8443",
        account=Account(user="ada", password="w0rst-secret", realm="https://auth.worst.example/token", service="worst", catalog=False),
        storage="https://cdn.worst.example",
        quirks=("gitlab-token-expires", "hub-mount-scope", "gar-location", "ecr-patch-201", "ecr-stale-range", "ecr-restart-416",
                "distribution-range-0-0", "ghcr-patch-4-mib", "ghcr-no-referrers", "gitlab-digest-tag", "ecr-old-index",
                "ecr-media-type", "quay-types", "harbor-head-length", "head-without-digest", "hub-rate-limit", "artifactory-head-403",
                "nexus-odd-tags", "distribution-null-tags", "distribution-n-refused", "zot-late-delete", "proxy-gzip",
                "s3-one-auth-mechanism", "cdn-signed-url-expires", "distribution-ha-state"),
    ),
)  # fmt: skip

#: All profiles by name.
PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in _ALL}
