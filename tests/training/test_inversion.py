"""Objects that were kept back are found in the latent space of a decoder that stays as it is."""

import pytest
import torch
from safetensors.torch import load_file
from tests.training.scenes import balls
from tests.training.test_autodecoder_training import AUTODECODER

from raydiance.data.encode import EncodeSpec, encode
from raydiance.errors import ConfigError
from raydiance.models import read_autodecoder
from raydiance.storage import Store
from raydiance.tracking import local_run
from raydiance.training import InversionLoop, InversionSpec, invert, train_autodecoder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A decoder that can show three balls, and views that keep one of them back."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    known = {"render": balls(store)}
    trained = train_autodecoder(AUTODECODER, local_run(store, name="ad", inputs=known)).artifact
    found = {"render": balls(store, kept_back=1), "train_autodecoder": trained}
    found["encode"] = encode(EncodeSpec(), local_run(store, name="encode", inputs=found)).artifact
    return store, found


def inverted(store, found, space, steps):
    inversion = InversionSpec(space=space, loop=InversionLoop(steps=steps, preview_every=1000))
    return invert(inversion, local_run(store, name=f"{space}-{steps}", inputs=found))


@pytest.mark.parametrize("space", ["latents", "codes"])
def test_views_never_trained_on_come_nearer_step_by_step(inputs, space):
    store, found = inputs
    early, late = (inverted(store, found, space, steps) for steps in (1, 40))
    assert late.metrics["psnr_unseen"] > early.metrics["psnr_unseen"] + 3.0
    assert late.artifact.read_json("latents.json")["object_ids"] == ["ball-2"]
    assert set(late.artifact.manifest.parents) == {artifact.ref for artifact in found.values()}
    tensors = load_file(late.artifact.path("latents.safetensors"))
    assert tensors["latents"].shape == (1, 4, 4, 4, 4)
    if space == "codes":
        trained = found["train_autodecoder"]
        model = read_autodecoder(trained.path("spec.json"), trained.path("weights.safetensors"))
        with torch.no_grad():
            torch.testing.assert_close(model.latent(tensors["codes"]), tensors["latents"])


def test_without_an_object_kept_back_there_is_nothing_to_invert(inputs):
    store, found = inputs
    with pytest.raises(ConfigError, match=r"ingest\.test_fraction"):
        inverted(store, found | {"render": balls(store)}, "latents", 1)
