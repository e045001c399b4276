"""How stages stand, from pointers and artifacts as jobs leave them."""

from pathlib import Path

import pytest

from raydiance.cluster.plan import run_name
from raydiance.cluster.pointers import Pointer, folder_of, read_pointer, write_results
from raydiance.cluster.stages import states
from raydiance.config import Experiment, compose
from raydiance.config.stages import inputs_of
from raydiance.storage import Artifact, Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store.open(tmp_path / "store")


def leave(experiment: Experiment, store: Store, stage: str) -> Artifact:
    """What a run of the stage leaves behind."""
    folder = folder_of(experiment.name)
    pointers = {name: read_pointer(name, folder) for name in inputs_of(experiment, stage)}
    inputs = {name: store.get(pointer.ref) for name, pointer in pointers.items() if pointer}
    with store.create(stage, "x") as draft:
        pass
    ref = draft.artifact.ref
    pointer = Pointer(
        stage=stage,
        kind=ref.kind,
        key=ref.key,
        sha256=ref.sha256,
        store=store.url,
        run_name=run_name(experiment, stage, inputs),
    )
    write_results(pointer, {"duration_s": 4.0}, {}, folder)
    return draft.artifact


def told(store: Store, *overrides: str) -> dict[str, str]:
    return {each.stage: each.state for each in states(compose(["size=micro", *overrides]), store)}


def test_a_stage_is_done_until_its_settings_or_inputs_change(store: Store) -> None:
    assert set(told(store).values()) == {"missing"}
    experiment = compose(["size=micro"])
    first = leave(experiment, store, "ingest")
    leave(experiment, store, "render")
    found = {each.stage: each for each in states(experiment, store)}
    assert [found[stage].state for stage in ("ingest", "render", "encode")] == ["done", "done", "missing"]
    assert (found["ingest"].seconds, found["ingest"].pointer.key) == (4.0, first.ref.key)

    changed = told(store, "render.size=48")
    assert (changed["ingest"], changed["render"]) == ("done", "stale")
    changed = told(store, "seed=9")
    assert (changed["ingest"], changed["render"]) == ("stale", "stale")
    assert told(store, "tune.num_trials=3")["render"] == "done", "the search is nothing to it"

    leave(experiment, store, "ingest")
    assert told(store)["render"] == "stale", "made from other meshes"
    store.delete(store.list("ingest")[-1])
    found = {each.stage: each for each in states(experiment, store)}
    assert found["ingest"].state == "missing"
    assert found["render"].why == "ingest is missing"


def test_the_other_kind_of_experiment_has_its_own_stages(store: Store) -> None:
    assert next(iter(told(store, "experiment=digits"))) == "digits"
