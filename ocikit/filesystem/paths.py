"""Paths of the file system: where the reference ends and the name of a file begins.

A path is `HOST[:PORT]/REPOSITORY:TAG/NAME` or `HOST[:PORT]/REPOSITORY@DIGEST/NAME`. The reference ends with the first part
after the host that has ":" or "@". Parts of repository names have neither, so the end is unambiguous. The path of a layout
on disk starts with "/": `/folder:tag/NAME`.
"""

from __future__ import annotations

import os
import re

from attrs import frozen

from ocikit.display import quoted
from ocikit.errors import InvalidReference
from ocikit.spec.reference import AnyReference, LayoutReference, Reference, RegistryHost

PROTOCOL = "ocikit"

#: A part of a path that is more likely one of a repository than the name of a file.
_PART = re.compile(r"[a-z0-9]+(?:[_-]+[a-z0-9]+)*")


@frozen(kw_only=True)
class Location:
    """A parsed path."""

    host: str
    """Registry; empty for a layout on disk."""
    repository: str
    """Repository, or the folder of a layout; empty for the registry itself."""
    suffix: str
    """Tag with ":" or digest with "@", as in the path; empty without one."""
    name: str
    """Name of a file or folder in the artifact; empty for the artifact itself."""

    @property
    def root(self) -> str:
        """The path of the artifact, repository or registry."""
        return "/".join(filter(None, (self.host, self.repository))) + self.suffix

    @property
    def path(self) -> str:
        """The whole path."""
        return f"{self.root}/{self.name}" if self.name else self.root

    @property
    def token(self) -> str:
        """The token of an edit, after "~" in the tag; empty for other paths. Tags have no "~"."""
        return self.suffix.partition("~")[2]

    @property
    def reference(self) -> AnyReference:
        """The reference of the artifact.

        Raises:
            InvalidReference: The path has no tag or digest, or an invalid one.
        """
        if self.host:
            return Reference.parse(self.root)
        scheme = "oci-archive" if os.path.isfile(self.repository) else "oci"
        return LayoutReference.parse(f"{scheme}:{self.root}")


def strip_protocol(path: str) -> str:
    """Return a path without its scheme, trailing slash and empty parts.

    >>> strip_protocol("ocikit://ghcr.io/team/data:v1//train.csv")
    'ghcr.io/team/data:v1/train.csv'
    """
    path = path.removeprefix(f"{PROTOCOL}://")
    joined = "/".join(part for part in path.split("/") if part)
    return f"/{joined}" if path.startswith("/") else joined


def parse_path(path: str) -> Location:
    """Return the parts of a path.

    Args:
        path: A path with or without the scheme.

    Raises:
        InvalidReference: The host is invalid, or has a user in it.

    >>> parse_path("ghcr.io/team/data:v1/2024/a:b.csv").name
    '2024/a:b.csv'
    """
    path = strip_protocol(path)
    local = path.startswith("/")
    parts = path.strip("/").split("/") if path.strip("/") else []
    host = "" if local or not parts else _check_host(parts.pop(0), path)
    end = next((i for i, part in enumerate(parts) if ":" in part or "@" in part), None)
    if end is None:
        repository = "/".join(parts)
        return Location(host=host, repository=f"/{repository}" if local else repository, suffix="", name="")
    last = parts[end]
    cut = min(i for i in (last.find(":"), last.find("@")) if i >= 0)
    repository = "/".join((*parts[:end], last[:cut]))
    return Location(
        host=host,
        repository=f"/{repository}" if local else repository,
        suffix=last[cut:],
        name="/".join(parts[end + 1 :]),
    )


def path_of(reference: AnyReference) -> str:
    """Return the path of an artifact.

    >>> path_of(Reference.parse("alpine:3.20"))
    'docker.io/library/alpine:3.20'
    """
    if isinstance(reference, Reference):
        return str(reference)
    name = f"{os.path.abspath(reference.path)}:{reference.tag or ''}".removesuffix(":")
    return f"{name}@{reference.digest}" if reference.digest else name


def missing_tag(location: Location) -> InvalidReference:
    """Return the error for a path without a tag. Its hint shows where the tag is likely to be."""
    parts = location.root.lstrip("/").split("/")
    end = next((i for i, part in enumerate(parts) if i > 1 and not _PART.fullmatch(part)), len(parts))
    start = "" if location.host else "/"
    url = f"{PROTOCOL}://{start}{'/'.join(parts[:end])}:latest/{'/'.join(parts[end:])}"
    return InvalidReference(
        f"{quoted(location.root)} has no tag", hint=f"write it behind the repository, such as {quoted(url)}"
    )


def _check_host(host: str, path: str) -> str:
    if "@" in host:
        raise InvalidReference(
            f"the URL {quoted(f'{PROTOCOL}://…@' + path.partition('@')[2])} has a user or a password in it",
            hint="log in instead: ocikit.login(host); URLs carry no secrets",
        )
    if host == "[":
        raise InvalidReference(
            "the host of a URL can't be an IPv6 address: fsspec splits URLs at '::'",
            hint="use a host name, or artifact.fs of an artifact that was opened by its reference",
        )
    return RegistryHost.parse(host).name
