"""Limits of descriptions. They are checked before a library or a loop sees the bytes of a file.

A file's headers come from its publisher. Each length in them may be a lie that costs memory or time (DoS).
"""

from typing import Final

FIRST: Final = 64 << 10  #: bytes of the first range, at the start or the end of a file; smaller files are read whole
REQUESTS: Final = 2  #: requests of a description, unless a caller allows more
GAP: Final = 4 << 10  #: bytes between two ranges that cost less than another request
DETAILS: Final = 64 << 10  #: bytes of all ranges for details, such as the headers of members

FOOTER: Final = 16 << 20  #: bytes of a footer of Parquet or Arrow; pyarrow needs a multiple of them in memory
STATISTICS: Final = 20_000  #: column chunks of a Parquet file whose statistics are read
BATCHES: Final = 1_000  #: batches of an Arrow file that are looked for

TENSOR_HEADER: Final = 16 << 20  #: bytes of the JSON header of safetensors; 100,000 tensors need about as much
TENSORS: Final = 100_000  #: tensors of a file
DIMENSIONS: Final = 32  #: of an array or a tensor; numpy 1 has the same limit
SHARDS: Final = 1_024  #: files of a model in several parts

GGUF_HEADER: Final = 32 << 20  #: bytes; a vocabulary of 256,000 tokens with its merges needs half of it
GGUF_VALUES: Final = 4_096  #: key-value pairs
GGUF_NESTED: Final = 10_000  #: arrays within arrays
GGUF_DEPTH: Final = 4  #: levels of them
GGUF_SHOWN: Final = 64  #: items of an array that are kept
KEY: Final = 65_535  #: bytes of a key
TENSOR_NAME: Final = 256  #: bytes of a tensor's name in GGUF; ggml allows 64, some builds 128

ARRAY_HEADER: Final = 10_000  #: bytes of the header of an npy file, as in numpy
NESTING: Final = 16  #: brackets within brackets in it

DIRECTORY: Final = 4 << 20  #: bytes of the directory of a zip: about 60,000 members
ENTRIES: Final = 1_000  #: members of an archive that a description keeps

TEXT: Final = 16 << 10  #: characters of a value that are kept
VALUES: Final = 4_096  #: values of metadata that are kept
COLUMNS: Final = 10_000  #: columns of a table of text
LINES: Final = 1_000  #: lines of text whose types are inferred
