import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.training.toys import Toy, loop, losses, worker
from torch import nn

from raydiance.errors import ConfigError, NonFiniteLossError, TrainingError
from raydiance.storage import Store
from raydiance.tracking import Interrupted
from raydiance.training import Batch, Checkpoints, fit, start
from raydiance.training.loop import PausedError, learning_rate_factor
from raydiance.training.randomness import seeded


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "store")


def test_it_learns_and_reports(store):
    reports: list = []
    w = worker(store, reports=reports)
    state = fit(Toy(), loop(steps=300, checkpoint_every=100), worker=w, run_name="toy", seed=1)
    curve = losses(w.tracker)
    assert state.step == len(curve) == 300
    assert sum(curve[-20:]) < 0.5 * sum(curve[:20])
    assert [step for step, _ in w.tracker.images["toy"]] == list(range(10, 301, 10))
    assert [ref.key.split("/")[-1][:8] for _, ref in reports] == ["00000100", "00000200", "00000300"]
    assert {"train/gradient_norm", "train/learning_rate"} <= set(w.tracker.metrics)


class Turned(Toy):
    """One whose weights do not lie in memory row by row, as those of 3D convolutions do not."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(3):
            self.model = nn.Sequential(
                nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)
            )
        middle = self.model[2].weight
        middle.data = middle.data.T.contiguous().T


@pytest.mark.parametrize("kind", [Toy, Turned])
def test_resume_is_bitwise_the_run_that_was_not_interrupted(store, kind):
    whole = fit(kind(), loop(), worker=worker(store), run_name="whole", seed=1)

    class StopError(Exception):
        pass

    class Cut(kind):
        def forward(self, batch):
            if batch.step == 17:
                raise StopError
            return super().forward(batch)

    with pytest.raises(StopError):
        fit(Cut(), loop(), worker=worker(store), run_name="cut", seed=1)
    w = worker(store)
    resumed = fit(kind(), loop(), worker=w, run_name="cut", seed=1)
    assert len(losses(w.tracker)) == 20 - 14  # from the checkpoint at step 14, not from the beginning
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for name, value in whole.averaged().items():
        assert torch.equal(value, resumed.averaged()[name]), name
    for a, b in zip(whole.optimizer.state.values(), resumed.optimizer.state.values(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_that_stops_to_be_looked_at_goes_on_as_if_it_had_not(store):
    whole = fit(Toy(), loop(), worker=worker(store), run_name="whole", seed=1)

    class Known(Toy):
        def examine(self, weights):
            return {"norm": float(weights["0.weight"].norm())}

    w = replace(worker(store), until=10)
    with pytest.raises(PausedError, match="step 10 of 20"):
        fit(Known(), loop(), worker=w, run_name="rungs", seed=1)
    assert store.list("checkpoints/rungs")[-1].key.split("/")[-1].startswith("00000010")
    assert len(losses(w.tracker)) == 10 and [step for step, _ in w.tracker.metrics["examined/norm"]] == [10]
    mean = sum(losses(w.tracker)) / 10
    assert w.tracker.metrics["train/recent_loss"][-1] == (10, pytest.approx(mean))
    resumed = fit(Known(), loop(), worker=replace(w, until=20), run_name="rungs", seed=1)
    assert len(losses(w.tracker)) == 20
    for name, value in whole.averaged().items():
        assert torch.equal(value, resumed.averaged()[name]), name


@pytest.mark.parametrize("at", [1, 14, 20])
def test_told_to_end_it_keeps_the_step_it_was_in_and_goes_on_to_the_same_bits(store, at):
    whole = fit(Toy(), loop(), worker=worker(store), run_name="whole", seed=1)
    reports: list = []
    w = worker(store, reports=reports)
    asked = iter(range(1, 21))
    told = replace(w, ending=lambda: nullcontext(lambda: int(next(asked) == at)))
    with pytest.raises(Interrupted, match=f"told: .* go on from step {at}$"):
        fit(Toy(), loop(), worker=told, run_name="told", seed=1)
    assert len(losses(w.tracker)) == at
    assert reports[-1][1].key.split("/")[-1].startswith(f"{at:08d}")
    assert "ending" not in reports[-1][0] | w.tracker.metrics
    resumed = fit(Toy(), loop(), worker=worker(store), run_name="told", seed=1)
    for name, value in whole.averaged().items():
        assert torch.equal(value, resumed.averaged()[name]), name


def test_a_finished_run_is_not_trained_again(store):
    first = fit(Toy(), loop(), worker=worker(store), run_name="toy", seed=1)
    w = worker(store)
    again = fit(Toy(), loop(), worker=w, run_name="toy", seed=1)
    assert w.tracker.metrics == {}
    assert torch.equal(first.averaged()["0.weight"], again.averaged()["0.weight"])


def test_a_broken_checkpoint_is_passed_over(store, tmp_path, recwarn):
    fit(Toy(), loop(), worker=worker(store), run_name="toy", seed=1)
    newest = store.list("checkpoints/toy")[-1]
    path = tmp_path / "store" / newest.key / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    w = worker(store)
    state = fit(Toy(), loop(), worker=w, run_name="toy", seed=1)
    assert state.step == 20 and len(losses(w.tracker)) == 6
    recwarn.clear()


def test_only_the_last_checkpoints_are_kept(store):
    fit(Toy(), loop(checkpoint_every=2, keep_checkpoints=3), worker=worker(store), run_name="toy", seed=1)
    steps = [ref.key.split("/")[-1][:8] for ref in store.list("checkpoints/toy")]
    assert steps == ["00000016", "00000018", "00000020"]


def test_infinite_loss_names_step_and_last_good_checkpoint(store):
    with pytest.raises(NonFiniteLossError, match="step 9") as caught:
        fit(Toy(poison=9), loop(), worker=worker(store), run_name="toy", seed=1)
    (kept,) = store.list("checkpoints/toy")
    assert kept.key in str(caught.value)
    state = start(Toy(), loop())
    Checkpoints(store, "toy").restore(state)
    assert state.step == 7
    assert all(value.isfinite().all() for value in state.model.state_dict().values())


def test_a_batch_in_parts_takes_the_step_of_the_whole_batch(store):
    def run(name: str, parts: int):
        w = worker(store)
        return fit(Toy(), loop(accumulate=parts), worker=w, run_name=name, seed=1), losses(w.tracker)

    (whole, curve), (split, same) = run("whole", 1), run("split", 4)
    assert same == pytest.approx(curve, rel=1e-4)
    for a, b in zip(whole.model.state_dict().values(), split.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="accumulate = 3"):
        run("uneven", 3)


class Stumbling(Toy):
    """One whose loss is bad, once or twice, the first times that it comes to a step."""

    def __init__(self, step: int, factors: list[float]) -> None:
        super().__init__()
        self.at, self.factors = step, list(factors)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        terms = super().forward(batch)
        bad = batch.step == self.at and self.factors
        return {"loss": terms["loss"] * self.factors.pop(0)} if bad else terms


def test_after_a_stumble_it_goes_on_from_the_last_good_checkpoint_with_other_noise(store):
    def run(name: str, objective: Toy, **changes: object):
        w = worker(store)
        state = fit(objective, loop(**changes), worker=w, run_name=name, seed=1)
        return state, losses(w.tracker)

    (_, straight), (state, curve) = run("a", Toy()), run("b", Stumbling(9, [float("nan")]))
    assert (state.step, state.returns) == (20, 1)
    assert curve[:9] == straight[:9] and len(curve) == 9 + 20 - 7
    assert curve[9:11] != curve[7:9]  # steps 7 and 8 again, with other noise
    assert all(value.isfinite().all() for value in state.model.state_dict().values())
    state, _ = run("c", Stumbling(60, [50.0]), steps=70, max_spike=20.0)
    assert (state.step, state.returns) == (70, 1)
    state, _ = run("d", Stumbling(60, [50.0]), steps=70)
    assert state.returns == 0
    with pytest.raises(NonFiniteLossError, match="step 9"):
        run("e", Stumbling(9, [float("inf")] * 3))


def test_a_return_is_remembered_by_the_checkpoints_behind_it(store):
    def run(name: str, objective: Toy, steps: int):
        w = worker(store)
        return fit(objective, loop(steps=steps, decay="constant"), worker=w, run_name=name, seed=1)

    whole = run("a", Stumbling(9, [float("nan")]), 20)
    run("b", Stumbling(9, [float("nan")]), 15)
    resumed = run("b", Toy(), 20)
    assert (resumed.returns, resumed.losses) == (1, whole.losses)


def test_a_checkpoint_of_another_network_is_refused(store):
    fit(Toy(), loop(), worker=worker(store), run_name="toy", seed=1)
    other = Toy()
    other.model = torch.nn.Linear(1, 1)
    with pytest.raises(TrainingError, match="checkpoints/toy"):
        fit(other, loop(), worker=worker(store), run_name="toy", seed=1)


def test_checkpoints_are_never_pickled(store, tmp_path):
    fit(Toy(), loop(), worker=worker(store), run_name="toy", seed=1)
    kinds = {path.suffix for path in (tmp_path / "store" / "checkpoints").rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}


def test_seed_and_nothing_else_decides(store):
    curves = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        w = worker(store)
        torch.manual_seed(len(curves))  # the global generator has no say
        fit(Toy(), loop(), worker=w, run_name=name, seed=seed)
        curves.append(losses(w.tracker))
    assert curves[0] == curves[1] != curves[2]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of inductor's own imports
def test_a_compiled_network_takes_the_same_steps(store, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYDIANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is as before when the test is over
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    curves = []
    for compiled in (False, True):
        w = worker(store)
        state = fit(Toy(), loop(compile=compiled), worker=w, run_name=f"compile-{compiled}", seed=1)
        curves.append(losses(w.tracker))
        assert "0.weight" in state.averaged()  # names are as they were
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    kept = tmp_path / "cache" / "compiled" / torch.backends.cpu.get_cpu_capability().lower()
    assert any(path.is_file() for path in kept.rglob("*"))


def test_every_epoch_visits_every_item_once():
    batches = [Batch(5, step, range(4), 4) for step in range(10)]
    items = [item for batch in batches for item in batch.items(8)]
    epochs = [items[i : i + 8] for i in range(0, 40, 8)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_learning_rate_rises_then_falls():
    spec = loop(steps=100, warmup_steps=10)
    factors = [learning_rate_factor(spec, step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[10] == 1.0 and factors[-1] < 1e-3
    assert all(a >= b for a, b in pairwise(factors[10:]))
    linear = learning_rate_factor(loop(steps=110, warmup_steps=10, decay="linear"), 60)
    assert linear == pytest.approx(0.5)
    assert learning_rate_factor(loop(decay="constant", warmup_steps=0), 19) == 1.0


def test_gradients_are_clipped_to_the_norm(store):
    w = worker(store)
    fit(Toy(), loop(clip_norm=1e-9, steps=2), worker=w, run_name="toy", seed=1)
    assert all(math.isfinite(value) and value > 1e-3 for _, value in w.tracker.metrics["train/gradient_norm"])


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"clip_norm": 0.0}]
)
def test_impossible_loops_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        loop(**wrong)
