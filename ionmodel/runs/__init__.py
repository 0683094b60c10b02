"""Read and write the folder of a run, and tell which stores fit it."""
