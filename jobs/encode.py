"""Normalised latents of all objects."""

from raydiance.cluster.runs import main
from raydiance.data.encode import encode

if __name__ == "__main__":
    main("encode", lambda experiment, run: encode(experiment.encode, run))
