"""Functions that call the verb of the same name with the session that they share."""

from __future__ import annotations

import functools
import inspect as introspection
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from ocikit.client.arguments import ProgressLike, StrPath
from ocikit.client.artifact import Artifact, File
from ocikit.client.session import Session
from ocikit.client.shared import shared_session
from ocikit.display.signatures import set_signature
from ocikit.display.tracebacks import hide_internal_frames
from ocikit.errors import OcikitError
from ocikit.spec.calls import describe_mistake, explain_call, wrong_call
from ocikit.spec.manifest import PlatformLike
from ocikit.spec.reference import AnyReference, ReferenceLike, parse_reference
from ocikit.spec.titles import Links
from ocikit.store.cache.cache import Cache

if TYPE_CHECKING:
    import duckdb
    import polars as pl

    from ocikit.data.diff import Diff
    from ocikit.data.downloads import Downloader
    from ocikit.data.history import History
    from ocikit.data.lineage import Lineage
    from ocikit.data.queries import TableLike
    from ocikit.data.watch import Watch
    from ocikit.filesystem.filesystem import OcikitFileSystem
    from ocikit.notebook.explorer import Explorer

P = ParamSpec("P")
R = TypeVar("R")

#: The cache of the functions in this module: `OCIKIT_CACHE`, or the platform's cache folder, read on each use.
cache = Cache()


class HasHost(Protocol):
    """A registry: a `Registry` or a running `Server`."""

    @property
    def host(self) -> str:
        """Host of the registry, with its port."""


@explain_call
def explore(start: str | AnyReference | Artifact | HasHost = "", session: Session | None = None) -> Explorer:
    """Return a browser of repositories, tags and files for a notebook.

    Without `start` it offers what this computer knows: registries that this process serves, registries with a login, and
    repositories in the cache. Nothing is requested before one of them is chosen.

    Args:
        start: A reference, a registry host, a layout such as "oci:folder", an artifact, or a running registry.
        session: Session that reads; None uses a new one.

    Returns:
        The explorer, which a notebook shows.

    Raises:
        InvalidReference: `start` is none of these.
        OcikitError: ipywidgets is not installed.

    >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
    >>> ocikit.explore("oci:waves:v1")
    <ocikit explorer at oci:waves:v1>
    """
    try:
        from ocikit.client.places import known_places  # noqa: PLC0415 - as above
        from ocikit.notebook.explorer import Explorer  # noqa: PLC0415 - needs ipywidgets
    except ImportError as error:
        raise OcikitError("explore needs ipywidgets", hint="pip install 'ocikit[notebook]'") from error
    where = getattr(start, "reference", None) or getattr(start, "host", None) or start
    client = session or Session()
    if where:
        return Explorer(client, str(where))
    # Only a process that has loaded the server runs one
    running: list[str] = getattr(sys.modules.get("ocikit.server.process.serve"), "running_hosts", list)()
    return Explorer(client, places=known_places(client.cache, client.reader.backends.keychain, running))


@explain_call
def fs(session: Session | None = None) -> OcikitFileSystem:
    """Return the file system of `ocikit://HOST/REPOSITORY:TAG/PATH` for data libraries.

    Libraries that use fsspec open such URLs without it.

    Args:
        session: Session that reads; None uses one that file systems share.

    Raises:
        OcikitError: fsspec is not installed.

    >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"sine.csv": b"x,y"})
    >>> ocikit.fs().ls("ocikit://localhost:5000/ada/waves:v1", detail=False)
    ['localhost:5000/ada/waves:v1/sine.csv']
    """
    try:
        from ocikit.filesystem.filesystem import OcikitFileSystem  # noqa: PLC0415 - needs fsspec
    except ImportError as error:
        raise OcikitError("fs needs fsspec", hint="pip install 'ocikit[data]'") from error
    if session is None:
        return OcikitFileSystem()
    return OcikitFileSystem(reader=session.reader, skip_instance_cache=True)


