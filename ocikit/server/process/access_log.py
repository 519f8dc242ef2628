"""Access log: one line for each request, as JSON or logfmt.

Lines contain no secrets. Values from clients are sanitized and shortened: this prevents log injection and a full disk.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from ocikit.display import shorten
from ocikit.server.http.app import AccessRecord, masked_path

#: Characters of a value from a client. Repository names can have 255 characters, digests 135.
_LONG, _SHORT = 600, 120

#: Query keys of the distribution specification and of token requests; the values of other keys may be secrets.
_PUBLIC_KEYS = frozenset(
    {"artifactType", "digest", "digest-algorithm", "from", "last", "mount", "n", "ns", "scope", "service", "tag"}
)

_logger = logging.getLogger("ocikit.server.access")


def access_log(log_format: str) -> Callable[[AccessRecord], None] | None:
    """Return the function that logs a record; None for the format "none"."""
    if log_format == "none":
        return None
    to_line = _json if log_format == "json" else _logfmt

    def log(record: AccessRecord) -> None:
        _logger.info("%s", to_line(_fields(record)))

    return log


def _fields(record: AccessRecord) -> dict[str, str | int | float]:
    fields: dict[str, str | int | float] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z",
        "remote": shorten(record.remote, _SHORT),
        "user": shorten(record.user, _SHORT),
        "method": shorten(record.method, _SHORT),
        "path": shorten(masked_path(record.path), _LONG),
        "query": shorten("&".join(f"{k}={v if k in _PUBLIC_KEYS else '***'}" for k, v in record.query), _LONG),
        "status": record.status,
        "code": shorten(record.code, _SHORT),
        "received": record.received,
        "sent": record.sent,
        "seconds": round(record.seconds, 4),
        "agent": shorten(record.agent, _SHORT),
    }
    return {key: value for key, value in fields.items() if value != ""}


def _json(fields: dict[str, str | int | float]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _logfmt(fields: dict[str, str | int | float]) -> str:
    """Return `key=value` pairs, with quotes around special characters."""
    return " ".join(f"{key}={_quote(str(value))}" for key, value in fields.items())


def _quote(value: str) -> str:
    return value if not set(value) & set(' "=\\') else json.dumps(value, ensure_ascii=False)


def logging_config() -> dict[str, Any]:
    """Return the logging configuration of a server process: it logs to stderr."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "plain": {"format": "%(message)s"},
            "level": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
        },
        "handlers": {
            "access": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"},
            "errors": {"class": "logging.StreamHandler", "formatter": "level", "stream": "ext://sys.stderr"},
        },
        "loggers": {
            "ocikit.server.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
            "ocikit.server": {"handlers": ["errors"], "level": "WARNING", "propagate": False},
            "_granian": {"handlers": ["errors"], "level": "ERROR", "propagate": False},
        },
    }
