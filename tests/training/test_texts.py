"""Captions in, samples that follow them out."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.training.toys import worker

from raydiance.diffusion import grids, plans, sampling, schedules
from raydiance.diffusion.guidance import classifier_free
from raydiance.errors import ConfigError
from raydiance.models import Condition, word_numbers
from raydiance.storage import Store
from raydiance.training import (
    Batch,
    DiffusionLoop,
    DiffusionObjective,
    DiffusionTraining,
    LatentUNetSpec,
    fit,
)
from raydiance.training.texts import read_texts

CAPTIONS = ["a low table", "a tall chair"]
MODEL = LatentUNetSpec(
    dims=1,
    in_channels=2,
    out_channels=2,
    channels=8,
    multipliers=(1,),
    embedding_dim=16,
    resolution=4,
    global_width=32,
    global_blocks=1,
    token_dim=8,
    vocabulary=8,
    max_words=4,
)
LOOP = DiffusionLoop(steps=150, batch_size=16, learning_rate=1e-2, ema_decay=0.9, checkpoint_every=150)
TRAINING = DiffusionTraining(model=MODEL, loop=LOOP, p_mean=0.0, p_std=1.5, drop_condition=0.2)
LATENTS = torch.stack([torch.full((2, 4), -1.0), torch.full((2, 4), 1.0)])


def described(captions: list[str] = CAPTIONS) -> dict[str, list[str]]:
    return {"object_ids": [f"object-{i}" for i in range(len(captions))], "captions": captions}


def test_samples_follow_their_texts_and_guidance_further_than_that(tmp_path: Path) -> None:
    texts = read_texts(MODEL, None, described())
    assert texts.tokens is not None
    objective = DiffusionObjective(TRAINING, LATENTS, 0, tokens=texts.tokens)
    state = fit(objective, LOOP, worker=worker(Store.open(tmp_path)), run_name="words", seed=0)
    objective.model.load_state_dict(state.averaged())
    network = objective.model.eval()

    schedule = schedules.edm(sigma_max=20.0)
    plan = plans.heun(schedule, grids.karras(schedule, 8))
    x = plan.sigma_max * torch.randn(8, 2, 4, generator=torch.Generator().manual_seed(1))
    numbers = word_numbers(["a low table", "a tall chair"] * 4, texts.words, MODEL.max_words)
    told, silent = (
        TRAINING.preconditioning.noise_predictor(network, condition)
        for condition in (Condition(tokens=numbers), None)
    )
    with torch.no_grad():
        means = sampling.sample(told, plan, x).mean((1, 2))
        guided = sampling.sample(classifier_free(told, silent, 2.0), plan, x).mean((1, 2))
        free = sampling.sample(silent, plan, x).mean((1, 2))
    signs = torch.tensor([-1.0, 1.0] * 4)
    assert (signs * means > 0.5).all()
    assert (signs * guided).mean() > (signs * means).mean() - 0.1
    assert (signs * free > 0.5).float().mean() < 0.95  # without a text nothing tells which of the two it is


def test_what_is_told_does_not_change_the_noise_and_is_dropped_as_often_as_asked() -> None:
    texts = read_texts(MODEL, None, described())
    objective = DiffusionObjective(TRAINING, LATENTS, 0, tokens=texts.tokens)
    batch = Batch(0, 0, range(2000), 2000)
    told = objective._told(batch.items(2), batch.generators(), torch.device("cpu"))
    assert told is not None and told.tokens is not None
    assert float((told.tokens == 0).all(1).float().mean()) == pytest.approx(0.2, abs=0.03)


def test_embeddings_of_the_user_take_the_place_of_words(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.safetensors"
    given = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    save_file({"embeddings": given}, path)
    plain = LatentUNetSpec(**{**_plain(MODEL), "vocabulary": 0})
    texts = read_texts(plain, str(path), described())
    assert texts.words == () and texts.tokens is not None and torch.equal(texts.tokens, given)
    training = DiffusionTraining(model=plain, loop=LOOP, embeddings=str(path))
    terms = DiffusionObjective(training, LATENTS, 0, tokens=texts.tokens)(Batch(0, 0, range(4), 4))
    assert bool(terms["loss"].isfinite())
    with pytest.raises(ConfigError, match=r"\[3, T, 8\]"):
        read_texts(plain, str(path), described(["a", "b", "c"]))
    with pytest.raises(ConfigError, match=r"none\.safetensors"):
        read_texts(plain, str(tmp_path / "none.safetensors"), described())


def test_tokens_that_nothing_makes_are_refused() -> None:
    with pytest.raises(ConfigError, match="vocabulary"):
        read_texts(LatentUNetSpec(**{**_plain(MODEL), "vocabulary": 0}), None, described())
    with pytest.raises(ConfigError, match="no captions"):
        read_texts(MODEL, None, {"object_ids": ["a"]})
    with pytest.raises(ValueError, match="embeddings need"):
        DiffusionTraining(model=MODEL, embeddings="file.safetensors")


def _plain(spec: LatentUNetSpec) -> dict[str, object]:
    return {name: getattr(spec, name) for name in LatentUNetSpec.__dataclass_fields__}
