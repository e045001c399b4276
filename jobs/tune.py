"""The front of sampling plans, quality against network calls."""

from raydiance.tuning.tune import tune

from raydiance.cluster.runs import main

if __name__ == "__main__":
    main("tune", lambda experiment, run: tune(experiment.tune, run), ray=True)
