"""Errors that a user can fix: the message says all that is needed, without a traceback."""


class UserError(Exception):
    """An error whose message says what was required, what came, and how to go on."""


class SourceDataError(UserError, ValueError):
    """Simulation output that cannot be ingested: missing, malformed, or out of range."""


class SimulationRequestError(UserError, ValueError):
    """A box, redshifts or a seed that `ionstore simulate` cannot simulate."""


class StoreFormatError(UserError, ValueError):
    """A path that is not a store, or not one that can be read here."""


class StoreDamageError(UserError, ValueError):
    """A store that is missing bytes, or whose bytes do not match their checksum."""


class NotInStoreError(UserError, LookupError):
    """A field or a redshift that a store does not hold."""


class StoreExistsError(UserError, FileExistsError):
    """A store, or a build of it, already stands where one would be written."""


class DiskSpaceError(UserError, OSError):
    """The disk cannot hold what would be written."""


class ObjectStoreError(UserError, OSError):
    """An object store that cannot be reached, or refuses what is asked of it."""


class ExportFormatError(UserError, ValueError):
    """A file whose suffix names no format, or a format whose package is missing."""


class ClusterError(UserError, RuntimeError):
    """A dask cluster that cannot be reached, or whose workers keep ending."""


class MemoryBudgetError(UserError, ValueError):
    """The memory budget cannot hold what was asked for."""


class FigureFormatError(UserError, ValueError):
    """An image file whose suffix names no format that can be drawn."""


def bytes_in_words(n_bytes: float) -> str:
    """Return a size in words, in decimal units.

    >>> bytes_in_words(3_420_000_000)
    '3.42 GB'
    >>> bytes_in_words(512)
    '512 B'
    """
    size = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        # 999.5 would be printed as 1e+03.
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
