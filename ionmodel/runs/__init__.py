"""Read and write the folder of a run, and check that stores fit it."""
