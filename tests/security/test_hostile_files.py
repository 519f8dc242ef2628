"""The largest lies that a file's header can tell cost a description neither memory nor time (DoS)."""

import json
import subprocess
import sys

import pytest
from ocikit.descriptions.describe import describe
from ocikit.errors import ContentError

from tests.support.home import ROOT

#: Runs in a process whose memory is limited to 256 MiB more than it has at first. A hang ends at the limit of CPU time.
PROGRAM = """
import json, resource, struct, sys
from ocikit.descriptions.describe import describe
from ocikit.errors import ContentError

def text(value):
    return struct.pack("<Q", len(value)) + value

def header(value):
    return struct.pack("<Q", len(value)) + value

def gguf(values, *pairs, tensors=0):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, values) + b"".join(text(k) + struct.pack("<I", t) + raw for k, t, raw in pairs)

def directory(count):
    record = struct.pack("<4s4B4HL2L5H2L", b"PK\\1\\2", 20, 0, 20, 0, 0, 0, 0, 33, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0) + b"a" * 6
    return record * count + struct.pack("<4s4H2LH", b"PK\\5\\6", 0, 0, 65535, 65535, len(record) * count, 0, 0)

M = 16 << 20
CASES = {
    "safetensors of lists": ("a.safetensors", lambda: header(b'{"a":[' + b"[]," * 5_000_000 + b"[]]}")),
    "safetensors of numbers": ("a.safetensors", lambda: header(b'{"a":[' + b"1," * 2_390_000 + b"1]}")),
    "safetensors of one string": ("a.safetensors", lambda: header(b'{"a":"' + b"\\xf0\\x9f\\x98\\x80" * (M // 4 - 5) + b'"}')),
    "gguf of empty strings": ("a.gguf", lambda: gguf(1, (b"a", 9, struct.pack("<IQ", 8, 4_000_000) + bytes(32_000_000)))),
    "gguf of arrays": ("a.gguf", lambda: gguf(1, (b"a", 9, struct.pack("<IQ", 9, 2_000_000) + bytes(12) * 2_000_000))),
    "gguf of texts": ("a.gguf", lambda: gguf(4000, *((b"k%d" % i, 8, text(b"x" * 8000)) for i in range(4000)))),
    "zip of a million members": ("a.zip", lambda: directory(1_000_000)),
    "zip of 80,000 members": ("a.zip", lambda: directory(80_000)),
    "parquet of zeros": ("a.parquet", lambda: b"PAR1" + bytes(M - 99) + struct.pack("<I", M - 99) + b"PAR1"),
    "parquet of a long list": ("a.parquet", lambda: b"PAR1\\x15\\x04\\x19\\xfc\\xff\\xff\\xff\\xff\\x07" + bytes(91) + struct.pack("<I", 100) + b"PAR1"),
    "json of brackets": ("a.json", lambda: b"[" * 130_000),
    "csv of quotes": ("a.csv", lambda: b'"' * 65_000),
}
name, make = CASES[sys.argv[1]]
data = make()
if name.endswith("parquet"):
    import pyarrow.parquet
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + (256 << 20),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])) + 20,) * 2)
try:
    print(json.dumps(describe(name, len(data), lambda spans: [data[o : o + n] for o, n in spans]).format))
except ContentError as error:
    print(json.dumps([error.message, error.hint]))
"""

ACCEPTED = {
    "gguf of empty strings",
    "gguf of texts",
    "zip of a million members",
    "zip of 80,000 members",
    "csv of quotes",
}
REFUSED = {
    "safetensors of lists",
    "safetensors of numbers",
    "safetensors of one string",
    "gguf of arrays",
    "parquet of zeros",
    "parquet of a long list",
    "json of brackets",
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
@pytest.mark.parametrize("case", sorted(ACCEPTED | REFUSED))
def test_hostile_header_is_described_in_256_mib(case):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, case], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert isinstance(found, str) == (case in ACCEPTED), found
    assert isinstance(found, str) or all(found)


def test_length_of_a_footer_is_compared_with_the_file():
    requested = []

    def ranges(spans):
        requested.extend(spans)
        return [b"PAR1".rjust(length, b"\x7f") for _, length in spans]

    with pytest.raises(ContentError, match="its footer would have"):
        describe("a.parquet", 1 << 40, ranges)
    assert requested == [((1 << 40) - 65_536, 65_536)]


#: Describes a file with each byte of its footer changed to some values. pyarrow ends the process for some of them when it is
#: asked for statistics: "terminate called after throwing an instance of 'parquet::ParquetException'".
DAMAGE = """
import sys
from ocikit.descriptions.describe import describe
from ocikit.errors import ContentError
from tests.unit.descriptions.files import arrow_file, parquet_file
import pyarrow as pa

table = pa.table({"k": [1, 2, None], "s": ["a", "b", "c"], "l": [[1], [], None]})
whole = parquet_file(table) if sys.argv[1] == "a.parquet" else arrow_file(table)
trailer = 8 if sys.argv[1] == "a.parquet" else 10
length = int.from_bytes(whole[-trailer : 4 - trailer], "little")
for at in range(len(whole) - trailer - length, len(whole) - trailer):
    for value in (0, 1, 2, 0x16, 0x19, 0xFF):
        data = bytearray(whole)
        data[at] = value
        try:
            describe(sys.argv[1], len(data), lambda spans: [bytes(data[o : o + n]) for o, n in spans])
        except ContentError:
            pass
print(length)
"""


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_damaged_footer_does_not_end_the_process(name):
    run = subprocess.run(
        [sys.executable, "-c", DAMAGE, name], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) > 200
