"""Tests of digests: grammar, equality, verification. image-spec descriptor.md#digests."""

import copy
import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocikit.errors import DigestMismatch, InvalidDigest, UnverifiableDigest
from ocikit.spec.digest import VERIFIABLE, Digest, hash_file

EMPTY = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
HEX = "0123456789abcdef"

VALID = [
    EMPTY,
    "sha256:" + "0" * 64,
    "sha512:" + "f" * 128,
    "blake3:" + "a" * 64,
    "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
    "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
    "md5:d41d8cd98f00b204e9800998ecf8427e",
    "a.b_c-d+e:ABC=_-",
    "0:0",
]

INVALID = [
    "",
    ":",
    "sha256",
    "sha256:",
    ":" + "0" * 64,
    "SHA256:" + "0" * 64,
    "sha256:" + "0" * 63,
    "sha256:" + "0" * 65,
    "sha256:" + "A" * 64,
    "sha256:" + "g" * 64,
    "sha512:" + "0" * 64,
    "sha512:" + "F" * 128,
    "blake3:" + "B" * 64,
    "sha256:" + "0" * 64 + "\n",
    " sha256:" + "0" * 64,
    "sha256:" + "0" * 32 + ":" + "0" * 31,
    "sha256:" + "٠" * 64,  # digits of another script
    "+sha:ab",
    "sha+:ab",
    "a++b:ab",
    "a:b/c",
    "a:../../etc/passwd",
    "a:b%2f",
]


@pytest.mark.parametrize("text", VALID)
def test_valid_digest_is_parsed_unchanged(text):
    digest = Digest.parse(text)
    assert digest == text
    assert str(digest) == text
    assert f"{digest.algorithm}:{digest.encoded}" == text
    assert isinstance(digest, Digest)


@pytest.mark.parametrize("text", INVALID)
def test_invalid_digest_is_rejected_with_hint(text):
    with pytest.raises(InvalidDigest) as caught:
        Digest.parse(text)
    assert caught.value.hint
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("thing", [None, 5, b"sha256:" + b"0" * 64, ["sha256"], True])
def test_non_string_digest_is_rejected(thing):
    with pytest.raises(InvalidDigest):
        Digest(thing)


def test_error_of_long_invalid_digest_is_short():
    with pytest.raises(InvalidDigest) as caught:
        Digest("sha256:" + "x" * 1_000_000)
    assert len(str(caught.value)) < 500


@given(st.text())
def test_any_text_parses_or_raises_invalid_digest(text):
    try:
        assert str(Digest(text)) == text
    except InvalidDigest as error:
        assert error.hint


@given(st.from_regex(r"[a-z0-9]+([+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+", fullmatch=True))
def test_unregistered_algorithm_is_accepted(text):
    if text.partition(":")[0] not in {"sha256", "sha512", "blake3"}:
        assert Digest(text) == text


@given(st.text(HEX, min_size=64, max_size=64))
def test_registered_algorithm_rejects_upper_case_hex(encoded):
    assert Digest(f"sha256:{encoded}").encoded == encoded
    if encoded.upper() != encoded:
        with pytest.raises(InvalidDigest, match="lower-case"):
            Digest(f"sha256:{encoded.upper()}")


@given(st.sampled_from(VALID), st.sampled_from(VALID))
def test_equal_digests_have_equal_hash_and_text(left, right):
    a, b = Digest(left), Digest(right)
    assert (a == b) is (left == right)
    assert hash(a) == hash(left)
    assert {a: 1}[left] == 1
    if a == b:
        assert hash(a) == hash(b)


def test_digests_with_different_case_are_not_equal():
    assert Digest("md5:ABCD") != Digest("md5:abcd")
    assert len({Digest("md5:ABCD"), Digest("md5:abcd")}) == 2


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_digest_survives_pickle_and_copy(protocol):
    digest = Digest(EMPTY)
    for twin in (pickle.loads(pickle.dumps(digest, protocol)), copy.copy(digest), copy.deepcopy(digest)):
        assert twin == digest
        assert type(twin) is Digest


def test_parsing_digest_again_returns_same_object():
    digest = Digest(EMPTY)
    assert Digest(digest) is digest


@pytest.mark.parametrize("algorithm", sorted(VERIFIABLE))
@given(content=st.binary())
def test_content_verifies_only_against_its_digest(algorithm, content):
    digest = Digest.of(content, algorithm)
    assert digest == f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
    digest.verify(content)
    with pytest.raises(DigestMismatch) as caught:
        digest.verify(content + b"!", "the layer")
    assert caught.value.expected == digest
    assert caught.value.actual == Digest.of(content + b"!", algorithm)
    assert "the layer" in str(caught.value)
    assert digest.verifiable


@pytest.mark.parametrize("text", ["blake3:" + "0" * 64, "md5:d41d8cd98f00b204e9800998ecf8427e", "x:y"])
def test_unsupported_algorithm_raises_unverifiable_digest(text):
    digest = Digest(text)
    assert not digest.verifiable
    for attempt in (digest.hasher, lambda: digest.verify(b""), lambda: Digest.of(b"", digest.algorithm)):
        with pytest.raises(UnverifiableDigest, match="cannot verify") as caught:
            attempt()
        assert caught.value.hint


def test_short_form_has_twelve_digits():
    assert Digest(EMPTY).short == "sha256:44136fa355b3"


def test_digest_repr_evaluates_to_equal_digest():
    assert eval(repr(Digest(EMPTY)), {"Digest": Digest}) == EMPTY


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_hash_file_equals_digest_of_content(algorithm, tmp_path):
    content = b"0123456789abcdef" * 50_000  # several chunks
    (tmp_path / "file").write_bytes(content)
    assert hash_file(tmp_path / "file", algorithm) == Digest.of(content, algorithm)


def test_hash_file_rejects_unverifiable_algorithm(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UnverifiableDigest, match="blake3"):
        hash_file(tmp_path / "file", "blake3")
