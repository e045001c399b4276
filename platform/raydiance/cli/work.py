"""Running, submitting, composing and repeating work."""

import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raydiance.config.project import project_folder
from raydiance.errors import ClusterError, ConfigError, RaydianceError

if TYPE_CHECKING:
    from raydiance.config import Experiment
    from raydiance.config.pipeline import Composed

__all__ = ["environment", "run_job", "run_pipeline", "run_ui", "submit_job"]

DVC = (sys.executable, "-m", "dvc")


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
    """Run each stage whose settings or inputs changed, of each experiment that the overrides make. Raises
    what went wrong with one, or ClusterError with all of it, after the other experiments.

    dvc.yaml holds the stages of kind latent, which DVC runs by what is written here; the stages of other kinds run
    from here, by the same rule.
    """
    from raydiance.config.pipeline import fan_out

    found = fan_out(overrides)
    for each in found:
        made = each.experiment
        print(f"pipeline of {made.name}, size {made.size}, seed {made.seed}", file=sys.stderr)
    walked = [each for each in found if each.experiment.kind == "latent"]
    parts = [partial(_run_stages, each, dry_run=dry_run, force=force) for each in found if each not in walked]
    parts += [partial(_reproduce, walked, dry_run=dry_run, force=force)] if walked else []
    problems: list[RaydianceError] = []
    for part in parts:
        try:
            part()
        except RaydianceError as error:  # the others are of other experiments
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ClusterError("\n".join(map(str, problems)))


def _reproduce(found: "Sequence[Composed]", *, dry_run: bool, force: bool) -> None:
    from raydiance.config.pipeline import write_pipeline

    os.chdir(project_folder())
    write_pipeline(found)
    if not (dry_run or force):
        _tell_dvc([each.experiment for each in found])
    options = [*(["--dry"] if dry_run else []), *(["--force"] if force else [])]
    options += ["--keep-going"] if len(found) > 1 else []  # one that fails leaves the others alone
    done = subprocess.run([*DVC, "repro", *options], env=environment(), check=False)
    if done.returncode:
        raise ClusterError(
            f"the pipeline stopped (dvc repro: exit status {done.returncode}); what went wrong stands above. "
            "Run the same command again: it goes on where it stopped"
        )


def _tell_dvc(experiments: "Sequence[Experiment]") -> None:
    """Tell DVC of the stages that are done by their pointers, where its lock does not know them."""
    from raydiance.cluster.pointers import folder_of
    from raydiance.cluster.stages import states
    from raydiance.config.files import read_yaml
    from raydiance.config.stages import stages_of
    from raydiance.storage import Store

    path = Path("dvc.lock")
    locked = read_yaml(path)["stages"] if path.exists() else {}
    unknown: list[str] = []
    for each in experiments:
        names = {stage: f"{stage}@{each.name}" for stage in stages_of(each)}
        if folder_of(each.name).exists() and not locked.keys() >= set(names.values()):
            found = states(each, Store.open(each.store.url, each.store.quota))
            unknown += [
                names[at.stage] for at in found if at.state == "done" and names[at.stage] not in locked
            ]
    if unknown:
        subprocess.run([*DVC, "commit", "--force", "--quiet", *unknown], env=environment(), check=True)


def _run_stages(composed: "Composed", *, dry_run: bool, force: bool) -> None:
    from raydiance.cluster.stages import states
    from raydiance.storage import Store

    experiment, reuse = composed.experiment, [] if force else ["--reuse"]
    store = Store.open(experiment.store.url, experiment.store.quota)
    for number in range(len(states(experiment, store))):
        stage = states(experiment, store)[number]  # anew: it depends on what those before it have made
        if stage.state == "done" and not force:
            print(f"{stage.stage}: did not change, skipping")
            continue
        print(f"{stage.stage}: {stage.why or 'forced'}", flush=True)
        if dry_run:
            continue
        command = [sys.executable, "-m", "raydiance.cli", "run", stage.stage, *composed.overrides, *reuse]
        done = subprocess.run(command, env=environment(), check=False)
        if done.returncode:
            raise ClusterError(
                f"the pipeline stopped ({stage.stage}: exit status {done.returncode}); what went wrong stands "
                "above. Run the same command again: it goes on where it stopped"
            )


def run_ui(port: int) -> None:
    """Become MLflow over the record of runs, until ^C; only say where it is if a server keeps the record."""
    from raydiance.tracking.address import reach

    url = reach(None)
    if url.startswith("http"):
        print(f"the record of runs is at {url}")
        return
    page = f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning"
    print(f"MLflow at {page} (^C ends it)", file=sys.stderr)
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
