"""Hostile text: terminal codes, bidirectional controls, markup and line breaks in every field."""

import json

from ocikit.spec import media_types

from tests.security.attacks import ADA, attack, sha256
from tests.support.cards import harmless

CONTENT = b"content"
WORDS = {"terminal codes": "\x1b[31mred\x1b]0;title\x07\x1b[2J", "C1 controls": "\x9b31m\x90\x9c", "turned text": "a\u202egpj.exe\u2066b\u2069",
         "markup": "<img src=x onerror=alert(1)><script>alert(1)</script>", "line breaks": "a\r\nERROR: all is lost\rb\x0b\x0c\x85",
         "NUL and DEL": "a\0b\x7f", "halves of pairs": "\ud800\udfff", "a text without an end": "x" * 100_000}  # fmt: skip
HEADERS = {name: text for name, text in WORDS.items() if name in {"markup", "a text without an end"}} | {
    "terminal codes": "\x1b[31mred\x07", "C1 controls": "\x9b31m"}  # fmt: skip


def show(scene, call):
    """Run a call of the user and render the result in every way."""
    result = scene.user(call)
    for text in (repr(result), str(result)):
        scene.seen.append(text)
        assert len(text) < 5000
    if result is not None and hasattr(result, "_repr_html_"):
        page = result._repr_html_()
        scene.seen.append(page)
        assert "<script>alert" not in page and "<img src=x" not in page
    return result


@attack(
    "terminal and HTML injection",
    "an error body with {}",
    each=WORDS,
    ends="RegistryError|Denied|ManifestUnknown|NameUnknown",
)
def an_error_body_is_shown_as_text(scene, text):
    ref = f"{scene.registry.host}/a/b:v1"
    errors = {"errors": [{"code": text, "message": text, "detail": {text: text}}]}
    bodies = [json.dumps(errors).encode(), json.dumps({"details": text, "message": text}).encode(),
              text.encode("utf-8", "surrogatepass"), f"<html><title>{text}</title>".encode("utf-8", "surrogatepass")]  # fmt: skip
    for status in (403, 404, 418):
        for body in bodies:
            scene.registry.on("GET", ".*", times=None, status=status, body=body)
            scene.registry.on("HEAD", ".*", times=None, status=405)
            show(scene, lambda: scene.session.inspect(ref))


@attack(
    "terminal and HTML injection",
    "headers with {}",
    each=HEADERS,
    ends="nothing|RegistryError|InvalidResponse|Unauthorized|RateLimited|ManifestUnknown|ConnectionFailed",
)
def headers_are_shown_as_text(scene, text):
    text = text[:5000]
    scene.artifact(scene.layer(CONTENT))
    for headers in ({"Warning": f'299 - "{text}"'}, {"Docker-Content-Digest": text}, {"Content-Type": text}, {"OCI-Subject": text},
                    {"Link": f'<{text}>; rel="next"'}, {"Location": text}, {"X-Request-Id": text}, {"Retry-After": text},
                    {"WWW-Authenticate": f'Bearer realm="{text}",service="{text}",scope="{text}"'}, {"WWW-Authenticate": text}):  # fmt: skip
        status = (
            401
            if "WWW-Authenticate" in headers
            else 307
            if "Location" in headers
            else 418
            if "X-Request-Id" in headers
            else None
        )
        scene.registry.on(".*", ".*", times=None, status=status, headers=headers)
        show(scene, lambda: scene.session.inspect(f"{scene.registry.host}/a/b:v1"))
        show(scene, lambda: list(scene.session.tags(f"{scene.registry.host}/a/b")))


@attack(
    "terminal and HTML injection",
    "a realm and a token server's answer with {}",
    each=WORDS,
    ends="Unauthorized|Denied|RegistryError|InvalidResponse",
)
def a_token_servers_words_are_shown_as_text(scene, text):
    scene.protect()
    for body in (json.dumps({"error": text, "error_description": text}), json.dumps({"details": text}), text):
        scene.auth.on("GET", "/token", times=None, status=401, body=body.encode("utf-8", "surrogatepass"))
        show(scene, lambda: scene.session.inspect(f"{scene.registry.host}/a/b:v1"))
        show(scene, lambda: scene.session.login(scene.registry.host, *ADA))


