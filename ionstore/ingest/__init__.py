"""Copy the output of a simulation into a store: scan, survey, plan, write."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
