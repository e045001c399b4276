"""The engine without Ray: one seed is one sample in any company; it refuses, cancels and drains."""

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from raydiance.diffusion import grids, plans, schedules
from raydiance.diffusion.plans import SamplingPlan
from raydiance.diffusion.sampling import sample
from raydiance.generation.execution import agreeing_sizes, fill, in_calls
from raydiance.models import UNet, UNetSpec
from raydiance.serving.engine import Engine
from raydiance.serving.orders import Order, Progress, Ticket
from raydiance.serving.problems import NotReadyError, OverloadError, ServingError, TooLateError

SHAPE = (3, 4, 4, 4)
SCHEDULE = schedules.edm()


def ddim(steps: int, eta: float = 0.0) -> SamplingPlan:
    return plans.ddim(SCHEDULE, grids.karras(SCHEDULE, steps), eta=eta)


PLANS = (
    ddim(5),
    ddim(4, eta=1.0),
    plans.deis(SCHEDULE, grids.karras(SCHEDULE, 7), order=3),
    plans.heun(SCHEDULE, grids.karras(SCHEDULE, 3)),
    plans.dpm_solver_pp(SCHEDULE, grids.log_snr(SCHEDULE, 6), order=2),
)


def gaussian(x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
    """The exact noise predictor of a unit Gaussian."""
    s = sigma.view(-1, *(1 for _ in x.shape[1:]))
    return s / (1 + s * s) * x


def order(seed: int, plan: SamplingPlan, **settings: object) -> "Order[Tensor]":
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(SHAPE, generator=generator)
    return Order(plan, noise, finish=Tensor.clone, generator=generator, **settings)  # type: ignore[arg-type]


def run_all(engine: Engine) -> None:
    while engine.tick():
        pass


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def value(ticket: "Ticket[Tensor]") -> Tensor:
    return ticket.future.result(timeout=10)[0]


@pytest.fixture(scope="module")
def unet() -> Callable[..., Tensor]:
    torch.manual_seed(0)
    spec = UNetSpec(
        in_channels=3, out_channels=3, channels=16, multipliers=(1, 2), num_heads=2, embedding_dim=32
    )
    network = UNet(spec).eval().requires_grad_(False)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.08)

    def predict(x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        s = sigma.view(-1, 1, 1, 1, 1)
        return s / (1 + s * s) * x - (1 + s * s).rsqrt() * network(x / (1 + s * s).sqrt(), sigma.log() / 4)

    return predict


@torch.inference_mode()
def alone(
    network: Callable[..., Tensor], plan: SamplingPlan, seed: int, sizes: tuple[int, ...] = (2, 3)
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = plan.start(torch.randn(SHAPE, generator=generator))[None]
    return sample(lambda x, sigma: in_calls(network, sizes, x, sigma), plan, x, generator=[generator])[0]


@pytest.mark.parametrize("sizes", [(2, 3), (4,)])
def test_one_seed_is_one_sample_in_any_company(unet: Callable[..., Tensor], sizes: tuple[int, ...]) -> None:
    cases = [(seed, PLANS[seed % len(PLANS)]) for seed in range(14)]
    expected = [alone(unet, plan, seed, sizes) for seed, plan in cases]
    engine = Engine(unet, SHAPE, sizes=sizes, slots=6, queue=len(cases))
    tickets = []
    for number, (seed, plan) in enumerate(cases):  # arrivals at different times, so that rows and plans mix
        tickets.append(engine.submit(order(seed, plan)))
        for _ in range(number % 3):
            engine.tick()
    run_all(engine)
    for ticket, wanted in zip(tickets, expected):
        assert torch.equal(value(ticket), wanted)
    engine.close()


def test_the_network_is_called_with_few_shapes() -> None:
    shapes = set()

    def network(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        shapes.add((x.shape, sigma.shape))
        return gaussian(x, sigma)

    engine = Engine(network, SHAPE, sizes=(2, 4), slots=8)
    for seed in range(7):
        engine.submit(order(seed, ddim(2 + seed)))
    run_all(engine)
    assert shapes == {((size, *SHAPE), (size,)) for size in (2, 4)}
    engine.close()


def test_labels_go_with_their_samples() -> None:
    def network(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        target = labels.view(-1, 1, 1, 1, 1).to(x)  # the data is one point per class: its label
        return (x - target) / sigma.view(-1, 1, 1, 1, 1)

    engine = Engine(network, SHAPE, sizes=(2, 3), slots=8)
    tickets = [engine.submit(order(seed, ddim(2 + seed), label=seed % 3)) for seed in range(6)]
    run_all(engine)
    for seed, ticket in enumerate(tickets):
        torch.testing.assert_close(value(ticket), torch.full(SHAPE, float(seed % 3)), atol=1e-4, rtol=0)
    engine.close()


def test_words_go_with_their_samples_and_silence_with_the_others() -> None:
    def network(x: Tensor, sigma: Tensor, labels: Tensor | None, words: Tensor | None = None) -> Tensor:
        said = torch.zeros(len(x)) if words is None else words.sum(1)
        return (x - said.view(-1, 1, 1, 1, 1)) / sigma.view(-1, 1, 1, 1, 1)

    engine = Engine(network, SHAPE, sizes=(2, 3), slots=8)
    cases = [{}, {"words": torch.tensor([2, 3])}, {"words": torch.tensor([1, 0]), "guidance": 3.0}, {}]
    tickets = [engine.submit(order(seed, ddim(2 + seed), **case)) for seed, case in enumerate(cases)]
    run_all(engine)
    for ticket, expected in zip(tickets, (0.0, 5.0, 3.0, 0.0)):
        torch.testing.assert_close(value(ticket), torch.full(SHAPE, expected), atol=1e-4, rtol=0)
    engine.close()


def test_guided_samples_and_those_without_a_class_share_calls() -> None:
    def network(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        labels = torch.full((len(x),), 5, device=x.device) if labels is None else labels
        s = sigma.view(-1, 1, 1, 1, 1)
        return (x - labels.view(-1, 1, 1, 1, 1).to(x) * s / (1 + s)) / (1 + s)

    def made(**settings: object) -> Tensor:
        engine = Engine(network, SHAPE, sizes=(2, 3), slots=8, no_label=5)
        ticket = engine.submit(order(1, ddim(6), **settings))
        run_all(engine)
        engine.close()
        return value(ticket)

    cases = [{"label": 2, "guidance": 3.0}, {"label": 2}, {}, {"label": 1, "guidance": 1.5}, {"label": 0}]
    engine = Engine(network, SHAPE, sizes=(2, 3), slots=8, no_label=5)
    tickets = [engine.submit(order(1, ddim(6), **case)) for case in cases]
    run_all(engine)
    together = [value(ticket) for ticket in tickets]
    engine.close()
    for case, x_0 in zip(cases, together):
        assert torch.equal(x_0, made(**case)), case
    guided, plain, none = together[:3]  # the network is linear in the label, so the samples are, too
    torch.testing.assert_close(guided, none + 3.0 * (plain - none), atol=1e-4, rtol=1e-4)


def test_a_full_queue_refuses_and_a_free_place_takes() -> None:
    engine = Engine(gaussian, SHAPE, sizes=(2,), slots=2, queue=3)
    for seed in range(5):
        engine.submit(order(seed, ddim(4)))
    with pytest.raises(OverloadError) as refusal:
        engine.submit(order(9, ddim(4)))
    assert int(refusal.value.headers["Retry-After"]) >= 1
    run_all(engine)
    engine.drain(5)
    engine.close()
    assert (engine.stats.finished, engine.stats.refused) == (5, 1)


def test_a_short_request_overtakes_a_long_one_that_runs() -> None:
    engine = Engine(gaussian, SHAPE, sizes=(1,), slots=4)
    long = engine.submit(order(0, ddim(60)))
    for _ in range(5):
        engine.tick()
    short = engine.submit(order(1, ddim(4)))
    for _ in range(4):
        engine.tick()
    assert torch.equal(value(short), alone(gaussian, ddim(4), 1))
    assert not long.future.done()
    run_all(engine)
    assert torch.equal(value(long), alone(gaussian, ddim(60), 0))
    engine.close()


def test_a_long_request_is_not_starved_by_short_ones() -> None:
    clock = Clock()
    engine = Engine(gaussian, SHAPE, sizes=(1,), slots=4, queue=1000, clock=clock, network_s=1.0)
    long = engine.submit(order(0, ddim(20)))
    for seed in range(1, 60):
        engine.submit(order(seed, ddim(2)))
        for _ in range(2):
            clock.now += 1.0
            engine.tick()
        if long.future.done():
            break
    assert long.future.done(), "fed with short requests at full load, the long one never came to its turn"
    engine.close()


def test_a_client_that_asks_little_is_not_held_up_by_one_that_asks_much() -> None:
    engine = Engine(gaussian, SHAPE, sizes=(2,), slots=4, queue=16)
    many = [engine.submit(order(seed, ddim(6), client="much")) for seed in range(12)]
    engine.tick()
    few = [engine.submit(order(seed, ddim(6), client="little")) for seed in (50, 51)]
    for _ in range(24):  # 48 rows: a half of them is enough for the two of "little", and one more
        engine.tick()
    engine.drain(0.5)
    done = {"much": sum(t.future.done() for t in many), "little": sum(t.future.done() for t in few)}
    assert done["little"] == 2 and done["much"] >= 4, done
    engine.close()


def test_rows_are_shared_evenly_between_clients_that_always_want_more() -> None:
    engine = Engine(gaussian, SHAPE, sizes=(3,), slots=6, queue=40)
    tickets = [
        engine.submit(order(seed, ddim(4), client="a" if seed % 4 else "b")) for seed in range(32)
    ]  # three times as many of a as of b
    for _ in range(16):  # 48 rows, 12 samples
        engine.tick()
    time.sleep(0.1)
    done = Counter(t.order.client for t in tickets if t.future.done())
    assert abs(done["a"] - done["b"]) <= 2 and sum(done.values()) >= 10, done
    engine.close()


def test_a_full_queue_makes_room_for_a_client_that_has_none_of_it() -> None:
    engine = Engine(gaussian, SHAPE, sizes=(2,), slots=2, queue=3)
    greedy = [engine.submit(order(seed, ddim(4), client="much")) for seed in range(5)]
    modest = engine.submit(order(7, ddim(4), client="little"))
    assert isinstance(greedy[-1].future.exception(timeout=1), OverloadError), "the last of the greedy one"
    with pytest.raises(OverloadError):
        engine.submit(order(8, ddim(4), client="much"))
    run_all(engine)
    assert torch.equal(value(modest), alone(gaussian, ddim(4), 7))
    assert all(ticket.future.exception(timeout=5) is None for ticket in greedy[:-1])
    engine.close()


def test_priority_goes_first() -> None:
    engine = Engine(gaussian, SHAPE, sizes=(1,), slots=4)
    background = engine.submit(order(0, ddim(2), priority=-1))
    urgent = engine.submit(order(1, ddim(10), priority=1))
    for _ in range(10):
        engine.tick()
    assert value(urgent) is not None and not background.future.done()
    engine.close()


def test_a_cancelled_request_frees_its_place_at_the_next_tick() -> None:
    rows: list[int] = []
    engine = Engine(gaussian, SHAPE, sizes=(1,), slots=1, queue=4)
    first = engine.submit(order(0, ddim(50), watch=lambda progress: rows.append(progress.row)))
    engine.tick()
    waiting = engine.submit(order(1, ddim(50)))
    second = engine.submit(order(2, ddim(3)))
    first.cancel()
    waiting.cancel()
    for _ in range(3):
        engine.tick()
    assert torch.equal(value(second), alone(gaussian, ddim(3), 2))
    assert rows == [1] and engine.stats.cancelled == 2
    engine.close()


def test_a_deadline_is_refused_early_or_enforced() -> None:
    clock = Clock()
    engine = Engine(gaussian, SHAPE, sizes=(1,), slots=2, clock=clock, network_s=1.0)
    with pytest.raises(OverloadError, match="deadline"):
        engine.submit(order(0, ddim(10), deadline_s=9.0))
    ticket = engine.submit(order(0, ddim(10), deadline_s=11.0))
    engine.tick()
    clock.now += 12.0
    engine.tick()
    with pytest.raises(TooLateError):
        ticket.future.result(timeout=0)
    assert engine.load == {"waiting": 0, "running": 0, "finishing": 0}
    engine.close()


def test_a_broken_call_fails_its_own_requests_only() -> None:
    calls = [0]

    def network(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        calls[0] += 1
        if calls[0] == 1:
            raise RuntimeError("out of memory")
        return gaussian(x, sigma)

    engine = Engine(network, SHAPE, sizes=(2,), slots=2)
    broken = [engine.submit(order(seed, ddim(3))) for seed in range(2)]
    engine.tick()
    whole = engine.submit(order(5, ddim(3)))
    run_all(engine)
    for ticket in broken:
        with pytest.raises(RuntimeError, match="out of memory"):
            ticket.future.result(timeout=0)
    assert torch.equal(value(whole), alone(gaussian, ddim(3), 5))
    engine.close()


def test_a_sample_that_is_not_finite_is_an_error_and_spares_its_neighbour() -> None:
    engine = Engine(gaussian, SHAPE, sizes=(2,), slots=2)
    sick = order(0, ddim(3))
    sick.noise[0, 0, 0, 0] = float("nan")
    bad, good = engine.submit(sick), engine.submit(order(1, ddim(3)))
    run_all(engine)
    with pytest.raises(ServingError, match="not finite"):
        bad.future.result(timeout=10)
    assert torch.equal(value(good), alone(gaussian, ddim(3), 1))
    engine.close()


def test_progress_shows_the_way_to_the_result() -> None:
    seen: list[Progress] = []
    engine = Engine(gaussian, SHAPE, sizes=(2,), slots=2)
    ticket = engine.submit(order(0, ddim(6), watch=seen.append))
    run_all(engine)
    assert [(progress.row, progress.nfe) for progress in seen] == [(k, 6) for k in range(1, 7)]
    errors = [float((progress.x_0 - value(ticket)).abs().max()) for progress in seen]
    assert errors[-1] < 1e-5 and errors == sorted(errors, reverse=True)
    engine.close()


def test_finishing_happens_beside_the_tick_thread() -> None:
    with Engine(gaussian, SHAPE) as engine:
        template = order(0, ddim(3))
        named = Order(template.plan, template.noise, finish=lambda x_0: threading.current_thread().name)
        name, timing = engine.submit(named).future.result(timeout=10)
    assert name.startswith("finish")
    assert min(timing.queue_s, timing.sample_s, timing.finish_s) >= 0


def test_draining_finishes_what_runs_and_takes_nothing_more() -> None:
    with Engine(gaussian, SHAPE, sizes=(2,), slots=2) as engine:
        tickets = [engine.submit(order(seed, ddim(10))) for seed in range(6)]
        assert engine.drain(20)
        assert all(ticket.future.done() for ticket in tickets)
        with pytest.raises(NotReadyError):
            engine.submit(order(7, ddim(3)))


def test_closing_leaves_nobody_waiting() -> None:
    release = threading.Event()

    def network(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        release.wait(5)
        return gaussian(x, sigma)

    with Engine(network, SHAPE, sizes=(1,), slots=1) as engine:
        tickets = [engine.submit(order(seed, ddim(10))) for seed in range(3)]
        threading.Timer(0.2, release.set).start()
    for ticket in tickets:
        with pytest.raises(NotReadyError):
            ticket.future.result(timeout=0)


def test_calls_are_filled_up_and_give_back_what_was_asked() -> None:
    x = torch.arange(7.0)[:, None]
    sizes = []

    def network(x: Tensor, y: Tensor | None) -> Tensor:
        sizes.append(len(x))
        return 2 * x

    assert torch.equal(in_calls(network, (2, 3), x, None), 2 * x)
    assert sizes == [3, 3, 2]
    assert fill(x[1:2], (3,)).tolist() == [[1.0], [1.0], [1.0]]


def test_a_network_that_minds_its_place_or_the_size_is_found_out(unet: Callable[..., Tensor]) -> None:
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(3))
    sigma = torch.logspace(-1, 1, 5)
    assert agreeing_sizes(unet, (2, 3), x, sigma, None)[0] == 2
    assert agreeing_sizes(lambda x, sigma, labels: x.cumsum(0), (2, 3), x, sigma, None) == (1,)
    by_size: Callable[..., Tensor] = lambda x, sigma, labels: x * (len(x) // 4 + 1)  # noqa: E731
    assert agreeing_sizes(by_size, (2, 3, 5), x, sigma, None) == (2, 3)


def test_a_watcher_that_breaks_loses_its_sample_and_no_other() -> None:
    def broken(progress: Progress) -> None:
        raise RuntimeError("nobody listens")

    engine = Engine(gaussian, SHAPE, slots=4)
    lost = engine.submit(order(1, ddim(5), watch=broken))
    kept = engine.submit(order(2, ddim(5)))
    run_all(engine)
    engine.close()
    assert lost.future.cancelled()
    assert kept.future.result()[0].shape == SHAPE


def test_a_slow_moment_is_no_reason_to_refuse_for_ever() -> None:
    clock = Clock()
    pace = [1.0]

    def network(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        clock.now += pace[0]
        return gaussian(x, sigma)

    engine = Engine(network, SHAPE, network_s=0.1, clock=clock)
    engine.submit(order(0, ddim(20)))
    run_all(engine)  # the mean of a tick is now near 1 s
    pace[0] = 0.1
    ticket = engine.submit(order(1, ddim(5), deadline_s=1.0))
    with pytest.raises(OverloadError, match="deadline"):
        engine.submit(order(2, ddim(5), deadline_s=1.0))
    run_all(engine)
    assert ticket.future.result(5)[0].shape == SHAPE
    with pytest.raises(OverloadError, match="deadline"):
        engine.submit(order(3, ddim(5), deadline_s=0.2))
    engine.close()
