"""Data engine for reionization emulators: simulation cubes in, neighborhoods of cells out."""
