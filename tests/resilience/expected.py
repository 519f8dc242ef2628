"""What the operations of the suite achieve with each registry profile."""

from collections.abc import Mapping

from attrs import frozen
from ocikit import errors
from ocikit.testing.profiles import Profile
from ocikit.testing.quirks import QUIRKS


@frozen
class Cannot:
    """The expected error of an unsupported operation."""

    kind: type[errors.OcikitError]
    hint: str
    """A regular expression for the error's hint or message."""
    said: str = ""
    """A regular expression for the message."""


_LOGIN = Cannot(errors.Unauthorized, "log in")
_REJECTED = Cannot(errors.Unauthorized, "log in", "rejected|were rejected")
_NO_CATALOG = Cannot(errors.Unauthorized, r"list its tags: ocikit\.tags")
_NO_DELETE = Cannot(errors.Unsupported, "web interface")
_NO_TAG_DELETE = Cannot(errors.Unsupported, "delete the manifest by its digest|web interface")
_ODD = Cannot(errors.UploadInvalid, "", "odd")
_PRIVATE = {"pull-anonymous": _LOGIN, "pull-stale": _REJECTED}
_NO_DELETES = {"delete-tag": _NO_TAG_DELETE, "delete-manifest": _NO_DELETE}

#: Expected errors by profile and operation.
CANNOT: Mapping[str, Mapping[str, Cannot]] = {
    "basic": _PRIVATE,
    "ecr": {"push-new": Cannot(errors.NameUnknown, "aws ecr create-repository"), **_PRIVATE},
    "ghcr": {"catalog": _NO_CATALOG, **_NO_DELETES},
    "gar": {"catalog": _NO_CATALOG, **_PRIVATE},
    "acr": _PRIVATE,
    "harbor": {"catalog": _NO_CATALOG},
    "quay": {"catalog": _NO_CATALOG, "push-odd": _ODD},
    "gitlab": {"catalog": _NO_CATALOG, "push-odd": _ODD, **_PRIVATE},
    "artifactory": {**_PRIVATE, "pull-absent": Cannot(errors.Denied, "account")},
    "nexus": _PRIVATE,
    "hub": {"catalog": _NO_CATALOG, **_NO_DELETES},
    "proxy": _PRIVATE,
    "worst": {
        "catalog": _NO_CATALOG,
        "push-odd": _ODD,
        **_PRIVATE,
        "pull-absent": Cannot(errors.Denied, "account"),
    },
}

#: Profiles whose blobs cannot be mounted from another repository.
NO_MOUNTS = {"harbor", "hub", "worst"}

#: Size of upload chunks by profile [bytes]; the default is 2 MiB.
CHUNKS = {"ghcr": 5 << 20, "worst": 5 << 20}


def triggered(profile: Profile, operation: str) -> set[str]:
    """Return the quirks that an operation must trigger."""
    return {name for name in profile.quirks if operation in QUIRKS[name].at}
