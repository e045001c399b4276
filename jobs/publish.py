"""A bundle that can be served, registered under an alias if it passes the gate."""

from raydiance.cluster.runs import main
from raydiance.generation.publish import publish

if __name__ == "__main__":
    main("publish", lambda experiment, run: publish(experiment.publish, run))
