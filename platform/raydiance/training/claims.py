"""The job `claims`: what the sources say, beside what is measured here.

Each statement is two or more settings that differ by one thing, trained with the same seeds on the same views.
Cells are kept in the store (training.claim_cells), so a ledger that was cut off goes on, and one with more seeds
or statements does only what is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from annotated_types import Ge, MinLen

from raydiance.data.encode import EncodeSpec
from raydiance.spec import spec, to_plain
from raydiance.storage import Artifact, write_json
from raydiance.tracking import Outcome, Run
from raydiance.training.autodecoder import AutodecoderTraining
from raydiance.training.claim_cells import (
    Cell,
    Figures,
    Group,
    Setting,
    VoxelSetting,
    known_cells,
    measure,
)
from raydiance.training.claim_draws import DrawSpec
from raydiance.training.denoisers import DiffusionTraining
from raydiance.training.ledger import entry, write_ledger
from raydiance.training.statements import BASE, STATEMENTS, Statement, settings_of, statements_of

__all__ = ["ClaimsSpec", "claims"]


@spec
class ClaimsSpec:
    """The base that every setting differs from by one thing, what is drawn, and how often all of it is trained.

    voxels: what latents are compared with, to be given about as much processor time. statements: by name, in the
    order of measuring (training.statements). seeds: added to the experiment's. steps: numbers of network calls
    that the statement on them compares. budget_s: processor time of this machine after which no more is begun
    (None: all; 0: what is there is collected); what is missing is named, and a later run goes on with it.
    """

    train_autodecoder: AutodecoderTraining
    train_diffusion: DiffusionTraining = DiffusionTraining()
    voxels: VoxelSetting = VoxelSetting()
    draw: DrawSpec = DrawSpec()
    steps: Annotated[tuple[int, ...], MinLen(2)] = (4, 8, 16, 32, 64)
    seeds: Annotated[tuple[int, ...], MinLen(1)] = (0, 1, 2)
    statements: Annotated[tuple[str, ...], MinLen(1)] = STATEMENTS
    budget_s: Annotated[float, Ge(0)] | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.statements if name not in STATEMENTS]
        if unknown:
            raise ValueError(f"statements: {unknown[0]!r} is unknown; there is {', '.join(STATEMENTS)}")
        if list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 2:
            raise ValueError(f"steps must ascend from 2 or more, got {self.steps}")
        training, model = self.train_autodecoder, self.train_autodecoder.model
        lacking = [
            name
            for name, there in (
                ("losses.opacity > 0", training.losses.opacity > 0),
                ("views_per_object > 1", training.views_per_object > 1),
                ("model.attention_resolutions", bool(model.attention_resolutions)),
                ("model.depths", sum(model.depths) > 0),
                ("model.code_dim of 16 or more", model.code_dim >= 16),
            )
            if not there
        ]
        if lacking:
            raise ValueError(
                f"train_autodecoder needs {', '.join(lacking)}: statements are about leaving them out"
            )

    @property
    def base(self) -> Setting:
        """The base as a setting: latents are robustly normalised, each channel by itself."""
        return Setting(autodecoder=self.train_autodecoder, encode=EncodeSpec(), denoiser=self.train_diffusion)


def claims(spec: ClaimsSpec, run: Run) -> Outcome:
    """The ledger on the views of inputs["render"]: kind "claims" (claims.md, claims.json).

    Each cell that is measured is a run below this one.
    """
    views = run.inputs["render"]
    run.tracker.log_params(to_plain(spec))
    run.tracker.log_input(views, "training")
    chosen = {each.name: each for each in statements_of(spec.base, spec.steps)}
    statements = [chosen[name] for name in spec.statements]
    cells = _cells(spec, run, statements, views)
    kept = _fill(spec, run, cells)
    cells, missing = ([cell for cell in cells if (cell.identity in kept) is there] for there in (True, False))
    figures: dict[tuple[str, int], Figures] = {
        (cell.name, cell.seed): kept[cell.identity].read_json("cell.json") for cell in cells
    }
    entries = [
        entry(statement, figures, [run.seed + seed for seed in spec.seeds]) for statement in statements
    ]
    rows: list[dict[str, Any]] = [
        {"setting": cell.name, "seed": cell.seed, "artifact": kept[cell.identity].ref.key}
        | dict(figures[cell.name, cell.seed])
        for cell in cells
    ]
    lacking = [f"{cell.name} {cell.seed}" for cell in missing]
    text = write_ledger(entries, rows, lacking)
    run.tracker.log_text("claims.md", text)
    run.tracker.log_table("claims.json", entries)
    run.tracker.log_table("cells.json", rows)
    metrics = {"cells": float(len(rows)), "missing": float(len(missing))}
    metrics |= {
        f"verdicts_{name.replace(' ', '_')}": float(sum(each["verdict"] == name for each in entries))
        for name in sorted({str(each["verdict"]) for each in entries})
    }
    run.tracker.log_metrics(metrics)
    parents = [views.ref, *(artifact.ref for artifact in kept.values())]
    with run.store.create("claims", run.name, spec=spec, seeds={"seed": run.seed}, parents=parents) as draft:
        draft.path("claims.md").write_text(text, encoding="utf-8")
        write_json(draft.path("claims.json"), {"statements": entries, "cells": rows, "missing": lacking})
    print(text)
    return Outcome(draft.artifact, metrics, {"statements": entries, "cells": rows})


def _cells(spec: ClaimsSpec, run: Run, statements: Sequence[Statement], views: Artifact) -> list[Cell]:
    """All cells that the statements need: one seed after the other, so that a ledger cut off is broad."""
    settings = settings_of(spec.base, spec.voxels)
    wanted = dict.fromkeys(arm.setting for statement in statements for arm in statement.arms)
    return [
        Cell(name, settings[name], run.seed + seed, _drawn(spec, name, statements), views.ref)
        for seed in spec.seeds
        for name in wanted
    ]


def _drawn(spec: ClaimsSpec, setting: str, statements: Sequence[Statement]) -> DrawSpec:
    """Numbers of calls are compared on the base alone, if that is asked for."""
    compares = setting == BASE and any(statement.name == "steps" for statement in statements)
    return replace(spec.draw, steps=spec.steps if compares else ())


def _fill(spec: ClaimsSpec, run: Run, cells: Sequence[Cell]) -> dict[str, Artifact]:
    """The artifacts of all cells that are there, once those that the budget allows are filled."""
    kept = known_cells(run.store, cells)
    wanted: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        if cell.identity not in kept:
            wanted.setdefault(cell.shared_name, {})[cell.identity] = cell
    groups = [Group(run.store, tuple(each.values())) for each in wanted.values()]
    spent = 0.0
    with run.progress.task("claims", total=len({cell.identity for cell in cells})) as shown:
        shown.update(len(kept))
        results = run.map(measure, groups)
        for group in groups:
            if spec.budget_s is not None and spent >= spec.budget_s:
                break
            artifacts = next(results)
            for cell, artifact in zip(group.cells, artifacts, strict=True):
                figures = artifact.read_json("cell.json")
                kept[cell.identity] = artifact
                spent += figures["seconds"]
                _record(run, cell, artifact, figures)
                shown.update(1, spent_s=spent)
    return kept


def _record(run: Run, cell: Cell, artifact: Artifact, figures: Mapping[str, Any]) -> None:
    """The cell as a run of its own, below that of the ledger."""
    tags = {"artifact": artifact.ref.key, "setting": cell.name}
    with run.tracker.child(f"{cell.name}, seed {cell.seed}", tags) as child:
        child.log_params({"seed": cell.seed, **to_plain(cell.setting)})
        child.log_metrics({name: value for name, value in figures.items() if value is not None})
