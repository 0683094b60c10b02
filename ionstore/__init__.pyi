from .edit import edit_store as edit_store
from .export import export_field as export_field
from .info import take_inventory as take_inventory
from .ingest import ingest_cubes as ingest_cubes
from .loading import NeighborhoodLoader as NeighborhoodLoader
from .loading import TileLoader as TileLoader
from .simulate import write_simulation as write_simulation
from .store import CubeStore as CubeStore
from .verify import verify_store as verify_store
from .view import draw_slice as draw_slice

__version__: str
