"""How good reconstructions and samples are."""

from raydiance.cluster.runs import main
from raydiance.generation.evaluate import evaluate

if __name__ == "__main__":
    main("evaluate", lambda experiment, run: evaluate(experiment.evaluate, run))
