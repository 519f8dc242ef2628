"""Run every attack and print a Markdown table: python -m tests.tools.attack_table [words of an attack]"""

import sys

from tests.security.attacks import ATTACKS, Attack, scene
from tests.security.test_attacks import NAMES

HEAD = "| attack | what was sent | what the attacker received | what the user saw |\n|---|---|---|---|"


def row(attack: Attack) -> tuple[str, bool]:
    """Return the attack's line, and True if it did no harm."""
    failed = ""
    with scene() as made:
        try:
            attack.run(made)
            made.judge(attack)
        except Exception as error:
            failed = f"**{type(error).__name__}: {error}**"
        cells = [f"{attack.about} ({attack.id})", attack.sent, made.received(), failed or saw(made.ends)]
    return "| " + " | ".join(map(_cell, cells)) + " |", not failed


def saw(ends: list) -> str:
    """Return the results of the user's calls: each kind of error once with its message."""
    shown = {
        type(error).__name__: f"{type(error).__name__}: {error.message}" if error else "it worked"
        for error in reversed(ends)
    }
    return "; ".join(reversed(shown.values()))


def _cell(text: str) -> str:
    text = text.encode("unicode_escape").decode().replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
    return text if len(text) <= 300 else text[:297] + "…"


def main() -> int:
    chosen = [a for a, name in zip(ATTACKS, NAMES, strict=True) if all(word in name for word in sys.argv[1:])]
    print(HEAD)
    harmless = True
    for attack in chosen:
        line, fine = row(attack)
        harmless &= fine
        print(line, flush=True)
    return 0 if harmless else 1


if __name__ == "__main__":
    sys.exit(main())
