"""Nested indexes: artifacts of more files than one manifest can list.

The index has the artifact type of a folder. Its manifests are ordinary ones, each with the files of a range of titles, which
its descriptor states. So a file is found with one manifest, and a change of one file changes one manifest.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from ocikit import display
from ocikit.client.reader import ContentReader
from ocikit.errors import InvalidDocument
from ocikit.forks import ForkSafeLock
from ocikit.spec import media_types
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.reference import AnyReference
from ocikit.spec.title_ranges import TitleRange
from ocikit.transfer.pool import run_parallel

_PARALLEL = 8  # manifests that are requested at once
_LIMIT = 512 << 20  # bytes of all manifests; 100,000 files take about 20 MB


class NestedFiles(Mapping[str, Descriptor]):
    """The layers of all manifests of a nested index by title; manifests are requested as far as they are needed.

    Args:
        reader: Reads the manifests.
        reference: The artifact.
        index: The index.

    Raises:
        InvalidDocument: The manifests are not in the order of their titles.
        UnsafeArchive: A title leads out of its folder.
    """

    def __init__(self, reader: ContentReader, reference: AnyReference, index: Index) -> None:
        self._reader = reader
        self._reference = reference
        self.index = index
        self.parts = tuple((child, TitleRange.of_manifest(child)) for child in index.manifests)
        self._starts = [titles.first for _, titles in self.parts]
        self._loaded: dict[Digest, Manifest] = {}
        self._lock = ForkSafeLock()
        for (_, before), (child, after) in pairwise(self.parts):
            if not before.first <= before.last < after.first:
                raise _invalid(child, "the manifests are not in the order of their titles")
        if sum(child.size for child in index.manifests) > _LIMIT:
            raise InvalidDocument(
                f"the manifests of {reference} have more than {_LIMIT >> 20} MiB",
                hint="its publisher should group the files in archives: shards=",
            )

    def __getitem__(self, title: str) -> Descriptor:
        return self.near(title)[title]

    def __contains__(self, title: object) -> bool:
        return isinstance(title, str) and title in self.near(title)

    def __iter__(self) -> Iterator[str]:
        for child in self.index.manifests:
            yield from self._files(child)

    def __len__(self) -> int:
        return sum(map(len, map(self._files, self.load_all())))

    def __repr__(self) -> str:
        return f"NestedFiles({display.pluralize(len(self.index.manifests), 'manifest')})"

    def near(self, title: str) -> Mapping[str, Descriptor]:
        """Return the files of the manifest that may have a title, by title."""
        position = bisect_right(self._starts, title) - 1
        if position < 0 or not self.parts[position][1].holds(title):
            return {}
        return self._files(self.parts[position][0])

    def below(self, name: str) -> tuple[Descriptor, ...]:
        """Return the manifests that may have a file of this name, or files in the folder of this name."""
        return tuple(child for child, titles in self.parts if titles.is_below(name))

    def listed_in(self, folder: str) -> tuple[Descriptor, ...]:
        """Return the manifests that must be read to list a folder."""
        return tuple(child for child, titles in self.parts if titles.is_listed_in(folder))

    def load(self, manifests: Iterable[Descriptor]) -> dict[str, Descriptor]:
        """Return the files of some of the manifests, which are requested in parallel.

        Raises:
            InvalidDocument: A manifest has titles outside of its range.
        """
        manifests = list(manifests)
        self._fetch(manifests)
        return {title: layer for child in manifests for title, layer in self._files(child).items()}

    def load_all(self) -> Sequence[Descriptor]:
        """Request all manifests, in parallel, and return their descriptors."""
        self._fetch(self.index.manifests)
        return self.index.manifests

    def manifest(self, include: Iterable[str] = ()) -> tuple[Manifest, bool]:
        """Return a manifest with the files of all manifests, and whether it has all of them.

        It was never pushed, so its digest means nothing.

        Args:
            include: Glob patterns. Manifests that have no matching title are not requested.
        """
        include = tuple(include)
        selected = [child for child, titles in self.parts if titles.may_match(include)]
        self._fetch(selected)
        layers = [layer for child in selected for layer in self._manifest(child).layers]
        merged = Manifest(
            artifact_type=self.index.artifact_type,
            config=EMPTY_DESCRIPTOR,
            layers=layers,
            subject=self.index.subject,
            annotations=self.index.annotations,
        )
        return merged, len(selected) == len(self.parts)

    def _fetch(self, manifests: Sequence[Descriptor]) -> None:
        missing = [child for child in manifests if child.digest not in self._loaded]
        if missing:

            def fetch(child: Descriptor, _: threading.Event) -> None:
                self._manifest(child)

            run_parallel(missing, fetch, workers=min(_PARALLEL, len(missing)))

    def _files(self, child: Descriptor) -> Mapping[str, Descriptor]:
        return self._manifest(child).named.files

    def _manifest(self, child: Descriptor) -> Manifest:
        with self._lock:
            found = self._loaded.get(child.digest)
        if found is None:
            document = self._reader.document(self._reference, child)
            found = _checked(child, document)
            with self._lock:
                found = self._loaded.setdefault(child.digest, found)
        return found


def _checked(child: Descriptor, document: Manifest | Index) -> Manifest:
    """Check that a manifest has files only, with titles of its range."""
    titles = TitleRange.of_manifest(child)
    if not isinstance(document, Manifest) or document.is_image:
        raise _invalid(child, "a manifest of it does not list files")
    for layer in document.layers:
        if layer.media_type != media_types.EMPTY and not titles.holds(layer.title or ""):
            raise _invalid(
                child, f"the title {display.quoted(layer.title or '')} is outside of the range of its manifest"
            )
    return document


def _invalid(child: Descriptor, problem: str) -> InvalidDocument:
    return InvalidDocument(
        f"the nested index is invalid at {child.digest.short}: {problem}",
        hint="its publisher should push it again; each manifest can be pulled by its digest",
    )
