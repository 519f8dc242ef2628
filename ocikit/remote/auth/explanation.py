"""Where credentials were looked for, and which ones are used: values that hold no secrets."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from ocikit import display


@frozen(kw_only=True)
class ExplanationStep:
    """One place that was looked at for credentials."""

    place: str
    username: str = ""
    kind: str = ""
    """As `Credentials.kind`; "" if nothing was found."""
    key: str = ""
    """The key that matched, such as "quay.io/team"."""
    note: str = ""
    """By what means it was found, or why it wasn't."""
    wins: bool = False
    failed: bool = False

    def __str__(self) -> str:
        mark = "->" if self.wins else "!!" if self.failed else "  "
        who = f"{self.username or 'no user name'} ({self.kind})" if self.kind else "nothing"
        rest = [f"key {self.key}" if self.key else "", self.note]
        return display.sanitize(
            f"{mark} {self.place}: {'; '.join(filter(None, [*([] if self.failed else [who]), *rest]))}"
        )


@frozen(kw_only=True, repr=False)
class Explanation(display.Displayable):
    """Where credentials for a registry were looked for, in order, and which ones are used. `print` it for all of it."""

    host: str
    repository: str = ""
    steps: tuple[ExplanationStep, ...] = ()

    @property
    def winner(self) -> ExplanationStep | None:
        """The place whose credentials are used; None if access is anonymous, or fails before one is found."""
        return next((step for step in self.steps if step.wins), None)

    @property
    def failure(self) -> ExplanationStep | None:
        """The place that can't be read, if it comes before any that has credentials: every use would fail there."""
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

    def _sections(self) -> Iterator[display.Section]:
        yield display.Section(
            title="looked at, in order",
            headers=("", "place", "user", "kind", "key", "note"),
            rows=(("✓" if s.wins else "✗" if s.failed else "", s.place, s.username, s.kind, s.key, s.note)
                  for s in self.steps),
            count=len(self.steps), unfolded=True,
        )  # fmt: skip
