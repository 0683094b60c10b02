"""Configure a training: one frozen set of keys, presets, TOML and options."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
