"""The whole of an experiment as one spec: what each stage is given, and where it runs."""

from typing import Literal, TypeAlias

from raydiance.config.platform import ClusterSpec, ServeSpec, StoreSpec, TrackingSpec, TuneSpec
from raydiance.spec import spec

__all__ = ["Experiment", "LatentExperiment"]


@spec
class LatentExperiment:
    """Meshes -> views -> autodecoder -> normalised latents -> latent diffusion -> plans -> bundle.

    `source` is what `ingest` reads; it stands at the root because it is what one changes first.
    """

    kind: Literal["latent"] = "latent"
    name: str
    size: str
    seed: int = 0
    source: str = "procedural:furniture"
    tune: TuneSpec = TuneSpec()
    serve: ServeSpec = ServeSpec()
    cluster: ClusterSpec = ClusterSpec()
    tracking: TrackingSpec = TrackingSpec()
    store: StoreSpec = StoreSpec()


Experiment: TypeAlias = LatentExperiment
