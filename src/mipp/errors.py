"""All errors that mipp raises on purpose.

Each text says what was given, what was expected and what to do about it.

Examples:
    >>> import mipp
    >>> mipp.models.build("lenet")
    Traceback (most recent call last):
    mipp.errors.InputError: model 'lenet' was given; expected one of ... Did you mean 'lenet5'? ...
"""


class MippError(Exception):
    """Base class: `except mipp.MippError` catches all errors that mipp raises on purpose.

    Examples:
        >>> import mipp
        >>> try:
        ...     mipp.models.build("lenet")
        ... except mipp.MippError as error:
        ...     print(type(error).__name__)
        InputError
    """


class InputError(MippError, ValueError):
    """An argument, a model or a batch that cannot be used as given."""


class GraphError(MippError):
    """The model cannot be traced, or nothing in it can be pruned."""


class CalibrationError(MippError):
    """The activations cannot be measured: no batches, NaN or infinite values, changing shapes."""


class CalibrationWarning(UserWarning):
    """There are fewer calibration examples than the measurements need."""


class BudgetError(MippError, ValueError):
    """The budget cannot be parsed or reached; the text names the smallest one that can be."""


class SurgeryError(MippError):
    """Slicing or refitting would break the model or change what it computes."""


class FileError(MippError):
    """A weight, plan or data file that is missing, damaged or made for another model."""


class TrainingError(MippError):
    """Training cannot continue: a loss that is not finite, or a checkpoint that does not fit."""


def how_to_install(extra: str) -> str:
    """The command that installs an extra, as error texts give it.

    Args:
        extra: its name in ``pyproject.toml``.

    Examples:
        >>> how_to_install("onnx")
        "pip install 'torch-mipp[onnx]' (in a clone: pip install -e '.[onnx]')"
    """
    return f"pip install 'torch-mipp[{extra}]' (in a clone: pip install -e '.[{extra}]')"


class MovedError(MippError):
    """A public name that is elsewhere now; the text says where."""
