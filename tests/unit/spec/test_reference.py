"""Tests of references to registries and layouts."""

import copy
import pickle

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from ocikit.errors import InvalidDigest, InvalidReference
from ocikit.spec.digest import Digest
from ocikit.spec.reference import (
    LayoutReference,
    Reference,
    RegistryHost,
    check_ref_name,
    check_repository,
    check_tag,
    default_tag,
    parse_reference,
)

SHA = "sha256:" + "ab" * 32
SHA512 = "sha512:" + "cd" * 64

#: text, registry, repository, tag, digest
VALID = [
    ("alpine", "docker.io", "library/alpine", None, None),
    ("alpine:3.20", "docker.io", "library/alpine", "3.20", None),
    (f"alpine@{SHA}", "docker.io", "library/alpine", None, SHA),
    (f"alpine:3.20@{SHA}", "docker.io", "library/alpine", "3.20", SHA),
    ("org/name", "docker.io", "org/name", None, None),
    ("org/deep/name:v1", "docker.io", "org/deep/name", "v1", None),
    ("docker.io/alpine", "docker.io", "library/alpine", None, None),
    ("index.docker.io/alpine", "docker.io", "library/alpine", None, None),
    ("registry-1.docker.io/org/x", "docker.io", "org/x", None, None),
    ("Docker.IO/org/x", "docker.io", "org/x", None, None),
    ("docker.io/library/alpine", "docker.io", "library/alpine", None, None),
    ("localhost/x", "localhost", "x", None, None),
    ("localhost:5000/x", "localhost:5000", "x", None, None),
    ("localhost:5000/x:y", "localhost:5000", "x", "y", None),
    ("host:5000/a/b/c:t", "host:5000", "a/b/c", "t", None),
    ("ghcr.io/org/model:v1", "ghcr.io", "org/model", "v1", None),
    ("GHCR.IO/org/model:V1", "ghcr.io", "org/model", "V1", None),
    ("LOCALHOST:5000/x", "localhost:5000", "x", None, None),
    ("127.0.0.1/x", "127.0.0.1", "x", None, None),
    ("127.0.0.1:5000/x", "127.0.0.1:5000", "x", None, None),
    ("[::1]/x", "[::1]", "x", None, None),
    ("[::1]:5000/x:y", "[::1]:5000", "x", "y", None),
    ("[FD00::A]:5000/x", "[fd00::a]:5000", "x", None, None),
    ("[::ffff:127.0.0.1]:5000/x", "[::ffff:127.0.0.1]:5000", "x", None, None),
    ("h.io:65535/x", "h.io:65535", "x", None, None),
    ("ghcr.io/a.b_c__d-e---f/g", "ghcr.io", "a.b_c__d-e---f/g", None, None),
    ("ghcr.io/x:_", "ghcr.io", "x", "_", None),
    ("ghcr.io/x:A-._b", "ghcr.io", "x", "A-._b", None),
    ("ghcr.io/x:" + "t" * 128, "ghcr.io", "x", "t" * 128, None),
    (f"ghcr.io/x@{SHA512}", "ghcr.io", "x", None, SHA512),
    ("ghcr.io/x@md5:abc", "ghcr.io", "x", None, "md5:abc"),
    ("h.io/" + "n" * 250, "h.io", "n" * 250, None, None),
    ("ghcr.io/localhost/x", "ghcr.io", "localhost/x", None, None),
    ("docker.io/localhost/x", "docker.io", "localhost/x", None, None),
    ("1.2.3/x", "1.2.3", "x", None, None),
]

