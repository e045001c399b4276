import pytest
import torch
from safetensors.torch import load_file

from raydiance.data.encode import EncodeSpec, encode
from raydiance.errors import DataError
from raydiance.models import Autodecoder, AutodecoderSpec, save_weights
from raydiance.spec import to_plain
from raydiance.storage import Artifact, Store, write_json
from raydiance.tracking import MemoryTracker, local_run
from raydiance.training.randomness import seeded

SPEC = AutodecoderSpec(
    code_dim=8,
    latent_channels=3,
    latent_resolution=4,
    field_resolution=8,
    base_resolution=4,
    widths=(8,),
    depths=(0,),
)


def autodecoder(store: Store, num_objects: int = 5, spread: float = 1.0) -> tuple[Artifact, Autodecoder]:
    """An untrained autodecoder whose objects differ by `spread`, as an artifact."""
    with seeded(0):
        model = Autodecoder(SPEC, num_objects).eval()
        torch.nn.init.normal_(model.generator.linear.weight, std=spread)
    with store.create("autodecoder", "toy") as draft:
        save_weights(draft.path("weights.safetensors"), model.state_dict())
        described = {
            "model": to_plain(SPEC),
            "num_objects": num_objects,
            "object_ids": [f"object-{i}" for i in range(num_objects)],
            "categories": ["chair"] * num_objects,
        }
        write_json(draft.path("spec.json"), described)
    return draft.artifact, model


def test_latents_are_those_of_the_generator_whatever_the_batch(tmp_path):
    store = Store.open(tmp_path)
    artifact, model = autodecoder(store)
    expected = model.latent(model.codes.weight).detach()
    for batch_size in (2, 16):
        run = local_run(store, inputs={"train_autodecoder": artifact})
        outcome = encode(EncodeSpec(batch_size=batch_size), run)
        torch.testing.assert_close(
            load_file(outcome.artifact.path("latents.safetensors"))["latents"], expected
        )
    assert outcome.artifact.read_json("latents.json")["object_ids"][-1] == "object-4"


@pytest.mark.parametrize(("per_channel", "numbers"), [(True, 3), (False, 1)])
def test_statistics_make_latents_of_unit_size(tmp_path, per_channel, numbers):
    store, tracker = Store.open(tmp_path), MemoryTracker()
    artifact, _ = autodecoder(store, num_objects=40)
    run = local_run(store, inputs={"train_autodecoder": artifact}, tracker=tracker)
    outcome = encode(EncodeSpec(statistics="moments", per_channel=per_channel), run)
    tensors = load_file(outcome.artifact.path("latents.safetensors"))
    assert tensors["center"].shape == tensors["scale"].shape == (numbers,)
    assert outcome.metrics["deviation"] == pytest.approx(1.0, abs=0.01)
    assert tracker.inputs == [("encode", artifact.ref)]


def test_latents_that_do_not_vary_are_refused(tmp_path):
    store = Store.open(tmp_path)
    artifact, _ = autodecoder(store, spread=0.0)
    with pytest.raises(DataError, match="do not vary"):
        encode(EncodeSpec(), local_run(store, inputs={"train_autodecoder": artifact}))
