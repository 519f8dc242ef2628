"""The formats of objects: which file an object becomes, and which object a file becomes.

No name from an artifact is imported. The annotation of a file and the ending of its name select one of the formats here,
which are those of ocikit, of installed packages (entry points of `GROUP`), and of `register`.
"""

from __future__ import annotations

import builtins
import functools
import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Final

import attrs

from ocikit import display
from ocikit.client.arguments import ProgressLike
from ocikit.client.artifact import File
from ocikit.data.codecs import arrays, documents, estimators, frames, grids, pictures
from ocikit.data.codecs.documents import json_problem
from ocikit.data.codecs.format import Format, Part, is_a, refused, runs_code
from ocikit.errors import InvalidArgument
from ocikit.spec.annotations import TYPE
from ocikit.spec.media_types import FILE_TYPES

log = logging.getLogger("ocikit")

GROUP: Final = "ocikit.formats"
"""The group of entry points. Each is a function that is called with `register`."""

#: Endings of files that run code when a library opens them.
_RUNS_CODE: Final = frozenset(
    f".{suffix}"
    for suffix in [
        "pkl",
        "pickle",
        "p",
        "joblib",
        "dill",
        "cloudpickle",
        "pt",
        "pth",
        "ckpt",
        "bin",
        "keras",
        "rds",
        "rda",
        "rdata",
    ]
)

#: What any file can be loaded as.
_ANY: Final[Mapping[str, Callable[[File], Any]]] = {
    "bytes": File.read_bytes,
    "path": lambda file: file.path,
    "text": File.read_text,
}
_CLASSES: Final[Mapping[type, str]] = {bytes: "bytes", Path: "path", str: "text"}

_LIBRARIES: Final[Mapping[str, str]] = {"arrow": "pyarrow", "pillow": "PIL", "scikit-learn": "sklearn", "pd": "pandas",
                                        "pl": "polars", "np": "numpy"}  # fmt: skip
_SHOWN = 12

_BUILT_IN: Final = (
    *frames.FORMATS,
    *arrays.FORMATS,
    *grids.FORMATS,
    *pictures.FORMATS,
    *estimators.FORMATS,
    *documents.FORMATS,  # last, because many mappings are JSON
)
_registered: list[Format] = []


def register(
    type: builtins.type | str,  # noqa: A002 - as it reads in a call
    ending: str,
    dump: Callable[[Any, Path], None],
    load: Callable[[Path], Any],
    *,
    media_type: str,
) -> None:
    """Add a format for `ocikit.save` and `ocikit.load`.

    An installed package can add one without being imported by the user: by an entry point of the group `GROUP`, which is a
    function that is called with this one.

    Args:
        type: Class of the objects, or its name such as "shapely.geometry.Point". A name is not imported.
        ending: How the names of files end, such as ".wkb".
        dump: Writes an object to a path. The same object should give the same bytes.
        load: Returns the object of a path. Its content is verified, and may be that of an attacker.
        media_type: Media type of the files.

    Raises:
        InvalidArgument: The ending does not begin with a dot.
    """
    if not ending.startswith(".") or len(ending) < 2:
        raise InvalidArgument(f"ending={ending!r} is not the ending of a file", hint='write it like ".wkb"')
    kind = type if isinstance(type, str) else f"{type.__module__}.{type.__qualname__}"
    module, _, name = kind.rpartition(".")
    _registered.insert(
        0,
        Format(
            name=ending.removeprefix("."),
            ending=ending,
            kind=kind,
            library=kind,
            matches=lambda obj: is_a(obj, module, name) if isinstance(type, str) else obj.__class__ is type,
            dump=dump,
            load=lambda file, _part: load(file.path),
            media_type=media_type,
        ),
    )


