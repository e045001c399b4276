"""The verbs of a day's work. Each imports what it needs when it is called: --help is there at once."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from raydiance.cli.jobs import app as jobs
from raydiance.cli.stack import register as register_stack
from raydiance.errors import ConfigError, RaydianceError

__all__ = ["main"]

app = typer.Typer(
    name="raydiance",
    help="Distributed experiments in latent 3D diffusion: from meshes to a served, traceable sample.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(jobs, name="jobs")
register_stack(app)
# What follows the job's name belongs to the job: overrides and the job's own options.
JOB_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="Settings, in Hydra's grammar.")
]
Job = Annotated[str, typer.Argument(metavar="JOB", help="ingest, render, train_autodecoder, ...")]


class OnInterrupt(StrEnum):
    """What ^C does to a submitted job."""

    ask = "ask"
    stop = "stop"
    leave = "leave"


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 failed, 2 not understood, 130 interrupted."""
    try:
        app()
    except RaydianceError as error:
        print(f"raydiance: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command(context_settings=JOB_SETTINGS)
def run(context: typer.Context, job: Job) -> None:
    """Run a job here: raydiance run JOB [PATH=VALUE]... [--dry-run] [--fresh] [--params FILE].

    With RAYDIANCE_ADDRESS=http://... it is submitted to that cluster instead, and waited for.
    """
    from raydiance.cli.work import run_job, submit_job

    address = os.environ.get("RAYDIANCE_ADDRESS", "")
    if address.startswith(("http://", "https://")) and "--dry-run" not in context.args:
        sys.exit(submit_job(job, context.args, address))
    run_job(job, context.args)


@app.command(context_settings=JOB_SETTINGS)
def submit(
    context: typer.Context,
    job: Job,
    address: Annotated[
        str, typer.Option(envvar="RAYDIANCE_ADDRESS", help="The cluster's dashboard, http://host:8265.")
    ] = "http://127.0.0.1:8265",
    wait: Annotated[bool, typer.Option(help="Follow the job to its end.")] = True,
    on_interrupt: Annotated[OnInterrupt, typer.Option(help="What ^C does to the job.")] = OnInterrupt.ask,
) -> None:
    """Run a job on a cluster, through Ray Jobs, and follow its log. The exit status is the job's."""
    from raydiance.cli.work import submit_job

    sys.exit(submit_job(job, context.args, address, wait=wait, on_interrupt=on_interrupt.value))


@app.command()
def compose(
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Write one experiment's settings there, and nothing for DVC.")
    ] = None,
) -> None:
    """Write what dvc.yaml reads: params.yaml names the experiments, params/NAME.yaml has the settings of each.

    Several values of a setting make several experiments: seed=0,1,2 or seed=range(0,3).
    """
    from raydiance.config import write_params
    from raydiance.config.pipeline import fan_out, params_of, write_pipeline

    if out:
        written = {out: write_params(out, overrides or [])}
    else:
        found = fan_out(overrides or [])
        write_pipeline(found)
        written = {params_of(each.experiment.name): each.experiment for each in found}
    for path, made in written.items():
        print(f"{path}: experiment {made.name}, size {made.size}, seed {made.seed}")


@app.command()
def pipeline(
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would run.")] = False,
    force: Annotated[bool, typer.Option(help="Run all stages, changed or not.")] = False,
) -> None:
    """Compose, then run each stage whose settings or inputs changed (kind latent: dvc repro).

    Several values of a setting make several experiments: seed=0,1,2 or seed=range(0,3).
    """
    from raydiance.cli.work import run_pipeline

    run_pipeline(overrides or [], dry_run=dry_run, force=force)


@app.command()
def stages(
    overrides: Overrides = None,
) -> None:
    """How the stages stand: done, stale or missing, since when, what they took, what they made.

    Of the experiments that params.yaml names, or that the settings given make.
    """
    from raydiance.cli.record import print_stages

    print_stages(overrides or [])


@app.command()
def cost(
    by: Annotated[str, typer.Option(help="experiment, stage, size or run.")] = "experiment",
    experiment: Annotated[str | None, typer.Option(help="Only this one.")] = None,
) -> None:
    """What runs have cost in processor and GPU seconds, from MLflow's record."""
    from raydiance.cli.record import print_cost

    print_cost(by, experiment)


@app.command()
def demo(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The folder for the files made.")] = Path("outputs/demo"),
    seed: Annotated[int, typer.Option(help="Which sample to ask for.")] = 11,
) -> None:
    """The whole pipeline, then the endpoint and one sample of it: outputs/demo/."""
    from raydiance.cli.demo import run_demo

    run_demo(overrides or [], out, seed)


