"""The state of a training run as artifacts: tensors in safetensors, the rest in JSON, nothing pickled."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raydiance.errors import ArtifactError, TrainingError
from raydiance.storage import Artifact, ArtifactRef, Store, write_json
from raydiance.training.averages import PowerAverages, Snapshot
from raydiance.training.distributed import is_sharded, like_shards_of, whole
from raydiance.training.ema import Ema

__all__ = [
    "Checkpoints",
    "Seen",
    "TrainState",
    "load_checkpoint",
    "read_averaged",
    "read_snapshots",
    "save_checkpoint",
    "unseen",
]

TENSORS, SCALARS = "state.safetensors", "state.json"
Seen: TypeAlias = Callable[[int, ArtifactRef], None]  # told the step of a checkpoint that is there, and where

logger = logging.getLogger("raydiance.training")


@dataclass
class TrainState:
    """All that changes while a run goes on: noise and the order of data follow from seed, step and returns.

    losses: of the last steps, what a spike is told by; returns: how often training went back to a checkpoint.
    spent_s: processor time before the process had taken `began`.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None = None
    averages: PowerAverages | None = None
    step: int = 0
    losses: list[float] = field(default_factory=list)
    returns: int = 0
    spent_s: float = 0.0
    began: float = field(default_factory=time.process_time)

    @property
    def cpu_s(self) -> float:
        """Processor seconds of this worker's processes; of one that was cut off those before the checkpoint."""
        return self.spent_s + time.process_time() - self.began

    def averaged(self) -> dict[str, Tensor]:
        """The weights to use: the moving average where there is one."""
        weights = self.ema.shadow if self.ema else self.model.state_dict()
        return {name: value.detach().cpu().contiguous() for name, value in whole(weights).items()}


def kind_of(run_name: str) -> str:
    """The kind under which a run's checkpoints lie."""
    return f"checkpoints/{run_name}"


@dataclass(frozen=True)
class Copy:
    """A state as it was, in memory of its own on the host, so that training can go on while it is written."""

    tensors: Mapping[str, Tensor]
    scalars: Mapping[str, Any]
    averages: Sequence[Snapshot]


def save_checkpoint(store: Store, run_name: str, state: TrainState) -> ArtifactRef:
    """Write the state as an artifact named by its step."""
    return _write(store, run_name, _copy(state))


def _copy(state: TrainState) -> Copy:
    tensors = {f"model/{name}": value for name, value in state.model.state_dict().items()}
    scalars: dict[str, Any] = {"step": state.step, "losses": state.losses, "returns": state.returns}
    scalars["cpu_s"] = state.cpu_s
    if state.ema:
        tensors |= {f"ema/{name}": value for name, value in state.ema.shadow.items()}
        scalars["ema_updates"] = state.ema.num_updates
    if state.averages:
        shadows = enumerate(state.averages.shadows)
        tensors |= {f"averages/{k}/{name}": value for k, shadow in shadows for name, value in shadow.items()}
    optimizer = state.optimizer.state_dict()["state"]
    tensors |= {
        f"optimizer/{i}/{key}": value for i, entry in optimizer.items() for key, value in entry.items()
    }
    copied = {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in whole(tensors).items()
    }
    return Copy(copied, scalars, state.averages.snapshots() if state.averages else ())


def _write(store: Store, run_name: str, copy: Copy) -> ArtifactRef:
    scalars = dict(copy.scalars)
    with store.create(kind_of(run_name), f"{scalars['step']:08d}", meta=scalars) as draft:
        save_file(dict(copy.tensors), draft.path(TENSORS))
        write_json(draft.path(SCALARS), scalars)
    return draft.artifact.ref


def read_averaged(store: Store, ref: ArtifactRef) -> dict[str, Tensor]:
    """The weights to use out of a checkpoint, as TrainState.averaged gives them."""
    parts = _parts(store.get(ref))
    return parts["ema"] or parts["model"]


def _parts(artifact: Artifact) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "averages": {}, "optimizer": {}}
    for name, value in load_file(artifact.path(TENSORS)).items():
        part, _, rest = name.partition("/")
        parts[part][rest] = value
    return parts


