"""Searches over trainings: which trials there are, who goes on, and that a killed one ends like a whole one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from raydiance.cluster.runs import execute, parse
from raydiance.cluster.tasks import TaskMap
from raydiance.config import compose, load_params, project_folder
from raydiance.config.composition import SearchedExperiment, trials_of, with_values
from raydiance.config.search import Choice, Log, Rung, SearchSpec, Uniform, proposals, rungs, work_of
from raydiance.data.digits import digits
from raydiance.errors import ConfigError, TrainingError
from raydiance.spec import digest
from raydiance.storage import Store
from raydiance.tracking import MemoryTracker, local_run, serial_map
from raydiance.tuning.trainings import promoted, ranked, search
from raydiance.tuning.trials import Standing

SPACE = "search.space={train_diffusion.loop.learning_rate:{kind:log,low:1e-5,high:1e-2}}"
DIGITS = ["experiment=digits", "size=micro", "cluster.num_workers=0"]
MIXED = {"a": Choice(values=(1, "two")), "b": Uniform(low=0.0, high=4.0), "c": Log(low=1.0, high=64.0)}
BASE = {"a": 1, "b": 0.5, "c": 8}


def composed(*overrides: str) -> SearchedExperiment:
    experiment = compose([*DIGITS, SPACE, *overrides])
    assert isinstance(experiment, SearchedExperiment)
    return experiment


def standing(trial: int, metric: float | None, step: int = 10) -> Standing:
    return Standing(trial, step, metric, "" if metric else "nan", 0.0, 0.0, (0.0, 0.0), None, ())


def test_proposals_are_the_same_for_a_seed_and_lie_within_their_domains() -> None:
    many = proposals(MIXED, BASE, 16, seed=3)
    assert many == proposals(MIXED, BASE, 16, seed=3) != proposals(MIXED, BASE, 16, seed=4)
    assert many[:5] == proposals(MIXED, BASE, 5, seed=3), "more trials only add trials"
    assert len({digest(values) for values in many}) == 16
    assert {values["a"] for values in many} == {1, "two"}
    assert all(0 <= values["b"] <= 4 and isinstance(values["b"], float) for values in many)
    assert all(1 <= values["c"] <= 64 and isinstance(values["c"], int) for values in many), "as in the base"
    below = sum(values["c"] < 8 for values in many)
    assert 5 <= below <= 10, "half of them below the geometric mean"


def test_a_finite_space_is_tried_whole_and_no_further() -> None:
    space = {"a": Choice(values=(1, 2, 3)), "b": Choice(values=(True, False))}
    assert len(proposals(space, {"a": 0, "b": True}, 6, seed=0)) == 6
    with pytest.raises(ConfigError, match=r"num_trials = 7: search\.space has only 6 different trials"):
        proposals(space, {"a": 0, "b": True}, 7, seed=0)


@pytest.mark.parametrize(
    ("spec", "steps", "expected"),
    [
        (SearchSpec(num_trials=9), 90, ((10, 9), (30, 3), (90, 1))),
        (SearchSpec(num_trials=12), 100, ((11, 12), (33, 4), (100, 1))),
        (SearchSpec(num_trials=4), 20, ((6, 4), (20, 1))),
        (SearchSpec(num_trials=1), 20, ((20, 1),)),
        (SearchSpec(num_trials=9, grace_steps=10), 20, ((10, 9), (20, 3))),
        (SearchSpec(num_trials=4, grace_steps=1, reduction=2), 100, ((1, 4), (2, 2), (100, 1))),
    ],
)
def test_rungs_end_at_the_last_step(
    spec: SearchSpec, steps: int, expected: tuple[tuple[int, int], ...]
) -> None:
    levels = rungs(spec, steps)
    assert levels == tuple(Rung(*each) for each in expected)
    assert work_of(levels) <= spec.num_trials * steps


def test_halving_keeps_the_best_and_never_one_that_is_lost() -> None:
    spec = SearchSpec()
    here = [standing(0, 3.0), standing(1, None), standing(2, 1.0), standing(3, 1.0), standing(4, 2.0)]
    assert [each.trial for each in ranked(spec, here)] == [2, 3, 4, 0]
    assert ranked(spec, here[::-1]) == ranked(spec, here), "whoever came first"
    assert promoted(spec, here, 3) == [2, 3, 4]
    assert promoted(SearchSpec(maximise=True), here, 1) == [0]
    assert promoted(spec, here, 5) == [0, 2, 3, 4]
    with pytest.raises(TrainingError, match="every trial became NaN or infinite"):
        promoted(spec, here[1:2], 1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "search.space={train_diffusion.loop.learning_rat:{kind:choice,values:[1.0]}}",
            r"learning_rat: no such setting; did you mean train_diffusion\.loop\.learning_rate\?",
        ),
        (
            "search.space={train_cosine.schedule:{kind:choice,values:[linear]}}",
            "train_cosine.schedule: no such",
        ),
        (
            "search.space={train_diffusion.loop.learning_rate:{kind:choice,values:[fast]}}",
            r"trial 0 .*learning_rate = 'fast': must be a valid number",
        ),
        (
            "search.space={train_diffusion.model.dims:{kind:choice,values:[2]}}",
            "trial 0 .*digits.dims is 1, but train_diffusion.model.dims is 2",
        ),
        (
            "search.space={train_diffusion.loop.steps:{kind:uniform,low:10,high:19}}",
            "the clock of the search",
        ),
        ("search.space={train_diffusion.loop.learning_rate:{kind:log,low:0.1,high:0.01}}", "need low < high"),
        (
            "search.space={train_diffusion.loop.learning_rate:{kind:lag,low:0.1,high:1.0}}",
            "kind = 'lag': must be",
        ),
        ("search.stage=train_autodecoder", "digits has train_diffusion, train_cosine"),
    ],
)
def test_what_cannot_be_tried_is_said_before_anything_starts(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([*DIGITS, "search.num_trials=1", override])


def test_a_training_without_a_space_is_no_search(tmp_path: Path) -> None:
    experiment = compose(DIGITS)
    assert isinstance(experiment, SearchedExperiment)
    with pytest.raises(ConfigError, match=r"search\.space is empty"):
        search(experiment.search, local_run(tmp_path), experiment)


def test_the_best_settings_come_out_and_the_best_is_the_training_they_give(tmp_path: Path) -> None:
    """Eight seconds: six short trainings in this process, and one of them once more."""
    experiment = composed("search.num_trials=6")
    store, tracker = Store.open(tmp_path), MemoryTracker()
    inputs = {"digits": digits(experiment.digits, local_run(store, name="digits")).artifact}
    run = local_run(store, name="found", inputs=inputs, tracker=tracker)
    outcome = search(experiment.search, run, experiment)
    told = outcome.artifact.read_json("trials.json")
    assert sorted(len(trial["rungs"]) for trial in told["trials"]) == [1, 1, 1, 1, 2, 3]
    for level, count in ((0, 2), (1, 1)):
        there = [index for index in range(6) if len(told["trials"][index]["rungs"]) > level]
        there.sort(key=lambda index: told["trials"][index]["rungs"][level]["metric"])
        on = {index for index in there if len(told["trials"][index]["rungs"]) > level + 1}
        assert on == set(there[:count])
    last = told["trials"][told["best"]]["rungs"][-1]
    assert last["step"] == 20 and last["metric"] == outcome.metrics["best"]
    assert len(tracker.children) == 6 and {child.status for child in tracker.children} == {"FINISHED"}
    assert {ref.kind for ref in store.list("checkpoints")} == {"checkpoints/found"}
    assert "curves.png" in tracker.figures and tracker.description.startswith("Search over settings of")
    notes = [child.description for child in tracker.children]
    assert sum("given up at step" in note for note in notes) == 5 and "trained to the end" in notes[-1]

    path = outcome.artifact.path("best.yaml")
    best, values = load_params(path), trials_of(experiment)[told["best"]]
    assert best == with_values(experiment, values)
    overrides = yaml.safe_load(path.read_text())["overrides"]
    assert compose([*DIGITS, *overrides]).train_diffusion == best.train_diffusion  # type: ignore[union-attr]
    from raydiance.training import train_diffusion

    again = train_diffusion(best.train_diffusion, local_run(store, name="again", inputs=inputs)).artifact  # type: ignore[union-attr]
    made = store.get(last["artifact"])
    weights = [each.path("weights.safetensors").read_bytes() for each in (again, made)]
    assert weights[0] == weights[1], "pausing at a rung changes nothing"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_a_search_that_was_killed_ends_with_the_same_trials_and_the_same_best(
    ray_here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a minute: a driver whose trials are tasks of Ray is killed, this process goes on in its place; beside
    them a search that nobody kills.
    """
    import ray

    settings = [
        *DIGITS,
        SPACE,
        "search.num_trials=4",
        "search.grace_steps=30",
        "train_diffusion.loop.steps=90",
    ]
    settings += ["train_diffusion.loop.checkpoint_every=10", "train_diffusion.loop.preview_every=500"]
    experiment = compose(settings)
    assert isinstance(experiment, SearchedExperiment)
    store, tracking = Store.open(tmp_path / "store"), f"sqlite:///{tmp_path}/mlflow.db"
    data = digits(experiment.digits, local_run(store, name="digits")).artifact
    whole = search(experiment.search, local_run(store, name="whole", inputs={"digits": data}), experiment)

    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("PYTHONPATH", os.pathsep.join(sys.path)),
        ("RAYDIANCE_STORE", store.url),
        ("RAYDIANCE_TRACKING", tracking),
    ):
        monkeypatch.setenv(name, value)
    address = ray.get_runtime_context().gcs_address
    arguments = [*settings, "cluster.num_tasks=1", f"cluster.address={address}"]
    arguments += ["--input", f"digits={data.ref.key}"]
    with (tmp_path / "cut.log").open("w") as log:
        program = [sys.executable, str(project_folder() / "jobs/search.py"), *arguments]
        cut = subprocess.Popen(program, stderr=log)
        deadline = time.monotonic() + 90
        while not (kept := trials_in(store)):
            assert cut.poll() is None and time.monotonic() < deadline, (tmp_path / "cut.log").read_text()
            time.sleep(0.02)
        cut.send_signal(signal.SIGKILL)
        assert cut.wait() == -signal.SIGKILL and len(kept) < 5
    execute(parse("search", arguments), lambda experiment, run: search(experiment.search, run, experiment))  # type: ignore[union-attr, arg-type]

    (ref,) = [each for each in store.list("search") if each.key != whole.artifact.ref.key]
    told, expected = (store.get(each).read_json("trials.json") for each in (ref, whole.artifact.ref))
    assert told["best"] == expected["best"]
    for one, other in zip(told["trials"], expected["trials"], strict=True):
        assert one["values"] == other["values"]
        for here, there in zip(one["rungs"], other["rungs"], strict=True):
            assert here["step"] == there["step"]
            assert here["metric"] == pytest.approx(there["metric"], rel=1e-4)
            assert here["cpu_s"] > 0
    left = {ref.kind for ref in store.list("checkpoints")}
    assert left == {"checkpoints/whole"}, (
        "nothing is left of any trial; a job removes what a search has kept, too"
    )
    client = MlflowClient(tracking)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    ended, dead = (
        {run.data.tags.get("stage"): run.info.run_id for run in runs if run.info.status == status}
        for status in ("FINISHED", "KILLED")
    )
    assert set(ended) == set(dead) == {None, "search"}, "a search and its pipeline each, and no other status"
    (killed,) = (run for run in runs if run.info.run_id == dead["search"])
    assert killed.data.tags["raydiance.continued_by"] == ended["search"]
    trials = [run for run in runs if run.data.tags.get("kind") == "trial"]
    assert len(trials) == 4 and {run.info.status for run in trials} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {ended["search"]}
    best = next(run for run in trials if run.info.run_name == f"trial-{told['best']:03d}")
    assert len(client.get_metric_history(best.info.run_id, "train/loss")) >= 15, "its curve, rung after rung"


