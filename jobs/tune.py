"""The front of sampling plans, quality against network calls."""

from raydiance.cluster.runs import main
from raydiance.tuning.tune import tune

if __name__ == "__main__":
    main("tune", lambda experiment, run: tune(experiment.tune, run), ray=True)
