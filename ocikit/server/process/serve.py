"""A registry next to the program that uses it: `ocikit.serve` starts a child process and stops it.

The server has its own process, so that it shares no threads and no memory with the program. It ends with the program, even
if the program is killed: it watches a pipe that the system closes then.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from attrs import evolve

from ocikit import display
from ocikit.errors import ServerFailed
from ocikit.forks import finalize
from ocikit.server.auth.htpasswd import format_htpasswd
from ocikit.server.process.child import Child, running_children
from ocikit.server.process.options import INSTALL_COMMAND, ServerConfig, ServerOptions
from ocikit.spec.calls import explain_call
from ocikit.store.files import write_atomically

_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def running_hosts() -> list[str]:
    """Return the hosts of the registries that this process runs."""
    return sorted(server.host for server in _servers if server.running)


class Server(display.Displayable):
    """A registry in a child process.

    It ends when it is stopped or garbage collected, and with this process.

    Attributes:
        host: Host and port for references, such as "127.0.0.1:41234".
        url: Base URL, such as "http://127.0.0.1:41234".
        path: Folder of the registry; None for one in a database and an object store.

    >>> with ocikit.serve("registry") as server:
    ...     artifact = ocikit.push(f"{server.host}/ada/waves:v1", {"sine.csv": b"x,y"})
    ...     list(ocikit.catalog(server.host))
    ['ada/waves']
    """

    def __init__(
        self, child: Child, *, host: str, url: str, path: Path | None, store: str = "", read_only: bool = False
    ) -> None:
        self.host = host
        self.url = url
        self.path = path
        self._store = store
        self._verb = "pull" if read_only else "push"
        self._child = child
        self._finalize = finalize(self, child.stop)
        _servers.add(self)

    @property
    def running(self) -> bool:
        """True while the server runs."""
        return self._child.running

    @property
    def log(self) -> str:
        """The end of the log: warnings and failures, and requests with `ServerOptions(log_format="text")`.

        It is "" once the server has been stopped.
        """
        return self._child.log_tail()

    def stop(self) -> None:
        """Stop the server within a second; further calls do nothing.

        A folder that was given remains, a temporary one is deleted. A forked copy of this process cannot stop the server.

        >>> server = ocikit.serve()
        >>> server.stop()
        >>> server.running
        False
        """
        self._finalize()

    def close(self) -> None:
        """Stop the server; the same as `stop`, for `contextlib.closing`.

        >>> from contextlib import closing
        >>> with closing(ocikit.serve()) as server:
        ...     server.running
        True
        """
        self.stop()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __rich_repr__(self) -> display.Description:
        yield "host", self.host
        if self.running:
            yield self._verb, display.code_call(f"ocikit.{self._verb}", f"{self.host}/name:v1", "folder/")
        else:
            yield "running", False
        yield from self._place()

    def _place(self) -> Iterator[tuple[str, object]]:
        """Yield the folder, or the stores without user names."""
        yield ("path", display.display_path(self.path)) if self.path else ("stores", self._store)

    def _card_title(self) -> object:
        return display.Name("", self.host)

    def _card_notes(self) -> Iterator[object]:
        yield "registry"
        yield "running" if self.running else "stopped"

    def _facts(self) -> Iterator[tuple[str, object]]:
        if self.running:
            yield self._verb, display.code_call(f"ocikit.{self._verb}", f"{self.host}/name:v1", "folder/")
            yield "repositories", display.code_call("ocikit.catalog", self.host)
            yield "stop", display.Code(".stop()")
            yield "url", display.Link(self.url)
        yield from self._place()


@explain_call
def serve(
    path: str | os.PathLike[str] | None = None,
    port: int = 0,
    *,
    metadata: str | None = None,
    blobs: str | None = None,
    htpasswd: str | os.PathLike[str] | Mapping[str, str] | None = None,
    rules: str | os.PathLike[str] | None = None,
    options: ServerOptions | None = None,
) -> Server:
    """Start a registry in a child process and wait until it responds.

    The server stops at `stop()`, at the end of a `with` block, when no variable refers to it, and with this process. An
    earlier server of this process on the same host and port stops first, so that a notebook cell can run again.

    Args:
        path: Folder of the registry, on a local disk; None uses a temporary folder, deleted when the server stops.
        port: Port to listen on; 0 selects a free port.
        metadata: PostgreSQL database of a registry that any number of machines serve, such as "postgresql://user@host/database".
            Its password is in `~/.pgpass`. Needs `blobs`, and no `path`.
        blobs: Object store of such a registry: "s3://bucket/prefix?endpoint_url=https://s3.lab", or "file:///folder". The
            credentials are in the environment or in `~/.aws`.
        htpasswd: File with users and bcrypt hashes from `htpasswd -B`, or a mapping of users to passwords; None disables
            authentication.
        rules: TOML file with access rules; None allows everything for users and nothing for others.
        options: Further options, such as `ServerOptions(workers=2, limits=Limits(blob=10_000_000_000))`.

    Returns:
        The running server.

    Raises:
        ServerFailed: The server did not start.
        InvalidArgument: An option is invalid, or the options contradict each other.

    >>> import ocikit
    >>> with ocikit.serve() as server:
    ...     list(ocikit.catalog(server.host))
    []
    """
    options = options or ServerOptions()
    config = ServerConfig(
        path=None if path is None else str(Path(path).expanduser().absolute()),
        metadata=metadata,
        blobs=blobs,
        port=port,
        htpasswd=None if htpasswd is None or isinstance(htpasswd, Mapping) else os.fspath(htpasswd),
        rules=None if rules is None else os.fspath(rules),
        # A temporary store does not outlive a power failure anyway
        options=evolve(options, sync=False) if path is None and metadata is None else options,
    )
    for package in ("granian", "sqlalchemy", "bcrypt"):
        if find_spec(package) is None:
            raise ServerFailed(f"the package {package} is not installed", hint=INSTALL_COMMAND)
    users = format_htpasswd(htpasswd) if isinstance(htpasswd, Mapping) else None
    for other in [child for child in running_children() if port and child.address == (options.host, port)]:
        other.stop()
    scratch = Path(tempfile.mkdtemp(prefix="ocikit-serve-"))
    if users is not None:
        config = evolve(config, htpasswd=str(scratch / "users"))
        write_atomically(scratch / "users", users.encode(), mode=0o600, sync=False)
    folder = None if config.clustered else config.path or str(scratch / "store")
    config = evolve(config, attached=str(scratch), path=folder)
    child = Child.start(config, scratch)
    try:
        address = child.wait_until_ready()
    except BaseException:
        child.stop()
        raise
    return Server(
        child,
        host=address["name"],
        url=address["url"],
        path=None if config.path is None else Path(config.path),
        store=config.store,
        read_only=options.read_only,
    )
