"""Attacks through the public verbs: the attacker gets no secret, and the user gets a readable error or the right result."""

import pytest

from tests.security import credentials, documents, files, hostile_text, secrets  # noqa: F401 - each registers its attacks
from tests.security.attacks import ATTACKS, scene

NAMES = [f"{a.id}-{a.about}-{a.sent}"[:150] for a in ATTACKS]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
def test_attack_causes_no_harm(attack):
    with scene() as made:
        attack.run(made)
        made.judge(attack)
