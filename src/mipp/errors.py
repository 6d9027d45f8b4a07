"""Every error that mipp raises on purpose.

Each text says what was given, what was expected and what to do about it.
"""


class MippError(Exception):
    """Base class: `except mipp.MippError` catches all that mipp raises on purpose."""


class InputError(MippError, ValueError):
    """An argument, a model or a batch that cannot be used as given."""


class GraphError(MippError):
    """The model cannot be traced, or nothing in it can be pruned."""


class CalibrationError(MippError):
    """The activations cannot be measured: no batches, NaN or infinite values, changing shapes."""


class CalibrationWarning(UserWarning):
    """There are fewer calibration examples than what is measured on them asks for."""


class BudgetError(MippError, ValueError):
    """The budget cannot be read, or cannot be reached; the text names the smallest reachable."""


class SurgeryError(MippError):
    """Slicing or refitting would give a model that is broken or computes something else."""


class FileError(MippError):
    """A weight, plan or data file that is missing, damaged or made for another model."""


class TrainingError(MippError):
    """Training cannot go on: a loss that is not finite, or a checkpoint that does not fit."""
