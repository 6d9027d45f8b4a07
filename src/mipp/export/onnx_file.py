"""ONNX files, written only if onnxruntime computes the same numbers, and running them."""

import importlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from mipp import graph, statistics, surgery
from mipp.atomic_files import replacing
from mipp.checks import checked
from mipp.errors import FileError, InputError, SurgeryError, how_to_install
from mipp.export.flat import (
    Flat,
    batched,
    long,
    output_names,
    shortened,
    some_examples,
    tensors_of,
)
from mipp.tracing.guards import measuring

TRACED, SIZES = 2, (1, 3)
"""Number of examples for tracing (with one, the exporter would take the size as fixed), and batch
sizes at which the numbers are compared: neither is the traced one."""

LARGEST = 2 * 10**9
"""Bytes of weights; ONNX files are protobuf messages, which end at 2 GiB."""

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was written and checked.

    Attributes:
        path: of the file.
        inputs: names in the file, in order.
        outputs: names in the file, in order.
        batch_sizes: at which onnxruntime and PyTorch were compared.
        difference: the largest one, as a share of the largest entry of that output.
        size: of the file, in bytes.

    Examples:
        >>> OnnxFile(Path("small.onnx"), ("x",), ("output",), (1, 3), 2e-7, 4096).inputs
        ('x',)
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    difference: float
    size: int


