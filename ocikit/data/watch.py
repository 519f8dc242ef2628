"""Pushes of a folder while another program writes to it, such as a training run."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import field, frozen

from ocikit import display
from ocikit.client.arguments import StrPath, to_patterns
from ocikit.client.artifact import Artifact
from ocikit.client.edit import Edit
from ocikit.client.session import Session
from ocikit.errors import ContentError, InvalidArgument, NotFound, OcikitError
from ocikit.layers.packed import Stamp, stamp_of
from ocikit.layers.states import is_settled
from ocikit.layers.walk import FileWalker, FoundFile, title_of
from ocikit.spec.reference import AnyReference
from ocikit.spec.titles import Links
from ocikit.waits import UNLIMITED

log = logging.getLogger("ocikit")

_LOOK = 1.0  # seconds between looks whether the main thread has ended
_ROUNDS = 3  # of the last push, for files that change while they are read


@frozen(kw_only=True)
class Options:
    """Which files are pushed, as in `push`."""

    include: tuple[str, ...] = field(default=(), converter=to_patterns)
    exclude: tuple[str, ...] = field(default=(), converter=to_patterns)
    links: Links = "inside"
    hidden: bool = False
    secrets: bool = False


class _NothingToPush(Exception):
    """All changed files were left for the next round."""


class Watch(display.Displayable):
    """A folder that is pushed again and again, until `stop()` or the end of a `with` block.

    A round pushes the files that have changed since the round before, in one new version. A file that was changed a moment
    ago may be incomplete: it is left for the next round, but only once. A file that was deleted is removed. Files that
    others have added to the artifact stay.

    A failed round is repeated by the next one. The last push is at `stop()`, or when the interpreter exits; its error is
    raised by `stop()`.

    Args:
        folder: The folder, or a file.
        reference: The tag to push to.
        use: Opens the session for one round.
        every: Seconds between rounds.
        options: Which files are pushed.

    >>> from pathlib import Path
    >>> Path("run").mkdir()
    >>> with ocikit.watch("run/.", "oci:run:latest", every=60) as watch:
    ...     size = Path("run/log.txt").write_text("loss 0.5")
    >>> watch.artifact["log.txt"].read_text()
    'loss 0.5'
    """

    def __init__(
        self,
        folder: StrPath,
        reference: AnyReference,
        *,
        use: Callable[[], AbstractContextManager[Session]],
        every: float,
        options: Options,
    ) -> None:
        if not isinstance(every, int | float) or not 0 < every < UNLIMITED:
            raise InvalidArgument(f"every={every!r} is invalid", hint="pass the number of seconds between pushes")
        self.folder = Path(os.path.expanduser(folder))
        self.reference = reference
        self.every = every
        self.artifact: Artifact | None = None
        """The last version that was pushed, or None."""
        self.pushes = 0
        """The number of versions that were pushed."""
        self.error: OcikitError | OSError | None = None
        """What failed in the last round, or None."""
        self._title = title_of(folder)
        self._use = use
        self._options = options
        self._pushed: dict[str, Stamp] = {}
        self._left: set[str] = set()
        self._process = os.getpid()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ocikit-watch")

    def start(self) -> Self:
        """Push once, so that wrong arguments and credentials are errors at once, and start the thread.

        Returns:
            This watch.

        >>> from pathlib import Path
        >>> from ocikit.client.shared import shared_session
        >>> from ocikit.data.watch import Options
        >>> size = Path("log.txt").write_text("loss 0.5")
        >>> reference = ocikit.LayoutReference.parse("oci:run:latest")
        >>> watch = ocikit.Watch("log.txt", reference, use=shared_session.use, every=60, options=Options())
        >>> watch.start().stop().digest == ocikit.inspect("oci:run:latest").digest
        True
        """
        self._push(is_last=False)
        if self.error is not None:
            raise self.error
        # Not a daemon: the interpreter waits for the last push
        self._thread.start()
        return self

    def stop(self) -> Artifact | None:
        """Push what has changed since the last round, and end.

        Returns:
            The last version that was pushed, or None if there were no files.

        Raises:
            OcikitError: The last push failed.

        >>> from pathlib import Path
        >>> size = Path("log.txt").write_text("loss 0.5")
        >>> watch = ocikit.watch("log.txt", "oci:run:latest")
        >>> artifact = watch.stop()
        >>> watch.pushes
        1
        """
        if self._process == os.getpid():  # the thread does not exist in a forked child
            self._stop.set()
            self._thread.join(UNLIMITED)
            error, self.error = self.error, None
            if error is not None:
                raise error
        return self.artifact

    def block(self) -> None:
        """Block until Ctrl-C, or until another thread calls `stop()`.

        >>> import threading
        >>> from pathlib import Path
        >>> size = Path("log.txt").write_text("loss 0.5")
        >>> with ocikit.watch("log.txt", "oci:run:latest") as watch:
        ...     threading.Timer(0.05, watch.stop).start()
        ...     watch.block()
        """
        self._stop.wait(UNLIMITED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except (OcikitError, OSError) as failure:
            if error is None:
                raise
            error.add_note(f"the last push of {display.display_path(self.folder)} failed: {failure}")

    def _run(self) -> None:
        main, due = threading.main_thread(), time.monotonic() + self.every
        while main.is_alive() and not self._stop.wait(min(_LOOK, max(due - time.monotonic(), 0))):
            if time.monotonic() >= due:
                self._push(is_last=False)
                due = time.monotonic() + self.every
        for _ in range(_ROUNDS):
            self._push(is_last=True)
            if not self._left and not isinstance(self.error, ContentError):
                break
        if self.error is not None and not self._stop.is_set():
            log.warning("the last push of %s to %s failed: %s", self.folder, self.reference, self.error)

    def _push(self, *, is_last: bool) -> None:
        """Push what has changed, and keep the error."""
        try:
            self.error = None
            self._push_changes(is_last=is_last)
        except (OcikitError, OSError) as error:
            self.error = error
            log.info("a push of %s to %s failed: %s", self.folder, self.reference, error)

    def _push_changes(self, *, is_last: bool) -> None:
        options, now = self._options, time.time_ns()
        walker = FileWalker(options.include, options.exclude, options.links, options.hidden)
        found = {file.title: file for file in walker.walk(self.folder, self._title) if not file.is_folder}
        changed = [file for file in found.values() if self._pushed.get(file.title) != stamp_of(file.info)]
        left = set() if is_last else {f.title for f in changed if not is_settled(f.info, now)} - self._left
        removed = self._pushed.keys() - found.keys()
        self._left = left
        pushing = [file for file in changed if file.title not in left]
        if not pushing and not removed:
            return
        done: dict[str, Stamp] = {}
        # Python 3.12.0 and 3.12.1 start no thread when the main thread has ended (cpython#113964)
        many = threading.main_thread().is_alive()
        with (
            suppress(_NothingToPush),
            self._use() as session,
            # Without progress, which would be within the output of the training run
            Edit(session.reader, self.reference, workers=session.workers if many else 1, progress=False) as edit,
        ):
            try:
                self._add(edit, done, *pushing)  # in parallel, and in the order of their titles
            except (ContentError, NotFound):
                for file in pushing:
                    self._try_to_add(edit, done, file)
            for title in removed:
                if title in edit:
                    del edit[title]
            if not edit.count:
                raise _NothingToPush  # ends the edit without a version
        if edit.artifact is None:
            return
        self.artifact = edit.artifact
        self.pushes += 1
        self._pushed = {title: stamp for title, stamp in self._pushed.items() if title in found} | done

    def _add(self, edit: Edit, done: dict[str, Stamp], *files: FoundFile) -> None:
        options = self._options
        contents: dict[str, StrPath] = {file.title: file.path for file in files}
        edit.add(contents, hidden=options.hidden, secrets=options.secrets)
        done |= {file.title: stamp_of(file.info) for file in files}

    def _try_to_add(self, edit: Edit, done: dict[str, Stamp], file: FoundFile) -> None:
        """Add a file to a version; keep the error of one that cannot be pushed."""
        try:
            self._add(edit, done, file)
        except (ContentError, NotFound) as error:
            if _changed_since(file):
                self._left.add(file.title)
            else:
                self.error = error

    def __rich_repr__(self) -> display.Description:
        yield "folder", display.display_path(self.folder)
        yield "reference", str(self.reference)
        yield "every", self.every
        yield "pushes", self.pushes
        yield "error", self.error, None

    def _facts(self) -> Sequence[tuple[str, object]]:
        return (
            ("folder", display.display_path(self.folder)),
            ("reference", display.Code(self.reference)),
            ("every", display.duration(self.every)),
            ("pushes", self.pushes),
            *((("error", str(self.error)),) if self.error is not None else ()),
        )


def _changed_since(file: FoundFile) -> bool:
    try:
        return stamp_of(os.stat(file.path)) != stamp_of(file.info)
    except OSError:
        return True
