"""Lineage: from an artifact, or a file that names one, back through the manifests to the data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from raydiance.errors import ArtifactError
from raydiance.spec import to_plain
from raydiance.storage import ArtifactRef, Manifest, Store
from raydiance.tracking.stamps import Stamp, read_stamp

__all__ = ["Node", "Stamp", "missing", "read_stamp", "to_json", "to_text", "to_tree", "trace", "walk"]


@dataclass(frozen=True)
class Node:
    """One artifact and those it was made from; without a manifest, `missing` says why the chain ends here."""

    ref: ArtifactRef
    manifest: Manifest | None
    parents: tuple["Node", ...] = ()
    missing: str | None = None


def trace(store: Store, ref: ArtifactRef) -> Node:
    """The artifact with everything it was made from. A missing link is a node that says so, not an error."""
    return _trace(store, ref, {})


def missing(node: Node) -> list[str]:
    """What is missing, in words, each once; empty if the chain is whole."""
    return list(dict.fromkeys(found.missing for found in walk(node) if found.missing))


def to_tree(node: Node, stamp: Stamp | None = None, source: str | Path | None = None) -> Tree:
    """The lineage for a terminal; what was shown once is not unfolded again."""
    shown: set[ArtifactRef] = set()
    if stamp is None:
        return _branch(node, shown)
    facts = "  ".join(f"{name} {value}" for name, value in stamp.facts.items() if value is not None)
    tree = Tree(f"[bold]{escape(str(source or 'sample'))}[/]  {escape(facts)}")
    tree.add(_branch(node, shown))
    return tree


def to_text(node: Node, stamp: Stamp | None = None, source: str | Path | None = None) -> str:
    """The lineage as plain text."""
    console = Console(width=400, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(to_tree(node, stamp, source))
    return capture.get()


def to_json(node: Node, stamp: Stamp | None = None) -> dict[str, Any]:
    """The lineage as a value for JSON: every artifact once, by key, with the keys of its parents."""
    artifacts = {
        found.ref.key: {
            "kind": found.ref.kind,
            "sha256": found.ref.sha256,
            "parents": [parent.ref.key for parent in found.parents],
            **({"missing": found.missing} if found.manifest is None else _facts(found.manifest)),
        }
        for found in walk(node)
    }
    value: dict[str, Any] = {"artifact": node.ref.key, "artifacts": artifacts, "missing": missing(node)}
    return value | ({"stamp": dict(stamp.facts)} if stamp else {})


def walk(node: Node) -> Iterator[Node]:
    """The artifact and all that it was made from, each once."""
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        found = waiting.pop(0)
        if id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting.extend(found.parents)


def _trace(store: Store, ref: ArtifactRef, known: dict[ArtifactRef, Node]) -> Node:
    if ref not in known:
        try:
            manifest = store.get(ref).manifest
        except ArtifactError as error:
            known[ref] = Node(ref, None, missing=str(error))
        else:
            parents = tuple(_trace(store, parent, known) for parent in manifest.parents)
            known[ref] = Node(ref, manifest, parents)
    return known[ref]


def _branch(node: Node, shown: set[ArtifactRef]) -> Tree:
    if node.manifest is None:
        return Tree(f"[red]MISSING {escape(node.ref.key)}[/]  {escape(node.missing or '')}")
    again = node.ref in shown
    shown.add(node.ref)
    if again:
        return Tree(f"{escape(node.ref.key)}  (see above)")
    files = node.manifest.files
    facts = (
        node.ref.sha256[:12],
        node.manifest.created[:19],
        f"{len(files)} files, {sum(entry.size for entry in files) / 1e6:.2f} MB",
        *(f"{name} {seed}" for name, seed in node.manifest.seeds.items()),
        f"code {node.manifest.code_version}",
    )
    tree = Tree(f"[bold]{escape(node.ref.key)}[/]  {escape('  '.join(facts))}")
    for parent in node.parents:
        tree.add(_branch(parent, shown))
    return tree


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "created": manifest.created,
        "code_version": manifest.code_version,
        "spec": to_plain(manifest.spec),
        "seeds": dict(manifest.seeds),
        "meta": to_plain(manifest.meta),
        "files": len(manifest.files),
        "bytes": sum(entry.size for entry in manifest.files),
    }
