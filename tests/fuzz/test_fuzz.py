"""Damaged untrusted input raises a typed error or parses, in bounded time, with safe messages.

The targets are in `tests.fuzz`, with their checks. `python -m tests.fuzz` runs them for longer. The tests after them cover
earlier findings, one each.
"""

import base64
import gzip
import io
import json
import tarfile
import tempfile
import time
import traceback
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests
import werkzeug.datastructures
from backports import zstd
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ocikit.errors import (
    ContentError,
    CredentialsError,
    InvalidArgument,
    InvalidResponse,
    UnsafeArchive,
    UnverifiableDigest,
)
from ocikit.layers.layer import entries
from ocikit.remote.auth.keychain import Credentials, Keychain
from ocikit.remote.auth.tokens import Token
from ocikit.remote.endpoints import descriptor_of
from ocikit.remote.http.responses import json_object, retry_after
from ocikit.remote.http.urls import Origin, join
from ocikit.remote.pagination import next_link
from ocikit.remote.registry import Registry
from ocikit.server import Rules
from ocikit.server.auth.htpasswd import HtpasswdEntries
from ocikit.spec.annotations import REF_NAME
from ocikit.spec.challenge import parse_challenges
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.store.layout.archive import open_archive
from ocikit.store.layout.docker import read_docker_archive
from ocikit.store.layout.layout import Layout
from ocikit.store.memory import MemoryStore

from tests.fuzz.archives import archive
from tests.fuzz.damage import EDITS, Edit, damaged
from tests.fuzz.documents import CONFIG
from tests.fuzz.headers import response_of
from tests.fuzz.target import message_is_safe
from tests.fuzz.targets import TARGETS

WORDS = st.binary(min_size=1, max_size=4)


def edits(target):
    """Return a strategy for edits, mostly with words of the target's language."""
    words = st.sampled_from(target.words) | WORDS if target.words else WORDS
    times = st.sampled_from((1, 1, 2, 16, 512))
    return st.lists(
        st.builds(Edit, st.sampled_from(EDITS), st.integers(0, 1 << 20), words, times), min_size=1, max_size=5
    )


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_is_parsed_or_rejected(name):
    target = TARGETS[name]

    @settings(max_examples=target.examples, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(target.seeds), edits(target))
    def check(seed, damage):
        target.run(damaged(seed, damage, text=target.text))

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_undamaged_input_is_parsed(name):
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


# Comparison with other parsers

QUICKLY = settings(max_examples=60)

TOKENS = st.text("abcXYZ019-_.", min_size=1, max_size=8)
QUOTED = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20)


@QUICKLY
@given(
    st.lists(
        st.tuples(st.text("abc/?=&%1.:-_~", max_size=12), st.sampled_from(["next", "prev", "last", "first"])),
        max_size=4,
    ),
    st.booleans(),
)
def test_links_equal_those_of_requests(pairs, quotes):
    mark = '"' if quotes else ""
    header = ", ".join(f"</v2/{target}>; rel={mark}{rel}{mark}" for target, rel in pairs)
    theirs = (
        [link["url"] for link in requests.utils.parse_header_links(header) if link.get("rel") == "next"]
        if header
        else []
    )
    ours = next_link(response_of(f"HTTP/1.1 200 OK\r\nLink: {header}\r\n\r\n".encode()))
    assert ours == (urljoin("https://registry.example/", theirs[0]) if theirs else None)


