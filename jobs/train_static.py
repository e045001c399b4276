"""The same fields as train_articulated's, without skinning: one volume for all poses."""

from raydiance.cluster.runs import main
from raydiance.training import train_articulated as train_static

if __name__ == "__main__":
    main("train_static", lambda experiment, run: train_static(experiment.train_static, run))
