"""A code for each object, and a decoder from codes to radiance fields."""

from raydiance.cluster.runs import main
from raydiance.training import train_autodecoder

if __name__ == "__main__":
    main("train_autodecoder", lambda experiment, run: train_autodecoder(experiment.train_autodecoder, run))
