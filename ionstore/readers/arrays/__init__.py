"""Read numbers that lie in a file as one array."""