@functools.cache
def _load_entry_points() -> None:
    """Let installed packages add their formats, once, for every artifact."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            entry.load()(register)
        except Exception:
            log.warning("the formats of %s could not be added", entry.value, exc_info=True)


def known() -> tuple[Format, ...]:
    """Return all formats, those of other packages first."""
    _load_entry_points()
    return (*_registered, *_BUILT_IN)


# Saving


def formats_of(obj: Any, format: str | None = None) -> list[Format]:  # noqa: A002 - as the caller writes it
    """Return the formats that keep an object, the default first.

    Args:
        obj: The object.
        format: The name of a format; None for all.

    Raises:
        InvalidArgument: There is none; the message names what a file would not keep.
    """
    found = [each for each in known() if each.matches(obj)]
    if not found:
        raise _no_format(obj)
    chosen = [each for each in found if format in {None, each.name}]
    if not chosen:
        names = dict.fromkeys(each.name for each in found)
        raise InvalidArgument(
            f"format={format!r} is none of the formats of a {_name_of(obj)}",
            hint=f"use {display.join_limited(map(repr, names), _SHOWN)}, or leave format out",
        )
    return chosen


def title_of(obj: Any, formats: list[Format], name: str | None) -> list[tuple[str, Format]]:
    """Return the titles of an object's files with their formats.

    Args:
        obj: The object.
        formats: Formats of the object, the default first.
        name: The name that the caller gave; the ending may be missing.

    Raises:
        InvalidArgument: The name has the ending of another format.
    """
    default = formats[0]
    name = default.stem if name is None else name
    # The longest ending, as .zarr.zip is one of .zip
    fitting = [each for each in formats if name.lower().endswith(each.ending)]
    if fitting:
        return [(name, max(fitting, key=lambda each: len(each.ending)))]
    suffix = ending_of(name)
    if default.any_ending and suffix:
        return [(name, default)]
    if suffix[1:] in FILE_TYPES or suffix in _RUNS_CODE or suffix in {each.ending for each in known()}:
        endings = dict.fromkeys(each.ending for each in formats)
        raise refused(
            f"the {_name_of(obj)}",
            f"the name {display.quoted(name)} has the ending {suffix}, which does not keep it",
            f"end the name with {display.join_limited(endings, _SHOWN)}, or leave the ending out",
        )
    together = [each for each in formats if each.together and each.kind == default.kind]
    return [(f"{name}{each.ending}", each) for each in together or [default]]


def names_files(obj: Any) -> bool:
    """Return True for a mapping whose keys are all names of files, such as "notes.md" and "config.json"."""
    if type(obj) is not dict or not obj:
        return False
    endings = {each.ending for each in known()} | {".md"}
    return all(isinstance(key, str) and ending_of(key) in endings for key in obj)


def ending_of(name: str) -> str:
    """Return the last part of a name with its dot, in lower case; "" without one."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if stem and dot else ""


def _name_of(obj: Any) -> str:
    return type(obj).__name__


def _no_format(obj: Any) -> InvalidArgument:
    """Return the error for an object without a format, with what its user can do."""
    what = f"the {_name_of(obj)}"
    bases = [f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(obj).__mro__[1:]]
    if isinstance(obj, type):
        return refused(f"the class {obj.__name__}", "it is a class, not an object", "pass an object of it")
    if isinstance(obj, tuple | set | frozenset):
        return refused(what, "JSON has no such type", "convert it: list(…)")
    if isinstance(obj, Mapping) and (problem := json_problem(obj)):
        return refused(what, f"it is neither JSON ({problem}) nor a mapping of arrays", "save its values under names")
    if is_a(obj, "numpy.ma", "MaskedArray"):
        return refused(what, "npy has no mask", 'save both arrays: {"data": a.data, "mask": numpy.ma.getmaskarray(a)}')
    if is_a(obj, "numpy", "generic", exact=False):
        return refused(what, "it is a single value of numpy", "convert it: .item(), or numpy.asarray(…)")
    if is_a(obj, "torch", "Tensor", exact=False):
        return refused(what, "a file of tensors has names", 'save a mapping: {"name": tensor}')
    if is_a(obj, "torch.nn", "Module", exact=False):
        return refused(what, "a module has code, which only a pickle keeps", "save its .state_dict()")
    for base in bases:
        if base in {"pandas.DataFrame", "pandas.Series", "numpy.ndarray", "xarray.Dataset", "polars.DataFrame"}:
            return refused(
                f"{what} of {type(obj).__module__}",
                f"a file would keep a {base}, and not what the subclass adds",
                f"convert it to {base}, or add a format with ocikit.data.formats.register",
            )
    return refused(
        f"the {type(obj).__module__}.{type(obj).__qualname__}",
        "ocikit stores no pickles, and there is no format for it",
        "convert it to a table, arrays or JSON, save a file of your own by its Path, or add a format with"
        " ocikit.data.formats.register",
    )


# Loading

#: Endings of files that are loaded by the format of another ending.
_READ_ONLY: Final[Mapping[str, str]] = {
    **dict.fromkeys((".pq",), ".parquet"),
    **dict.fromkeys((".feather", ".ipc"), ".arrow"),
    **dict.fromkeys(pictures.ENDINGS, ".png"),
    ".nc4": ".nc",
}


