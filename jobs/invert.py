"""Latents of objects that were kept back from training, found from their views."""

from raydiance.cluster.runs import main
from raydiance.training import invert

if __name__ == "__main__":
    main("invert", lambda experiment, run: invert(experiment.invert, run))