def load_checkpoint(store: Store, ref: ArtifactRef, state: TrainState) -> None:
    """Put a saved state into this one, which must have the same networks and the same optimizer."""
    artifact = store.get(ref)
    scalars = json.loads(artifact.path(SCALARS).read_text())
    parts = _parts(artifact)
    try:
        own = state.model.state_dict()
        model = {name: like_shards_of(own.get(name, value), value) for name, value in parts["model"].items()}
        state.model.load_state_dict(model)
    except RuntimeError as error:
        raise TrainingError(
            f"{ref.key}: these weights do not fit the network of this run ({error}); "
            "delete the checkpoint or give the spec it was made with"
        ) from error
    state.optimizer.load_state_dict(
        {
            "state": _optimizer_state(parts["optimizer"], state.optimizer),
            "param_groups": state.optimizer.state_dict()["param_groups"],
        }
    )
    _lay_like_parameters(state.optimizer)
    if state.ema:
        state.ema.load(parts["ema"], scalars["ema_updates"])
    if state.averages:
        state.averages.load(parts["averages"], scalars["step"])
    state.step = scalars["step"]
    state.losses, state.returns = list(scalars.get("losses", [])), scalars.get("returns", 0)
    state.spent_s, state.began = max(state.cpu_s, scalars.get("cpu_s", 0.0)), time.process_time()


def _lay_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give averages of gradients the strides of their parameters: a fused step walks both by address."""
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if value.shape == parameter.shape:
                entry[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def unseen(step: int, ref: ArtifactRef) -> None:
    """For those who look at no checkpoint."""


class Checkpoints:
    """The checkpoints of one run in a store: at most `keep`, the newest last.

    They are written by a thread, one at a time; leaving the context waits for it. `seen` is told of each that is
    written or gone on from.
    """

    def __init__(self, store: Store, run_name: str, *, keep: int = 2, seen: Seen = unseen) -> None:
        if keep < 1:
            raise ValueError(f"keep at least 1 checkpoint, got {keep}")
        self.store, self.run_name, self.keep, self.seen = store, run_name, keep, seen
        self._last: ArtifactRef | None = None
        self._writing: Future[ArtifactRef] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            _ = self.last
        elif self._writing is not None and (error := self._writing.exception()) is not None:
            logger.error("the checkpoint that was being written failed, too: %s", error)

    @property
    def last(self) -> ArtifactRef | None:
        """The newest checkpoint, once it is there. Raises what went wrong while it was written."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self._last = writing.result()
        return self._last

    def check(self) -> None:
        """Raise what went wrong with the checkpoint that is being written, as soon as that is known."""
        if self._writing is not None and self._writing.done():
            _ = self.last

    def restore(self, state: TrainState) -> bool:
        """Go on from the newest checkpoint that is intact; False if there is none."""
        _ = self.last
        while artifact := self.store.latest(kind_of(self.run_name)):
            with suppress(
                ArtifactError, FileNotFoundError
            ):  # the same run elsewhere may just have removed it
                load_checkpoint(self.store, artifact.ref, state)
                self._last = artifact.ref
                self.seen(state.step, artifact.ref)
                return True
        return False

    def save(self, state: TrainState, *, write: bool = True) -> None:
        """Copy the state, and begin to write a checkpoint of it; `last` is that one when it is written.

        Waits for the one before. Then the oldest beyond `keep` are removed; snapshots of averages stay. Workers
        that do not write only give their parts of weights that are sharded.
        """
        _ = self.last
        if write:
            self._writing = self._thread.submit(self._write, _copy(state))
        elif is_sharded(state.model):
            _copy(state)

    def _write(self, copy: Copy) -> ArtifactRef:
        if copy.averages:
            _save_snapshots(self.store, self.run_name, copy.averages)
        saved = _write(self.store, self.run_name, copy)
        self.seen(copy.scalars["step"], saved)
        for ref in self.store.list(kind_of(self.run_name))[: -self.keep]:
            with suppress(ArtifactError):  # the same run elsewhere was faster
                self.store.delete(ref)
        return saved


def read_snapshots(store: Store, run_name: str) -> list[Snapshot]:
    """What a run kept of its averages, for training.averages.combine."""
    found = []
    for ref in store.list(f"averages/{run_name}"):
        artifact = store.get(ref)
        for k, gamma in enumerate(artifact.manifest.meta["gammas"]):
            weights = load_file(artifact.path(f"average-{k}.safetensors"))
            found.append(Snapshot(float(gamma), int(artifact.manifest.meta["step"]), weights))
    return found


def _save_snapshots(store: Store, run_name: str, averages: Sequence[Snapshot]) -> None:
    step = averages[0].step
    meta = {"step": step, "gammas": [each.gamma for each in averages]}
    with store.create(f"averages/{run_name}", f"{step:08d}", meta=meta) as draft:
        for k, snapshot in enumerate(averages):
            weights = {name: value.contiguous() for name, value in snapshot.weights.items()}
            save_file(weights, draft.path(f"average-{k}.safetensors"))


def _optimizer_state(
    tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition("/")
        parameter = parameters[int(index)]
        placed = like_shards_of(parameter, value) if value.shape == parameter.shape else value
        state.setdefault(int(index), {})[key] = placed
    return state
