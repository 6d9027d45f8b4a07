"""Whether a model can be called with a batch, and what to say where it cannot."""

import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from mipp.errors import CalibrationError, GraphError, MippError
from mipp.out_of_memory import is_short
from mipp.statistics.batches import Batch

_CHANNELS = (1, 3, 4)
_PAIR = (
    "A pair is read as (input, target), so that the model is called with the first alone. To give "
    "two inputs, write ((first, second), target), ((first, second), None) or a dict of keywords."
)
_LIST = (
    "Lists of images are not supported: resize or pad the images to one size and give one tensor "
    "(torch.stack), or plan for the part that takes such a tensor and put the smaller one back: "
    "model.backbone = mipp.plan(model.backbone, batches, ...).apply()."
)


def check_call(model: nn.Module, batch: Batch) -> None:
    """Raises `CalibrationError` if ``forward`` does not take so many, or such, arguments."""
    try:
        inspect.signature(model.forward).bind(*batch.args, **batch.kwargs)
    except TypeError as error:
        raise CalibrationError(
            f"{type(model).__name__} cannot be called with {_described(batch)}: {error}. "
            f"{advice(batch) or 'Give what forward takes, as a dict of keywords.'}"
        ) from error
    except ValueError:  # code without a signature
        return


def check_images(model: nn.Module, batch: Batch, fails: Callable[[Batch], object]) -> None:
    """Raises `CalibrationError` for a list of images, whose first dimension counts channels.

    Args:
        model: the model.
        batch: what it is to be called with.
        fails: whether the model fails on a batch. It does on one channel of images, and does not
            on one example of tensors that look like images.
    """
    if any(_is_images(value) for value in (*batch.args, *batch.kwargs.values())) and (
        len(batch) == 1 or fails(batch.part(0, 1))
    ):
        raise CalibrationError(
            f"{type(model).__name__} was to be called with {_described(batch)}, a list of images; "
            f"expected tensors whose first dimension counts the examples. {_LIST}"
        )


def _is_images(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(v, Tensor) and v.dim() == 3 and v.shape[0] in _CHANNELS for v in value)
    )


@contextmanager
def advised(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Blames the batch for a trace that fails inside, if it may well be the cause."""
    try:
        yield
    except GraphError as error:
        if not (remedy := advice(batch)):
            raise
        raise CalibrationError(
            f"{error} {type(model).__name__} was called with {_described(batch)}. {remedy}"
        ) from error


def _described(batch: Batch) -> str:
    names = [f"{name}=" for name in batch.kwargs]
    kinds = [_kind(value) for value in batch.args]
    return f"{', '.join([*kinds, *names]) or 'nothing'}"


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    several = f" of {len(value)}" if isinstance(value, list | tuple) else ""
    return f"a {type(value).__name__}{several}"


def advice(batch: Batch) -> str:
    """What may be wrong with the form of the batch, or nothing."""
    values = [*batch.args, *batch.kwargs.values()]
    if any(isinstance(v, list) and v and isinstance(v[0], Tensor) for v in values):
        return _LIST
    images = [v for v in batch.args if isinstance(v, Tensor) and v.dim() == 3]
    if len(images) > 1:
        return (
            f"The input of the pair holds {len(batch.args)} tensors, each of which is an argument "
            f"of its own. {_LIST}"
        )
    # targets are labels; what looks like an input may be meant as one
    target = batch.target
    if len(batch.args) == 1 and isinstance(target, Tensor) and target.is_floating_point():
        return _PAIR
    return ""


@contextmanager
def blaming(number: int | None) -> Iterator[None]:
    """Turns what the model raises on a batch into a `CalibrationError`.

    Args:
        number: of the batch; None for all of them, one after another or together.
    """
    try:
        yield
    except MippError:
        raise
    except Exception as error:
        if is_short(error) or _in_our_code(error):
            raise
        lines = str(error).strip().splitlines() or ["no message"]
        raise CalibrationError(
            f"The model fails on {'the batches' if number is None else f'batch {number}'}: "
            f"{type(error).__name__}: {lines[0]}. It was "
            "expected to run on every whole batch, since it runs on some examples of the first. "
            "Check that it does in eval mode, or leave that batch out."
        ) from error


_IN_BETWEEN = ("calls.py", "function_mode.py", "attention.py", "guards.py")
"""Modules of ours that a model's own calls pass through."""


def _in_our_code(error: BaseException) -> bool:
    """Whether it was raised by our code during the model's run, not by the model."""
    own = Path(__file__).parents[1]
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    called = [file == Path(inspect.getfile(nn.Module)) for file in files]
    if True not in called:
        return True
    inside = files[called.index(True) :]
    return any(file.is_relative_to(own) and file.name not in _IN_BETWEEN for file in inside)
