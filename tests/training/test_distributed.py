import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tests.training.toys import Toy, loop, losses, worker

from raydiance.errors import ConfigError
from raydiance.storage import Store
from raydiance.training import fit
from raydiance.training.distributed import share

STEPS = 50


def train(rank: int, world_size: int, url: str, port_file: str, queue) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=world_size)
    reports: list = []
    w = worker(Store.open(url), rank, world_size, reports)
    state = fit(Toy(), loop(steps=STEPS), worker=w, run_name=f"toy{world_size}", seed=1)
    if rank == 0:
        queue.put((losses(w.tracker), state.averaged()["0.weight"].tolist()))
    queue.put(("reports", rank, len(reports)))
    dist.destroy_process_group()


def test_two_workers_train_as_one(tmp_path):
    w = worker(Store.open(tmp_path / "store"))
    alone = fit(Toy(), loop(steps=STEPS), worker=w, run_name="toy1", seed=1)

    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    args = (2, str(tmp_path / "store"), str(tmp_path / "rendezvous"), queue)
    workers = [context.Process(target=train, args=(rank, *args)) for rank in range(2)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(120)
    assert [process.exitcode for process in workers] == [0, 0]
    answers = [queue.get() for _ in range(3)]
    reports = {rank: count for tag, rank, count in (a for a in answers if a[0] == "reports")}
    assert reports[0] == reports[1] == 8  # as often on every rank
    curve, weight = next(a for a in answers if a[0] != "reports")
    for one, two in zip(losses(w.tracker), curve, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    torch.testing.assert_close(torch.tensor(weight), alone.averaged()["0.weight"], rtol=1e-3, atol=1e-5)


def test_shares_make_up_the_batch():
    parts = [share(12, rank, 3) for rank in range(3)]
    assert [i for part in parts for i in part] == list(range(12))


def test_uneven_shares_are_refused():
    with pytest.raises(ConfigError, match="batch_size 7"):
        share(7, 0, 2)
