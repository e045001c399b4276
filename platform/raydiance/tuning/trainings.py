"""The job `search`: settings of a training, tried by trainings that are cut short unless they are good.

A trial is a training with a run name of its own, in this process, in a Ray task (cluster.num_tasks), or under
Ray Train (cluster.num_workers), from within the task if there are both. It is never stopped in the middle of a
rung, but trains to the rung's step and ends: no place is held by a trial that was given up, none must be freed
behind it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from raydiance.cluster.session import session
from raydiance.cluster.train import Launcher
from raydiance.config.composition import SearchedExperiment, trials_of, with_values, words
from raydiance.config.files import dump_yaml
from raydiance.config.platform import ClusterSpec
from raydiance.config.search import Rung, SearchSpec, rungs, work_of
from raydiance.errors import ConfigError, TrainingError
from raydiance.spec import canonical_json, digest, to_plain
from raydiance.storage import Draft, write_json
from raydiance.tracking import Outcome, QuietProgress, Run
from raydiance.tuning.trials import Standing, Tally, Trial, standings_in, train_trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["promoted", "ranked", "search"]


def search(spec: SearchSpec, run: Run, experiment: SearchedExperiment) -> Outcome:
    """Search for settings of a training of the experiment by successive halving: kind "search".

    trials.json: each trial's values, the step it reached, its metric there, its cost; best.yaml: the whole
    experiment with the best values, for --params, and the values as overrides; curves.png. Each trial is kept in
    the store at each rung, and trains from its checkpoints: a search that was cut off goes on, to the same trials
    and the same best. Raises ConfigError without a space, TrainingError if no trial is left.
    """
    if not spec.space:
        raise ConfigError(
            "search.space is empty; give paths and what they may be: "
            f"search.space={{{spec.stage}.loop.learning_rate:{{kind:log,low:1e-4,high:1e-2}}}}"
        )
    cluster = experiment.cluster
    if cluster.num_tasks and cluster.use_gpu and not cluster.num_workers:
        raise ConfigError("cluster.use_gpu: trials in tasks get GPUs as workers; set cluster.num_workers=1")
    run.tracker.log_params(to_plain(spec))
    for artifact in run.inputs.values():
        run.tracker.log_input(artifact, "training")
    trials = _trials(spec, run, experiment)
    with _ray_for(cluster):
        course = _Course(spec, run, trials, rungs(spec, getattr(experiment, spec.stage).loop.steps))
        course.run_all()
    best = course.best
    rows = [course.row(trial) for trial in trials]
    text = _best_text(experiment, trials[best.trial])
    figure = _draw_curves(spec, course)
    run.tracker.describe(_note(course))
    run.tracker.log_figure("curves.png", figure)
    run.tracker.log_text("best.yaml", text)
    run.tracker.log_table("trials.json", rows)
    assert best.metric is not None, "only those are ranked that have one"
    metrics = {
        "best": best.metric,
        "trials": float(len(trials)),
        "lost": float(sum(bool(row["lost"]) for row in rows)),
        "trial_cpu_s": sum(float(row["cpu_s"]) for row in rows),
        "trial_gpu_s": sum(float(row["gpu_s"]) for row in rows),
    }
    run.tracker.log_metrics(metrics)
    parents = [artifact.ref for artifact in run.inputs.values()]
    with run.store.create("search", run.name, spec=spec, seeds={"seed": run.seed}, parents=parents) as draft:
        _write(draft, course, text, figure)
    for trial in trials:
        _delete_checkpoints(trial)
    return Outcome(draft.artifact, metrics, {"trials": rows})


def ranked(spec: SearchSpec, standings: Sequence[Standing]) -> list[Standing]:
    """Those that have a metric, the best first; of equal ones the first that was proposed."""
    sign = -1 if spec.maximise else 1
    having = [(sign * each.metric, each.trial, each) for each in standings if each.metric is not None]
    return [each for *_, each in sorted(having, key=lambda entry: entry[:2])]


def promoted(spec: SearchSpec, standings: Sequence[Standing], count: int) -> list[int]:
    """The trials that go on, in the order of their proposal. Raises TrainingError if there is none."""
    best = ranked(spec, standings)[:count]
    if not best:
        raise TrainingError(
            f"search: the loss of every trial became NaN or infinite ({standings[0].lost}); "
            "narrow search.space towards settings that train"
        )
    return sorted(each.trial for each in best)


class _Course:
    """A search under way: who stands where."""

    def __init__(self, spec: SearchSpec, run: Run, trials: Sequence[Trial], levels: Sequence[Rung]) -> None:
        self.spec, self.run, self.trials, self.levels = spec, run, trials, levels
        self.standings = standings_in(run.store, trials[0].kept)

    @property
    def best(self) -> Standing:
        """The best trial of the last rung."""
        last = self.levels[-1].step
        return ranked(self.spec, [each for each in self.standings.values() if each.step == last])[0]

    def of(self, trial: Trial) -> list[Standing]:
        """A trial's standings, rung by rung."""
        return [each for (index, _), each in sorted(self.standings.items()) if index == trial.index]

    def row(self, trial: Trial) -> dict[str, Any]:
        """A line of the table."""
        path, values = self.of(trial), trial.values
        plain = {name: each if _is_scalar(each) else canonical_json(each) for name, each in values.items()}
        return {
            "trial": trial.index,
            **plain,
            "step": path[-1].step,
            self.spec.judged_by: path[-1].metric,
            "cpu_s": sum(each.cpu_s for each in path),
            "gpu_s": sum(each.gpu_s for each in path),
            "lost": path[-1].lost,
            "artifact": path[-1].artifact or "",
        }

    def fate(self, trial: Trial) -> str:
        """How far the trial came, in words."""
        last = self.of(trial)[-1]
        if last.metric is None:
            return f"lost before step {last.step} ({last.lost})"
        end = self.levels[-1].step
        place = "trained to the end" if last.step == end else f"given up at step {last.step} of {end}"
        return f"{place}, {self.spec.judged_by} {last.metric:.4g}"

    def run_all(self) -> None:
        """Rung after rung, train what is missing, and part with those that do not go on."""
        if not self.run.store.list(self.trials[0].kept):  # a new search, or one that is to start over
            for trial in self.trials:
                _delete_checkpoints(trial)
            with self.run.store.create(self.trials[0].kept, "begun") as draft:
                write_json(draft.path("trials.json"), [dict(trial.values) for trial in self.trials])
        alive, begun = [trial.index for trial in self.trials], 0
        with self.run.progress.task("search", total=work_of(self.levels)) as shown:
            tally = Tally(shown)
            for level, after in zip(self.levels, (*self.levels[1:], Rung(0, 0))):
                tally.start = begun
                self._train(alive, level, tally)
                reached = [self.standings[index, level.step] for index in alive]
                going = promoted(self.spec, reached, max(1, after.num_trials))
                best = ranked(self.spec, reached)[0].metric
                assert best is not None, "only those are ranked that have one"
                self.run.tracker.log_metrics({f"best/{self.spec.judged_by}": best}, step=level.step)
                for index in alive:
                    if not after.num_trials or index not in going:
                        self._part_with(self.trials[index])
                alive, begun = going, level.step

    def _train(self, alive: Sequence[int], level: Rung, tally: Tally) -> None:
        """Have those at the rung that are not there yet."""
        progress = QuietProgress() if self.trials[0].cluster.num_tasks else tally
        missing = [
            replace(self.trials[index], until=level.step, progress=progress)
            for index in alive
            if (index, level.step) not in self.standings
        ]
        share = level.step - tally.start
        tally.base += (len(alive) - len(missing)) * share
        tally.reach(tally.base)
        for standing in self.run.map(train_trial, missing):
            self._take(standing)
            tally.base += share
            told = {} if standing.metric is None else {self.spec.judged_by: standing.metric}
            tally.reach(tally.base, **told)

    def _take(self, standing: Standing) -> None:
        self.standings[standing.trial, standing.step] = standing
        if isinstance(self.run.launch, Launcher):  # the job's own cost; tasks have told of theirs
            self.run.launch.meter.add(*standing.elsewhere)

    def _part_with(self, trial: Trial) -> None:
        """A trial trains no further: tell the record of it, and remove its checkpoints."""
        with self.run.tracker.child(f"trial-{trial.index:03d}", {"kind": "trial"}) as child:
            row = self.row(trial)
            child.describe(f"`{words(trial.values)}`: {self.fate(trial)}.")
            child.log_params(trial.values)
            for standing in self.of(trial):
                for point in standing.curves:
                    child.log_metrics({k: v for k, v in point.items() if k != "step"}, step=point["step"])
            child.log_metrics({"step": row["step"], "cpu_seconds": row["cpu_s"], "gpu_seconds": row["gpu_s"]})
            child.set_tags({name: row[name] for name in ("lost", "artifact") if row[name]})
        _delete_checkpoints(trial)


