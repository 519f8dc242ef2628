"""References to content in registries and layouts. distribution-spec spec.md#pulling-manifests."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Literal, Protocol, Self, TypeAlias, TypeGuard, get_args

import attrs
from attrs import frozen

from ocikit.display import Code, Description, DigestCell, Displayable, Name, code_call, quoted, sanitize
from ocikit.errors import InvalidReference
from ocikit.spec.digest import Digest

DOCKER_HUB = "docker.io"

_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_HUB_API = "registry-1.docker.io"

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_HOST = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
    r"|\[(?P<ipv6>[0-9a-fA-F:.]+)\])(?::(?P<port>[0-9]{1,5}))?"
)
#: A host without repository, which docker would parse as an image in Docker Hub's library.
_HOST_ONLY = re.compile(r"(?:localhost|[0-9]{1,3}(?:\.[0-9]{1,3}){3}):[0-9]+")
#: image-spec annotations.md, `org.opencontainers.image.ref.name`
_REF_NAME = re.compile(
    r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*)*"
)
#: Match only registered algorithms: in `oci:me@home:v1` the folder is `me@home`.
_DIGEST_SUFFIX = re.compile(r"@((?:sha256|sha512|blake3):[a-zA-Z0-9=_-]+)\Z")

#: A digest, which docker would parse as a tag of `library/sha256`.
_DIGEST_ONLY = re.compile(r"(?:sha256|sha512|blake3):[0-9a-fA-F]{64,}")

#: The grammar of a part of a repository name, for hints.
_PART_RULE = "a part has lower-case letters and digits, separated by one '.', one or two '_', or '-'s"

_NAME_LIMIT = 255  # characters of host and name together: distribution-spec spec.md#pulling-manifests


def check_repository(name: str, reference: str = "") -> str:
    """Return the repository name if it is valid.

    Args:
        name: The name.
        reference: The text that contains it, for messages.

    Raises:
        InvalidReference: The name is invalid; the message has the invalid part.
    """
    where = f" in {quoted(reference)}" if reference and reference != name else ""
    if not name:
        raise InvalidReference(
            f"the repository name is empty{where}", hint='write it like "registry.example/team/name:tag"'
        )
    for part in name.split("/"):
        if _COMPONENT.fullmatch(part):
            continue
        if not part:
            problem, hint = "has an empty part", "remove the double or trailing slash"
        elif part != part.lower():
            problem = f"has upper-case letters in {quoted(part)}"
            lower = name.lower()
            valid = all(_COMPONENT.fullmatch(component) for component in lower.split("/"))
            hint = f"repository names are lower-case: {quoted(lower)}" if valid else _PART_RULE
        else:
            problem = f"has an invalid part {quoted(part)}"
            hint = _PART_RULE
        raise InvalidReference(f"repository name {quoted(name)}{where} {problem}", hint=hint)
    return name


def check_tag(tag: str) -> str:
    """Return the tag if it is valid.

    Raises:
        InvalidReference: The tag is invalid.
    """
    if _TAG.fullmatch(tag) is None:
        if "+" in tag and _TAG.fullmatch(written := tag.replace("+", "_")):
            raise InvalidReference(
                f"the tag {quoted(tag)} has a '+', which tags cannot have",
                hint=f"Helm writes '_' for the '+' of a version: {quoted(written)}",
            )
        problem = f"is {len(tag)} characters long" if len(tag) > 128 else "is not a tag"
        raise InvalidReference(
            f"{quoted(tag)} {problem}",
            hint="a tag has 1 to 128 letters, digits, '_', '.' or '-', and does not start with '.' or '-'",
        )
    return tag


def check_name_length(host: str, repository: str) -> None:
    """Check the length of a host and a repository name.

    Raises:
        InvalidReference: Together they are longer than the specification allows.
    """
    length = len(host) + 1 + len(repository)
    if length > _NAME_LIMIT:
        raise InvalidReference(f"host and repository name are {length} characters", hint=f"the limit is {_NAME_LIMIT}")


def _check_host(host: str, reference: str = "") -> str:
    match = _HOST.fullmatch(host)
    valid = match is not None and (match["port"] is None or 0 < int(match["port"]) < 65536)
    if match is not None and match["ipv6"]:
        try:
            ipaddress.IPv6Address(match["ipv6"])
        except ValueError:
            valid = False
    if not valid:
        where = f" in {quoted(reference)}" if reference else ""
        raise InvalidReference(
            f"{quoted(host)}{where} is not a registry host",
            hint='a host looks like "ghcr.io", "localhost:5000" or "[::1]:5000"',
        )
    return host.lower()


@frozen
class RegistryHost:
    """The host of a registry and perhaps a port, in lower case.

    Docker Hub's names are one host.

    >>> RegistryHost.parse("index.docker.io")
    RegistryHost(name='docker.io')
    """

    name: str

    @classmethod
    def parse(cls, text: str) -> RegistryHost:
        """Return the host that a reference may begin with.

        Raises:
            InvalidReference: The text is a URL, a repository name, a name without a dot, or not a host.
        """
        text = getattr(text, "host", text)  # a registry, or a running server
        host = text if isinstance(text, str) else ""
        if set(host) & set("/@") or not _is_host(host):
            bare = host.partition("://")[2] or host
            better = bare.partition("/")[0] if "/" in host else ""
            raise InvalidReference(
                f"{quoted(text)} is not a registry's host",
                hint=f"write it like {better!r}" if better else 'it looks like "ghcr.io" or "localhost:5000"',
            )
        return cls(_canonical(_check_host(host)))

    @property
    def api_host(self) -> str:
        """The host of the registry API, which for Docker Hub differs from the host in references."""
        return _HUB_API if self.name == DOCKER_HUB else self.name


def _is_host(first: str) -> bool:
    """Return True if the first part of a reference is a host, not a part of a name on Docker Hub."""
    return any(c in first for c in ".:") or first.lower() == "localhost"


def _canonical(host: str) -> str:
    return DOCKER_HUB if host in _HUB_NAMES else host


def _check_text(text: object) -> str:
    if not isinstance(text, str):
        if isinstance(digest := getattr(text, "digest", None), Digest):
            raise InvalidReference(
                f"a {type(text).__name__} doesn't name a registry", hint=f"write where it is: {_at(digest)}"
            )
        raise InvalidReference(
            f"a reference cannot be of type {type(text).__name__}",
            hint='write it like "ghcr.io/team/data:v1", or pass what has a reference, such as an artifact',
        )
    return text


def _at(digest: str) -> str:
    return quoted(f"registry.example/team/name@{digest}")


@frozen(kw_only=True, repr=False)
class _Target(Displayable):
    tag: str | None = None
    digest: Digest | None = None

    @property
    def target(self) -> str:
        """The reference within its repository: the digest, else the tag, else "latest"."""
        return self.digest or self.tag or "latest"

    def pinned(self, digest: str) -> Self:
        """Return the reference with this digest and the same tag.

        >>> reference = ocikit.Reference.parse("ghcr.io/org/model:v1")
        >>> str(reference.pinned("sha256:" + "0" * 64))
        'ghcr.io/org/model:v1@sha256:0000000000000000000000000000000000000000000000000000000000000000'
        """
        return attrs.evolve(self, digest=Digest(digest))

    @property
    def name(self) -> str:
        """The repository or layout, without tag and digest."""
        raise NotImplementedError

    def __str__(self) -> str:
        # The fields of a reference that was not made by `parse` are not validated.
        return sanitize(self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else ""))

    def _line(self) -> str:
        # Do not shorten: users copy references.
        return f"{type(self).__name__}({str(self)!r})"

    def __rich_repr__(self) -> Description:
        yield "name", self.name
        yield "tag", self.tag, None
        yield "digest", self.digest and DigestCell(self.digest), None

    def _place(self) -> str:
        """Return the beginning of `name` that is the registry or the folder."""
        raise NotImplementedError

    def _card_title(self) -> object:
        place = self._place()
        return Name(place, f"{self.name.removeprefix(place)}{f':{self.tag}' if self.tag else ''}")

    def _facts(self) -> Iterator[tuple[str, object]]:
        short = attrs.evolve(self, digest=None) if self.tag else self
        yield "show", code_call("ocikit.inspect", short)
        yield "fetch", code_call("ocikit.pull", short, "folder/")
        if self.digest:
            yield "pinned", Code(self)


@frozen(kw_only=True, repr=False, init=False)
class Reference(_Target):
    """A reference to content in a registry: `[registry/]name[:tag][@digest]`.

    Args:
        text: The reference, parsed as `parse` does. Without it, the parts are given by name, and are not checked.

    >>> ocikit.Reference("alpine:3.20")
    Reference('docker.io/library/alpine:3.20')
    >>> ocikit.Reference(registry="localhost:5000", repository="team/data").target
    'latest'
    """

    registry: str
    """The host and optional port, such as `docker.io` or `localhost:5000`."""
    repository: str
    """The name on the registry, such as `library/alpine`."""

    def __init__(
        self,
        text: str | None = None,
        *,
        registry: str | None = None,
        repository: str | None = None,
        tag: str | None = None,
        digest: Digest | None = None,
    ) -> None:
        if text is not None:
            found = type(self).parse(text)
            registry, repository, tag, digest = found.registry, found.repository, found.tag, found.digest
        if registry is None or repository is None:
            raise TypeError('Reference() needs a text such as "ghcr.io/org/name:tag", or registry= and repository=')
        self.__attrs_init__(registry=registry, repository=repository, tag=tag, digest=digest)

    @classmethod
    def parse(cls, text: ReferenceLike) -> Reference:
        """Return the reference of a text, or of an object that has one.

        Raises:
            InvalidReference: The text is not a registry reference; the message has the invalid part.
            InvalidDigest: The digest is invalid.

        >>> reference = ocikit.Reference.parse("ghcr.io/org/model:v1")
        >>> reference.registry, reference.repository, reference.tag
        ('ghcr.io', 'org/model', 'v1')
        >>> str(ocikit.Reference.parse("alpine"))
        'docker.io/library/alpine'
        """
        if isinstance(text, Reference):
            return text
        if not isinstance(text, str) and isinstance(found := getattr(text, "reference", None), Reference):
            return found
        text = _check_text(text)
        if text != text.strip() or not text:
            raise InvalidReference(
                f"{quoted(text)} is empty or has leading or trailing spaces",
                hint='write it like "registry.example/team/name:tag"',
            )
        if _DIGEST_ONLY.fullmatch(text):
            raise InvalidReference(
                f"{quoted(str(text))} is a digest without a repository", hint=f"write where it is: {_at(text.lower())}"
            )
        if "://" in text:
            # Users paste URLs that contain a password: remove text before an @ that does not precede a digest.
            text = re.sub(r"://[^@]*@(?=[^@]*/)", "://", text)
            raise InvalidReference(
                f"{quoted(text)} is a URL, not a reference",
                hint=f"leave out the scheme: {quoted(text.partition('://')[2])}",
            )
        if text.startswith((".", "/", "~")):
            raise InvalidReference(
                f"{quoted(text)} is a path, not a reference",
                hint='the reference comes first, such as "ghcr.io/team/data:v1"; a layout on disk is written "oci:folder:tag"',
            )
        if _HOST_ONLY.fullmatch(text):
            raise InvalidReference(
                f"{quoted(text)} is a registry without a repository",
                hint=f"add a name: {quoted(f'{text}/team/data:v1')}; ocikit.catalog({quoted(text)}) lists repositories",
            )
        rest, digest = text, None
        if "@" in text:
            rest, _, tail = text.partition("@")
            digest = Digest(tail)
        first, slash, name = rest.partition("/")
        if slash and _is_host(first):
            host = _canonical(_check_host(first, text))
        else:
            host, name = DOCKER_HUB, rest
        tag = None
        if ":" in name.rpartition("/")[2]:
            name, _, tag = name.rpartition(":")
            check_tag(tag)
        check_repository(name, text)  # first, so that a message has the name that the user wrote
        if host == DOCKER_HUB and "/" not in name:
            name = f"library/{name}"
        check_name_length(host, name)
        return cls(registry=host, repository=name, tag=tag, digest=digest)

    @property
    def api_host(self) -> str:
        """The host of the registry API, which for Docker Hub differs from `registry`."""
        return RegistryHost(self.registry).api_host

    @property
    def name(self) -> str:
        """The registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    def _place(self) -> str:
        return f"{self.registry}/"

    def tagged(self, tag: str) -> Reference:
        """Return the reference with this tag and without digest.

        Raises:
            InvalidReference: The tag is invalid.

        >>> str(ocikit.Reference.parse("ghcr.io/org/model:v1").tagged("v2"))
        'ghcr.io/org/model:v2'
        """
        return attrs.evolve(self, tag=check_tag(tag), digest=None)


