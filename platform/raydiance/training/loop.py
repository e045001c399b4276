"""The training loop: what is drawn, stepped, logged and kept, in this order, at every step."""

import copy
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from statistics import fmean, median
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from raydiance.errors import NonFiniteLossError
from raydiance.spec import spec
from raydiance.storage.cache import keep_programs
from raydiance.tracking import Interrupted, Worker
from raydiance.training.averages import PowerAverages, gamma_of
from raydiance.training.batches import Batch
from raydiance.training.checkpoint import Checkpoints, Seen, TrainState, unseen
from raydiance.training.distributed import (
    distribute,
    is_sharded,
    mean_over_workers,
    share,
    unsynchronised,
    wait_for_all,
    whole,
)
from raydiance.training.ema import Ema
from raydiance.training.precision import Precision, PrecisionName, choose_precision
from raydiance.training.throughput import Stopwatch, Throughput

__all__ = [
    "Decay",
    "LoopSpec",
    "Objective",
    "PausedError",
    "fit",
    "learning_rate_factor",
    "start",
    "train_step",
]

Decay = Literal["cosine", "linear", "constant"]

REMEMBERED = 50  # losses, whose median tells a spike
ENDING = "ending"  # beside the metrics: the share of the workers that are told to end
RETURNED = 1_000_003  # added to the seed at each return, so that the same step meets other noise

logger = logging.getLogger("raydiance.training")


@spec
class LoopSpec:
    """How a network is stepped. `batch_size` is that of all workers together.

    accumulate: into so many parts each worker's share of a batch is split, one behind the other, to save memory.
    max_returns: so often training goes back to the last good checkpoint, to go on with other noise and another
    order, where loss or gradient is not finite, or the loss is max_spike (0: never mind) times its recent median.
    shard: weights, moments and averages lie in parts on the workers (FSDP2), for networks that fill a GPU.
    compile: the network by torch.compile, which takes a minute and a C++ compiler, and is worth it on GPUs.
    precision: of networks, see training.precision; "auto" is bfloat16 on a GPU that has it.
    `ema_widths`: averages of these widths (sigma_rel) are kept at each checkpoint, from which one of any width can
    be made afterwards: see training.averages.
    """

    steps: int = 1000
    batch_size: int = 8
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    decay: Decay = "cosine"
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 1.0
    accumulate: int = 1
    shard: bool = False
    compile: bool = False
    precision: PrecisionName = "auto"
    max_returns: int = 2
    max_spike: float = 0.0
    ema_decay: float = 0.0  # 0: no moving average
    ema_widths: tuple[float, ...] = ()
    log_every: int = 10
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    preview_every: int = 200

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "accumulate",
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
            "preview_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for width in self.ema_widths:
            gamma_of(width)
        if self.max_returns < 0 or self.max_spike < 0:
            raise ValueError(
                f"max_returns and max_spike must not be negative, got {self.max_returns} and {self.max_spike}"
            )
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise ValueError(
                f"learning_rate and clip_norm must be positive, got {self.learning_rate} and {self.clip_norm}"
            )


class PausedError(Exception):
    """Training stands at the step where it was to stop: no failure, but there is no result yet."""