def _trials(spec: SearchSpec, run: Run, experiment: SearchedExperiment) -> list[Trial]:
    return [
        Trial(
            index=index,
            values=values,
            name=f"{run.name}-{digest(values, 8)}",
            stage=spec.stage,
            training=getattr(with_values(experiment, values), spec.stage),
            until=0,
            seed=run.seed,
            metric=spec.judged_by,
            cluster=experiment.cluster,
            store=run.store,
            inputs={stage: artifact.ref for stage, artifact in run.inputs.items()},
            kept=f"checkpoints/{run.name}",
            progress=QuietProgress(),
        )
        for index, values in enumerate(trials_of(experiment))
    ]


def _note(course: _Course) -> str:
    """What a reader should know first."""
    levels = ", ".join(f"{level.num_trials} to step {level.step}" for level in course.levels)
    best = course.trials[course.best.trial]
    return (
        f"Search over settings of **{course.spec.stage}**: {levels}. The best of {len(course.trials)}: "
        f"`{words(best.values)}`, {course.fate(best)}. `best.yaml` is the experiment with these values; the "
        "trials are the runs below."
    )


def _ray_for(cluster: ClusterSpec) -> AbstractContextManager[None]:
    """One Ray for all rungs, if there is any use for it."""
    return session(cluster) if cluster.num_tasks or cluster.num_workers else nullcontext()


