"""The one-liners: each opens a `Session` with everything as it comes, and calls the verb of the same name."""

from __future__ import annotations

import functools
import inspect as introspection
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from ocikit.client.artifact import Artifact
from ocikit.client.session import Session
from ocikit.display.tracebacks import hide_internal_frames
from ocikit.errors import OcikitError
from ocikit.spec.reference import AnyReference

if TYPE_CHECKING:
    from ocikit.notebook.explorer import Explorer

P = ParamSpec("P")
R = TypeVar("R")


class HasHost(Protocol):
    """A registry: `Registry`, or a server that runs."""

    @property
    def host(self) -> str:
        """Host of the registry, with its port."""


def explore(start: str | AnyReference | Artifact | HasHost = "", session: Session | None = None) -> Explorer:
    """Return a browser for a notebook: repositories, tags, manifests and files, with previews and downloads.

    Args:
        start: A reference, a registry host, a layout such as "oci:folder", an artifact, or a running registry.
        session: Session that reads; None uses a new one.

    Raises:
        InvalidReference: `start` is none of these.
        OcikitError: ipywidgets is not installed.
    """
    try:
        from ocikit.notebook.explorer import Explorer  # noqa: PLC0415 - needs ipywidgets
    except ImportError as error:
        raise OcikitError("explore needs ipywidgets", hint="pip install 'ocikit[notebook]'") from error
    where = getattr(start, "reference", None) or getattr(start, "host", None) or start
    return Explorer(session or Session(), str(where))


def _one_liner(verb: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
    """A function with the signature and words of a session's verb, less the session."""

    @functools.wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # By using the 'with' statement we are sure that the connections are closed
        with Session() as session:
            try:
                return verb(session, *args, **kwargs)
            except KeyboardInterrupt as interrupt:
                hide_internal_frames(interrupt)
                raise

    signature = introspection.signature(verb)
    call.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]  # what Shift-Tab shows
    call.__qualname__ = verb.__name__
    call.__module__ = "ocikit"
    return call


attach = _one_liner(Session.attach)
catalog = _one_liner(Session.catalog)
copy = _one_liner(Session.copy)
delete = _one_liner(Session.delete)
download = _one_liner(Session.download)
inspect = _one_liner(Session.inspect)
open = _one_liner(Session.open)  # noqa: A001 - ocikit.open reads as it does
pin = _one_liner(Session.pin)
ping = _one_liner(Session.ping)
pull = _one_liner(Session.pull)
push = _one_liner(Session.push)
referrers = _one_liner(Session.referrers)
tag = _one_liner(Session.tag)
tags = _one_liner(Session.tags)
validate = _one_liner(Session.validate)
