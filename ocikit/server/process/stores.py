"""The stores and the users of a server process: opened, and checked before the workers start."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ocikit.errors import ContentError, InvalidArgument, NotFound, ServerFailed
from ocikit.server.auth.access import Access
from ocikit.server.auth.factory import access_from
from ocikit.server.auth.jwt import load_key
from ocikit.server.auth.throttle import FailureLog
from ocikit.server.process.options import (
    IN_DATABASE,
    INSTALL_CLUSTER_COMMAND,
    ServerConfig,
    masked_url,
)
from ocikit.server.storage.base import DISK_FULL, Unavailable
from ocikit.server.storage.combined import Storage
from ocikit.server.storage.files import file_storage
from ocikit.waits import UNLIMITED

if TYPE_CHECKING:
    from ocikit.server.storage.cluster.storage import ClusterStorage

#: The name of the key that signs tokens, and its bytes.
_TOKEN_KEY, _KEY_SIZE = "token key", 32

#: Seconds between the clocks of this machine and of the database that are worth a warning.
CLOCK_SKEW = 5.0


#: The next step while a store cannot be reached.
_AWAY = "check that the database and the object store run, and their host, port, user and password"


@frozen
class Inspection:
    """What was found in the stores of a server before it starts."""

    facts: tuple[str, ...]
    """Lines for people, without secrets."""
    warnings: tuple[str, ...] = ()
    """Problems that do not prevent the start."""
    token_secret: bytes | None = field(default=None, repr=False)
    """Key that signs tokens, from the database."""


def open_storage(config: ServerConfig) -> Storage:
    """Open the storage of a server.

    Args:
        config: Configuration of the server.

    Returns:
        The storage. That of a registry on several machines has not connected yet: a worker that is started again while the
        database is away answers 503 until it is back.

    Raises:
        ServerFailed: The folder cannot hold a registry.
        InvalidArgument: The URL of a store is invalid.
    """
    if config.clustered:
        return _open_cluster(config)
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - optional package

    folder = config.path or ""
    try:
        return file_storage(folder, grace=config.options.grace, durable=config.options.sync)
    except (OSError, SQLAlchemyError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "orig", None) or error
        full = isinstance(error, OSError) and error.errno in DISK_FULL
        raise ServerFailed(
            f"cannot open a registry in {folder}: {reason}",
            hint="free a megabyte on this disk" if full else "choose a folder on a local disk with write permission",
        ) from error


@contextlib.contextmanager
def opened(config: ServerConfig, operation: str) -> Iterator[Storage]:
    """Open the storage of a registry for an operation of a command, and close it at the end.

    Args:
        config: The stores, with the options of the operation.
        operation: What is done, for errors.

    Yields:
        The storage.

    Raises:
        NotFound: The folder holds no registry.
        ServerFailed: A store cannot be reached, or a package is missing.
        ContentError: The disk is full.
    """
    if not config.clustered:
        with _opened_folder(config, operation) as storage:
            yield storage
        return
    with (
        reachable(config, operation),
        tempfile.TemporaryDirectory(prefix="ocikit-state-") as scratch,
        contextlib.closing(_open_cluster(evolve(config, scratch=scratch), check=True)) as cluster,
    ):
        yield cluster


@contextlib.contextmanager
def reachable(config: ServerConfig, operation: str) -> Iterator[None]:
    """Convert the error of a store that does not answer, for an operation of a command.

    Args:
        config: The stores.
        operation: What is done, for errors.

    Raises:
        ServerFailed: A store cannot be reached, or a package is missing.
    """
    _load_packages(config)
    try:
        yield
    except Unavailable as error:
        raise ServerFailed(f"{operation} in {config.store} failed: {error}", hint=_AWAY) from error


@contextlib.contextmanager
def _opened_folder(config: ServerConfig, operation: str) -> Iterator[Storage]:
    folder = config.path or ""
    if not os.path.exists(os.path.join(folder, "registry.db")):
        raise NotFound(f"{folder} is not the folder of a registry", hint="give the folder that is served")
    try:
        with contextlib.closing(file_storage(folder, grace=config.options.grace)) as storage:
            yield storage
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise ContentError(
            f"{operation} of {folder} failed: the disk is full",
            hint="free a megabyte on this disk, then run the command again",
        ) from error


def as_cluster(storage: Storage) -> ClusterStorage:
    """Return the storage of a registry on several machines by its own type."""
    from ocikit.server.storage.cluster.storage import ClusterStorage  # noqa: PLC0415 - needs optional packages

    assert isinstance(storage, ClusterStorage)  # noqa: S101 - what open_storage has returned for such a registry
    return storage


def open_access(config: ServerConfig, storage: Storage) -> Access:
    """Open the users and rules of a server.

    Raises:
        InvalidArgument: The access options or a file that they name are invalid.
    """
    options = config.options
    try:
        return access_from(
            htpasswd=config.htpasswd,
            token=options.token,
            folder=config.path,
            key=_token_key(config),
            failure_log=_failure_log(storage) if config.clustered else None,
            rules=config.rules,
            allow_anonymous_pull=options.allow_anonymous_pull,
            allow_plain_http=options.allow_plain_http,
            failures=options.limits.failures,
        )
    except OSError as error:
        raise InvalidArgument(f"{error.filename}: {error.strerror}") from error


def _token_key(config: ServerConfig) -> bytes | None:
    """Return the key that signs tokens; None for the one in the registry's folder.

    Raises:
        InvalidArgument: The file cannot be read, or other users can read it.
    """
    name = config.options.token_key
    return config.token_secret if name in {None, IN_DATABASE} else load_key(name or "")


def _failure_log(storage: Storage) -> FailureLog:
    from ocikit.server.storage.cluster.shared import DatabaseFailures  # noqa: PLC0415 - needs optional packages

    return DatabaseFailures(as_cluster(storage).database)


def check(config: ServerConfig) -> Inspection:
    """Check the stores, users and rules before the workers start.

    This also creates missing files, once for all workers.

    Args:
        config: Configuration of the server.

    Returns:
        What was found.

    Raises:
        ServerFailed: A store cannot be used, or a package is missing.
        InvalidArgument: The access options or a file that they name are invalid.
    """
    if not config.clustered:
        return _check_folder(config)
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415 - for a registry on several machines only

    _load_packages(config)
    # In a process of its own: the threads of an object store's client do not survive the fork of the workers
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(_check_cluster, config).result(timeout=UNLIMITED)


def _check_folder(config: ServerConfig) -> Inspection:
    with contextlib.closing(open_storage(config)) as storage:
        open_access(config, storage)
    folder = Path(config.path or "")
    if not os.access(folder / "uploads", os.W_OK):
        raise ServerFailed(f"cannot write to {folder}", hint="choose a folder with write permission")
    return Inspection((f"a registry in {folder}",))


class _Warnings(logging.Handler):
    """The warnings of a process that has no log of its own."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _check_cluster(config: ServerConfig) -> Inspection:
    """Open the stores in a process of its own."""
    from ocikit.server.storage.cluster.shared import shared_secret  # noqa: PLC0415 - needs optional packages

    warnings = _Warnings()
    logger = logging.getLogger("ocikit.server")
    logger.addHandler(warnings)
    logger.propagate = False
    try:
        with contextlib.closing(_open_cluster(config, check=True)) as storage:
            storage.database.log_connections(config.options.workers)
            in_database = config.options.token and config.options.token_key in {None, IN_DATABASE}
            secret = shared_secret(storage.database, _TOKEN_KEY, _KEY_SIZE) if in_database else None
            open_access(evolve(config, token_secret=secret), storage)
            skew = storage.database.now() - time.time()
    except Unavailable as error:
        raise ServerFailed(
            f"cannot open the registry in {config.store}: {error}",
            hint=_AWAY,
        ) from error
    facts = (
        f"rows in {masked_url(config.metadata or '')}, {config.pool} connections for each of {config.options.workers} workers",
        f"content in {masked_url(config.blobs or '')}",
        f"the clock of the database is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}",
    )
    if abs(skew) > CLOCK_SKEW:
        warnings.messages.append("the clock of this machine differs from that of the database; check its time service")
    return Inspection(facts, tuple(warnings.messages), secret)


def _load_packages(config: ServerConfig) -> None:
    """Import the packages of a registry on several machines, once for all workers.

    Raises:
        ServerFailed: One is not installed.
    """
    objects = ("obstore", "boto3") if (config.blobs or "").startswith("s3:") else ()
    for name in ("psycopg", "alembic", *objects):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ServerFailed(f"the package {name} is not installed", hint=INSTALL_CLUSTER_COMMAND) from error


def _open_cluster(config: ServerConfig, *, check: bool = False) -> ClusterStorage:
    from ocikit.server.storage.cluster.storage import cluster_storage  # noqa: PLC0415 - needs optional packages

    state = Path(config.options.state or Path(config.scratch) / "state")
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ServerFailed(
            f"cannot use the state folder {state}: {error.strerror}", hint="choose a folder with write permission"
        ) from error
    return cluster_storage(
        config.metadata or "",
        config.blobs or "",
        grace=config.options.grace,
        keep_deleted=config.options.keep_deleted,
        state=state,
        pool=config.pool,
        check=check,
    )
