"""A checkpoint is written while training goes on, and is what the state was when it was asked for."""

import threading
import time

import pytest
import torch
from tests.training.toys import Toy, loop, worker

from raydiance.storage import Store
from raydiance.training import Checkpoints, checkpoint, fit, load_checkpoint, save_checkpoint, start


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "store")


def test_what_changes_while_it_is_written_is_not_in_it(store, monkeypatch):
    go_on, write = threading.Event(), checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda *args: go_on.wait(30) and write(*args))
    state = start(Toy(), loop())
    before = {name: value.clone() for name, value in state.averaged().items()}
    with Checkpoints(store, "toy") as checkpoints:
        checkpoints.save(state)  # returns, though nothing can be written yet
        with torch.no_grad():
            for value in [*state.model.parameters(), *state.ema.shadow.values()]:
                value.add_(1.0)
        state.step = 3
        assert store.list("checkpoints/toy") == []
        go_on.set()
        assert checkpoints.last is not None
        checkpoints.restore(state)
    assert state.step == 0
    assert all(torch.equal(value, before[name]) for name, value in state.averaged().items())


def test_processor_time_counts_on_over_restarts_and_returns(store):
    first, second = start(Toy(), loop()), start(Toy(), loop())
    first.spent_s = 100.0
    load_checkpoint(store, save_checkpoint(store, "toy", first), second)
    assert 100.0 <= second.cpu_s < first.cpu_s + 50
    second.spent_s = 300.0
    load_checkpoint(store, store.list("checkpoints/toy")[0], second)  # gone back to: that was spent, too
    assert second.cpu_s >= 300.0


def test_one_is_written_at_a_time_and_what_goes_wrong_is_told(store, monkeypatch):
    writing, most, lock, write = [0], [0], threading.Lock(), checkpoint._write

    def watched(*args):
        with lock:
            writing[0] += 1
            most[0] = max(most[0], writing[0])
        saved = write(*args)
        with lock:
            writing[0] -= 1
        return saved

    monkeypatch.setattr(checkpoint, "_write", watched)
    fit(Toy(), loop(steps=12, checkpoint_every=1), worker=worker(store), run_name="toy", seed=0)
    assert most == [1]

    def broken(*_):
        raise OSError("no room")

    monkeypatch.setattr(checkpoint, "_write", broken)
    with pytest.raises(OSError, match="no room"):
        fit(Toy(), loop(), worker=worker(store), run_name="broken", seed=0)


def test_what_cannot_be_written_stops_a_training_before_its_next_checkpoint(store, monkeypatch):
    fails, steps = threading.Event(), []

    def broken(*_):
        fails.wait(30)
        raise OSError("no room")

    class Slow(Toy):
        def forward(self, batch):
            steps.append(batch.step)
            if batch.step == 8:  # the checkpoint of step 7 fails now
                fails.set()
                time.sleep(0.2)
            return super().forward(batch)

    monkeypatch.setattr(checkpoint, "_write", broken)
    with pytest.raises(OSError, match="no room"):
        fit(Slow(), loop(), worker=worker(store), run_name="toy", seed=0)
    assert steps[-1] == 8


def test_a_training_that_stops_waits_for_what_it_was_writing(store, monkeypatch):
    write = checkpoint._write
    stopped = threading.Event()
    monkeypatch.setattr(checkpoint, "_write", lambda *args: stopped.wait(30) and write(*args))

    class Stopping(Toy):
        def forward(self, batch):
            if batch.step == 9:
                stopped.set()
                raise KeyboardInterrupt
            return super().forward(batch)

    with pytest.raises(KeyboardInterrupt):
        fit(Stopping(), loop(), worker=worker(store), run_name="toy", seed=0)
    (kept,) = store.list("checkpoints/toy")
    assert kept.key.split("/")[-1].startswith("00000007")
