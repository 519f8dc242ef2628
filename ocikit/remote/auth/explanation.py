"""The sources of credentials that were checked, and the one in use. The values contain no secrets."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from ocikit import display


@frozen(kw_only=True)
class ExplanationStep:
    """One source that was checked for credentials."""

    place: str
    """The file, variable or argument."""
    username: str = ""
    kind: str = ""
    """As `Credentials.kind`; "" without credentials."""
    key: str = ""
    """The matching key, such as "quay.io/team"."""
    note: str = ""
    """The credential helper, or the reason why the source has no credentials."""
    wins: bool = False
    """True for the source in use."""
    failed: bool = False
    """True if the source can't be read."""

    def __str__(self) -> str:
        mark = "->" if self.wins else "!!" if self.failed else "  "
        result = f"{self.username or 'no user name'} ({self.kind})" if self.kind else "nothing"
        details = ["" if self.failed else result, f"key {self.key}" if self.key else "", self.note]
        return display.sanitize(f"{mark} {self.place}: {'; '.join(filter(None, details))}")


@frozen(kw_only=True, repr=False)
class Explanation(display.Displayable):
    """The sources of credentials for a registry in order, and the one in use.

    `print` shows all of them.

    >>> ocikit.auth.explain("ghcr.io")
    Explanation(host='ghcr.io', kind='anonymous')
    """

    host: str
    repository: str = ""
    steps: tuple[ExplanationStep, ...] = ()

    @property
    def winner(self) -> ExplanationStep | None:
        """The source in use; None if access is anonymous, or a source fails before."""
        return next((step for step in self.steps if step.wins), None)

    @property
    def failure(self) -> ExplanationStep | None:
        """The unreadable source that precedes all sources with credentials, or None.

        Every lookup fails there.
        """
        step = next((step for step in self.steps if step.wins or step.failed), None)
        return step if step and step.failed else None

    def __rich_repr__(self) -> display.Description:
        yield "host", self.host
        yield "repository", self.repository, ""
        if step := self.winner:
            yield "username", step.username, ""
            yield "kind", step.kind
            yield "place", step.place
        else:
            yield "kind", "failure" if self.failure else "anonymous"
            yield "place", self.failure.place if self.failure else "", ""

    def __str__(self) -> str:
        where = f"{self.host}/{self.repository}" if self.repository else self.host
        return "\n".join([f"credentials for {display.sanitize(where)}:", *map(str, self.steps)])

    def _card_title(self) -> object:
        return f"credentials for {self.host}{self.repository and f'/{self.repository}'}"

    def _card_notes(self) -> Iterator[object]:
        yield self.winner.kind if self.winner else "failure" if self.failure else "anonymous"

    def _facts(self) -> Iterator[tuple[str, object]]:
        if step := self.winner or self.failure:
            yield "user", step.username
            yield "place", step.place
        if not self.winner:
            yield "log in", display.code_call("ocikit.login", self.host)

    def _sections(self) -> Iterator[display.Section]:
        rows = (
            (
                "✓" if step.wins else "✗" if step.failed else "",
                step.place,
                step.username,
                step.kind,
                step.key,
                step.note,
            )
            for step in self.steps
        )
        yield display.Section(
            title="checked, in order",
            headers=("", "place", "user", "kind", "key", "note"),
            rows=rows,
            count=len(self.steps),
            unfolded=True,
        )