@explain_call
def scan(ref: str | AnyReference | Artifact, name: str) -> pl.LazyFrame:
    """Return tables as one lazy frame of polars, which reads the columns and row groups that a query needs.

    Formats are Parquet, Arrow, CSV and JSON lines. Folders named like `year=2024` become columns if `name` is not a file.

    Args:
        ref: A reference, or an artifact, such as one that another session has opened.
        name: A file, a folder, or a pattern such as "2024/*.parquet".

    Returns:
        The lazy frame. Nothing but schemas is read before `.collect()`.

    Raises:
        FileNotInArtifact: There is no such file.
        InvalidArgument: The files have different or unknown formats.
        OcikitError: polars or pyarrow is not installed.

    >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"waves.jsonl": b'{"x": 0, "y": 1.5}'})
    >>> ocikit.scan("localhost:5000/ada/waves:v1", "waves.jsonl").collect().to_dicts()
    [{'x': 0, 'y': 1.5}]
    """
    from ocikit.data import queries  # noqa: PLC0415 - only queries need it

    return queries.scan(ref if isinstance(ref, Artifact) else inspect(ref), name)


@explain_call
def sql(query: str, /, **tables: TableLike) -> duckdb.DuckDBPyRelation:
    """Return the result of a query over files as a lazy relation of duckdb: `.df()`, `.pl()`, `.fetchall()`.

    Columns and row groups are read as the query needs them. Formats are those of `scan`.

    Args:
        query: SQL, with the names of the tables.
        tables: Files by the name of their table: "reference::pattern", a pair of a reference or an artifact and a
            pattern, or a file of an artifact.

    Returns:
        The relation. Rows are read when it is used.

    Raises:
        FileNotInArtifact: There is no such file.
        InvalidArgument: A table is none of these, or its files have different or unknown formats.
        OcikitError: duckdb or fsspec is not installed.

    >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"waves.jsonl": b'{"x": 0, "y": 1.5}'})
    >>> ocikit.sql("select max(y) from waves", waves="localhost:5000/ada/waves:v1::waves.jsonl").fetchall()
    [(1.5,)]
    """
    from ocikit.data import queries  # noqa: PLC0415 - only queries need it

    return queries.sql(inspect, query, tables)


@explain_call
def diff(
    a: ReferenceLike | Artifact,
    b: ReferenceLike | Artifact | StrPath,
    *,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    tables: bool = False,
    platform: PlatformLike | None = None,
    session: Session | None = None,
) -> Diff:
    """Return what differs between two versions of an artifact, or between an artifact and a folder.

    Only manifests are requested, no content. Files of a folder are hashed, except those that a pull wrote and that are
    unedited. Their titles are those that a push would give them: "waves/" gives `waves/sine.csv`, "waves/." gives `sine.csv`.
    A folder that was pulled to is compared with the titles that the pull wrote.

    Args:
        a: Reference of the first version, or an artifact.
        b: Reference of the second version, an artifact, or a folder or file on disk. A `Path` is always on disk. Text is,
            if it begins with ".", "/" or "~", ends with "/", or exists as a path.
        include: Glob patterns of file names; none selects all.
        exclude: Glob patterns of file names to skip.
        tables: Compare columns and row counts of changed Parquet and Arrow files by their footers, and what writers of Parquet
            state about columns: missing values, least and greatest value. It needs pyarrow.
        platform: Platform to select from an index, such as "linux/arm64"; None selects this machine's.
        session: Session that reads; None uses the one that functions share.

    Returns:
        The differences. It is False if there are none.

    Raises:
        NotFound: There is no such artifact or path.
        ContentError: A file of the folder cannot be read.
        OcikitError: pyarrow is not installed.

    >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
    >>> artifact = ocikit.push("oci:waves:v2", {"sine.csv": b"x,y,z", "note.txt": b""})
    >>> diff = ocikit.diff("oci:waves:v1", "oci:waves:v2")
    >>> list(diff.added), list(diff.changed), list(diff.removed)
    (['note.txt'], ['sine.csv'], [])
    """
    from ocikit.data.diff import diff as compare  # noqa: PLC0415 - import time that few calls need

    with _user(session)() as used:
        return compare(used.reader, a, b, include=include, exclude=exclude, tables=tables, platform=platform)


