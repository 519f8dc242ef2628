"""Selection of the manifest for a platform, from an index or by the config of a single image.

An explicit platform holds for single images too: their config names the platform that they run on. Artifacts, and images
whose config names no platform, run anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from ocikit.errors import InvalidDocument, NoMatchingPlatform
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.document import MAX_INDEX_DEPTH, load_json
from ocikit.spec.manifest import Index, Manifest, PlatformLike
from ocikit.spec.platform import Platform


def select_manifest(
    descriptor: Descriptor,
    platform: PlatformLike | None,
    *,
    document: Callable[[Descriptor], Manifest | Index],
    blob: Callable[[Descriptor], bytes],
) -> tuple[Descriptor, Manifest]:
    """Return the manifest for a platform and its descriptor; select from indexes, also nested ones.

    Args:
        descriptor: An index or a manifest.
        platform: The platform; None selects this machine's from an index and accepts any single manifest.
        document: Returns the document of a descriptor.
        blob: Returns the content of a config.

    Raises:
        NoMatchingPlatform: No manifest of an index has the platform, or a single image has another one.
        InvalidReference: The platform is invalid.
        InvalidDocument: Too many indexes are nested.
    """
    if platform is not None and not callable(platform):
        platform = Platform.parse(platform)  # reject an invalid platform even if there is no index
    by_index = False
    for _ in range(MAX_INDEX_DEPTH):
        found = document(descriptor)
        if isinstance(found, Manifest):
            if platform is not None and not by_index:
                check_platform(descriptor, found, platform, blob)
            return descriptor, found
        descriptor = found.select(platform)
        by_index = descriptor.platform is not None
    raise too_deep(descriptor)


def check_platform(
    descriptor: Descriptor, manifest: Manifest, platform: PlatformLike, blob: Callable[[Descriptor], bytes]
) -> None:
    """Compare a requested platform with the config of a single image.

    Args:
        descriptor: The manifest, for predicates and messages.
        manifest: The manifest.
        platform: The requested platform.
        blob: Returns the content of the config.

    Raises:
        NoMatchingPlatform: The image is for another platform.
        InvalidReference: The requested platform is invalid.
    """
    if not manifest.is_image:
        return
    actual = _platform_of(blob(manifest.config))
    if actual is None:
        return
    if callable(platform):
        matches, name = platform(attrs.evolve(descriptor, platform=actual)), "such platform"
    else:
        requested = Platform.parse(platform)
        matches, name = requested.rank(actual) is not None, str(requested)
    if not matches:
        raise NoMatchingPlatform(
            f"No {name} here. {descriptor.digest.short} is a single image for {actual}.",
            hint="omit platform=… to use it nevertheless, or choose another tag",
            available=(actual,),
        )


def _platform_of(raw: bytes) -> Platform | None:
    """Return the platform in a config, or None if it names none."""
    try:
        value = load_json(raw, "config")
    except InvalidDocument:
        return None  # the calls that need the config report it

    def text(key: str) -> str:
        field: Any = value.get(key)
        return field if isinstance(field, str) else ""

    if not (text("os") and text("architecture")):
        return None
    return Platform(
        os=text("os"),
        architecture=text("architecture"),
        variant=text("variant") or None,
        os_version=text("os.version") or None,
    )


def too_deep(descriptor: Descriptor) -> InvalidDocument:
    """Return the error for indexes that are nested too deep."""
    return InvalidDocument(
        f"indexes are nested more than {MAX_INDEX_DEPTH} deep, or in a circle, at {descriptor.digest}",
        hint="its publisher should flatten it",
    )
