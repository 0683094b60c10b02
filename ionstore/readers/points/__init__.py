"""Count or add up lists of sources in the cells of a mesh."""
