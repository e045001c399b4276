"""Which checkpoints are validated, in which order, and what becomes of a training meanwhile: nothing."""

from concurrent.futures import Future
from dataclasses import replace

import pytest
from tests.training.toys import VALIDATION, Toy, loop, worker

from raydiance.errors import ClusterError
from raydiance.storage import ArtifactRef, Store
from raydiance.tracking import Interrupted
from raydiance.training.jobs import Payload, fit_and_keep
from raydiance.training.validation import Question, Validations, known_values


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "store")


class ByHand:
    """Validates what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Future]] = []
        self.stopped = False

    def __call__(self, function, question) -> Future:
        self.asked.append((question.step, Future()))
        return self.asked[-1][1]

    def stop(self) -> None:
        self.stopped = True

    @property
    def steps(self) -> list[int]:
        return [step for step, _ in self.asked]


def queue(beside, told, known=(), wait_s=0.0):
    place = replace(VALIDATION, beside=lambda: beside, wait_s=wait_s)

    def ask(step, ref):
        return Question(None, None, None, "toy", step, ref, "cpu")

    return Validations(ask, place, set(known), lambda values, step: told.append((step, values)))


def ref(step: int) -> ArtifactRef:
    return ArtifactRef(kind="checkpoints/toy", key=f"checkpoints/toy/{step:08d}-0", sha256="0" * 64)


def test_one_at_a_time_and_the_newest_of_those_that_wait(caplog):
    beside, told = ByHand(), []
    with queue(beside, told) as validations:
        for step in (1, 2, 3, 4):
            validations.offer(step, ref(step))
        assert beside.steps == [1]
        beside.asked[0][1].set_result({"val/x": 0.5})
        assert beside.steps == [1, 4] and told == [(1, {"val/x": 0.5})]
        validations.offer(4, ref(4))  # gone on from: it is being looked at
        validations.offer(5, ref(5))
        beside.asked[1][1].set_exception(ClusterError("a task was lost"))
        assert beside.steps == [1, 4, 5] and len(told) == 1
        beside.asked[2][1].set_result({"val/x": 0.25})
    assert told[1:] == [(5, {"val/x": 0.25})] and beside.stopped
    assert caplog.messages == ["the checkpoint of step 4 has no values: ClusterError: a task was lost"]


def test_the_end_waits_for_the_last_one_but_not_for_ever(caplog):
    beside, told = ByHand(), []
    with queue(beside, told) as validations:
        validations.offer(1, ref(1))
        validations.offer(2, ref(2))
    assert caplog.messages == [
        "the checkpoint of step 1 has no values: it was not done 0 s after the training's end"
    ]
    beside.asked[0][1].set_exception(ClusterError("its process was ended"))  # as stop() makes it
    assert beside.steps == [1] and told == [] and len(caplog.messages) == 1
    with pytest.raises(KeyboardInterrupt), queue(ByHand(), told, wait_s=60.0) as validations:
        validations.offer(1, ref(1))
        raise KeyboardInterrupt  # waits for nothing


def norm(payload, store, weights, device):
    if payload.spec == float(weights["0.weight"].norm()):
        raise ValueError("no such norm")
    return {"norm": weights["0.weight"].norm()}


def train(store, name, *, spec=0.0, objective=None, validate=norm, **changes):
    payload = Payload(spec, {}, {}, name, 1)
    w = worker(store, validation=replace(VALIDATION, every=changes.pop("every", 1)))
    try:
        fit_and_keep("toy", objective or Toy(), loop(**changes), payload, w, lambda draft: None, validate)
    finally:
        w.tracker.close()
    return w.tracker.metrics.get("val/norm", [])


def test_each_checkpoint_has_its_value_and_one_that_fails_is_a_gap(store, caplog):
    """Of the averaged weights, at the step of the checkpoint; trials of a search have none."""
    whole = train(store, "whole", every=1)
    assert [step for step, _ in whole] == [7, 14, 20] and len({value for _, value in whole}) == 3
    assert [step for step, _ in train(store, "some", every=2)] == [14, 20]
    assert caplog.messages == []
    assert train(store, "gap", spec=whole[1][1]) == [whole[0], whole[2]]
    assert caplog.messages == ["the checkpoint of step 14 has no values: ValueError: no such norm"]
    assert train(store, "none", validate=None) == []


def test_a_training_that_goes_on_asks_only_for_what_it_does_not_know(store):
    class Cut(Toy):
        def forward(self, batch):
            if batch.step == 17:
                raise Interrupted("cut", 17)
            return super().forward(batch)

    whole = train(store, "whole")
    with pytest.raises(Interrupted):
        train(store, "cut", objective=Cut())
    known = known_values(store, "cut")
    assert known[7] == {"val/norm": whole[0][1]} and set(known) <= {7, 14}
    for artifact in store.list("validations/cut"):
        if "00000014" in artifact.key:
            store.delete(artifact)  # that of the checkpoint it goes on from was lost, say
    assert train(store, "cut") == whole[1:]
    assert train(store, "cut") == []
    assert {step: values["val/norm"] for step, values in known_values(store, "cut").items()} == dict(whole)
