"""How busy a node is, on the run's record."""

import socket
import time

from raydiance.tracking import MemoryTracker, system_metrics
from raydiance.tracking.system import gpu_metrics


def test_a_node_is_measured_again_and_again_and_at_the_end() -> None:
    tracker = MemoryTracker()
    tracker.run_id = "recorded"
    with system_metrics(tracker, time.time() - 100.0, period_s=0.02):
        time.sleep(0.1)
    place = f"system/{socket.gethostname()}"
    for name in ("cpu_utilization_percentage", "system_memory_usage_percentage", "disk_usage_percentage"):
        points = tracker.metrics[f"{place}/{name}"]
        assert len(points) > 2
        assert all(100 <= step <= 102 and 0.0 <= value <= 100.0 for step, value in points)
    assert tracker.metrics[f"{place}/system_memory_usage_megabytes"][-1][1] > 10
    count = len(points)
    time.sleep(0.05)
    assert len(points) == count, "it ends with the block"


def test_where_there_is_no_record_nothing_is_measured() -> None:
    tracker = MemoryTracker()
    with system_metrics(tracker, time.time(), period_s=0.001):
        time.sleep(0.01)
    assert tracker.metrics == {}


def test_a_gpu_tells_what_it_has() -> None:
    found = gpu_metrics("0, 97, 40000, 80000, 401.52\n1, 0, 4, 80000, [N/A]\n")
    assert found == {
        "gpu_0_utilization_percentage": 97.0,
        "gpu_0_memory_usage_megabytes": 40000 * 1.048576,
        "gpu_0_memory_usage_percentage": 50.0,
        "gpu_0_power_usage_watts": 401.52,
        "gpu_1_utilization_percentage": 0.0,
        "gpu_1_memory_usage_megabytes": 4 * 1.048576,
        "gpu_1_memory_usage_percentage": 0.005,
    }
    assert gpu_metrics("") == {}
