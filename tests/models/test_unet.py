import pytest
import torch

from raydiance.models import Condition, UNet, UNetSpec
from raydiance.training.randomness import seeded


def spec(dims: int, **changes: object) -> UNetSpec:
    plain = {"in_channels": 2, "out_channels": 3, "channels": 8, "embedding_dim": 16, "num_heads": 2}
    return UNetSpec(dims=dims, **(plain | changes))


def awake(spec: UNetSpec) -> UNet:
    """A network whose zero-initialised layers have weights, so that its inputs can be seen at its output."""
    with seeded(0):
        network = UNet(spec)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_same_code_in_every_dimension(dims):
    network = UNet(spec(dims, multipliers=(1, 2, 2)))
    x = torch.randn(2, 2, *(8,) * dims, generator=torch.Generator().manual_seed(0))
    out = network(x, torch.tensor([0.1, -0.4]))
    assert out.shape == (2, 3, *(8,) * dims)
    assert torch.equal(out, torch.zeros_like(out))  # zero-initialised output


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_output_depends_on_input_noise_level_and_class(dims):
    network = awake(spec(dims, num_classes=3))
    x = torch.randn(2, 2, *(4,) * dims, generator=torch.Generator().manual_seed(0))
    level, label = torch.tensor([0.1, 0.1]), torch.tensor([0, 0])
    base = network(x, level, condition=label)
    for other in (
        network(x + 1, level, condition=label),
        network(x, level + 0.5, condition=label),
        network(x, level, condition=label + 1),
        network(x, level),
    ):
        assert (other - base).abs().max() > 1e-4


def test_no_label_is_the_label_after_the_last():
    network = awake(spec(1, num_classes=3))
    x, level = torch.ones(2, 2, 4), torch.zeros(2)
    torch.testing.assert_close(network(x, level), network(x, level, condition=torch.tensor([3, 3])))


def test_items_do_not_see_each_other():
    network = awake(spec(3))
    x = torch.randn(3, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([0.1, 0.7, -1.0])
    torch.testing.assert_close(network(x, level)[1:2], network(x[1:2], level[1:2]), atol=1e-4, rtol=1e-4)


def test_every_parameter_takes_part():
    network = awake(spec(2, num_classes=2, multipliers=(1, 2), attention_levels=(0, 1)))
    out = network(torch.ones(1, 2, 4, 4), torch.zeros(1), condition=torch.tensor([1]))
    out.square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None]
    assert idle == []


def test_sizes_that_cannot_be_halved_are_refused():
    network = UNet(spec(2, multipliers=(1, 1, 1)))
    with pytest.raises(ValueError, match="divisible by 4"):
        network(torch.zeros(1, 2, 6, 8), torch.zeros(1))


def test_labels_without_classes_are_refused():
    with pytest.raises(ValueError, match="num_classes = 0"):
        UNet(spec(1))(torch.zeros(1, 2, 4), torch.zeros(1), condition=torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(
    "wrong", [{"dims": 4}, {"attention_levels": (2,)}, {"num_heads": 3}, {"multipliers": ()}]
)
def test_impossible_specs_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        UNetSpec(**wrong)


def test_coordinates_tell_positions_apart():
    changes = {"multipliers": (1,), "attention_levels": ()}
    for coordinates in (True, False):
        network = awake(spec(2, coordinates=coordinates, **changes))
        out = network(torch.ones(1, 2, 33, 33), torch.zeros(1))
        centre, beside = out[..., 16, 16], out[..., 16, 17]
        assert torch.allclose(centre, beside, atol=1e-5) is not coordinates


TOLD = {"num_classes": 3, "vector_dim": 5, "token_dim": 6, "attention_levels": (0, 1), "multipliers": (1, 2)}


def told(count: int = 2) -> Condition:
    g = torch.Generator().manual_seed(3)
    return Condition(
        torch.zeros(count, dtype=torch.long),
        torch.randn(count, 5, generator=g),
        torch.randn(count, 4, 6, generator=g),
    )


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_output_depends_on_each_thing_told_and_on_its_absence(dims):
    network, given = awake(spec(dims, **TOLD)), told()
    x, level = torch.ones(2, 2, *(4,) * dims), torch.zeros(2)
    base = network(x, level, condition=given)
    for other in (
        given._replace(labels=given.labels + 1),
        given._replace(vector=given.vector + 1),
        given._replace(tokens=given.tokens.flip(-1)),
        given._replace(labels=None),
        given._replace(vector=None),
        given._replace(tokens=None),
    ):
        assert (network(x, level, condition=other) - base).abs().max() > 1e-4


def test_tokens_are_a_set():
    network, given = awake(spec(2, **TOLD)), told()
    x, level = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2)
    turned = given._replace(tokens=given.tokens[:, [2, 0, 3, 1]])
    out = network(x, level, condition=given)
    torch.testing.assert_close(network(x, level, condition=turned), out, atol=1e-4, rtol=1e-4)


def test_a_fresh_network_does_not_hear_its_tokens_yet():
    """The cross-attention starts as its skip, so a network can be given tokens later."""
    network, given = awake(spec(2, **TOLD)), told()
    for name, parameter in network.named_parameters():
        if ".cross.out." in name:
            torch.nn.init.zeros_(parameter)
    x, level = torch.ones(2, 2, 4, 4), torch.zeros(2)
    assert torch.equal(
        network(x, level, condition=given), network(x, level, condition=given._replace(tokens=None))
    )


def test_checkpointing_changes_memory_alone():
    gradients = []
    for checkpointing in (False, True):
        network = awake(spec(2, checkpointing=checkpointing, **TOLD))
        x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        network(x, torch.zeros(2), condition=told()).square().sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize(
    "changes",
    [
        {"multipliers": (1, 2), "num_classes": 3, "checkpointing": True},
        {"multipliers": (), "attention_levels": (), "resolution": 4, "global_width": 16, "basis": 8},
    ],
    ids=["convolutions", "directions"],
)
def test_a_network_is_one_graph(changes):
    """Nothing in it makes torch.compile fall back to Python."""
    network = awake(spec(2, **changes | {"out_channels": 2}))
    for fixed in (each for each in network.parameters() if not each.requires_grad):
        fixed.data.abs_()  # variances
    x, level = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, -0.4])
    given = Condition(labels=torch.tensor([0, 2])) if "num_classes" in changes else Condition()
    compiled = torch.compile(network, fullgraph=True, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled(x, level, condition=given), network(x, level, condition=given))


@pytest.mark.parametrize(
    ("condition", "place"),
    [
        (Condition(vector=torch.zeros(1, 5)), "vector_dim"),
        (Condition(tokens=torch.zeros(1, 2, 6)), "token_dim"),
    ],
)
def test_what_there_is_no_place_for_is_refused(condition, place):
    with pytest.raises(ValueError, match=f"{place} = 0"):
        UNet(spec(1))(torch.zeros(1, 2, 4), torch.zeros(1), condition=condition)


def test_tokens_need_a_level_that_attends_to_them():
    with pytest.raises(ValueError, match="attention_levels"):
        spec(2, token_dim=4, attention_levels=())
