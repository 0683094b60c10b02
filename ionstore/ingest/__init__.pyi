from .ingest import ingest_cubes as ingest_cubes
from .selection import FileSelection as FileSelection
