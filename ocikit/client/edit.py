"""Edits of artifacts: files are added, replaced, removed and renamed without downloading what stays."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Final, Self

import attrs

from ocikit import display
from ocikit.client.arguments import ProgressLike, PushedPath, StrPath, tags_of
from ocikit.client.artifact import Artifact, File
from ocikit.client.commit import (
    Annotate,
    Base,
    Describe,
    Draft,
    Drop,
    Guard,
    Operation,
    Put,
    Rename,
    Restart,
    SetConfig,
    SetType,
    commit,
    copy_blob,
    push_blob,
    read_base,
    titled,
)
from ocikit.client.notes import check_message, pin_inputs, write_inputs
from ocikit.client.plans import EditPlan
from ocikit.client.push import describe_selection, select_files, spooled_files
from ocikit.client.reader import ContentReader
from ocikit.client.versions import NextVersion, Versions, check_version
from ocikit.errors import Conflict, FileNotInArtifact, InvalidArgument, InvalidReference, ManifestUnknown, OcikitError
from ocikit.forks import fork_count
from ocikit.layers.pack import PackTask, Selection
from ocikit.progress.base import SILENT, TransferStats, progress_scope
from ocikit.spec import media_types as types
from ocikit.spec.annotations import Annotations
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Manifest
from ocikit.spec.reference import AnyReference, Reference, ReferenceLike
from ocikit.spec.title_ranges import holds_title
from ocikit.spec.titles import Links, is_selected, safe_title
from ocikit.store.base import Source, Store
from ocikit.store.streams import ByteStream
from ocikit.transfer.pool import raise_if_cancelled, run_parallel

#: The edits of this process that have not ended, by token. File systems find them by the URL of an edit.
open_edits: Final[weakref.WeakValueDictionary[str, Edit]] = weakref.WeakValueDictionary()

_NEAREST = 3  # similar names in the hint for a missing file


class Edit(MutableMapping[str, Any], display.Displayable):
    """An artifact that is being edited: a mapping from names to files, which takes paths and bytes.

    New content is uploaded at once, what stays is not moved, and the tag moves at the end of the block. After an exception
    in the block the tag names what it named before. Safe in threads.

    Args:
        reader: Reads and writes the content.
        reference: The artifact to edit; it need not exist.
        to: Where the result gets its tag; None moves the tag of `reference`.
        expect: The digest that the tag must name, or an artifact with it.
        tags: More tags of the result.
        message: What the edit changes, for the history.
        inputs: References of artifacts that new content was made from; they are added to those of the version before.
        version: "next" gives the result the next free tag of v1, v2, …, too.
        dry_run: Upload nothing, and leave the tag.
        workers: Number of parallel transfers.
        progress: True, False or a `Progress`; None uses the session's setting.

    >>> with ocikit.edit("oci:waves:v1") as edit:
    ...     edit["a.txt"] = b"hello"
    ...     edit.annotations["org.opencontainers.image.description"] = "Waves"
    >>> ocikit.inspect("oci:waves:v1")["a.txt"].read_text()
    'hello'
    """

    def __init__(
        self,
        reader: ContentReader,
        reference: AnyReference,
        *,
        to: AnyReference | None = None,
        expect: str | Artifact | None = None,
        tags: Iterable[str] = (),
        message: str | None = None,
        inputs: ReferenceLike | Iterable[ReferenceLike] = (),
        version: NextVersion | None = None,
        dry_run: bool = False,
        workers: int | None = None,
        progress: ProgressLike = None,
    ) -> None:
        check_message(message)
        if to is None and reference.tag is None and reference.digest is not None:
            raise InvalidReference(
                f"{reference} names no tag that an edit could move", hint='name one: edit(ref, to="…:v2")'
            )
        self.reader = reader
        self.token = secrets.token_hex(4)
        """Identifies the edit within this process; a part of its URL."""
        self._source_reference = reference
        target = reference if to is None else to
        if to is not None and to.digest is not None:
            raise InvalidReference(f"{to} is pinned, so it can't be the target of an edit", hint="name a tag")
        check_version(version, attrs.evolve(target, digest=None))
        self._tag = target.tag or "latest"
        self.reference = target.tagged(self._tag)
        """The tag that the edit moves."""
        self._moves = to is not None and to != reference
        expected = expect.digest if isinstance(expect, Artifact) else expect
        self._expect = Digest(expected) if expected is not None else reference.digest
        self._tags = tags_of(self.reference, tags, default=False)[1:]
        self._message = message
        self._inputs: ReferenceLike | Iterable[ReferenceLike] = inputs
        self._pinned: tuple[Reference, ...] = ()
        self._version = version
        self.keeps_inputs = True
        """Whether the inputs of the version before are inputs of the result, too."""
        self._dry_run = dry_run
        self._workers = reader.workers if workers is None else workers
        self._listener = reader.listener(progress)
        self._stats = TransferStats(self._listener)
        self._stack = contextlib.ExitStack()
        self._source: Source | None = None
        self._store: Store | None = None
        self.lock = threading.RLock()
        """Held while the edit is changed."""
        self._base: Base | None = None
        self._target_base: Base | None = None
        self._draft: Draft | None = None
        self._operations: list[Operation] = []
        self._uploaded: set[Digest] = set()
        self._forks = fork_count()
        self._notes = ""
        self._has_ended = False
        self.number = 0
        """After the block: the number of the commit."""
        self.artifact: Artifact | None = None
        """After the block: the result."""
        self.plan: EditPlan | None = None
        """After the block: what has changed, or with `dry_run` what would change."""

    # The block

    def __enter__(self) -> Self:
        backends = self.reader.backends
        self._pinned = pin_inputs(self.reader, self._inputs)
        self._store = self._stack.enter_context(backends.open_store(self.reference))
        self._source = self._store
        if self._source_reference.name != self.reference.name:
            self._source = self._stack.enter_context(backends.open_source(self._source_reference, mirrors=False))
        open_edits[self.token] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._has_ended = True
            open_edits.pop(self.token, None)
            self._stack.close()

    def _finish(self) -> None:
        draft, base = self.draft, self._base
        self.plan = self._describe(draft)
        if self._dry_run:
            self._describe_version().apply(draft)
            manifest = draft.build()
            self.artifact = Artifact(self.reader, self.reference, manifest.descriptor, manifest, plan=self.plan)
            return
        if not self._operations and base is not None and base.descriptor is None:
            raise ManifestUnknown(
                f"{self._source_reference} does not exist, and the edit has no changes",
                hint="check the tag; an edit that adds files creates the artifact",
            )
        operations = [*self._guards(draft), *self._operations, self._describe_version()]
        store = self.store
        if self._moves:
            self._copy_rest(draft)
            operations.insert(1, Restart(manifest=self._base_manifest))
            base = self._target_base
        done = commit(
            store,
            self._tag,
            operations,
            reference=self.reference,
            owner=self.reader.backends,
            locks=self.reader.cache.lock_folder(),
            base=base,
        )
        self.number = done.number
        if self._tags:
            store.push_document(done.descriptor, done.manifest.raw, self._tags)
        reference = self.reference
        if self._version is not None:
            versions = Versions(store, reference.name, self.reader.cache.lock_folder())
            reference = reference.tagged(versions.reserve(done.descriptor, done.manifest.raw))
        self.artifact = Artifact(self.reader, reference, done.descriptor, done.manifest)
        self.artifact.summarize(partial(self._summary, self.artifact))
        if self._listener is not SILENT:
            self._stats.summary(self.artifact.summary)

    def _guards(self, draft: Draft) -> list[Operation]:
        """Return the conditions of the commit: what others must not have changed since the edit has read it."""
        if self._moves:
            target = self._target_base
            theirs = None if target is None else target.digest
            return [Guard(digest=theirs, absent=theirs is None, base=theirs)]
        if self._expect is not None:
            return [Guard(digest=self._expect, base=self._expect)]
        titles = {title for operation in self._operations for title in operation.titles}
        before, after = draft.before, draft.files()
        files = {title: (_digest(before.get(title)), _digest(after.get(title))) for title in titles}
        return [Guard(files=files, base=draft.digest)]

    def _new_inputs(self, draft: Draft) -> dict[str, str]:
        """Return the annotation of inputs, if it changes."""
        before = draft.annotations if self.keeps_inputs else {}
        named = write_inputs(self._pinned, before) if self._pinned else {}
        return {key: value for key, value in named.items() if draft.annotations.get(key) != value}

    def _describe_version(self) -> Describe:
        """Return the operation that writes the annotations of the new version."""
        source = self._source_reference
        base = None if self._base is None else self._base.digest
        # A pinned source may have no tag
        name = source.tagged(source.tag or "latest") if source.tag or not source.digest else source.name
        return Describe(
            base_name=str(name),
            base=base if self._moves else None,
            message=self._message,
            inputs=self._pinned,
            keeps_inputs=self.keeps_inputs,
            numbered=self._version is not None,
        )

    def _copy_rest(self, draft: Draft) -> None:
        """Mount or copy what stays to another repository."""
        if self._source is None or self._source is self._store or self._base_manifest is None:
            return
        source, store = self._source, self.store
        manifest = draft.build()
        rest = {blob.digest: blob for blob in manifest.blobs if blob.digest not in self._uploaded}
        blobs = [blob for blob in rest.values() if not types.is_foreign(blob.media_type) and blob.embedded is None]
        with progress_scope(self._stats, "edit", size=sum(blob.size for blob in blobs), count=len(blobs)):
            run_parallel(
                blobs,
                lambda blob, stop: copy_blob(store, blob, source, progress=self._stats, stop=stop),
                workers=self._workers,
            )

    def _describe(self, draft: Draft) -> EditPlan:
        before, after = draft.before, draft.files()
        renamed = {
            op.before: op.after
            for op in self._operations
            if isinstance(op, Rename)
            and op.before in before
            and op.before not in after
            and op.after not in before
            and _digest(after.get(op.after)) == before[op.before].digest
        }
        new = {title: layer for title, layer in after.items() if title not in before}
        config = any(isinstance(operation, SetConfig) for operation in self._operations)
        return EditPlan(
            reference=self.reference,
            base=draft.digest,
            added={title: layer for title, layer in new.items() if title not in renamed.values()},
            changed={t: layer for t, layer in after.items() if t in before and before[t].digest != layer.digest},
            removed={t: layer for t, layer in before.items() if t not in after and t not in renamed},
            renamed=renamed,
            annotations={op.key: op.value for op in self._operations if isinstance(op, Annotate)}
            | self._new_inputs(draft),
            config=config,
        )

    def _summary(self, artifact: Artifact) -> str:
        """Return the summary; it names the attachments of the version before, which stay there."""
        text = f"edited: {self.plan}{self._notes} -> {artifact.reference}"
        before = self._base.descriptor if self._base is not None else None
        if before is None or before.digest == artifact.digest:
            return text
        with contextlib.suppress(OcikitError):
            with self.reader.backends.open_source(self._source_reference, mirrors=False) as source:
                found = source.referrers(before)
            if found:
                kinds = display.join_limited(sorted({d.artifact_type or d.media_type for d in found}))
                about = display.pluralize(len(found), "attachment")
                text += f"; {about} of the version before ({kinds}) stay with {before.digest.short}"
        return text

    # What is edited

    @property
    def store(self) -> Store:
        """The repository or layout that is written to.

        Raises:
            InvalidArgument: The edit is not open, or it belongs to the process that this one was forked from.
        """
        if self._forks != fork_count():
            raise InvalidArgument(
                "the edit belongs to the parent of this process, which would not see the change",
                hint="write in the parent, or by the URL of the tag",
            )
        if self._store is None or self._has_ended:
            raise InvalidArgument(
                "the edit has ended" if self._has_ended else "the edit has not begun",
                hint="use it as a context manager: with ocikit.edit(ref) as e: …",
            )
        return self._store

    @property
    def draft(self) -> Draft:
        """The artifact with all changes so far; it is read on first use."""
        store = self.store
        with self.lock:
            if self._draft is None:
                reference = self._source_reference
                self._base = read_base(self._source or store, reference.digest or reference.tag or "latest")
                if self._moves:
                    self._target_base = read_base(store, self._tag)
                if self._expect is not None and self._base.digest != self._expect:
                    raise Conflict(
                        f"{reference} names {self._base.digest.short if self._base.digest else 'nothing'} now, not"
                        f" {self._expect.short}",
                        hint="look at what has changed, and edit that version; the tag was not moved",
                        base=str(self._expect),
                        theirs=str(self._base.digest or ""),
                    )
                self._draft = Draft(self._base.manifest, self._base.digest)
            return self._draft

    @property
    def _base_manifest(self) -> Manifest | None:
        manifest = self._base.manifest if self._base is not None else None
        return manifest if isinstance(manifest, Manifest) else None

    def stage(self, operation: Operation) -> None:
        """Apply an operation whose content has been uploaded.

        Raises:
            Conflict: A title is that of a folder and of a file.

        >>> from ocikit.client.commit import SetType
        >>> with ocikit.edit("oci:waves:v1") as edit:
        ...     edit["a.txt"] = b"hello"
        ...     edit.stage(SetType(artifact_type="application/vnd.example.waves"))
        >>> ocikit.inspect("oci:waves:v1").manifest.artifact_type
        'application/vnd.example.waves'
        """
        with self.lock:
            operation.apply(self.draft)
            self._operations.append(operation)

    @property
    def count(self) -> int:
        """The number of changes so far."""
        return len(self._operations)

    def changes(self, start: int) -> list[tuple[str, Descriptor | None]]:
        """Return the files that have changed since a count, as they are now; None for a removed one.

        >>> with ocikit.edit("oci:waves:v1") as edit:
        ...     edit["a.txt"] = b"hello"
        ...     [title for title, descriptor in edit.changes(0)]
        ['a.txt']
        """
        with self.lock:
            titles = dict.fromkeys(title for operation in self._operations[start:] for title in operation.titles)
            return [(title, self.draft.get(title)) for title in titles]

    @property
    def base_artifact(self) -> Artifact:
        """The artifact before all changes; one without files if the tag is new."""
        _ = self.draft
        return self._view(self._source_reference)

    def upload(self, layer: Descriptor, content: Callable[[], ByteStream]) -> None:
        """Upload content that an operation will name.

        Args:
            layer: Descriptor of the content.
            content: Returns a new stream of the content.

        >>> import io
        >>> with ocikit.edit("oci:waves:v1") as edit:
        ...     edit["a.txt"] = b"hello"
        ...     edit.upload(ocikit.Descriptor.of(b"world", "text/plain"), lambda: io.BytesIO(b"world"))
        """
        if not self._dry_run:
            push_blob(self.store, layer, content, progress=self._stats)
            self._uploaded.add(layer.digest)

    def file(self, title: str) -> File:
        """Return a file as it will be.

        Raises:
            FileNotInArtifact: There is no such file; the hint has the nearest names.

        >>> with ocikit.edit("oci:waves:v1") as edit:
        ...     edit["a.txt"] = b"hello"
        ...     edit.file("a.txt").read_text()
        'hello'
        """
        draft = self.draft
        layer = draft.get(title)
        if layer is None or title.startswith("\0"):
            near = display.nearest(title, draft.files(), _NEAREST)
            hint = f"nearest: {display.join_limited(near)}" if near else "list(edit) has the names of all"
            if shards := [shard for shard in draft.files().values() if holds_title(shard, title)]:
                hint = f"{shards[0].title} may have it; push the folder again with shards= to change it"
            raise FileNotInArtifact(f"{self.reference} has no file {display.quoted(title)}", hint=hint)
        is_new = layer.digest not in {before.digest for before in draft.before.values()}
        named = layer if layer.title == title else titled(layer, title)
        return File(self._view(self.reference if is_new else self._source_reference), title, named)

    def _view(self, reference: AnyReference) -> Artifact:
        """Return an artifact that reads the content of a repository."""
        manifest = self._base_manifest or Draft(None).build()
        return Artifact(self.reader, reference, manifest.descriptor, manifest)

    # The mapping

    def __getitem__(self, title: str) -> File:
        return self.file(title)

    def __setitem__(self, title: str, content: bytes | StrPath | BinaryIO) -> None:
        """Add or replace a file.

        Args:
            title: Name of the file.
            content: Bytes, a file that is open for reading, or the path of a file; a folder gives its files below the name.
        """
        title = safe_title(title).as_posix()
        if isinstance(content, bytes | bytearray | memoryview):
            raw = bytes(content)
            layer = titled(Descriptor.of(raw, types.media_type_of(title)), title)
            self.upload(layer, lambda: io.BytesIO(raw))
            self.stage(Put(layer=layer))
        elif isinstance(content, str | os.PathLike):
            self._push(select_files(({title: content},)))
        elif callable(getattr(content, "read", None)):
            with spooled_files(({title: content},)) as paths:
                self._push(select_files(paths))
        else:
            raise InvalidArgument(
                f"content of type {type(content).__name__} is not a file",
                hint="pass bytes, or the path of a file; ocikit.save keeps objects",
            )

    def __delitem__(self, title: str) -> None:
        self.file(title)
        self.stage(Drop(title=title))

    def __iter__(self) -> Iterator[str]:
        return iter(self.draft.files())

    def __len__(self) -> int:
        return len(self.draft.files())

    def __contains__(self, title: object) -> bool:
        return isinstance(title, str) and not title.startswith("\0") and self.draft.get(title) is not None

    def __hash__(self) -> int:
        return id(self)  # an edit is equal to itself only

    def __eq__(self, other: object) -> bool:
        return self is other

    def add(
        self,
        *paths: PushedPath,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        media_types: Mapping[str, str] | None = None,
        links: Links = "inside",
        hidden: bool = False,
        secrets: bool = False,
    ) -> tuple[str, ...]:
        """Add or replace files and folders under the names that `push` gives them.

        Args:
            paths: Files and folders, or contents by name as in `push`. "folder/." leaves the folder's name out.
            include: Glob patterns of file names; none selects all.
            exclude: Glob patterns of file names to skip.
            media_types: Media types by file name; others are guessed.
            links: How to handle symlinks, as in `push`.
            hidden: Add all files, as in `push`.
            secrets: Add files that look like secrets.

        Returns:
            The names.

        >>> from pathlib import Path
        >>> size = Path("sine.csv").write_text("x,y")
        >>> with ocikit.edit("oci:waves:v1") as edit:
        ...     edit.add("sine.csv")
        ('sine.csv',)
        """
        return self._push(
            select_files(
                paths,
                include=include,
                exclude=exclude,
                media_types=media_types,
                links=links,
                hidden=hidden,
                secrets=secrets,
            )
        )

    def put(self, selection: Selection, annotations: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
        """Add or replace selected files, with annotations of their own.

        Args:
            selection: The files.
            annotations: Annotations by the names of files.

        Returns:
            The names.

        >>> from pathlib import Path
        >>> from ocikit.client.push import select_files
        >>> size = Path("sine.csv").write_text("x,y")
        >>> with ocikit.edit("oci:waves:v1") as edit:
        ...     edit.put(select_files(["sine.csv"]), {"sine.csv": {"org.example.lot": "7"}})
        ('sine.csv',)
        """
        return self._push(selection, annotations)

    def _push(
        self, selection: Selection, annotations: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    ) -> tuple[str, ...]:
        """Upload files in parallel, then stage them in the order of their names."""
        layers = self._upload_all(selection)
        for task in selection.tasks:
            layer = layers[task.title]
            if more := annotations.get(task.title):
                layer = attrs.evolve(layer, annotations=Annotations({**layer.annotations, **more}))
            self.stage(Put(layer=layer))
        self._notes += describe_selection(selection)
        return tuple(layers)

    def _upload_all(self, selection: Selection) -> dict[str, Descriptor]:
        layers: dict[str, Descriptor] = {task.title: None for task in selection.tasks}  # type: ignore[misc]  # set below

        def push(task: PackTask, stop: threading.Event) -> None:
            packed, _ = task.run(partial(raise_if_cancelled, stop))
            layers[task.title] = packed.descriptor
            if not self._dry_run:
                push_blob(self.store, packed.descriptor, packed.open, progress=self._stats, stop=stop)
                self._uploaded.add(packed.descriptor.digest)

        self.store  # noqa: B018 - raises if the edit is not open
        size = sum(task.size for task in selection.tasks)
        with progress_scope(self._stats, "edit", size=size, count=len(selection.tasks)):
            run_parallel(selection.tasks, push, workers=self._workers)
        return layers

    def rename(self, before: str, after: str) -> None:
        """Give a file another name; a file of that name is replaced.

        Args:
            before: Present name of the file.
            after: New name of the file.

        Raises:
            FileNotInArtifact: There is no such file; the hint has the nearest names.

        >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello"})
        >>> with ocikit.edit("oci:waves:v1") as edit:
        ...     edit.rename("a.txt", "b.txt")
        >>> ocikit.inspect("oci:waves:v1")["b.txt"].read_text()
        'hello'
        """
        self.file(before)
        self.stage(Rename(before=before, after=safe_title(after).as_posix()))

    def remove(self, *patterns: str) -> tuple[str, ...]:
        """Remove the files whose names match glob patterns; "logs/" are all below a folder.

        Returns:
            The names that were removed; none if no name matches.

        >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello", "logs/1.txt": b"", "logs/2.txt": b""})
        >>> with ocikit.edit("oci:waves:v1") as edit:
        ...     edit.remove("logs/")
        ('logs/1.txt', 'logs/2.txt')
        """
        removed = tuple(title for title in self if is_selected(title, patterns)) if patterns else ()
        for title in removed:
            self.stage(Drop(title=title))
        return removed

    @property
    def annotations(self) -> MutableMapping[str, str]:
        """The annotations of the manifest, which can be changed in place."""
        return _EditedAnnotations(self)

    @property
    def config(self) -> Any:
        """The config: a mapping for JSON, else bytes. Set it to bytes or to a mapping; its media type stays."""
        config = self.draft.config
        artifact = self._view(self.reference if config in self._new_configs() else self._source_reference)
        raw = self.reader.read(artifact.reference, config)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            return raw

    @config.setter
    def config(self, content: bytes | Mapping[str, Any]) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(dict(content)).encode()
        kind = self.draft.config.media_type
        config = Descriptor.of(raw, "application/json" if kind == types.EMPTY else kind)
        self.upload(config, lambda: io.BytesIO(raw))
        self.stage(SetConfig(config=config))

    @property
    def artifact_type(self) -> str | None:
        """The artifact type, as a media type; it can be set."""
        draft = self.draft
        return draft.artifact_type or draft.build().artifact_type

    @artifact_type.setter
    def artifact_type(self, artifact_type: str) -> None:
        self.stage(SetType(artifact_type=artifact_type))

    def _new_configs(self) -> list[Descriptor]:
        return [operation.config for operation in self._operations if isinstance(operation, SetConfig)]

    # File systems

    @property
    def fs(self) -> Any:
        """A writable file system of this edit for libraries that use fsspec; its paths are the names of files.

        Raises:
            OcikitError: fsspec is not installed.
        """
        files = self._file_system()
        from fsspec.implementations.dirfs import DirFileSystem  # noqa: PLC0415 - an optional package

        return DirFileSystem(files.edit_root(self), files)

    @property
    def url(self) -> str:
        """The URL of this edit for libraries that use fsspec, in any thread of this process while the block runs.

        Raises:
            OcikitError: fsspec is not installed.
        """
        files = self._file_system()
        url: str = files.unstrip_protocol(files.edit_root(self))
        return url

    def _file_system(self) -> Any:
        if self._dry_run:
            raise InvalidArgument("a dry run has no writable file system", hint="leave dry_run out")
        self.store  # noqa: B018 - raises if the edit is not open
        try:
            from fsspec import get_filesystem_class  # noqa: PLC0415 - an optional package
        except ImportError as error:
            raise OcikitError("an edit by URL needs fsspec", hint="pip install 'ocikit[data]'") from error
        # By its protocol, because the file system is built on this module
        return get_filesystem_class("ocikit")(reader=self.reader, skip_instance_cache=True)

    # Views

    def __repr__(self) -> str:
        return display.Displayable.__repr__(self)

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.reference)
        changes = str(self.plan) if self.plan is not None else display.pluralize(len(self._operations), "change")
        yield "changes", changes

    def _card_title(self) -> object:
        return display.title_of(self.reference)

    def _card_notes(self) -> Iterator[object]:
        yield "edit"

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "reference")


class _EditedAnnotations(MutableMapping[str, str]):
    """The annotations of an edit."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit

    def __getitem__(self, key: str) -> str:
        return self._edit.draft.annotations[key]

    def __setitem__(self, key: str, value: str) -> None:
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgument(
                f"the annotation {display.quoted(key)} is not text: {display.quoted(value)}",
                hint="convert the value with str(…)",
            )
        self._edit.stage(Annotate(key=key, value=value))

    def __delitem__(self, key: str) -> None:
        self._edit.draft.annotations[key]  # raises KeyError
        self._edit.stage(Annotate(key=key, value=None))

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._edit.draft.annotations))

    def __len__(self) -> int:
        return len(self._edit.draft.annotations)


def _digest(layer: Descriptor | None) -> Digest | None:
    return None if layer is None else layer.digest
