"""The local stack: `raydiance up | down | status`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

Folder = Annotated[Path, typer.Option(help="Where its keys, logs and data lie.")]
HERE = Path("outputs/stack")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (up, down, status):
        app.command()(verb)


def up(
    folder: Folder = HERE,
    s3: Annotated[bool, typer.Option("--s3", help="Keep artifacts on an S3 server, too.")] = False,
    postgres: Annotated[
        bool, typer.Option("--postgres", help="Keep MLflow's record in PostgreSQL, not SQLite.")
    ] = False,
    cpus: Annotated[int | None, typer.Option(help="Cores for Ray, if not all.")] = None,
    host: Annotated[str, typer.Option(help="Where to listen; beyond loopback only with a password.")] = (
        "127.0.0.1"
    ),
) -> None:
    """Start Ray, MLflow and what they need on this machine, and say which variables lead there."""
    from raydiance.cluster import stack

    environment = stack.up(
        folder,
        host=host,
        postgres=postgres,
        s3=s3,
        cpus=cpus,
        tell=lambda text: print(text, file=sys.stderr),
    )
    print(f"# or: . {folder / 'env'}", file=sys.stderr)
    for name, value in environment.items():
        print(f"export {name}={value}")


def down(folder: Folder = HERE) -> None:
    """End what `raydiance up` started; data and logs stay."""
    from raydiance.cluster import stack

    stack.down(folder, tell=lambda text: print(text, file=sys.stderr))


def status(folder: Folder = HERE) -> None:
    """What runs, where, since when. The exit status is 1 if something does not."""
    from raydiance.cli.tables import age, print_table
    from raydiance.cluster import stack

    lines = stack.lines(folder)
    rows = []
    for line in lines:
        entry = line.entry
        facts = (entry.url, age(entry.since), str(entry.pid), entry.log) if entry else ("", "", "", "")
        rows.append((line.name, line.state, *facts))
    print_table(("server", "state", "address", "started", "process", "log"), rows)
    sys.exit(0 if all(line.state == "running" for line in lines) else 1)
