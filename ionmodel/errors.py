"""Errors of training and prediction that a user can fix."""

from ionstore.errors import UserError


class ConfigError(UserError, ValueError):
    """A configuration, or an argument like one, with a value that does not fit."""


class RunFolderError(UserError, ValueError):
    """A run folder that cannot be started, resumed or read."""


class TrainingDivergedError(UserError, ArithmeticError):
    """The loss is no longer a finite number."""


class UnlikeTrainingWarning(UserWarning):
    """A box is predicted that lies outside the training range."""


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """Training was asked to stop; the run folder holds a checkpoint to resume from."""
