"""Who made what from what: the tracker, progress, and what a job is given and gives back.

MLflow itself is imported in raydiance.tracking.mlflow_client only.
"""

from raydiance.tracking.ending import Ending, Interrupted, by_signal
from raydiance.tracking.progress import (
    LineProgress,
    Progress,
    QuietProgress,
    RichProgress,
    Task,
    open_progress,
)
from raydiance.tracking.registry import MemoryRegistry, ModelVersion, Registry
from raydiance.tracking.run import (
    Beside,
    InProcess,
    Launch,
    Map,
    Outcome,
    ProcessMap,
    Report,
    Run,
    Validation,
    Worker,
    local_run,
    serial_map,
)
from raydiance.tracking.system import system_metrics
from raydiance.tracking.tracker import MemoryTracker, NullTracker, Tracker, flatten

__all__ = [
    "Beside",
    "Ending",
    "InProcess",
    "Interrupted",
    "Launch",
    "LineProgress",
    "Map",
    "MemoryRegistry",
    "MemoryTracker",
    "ModelVersion",
    "NullTracker",
    "Outcome",
    "ProcessMap",
    "Progress",
    "QuietProgress",
    "Registry",
    "Report",
    "RichProgress",
    "Run",
    "Task",
    "Tracker",
    "Validation",
    "Worker",
    "by_signal",
    "flatten",
    "local_run",
    "open_progress",
    "serial_map",
    "system_metrics",
]
