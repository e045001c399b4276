"""The statements of the sources, beside what is measured here."""

from raydiance.cluster.runs import main
from raydiance.training import claims

if __name__ == "__main__":
    main("claims", lambda experiment, run: claims(experiment.claims, run))
