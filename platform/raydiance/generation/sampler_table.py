"""The job `sampler_table`: every sampler at every number of steps, as the papers of DDIM and PNDM have it.

A cell is one plan on one denoiser, judged by the Frechet distance of its samples' pixels to those of the data.
It is kept in the store under what it was made from, so that a table that was cut off, or one with more rows,
does only what is missing.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Interval, MinLen
from torch import Tensor

from raydiance.diffusion import guidance, plans, preconditioning, reference, sampling, schedules
from raydiance.diffusion.plans import SamplingPlan
from raydiance.diffusion.preconditioning import Epsilon, NoisePredictor
from raydiance.diffusion.schedules import DiscreteSchedule
from raydiance.errors import ConfigError
from raydiance.generation.assemble import read_latents, read_plans
from raydiance.metrics import frechet_distance, frechet_spread
from raydiance.models import UNet, read_unet
from raydiance.spec import digest, spec, to_plain
from raydiance.storage import Artifact, ArtifactRef, Store, write_json
from raydiance.tracking import Outcome, Run

__all__ = ["METHODS", "SIGMA_HAT", "SamplerTableSpec", "sampler_table"]

SIGMA_HAT = "sigma-hat"
PF = "PF"

# name: solver, its options, and the grid that its authors run it on; "leading" is that of DDIM and PNDM
METHODS: dict[str, tuple[str, Mapping[str, Any], str]] = {
    "DDIM": ("ddim", {}, "leading"),
    "FON": ("fon", {}, "leading"),
    "S-PNDM": ("spndm", {}, "leading"),
    "F-PNDM": ("fpndm", {}, "leading"),
    "iPNDM-4": ("ipndm", {"order": 4}, "karras"),
    "DEIS-3": ("deis", {"order": 3}, "quadratic"),
    "DPM++2M": ("dpm_solver_pp", {"order": 2}, "log_snr"),
    "DPM++3M": ("dpm_solver_pp", {"order": 3}, "log_snr"),
    "UniPC-3": ("unipc", {"order": 3}, "log_snr"),
    "Heun": ("heun", {}, "karras"),
}
# Where the other grids start. DDIM's and PNDM's start below the noisiest step (at S = 10 at t = 900), and the last
# steps before it are not to be sampled from: x_0 = x - sigma eps, and cosine's sigma of 20,000 makes a thousandth
# of eps into 20.
START = 20.0
FIRST = ("DDIM", "F-PNDM", "DEIS-3", "iPNDM-4", "DPM++2M")  # what the claims are about
SHORT, LONG = 100, 250  # steps; a cell of more than LONG costs as much as a row of others


@spec
class SamplerTableSpec:
    """Which cells, on how many samples.

    budget_s: processor time of this machine after which no more cells are begun (None: all of them); those that
    are missing are named, and a later run goes on with them.
    """

    num_samples: Annotated[int, Ge(128)] = 10_000
    batch_size: Annotated[int, Ge(1)] = 500
    etas: tuple[Annotated[float, Interval(ge=0, le=1)], ...] = (0.0, 0.2, 0.5, 1.0)
    eta_steps: tuple[Annotated[int, Ge(1)], ...] = (10, 20, 50, 100, 1000)
    methods: Annotated[tuple[str, ...], MinLen(1)] = (*METHODS, PF)
    steps: Annotated[tuple[Annotated[int, Ge(4)], ...], MinLen(1)] = (5, 10, 20, 50, 100, 250, 1000)
    budget_s: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in (*METHODS, PF)]
        if unknown:
            raise ValueError(f"methods: {unknown[0]!r} is unknown; there is {', '.join((*METHODS, PF))}")


@dataclass(frozen=True)
class Cell:
    """A place in the tables: the plan (None: the adaptive reference), and whether x_0 is clipped to the data's
    range.
    """

    schedule: str
    method: str
    steps: int
    plan: SamplingPlan | None
    eta: float | None = None
    clip: bool = False


@dataclass(frozen=True)
class Task:
    """A cell and what it takes to fill it; it can be pickled."""

    cell: Cell
    store: Store
    denoiser: ArtifactRef
    data: ArtifactRef
    num_samples: int
    batch_size: int
    seed: int

    @property
    def identity(self) -> str:
        """A name that only equal work has, whatever table it stands in."""
        plan = self.cell.plan
        made_from = {
            "denoiser": self.denoiser.sha256,
            "data": self.data.sha256,
            "plan": PF if plan is None else replace(plan, name="plan").to_json(),
            "clip": self.cell.clip,
            "samples": [self.num_samples, self.batch_size, self.seed],
        }
        return digest(made_from)


def sampler_table(spec: SamplerTableSpec, run: Run) -> Outcome:
    """The tables of the denoisers in train_diffusion and train_cosine, and of the plans in tune: kind "table".

    cells.json, tables.md, heat_maps.png, curves.png.
    """
    data = run.input_of("latents")
    from raydiance.generation.table_figures import draw_curves, draw_heat_maps, write_tables

    run.tracker.log_params(to_plain(spec))
    run.tracker.log_input(data, "reference")
    tasks = [
        Task(cell, run.store, denoiser.ref, data.ref, spec.num_samples, spec.batch_size, run.seed)
        for cell, denoiser in _cells(spec, run.inputs)
    ]
    rows, missing = _fill(spec, run, tasks)
    floor = _floor(_pixels(run.store, data.ref), spec.num_samples)
    metrics = {"cells": float(len(rows)), "missing": float(len(missing)), "floor": floor}
    metrics |= {
        f"{row['schedule']}_{row['method']}_{row['steps']}".replace("+", "p"): row["frechet"]
        for row in rows
        if row["frechet"] is not None and row["eta"] in (None, 0.0)
    }
    run.tracker.log_metrics(metrics)
    text = write_tables(rows, missing, floor, spec.num_samples)
    heat_maps, curves = draw_heat_maps(rows), draw_curves(rows, floor)
    run.tracker.log_text("tables.md", text)
    run.tracker.log_figure("heat_maps.png", heat_maps)
    run.tracker.log_figure("curves.png", curves)
    parents = [artifact.ref for artifact in run.inputs.values()]
    with run.store.create("table", run.name, spec=spec, seeds={"seed": run.seed}, parents=parents) as draft:
        write_json(draft.path("cells.json"), {"cells": rows, "missing": missing, "floor": floor})
        draft.path("tables.md").write_text(text, encoding="utf-8")
        heat_maps.savefig(draft.path("heat_maps.png"), dpi=120)
        curves.savefig(draft.path("curves.png"), dpi=120)
    print(text)
    return Outcome(draft.artifact, metrics, {"cells": rows})


def _cells(spec: SamplerTableSpec, inputs: Mapping[str, Artifact]) -> list[tuple[Cell, Artifact]]:
    """Every cell with its denoiser, what matters most and costs least first."""
    found = []
    for stage in ("train_diffusion", "train_cosine"):
        kind = preconditioning.from_plain(inputs[stage].read_json("spec.json"))
        if not isinstance(kind, Epsilon) or not isinstance(kind.schedule, DiscreteSchedule):
            raise ConfigError(f"sampler_table: {stage} has no discrete schedule, so it has no S steps of T")
        found += [(cell, inputs[stage]) for cell in _cells_of(spec, kind.schedule)]
    tuned: dict[str, Cell] = {}  # the same plan has several names, such as "best" and "standard"
    for name, plan in sorted(read_plans(inputs["tune"]).items(), key=lambda pair: "learned" not in pair[0]):
        tuned.setdefault(
            replace(plan, name="plan").to_json(), Cell("linear", f"tune: {name}", plan.nfe, plan)
        )
    found += [(cell, inputs["train_diffusion"]) for cell in tuned.values()]
    found.sort(key=lambda pair: _turn(pair[0]))
    return found


def _cells_of(spec: SamplerTableSpec, schedule: DiscreteSchedule) -> Iterator[Cell]:
    name, most = schedule.name, schedule.num_train_steps
    kept = int((schedule.sigma(torch.arange(most)) <= START).sum())
    lower = schedules.from_alphas_cumprod(schedule.alphas_cumprod[:kept], name)
    for steps in (each for each in spec.eta_steps if each <= most):
        for eta in spec.etas:
            plan = plans.build("ddim", schedule, "leading", steps, eta=eta)
            yield Cell(name, "DDIM", steps, plan, eta=eta)
        plan = plans.build("ddpm", schedule, "leading", steps, variance="large")
        yield Cell(name, SIGMA_HAT, steps, plan, clip=True)
    for method in spec.methods:
        if method == PF:
            yield Cell(name, PF, 0, None)
            continue
        solver, options, grid = METHODS[method]
        for steps in (each for each in spec.steps if each <= most):
            if method == "DDIM" and 0.0 in spec.etas and steps in spec.eta_steps:
                continue  # it stands in the table of eta
            plan = plans.build(solver, schedule if grid == "leading" else lower, grid, steps, **options)
            yield Cell(name, method, steps, plan, eta=0.0 if method == "DDIM" else None)


def _turn(cell: Cell) -> tuple[int, int, str]:
    """Where a cell stands in the queue: first what the papers claim, on the schedule of their claim."""
    calls = 200 if cell.plan is None else cell.plan.nfe
    main = (cell.method in FIRST and not cell.eta) or cell.method.startswith("tune")
    if cell.steps > LONG:
        claimed = cell.method == SIGMA_HAT or (cell.method == "DDIM" and not cell.eta)
        tier = 1 if claimed and cell.method == "DDIM" and cell.schedule == "linear" else 5 if claimed else 6
    elif main and cell.steps <= SHORT:
        tier = 0 if cell.schedule == "linear" else 2
    else:
        tier = 3 if cell.method == SIGMA_HAT or cell.eta else 4
    return tier, calls, cell.schedule


def _fill(
    spec: SamplerTableSpec, run: Run, tasks: list[Task]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of all cells that are there, once those that the budget allows are filled; and what is missing."""
    known = _kept(run.store, {task.identity for task in tasks})
    wanted = list({task.identity: task for task in tasks if task.identity not in known}.values())
    spent = 0.0
    with run.progress.task("sampler_table", total=len(tasks)) as shown:
        shown.update(sum(task.identity in known for task in tasks))
        for task, result in zip(wanted, run.map(measure, wanted)):
            known[task.identity] = result
            spent += result["seconds"]
            shown.update(1, spent_s=spent)
            if spec.budget_s is not None and spent > spec.budget_s:
                break
    rows = [_place(task.cell) | known[task.identity] for task in tasks if task.identity in known]
    order = [*METHODS, SIGMA_HAT, PF]
    rows.sort(key=lambda row: order.index(row["method"]) if row["method"] in order else len(order))
    return rows, [_place(task.cell) for task in tasks if task.identity not in known]


