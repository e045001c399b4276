from contextlib import suppress

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tests.training.toys import NUM_ITEMS, Toy, loop, losses, worker

from raydiance.errors import ConfigError
from raydiance.storage import Store
from raydiance.training import (
    Batch,
    DiffusionObjective,
    DiffusionTraining,
    LatentUNetSpec,
    Objective,
    TrainState,
    fit,
)
from raydiance.training.distributed import share

STEPS, CUT = 50, 10


def toy() -> Objective:
    return Toy()


def denoiser() -> Objective:
    """Of random latents, with what a U-Net may have: blocks, attention, a global path."""
    shape = {"in_channels": 2, "out_channels": 2, "channels": 8, "resolution": 4, "global_width": 16}
    spec = LatentUNetSpec(**shape, multipliers=(1, 2), attention_levels=(1,), num_heads=2, embedding_dim=16)
    latents = torch.randn(NUM_ITEMS, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    return DiffusionObjective(DiffusionTraining(model=spec), latents, seed=2)


def train(rank: int, world_size: int, url: str, port_file: str, queue, make, changes: dict) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=world_size)
    reports: list = []
    store, run, spec = Store.open(url), f"toy{world_size}", loop(**{"steps": STEPS} | changes)
    if changes:
        with suppress(InterruptedError):
            fit(cut_off(make()), spec, worker=worker(store, rank, world_size), run_name=run, seed=1)
    w = worker(store, rank, world_size, reports)
    objective = make()
    state = fit(objective, spec, worker=w, run_name=run, seed=1)
    if rank == 0:
        queue.put((losses(w.tracker), first(state).tolist()))
        objective(Batch(1, 0, range(4), 4))  # whatever is asked of it now, it needs no other worker
    queue.put(("reports", rank, len(reports)))
    dist.destroy_process_group()


def first(state: TrainState) -> torch.Tensor:
    """One of the averaged weights."""
    return next(value for name, value in sorted(state.averaged().items()) if name.endswith("weight"))


def cut_off(objective: Objective) -> Objective:
    def stop(_, arguments) -> None:
        if arguments[0].step == CUT:
            raise InterruptedError

    objective.register_forward_pre_hook(stop)
    return objective


SHARDED = {"shard": True, "accumulate": 2, "ema_widths": (0.1,)}
SHORT = {"steps": 14}


@pytest.mark.parametrize(
    ("make", "changes"),
    [(toy, {}), (toy, SHARDED), (denoiser, SHARDED | SHORT)],
    ids=["copied", "sharded, cut off and gone on with", "a sharded denoiser"],
)
def test_two_workers_train_as_one(tmp_path, make, changes):
    w = worker(Store.open(tmp_path / "store"))
    steps = changes.get("steps", STEPS)
    alone = fit(make(), loop(steps=steps), worker=w, run_name="toy1", seed=1)

    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    args = (2, str(tmp_path / "store"), str(tmp_path / "rendezvous"), queue, make, changes)
    workers = [context.Process(target=train, args=(rank, *args)) for rank in range(2)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(120)
    assert [process.exitcode for process in workers] == [0, 0]
    answers = [queue.get() for _ in range(3)]
    reports = {rank: count for tag, rank, count in (a for a in answers if a[0] == "reports")}
    assert reports[0] == reports[1] == len(range(7, steps, 7)) + 1 - bool(changes)  # as often on every rank
    curve, weight = next(a for a in answers if a[0] != "reports")
    assert len(curve) == (steps - 7 if changes else steps)  # from the checkpoint of step 7
    for one, two in zip(losses(w.tracker)[-len(curve) :], curve, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    torch.testing.assert_close(torch.tensor(weight), first(alone), rtol=1e-3, atol=1e-5)


def test_shares_make_up_the_batch():
    parts = [share(12, rank, 3) for rank in range(3)]
    assert [i for part in parts for i in part] == list(range(12))


def test_uneven_shares_are_refused():
    with pytest.raises(ConfigError, match="batch_size 7"):
        share(7, 0, 2)