@attack("terminal and HTML injection", "annotations, types, platforms and titles with {}", each=WORDS,
        ends="nothing|InvalidDocument|UnsafeArchive|ManifestUnknown|NoMatchingPlatform|ContentError|FileNotInArtifact")  # fmt: skip
def documents_are_shown_as_text(scene, text):
    ref = scene.artifact(
        scene.layer(CONTENT, text),
        annotations={text: text, "org.opencontainers.image.title": text},
        artifactType=f"a/{text}",
    )
    show(scene, lambda: scene.session.inspect(ref))
    show(scene, lambda: scene.session.inspect(ref).manifest)
    show(scene, lambda: scene.session.inspect(ref).files)
    show(scene, lambda: scene.session.pull(ref, "out"))
    show(scene, lambda: scene.session.pull(ref, include="none"))
    show(scene, lambda: scene.session.validate(ref))
    child = {"mediaType": media_types.OCI_MANIFEST, "digest": sha256(b"x"), "size": 1, "annotations": {text: text},
             "platform": {"os": text, "architecture": text, "variant": text}}  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [child], "annotations": {text: text}}
    scene.registry.manifest("a/b", index, "v1", media_type=media_types.OCI_INDEX)
    show(scene, lambda: scene.session.inspect(ref))
    show(scene, lambda: scene.session.pull(ref))


@attack(
    "terminal and HTML injection",
    "lists with {}",
    each=WORDS,
    ends="nothing|InvalidResponse|InvalidDocument|ManifestUnknown",
)
def lists_are_shown_as_text(scene, text):
    ref = scene.artifact(scene.layer(CONTENT))
    for key, path in (("tags", ".*/tags/list"), ("repositories", ".*/_catalog")):
        body = json.dumps({"name": text, key: [text, f"v1{text}", "ok"]}).encode()
        scene.registry.on("GET", path, times=None, status=200, headers={"Content-Type": "application/json"}, body=body)
    show(scene, lambda: scene.session.tags(ref))
    show(scene, lambda: scene.session.catalog(scene.registry.host))
    show(scene, lambda: scene.session.inspect(ref.replace(":v1", ":v1x")))
    listed = {
        "mediaType": media_types.OCI_MANIFEST,
        "digest": sha256(b"x"),
        "size": 1,
        "artifactType": text,
        "annotations": {text: text},
    }
    body = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [listed]}).encode()
    scene.registry.on("GET", ".*/referrers/.*", times=None, status=200, headers={"Content-Type": media_types.OCI_INDEX}, body=body)  # fmt: skip
    show(scene, lambda: scene.session.referrers(ref))


