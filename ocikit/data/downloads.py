"""Downloads for pooch, which fetches files of packages by their URL and hash."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from attrs import frozen

from ocikit import display
from ocikit.client.arguments import ProgressLike, StrPath
from ocikit.client.artifact import Artifact, File
from ocikit.client.members import Member
from ocikit.client.session import Session
from ocikit.errors import InvalidArgument, NotFound
from ocikit.filesystem.paths import PROTOCOL, Location, missing_tag, parse_path


@frozen(repr=False)
class Downloader(display.Displayable):
    """A downloader of pooch for URLs such as `ocikit://ghcr.io/team/data:v1/train.csv`.

    Args:
        use: Opens the session for one download.
        progress: True, False or a `Progress`; None uses the session's setting.
    """

    _use: Callable[[], AbstractContextManager[Session]]
    _progress: ProgressLike = None

    def __call__(
        self,
        url: str,
        output_file: StrPath | BinaryIO,
        pooch: Any,
        check_only: bool = False,
    ) -> bool | None:
        """Write a file, verified against its digest.

        Args:
            url: URL of the form `ocikit://HOST/REPOSITORY:TAG/PATH`.
            output_file: A path, or an open file.
            pooch: The caller; it is not used.
            check_only: Write nothing, and return whether there is such a file.

        Raises:
            FileNotInArtifact: There is no such file; the hint has the nearest names.
            InvalidArgument: The URL has another scheme, or names no file.
            InvalidReference: The URL has no tag.
        """
        location = _location(url)
        with self._use() as session:
            try:
                file = _file(session.inspect(location.reference), location.name)
            except NotFound:
                if check_only:
                    return False
                raise
            if check_only:
                return True
            if isinstance(file, File):
                file.download(progress=self._progress)  # into the cache, in parallel and with progress
            if isinstance(output_file, str | os.PathLike):
                file.save(Path(output_file))
            else:
                with file.open() as stream:
                    shutil.copyfileobj(stream, output_file, 1 << 20)
        return None

    def __rich_repr__(self) -> display.Description:
        yield "progress", self._progress, None


def _location(url: str) -> Location:
    location = parse_path(url) if url.startswith(f"{PROTOCOL}://") else None
    if location is None:
        raise InvalidArgument(
            f"{display.quoted(url)} is not a URL of this downloader",
            hint=f'write it like "{PROTOCOL}://ghcr.io/team/data:v1/train.csv"',
        )
    if not location.suffix:
        raise missing_tag(location)
    if not location.name:
        raise InvalidArgument(
            f"{display.quoted(url)} names no file", hint="add the name of the file, such as /train.csv"
        )
    return location


def _file(artifact: Artifact, name: str) -> File | Member:
    if name not in artifact.files and name in artifact.members:
        return artifact.members[name]
    return artifact[name]
