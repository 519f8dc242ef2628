"""How to serve: what the command line says, and what workers are given."""

from __future__ import annotations

from attrs import field, frozen

from ocikit.server.settings import Settings

__all__ = ["EXTRA", "Options", "bracketed"]

#: How to get what a server is made of.
EXTRA = "pip install 'ocikit[server]'"


@frozen(kw_only=True)
class Options:
    """Everything about a server that isn't about its registry; survives a pickle, as workers may get it so."""

    path: str
    """The folder of the store."""
    host: str = "127.0.0.1"
    port: int = 5000
    """0 for one that is free."""
    htpasswd: str | None = None
    token: bool = False
    rules: str | None = None
    anonymous_pull: bool = False
    allow_plain_http: bool = False
    """These five: see `access_from`."""
    tls_cert: str | None = None
    tls_key: str | None = None
    """PEM files."""
    workers: int = 1
    """Processes that answer."""
    settings: Settings = field(factory=Settings)
    log_format: str = "text"
    """One of `log.FORMATS`."""
    collect_every: float = 3600.0
    """Seconds between collections; 0 for none."""
    grace: float = 3600.0
    """Seconds that content nobody names is kept."""
    timeout: float = 120.0
    """Seconds after which a connection that moves nothing is ended."""
    durable: bool = True
    """Whether what is acknowledged survives a power cut, rather than a crash of the process."""
    attached: str | None = None
    """A folder of the process that this one was started by, and dies with: stdin is a pipe that it holds open."""
    scratch: str = ""
    """A folder for the time of a run, which its workers share."""

    @property
    def name(self) -> str:
        """What stands in a reference: "host:port", as this machine reaches it."""
        anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to say where that can be reached
        return f"{bracketed(anywhere.get(self.host, self.host))}:{self.port}"

    @property
    def url(self) -> str:
        """The base of all URLs."""
        return f"{'https' if self.tls_cert else 'http'}://{self.name}"


def bracketed(host: str) -> str:
    """A host as it stands in a URL: RFC 3986 #3.2.2."""
    return f"[{host}]" if ":" in host else host
