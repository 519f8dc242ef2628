"""Models of scikit-learn as skops files.

skops writes the names of types and functions, and creates only those that it knows or that the caller trusts. That is safer
than a pickle and not safe, so such files are for models of people whom the user trusts.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ocikit import display
from ocikit.client.artifact import File
from ocikit.data.codecs.format import Format, Part, is_a, refused
from ocikit.errors import UnsafeFormat
from ocikit.packages import package

#: The packages whose types are saved. Types of a notebook or a script cannot be found by the process that loads them.
_PACKAGES: Final = frozenset(
    ["sklearn", "numpy", "scipy", "xgboost", "lightgbm", "catboost", "imblearn", "quantile_forest"]
)
_SCHEMA: Final = "schema.json"
_LIMIT: Final = 256 << 20  # bytes of the schema
_SHOWN = 20

#: skops hands the state of a random generator to numpy without a check, and a wild one crashes the interpreter.
_GENERATOR: Final = "RandomStateNode"


def _is_estimator(obj: Any) -> bool:
    return is_a(obj, "sklearn.base", "BaseEstimator", exact=False)


def _dump(obj: Any, path: Path) -> None:
    skops = package("skops.io", "a model of scikit-learn")
    skops.dump(obj, path)
    unknown = [name for name in skops.get_untrusted_types(file=path) if name.partition(".")[0] not in _PACKAGES]
    if unknown:
        raise refused(
            f"the {type(obj).__name__}",
            f"it has types of other packages: {display.join_limited(unknown, _SHOWN)}",
            "use types of scikit-learn, or write a file of your own and save its Path",
        )


def _load(file: File, part: Part) -> Any:
    skops = package("skops.io", "a model of scikit-learn")
    path = file.path
    unknown = {*skops.get_untrusted_types(file=path), *_generators(file, path)}
    if missing := sorted(unknown - set(part.trusted)):
        raise UnsafeFormat(
            f"{display.quoted(file.name)} creates types that may run code: {display.join_limited(missing, _SHOWN)}",
            hint=f"if you trust the author and these types, pass trusted={json.dumps(missing[:_SHOWN])}",
        )
    return skops.load(path, trusted=sorted(unknown))


def _generators(file: File, path: Path) -> set[str]:
    """Return the names of random generators in a file."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(_SCHEMA)
        if info.file_size > _LIMIT:
            raise UnsafeFormat(
                f"{display.quoted(file.name)} has a schema of {display.size(info.file_size)}",
                hint="ask its author for a smaller model",
            )
        schema = json.loads(archive.read(info))
    return {
        f"{node.get('__module__')}.{node.get('__class__')}"
        for node in _nodes(schema)
        if node.get("__loader__") == _GENERATOR
    }


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as node:
                yield node
                waiting += node.values()
            case list() as items:
                waiting += items


#: The formats of models.
FORMATS: Final = (
    Format(
        name="skops",
        ending=".skops",
        magic=(b"PK\x03\x04",),
        is_zip=True,
        kind="sklearn.BaseEstimator",
        library="sklearn",
        stem="model",
        packages=("scikit-learn", "skops"),
        matches=_is_estimator,
        dump=_dump,
        load=_load,
    ),
)
