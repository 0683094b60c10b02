from .ingest import ingest_cubes as ingest_cubes
from .prepared import PreparedIngest as PreparedIngest
from .prepared import prepare as prepare
from .selection import FileSelection as FileSelection
from .selection import IngestOptions as IngestOptions
