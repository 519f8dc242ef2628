"""Facts about a model, from the files of its folder and from the caller.

The files are read before a push: `config.json`, the front matter of `README.md`, and the headers of safetensors and GGUF
files. A file that cannot be read this way gives no facts. Facts of the caller come first.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeGuard

import attrs
from attrs import frozen

from ocikit.descriptions.describe import describe, describe_path
from ocikit.descriptions.front_matter import read_front_matter
from ocikit.descriptions.model import Description
from ocikit.dialects.classes import FileClass
from ocikit.display import join_limited, quoted
from ocikit.errors import InvalidArgument, OcikitError
from ocikit.spec.document import load_json

_TEXT_LIMIT: Final = 1 << 20  # bytes that are read of config.json and README.md
_MINOR: Final = 100  # tensors of one type with less than this part of all bytes are ignored
_MODALITIES: Final = ("text", "image", "audio", "video", "embedding", "other")
_SIZE = re.compile(r"\d+(?:\.\d)?[KMBTQ]", re.IGNORECASE)
_PART = re.compile(r"-\d{5}-of-\d{5}(?=\.)")  # of a file's name, if a model has several files
_LANGUAGE = re.compile(r"[a-z]{2}")

#: Formats by the suffix of a file with weights.
_FORMATS: Final[Mapping[str, str]] = {
    suffix: name
    for name, suffixes in {
        "safetensors": "safetensors",
        "gguf": "gguf",
        "onnx": "onnx",
        "pt": "pt pth pt2 bin ckpt",
        "keras": "keras",
        "h5": "h5 hdf5",
        "tflite": "tflite",
        "npz": "npz",
        "skops": "skops",
        "dduf": "dduf",
        "mlmodel": "mlmodel",
    }.items()
    for suffix in suffixes.split()
}

#: Precisions of ModelPack by the types of safetensors and GGUF.
_PRECISIONS: Final[Mapping[str, str]] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
    "BOOL": "bool",
}

#: Quantizations by GGUF's `general.file_type`, as llama.cpp names them. Missing numbers are of removed types, or of plain
#: floats.
_FILE_TYPES: Final[Mapping[int, str]] = {
    2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S",
    15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS",
    24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 36: "TQ1_0",
    37: "TQ2_0",
}  # fmt: skip

#: SPDX identifiers by the lower-case names that model cards have. Other names are kept as they are.
_LICENSES: Final[Mapping[str, str]] = {
    name.lower(): name
    for name in (
        "AFL-3.0", "AGPL-3.0", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0",
        "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0",
        "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "ECL-2.0", "EPL-2.0", "EUPL-1.1", "EUPL-1.2", "GPL-2.0",
        "GPL-3.0", "ISC", "LGPL-2.1", "LGPL-3.0", "MIT", "MPL-2.0", "MS-PL", "NCSA", "ODbL-1.0", "OFL-1.1", "OSL-3.0",
        "PDDL-1.0", "PostgreSQL", "Unlicense", "WTFPL", "Zlib",
    )
}  # fmt: skip


@frozen(kw_only=True)
class ModelFile:
    """A file that is pushed as part of a model."""

    title: str
    content: Path | bytes
    """The path of the file, or its content in memory."""
    size: int
    kind: FileClass

    @property
    def format(self) -> str:
        """The format of weights by the suffix, such as "safetensors", or an empty text."""
        return _FORMATS.get(self.title.rpartition(".")[2].lower(), "")

    def head(self, limit: int) -> bytes:
        """Return at most so many bytes from the start."""
        if isinstance(self.content, bytes):
            return self.content[:limit]
        with self.content.open("rb") as file:
            return file.read(limit)

    def describe(self) -> Description:
        """Return what is in the file."""
        if isinstance(self.content, Path):
            return describe_path(self.content, self.title)
        raw = self.content
        return describe(self.title, len(raw), lambda spans: [raw[start : start + length] for start, length in spans])


@frozen(kw_only=True)
class Facts:
    """What the config of a model artifact states about the model. Empty values are not written.

    The names are those of `ocikit.dialects.model.Model`, which reads such a config.
    """

    name: str = ""
    family: str = ""
    """Lineage, such as "llama" or "gpt2"."""
    version: str = ""
    title: str = ""
    description: str = ""
    authors: tuple[str, ...] = ()
    license: tuple[str, ...] = ()
    """SPDX expressions."""
    vendor: str = ""
    revision: str = ""
    created: str = ""
    """RFC 3339. Only the caller gives it: equal files give equal digests."""
    documentation: str = ""
    source: str = ""
    datasets: tuple[str, ...] = ()
    architecture: str = ""
    format: str = ""
    """Format of the weights, such as "safetensors"."""
    parameters: str = ""
    """Number of parameters, such as "8B"."""
    precision: str = ""
    quantization: str = ""
    framework: str = ""
    languages: tuple[str, ...] = ()
    """ISO 639 codes of two letters."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    knowledge_cutoff: str = ""
    """RFC 3339."""
    reasoning: bool | None = None
    tool_usage: bool | None = None
    reward: bool | None = None
    context: int | None = None
    """Tokens."""


