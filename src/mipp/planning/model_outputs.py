"""Which of a model's outputs matter, where that is not all of them."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from mipp.errors import InputError
from mipp.options import Outputs
from mipp.surgery.outputs import tensors_in
from mipp.tracing.guards import Unannounced, measuring

Model = TypeVar("Model", bound=nn.Module)


def read_outputs(outputs: Any) -> None:
    """Raise `InputError` unless it is a function, or None."""
    if outputs is not None and (not callable(outputs) or isinstance(outputs, nn.Module)):
        raise InputError(
            f"outputs={outputs!r}; expected a function that takes what the model returns and picks "
            "the tensors that matter, such as outputs=lambda output: output[0]."
        )


def answering(
    model: Model,
    outputs: Outputs | None,
    example: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None,
) -> Model:
    """The model as it is measured, which returns what ``outputs`` picks.

    It shares all parameters, buffers and modules with the one given, which is left as it is.

    Args:
        model: the model.
        outputs: picks the tensors that matter; None for all.
        example: arguments on which the function is tried; None to leave that out.

    Raises:
        InputError: the function fails on what the model returns for the ``example``, or picks no
            tensor of it.
    """
    if outputs is None:
        return model
    kind = type(model)

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return picked(outputs, kind.__call__(self, *args, **kwargs))

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__call__": call}
    made: Model = nn.Module.__new__(type(kind.__name__, (Unannounced, kind), names))
    vars(made).update(vars(model))
    if example is not None:
        args, kwargs = example
        with torch.no_grad(), measuring(made):
            made(*args, **kwargs)
    return made


def check_same_outputs(recorded: object, outputs: Outputs | None, kind: str) -> None:
    """Raise `InputError` unless a function is given exactly where the plan was made with one.

    Args:
        recorded: name of the function that the plan was made with; None for none.
        outputs: the function that is given now.
        kind: name of the plan's class.
    """
    if recorded is not None and outputs is None:
        raise InputError(
            f"the plan was made for the outputs that {recorded} picks, and is read without it. "
            f"Give that function: mipp.{kind}.from_json(text, model, batches, outputs=...)."
        )
    if recorded is None and outputs is not None:
        raise InputError(
            f"outputs={function_name(outputs)} was given for a plan that was made for all outputs. "
            "Leave it out, or make the plan again with it."
        )


def picked(outputs: Outputs, output: Any) -> Any:
    """The tensors that the function picks; `InputError` where it fails, or picks no tensor."""
    name = function_name(outputs)
    try:
        chosen = outputs(output)
    except Exception as error:
        raise InputError(
            f"outputs={name} failed with {type(error).__name__}: {error}. The model returns a "
            f"{type(output).__name__}; expected a function that takes it and returns the tensors "
            "of it that matter, such as outputs=lambda output: output[0]."
        ) from error
    if not any(True for _ in tensors_in(chosen)):
        raise InputError(
            f"outputs={name} picks a {type(chosen).__name__} without tensors; expected a tensor of "
            "what the model returns, or a tuple, list or dict of some."
        )
    return chosen


def function_name(function: Outputs) -> str:
    """``package.module:name``, as the command line takes it, where a function has these."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}:{name}"
