"""The job `tune`: search for sampling plans of a trained denoiser with Ray Tune."""

import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import ray
import torch
from ray import tune as ray_tune
from safetensors.torch import save_file

from raydiance.cluster.session import session
from raydiance.config.platform import ClusterSpec, TuneSpec
from raydiance.diffusion import learning
from raydiance.diffusion.plans import SamplingPlan
from raydiance.errors import ClusterError
from raydiance.spec import canonical_json, to_plain
from raydiance.storage import ArtifactRef, Store, write_json
from raydiance.tracking import Outcome, Run
from raydiance.tuning.candidates import Candidate, build, teacher_plan
from raydiance.tuning.front import chosen, draw_front, front, learned, row, volume
from raydiance.tuning.judge import Judge, Score, load_judge
from raydiance.tuning.search import Result, StagedSearch

__all__ = ["tune"]


@dataclass(frozen=True)
class Task:
    """What a trial needs to know beside its config; it can be pickled and compared."""

    tune: TuneSpec
    run_name: str
    store: Store
    denoiser: ArtifactRef
    latents: ArtifactRef

    @property
    def kept(self) -> str:
        """Where results stand until the search is done."""
        return f"checkpoints/{self.run_name}"

    def judge(self, teacher: Sequence[ArtifactRef] = ()) -> Judge:
        spec = self.tune
        return load_judge(
            self.store,
            self.denoiser,
            self.latents,
            spec.num_samples,
            spec.batch_size,
            spec.components,
            tuple(teacher),
        )


def tune(spec: TuneSpec, run: Run) -> Outcome:
    """Search for plans of the input of kind "denoiser", on data like that of kind "latents": kind "plans".

    plans/draft.json, standard.json and best.json, learned-K.json for each K in `learn`; front.json with every
    trial. Each finished trial is kept in the store at once, so the job goes on where it was cut off. Raises
    ClusterError if a trial fails.
    """
    denoiser, latents = run.input_of("denoiser"), run.input_of("latents")
    run.tracker.log_params(to_plain(spec))
    run.tracker.log_input(latents, "reference")
    task = Task(spec, run.name, run.store, denoiser.ref, latents.ref)
    with session(ClusterSpec()):
        results, teacher = _search(task, run)
    best = front(spec, results)
    named = chosen(spec, best) | learned(results)
    judge = task.judge(teacher)
    assert judge.teacher is not None, "the search draws the teacher's samples first"
    teacher_frechet, _ = judge.frechet(judge.teacher)
    rows = [row(result) for result in results]
    figure = draw_front(results, best, named, teacher_frechet)
    run.tracker.log_figure("front.png", figure)
    metrics = {"teacher_frechet": teacher_frechet, "trials": float(len(results))}
    metrics["front_volume"] = volume(spec, best)
    for name, result in named.items():
        metrics |= {f"{name}_{key}": value for key, value in _numbers(result).items()}
    run.tracker.log_metrics(metrics)
    with run.store.create(
        "plans", run.name, spec=spec, seeds={"seed": run.seed}, parents=[denoiser.ref, latents.ref]
    ) as draft:
        for name, result in named.items():
            draft.path(f"plans/{name}.json").write_text(result.plan.to_json(), encoding="ascii")
        figure.savefig(draft.path("front.png"), dpi=120)
        write_json(
            draft.path("front.json"),
            {
                "trials": rows,
                "front": [row(result) for result in best],
                "chosen": {name: row(result) for name, result in named.items()},
                "teacher": {"plan": teacher_plan(spec).name, "frechet": teacher_frechet},
            },
        )
    return Outcome(draft.artifact, metrics, {"trials": rows, "front": [row(result) for result in best]})


def _search(task: Task, run: Run) -> tuple[list[Result], tuple[ArtifactRef, ...]]:
    """Run what is missing of the search: all results, and the parts of the teacher's samples in their
    order.
    """
    known, teacher = _kept(task)
    with run.progress.task("tune", total=task.tune.num_trials + _learners(task.tune)) as shown:
        for result in known.values():
            shown.update(1, **_numbers(result))

        def on_result(result: Result) -> None:
            _record(task, run, result)
            shown.update(1, **_numbers(result))

        search = StagedSearch(task.tune, run.seed, _parts(task.tune), teacher, known, on_result)
        _fit(task, search)
    if search.failure:
        raise ClusterError(f"tune: {search.failure}; what was found is kept, run it again to go on")
    return search.results, search.teacher


def _fit(task: Task, search: StagedSearch) -> None:
    spec = task.tune
    resources = {"cpu": spec.cpus_per_trial, "gpu": spec.gpus_per_trial}
    trainable: Any = ray_tune.with_resources(partial(_trial, task=task), resources)
    with _quiet(), tempfile.TemporaryDirectory(prefix="raydiance-tune-") as folder:
        ray_tune.Tuner(
            trainable,
            tune_config=ray_tune.TuneConfig(
                search_alg=search,
                num_samples=-1,  # the search says when it has ended
                max_concurrent_trials=_concurrency(spec),
                reuse_actors=True,
                trial_dirname_creator=_trial_folder,
            ),
            run_config=ray_tune.RunConfig(
                name="search",
                storage_path=folder,
                verbose=0,
            ),
        ).fit()


