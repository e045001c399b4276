"""Part of a field, a mesh or a sample made anew, in variants; or how well that goes."""

from raydiance.cluster.runs import main
from raydiance.training.fields import complete

if __name__ == "__main__":
    main("complete", lambda experiment, run: complete(experiment.complete, run))
