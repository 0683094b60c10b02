"""Plan which cells are drawn, in which order and batch, with how much memory.

| word | meaning |
|---|---|
| sample | one cell to cut around, or one tile, of one cube |
| region | the samples of one cube whose cells lie in one core |
| core | a box of cells, of whole chunks where it holds one; the option `core` is its side |
| block | what is decoded for a region: its samples' tiles and the halo around them |
| visit | samples drawn from a region at a stretch, before the next region's turn |
| lane | one of several equally long parts of an epoch; every batch draws from all of them |
| opening | the part of a visit that lies in one lane; its region is decoded for it |
| ring, slot | memory allocated once for a few batches, and the place of one of them |

A slot of regions is likewise the place of one block.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
