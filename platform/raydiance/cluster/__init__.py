"""Ray: sessions, parallel tasks, the Ray Train shell round training/, the main() of every job."""

from raydiance.cluster.pointers import Pointer, read_pointer
from raydiance.cluster.runs import main
from raydiance.cluster.session import session
from raydiance.cluster.tasks import TaskMap
from raydiance.cluster.train import Launcher

__all__ = ["Launcher", "Pointer", "TaskMap", "main", "read_pointer", "session"]
