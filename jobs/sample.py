"""Fields out of noise, with their meshes."""

from raydiance.cluster.runs import main
from raydiance.generation.radiance import sample

if __name__ == "__main__":
    main("sample", lambda experiment, run: sample(experiment.sample, run))
