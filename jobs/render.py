"""Views of every mesh."""

from raydiance.cluster.runs import main
from raydiance.data.render import render

if __name__ == "__main__":
    main("render", lambda experiment, run: render(experiment.render, run))
