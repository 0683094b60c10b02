"""Plan which cells are drawn, in which order and batch, with how much memory."""