def _place(cell: Cell) -> dict[str, Any]:
    return {"schedule": cell.schedule, "method": cell.method, "eta": cell.eta, "steps": cell.steps}


def _kept(store: Store, identities: set[str]) -> dict[str, dict[str, Any]]:
    """What earlier runs measured of these cells."""
    found = {}
    for ref in store.list("cells"):
        identity = ref.key.removeprefix("cells/").rpartition("-")[0]
        if identity in identities:
            found[identity] = store.get(ref).read_json("cell.json")
    return found


def measure(task: Task) -> dict[str, Any]:
    """Fill a cell and keep it: nfe, frechet (None if the samples are not finite), spread, processor seconds, and
    milliseconds per sample and network call, and per sample and step.
    """
    torch.set_num_threads(1)
    predictor = _predictor(task.store, task.denoiser)
    pixels = _pixels(task.store, task.data)
    began = time.process_time()
    samples, nfe = _draw(task, predictor, pixels.shape[1:])
    seconds = time.process_time() - began
    features, reference_pixels = samples.flatten(1), pixels.flatten(1)
    finite = bool(features.isfinite().all())
    per_sample_ms = 1e3 * seconds / task.num_samples
    result = {
        "nfe": nfe,
        "frechet": frechet_distance(features, reference_pixels) if finite else None,
        "spread": frechet_spread(features, reference_pixels) if finite else None,
        "seconds": seconds,
        "call_ms": per_sample_ms / nfe,
        "step_ms": per_sample_ms / (task.cell.steps or nfe),
    }
    with task.store.create("cells", task.identity, parents=[task.denoiser, task.data]) as draft:
        write_json(draft.path("cell.json"), result)
    return result


