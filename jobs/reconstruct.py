"""Fields that look like one posed image; or how well that goes."""

from raydiance.cluster.runs import main
from raydiance.generation.reconstruction import reconstruct

if __name__ == "__main__":
    main("reconstruct", lambda experiment, run: reconstruct(experiment.reconstruct, run))
