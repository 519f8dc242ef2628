"""The class of a model's file by its name: weights, config, doc, code or dataset.

The classes are those of ModelPack. Its own tool takes Parquet and Arrow files for weights and CSV files for documentation.
Here they are datasets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final, Literal, TypeAlias, get_args

from ocikit.display import join_limited, quoted
from ocikit.errors import ContentError, InvalidArgument
from ocikit.spec.titles import is_selected

FileClass: TypeAlias = Literal["weights", "config", "doc", "code", "dataset"]
CLASSES: Final[tuple[FileClass, ...]] = get_args(FileClass)

#: Bytes from which a file with an unknown name counts as weights; a smaller one counts as code. The same as in modctl.
_LARGE: Final = 128_000_000

#: Patterns of lower-case file names. The first row with a match has the class of the file.
_PATTERNS: Final[tuple[tuple[FileClass, str], ...]] = (
    ("doc", "readme* license* licence* notice* copying* changelog* use_policy*"),
    (
        "config",
        """*.index.json tokenizer* *tokenizer.model* vocab.txt vocab.bpe merges.txt added_tokens.txt spiece.model
        sentencepiece* *.tiktoken tiktoken.model""",
    ),
    (
        "code",
        """requirements*.txt pyproject.toml setup.cfg tox.ini package.json package-lock.json dockerfile* makefile*
        cmakelists.txt""",
    ),
    (
        "weights",
        """*.safetensors *.gguf *.gguf.[0-9]* *.ggml *.bin *.bin.[0-9]* *.pt *.pth *.pt2 *.pte *.ptl *.ckpt *.ckpt.* *.onnx
        *.onnx_data* *.h5 *.hdf5 *.keras *.msgpack *.npz *.npy *.tflite *.pb *.model *.pkl *.pickle *.joblib *.skops *.mar
        *.engine *.trt *.mlmodel *.llamafile *.dduf *.weights *.tensor *.distcp *.data-?????-of-?????""",
    ),
    ("dataset", "*.parquet *.csv *.csv.gz *.tsv *.jsonl *.jsonl.gz *.ndjson *.arrow *.feather *.orc *.avro *.tfrecord"),
    (
        "code",
        """*.py *.ipynb *.sh *.bash *.zsh *.ps1 *.bat *.r *.jl *.c *.cc *.cpp *.cxx *.h *.hpp *.cu *.cuh *.rs *.go *.java *.js
        *.mjs *.ts *.lua *.sql *.patch *.mk *.cmake *.so *.dll *.dylib""",
    ),
    (
        "config",
        """*.json *.json5 *.yaml *.yml *.toml *.ini *.cfg *.conf *.config *.xml *.jinja *.jinja2 *.template *.properties
        *.index *.meta""",
    ),
    (
        "doc",
        """*.md *.rst *.txt *.pdf *.html *.htm *.tex *.bib *.log *.doc *.docx *.png *.jpg *.jpeg *.gif *.svg *.webp *.mp4
        *.tfevents*""",
    ),
)


def class_of(title: str, size: int = 0) -> FileClass:
    """Return the class of a file.

    >>> [class_of(name) for name in ("model.safetensors", "config.json", "README.md", "run.py", "data/train.csv")]
    ['weights', 'config', 'doc', 'code', 'dataset']
    """
    name = title.rpartition("/")[2].lower()
    for known, patterns in _PATTERNS:
        if any(fnmatchcase(name, pattern) for pattern in patterns.split()):
            return known
    return "weights" if size >= _LARGE else "code"


def classify(files: Iterable[tuple[str, int]], classes: Mapping[str, str] | None = None) -> dict[str, FileClass]:
    """Return the class of each file by its title.

    Args:
        files: Titles and sizes [bytes].
        classes: Classes by pattern of titles, such as `{"*.csv": "doc"}`. The first match decides.

    Raises:
        InvalidArgument: A class is unknown.
        ContentError: A pattern matches no file.
    """
    chosen = dict(classes or {})
    for pattern, name in chosen.items():
        if not isinstance(pattern, str) or name not in CLASSES:
            raise InvalidArgument(
                f"classes has the unknown class {quoted(name, 60)} for {quoted(pattern, 60)}",
                hint=f"use one of {join_limited(CLASSES)}",
            )
    unused = dict(chosen)
    found: dict[str, FileClass] = {}
    for title, size in files:
        found[title] = class_of(title, size)
        for pattern, name in chosen.items():
            if is_selected(title, [pattern]):
                found[title] = next(known for known in CLASSES if known == name)
                unused.pop(pattern, None)
                break
    if unused:
        raise ContentError(
            f"classes has patterns that match no file: {join_limited(unused)}",
            hint=f"the files are {join_limited(found)}",
        )
    return found
