"""Functions for Ray workers to run: they must lie in a module that the workers can import."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from tests.support.listeners import listeners
from torch import Tensor, nn

from raydiance.errors import NonFiniteLossError, TrainingError
from raydiance.storage import ArtifactRef, Draft, Store, write_json
from raydiance.tracking import Worker
from raydiance.training import Batch, LoopSpec, Objective, fit
from raydiance.training.jobs import Payload, fit_and_keep


def square(x: int) -> int:
    time.sleep(0.05 * (x % 3 == 0))
    return x * x


def picky(x: int) -> int:
    if x == 2:
        raise TrainingError("item 2 is no good")
    return x


def who_am_i(payload: dict[str, int], worker: Worker) -> dict[str, object]:
    """Sum over the group, a checkpoint in the store, a report."""
    total = torch.tensor(float(worker.rank + payload["base"]))
    if worker.world_size > 1:
        dist.all_reduce(total)
    checkpoint = None
    if worker.rank == 0:
        with worker.store.create("checkpoints/who", "00000001") as draft:
            write_json(draft.path("total.json"), float(total))
        checkpoint = draft.artifact.ref
    worker.report({"total": float(total)}, checkpoint)
    with worker.progress.task("who", total=1) as task:
        task.update(1)
    return {
        "rank": worker.rank,
        "world_size": worker.world_size,
        "total": float(total),
        "pid": os.getpid(),
        "listens": list(listeners([os.getpid()])),
    }


def diverge(payload: None, worker: Worker) -> None:
    """Rank 1 finds a NaN while rank 0 waits for it."""
    if worker.rank == worker.world_size - 1:
        raise NonFiniteLossError(
            "step 7: the loss is nan; the last good checkpoint is checkpoints/x/00000005"
        )
    dist.barrier()


def die_once(marker: str, worker: Worker | None) -> str:
    """The first attempt is lost to a kill."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def lose_the_other(rank: int, meeting: str, said: str) -> None:
    """One of two that meet at a file: rank 1 goes without a word, rank 0 writes down what it fails with."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        dist.all_reduce(torch.ones(1))
    except RuntimeError as error:
        Path(said).write_text(str(error))


class Regression(Objective):
    """A small network learns the sign pattern of its noise: fresh data at every step, as in diffusion."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 16))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = torch.stack([torch.randn(16, generator=generator) for generator in batch.generators()])
        return {"loss": (self.model(x) - x.sign()).square().mean()}


def regress(marker: str, worker: Worker) -> ArtifactRef | None:
    """Train for 50 steps; loss and what the second checkpoint is worth go to the worker's tracker."""
    loop = LoopSpec(
        steps=50, batch_size=8, learning_rate=0.02, warmup_steps=5, log_every=1, checkpoint_every=25
    )
    objective = Regression()
    payload = Payload(marker, {}, {}, f"regress-{worker.world_size}", 3)

    def write(draft: Draft) -> None:
        save_file(objective.model.state_dict(), draft.path("weights.safetensors"))

    return fit_and_keep("regression", objective, loop, payload, worker, write, sign_error)


def sign_error(
    payload: Payload[str], store: Store, weights: Mapping[str, Tensor], device: torch.device
) -> dict[str, float]:
    """The error on data of its own. The first time it is asked, it fails, or its process is killed."""
    if Path(payload.spec).name == "killed":
        die_once(payload.spec, None)
    elif not (marker := Path(payload.spec)).exists():
        marker.touch()
        raise TrainingError("not yet")
    objective = Regression()
    objective.model.load_state_dict(dict(weights))
    return {"error": float(objective(Batch(-1, 0, range(64), 64))["loss"])}


def meet_and_regress(marker: str, worker: Worker) -> dict[str, object]:
    """Both, because it takes longest to start the workers."""
    return who_am_i({"base": 1}, worker) | {"made": regress(marker, worker)}


class Told(Regression):
    """One of which a worker, and later the launching process, is told to end, each once."""

    def __init__(self, folder: str, launcher: int, worker: Worker) -> None:
        super().__init__()
        self.folder, self.launcher, self.worker = Path(folder), launcher, worker

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        time.sleep(0.03 * (self.worker.world_size > 1))
        if self.worker.rank == self.worker.world_size - 1 > 0:
            for step, pid in ((5, os.getpid()), (60, self.launcher)):
                if batch.step >= step and not (marker := self.folder / f"{step}").exists():
                    marker.touch()
                    os.kill(pid, signal.SIGTERM)
                    break
        return super().forward(batch)


def regress_until_told(payload: tuple[str, int], worker: Worker) -> int:
    """Train; at step 5 a worker's node is taken away, at step 60 the launching process is told to end."""
    loop = LoopSpec(
        steps=150, batch_size=8, learning_rate=0.02, warmup_steps=5, log_every=1, checkpoint_every=25
    )
    return fit(Told(*payload, worker), loop, worker=worker, run_name="told", seed=3).step
