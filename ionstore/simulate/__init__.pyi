from .cubes import ReionizationModel as ReionizationModel
from .cubes import SimulatedCube as SimulatedCube
from .cubes import simulate_cubes as simulate_cubes
from .files import WrittenCube as WrittenCube
from .files import write_simulation as write_simulation
