"""A fuzz target: a function of bytes that raises on a defect.

Defects are undocumented exceptions, messages with secrets or terminal controls, and results that do not survive writing
and parsing.
"""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from attrs import frozen
from ocikit.errors import OcikitError

#: The secret in seeds.
SECRET = "Sekr3tSekr3tSekr3t"

#: Terminal control characters; a message may have several lines.
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: Maximum length of a message in characters.
LONGEST = 5000

NOW = 1_700_000_000.0
SHA = "sha256:" + "ab" * 32
URL = "https://registry.example/v2/team/data/tags/list?n=1000"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


def message_is_safe(error: BaseException, secret: str = "") -> None:
    """Check the message of an error, and the values that tracebacks show."""
    text = str(error)
    assert not UNSAFE.search(text), f"unsafe in a terminal: {text[:300]!r}"
    assert len(text) <= LONGEST, f"{len(text)} characters: {text[:300]!r}"
    seen: set[int] = set()
    link: BaseException | None = error
    while secret and link is not None and id(link) not in seen:
        seen.add(id(link))
        assert secret not in repr(link.__dict__) + str(link) + repr(link.args), f"a secret in {type(link).__name__}"
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def typed(call, *arguments, secret="", **keywords):
    """Return the result of a call, or None if it raised a documented error."""
    try:
        return call(*arguments, **keywords)
    except OcikitError as error:
        message_is_safe(error, secret)
        return None


@frozen
class Target:
    """One function that parses untrusted input."""

    name: str
    run: Callable[[bytes], None]
    """Raises on a defect."""
    seeds: tuple[bytes, ...]
    """Valid examples to damage."""
    words: tuple[bytes, ...] = ()
    """Words of the language."""
    text: bool = True
    """True to damage by words, False by bytes."""
    examples: int = 60
    """Number of examples in a normal test run; targets that read files are slower."""


TARGETS: dict[str, Target] = {}


def target(*seeds: bytes, words: tuple[bytes, ...] = (), **fields):
    def register(run):
        name = run.__name__
        TARGETS[name] = Target(name, run, seeds, words, **fields)
        return run

    return register


def text_of(data: bytes) -> str:
    """Decode bytes as headers and environment variables do: any character, invalid UTF-8 as in file names."""
    return data.decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def scratch():
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="fuzz.", dir=memory if memory.is_dir() else None))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


#: Values that may replace a JSON value.
JSON_WORDS = (
    b"null", b"true", b"false", b"0", b"-1", b"1.5", b"1e400", b"-1e400", b"NaN", b"Infinity", b"9223372036854775808", b"9" * 5000,
    b'""', b'"\\ud800"', b'"\\udcff"', b'"\\u0000"', b'"\\u001b[31mred"', b'"\\u202e"', b'"\xff"', b'"' + b"x" * 3000 + b'"', b"{}", b"[]",
    b'{"digest":5}', b"[" * 200 + b"]" * 200, b'{"a":' * 200 + b"1" + b"}" * 200, b"[" * 940 + b"]" * 940, b'{"a":' * 940 + b"1" + b"}" * 940,
    b"[" * 5000, b"\xef\xbb\xbf", b"//", b",", b":", b"{", b"}", b"[", b"]", b'"', SHA.encode(), b'"sha256:ab"', b'"x:' + b"A" * 3000 + b'"',
    b'"mediaType"', b'"digest"', b'"size"', b'"schemaVersion"', b'"manifests"', b'"layers"', b'"config"', b'"annotations"', b'"platform"',
    b'"subject"', b'"data"', b'"urls"', b'"artifactType"', b'"blobSum"', b'"../../x"', b'"a\\nb"',
)  # fmt: skip


HEADER_WORDS = (
    b",", b";", b"=", b'"', b"\\", b"<", b">", b" ", b"\t", b"\r\n ", b"-", b"/", b"*", b"0", b"1", b"999999999999999999999",
    b"9" * 5000, b"-1", b"1e400", b"0x10", "\u0663".encode(), b"\xff", b"\x00", b"\x1b[31m", "\u202e".encode(), b"rel", b"next",
)  # fmt: skip


def as_json(value) -> bytes:
    """Encode JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()
