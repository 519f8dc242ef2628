"""Damage to documents, by word or by byte."""

import random
import re
from collections.abc import Iterable

from attrs import frozen

#: Tokens of text and JSON: a string, a word or a sign.
_WORDS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\w.+]+|\s+|.', re.DOTALL)

EDITS = ("insert", "replace", "delete", "double", "swap")

#: Bytes. Larger input finds nothing more and takes longer.
_LARGEST = 1 << 20


@frozen
class Edit:
    """One edit."""

    kind: str
    """One of `EDITS`."""
    where: int
    """Position in tokens, modulo their number."""
    word: bytes = b""
    times: int = 1


def damaged(seed: bytes, edits: Iterable[Edit], *, text: bool) -> bytes:
    """Apply edits to the seed, by words of a text or by bytes."""
    for edit in edits:
        pieces = _WORDS.findall(seed) if text else None
        seed = _in_words(pieces, edit) if pieces is not None else _in_bytes(seed, edit)
    return seed[:_LARGEST]


def _in_words(pieces: list[bytes], edit: Edit) -> bytes:
    at = edit.where % (len(pieces) + 1)
    if edit.kind == "insert":
        pieces[at:at] = [_repeated(edit.word, edit.times)]
    elif edit.kind == "replace":
        pieces[at : at + 1] = [edit.word]
    elif edit.kind == "delete":
        del pieces[at : at + edit.times]
    elif edit.kind == "double":
        pieces[at:at] = [_repeated(b"".join(pieces[at : at + 8]), edit.times)]
    elif pieces:
        other = (edit.where // (len(pieces) + 1)) % len(pieces)
        at = min(at, len(pieces) - 1)
        pieces[at], pieces[other] = pieces[other], pieces[at]
    return b"".join(pieces)


def _in_bytes(seed: bytes, edit: Edit) -> bytes:
    """Apply an edit to bytes. A replacement keeps the length, because archives are read in blocks."""
    at = edit.where % (len(seed) + 1)
    if edit.kind == "insert":
        return seed[:at] + _repeated(edit.word, edit.times) + seed[at:]
    if edit.kind == "replace":
        return seed[:at] + edit.word + seed[at + len(edit.word) :]
    if edit.kind == "delete":
        return seed[:at] + seed[at + edit.times :]
    block = at - at % 512
    if edit.kind == "double":
        return seed[:block] + seed[block : block + 512] * (edit.times + 1) + seed[block + 512 :]
    return seed[:block] + seed[block + 512 : block + 1024] + seed[block : block + 512] + seed[block + 1024 :]


def _repeated(word: bytes, times: int) -> bytes:
    """Limit the size to slightly more than what quadratic time needs to show."""
    return word * min(times, 1 + (1 << 17) // (len(word) or 1))


def random_edits(target, chance: random.Random) -> list[Edit]:
    """Return random edits for a target, mostly with words of its language."""
    edits = []
    for _ in range(chance.choice((1, 1, 2, 3, 5))):
        word = (
            chance.choice(target.words)
            if target.words and chance.random() < 0.8
            else chance.randbytes(chance.choice((1, 1, 2, 8)))
        )
        edits.append(
            Edit(chance.choice(EDITS), chance.getrandbits(24), word, chance.choice((1, 1, 1, 2, 16, 512, 4000)))
        )
    return edits
