"""The demo: the pipeline, the endpoint, one sample, and a page that shows all of it."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raydiance.cli.endpoint import resolve_in, served
from raydiance.cli.report import UI, Results
from raydiance.cli.work import run_pipeline
from raydiance.config import compose
from raydiance.serving import Client, running

__all__ = ["run_demo"]


def run_demo(overrides: Sequence[str], out: Path, seed: int) -> None:
    """Everything from nothing; says at the end where it all is and how to go on."""
    started = time.monotonic()
    experiment = served(compose(overrides))
    run_pipeline(overrides)
    results = Results.of(experiment)
    out.mkdir(parents=True, exist_ok=True)
    made, curl = _ask_the_endpoint(results, out, seed)
    report = out / "report.html"
    results.write(report, sample=made[0], views=made[1], turntable=made[2], curl=curl)
    print(f"\nDone in {(time.monotonic() - started) / 60:.1f} min. Made:")
    for path in (*made, report):
        print(f"  {path}")
    print(f"Browse the runs:   {UI}")
    print("Serve it again:    raydiance serve")
    print(f"Then:              {curl}")


def _ask_the_endpoint(results: Results, out: Path, seed: int) -> tuple[list[Path], str]:
    """Start the endpoint on this machine, ask for one sample in three forms: the files, and the curl line."""
    print("serving the bundle on loopback", file=sys.stderr)
    spec = replace(results.experiment.serve, bundle=results.pointer("publish").key)
    files = {"glb": out / "sample.glb", "png": out / "views.png", "webp": out / "turntable.webp"}
    with (
        running(spec, results.store, resolve=resolve_in(results.experiment)) as endpoint,
        Client(endpoint.url) as client,
    ):
        for form, path in files.items():
            path.write_bytes(client.sample(seed, format=form).content)
            print(f"{endpoint.url} sent {path.name}", file=sys.stderr)
        return list(files.values()), endpoint.curl
