"""Clean meshes out of a folder, an address or the generator."""

from raydiance.cluster.runs import main
from raydiance.data.ingest import ingest

if __name__ == "__main__":
    main("ingest", lambda experiment, run: ingest(experiment.ingest, run))
