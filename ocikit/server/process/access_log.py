"""A line for each request: JSON for programs, words for people. Made of a `Record`, which holds no header with a secret.

What clients send is cleaned and cut, so that nobody forges a line or fills the disk with one. Values of a query are shown
only where the specification gives them a meaning.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any

from ocikit.display import shorten
from ocikit.server.http.app import AccessRecord

#: Characters of what a client chose; names of repositories may have 255, digests 135.
_LONG, _SHORT = 600, 120

#: Query keys of the distribution specification, and of token requests, whose values are names.
_OPEN = frozenset(
    {"artifactType", "digest", "digest-algorithm", "from", "last", "mount", "n", "ns", "scope", "service", "tag"}
)

_logger = logging.getLogger("ocikit.server.access")


def access_log(name: str) -> Callable[[AccessRecord], None] | None:
    """What to call with each record; None for a log of nothing."""
    if name == "none":
        return None
    words = _json if name == "json" else _text

    def told(record: AccessRecord) -> None:
        _logger.info("%s", words(_fields(record)))

    return told


def _fields(record: AccessRecord) -> dict[str, Any]:
    fields = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z",
        "remote": shorten(record.remote, _SHORT),
        "user": shorten(record.user, _SHORT),
        "method": shorten(record.method, _SHORT),
        # An upload's id is as good as a password for that upload
        "path": shorten(re.sub(r"(/blobs/uploads/[^/]{6})[^/]+\Z", r"\1…", record.path), _LONG),
        "query": shorten("&".join(f"{k}={v if k in _OPEN else '***'}" for k, v in record.query), _LONG),
        "status": record.status,
        "code": shorten(record.code, _SHORT),
        "received": record.received,
        "sent": record.sent,
        "seconds": round(record.seconds, 4),
        "agent": shorten(record.agent, _SHORT),
    }
    return {key: value for key, value in fields.items() if value != ""}


def _json(fields: dict[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _text(fields: dict[str, Any]) -> str:
    """As logfmt: `key=value`, quoted where there is a space, a quote or an equals sign in it."""
    return " ".join(f"{key}={_plain(str(value))}" for key, value in fields.items())


def _plain(value: str) -> str:
    return value if not set(value) & set(' "=\\') else json.dumps(value, ensure_ascii=False)


def config() -> dict[str, Any]:
    """Where a server's own loggers write: to stderr, each line at once. For `logging.config.dictConfig`."""
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
