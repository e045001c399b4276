"""Diffusion of fields: the code of fields, masks, completion, guidance by an image, and all jobs in their
order.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from tests.training.scenes import COLOURS, ball, balls

from raydiance.config import compose
from raydiance.config.stages import stages_of
from raydiance.data.encode import encode
from raydiance.data.fieldsets import FieldCode, FieldSet
from raydiance.diffusion.guidance import loss_guided
from raydiance.diffusion.plans import build
from raydiance.diffusion.preconditioning import discrete_clean
from raydiance.diffusion.schedules import named
from raydiance.errors import ConfigError, DataError
from raydiance.fields import VoxelField, render_views, save_field, spiral_cameras, write_png
from raydiance.generation.completion import complete_field
from raydiance.generation.embeddings import embedding_error, embedding_pair
from raydiance.generation.evaluate import evaluate
from raydiance.generation.extractors import TrainedViews
from raydiance.generation.masks import BoxMask, BrushMask, HalfSpaceMask, random_box, removed_by
from raydiance.generation.radiance import FieldPlan, RadianceModel, sample
from raydiance.generation.reconstruction import PosedImage, reconstruct, view_error
from raydiance.models import UNet
from raydiance.storage import Artifact, Store, write_json
from raydiance.tracking import MemoryTracker, QuietProgress, local_run
from raydiance.tracking.run import InProcess
from raydiance.training import ExtractorLoop, ExtractorTraining, train_diffusion, train_extractor
from raydiance.training.fields import complete, fit
from raydiance.training.radiance import FieldUNetSpec, RenderingLoss

SIZE = 16
MICRO = compose(["experiment=diffrf", "size=micro"])
FIELDS = VoxelField(torch.cat([ball(colour, 0.4 + 0.1 * i, SIZE) for i, colour in enumerate(COLOURS)]))
CODE = FieldCode.fit([FIELDS[i] for i in range(3)], 0.1)


class Knowing:
    """In the place of a network: the posterior mean of f_0 if the data are just the three balls."""

    def __init__(self) -> None:
        self.data = CODE.encode(FIELDS)
        self.schedule = named("linear", 1000)
        self.spec = FieldUNetSpec(resolution=SIZE)

    def __call__(self, x: torch.Tensor, noise: torch.Tensor, /, *, condition: object = None) -> torch.Tensor:
        sigma = self.schedule.sigma(noise.double() * 500).float()
        at = x * (1 + sigma.square()).sqrt().reshape(-1, 1, 1, 1, 1)
        distance = (at[:, None] - self.data[None]).square().flatten(2).sum(2)
        weights = (-distance / (2 * sigma.square()[:, None])).softmax(1)
        return torch.einsum("bn,ncxyz->bcxyz", weights, self.data)


def knowing() -> RadianceModel:
    network = Knowing()
    return RadianceModel(network, discrete_clean("linear"), network.schedule, CODE, torch.device("cpu"))


def opacity(field: VoxelField) -> torch.Tensor:
    return -torch.expm1(-field.grid[..., 0] * field.cell_size[0])


def test_the_code_of_fields_is_undone_and_noise_below_the_margin_is_not_seen() -> None:
    data = CODE.encode(FIELDS)
    torch.testing.assert_close(data.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(data.std((0, 2, 3, 4)), torch.ones(4), atol=1e-3, rtol=0)
    again = CODE.decode(data)
    torch.testing.assert_close(opacity(again), opacity(FIELDS).clamp(max=0.99), atol=1e-5, rtol=0)
    torch.testing.assert_close(again.grid[..., 1:], FIELDS.grid[..., 1:], atol=1e-5, rtol=0)
    empty = CODE.encode(replace(FIELDS, grid=FIELDS.grid * torch.tensor([0.0, 1, 1, 1])))
    haze = CODE.decode(empty + 0.09 / float(CODE.statistics.scale[0]))
    assert float(haze.grid[..., 0].max()) == 0
    with pytest.raises(DataError, match="degree=0 and tight=false"):
        CODE.encode(VoxelField(FIELDS.grid, (-1.0, -1.0, -1.0), (1.0, 1.0, 0.5)))


def test_a_network_that_works_on_patches_is_one_of_the_whole() -> None:
    torch.manual_seed(0)
    spec = FieldUNetSpec(channels=8, embedding_dim=16, resolution=16, global_width=8)
    network = UNet(spec)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, level = torch.randn(2, 4, 16, 16, 16), torch.tensor([0.1, 0.9])
    out = network(x, level)
    assert out.shape == x.shape
    x = x[:1].clone().requires_grad_()
    network(x, level[:1])[0, 1, 9, 2, 5].backward()
    assert bool((x.grad != 0).all())  # through the global path each number tells of each
    with pytest.raises(ValueError, match="patches of 4"):
        UNet(replace(spec, global_width=0))(torch.randn(1, 4, 12, 12, 12), level[:1])
    with pytest.raises(ValueError, match="divide the resolution 16"):
        replace(spec, global_pool=3)


def test_masks_remove_what_they_say(tmp_path: Path) -> None:
    upper = removed_by(HalfSpaceMask(normal=(0.0, 0.0, 2.0), offset=0.0), SIZE)
    assert torch.equal(upper, removed_by(BoxMask(lower=(-1.0, -1.0, 0.0), upper=(1.0, 1.0, 1.0)), SIZE))
    assert upper[..., SIZE // 2 :].all() and not upper[..., : SIZE // 2].any()
    for level in (0.2, 0.4, 0.6, 0.8):
        boxes = torch.stack([random_box(level, 32, torch.Generator().manual_seed(i)) for i in range(20)])
        shares = boxes.float().mean((1, 2, 3))
        assert abs(float(shares.mean()) - level) < 0.03 and float((shares - level).abs().max()) < 0.1
    np.save(tmp_path / "brush.npy", upper.numpy())
    assert torch.equal(removed_by(BrushMask(file=str(tmp_path / "brush.npy")), SIZE), upper)
    with pytest.raises(DataError, match=r"shape \(8, 8, 8\), got \(16, 16, 16\)"):
        removed_by(BrushMask(file=str(tmp_path / "brush.npy")), 8)
    np.save(tmp_path / "nan.npy", np.full((SIZE,) * 3, np.nan))
    with pytest.raises(DataError, match="finite numbers"):
        removed_by(BrushMask(file=str(tmp_path / "nan.npy")), SIZE)
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(DataError, match=r"no \.npy file"):
        removed_by(BrushMask(file=str(tmp_path / "text.npy")), SIZE)
    with pytest.raises(DataError, match="removes 0%"):
        removed_by(HalfSpaceMask(offset=2.0), SIZE)


def test_what_stays_of_a_ball_says_which_ball_it_is() -> None:
    model, plan = (
        knowing(),
        build("repaint", named("linear", 1000), "karras", 12, jump_length=4, num_resamples=2),
    )
    removed = removed_by(HalfSpaceMask(), SIZE)
    for index in range(3):
        made = complete_field(model, FIELDS[index], removed, [5, 6], plan)
        kept = ~removed
        assert torch.equal(made.grid[0][kept], FIELDS.grid[index][kept])  # to the bit
        for variant in range(2):
            torch.testing.assert_close(
                opacity(made[variant])[0], opacity(FIELDS)[index].clamp(max=0.99), atol=0.05, rtol=0
            )
    with pytest.raises(DataError, match="a mask of"):
        complete_field(model, FIELDS[0], removed[:8], [0], plan)


def test_an_image_says_which_ball_it_is() -> None:
    """And its error falls to that of the field itself; without it other balls are drawn."""
    model, cameras = knowing(), spiral_cameras(1, size=16, radius=2.8, fov_degrees=42.0)
    plan = model.plan(FieldPlan(solver="ddim", num_steps=16))
    free = model.sample(range(8), plan)
    drawn = {int((opacity(free[i]) - opacity(FIELDS)).square().flatten(1).sum(1).argmin()) for i in range(8)}
    assert len(drawn) > 1
    for index in range(3):
        seen = render_views(FIELDS[index], cameras, background=0.0)
        alpha = seen.opacity[0, 0, ..., None]
        rgba = torch.cat((seen.colour[0, 0] / alpha.clamp(min=1e-6), alpha), dim=-1).clamp(0, 1)
        error = view_error(PosedImage((rgba * 255).byte(), cameras), CODE, tau=0.1, num_samples=32)
        field = model.sample([0, 1], plan, loss_guided(model.predict_noise, error, 1.0))
        assert (opacity(field) - opacity(FIELDS)[index].clamp(max=0.99)).abs().max() < 0.1
        errors = error(CODE.encode(FIELDS))
        assert int(errors.argmin()) == index


def test_a_field_keeps_its_place_on_another_grid() -> None:
    box = VoxelField(torch.rand(1, 6, 5, 4, 4), (-0.5, -0.4, -0.3), (0.5, 0.6, 0.3))
    moved = box.resampled((81, 81, 81))
    assert (moved.lower, moved.upper) == ((-1.0,) * 3, (1.0,) * 3)
    assert float(moved.grid[0, 0, 40, 40].abs().max()) == 0  # outside there is nothing
    back = moved.resampled((6, 5, 4), box.lower, box.upper)
    inside = (slice(None), slice(1, -1), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(back.grid[inside], box.grid[inside], atol=0.12, rtol=0)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Artifact], MemoryTracker]:
    """The micro experiment on five balls, all stages up to train_diffusion."""
    store, tracker = Store.open(tmp_path_factory.mktemp("diffrf")), MemoryTracker()
    found = {"render": balls(store, size=16)}
    with store.create("fields", "balls", parents=[found["render"].ref]) as draft:
        rows = []
        for index in range(3):
            file = f"fields/ball-{index}.safetensors"
            save_field(FIELDS[index], draft.path(file))
            split = "test" if index == 2 else "train"
            rows.append({"id": f"ball-{index}", "category": "ball", "split": split, "file": file})
        rows.append(rows[2])
        write_json(draft.path("fields.json"), {"objects": rows, "failed": []})
    found["fit"] = draft.artifact
    run = local_run(store, name="encode", inputs=found, tracker=tracker)
    found["encode"] = encode(MICRO.encode, run).artifact
    run = local_run(store, name="train", inputs={k: found[k] for k in ("encode", "render")}, tracker=tracker)
    found["train_diffusion"] = train_diffusion(MICRO.train_diffusion, run).artifact
    return store, found, tracker


def test_training_tells_both_losses_and_goes_on_to_the_same_end(
    stages: tuple[Store, dict[str, Artifact], MemoryTracker],
) -> None:
    store, found, tracker = stages
    steps = [step for step, _ in tracker.metrics["train/views"]]
    assert steps == [2, 4, 6, 8] and "train/field" in tracker.metrics and "samples" in tracker.images
    inputs = {"encode": found["encode"], "render": found["render"]}
    half = replace(MICRO.train_diffusion, loop=replace(MICRO.train_diffusion.loop, steps=4, decay="constant"))
    whole = replace(half, loop=replace(half.loop, steps=8))
    train_diffusion(half, local_run(store, name="cut", inputs=inputs))
    one = train_diffusion(whole, local_run(store, name="cut", inputs=inputs)).artifact
    two = train_diffusion(whole, local_run(store, name="whole", inputs=inputs)).artifact
    assert one.path("weights.safetensors").read_bytes() == two.path("weights.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="--input render=KEY"):
        train_diffusion(half, local_run(store, inputs={"encode": found["encode"]}))


def test_what_is_examined_does_not_depend_on_the_losses(
    stages: tuple[Store, dict[str, Artifact], MemoryTracker],
) -> None:
    store, found, _ = stages
    inputs = {"encode": found["encode"], "render": found["render"]}
    still = replace(MICRO.train_diffusion.loop, learning_rate=1e-30, steps=1)
    seen = []
    for rendering in (RenderingLoss(weight=0.0), RenderingLoss(weight=3.0, omega="one", rays=32)):
        training, tracker = replace(MICRO.train_diffusion, rendering=rendering, loop=still), MemoryTracker()
        here = InProcess(store, tracker, QuietProgress())
        run = local_run(
            store,
            name=f"examined-{rendering.weight:g}",
            inputs=inputs,
            tracker=tracker,
            launch=lambda train, payload, here=here: here(
                lambda given, worker: train(given, replace(worker, until=1)), payload
            ),
        )
        train_diffusion(training, run)
        names = ("denoising_error", "fd_views", "kd_views", "coverage", "accuracy", "nearest_x1e3")
        seen.append([tracker.metrics[f"examined/{name}"] for name in names])
        assert ("train/views" in tracker.metrics) == bool(rendering.weight)
    assert seen[0] == seen[1] and np.isfinite([value for ((_, value),) in seen[0]]).all()


def test_samples_are_evaluated_completed_and_reconstructed(
    stages: tuple[Store, dict[str, Artifact], MemoryTracker], tmp_path: Path
) -> None:
    store, found, _ = stages
    run = local_run(store, inputs=found)
    sampled = sample(MICRO.sample, run)
    again = FieldSet.of(sample(replace(MICRO.sample, first_seed=1, num_samples=1), run).artifact)
    whole = FieldSet.of(sampled.artifact)[1].grid
    torch.testing.assert_close(
        again[0].grid, whole, atol=1e-3, rtol=2e-3
    )  # a seed is a sample; files are float16
    inputs = {"sample": sampled.artifact, "fit": found["fit"], "render": found["render"]}
    outcome = evaluate(MICRO.evaluate, local_run(store, inputs=inputs))
    assert {"fd_views", "kd_views", "coverage", "jsd", "psnr_held_out"} <= set(outcome.metrics)
    assert outcome.artifact.manifest.meta["features"] == "views-1"
    training = ExtractorTraining(loop=ExtractorLoop(steps=2, batch_size=4))
    trained = train_extractor(training, run)
    looked = replace(MICRO.evaluate, extractor=TrainedViews(artifact=trained.artifact.ref.key))
    other = evaluate(looked, local_run(store, inputs=inputs))
    assert str(other.artifact.manifest.meta["features"]).startswith("views-trained-")
    assert other.metrics["fd_views"] != outcome.metrics["fd_views"]
    assert other.metrics["coverage"] == outcome.metrics["coverage"]

    table = complete(MICRO.complete, run)
    (row,) = table.tables["levels"]
    assert row["mpsnr"] >= row["psnr"] > 0 and row["removed"] == pytest.approx(0.3, abs=0.1)
    save_field(VoxelField(FIELDS.grid[:1]), tmp_path / "ball.safetensors")
    spec = replace(MICRO.complete, source=str(tmp_path / "ball.safetensors"), mask=HalfSpaceMask())
    made = complete(spec, run).artifact
    assert len(FieldSet.of(made)) == 1 + spec.variants and "removed.npy" in made.files
    trimesh.creation.box((1, 1, 1)).export(tmp_path / "box.glb")
    boxes = FieldSet.of(complete(replace(spec, source=str(tmp_path / "box.glb"), variants=1), run).artifact)
    assert float(opacity(boxes[1])[0, 8, 8, 4:7].mean()) > 0.5  # what stays of the mesh is solid
    with pytest.raises(DataError, match="give a field"):
        complete(replace(spec, source="ball.txt"), run)

    rows = reconstruct(MICRO.reconstruct, run).tables["objects"]
    assert {"psnr_unseen", "psnr_best_unguided", "psnr_fitted"} <= set(rows[0])
    seen = render_views(FIELDS[2], spiral_cameras(1, size=32, radius=2.8, fov_degrees=42.0)).colour[0, 0]
    write_png(tmp_path / "blue.png", seen)
    like = replace(MICRO.reconstruct, like=str(tmp_path / "blue.png"))
    assert -1 <= reconstruct(like, run).metrics["likeness"] <= 1
    with pytest.raises(ConfigError, match="knows no text"):
        reconstruct(replace(like, text="a chair"), run)
    with pytest.raises(ConfigError, match="needs weights"):
        reconstruct(replace(like, embedding="clip"), run)
    with pytest.raises(DataError, match="is no image"):
        reconstruct(replace(like, like=str(tmp_path / "no.png")), run)


def test_all_stages_have_settings_and_fit_gives_what_encode_takes(tmp_path: Path) -> None:
    assert list(stages_of(MICRO))[-4:] == ["sample", "evaluate", "complete", "reconstruct"]
    store = Store.open(tmp_path)
    fitted = fit(MICRO.fit, local_run(store, inputs={"render": balls(store)})).artifact
    latents = encode(MICRO.encode, local_run(store, inputs={"fit": fitted})).artifact
    code, fields = FieldCode.of(latents), FieldSet.of(fitted)
    torch.testing.assert_close(
        opacity(code.decode(code.encode(fields[1]))), opacity(fields[1]).clamp(max=0.99), atol=1e-4, rtol=0
    )


def test_a_picture_says_which_ball_it_resembles() -> None:
    """With no camera to go with it, through an embedding of pictures."""
    model, cameras = knowing(), spiral_cameras(2, size=24, radius=2.8, fov_degrees=42.0)
    pair = embedding_pair("views", None, text=False)
    for index in range(3):
        picture = render_views(FIELDS[index], cameras[1]).colour[0].permute(0, 3, 1, 2)
        error = embedding_error(pair, pair.image(picture)[0], CODE, cameras, strength=1000.0, num_samples=32)
        assert int(error(CODE.encode(FIELDS)).argmin()) == index
        plan = model.plan(FieldPlan(solver="ddim", num_steps=16))
        field = model.sample([0], plan, loss_guided(model.predict_noise, error, 1.0))
        assert (opacity(field) - opacity(FIELDS)[index].clamp(max=0.99)).abs().max() < 0.1
