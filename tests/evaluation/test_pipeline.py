"""Which stages run at the same time, on stages that wait for each other; no test measures time."""

import threading
from concurrent.futures import Future

import pytest

from vitdeblur_jax.evaluation.pipeline import READ_AHEAD, run_pipeline

SECONDS = 20  # an event that never comes fails the test


class Stages:
    """Stages that record what they do, and keep count of the items in memory."""

    def __init__(self):
        self.lock, self.in_memory, self.most = threading.Lock(), 0, 0
        self.read_items, self.restored, self.finished = [], [], []

    def read(self, item):
        with self.lock:
            self.in_memory += 1
            self.most = max(self.most, self.in_memory)
            self.read_items.append(item)
        return f"pixels of {item}"

    def restore(self, item, given):
        assert given == f"pixels of {item}"
        self.restored.append(item)
        return f"restored {item}"

    def finish(self, item, given, restored):
        assert (given, restored) == (f"pixels of {item}", f"restored {item}")
        with self.lock:
            self.in_memory -= 1
            self.finished.append(item)

    def run(self, count, finishers=2):
        return run_pipeline(range(count), self.read, self.restore, self.finish, finishers)


def wait(event):
    assert event.wait(SECONDS)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_each_item_goes_through_all_stages_in_order(count):
    stages = Stages()
    duration = stages.run(count)
    assert stages.restored == list(range(count))
    assert sorted(stages.finished) == list(range(count))
    assert 0 <= duration.waited <= duration.seconds


def test_the_next_item_is_read_and_the_last_finished_during_a_restoration():
    is_read, is_finishing = threading.Event(), threading.Event()

    class Meeting(Stages):
        def read(self, item):
            if item == 2:
                is_read.set()
            return super().read(item)

        def restore(self, item, given):
            if item == 1:  # hangs unless the others run now
                wait(is_read)
                wait(is_finishing)
            return super().restore(item, given)

        def finish(self, *arguments):
            is_finishing.set()
            super().finish(*arguments)

    stages = Meeting()
    stages.run(3)
    assert sorted(stages.finished) == [0, 1, 2]


def test_several_items_are_finished_at_the_same_time():
    meeting = threading.Barrier(2)

    class Meeting(Stages):
        def finish(self, *arguments):
            meeting.wait(SECONDS)
            super().finish(*arguments)

    stages = Meeting()
    stages.run(4)
    assert sorted(stages.finished) == [0, 1, 2, 3]


def test_items_in_memory_are_bounded_when_finishing_is_slow(monkeypatch):
    """Nothing is finished until the pipeline waits for it."""
    is_waiting, result = threading.Event(), Future.result

    def waited_for(future):
        if not future.done() and len(stages.restored) > 1:
            is_waiting.set()
        return result(future)

    class Slow(Stages):
        def finish(self, *arguments):
            wait(is_waiting)
            super().finish(*arguments)

    monkeypatch.setattr(Future, "result", waited_for)
    stages = Slow()
    stages.run(12)
    assert sorted(stages.finished) == list(range(12))
    assert stages.most <= READ_AHEAD + 1 + 2


def test_items_in_memory_are_bounded_when_restoring_is_slow():
    full = threading.Event()

    class Slow(Stages):
        def read(self, item):
            given = super().read(item)
            if len(self.read_items) == READ_AHEAD + 1:
                full.set()
            return given

        def restore(self, item, given):
            wait(full)
            assert len(self.read_items) <= item + 1 + READ_AHEAD
            return super().restore(item, given)

    stages = Slow()
    stages.run(12)
    assert sorted(stages.finished) == list(range(12))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("stage", ["read", "restore", "finish"])
def test_an_error_ends_the_run_and_what_is_restored_is_finished(stage, error):
    class Failing(Stages):
        pass

    def fail(self, item, *rest):
        if item == 3:
            raise error("a full disk")
        return getattr(Stages, stage)(self, item, *rest)

    setattr(Failing, stage, fail)
    stages = Failing()
    with pytest.raises(error, match="a full disk"):
        stages.run(100)
    is_finish = stage == "finish"
    assert set(stages.restored) - {3} == set(stages.finished)
    assert 0 in stages.finished
    assert len(stages.read_items) < 15
    assert (3 in stages.restored) == is_finish


def test_an_interrupted_restoration_keeps_what_was_restored_before():
    may_finish = threading.Event()

    class Interrupted(Stages):
        def restore(self, item, given):
            if item == 2:
                may_finish.set()
                raise KeyboardInterrupt
            return super().restore(item, given)

        def finish(self, *arguments):
            wait(may_finish)  # both are unfinished when the interruption comes
            super().finish(*arguments)

    stages = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        stages.run(100)
    assert sorted(stages.finished) == [0, 1]
    assert len(stages.read_items) <= 3 + READ_AHEAD