#: text, part of the message
INVALID = [
    ("", "empty"),
    (" ", "spaces"),
    (" alpine", "spaces"),
    ("alpine ", "spaces"),
    ("alpine\n", "spaces"),
    ("al pine", "al pine"),
    ("al\tpine", "pine"),
    ("Alpine", "upper-case"),
    ("Alice/model", "upper-case"),
    ("ghcr.io/Org/model", "'Org'"),
    ("ghcr.io/org/Model:v1", "'Model'"),
    ("ghcr.io/org//model", "empty part"),
    ("ghcr.io/org/model/", "empty part"),
    ("ghcr.io/", "empty"),
    ("/x", "is a path"),
    ("ghcr.io/..", "'..'"),
    ("ghcr.io/../x", "'..'"),
    ("ghcr.io/a..b", "'a..b'"),
    ("ghcr.io/a___b", "'a___b'"),
    ("ghcr.io/.a", "'.a'"),
    ("ghcr.io/a-", "'a-'"),
    ("ghcr.io/_a", "'_a'"),
    ("ghcr.io/a._b", "'a._b'"),
    ("ghcr.io/größe", "größe"),
    ("ghcr.io/\u212bx", "\u212b"),
    ("ghcr.io/x:", "''"),
    ("ghcr.io/x:-a", "'-a'"),
    ("ghcr.io/x:.a", "'.a'"),
    ("ghcr.io/x:a b", "'a b'"),
    ("ghcr.io/x:a+b", "'a+b'"),
    ("ghcr.io/x:ä", "'ä'"),
    ("ghcr.io/x:v1\u0661", "not a tag"),
    ("ghcr.io/x:" + "t" * 129, "129 characters"),
    ("ghcr.io/x:a:b", "'x:a'"),
    ("h.io/" + "n" * 251, "256 characters"),
    ("https://ghcr.io/org/model", "URL"),
    ("docker://alpine", "URL"),
    ("oci://ghcr.io/org/model", "URL"),
    ("h:/x", "'h:'"),
    ("h:0/x", "'h:0'"),
    ("h:65536/x", "'h:65536'"),
    ("h:5000000/x", "'h:5000000'"),
    ("h:٥٠٠٠/x", "not a registry host"),
    ("-h.io/x", "'-h.io'"),
    ("h-.io/x", "'h-.io'"),
    ("h..io/x", "'h..io'"),
    ("./x", "is a path"),
    ("../x", "is a path"),
    ("::1/x", "'::1'"),
    ("[::1/x", "'[::1'"),
    ("[]:5000/x", "'[]:5000'"),
    ("[:::::]/x", "'[:::::]'"),
    ("[1.2.3.4]/x", "'[1.2.3.4]'"),
    ("[::1]5000/x", "'[::1]5000'"),
    ("user:secret@ghcr.io/x", "not a digest"),
    ("ghcr.io/x@", "digest"),
    ("ghcr.io/x@v1", "'v1'"),
    ("ghcr.io/x@sha256:abc", "3 characters"),
    ("ghcr.io/x@" + SHA.upper(), "digest"),
    (f"ghcr.io/x@{SHA}@{SHA}", "not a digest"),
    (f"ghcr.io/x@{SHA}:v1", "not a digest"),
    (f"@{SHA}", "empty"),
    ("ghcr.io/x\x00", "x"),
    ("ghcr.io/x\x1b[31m", "x"),
]


@pytest.mark.parametrize(("text", "registry", "repository", "tag", "digest"), VALID)
def test_reference_is_parsed_into_parts(text, registry, repository, tag, digest):
    ref = Reference.parse(text)
    assert (ref.registry, ref.repository, ref.tag, ref.digest) == (registry, repository, tag, digest)
    assert Reference.parse(str(ref)) == ref
    assert parse_reference(text) == ref
    assert Reference.parse(ref) is ref


@pytest.mark.parametrize(("text", "part"), INVALID)
def test_invalid_reference_error_has_part_and_hint(text, part):
    with pytest.raises((InvalidReference, InvalidDigest)) as caught:
        Reference.parse(text)
    assert part in caught.value.message
    assert caught.value.hint
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("text", ["A b", "ghcr.io/A..b/c", "ghcr.io/Team/x_", "ghcr.io/Größe", "ghcr.io/\u212bx/y"])
def test_lower_case_suggestion_must_be_valid(text):
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert "upper-case" in caught.value.message
    assert (
        caught.value.hint == "a part has lower-case letters and digits, separated by one '.', one or two '_', or '-'s"
    )
    with pytest.raises(InvalidReference) as caught:
        Reference.parse("ghcr.io/Org/Model")
    assert caught.value.hint == "repository names are lower-case: 'org/model'"


@pytest.mark.parametrize("thing", [None, 5, b"alpine", ["alpine"], object()])
@pytest.mark.parametrize("parse", [Reference.parse, LayoutReference.parse, parse_reference])
def test_non_string_reference_is_rejected(parse, thing):
    with pytest.raises(InvalidReference, match=type(thing).__name__):
        parse(thing)


