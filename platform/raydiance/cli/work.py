"""Running, submitting, composing and repeating work."""

import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from raydiance.config.project import project_folder
from raydiance.errors import ClusterError, ConfigError

__all__ = ["environment", "run_job", "run_pipeline", "run_ui", "submit_job"]


def run_job(job: str, arguments: Sequence[str]) -> None:
    """Run jobs/JOB.py in this process; ends it with the job's exit status."""
    script = _script(job)
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


def submit_job(
    job: str, arguments: Sequence[str], address: str, *, wait: bool = True, on_interrupt: str = "ask"
) -> int:
    """Submit jobs/JOB.py to the cluster at an http:// address: the job's exit status."""
    from raydiance.cluster.following import OnInterrupt
    from raydiance.cluster.jobs import submit
    from raydiance.cluster.runs import parse

    _script(job)
    if not address.startswith(("http://", "https://")):
        raise ClusterError(f"{address}: jobs are submitted to the cluster's dashboard, http://host:8265")
    command = parse(job, arguments)
    if command.dry_run:
        raise ConfigError("--dry-run belongs to `raydiance run`")
    choice: OnInterrupt = "stop" if on_interrupt == "stop" else "leave" if on_interrupt == "leave" else "ask"
    return submit(command, address, wait=wait, on_interrupt=choice)


def run_pipeline(overrides: Sequence[str], *, dry_run: bool = False, force: bool = False) -> None:
    """Write params.yaml and let DVC run what it changes; ends the process where a stage fails."""
    from raydiance.config import compose, write_params
    from raydiance.config.stages import stages_of

    os.chdir(project_folder())
    experiment = compose(overrides)
    if experiment.kind != "latent":
        order = ", ".join(stages_of(experiment))
        raise ConfigError(
            f"experiment {experiment.name} (kind {experiment.kind}): dvc.yaml has the stages of kind latent; run "
            f"these one by one with `raydiance run`: {order}"
        )
    write_params(Path("params.yaml"), overrides)
    print(f"pipeline of {experiment.name}, size {experiment.size}, seed {experiment.seed}", file=sys.stderr)
    options = [*(["--dry"] if dry_run else []), *(["--force"] if force else [])]
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", *options], env=environment(), check=False)
    if done.returncode:
        raise ClusterError(
            f"the pipeline stopped (dvc repro: exit status {done.returncode}); what went wrong stands above. "
            "Run the same command again: it goes on where it stopped"
        )


def run_ui(port: int) -> None:
    """Become MLflow over the record of runs, until ^C; only say where it is if a server keeps the record."""
    from raydiance.tracking.address import reach

    url = reach(None)
    if url.startswith("http"):
        print(f"the record of runs is at {url}")
        return
    print(f"MLflow at http://127.0.0.1:{port} (^C ends it)", file=sys.stderr)
    options = ["--backend-store-uri", url, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "server", *options], environment())


def environment() -> dict[str, str]:
    """This process's environment, with the commands of its own Python first in PATH."""
    own = str(Path(sys.executable).parent)
    return os.environ | {"PATH": os.pathsep.join([own, os.environ.get("PATH", "")])}


def _script(job: str) -> Path:
    from raydiance.config.explain import nearest

    folder = project_folder() / "jobs"
    jobs = sorted(path.stem for path in folder.glob("*.py"))
    if job not in jobs:
        raise ConfigError(f"{job}: no such job{nearest(job, jobs)}")
    return folder / f"{job}.py"
