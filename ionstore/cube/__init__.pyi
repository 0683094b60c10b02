from .cosmology import PLANCK18 as PLANCK18
from .cosmology import Cosmology as Cosmology
from .description import SimulationDescription as SimulationDescription
from .mesh import Mesh as Mesh
from .mesh import Region as Region
from .statistics import FieldStatistics as FieldStatistics
