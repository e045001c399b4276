"""A training as a job: sent to the workers of a run, stepped on all of them, kept by one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from raydiance.spec import to_plain
from raydiance.storage import Artifact, ArtifactRef, Draft
from raydiance.tracking import Run, Worker
from raydiance.training.loop import LoopSpec, Objective, fit
from raydiance.training.validation import Validate, validating

__all__ = ["Payload", "fit_and_keep", "launch"]

S = TypeVar("S")


@dataclass(frozen=True)
class Payload(Generic[S]):
    """What a worker needs to train; it can be pickled.

    parents: the artifacts that the new one is made from, by a name of the training's own; beside: what else is
    read, to look at what is learned.
    """

    spec: S
    parents: Mapping[str, ArtifactRef]
    beside: Mapping[str, ArtifactRef]
    run_name: str
    seed: int


def launch(
    train: Callable[[Payload[S], Worker], ArtifactRef | None],
    spec: S,
    run: Run,
    parents: Mapping[str, Artifact],
    *,
    beside: Mapping[str, Artifact] | None = None,
    context: str = "training",
) -> Artifact:
    """What `train`, a function of a module, makes on the run's workers; context: what parents are input of."""
    run.tracker.log_params(to_plain(spec))
    for artifact in parents.values():
        run.tracker.log_input(artifact, context)
    refs, others = ({name: each.ref for name, each in some.items()} for some in (parents, beside or {}))
    ref = run.launch(train, Payload(spec, refs, others, run.name, run.seed))
    assert ref is not None, "rank 0 writes the artifact"
    return run.store.get(ref)


def fit_and_keep(
    kind: str,
    objective: Objective,
    loop: LoopSpec,
    payload: Payload[S],
    worker: Worker,
    write: Callable[[Draft], None],
    validate: Validate[Payload[S]] | None = None,
) -> ArtifactRef | None:
    """Train, and on rank 0 keep what `write` puts into an artifact; by then the model has its averaged weights.

    validate: a function of a module, tells what a checkpoint's weights are worth while training goes on.
    """
    with validating(validate, payload, loop, worker, payload.run_name) as seen:
        state = fit(objective, loop, worker=worker, run_name=payload.run_name, seed=payload.seed, seen=seen)
        if worker.rank > 0:
            return None
        objective.model.load_state_dict(state.averaged())
        with worker.store.create(
            kind,
            payload.run_name,
            spec=payload.spec,
            seeds={"seed": payload.seed},
            parents=list(payload.parents.values()),
            meta={"step": state.step, "cpu_s": state.cpu_s},
        ) as draft:
            write(draft)
    return draft.artifact.ref
