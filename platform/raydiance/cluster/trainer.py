"""Ray Train's trainer, less what only a cluster needs."""

from typing import Any

from ray._private.worker import get_dashboard_url
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

__all__ = ["Trainer"]


class Trainer(TorchTrainer):
    """TorchTrainer, without the actor that frees the workers' room after a killed controller.

    That actor asks the State API, which comes with the dashboard; a Ray of our own has none, ends with the
    run, and would be asked in vain once a second.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        if get_dashboard_url():  # type: ignore[no-untyped-call]
            return callbacks
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]
