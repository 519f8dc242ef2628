"""Uses of `ocikit.spec` for type checkers. mypy checks this file; it is never run."""

from collections.abc import Callable
from typing import Any, assert_type

import attrs
from ocikit import errors
from ocikit.spec.annotations import Annotations, FrozenMap
from ocikit.spec.config import History, ImageConfig, RootFS
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.spec.platform import Platform
from ocikit.spec.reference import AnyReference, LayoutReference, Reference, parse_reference


def digests(text: str, content: bytes) -> None:
    assert_type(Digest(text), Digest)
    assert_type(Digest.parse(text), Digest)
    assert_type(Digest.of(content, "sha512"), Digest)
    assert_type(Digest(text).encoded, str)
    as_text: str = Digest(text)
    assert_type(as_text.upper(), str)


def references(text: str) -> None:
    ref = Reference.parse(text)
    assert_type(ref, Reference)
    assert_type(ref.tag, str | None)
    assert_type(ref.digest, Digest | None)
    assert_type(ref.target, str)
    assert_type(ref.pinned(text), Reference)
    assert_type(ref.tagged("v1"), Reference)
    assert_type(LayoutReference.parse(text).tagged("v1"), LayoutReference)
    assert_type(parse_reference(text), Reference | LayoutReference)
    either: AnyReference = ref
    assert_type(either.name, str)
    assert_type(Reference(text), Reference)
    Reference("ghcr.io", "x")  # type: ignore[call-arg]  # the parts are given by name
    ref.tag = "v2"  # type: ignore[misc]  # frozen


def descriptors(content: bytes) -> None:
    d = Descriptor.of(content, "text/plain", annotations={"a": "b"})
    assert_type(d, Descriptor)
    assert_type(d.digest, Digest)
    assert_type(d.size, int)
    assert_type(d.annotations, Annotations)
    assert_type(d.annotations["a"], str)
    assert_type(d.embedded, bytes | None)
    assert_type(d.platform, Platform | None)
    assert_type(d.key, tuple[str, int])
    assert_type(d.extra, FrozenMap[Any])
    assert_type(attrs.evolve(d, size=2), Descriptor)
    assert_type(EMPTY_DESCRIPTOR.urls, tuple[str, ...])
    Descriptor(media_type="a/b", digest=d.digest, size=1, urls=["https://h.io"], annotations={"a": "b"}, extra={"k": 1})
    Descriptor(media_type="a/b", digest="sha256:00", size=1)  # type: ignore[arg-type]  # a str is not a Digest


def documents(raw: bytes, d: Descriptor) -> None:
    m = Manifest.parse(raw)
    assert_type(m, Manifest)
    assert_type(m.layers, tuple[Descriptor, ...])
    assert_type(m.subject, Descriptor | None)
    assert_type(m.raw, bytes)
    assert_type(m.digest, Digest)
    assert_type(m.descriptor, Descriptor)
    assert_type(m.to_dict(), dict[str, Any])
    assert_type(attrs.evolve(m, annotations={"a": "b"}), Manifest)
    Manifest(config=d, layers=[d], annotations={"a": "b"})
    Manifest(config=d, layers=(layer for layer in [d]))

    i = Index.parse(raw)
    assert_type(i, Index)
    assert_type(i.manifests, tuple[Descriptor, ...])
    assert_type(i.platforms, tuple[Platform, ...])
    assert_type(i.select(), Descriptor)
    assert_type(i.select("linux/amd64"), Descriptor)
    assert_type(i.select(Platform.host()), Descriptor)
    assert_type(i.select(lambda found: found.size > 1), Descriptor)
    test: Callable[[Descriptor], bool] = lambda found: found.platform is None  # noqa: E731
    assert_type(i.select(test), Descriptor)
    assert_type(parse_document(raw, "application/json"), Manifest | Index)


def configs(raw: bytes, digest: Digest) -> None:
    c = ImageConfig.parse(raw)
    assert_type(c, ImageConfig)
    assert_type(c.platform, Platform)
    assert_type(c.rootfs, RootFS)
    assert_type(c.rootfs.diff_ids, tuple[Digest, ...])
    assert_type(c.history, tuple[History, ...])
    ImageConfig(
        os="linux", architecture="amd64", rootfs=RootFS(diff_ids=[digest]), history=[History()], config={"Env": []}
    )
    assert_type(Platform(os="linux", architecture="amd64", os_features=["f"]).os_features, tuple[str, ...])


def failures(error: errors.RegistryError, limited: errors.RateLimited) -> None:
    assert_type(error.status, int)
    assert_type(error.errors, tuple[dict[str, Any], ...])
    assert_type(error.code, str)
    assert_type(limited.retry_after, float | None)
    value_error: ValueError = errors.InvalidReference("x", hint="y")
    missing: LookupError = errors.ManifestUnknown("x", status=404)
    network: OSError = errors.TimedOut("x")
    assert_type((value_error.args, missing.args, network.errno), tuple[tuple[Any, ...], tuple[Any, ...], int | None])