@torch.inference_mode()
def _draw(task: Task, predictor: NoisePredictor, shape: torch.Size) -> tuple[Tensor, float]:
    """The cell's samples [N, ...], from the same noises as every other cell's, and the calls for one of them."""
    plan = task.cell.plan
    predictor = guidance.clip_static(predictor) if task.cell.clip else predictor
    samples, calls = [], []
    for start in range(0, task.num_samples, task.batch_size):
        count = min(task.batch_size, task.num_samples - start)
        generator = torch.Generator().manual_seed(task.seed * 1_000_003 + start)
        noise = torch.randn(count, *shape, generator=generator)
        if plan is None:
            x_0, nfe = reference.probability_flow(predictor, noise * START, START, rtol=1e-4, atol=1e-4)
        else:
            x_0, nfe = sampling.sample(predictor, plan, plan.start(noise), generator=generator), plan.nfe
        samples.append(x_0)
        calls.append(nfe * count)
    return torch.cat(samples), sum(calls) / task.num_samples


@lru_cache(maxsize=2)
def _predictor(store: Store, denoiser: ArtifactRef) -> NoisePredictor:
    trained = store.get(denoiser)
    network: UNet = read_unet(trained.path("spec.json"), trained.path("weights.safetensors"))
    kind = preconditioning.from_plain(trained.read_json("spec.json"))
    return kind.noise_predictor(network.requires_grad_(False))


@lru_cache(maxsize=2)
def _pixels(store: Store, data: ArtifactRef) -> Tensor:
    """The data [N, ...] as the denoiser knows it, from -1 to 1."""
    found = read_latents(store.get(data))
    return found.statistics.normalise(found.raw)


def _floor(pixels: Tensor, num_samples: int) -> float:
    """The distance of as many images drawn from the data itself, with replacement: no sampler can be better."""
    chosen = torch.randint(len(pixels), (num_samples,), generator=torch.Generator().manual_seed(0))
    flat = pixels.flatten(1)
    return frechet_distance(flat[chosen], flat)