@explain_call
def history(
    ref: ReferenceLike,
    *,
    limit: int = 20,
    session: Session | None = None,
) -> History:
    """Return the versions of an artifact, the newest first, with their messages and what they change.

    The manifest of an edit and of a numbered version names the version before. Where that chain ends, tags that look like
    versions follow in their order. Only manifests are requested: one for each version, and the list of tags.

    Args:
        ref: Reference of the version to begin with.
        limit: Number of versions.
        session: Session that reads; None uses the one that functions share.

    Returns:
        The versions. `.end` is where the chain ends, and why.

    Raises:
        NotFound: There is no such artifact.

    >>> with ocikit.edit("oci:waves:v1", message="first waves") as edit:
    ...     edit["sine.csv"] = b"x,y"
    >>> [version.message for version in ocikit.history("oci:waves:v1")]
    ['first waves']
    """
    from ocikit.data.history import history as collect  # noqa: PLC0415 - import time that few calls need

    with _user(session)() as used:
        return collect(used.reader, ref, limit=limit)


@explain_call
def save(
    ref: ReferenceLike,
    obj: Any,
    name: str | None = None,
    *,
    format: str | None = None,  # noqa: A002 - as it reads in a call
    tags: Iterable[str] = (),
    annotations: Mapping[str, str] | None = None,
    artifact_type: str | None = None,
    message: str | None = None,
    inputs: ReferenceLike | Iterable[ReferenceLike] = (),
    version: Literal["next"] | None = None,
    replace: bool | Literal["all"] = True,
    dry_run: bool = False,
    progress: ProgressLike = None,
    session: Session | None = None,
) -> Artifact:
    """Save an object as a file of an artifact, in a format that other programs read; `load` returns it.

    Tables become Parquet, arrays npy, mappings of arrays safetensors, models of scikit-learn skops, plain values JSON.
    A mapping of names to other objects becomes several files. The same object gives the same digest, except for skops.
    No format is a pickle. An object that would not come back as it is is refused before anything is sent. The files
    that an existing tag names stay, as in `edit`.

    Args:
        ref: Reference to save to, with a tag.
        obj: The object, or a mapping of names to objects. A `Path` is a file or folder as it is.
        name: Name of the file; its ending may be left out. None is the name that the kind of object has.
        format: Name of another format, such as "arrow" for a table; None is the usual one.
        tags: More tags.
        annotations: Annotations of the manifest.
        artifact_type: Type of the artifact, as a media type; None keeps the present one, or is the type of files.
        message: What this version changes, for the history.
        inputs: References of artifacts that the object was made from. They are added to those of the version before, and
            with `replace="all"` take their place.
        version: "next" gives the result the next free tag of v1, v2, …, too.
        replace: False raises an error if there is a file of that name, "all" removes all other files.
        dry_run: Send nothing; the artifact's `.plan` shows what would change.
        progress: True, False or a `Progress`; None uses the session's setting.
        session: Session that writes; None uses the one that functions share.

    Returns:
        The artifact with the file.

    Raises:
        InvalidArgument: There is no format that keeps the object; the message names what would be lost.
        Conflict: There is such a file and `replace` is False, or another writer has changed it meanwhile.
        InvalidDocument: The tag names an image or an index.
        OcikitError: A package that the format needs is not installed; the hint has the command.
        Unauthorized: The registry requires other credentials.

    >>> artifact = ocikit.save("oci:results:v1", {"accuracy": 0.9}, "scores")
    >>> list(artifact.files)
    ['scores.json']
    >>> ocikit.load("oci:results:v1", "scores")
    {'accuracy': 0.9}
    """
    from ocikit.data.save import save as write  # noqa: PLC0415 - import time that few calls need

    with _user(session)() as used:
        return write(
            used.reader,
            ref,
            obj,
            name,
            format=format,
            tags=tags,
            annotations=annotations,
            artifact_type=artifact_type,
            message=message,
            inputs=inputs,
            version=version,
            replace=replace,
            dry_run=dry_run,
            progress=progress,
        )


