from .cube_store import CubeStore as CubeStore
from .normalization import Normalization as Normalization
from .normalization import fit_normalization as fit_normalization
