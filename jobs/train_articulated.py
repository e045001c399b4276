"""Canonical fields and blend weights of articulated objects."""

from raydiance.cluster.runs import main
from raydiance.training import train_articulated

if __name__ == "__main__":
    main("train_articulated", lambda experiment, run: train_articulated(experiment.train_articulated, run))
