"""One seed is one sample, and a sample says where it comes from."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.bundles import tiny_bundle, tiny_model

from raydiance.errors import RequestError
from raydiance.fields import orbit_cameras
from raydiance.generation import (
    Bundle,
    decode,
    generate_fields,
    generate_latents,
    initial_noise,
    load_bundle,
    noise_generator,
    sample_glb,
    stamp,
    views,
    write_bundle,
)
from raydiance.storage import Store


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    store = Store.open(tmp_path_factory.mktemp("store"))
    return load_bundle(tiny_bundle(store, num_classes=3))


def test_noise_depends_on_the_seed_alone() -> None:
    shape = (2, 3, 4)
    before = torch.random.get_rng_state()
    assert torch.equal(initial_noise(7, shape), initial_noise(7, shape))
    assert not torch.equal(initial_noise(7, shape), initial_noise(8, shape))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(torch.randn(shape, generator=noise_generator(7)), initial_noise(7, shape))


@pytest.mark.parametrize("plan", ["default", "fast", "stochastic"])
def test_a_seed_gives_the_same_latent_alone_and_in_any_batch(bundle: Bundle, plan: str) -> None:
    table = bundle.plan(plan)
    alone = {seed: generate_latents(bundle, [seed], table)[0] for seed in (3, 4, 5)}
    together = generate_latents(bundle, [5, 3, 4, 9], table)
    in_chunks = generate_latents(bundle, [5, 3, 4, 9], table, batch_size=3)
    for row, seed in ((0, 5), (1, 3), (2, 4)):
        assert torch.equal(together[row], alone[seed])
        assert torch.equal(in_chunks[row], alone[seed])
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_latents_come_on_the_scale_of_the_decoder(bundle: Bundle) -> None:
    raw = generate_latents(bundle, [1], bundle.plan("fast"))
    normalised = bundle.statistics.normalise(raw)
    torch.testing.assert_close(raw, 2.0 * normalised)
    assert raw.shape == (1, *bundle.latent_shape)


def test_the_condition_reaches_the_network(bundle: Bundle) -> None:
    first = generate_latents(bundle, [1, 1], condition=torch.tensor([0, 2]))
    assert not torch.allclose(first[0], first[1], atol=1e-3)


def test_guidance_goes_beyond_the_class_by_as_much_as_it_says(bundle: Bundle) -> None:
    """One Euler step is linear in the predicted noise, so samples lie on a line."""
    plan, told = bundle.plan("ddim-1"), torch.tensor([0, 2])
    unconditional = generate_latents(bundle, [1, 2], plan)
    conditional, guided = (
        generate_latents(bundle, [1, 2], plan, condition=told, guidance=scale) for scale in (1.0, 3.0)
    )
    assert not torch.allclose(conditional, unconditional, atol=1e-3)
    expected = unconditional + 3 * (conditional - unconditional)
    torch.testing.assert_close(guided, expected, rtol=1e-3, atol=1e-2)


def test_a_text_leads_where_it_should_and_is_remembered(tmp_path: Path) -> None:
    words = ("chair", "red", "blue")
    told = load_bundle(write_bundle(Store.open(tmp_path), "told", tiny_model(words=words)))
    plan, seeds = told.plan("fast"), [1, 1]
    numbers = torch.cat([each for each in (told.text("a red chair"), told.text("blue")) if each is not None])
    both = generate_latents(told, seeds, plan, tokens=numbers)
    assert not torch.allclose(both[0], both[1], atol=1e-3)
    assert torch.equal(both[1], generate_latents(told, [1], plan, tokens=numbers[1:])[0])
    free = generate_latents(told, seeds, told.plan("ddim-1"))
    one, three = (
        generate_latents(told, seeds, told.plan("ddim-1"), tokens=numbers, guidance=scale)
        for scale in (1.0, 3.0)
    )
    torch.testing.assert_close(three, free + 3 * (one - free), rtol=1e-3, atol=1e-2)
    blob = sample_glb(told, 3, "fast", text="a red chair", guidance=2.0)
    said = glb_json(blob)["asset"]["extras"]["raydiance"]  # type: ignore[index]
    assert (said["text"], said["guidance"]) == ("a red chair", 2.0)
    with pytest.raises(RequestError, match="chair, red, blue"):
        told.text("zebra")


def test_a_bundle_without_words_refuses_a_text(bundle: Bundle) -> None:
    with pytest.raises(RequestError, match="was not taught captions"):
        bundle.text("a red chair")


def test_the_callback_counts_samples(bundle: Bundle) -> None:
    seen: list[int] = []
    generate_latents(bundle, range(5), bundle.plan("fast"), batch_size=2, callback=seen.append)
    assert seen == [2, 4, 5]


def test_views_are_what_the_field_shows(bundle: Bundle) -> None:
    field = generate_fields(bundle, [1, 2], bundle.plan("fast"))
    cameras = orbit_cameras(3, size=12, radius=3.0, fov_degrees=40.0, elevation_degrees=20.0)
    images = views(field, cameras, num_samples=16)
    assert images.shape == (2, 3, 12, 12, 3)
    assert images.dtype == np.uint8
    assert images.std() > 1
    empty = decode(bundle, torch.zeros(1, *bundle.latent_shape))
    assert (views(type(empty)(torch.zeros_like(empty.grid)), cameras) == 255).all()


def glb_json(data: bytes) -> dict[str, object]:
    (length,) = struct.unpack("<I", data[12:16])
    parsed: dict[str, object] = json.loads(data[20 : 20 + length])
    return parsed


def test_a_glb_carries_its_stamp_and_is_the_same_each_time(bundle: Bundle, tmp_path: Path) -> None:
    data = sample_glb(bundle, 7, "fast", category="class1")
    assert data == sample_glb(bundle, 7, "fast", category="class1")
    assert data != sample_glb(bundle, 8, "fast", category="class1")
    asset = glb_json(data)["asset"]
    assert isinstance(asset, dict)
    found = asset["extras"]["raydiance"]
    assert found == stamp(bundle, 7, "fast", category="class1")["raydiance"]
    assert found["bundle"] == bundle.ref.key
    assert found["sha256"] == bundle.ref.sha256
    assert (found["plan"], found["seed"], found["category"]) == ("fast", 7, "class1")


def test_the_stamp_names_the_default_plan(bundle: Bundle) -> None:
    assert stamp(bundle, 0)["raydiance"]["plan"] == "default"


def test_a_plan_that_is_not_there_is_refused(bundle: Bundle) -> None:
    with pytest.raises(RequestError, match="stochastic"):
        sample_glb(bundle, 0, "nope")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_file_is_the_same_whatever_threads_there_are(bundle: Bundle, threads: int) -> None:
    before, known = torch.get_num_threads(), sample_glb(bundle, 7)
    torch.set_num_threads(threads)
    try:
        assert sample_glb(bundle, 7) == known and torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
