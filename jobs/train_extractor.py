"""A network to look at views with, trained to tell the objects of the views apart."""

from raydiance.cluster.runs import main
from raydiance.training import train_extractor

if __name__ == "__main__":
    main("train_extractor", lambda experiment, run: train_extractor(experiment.train_extractor, run))