def main_title(title: str) -> str | None:
    """Return the name of the folder that is one object, if a title is that of its main file."""
    folder, _, name = title.rpartition("/")
    mains = {each.ending for each in known() if each.main == name} if folder else ()
    return folder if folder.endswith(tuple(mains)) else None


def load_file(file: File, part: Part, as_: builtins.type | str | None = None, *, progress: ProgressLike = None) -> Any:
    """Return the object of a file.

    Args:
        file: The file.
        part: What to load of it.
        as_: What to return: the name of a library, "bytes", "text" or "path", or a class. None for what was saved.
        progress: True, False or a `Progress`; None uses the session's setting.

    Raises:
        UnsafeFormat: Opening the file would run code.
        InvalidDocument: The content is not of the format that the name has.
        InvalidArgument: There is no format for the file, or none that returns `as_`.
    """
    convert = _ANY.get(_CLASSES.get(as_, "") if isinstance(as_, builtins.type) else as_ or "")
    if convert is not None:
        _check_part(file, part, frozenset(), f"as_={as_!r}")
        return convert(file)
    ending = ending_of(file.name)
    saved = file.descriptor.annotations.get(TYPE)
    candidates = _candidates(file, saved)
    if not candidates:
        if ending in documents.TEXTS:
            return file.read_text()
        if ending in _RUNS_CODE:
            raise runs_code(file, f"has the ending {ending}")
        raise InvalidArgument(
            f"there is no format for {display.quoted(file.name)}",
            hint='as_="bytes" returns its bytes, as_="path" its path, and ocikit.data.formats.register adds a format',
        )
    record = None
    if isinstance(as_, builtins.type) and (attrs.has(as_) or is_dataclass(as_)) and ending == ".json":
        record, as_ = as_, "json"
    chosen = _choose(file, candidates, saved, as_)
    _check_part(file, part, chosen.parts, f"the format {chosen.name}")
    if part.is_whole:
        file.download(progress=progress)  # verified before a library parses it
    value = chosen.read(file, part)
    return value if record is None else documents.restored(value, record)


def _candidates(file: File, saved: str | None) -> list[Format]:
    """Return the formats of a file by the longest ending; those for any ending by the annotation."""
    name = file.name.lower()
    formats = [*_BUILT_IN, *known()]  # those of ocikit are the defaults of their endings
    found = [each for each in formats if each.any_ending and each.kind == saved]
    if found:
        return found
    for ending, other in _READ_ONLY.items():
        if name.endswith(ending):
            name = name.removesuffix(ending) + other
    fitting = [
        each
        for each in formats
        if name.endswith(each.ending if each.main is None else f"{each.ending}/{each.main}")
        and not (each.any_ending and each.ending in _RUNS_CODE)
    ]
    longest = max((len(each.ending) for each in fitting), default=0)
    return [each for each in fitting if len(each.ending) == longest]


def _choose(file: File, candidates: list[Format], saved: str | None, as_: builtins.type | str | None) -> Format:
    if as_ is None:
        return next((each for each in candidates if each.kind == saved), candidates[0])
    if isinstance(as_, str):
        names = {_LIBRARIES.get(as_, as_)}
    else:
        module, name = getattr(as_, "__module__", ""), getattr(as_, "__qualname__", "")
        names = {f"{module}.{name}", f"{module.partition('.')[0]}.{name}"}  # pandas.core.frame.DataFrame
    found = [each for each in candidates if names & {each.kind, each.library}]
    if as_ in {dict, list}:
        found = [each for each in candidates if each.name in {"json", "npz", "safetensors"}]
    if not found:
        known_names = dict.fromkeys([*(each.library for each in candidates), *_ANY])
        raise InvalidArgument(
            f"{display.quoted(file.name)} cannot be loaded as {display.join_limited(map(display.quoted, sorted(names)))}",
            hint=f"use as_= with one of {display.join_limited(map(repr, known_names), _SHOWN)}",
        )
    return next((each for each in found if each.kind == saved), found[0])


def _check_part(file: File, part: Part, possible: frozenset[str], what: str) -> None:
    if impossible := sorted(part.named - possible):
        raise InvalidArgument(
            f"{impossible[0]}= does not select a part of {display.quoted(file.name)}: {what} is loaded as a whole",
            hint=f"leave {impossible[0]} out",
        )
