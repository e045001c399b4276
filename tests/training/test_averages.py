"""Averages over a share of the training: their profile, their width, and widths chosen afterwards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.toys import Toy, loop, worker
from torch import nn

from raydiance.errors import NonFiniteLossError
from raydiance.storage import Store
from raydiance.training import fit, read_snapshots
from raydiance.training.averages import PowerAverages, Snapshot, combine, gamma_of, width_of

STEPS = 400


class Clock(nn.Module):
    """A model whose one parameter is a unit vector: which step it is."""

    def __init__(self, steps: int = STEPS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(steps, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(0))

    def go_to(self, step: int) -> None:
        with torch.no_grad():
            self.weight.zero_()
            self.weight[step] = 1.0
        self.seen.fill_(step)


def trained(widths: tuple[float, ...], every: int = 50) -> tuple[PowerAverages, list[Snapshot]]:
    """The averages of a whole run; what they hold is their profile over the steps."""
    model = Clock()
    averages, kept = PowerAverages(model, widths), []
    for step in range(STEPS):
        model.go_to(step)
        averages.update(model)
        if (step + 1) % every == 0:
            kept += averages.snapshots()
    return averages, kept


@pytest.mark.parametrize("gamma", [0.5, 6.94, 16.97])
def test_width_and_exponent_undo_each_other(gamma: float) -> None:
    assert gamma_of(width_of(gamma)) == pytest.approx(gamma)


def test_the_published_exponents_belong_to_the_published_widths() -> None:
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.01)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.01)


def test_the_profile_is_a_power_of_the_step_and_has_the_width_asked_for() -> None:
    averages, _ = trained((0.05, 0.10))
    t = np.arange(1, STEPS + 1) / STEPS
    for width, shadow in zip(averages.widths, averages.shadows):
        profile = shadow["weight"].numpy()
        assert profile.sum() == pytest.approx(1.0)
        deviation = np.sqrt((profile * t**2).sum() - (profile * t).sum() ** 2)
        assert deviation == pytest.approx(width, rel=0.01)
        assert int(shadow["seen"]) == STEPS - 1


@pytest.mark.parametrize("width", [0.06, 0.08, 0.12, 0.15])
def test_a_width_chosen_afterwards_is_the_average_that_was_not_kept(width: float) -> None:
    _, kept = trained((0.05, 0.10))
    wanted, _ = trained((width,))
    made = combine(kept, width)["weight"]
    true = wanted.shadows[0]["weight"]
    assert (made - true).norm() / true.norm() < 0.05
    # nothing of the kind is to be had from the averages at the end alone
    last = combine(kept[-2:], width)["weight"]
    assert (made - true).norm() < (last - true).norm()


def test_an_earlier_step_can_be_asked_for() -> None:
    _, kept = trained((0.05, 0.10))
    made = combine(kept, 0.10, step=200)["weight"]
    assert made.sum() == pytest.approx(1.0, abs=1e-3) and bool((made[200:] == 0).all())


@pytest.mark.parametrize("width", [0.0, 0.3])
def test_impossible_widths_are_refused(width: float) -> None:
    with pytest.raises(ValueError, match=r"width between 0 and 0\.2887"):
        PowerAverages(Clock(), (width,))


def test_without_snapshots_there_is_nothing_to_combine() -> None:
    with pytest.raises(ValueError, match="need snapshots"):
        combine([], 0.1)


def test_a_run_keeps_its_averages_and_goes_on_with_them(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    widths = {"ema_widths": (0.05, 0.10), "checkpoint_every": 5}
    whole = fit(Toy(), loop(**widths), worker=worker(store), run_name="whole", seed=1)
    with pytest.raises(NonFiniteLossError):
        fit(Toy(poison=12), loop(**widths), worker=worker(store), run_name="cut", seed=1)
    resumed = fit(Toy(), loop(**widths), worker=worker(store), run_name="cut", seed=1)
    kept = read_snapshots(store, "cut")
    assert sorted(each.step for each in kept) == [5, 5, 10, 10, 15, 15, 20, 20]
    made = combine(kept, 0.08)
    for name, value in combine(read_snapshots(store, "whole"), 0.08).items():
        assert torch.equal(made[name], value), name
    assert whole.averages is not None and resumed.averages is not None
    for one, other in zip(whole.averages.shadows, resumed.averages.shadows):
        assert all(torch.equal(one[name], other[name]) for name in one)
    # between the two that were kept, and apart from either
    for k in range(2):
        assert (made["0.weight"] - whole.averages.shadows[k]["0.weight"]).abs().max() > 1e-6


def test_an_impossible_width_is_refused_in_the_settings() -> None:
    with pytest.raises(ValueError, match="needs a width"):
        loop(ema_widths=(0.4,))