LayoutScheme: TypeAlias = Literal["oci", "oci-archive", "docker-archive"]


def _is_layout_scheme(text: str) -> TypeGuard[LayoutScheme]:
    return text in get_args(LayoutScheme)


@frozen(kw_only=True, repr=False)
class LayoutReference(_Target):
    """An image layout on disk: `oci:path[:tag][@digest]`.

    `oci-archive:path` is a tar of a layout and `docker-archive:path` an archive of `docker save`. The latter stores no
    manifests, so copying an image to it changes the digest of the image.

    The path ends at its first colon, as in skopeo; a Windows drive letter is part of it.

    >>> ocikit.LayoutReference.parse("oci:images:v1")
    LayoutReference('oci:images:v1')
    """

    path: str
    scheme: LayoutScheme = "oci"

    @classmethod
    def parse(cls, text: str | LayoutReference) -> LayoutReference:
        """Return the reference of a text.

        Raises:
            InvalidReference: The text is not a layout reference.
            InvalidDigest: The digest is invalid.

        >>> reference = ocikit.LayoutReference.parse("oci:images/waves:v1")
        >>> str(reference.path), reference.tag
        ('images/waves', 'v1')
        """
        if isinstance(text, LayoutReference):
            return text
        _check_text(text)
        scheme, _, rest = text.partition(":")
        if not _is_layout_scheme(scheme):
            raise InvalidReference(
                f"{quoted(text)} is not a layout",
                hint='write "oci:folder:tag", "oci-archive:file.tar:tag" or "docker-archive:file.tar:name:tag"',
            )
        if scheme == "oci" and re.match(r"//[^/]", rest):
            raise InvalidReference(
                f"{quoted(text)} is a URL, not a reference",
                hint=f'leave out oci://, as Helm writes it: {quoted(rest[2:])}; a layout on disk is written "oci:folder:tag"',
            )
        digest = None
        if match := _DIGEST_SUFFIX.search(rest):
            digest, rest = Digest(match[1]), rest[: match.start()]
        drive = ""
        if re.match(r"[A-Za-z]:[\\/]", rest):
            drive, rest = rest[:2], rest[2:]
        path, colon, tag = rest.partition(":")
        if not path:
            raise InvalidReference(f"{quoted(text)} has no folder", hint='write "oci:folder:tag"')
        if sanitize(path) != path:
            raise InvalidReference(
                f"the path in {quoted(text)} has control characters", hint="rename the folder, or link to it"
            )
        if colon:
            check_ref_name(tag)
        return cls(path=drive + path, scheme=scheme, tag=tag or None, digest=digest)

    @property
    def name(self) -> str:
        """The scheme and the path, without tag and digest."""
        return f"{self.scheme}:{self.path}"

    def _place(self) -> str:
        return self.name[: self.name.rfind("/") + 1] or f"{self.scheme}:"

    def tagged(self, tag: str) -> LayoutReference:
        """Return the reference with this tag and without digest.

        Raises:
            InvalidReference: The tag is invalid.

        >>> str(ocikit.LayoutReference.parse("oci:waves:v1").tagged("v2"))
        'oci:waves:v2'
        """
        return attrs.evolve(self, tag=check_ref_name(tag), digest=None)


