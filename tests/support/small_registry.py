"""A registry in memory: requests in, answers out, no sockets; `FaultServer` puts it on one.

It does what the specification asks for and no more, so that a test can say what is special about its case.
"""

import hashlib
import itertools
import json
import re
import urllib.parse
from typing import Any

from attrs import define, field, frozen

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@frozen
class Request:
    """What came in, whole."""

    method: str
    target: str
    headers: Any = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        return urllib.parse.parse_qs(self.target.partition("?")[2], keep_blank_values=True)


@define
class Answer:
    """What goes out."""

    status: int = 200
    headers: dict[str, Any] = field(factory=dict)  # a list as a value is a repeated header
    body: bytes = b""


@define(eq=False)
class SmallRegistry:
    """Blobs and manifests by repository and digest, tags by repository and name, uploads by session."""

    referrers: bool = True
    tag_delete: bool = True
    multi_tags: bool = False
    etags: bool = False
    page: int = 0  # names on one page at most; 0 is as many as asked for

    blobs: dict[tuple[str, str], bytes] = field(factory=dict, init=False, repr=False)
    manifests: dict[tuple[str, str], tuple[bytes, str]] = field(factory=dict, init=False, repr=False)
    tags: dict[tuple[str, str], str] = field(factory=dict, init=False, repr=False)
    uploads: dict[str, bytearray] = field(factory=dict, init=False, repr=False)
    _sessions: Any = field(factory=lambda: itertools.count(1), init=False, repr=False)

    def blob(self, name: str, content: bytes, algorithm: str = "sha256") -> str:
        digest = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
        self.blobs[name, digest] = content
        return digest

    def manifest(self, name: str, content: bytes | dict, *tags: str, media_type: str = MANIFEST) -> str:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        self.manifests[name, digest] = raw, media_type
        self.tags |= {(name, tag): digest for tag in tags}
        return digest

    def answer(self, r: Request) -> Answer:
        if r.path == "/v2/":
            return Answer(200, {"Docker-Distribution-API-Version": "registry/2.0"}, b"{}")
        if r.path == "/v2/_catalog":
            return self._page(r, sorted({name for name, _ in [*self.manifests, *self.blobs]}), "repositories")
        for kind in ("blobs/uploads", "blobs", "manifests", "tags", "referrers"):
            if match := re.fullmatch(rf"/v2/(.+)/{kind}/([^/]*)", r.path):
                return getattr(self, "_" + kind.rpartition("/")[2])(r, *match.groups())
        return error(404, "NOT_FOUND")

    def _blobs(self, r: Request, name: str, digest: str) -> Answer:
        content = self.blobs.get((name, digest))
        if content is None:
            return error(404, "BLOB_UNKNOWN")
        if r.method == "DELETE":
            del self.blobs[name, digest]
            return Answer(202)
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", r.headers.get("Range", ""))
        if wanted is None:
            return Answer(200, headers, content)
        start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        if start >= len(content):
            return Answer(416, {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return Answer(206, headers, content[start : end + 1])

    def _uploads(self, r: Request, name: str, session: str) -> Answer:
        digest = next(iter(r.query.get("digest", ())), "")
        if r.method == "POST":
            mount, source = (next(iter(r.query.get(key, ())), "") for key in ("mount", "from"))
            if (source, mount) in self.blobs:
                self.blobs[name, mount] = self.blobs[source, mount]
                return Answer(201, {"Location": f"/v2/{name}/blobs/{mount}", "Docker-Content-Digest": mount})
            session = f"s{next(self._sessions)}"
            self.uploads[session] = bytearray()
        if session not in self.uploads:
            return error(404, "BLOB_UPLOAD_UNKNOWN")
        taken = self.uploads[session]
        where = {"Location": f"/v2/{name}/blobs/uploads/{session}?_state=a%2Bb%3D&n={len(taken)}"}
        if r.method == "POST":
            return Answer(202, where)
        at = {"Range": f"0-{max(0, len(taken) - 1)}"}
        if r.method == "GET":
            return Answer(204, where | at)
        if r.method == "DELETE":
            del self.uploads[session]
            return Answer(204)
        span = re.fullmatch(r"(\d+)-(\d+)", r.headers.get("Content-Range", ""))
        if span and (int(span[1]) != len(taken) or int(span[2]) - int(span[1]) + 1 != len(r.body)):
            return Answer(416, where | at)
        taken += r.body
        if r.method == "PATCH":
            where["Location"] = where["Location"].rpartition("=")[0] + f"={len(taken)}"
            return Answer(202, where | {"Range": f"0-{max(0, len(taken) - 1)}"})
        del self.uploads[session]
        if digest != self._digest(bytes(taken), digest):
            return error(400, "DIGEST_INVALID")
        self.blobs[name, digest] = bytes(taken)
        return Answer(201, {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})

    def _manifests(self, r: Request, name: str, target: str) -> Answer:
        digest = target if ":" in target else self.tags.get((name, target), "")
        if r.method == "PUT":
            digest = self._digest(r.body, target if ":" in target else "sha256:")
            if ":" in target and digest != target:
                return error(400, "DIGEST_INVALID")
            old = self.tags.get((name, target))
            if "If-Match" in r.headers and r.headers["If-Match"] != f'"{old}"':
                return error(412, "PRECONDITION_FAILED")
            self.manifests[name, digest] = r.body, r.headers.get("Content-Type", "")
            extra = r.query.get("tag", []) if self.multi_tags else []
            self.tags |= {(name, tag): digest for tag in [*extra, *([target] if ":" not in target else [])]}
            headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
            headers |= {"OCI-Tag": ", ".join(extra)} if extra else {}
            subject = json.loads(r.body).get("subject")
            return Answer(201, headers | ({"OCI-Subject": subject["digest"]} if subject and self.referrers else {}))
        if (name, digest) not in self.manifests:
            known = any(n == name for n, _ in [*self.manifests, *self.blobs])
            return error(404, "MANIFEST_UNKNOWN" if known else "NAME_UNKNOWN")
        if r.method == "DELETE":
            if ":" not in target:
                if not self.tag_delete:
                    return error(400, "DIGEST_INVALID")
                del self.tags[name, target]
                return Answer(202)
            del self.manifests[name, digest]
            self.tags = {key: d for key, d in self.tags.items() if (key[0], d) != (name, digest)}
            return Answer(202)
        raw, media_type = self.manifests[name, digest]
        headers = {"Docker-Content-Digest": digest, "Content-Type": media_type}
        return Answer(200, headers | ({"ETag": f'"{digest}"'} if self.etags else {}), raw)

    def _tags(self, r: Request, name: str, _: str) -> Answer:
        if not any(n == name for n, _ in [*self.manifests, *self.blobs]):
            return error(404, "NAME_UNKNOWN")
        return self._page(r, sorted(tag for n, tag in self.tags if n == name), "tags", name=name)

    def _referrers(self, r: Request, name: str, digest: str) -> Answer:
        if not self.referrers:
            return error(404, "NOT_FOUND")
        found = []
        for (n, d), (raw, media_type) in self.manifests.items():
            document = json.loads(raw)
            if n == name and (document.get("subject") or {}).get("digest") == digest:
                kind = document.get("artifactType") or document.get("config", {}).get("mediaType")
                found.append({"mediaType": media_type, "digest": d, "size": len(raw), "artifactType": kind}
                             | ({"annotations": a} if (a := document.get("annotations")) else {}))  # fmt: skip
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": found}).encode()
        return Answer(200, {"Content-Type": INDEX}, body)

    def _page(self, r: Request, names: list[str], key: str, **rest: Any) -> Answer:
        last, n = (next(iter(r.query.get(k, ())), "") for k in ("last", "n"))
        names = [name for name in names if name > last]
        size = min(filter(None, (int(n or 0), self.page)), default=len(names))
        more = {"Link": f'<{r.path}?n={size}&last={names[size - 1]}>; rel="next"'} if len(names) > size else {}
        headers = {"Content-Type": "application/json"} | more
        return Answer(200, headers, json.dumps(rest | {key: names[:size]}).encode())

    def _digest(self, content: bytes, like: str) -> str:
        algorithm = like.partition(":")[0]
        return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def error(status: int, code: str, message: str = "", **headers: str) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message or code.lower(), "detail": None}]}).encode()
    return Answer(status, {"Content-Type": "application/json", **headers}, body)
