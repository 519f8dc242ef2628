"""Tests of platforms and their selection from an index."""

import platform as host_platform

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocikit.errors import InvalidReference, NoMatchingPlatform
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Index
from ocikit.spec.platform import Platform


def index(*platforms, media_type=media_types.OCI_MANIFEST):
    """Return an index of one manifest per platform; None is a manifest without platform."""
    return Index(manifests=[entry(p, i, media_type) for i, p in enumerate(platforms)])


def entry(platform, i=0, media_type=media_types.OCI_MANIFEST):
    return Descriptor.of(
        f"{i}".encode(),
        media_type,
        platform=None if platform is None else Platform.parse(platform),
        annotations={"i": str(i)},
    )


def select_platform(index, wish):
    return int(index.select(wish).annotations["i"])


@pytest.mark.parametrize(
    ("text", "os", "architecture", "variant", "version"),
    [
        ("linux/amd64", "linux", "amd64", None, None),
        ("Linux/AMD64", "linux", "amd64", None, None),
        ("linux/x86_64", "linux", "amd64", None, None),
        ("linux/aarch64", "linux", "arm64", None, None),
        ("linux/arm64/v8", "linux", "arm64", "v8", None),
        ("linux/arm/V7", "linux", "arm", "v7", None),
        ("linux/amd64/v3", "linux", "amd64", "v3", None),
        ("linux/riscv64", "linux", "riscv64", None, None),
        ("windows/amd64:10.0.17763.1", "windows", "amd64", None, "10.0.17763.1"),
        ("wasip1/wasm", "wasip1", "wasm", None, None),
        ("unknown/unknown", "unknown", "unknown", None, None),
    ],
)
def test_platform_is_parsed_into_parts(text, os, architecture, variant, version):
    p = Platform.parse(text)
    assert (p.os, p.architecture, p.variant, p.os_version) == (os, architecture, variant, version)
    assert Platform.parse(str(p)) == p
    assert Platform.parse(p) is p


@pytest.mark.parametrize(
    "text",
    [
        "",
        "linux",
        "linux/",
        "/amd64",
        "linux//v8",
        "linux/arm64/v8/x",
        "linux amd64",
        "linux/amd64\n",
        "linux/ä",
        None,
        5,
        b"linux/amd64",
    ],
)
def test_invalid_platform_is_rejected_with_hint(text):
    with pytest.raises(InvalidReference, match="is not a platform") as caught:
        Platform.parse(text)
    assert "linux/amd64" in caught.value.hint


@given(st.text())
def test_any_text_parses_or_raises_invalid_reference(text):
    try:
        p = Platform.parse(text)
    except InvalidReference:
        return
    assert Platform.parse(str(p)) == p


#: Machine, then offered platforms from best to worst in groups of equal rank; all others do not match.
RANKS = [
    (
        "linux/arm64",
        [["linux/arm64", "linux/arm64/v8"]],
        ["linux/arm64/v9", "linux/arm64/v8.1", "linux/arm/v7", "linux/amd64"],
    ),
    ("linux/arm64/v8", [["linux/arm64", "linux/arm64/v8"]], ["linux/arm64/v8.1", "linux/arm64/v9"]),
    (
        "linux/arm64/v8.2",
        [["linux/arm64/v8.2"], ["linux/arm64/v8.1"], ["linux/arm64/v8", "linux/arm64"]],
        ["linux/arm64/v9"],
    ),
    (
        "linux/arm64/v9",
        [
            ["linux/arm64/v9", "linux/arm64/v9.0"],
            ["linux/arm64/v8.5"],
            ["linux/arm64/v8.1"],
            ["linux/arm64", "linux/arm64/v8"],
        ],
        ["linux/arm64/v8.6", "linux/arm64/v9.1"],
    ),
    (
        "linux/arm/v7",
        [["linux/arm/v7"], ["linux/arm/v6"], ["linux/arm/v5"], ["linux/arm"]],
        ["linux/arm/v8", "linux/arm64"],
    ),
    (
        "linux/arm/v8",
        [["linux/arm/v8"], ["linux/arm/v7"], ["linux/arm/v6"], ["linux/arm/v5"], ["linux/arm"]],
        ["linux/arm64"],
    ),
    ("linux/arm/v6", [["linux/arm/v6"], ["linux/arm/v5"], ["linux/arm"]], ["linux/arm/v7"]),
    ("linux/arm", [["linux/arm", "linux/arm/v7"], ["linux/arm/v6"], ["linux/arm/v5"]], ["linux/arm/v8"]),
    ("linux/amd64", [["linux/amd64", "linux/amd64/v1"]], ["linux/amd64/v2", "linux/amd64/v3", "linux/386"]),
    (
        "linux/amd64/v3",
        [["linux/amd64/v3"], ["linux/amd64/v2"], ["linux/amd64", "linux/amd64/v1"]],
        ["linux/amd64/v4", "windows/amd64/v3"],
    ),
    ("linux/riscv64", [["linux/riscv64"]], ["linux/riscv64/rva23u64"]),
    ("linux/riscv64/rva20u64", [["linux/riscv64/rva20u64"], ["linux/riscv64"]], ["linux/riscv64/rva23u64"]),
    ("linux/s390x", [["linux/s390x"]], ["linux/ppc64le", "zos/s390x"]),
    ("linux/arm64/weird", [["linux/arm64/weird"]], ["linux/arm64/v8"]),
]