def _delete_checkpoints(trial: Trial) -> None:
    for ref in trial.store.list(f"checkpoints/{trial.name}"):
        trial.store.delete(ref)


def _best_text(experiment: SearchedExperiment, trial: Trial) -> str:
    best = with_values(experiment, trial.values)
    overrides = [words({path: value}) for path, value in trial.values.items()]
    header = f"# raydiance run {trial.stage} --params best.yaml\n# raydiance run {trial.stage} "
    return f"{header}{' '.join(overrides)}\n" + dump_yaml({"overrides": overrides, **to_plain(best)})


def _write(draft: Draft, course: _Course, text: str, figure: "Figure") -> None:
    told = [
        {
            "values": dict(trial.values),
            "rungs": [
                {name: value for name, value in asdict(each).items() if name not in ("elsewhere", "curves")}
                for each in course.of(trial)
            ],
        }
        for trial in course.trials
    ]
    write_json(draft.path("trials.json"), {"trials": told, "best": course.best.trial})
    draft.path("best.yaml").write_text(text, encoding="utf-8")
    figure.savefig(draft.path("curves.png"), dpi=120)


def _draw_curves(spec: SearchSpec, course: _Course) -> "Figure":
    """The metric and the loss of each trial against steps, the best one by its values."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.5), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), (spec.judged_by, "train/recent_loss")):
        for trial in course.trials:
            points = [point for each in course.of(trial) for point in each.curves if metric in point]
            curve = [point["step"] for point in points], [point[metric] for point in points]
            if trial.index == course.best.trial:
                axes.plot(*curve, "o-", color="C3", lw=2, ms=4, zorder=3)
            else:
                axes.plot(*curve, "o-", color="grey", lw=0.8, ms=2)
        for level in course.levels[:-1]:
            axes.axvline(level.step, color="black", lw=0.5, ls=":")
        axes.set(xlabel="step", ylabel=metric)
    figure.suptitle(
        f"{len(course.trials)} trials of {spec.stage}; the best: {words(course.trials[course.best.trial].values)}"
    )
    return figure


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
