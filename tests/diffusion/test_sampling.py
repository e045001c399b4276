"""The loop: states, randomness, shapes; and that a batch of unlike plans gives each item what it gets
alone.
"""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raydiance.diffusion import (
    PlanBatch,
    SamplingPlan,
    grids,
    mixtures,
    plans,
    preconditioning,
    sample,
    schedules,
)
from raydiance.diffusion.sampling import Step
from raydiance.errors import ConfigError
from raydiance.models import UNet, UNetSpec

LINEAR = schedules.linear()
EDM = schedules.edm()


def unlike_plans() -> list[SamplingPlan]:
    return [
        plans.ddim(LINEAR, grids.leading(LINEAR, 7)),
        plans.fpndm(LINEAR, grids.trailing(LINEAR, 5)),
        plans.dpm_solver_pp(EDM, grids.karras(EDM, 6), order=3),
        plans.edm_stochastic(EDM, grids.karras(EDM, 4), churn=2.0, noise_scale=1.003),
        plans.ddim(EDM, grids.log_snr(EDM, 9), eta=0.7),
        plans.deis(LINEAR, grids.quadratic(LINEAR, 8)),
    ]


def shrink(x: Tensor, sigma: Tensor) -> Tensor:
    """A predictor for data of unit variance, of any shape."""
    s = sigma.to(x.dtype).view(-1, *(1 for _ in x.shape[1:]))
    return x * s / (1 + s.square())


