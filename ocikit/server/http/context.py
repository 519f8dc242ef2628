"""The context of a request: permissions, settings, and parsed names."""

from __future__ import annotations

import re

from attrs import define, field

from ocikit.errors import InvalidDigest, InvalidReference
from ocikit.server.auth.access import Access, Identity, Permission
from ocikit.server.http.errors import ErrorResponse, message_with_hint
from ocikit.server.http.request import Request
from ocikit.server.http.settings import Settings
from ocikit.server.storage.combined import Storage
from ocikit.spec.digest import Digest
from ocikit.spec.reference import check_repository, check_tag

#: Characters. Clients allow 255 for host and name together: spec.md#pulling-manifests
_NAME_LIMIT = 255


@define(eq=False)
class RequestContext:
    """The request and the objects that endpoints need."""

    request: Request
    identity: Identity
    access: Access
    storage: Storage
    settings: Settings
    authorized: bool = field(default=False, init=False)
    """Whether the client has a permission that the request needs."""

    def require(self, *permissions: Permission) -> None:
        """Check that the client has all permissions.

        Raises:
            ErrorResponse: 401 with a challenge, or 403.
        """
        missing = [
            permission
            for permission in permissions
            if self.identity.error or not self.access.allows(self.identity, permission)
        ]
        if not missing:
            self.authorized = True
            return
        actions = ", ".join(f"{permission.action} {permission.repository}".strip() for permission in missing)
        if challenge := self.access.challenge(self.request, permissions, self.identity):
            raise ErrorResponse(
                401,
                "UNAUTHORIZED",
                f"log in to {actions}",
                headers=(("WWW-Authenticate", challenge),),
                detail=[
                    {"type": "repository", "name": permission.repository, "action": permission.action}
                    for permission in missing
                ],
            )
        if self.identity.anonymous:
            raise ErrorResponse(403, "DENIED", f"anonymous clients may not {actions}")
        raise ErrorResponse(403, "DENIED", f"{self.identity.name} may not {actions}")

    def allows(self, action: str, repository: str) -> bool:
        """Return True if the client has a permission."""
        return not self.identity.error and self.access.allows(self.identity, Permission(action, repository))

    def can_pull(self, repository: str) -> bool:
        """Return True if the rules allow the client to pull, regardless of its token."""
        return not self.identity.error and self.access.can_pull(self.identity, repository)

    def require_writable(self, deleting: str = "") -> None:
        """Check that the registry accepts changes.

        Args:
            deleting: The kind of content to delete: "manifests", "blobs" or "tags".

        Raises:
            ErrorResponse: 405 UNSUPPORTED.
        """
        if self.settings.read_only:
            raise ErrorResponse(
                405, "UNSUPPORTED", "this registry is read-only: push to another one, or ask its operator"
            )
        if deleting and deleting not in self.settings.deletion:
            raise ErrorResponse(405, "UNSUPPORTED", f"deletion of {deleting} is disabled; ask the registry's operator")

    def require_allowed_name(self, repository: str) -> None:
        """Check that the settings allow pushes to a repository name.

        Raises:
            ErrorResponse: 400 NAME_INVALID.
        """
        pattern = self.settings.names
        if pattern and re.fullmatch(pattern, repository) is None:
            raise ErrorResponse(
                400, "NAME_INVALID", f"{repository} does not match {pattern}, which names in this registry must match"
            )


def parse_repository(name: str) -> str:
    """Return a valid repository name.

    Raises:
        ErrorResponse: 400 NAME_INVALID.
    """
    if len(name) > _NAME_LIMIT:
        raise ErrorResponse(
            400, "NAME_INVALID", f"the repository name has {len(name)} characters; the limit is {_NAME_LIMIT}"
        )
    try:
        return check_repository(name)
    except InvalidReference as error:
        raise ErrorResponse(400, "NAME_INVALID", message_with_hint(error)) from error


def unknown_repository(name: str) -> ErrorResponse:
    """Return the error for a repository that does not exist."""
    return ErrorResponse(
        404,
        "NAME_UNKNOWN",
        f"there is no repository {name}; check the spelling, or push to it",
        detail={"name": name},
    )


def quota_exceeded(ctx: RequestContext, repository: str) -> ErrorResponse:
    """Return the error for content that does not fit into a repository's quota."""
    quota = ctx.settings.limits.repository
    return ErrorResponse(
        413,
        "DENIED",
        f"{repository} has reached its quota of {quota} bytes; delete something first, or cancel unfinished uploads",
    )


def parse_digest(text: str, *, verifiable: bool = True) -> Digest:
    """Return a valid digest.

    Args:
        text: Text of the digest.
        verifiable: Whether to reject algorithms that cannot be verified.

    Raises:
        ErrorResponse: 400 DIGEST_INVALID.
    """
    try:
        digest = Digest(text)
    except InvalidDigest as error:
        raise ErrorResponse(400, "DIGEST_INVALID", message_with_hint(error)) from error
    if verifiable and not digest.verifiable:
        raise ErrorResponse(
            400, "DIGEST_INVALID", f"{digest.algorithm} digests cannot be verified; use sha256 or sha512"
        )
    return digest


def parse_tag(text: str) -> str:
    """Return a valid tag.

    Raises:
        ErrorResponse: 400 MANIFEST_INVALID, which replaced TAG_INVALID of older specifications.
    """
    try:
        return check_tag(text)
    except InvalidReference as error:
        raise ErrorResponse(400, "MANIFEST_INVALID", message_with_hint(error)) from error
