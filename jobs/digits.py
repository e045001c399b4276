"""Real handwritten digits, in the place of latents."""

from raydiance.cluster.runs import main
from raydiance.data.digits import digits

if __name__ == "__main__":
    main("digits", lambda experiment, run: digits(experiment.digits, run))
