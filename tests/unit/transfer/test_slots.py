"""Worker slots: large blobs use the idle workers of a transfer."""

import os
import threading

import pytest
from ocikit.transfer.pool import run_parallel
from ocikit.transfer.slots import SLOTS, WorkerSlots, worker_limit


def test_slots_are_idle_until_workers_hold_them():
    slots = WorkerSlots()
    assert slots.idle(3) == 3
    with slots.work(3):
        assert slots.idle(3) == 2
        borrowed = [slots.borrow(3) for _ in range(3)]
        assert borrowed[2] is None
        assert slots.idle(3) == 0
        with slots.work(3):
            assert slots.idle(3) == -1
        slots.release(borrowed[0])
        slots.release(borrowed[0])
        assert slots.idle(3) == 1
        slots.release(borrowed[1])
    assert slots.idle(3) == 3


def test_transfers_at_the_same_time_share_the_slots():
    idle, meet = [], threading.Barrier(3)

    def work(item, stop):
        meet.wait(20)
        idle.append(SLOTS.idle(worker_limit()))
        meet.wait(20)

    transfers = [threading.Thread(target=run_parallel, args=(range(1), work), kwargs={"workers": 2}) for _ in range(3)]
    for thread in transfers:
        thread.start()
    for thread in transfers:
        thread.join(20)
    assert max(idle) < 0
    assert SLOTS.idle(2) == 2


def test_worker_limit_is_that_of_the_transfer():
    seen = []
    run_parallel(range(2), lambda item, stop: seen.append(worker_limit()), workers=5)
    run_parallel(range(1), lambda item, stop: seen.append(worker_limit()), workers=1)
    assert seen == [5, 5, 1]
    assert worker_limit() == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_forked_child_has_only_idle_slots():
    slots = WorkerSlots()
    held = slots.borrow(2)
    pid = os.fork()
    if not pid:
        slots.release(held)
        os._exit(0 if slots.idle(2) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert slots.idle(2) == 1


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_single_item_leaves_the_other_workers_idle(workers):
    """It runs on the caller's thread, and the workers that no item needs count as idle."""
    seen = []
    run_parallel([1], lambda item, stop: seen.append((worker_limit(), SLOTS.idle(workers), threading.current_thread())),
                 workers=workers)  # fmt: skip
    assert seen == [(workers, workers - 1, threading.current_thread())]
