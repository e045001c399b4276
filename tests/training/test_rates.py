import pytest
import torch
from torch import nn

from raydiance.training.rates import rates_by_fan_in


def test_every_parameter_has_one_rate_that_falls_with_its_fan_in():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.Linear(8, 2))
    groups = rates_by_fan_in(model, 12, factors={"2.bias": 5.0})
    found = {id(p): group["factor"] for group in groups for p in group["params"]}
    expected = {name: 1.0 for name, _ in model.named_parameters()}
    expected |= {"0.weight": 12 / 36, "2.bias": 5.0}
    assert {name: found[id(p)] for name, p in model.named_parameters()} == pytest.approx(expected)


def test_outputs_of_wide_layers_move_no_more_than_those_of_narrow_ones():
    moved = []
    for fan_in in (64, 4096):
        layer = nn.Linear(fan_in, 1, bias=False)
        optimizer = torch.optim.Adam(
            [{**group, "lr": 0.01 * group["factor"]} for group in rates_by_fan_in(layer, 64)]
        )
        x = torch.ones(1, fan_in)
        before = layer(x)
        before.sum().backward()
        optimizer.step()
        moved.append((layer(x) - before).abs().item())
    assert moved[0] == pytest.approx(moved[1], rel=0.01)
