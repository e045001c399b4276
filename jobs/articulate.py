"""Articulated objects in random poses, and views of them."""

from raydiance.cluster.runs import main
from raydiance.data.articulate import articulate

if __name__ == "__main__":
    main("articulate", lambda experiment, run: articulate(experiment.articulate, run))
