import pytest
import torch
from torch import nn

from raydiance.training import Ema


def constant(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_average_follows_the_closed_form():
    ema, expected = Ema(constant(0.0), 0.9), 0.0
    for n in range(30):
        ema.update(constant(float(n)))
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert ema.shadow["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_constant_weights_are_their_own_average():
    ema = Ema(constant(2.0), 0.999)
    for _ in range(5):
        ema.update(constant(2.0))
    assert ema.shadow["weight"].item() == 2.0


def test_counters_are_copied():
    norm = nn.BatchNorm1d(2)
    ema = Ema(norm, 0.5)
    norm(torch.ones(4, 2))
    ema.update(norm)
    assert ema.shadow["num_batches_tracked"].item() == 1


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        Ema(constant(0.0), decay)