@pytest.mark.parametrize(
    "text", ["x/" * 1_000_000, "A" * 1_000_000, "h.io/x:" + "t" * 1_000_000, "oci:p:" + "-" * 10**6]
)
def test_error_of_long_invalid_reference_is_short(text):
    with pytest.raises(InvalidReference) as caught:
        parse_reference(text)
    assert len(str(caught.value)) < 1000


@given(st.text())
@example("\ud800")
@example("a@\ud800")
@example("oci:\ud800:x")
@example("oci:a@sha256:ab\n")
@example("[" + "1:" * 50 + "]/x")
def test_any_text_parses_or_raises_typed_error(text):
    for parse in (Reference.parse, LayoutReference.parse, parse_reference):
        for prefix in ("", "oci:", "oci-archive:", "ghcr.io/", "ghcr.io/x:", "ghcr.io/x@", "oci:x:"):
            try:
                ref = parse(prefix + text)
            except (InvalidReference, InvalidDigest) as error:
                assert error.hint
                str(error).encode()
            else:
                assert parse(str(ref)) == ref


def test_target_is_digest_before_tag():
    ref = Reference.parse(f"ghcr.io/x:v1@{SHA}")
    assert ref.target == SHA
    assert ref.tag == "v1"
    assert Reference.parse("ghcr.io/x:v1").target == "v1"
    assert Reference.parse("ghcr.io/x").target == "latest"


def test_pinned_keeps_tag_and_tagged_drops_digest():
    ref = Reference.parse("ghcr.io/x:v1").pinned(SHA)
    assert str(ref) == f"ghcr.io/x:v1@{SHA}"
    assert isinstance(ref.digest, Digest)
    assert str(ref.tagged("v2")) == "ghcr.io/x:v2"
    with pytest.raises(InvalidDigest):
        ref.pinned("v1")
    with pytest.raises(InvalidReference):
        ref.tagged("not a tag")


def test_docker_hub_has_separate_api_host():
    ref = Reference.parse("registry-1.docker.io/library/alpine")
    assert ref.api_host == "registry-1.docker.io"
    assert str(ref) == "docker.io/library/alpine"
    assert Reference.parse("ghcr.io/x").api_host == "ghcr.io"


def test_single_component_hub_names_are_in_library():
    assert Reference.parse("docker.io/x").repository == "library/x"
    assert Reference.parse("ghcr.io/x").repository == "x"
    assert Reference.parse("docker.io/a/x").repository == "a/x"


COMPONENT = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True)
DIGESTS = st.one_of(
    st.from_regex(r"sha256:[a-f0-9]{64}", fullmatch=True),
    st.from_regex(r"sha512:[a-f0-9]{128}", fullmatch=True),
    st.from_regex(r"[a-z]{1,4}([+._-][a-z]{1,3}){0,2}:[a-zA-Z0-9=_-]{1,20}", fullmatch=True),
)
HOSTS = st.one_of(
    st.from_regex(r"[a-zA-Z0-9]{1,8}(\.[a-zA-Z0-9]{1,8}){1,3}(:[1-9][0-9]{0,3})?", fullmatch=True),
    st.from_regex(r"[a-zA-Z0-9]{1,8}:[1-9][0-9]{0,3}", fullmatch=True),
    st.just("localhost"),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda a: f"[{a}]"),
    st.ip_addresses(v=6).map(lambda a: f"[{a}]:5000"),
)


@given(st.none() | HOSTS, st.lists(COMPONENT, min_size=1, max_size=4), st.none() | TAGS, st.none() | DIGESTS)
def test_every_valid_reference_round_trips(host, parts, tag, digest):
    name = "/".join(parts)
    assume(host is not None or (len(parts) == 1) or ("." not in parts[0] and parts[0] != "localhost"))
    text = (f"{host}/" if host else "") + name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    ref = Reference.parse(text)
    assert ref.tag == tag
    assert ref.digest == digest
    assert ref.repository in (name, f"library/{name}")
    assert Reference.parse(str(ref)) == ref
    assert str(Reference.parse(str(ref))) == str(ref)


PATHS = st.text(
    st.characters(blacklist_characters=":", blacklist_categories=("Cc", "Cs", "Cf", "Zl", "Zp")), min_size=1
)
REF_NAMES = st.from_regex(
    r"[A-Za-z0-9]{1,5}(([-._:+]|--)[A-Za-z0-9]{1,5}){0,3}(/[A-Za-z0-9]{1,5}){0,2}", fullmatch=True
)


