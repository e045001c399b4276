"""Where something came from: a file, an artifact, a run, a model, or what an endpoint serves just now."""

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from raydiance.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from raydiance.tracking.stamps import Stamp

__all__ = ["print_trace"]

FORMATS = (".svg", ".png", ".pdf")


def print_trace(what: str, as_json: bool, figure: Path | None = None) -> None:
    """The lineage as a tree or as JSON, and as a figure. Raises ArtifactError if a link of it is missing."""
    if figure and figure.suffix not in FORMATS:
        raise ConfigError(
            f"--figure {figure}: {figure.suffix or 'no ending'} is none of {', '.join(FORMATS)}"
        )
    from raydiance.storage import Store
    from raydiance.tracking import lineage

    stamp = _stamp_of(what)
    store = Store.open(stamp.store if stamp and not Path(what).is_file() else None)
    node = lineage.trace(store, stamp.ref if stamp else store.get(what).ref)
    if as_json:
        print(json.dumps(lineage.to_json(node, stamp), indent=2))
    elif sys.stdout.isatty():
        from rich import print as rich_print

        rich_print(lineage.to_tree(node, stamp, what))
    else:
        print(lineage.to_text(node, stamp, what), end="")
    if figure:
        from raydiance.tracking.lineage_figure import draw_lineage

        draw_lineage(node, what).savefig(figure, dpi=150)
    if gaps := lineage.missing(node):
        raise ArtifactError(f"{what}: the chain is broken: {'; '.join(gaps)}")


def _stamp_of(what: str) -> "Stamp | None":
    """What names an artifact other than by its key, and what else it says; None for a key."""
    if Path(what).is_file():
        from raydiance.tracking.stamps import read_stamp

        return read_stamp(Path(what))
    if what.startswith(("http://", "https://")):
        return _of_endpoint(what)
    if re.fullmatch(r"[0-9a-f]{32}", what):
        return _of_run(what)
    if found := re.fullmatch(r"(?:models:/)?([\w.-]+)@([\w.-]+)", what):
        return _of_model(found[1], found[2])
    return None


def _of_run(run_id: str) -> "Stamp":
    from raydiance.storage import ArtifactRef
    from raydiance.tracking.history import open_history
    from raydiance.tracking.stamps import Stamp

    run = open_history().run(run_id)
    if "artifact" not in run.tags:
        raise ArtifactError(f"run {run_id} ({run.name}, {run.status}): it left no artifact")
    key = run.tags["artifact"]
    ref = ArtifactRef(kind=key.rpartition("/")[0], key=key, sha256=run.tags["artifact_sha256"])
    facts = {"run": run.name, "status": run.status, "seconds": round(run.duration_s, 1)}
    return Stamp(ref, run.tags.get("store"), facts)


def _of_model(name: str, alias: str) -> "Stamp":
    from raydiance.tracking.mlflow_registry import open_registry
    from raydiance.tracking.stamps import Stamp

    version = open_registry().resolve(name, alias)
    facts = {"model": name, "version": version.version, "gate": version.tags.get("gate")}
    return Stamp(version.ref, version.store, facts)


def _of_endpoint(url: str) -> "Stamp":
    """The bundle that the endpoint serves; the store is this machine's, since the endpoint does not tell."""
    from raydiance.serving import Client
    from raydiance.storage import ArtifactRef
    from raydiance.tracking.stamps import Stamp

    with Client(url, key=os.environ.get("RAYDIANCE_API_KEY")) as client:
        (model, *_) = client.models()
    key = model["bundle"]
    ref = ArtifactRef(kind=key.rpartition("/")[0], key=key, sha256=model["bundle_sha256"])
    return Stamp(ref, None, {"endpoint": url})
