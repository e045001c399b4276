import pytest
import torch

from raydiance.models import (
    Autodecoder,
    AutodecoderSpec,
    FieldDecoder,
    LatentGenerator,
    load_weights,
    save_weights,
)
from raydiance.models.autodecoder import activate, spread
from raydiance.training.randomness import seeded

SMALL = AutodecoderSpec(
    base_resolution=4,
    attention_resolutions=(8,),
    code_dim=8,
    latent_channels=4,
    field_resolution=16,
    widths=(16, 8),
    depths=(1, 1),
)
FULL = AutodecoderSpec(
    base_resolution=4,
    attention_resolutions=(8,),
    code_dim=8,
    latent_channels=4,
    field_resolution=16,
    widths=(16, 8, 8),
    depths=(1, 1, 1),
)


def build(spec: AutodecoderSpec, num_objects: int = 3) -> Autodecoder:
    with seeded(0):
        model = Autodecoder(spec, num_objects)
        # Residual branches and the head start at zero or small: give them weight, so that tests can see them.
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("spec", [SMALL, FULL])
def test_grids_are_densities_and_colours(spec):
    model = build(spec)
    grid = model(torch.arange(3))
    assert grid.shape == (3, 16, 16, 16, 4)
    assert (grid[..., 0] >= 0).all() and grid[..., 0].std() > 0
    assert (grid[..., 1:] >= 0).all() and (grid[..., 1:] <= 1).all()
    assert model.latent(model.codes.weight).shape == (3, *spec.latent_shape)


def test_forward_is_generator_then_decoder():
    model = build(SMALL)
    latents = model.latent(model.codes(torch.tensor([2, 0])))
    torch.testing.assert_close(model.decode(latents), model(torch.tensor([2, 0])))


def test_objects_do_not_see_each_other():
    model = build(SMALL)
    torch.testing.assert_close(model(torch.arange(3))[1:2], model(torch.tensor([1])), atol=1e-5, rtol=1e-4)


def test_fresh_field_is_the_stated_fog():
    for activation in ("softplus", "exp"):
        spec = AutodecoderSpec(density_activation=activation, initial_density=0.7)
        grid = activate(torch.zeros(1, 4, 2, 2, 2), spec)
        torch.testing.assert_close(grid[..., 0], torch.full((1, 2, 2, 2), 0.7))
        torch.testing.assert_close(grid[..., 1:], torch.full((1, 2, 2, 2, 3), 0.5))


@pytest.mark.parametrize("activation", ["softplus", "exp"])
@pytest.mark.parametrize("raw", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_values_and_gradients_stay_finite(activation, raw):
    x = torch.full((1, 4, 2, 2, 2), raw, requires_grad=True)
    grid = activate(x, AutodecoderSpec(density_activation=activation))
    (gradient,) = torch.autograd.grad(grid.sum(), x)
    assert grid.isfinite().all() and gradient.isfinite().all()


def test_subpixel_puts_each_channel_at_its_voxel():
    x = torch.zeros(1, 16, 2, 2, 2)
    x[0, 8 + 0b101, 1, 0, 1] = 1.0  # second output channel, corner (1, 0, 1) of cell (1, 0, 1)
    (place,) = spread(x).nonzero().tolist()
    assert place == [0, 1, 3, 0, 3]


def test_zero_codes_start_alike_and_part_ways():
    spec = AutodecoderSpec(
        code_dim=8, latent_channels=4, field_resolution=16, widths=(16, 8), depths=(1, 1), code_std=0
    )
    model = Autodecoder(spec, 2)
    assert torch.equal(model.codes.weight, torch.zeros(2, 8))
    grid = model(torch.tensor([0, 1]))
    (grid[0].sum() - grid[1].square().sum()).backward()
    gradient = model.codes.weight.grad
    assert gradient.abs().min(dim=1).values.min() >= 0 and not torch.equal(gradient[0], gradient[1])


def test_decoder_loads_out_of_a_whole_autodecoder(tmp_path):
    model = build(SMALL).eval()
    save_weights(tmp_path / "weights.safetensors", model.state_dict())
    decoder = load_weights(FieldDecoder(SMALL), tmp_path / "weights.safetensors", prefix="decoder.")
    latents = torch.randn(2, *SMALL.latent_shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(decoder(latents), model.decode(latents), rtol=0, atol=0)


def test_attention_reaches_across_the_volume():
    spec = AutodecoderSpec(
        code_dim=8,
        latent_channels=4,
        latent_resolution=8,
        field_resolution=16,
        widths=(8, 8),
        depths=(0, 0),
        attention_resolutions=(8,),
    )
    decoder = build(spec).decoder
    latents = torch.zeros(1, *spec.latent_shape, requires_grad=True)
    # One far corner of the output: convolutions alone could not see the opposite corner.
    (gradient,) = torch.autograd.grad(decoder(latents)[0, 0, 0, 0].sum(), latents)
    assert gradient[0, :, -1, -1, -1].abs().sum() > 0


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"field_resolution": 24}, "field_resolution"),
        ({"widths": (8,)}, "widths"),
        ({"depths": (1,)}, "depths"),
        ({"latent_resolution": 64}, "latent_resolution"),
        ({"attention_resolutions": (5,)}, "attention_resolutions"),
    ],
)
def test_impossible_specs_are_refused_by_name(wrong, word):
    with pytest.raises(ValueError, match=word):
        AutodecoderSpec(**wrong)


def test_generator_alone_matches_its_part():
    model = build(SMALL)
    alone = LatentGenerator(SMALL)
    alone.load_state_dict(model.generator.state_dict())
    torch.testing.assert_close(alone(model.codes.weight), model.latent(model.codes.weight))
