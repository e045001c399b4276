"""How many replicas there should be."""

from types import SimpleNamespace

import pytest

from raydiance.serving.scaling import Pressure, wanted


@pytest.mark.parametrize(
    ("current", "samples", "occupancy", "expected"),
    [
        (1, 0, 0.0, 1),
        (1, 30, 1.0, 4),  # more than one replica's slots, and its calls are full
        (1, 30, 0.4, 1),  # they are about to be taken on: the calls have places left
        (3, 24, 1.0, 3),  # just what three take
        (3, 10, 0.9, 3),  # two would have the slots, but their calls would be more than full
        (3, 10, 0.3, 2),
        (3, 0, 0.0, 2),  # one at a time
    ],
)
def test_replicas_grow_where_samples_wait_and_end_where_calls_are_empty(
    current: int, samples: float, occupancy: float, expected: int
) -> None:
    assert wanted(current, samples, slots=8, occupancy=occupancy) == expected


def test_the_policy_reads_what_replicas_tell() -> None:
    told = {"samples": {"a": 12.0, "b": 10.0}, "occupancy": {"a": 1.0, "b": 0.95}}
    context = SimpleNamespace(aggregated_metrics=told, target_num_replicas=2)
    assert Pressure(slots=8)(context) == (3, {})
    context.aggregated_metrics = {}
    assert Pressure(slots=8)(context) == (2, {}), "nothing is known, so nothing changes"
