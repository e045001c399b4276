"""Operations are counted right, and counting changes nothing."""

import time

import pytest
import torch
from tests.training.toys import Toy, loop, worker
from torch import nn

from raydiance.storage import Store
from raydiance.training import Batch, fit
from raydiance.training.precision import choose_precision
from raydiance.training.throughput import PEAKS, Stopwatch, Throughput, peak_flops

CPU = torch.device("cpu")
FLOAT = choose_precision("float32", CPU)


def test_two_layers_take_the_operations_that_a_hand_counts():
    throughput = Throughput(4, 1, CPU, FLOAT)
    throughput.count(Toy(), Batch(0, 0, range(2), 4), 2)
    layer = 2 * 4 * 16
    assert throughput.flops == 2 * layer + 3 * layer  # forward; weights of both, inputs of the second
    assert throughput.read() == {}
    for _ in range(3):
        with throughput.step():
            pass
    rates = throughput.read()
    assert rates["speed/gflops_per_s"] == pytest.approx(rates["speed/samples_per_s"] / 4 * 5 * layer / 1e9)
    assert "speed/mfu" not in rates and peak_flops(CPU, torch.float32) is None
    throughput.peak, throughput.flops = 1e9, 1000
    with throughput.step():
        pass
    rates = throughput.read()
    assert rates["speed/mfu"] == pytest.approx(rates["speed/gflops_per_s"])
    assert all(peaks[torch.bfloat16] > peaks[torch.float32] for peaks in PEAKS.values())


def test_what_a_step_waits_for_its_data_is_a_share_of_it(monkeypatch):
    throughput = Throughput(4, 1, CPU, FLOAT, loading := Stopwatch())
    throughput.flops = 1
    monkeypatch.setattr(time, "perf_counter", iter([0.0, 5.0, 10.0, 11.0, 13.0, 14.0]).__next__)
    with loading.running():  # before the first step: not of one
        pass
    with throughput.step(), loading.running():
        pass
    assert throughput.read()["speed/data_wait"] == 0.5  # 2 of 4 seconds


class Remembering(Toy):
    """One with running statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(self.model, nn.BatchNorm1d(1), nn.Dropout(0.5))


def test_counting_leaves_no_trace():
    objective = Remembering()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    state = torch.get_rng_state()
    Throughput(4, 1, CPU, FLOAT).count(objective, Batch(0, 0, range(4), 4))
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_loop_logs_its_rates_beside_the_losses(tmp_path):
    w = worker(Store.open(tmp_path))
    fit(Toy(), loop(steps=6, log_every=3), worker=w, run_name="toy", seed=0)
    assert [step for step, _ in w.tracker.metrics["speed/samples_per_s"]] == [3, 6]
    assert all(value > 0 for _, value in w.tracker.metrics["speed/gflops_per_s"])


def test_half_precision_is_for_networks_on_devices_that_have_it():
    assert choose_precision("auto", CPU).dtype is torch.float32
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    with choose_precision("bfloat16", CPU).applied():
        assert layer(x).dtype is torch.bfloat16
    with FLOAT.applied():
        assert layer(x).dtype is torch.float32


def test_a_training_in_half_precision_follows_the_one_in_full(tmp_path):
    curves = []
    for precision in ("float32", "bfloat16"):
        w = worker(Store.open(tmp_path))
        fit(Toy(), loop(steps=40, precision=precision), worker=w, run_name=precision, seed=0)
        curves.append([value for _, value in w.tracker.metrics["train/loss"]])
    assert curves[0] != curves[1]
    assert curves[1] == pytest.approx(curves[0], rel=0.1, abs=0.01)