@pytest.mark.parametrize(("wish", "groups", "never"), RANKS)
def test_offered_platforms_are_ranked(wish, groups, never):
    wanted = Platform.parse(wish)
    ranks = [[wanted.rank(Platform.parse(offer)) for offer in group] for group in groups]
    assert ranks[0][0] == 0
    for group in ranks:
        assert len(set(group)) == 1
        assert None not in group
    heads = [group[0] for group in ranks]
    assert heads == sorted(set(heads))
    for offer in never:
        assert wanted.rank(Platform.parse(offer)) is None, offer


@pytest.mark.parametrize(("wish", "groups", "never"), RANKS)
def test_best_platform_is_selected_at_any_position(wish, groups, never):
    offers = [o for group in groups for o in group[:1]]
    for order in (offers, offers[::-1]):
        mixed = [*never, *order, *never]
        assert mixed[select_platform(index(*mixed), wish)] == offers[0]


@pytest.mark.parametrize(("wish", "groups", "never"), RANKS)
def test_first_of_equal_platforms_is_selected(wish, groups, never):
    best = groups[0]
    for order in (best, best[::-1], best * 2):
        mixed = [*never, *order]
        assert select_platform(index(*mixed), wish) == len(never)


@pytest.mark.parametrize(
    ("wish", "offer", "runs"),
    [
        ("windows/amd64", "windows/amd64:10.0.17763.1", True),
        ("windows/amd64:10.0.17763.1", "windows/amd64:10.0.17763.1", True),
        ("windows/amd64:10.0.17763.1", "windows/amd64:10.0.17763.9999", True),
        ("windows/amd64:10.0.17763", "windows/amd64:10.0.17763.9999", True),
        ("windows/amd64:10.0.17763.1", "windows/amd64:10.0.20348.1", False),
        ("windows/amd64:10.0.17763.1", "windows/amd64", False),
    ],
)
def test_windows_versions_match_by_build_number(wish, offer, runs):
    assert (Platform.parse(wish).rank(Platform.parse(offer)) is not None) is runs


def test_requested_features_must_be_offered():
    plain = Platform(os="windows", architecture="amd64")
    full = Platform(os="windows", architecture="amd64", os_features=("win32k",))
    assert full.rank(plain) is None
    assert full.rank(full) == 0
    assert plain.rank(full) == 0


def test_attestations_are_neither_listed_nor_selected():
    i = index("unknown/unknown", "linux/amd64", "unknown/unknown")
    assert i.platforms == (Platform.parse("linux/amd64"),)
    assert select_platform(i, "linux/amd64") == 1
    assert select_platform(i, lambda d: True) == 1
    with pytest.raises(NoMatchingPlatform):
        i.select("unknown/unknown")


def test_predicate_selects_first_match():
    i = index("linux/amd64", "linux/arm64", "linux/arm64", None)
    assert select_platform(i, lambda d: d.platform is not None and d.platform.architecture == "arm64") == 1
    assert select_platform(i, lambda d: d.platform is None) == 3
    with pytest.raises(NoMatchingPlatform, match="such platform"):
        i.select(lambda d: False)


def test_platform_mismatch_lists_available_platforms_once():
    i = index("linux/amd64", "linux/arm64/v8", "linux/amd64", "unknown/unknown", "windows/amd64:10.0.17763.1")
    with pytest.raises(NoMatchingPlatform) as caught:
        i.select("linux/riscv64")
    text = str(caught.value)
    assert "linux/riscv64" in text
    assert "linux/amd64, linux/arm64/v8, windows/amd64:10.0.17763.1" in text
    assert "unknown" not in text
    assert caught.value.available == i.platforms
    for listed in caught.value.available:
        assert i.select(str(listed)).platform == listed


def test_empty_index_error_reports_no_platforms():
    with pytest.raises(NoMatchingPlatform, match="no platforms at all"):
        index().select("linux/amd64")


def test_single_manifest_without_platform_is_selected():
    assert select_platform(index(None), "linux/amd64") == 0
    assert select_platform(index(None, "unknown/unknown"), "linux/amd64") == 0


def test_several_manifests_without_platform_are_rejected():
    with pytest.raises(NoMatchingPlatform):
        index(None, None).select("linux/amd64")
    with pytest.raises(NoMatchingPlatform):
        index(None, "linux/arm64").select("linux/amd64")


@pytest.mark.parametrize("kind", sorted(media_types.INDEX_TYPES))
def test_nested_index_without_platform_is_selected(kind):
    i = Index(manifests=[entry("linux/ppc64le", 0), entry(None, 1, kind), entry(None, 2, kind)])
    assert select_platform(i, "linux/ppc64le") == 0
    assert select_platform(i, "linux/amd64") == 1


def test_default_platform_is_this_machine(monkeypatch):
    i = index("linux/riscv64", "linux/arm64/v8", "linux/amd64")
    for machine, best in (("x86_64", 2), ("AMD64", 2), ("aarch64", 1), ("arm64", 1), ("riscv64", 0)):
        monkeypatch.setattr(host_platform, "machine", lambda machine=machine: machine)
        assert select_platform(i, None) == best


@pytest.mark.parametrize(
    ("system", "machine", "text"),
    [
        ("Linux", "x86_64", "linux/amd64"),
        ("Darwin", "arm64", "linux/arm64"),
        ("Windows", "AMD64", "windows/amd64"),
        ("Linux", "armv7l", "linux/arm/v7"),
        ("Linux", "armv6l", "linux/arm/v6"),
        ("Linux", "i686", "linux/386"),
        ("Linux", "sparc64", "linux/sparc64"),
    ],
)
def test_machine_names_are_mapped_to_image_names(monkeypatch, system, machine, text):
    monkeypatch.setattr(host_platform, "system", lambda: system)
    monkeypatch.setattr(host_platform, "machine", lambda: machine)
    assert str(Platform.host()) == text
