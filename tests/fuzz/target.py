"""What a target is: a function that takes any bytes, and raises for what must not be.

Another exception than it documents, a message that could do harm in a terminal or holds what was secret, an answer that
does not survive being written and read.
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

#: Stands in seeds where a secret would.
SECRET = "Sekr3tSekr3tSekr3t"

#: What a terminal would take for more than text; a message may have several lines.
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: Characters: a message is read by a person, and printed in notebooks.
LONGEST = 5000

NOW = 1_700_000_000.0
SHA = "sha256:" + "ab" * 32
URL = "https://registry.example/v2/team/data/tags/list?n=1000"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


def message_is_safe(error: BaseException, secret: str = "") -> None:
    """Look at what an error says, and at what it carries along for tracebacks to say."""
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
    """What a call gives; None if it raised an error that it may raise."""
    try:
        return call(*arguments, **keywords)
    except OcikitError as error:
        message_is_safe(error, secret)
        return None


@frozen
class Target:
    """One thing that reads what others wrote."""

    name: str
    run: Callable[[bytes], None]
    """Raises if something is wrong with what is tested."""
    seeds: tuple[bytes, ...]
    """Good examples, to be damaged."""
    words: tuple[bytes, ...] = ()
    """What means something in this language."""
    text: bool = True
    """Whether it is damaged word by word; else byte by byte."""
    examples: int = 60
    """How many an ordinary test takes: what reads files takes longer."""


TARGETS: dict[str, Target] = {}


def target(*seeds: bytes, words: tuple[bytes, ...] = (), **fields):
    def register(run):
        name = run.__name__
        TARGETS[name] = Target(name, run, seeds, words, **fields)
        return run

    return register


def text_of(data: bytes) -> str:
    """As a header or a variable brings it: any character, and what isn't UTF-8 in the way of file names."""
    return data.decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def scratch():
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="fuzz.", dir=memory if memory.is_dir() else None))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


#: What may stand where a JSON value does, and shouldn't.
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
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()
