"""Manifests, indexes, configs, and the parts of references."""

import json

import attrs
from ocikit.errors import InvalidDocument
from ocikit.remote.http.urls import Origin, is_loopback
from ocikit.spec.challenge import Scope
from ocikit.spec.config import ImageConfig
from ocikit.spec.digest import Digest
from ocikit.spec.document import load_json
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.spec.platform import Platform
from ocikit.spec.reference import LayoutReference, Reference, parse_reference
from ocikit.spec.validation import find_violations
from ocikit.store.graph import links

from tests.fuzz.target import (
    CONFIG_TYPE,
    INDEX_TYPE,
    JSON_WORDS,
    LAYER_TYPE,
    LONGEST,
    MANIFEST_TYPE,
    SHA,
    UNSAFE,
    as_json,
    target,
    text_of,
    typed,
)

DESCRIPTOR = {
    "mediaType": LAYER_TYPE,
    "digest": SHA,
    "size": 7,
    "annotations": {"org.opencontainers.image.title": "a/b"},
}
MANIFEST = {
    "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "artifactType": "application/x",
    "config": {"mediaType": CONFIG_TYPE, "digest": SHA, "size": 2, "data": "e30="}, "layers": [DESCRIPTOR, {**DESCRIPTOR, "urls": ["https://x"]}],
    "subject": {"mediaType": MANIFEST_TYPE, "digest": "sha512:" + "cd" * 64, "size": 9}, "annotations": {"a": "b"}, "future": [1, {"x": None}],
}  # fmt: skip
INDEX = {
    "schemaVersion": 2, "mediaType": INDEX_TYPE,
    "manifests": [{"mediaType": MANIFEST_TYPE, "digest": SHA, "size": 500,
                   "platform": {"os": "linux", "architecture": "arm64", "variant": "v8", "os.features": ["win32k"]}}],
}  # fmt: skip
CONFIG = {
    "architecture": "amd64", "os": "linux", "created": "2015-10-31T22:22:56Z", "config": {"Env": ["A=b"]},
    "rootfs": {"type": "layers", "diff_ids": [SHA]}, "history": [{"created_by": "sh", "empty_layer": True}],
}  # fmt: skip


@target(as_json(MANIFEST), as_json(INDEX), as_json(CONFIG), words=JSON_WORDS)
def document(data: bytes) -> None:
    """Parse manifests, indexes and configs."""
    _agrees_withas_json(data)
    announced: tuple[str | None, ...] = (
        None,
        MANIFEST_TYPE,
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    )
    for parse, *more in (
        *((parse_document, one) for one in announced),
        (Manifest.parse,),
        (Index.parse,),
        (ImageConfig.parse,),
    ):
        found = typed(parse, data, *more)
        if found is None:
            continue
        assert found.raw == data
        assert hash(found) == hash(type(found).parse(data))
        repr(found), found._repr_html_(), found.to_dict()
        # Re-encoded it is the same document, unless it contains invalid Unicode
        anew = typed(lambda: attrs.evolve(found).raw)  # noqa: B023 - called here
        if anew is not None:
            assert type(found).parse(anew) == found
        if isinstance(found, Manifest | Index):
            named = {d.digest for d in (*found.children, *([found.subject] if found.subject else ()))}
            # Unknown keys may contain values that stop garbage collection
            found_links = typed(links, data)
            assert found_links is None or named <= {link.digest for link in found_links}
            if isinstance(found, Index):
                typed(found.select, "linux/arm64")
            for one in found.children:
                str(one), repr(one), one.embedded
    typed(links, data)
    for kind in (None, MANIFEST_TYPE, INDEX_TYPE, CONFIG_TYPE):
        for violation in find_violations(data, kind):
            assert not UNSAFE.search(str(violation).replace("\n", ""))
            assert len(str(violation)) < LONGEST


def _agrees_withas_json(data: bytes) -> None:
    """Compare with the standard library's parser, restricted to one reading of each document."""
    twice = []

    def once(pairs):
        value = dict(pairs)
        if len(value) != len(pairs):
            twice.append(value)
        return value

    def refuse(name):
        raise ValueError(name)

    try:
        theirs = json.loads(data.decode(), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError):
        theirs = None
    try:
        ours = load_json(data, "it")
    except InvalidDocument:
        assert theirs is None or twice or not isinstance(theirs, dict)
    else:
        assert ours == theirs
        assert not twice


@target(
    b"ghcr.io/org/model:v1@" + SHA.encode(), b"[::1]:5000/a/b", b"oci:folder/x:v1.0@" + SHA.encode(), b"oci-archive:C:\\x\\y.tar:a/b:c",
    b"linux/arm64/v8:10.0.1", b"repository:localhost:5000/a:pull,push",
    words=(b":", b"@", b"/", b".", b"..", b"-", b"_", b"__", b"[", b"]", b"sha256:", b"sha512:", b"x+y:", b"localhost", b"docker.io", b"library",
           b"A", b"\x00", b"\n", "\u0130".encode(), "\u212a".encode(), "\u0663".encode(), b"a" * 300, b"oci:", b"65536", b"\xff"),
    examples=150,
)  # fmt: skip
def reference(data: bytes) -> None:
    """Parse references, digests, platforms and scopes, and parse their text form again."""
    text = text_of(data)
    for parse in (Reference.parse, LayoutReference.parse, parse_reference, Platform.parse, Digest.parse, Scope.parse):
        found = typed(parse, text)
        if found is not None:
            assert parse(str(found)) == found
            repr(found)
    if (place := typed(Reference.parse, text)) is not None:
        is_loopback(place.registry)
        Origin.of(f"https://{place.api_host}/v2/")
