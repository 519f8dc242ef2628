"""Errors: hierarchy, pickling, hints, redaction and sanitizing."""

import inspect
import pickle
import re
import subprocess
import sys
import urllib.parse

import ocikit
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocikit import errors
from ocikit.errors import OcikitError, RegistryError, redact
from ocikit.spec.platform import Platform

from tests.support.fake_registry import MANIFEST

CLASSES = sorted(
    (c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, OcikitError)), key=lambda c: c.__name__
)
REGISTRY_FIELDS = {
    "method": "GET",
    "url": "https://h.io/v2/x/manifests/v1",
    "status": 404,
    "errors": ({"code": "MANIFEST_UNKNOWN", "message": "no", "detail": {"tag": "v1"}},),
    "request_id": "abc-1",
    "host": "h.io",
}
SAMPLES = {
    "raw": b"{}",
    "problems": (errors.Violation(path="$.size", message="required field missing"),),
    "expected": 5,
    "actual": 6,
    "available": (Platform(os="linux", architecture="amd64"),),
    "side": "source",
    "descriptor": "sha256:00",
    "users": ("sha256:11",),
    "files": ("a.csv",),
    "retry_after": 2.5,
    "base": "sha256:22",
    "theirs": "sha256:33",
    "titles": ("a.csv",),
} | REGISTRY_FIELDS


def build(cls):
    """Return an error with a value for every keyword of its class, and these values."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    names = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "hint"}
    fields = {name: SAMPLES[name] for name in names}
    return cls("it broke", hint="mend it", **fields), fields


def test_errors_survive_the_pickling_of_dask(server, home):
    """Dask replaces how all exceptions of a process are pickled and copied, with their causes and contexts."""
    code = """
import pickle, sys
import tblib.pickling_support
import ocikit
tblib.pickling_support.install()
for ref in sys.argv[1:]:
    try:
        ocikit.inspect(ref)
    except ocikit.OcikitError as error:
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        assert error.reworded("other").message == "other" != error.message
        print(type(error).__name__)
"""
    server.manifest("a", {"schemaVersion": 2, "mediaType": MANIFEST, "config": {"size": -1}}, "invalid")
    host = server.host
    refs = [f"{host}/a:invalid", f"{host}/a:v1", f"{host}/b:v1", f"{host}/a@sha256:{'0' * 64}"]
    done = subprocess.run([sys.executable, "-c", code, *refs], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.split() == ["InvalidDocument", "ManifestUnknown", "NameUnknown", "ManifestUnknown"]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_error_survives_pickling_with_attributes(cls, protocol):
    error, fields = build(cls)
    twin = pickle.loads(pickle.dumps(error, protocol))
    assert type(twin) is cls
    assert (twin.message, twin.hint, str(twin)) == (error.message, error.hint, str(error))
    for name, value in fields.items():
        assert getattr(twin, name) == value
    assert twin.args == error.args == ("it broke",)


@pytest.mark.parametrize("cls", CLASSES)
def test_error_shows_message_and_hint(cls):
    error, _ = build(cls)
    assert str(error) == "it broke\n  -> mend it"
    assert str(cls("it broke")) == "it broke"
    assert str(cls()) == ""
    assert cls.__doc__
    assert "it broke" in repr(error)


@pytest.mark.parametrize("cls", CLASSES)
def test_message_and_hint_are_sanitized(cls):
    bad = "a\x1b[31m\x07\u202e\ud800\x9bb"
    error = cls(f"{bad}\nsecond line", hint=bad)
    assert error.message == "ab\nsecond line"
    assert error.hint == "ab"
    str(error).encode()


def documented_tree():
    """Yield class and bases of each name in the docstring's tree."""
    stack = []
    for row in errors.__doc__.partition("::\n")[2].partition("\n\nEvery")[0].splitlines():
        if not row.strip():
            continue
        names_part, _, also = row.partition("  also ") if "  also " in row else (row, "", "")
        depth = len(re.match(r"[ │├└─]*", names_part)[0]) // 3 - 1
        names = re.findall(r"[A-Z]\w+", re.sub(r"\([^)]*\)", "", names_part))
        stack = stack[:depth]
        for name in names:
            yield name, ([stack[-1]] if stack else ["Exception"]) + re.findall(r"[A-Z]\w+", also)
        stack.append(names[0])


def test_docstring_tree_matches_classes():
    tree = dict(documented_tree())
    classes = {c.__name__: c for c in CLASSES}
    assert set(tree) == set(classes)
    for name, bases in tree.items():
        names = [b.__name__ for b in classes[name].__bases__]
        assert names[0] == bases[0], name
        for base in bases:
            assert base in {b.__name__ for b in classes[name].__mro__}, name
        assert set(names) - {"Displayable"} == set(bases), name  # a mixin without meaning for `except`


def test_errors_derive_from_builtin_errors():
    assert issubclass(errors.InvalidReference, ValueError)
    assert issubclass(errors.ManifestUnknown, LookupError)
    assert issubclass(errors.ManifestUnknown, OSError)
    assert issubclass(errors.ConnectionFailed, OSError)
    assert issubclass(errors.TimedOut, TimeoutError)


def test_code_is_that_of_first_error():
    assert RegistryError("x", **REGISTRY_FIELDS).code == "MANIFEST_UNKNOWN"
    assert RegistryError("x").code == ""
    assert RegistryError("x", errors=[{}]).code == ""
    assert RegistryError("x", errors=[{"code": None}]).code == ""
    assert RegistryError("x", errors=[{"code": "\x1b[31mDENIED\n"}]).code == "DENIED "
    assert RegistryError("x", errors=["DENIED", 5, None]).code == ""


