"""Descriptions of the files of an artifact."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from ocikit import display
from ocikit.client.artifact import Artifact
from ocikit.descriptions.model import Description
from ocikit.errors import NotFound, OcikitError
from ocikit.forks import ForkSafeLock
from ocikit.transfer.pool import run_parallel


class Descriptions(Mapping[str, Description], display.Displayable):
    """What is in the files of an artifact, by name. A file is read on first use, or by `load`.

    Args:
        artifact: Has the files.
        requests: How many ranges of each file may be requested.

    >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello", "b.json": b"{}"})
    >>> descriptions = ocikit.describe("oci:waves:v1")
    >>> {name: description.format for name, description in descriptions.items()}
    {'a.txt': 'text', 'b.json': 'json'}
    """

    def __init__(self, artifact: Artifact, requests: int) -> None:
        self.artifact = artifact
        self._requests = requests
        self._found: dict[str, Description | OcikitError] = {}
        self._lock = ForkSafeLock()

    def load(self, limit: int | None = None) -> Descriptions:
        """Read the files in parallel and return this mapping. A file that cannot be described raises its error on use.

        Args:
            limit: How many files to read; None reads all.

        >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello", "b.json": b"{}"})
        >>> len(ocikit.describe("oci:waves:v1").load())
        2
        """
        names = [name for name in list(self.artifact.files)[:limit] if name not in self._found]

        def work(name: str, _: threading.Event) -> None:
            self._read(name)

        run_parallel(names, work, workers=self.artifact.reader.workers)
        return self

    @property
    def problems(self) -> Mapping[str, OcikitError]:
        """Errors by name of the files that were read and cannot be described."""
        with self._lock:
            return {name: found for name, found in self._found.items() if isinstance(found, OcikitError)}

    def _read(self, name: str) -> Description | OcikitError:
        with self._lock:
            found = self._found.get(name)
        if found is None:
            file = self.artifact.files[name]
            try:
                found = file.describe(requests=self._requests)
            except OcikitError as error:
                found = error
            with self._lock:
                self._found[name] = found
        return found

    def __getitem__(self, name: str) -> Description:
        found = self._read(name)
        if isinstance(found, OcikitError):
            raise found
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.artifact.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.artifact.files)

    def __len__(self) -> int:
        return len(self.artifact.files)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values by name; read all files. One that cannot be described has its problem.

        >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello", "b.json": b"{}"})
        >>> list(ocikit.describe("oci:waves:v1").to_dict())
        ['reference', 'files']
        """
        self.load()
        values: dict[str, Any] = {}
        for name in self:
            found = self._read(name)
            values[name] = {"problem": found.message} if isinstance(found, OcikitError) else found.to_dict()
        return {"reference": str(self.artifact.reference), "files": values}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return `to_dict()` as JSON.

        Args:
            indent: Spaces of each level; None writes one line.

        >>> import json
        >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello", "b.json": b"{}"})
        >>> list(json.loads(ocikit.describe("oci:waves:v1").to_json()))
        ['reference', 'files']
        """
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        rows = [(display.shorten(name, display.CELL), str(size), text) for name, size, text in self._rows()]
        widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
        return "\n".join(f"{name:{widths[0]}}  {size:>{widths[1]}}  {text}".rstrip() for name, size, text in rows)

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.artifact.reference)
        yield "files", len(self)

    def _card_title(self) -> object:
        return display.pluralize(len(self), "file")

    def _card_notes(self) -> Iterator[object]:
        yield display.title_of(self.artifact)

    def _facts(self) -> Iterator[tuple[str, object]]:
        return iter(())

    def _sections(self) -> Iterator[display.Section]:
        yield display.Section(
            title="", headers=("name", "size", "content"), rows=self._rows(), count=len(self), unfolded=True
        )

    def _rows(self) -> Iterator[tuple[str, display.Size, str]]:
        """Yield name, size and content of each file; the content of files that were not read is ""."""
        for name, file in self.artifact.files.items():
            found = self._found.get(name)
            text = found.message if isinstance(found, OcikitError) else found.summary if found else ""
            yield name, display.Size(file.size), display.sanitize(text)


def describe(artifact: Artifact, name: str | None, *, requests: int) -> Description | Descriptions:
    """Return what is in a file of an artifact, or in all of them; see `Session.describe`."""
    if name is not None:
        return artifact[name].describe(requests=requests)
    files = artifact.files
    if not files:
        raise NotFound(f"{artifact.reference} has no files to describe", hint="list its layers with artifact.layers")
    if len(files) == 1:
        return next(iter(files.values())).describe(requests=requests)
    return Descriptions(artifact, requests).load(display.ROWS)
