"""The session: configuration, connections and verbs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self, overload

import attrs

from ocikit import display
from ocikit.client.arguments import (
    ProgressLike,
    PushedPath,
    StrPath,
    Written,
    check_artifact_type,
    check_digest,
    check_login_key,
    check_order,
    check_push,
    check_target,
    check_workers,
    check_written,
    tags_of,
    to_bytes,
    to_patterns,
    to_readme,
)
from ocikit.client.artifact import Artifact, pull_artifact, summarize
from ocikit.client.backends import Backends
from ocikit.client.cosign import cosign_tags, describe_cosign_tags
from ocikit.client.listing import Listing, Tags, select_tags
from ocikit.client.login import ask_credentials, login_host
from ocikit.client.plans import DeletePlan, TagPlan
from ocikit.client.pull import describe_foreign, transfer_title
from ocikit.client.reader import ContentReader
from ocikit.client.resolver import Resolver, target_of
from ocikit.dialects.recognise import AUTO
from ocikit.errors import (
    ConnectionFailed,
    ContentError,
    InvalidArgument,
    InvalidReference,
    NotFound,
    OcikitError,
    Unauthorized,
)
from ocikit.progress.base import TransferStats
from ocikit.remote.auth.explanation import Explanation
from ocikit.remote.auth.keychain import Credentials, Explicit, Keychain
from ocikit.remote.config.mirror import Mirrors
from ocikit.remote.config.network import Network
from ocikit.remote.mirrors import retry_without_bad_mirrors
from ocikit.remote.registry import Ping, Registry
from ocikit.remote.repository import Repository
from ocikit.spec.arguments import to_texts
from ocikit.spec.calls import explain_methods
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Index, PlatformLike, parse_document
from ocikit.spec.media_types import Archive, Shards
from ocikit.spec.platform import Platform
from ocikit.spec.reference import AnyReference, LayoutReference, Reference, ReferenceLike, default_tag, parse_reference
from ocikit.spec.titles import Links
from ocikit.store.cache.cache import Cache, offline
from ocikit.transfer.plan import plan
from ocikit.transfer.pool import WORKERS
from ocikit.transfer.run import Plan

if TYPE_CHECKING:
    from ocikit.client.describe import Descriptions
    from ocikit.client.edit import Edit
    from ocikit.client.validate import ValidationReport
    from ocikit.descriptions.card import Card
    from ocikit.descriptions.model import Description


@explain_methods
class Session(display.Displayable):
    """Connections, credentials and a cache, with the verbs as methods; thread-safe.

    A pickle has the settings without secrets: the other process uses its own credentials, as after a login there.

    Args:
        credentials: `(user, password)`, a mapping from hosts to such pairs, or a function of host and repository.
            None uses the credentials of docker and podman; see `auth.explain`.
        network: Timeouts, proxies, certificates and retries.
        insecure: Hosts that may be contacted without TLS, or with an unverified certificate.
        mirrors: Mirrors to read from first: `{"docker.io": ["mirror.example:5000", "cache.example/hub"]}`. See
            `Network.mirrors`, and `Network.from_registries_conf` for podman's configuration.
        cache: Folder to store content in; None uses `OCIKIT_CACHE` or the platform's cache folder.
        workers: Number of parallel transfers.
        progress: Bars for long calls: True, False, "auto", "none", or a `Progress`. None uses `OCIKIT_PROGRESS`.

    >>> with ocikit.Session(progress=False) as session:
    ...     session.registry("localhost:5000")
    Registry(host='localhost:5000', base='http://localhost:5000')
    """

    def __init__(
        self,
        *,
        credentials: Keychain | Explicit = None,
        network: Network | None = None,
        insecure: Iterable[str] = (),
        mirrors: Mirrors | None = None,
        cache: Cache | StrPath | None = None,
        workers: int = WORKERS,
        progress: ProgressLike = None,
    ) -> None:
        workers = check_workers(workers)
        network = network or Network()
        network = attrs.evolve(
            network,
            insecure=network.insecure | frozenset(to_texts(insecure, "insecure")),
            mirrors={**network.mirrors, **Network(mirrors=mirrors or {}).mirrors},
            connections=max(network.connections, workers),
        )
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        self.workers = workers
        self._catalogs: dict[str, Listing[str]] = {}
        self._keychain = credentials if isinstance(credentials, Keychain) else Keychain(credentials)
        self._backends = Backends(
            network, self._keychain, known=partial(_known_repositories, self.cache, self._catalogs)
        )
        self._reader = ContentReader(self._backends, self.cache, workers=workers, progress=progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Artifacts of this session open new ones on demand.

        >>> session = ocikit.Session()
        >>> artifact = session.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
        >>> session.close()
        """
        self._backends.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._reader)

    def __deepcopy__(self, memo: object) -> Self:
        return self  # settings do not change, and connections and cache are shared

    def __rich_repr__(self) -> display.Description:
        network = self._backends.network
        locations = {key: [m.location for m in mirrors] for key, mirrors in network.mirrors.items() if mirrors}
        yield "workers", self.workers, WORKERS
        yield "insecure", sorted(network.insecure), []
        yield "mirrors", locations, {}
        yield "blocked", sorted(network.blocked), []
        yield "offline", offline(), False

    def _facts(self) -> Iterator[tuple[str, object]]:
        network = self._backends.network
        yield "cache", display.display_path(self.cache.root)
        yield "workers", self.workers
        yield "timeouts", f"{network.connect_timeout:g} s to connect, {network.read_timeout:g} s to read"
        yield "retries", network.retries
        if network.insecure:
            yield "insecure", sorted(network.insecure)
        yield "offline", offline()
        yield "fetch", display.Code('.pull("host/name:tag", "folder/")')

    # Low level

    @property
    def reader(self) -> ContentReader:
        """The reader that the artifacts of this session share."""
        return self._reader

    def registry(self, host: str) -> Registry:
        """Return the registry at a host.

        `registry["team/data"]` has every endpoint of the specification.

        >>> with ocikit.Session() as session:
        ...     session.registry("localhost:5000")["ada/waves"].name
        'ada/waves'
        """
        return self._backends.registry(host)

    def repository(self, reference: ReferenceLike, *, push: bool = False) -> Repository:
        """Return the repository of a reference.

        Args:
            reference: A reference in a registry.
            push: Request the permission to push with the first token.

        >>> with ocikit.Session() as session:
        ...     repository = session.repository("localhost:5000/ada/waves", push=True)
        ...     repository.push_bytes(ocikit.Descriptor.of(b"hello", "text/plain"), b"hello")
        """
        return self._backends.repository(Reference.parse(reference), push=push)

    # Reading

    def pull(
        self,
        ref: ReferenceLike,
        to: StrPath | None = None,
        *,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        platform: PlatformLike | None = None,
        force: bool = False,
        archive: bool | None = None,
        dialect: str | None = AUTO,
        root: str | None = None,
        workers: int | None = None,
        progress: ProgressLike = None,
        dry_run: bool = False,
    ) -> Artifact:
        """Fetch an artifact into the cache, or as files into a folder.

        Args:
            ref: Reference: "ghcr.io/org/name:tag", pinned "…@sha256:…", or "oci:folder:tag" of a layout on disk.
            to: Folder for writable files; a second pull fetches only what has changed. None pulls into the cache.
            include: Glob patterns of file names; none selects all. They also select files in shards: a few files of a
                shard are read by ranges and checked by their CRC-32, of more the shard is fetched.
            exclude: Glob patterns of file names to skip, also in shards.
            platform: Platform to select from an index, such as "linux/arm64"; None selects this machine's.
            force: Overwrite edited files in `to`.
            archive: True unpacks every tar layer into `to`, such as a Helm chart. False keeps archives as files. None
                unpacks folders that were pushed as archives or shards, and archives of models.
            dialect: "auto" gives models the files that their own tools extract. None gives the layers as they are.
            root: For an image: write only what is below this folder, such as "models" of a modelcar, as files into `to`.
            workers: Number of parallel transfers; None uses the session's setting.
            progress: True, False or a `Progress`; None uses the session's setting.
            dry_run: Fetch nothing; the artifact's `.plan` shows what would be fetched.

        Returns:
            The artifact. Its `.path` is the folder with the files.

        Raises:
            InvalidReference: The reference is invalid.
            ManifestUnknown: There is no such tag; the hint has the nearest tags.
            NameUnknown: There is no such repository.
            NoMatchingPlatform: The index lacks the platform, or a single image has another one; the hint has the
                platforms.
            ContentError: Files in `to` were edited, or the disk is full.
            OfflineError: The artifact is not cached, and registries must not be contacted.
            Unauthorized: The registry requires other credentials.
            ConnectionFailed: The registry cannot be reached.
            DigestMismatch: The registry sent other content. Nothing of it is stored.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> artifact = ocikit.pull("oci:waves:v1", "data")
        >>> artifact.path.name
        'data'
        >>> (artifact.path / "sine.csv").read_text()
        'x,y'
        """
        return pull_artifact(
            self._reader,
            parse_reference(ref),
            to,
            include=include,
            exclude=exclude,
            platform=platform,
            force=force,
            archive=archive,
            dialect=dialect,
            root=root,
            workers=workers,
            progress=progress,
            dry_run=dry_run,
        )

    def inspect(
        self, ref: ReferenceLike, *, platform: PlatformLike | None = None, dialect: str | None = AUTO
    ) -> Artifact:
        """Return an artifact or image with its documents, without its content.

        Args:
            ref: Reference, such as "ghcr.io/org/name:tag".
            platform: Platform to select from an index; None returns the index.
            dialect: "auto" names the files of models as their own tools do. None names the layers as they are.

        Returns:
            The artifact. Its files are read when they are used.

        Raises:
            InvalidReference: The reference is invalid.
            ManifestUnknown: There is no such tag; the hint has the nearest tags.
            NameUnknown: There is no such repository.
            NoMatchingPlatform: The index lacks the platform; the hint has those that it has.
            Unauthorized: The registry requires other credentials.
            ConnectionFailed: The registry cannot be reached.
            OfflineError: The artifact is not cached, and registries must not be contacted.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y", "readme.md": b"# Waves"})
        >>> artifact = ocikit.inspect("oci:waves:v1")
        >>> list(artifact.files), artifact.size
        (['sine.csv', 'readme.md'], 10)
        """
        reference = parse_reference(ref)
        if platform is not None:
            return self._manifest(reference, platform, dialect)
        with self._backends.open_source(reference) as source:
            found = Resolver(source, self.cache).resolve_document(reference)
            return Artifact(self._reader, reference, *found, dialect=dialect)

    def _manifest(self, reference: AnyReference, platform: PlatformLike | None, dialect: str | None = AUTO) -> Artifact:
        """Return the artifact for a platform; None selects this machine's."""
        with self._backends.open_source(reference) as source:
            found = Resolver(source, self.cache, get_unknown=True).resolve_files(reference, platform)
            return Artifact(self._reader, reference, *found, dialect=dialect)

    def describe(
        self,
        ref: ReferenceLike | Artifact,
        name: str | None = None,
        *,
        requests: int = 2,
        platform: PlatformLike | None = None,
        dialect: str | None = AUTO,
    ) -> Description | Descriptions:
        """Return what is in the files of an artifact: columns, tensors, members and facts, from a few KiB of each.

        Formats are recognised by their content. Files whose opening runs code, such as pickles, are never parsed. Each file
        needs at most two requests and 128 KiB. The exceptions are the vocabulary of GGUF, the directory of a large zip,
        and models in several files.

        Args:
            ref: Reference of the artifact, or an artifact.
            name: Name of a file, or its digest; None describes all files.
            requests: How many ranges of each file may be requested, see `File.describe`.
            platform: Platform to select from an index; None selects this machine's.
            dialect: "auto" or None, as in `inspect`.

        Returns:
            The description of the file, or of the only one. For several files a mapping by name, which is a table in a
            notebook. The first files have been read, the others are read on use.

        Raises:
            FileNotInArtifact: There is no such file; the hint has the nearest names.
            NotFound: The artifact has no files.
            ContentError: The file is damaged, or its header exceeds a limit.
            OcikitError: The format needs a package that is not installed. Only Parquet and Arrow do: pyarrow.
            ManifestUnknown: There is no such tag; the hint has the nearest tags.

        >>> artifact = ocikit.push("oci:waves:v1", {"waves.jsonl": b'{"x": 0, "y": 1.5}'})
        >>> [column.name for column in ocikit.describe("oci:waves:v1", "waves.jsonl").columns]
        ['x', 'y']
        """
        from ocikit.client.describe import describe  # noqa: PLC0415 - import time that few calls need

        artifact = ref if isinstance(ref, Artifact) else self._manifest(parse_reference(ref), platform, dialect)
        return describe(artifact, name, requests=requests)

    def validate(self, ref: ReferenceLike, *, platform: PlatformLike | None = None) -> ValidationReport:
        """Check every document of an artifact against the specification.

        The documents are indexes, manifests and configs of images; layers are not fetched. The report lists the
        violations by document and JSON path.

        Args:
            ref: Reference to check.
            platform: Platform to select from an index; None checks all manifests.

        Returns:
            The report with all violations. Its `.ok` is True without any.

        Raises:
            NotFound: There is no such reference.
            NoMatchingPlatform: The index lacks the platform.
            OcikitError: jsonschema is not installed.
            Unauthorized: The registry requires other credentials.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> ocikit.validate("oci:waves:v1").violations
        ()
        """
        from ocikit.client.validate import validate  # noqa: PLC0415 - 4 ms of import time that few sessions need

        return validate(self._backends, self.cache, parse_reference(ref), platform, self.workers)

    def pin(self, ref: ReferenceLike) -> AnyReference:
        """Return the reference, pinned by digest.

        Raises:
            ManifestUnknown: There is no such tag; the hint has the nearest tags.
            InvalidReference: The reference is invalid.
            Unauthorized: The registry requires other credentials.
            ConnectionFailed: The registry cannot be reached.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> ocikit.pin("oci:waves:v1").digest == artifact.digest
        True
        """
        reference = parse_reference(ref)
        with self._backends.open_source(reference) as source:
            return reference.pinned(Resolver(source, self.cache).resolve(reference).digest)

    def exists(self, ref: ReferenceLike) -> bool:
        """Return True if a registry or layout has an artifact.

        It is one request, which is not answered from the cache. Offline, the cache answers for what it has.

        Args:
            ref: Reference, such as "ghcr.io/org/name:tag"; without a tag it is that of "latest".

        Returns:
            False if there is no such tag, digest, repository or layout.

        Raises:
            Unauthorized: The registry requires other credentials. Many registries answer so for unknown repositories, too.
            ConnectionFailed: The registry cannot be reached.
            OfflineError: The artifact is not cached, and registries must not be contacted.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> ocikit.exists("oci:waves:v1"), ocikit.exists("oci:waves:v2")
        (True, False)
        """
        reference = parse_reference(ref)
        try:
            with self._backends.open_source(reference) as source:
                if offline():
                    Resolver(source, self.cache).resolve(reference)
                    return True
                return source.has(target_of(source, reference))
        except NotFound:
            return False

    def download(
        self,
        ref: ReferenceLike,
        name: str,
        *,
        platform: PlatformLike | None = None,
        dialect: str | None = AUTO,
        progress: ProgressLike = None,
    ) -> Path:
        """Return the path of one file in the cache; fetch it if necessary.

        Args:
            ref: Reference of the artifact.
            name: Name of the file, as in `inspect(ref).files`, or its digest.
            platform: Platform to select from an index; None selects this machine's.
            dialect: "auto" or None, as in `inspect`.
            progress: True, False or a `Progress`; None uses the session's setting.

        Returns:
            Path of the file, which is read-only. `File.save` writes a copy.

        Raises:
            FileNotInArtifact: There is no such file; the hint has the nearest names.
            ManifestUnknown: There is no such tag; the hint has the nearest tags.
            NoMatchingPlatform: The index lacks the platform; the hint has those that it has.
            Unauthorized: The registry requires other credentials.
            ConnectionFailed: The registry cannot be reached.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> ocikit.download("oci:waves:v1", "sine.csv").read_text()
        'x,y'
        """
        return self._manifest(parse_reference(ref), platform, dialect)[name].download(progress=progress)

    def open(
        self, ref: ReferenceLike, name: str, *, platform: PlatformLike | None = None, dialect: str | None = AUTO
    ) -> BinaryIO:
        """Return one file as a seekable stream from the cache, or by range requests.

        A range can't be verified, but reading from start to end verifies the file. Files up to 4 MiB are requested as a
        whole, verified, and cached.

        Args:
            ref: Reference of the artifact.
            name: Name of the file, as in `inspect(ref).files`, or its digest.
            platform: Platform to select from an index; None selects this machine's.
            dialect: "auto" or None, as in `inspect`.

        Raises:
            FileNotInArtifact: There is no such file; the hint has the nearest names.
            ManifestUnknown: There is no such tag; the hint has the nearest tags.
            NoMatchingPlatform: The index lacks the platform; the hint has those that it has.
            Unauthorized: The registry requires other credentials.
            ConnectionFailed: The registry cannot be reached.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> with ocikit.open("oci:waves:v1", "sine.csv") as file:
        ...     file.read()
        b'x,y'
        """
        return self._manifest(parse_reference(ref), platform, dialect).open(name)

    def tags(self, ref: ReferenceLike, pattern: str | Iterable[str] = "*") -> Tags:
        """Return the tags of a repository or layout; pages are fetched on demand.

        They are in the order of the registry, which is often that of letters: v1.10 before v1.2. The result's `.newest` is
        the newest version, and `.versions` are all versions, newest first.

        Args:
            ref: Repository, such as "ghcr.io/org/name"; a tag or digest is ignored.
            pattern: Glob pattern of the tags to return, such as "v1.*", or several.

        Raises:
            NameUnknown: There is no such repository.
            InvalidArgument: A pattern is not text.
            Unauthorized: The registry requires other credentials.
            ConnectionFailed: The registry cannot be reached.

        >>> artifact = ocikit.push("oci:waves:v1.2", {"sine.csv": b"x,y"}, tags=["v1.10", "latest"])
        >>> list(ocikit.tags("oci:waves", "v1.*"))
        ['v1.10', 'v1.2']
        """
        reference, patterns = parse_reference(ref), to_patterns(pattern, "v1.*")
        # A mirror may have old tags, or only some of them
        with self._backends.open_source(reference, mirrors=False) as source:
            return Tags(select_tags(source.iter_tags(), patterns), reference.name)

    def catalog(self, host: str) -> Listing[str]:
        """Return the names of a registry's repositories; pages are fetched on demand.

        Args:
            host: Host of the registry, such as "localhost:5000".

        Raises:
            Unauthorized: The registry requires other credentials; log in.
            Unsupported: The registry does not list its repositories; many don't.
            ConnectionFailed: The registry cannot be reached.

        >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"sine.csv": b"x,y"})
        >>> list(ocikit.catalog("localhost:5000"))
        ['ada/waves']
        """
        registry = self.registry(host)
        listing = self._catalogs[registry.host] = Listing(registry.catalog(), "repositories", host)
        return listing

    def referrers(self, ref: ReferenceLike, artifact_type: str | None = None) -> Listing[Descriptor]:
        """Return the descriptors of artifacts that are attached to an artifact.

        Args:
            ref: Reference of the subject.
            artifact_type: Type to select, such as "application/spdx+json"; None selects all.

        Raises:
            ManifestUnknown: There is no such tag; the hint has the nearest tags.
            Unauthorized: The registry requires other credentials.
            ConnectionFailed: The registry cannot be reached.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> report = ocikit.attach("oci:waves:v1", {"report.json": b"{}"}, artifact_type="application/vnd.example.report")
        >>> [referrer.artifact_type for referrer in ocikit.referrers("oci:waves:v1")]
        ['application/vnd.example.report']
        """
        return self._reader.referrers(parse_reference(ref), check_artifact_type(artifact_type))

    def ping(self, host: str) -> Ping:
        """Return whether a registry is reachable and accepts the credentials.

        Returns:
            The result, which is True if the registry accepts the credentials. A failure is in `.problem`.

        Raises:
            InvalidReference: The host is invalid.

        >>> bool(ocikit.ping("localhost:5000"))
        True
        """
        return self.registry(host).ping()

    # Writing

    def push(
        self,
        ref: ReferenceLike,
        *paths: PushedPath,
        artifact_type: str | None = None,
        annotations: Mapping[str, str] | None = None,
        subject: ReferenceLike | None = None,
        tags: Iterable[str] = (),
        message: str | None = None,
        inputs: ReferenceLike | Iterable[ReferenceLike] = (),
        version: Literal["next"] | None = None,
        config: bytes | Mapping[str, Any] | None = None,
        config_type: str | None = None,
        archive: Archive | None = None,
        shards: Shards | None = None,
        shard_size: int | str = "256MiB",
        index: bool = False,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        media_types: Mapping[str, str] | None = None,
        as_: Written | None = None,
        model: Mapping[str, Any] | None = None,
        classes: Mapping[str, str] | None = None,
        links: Links = "inside",
        hidden: bool = False,
        secrets: bool = False,
        card: Card | StrPath | None = None,
        workers: int | None = None,
        progress: ProgressLike = None,
        dry_run: bool = False,
    ) -> Artifact:
        """Push files and folders as an artifact. The same files give the same digest.

        "waves/" gives `waves/sine.csv`, "waves/." gives `sine.csv`. Below a folder, `.git`, checkpoints, caches and files
        of the operating system are left out, and what a `.ocikitignore` file there ignores, in the syntax of gitignore.

        Args:
            ref: Reference to push to, with a tag.
            paths: Files and folders; files in folders keep their relative paths. "folder/." leaves the folder's name out.
                A mapping has contents by name: `{"notes.txt": b"…", "a.csv": "local.csv"}`, of bytes, paths and files that
                are open for reading.
            artifact_type: Type of the artifact, as a media type; None is the type of plain files.
            annotations: Annotations of the manifest.
            subject: Artifact in the same repository that this one is attached to.
            tags: More tags.
            message: What this version changes, for the history.
            inputs: References of artifacts that this one was made from, such as the data of a model. They are pinned.
            version: "next" gives the artifact the next free tag of v1, v2, …, too, and the manifest names the version before.
                The same files and annotations again do not make a new version.
            config: JSON or bytes that describe the artifact.
            config_type: Media type of the config.
            archive: "tar", "tar+gzip" or "tar+zstd" makes one layer of each folder; None makes one of each file.
            shards: "zip" or "tar" puts the files of each folder into archives without compression, for very many files. A pull
                writes the files. `fs` reads files of a zip by ranges; a tar is in the order of WebDataset.
            shard_size: Bytes of the largest shard, such as "256MiB".
            index: List the files in several manifests of a nested index, for more files than one manifest can list. Each
                file stays a blob of its own. Other clients pull the manifests one by one.
            include: Glob patterns of file names; none selects all.
            exclude: Glob patterns of file names to skip.
            media_types: Media types by file name; others are guessed.
            as_: "modelpack", "kit" or "docker" writes the model format of the CNCF, of KitOps or of Docker, which their tools
                read. If a folder is the only path, its content is the model, without the folder's name.
            model: With `as_`, facts about the model such as `{"name": "tiny", "license": "MIT"}`. Others are read from
                `config.json`, the front matter of `README.md`, and the headers of safetensors and GGUF files. None as a value
                leaves one out.
            classes: With `as_`, classes of files by pattern, such as `{"*.csv": "doc"}`: "weights", "config", "doc", "code"
                or "dataset". Others are chosen by name.
            links: "inside" follows symlinks that stay in their folder and rejects others, "follow" follows all, "skip"
                skips all.
            hidden: Push all files: also what is left out by default or ignored, and what looks like a secret.
            secrets: Push files that look like secrets, such as `.env` and private keys. The summary names them.
            card: README.md of the artifact: a `Card`, its text, or the path of a README. Text that ends with ".md" is a path.
                Patterns do not apply to it.
            workers: Number of parallel transfers; None uses the session's setting.
            progress: True, False or a `Progress`; None uses the session's setting.
            dry_run: Push nothing; the artifact's `.plan` shows what would be pushed.

        Returns:
            The artifact. Its `.reference` and `.digest` name what was pushed.

        Raises:
            NotFound: A path does not exist.
            ContentError: A file has changed during the push or cannot be read, there is nothing to push, or a file
                looks like a secret.
            Unauthorized: The registry requires other credentials.
            Denied: The credentials do not allow the push.
            UploadInvalid: The registry rejects the content.
            InvalidReference: The reference is invalid.
            InvalidArgument: Arguments contradict each other.
            ConnectionFailed: The registry cannot be reached.

        >>> from pathlib import Path
        >>> Path("waves").mkdir()
        >>> size = Path("waves/sine.csv").write_text("x,y")
        >>> artifact = ocikit.push("oci:data:v1", "waves/.", {"readme.md": b"# Waves"})
        >>> list(artifact.files)
        ['sine.csv', 'readme.md']
        """
        from ocikit.client.notes import check_message, pin_inputs, write_notes  # noqa: PLC0415 - as below
        from ocikit.client.push import (  # noqa: PLC0415 - 15 ms of import time that pulls do not need
            build_artifact,
            build_nested,
            describe_selection,
            model_excluded,
            model_paths,
            model_writer,
            plan_push,
            push_files,
            resolve_subject,
            select_files,
            spooled_files,
        )

        check_order(ref, paths)
        check_target(ref)
        reference = parse_reference(ref)
        readme = None if card is None else to_readme(card)
        if all(isinstance(path, Mapping) and not path for path in paths) and (
            as_ is not None or (subject is None and config is None and readme is None)
        ):
            raise ContentError("nothing to push", hint='name files or folders: push("host/name:tag", "data/")')
        workers = self._workers(workers)
        types = {"artifact_type": artifact_type, "config_type": config_type}
        content = check_push(paths, archive, shards, links, config, annotations, types, index=index)
        check_message(message)
        if version is not None:
            from ocikit.client.versions import VersionPush, Versions, check_version  # noqa: PLC0415 - few pushes need it

            check_version(version, reference, attached=subject is not None, nested=index)
        check_written(
            as_,
            {"model": model, "classes": classes},
            {
                **types,
                "config": config,
                "archive": archive,
                "shards": shards,
                "index": index or None,
                "media_types": media_types,
            },
        )
        with self.cache.hashes() as known, spooled_files(paths) as files:
            selection = select_files(
                files if as_ is None else model_paths(files),
                archive=archive,
                include=include,
                exclude=exclude if as_ is None else model_excluded(as_, exclude),
                media_types=media_types,
                links=links,
                hidden=hidden,
                secrets=secrets,
                known=known,
                shards=shards,
                shard_size=to_bytes(shard_size, "shard_size"),
                readme=readme,
            )
            notes = write_notes(message, pin_inputs(self._reader, inputs))
            writer = model_writer(selection, as_, model, classes)
            with self._backends.open_store(reference) as target:
                about = None if subject is None else resolve_subject(target, reference, parse_reference(subject))
                notes = {**(annotations or {}), **notes}
                build = (
                    partial(build_nested, annotations=notes, subject=about)
                    if index
                    else partial(
                        build_artifact,
                        artifact_type=artifact_type,
                        config=content,
                        config_type=config_type,
                        annotations=notes,
                        subject=about,
                        writer=writer,
                    )
                )
                publish = None
                if version is not None:
                    publish = VersionPush(
                        versions=Versions(target, reference.name, self.cache.lock_folder()),
                        tags=tags_of(reference, tags, default=True),
                        workers=workers,
                    )
                if dry_run:
                    with closing(selection.pack(workers)) as packed:
                        built, names = build(packed), tags
                        if publish is not None:
                            built, names = publish.preview(built)
                        work = plan_push(built, target, reference, tags=names, check=True, workers=workers)
                    return Artifact(self._reader, reference, work.root, built.manifest, plan=work)
                stats = TransferStats(self._reader.listener(progress))
                title = transfer_title("push", reference)
                built = push_files(
                    selection,
                    build,
                    target,
                    reference,
                    tags=tags,
                    workers=workers,
                    progress=stats,
                    title=title,
                    publish=publish,
                    config_last=writer is not None,
                )
                note = describe_selection(selection)
                if publish is not None and publish.published is not None:
                    reference, note = reference.tagged(publish.published.tag), note + publish.describe()
                artifact = Artifact(self._reader, reference, built.manifest.descriptor, built.manifest)
                summarize(artifact, stats, "pushed", str(artifact.reference), note)
        return artifact

    def attach(
        self,
        ref: ReferenceLike,
        *paths: PushedPath,
        artifact_type: str,
        annotations: Mapping[str, str] | None = None,
        tags: Iterable[str] = (),
        archive: Archive | None = None,
        shards: Shards | None = None,
        shard_size: int | str = "256MiB",
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        media_types: Mapping[str, str] | None = None,
        links: Links = "inside",
        hidden: bool = False,
        secrets: bool = False,
        workers: int | None = None,
        progress: ProgressLike = None,
        dry_run: bool = False,
    ) -> Artifact:
        """Attach files to an artifact, such as a report; `referrers(ref)` lists them.

        Args:
            ref: Reference of the subject.
            paths: Files and folders; none are needed if the annotations are enough.
            artifact_type: Type of the new artifact, as a media type.
            annotations: Annotations of the new manifest.
            tags: Tags of the new artifact; usually it has none.
            archive: Kind of archive for folders, as in `push`.
            shards: Kind of shards for folders of very many files, as in `push`.
            shard_size: Bytes of the largest shard, as in `push`.
            include: Glob patterns of file names; none selects all.
            exclude: Glob patterns of file names to skip.
            media_types: Media types by file name; others are guessed.
            links: How to handle symlinks, as in `push`.
            hidden: Push all files, as in `push`.
            secrets: Push files that look like secrets, as in `push`.
            workers: Number of parallel transfers; None uses the session's setting.
            progress: True, False or a `Progress`; None uses the session's setting.
            dry_run: Push nothing; the artifact's `.plan` shows what would be pushed.

        Returns:
            The attached artifact.

        Raises:
            ManifestUnknown: There is no such tag; the hint has the nearest tags.
            NotFound: A path does not exist.
            ContentError: A file cannot be read, or there is nothing to attach.
            Unauthorized: The registry requires other credentials.
            Denied: The credentials do not allow the push.
            UploadInvalid: The registry rejects the content.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> report = ocikit.attach("oci:waves:v1", {"report.json": b"{}"}, artifact_type="application/vnd.example.report")
        >>> report.manifest.subject.digest == artifact.digest
        True
        """
        reference = parse_reference(ref)
        return self.push(
            attrs.evolve(reference, tag=None, digest=None),
            *paths,
            artifact_type=artifact_type,
            annotations=annotations,
            subject=reference,
            tags=tags,
            archive=archive,
            shards=shards,
            shard_size=shard_size,
            include=include,
            exclude=exclude,
            media_types=media_types,
            links=links,
            hidden=hidden,
            secrets=secrets,
            workers=workers,
            progress=progress,
            dry_run=dry_run,
        )

    def edit(
        self,
        ref: ReferenceLike,
        *,
        to: ReferenceLike | None = None,
        expect: str | Artifact | None = None,
        tags: Iterable[str] = (),
        message: str | None = None,
        inputs: ReferenceLike | Iterable[ReferenceLike] = (),
        version: Literal["next"] | None = None,
        dry_run: bool = False,
        workers: int | None = None,
    ) -> Edit:
        """Edit an artifact in a `with` block, without downloading what stays.

        New content is uploaded at once, and the tag moves at the end of the block. After an exception in the block it names
        what it named before. Changes of other writers meanwhile are merged, unless both sides changed one file. A client that
        does not merge, such as a plain push, can replace the tag afterwards.

        Args:
            ref: Artifact to edit, with a tag; a new one starts without files.
            to: Reference of the result, if the tag of `ref` must not move; its repository may be another one.
            expect: Digest that the tag must name, or an artifact with it.
            tags: More tags of the result.
            message: What the edit changes, for the history. The manifest also names the version before.
            inputs: References of artifacts that new content was made from; they are added to those of the version before.
            version: "next" gives the result the next free tag of v1, v2, …, too.
            dry_run: Upload nothing and leave the tag; `.plan` shows what would change.
            workers: Number of parallel transfers; None uses the session's setting.

        Returns:
            The edit: a mapping of file names to contents, and a context manager.

        Raises:
            InvalidReference: There is no tag to move.
            Conflict: At the end of the block: another writer has changed a file that the block changed, or the tag names
                something else than expected. The tag was not moved.
            InvalidDocument: The artifact is an image or an index.
            Unauthorized: The registry requires other credentials.
            Denied: The credentials do not allow the push.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> with ocikit.edit("oci:waves:v1", message="add a note") as edit:
        ...     edit["note.txt"] = b"hello"
        >>> list(ocikit.inspect("oci:waves:v1").files)
        ['sine.csv', 'note.txt']
        """
        from ocikit.client.edit import Edit  # noqa: PLC0415 - 15 ms of import time that pulls do not need

        reference = parse_reference(ref)
        if isinstance(to, str) and not set(to) & set("/:@"):  # the name of an official image, which is read-only
            raise InvalidArgument(
                f"to={to!r} is not the reference of the result", hint=f"write to={f'{reference.name}:{to}'!r}"
            )
        return Edit(
            self._reader,
            reference,
            to=None if to is None else parse_reference(to),
            expect=expect,
            tags=tags,
            message=message,
            inputs=inputs,
            version=version,
            dry_run=dry_run,
            workers=self._workers(workers),
        )

    def copy(
        self,
        source: ReferenceLike,
        target: ReferenceLike,
        *,
        referrers: bool = False,
        cosign: bool = False,
        platform: PlatformLike | None = None,
        convert: Literal["oci"] | None = None,
        tags: Iterable[str] = (),
        workers: int | None = None,
        progress: ProgressLike = None,
        dry_run: bool = False,
    ) -> Artifact:
        """Copy an artifact, image or index between registries, layouts and archives.

        Args:
            source: Reference to copy from.
            target: Reference to copy to; without a tag, it gets the source's.
            referrers: Also copy the artifacts that are attached to it.
            cosign: Also copy the tags `sha256-….sig`, `.att` and `.sbom` of cosign, which are not referrers. They are not
                part of the plan of a dry run.
            platform: Platform to select from an index; the copy has the digest of that manifest.
            convert: "oci" writes Docker's manifests and lists as OCI manifests and indexes. Their digests change: the
                artifact's `.converted` has the new ones by the old ones, and `.summary` names them. Blobs stay the same,
                and referrers and signatures stay about the old digests. None copies the documents as they are.
            tags: More tags at the target.
            workers: Number of parallel transfers; None uses the session's setting.
            progress: True, False or a `Progress`; None uses the session's setting.
            dry_run: Copy nothing; the artifact's `.plan` shows what would be copied.

        Returns:
            The artifact at the target.

        Raises:
            CopyError: One side failed; the error names the side and the content, and its cause is the reason.
            ManifestUnknown: The source has no such tag; the hint has the nearest tags.
            NoMatchingPlatform: The index lacks the platform; the hint has those that it has.
            InvalidArgument: `convert` is unknown.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> copied = ocikit.copy("oci:waves:v1", "localhost:5000/ada/waves")
        >>> copied.digest == artifact.digest, copied.reference.tag
        (True, 'v1')
        """
        if convert is not None:
            from ocikit.client import convert as conversion  # noqa: PLC0415 - 1 ms of import time that few copies need

            conversion.check_convert(convert)
        check_target(target)
        here, there = parse_reference(source), parse_reference(target)
        if there.tag is None and there.digest is None and (name := default_tag(here, there)):
            there = there.tagged(name)
        workers = self._workers(workers)
        with self._backends.open_source(here) as origin, self._backends.open_store(there) as destination:
            resolver = Resolver(origin, self.cache)
            root = resolver.resolve(here)
            if isinstance(there, LayoutReference) and there.scheme == "docker-archive" and platform is None:
                # Docker archives hold images, not indexes; a single image may be for any platform
                is_index = isinstance(resolver.fetch_document(root), Index)
                platform = Platform.host() if is_index else None
            work = plan(
                origin,
                root,
                destination,
                tags=tags_of(there, tags, default=False),
                platform=platform,
                referrers=referrers,
                check=dry_run,
                workers=workers,
            )
            work = _with_actual_sizes(work)
            originals, root_digest = work.documents, work.root.digest
            work = work if convert is None else conversion.convert_plan(work)
            check_digest(there, work.root)
            document = parse_document(dict(work.documents)[work.root], work.root.media_type)
            artifact = Artifact(self._reader, there, work.root, document, plan=work if dry_run else None)
            artifact.converted = work.converted
            if dry_run:
                return artifact

            def run() -> TransferStats:
                stats = TransferStats(self._reader.listener(progress))
                work.run(workers=workers, progress=stats, title=transfer_title("copy", there))
                for name in signatures if cosign else ():
                    more = _with_actual_sizes(plan(origin, name, destination, tags=[name], workers=workers))
                    more.run(workers=workers, progress=stats, title=transfer_title("copy", there))
                return stats

            signatures: tuple[str, ...] = ()
            if cosign:
                signatures = cosign_tags(origin, (d.digest for d, _ in originals), workers=workers)
            stats, note = retry_without_bad_mirrors(origin, run), describe_foreign(work.foreign)
            if convert is not None:
                note += conversion.describe_conversion(work, referrers=referrers or cosign)
            if referrers and not cosign:
                with suppress(OcikitError):  # only the summary needs them
                    note += describe_cosign_tags(cosign_tags(origin, [root_digest], workers=workers))
            summarize(artifact, stats, "copied", str(artifact.reference), note)
        return artifact

    @overload
    def tag(self, ref: ReferenceLike, *tags: str, dry_run: Literal[False] = False) -> AnyReference: ...

    @overload
    def tag(self, ref: ReferenceLike, *tags: str, dry_run: Literal[True]) -> TagPlan: ...

    def tag(self, ref: ReferenceLike, *tags: str, dry_run: bool = False) -> AnyReference | TagPlan:
        """Give an artifact more tags in its repository; its bytes stay unchanged.

        Args:
            ref: Reference of the artifact.
            tags: New tags.
            dry_run: Change nothing; return a plan.

        Returns:
            The reference, pinned by digest, or with `dry_run` a plan of the changes.

        Raises:
            ManifestUnknown: There is no such artifact.
            InvalidArgument: There is no tag to give.
            InvalidReference: A tag is invalid.
            Unauthorized: The registry requires other credentials.
            Denied: The credentials do not allow it.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"})
        >>> pinned = ocikit.tag("oci:waves:v1", "v1.0", "latest")
        >>> list(ocikit.tags("oci:waves"))
        ['latest', 'v1', 'v1.0']
        """
        reference = parse_reference(ref)
        if not tags:
            raise InvalidArgument("no tag to give", hint=f'name one or more: tag("{reference}", "v2")')
        for name in tags:
            if not isinstance(name, str):
                raise InvalidArgument(
                    f"a tag is text, not {type(name).__name__}: {display.quoted(name, 80)}",
                    hint="unpack the list: tag(ref, *tags)" if isinstance(name, list | tuple | set) else "pass a str",
                )
        with self._backends.open_store(reference, create=False) as target:
            descriptor = target.resolve(target_of(target, reference))
            pinned = reference.pinned(descriptor.digest)
            if dry_run:
                current = {}
                for name in tags:
                    with suppress(NotFound):
                        current[name] = target.resolve(name).digest
                return TagPlan(reference=pinned, tags=tags, current=current)
            for name in tags:
                target.tag(descriptor, name)
        return pinned

    @overload
    def delete(self, ref: ReferenceLike, *, dry_run: Literal[False] = False) -> None: ...

    @overload
    def delete(self, ref: ReferenceLike, *, dry_run: Literal[True]) -> DeletePlan: ...

    def delete(self, ref: ReferenceLike, *, dry_run: bool = False) -> DeletePlan | None:
        """Delete a tag, or with a digest the manifest and all its tags.

        The registry's garbage collection deletes the blobs later.

        Args:
            ref: Reference with a tag, to delete only the tag, or with a digest, to delete the manifest.
            dry_run: Delete nothing; return a plan.

        Returns:
            None, or with `dry_run` a plan of the deletion.

        Raises:
            InvalidReference: The reference has neither tag nor digest.
            ManifestUnknown: There is no such tag or manifest.
            Unsupported: The registry does not delete; the hint has what it offers instead.
            Unauthorized: The registry requires other credentials.
            Denied: The credentials do not allow it.

        >>> artifact = ocikit.push("oci:waves:v1", {"sine.csv": b"x,y"}, tags=["v2"])
        >>> ocikit.delete("oci:waves:v1")
        >>> list(ocikit.tags("oci:waves"))
        ['v2']
        """
        reference = parse_reference(ref)
        if reference.tag is None and reference.digest is None:
            raise InvalidReference(
                f"{reference} names neither tag nor digest", hint="say what to delete: …:tag or …@sha256:…"
            )
        with self._backends.open_store(reference, create=False) as target:
            descriptor = target.resolve(reference.target)
            if dry_run:
                return DeletePlan(reference=reference, digest=descriptor.digest)
            if reference.digest is not None:
                target.delete(descriptor)
            elif reference.tag is not None:
                target.untag(reference.tag)
        return None

    # Credentials

    def login(self, host: str, username: str = "", password: str | None = None) -> str:
        """Check credentials with a registry and store them.

        Docker and podman find them, too. Missing values are prompted for; the password is not echoed. See `ocikit.login_form` for a form in a notebook.

        Args:
            host: Host of the registry, such as "ghcr.io".
            username: Name of the account.
            password: Password or token; None prompts for it.

        Returns:
            Where the credentials are stored. A note follows if the registry requires no login and did not check them.

        Raises:
            Unauthorized: The credentials are invalid; nothing is stored.
            CredentialsError: A prompt is not possible here.
            ConnectionFailed: The credentials could not be checked; nothing is stored.

        >>> with ocikit.Session() as session:
        ...     session.login("localhost:5000", "ada", "not shown")
        '~/.docker/config.json; they were not checked, because localhost:5000 requires no login'
        """
        registry, unchecked = login_host(host), False
        if password is None:
            username, password = ask_credentials(registry, username)

        def verify(credentials: Credentials) -> None:
            nonlocal unchecked
            with Session(credentials={registry: credentials}, network=self._backends.network) as session:
                ping = session.ping(registry)
            if not ping.reachable:
                raise ConnectionFailed(
                    f"the credentials could not be checked: {ping.problem}",
                    hint="check the host's name and port, and that the registry is running; nothing was stored",
                )
            if not ping.authenticated:
                raise Unauthorized(
                    f"{registry} rejects the credentials{f' of {username}' if username else ''}: {ping.problem}",
                    hint="check user and password; nothing was stored",
                )
            unchecked = not ping.requires_login

        where = self._keychain.login(host, username, password, verify=verify)
        return f"{where}; they were not checked, because {registry} requires no login" if unchecked else where

    def logout(self, host: str) -> bool:
        """Delete the credentials that `login` stored for a registry.

        Returns:
            True if there were any.

        >>> with ocikit.Session() as session:
        ...     session.logout("ghcr.io")
        False
        """
        return self._keychain.logout(check_login_key(host))

    def explain(self, host: str, repository: str = "") -> Explanation:
        """Return where credentials for a registry come from, without secrets.

        Args:
            host: Host of the registry, such as "ghcr.io".
            repository: Name of a repository, for credentials that apply to a path.

        >>> with ocikit.Session(credentials={"ghcr.io": ("ada", "not shown")}) as session:
        ...     session.explain("ghcr.io")
        Explanation(host='ghcr.io', username='ada', kind='password', place='passed credentials')
        """
        return self._keychain.explain(check_login_key(host), repository)

    def _workers(self, workers: int | None) -> int:
        return self.workers if workers is None else check_workers(workers)


def _known_repositories(cache: Cache, catalogs: Mapping[str, Listing[str]], host: str) -> set[str]:
    """Return repository names of a host from the cache and listings, without a request."""
    listed = catalogs[host].known if host in catalogs else ()
    with suppress(OSError, OcikitError):
        return {*cache.repositories(host), *listed}
    return set(listed)


def _restore(cls: type[Session], reader: ContentReader) -> Session:
    """Return a session from its pickle, which has the settings without secrets."""
    return cls(
        credentials=reader.backends.keychain,
        network=reader.backends.network,
        cache=reader.cache,
        workers=reader.workers,
        progress=reader.progress,
    )


def _with_actual_sizes(work: Plan) -> Plan:
    """Return the plan with the actual sizes of its documents; HEAD may state others."""
    documents = tuple((d if d.size == len(raw) else attrs.evolve(d, size=len(raw)), raw) for d, raw in work.documents)
    root = next(d for d, _ in documents if d.digest == work.root.digest)
    return attrs.evolve(work, documents=documents, root=root)
