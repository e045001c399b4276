"""A denoiser of the same data as train_diffusion's, on the cosine schedule."""

from raydiance.cluster.runs import main
from raydiance.training import train_diffusion as train_cosine

if __name__ == "__main__":
    main("train_cosine", lambda experiment, run: train_cosine(experiment.train_cosine, run))
