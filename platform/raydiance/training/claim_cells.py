"""The cells of the claims ledger: one training with one seed, measured once and kept under what it was made from.

A cell trains an autodecoder on views and, if its setting has a denoiser, encodes its codes, trains the denoiser
and draws from it; in voxel space fields are fitted in the autodecoder's place. What it leaves in the store has a
name that only equal work has, so a ledger that was cut off goes on, and cells share what they have in common.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from raydiance.data.encode import EncodeSpec, encode_codes
from raydiance.data.field_latents import FieldEncode, encode_fields
from raydiance.data.fieldsets import FieldSet
from raydiance.errors import NonFiniteLossError
from raydiance.generation.assemble import read_latents
from raydiance.metrics import FEATURES_NAME
from raydiance.spec import digest, spec
from raydiance.storage import Artifact, ArtifactRef, Store, write_json
from raydiance.tracking import Outcome, Run, local_run
from raydiance.training.autodecoder import AutodecoderTraining, train_autodecoder
from raydiance.training.claim_draws import DrawSpec, Scores, draw_fields, draw_latents, nothing
from raydiance.training.denoisers import DiffusionTraining
from raydiance.training.diffusion import train_diffusion
from raydiance.training.fields import FieldsFit, fit_views
from raydiance.training.radiance import RadianceTraining

__all__ = ["Cell", "Figures", "Group", "Setting", "VoxelSetting", "known_cells", "measure"]

Figures = Mapping[str, float | None]
T = TypeVar("T", DiffusionTraining, RadianceTraining)


@spec
class Setting:
    """What is trained. Without a denoiser only reconstructions are judged; it takes the shape of the latents."""

    autodecoder: AutodecoderTraining
    encode: EncodeSpec = EncodeSpec()
    denoiser: DiffusionTraining | None = None


@spec
class VoxelSetting:
    """Diffusion on fields, each fitted by itself; the denoiser takes their shape."""

    fit: FieldsFit = FieldsFit()
    encode: FieldEncode = FieldEncode()
    denoiser: RadianceTraining = RadianceTraining()


@dataclass(frozen=True)
class Cell:
    """A setting under a name, one seed, and what is drawn from it; it can be pickled."""

    name: str
    setting: Setting | VoxelSetting
    seed: int
    draw: DrawSpec
    views: ArtifactRef

    @property
    def shared_name(self) -> str:
        """That of the artifact of what is trained first, and of every cell's that shares it."""
        setting = self.setting
        first = setting.fit if isinstance(setting, VoxelSetting) else setting.autodecoder
        return f"claims-{digest({'views': self.views.sha256, 'training': first, 'seed': self.seed})}"

    @property
    def identity(self) -> str:
        """A name that only equal work has, whatever statement it is for."""
        denoised = None if self.setting.denoiser is None else [self.setting, self.draw, FEATURES_NAME]
        return f"claims-{digest([self.shared_name, denoised])}"


@dataclass(frozen=True)
class Group:
    """Cells that share what is trained first, and where they are kept; it can be pickled."""

    store: Store
    cells: tuple[Cell, ...]


def known_cells(store: Store, cells: Sequence[Cell]) -> dict[str, Artifact]:
    """What earlier runs measured of these cells, by identity."""
    wanted = {cell.identity for cell in cells}
    found = {ref.key.removeprefix("cells/").rpartition("-")[0]: ref for ref in store.list("cells")}
    return {identity: store.get(ref) for identity, ref in found.items() if identity in wanted}


def measure(group: Group) -> list[Artifact]:
    """Fill cells and keep them: artifacts of kind "cells", whose cell.json holds figures. On one thread.

    A figure is None where the training or the samples were not finite.
    """
    torch.set_num_threads(1)
    return [_fill(group.store, cell) for cell in group.cells]


def _fill(store: Store, cell: Cell) -> Artifact:
    began = time.process_time()
    make = _voxels if isinstance(cell.setting, VoxelSetting) else _latents
    figures, parents = make(store, cell)
    figures["seconds"] = time.process_time() - began
    with store.create(
        "cells", cell.identity, spec=cell.setting, seeds={"seed": cell.seed}, parents=parents
    ) as draft:
        write_json(draft.path("cell.json"), figures)
    return draft.artifact