REGISTERED = DIGESTS.filter(lambda d: d.startswith(("sha256:", "sha512:")))


@given(PATHS, st.none() | REF_NAMES, st.none() | REGISTERED, st.sampled_from(["oci", "oci-archive", "docker-archive"]))
def test_every_layout_reference_round_trips(path, tag, digest, scheme):
    text = f"{scheme}:{path}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    ref = parse_reference(text)
    assert isinstance(ref, LayoutReference)
    assert ref.scheme == scheme
    assert str(ref) == text
    assert LayoutReference.parse(str(ref)) == ref


@pytest.mark.parametrize(
    ("text", "path", "tag", "digest"),
    [
        ("oci:images", "images", None, None),
        ("oci:./images:v1", "./images", "v1", None),
        ("oci:/abs/dir:v1", "/abs/dir", "v1", None),
        ("oci:/a b/ü:v1", "/a b/ü", "v1", None),
        (f"oci:dir@{SHA}", "dir", None, SHA),
        (f"oci:dir:v1@{SHA}", "dir", "v1", SHA),
        ("oci:me@home:v1", "me@home", "v1", None),
        ("oci:dir:docker.io/library/alpine:3.20", "dir", "docker.io/library/alpine:3.20", None),
        (r"oci:C:\images:v1", r"C:\images", "v1", None),
        ("oci:C:/images", "C:/images", None, None),
        ("oci-archive:x.tar:v1", "x.tar", "v1", None),
        ("docker-archive:x.tar", "x.tar", None, None),
        ("docker-archive:x.tar:ghcr.io/team/app:v1", "x.tar", "ghcr.io/team/app:v1", None),
    ],
)
def test_layout_reference_is_parsed_into_parts(text, path, tag, digest):
    ref = parse_reference(text)
    assert isinstance(ref, LayoutReference)
    assert (ref.path, ref.tag, ref.digest) == (path, tag, digest)
    assert str(ref) == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("oci:", "has no folder"),
        ("oci::v1", "has no folder"),
        ("oci:dir:", "''"),
        ("oci:dir:-v1", "'-v1'"),
        ("oci:dir:v 1", "'v 1'"),
        ("oci:dir:v1/", "'v1/'"),
        ("oci:di\x00r", "control"),
        ("oci:di\nr", "control"),
        ("oci:\x1b[31mdir", "control"),
        ("oci:\u202edir", "control"),
        (f"oci:dir@{SHA}\n", "not a valid name"),
        (f"oci:dir:v1@{SHA}\n", "'v1@"),
        ("oci:dir@sha256:abc", "3 characters"),
    ],
)
def test_invalid_layout_reference_error_has_part_and_hint(text, part):
    with pytest.raises((InvalidReference, InvalidDigest)) as caught:
        parse_reference(text)
    assert part in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("source", "target", "tag"),
    [
        ("ghcr.io/x:v1", "ghcr.io/y", "v1"),
        ("ghcr.io/x", "ghcr.io/y", "latest"),
        (f"ghcr.io/x@{SHA}", "ghcr.io/y", None),
        (f"ghcr.io/x:v1@{SHA}", "oci:y", "v1"),
        ("ghcr.io/x", "oci:y", "latest"),
        ("oci:x", "ghcr.io/y", "latest"),
        ("oci:x:v1", "oci-archive:y.tar", "v1"),
        ("oci:x", "oci:y", None),
        ("ghcr.io/x:v1", "docker-archive:y.tar", "ghcr.io/x:v1"),
        ("alpine", "docker-archive:y.tar", "docker.io/library/alpine:latest"),
        (f"ghcr.io/x@{SHA}", "docker-archive:y.tar", None),
        ("oci:x:v1", "docker-archive:y.tar", None),
        ("docker-archive:x.tar:team/app:v1", "docker-archive:y.tar", "team/app:v1"),
        ("docker-archive:x.tar:team/app:v1", "ghcr.io/y", "v1"),
        ("docker-archive:x.tar:alpine", "oci:y", "latest"),
        ("docker-archive:x.tar", "ghcr.io/y", "latest"),
        ("docker-archive:x.tar", "oci:y", None),
    ],
)
def test_default_tag_of_a_copy_depends_on_both_references(source, target, tag):
    assert default_tag(parse_reference(source), parse_reference(target)) == tag


def test_registry_reference_is_rejected_as_layout():
    with pytest.raises(InvalidReference, match="not a layout") as caught:
        LayoutReference.parse("ghcr.io/x")
    assert "oci:folder" in caught.value.hint