@contextmanager
def _quiet() -> Iterator[None]:
    """Tune writes no files of its own and prints no tables: results go to the store and to our progress."""
    wanted = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    logger = logging.getLogger("ray.tune.analysis.experiment_analysis")  # it misses the files
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _trial_folder(trial: Any) -> str:
    return str(trial.trial_id)


def _trial(config: dict[str, Any], *, task: Task) -> dict[str, Any]:
    """One trial in its worker, which keeps the network from trial to trial."""
    torch.set_num_threads(max(1, math.floor(task.tune.cpus_per_trial)))
    asked = json.loads(config["task"])
    if "candidate" not in asked:
        return {"part": canonical_json(_teach(task, asked["start"], asked["stop"]))}
    teacher = [ArtifactRef(**part) for part in asked["teacher"]]
    judge, candidate = task.judge(teacher), Candidate(**asked["candidate"])
    if candidate.learned:
        plan = _learn(task.tune, judge, candidate)
        return {"score": canonical_json(asdict(judge.score(plan))), "learned": plan.to_json()}
    return {"score": canonical_json(asdict(judge.score(build(candidate))))}


def _learn(spec: TuneSpec, judge: Judge, candidate: Candidate) -> SamplingPlan:
    """Fit a plan to the teacher's samples on noises that nothing is judged on."""
    rows = range(spec.num_samples, spec.num_samples + spec.learn_samples)
    target = judge.draw(teacher_plan(spec), rows)
    fit = learning.distil(
        judge.predictor(rows),
        build(candidate),
        judge.noise(rows),
        target,
        num_iterations=spec.learn_iterations,
    )
    return fit.plan


def _teach(task: Task, start: int, stop: int) -> ArtifactRef:
    """Draw a part of the teacher's samples and keep it."""
    samples = task.judge().draw(teacher_plan(task.tune), range(start, stop))
    with task.store.create(task.kept, f"teacher-{start:04d}", meta={"start": start}) as draft:
        save_file({"samples": samples.contiguous()}, draft.path("samples.safetensors"))
    return draft.artifact.ref


def _parts(spec: TuneSpec) -> list[tuple[int, int]]:
    """The teacher's samples in pieces of one batch: (start, stop)."""
    size = spec.batch_size
    return [(start, min(start + size, spec.num_samples)) for start in range(0, spec.num_samples, size)]


def _learners(spec: TuneSpec) -> int:
    """The most trials that learn."""
    return len(spec.learn) * spec.learn_starts


def _concurrency(spec: TuneSpec) -> int:
    """As many trials at a time as Ray has room for."""
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room = [there.get("CPU", 0.0) / spec.cpus_per_trial]
    if spec.gpus_per_trial:
        room.append(there.get("GPU", 0.0) / spec.gpus_per_trial)
    if min(room) < 1:
        raise ClusterError(
            f"a trial asks for {spec.cpus_per_trial:g} CPU and {spec.gpus_per_trial:g} GPU, but Ray has "
            f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g}; "
            "lower tune.cpus_per_trial or tune.gpus_per_trial"
        )
    return int(min(room))


def _record(task: Task, run: Run, result: Result) -> None:
    """Keep a finished trial in the store and tell the tracker of it."""
    candidate, score = result.candidate, result.score
    with task.store.create(task.kept, f"trial-{candidate.identity}") as draft:
        told = {"candidate": to_plain(candidate), "score": asdict(score), "learned": result.learned}
        write_json(draft.path("trial.json"), told)
    plan = result.plan
    with run.tracker.child(plan.name, {"kind": "trial"}) as child:
        child.log_params({**to_plain(candidate), "plan": plan.name, "calls": plan.nfe})
        child.log_metrics(_numbers(result))


def _kept(task: Task) -> tuple[dict[str, Result], dict[int, ArtifactRef]]:
    """What an earlier attempt at the same search left: results by identity, the teacher's parts by their
    start.
    """
    known, teacher = {}, {}
    for ref in task.store.list(task.kept):
        artifact = task.store.get(ref)
        if "trial.json" in artifact.files:
            plain = artifact.read_json("trial.json")
            result = Result(Candidate(**plain["candidate"]), Score(**plain["score"]), plain["learned"])
            known[result.candidate.identity] = result
        else:
            teacher[int(artifact.manifest.meta["start"])] = ref
    return known, teacher


def _numbers(result: Result) -> dict[str, float]:
    score = result.score
    numbers = {"nfe": float(result.plan.nfe), "frechet": score.frechet, "call_ms": score.call_ms}
    return numbers if score.error is None else {**numbers, "error": score.error}
