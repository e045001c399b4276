"""The evaluation measures what it says: perfect reconstructions are perfect, copies are copies."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.stages import SAMPLES_PER_RAY, SIZE, VIEWS, stage_artifacts

from raydiance.data.views import ViewDataset
from raydiance.errors import ConfigError, DataError
from raydiance.fields import VoxelField, orbit_cameras
from raydiance.generation import EvaluateSpec, evaluate
from raydiance.generation.assemble import Latents, assemble, read_latents
from raydiance.generation.evaluate import asked_class
from raydiance.generation.measure import (
    Looking,
    decoded,
    direct_latents,
    distances,
    evenly,
    objects_of,
    reconstruct,
)
from raydiance.generation.viewsets import real_view_set, surface_points
from raydiance.metrics import seeded_extractor
from raydiance.storage import Artifact, Store
from raydiance.tracking import MemoryTracker, Outcome, local_run

SPEC = EvaluateSpec(
    num_samples=4,
    num_views=3,
    num_points=64,
    samples_per_ray=SAMPLES_PER_RAY,
    batch_size=3,
    sheet_samples=4,
    sheet_size=32,
    viewer_samples=2,
    viewer_resolution=16,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def inputs(store: Store) -> dict[str, Artifact]:
    return stage_artifacts(store)


@pytest.fixture(scope="module")
def finished(store: Store, inputs: dict[str, Artifact]) -> tuple[Outcome, MemoryTracker]:
    tracker = MemoryTracker()
    run = local_run(store, name="tiny-evaluate", inputs=inputs, tracker=tracker)
    return evaluate(SPEC, run), tracker


@pytest.fixture(scope="module")
def data(inputs: dict[str, Artifact]) -> ViewDataset:
    return ViewDataset(inputs["render"])


@pytest.fixture(scope="module")
def latents(inputs: dict[str, Artifact]) -> Latents:
    return read_latents(inputs["encode"])


@pytest.fixture(scope="module")
def look(data: ViewDataset) -> Looking:
    return Looking(data.cameras(0)[evenly(3, VIEWS)], 128, SAMPLES_PER_RAY)


def test_a_decoder_that_made_the_views_reconstructs_them(
    inputs: dict[str, Artifact], data: ViewDataset, latents: Latents, look: Looking
) -> None:
    model, objects, done = assemble(inputs), objects_of(data, latents), []
    fields = decoded(model, latents.raw, lambda: done.append(1))
    rows, seen = reconstruct(fields, objects, data, look)
    assert [row["object"] for row in rows] == data.object_ids[:5]
    assert len(done) == 5
    assert min(float(str(row["psnr"])) for row in rows) > 40  # 8 bits a channel leave that much
    assert min(float(str(row["ssim"])) for row in rows) > 0.99

    real = real_view_set(data, objects, evenly(3, VIEWS), 128)
    assert real.images.shape == (15, 3, SIZE, SIZE)
    torch.testing.assert_close(seen.images, real.images, atol=0.02, rtol=0)
    found = distances(seen, real, seeded_extractor())
    moved = distances(type(seen)(1 - seen.images, seen.points + 1), real, seeded_extractor())
    assert found.views["fd_views"] < 0.01 * moved.views["fd_views"]
    assert found.shapes.nearest.tolist() == list(range(5))
    assert found.shapes.minimum_matching < 0.05 * moved.shapes.minimum_matching


def test_a_worse_decoder_scores_less(
    inputs: dict[str, Artifact], data: ViewDataset, latents: Latents, look: Looking
) -> None:
    fields = decoded(assemble(inputs), latents.raw.flip(0), lambda: None)
    rows, _ = reconstruct(fields, objects_of(data, latents), data, look)
    assert np.mean([float(str(row["psnr"])) for row in rows]) < 35


def test_views_of_which_none_is_held_out_are_refused(data: ViewDataset, look: Looking) -> None:
    class AllTrained(ViewDataset):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self.held_out_views = self.held_out_views[:0]

    with pytest.raises(ConfigError, match=r"render\.held_out_every"):
        reconstruct([], [], AllTrained(data.folder), look)


def test_latents_of_other_objects_are_refused(inputs: dict[str, Artifact]) -> None:
    latents = read_latents(inputs["encode"])
    strange = type(latents)(latents.raw, latents.statistics, ("else", *latents.object_ids[1:]), ())
    with pytest.raises(DataError, match="'else'"):
        objects_of(ViewDataset(inputs["render"]), strange)


def test_direct_latents_have_the_mean_and_covariance_of_the_latents() -> None:
    raw = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    drawn = direct_latents(raw.float(), range(20_000)).double()
    expected = torch.cov(raw.flatten(1).T)
    torch.testing.assert_close(drawn.mean(0), raw.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.flatten(1).T), expected, atol=0.1, rtol=0)


def test_direct_latents_depend_on_their_seed_alone() -> None:
    raw = torch.randn(5, 2, 3)
    torch.testing.assert_close(direct_latents(raw, [3, 4, 5])[1], direct_latents(raw, [4])[0])


def test_surface_points_lie_on_the_sphere_that_is_seen() -> None:
    cameras = orbit_cameras(4, size=16, radius=3.0, fov_degrees=40.0, elevation_degrees=10.0)
    rays = cameras.rays()
    along = -(rays.origins * rays.directions).sum(-1)
    inside = along**2 - rays.origins.square().sum(-1) + 0.25
    depth = along - inside.clamp(min=0).sqrt()
    for count in (50, 5000):
        points = surface_points(cameras, depth, inside > 0, count)
        assert points.shape == (count, 3)
        torch.testing.assert_close(points.norm(dim=-1), torch.full((count,), 0.5), rtol=1e-4, atol=1e-4)
    nothing = surface_points(cameras, depth, inside > 9, 7)
    assert torch.equal(nothing, torch.zeros(7, 3))


@pytest.mark.parametrize(
    ("count", "total", "expected"), [(3, 7, [0, 3, 6]), (9, 4, [0, 1, 2, 3]), (1, 5, [0])]
)
def test_evenly_takes_the_ends(count: int, total: int, expected: list[int]) -> None:
    assert evenly(count, total) == expected


def test_the_metrics_are_there_and_finite(finished: tuple[Outcome, MemoryTracker]) -> None:
    outcome, _ = finished
    assert all(np.isfinite(value) for value in outcome.metrics.values())
    assert outcome.metrics["psnr_held_out"] > 40
    assert outcome.metrics["fd_views_reconstruction"] < outcome.metrics["fd_views"]
    ratio = outcome.metrics["fd_views"] / outcome.metrics["fd_views_direct"]
    assert outcome.metrics["fd_ratio"] == pytest.approx(ratio)
    assert outcome.artifact.read_json("metrics.json") == outcome.metrics
    assert [row["set"] for row in outcome.tables["sets"]] == ["diffusion", "direct", "reconstruction"]
    assert len(outcome.tables["objects"]) == 5


def test_the_artifact_knows_its_parents_and_its_features(
    finished: tuple[Outcome, MemoryTracker], inputs: dict[str, Artifact]
) -> None:
    manifest = finished[0].artifact.manifest
    assert {ref.key for ref in manifest.parents} == {artifact.ref.key for artifact in inputs.values()}
    assert manifest.kind == "evaluation"
    assert manifest.meta["features"] == "views-1"


def test_sheets_figures_and_the_page_are_kept_and_logged(finished: tuple[Outcome, MemoryTracker]) -> None:
    outcome, tracker = finished
    for name in ("samples", "reconstructions", "nearest"):
        kept = np.asarray(Image.open(outcome.artifact.path(f"{name}.png")))
        assert (kept == tracker.images[name][0][1]).all()
        assert kept.std() > 1
    assert set(tracker.figures) == {"latents.png", "distances.png", "plans.png"}
    for name in ("latents", "distances", "plans"):
        for palette in ("light", "dark"):
            text = outcome.artifact.path(f"figures/{name}-{palette}.svg").read_text()
            assert text.startswith("<?xml") and "</svg>" in text
    page = tracker.texts["samples.html"]
    assert page == outcome.artifact.path("samples.html").read_text()
    assert "http://" not in page and "https://" not in page
    assert {context for context, _ in tracker.inputs} == {
        "render",
        "train_autodecoder",
        "encode",
        "train_diffusion",
        "tune",
    }


def test_the_same_evaluation_twice_gives_the_same_numbers(
    finished: tuple[Outcome, MemoryTracker], store: Store, inputs: dict[str, Artifact]
) -> None:
    again = evaluate(SPEC, local_run(store, name="again", inputs=inputs))
    timed = {"seconds_per_sample"}
    for name, value in finished[0].metrics.items():
        if name not in timed:
            assert again.metrics[name] == pytest.approx(value, rel=1e-6), name


def test_samples_are_told_captions_and_it_is_counted_whether_they_follow(store: Store) -> None:
    assert asked_class(["a", "b", "a", "b"], ["a", "b", "b", "b"]) == {
        "asked_class": 0.75,
        "asked_class_chance": 0.5,
    }
    assert asked_class([], ["a"]) == {}
    inputs = stage_artifacts(store, words=("a", "red", "chair"))
    told = evaluate(replace(SPEC, guidance=3.0), local_run(store, inputs=inputs)).metrics
    assert told["asked_class"] == told["asked_class_chance"] == 1.0  # there are chairs only


def test_a_missing_input_is_named(store: Store, inputs: dict[str, Artifact]) -> None:
    without = {stage: artifact for stage, artifact in inputs.items() if stage != "tune"}
    with pytest.raises(ConfigError, match="tune"):
        evaluate(SPEC, local_run(store, inputs=without))


def test_a_plan_that_tune_does_not_have_is_named(store: Store, inputs: dict[str, Artifact]) -> None:
    with pytest.raises(ConfigError, match="default, fast, stochastic"):
        evaluate(EvaluateSpec(plan="best"), local_run(store, inputs=inputs))


def test_an_empty_field_has_no_surface_but_a_page(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    field = VoxelField(torch.zeros(1, 4, 4, 4, 4))
    cameras = orbit_cameras(2, size=12, radius=3.0, fov_degrees=40.0, elevation_degrees=0.0)
    from raydiance.generation.viewsets import field_view_set

    seen = field_view_set(field, cameras, num_samples=8, num_points=5)
    assert torch.equal(seen.images, torch.ones(2, 3, 12, 12))
    assert torch.equal(seen.points, torch.zeros(1, 5, 3))
    assert json.dumps(seen.points.tolist())
