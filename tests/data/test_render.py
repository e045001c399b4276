"""The render stage: from an artifact of meshes to an artifact of views."""

import dataclasses

import numpy as np
import pytest
import torch

from raydiance.data.ingest import IngestSpec, ingest
from raydiance.data.meshes import load_mesh
from raydiance.data.raycast import render_mesh
from raydiance.data.render import RenderSpec, camera_arrays, held_out_views, render, spiral
from raydiance.data.views import ViewDataset
from raydiance.tracking import MemoryTracker, Outcome, ProcessMap, Run, local_run

SPEC = RenderSpec(size=16, num_views=8, held_out_every=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    start = local_run(tmp_path_factory.mktemp("store"), tracker=MemoryTracker())
    meshes = ingest(IngestSpec(num_objects=6, test_fraction=0.3), start).artifact
    return dataclasses.replace(start, inputs={"ingest": meshes})


@pytest.fixture(scope="module")
def outcome(run: Run) -> Outcome:
    return render(SPEC, run)


def test_views_know_objects_splits_and_parents(run: Run, outcome: Outcome) -> None:
    meshes = run.inputs["ingest"]
    objects = meshes.read_json("objects.json")
    data = ViewDataset(outcome.artifact)
    assert data.object_ids == [item["id"] for item in objects]
    assert data.categories == [item["category"] for item in objects]
    assert data.test_objects.tolist() == [i for i, item in enumerate(objects) if item["split"] == "test"]
    assert data.held_out_views.tolist() == [2, 6] and data.train_views.tolist() == [0, 1, 3, 4, 5, 7]
    assert outcome.artifact.manifest.parents == (meshes.ref,)
    assert outcome.metrics["views"] == 48 and outcome.metrics["rays_per_s"] > 0


def test_an_object_s_views_are_its_mesh_seen_by_its_cameras(run: Run, outcome: Outcome) -> None:
    data = ViewDataset(outcome.artifact)
    for number in (0, 5):
        mesh = load_mesh(run.inputs["ingest"].path(f"meshes/{data.object_ids[number]}.safetensors"))
        views = render_mesh(mesh, camera_arrays(data.cameras(number)), supersample=2)
        assert torch.equal(data.images(number), torch.from_numpy(views.rgba))
        assert torch.equal(data.depth(number), torch.from_numpy(views.depth))


def test_processes_make_the_same_bytes(run: Run, outcome: Outcome) -> None:
    again = render(SPEC, dataclasses.replace(run, map=ProcessMap(2)))
    assert [f.sha256 for f in again.artifact.manifest.files] == [
        f.sha256 for f in outcome.artifact.manifest.files
    ]


def test_every_object_is_whole_in_every_view(outcome: Outcome) -> None:
    data = ViewDataset(outcome.artifact)
    for number in range(data.num_objects):
        alpha = data.images(number)[..., 3].numpy()
        assert (alpha.max(axis=(1, 2)) == 255).any()
        border = np.concatenate((alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]), axis=1)
        assert (border == 0).mean() > 0.97


def test_the_unit_ball_just_fits_into_the_default_view() -> None:
    cameras = spiral(RenderSpec(size=64))
    assert np.sin(np.radians(42 / 2)) * 2.8 == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(cameras.camera_to_world[:, :, 3].norm(dim=-1), 2.8, rtol=1e-5)


@pytest.mark.parametrize(
    ("every", "views", "expected"), [(6, 24, (3, 9, 15, 21)), (0, 24, ()), (4, 10, (2, 6)), (2, 4, (1, 3))]
)
def test_held_out_views_are_spread_along_the_spiral(
    every: int, views: int, expected: tuple[int, ...]
) -> None:
    assert held_out_views(RenderSpec(num_views=views, held_out_every=every)) == expected


@pytest.mark.parametrize("every", [1, 30])
def test_a_split_that_leaves_nothing_or_has_no_effect_is_refused(every: int) -> None:
    with pytest.raises(ValueError, match="held_out_every"):
        RenderSpec(num_views=24, held_out_every=every)


def test_the_tracker_hears_of_settings_inputs_and_numbers(run: Run, outcome: Outcome) -> None:
    tracker = run.tracker
    assert isinstance(tracker, MemoryTracker)
    assert tracker.params["num_views"] == 8
    assert tracker.inputs[0] == ("render", run.inputs["ingest"].ref)
    assert tracker.metrics["rays_per_s"]
    ((_, sheet),) = tracker.images["views"][:1]
    assert sheet.shape[2] == 3 and (sheet < 255).mean() > 0.05
