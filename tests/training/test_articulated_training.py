"""The experiment articulated: micro through all stages, and a hinge that is learned."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from raydiance.config import ArticulatedExperiment, compose
from raydiance.data.articulate import ArticulatedViews, articulate
from raydiance.errors import ArtifactError, ConfigError
from raydiance.generation.evaluate import evaluate
from raydiance.storage import Store
from raydiance.tracking import MemoryTracker, local_run
from raydiance.training import train_articulated

MICRO = compose(["experiment=articulated", "size=micro"])
assert isinstance(MICRO, ArticulatedExperiment)
STAGES = {"train_articulated": MICRO.train_articulated, "train_static": MICRO.train_static}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("store"))


def test_micro_runs_through_all_stages(store: Store) -> None:
    inputs = {"articulate": articulate(MICRO.articulate, local_run(store, name="articulate")).artifact}
    views = ArticulatedViews(inputs["articulate"])
    assert views.names == ["scissors-000", "door-000"] and views.num_parts.tolist() == [2, 3]
    assert views.num_objects == 12 and len(views.test_objects) == 4 and views.poses.shape == (12, 3, 3, 4)
    assert views.objects.tolist() == [0] * 6 + [1] * 6 and views.surface.shape == (2, 3, 256, 3)
    for stage, training in STAGES.items():
        inputs[stage] = train_articulated(training, local_run(store, name=stage, inputs=inputs)).artifact
    tracker = MemoryTracker()
    outcome = evaluate(MICRO.evaluate, local_run(store, name="evaluate", inputs=inputs, tracker=tracker))
    assert set(outcome.metrics) == {"psnr_skinning", "psnr_without", "part_accuracy"}
    assert [row["parts"] for row in outcome.tables["objects"]] == [2, 3]
    assert all(np.isfinite(value) and value > 0 for value in outcome.metrics.values())
    with Image.open(outcome.artifact.path("parts.png")) as sheet:
        # true, without, with and parts, in two poses; a row with labels for each of two objects
        assert sheet.size == (8 * 16 + 7 * 2, 2 * (16 + 13) + 2)
    assert {ref.kind for ref in outcome.artifact.manifest.parents} == {"views", "articulated"}


def test_skinning_learns_a_hinge_and_its_parts(store: Store) -> None:
    """A door in a hundred small steps: better in poses never seen than without, and its leaves told apart."""
    spec = dataclasses.replace(
        MICRO.articulate,
        kinds=("door",),
        num_poses=8,
        num_unseen=3,
        look=dataclasses.replace(MICRO.articulate.look, size=24, num_views=8),
    )
    inputs = {"articulate": articulate(spec, local_run(store, name="door")).artifact}
    loop = dataclasses.replace(
        MICRO.train_articulated.loop, steps=100, preview_every=100, checkpoint_every=100
    )
    for stage, training in STAGES.items():
        model = dataclasses.replace(training.model, resolutions=(8, 16), weight_resolutions=(4, 8))
        training = dataclasses.replace(training, model=model, loop=loop, num_rays=256, num_samples=24)
        inputs[stage] = train_articulated(
            training, local_run(store, name=f"hinge-{stage}", inputs=inputs)
        ).artifact
    found = evaluate(
        dataclasses.replace(MICRO.evaluate, samples_per_ray=24), local_run(store, name="hinge", inputs=inputs)
    ).metrics
    assert found["psnr_skinning"] > found["psnr_without"] + 1
    assert found["part_accuracy"] > 0.7  # a third by chance


def test_a_training_that_was_cut_off_goes_on_as_if_it_had_not_been(store: Store) -> None:
    views = (
        store.latest("views/articulate")
        or articulate(MICRO.articulate, local_run(store, name="articulate")).artifact
    )
    training, weights = MICRO.train_articulated, []
    for name, cuts in (("whole", (8,)), ("cut", (4, 8))):
        for steps in cuts:
            loop = dataclasses.replace(training.loop, steps=steps, decay="constant")
            run = local_run(store, name=f"resumed-{name}", inputs={"articulate": views})
            artifact = train_articulated(dataclasses.replace(training, loop=loop), run).artifact
        weights.append(artifact.path("weights.safetensors").read_bytes())
    assert all(one == other for one, other in pairwise(weights))


def test_views_without_poses_are_refused(store: Store) -> None:
    with store.create("views", "still") as draft:
        draft.path("views.json").write_text("{}")
    with pytest.raises(ArtifactError, match="tell no poses of parts; run the stage articulate"):
        ArticulatedViews(draft.artifact)


def test_two_trainings_that_differ_in_more_than_skinning_are_refused() -> None:
    with pytest.raises(ConfigError, match="train_static must be train_articulated"):
        compose(["experiment=articulated", "train_static.num_rays=7"])
