"""Quirks of real registries outside the specification, as hooks on a `Site`: QUIRKS["ecr-patch-201"].install(site).

A quirk counts in `site.triggered` how often a client triggered it. The evidence is in public trackers, as owner's-name#number.
Names without an owner are those of the registries and clients themselves.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs, quote

from attrs import evolve, frozen

from ocikit.testing.messages import Request, Response, error_response
from ocikit.testing.site import BLOB, MANIFEST, REFERRERS, TAGS, UPLOAD, Site, rewritten

#: An artifact type that some registries reject.
ODD = "application/vnd.odd.thing.v1"

#: Repositories that the account cannot reach, as sources of mounts. A regular expression.
FOREIGN = "foreign/.*"

_FALLBACK = r"sha256-[0-9a-f]{64}"
_MOUNT = r"/v2/(.+)/blobs/uploads/"
_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


@frozen(kw_only=True)
class Quirk:
    """One quirk."""

    name: str
    """The registry and the symptom."""
    about: str
    """Its behaviour."""
    evidence: str
    """Its evidence."""
    at: tuple[str, ...] = ()
    """The operations that trigger it."""
    hook: Callable[..., None] | None = None
    """The hook; None is a quirk of clients, visible in their requests."""
    needs: str = ""
    """The server that it needs: "storage", "tokens", or "" for the API alone."""

    def install(self, site: Site, **options: Any) -> None:
        """Install the quirk at a site, if the site has the server that it needs."""
        has = {"": True, "storage": site.redirects, "tokens": site.has_tokens}[self.needs]
        if self.hook is not None and has:
            self.hook(site, lambda: site.triggered.update([self.name]), **options)


#: All quirks by name.
QUIRKS: dict[str, Quirk] = {}


def _quirk(name: str, about: str, evidence: str, *at: str, needs: str = "") -> Callable[[Any], Any]:
    def add(hook: Any) -> Any:
        QUIRKS[name] = Quirk(name=name, about=about, evidence=evidence, at=at, hook=hook, needs=needs)
        return hook

    return add


def _ours(name: str, about: str, evidence: str) -> None:
    QUIRKS[name] = Quirk(name=name, about=about, evidence=evidence)


# Amazon ECR


@_quirk("ecr-patch-201", "answers a chunk with 201, and may refuse the PUT that closes the session",
        "regclient#81, regclient#82, tart#273, mise#11376", "push-chunks")  # fmt: skip
def _(site: Site, count: Callable[[], None], *, closes: bool = True) -> None:
    @site.after("PATCH", UPLOAD)
    def created(_: Request, answer: Response) -> None:
        if answer.status == 202:
            count()
            answer.status = 201

    @site.after("PUT", UPLOAD)
    def closed(_: Request, answer: Response) -> Response | None:
        return None if closes or answer.status != 201 else error_response(400, "BLOB_UPLOAD_INVALID")


@_quirk(
    "ecr-stale-range",
    "reports the first chunk's range indefinitely",
    "containers-roadmap#2831, chalk#682",
    "push-chunks",
)
def _(site: Site, count: Callable[[], None]) -> None:
    first: dict[str, str] = {}

    @site.after("PATCH|GET", UPLOAD)
    def stale(request: Request, answer: Response) -> None:
        said = answer.headers.get("Range")
        if said and said != first.setdefault(request.path, said):
            count()
            answer.headers["Range"] = first[request.path]


@_quirk("ecr-restart-416", "refuses to start again within a session", "containerization#790, containerization#792",
        "push-resumed")  # fmt: skip
def _(site: Site, count: Callable[[], None]) -> None:
    begun: dict[str, str] = {}  # digest of each single PUT upload, by session path

    @site.before("PUT|PATCH", UPLOAD)
    def again(request: Request) -> Response | None:
        digest = request.query.get("digest", [""])[0]
        if not int(request.headers.get("Content-Length") or 0):
            return None
        if request.path in begun and request.headers.get("Content-Range", "0-").startswith("0-"):
            return error_response(416, "BLOB_UPLOAD_INVALID", "First byte of the layer part is 0 instead of 1048576")
        if begun.get(request.path) or (digest and digest in begun.values()):
            count()
        begun.setdefault(request.path, digest)
        return None


@_quirk("ecr-no-repository", "knows no repository before it is created",
        "containers-roadmap#853, moby#24473, regclient#869", "push-new")  # fmt: skip
def _(site: Site, count: Callable[[], None]) -> None:
    @site.before("POST|PUT", r"/v2/new/.*")
    def unknown(_: Request) -> Response:
        count()
        return error_response(404, "NAME_UNKNOWN", "The repository with name 'new/…' does not exist in the registry")


@_quirk(
    "ecr-n-1000", "refuses n above 1000 as UNSUPPORTED", "go-containerregistry#681, go-containerregistry#1091", "tags"
)
def _(site: Site, count: Callable[[], None]) -> None:
    @site.before("GET", TAGS)
    def within(request: Request) -> Response | None:
        count()
        many = int(request.query.get("n", ["0"])[0]) > 1000
        return error_response(405, "UNSUPPORTED", "Invalid parameter at 'maxResults'") if many else None


@_quirk(
    "ecr-old-index", "refuses to delete the list of referrers that was replaced", "oras#1228, oras#1112", "referrers"
)
def _(site: Site, count: Callable[[], None]) -> None:
    lists: set[str] = set()

    @site.before("PUT", rf"/v2/.+/manifests/{_FALLBACK}")
    def written(request: Request) -> None:
        lists.add(f"sha256:{hashlib.sha256(request.body).hexdigest()}")

    @site.before("DELETE", MANIFEST)
    def kept(request: Request) -> Response | None:
        if request.path.rpartition("/")[2] not in lists:
            return None
        count()
        return error_response(403, "DENIED", "Requested image referenced by manifest list")


@_quirk("ecr-media-type", "refuses a manifest without mediaType", "libpod#1719", "push", "attach", "copy-in")
def _(site: Site, count: Callable[[], None]) -> None:
    @site.before("PUT", MANIFEST)
    def typed(request: Request) -> Response | None:
        count()
        return (
            None
            if json.loads(request.body).get("mediaType")
            else error_response(400, "MANIFEST_INVALID", "Invalid JSON syntax")
        )


@_quirk("s3-one-auth-mechanism", "redirects to storage that refuses a request with Authorization",
        "opa#6580, opa#6728, oras-java#334, containerd#10374", "pull", "open", "copy-out", needs="storage")  # fmt: skip
def _(site: Site, count: Callable[[], None]) -> None:
    def only_one(request: Request) -> Response | None:
        if "Authorization" not in request.headers:
            count()
            return None
        words = b"<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>"
        return Response(400, {"Content-Type": "application/xml"}, words)

    site.store.before.insert(0, only_one)


# GitHub


@_quirk("ghcr-patch-4-mib", "refuses chunks above 4 MiB with 416", "oci-client#37, ocx#237", "push-chunks")
def _(site: Site, count: Callable[[], None]) -> None:
    @site.before("PATCH", UPLOAD)
    def too_large(request: Request) -> Response | None:
        if int(request.headers.get("Content-Length") or 0) <= 4 << 20:
            return None
        count()
        return Response(416)


@_quirk("ghcr-no-referrers", "has no referrers API, and omits OCI-Subject",
        "attest-build-provenance#71, ghcr-cleanup-action#13, oras-java#773, oras#915", "referrers", "attach")  # fmt: skip
def _(site: Site, count: Callable[[], None]) -> None:
    @site.before("GET", REFERRERS)
    def absent(_: Request) -> Response:
        count()
        return Response(404, {"Content-Type": "text/plain"}, b"404 page not found\n")

    @site.after("PUT", MANIFEST)
    def unheeded(_: Request, answer: Response) -> None:
        if answer.headers.pop("OCI-Subject", None):
            count()


@_quirk(
    "ghcr-expired-pat",
    "rejects an expired token even for public content",
    "oras#1161, riverui#182",
    "pull-stale",
    needs="tokens",
)
def _(site: Site, count: Callable[[], None]) -> None:
    def refused(request: Request) -> Response | None:
        if request.headers.get("Authorization", site.authorization) == site.authorization:
            return None
        count()
        return error_response(403, "DENIED", "denied")

    site.auth.before.append(refused)


# GitLab


@_quirk(
    "gitlab-digest-tag",
    "takes the tag sha256-<hex> for the manifest of that digest",
    "oras-go#1396",
    "attach",
    "referrers",
)
def _(site: Site, count: Callable[[], None]) -> None:
    pushed: set[str] = set()

    @site.before("PUT|GET|HEAD", rf"/v2/.+/manifests/{_FALLBACK}")
    def guessed(request: Request) -> Request | None:
        if request.method == "PUT":
            pushed.add(request.path)
        if request.path in pushed:
            return None
        count()
        return evolve(request, target=request.path.replace("/sha256-", "/sha256:"))


@_quirk("gitlab-allow-list", "takes manifests with types that it knows only", "ocx#480", "push-odd")
def _(site: Site, count: Callable[[], None]) -> None:
    @site.before("PUT", MANIFEST)
    def listed(request: Request) -> Response | None:
        if ODD.encode() not in request.body:
            return None
        count()
        answer = error_response(400, "MANIFEST_INVALID", "manifest invalid")
        answer.body = answer.body.replace(b"null", json.dumps(f"unknown media type: {ODD}").encode())
        return answer


@_quirk("gitlab-token-expires", "lets a token end in the middle of a push",
        "moby#33558, buildx#324, docker_auth#240", "push", "push-large", "push-tags")  # fmt: skip
def _(site: Site, count: Callable[[], None], *, after: int = 3) -> None:
    inner, used = site.proxy.guard, Counter[str]()

    def guard(request: Request) -> Response | None:
        refusal = inner(request) if inner else None
        token = request.headers.get("Authorization", "")
        if refusal is not None or not token:
            return refusal
        used[token] += 1
        if next(iter(used)) != token or used[token] <= after:  # the first page is short
            return None
        count()
        return site.unauthorized(problem="invalid_token")

    site.proxy.guard = guard


# Docker Hub


@_quirk("hub-mount-scope", "refuses a token altogether if one of its scopes is out of reach",
        "go-containerregistry#1679, go-containerregistry#1741, oci-client#235, containerd#11709", "copy-within", needs="tokens")  # fmt: skip
def _(site: Site, count: Callable[[], None], *, foreign: str = FOREIGN) -> None:
    def too_much(request: Request) -> Response | None:
        asked = parse_qs(request.body.decode() if request.method == "POST" else request.target.partition("?")[2])
        names = {scope.split(":")[1] for value in asked.get("scope", ()) for scope in value.split()}
        if len(names) < 2 or not any(re.fullmatch(foreign, name) for name in names):
            return None
        count()
        return error_response(401, "UNAUTHORIZED", "access to the requested resource is not authorized")

    site.auth.before.append(too_much)


@_quirk("hub-rate-limit", "counts every GET of a manifest, and reports the remaining number",
        "regclient#4, regclient#711, hub-feedback#2093", "pull", "inspect")  # fmt: skip
def _(site: Site, count: Callable[[], None], *, limit: int = 100) -> None:
    taken = Counter[str]()

    @site.before("GET", MANIFEST)
    def counted(_: Request) -> Response | None:
        taken["pulls"] += 1
        if taken["pulls"] <= limit:
            return None
        count()
        answer = error_response(429, "TOOMANYREQUESTS", "You have reached your pull rate limit.")
        answer.headers["Retry-After"] = "3600"
        return answer

    @site.after("GET|HEAD", MANIFEST)
    def told(_: Request, answer: Response) -> None:
        count()
        left = max(0, limit - taken["pulls"])
        answer.headers.update({"ratelimit-limit": f"{limit};w=21600", "ratelimit-remaining": f"{left};w=21600"})


@_quirk("hub-no-delete", "deletes nothing", "hub-feedback#1759, distribution#2290", "delete-tag", "delete-manifest")
def _(site: Site, count: Callable[[], None]) -> None:
    @site.before("DELETE", MANIFEST)
    def refused(_: Request) -> Response:
        count()
        return error_response(405, "UNSUPPORTED", "The operation is unsupported.")


# Harbor


@_quirk("harbor-mount-401", "answers a mount from a project that isn't there with 401", "harbor#17097, go-containerregistry#1609",
        "copy-within")  # fmt: skip
def _(site: Site, count: Callable[[], None], *, foreign: str = FOREIGN) -> None:
    @site.before("POST", _MOUNT)
    def missing(request: Request) -> Response | None:
        if not any(re.fullmatch(foreign, source) for source in request.query.get("from", ())):
            return None
        count()
        return site.unauthorized()


@_quirk("harbor-head-length", "returns the compressed Content-Length for HEAD",
        "oras-go#1176, oras-go#1177, oras#2054", "pull", "inspect", "copy-out")  # fmt: skip
def _(site: Site, count: Callable[[], None], *, stripped: bool = False) -> None:
    @site.after("HEAD", MANIFEST)
    def compressed(_: Request, answer: Response) -> None:
        if answer.status == 200:
            count()
            length = int(answer.headers.get("Content-Length", len(answer.body)))
            answer.headers["Content-Length"] = str(length // 2)
            if not stripped:  # a proxy in front drops the unknown header
                answer.headers["Content-Encoding"] = "gzip"


@_quirk("gar-referrer-sizes", "gives other sizes in its list of referrers than their manifests have",
        "oras#1626, harbor#20187", "referrers", "copy-referrers")  # fmt: skip
def _(site: Site, count: Callable[[], None]) -> None:
    @site.after("GET", REFERRERS)
    def sums(_: Request, answer: Response) -> None:
        page = json.loads(answer.body) if answer.status == 200 else {}
        for entry in page.get("manifests", ()):
            count()
            entry["size"] += 1188
        answer.body = json.dumps(page).encode() if page else answer.body


@_quirk("harbor-filters", "filters referrers without OCI-Filters-Applied, or does not filter; reports absence as UNKNOWN",
        "harbor#18413, harbor#18418, harbor#18430", "referrers", "pull-absent")  # fmt: skip
def _(site: Site, count: Callable[[], None]) -> None:
    @site.before("GET", REFERRERS)
    def unfiltered(request: Request) -> Request:
        count()
        return rewritten(request, artifactType=None)

    @site.after("GET", REFERRERS)
    def unsaid(_: Request, answer: Response) -> None:
        answer.headers.pop("OCI-Filters-Applied", None)

    @site.after("GET", f"{MANIFEST}|{TAGS}")
    def vague(_: Request, answer: Response) -> Response | None:
        if answer.status != 404:
            return None
        count()
        return error_response(404, "UNKNOWN", "unknown error")


# Quay


@_quirk("quay-mount-from", "refuses a mount without the repository to mount from", "quay#899", "copy-within")
def _(site: Site, count: Callable[[], None]) -> None:
    @site.before("POST", _MOUNT)
    def nowhere(request: Request) -> Response | None:
        if "mount" not in request.query:
            return None
        count()
        return None if "from" in request.query else error_response(400, "BLOB_UPLOAD_INVALID", "missing from")


@_quirk("quay-types", "accepts known types only, and returns schema 1 to clients that do not accept OCI types",
        "oras#738, che-plugin-registry#2082", "pull", "push-odd")  # fmt: skip
def _(site: Site, count: Callable[[], None]) -> None:
    @site.before("GET|HEAD", MANIFEST)
    def old(request: Request) -> Response | None:
        count()
        accepted = ",".join(request.headers.get_all("Accept", ()))
        if "application/vnd.oci.image.manifest.v1+json" in accepted:
            return None
        return Response(
            200, {"Content-Type": _SCHEMA1}, b'{"schemaVersion": 1, "name": "x", "tag": "y", "signatures": []}'
        )

    @site.before("PUT", MANIFEST)
    def unknown(request: Request) -> Response | None:
        if ODD.encode() not in request.body:
            return None
        count()
        return error_response(415, "MANIFEST_INVALID", f"manifest schema unsupported: {ODD}")


@_quirk(
    "quay-next-page",
    "continues a list with a parameter of its own, in a Link without spaces",
    "quay.io: next_page",
    "tags",
)
def _(site: Site, count: Callable[[], None]) -> None:
    pages: dict[str, str] = {}

    @site.before("GET", TAGS)
    def page(request: Request) -> Request | None:
        opaque = request.query.get("next_page")
        return evolve(request, target=pages[opaque[0]]) if opaque else None

    @site.after("GET", TAGS)
    def link(request: Request, answer: Response) -> None:
        target = re.match("<([^>]*)>", answer.headers.get("Link", ""))
        if target:
            count()
            opaque = f"gAAAAA+{len(pages)}/=="
            pages[opaque] = target[1]
            answer.headers["Link"] = f'<{request.path}?next_page={quote(opaque, safe="")}>;rel="next"'


# Google


@_quirk("gar-location", "keeps its uploads outside /v2", "oci-client#175", "push", "push-large")
def _(site: Site, count: Callable[[], None]) -> None:
    outside = "/artifacts-uploads/namespaces/acme/uploads/"
    sessions: dict[str, str] = {}

    @site.after("POST|PATCH|GET", UPLOAD)
    def led_away(_: Request, answer: Response) -> None:
        if where := answer.headers.get("Location"):
            path = f"{outside}AF{len(sessions)}"
            sessions[path] = where
            answer.headers["Location"] = f"{path}?upload_protocol=oci&state=a%2Bb%3D"

    @site.before(".*", outside + ".*")
    def found(request: Request) -> Response | Request:
        count()
        query = dict(request.query)
        digest = query.pop("digest", [""])[0]
        # The query must come back with its values; clients may change the order
        if request.path not in sessions or query != {"upload_protocol": ["oci"], "state": ["a+b="]}:
            return error_response(404, "BLOB_UPLOAD_UNKNOWN")
        where = sessions[request.path]
        return evolve(request, target=f"{where}{'&' if '?' in where else '?'}digest={digest}" if digest else where)


@_quirk("gar-referrers-html", "answers the referrers API with a page to log in", "soci-snapshotter#512", "referrers")
def _(site: Site, count: Callable[[], None]) -> None:
    page = b"<!DOCTYPE html><html><title>Sign in - Google Accounts</title></html>"

    @site.before("GET", REFERRERS)
    def login(_: Request) -> Response:
        count()
        return Response(200, {"Content-Type": "text/html; charset=utf-8"}, page)

    @site.after("PUT", MANIFEST)
    def unheeded(_: Request, answer: Response) -> None:
        answer.headers.pop("OCI-Subject", None)


# Azure, Artifactory, Nexus


@_quirk("acr-access-token", "gives access_token only, and takes its identity tokens by POST",
        "go-containerregistry#54, go-containerregistry#421, dkregistry-rs#262, acr#98", "pull", "push", needs="tokens")  # fmt: skip
def _(site: Site, count: Callable[[], None]) -> None:
    user = next(iter(site.tokens.users))
    token = "eyJ0eXAi.refresh.token"  # noqa: S105 - the fake one of this profile
    site.tokens.only_access_token = True
    site.tokens.refresh_tokens[token] = user
    site.credentials, site.stale = ("<token>", token), ("<token>", "eyJ0eXAi.expired.token")
    for _, word in (site.credentials, site.stale):
        site.keep_secret(word)

    def asked(request: Request) -> None:
        if request.method == "POST":
            count()

    site.auth.before.append(asked)


@_quirk("artifactory-head-403", "answers a HEAD of what isn't there with 403; lists digests among tags, and adds to its links",
        "RTFACT-13797, go-containerregistry#1691, skopeo#2346, dkregistry-rs#236", "push", "tags", "pull-absent")  # fmt: skip
def _(site: Site, count: Callable[[], None]) -> None:
    @site.after("HEAD", f"{MANIFEST}|{BLOB}")
    def denied(_: Request, answer: Response) -> Response | None:
        if answer.status != 404:
            return None
        count()
        return error_response(403, "DENIED")

    @site.before("GET", TAGS)
    def verbatim(request: Request) -> Response | None:
        kept = "last" not in request.query or request.query.get("state") == ["a+b="]
        return None if kept else error_response(400, "UNSUPPORTED", "the link has lost its state")

    @site.after("GET", TAGS)
    def more(_: Request, answer: Response) -> None:
        count()
        if answer.status == 200:
            _retag(answer, lambda tags: [*tags, f"sha256__{'0' * 64}", f"sha256:{'0' * 64}"])
        if "Link" in answer.headers:
            answer.headers["Link"] = answer.headers["Link"].replace(">", "&state=a%2Bb%3D>")


@_quirk(
    "nexus-odd-tags",
    "lists null, and names that no tag may have",
    "skopeo#2409, containers/image#2544, containers/image#2771",
    "tags",
)
def _(site: Site, count: Callable[[], None], *, more: Iterable[Any] = ()) -> None:
    @site.after("GET", TAGS)
    def odd(_: Request, answer: Response) -> None:
        if answer.status == 200:
            count()
            _retag(answer, lambda tags: [None, "-v1", *tags, "a/b", "", *more])


# distribution and others


@_quirk("distribution-n-refused", "refuses a larger page than its own", "distribution#4844", "tags")
def _(site: Site, count: Callable[[], None], *, most: int = 100) -> None:
    @site.before("GET", TAGS + "|/v2/_catalog")
    def refused(request: Request) -> Response | None:
        if int(request.query.get("n", ["0"])[0]) <= most:
            return None
        count()
        return error_response(
            400, "PAGINATION_NUMBER_INVALID", f"invalid number of results requested, maximum is {most}"
        )


@_quirk("distribution-null-tags", "has null for the tags of a repository that lost its last one, or has no such repository then",
        "distribution#1186, distribution#4324, azure-sdk-for-python#28234, oras-dotnet#205", "delete-tag")  # fmt: skip
def _(site: Site, count: Callable[[], None], *, gone: bool = False) -> None:
    @site.after("GET", TAGS)
    def none(_: Request, answer: Response) -> Response | None:
        if answer.status != 200 or json.loads(answer.body)["tags"]:
            return None
        count()
        if gone:
            return error_response(404, "NAME_UNKNOWN", "repository name not known to registry")
        _retag(answer, lambda _: None)
        return None


@_quirk("distribution-range-0-0", "reports 0-0 for an empty upload, and ignores Content-Range of a PUT",
        "distribution-spec#577, distribution-spec#578, distribution-spec#590, distribution#2363, distribution#3755",
        "push", "push-chunks")  # fmt: skip
def _(site: Site, count: Callable[[], None]) -> None:
    @site.after("POST", UPLOAD)
    def nothing(_: Request, answer: Response) -> None:
        if answer.status == 202:
            count()
            answer.headers["Range"] = "0-0"

    @site.before("PUT", UPLOAD)
    def unread(request: Request) -> None:
        del request.headers["Content-Range"]


_ours("many-stream-without-range", "send a blob in one PATCH without Content-Range or length, which a registry has to take",
      "distribution-spec#303, distribution-spec#506, distribution-spec#576, distribution#930")  # fmt: skip


@_quirk(
    "distribution-ha-state",
    "has replicas that don't take each other's upload sessions",
    "oras-dotnet#132",
    "push-large",
)
def _(site: Site, count: Callable[[], None], *, sick: int | None = 1) -> None:
    made: list[str] = []

    @site.after("POST", UPLOAD)
    def signed(_: Request, answer: Response) -> None:
        if where := answer.headers.get("Location"):
            made.append(where)
            answer.headers["Location"] = f"{where}?_state=c2lnbmVk%2B{len(made)}%3D%3D"

    @site.before("PUT|PATCH", UPLOAD)
    def other(request: Request) -> Response | None:
        large = int(request.headers.get("Content-Length") or 0) > 1 << 20
        if not large or (sick is not None and site.triggered["distribution-ha-state"] >= sick):
            return None
        count()
        return error_response(404, "BLOB_UPLOAD_INVALID", "blob upload invalid")


@_quirk("zot-late-delete", "returns 202 for a deletion, and deletes later", "oras#1083", "delete-manifest")
def _(site: Site, count: Callable[[], None], *, looks: int = 1) -> None:
    going: dict[str, int] = {}

    @site.before("DELETE", f"{MANIFEST}|{BLOB}")
    def later(request: Request) -> Response:
        count()
        going[request.path] = looks
        return Response(202)

    @site.before("GET|HEAD", f"{MANIFEST}|{BLOB}")
    def still(request: Request) -> None:
        if going.get(request.path) == 0:
            site.ask("DELETE", request.path)
        if request.path in going:
            going[request.path] -= 1


@_quirk(
    "head-without-digest", "sends no Docker-Content-Digest with HEAD", "regclient#801", "pull", "inspect", "copy-out"
)
def _(site: Site, count: Callable[[], None], *, stripped: bool = False) -> None:
    @site.after(".*", "/v2/.*")
    def unknown(_: Request, answer: Response) -> None:
        """Forward known headers only, as a proxy in front of the registry does."""
        for name in list(answer.headers) if stripped else ():
            if name.lower().startswith(("docker-", "oci-")):
                del answer.headers[name]

    @site.after("HEAD", MANIFEST)
    def undigested(_: Request, answer: Response) -> None:
        if answer.headers.pop("Docker-Content-Digest", None):
            count()


@_quirk("proxy-gzip", "has something in front of it that compresses what it passes on, asked or not",
        "moby#17595, moby#27642, distribution#3754, nab#545, serverless-registry#136", "pull", "open", "inspect")  # fmt: skip
def _(site: Site, count: Callable[[], None], *, only_says: bool = False) -> None:
    def compress(_: Request, answer: Response) -> Response | None:
        if answer.status not in {200, 206}:
            return None
        count()
        answer.headers["Content-Encoding"] = "gzip"
        if not only_says:
            answer.body = gzip.compress(answer.body, 1)
        return answer

    for server in {site.proxy, site.blobs}:
        # Compressing proxies send the whole body, because a range of compressed bytes is not a range of the content
        server.before.append(_unranged)
        server.on(
            "GET",
            f"{BLOB}|/docker/.*|{MANIFEST}",
            change=compress,
            times=None,
            chunked=not only_says,
        )


def _unranged(request: Request) -> None:
    del request.headers["Range"]


@_quirk(
    "cdn-signed-url-expires",
    "redirects to addresses that work once",
    "go-actions-cache#40, kitematic#4713",
    "pull-resumed",
    needs="storage",
)
def _(site: Site, count: Callable[[], None]) -> None:
    seen: set[str] = set()

    def once(request: Request) -> Response | None:
        if request.target in seen:
            words = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
            return Response(403, {"Content-Type": "application/xml"}, words)
        seen.add(request.target)
        if "Range" in request.headers:
            count()
        return None

    site.store.before.insert(0, once)


@_quirk("gc-registry-patch-204", "answers a chunk with 204", "go-containerregistry#2198", "push-chunks")
def _(site: Site, count: Callable[[], None]) -> None:
    @site.after("PATCH", UPLOAD)
    def empty(_: Request, answer: Response) -> None:
        if answer.status == 202:
            count()
            answer.status = 204


_ours("python-netrc", "let ~/.netrc overrule the Authorization that was set", "requests#3929, httpx#568")
_ours("oras-py-push", "lost Basic authentication within a push, took an empty token, and spoiled the session's URL",
      "oras-py#129, oras-py#215, oras-py#188, oras-py#67")  # fmt: skip
_ours("two-token-fetches", "fetched one token to pull and another to push", "oras#1802, oras#1599")


def _retag(answer: Response, change: Callable[[list[Any]], Any]) -> None:
    page = json.loads(answer.body)
    answer.body = json.dumps(page | {"tags": change(page.get("tags") or [])}).encode()
