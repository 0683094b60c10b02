from .ingest import IngestOptions as IngestOptions
from .ingest import PreparedIngest as PreparedIngest
from .ingest import ingest_cubes as ingest_cubes
from .ingest import prepare as prepare
from .selection import FileSelection as FileSelection
