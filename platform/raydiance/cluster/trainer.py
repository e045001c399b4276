"""Ray Train's trainer, less what only other trainings need, and with an ear for signals."""

from typing import Any

from ray._private.worker import get_dashboard_url
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.util.placement_group import PlacementGroup, remove_placement_group

from raydiance.cluster.ending import hear

__all__ = ["Trainer"]


class Trainer(TorchTrainer):
    """TorchTrainer without three actors, which cost a process each and seconds of every start.

    One hands out Ray Data's sets, of which we have none (and makes each worker import Ray Data). One frees
    the workers' room after a killed controller: it asks the State API, which comes with the dashboard; a Ray of
    our own has none, ends with the run, and would be asked in vain once a second. One asks for nodes, where the
    cluster does not grow.
    """

    def __init__(self, *given: Any, grows: bool = False, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self._grows = grows

    def _create_default_callbacks(self) -> list[Any]:
        unused: tuple[type, ...] = (DatasetsCallback,)
        if not get_dashboard_url():  # type: ignore[no-untyped-call]
            unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [*(each for each in callbacks if not isinstance(each, unused)), _Hearing(), _Room()]

    def _register_sigint_handler(self, controller: Any) -> None:
        """Who launches hears ^C itself; Ray's handler would end the program with status 0."""

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if not self._grows:
            parts["scaling_policy"] = _Settled(self.scaling_config)  # type: ignore[arg-type]
        return super()._initialize_and_run_controller(**parts)  # type: ignore[misc]


class _Hearing(WorkerGroupCallback):
    """Each worker's process hears when it is told to end."""

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        worker_group.execute(hear)


class _Room(ControllerCallback, WorkerGroupCallback):
    """Frees the room of a group that was lost as its training began.

    Ray Train forgets a group of which a worker dies between its start and that of the training, and the cluster
    keeps its room for as long as the driver lives: whoever starts the group again may wait for that room for ever.
    """

    def __init__(self) -> None:
        self._held: PlacementGroup | None = None

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        self._held = worker_group.get_worker_group_state().placement_group_handle.placement_group

    def after_worker_group_shutdown(self, worker_group_context: Any) -> None:
        self._held = None

    async def before_controller_shutdown(self) -> None:
        if self._held is not None:
            remove_placement_group(self._held)


class _Settled(FixedScalingPolicy):
    """As many workers as were asked for, on the nodes there are."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """No nodes are asked for."""

    def _maybe_send_resource_request(self) -> None:
        """Neither later."""
