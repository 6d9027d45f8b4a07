"""ONNX files whose numbers were checked, or no file."""

import logging
import os
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mipp import graph, statistics, surgery
from mipp.checks import checked
from mipp.errors import FileError, InputError, SurgeryError
from mipp.export.flat import (
    Flat,
    batched,
    long,
    named_outputs,
    shortened,
    some_examples,
    tensors_of,
)
from mipp.export.session import PACKAGES, OnnxSession, needed
from mipp.tracing.calls import measuring

TRACED, SIZES = 2, (1, 3)
"""Examples that the model is traced with (with one, the exporter would take the size as fixed), and
batch sizes at which the numbers are compared: neither is the traced one."""

LARGEST = 2 * 10**9
"""Bytes of weights; ONNX files are protobuf messages, which end at 2 GiB."""


@dataclass(frozen=True)
class OnnxFile:
    """What was written.

    ``inputs``, ``outputs``: names in the file, in order. ``batch_sizes``: at which onnxruntime and
    eager were compared. ``difference``: the largest one, as a share of the largest entry of that
    output. ``size``: bytes.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    difference: float
    size: int


@checked
def export_onnx(
    model: nn.Module,
    batch: Any,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    dynamic_length: bool = False,
    tolerance: float | None = None,
) -> OnnxFile:
    """Writes the model as an ONNX file, in eval mode, once onnxruntime gives the same numbers.

    torch's own exporter (``torch.onnx.export(dynamo=True)``) does the work. The file appears whole
    or not at all, and a file that was there stays where anything fails. The model is left as it
    was.

    Parameters:
        batch: a tensor, an ``(input, target)`` pair, a dict of keywords or
            ``((first, second), target)``, as for `mipp.plan`. Arguments that are no tensors are
            frozen into the file. The examples are what the numbers are compared on.
        dynamic_batch: the first dimension of all inputs that have the batch's size is left open,
            and the numbers are compared at batch sizes 1 and 3. False: only the size of ``batch``.
        dynamic_length: the second dimension of all inputs that have the first one's length, such as
            the tokens of a text and their mask, is left open too, and the numbers are compared at
            that length and at about half of it.
        tolerance: largest difference allowed, as a share of the largest entry of an output; by
            default the square root of the machine precision (3e-4 for float32).

    Raises:
        InputError: the extra ``onnx`` is not installed, the name does not end in ``.onnx``, or the
            batch or model cannot be used.
        SurgeryError: the model cannot be exported, or onnxruntime gives other numbers.
        FileError: the file cannot be written.
    """
    for name in PACKAGES:
        needed(name)
    target = Path(path)
    if target.suffix.lower() != ".onnx":
        raise InputError(
            f"{target}: what is written is an ONNX file, and expected is a name that ends in "
            ".onnx. Give such a name."
        )
    if target.is_dir() or not target.parent.is_dir():
        raise FileError(
            f"{target} cannot be written: expected the name of a file in a folder that exists."
        )
    inner = graph.unwrap(model)
    _check_size(inner)
    device = next((p.device for p in inner.parameters()), torch.device("cpu"))
    given = statistics.read_batch(batch).to(device)
    arguments = (given.args, given.kwargs)
    flat = Flat(inner, arguments)
    tensors = tensors_of(arguments)
    sizes = SIZES if dynamic_batch else (len(given),)
    with measuring(inner), torch.no_grad():
        examples = [some_examples(tensors, size) for size in sizes]
        if dynamic_length:
            examples += [shortened(tensors) for tensors in examples]
        traced = some_examples(tensors, TRACED) if dynamic_batch else tensors
        outputs = _output_names(inner, arguments)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        try:
            _write(flat, traced, outputs, partial, dynamic_batch, dynamic_length)
            difference = _compared(flat, OnnxSession(partial), examples, tolerance)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            size = partial.stat().st_size
            partial.replace(target)
        except OSError as error:
            raise FileError(
                f"{target} cannot be written: {error}. Check room and permissions."
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    return OnnxFile(target, tuple(flat.names), tuple(outputs), sizes, difference, size)


def _check_size(model: nn.Module) -> None:
    size = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()))
    if size > LARGEST:
        raise InputError(
            f"the weights take {size:,} bytes, and an ONNX file holds {LARGEST:,} at most. Export "
            "it with torch.onnx.export(..., external_data=True), which writes several files."
        )


def _output_names(model: nn.Module, arguments: tuple[Any, Any]) -> list[str]:
    args, kwargs = arguments
    try:
        names = [name for name, _ in named_outputs(model(*args, **kwargs))]
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} fails on the batch: {type(error).__name__}: {error}. Give a "
            "batch that it takes in eval mode, on its device."
        ) from error
    if not names:
        raise InputError(
            f"{type(model).__name__} puts out no tensor; expected a tensor, or tuples, dicts or "
            "dataclasses of tensors."
        )
    return names


def _write(
    flat: Flat,
    tensors: Sequence[Tensor],
    outputs: Sequence[str],
    path: Path,
    dynamic: bool,
    dynamic_length: bool,
) -> None:
    open_dims: list[dict[int, Any]] = [{} for _ in tensors]
    # a name, and with it an error, where the model takes one size alone
    marks = [(0, batched, torch.export.Dim("batch"), dynamic)]
    # positions end where their table does, so that this one has no range of its own
    marks += [(1, long, torch.export.Dim.DYNAMIC, dynamic_length)]
    for dim, which, mark, wanted in marks:
        for sizes, has in zip(open_dims, which(tensors), strict=True):
            if wanted and has:
                sizes[dim] = mark
    shapes = (tuple(sizes or None for sizes in open_dims),) if any(open_dims) else None
    training = flat.training
    try:
        with warnings.catch_warnings(), _quiet():
            # of the exporter's own making: names of axes, packages that it can do without
            warnings.simplefilter("ignore")
            flat.training = False
            program = torch.onnx.export(
                flat,
                tuple(tensors),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=flat.names,
                output_names=list(outputs),
                verbose=False,
            )
            assert program is not None
            program.save(path)
    except OSError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        hint = (
            " If the model takes no other batch size than that given, use dynamic_batch=False "
            "(--fixed-batch)."
            if dynamic
            else ""
        )
        raise SurgeryError(
            f"{type(flat.model).__name__} cannot be exported to ONNX: {type(error).__name__}: "
            f"{' | '.join(lines[:3])}. Expected a forward pass that torch.export takes, of "
            f"operations that ONNX has.{hint}"
        ) from error
    finally:
        flat.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines about packages that the exporter does not find."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _compared(
    flat: Flat,
    session: OnnxSession,
    examples: Sequence[Sequence[Tensor]],
    tolerance: float | None,
) -> float:
    """The largest difference over all batch sizes; raises `SurgeryError` where it is too large."""
    largest = 0.0
    for tensors in examples:
        size = next(len(t) for t, has in zip(tensors, batched(tensors), strict=True) if has)
        expected = flat(*(tensor.clone() for tensor in tensors))
        try:
            found = session(*tensors)
        except InputError:
            raise
        except Exception as error:
            raise SurgeryError(
                f"onnxruntime fails at batch size {size} on what was exported of "
                f"{type(flat.model).__name__}: {type(error).__name__}: {error}. No file was "
                "written. Look for a size that forward spells as a number."
            ) from error
        result = surgery.compare(list(expected), list(found), tolerance)
        if not result.ok:
            raise SurgeryError(
                f"onnxruntime gives other numbers than {type(flat.model).__name__} at batch size "
                f"{size}: {result.message}. No file was written. Does the model draw random "
                "numbers in eval mode, or depend on more than its inputs? If the difference is "
                "small enough for you, allow it with tolerance=."
            )
        largest = max(largest, result.difference)
    return largest
