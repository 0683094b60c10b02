from .samples import tile_starts as tile_starts
from .samples import tiles_within as tiles_within
from .split import Split as Split
from .split import block_split as block_split
from .split import largest_radius as largest_radius
from .split import random_split as random_split
from .symmetry import transformed as transformed
