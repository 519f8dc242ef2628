"""Edits of tars that other code has written."""

import io
import tarfile


def rewrite_tar(path, change) -> None:
    """Write a tar again. `change(member, content)` returns the new member and content, or None to drop the member."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read() if member.isreg() else None) for member in tar]
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            if (changed := change(member, content)) is not None:
                member, content = changed
                if content is not None:
                    member.size = len(content)
                tar.addfile(member, io.BytesIO(content) if content is not None else None)
