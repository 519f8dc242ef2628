"""The worker threads of transfers."""

import threading

import pytest
from ocikit.transfer.pool import Cancelled, run_parallel


def test_run_parallel_works_on_every_item_once():
    results, lock = [], threading.Lock()

    def work(item, stop):
        with lock:
            results.append(item)

    run_parallel(range(1000), work, workers=8)
    assert sorted(results) == list(range(1000))


def test_run_parallel_raises_first_failure_and_stops():
    taken = []

    def work(item, stop):
        taken.append(item)
        if item == 3:
            raise ValueError("three")
        if stop.wait(0.5):
            raise Cancelled

    with pytest.raises(ValueError, match="three"):
        run_parallel(iter(range(1000)), work, workers=4)
    assert len(taken) < 12


def test_run_parallel_raises_error_of_iterator():
    def items():
        yield 1
        raise ValueError("no more")

    for workers in (1, 3):
        with pytest.raises(ValueError, match="no more"):
            run_parallel(items(), lambda item, stop: None, workers=workers)