@app.command()
def report(
    params: Annotated[Path, typer.Option(help="The experiment's settings: params/NAME.yaml.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write it, if not beside the stages' pointers.")
    ] = None,
) -> None:
    """One page of what the pipeline in this folder made and found, kept in its MLflow run, too."""
    from raydiance.cli.report import record

    print(f"report: {record(params, out)}", file=sys.stderr)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Where MLflow listens on this machine.")] = 5000) -> None:
    """Open the record of runs in MLflow's pages, on loopback, until ^C."""
    from raydiance.cli.work import run_ui

    run_ui(port)


@app.command()
def serve(
    overrides: Overrides = None,
    ray: Annotated[bool, typer.Option(help="Replicas on Ray Serve, or one in this process.")] = True,
) -> None:
    """Serve a bundle over HTTP until ^C; settings under serve., for example serve.port=9000."""
    from raydiance.cli.endpoint import serve_bundle

    serve_bundle(overrides or [], here=not ray)


@app.command()
def keys(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    file: Annotated[Path, typer.Option(help="The file of keys, which serve.keys names.")],
    scope: Annotated[list[str] | None, typer.Option(help="read or sample; both if not given.")] = None,
    expires: Annotated[str | None, typer.Option(help="Until when, for example 2027-01-31T00:00:00Z.")] = None,
) -> None:
    """Make an API key and print it; the file keeps its digest only."""
    from raydiance.cli.endpoint import add_api_key

    add_api_key(file, name, scope or [], expires)


@app.command()
def sample(
    out: Annotated[Path, typer.Option(help="The file; its ending says what is made: .glb, .png, .mp4, ...")],
    seed: Annotated[int, typer.Option(help="One seed is one sample.")] = 0,
    plan: Annotated[str | None, typer.Option(help="A sampling plan of the bundle.")] = None,
    text: Annotated[str | None, typer.Option(help="What to make, for a model of captions.")] = None,
    category: Annotated[str | None, typer.Option(help="What to make, for a model of categories.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How much more of it; 1: no more.")] = None,
    url: Annotated[
        str | None,
        typer.Option(envvar="RAYDIANCE_URL", help="A running endpoint; else the work is done here."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Make one sample."""
    from raydiance.cli.endpoint import make_sample

    asked = {"seed": seed, "plan": plan, "text": text, "category": category, "guidance": guidance}
    make_sample(out, asked, url, overrides or [])


@app.command()
def trace(
    file: Annotated[
        str,
        typer.Argument(
            help="A GLB or PNG that left here, a pointer, a key of the store, the id of a run, NAME@ALIAS of "
            "a model, or the address of an endpoint."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Draw it into this file, too: .svg, .png or .pdf.")
    ] = None,
) -> None:
    """Walk back from a file, run, model or endpoint to the data, code and settings it was made from."""
    from raydiance.cli.trace import print_trace

    print_trace(file, as_json, figure)


@app.command()
def reproduce(
    what: Annotated[
        str, typer.Argument(help="A file that left here (GLB, PNG, ...), or an MLflow run's id.")
    ],
    overrides: Overrides = None,
    tolerance: Annotated[
        float, typer.Option(help="By how much a run's figures may differ, relative.")
    ] = 1e-3,
) -> None:
    """Make the bytes of a file again (exit status: 0 the same, 1 not), or do a recorded run again.

    A run is repeated from its commit, settings and inputs: same, within tolerance, or different.
    """
    if Path(what).is_file():
        from raydiance.cli.endpoint import make_again

        sys.exit(0 if make_again(Path(what), overrides or []) else 1)
    from raydiance.cli.registry import reproduce_run

    reproduce_run(what, tolerance)


@app.command()
def promote(
    name: Annotated[str, typer.Argument(help="The model in the registry.")],
    version: Annotated[str, typer.Argument(help="Its number, or an alias.")] = "candidate",
    overrides: Overrides = None,
) -> None:
    """Make a version champion, if it passes the gate (publish.gate) and is no worse than the champion."""
    from raydiance.cli.registry import promote_model

    promote_model(name, version, overrides or [])


@app.command()
def rollback(name: Annotated[str, typer.Argument(help="The model in the registry.")]) -> None:
    """Make the previous champion champion again."""
    from raydiance.cli.registry import roll_back_model

    roll_back_model(name)


@app.command()
def gc(
    older_than_h: Annotated[float, typer.Option(help="Hours; more than any writer needs.")] = 24.0,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; else it is only shown.")] = False,
) -> None:
    """What killed writers left behind in the store: never an artifact."""
    from raydiance.cli.record import collect_garbage

    collect_garbage(older_than_h, delete)


@app.command()
def doctor() -> None:
    """Look whether everything works here: versions, cores, GPU, Ray, MLflow, S3, DVC."""
    from raydiance.cli.doctor import examine

    sys.exit(examine())