@explain_call
def load(
    ref: ReferenceLike | Artifact | File,
    name: str | None = None,
    *,
    columns: Iterable[str] | None = None,
    filters: Any = None,
    rows: int | None = None,
    as_: type | str | None = None,
    trusted: Sequence[str] = (),
    progress: ProgressLike = None,
    session: Session | None = None,
) -> Any:
    """Return the object of a file: what `save` has saved, or what the ending of the file's name stands for.

    The file is fetched and verified before a library parses it. With `columns`, `filters` or `rows` only these parts are
    requested, which cannot be verified. Nothing is imported or run because of a name in the artifact, and pickles are
    not opened.

    Args:
        ref: Reference of the artifact, an artifact, or a file of one.
        name: Name of the file; its ending may be left out. None is the only file, or all of several as a mapping.
        columns: Names of columns of a table, or of arrays in a file of several.
        filters: Conditions for rows of a table, as pyarrow takes them: `[("k", "<", 10)]`.
        rows: Number of rows from the start.
        as_: What to return instead of what was saved: "pandas", "polars", "arrow", "numpy", "torch", "bytes", "text",
            "path", or a class such as a dataclass.
        trusted: Names of types that a skops file may create; the error for other types lists them.
        progress: True, False or a `Progress`; None uses the session's setting.
        session: Session that reads; None uses the one that functions share.

    Returns:
        The object, or a mapping of names to objects, each loaded when it is used.

    Raises:
        FileNotInArtifact: There is no such file; the hint has the nearest names.
        UnsafeFormat: Opening the file would run code, or create types that are not trusted.
        InvalidDocument: The content is not of the format that the name has.
        InvalidArgument: There is no format for the file, or it has no such part.
        OcikitError: A package that the format needs is not installed; the hint has the command.

    >>> artifact = ocikit.save("oci:results:v1", [1, 2, 3], "counts")
    >>> ocikit.load("oci:results:v1")
    [1, 2, 3]
    """
    from ocikit.data.load import load as read  # noqa: PLC0415 - import time that few calls need

    with _user(session)() as used:
        return read(
            used.reader,
            ref,
            name,
            columns=columns,
            filters=filters,
            rows=rows,
            as_=as_,
            trusted=trusted,
            progress=progress,
        )


@explain_call
def watch(
    folder: StrPath,
    ref: ReferenceLike,
    *,
    every: float = 300,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    links: Links = "inside",
    hidden: bool = False,
    secrets: bool = False,
    session: Session | None = None,
) -> Watch:
    """Push a folder again and again while another program writes to it, such as a training run.

    It is pushed once before the function returns, then on a thread. Each round pushes the files that have changed. A file
    that was changed a moment ago is left for the next round. The last push is at `stop()`, at the end of a `with` block, or
    when the interpreter exits.

    Args:
        folder: Folder to push; titles are those of `push`: "run/" gives `run/log.txt`, "run/." gives `log.txt`.
        ref: Reference to push to, with a tag. Files that are there stay.
        every: Seconds between rounds.
        include: Glob patterns of file names; none selects all.
        exclude: Glob patterns of file names to skip.
        links: How to handle symlinks, as in `push`.
        hidden: Push all files, as in `push`.
        secrets: Push files that look like secrets, as in `push`.
        session: Session that writes; None uses the one that functions share.

    Returns:
        The watch, which is a context manager. Its `.stop()` pushes the last changes.

    Raises:
        NotFound: There is no such folder.
        InvalidArgument: `every` is not a number of seconds.
        Unauthorized: The registry requires other credentials.

    >>> from pathlib import Path
    >>> Path("run").mkdir()
    >>> with ocikit.watch("run/.", "oci:run:latest", every=60):
    ...     size = Path("run/log.txt").write_text("loss 0.5")
    >>> list(ocikit.inspect("oci:run:latest").files)
    ['log.txt']
    """
    from ocikit.data.watch import Options, Watch  # noqa: PLC0415 - import time that few calls need

    options = Options(include=include, exclude=exclude, links=links, hidden=hidden, secrets=secrets)
    return Watch(folder, parse_reference(ref), use=_user(session), every=every, options=options).start()