@pytest.mark.parametrize("text", ["ghcr.io/x:v1", f"ghcr.io/x:v1@{SHA}", "oci:dir:v1", "oci-archive:x.tar"])
def test_equal_references_have_equal_hashes(text):
    ref = parse_reference(text)
    twin = parse_reference(text)
    assert ref == twin
    assert hash(ref) == hash(twin)
    assert {ref: 1}[twin] == 1
    assert pickle.loads(pickle.dumps(ref)) == ref
    assert copy.deepcopy(ref) == ref
    assert text in repr(ref)
    with pytest.raises(AttributeError):
        ref.tag = "v2"


def test_check_functions_return_valid_values():
    assert check_repository("a/b") == "a/b"
    assert check_tag("v1") == "v1"
    assert check_ref_name("docker.io/library/alpine:3.20") == "docker.io/library/alpine:3.20"


@pytest.mark.parametrize(
    ("text", "name", "api_host"),
    [
        ("GHCR.io", "ghcr.io", "ghcr.io"),
        ("localhost:5000", "localhost:5000", "localhost:5000"),
        ("[::1]:5000", "[::1]:5000", "[::1]:5000"),
        ("index.docker.io", "docker.io", "registry-1.docker.io"),
    ],
)
def test_registry_host_has_canonical_name(text, name, api_host):
    host = RegistryHost.parse(text)
    assert (host.name, host.api_host) == (name, api_host)


@pytest.mark.parametrize(
    "text", ["", "ghcr", "ghcr.io/team", "https://ghcr.io", "a@ghcr.io", "ghcr.io:0", "-.io", None]
)
def test_invalid_registry_host_is_rejected(text):
    with pytest.raises(InvalidReference, match="is not a registry"):
        RegistryHost.parse(text)


OTHER_TOOLS = [
    ("r.test/a/chart:1.0.0+build.1", "the tag '1.0.0+build.1' has a '+', which tags cannot have", "'1.0.0_build.1'"),
    ("oci://ghcr.io/a/chart:1.0", "is a URL, not a reference", "leave out oci://, as Helm writes it: 'ghcr.io/a/chart:1.0'"),
    (f"r.test/a/b@{SHA.upper()}", "has upper-case letters", f"digests are lower-case: '{SHA.lower()}'"),
    (f"r.test/a/b@sha256:{SHA[7:].upper()}", "has upper-case letters", f"digests are lower-case: '{SHA.lower()}'"),
    (f"oci:folder@sha256:{'AB' * 32}", "has upper-case letters", f"digests are lower-case: 'sha256:{'ab' * 32}'"),
    ("docker://r.test/a/b:v1", "is a URL, not a reference", "leave out the scheme: 'r.test/a/b:v1'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "hint"), OTHER_TOOLS, ids=[text[:24] for text, *_ in OTHER_TOOLS])
def test_words_of_other_tools_get_hint(text, message, hint):
    with pytest.raises((InvalidReference, InvalidDigest)) as caught:
        parse_reference(text)
    assert message in caught.value.message and hint in caught.value.hint


@pytest.mark.parametrize("text", ["oci:/data/layout:v1", "oci:///data/layout:v1"])
def test_absolute_path_of_layout_is_not_a_url(text):
    assert parse_reference(text).tag == "v1"


def test_reference_is_built_from_text_or_parts():
    parsed = Reference.parse("ghcr.io/org/name:v1")
    assert Reference("ghcr.io/org/name:v1") == parsed
    assert Reference(registry="ghcr.io", repository="org/name", tag="v1") == parsed
    assert Reference(text="alpine").name == "docker.io/library/alpine"
    with pytest.raises(InvalidReference, match="upper-case"):
        Reference("ghcr.io/Org/name")
    for wrong in ({}, {"registry": "ghcr.io"}, {"repository": "a/b"}):
        with pytest.raises(TypeError, match='needs a text such as "ghcr.io/org/name:tag"'):
            Reference(**wrong)
    assert pickle.loads(pickle.dumps(parsed)) == parsed == copy.deepcopy(parsed) and hash(parsed) == hash(
        Reference(str(parsed))
    )


def test_message_has_the_name_as_written():
    with pytest.raises(InvalidReference) as caught:
        Reference.parse("!!")
    assert "library" not in str(caught.value)
