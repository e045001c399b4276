"""Settings of a training: trials that are cut short unless they are good."""

from raydiance.cluster.runs import main
from raydiance.tuning.trainings import search

if __name__ == "__main__":
    main("search", lambda experiment, run: search(experiment.search, run, experiment))
