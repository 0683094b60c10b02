"""Tell which field and redshift a file of a simulation holds, one format a module."""
