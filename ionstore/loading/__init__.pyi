from .batch_loader import LoaderStats as LoaderStats
from .gather import gather_neighborhoods as gather_neighborhoods
from .loaders import Batch as Batch
from .loaders import LoaderOptions as LoaderOptions
from .loaders import NeighborhoodLoader as NeighborhoodLoader
from .loaders import TileBatch as TileBatch
from .loaders import TileLoader as TileLoader
