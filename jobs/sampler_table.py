"""The tables of samplers: eta by steps, method by steps."""

from raydiance.cluster.runs import main
from raydiance.generation import sampler_table

if __name__ == "__main__":
    main("sampler_table", lambda experiment, run: sampler_table(experiment.sampler_table, run))
