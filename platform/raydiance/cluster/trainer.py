"""Ray Train's trainer, less what only other trainings need."""

from typing import Any

from ray._private.worker import get_dashboard_url
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

__all__ = ["Trainer"]


class Trainer(TorchTrainer):
    """TorchTrainer without two actors, which cost a process each and seconds of every start.

    One hands out Ray Data's sets, of which we have none (and makes each worker import Ray Data). The other frees
    the workers' room after a killed controller: it asks the State API, which comes with the dashboard; a Ray of
    our own has none, ends with the run, and would be asked in vain once a second.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused: tuple[type, ...] = (DatasetsCallback,)
        if not get_dashboard_url():  # type: ignore[no-untyped-call]
            unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if not isinstance(callback, unused)]
