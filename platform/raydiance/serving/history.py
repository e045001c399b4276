"""The lineage of a bundle as a chain that a page can show: each artifact once, what was made last first."""

from raydiance.serving.schema import Link
from raydiance.storage import ArtifactRef, Store
from raydiance.tracking.lineage import Node, trace

__all__ = ["chain"]


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
    run = node.manifest.meta.get("run_id")
    return link.model_copy(
        update={
            "created": node.manifest.created,
            "code_version": node.manifest.code_version,
            "seeds": dict(node.manifest.seeds),
            "files": len(node.manifest.files),
            "bytes": sum(entry.size for entry in node.manifest.files),
            "run": None if run is None else str(run),
        }
    )
