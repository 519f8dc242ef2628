"""A session: who we are, where things are kept and how they move, in one value; the verbs are its methods."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeAlias

import attrs

from ocikit import display
from ocikit.client.arguments import check_digest, check_name, check_push, check_workers, to_patterns
from ocikit.client.artifact import Artifact, verified
from ocikit.client.backends import Backends
from ocikit.client.listing import Listing
from ocikit.client.login import ask_credentials, login_host
from ocikit.client.pull import fetch_to_cache, fetch_to_folder, folder_plan, select_layers
from ocikit.client.resolver import Resolver, target_of
from ocikit.errors import (
    ConnectionFailed,
    ContentError,
    CopyError,
    InvalidArgument,
    InvalidReference,
    NameUnknown,
    OcikitError,
    Unauthorized,
)
from ocikit.progress.base import Progress, TransferStats
from ocikit.remote.auth.explanation import Explanation
from ocikit.remote.auth.keychain import Credentials, Keychain
from ocikit.remote.config.mirror import Mirrors
from ocikit.remote.config.network import Network
from ocikit.remote.mirrors import retry_without_bad_mirrors
from ocikit.remote.registry import Ping, Registry
from ocikit.remote.repository import Repository
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Index, Manifest, PlatformLike, parse_document
from ocikit.spec.platform import Platform
from ocikit.spec.reference import AnyReference, LayoutReference, Reference, default_tag, parse_reference
from ocikit.store.base import Store
from ocikit.store.cache.cache import Cache, offline
from ocikit.transfer.plan import plan
from ocikit.transfer.pool import WORKERS
from ocikit.transfer.run import Plan

if TYPE_CHECKING:
    from ocikit.client.validate import ValidationReport
    from ocikit.folder.folder import Folder

Paths: TypeAlias = "str | os.PathLike[str]"

#: How a call shows its progress: True or "auto" as fits the place, False or "none" not at all, or a listener of one's own.
ProgressLike: TypeAlias = "bool | str | Progress | None"


class Session(display.Displayable):
    """One connection pool, one set of credentials, one cache; the verbs of `ocikit` as methods. Safe in threads.

    Args:
        credentials: `(user, password)`, a mapping from hosts to such pairs, or a function of host and repository. None
            looks where docker and podman keep them; see `auth.explain`.
        network: timeouts, proxies, certificates, retries.
        insecure: hosts that may be spoken to without TLS, or with a certificate that nobody vouches for.
        mirrors: where registries are read first: `{"docker.io": ["mirror.example:5000", "cache.example/hub"]}`; see
            `Network.mirrors`, and `Network.from_registries_conf` for those of podman.
        cache: the folder to keep content in; None is `OCIKIT_CACHE` or the platform's cache folder.
        workers: transfers at once.
        progress: bars for long calls: True, False, "auto", "none", or a `Progress`. None asks `OCIKIT_PROGRESS`.

    >>> with Session(progress=False) as session:
    ...     session.registry("localhost:5000")
    Registry(host='localhost:5000', base='http://localhost:5000')
    """

    def __init__(
        self,
        *,
        credentials: Any = None,
        network: Network | None = None,
        insecure: Iterable[str] = (),
        mirrors: Mirrors | None = None,
        cache: Cache | Paths | None = None,
        workers: int = WORKERS,
        progress: ProgressLike = None,
    ) -> None:
        workers = check_workers(workers)
        settings = network or Network()
        settings = attrs.evolve(
            settings,
            insecure=settings.insecure | frozenset(insecure),
            mirrors={**settings.mirrors, **Network(mirrors=mirrors or {}).mirrors},
            connections=max(settings.connections, workers),
        )
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        self.workers = workers
        self._progress = progress
        self._keychain = credentials if isinstance(credentials, Keychain) else Keychain(credentials)
        self._backends = Backends(settings, self._keychain)
        self._catalogs: dict[str, Listing[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Artifacts of this session stay usable: they open new ones."""
        self._backends.close()

    def __rich_repr__(self) -> display.Description:
        yield "workers", self.workers, WORKERS
        yield "insecure", sorted(self._backends.network.insecure), []
        yield (
            "mirrors",
            {k: [m.location for m in some] for k, some in self._backends.network.mirrors.items() if some},
            {},
        )
        yield "blocked", sorted(self._backends.network.blocked), []
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

    def registry(self, host: str) -> Registry:
        """The registry at a host; `["team/data"]` of it has every endpoint of the specification."""
        return self._backends.registry(host, known=self._known_repositories)

    def _known_repositories(self, host: str) -> set[str]:
        """Return the names of repositories that this session has listed or the cache holds, without a request."""
        return {*self.cache.repositories(host), *(self._catalogs[host].known if host in self._catalogs else ())}

    def repository(self, reference: str | Reference, *, push: bool = False) -> Repository:
        """The repository of a reference; with `push`, the first token already holds the right to."""
        return self._backends.repository(Reference.parse(reference), push=push)

    # Reading

    def pull(
        self,
        ref: str | AnyReference,
        to: Paths | None = None,
        *,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        platform: PlatformLike | None = None,
        force: bool = False,
        workers: int | None = None,
        progress: ProgressLike = None,
        dry_run: bool = False,
    ) -> Artifact:
        """Fetch an artifact: to the cache, or as files in a folder.

        Args:
            ref: what to pull: "ghcr.io/org/name:tag", pinned "…@sha256:…", or "oci:folder:tag" from a layout on disk.
            to: a folder for real, writable files; a second pull moves only what changed. None keeps them in the cache.
            include: glob patterns of file names; all if there are none.
            exclude: glob patterns of file names to leave out.
            platform: which manifest of an index, as "linux/arm64"; None is this machine's.
            force: overwrite files in `to` that were edited.
            workers: transfers at once, if not the session's.
            progress: bars: True, False or a `Progress` of one's own; None is as the session's, or as `OCIKIT_PROGRESS` says.
            dry_run: move nothing; the artifact's `.plan` says what would be.

        Raises:
            InvalidReference, ManifestUnknown, NameUnknown: with the nearest that there is.
            NoMatchingPlatform: with the platforms that there are.
            ContentError: files in `to` were edited, or the disk is full. OfflineError: not in the cache.
        """
        reference = parse_reference(ref)
        workers = self._workers(workers)
        with self._backends.open_source(reference) as source:
            descriptor, manifest = Resolver(source, self.cache).resolve_manifest(reference, platform)
            layers = select_layers(manifest, to_patterns(include), to_patterns(exclude))
            artifact = Artifact(self, reference, descriptor, manifest)
            # Synced no more than what cp or curl write: a power cut may damage a fresh file, and the next pull says so
            folder = _folder(to, sync=False) if to is not None else None
            steps = folder_plan(folder, manifest, layers, reference, force=force) if folder else None
            if dry_run:
                return Artifact(self, reference, descriptor, manifest, plan=steps or self._cache_plan(manifest, layers))
            blobs = layers if manifest.config.embedded is not None else (manifest.config, *layers)
            title = _title("pull", reference)

            def move() -> TransferStats:
                nonlocal steps
                tally = TransferStats(self._bars(progress))
                if folder is None:
                    fetch_to_cache(source, self.cache, blobs, workers=workers, progress=tally, title=title)
                    return tally
                # Planned anew if this is the second time: the first has brought some of the files
                todo, steps = steps or folder_plan(folder, manifest, layers, reference, force=force), None
                fetch_to_folder(
                    source, self.cache, folder, todo, manifest, reference, workers=workers, progress=tally, title=title
                )
                return tally

            tally = retry_without_bad_mirrors(source, move)
            if folder is not None:
                artifact.path = folder.path
            elif not manifest.is_image:
                artifact.path = self._snapshot(artifact, layers)
        _tell(artifact, tally, "pulled", display.display_path(artifact.path or self.cache.root))
        return artifact

    def _cache_plan(self, manifest: Manifest, layers: Sequence[Descriptor]) -> Plan:
        blobs = {b.digest: b for b in (manifest.config, *layers)}
        return Plan(
            source=self.cache, target=self.cache, root=manifest.descriptor, tags=(), documents=(), blobs=tuple(blobs.values()),
            present=frozenset(d for d, b in blobs.items() if self.cache.exists(b)), checked=True,
        )  # fmt: skip

    def inspect(self, ref: str | AnyReference, *, platform: PlatformLike | None = None) -> Artifact:
        """What an artifact or image is: its documents, without its content. Shown in a notebook, it unfolds.

        Args:
            ref: what to look at, as "ghcr.io/org/name:tag".
            platform: the manifest for a platform; None gives what the reference names, perhaps an index.
        """
        reference = parse_reference(ref)
        with self._backends.open_source(reference) as source:
            if platform is not None:
                return Artifact(self, reference, *Resolver(source, self.cache).resolve_manifest(reference, platform))
            return Artifact(self, reference, *Resolver(source, self.cache).resolve_document(reference))

    def validate(self, ref: str | AnyReference, *, platform: PlatformLike | None = None) -> ValidationReport:
        """Whether every document of an artifact is what the specification says: indexes, manifests, configs of images.

        The report is true if all is well, and else lists what is wrong, by document and place. Layers are not fetched.

        Args:
            ref: what to look at.
            platform: only that manifest of an index; None is all of them.

        Raises:
            NotFound: no such reference. NoMatchingPlatform. OcikitError: jsonschema is not installed. Never for what
                is in a document.
        """
        from ocikit.client.validate import validate  # noqa: PLC0415 - few sessions do

        return validate(self._backends, self.cache, parse_reference(ref), platform, self.workers)

    def resolve(self, ref: str | AnyReference) -> AnyReference:
        """The same reference, pinned by digest. Raises: ManifestUnknown: with the nearest tags."""
        reference = parse_reference(ref)
        with self._backends.open_source(reference) as source:
            return reference.pinned(Resolver(source, self.cache).resolve(reference).digest)

    def fetch(self, ref: str | AnyReference, name: str, *, progress: ProgressLike = None) -> Path:
        """One file's path on disk, fetched to the cache if it isn't there. Raises: FileNotInArtifact: with the nearest names."""
        return self.fetch_file(self._at_hand(parse_reference(ref)), name, progress=progress)

    def fetch_file(self, artifact: Artifact, name: str, *, progress: ProgressLike = None) -> Path:
        """As `fetch`, for an artifact at hand."""
        layer = artifact.files[name].descriptor
        if artifact.path is not None and (artifact.path / name).is_file():
            return artifact.path / name
        self.ensure(artifact, [layer], progress=progress)
        return self._snapshot(artifact, [layer]) / name

    def open(self, ref: str | AnyReference, name: str) -> BinaryIO:
        """One file as a seekable stream: from the cache if it is there, else from the registry, by ranges.

        Args:
            ref: the artifact.
            name: the file in it, as `inspect(ref).files` has them. Raises: FileNotInArtifact: with the nearest names.
        """
        return self._at_hand(parse_reference(ref)).open(name)

    def open_content(self, artifact: Artifact, name: str, descriptor: Descriptor) -> BinaryIO:
        """Content of an artifact at hand as a verified, seekable stream."""
        if (here := self._local(artifact, name, descriptor)) is not None:
            return here
        with self._backends.open_source(artifact.reference) as source:
            return verified(source.open(descriptor), descriptor)

    def head_content(self, artifact: Artifact, name: str, descriptor: Descriptor, size: int) -> bytes:
        """The first bytes of content of an artifact at hand."""
        if (here := self._local(artifact, name, descriptor)) is not None:
            with here:
                return here.read(size)
        with self._backends.open_source(artifact.reference) as source:
            return source.head(descriptor, size)

    def _local(self, artifact: Artifact, name: str, descriptor: Descriptor) -> BinaryIO | None:
        """Content that no source need be asked for."""
        if (embedded := descriptor.embedded) is not None:
            return io.BytesIO(embedded)
        if self.cache.exists(descriptor):
            return verified(self.cache.open(descriptor), descriptor)
        path = _folder(artifact.path).unedited(name, descriptor) if artifact.path is not None and name else None
        return None if path is None else verified(path.open("rb"), descriptor)

    def content(self, artifact: Artifact, descriptor: Descriptor) -> bytes:
        """A small blob of an artifact at hand, verified; kept in the cache."""
        if not self.cache.exists(descriptor):
            with self._backends.open_source(artifact.reference) as source:
                self.cache.push_bytes(descriptor, source.fetch(descriptor))
        return self.cache.fetch(descriptor)

    def ensure(self, artifact: Artifact, blobs: Sequence[Descriptor], *, progress: ProgressLike = None) -> None:
        """Have blobs of an artifact at hand in the cache."""
        blobs = [b for b in blobs if not media_types.is_foreign(b.media_type)]
        if all(self.cache.exists(b) for b in blobs):
            return
        with self._backends.open_source(artifact.reference) as source:
            retry_without_bad_mirrors(
                source,
                lambda: fetch_to_cache(
                    source, self.cache, blobs, workers=self.workers, progress=self._bars(progress), title="fetch"
                ),
            )

    def tags(self, ref: str | AnyReference) -> Listing[str]:
        """Every tag of a repository or layout, pages fetched as they are reached. Raises: NameUnknown: no such repository.

        Args:
            ref: a repository, as "ghcr.io/org/name"; a tag or digest in it plays no part.
        """
        reference = parse_reference(ref)
        if isinstance(reference, Reference):
            try:
                return Listing(self._backends.repository(reference).iter_tags(), "tags", reference.name)
            except NameUnknown as error:
                error.hint = (
                    error.hint
                    or f"check the name; ocikit.catalog({reference.registry!r}) lists those that the registry shows"
                )
                raise
        with self._backends.open_source(reference) as source:
            return Listing(source.iter_tags(), "tags", reference.name)

    def catalog(self, host: str) -> Listing[str]:
        """Every repository of a registry, pages fetched as they are reached. Raises: Unsupported: many don't list them.

        Args:
            host: the registry, as "localhost:5000".
        """
        registry = self.registry(host)
        found = self._catalogs[registry.host] = Listing(registry.catalog(), "repositories", host)
        return found

    def referrers(self, ref: str | AnyReference, artifact_type: str | None = None) -> Listing[Descriptor]:
        """What was attached to an artifact: descriptors with artifact types and annotations; empty if nothing was.

        Args:
            ref: the artifact that they are about.
            artifact_type: only those of this type, such as "application/spdx+json".
        """
        reference = parse_reference(ref)
        with self._backends.open_source(reference) as source:
            found = source.referrers(Resolver(source, self.cache).resolve(reference), artifact_type)
        return Listing(iter(found), "referrers", str(reference))

    def ping(self, host: str) -> Ping:
        """Whether a registry answers, and lets us in."""
        return self.registry(host).ping()

    # Writing

    def push(
        self,
        ref: str | AnyReference,
        *paths: Paths,
        artifact_type: str | None = None,
        annotations: Mapping[str, str] | None = None,
        subject: str | AnyReference | None = None,
        tags: Iterable[str] = (),
        config: bytes | Mapping[str, Any] | None = None,
        config_type: str | None = None,
        archive: media_types.Archive | None = None,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        media_types: Mapping[str, str] | None = None,
        workers: int | None = None,
        progress: ProgressLike = None,
        dry_run: bool = False,
    ) -> Artifact:
        """Push files and folders as an artifact. The same files give the same digest.

        Args:
            ref: where to, with the tag to give it.
            paths: files and folders; folders keep their relative paths.
            artifact_type: what it is, as a media type; plain files if not given.
            annotations: of the manifest.
            subject: what this is about: another artifact in the same repository.
            tags: more names.
            config: JSON or bytes that describe the whole.
            config_type: the config's media type.
            archive: "tar", "tar+gzip" or "tar+zstd" makes one layer of each folder; None one of each file.
            include: glob patterns of file names; all if there are none.
            exclude: glob patterns of file names to leave out.
            media_types: of files, by name; others are guessed.
            workers: transfers at once, if not the session's.
            progress: bars: True, False or a `Progress` of one's own; None is as the session's, or as `OCIKIT_PROGRESS` says.
            dry_run: push nothing; the artifact's `.plan` says what would be.

        Raises:
            NotFound: a path isn't there. ContentError: a file changed meanwhile. Unauthorized, Denied, UploadInvalid.
        """
        from ocikit.client.push import build_artifact  # noqa: PLC0415 - half of all sessions never push
        from ocikit.layers.pack import pack  # noqa: PLC0415 - as above

        reference = parse_reference(ref)
        if not paths and subject is None and config is None:
            raise ContentError("nothing to push", hint='name files or folders: push("host/name:tag", "data/")')
        workers = self._workers(workers)
        content = check_push(
            paths, archive, config, annotations, {"artifact_type": artifact_type, "config_type": config_type}
        )
        packed = pack(paths, archive=archive, include=to_patterns(include), exclude=to_patterns(exclude), media_types=media_types,
                      workers=workers) if paths else ()  # fmt: skip
        try:
            with self._backends.open_store(reference) as target:
                made = build_artifact(
                    packed, artifact_type=artifact_type, config=content, config_type=config_type, annotations=annotations,
                    subject=self._subject(target, reference, subject) if subject is not None else None,
                )  # fmt: skip
                check_digest(reference, made.manifest.descriptor)
                names = _names(reference, tags, default=subject is None)
                work = plan(made, made.manifest.descriptor, target, tags=names, check=dry_run, workers=workers)
                if dry_run:
                    return Artifact(self, reference, work.root, made.manifest, plan=work)
                artifact = self._run(work, reference, made.manifest, workers, progress, "push")
        finally:
            for layer in packed:
                layer.close()
        return artifact

    def attach(
        self,
        ref: str | AnyReference,
        *paths: Paths,
        artifact_type: str,
        annotations: Mapping[str, str] | None = None,
        tags: Iterable[str] = (),
        archive: media_types.Archive | None = None,
        workers: int | None = None,
        progress: ProgressLike = None,
        dry_run: bool = False,
    ) -> Artifact:
        """Push files that are about an artifact: a report, an evaluation, a signature. `referrers(ref)` finds them.

        Args:
            ref: what they are about.
            paths: files and folders; none are needed if the annotations say it all.
            artifact_type: what they are, as a media type.
            annotations: of the new manifest.
            tags: names for it; usually it has none.
            archive: as in `push`.
            workers: transfers at once, if not the session's.
            progress: bars: True, False or a `Progress` of one's own; None is as the session's, or as `OCIKIT_PROGRESS` says.
            dry_run: push nothing; the artifact's `.plan` says what would be.
        """
        reference = parse_reference(ref)
        return self.push(
            attrs.evolve(reference, tag=None, digest=None), *paths, artifact_type=artifact_type, annotations=annotations,
            subject=reference, tags=tags, archive=archive, workers=workers, progress=progress, dry_run=dry_run,
        )  # fmt: skip

    def copy(
        self,
        source: str | AnyReference,
        target: str | AnyReference,
        *,
        referrers: bool = False,
        platform: PlatformLike | None = None,
        tags: Iterable[str] = (),
        workers: int | None = None,
        progress: ProgressLike = None,
        dry_run: bool = False,
    ) -> Artifact:
        """Copy an artifact, an image or an index with all its platforms: between registries, to and from layouts.

        Args:
            source: what.
            target: where to; without a tag, the source's.
            referrers: also what is attached to it.
            platform: only that manifest of an index; the copy then has another digest than the index.
            tags: more names at the target.
            workers: transfers at once, if not the session's.
            progress: bars: True, False or a `Progress` of one's own; None is as the session's, or as `OCIKIT_PROGRESS` says.
            dry_run: copy nothing; the artifact's `.plan` says what would be.

        Raises:
            CopyError: with the side that failed, and what it was about; the reason is its cause.
        """
        here, there = parse_reference(source), parse_reference(target)
        if there.tag is None and there.digest is None:
            name = default_tag(here, there)
            there = there.tagged(name) if name else there
        if isinstance(there, LayoutReference) and there.scheme == "docker-archive":
            platform = platform or Platform.host()  # docker archives hold images, not indexes
        workers = self._workers(workers)
        with self._backends.open_source(here) as origin, self._backends.open_store(there) as goal:
            root = Resolver(origin, self.cache).resolve(here)
            work = _counted(plan(origin, root, goal, tags=_names(there, tags, default=False), platform=platform,
                                 referrers=referrers, check=dry_run, workers=workers))  # fmt: skip
            check_digest(there, work.root)
            document = parse_document(dict(work.documents)[work.root], work.root.media_type)
            if dry_run:
                return Artifact(self, there, work.root, document, plan=work)
            return retry_without_bad_mirrors(
                origin, lambda: self._run(work, there, document, workers, progress, "copy", unwrap=False)
            )

    def tag(self, ref: str | AnyReference, *tags: str) -> AnyReference:
        """Give an artifact more names in its repository; its bytes stay as they are. Gives the pinned reference."""
        reference = parse_reference(ref)
        if not tags:
            raise InvalidArgument("no tag to give", hint=f'name one or more: tag("{reference}", "v2")')
        with self._backends.open_store(reference, create=False) as target:
            descriptor = target.resolve(target_of(target, reference))
            for name in tags:
                target.tag(descriptor, name)
        return reference.pinned(descriptor.digest)

    def delete(self, ref: str | AnyReference, *, dry_run: bool = False) -> tuple[str, ...]:
        """Delete a tag, or with a digest the manifest and all its tags. Blobs go when the registry collects garbage.

        Args:
            ref: with a tag, only that name goes; with a digest, the manifest.
            dry_run: only say what would go.

        Returns: what went, as references.

        Raises: InvalidReference: neither tag nor digest. ManifestUnknown. Unsupported: with what the registry offers.
        """
        reference = parse_reference(ref)
        if reference.tag is None and reference.digest is None:
            raise InvalidReference(
                f"{reference} names neither tag nor digest", hint="say what to delete: …:tag or …@sha256:…"
            )
        with self._backends.open_store(reference, create=False) as target:
            descriptor = target.resolve(reference.target)
            if not dry_run:
                if reference.digest is not None:
                    target.delete(descriptor)
                elif reference.tag is not None:
                    target.untag(reference.tag)
        return (str(reference),)

    # Identity

    def login(self, host: str, username: str = "", password: str | None = None) -> str:
        """Check credentials with a registry and store them where docker and podman find them, too.

        Missing values are prompted for; the password is not echoed. See `ocikit.login_form` for a form in a notebook.

        Args:
            host: Host of the registry, such as "ghcr.io".
            username: Name of the account.
            password: Password or token; None prompts for it.

        Returns:
            Where the credentials are stored.

        Raises:
            Unauthorized: The credentials are invalid; nothing is stored.
            CredentialsError: A prompt is not possible here.
        """
        place = login_host(host)
        if password is None:
            username, password = ask_credentials(place, username)

        def check(credentials: Credentials) -> None:
            with Session(credentials={place: credentials}, network=self._backends.network) as session:
                answer = session.ping(place)
            if not answer.reachable:
                raise ConnectionFailed(
                    f"the credentials could not be checked: {answer.problem}",
                    hint="check the host's name and port, and that the registry is running; nothing was kept",
                )
            if not answer:
                raise Unauthorized(
                    f"{place} doesn't let {username or 'you'} in: {answer.problem}",
                    hint="check user and password; nothing was kept",
                )

        return self._keychain.login(host, username, password, verify=check)

    def logout(self, host: str) -> bool:
        """Forget the credentials that `login` kept; whether there were any."""
        return self._keychain.logout(check_name(host))

    def explain(self, host: str, repository: str = "") -> Explanation:
        """Where credentials for a registry are looked for, what is there, and which are used; without secrets."""
        return self._keychain.explain(check_name(host), repository)

    # Inside

    def _snapshot(self, artifact: Artifact, layers: Sequence[Descriptor]) -> Path:
        """Cached content as files with their names: what reads them may go by the ending."""
        place = artifact.reference
        if isinstance(place, LayoutReference):
            # Layouts move, and one is as good as another: their files are kept by digest alone
            place = Reference(registry="oci", repository="layout")
            self.cache.push_bytes(artifact.descriptor, artifact.manifest.raw)
        return self.cache.snapshot(place, artifact.manifest, layers)

    def _at_hand(self, reference: AnyReference) -> Artifact:
        """The artifact for this machine's platform, documents only."""
        with self._backends.open_source(reference) as source:
            return Artifact(self, reference, *Resolver(source, self.cache).resolve_manifest(reference, None))

    def _subject(self, target: Store, reference: AnyReference, subject: str | AnyReference) -> Descriptor:
        about = parse_reference(subject)
        if about.name != reference.name:
            raise InvalidReference(
                f"the subject {about} isn't in {reference.name}",
                hint="copy it there first: referrers live beside their subject",
            )
        root = target_of(target, about)
        # The size in a HEAD response may be wrong, and the subject's descriptor is stored in the manifest
        return attrs.evolve(target.resolve_verified(root).bare(), artifact_type=None)

    def _run(
        self, work: Plan, reference: AnyReference, document: Manifest | Index, workers: int, progress: ProgressLike, verb: str,
        *, unwrap: bool = True,
    ) -> Artifact:  # fmt: skip
        tally = TransferStats(self._bars(progress))
        reason: OcikitError | None = None
        try:
            work.run(workers=workers, progress=tally, title=_title(verb, reference))
        except CopyError as error:
            # A push has one side that people think of; the reason is what they can act on
            if not unwrap or not isinstance(error.__cause__, OcikitError):
                raise
            reason = error.__cause__
        if reason is not None:
            # Out here, as the error would else have itself for its context's cause: whoever follows that never ends
            raise reason from reason.__cause__
        artifact = Artifact(self, reference, work.root, document)
        _tell(artifact, tally, {"push": "pushed", "copy": "copied"}[verb], str(artifact.reference))
        return artifact

    def _workers(self, given: int | None) -> int:
        return self.workers if given is None else check_workers(given)

    def _bars(self, progress: ProgressLike) -> Progress:
        """The listener that a call's progress goes to."""
        wish = progress if progress is not None else self._progress
        if isinstance(wish, Progress):
            return wish
        from ocikit.progress.bars import bars  # noqa: PLC0415 - tqdm is loaded for calls that move something

        return bars(wish)


def _counted(work: Plan) -> Plan:
    """A plan whose documents have the sizes that they have: a registry's HEAD may have stated others."""
    documents = tuple((d if d.size == len(raw) else attrs.evolve(d, size=len(raw)), raw) for d, raw in work.documents)
    root = next(d for d, _ in documents if d.digest == work.root.digest)
    return attrs.evolve(work, documents=documents, root=root)


def _title(verb: str, reference: AnyReference) -> str:
    return f"{verb} {reference.name.rpartition('/')[2]}"


def _tell(artifact: Artifact, tally: TransferStats, verb: str, where: str) -> None:
    artifact.summary = tally.describe(verb, where)
    tally.summary(artifact.summary)


def _folder(path: Paths, *, sync: bool = True) -> Folder:
    from ocikit.folder.folder import Folder  # noqa: PLC0415 - loaded by pulls to folders only

    return Folder(Path(path), sync=sync)


def _names(reference: AnyReference, tags: Iterable[str], *, default: bool) -> tuple[str, ...]:
    """The tags to give; "latest" if a push names none."""
    if isinstance(tags, str):
        tags = [tags]
    first = [reference.tag] if reference.tag else ["latest"] if default and reference.digest is None else []
    return tuple(dict.fromkeys([*first, *tags]))
