"""Who may do what with which repositories: a value, and its file. No I/O but reading that.

Rules only allow; what none of them allows is refused. Actions are those of scopes: distribution scope.md#resource-actions.
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from ocikit.display import quoted, shorten
from ocikit.errors import InvalidArgument
from ocikit.server.auth.access import Permission

#: What a rule can allow. "catalog" is for the registry, so that the rule's repositories don't matter to it; the catalog
#: shows nobody what they may not pull.
ACTIONS = ("pull", "push", "delete", "catalog")

#: What repositories are spelled with, and the two wildcards: distribution-spec spec.md#pulling-manifests
_PATTERN = re.compile(r"[a-z0-9._/*?-]+")


@functools.lru_cache(maxsize=1000)  # as many patterns as a large file has
def _compiled(pattern: str) -> re.Pattern[str]:
    wild = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in re.split(r"(\*\*|\*|\?)", pattern)))


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    texts = () if isinstance(values, str) else tuple(values)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidArgument(f"{quoted(values)} should be a list of texts")
    return texts


def _rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(rules)


@frozen(kw_only=True)
class Rule:
    """Lets some users do some things with some repositories.

    >>> rule = Rule(users=["ada"], repositories=["team/**", "scratch/*"], actions=["pull", "push"])
    >>> [rule.allows("ada", Permission("push", name)) for name in ("team/a/b", "scratch/a", "scratch/a/b", "team", "a/team/b")]
    [True, True, False, False, False]
    """

    users: tuple[str, ...] = field(converter=_texts)
    """Names; "*" is everybody who has logged in, "" everybody else, too."""
    actions: tuple[str, ...] = field(converter=_texts)
    """Of "pull", "push", "delete" and "catalog"."""
    repositories: tuple[str, ...] = field(default=("**",), converter=_texts)
    """Patterns that names must match as a whole. `*` and `?` stand for any characters and for one, but for no slash;
    `**` for any characters, slashes too: `team/**` is all below `team/`, and not `team` itself."""

    def __attrs_post_init__(self) -> None:
        """Check the words: a rule with a slip in it allows less than its author thinks, or more."""
        if strange := sorted(set(self.actions) - set(ACTIONS)):
            raise InvalidArgument(
                f"no such action: {', '.join(map(quoted, strange))}", hint=f"there are {', '.join(ACTIONS)}"
            )
        for pattern in self.repositories:
            if _PATTERN.fullmatch(pattern) is None:
                raise InvalidArgument(
                    f"no repository can match {quoted(pattern)}",
                    hint="names are of a-z, 0-9, '.', '_', '-' and '/'; '*' stops at slashes, '**' doesn't",
                )

    def allows(self, user: str, need: Permission) -> bool:
        """Whether the rule lets somebody do something; *user* is "" for those who didn't say who they are."""
        if need.action not in self.actions or not (
            "" in self.users or (user and ("*" in self.users or user in self.users))
        ):
            return False
        return need.action == "catalog" or any(_compiled(p).fullmatch(need.repository) for p in self.repositories)


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
        """Everything for everybody who has logged in, nothing for others."""
        return cls((Rule(users=("*",), actions=ACTIONS),))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Rules:
        """The rules in a TOML file. Raises: InvalidArgument: if it holds anything else; OSError."""
        try:
            return cls.parse(Path(path).read_text(encoding="utf-8"))
        except (InvalidArgument, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{os.fspath(path)}: {error}") from error

    @classmethod
    def parse(cls, text: str) -> Rules:
        """The rules that a text spells, in TOML: a `[[rule]]` each, with the fields of `Rule`. Raises: InvalidArgument."""
        try:
            content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # of numbers with thousands of digits, and of arrays in arrays
            raise InvalidArgument(f"not TOML: {shorten(error, 200)}") from error
        entries = content.pop("rule", [])
        if content or not isinstance(entries, list):
            raise InvalidArgument(
                f"not rules: {', '.join(map(quoted, content)) or 'rule'}", hint="each begins with [[rule]]"
            )
        return cls([_rule(number, entry) for number, entry in enumerate(entries, 1)])

    def with_anonymous_pull(self) -> Rules:
        """The same, and everybody may pull everything."""
        return evolve(self, rules=(*self.rules, Rule(users=("",), actions=("pull",))))

    def allows(self, user: str, need: Permission) -> bool:
        """Whether any rule lets somebody do something."""
        return any(rule.allows(user, need) for rule in self.rules)

    @property
    def anybody(self) -> bool:
        """Whether there is something that needs no login."""
        return any("" in rule.users for rule in self.rules)


def _rule(number: int, entry: Any) -> Rule:
    if not isinstance(entry, dict) or not {"users", "actions"} <= entry.keys() <= {"users", "actions", "repositories"}:
        raise InvalidArgument(f"rule {number} needs users and actions, may have repositories, and nothing else")
    try:
        return Rule(**entry)
    except (InvalidArgument, TypeError) as error:
        raise InvalidArgument(f"rule {number}: {error}") from error
