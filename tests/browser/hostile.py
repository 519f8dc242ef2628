"""A registry with an attack in every text of every document: markup, ANSI codes, control characters, bidi."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import requests
from ocikit.testing.proxy import Proxy

from tests.support import peers
from tests.support.fake_registry import Response

#: As markup it would run a script, load a picture from another host and open a dialog. In a terminal it would clear the
#: screen, change the title, move up, and reverse the rest of the line.
BAD = (
    '"><img src=http://evil.invalid/x.png onerror="window.__pwned=1;alert(1)"><script>window.__pwned=1</script>'
    "\x1b[2J\x1b]0;title\x07\x1b[1A\x00\r\n\x85\x9b\x7f\u202e\u2066\u200f\u2028'</td></table></details><script>"
    "window.__pwned=1</script>[link](javascript:alert(1))"
)
#: The visible part of the text on a page.
SEEN = "<img src=http://evil.invalid/x.png onerror="

#: Characters that must reach neither a page nor a terminal, except line ends and tabs.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)

#: The one kind of text that the registry validates.
FILE = "application/vnd.evil.thing"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
NOTES = {
    BAD: BAD,
    **{
        f"org.opencontainers.image.{key}": BAD
        for key in ("title", "description", "url", "source", "documentation", "created", "version", "licenses")
    },
}


@contextmanager
def registry() -> Iterator[Proxy]:
    """Start our registry with `evil/data:v1` (files), `evil/data:image`, `evil/data:index` and a referrer, behind a proxy that
    adds hostile tags, repositories, errors and warnings."""
    with peers.ocikit() as real:
        _fill(f"{real.url}/v2/evil/data")
        with Proxy(real.url) as proxy:
            words = json.dumps({"errors": [{"code": BAD, "message": BAD, "detail": {BAD: BAD}}]}).encode()
            tags = [BAD, "v1", *(f"{BAD}{n}" for n in range(30))]
            lists = {"tags/list": {"name": BAD, "tags": tags}, "_catalog": {"repositories": tags}}
            for path, body in lists.items():
                proxy.on("GET", f"/v2/.*{path}", body=json.dumps(body).encode(), times=None)
            proxy.on("(GET|HEAD)", "/v2/evil/data/manifests/gone", status=404, body=words, times=None)
            proxy.on("GET", "/v2/denied/.*", status=403, body=words, times=None)
            proxy.after.append(_warn)
            yield proxy


def _warn(request: Any, answer: Response) -> None:
    # A header has no line ends; other characters are those of latin-1
    words = "".join(c for c in BAD if c not in "\r\n\x00" and ord(c) < 256).replace('"', "'")
    answer.headers = {**answer.headers, "Warning": f'299 - "{words}"'}


def _fill(base: str) -> None:
    def blob(content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        digest = f"sha256:{sha256(content).hexdigest()}"
        requests.post(f"{base}/blobs/uploads/", params={"digest": digest}, data=content, timeout=30).raise_for_status()
        return {"mediaType": media_type, "digest": digest, "size": len(content), **more}

    def put(document: dict[str, Any], tag: str = "", **more: Any) -> dict[str, Any]:
        raw = json.dumps({"schemaVersion": 2, **document}).encode()
        digest = f"sha256:{sha256(raw).hexdigest()}"
        said = {"Content-Type": document["mediaType"]}
        requests.put(f"{base}/manifests/{tag or digest}", data=raw, headers=said, timeout=30).raise_for_status()
        return {"mediaType": document["mediaType"], "digest": digest, "size": len(raw), **more}

    platform = {"os": BAD, "architecture": BAD, "variant": BAD, "os.version": BAD, "os.features": [BAD], BAD: BAD}
    file = blob(b"content", FILE, annotations=NOTES, urls=[BAD], **{BAD: BAD})
    # Foreign layers are not copied, and the bar shows that
    foreign = {**file, "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": 8}
    data = {"mediaType": MANIFEST, "artifactType": FILE, "config": blob(b"{}", FILE), "annotations": NOTES, BAD: BAD}
    about = put({**data, "layers": [file, foreign, file]}, "v1")
    image = {
        "architecture": BAD, "os": BAD, "variant": BAD, "created": BAD, "author": BAD, BAD: BAD,
        "config": {"Env": [BAD], "Cmd": [BAD], "Entrypoint": [BAD], "Labels": {BAD: BAD}, "User": BAD, "WorkingDir": BAD},
        "rootfs": {"type": "layers", "diff_ids": [file["digest"]]},
        "history": [{"created_by": BAD, "comment": BAD, "author": BAD, "created": BAD}],
    }  # fmt: skip
    config = blob(json.dumps(image).encode(), CONFIG)
    made = put(
        {"mediaType": MANIFEST, "config": config, "layers": [{**file, "mediaType": LAYER}]}, "image", platform=platform
    )
    put({"mediaType": INDEX, "manifests": [{**made, "annotations": NOTES}, about], "annotations": NOTES}, "index")
    put({**data, "layers": [file], "subject": about})
