"""A proxy with random faults: python -m tests.support.proxy URL --seed 7 --rate 0.05"""

import argparse
import json
import random
import sys
from collections import Counter
from typing import Any

from attrs import define, field
from ocikit.testing.faults import Fault
from ocikit.testing.messages import Request
from ocikit.testing.proxy import Proxy


@define(eq=False)
class Scatter(Proxy):
    """A proxy that injects random faults of networks and overloaded registries into a share of all requests."""

    seed: int = 1
    #: The share of faulty requests: 0 to 1.
    rate: float = 0.05
    #: Number of injected faults by kind.
    counts: Counter[str] = field(factory=Counter, init=False)
    _chance: random.Random = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def pick(self, request: Request) -> Fault:
        """Return a random fault. Requests are not recorded, because a soak sends millions."""
        with self._lock:
            self.passed.clear()
            if self._chance.random() >= self.rate:
                return Fault(method="", path="")
            where, reset = int(10 ** self._chance.uniform(0, 6.5)), self._chance.random() < 0.5
            kinds: dict[str, dict[str, Any]] = {
                "answer cut": {"cut": where, "reset": reset},
                "request cut": {"cut_request": where, "reset": reset},
                "never asked": {"drop": "before", "reset": reset},
                "answer lost": {"drop": "after", "reset": reset},
                "slow": {"delay": self._chance.uniform(0, 0.5)},
                "503": {"status": 503, "headers": {"Retry-After": "0"}},
                "429": {"status": 429, "headers": {"Retry-After": "0"}},
                "500": {"status": 500},
                "502": {"status": 502, "body": b"<html><title>Bad Gateway</title></html>"},
            }
            kind = self._chance.choice(sorted(kinds))
            self.counts[kind] += 1
        return Fault(method="", path="", **kinds[kind])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0)
    options = parser.parse_args()
    with Scatter(options.upstream, seed=options.seed, rate=options.rate) as proxy:
        print(proxy.host, flush=True)
        sys.stdin.read()  # until the parent process closes the pipe
        print(json.dumps(proxy.counts), flush=True)


if __name__ == "__main__":
    main()
