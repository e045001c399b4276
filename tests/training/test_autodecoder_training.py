import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from tests.training.scenes import balls
from tests.training.toys import VALIDATION, worker

from raydiance.data.encode import EncodeSpec, encode
from raydiance.data.latents import RobustStatistics
from raydiance.metrics import VggPyramid
from raydiance.models import (
    AutodecoderSpec,
    GaussianPath,
    UNetSpec,
    read_autodecoder,
    read_decoder,
    read_unet,
)
from raydiance.storage import PretrainedSpec, Store, file_sha256
from raydiance.tracking import MemoryTracker, local_run
from raydiance.training import (
    AutodecoderLosses,
    AutodecoderTraining,
    Batch,
    DiffusionObjective,
    DiffusionTraining,
    LoopSpec,
    train_autodecoder,
    train_diffusion,
)
from raydiance.training.randomness import seeded

MODEL = AutodecoderSpec(
    code_dim=8,
    latent_channels=4,
    latent_resolution=4,
    field_resolution=16,
    base_resolution=4,
    widths=(16, 16),
    depths=(1, 0),
    attention_resolutions=(4,),
)
AUTODECODER = AutodecoderTraining(
    model=MODEL,
    losses=AutodecoderLosses(total_variation=0.01, sparsity=0.01, codes=1e-4, latents=1e-4),
    loop=LoopSpec(steps=60, batch_size=3, learning_rate=3e-2, checkpoint_every=30, preview_every=30),
    views_per_object=2,
    pixel_stride=2,
    num_samples=24,
    latent_noise=0.01,
)
DENOISER = DiffusionTraining(
    model=UNetSpec(
        in_channels=4,
        out_channels=4,
        channels=16,
        multipliers=(1, 2),
        num_heads=2,
        embedding_dim=32,
        resolution=4,
        global_width=32,
    ),
    loop=LoopSpec(
        steps=60, batch_size=8, learning_rate=2e-3, ema_decay=0.9, checkpoint_every=60, preview_every=60
    ),
    preview_samples=2,
    preview_steps=4,
    preview_size=16,
)


def validated(store, tracker):
    return lambda train, payload: train(payload, worker(store, tracker=tracker, validation=VALIDATION))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The three stages behind one another, on three balls."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    views, tracker, denoising = balls(store), MemoryTracker(), MemoryTracker()
    run = local_run(
        store, name="ad", inputs={"render": views}, tracker=tracker, launch=validated(store, tracker)
    )
    autodecoder = train_autodecoder(AUTODECODER, run)
    inputs = {"render": views, "train_autodecoder": autodecoder.artifact}
    latents = encode(EncodeSpec(), local_run(store, name="encode", inputs=inputs))
    inputs |= {"encode": latents.artifact}
    run = local_run(store, name="dm", inputs=inputs, tracker=denoising, launch=validated(store, denoising))
    denoiser = train_diffusion(DENOISER, run)
    return {
        "store": store, "views": views, "tracker": tracker, "autodecoder": autodecoder,
        "latents": latents, "denoiser": denoiser, "denoising": denoising,
    }  # fmt: skip


def curve(tracker: MemoryTracker, name: str) -> list[float]:
    return [value for _, value in tracker.metrics[name]]


def test_balls_are_learned_on_a_view_never_seen(trained):
    assert trained["autodecoder"].metrics["psnr_held_out"] > 20
    squared = curve(trained["tracker"], "train/squared")
    assert squared[-1] < 0.2 * squared[0]
    assert all(0 < share < 1 for share in curve(trained["tracker"], "speed/data_wait"))


def test_scores_and_names_stand_in_the_artifact(trained):
    artifact = trained["autodecoder"].artifact
    assert artifact.manifest.kind == "autodecoder" and artifact.manifest.parents == (trained["views"].ref,)
    table = artifact.read_json("held_out.json")
    assert [row["object"] for row in table] == ["ball-0", "ball-1", "ball-2"]
    mean = sum(row["psnr"] for row in table) / 3
    assert trained["autodecoder"].metrics["psnr_held_out"] == pytest.approx(mean)


def test_checkpoints_are_worth_more_and_more_and_the_last_one_what_the_artifact_is(trained):
    (first, low), (last, high) = trained["tracker"].metrics["val/psnr"]
    assert (first, last) == (30, 60) and low < high
    assert high == pytest.approx(trained["autodecoder"].metrics["psnr_held_out"], abs=1e-6)
    loss = trained["denoiser"].metrics["denoising_loss"]
    assert trained["denoising"].metrics["val/loss_on_training_data"] == [(60, pytest.approx(loss, rel=1e-6))]


def test_previews_show_truth_above_rendering(trained):
    steps = [step for step, _ in trained["tracker"].images["held_out_views"]]
    _, last = trained["tracker"].images["held_out_views"][-1]
    assert steps == [30, 60] and last.shape == (32, 48, 3)
    truth, shown = last[:16].astype(float), last[16:].astype(float)
    assert 0 < abs(truth - shown).mean() < 40


def test_decoder_of_the_artifact_decodes_its_latents(trained):
    artifact = trained["autodecoder"].artifact
    paths = artifact.path("spec.json"), artifact.path("weights.safetensors")
    whole, decoder = read_autodecoder(*paths), read_decoder(*paths)
    grid = whole(torch.tensor([1]))
    torch.testing.assert_close(decoder(whole.latent(whole.codes.weight[1:2])), grid)


