"""A stage that another experiment has run with the same seed, settings and inputs is not run again."""

from dataclasses import replace
from pathlib import Path

import pytest

from raydiance.cluster.plan import run_name
from raydiance.cluster.pointers import Pointer, folder_of, read_pointer, write_results
from raydiance.cluster.reuse import reuse
from raydiance.cluster.runs import Command, execute
from raydiance.cluster.stages import states
from raydiance.config import Experiment, compose
from raydiance.storage import Store
from raydiance.tracking import Outcome, Run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYDIANCE_STORE", str(tmp_path / "store"))
    return tmp_path


def experiment(name: str, *overrides: str) -> Experiment:
    return compose(["size=micro", "tracking.kind=none", f"name={name}", *overrides])


def done(made: Experiment, store: Store) -> Pointer:
    """A run of the first stage."""
    name = run_name(made, "ingest", {})
    with store.create("meshes", name) as draft:
        draft.path("a.txt").write_text("a")
    ref = draft.artifact.ref
    pointer = Pointer(
        stage="ingest", kind=ref.kind, key=ref.key, sha256=ref.sha256, store=store.url, run_name=name, run_id="r",
        parent_run_id="p",
    )  # fmt: skip
    write_results(pointer, {"duration_s": 7.0}, {"objects": [{"x": 1}]}, folder_of(made.name))
    return pointer


def test_the_same_work_of_another_experiment_is_taken_over() -> None:
    store, one, two = Store.open(), experiment("one"), experiment("two", "tune.num_trials=5")
    first = done(one, store)
    taken = reuse(two, "ingest", run_name(two, "ingest", {}), store)
    assert taken == replace(first, parent_run_id=None) == read_pointer("ingest", folder_of("two"))
    assert (folder_of("two") / "plots" / "ingest-objects.csv").exists()
    found = states(two, store)[0]
    assert (found.state, found.seconds) == ("done", 7.0)


@pytest.mark.parametrize("different", ["seed=1", "ingest.num_objects=9"])
def test_other_work_is_not(different: str) -> None:
    store, two = Store.open(), experiment("two", different)
    done(experiment("one"), store)
    assert reuse(two, "ingest", run_name(two, "ingest", {}), store) is None
    assert not folder_of("two").exists()


def test_what_is_asked_for_again_is_done_again() -> None:
    """Its own pointer says that it is done: who runs it all the same wants it anew (`dvc repro --force`)."""
    store, one, two = Store.open(), experiment("one"), experiment("two")
    done(one, store)
    done(two, store)
    assert reuse(two, "ingest", run_name(two, "ingest", {}), store) is None


def test_an_artifact_that_is_gone_is_not_taken_over() -> None:
    store, two = Store.open(), experiment("two")
    store.delete(done(experiment("one"), store).ref)
    assert reuse(two, "ingest", run_name(two, "ingest", {}), store) is None


def test_a_pointer_that_cannot_be_read_is_passed_over() -> None:
    store, two = Store.open(), experiment("two")
    folder_of("broken").mkdir(parents=True)
    (folder_of("broken") / "ingest.json").write_text("{")
    done(experiment("one"), store)
    assert reuse(two, "ingest", run_name(two, "ingest", {}), store)


@pytest.mark.parametrize(("flag", "runs"), [(True, 1), (False, 2)])
def test_a_job_takes_over_only_where_it_may(
    flag: bool, runs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def job(_: Experiment, run: Run) -> Outcome:
        calls.append(run.name)
        with run.store.create("meshes", run.name) as draft:
            draft.path("a.txt").write_text("a")
        return Outcome(draft.artifact, {})

    for name in ("one", "two"):
        overrides = ("size=micro", "tracking.kind=none", f"name={name}")
        pointer = execute(Command("ingest", overrides, reuse=flag), job)
        assert pointer == read_pointer("ingest", folder_of(name))
    assert len(calls) == runs
    assert (f"of {calls[0]}" in capsys.readouterr().err) == flag