class Objective(nn.Module):
    """What is minimised: a model and the losses round it. `loading` runs while `forward` gets its data."""

    model: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.loading = Stopwatch()

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars, means over the batch; "loss" is the one to minimise."""

    def parameter_groups(self) -> Sequence[Mapping[str, Any]]:
        """Parameters with, if they differ, a "factor" on the learning rate."""
        return [{"params": list(self.model.parameters())}]

    def examine(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Numbers that compare the given weights with those of other trainings; none by default."""
        return {}

    def preview(self, weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Pictures (uint8 [H, W, 3]) and films ([T, H, W, 3]) of what the given weights do; none by default."""
        return {}


def start(objective: Objective, loop: LoopSpec) -> TrainState:
    """A fresh state: the model, Adam, and the moving averages that the spec asks for."""
    groups = [{"factor": 1.0, **group} for group in objective.parameter_groups()]
    optimizer = torch.optim.Adam(groups, lr=loop.learning_rate, betas=loop.betas, fused=True)
    ema = Ema(objective.model, loop.ema_decay) if loop.ema_decay else None
    averages = PowerAverages(objective.model, loop.ema_widths) if loop.ema_widths else None
    return TrainState(objective.model, optimizer, ema, averages)


def fit(
    objective: Objective, loop: LoopSpec, *, worker: Worker, run_name: str, seed: int, seen: Seen = unseen
) -> TrainState:
    """Train to the last step, from the newest intact checkpoint of this run name if there is one.

    Told to end, it does so after its step, with a checkpoint: raises Interrupted on all workers at the same step.
    Raises NonFiniteLossError, naming step and last good checkpoint, if loss or gradient is not finite, and was so
    again after each return to that checkpoint; PausedError at the step where the worker is to stop, with a
    checkpoint there.
    """
    end = min(loop.steps, worker.until or loop.steps)
    plain = copy.deepcopy(objective.model) if loop.shard else objective.model
    module = distribute(objective, worker.device, shard=objective.model if loop.shard else None)
    state = start(objective, loop)
    checkpoints = Checkpoints(worker.store, run_name, keep=loop.keep_checkpoints, seen=seen)
    checkpoints.restore(state)
    indices = share(loop.batch_size, worker.rank, worker.world_size)
    precision = choose_precision(loop.precision, worker.device)
    throughput = Throughput(loop.batch_size, worker.world_size, worker.device, precision, objective.loading)
    reports = Reports(worker, checkpoints)
    with worker.ending() as ask, checkpoints, worker.progress.task(run_name, total=end) as task:
        task.update(state.step)
        while state.step < end:
            checkpoints.check()
            batch = Batch(seed + RETURNED * state.returns, state.step, indices, loop.batch_size)
            if throughput.flops is None:
                throughput.count(module, batch.parts(loop.accumulate)[0], loop.accumulate)
                if loop.compile:
                    keep_programs()
                    objective.model.compile(dynamic=False)
            try:
                with throughput.step():
                    metrics = train_step(module, state, loop, batch, checkpoints, precision, ask)
            except NonFiniteLossError as error:
                go_back(state, loop, checkpoints, error)
                continue
            task.update(1, loss=metrics["loss"])
            last, ending = state.step == end, metrics.pop(ENDING) > 0
            if last or state.step % loop.log_every == 0:
                told = {f"train/{k}": v for k, v in metrics.items()} | throughput.read()
                told["train/recent_loss"] = fmean(state.losses)
                worker.tracker.log_metrics(told, step=state.step)
            if last and worker.until:
                _examine(objective, state, worker)
            if state.step == loop.steps or state.step % loop.preview_every == 0:
                _preview(objective, state, worker)
            if last or ending or state.step % loop.checkpoint_every == 0:
                reports.checkpoint(state, metrics, last=last or ending)
            if ending:
                raise Interrupted(run_name, state.step)
    if end < loop.steps:
        raise PausedError(f"{run_name}: step {end} of {loop.steps}; it goes on from its checkpoint")
    return _in_one_piece(objective, state, plain) if is_sharded(state.model) else state


def _examine(objective: Objective, state: TrainState, worker: Worker) -> None:
    if worker.rank == 0 or is_sharded(state.model):
        weights = state.averaged()
    if worker.rank == 0:
        told = {f"examined/{name}": value for name, value in objective.examine(weights).items()}
        worker.tracker.log_metrics(told, step=state.step)


def _preview(objective: Objective, state: TrainState, worker: Worker) -> None:
    if worker.rank == 0 or is_sharded(state.model):
        weights = state.averaged()
    if worker.rank == 0:
        for key, shown in objective.preview(weights).items():
            log = worker.tracker.log_film if shown.ndim == 4 else worker.tracker.log_image
            log(key, shown, step=state.step)


def _in_one_piece(objective: Objective, state: TrainState, plain: nn.Module) -> TrainState:
    """The averaged weights on every worker, in a model that none of them needs the others for."""
    plain.load_state_dict(state.averaged())
    objective.model = plain.to(next(state.model.parameters()).device)
    return replace(state, model=plain, ema=None, averages=None)


class Reports:
    """Saves on rank 0 while training goes on, and tells of each checkpoint, on all ranks, when it is there.

    That is at the next one; at the last, at once.
    """

    def __init__(self, worker: Worker, checkpoints: Checkpoints) -> None:
        self.worker, self.checkpoints = worker, checkpoints
        self._untold: Mapping[str, float] | None = None

    def checkpoint(self, state: TrainState, metrics: Mapping[str, float], *, last: bool) -> None:
        """Begin to save the state, and tell of what was saved before it."""
        self._tell()
        self.checkpoints.save(state, write=self.worker.rank == 0)
        self._untold = metrics
        if last:
            self._tell()

    def _tell(self) -> None:
        if self._untold is not None:
            ref = self.checkpoints.last if self.worker.rank == 0 else None
            wait_for_all()
            self.worker.report(self._untold, ref)
            self._untold = None


def train_step(
    module: nn.Module,
    state: TrainState,
    loop: LoopSpec,
    batch: Batch,
    checkpoints: Checkpoints,
    precision: Precision,
    ask: Callable[[], int] = lambda: 0,
) -> dict[str, float]:
    """One step of Adam on the global batch; returns the metrics' means over all workers, and beside them the share
    of those that are told to end.
    """
    factor = learning_rate_factor(loop, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = loop.learning_rate * factor * group["factor"]
    state.optimizer.zero_grad(set_to_none=True)
    terms = accumulate(module, batch.parts(loop.accumulate), precision)
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), loop.clip_norm)
    ending = terms["loss"].new_full((), float(ask() > 0))
    metrics = mean_over_workers(whole(terms | {"gradient_norm": norm, ENDING: ending}))
    if not math.isfinite(metrics["loss"] + metrics["gradient_norm"]) or _is_spike(
        metrics["loss"], state, loop
    ):
        raise NonFiniteLossError(
            f"step {state.step}: loss {metrics['loss']}, gradient norm {metrics['gradient_norm']}; "
            f"the last good checkpoint is {checkpoints.last.key if checkpoints.last else 'none'}: "
            "lower the learning rate and run again"
        )
    state.optimizer.step()
    if state.ema:
        state.ema.update(state.model)
    if state.averages:
        state.averages.update(state.model)
    state.step += 1
    state.losses = [*state.losses, metrics["loss"]][-REMEMBERED:]
    return metrics | {"learning_rate": loop.learning_rate * factor}


def accumulate(module: nn.Module, parts: Sequence[Batch], precision: Precision) -> dict[str, Tensor]:
    """Add up the gradients of equal parts of a batch, exchanged once by workers: the means of their terms."""
    found: list[dict[str, Tensor]] = []
    for part in parts:
        with nullcontext() if part is parts[-1] else unsynchronised(module):
            with precision.applied():
                found.append(module(part))
            (found[-1]["loss"] / len(parts)).backward()  # type: ignore[no-untyped-call]
    return {name: torch.stack([terms[name].detach() for terms in found]).mean(0) for name in found[0]}


def go_back(state: TrainState, loop: LoopSpec, checkpoints: Checkpoints, error: NonFiniteLossError) -> None:
    """Take the state back to the newest checkpoint. Raises the error if there is none, or no try is left.

    All workers see the same loss, so all of them come here together.
    """
    _ = checkpoints.last  # the newest one is there before anybody looks for it
    wait_for_all()
    returns = state.returns + 1
    if returns > loop.max_returns or not checkpoints.restore(state):
        raise error
    logger.warning("%s; going back to step %d, return %d of %d", error, state.step, returns, loop.max_returns)
    state.returns = returns


def _is_spike(loss: float, state: TrainState, loop: LoopSpec) -> bool:
    """Whether a loss is far above the median of the last ones, once there are enough of them."""
    known = len(state.losses) == REMEMBERED
    return bool(loop.max_spike) and known and loss > loop.max_spike * median(state.losses)


def learning_rate_factor(loop: LoopSpec, step: int) -> float:
    """Linear warm-up over the first steps, then the chosen decay to (nearly) 0 at the last."""
    if step < loop.warmup_steps:
        return (step + 1) / loop.warmup_steps
    progress = (step - loop.warmup_steps) / max(1, loop.steps - loop.warmup_steps)
    if loop.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if loop.decay == "linear" else 1.0