def _latents(store: Store, cell: Cell) -> tuple[Scores, list[ArtifactRef]]:
    """Train an autodecoder and, if there is a denoiser, on its latents: figures, and what is behind them."""
    setting, views = cell.setting, store.get(cell.views)
    assert isinstance(setting, Setting), "the caller has looked"
    inputs = {"render": views}
    trained = _once(
        store,
        "autodecoder",
        cell.shared_name,
        cell,
        inputs,
        lambda run: train_autodecoder(setting.autodecoder, run),
    )
    rows = trained.read_json("held_out.json")
    figures: Scores = {key: float(np.mean([row[key] for row in rows])) for key in ("psnr", "ssim")}
    spent_s = trained.manifest.meta["cpu_s"]
    if setting.denoiser is None:
        return figures | {"training_s": spent_s}, [views.ref, trained.ref]
    inputs["train_autodecoder"] = trained
    name = f"claims-{digest([trained.ref.sha256, setting.encode])}"
    latents = _once(store, "latents", name, cell, inputs, lambda run: encode_codes(setting.encode, run))
    read = read_latents(latents)
    normalised = read.statistics.normalise(read.raw)
    figures["deviation"], figures["largest"] = float(normalised.std()), float(normalised.abs().max())
    training = _fitting(setting.denoiser, read.raw)
    return _denoised(store, cell, inputs | {"encode": latents}, training, figures, spent_s)


def _voxels(store: Store, cell: Cell) -> tuple[Scores, list[ArtifactRef]]:
    """Fit a field to each object, and train on the fields: figures, and what is behind them."""
    setting, inputs = cell.setting, {"render": store.get(cell.views)}
    assert isinstance(setting, VoxelSetting), "the caller has looked"
    fit, encode = setting.fit, setting.encode
    fitted = _once(store, "fields", cell.shared_name, cell, inputs, lambda run: fit_views(fit, run))
    inputs["fit"] = fitted
    name = f"claims-{digest([fitted.ref.sha256, encode])}"
    latents = _once(store, "latents", name, cell, inputs, lambda run: encode_fields(encode, run))
    rows = FieldSet.of(fitted, "train").rows
    figures: Scores = {"psnr": float(np.mean([row["psnr"] for row in rows]))}
    return _denoised(
        store,
        cell,
        inputs | {"encode": latents},
        _fitting(setting.denoiser, read_latents(latents).raw),
        figures,
        sum(row["cpu_s"] for row in rows),
    )


def _denoised(
    store: Store,
    cell: Cell,
    inputs: Mapping[str, Artifact],
    training: DiffusionTraining | RadianceTraining,
    figures: Scores,
    spent_s: float,
) -> tuple[Scores, list[ArtifactRef]]:
    """Train a denoiser on inputs["encode"] and draw from it; spent_s: processor time of the training before."""
    parents = [artifact.ref for artifact in inputs.values()]
    name = f"claims-{digest([inputs['encode'].ref.sha256, training, cell.seed])}"
    try:
        trained = _once(store, "denoiser", name, cell, inputs, lambda run: train_diffusion(training, run))
    except NonFiniteLossError:
        calls = {f"fd_views_{calls}": None for calls in cell.draw.steps}
        return {**figures, **nothing(), **calls}, parents
    figures["training_s"] = spent_s + trained.manifest.meta["cpu_s"]
    inputs = {**inputs, "train_diffusion": trained}
    if isinstance(training, RadianceTraining):
        return figures | draw_fields(cell.draw, inputs), [*parents, trained.ref]
    return figures | draw_latents(cell.draw, inputs, training.sigma_max), [*parents, trained.ref]


def _once(
    store: Store,
    kind: str,
    name: str,
    cell: Cell,
    inputs: Mapping[str, Artifact],
    job: Callable[[Run], Outcome],
) -> Artifact:
    """The artifact of this name, made if it is not there; its checkpoints are removed."""
    found = store.latest(f"{kind}/{name}")
    if found is None:
        found = job(local_run(store, name=name, inputs=inputs, seed=cell.seed)).artifact
        for ref in store.list(f"checkpoints/{name}"):
            store.delete(ref)
    return found


def _fitting(training: T, latents: Tensor) -> T:
    """The training for latents [N, C, L, L, L]."""
    channels, resolution = latents.shape[1], latents.shape[2]
    model = replace(training.model, in_channels=channels, out_channels=channels, resolution=resolution)
    return replace(training, model=model)
