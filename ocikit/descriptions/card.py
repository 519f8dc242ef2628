"""The card of a model or data set: its README.md with front matter, as Hugging Face has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from attrs import field, frozen

from ocikit import display
from ocikit.descriptions.front_matter import read_front_matter, write_front_matter
from ocikit.errors import InvalidArgument
from ocikit.spec.annotations import FrozenMap, thaw, to_frozen

#: Bytes of the largest README that is a card.
LIMIT: Final = 1 << 20

NAME: Final = "README.md"

_SHOWN = ("license", "tags")  # keys with a fact of their own


def card_name(titles: Iterable[str]) -> str | None:
    """Return the title of the card among those of an artifact, or None.

    It is README.md in any case, at the top. If all files are in one folder, as after a push of that folder, it is there.

    >>> card_name(["a.csv", "readme.md"]), card_name(["m/README.md", "m/a.bin"]), card_name(["a", "docs/README.md"])
    ('readme.md', 'm/README.md', None)
    """
    titles = sorted(titles, key=lambda title: (title.rpartition("/")[2] != NAME, title))
    folders = {title.partition("/")[0] if "/" in title else "" for title in titles}
    prefix = f"{folders.pop()}/" if len(folders) == 1 and "" not in folders else ""
    return next((title for title in titles if title.lower() == f"{prefix}{NAME}".lower()), None)


@frozen(repr=False)
class Card(display.Displayable):
    r"""A README with its front matter: what the files are, for people.

    >>> ocikit.Card("# Waves\n\nSines.", {"license": "mit", "tags": ["tiny"]})
    Card(title='Waves', license='mit', tags=('tiny',))
    """

    text: str = ""
    """Markdown, without the front matter."""
    data: FrozenMap[Any] = field(factory=FrozenMap, converter=to_frozen)
    """The front matter: text, numbers, booleans, None, tuples and mappings by key."""
    ignored: str = field(default="", kw_only=True)
    """The reason for which the front matter is ignored and in `text`, or an empty text."""

    @classmethod
    def parse(cls, readme: str | bytes) -> Card:
        """Return the card of a README. Invalid front matter is ignored, with the reason in `ignored`.

        >>> card = ocikit.Card.parse('''---
        ... license: mit
        ... ---
        ... # Waves
        ... ''')
        >>> card.title, card.license
        ('Waves', 'mit')
        """
        found = read_front_matter(readme if isinstance(readme, str) else readme.decode("utf-8", "replace"))
        return cls(found.text, found.data, ignored=found.ignored)

    @property
    def title(self) -> str:
        """The first heading, or an empty text."""
        lines = (line.strip() for line in self.text[:10_000].splitlines())
        return next((line.lstrip("#").strip() for line in lines if line.startswith("#")), "")

    @property
    def license(self) -> str:
        """The license in the front matter, or an empty text. It is what the publisher wrote."""
        name = self.data.get("license")
        if isinstance(name, str) and name.lower() == "other":
            name = self.data.get("license_name") or name
        return ", ".join(_texts(name))

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags in the front matter."""
        return _texts(self.data.get("tags"))

    def to_bytes(self) -> bytes:
        """Return the README as it is pushed.

        Raises:
            InvalidArgument: The front matter has a value that is not text, a number, a list or a mapping.

        >>> print(ocikit.Card("# Waves", {"license": "mit"}).to_bytes().decode())
        ---
        license: mit
        ---
        # Waves
        """
        try:
            return write_front_matter(self.data, self.text).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgument(
                f"the front matter can't be written: {error}", hint="use text, numbers, booleans, lists and mappings"
            ) from error

    def __str__(self) -> str:
        return display.sanitize(self.text, newlines=True)

    def __rich_repr__(self) -> display.Description:
        yield "title", self.title, ""
        yield "license", self.license, ""
        yield "tags", self.tags, ()
        yield "ignored", self.ignored, ""

    def _card_title(self) -> object:
        return self.title or "README.md"

    def _facts(self) -> Iterator[tuple[str, object]]:
        if self.license:
            yield "license", self.license
        if self.tags:
            yield "tags", self.tags
        others = [item for item in self.data.items() if item[0] not in _SHOWN]
        for key, value in others[: display.ROWS]:
            yield key, display.Link(value) if isinstance(value, str) else thaw(value)
        if self.ignored:
            yield "ignored", self.ignored

    def _sections(self) -> Iterator[display.Section]:
        if self.text:
            yield display.Section(title="text", body=display.Markdown(self.text), unfolded=True)


def _texts(value: Any) -> tuple[str, ...]:
    """Return a scalar or list of scalars as texts."""
    values = value if isinstance(value, tuple) else () if value is None else (value,)
    return tuple(str(item) for item in values if isinstance(item, str | int | float))