AnyReference: TypeAlias = Reference | LayoutReference


def default_tag(source: AnyReference, target: AnyReference) -> str | None:
    """Return the tag of a copy whose target has neither tag nor digest.

    None for a copy without a name.

    A docker archive stores full image names, other targets store tags.
    """
    if isinstance(target, LayoutReference) and target.scheme == "docker-archive":
        if isinstance(source, LayoutReference):
            return source.tag if source.scheme == "docker-archive" else None
        return str(source.tagged(source.tag or "latest")) if source.tag or source.digest is None else None
    if isinstance(source, LayoutReference) and source.scheme == "docker-archive" and source.tag:
        return Reference.parse(source.tag).tag or "latest"
    # A registry reference without tag and digest means "latest", and registries cannot list untagged manifests
    needs_tag = isinstance(source, Reference) or isinstance(target, Reference)
    return source.tag or ("latest" if needs_tag and source.digest is None else None)


def check_ref_name(name: str) -> str:
    """Return the name of content in a layout if it is valid. image-spec annotations.md.

    Raises:
        InvalidReference: The name is invalid.
    """
    if _REF_NAME.fullmatch(name) is None:
        raise InvalidReference(
            f"{quoted(name)} is not a valid name in a layout",
            hint="use letters and digits, with one of - . _ : @ + / between them",
        )
    return name


class HasReference(Protocol):
    """What verbs return and take: an artifact, a listed descriptor, or a plan."""

    @property
    def reference(self) -> AnyReference | None:
        """The reference, pinned by digest."""


#: What verbs take as a reference.
ReferenceLike: TypeAlias = str | AnyReference | HasReference


def parse_reference(text: ReferenceLike) -> AnyReference:
    """Return the reference of a text, or of an object that has one.

    The text is a registry reference, or a layout scheme and a path.

    >>> from ocikit.spec.reference import parse_reference
    >>> parse_reference("ghcr.io/org/model:v1").target
    'v1'

    Raises:
        InvalidReference: The text is neither.
        InvalidDigest: The digest is invalid.
    """
    if isinstance(text, Reference | LayoutReference):
        return text
    if not isinstance(text, str) and isinstance(found := getattr(text, "reference", None), Reference | LayoutReference):
        return found
    if isinstance(text, str) and _is_layout_scheme(text.partition(":")[0]) and ":" in text:
        return LayoutReference.parse(text)
    return Reference.parse(text)