def test_request_fields_are_sanitized_and_redacted():
    error = RegistryError(
        "x", url="https://u:p@h.io/b?sig=s3cret", host="h\x1b[31m", request_id="\x07r", method="GET\n"
    )
    assert error.url == "https://h.io/b?sig=***"
    assert (error.host, error.request_id, error.method) == ("h", "r", "GET ")


def test_rate_limited_has_retry_after():
    assert errors.RateLimited("x").retry_after is None
    assert errors.RateLimited("x", retry_after=3.0, status=429).retry_after == 3.0


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h.io/v2/", "https://h.io/v2/"),
        ("https://u:p@h.io:5000/v2/x?n=5&last=b", "https://h.io:5000/v2/x?n=5&last=b"),
        ("https://h.io/b?digest=sha256:ab&_state=s3cret", "https://h.io/b?digest=sha256:ab&_state=***"),
        (
            "https://h.io/t?service=h.io&scope=repository:a/b:pull,push",
            "https://h.io/t?service=h.io&scope=repository:a/b:pull,push",
        ),
        ("https://h.io/b?s3cret", "https://h.io/b?***"),
        ("https://h.io/b?s3cret&digest=x", "https://h.io/b?***&digest=x"),
        ("https://h.io/b?a=b=s3cret", "https://h.io/b?a=***"),
        ("https://h.io/b?n=1#s3cret", "https://h.io/b?n=1"),
        ("https://u:s3@cret@h.io/", "https://h.io/"),
        ("https://u:s3/cret@h.io/", "<unreadable URL>"),
        ("https://u/cret@h.io/", "https://***@h.io/"),
        ("u:s3cret@h.io/x", "***@h.io/x"),
        ("//u:s3cret@h.io/x", "//h.io/x"),
        ("u@[::1", "***@[::1"),
        ("https://u:s3cret#x@h.io/", "<unreadable URL>"),
        ("https://u:s3cret?x@h.io/", "<unreadable URL>"),
        ("https://[::1/", "<unreadable URL>"),
        ("https://[::1]:5000/v2/", "https://[::1]:5000/v2/"),
        ("https://h.io/\x1b[31mx", "https://h.io/x"),
        ("https://h.io/?n=\ud800", "https://h.io/?n=%3F"),
        ("https://s3cret\x1b@h.io/", "https://h.io/"),
        ("https://h.io/?czNjcmV0==&n=", "https://h.io/?***&n="),
        ("", ""),
    ],
)
def test_redact_removes_secrets_from_url(url, shown):
    assert redact(url) == shown


SECRET = "s3cr3tS3CR3T"
NOISE = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(NOISE, NOISE, NOISE)
def test_redact_removes_any_password(before, after, path):
    user = urllib.parse.quote(before)
    for word in (SECRET, urllib.parse.quote(before, safe="") + SECRET + urllib.parse.quote(after, safe="")):
        assert SECRET not in redact(f"https://{user}:{word}@h.io/{urllib.parse.quote(path)}")
    assert (
        SECRET not in redact(f"https://{before}{SECRET}{after}@h.io/") or "#" in before + after or "?" in before + after
    )


@given(NOISE, NOISE, st.sampled_from(["X-Amz-Signature", "sig", "token", "access_token", "_state", "Digest", "N", ""]))
def test_redact_removes_any_signature(before, after, key):
    value = urllib.parse.quote(before, safe="") + SECRET + urllib.parse.quote(after, safe="")
    shown = redact(f"https://h.io/b?digest=sha256:00&{key}={value}&n=1#{value}")
    assert SECRET not in shown
    assert shown.startswith("https://h.io/b?digest=sha256:00&")
    assert SECRET not in redact(f"https://h.io/b?{value}")
    assert SECRET not in str(RegistryError("x", url=f"https://h.io/?{key}={value}").url)


@given(st.text())
def test_redact_never_raises_and_sanitizes(text):
    shown = redact(text)
    shown.encode()
    assert not re.search("[\x00-\x1f\x7f-\x9f]", shown)
    redact(f"https://{text}@h.io/{text}")


def test_all_errors_are_exported_from_package():
    assert {c.__name__ for c in CLASSES} <= set(ocikit.__all__)
    assert all(getattr(ocikit, c.__name__) is c for c in CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_reworded_error_keeps_class_and_fields(cls):
    error, fields = build(cls)
    twin = error.reworded("it failed\x07")
    assert type(twin) is cls
    assert twin is not error
    assert (twin.message, twin.hint, twin.args) == ("it failed", error.hint, ("it failed",))
    assert error.message == "it broke"
    assert error.reworded("it failed", "repair\x07 it").hint == "repair it"
    for name, value in fields.items():
        assert getattr(twin, name) == value


def test_reworded_registry_error_takes_another_class():
    error = errors.Denied("no", hint="log in", retry_after=2.5, **REGISTRY_FIELDS)
    twin = error.reworded("cannot delete", "ask", kind=errors.Unsupported)
    assert type(twin) is errors.Unsupported
    assert (twin.message, twin.hint, twin.args) == ("cannot delete", "ask", ("cannot delete",))
    assert twin.retry_after == 2.5
    for name, value in REGISTRY_FIELDS.items():
        assert getattr(twin, name) == value
    assert pickle.loads(pickle.dumps(twin)).errors == error.errors
