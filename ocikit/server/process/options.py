"""How to serve: what the command line says, and what workers are given."""

from __future__ import annotations

from attrs import asdict, field, frozen

from ocikit.errors import InvalidArgument
from ocikit.server.http.settings import Limits, Settings

#: How to get what a server is made of.
EXTRA = "pip install 'ocikit[server]'"

#: How requests are logged: for programs, for people, not at all.
FORMATS = ("json", "text", "none")


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
    """One of `FORMATS`."""
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

    def __attrs_post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.port < 65536:
            raise InvalidArgument(f"port={self.port}", hint="ports are from 1 to 65535; 0 is one that is free")
        if self.workers < 1:
            raise InvalidArgument(f"workers={self.workers}", hint="1 is the least")
        for name, least in (("collect_every", 0.0), ("grace", 0.0), ("timeout", 1.0)):
            if not least <= getattr(self, name) < float("inf"):
                raise InvalidArgument(
                    f"{name}={getattr(self, name)}", hint=f"it is a number of seconds, at least {least:g}"
                )
        if self.log_format not in FORMATS:
            raise InvalidArgument(f"log_format={self.log_format!r}", hint=f"choose from {', '.join(FORMATS)}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgument("a certificate without a key, or a key without a certificate", hint="give both")

    def arguments(self) -> list[str]:
        """What `python -m ocikit serve` is to be told."""
        settings = self.settings
        values: dict[str, object] = {
            "host": self.host, "port": self.port, "htpasswd": self.htpasswd, "rules": self.rules,
            "tls-cert": self.tls_cert, "tls-key": self.tls_key, "workers": self.workers,
            "references": settings.references, "validate": settings.validate, "log-format": self.log_format,
            "collect-every": self.collect_every, "grace": self.grace, "timeout": self.timeout, "attached": self.attached,
        }  # fmt: skip
        switches = {
            "token": self.token, "anonymous-pull": self.anonymous_pull, "allow-plain-http": self.allow_plain_http,
            "read-only": settings.read_only, "no-delete": not settings.deletion, "no-metrics": not settings.metrics,
            "no-sync": not self.durable,
        }  # fmt: skip
        usual = asdict(Limits())
        return [
            self.path,
            *(f"--{name}={value}" for name, value in values.items() if value is not None),
            *(f"--{name}" for name, wanted in switches.items() if wanted),
            *(f"--allow-host={name}" for name in settings.hosts),
            *(f"--trusted-proxy={address}" for address in settings.trusted_proxies),
            *(f"--limit={name}={most}" for name, most in asdict(settings.limits).items() if most != usual[name]),
        ]

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