@attack(
    "terminal and HTML injection",
    "names of a layout with {}",
    each=WORDS,
    ends="nothing|InvalidDocument|NotFound|ManifestUnknown|InvalidReference",
)
def names_of_a_layout_are_shown_as_text(scene, text):
    place = scene.work / "layout"
    (place / "blobs").mkdir(parents=True)
    (place / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    entries = [{"mediaType": media_types.OCI_MANIFEST, "digest": sha256(b"%d" % n), "size": 1,
                "annotations": {"org.opencontainers.image.ref.name": text + str(n)}} for n in range(2)]  # fmt: skip
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    show(scene, lambda: scene.session.tags(f"oci:{place}"))
    show(scene, lambda: scene.session.inspect(f"oci:{place}"))
    show(scene, lambda: scene.session.inspect(f"oci:{place}:v1"))
    (place / "oci-layout").write_text(json.dumps({"imageLayoutVersion": text}))
    show(scene, lambda: scene.session.tags(f"oci:{place}"))
    (place / "index.json").write_text("\x1b[31m\u202e" + text.encode("utf-8", "replace").decode())
    (place / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    show(scene, lambda: scene.session.tags(f"oci:{place}"))


@attack(
    "terminal and HTML injection",
    "config of an image, and names in its layers, with {}",
    each=WORDS,
    ends="nothing|InvalidDocument|UnsafeArchive|ContentError|NoMatchingPlatform",
)
def images_are_shown_as_text(scene, text):
    from tests.security.attacks import entry, tar

    clean = text.encode("utf-8", "surrogateescape" if "\udfff" not in text else "replace").decode()
    ref = scene.image(tar(entry((clean.replace("\0", "") or "x")[:90], CONTENT)))
    config = json.dumps({"os": text, "architecture": text, "author": text, "config": {"Env": [text], "Cmd": [text], "Labels": {text: text}},
                         "history": [{"created_by": text}], "rootfs": {"type": "layers", "diff_ids": []}}).encode()  # fmt: skip
    described = {"mediaType": media_types.OCI_CONFIG, "digest": scene.registry.blob("a/b", config), "size": len(config)}
    raw, _ = scene.registry.manifests["a/b", scene.registry.tags["a/b", "v1"]]
    scene.registry.manifest("a/b", json.loads(raw) | {"config": described}, "v1")
    show(scene, lambda: scene.session.inspect(ref))
    show(scene, lambda: scene.session.inspect(ref).config)
    show(scene, lambda: scene.session.inspect(ref).unpack("image"))
    show(scene, lambda: scene.session.pull(ref))


READMES = {
    "tags and handlers": "# <script>alert(1)</script>\n<img src=x onerror=alert(1)>\n\n<svg/onload=alert(1)>\n",
    "links to scripts": "[a](javascript:alert(1)) [b](data:text/html,<script>) <javascript:alert(1)> [c](&#106;avascript:alert(1))",
    "a remote image": "![p](https://track.example/p.png) [![q](//track.example/q.png)](https://a.example/)",
    "YAML that names a class": "---\nlicense: !!python/object/apply:os.system ['id > stolen']\n---\ntext",
    "YAML that expands": "---\na: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n---\ntext",
    "deep YAML": "---\na: " + "[" * 30_000 + "\n---\ntext",
    "deep Markdown": "> - " * 10_000 + "[" * 30_000 + "*a " * 10_000,
    **{name: f"---\nlicense: {json.dumps(text)}\ntags: [{json.dumps(text)}]\n{json.dumps(text)}: x\n---\n# {text}\n{text}" for name, text in WORDS.items()},
}  # fmt: skip


@attack("terminal and HTML injection, CVE-2020-14343", "a README with {}", each=READMES, ends="nothing")
def a_readme_is_shown_as_text(scene, text):
    ref = scene.artifact(scene.layer(text.encode("utf-8", "surrogatepass"), "README.md"))
    card = scene.user(lambda: scene.session.inspect(ref).card)
    page = card._repr_html_()
    scene.seen += [str(card), page]
    assert harmless(page) and "<img" not in page
    assert card.data == {} or "python" not in text
    assert not (scene.work / "stolen").exists()
    show(scene, lambda: scene.session.inspect(ref))


@attack("header injection", "a name that the user was given, with {}", each={n: WORDS[n] for n in ("terminal codes", "line breaks", "turned text", "NUL and DEL")},
        ends="InvalidReference|InvalidDigest|CredentialsError")  # fmt: skip
def a_reference_becomes_no_header_or_terminal_code(scene, text):
    scene.artifact(scene.layer(CONTENT))
    host = scene.registry.host
    before = len(scene.registry.requests)
    for ref in (
        f"{host}/{text}",
        f"{host}/a/b:{text}",
        f"{host}/a/b@{text}",
        f"{text}.example/a/b",
        f"{host}{text}/a/b",
    ):
        show(scene, lambda ref=ref: scene.session.inspect(ref))
        show(scene, lambda ref=ref: scene.session.push(ref, "."))
    show(scene, lambda: scene.session.login(f"{host}{text}", *ADA))
    show(scene, lambda: scene.session.ping(f"{host}{text}"))
    assert len(scene.registry.requests) == before