class OnnxSession(nn.Module):
    """The network in an ONNX file, run by onnxruntime on the CPU with torch's number of threads.

    It is called with tensors in the order of the file's inputs, and returns a tuple of tensors.

    Args:
        path: of the file.

    Raises:
        InputError: if onnxruntime is not installed.
        FileError: if onnxruntime cannot read the file.

    Examples:
        >>> OnnxSession("small.onnx")(torch.zeros(1, 1, 8, 8))  # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        runtime = needed("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # threads that wait for more work would slow down whatever takes turns with this session
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise FileError(
                f"onnxruntime cannot read {path}: {type(error).__name__}: {error}. Export the "
                "model again, or with another version of onnxruntime."
            ) from error
        self._names = [item.name for item in self._session.get_inputs()]

    def forward(self, *tensors: Shaped[Tensor, "..."]) -> tuple[Tensor, ...]:
        """The outputs, in the order of the file."""
        found = self._session.run(None, self._arrays(tensors))
        return tuple(torch.from_numpy(value) for value in found)

    def work(self, *tensors: Shaped[Tensor, "..."]) -> Callable[[], object]:
        """A function that runs the network on these inputs and does nothing else, for timing."""
        arrays = self._arrays(tensors)
        return lambda: self._session.run(None, arrays)

    def _arrays(self, tensors: tuple[Tensor, ...]) -> dict[str, Any]:
        if len(tensors) != len(self._names):
            raise InputError(
                f"the ONNX file takes {len(self._names)} inputs ({', '.join(self._names)}), and "
                f"{len(tensors)} were given. An input that the model does not use is not in the "
                "file; leave it out."
            )
        # onnxruntime would copy what lies in another order at every run
        arrays = [np.ascontiguousarray(tensor.numpy(force=True)) for tensor in tensors]
        return dict(zip(self._names, arrays, strict=True))


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
    """Write the model as an ONNX file, in eval mode, if onnxruntime computes the same numbers.

    The exporter is torch's own (``torch.onnx.export(dynamo=True)``). The file is written
    atomically: if anything fails, an older file is left as it was. So is the model.

    Args:
        model: what to export.
        batch: a tensor, an ``(input, target)`` pair, a dict of keywords or
            ``((first, second), target)``, as for `mipp.plan`. Arguments that are not tensors are
            fixed in the file. Numbers are compared on these examples.
        path: of the file, in a folder that exists.
        dynamic_batch: leave the first dimension open in all inputs that have the batch's size, and
            compare the numbers at batch sizes 1 and 3. False: only the size of ``batch``.
        dynamic_length: leave the second dimension open, too, in all inputs that have the first
            one's length, such as the tokens of a text and their mask, and compare the numbers at
            that length and at about half of it.
        tolerance: largest difference allowed, as a share of the largest entry of an output; by
            default the square root of the machine precision (3e-4 for float32).

    Raises:
        InputError: if the extra ``onnx`` is not installed, the name does not end in ``.onnx``, or
            the batch or model cannot be used.
        SurgeryError: if the model cannot be exported, or onnxruntime computes other numbers.
        FileError: if the file cannot be written.

    Examples:
        >>> import mipp
        >>> model = mipp.models.build("digits_cnn", seed=0)
        >>> file = export_onnx(model, torch.rand(2, 1, 8, 8), "digits.onnx")  # doctest: +SKIP
        >>> file.batch_sizes  # doctest: +SKIP
        (1, 3)
    """
    check_installed()
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
        examples = [some_examples(tensors, size) if dynamic_batch else tensors for size in sizes]
        if dynamic_length:
            examples += [shortened(tensors) for tensors in examples]
        traced = some_examples(tensors, TRACED) if dynamic_batch else tensors
        outputs = output_names(inner, arguments)
        try:
            with replacing(target) as partial:
                _write(flat, traced, outputs, partial, dynamic_batch, dynamic_length)
                difference = _compared(flat, OnnxSession(partial), examples, tolerance)
                size = partial.stat().st_size
        except OSError as error:
            raise FileError(
                f"{target} cannot be written: {error}. Check room and permissions."
            ) from error
    return OnnxFile(target, tuple(flat.names), tuple(outputs), sizes, difference, size)


def onnx_work(model: nn.Module, batch: Any) -> Callable[[], object]:
    """A function that runs the model on the batch in onnxruntime, to time it.

    What it computes is not compared with PyTorch.

    Args:
        model: on the CPU.
        batch: as for `export_onnx`; the file takes it alone.

    Raises:
        InputError: if the extra ``onnx`` is not installed, or the model is too large.
        SurgeryError: if the model cannot be exported.
        FileError: if onnxruntime cannot run it.
    """
    check_installed()
    inner = graph.unwrap(model)
    _check_size(inner)
    given = statistics.read_batch(batch)
    arguments = (given.args, given.kwargs)
    flat, tensors = Flat(inner, arguments), tensors_of(arguments)
    with tempfile.TemporaryDirectory(prefix="mipp-latency-") as folder:
        path = Path(folder) / "model.onnx"
        with measuring(inner), torch.no_grad():
            _write(flat, tensors, output_names(inner, arguments), path, False, False)
        return OnnxSession(path).work(*tensors)


def _check_size(model: nn.Module) -> None:
    size = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()))
    if size > LARGEST:
        raise InputError(
            f"the weights take {size:,} bytes, and an ONNX file holds {LARGEST:,} at most. Export "
            "it with torch.onnx.export(..., external_data=True), which writes several files."
        )


def _write(
    flat: Flat,
    tensors: Sequence[Tensor],
    outputs: Sequence[str],
    path: Path,
    dynamic: bool,
    dynamic_length: bool,
) -> None:
    open_dims: list[dict[int, Any]] = [{} for _ in tensors]
    # a name: if the model takes one size only, the exporter then raises an error
    marks = [(0, batched, torch.export.Dim("batch"), dynamic)]
    # no range of its own: a table of positions can bound the length
    marks += [(1, long, torch.export.Dim.DYNAMIC, dynamic_length)]
    for dim, which, mark, wanted in marks:
        for sizes, has in zip(open_dims, which(tensors), strict=True):
            if wanted and has:
                sizes[dim] = mark
    shapes = (tuple(sizes or None for sizes in open_dims),) if any(open_dims) else None
    training = flat.training
    try:
        with warnings.catch_warnings(), _quiet():
            # the exporter's own: names of axes, packages that are optional
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
    """Silence the exporter's log lines about packages that are not installed."""
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
    """The largest difference over all batch sizes; raises `SurgeryError` if it is too large."""
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


def check_installed() -> None:
    """Raises `InputError` if a package of the extra ``onnx`` cannot be imported."""
    for name in PACKAGES:
        needed(name)


def needed(name: str) -> Any:
    """A package of the extra ``onnx``; raises `InputError` if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a build for another system fails with whatever it likes
        raise InputError(
            f"ONNX files need the package {name}, which cannot be imported: "
            f"{type(error).__name__}: {error}. Install the extra: {how_to_install('onnx')}."
        ) from error