FIELDS: Final = tuple(item.name for item in attrs.fields(Facts))


def facts_of(files: Iterable[ModelFile], given: Mapping[str, Any] | None = None) -> Facts:
    """Return the facts about a model.

    Args:
        files: The files of the model.
        given: Facts of the caller by name; None as a value leaves a fact out.

    Raises:
        InvalidArgument: A given fact is unknown or has the wrong type.
    """
    chosen = {name: _checked(name, value) for name, value in dict(given or {}).items()}
    return Facts(**(_found(tuple(files)) | chosen))


def size_label(parameters: int) -> str:
    """Return a number of parameters as ModelPack writes it, or an empty text for a few.

    >>> size_label(8_030_000_000), size_label(124_000_000), size_label(5)
    ('8B', '124M', '')
    """
    for letter, scale in (("Q", 10**15), ("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if parameters >= scale or letter == "K":
            count = f"{parameters / scale:.1f}".removesuffix(".0")
            return "" if count == "0" else f"{count}{letter}"
    return ""


def _found(files: tuple[ModelFile, ...]) -> dict[str, Any]:
    weights = [file for file in files if file.kind == "weights"]
    sizes: Counter[str] = Counter()
    for file in weights:
        if file.format:
            sizes[file.format] += file.size
    chosen = sizes.most_common(1)[0][0] if sizes else ""
    found: dict[str, Any] = {"format": chosen}
    by_title = {file.title: file for file in files}
    found |= _card_facts(by_title.get("README.md"))
    # The front matter is written by people, so it comes before what is derived from other files
    config = _config_facts(by_title.get("config.json"))
    for facts in (_weight_facts(weights, chosen), config):
        found |= {name: value for name, value in facts.items() if value and not found.get(name)}
    if config["quantization"] and "int" in found.get("precision", ""):
        found["parameters"] = ""  # several parameters are packed into one number
    return {name: value for name, value in found.items() if value}


def _config_facts(file: ModelFile | None) -> dict[str, Any]:
    """Return the facts in a `config.json` of transformers."""
    config: dict[str, Any] = {}
    if file is not None:
        with contextlib.suppress(OSError, OcikitError):
            config = load_json(file.head(_TEXT_LIMIT + 1), "config.json", limit=_TEXT_LIMIT)
    text, quantization = (
        value if isinstance(value := config.get(key), dict) else {} for key in ("text_config", "quantization_config")
    )
    kinds = (part.get(key) for part in (config, text) for key in ("torch_dtype", "dtype"))
    keys = ("max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length", "model_max_length")
    sizes = (part.get(key) for part in (config, text) for key in keys)
    return {
        "architecture": next(iter(_texts(config.get("architectures"))), ""),
        "family": _text(config.get("model_type")),
        "precision": next((kind for kind in kinds if kind in _PRECISIONS.values()), ""),
        "quantization": _text(quantization.get("quant_method")),
        "context": next((n for n in sizes if isinstance(n, int) and not isinstance(n, bool) and n > 0), None),
    }


def _card_facts(file: ModelFile | None) -> dict[str, Any]:
    """Return the facts in the front matter of a model card."""
    card: Mapping[str, Any] = {}
    if file is not None:
        with contextlib.suppress(OSError):
            card = read_front_matter(file.head(_TEXT_LIMIT).decode("utf-8", "replace")).data
    names = _texts(card.get("license"))
    if names == ("other",):
        names = _texts(card.get("license_name")) or names
    return {
        "name": _text(card.get("model_name")),
        "license": tuple(_LICENSES.get(name.lower(), name) for name in names),
        "languages": tuple(code for code in _texts(card.get("language")) if _LANGUAGE.fullmatch(code)),
        "datasets": _texts(card.get("datasets")),
        "framework": _text(card.get("library_name")),
        "description": _text(card.get("description")),
        "authors": _texts(card.get("authors")),
    }


def _weight_facts(weights: Sequence[ModelFile], chosen: str) -> dict[str, Any]:
    """Return the facts in the headers of the weights of one format."""
    if chosen not in {"safetensors", "gguf"}:
        return {}
    counted, is_only = _main_weights(file for file in weights if file.format == chosen)
    found = list(_described(counted))
    types: Counter[str] = Counter()
    for description in found:
        for tensor in description.tensors.values():
            if kind := _PRECISIONS.get(tensor.dtype, ""):
                types[kind] += tensor.size or 0
    parameters = sum(description.parameters or 0 for description in found)
    # The number of elements is known only if every file could be read
    facts: dict[str, Any] = {"parameters": size_label(parameters) if len(found) == len(counted) else ""}
    if chosen == "safetensors":
        # Without the types of a few small tensors, such as positions
        used = [kind for kind, size in types.items() if size * _MINOR >= types.total()]
        return facts | {"precision": ",".join(sorted(used, key=lambda kind: (-types[kind], kind)))}
    metadata: Mapping[str, str] = found[0].metadata if found else {}
    number = metadata.get("general.file_type", "")
    file_type = int(number) if number.isdecimal() and len(number) < 4 else -1
    label = metadata.get("general.size_label", "")
    architecture = metadata.get("general.architecture", "")
    size = metadata.get(f"{architecture}.context_length", "")
    name = metadata.get("general.license", "")
    return {
        "name": metadata.get("general.name", ""),
        "architecture": architecture,
        "family": architecture,
        "license": (_LICENSES.get(name.lower(), name),) if name else (),
        "authors": (metadata["general.author"],) if metadata.get("general.author") else (),
        "vendor": metadata.get("general.organization", ""),
        "version": metadata.get("general.version", ""),
        "description": metadata.get("general.description", ""),
        "quantization": _FILE_TYPES.get(file_type, "") if is_only else "",
        "precision": {0: "float32", 1: "float16", 32: "bfloat16"}.get(file_type, "") if is_only else "",
        "parameters": facts["parameters"] or (label if _SIZE.fullmatch(label) else ""),
        "context": int(size) if size.isdecimal() and len(size) < 10 else None,
    }


def _main_weights(files: Iterable[ModelFile]) -> tuple[list[ModelFile], bool]:
    """Return the files of one model, and whether there are no weights of others.

    A folder may have the same model in several quantizations, or a second copy such as `consolidated.safetensors`. A
    pipeline has several models in folders, of which none is the main one.
    """
    models: dict[str, list[ModelFile]] = {}
    for file in files:
        # The projector of a model that sees images has an architecture and a name of its own
        if "mmproj" not in file.title.lower():
            models.setdefault(_PART.sub("", file.title), []).append(file)
    names = [name for name in models if "/" not in name] or (list(models) if len(models) == 1 else [])
    chosen = next((name for name in names if name.startswith("model.")), next(iter(names), ""))
    return models.get(chosen, []), len(models) == 1


def _described(files: Iterable[ModelFile]) -> Iterator[Description]:
    """Yield the descriptions of the files that have a valid header."""
    for file in files:
        with contextlib.suppress(OSError, OcikitError):
            yield file.describe()


def _text(value: Any) -> str:
    return value.strip() if _is_text(value) else ""


def _is_text(value: Any) -> TypeGuard[str]:
    """Return True for text that a config can have; JSON can have half of a surrogate pair."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _texts(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list | tuple) else (value,)
    return tuple(text for item in items if (text := _text(item)))


def _checked(name: str, value: Any) -> Any:
    """Return a fact of the caller as `Facts` has it."""
    known = {item.name: item for item in attrs.fields(Facts)}.get(name)
    if known is None:
        raise InvalidArgument(
            f"model has the unknown key {quoted(name, 60)}", hint=f"use some of {join_limited(FIELDS, 40)}"
        )
    if value is None:
        return known.default
    if isinstance(value, dt.datetime) and name in {"created", "knowledge_cutoff"}:
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if name == "parameters":
        number = _whole(value)
        if number is not None:
            return size_label(number)
        if isinstance(value, str) and (not value or _SIZE.fullmatch(value)):
            return value
        raise _wrong(name, value, 'a number, or a text such as "8B" or "1.5B"')
    if isinstance(known.default, tuple):
        items = (value,) if isinstance(value, str) else value
        if isinstance(items, list | tuple) and all(map(_is_text, items)):
            _check_terms(name, items)
            return tuple(items)
        raise _wrong(name, value, "text, or a list of texts")
    if name == "context":
        number = _whole(value)
        if number is None:
            raise _wrong(name, value, "a number of tokens")
        return number
    if known.default is None:
        if value not in (True, False, "true", "false"):
            raise _wrong(name, value, "True or False")
        return value in (True, "true")
    if not _is_text(value):
        raise _wrong(name, value, "text")
    if name in {"created", "knowledge_cutoff"} and value:
        _check_time(name, value)
    return value


def _whole(value: Any) -> int | None:
    """Return a number above 0, also of a text as the command line has it, or None."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 19:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _check_terms(name: str, items: Iterable[str]) -> None:
    for item in items:
        if name in {"inputs", "outputs"} and item not in _MODALITIES:
            raise _wrong(name, item, f"some of {join_limited(_MODALITIES)}")
        if name == "languages" and not _LANGUAGE.fullmatch(item):
            raise _wrong(name, item, 'codes of two letters, such as "en"')


def _check_time(name: str, value: str) -> None:
    try:
        valid = dt.datetime.fromisoformat(value).tzinfo is not None and "T" in value
    except ValueError:
        valid = False
    if not valid:
        raise _wrong(name, value, 'a time such as "2026-01-31T12:00:00Z", or a datetime')


def _wrong(name: str, value: Any, expected: str) -> InvalidArgument:
    return InvalidArgument(f"model has an invalid {name}: {quoted(value, 60)}", hint=f"it must be {expected}")


def to_json(value: Any) -> bytes:
    """Return the bytes of a config: equal values give equal bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
