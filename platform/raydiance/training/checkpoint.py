"""The state of a training run as artifacts: tensors in safetensors, the rest in JSON, nothing pickled."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raydiance.errors import ArtifactError, TrainingError
from raydiance.storage import ArtifactRef, Store, write_json
from raydiance.training.averages import PowerAverages, Snapshot
from raydiance.training.ema import Ema

__all__ = ["Checkpoints", "TrainState", "load_checkpoint", "read_snapshots", "save_checkpoint"]

TENSORS, SCALARS = "state.safetensors", "state.json"


@dataclass
class TrainState:
    """All that changes while a run goes on: noise and the order of data follow from seed, step and returns.

    losses: of the last steps, what a spike is told by; returns: how often training went back to a checkpoint.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None = None
    averages: PowerAverages | None = None
    step: int = 0
    losses: list[float] = field(default_factory=list)
    returns: int = 0

    def averaged(self) -> dict[str, Tensor]:
        """The weights to use: the moving average where there is one."""
        weights = self.ema.shadow if self.ema else self.model.state_dict()
        return {name: value.detach().cpu().contiguous() for name, value in weights.items()}


def kind_of(run_name: str) -> str:
    """The kind under which a run's checkpoints lie."""
    return f"checkpoints/{run_name}"


def save_checkpoint(store: Store, run_name: str, state: TrainState) -> ArtifactRef:
    """Write the state as an artifact named by its step."""
    tensors = {f"model/{name}": value for name, value in state.model.state_dict().items()}
    scalars: dict[str, Any] = {"step": state.step, "losses": state.losses, "returns": state.returns}
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
    with store.create(kind_of(run_name), f"{state.step:08d}", meta=scalars) as draft:
        save_file({name: _plain(value) for name, value in tensors.items()}, draft.path(TENSORS))
        write_json(draft.path(SCALARS), scalars)
    return draft.artifact.ref


def load_checkpoint(store: Store, ref: ArtifactRef, state: TrainState) -> None:
    """Put a saved state into this one, which must have the same networks and the same optimizer."""
    artifact = store.get(ref)
    scalars = json.loads(artifact.path(SCALARS).read_text())
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "averages": {}, "optimizer": {}}
    for name, value in load_file(artifact.path(TENSORS)).items():
        part, _, rest = name.partition("/")
        parts[part][rest] = value
    try:
        state.model.load_state_dict(parts["model"])
    except RuntimeError as error:
        raise TrainingError(
            f"{ref.key}: these weights do not fit the network of this run ({error}); "
            "delete the checkpoint or give the spec it was made with"
        ) from error
    state.optimizer.load_state_dict(
        {
            "state": _optimizer_state(parts["optimizer"]),
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


def _lay_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give averages of gradients the strides of their parameters: a fused step walks both by address."""
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if value.shape == parameter.shape:
                entry[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class Checkpoints:
    """The checkpoints of one run in a store: at most `keep`, the newest last."""

    def __init__(self, store: Store, run_name: str, *, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep at least 1 checkpoint, got {keep}")
        self.store, self.run_name, self.keep = store, run_name, keep
        self.last: ArtifactRef | None = None

    def restore(self, state: TrainState) -> bool:
        """Go on from the newest checkpoint that is intact; False if there is none."""
        while artifact := self.store.latest(kind_of(self.run_name)):
            with suppress(
                ArtifactError, FileNotFoundError
            ):  # the same run elsewhere may just have removed it
                load_checkpoint(self.store, artifact.ref, state)
                self.last = artifact.ref
                return True
        return False

    def save(self, state: TrainState) -> ArtifactRef:
        """Write a checkpoint, then remove the oldest beyond `keep`; snapshots of averages stay."""
        if state.averages:
            _save_snapshots(self.store, self.run_name, state.averages)
        self.last = save_checkpoint(self.store, self.run_name, state)
        for ref in self.store.list(kind_of(self.run_name))[: -self.keep]:
            with suppress(ArtifactError):  # the same run elsewhere was faster
                self.store.delete(ref)
        return self.last


def read_snapshots(store: Store, run_name: str) -> list[Snapshot]:
    """What a run kept of its averages, for training.averages.combine."""
    found = []
    for ref in store.list(f"averages/{run_name}"):
        artifact = store.get(ref)
        for k, gamma in enumerate(artifact.manifest.meta["gammas"]):
            weights = load_file(artifact.path(f"average-{k}.safetensors"))
            found.append(Snapshot(float(gamma), int(artifact.manifest.meta["step"]), weights))
    return found


def _save_snapshots(store: Store, run_name: str, averages: PowerAverages) -> None:
    step = averages.num_updates
    meta = {"step": step, "gammas": list(averages.gammas)}
    with store.create(f"averages/{run_name}", f"{step:08d}", meta=meta) as draft:
        for k, snapshot in enumerate(averages.snapshots()):
            weights = {name: _plain(value) for name, value in snapshot.weights.items()}
            save_file(weights, draft.path(f"average-{k}.safetensors"))


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous()


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    return state