def start_of(plan: SamplingPlan, seed: int, shape: tuple[int, ...] = (4, 3)) -> Tensor:
    return plan.start(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def alone(plan: SamplingPlan, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return sample(shrink, plan, start_of(plan, seed)[None], generator=[generator])[0]


@pytest.mark.parametrize("late", [0, 1, 3])
def test_batch_of_unlike_plans_gives_each_item_what_it_gets_alone(late: int) -> None:
    waiting = list(enumerate(unlike_plans()))
    batch, results, turn = PlanBatch.empty((4, 3)), dict[object, Tensor](), 0
    while batch.items or waiting:
        while waiting and turn >= late * waiting[0][0]:
            key, plan = waiting.pop(0)
            generator = torch.Generator().manual_seed(1000 + key)
            batch = batch.admit(key, plan, start_of(plan, key), generator)
        if batch.items:
            query = batch.query()
            batch, finished = batch.advance(query, shrink(query.x, query.sigma))
            results |= finished
        turn += 1
    for key, plan in enumerate(unlike_plans()):
        expected = alone(plan, key)
        assert (results[key] - expected).norm() <= 1e-6 * expected.norm(), plan.name


def test_a_batch_goes_on_after_being_saved() -> None:
    def finish(batch: PlanBatch) -> dict[object, Tensor]:
        results = dict[object, Tensor]()
        while batch.items:
            query = batch.query()
            batch, done = batch.advance(query, shrink(query.x, query.sigma))
            results |= done
        return results

    batch = PlanBatch.empty((4, 3))
    for key, plan in enumerate(unlike_plans()):
        batch = batch.admit(str(key), plan, start_of(plan, key), torch.Generator().manual_seed(1000 + key))
    for _ in range(5):
        query = batch.query()
        batch, _ = batch.advance(query, shrink(query.x, query.sigma))
    again = PlanBatch.load(*batch.save())
    whole, resumed = finish(batch), finish(again)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    with pytest.raises(ConfigError, match="version 1"):
        PlanBatch.load('{"format": "raydiance.plan_batch", "version": 2}', {})


def test_one_seed_is_one_sample_whatever_the_batch() -> None:
    plan = plans.ddpm(LINEAR, grids.leading(LINEAR, 10))
    generators = [torch.Generator().manual_seed(1000 + seed) for seed in range(3)]
    together = sample(shrink, plan, torch.stack([start_of(plan, s) for s in range(3)]), generator=generators)
    for seed in range(3):
        torch.testing.assert_close(together[seed], alone(plan, seed), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("plan", unlike_plans(), ids=lambda plan: plan.name)
def test_sampling_goes_on_from_any_state(plan: SamplingPlan) -> None:
    steps: list[Step] = []
    generator = torch.Generator().manual_seed(0)
    states: list[Tensor] = []

    def note(step: Step) -> None:
        steps.append(step)
        states.append(generator.get_state())

    x = start_of(plan, 0)[None]
    whole = sample(shrink, plan, x, generator=generator, callback=note)
    assert len(steps) == plan.nfe
    for step, state in zip(steps, states):
        assert torch.equal(sample(shrink, plan, step.state, generator=generator.set_state(state)), whole)
        assert len(step.state.history) <= plan.memory


@pytest.mark.parametrize("shape", [(2,), (2, 5), (2, 3, 4, 4), (1, 2, 3, 3, 3), (1, 1, 2, 2, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_any_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for plan in unlike_plans():
        x = plan.start(torch.ones(shape, dtype=dtype))
        out = sample(shrink, plan, x, generator=torch.Generator().manual_seed(0))
        assert out.shape == x.shape and out.dtype == dtype and bool(out.isfinite().all())


def test_a_deterministic_plan_draws_nothing_and_a_stochastic_one_asks_for_a_generator() -> None:
    deterministic, stochastic = unlike_plans()[0], unlike_plans()[4]
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    sample(shrink, deterministic, start_of(deterministic, 0)[None], generator=generator)
    assert torch.equal(generator.get_state(), before)
    with pytest.raises(ConfigError, match=r"draws fresh noise.*torch\.Generator"):
        sample(shrink, stochastic, start_of(stochastic, 0)[None])
    with pytest.raises(ConfigError, match="one generator per item"):
        sample(shrink, stochastic, start_of(stochastic, 0)[None], generator=[generator, generator])
    with pytest.raises(ConfigError, match="draws fresh noise"):
        PlanBatch.empty((4, 3)).admit("a", stochastic, start_of(stochastic, 0))


def test_sampling_is_differentiable_and_leaves_its_input_alone() -> None:
    plan = unlike_plans()[5]
    x = start_of(plan, 0)[None].requires_grad_()
    before = x.detach().clone()
    sample(shrink, plan, x).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())
    assert torch.equal(x.detach(), before)


def test_the_dtype_of_the_point_is_kept_whatever_the_network_returns() -> None:
    plan = unlike_plans()[2]
    x = plan.start(torch.ones(2, 3, dtype=torch.bfloat16))
    assert sample(lambda x, s: shrink(x, s).float(), plan, x).dtype == torch.bfloat16
    double = sample(lambda x, s: shrink(x, s).float(), plan, x.double())
    assert double.dtype == torch.float64


def test_the_whole_loop_compiles_without_a_graph_break() -> None:
    weight = torch.full((3,), 0.9)

    def predict_noise(x: Tensor, sigma: Tensor) -> Tensor:
        return shrink(x, sigma) * weight

    for plan in unlike_plans()[2:3]:
        torch._dynamo.reset()
        x = start_of(plan, 0)[None]
        compiled = torch.compile(
            lambda x, plan=plan: sample(predict_noise, plan, x), fullgraph=True, backend="eager"
        )
        torch.testing.assert_close(compiled(x), sample(predict_noise, plan, x))


def test_batch_refuses_what_does_not_fit() -> None:
    plan = unlike_plans()[0]
    batch = PlanBatch.empty((4, 3)).admit("a", plan, start_of(plan, 0))
    with pytest.raises(ConfigError, match="already under way"):
        batch.admit("a", plan, start_of(plan, 1))
    with pytest.raises(ConfigError, match=r"\[3, 4\].*\[4, 3\]"):
        batch.admit("b", plan, start_of(plan, 1).T)
    with pytest.raises(ConfigError, match="no item"):
        PlanBatch.empty((4, 3)).query()
    assert [item.key for item in batch.keep(lambda item: False).items] == []


def test_previews_end_at_the_sample() -> None:
    mixture = mixtures.smooth()
    plan = plans.dpm_solver_pp(EDM, grids.karras(EDM, 12))
    previews: list[Tensor] = []
    x = plan.start(torch.randn(8, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    x_0 = sample(mixture.predict_noise, plan, x, callback=lambda step: previews.append(step.x_0))
    errors = [float((preview - x_0).norm()) for preview in previews]
    assert errors[-1] < 1e-9
    assert errors[0] > 10 * errors[-3]


class _Moves(TorchDispatchMode):
    """Notes each operation that reads from another device than "meta", or waits for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if any(tensor.device.type != "meta" and tensor.ndim > 0 for tensor in tensors) or "scalar" in str(
            func
        ):
            self.found.append(str(func))
        return out


def test_nothing_goes_to_or_from_the_device_while_a_loop_runs() -> None:
    """So that it can be captured in a CUDA graph; "meta" stands for a device that is not the CPU's memory."""
    shape = UNetSpec(dims=1, in_channels=8, out_channels=8, channels=8, multipliers=(1,), attention_levels=())
    network = UNet(shape)
    predict_noise = preconditioning.discrete_epsilon("linear").noise_predictor(network.to("meta"))
    for plan in (each for each in unlike_plans() if not each.is_stochastic):
        x = plan.start(torch.empty(2, 8, 8, device="meta"))
        sample(predict_noise, plan, x)  # brings the schedule's table there
        with torch.inference_mode(), _Moves() as moves:
            sample(predict_noise, plan, x)
        assert moves.found == [], plan.name
