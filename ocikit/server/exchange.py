"""One request on its way through the registry: what it may do, and what it names."""

from __future__ import annotations

import re

from attrs import define

from ocikit.errors import InvalidDigest, InvalidReference
from ocikit.server.access import Access, Identity, Need
from ocikit.server.message import Request
from ocikit.server.refusal import Refusal
from ocikit.server.settings import Settings
from ocikit.server.storage import Storage
from ocikit.spec.digest import Digest
from ocikit.spec.reference import check_repository, check_tag

__all__ = ["Exchange", "digest", "repository", "tag"]

#: Characters. Clients allow 255 for host and name together: spec.md#pulling-manifests
_NAME_LIMIT = 255


@define(eq=False)
class Exchange:
    """What endpoints work with."""

    request: Request
    identity: Identity
    access: Access
    storage: Storage
    settings: Settings

    def require(self, *needs: Need) -> None:
        """Go on only if everything is allowed. Raises: Refusal: 401 with a challenge, or 403."""
        lacking = [need for need in needs if self.identity.problem or not self.access.allows(self.identity, need)]
        if not lacking:
            return
        what = ", ".join(f"{need.action} {need.repository}".strip() for need in lacking)
        if challenge := self.access.challenge(self.request, needs, self.identity):
            raise Refusal(
                401, "UNAUTHORIZED", f"log in to {what}", headers=(("WWW-Authenticate", challenge),),
                detail=[{"type": "repository", "name": n.repository, "action": n.action} for n in lacking],
            )  # fmt: skip
        who = "this is not open to everybody; who isn't logged in" if self.identity.anonymous else self.identity.name
        raise Refusal(403, "DENIED", f"{who} may not {what}")

    def allows(self, action: str, repository: str) -> bool:
        """Whether something further is allowed."""
        return not self.identity.problem and self.access.allows(self.identity, Need(action, repository))

    def lists(self, repository: str) -> bool:
        """Whether the catalog shows a repository."""
        return not self.identity.problem and self.access.lists(self.identity, repository)

    def writing(self, deleting: str = "") -> None:
        """Go on only if changes are. Raises: Refusal: 405 UNSUPPORTED."""
        if self.settings.read_only:
            raise Refusal(405, "UNSUPPORTED", "this registry is read-only")
        if deleting and deleting not in self.settings.deletion:
            raise Refusal(405, "UNSUPPORTED", f"this registry doesn't delete {deleting}")

    def naming(self, repository: str) -> None:
        """Go on only if something may be kept under the name. Raises: Refusal: 400 NAME_INVALID."""
        if re.fullmatch(self.settings.names or ".*", repository) is None:
            raise Refusal(400, "NAME_INVALID", f"names of repositories here must match {self.settings.names}")


def repository(name: str) -> str:
    """The name, if it is one. Raises: Refusal: 400 NAME_INVALID."""
    if len(name) > _NAME_LIMIT:
        raise Refusal(400, "NAME_INVALID", f"the repository's name has more than {_NAME_LIMIT} characters")
    try:
        return check_repository(name)
    except InvalidReference as error:
        raise Refusal(400, "NAME_INVALID", str(error)) from error


def digest(text: str) -> Digest:
    """The digest, of an algorithm that can be verified. Raises: Refusal: 400 DIGEST_INVALID."""
    try:
        found = Digest(text)
    except InvalidDigest as error:
        raise Refusal(400, "DIGEST_INVALID", str(error)) from error
    if not found.verifiable:
        raise Refusal(400, "DIGEST_INVALID", f"{found.algorithm} digests can't be verified; use sha256 or sha512")
    return found


def tag(text: str) -> str:
    """The tag. Raises: Refusal: 400 MANIFEST_INVALID: the code for a tag that is none, in older specifications TAG_INVALID."""
    try:
        return check_tag(text)
    except InvalidReference as error:
        raise Refusal(400, "MANIFEST_INVALID", str(error)) from error
