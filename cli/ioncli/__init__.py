"""The commands ``ionstore`` and ``ionmodel``."""