@explain_call
def pooch(*, progress: ProgressLike = None, session: Session | None = None) -> Downloader:
    """Return a downloader for pooch: `pooch.retrieve("ocikit://…", known_hash=…, downloader=ocikit.pooch())`.

    URLs are `ocikit://HOST/REPOSITORY:TAG/PATH`. Files are verified against their digest; pooch compares the hash, too.

    Args:
        progress: True, False or a `Progress`; None uses the session's setting.
        session: Session that reads; None uses the one that functions share.

    Returns:
        The downloader, which pooch calls with a URL and a path.

    >>> from pathlib import Path
    >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"sine.csv": b"x,y"})
    >>> download = ocikit.pooch()
    >>> download("ocikit://localhost:5000/ada/waves:v1/sine.csv", "sine.csv", None)
    >>> Path("sine.csv").read_text()
    'x,y'
    """
    from ocikit.data.downloads import Downloader  # noqa: PLC0415 - import time that few calls need

    return Downloader(_user(session), progress)


@explain_call
def lineage(
    ref: ReferenceLike,
    *,
    depth: int = 10,
    claims: bool = True,
    session: Session | None = None,
) -> Lineage:
    """Return what an artifact was made from: the `inputs` of pushes and edits, their inputs, and so on.

    Only manifests are requested, one for each artifact that is not cached, on all registries that they name. An input that was
    deleted, or that these credentials may not read, is listed with the reason. A notebook draws the graph.

    Args:
        ref: Reference of the artifact.
        depth: Number of steps; inputs further away are named, but not read.
        claims: Also read which base models and data sets the README, a GGUF file and the config of the artifact state.
        session: Session that reads; None uses the one that functions share.

    Returns:
        The artifact with its inputs, and what was not read.

    Raises:
        NotFound: There is no such artifact.

    >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"sine.csv": b"x,y"})
    >>> artifact = ocikit.push("localhost:5000/ada/mean:v1", {"mean.txt": b"0"}, inputs="localhost:5000/ada/waves:v1")
    >>> [origin.name for origin in ocikit.lineage("localhost:5000/ada/mean:v1")]
    ['localhost:5000/ada/mean:v1', 'localhost:5000/ada/waves:v1']
    """
    from ocikit.data.lineage import lineage as collect  # noqa: PLC0415 - import time that few calls need

    with _user(session)() as used:
        return collect(used.reader, ref, depth=depth, claims=claims)


def _user(session: Session | None) -> Callable[[], AbstractContextManager[Session]]:
    """Return a function that opens a session for one call: the given one, or the one that functions share."""
    return shared_session.use if session is None else lambda: nullcontext(session)


def _function(verb: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
    """Return a function with the signature and docstring of a verb."""

    @functools.wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with shared_session.use() as session:
            try:
                return plain(session, *args, **kwargs)
            except KeyboardInterrupt as interrupt:
                hide_internal_frames(interrupt)
                raise
            except TypeError as error:
                if (
                    text := describe_mistake(error, plain, f"ocikit.{verb.__name__}", args, kwargs, bound=True)
                ) is None:
                    raise
                raise wrong_call(text) from None

    plain: Callable[Concatenate[Session, P], R] = introspection.unwrap(verb)  # its own errors name the method
    set_signature(call, verb, skip=1)
    call.__qualname__ = verb.__name__
    call.__module__ = "ocikit"
    return call


attach = _function(Session.attach)
catalog = _function(Session.catalog)
copy = _function(Session.copy)
delete = _function(Session.delete)
describe = _function(Session.describe)
download = _function(Session.download)
edit = _function(Session.edit)
exists = _function(Session.exists)
inspect = _function(Session.inspect)
open = _function(Session.open)  # noqa: A001 - ocikit.open reads as it does
pin = _function(Session.pin)
ping = _function(Session.ping)
pull = _function(Session.pull)
push = _function(Session.push)
referrers = _function(Session.referrers)
tag = _function(Session.tag)
tags = _function(Session.tags)
validate = _function(Session.validate)