def test_latents_are_normalised_and_named(trained):
    artifact = trained["latents"].artifact
    described = artifact.read_json("latents.json")
    assert described["object_ids"] == ["ball-0", "ball-1", "ball-2"] and described["shape"] == [4, 4, 4, 4]
    assert described["captions"] == described["categories"]  # of views without captions
    assert artifact.manifest.parents == (trained["autodecoder"].artifact.ref,)
    statistics = RobustStatistics.load(artifact.path("latents.safetensors"))
    assert statistics.center.shape == statistics.scale.shape == (4,)


def test_denoiser_learns_and_shows_samples(trained):
    losses = curve(trained["denoising"], "train/loss")
    assert sum(losses[-2:]) < sum(losses[:2])
    (_, first), *_ = trained["denoising"].images["samples"]
    assert first.shape == (16, 32, 3)
    artifact = trained["denoiser"].artifact
    unet = read_unet(artifact.path("spec.json"), artifact.path("weights.safetensors"))
    assert unet.spec == DENOISER.model
    assert trained["denoiser"].metrics["denoising_loss"] < 2


def test_with_a_basis_training_starts_at_the_gaussian_and_its_network_can_be_read(trained):
    model = dataclasses.replace(DENOISER.model, multipliers=(), attention_levels=(), basis=4)
    loop = dataclasses.replace(DENOISER.loop, batch_size=64, log_every=1, checkpoint_every=20)
    training = dataclasses.replace(DENOISER, model=model, loop=loop)
    tracker, inputs = MemoryTracker(), {"encode": trained["latents"].artifact}
    run = local_run(trained["store"], name="gaussian", inputs=inputs, tracker=tracker)
    artifact = train_diffusion(training, run).artifact
    losses = curve(tracker, "train/loss")
    assert losses[0] == pytest.approx(1.0, abs=0.35)
    assert sum(losses[-5:]) < sum(losses[:5])
    network = read_unet(artifact.path("spec.json"), artifact.path("weights.safetensors"))
    assert isinstance(network.whole, GaussianPath)
    assert (network.whole.variances > 0).tolist() == [True, True, False, False]  # of three latents


def test_a_share_of_the_samples_is_not_told_its_class():
    model = dataclasses.replace(DENOISER.model, num_classes=2)
    latents, labels = torch.zeros(4, 4, 4, 4, 4), torch.tensor([0, 1, 0, 1])

    def told(share: float) -> torch.Tensor:
        training = dataclasses.replace(DENOISER, model=model, drop_condition=share)
        seen: list[torch.Tensor] = []
        objective = DiffusionObjective(training, latents, 0, labels=labels)
        objective.model.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["condition"].labels), with_kwargs=True
        )
        objective(Batch(0, 3, range(64), 64))
        return seen[0]

    whole, none, half = told(0.0), told(1.0), told(0.5)
    assert (none == 2).all() and set(whole.tolist()) == {0, 1}
    assert ((half == 2) | (half == whole)).all()  # the same samples otherwise
    assert 16 < int((half == 2).sum()) < 48


def test_images_are_compared_by_vgg_where_its_weights_are_given_and_the_run_says_so(trained, tmp_path):
    """Random weights of the network's shape; three seconds are for its 13 million."""
    path = tmp_path / "vgg19.safetensors"
    with seeded(0):
        save_file(VggPyramid().state_dict(), path)
    given = PretrainedSpec(file=str(path), sha256=file_sha256(path))
    losses = dataclasses.replace(AUTODECODER.losses, squared=0.0, vgg=1.0, pyramid_l1=1.0, structure=1.0)
    short = dataclasses.replace(
        AUTODECODER, losses=losses, loop=dataclasses.replace(AUTODECODER.loop, steps=2, log_every=1)
    )
    said, terms = {}, {}
    for name, training in (("with", dataclasses.replace(short, vgg_weights=given)), ("without", short)):
        tracker = MemoryTracker()
        run = local_run(trained["store"], name=name, inputs={"render": trained["views"]}, tracker=tracker)
        artifact = train_autodecoder(training, run).artifact
        said[name] = tracker.tags["image_loss"]
        assert artifact.read_json("spec.json")["image_loss"] == said[name]
        terms[name] = set(tracker.metrics) & {"train/vgg", "train/pyramid_l1", "train/structure"}
        assert tracker.metrics["train/loss"][1][1] < tracker.metrics["train/loss"][0][1]
    assert said == {"with": "VGG-19 pyramid", "without": "pyramid of L1 + structural similarity"}
    assert terms == {"with": {"train/vgg"}, "without": {"train/pyramid_l1", "train/structure"}}
    assert AUTODECODER.image_loss == "squared error"
    with pytest.raises(ValueError, match=r"losses\.vgg is 0"):
        dataclasses.replace(AUTODECODER, vgg_weights=given)


def test_same_seed_same_weights(trained):
    store = trained["store"]
    short = dataclasses.replace(AUTODECODER, loop=dataclasses.replace(AUTODECODER.loop, steps=3))
    weights = [
        train_autodecoder(short, local_run(store, name=name, inputs={"render": trained["views"]}, seed=seed))
        .artifact.path("weights.safetensors")
        .read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert weights[0] == weights[1] != weights[2]
