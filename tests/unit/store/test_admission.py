"""The limit on large copies: who waits, for what, and what ends the wait."""

import threading

import pytest
from ocikit.store import admission
from ocikit.store.admission import LARGE, Admission


@pytest.fixture
def limit(monkeypatch):
    """A limit for one core, with two copies that run."""
    monkeypatch.setattr(admission, "available_cores", lambda: 1)
    limit = Admission()
    with limit.admit(LARGE, pytest.fail), limit.admit(LARGE, pytest.fail):
        yield limit


def use_processor(monkeypatch, share):
    """Let the process use a share of one core."""
    monkeypatch.setattr(admission.time, "process_time", lambda: share * admission.time.monotonic())


class Stopped(Exception):
    """The transfer was stopped."""


def test_small_copy_never_waits(limit):
    with limit.admit(LARGE - 1, pytest.fail):
        pass


def test_large_copy_waits_until_another_one_ends(monkeypatch):
    use_processor(monkeypatch, 1.0)
    monkeypatch.setattr(admission, "available_cores", lambda: 1)
    limit, order, waits = Admission(), [], threading.Event()

    def copy():
        with limit.admit(LARGE, waits.set):
            order.append("third")

    with limit.admit(LARGE, pytest.fail):
        with limit.admit(LARGE, pytest.fail):
            thread = threading.Thread(target=copy)
            thread.start()
            assert waits.wait(30)
            order.append("second")
        thread.join(30)
        order.append("first")
    assert order == ["second", "third", "first"]


def test_waiting_copy_can_be_stopped(monkeypatch, limit):
    use_processor(monkeypatch, 1.0)

    def stop():
        raise Stopped

    with pytest.raises(Stopped), limit.admit(LARGE, stop):
        pytest.fail("it was admitted")


def test_idle_processor_admits_all_copies(monkeypatch, limit):
    use_processor(monkeypatch, 0.1)
    checks = []
    with limit.admit(LARGE, lambda: checks.append(1)):
        assert checks
        with limit.admit(LARGE, pytest.fail):  # the next one does not wait again
            pass


def test_forked_child_waits_for_no_copy_of_its_parent(monkeypatch, limit):
    monkeypatch.setattr(admission, "fork_count", lambda: 99)
    with limit.admit(LARGE, pytest.fail):
        pass
