"""Build a store so that a kill leaves the old one or the new one."""