@pytest.mark.slow
def test_a_trial_in_a_task_trains_under_ray_train_to_the_same_end(ray_here: str, tmp_path: Path) -> None:
    """Half a minute: three trainings under Ray Train, from within tasks, and the same in this process."""
    settings = ["search.num_trials=2", "search.grace_steps=5", "train_diffusion.loop.steps=10"]
    found, store = [], Store.open(tmp_path)
    data = digits(composed().digits, local_run(store, name="digits")).artifact
    for name, cluster in (("here", []), ("train", ["cluster.num_workers=1", "cluster.num_tasks=1"])):
        experiment = composed(*settings, *cluster, "cluster.address=local")
        spread = TaskMap(experiment.cluster) if cluster else serial_map
        run = local_run(store, name=name, inputs={"digits": data}, map=spread)
        told = search(experiment.search, run, experiment).artifact.read_json("trials.json")
        assert sorted(len(trial["rungs"]) for trial in told["trials"]) == [1, 2]
        metrics = [each["metric"] for trial in told["trials"] for each in trial["rungs"]]
        found.append((told["best"], metrics))
    assert found[0] == (found[1][0], pytest.approx(found[1][1], rel=1e-4))


def trials_in(store: Store) -> list[str]:
    """The standings that a search under way has kept."""
    return [path.name for path in Path(store.url).glob("checkpoints/digits-search-*/trial-*")]
