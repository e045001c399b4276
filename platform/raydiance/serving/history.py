"""The lineage of a bundle as a chain that a page can show: each artifact once, what was made last first."""

import logging
from collections.abc import Sequence

from raydiance.errors import TrackingError
from raydiance.serving.schema import Link
from raydiance.storage import ArtifactRef, Store
from raydiance.tracking.lineage import Node, trace

__all__ = ["chain", "with_runs"]

logger = logging.getLogger(__name__)


def chain(store: Store, ref: ArtifactRef) -> list[Link]:
    """The artifact and all it was made from, each before its parents."""
    order: list[Node] = []
    seen: set[ArtifactRef] = set()

    def visit(node: Node) -> None:
        if node.ref in seen:
            return
        seen.add(node.ref)
        for parent in node.parents:
            visit(parent)
        order.append(node)

    visit(trace(store, ref))
    return [_link(node) for node in reversed(order)]


def with_runs(links: Sequence[Link], tracking: str | None) -> list[Link]:
    """The links with the runs that made them, and their pages, by the record at this address (None: the one
    of the environment); as they are where the record does not answer.
    """
    from raydiance.tracking.history import open_history  # MLflow, which takes its time

    try:
        history = open_history(tracking)
        runs = {link.key: history.maker(link.key) for link in links}
    except TrackingError as error:
        logger.warning("lineage without runs: %s", error)
        return list(links)
    return [
        link
        if (run := runs[link.key]) is None
        else link.model_copy(update={"run": run.run_id, "run_page": history.page(run)})
        for link in links
    ]


def _link(node: Node) -> Link:
    link = Link(
        key=node.ref.key,
        kind=node.ref.kind.split("/")[0],
        sha256=node.ref.sha256,
        parents=[parent.ref.key for parent in node.parents],
        missing=node.missing,
    )
    if node.manifest is None:
        return link
    return link.model_copy(
        update={
            "created": node.manifest.created,
            "code_version": node.manifest.code_version,
            "seeds": dict(node.manifest.seeds),
            "files": len(node.manifest.files),
            "bytes": sum(entry.size for entry in node.manifest.files),
        }
    )
