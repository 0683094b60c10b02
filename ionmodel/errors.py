"""Errors of training that a user can mend."""

from ionstore.errors import UserError


class ConfigError(UserError, ValueError):
    """A configuration that names or holds something it cannot."""


class RunFolderError(UserError, ValueError):
    """A run folder that cannot be started, resumed or read."""


class TrainingDivergedError(UserError, ArithmeticError):
    """The loss is no longer a finite number."""


class UnlikeTrainingWarning(UserWarning):
    """A box is predicted that is unlike those of the training."""


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """Training was asked to stop; the run folder holds where it got to."""
