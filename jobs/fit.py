"""A voxel field for each object of rendered views, or field, mesh and film of a posed capture."""

from raydiance.cluster.runs import main
from raydiance.training.fields import fit

if __name__ == "__main__":
    main("fit", lambda experiment, run: fit(experiment.fit, run))