@QUICKLY
@given(TOKENS, st.dictionaries(st.text("abcxyz", min_size=1, max_size=8), QUOTED, min_size=1, max_size=4))
def test_challenge_equals_that_of_werkzeug(scheme, parameters):
    def quote(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = f"{scheme} " + ", ".join(f"{name}={quote(value)}" for name, value in parameters.items())
    theirs = werkzeug.datastructures.WWWAuthenticate.from_header(header)
    (ours,) = parse_challenges([header])
    assert (ours.scheme, dict(ours.parameters)) == (theirs.type, theirs.parameters)


@QUICKLY
@given(st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1)))
def test_retry_date_equals_that_of_standard_library(moment):
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    response = response_of(f"HTTP/1.1 429 Wait\r\nRetry-After: {format_datetime(moment, usegmt=True)}\r\n\r\n".encode())
    before = time.time()
    wait = retry_after(response)
    assert max(0.0, moment.timestamp() - time.time()) <= wait <= max(0.0, moment.timestamp() - before)


PATHS = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\:"), min_size=1, max_size=60),
    min_size=1,
    max_size=4,
).map("/".join)


@QUICKLY
@given(
    st.lists(st.tuples(PATHS, st.binary(max_size=700), st.integers(0, 0o7777), st.integers(-(10**9), 8 * 10**9)), max_size=5),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.sampled_from([bytes, gzip.compress, zstd.compress]),
)  # fmt: skip
def test_layer_entries_equal_those_of_tarfile(files, format, compress):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for path, content, mode, mtime in files:
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.mtime = len(content), mode, mtime if format == tarfile.PAX_FORMAT else abs(mtime)
            tar.addfile(info, io.BytesIO(content))
    try:
        ours = list(entries(io.BytesIO(compress(stream.getvalue()))))
    except UnsafeArchive:
        assume(False)  # ".." and names of 300 bytes
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        theirs = [(m.name, m.size, m.mode, int(m.mtime)) for m in tar]
    assert [(e.stored_as or e.path, e.size, e.mode, e.mtime_ns // 10**9) for e in ours] == [
        ("/".join(part for part in name.split("/") if part not in {"", "."}), *rest) for name, *rest in theirs
    ]


WORD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@QUICKLY
@given(
    WORD.filter(lambda text: ":" not in text and text != "<token>"), WORD.filter(lambda text: not text.endswith("\0"))
)
def test_docker_encoding_of_any_credentials_is_decoded(user, password):
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    config = json.dumps({"auths": {"https://ghcr.io/v2/": {"auth": auth}}})
    with tempfile.TemporaryDirectory() as home:
        keys = Keychain(environ={"DOCKER_AUTH_CONFIG": config, "XDG_RUNTIME_DIR": home}, home=Path(home))
        assert keys.for_reference("ghcr.io", "a/b") == Credentials(username=user, password=password)


# Earlier findings


def test_link_header_of_angle_brackets_is_fast():
    response = response_of(b"HTTP/1.1 200 OK\r\n" + (b"Link: " + b"<" * 60_000 + b"\r\n") * 90 + b"\r\n")
    assert next_link(response) is None  # took hours with a search for the end of each


def test_length_of_thousands_of_digits_is_invalid():
    kind = b"application/vnd.oci.image.manifest.v1+json"
    digits = b"9" * 5000  # more than int() accepts
    response = response_of(b"HTTP/1.1 200 OK\r\nContent-Length: " + digits + b"\r\nContent-Type: " + kind + b"\r\n\r\n")
    assert descriptor_of(response, "sha256:" + "0" * 64) is None


def test_parameter_after_token68_is_ignored():
    (challenge,) = parse_challenges(["Negotiate YWJj==, realm=x"])
    assert (challenge.token68, dict(challenge.parameters)) == ("YWJj==", {})


def test_index_json_as_folder_raises_content_error(tmp_path):
    Layout(tmp_path).push_bytes(Descriptor.of(b"x", "a/b"), b"x")
    (tmp_path / "index.json").unlink()
    (tmp_path / "index.json").mkdir()
    with pytest.raises(ContentError, match=r"cannot read .*index\.json: Is a directory"):
        Layout(tmp_path)


def test_entry_with_list_annotations_can_be_named(tmp_path):
    layout, blob = Layout(tmp_path), Descriptor.of(b"x", "a/b")
    layout.push_bytes(blob, b"x")
    entry = {"mediaType": "a/b", "digest": blob.digest, "size": 1, "annotations": ["odd"]}
    (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    layout.tag(blob, "v1")
    assert layout.resolve("v1") == blob
    assert json.loads((tmp_path / "index.json").read_bytes())["manifests"][0]["annotations"] == {REF_NAME: "v1"}


def test_digest_too_long_for_file_name_is_not_disk_error(tmp_path):
    descriptor = Descriptor(media_type="a/b", digest=Digest("x:" + "a" * 5000), size=1)
    for ask in (Layout(tmp_path).exists, Layout(tmp_path).open):
        with pytest.raises(UnverifiableDigest, match="has 5002 characters"):
            ask(descriptor)


@pytest.mark.parametrize("text", ["a = " + "[" * 3000, "a = " + "9" * 5000])
def test_rules_too_deep_or_too_long_are_invalid(text):
    with pytest.raises(InvalidArgument, match="invalid TOML"):
        Rules.parse(text)


def test_bcrypt_cost_in_non_ascii_digits_is_invalid():
    with pytest.raises(InvalidArgument, match="line 1"):
        HtpasswdEntries.parse("ada:$2y$\u0661\u0660$" + "a" * 53)


# Tar archives that the standard library reads


def header(name, size, kind=b"0") -> bytes:
    """Build a header with any size."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (size & ((1 << 96) - 1)).to_bytes(12, "big") if size < 0 else b"%011o\0" % size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def refused(path, content, error=ContentError):
    path.write_bytes(content)
    with pytest.raises(error), open_archive(path):
        pass
    with pytest.raises(error):
        read_docker_archive(path, MemoryStore())


@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"S"])
def test_tar_with_backward_entries_is_rejected(tmp_path, kind):
    # CVE-2025-8194: tarfile looped indefinitely
    refused(
        tmp_path / "a.tar", header("a", 0) + header("b", -1024, kind) * 3 + bytes(1024), (ContentError, UnsafeArchive)
    )


def test_tar_with_long_digit_header_is_fast(tmp_path):
    # CVE-2024-6232: tarfile searched for the end of a number at each of its digits
    content = b"1" * (1 << 20)
    refused(tmp_path / "a.tar", header("a", len(content), b"x") + content + header("b", 0) + bytes(1024), UnsafeArchive)


def test_tar_of_nested_extended_headers_is_rejected(tmp_path):
    refused(tmp_path / "a.tar", header("a", 0, b"x") * 5000 + header("b", 0) + bytes(1024))


def test_sparse_blob_is_rejected_before_writing(tmp_path):
    # A few bytes that expand to any number of zeros
    fields = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "blobs/sha256/" + "0" * 64,
        "GNU.sparse.realsize": str(1 << 26),
    }
    images = json.dumps([{"Config": fields["GNU.sparse.name"]}]).encode()
    content = archive(("x", b"0\n".ljust(512, b"\0")), pax_headers=fields)
    refused(tmp_path / "a.tar", archive(("manifest.json", images))[:1024] + content, UnsafeArchive)


@pytest.mark.parametrize("diff_id", ["x:abc", "shake_128:abc", "blake3:" + "0" * 64])
def test_docker_layer_with_unverifiable_digest_is_rejected(tmp_path, diff_id):
    config = json.dumps({**CONFIG, "rootfs": {"type": "layers", "diff_ids": [diff_id]}}).encode()
    images = json.dumps([{"Config": "c", "Layers": ["l"]}]).encode()
    (tmp_path / "a.tar").write_bytes(
        archive(("manifest.json", images), ("c", config), ("l", b"\x1f\x8b\x08\0\0\0\0\0"))
    )
    with pytest.raises(UnverifiableDigest):
        read_docker_archive(tmp_path / "a.tar", MemoryStore())


# URLs


@pytest.mark.parametrize("address", ["https://ada:S3kr3t@[::1/", "https://ada:S3kr3t@h\u2100/"])
def test_invalid_url_error_has_no_password(address):
    for read in (Origin.of, lambda text: join("https://registry.example/", text)):
        with pytest.raises(InvalidResponse) as caught:
            read(address)
        assert "S3kr3t" not in "".join(traceback.format_exception(caught.value)).replace(repr(address), "")


@pytest.mark.parametrize("url", ["x" * 60_000, "http://evil\\@registry.example/" + "x" * 60_000])
def test_message_about_long_url_is_short(url):
    with pytest.raises(InvalidResponse) as caught:
        Origin.of(url)
    assert len(str(caught.value)) < 500


# Responses


def test_range_of_thousands_of_digits_is_a_mismatch(server, repository):
    content = b"0123456789"
    blob = Descriptor(media_type="a/b", digest=Digest(server.blob("a/b", content)), size=len(content))
    server.on("GET", r"/v2/a/b/blobs/.*", status=206, headers={"Content-Range": f"bytes {'4' * 5000}-9/10"})
    with repository.open(blob) as file:
        file.seek(4)
        assert file.read() == content[4:]


@pytest.mark.parametrize("value", ["5", "true", '"text"', "{}"])
def test_invalid_catalog_raises_typed_error(server, connect, value):
    page = f'{{"repositories": {value}}}'.encode()
    server.on("GET", r"/v2/_catalog.*", body=page, headers={"Content-Type": "application/json"})
    with pytest.raises(InvalidResponse, match=r"expected an array @ \$\.repositories"):
        list(Registry(connect(server)).catalog())


def test_long_content_type_is_shortened():
    response = response_of(b"HTTP/1.1 200 OK\r\nContent-Type: text/" + b"x" * 60_000 + b"\r\n\r\nhello")
    with pytest.raises(InvalidResponse) as caught:
        json_object(response, b"hello", "list tags")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("rel", ['""', '" "', "next", '"NEXT"'])
def test_empty_link_relation_is_accepted(rel):
    response = response_of(f"HTTP/1.1 200 OK\r\nLink: </v2/x?last=a>; rel={rel}\r\n\r\n".encode())
    assert (next_link(response) is None) == (not rel.strip('" '))


# Secrets that cannot be sent


@pytest.mark.parametrize(
    "fields",
    [
        {"registry_token": "S3kr3t\nx"}, {"registry_token": "S3kr3t "}, {"registry_token": "S3kr3t\u0100"},
        {"username": "ada", "password": "S3kr3t\ud800"}, {"identity_token": "S3kr3t\ud800"}, {"username": "\ud800", "password": "S3kr3t"},
    ],
)  # fmt: skip
def test_unsendable_secret_is_rejected_and_hidden(fields):
    # The libraries that send headers quote the invalid value in their errors
    with pytest.raises(CredentialsError) as caught:
        Credentials(**fields)
    message_is_safe(caught.value, "S3kr3t")


def test_config_token_with_line_break_is_rejected_and_hidden(tmp_path):
    (tmp_path / ".docker").mkdir()
    config = {"auths": {"ghcr.io": {"registrytoken": "S3kr3t\n"}}}
    (tmp_path / ".docker" / "config.json").write_text(json.dumps(config))
    keys = Keychain(environ={"XDG_RUNTIME_DIR": str(tmp_path)}, home=tmp_path)
    with pytest.raises(CredentialsError, match=r"~/\.docker/config\.json .*'ghcr\.io'") as caught:
        keys.for_reference("ghcr.io")
    message_is_safe(caught.value, "S3kr3t")
    assert "characters" in keys.explain("ghcr.io").failure.note


def test_unsendable_refresh_token_is_ignored():
    body = json.dumps({"token": "t", "refresh_token": "r\ud800"}).encode()
    assert Token.parse(body, 0.0).refresh_token == ""
