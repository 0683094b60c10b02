"""Coeval cubes: their fields, mesh, cosmology, units and statistics."""
