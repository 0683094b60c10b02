"""Predict xHII of whole boxes, from arrays or stores, within a memory."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
