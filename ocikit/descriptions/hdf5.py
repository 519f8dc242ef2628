"""HDF5 by its superblock only. The HDF5 library is not used, because of its long list of vulnerabilities.

https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

from typing import Any, Final

from ocikit.descriptions.content import Content
from ocikit.errors import ContentError

MAGIC: Final = b"\x89HDF\r\n\x1a\n"


def find_superblock(head: bytes) -> int:
    """Return the offset of the superblock: 0, 512, or a power of two times that; -1 if there is none."""
    at = 0
    while at + len(MAGIC) <= len(head):
        if head.startswith(MAGIC, at):
            return at
        at = at * 2 or 512
    return -1


def read_hdf5(content: Content) -> dict[str, Any]:
    """Return the version of a file.

    Raises:
        ContentError: The file is shorter than its superblock states.
    """
    head = content.head()
    at = find_superblock(head)
    if at < 0:
        raise ContentError(
            "it has no superblock", hint="fetch the file again, or ask its publisher for an undamaged one"
        )
    block = head[at : at + 64]
    version = block[8] if len(block) > 8 else 0xFF
    if version in {0, 1}:
        width, places = block[13], 24 + 4 * version
        base, end = _address(block, places, width), _address(block, places + 2 * width, width)
    elif version in {2, 3}:
        width = block[9]
        base, end = _address(block, 12, width), _address(block, 12 + 2 * width, width)
    else:
        raise ContentError(f"its superblock has the unknown version {version}", hint="open the file with h5py")
    if base == 0 and end > content.size:
        raise ContentError(
            f"its superblock states {end:,} bytes, but the file has {content.size:,}", hint="fetch the file again"
        )
    note = "its content is not parsed: open it with h5py. Loading a Keras model from it may run code"
    return {"kind": "store", "metadata": {"superblock": str(version)}, "note": note}


def _address(block: bytes, at: int, width: int) -> int:
    if width not in {2, 4, 8} or len(block) < at + width:
        raise ContentError("its superblock is damaged", hint="fetch the file again")
    return int.from_bytes(block[at : at + width], "little")
