"""A denoiser of the latents."""

from raydiance.cluster.runs import main
from raydiance.training import train_diffusion

if __name__ == "__main__":
    main("train_diffusion", lambda experiment, run: train_diffusion(experiment.train_diffusion, run))
