"""Networks that predict the ionized fraction of a cell from its periodic neighborhood."""
