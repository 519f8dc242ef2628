"""Access rules, as values and in a TOML file.

Rules only allow: an action that no rule allows is denied. The actions are those of scopes (distribution
scope.md#resource-actions).
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from attrs import evolve, field, frozen

from ocikit.display import quoted, shorten
from ocikit.errors import ContentError, InvalidArgument
from ocikit.server.auth.access import Permission
from ocikit.store.files import read_file

#: Actions of a rule. "catalog" concerns the registry, so the rule's repositories do not limit it; the catalog lists only
#: repositories that the user may pull.
ACTIONS = ("pull", "push", "delete", "catalog")

#: Characters of repository names (distribution-spec spec.md#pulling-manifests), and the wildcards.
_PATTERN = re.compile(r"[a-z0-9._/*?-]+")


@functools.lru_cache(maxsize=1000)  # as many patterns as a large file has
def _compiled(pattern: str) -> re.Pattern[str]:
    wildcards = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wildcards.get(part) or re.escape(part) for part in re.split(r"(\*\*|\*|\?)", pattern)))


def _strings(values: Iterable[str]) -> tuple[str, ...]:
    strings = () if isinstance(values, str) else tuple(values)
    if not strings or not all(isinstance(string, str) for string in strings):
        raise InvalidArgument(f"{quoted(values)} is not a list of strings")
    return strings


def _rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(rules)


@frozen(kw_only=True)
class Rule:
    """Allows some users some actions on some repositories.

    >>> rule = Rule(users=["ada"], repositories=["team/**", "scratch/*"], actions=["pull", "push"])
    >>> [rule.allows("ada", Permission("push", name)) for name in ("team/a/b", "scratch/a", "scratch/a/b", "team", "a/team/b")]
    [True, True, False, False, False]
    """

    users: tuple[str, ...] = field(converter=_strings)
    """User names; "*" matches all logged-in users, "" matches all requests."""
    actions: tuple[str, ...] = field(converter=_strings)
    """Any of "pull", "push", "delete" and "catalog"."""
    repositories: tuple[str, ...] = field(default=("**",), converter=_strings)
    """Patterns of whole repository names. `*` matches any characters and `?` one character, except slashes; `**` matches
    slashes too: `team/**` matches all names below `team/`, but not `team`."""

    def __attrs_post_init__(self) -> None:
        """Check the actions and patterns: an error would allow too little or too much."""
        if unknown := sorted(set(self.actions) - set(ACTIONS)):
            raise InvalidArgument(
                f"unknown action: {', '.join(map(quoted, unknown))}", hint=f"choose from {', '.join(ACTIONS)}"
            )
        for pattern in self.repositories:
            if _PATTERN.fullmatch(pattern) is None:
                raise InvalidArgument(
                    f"the pattern {quoted(pattern)} cannot match a repository",
                    hint="names consist of a-z, 0-9, '.', '_', '-' and '/'; '*' excludes slashes, '**' includes them",
                )

    def allows(self, user: str, permission: Permission) -> bool:
        """Return True if the rule allows it; `user` is "" without a login."""
        if permission.action not in self.actions or not (
            "" in self.users or (user and ("*" in self.users or user in self.users))
        ):
            return False
        return permission.action == "catalog" or any(
            _compiled(pattern).fullmatch(permission.repository) for pattern in self.repositories
        )


@frozen
class Rules:
    """All rules of a registry.

    >>> rules = Rules.parse('''
    ... [[rule]]
    ... users = ["ada", "grace"]
    ... repositories = ["team/**"]
    ... actions = ["pull", "push", "delete"]
    ...
    ... [[rule]]
    ... users = ["*"]
    ... actions = ["pull", "catalog"]
    ... ''')
    >>> rules.allows("ada", Permission("push", "team/model")), rules.allows("eve", Permission("push", "team/model"))
    (True, False)
    >>> rules.allows("eve", Permission("pull", "team/model")), rules.allows("", Permission("pull", "team/model"))
    (True, False)
    """

    rules: tuple[Rule, ...] = field(default=(), converter=_rules)

    @classmethod
    def default(cls) -> Rules:
        """Return rules that allow everything for logged-in users and nothing for others."""
        return cls((Rule(users=("*",), actions=ACTIONS),))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Rules:
        """Read a TOML file.

        Args:
            path: The file.

        Returns:
            Rules of the file.

        Raises:
            InvalidArgument: The file is invalid.
            OSError: The file cannot be read.
        """
        try:
            return cls.parse(read_file(Path(path)).decode())
        except ContentError as error:
            raise InvalidArgument(error.message, hint=error.hint) from error
        except (InvalidArgument, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{os.fspath(path)}: {error}") from error

    @classmethod
    def parse(cls, text: str) -> Rules:
        """Parse TOML with a `[[rule]]` table for each rule; its keys are those of `Rule`.

        Args:
            text: The TOML text.

        Returns:
            The rules.

        Raises:
            InvalidArgument: The text is invalid.
        """
        try:
            content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # also for numbers with thousands of digits and nested arrays
            raise InvalidArgument(f"invalid TOML: {shorten(error, 200)}") from error
        entries = content.pop("rule", [])
        if content or not isinstance(entries, list):
            names = ", ".join(map(quoted, content)) or "rule"
            raise InvalidArgument(f"invalid rules: {names}", hint="start each rule with [[rule]]")
        return cls([_rule(number, entry) for number, entry in enumerate(entries, 1)])

    def with_anonymous_pull(self) -> Rules:
        """Return these rules with one more, that allows pulls without a login."""
        return evolve(self, rules=(*self.rules, Rule(users=("",), actions=("pull",))))

    def allows(self, user: str, permission: Permission) -> bool:
        """Return True if any rule allows it."""
        return any(rule.allows(user, permission) for rule in self.rules)

    @property
    def allows_anonymous(self) -> bool:
        """True if some action needs no login."""
        return any("" in rule.users for rule in self.rules)


def _rule(number: int, entry: object) -> Rule:
    if not isinstance(entry, dict) or not {"users", "actions"} <= entry.keys() <= {"users", "actions", "repositories"}:
        raise InvalidArgument(f"rule {number} must have users and actions, may have repositories, and nothing else")
    try:
        return Rule(**entry)
    except (InvalidArgument, TypeError) as error:
        raise InvalidArgument(f"rule {number}: {error}") from error
