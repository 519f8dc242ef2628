"""One request on its way through the registry: what it may do, and what it names."""

from __future__ import annotations

import re

from attrs import define, field

from ocikit.errors import InvalidDigest, InvalidReference
from ocikit.server.auth.access import Access, Identity, Permission
from ocikit.server.http.errors import ErrorResponse, advice
from ocikit.server.http.request import Request
from ocikit.server.http.settings import Settings
from ocikit.server.storage.base import Storage
from ocikit.spec.digest import Digest
from ocikit.spec.reference import check_repository, check_tag

#: Characters. Clients allow 255 for host and name together: spec.md#pulling-manifests
_NAME_LIMIT = 255


@define(eq=False)
class RequestContext:
    """What endpoints work with."""

    request: Request
    identity: Identity
    access: Access
    storage: Storage
    settings: Settings
    admitted: bool = field(default=False, init=False)
    """Whether the caller was found to be allowed something that the request needs."""

    def require(self, *needs: Permission) -> None:
        """Go on only if everything is allowed. Raises: Refusal: 401 with a challenge, or 403."""
        lacking = [need for need in needs if self.identity.error or not self.access.allows(self.identity, need)]
        if not lacking:
            self.admitted = True
            return
        what = ", ".join(f"{need.action} {need.repository}".strip() for need in lacking)
        if challenge := self.access.challenge(self.request, needs, self.identity):
            raise ErrorResponse(
                401, "UNAUTHORIZED", f"log in to {what}", headers=(("WWW-Authenticate", challenge),),
                detail=[{"type": "repository", "name": n.repository, "action": n.action} for n in lacking],
            )  # fmt: skip
        who = "this is not open to everybody; who isn't logged in" if self.identity.anonymous else self.identity.name
        raise ErrorResponse(403, "DENIED", f"{who} may not {what}")

    def allows(self, action: str, repository: str) -> bool:
        """Whether something further is allowed."""
        return not self.identity.error and self.access.allows(self.identity, Permission(action, repository))

    def reads(self, repository: str) -> bool:
        """Whether the rules let the caller pull from a repository, however little their token says."""
        return not self.identity.error and self.access.can_pull(self.identity, repository)

    def writing(self, deleting: str = "") -> None:
        """Go on only if changes are. Raises: Refusal: 405 UNSUPPORTED."""
        if self.settings.read_only:
            raise ErrorResponse(
                405, "UNSUPPORTED", "this registry is read-only: push to another one, or ask its operator"
            )
        if deleting and deleting not in self.settings.deletion:
            raise ErrorResponse(405, "UNSUPPORTED", f"this registry doesn't delete {deleting}: ask its operator")

    def naming(self, repository: str) -> None:
        """Go on only if something may be kept under the name. Raises: Refusal: 400 NAME_INVALID."""
        names = self.settings.names
        if names and re.fullmatch(names, repository) is None:
            raise ErrorResponse(400, "NAME_INVALID", f"{repository} can't be pushed to: names here must match {names}")


def repository(name: str) -> str:
    """The name, if it is one. Raises: Refusal: 400 NAME_INVALID."""
    if len(name) > _NAME_LIMIT:
        raise ErrorResponse(
            400, "NAME_INVALID", f"the repository's name has {len(name)} characters; {_NAME_LIMIT} are the most"
        )
    try:
        return check_repository(name)
    except InvalidReference as error:
        raise ErrorResponse(400, "NAME_INVALID", advice(error)) from error


def unknown_name(name: str) -> ErrorResponse:
    """The answer for a repository that nobody has pushed to."""
    return ErrorResponse(
        404,
        "NAME_UNKNOWN",
        f"there is no repository {name} here: look at its spelling, or push to it",
        detail={"name": name},
    )


def digest(text: str, *, verifiable: bool = True) -> Digest:
    """The digest; if asked, of an algorithm that can be verified. Raises: Refusal: 400 DIGEST_INVALID."""
    try:
        found = Digest(text)
    except InvalidDigest as error:
        raise ErrorResponse(400, "DIGEST_INVALID", advice(error)) from error
    if verifiable and not found.verifiable:
        raise ErrorResponse(400, "DIGEST_INVALID", f"{found.algorithm} digests can't be verified; use sha256 or sha512")
    return found


def tag(text: str) -> str:
    """The tag. Raises: Refusal: 400 MANIFEST_INVALID: the code for a tag that is none, in older specifications TAG_INVALID."""
    try:
        return check_tag(text)
    except InvalidReference as error:
        raise ErrorResponse(400, "MANIFEST_INVALID", advice(error)) from error
