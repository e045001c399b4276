"""The jobs of a cluster: `raydiance jobs list | show | logs | stop | attach`."""

import sys
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="The jobs that were submitted to a cluster.", no_args_is_help=True)
Address = Annotated[
    str, typer.Option(envvar="RAYDIANCE_ADDRESS", help="The cluster's dashboard, http://host:8265.")
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id, or the beginning of it.")]
HERE = "http://127.0.0.1:8265"


@app.command("list")
def list_jobs(address: Address = HERE) -> None:
    """All jobs the cluster remembers, the newest first."""
    from raydiance.cli.tables import age, print_table, seconds
    from raydiance.cluster.following import jobs_client
    from raydiance.cluster.known_jobs import known_jobs

    rows = [
        (
            job.id,
            job.status.lower(),
            age(job.started),
            seconds(job.seconds),
            job.metadata.get("experiment", ""),
        )
        for job in known_jobs(jobs_client(address))
    ]
    print_table(("job", "status", "started", "took", "experiment"), rows)


@app.command()
def show(job: JobId, address: Address = HERE) -> None:
    """What is known of a job: status, times, code, data, parent run."""
    from raydiance.cli.tables import age, print_table, seconds
    from raydiance.cluster.following import jobs_client
    from raydiance.cluster.known_jobs import find_job, known_jobs

    found = find_job(known_jobs(jobs_client(address)), job)
    rows = [
        ("job", found.id),
        ("status", found.status.lower()),
        ("started", age(found.started)),
        ("took", seconds(found.seconds)),
        ("exit status", "" if found.exit_code is None else str(found.exit_code)),
        ("message", found.message),
        *sorted(found.metadata.items()),
    ]
    print_table(("", ""), [row for row in rows if row[1]])


@app.command()
def logs(job: JobId, address: Address = HERE) -> None:
    """The log of a job so far."""
    from raydiance.cluster.following import jobs_client, show_log
    from raydiance.cluster.known_jobs import find_job, known_jobs

    client = jobs_client(address)
    show_log(client, find_job(known_jobs(client), job).id, 0, sys.stdout)


@app.command()
def stop(job: JobId, address: Address = HERE) -> None:
    """Ask a job to stop, give it time for a last checkpoint, and wait until it has ended."""
    from raydiance.cluster.following import jobs_client
    from raydiance.cluster.known_jobs import find_job, known_jobs, stop_job

    client = jobs_client(address)
    found = find_job(known_jobs(client), job)
    print(f"{found.id}: {stop_job(client, found).lower()}")


@app.command()
def attach(job: JobId, address: Address = HERE) -> None:
    """Follow a job to its end, and fetch what it leaves. The exit status is the job's."""
    from raydiance.cluster import known_jobs
    from raydiance.cluster.following import jobs_client

    client = jobs_client(address)
    found = known_jobs.find_job(known_jobs.known_jobs(client), job)
    sys.exit(known_jobs.attach(client, found))
