"""Timing of several functions against each other, and the settings of a latency budget."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from mipp.checks import check_fields
from mipp.errors import InputError
from mipp.records import FloatArray

WARM_UP = 3
"""Runs of each function that are not counted: the first ones allocate, and choose algorithms."""

BLOCKS = 5
"""Consecutive parts of the runs whose medians are compared, see `scatter`."""

Work = Callable[[], object]
"""A function to time, such as one forward pass."""


@runtime_checkable
class Stopwatch(Protocol):
    """Times functions; `take_turns` uses the clock, tests may count something else."""

    def __call__(
        self, works: Sequence[Work], *, seconds: float | int, fewest: int, device: torch.device
    ) -> list[FloatArray]:
        """Milliseconds of every run of each function, all of shape ``(n_runs,)``."""
        ...


@runtime_checkable
class Runtime(Protocol):
    """Makes a model ready to run where it will be in use, such as compiled or converted."""

    def __call__(self, model: nn.Module, *args: Any, **kwargs: Any) -> Work:
        """A function that runs the model on these arguments and returns when the pass is done.

        The model is a copy in eval mode, which may be changed.
        """
        ...


def take_turns(
    works: Sequence[Work], *, seconds: float | int, fewest: int, device: torch.device
) -> list[FloatArray]:
    """Time functions in turns, so that other load on the machine slows all of them equally.

    The number of threads is left as it is; no gradients are recorded. An asynchronous device is
    synchronised before the clock is read.

    Args:
        works: what to time.
        seconds: after which no further turn is started.
        fewest: minimal number of turns.
        device: of the functions.

    Returns:
        Milliseconds of every run of each function, all of shape ``(n_runs,)``.

    Examples:
        >>> device = torch.device("cpu")
        >>> runs = take_turns([lambda: sum(range(10))], seconds=0, fewest=4, device=device)
        >>> runs[0].shape
        (4,)
    """
    laps: list[list[float]] = [[] for _ in works]
    wait = _waiting(device)
    with torch.inference_mode():
        for work in works:
            for _ in range(WARM_UP):
                work()
        wait()
        end = time.perf_counter() + seconds
        while len(laps[0]) < fewest or time.perf_counter() < end:
            for work, mine in zip(works, laps, strict=True):
                start = time.perf_counter()
                work()
                wait()
                mine.append(1e3 * (time.perf_counter() - start))
    return [np.array(mine) for mine in laps]


def scatter(runs: FloatArray, against: FloatArray | None = None) -> float:
    """Half the range of the medians of `BLOCKS` consecutive parts of the runs, shape ``(n_runs,)``.

    A standard error would assume independent runs, but a disturbance (another process, a warmer
    processor) lasts for many of them.

    Args:
        runs: milliseconds.
        against: runs of another function that took turns with it, to compare the ratios of the
            medians instead.

    Returns:
        The scatter in the unit of the runs, or of the ratio.

    Examples:
        >>> scatter(np.array([1.0, 1.0, 2.0, 2.0, 4.0]))
        1.5
    """
    parts = np.array_split(runs, min(BLOCKS, len(runs)))
    medians = np.array([np.median(part) for part in parts])
    if against is not None:
        others = np.array_split(against, min(BLOCKS, len(against)))
        medians = medians / np.array([np.median(part) for part in others])
    return float(np.ptp(medians) / 2)


def _waiting(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device has finished all its work."""
    if device.type == "cpu":
        return lambda: None
    wait: Callable[[], None] = getattr(torch, device.type).synchronize
    return wait


@dataclass(frozen=True)
class Latency:
    """How a ``latency=`` budget is measured: one forward pass on this machine.

    The device is the model's, the number of threads torch's own (`torch.set_num_threads`).

    Attributes:
        batch: number of examples per pass; a batch that cannot be divided is taken whole.
        runtime: in which models are timed. ``torch`` runs them as they are. ``onnxruntime``
            exports each, and each layer, to run them on the CPU; it needs the extra ``onnx``. A
            function takes a model and the arguments of a pass, and returns what to time, see
            `mipp.latency.Runtime`; layers are then timed in PyTorch.
        shares: of its full widths at which each layer is timed; below an eighth, a layer counts as
            at an eighth.
        layer_seconds: for each layer and choice of widths.
        model_seconds: for each whole model that is timed; longer runs scatter less.
        slack: a plan that is faster than necessary by this share is made again with less removed.
        tries: largest number of plans that are timed until one meets the budget.
        stopwatch: times the runs, see `mipp.latency.take_turns`.

    Raises:
        InputError: for a number out of its range.

    Examples:
        >>> Latency(batch=8).shares
        (0.125, 0.25, 0.5, 0.75, 1)
    """

    batch: int = 1
    runtime: Literal["torch", "onnxruntime"] | Runtime = "torch"
    shares: tuple[float | int, ...] = (0.125, 0.25, 0.5, 0.75, 1)
    layer_seconds: float | int = 0.02
    model_seconds: float | int = 1.0
    slack: float | int = 0.03
    tries: int = 6
    stopwatch: Stopwatch = take_turns

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("layer_seconds", "model_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(
                    f"Latency({name}={getattr(self, name)}); expected seconds above 0, such as 1."
                )
        if not 0 <= self.slack < 1:
            raise InputError(f"Latency(slack={self.slack}); expected a share, such as 0.03.")
        if self.batch < 1 or self.tries < 1:
            raise InputError(
                f"Latency(batch={self.batch}, tries={self.tries}); expected at least 1 of each."
            )
        rises = all(a < b for a, b in zip(self.shares, self.shares[1:], strict=False))
        if not self.shares or self.shares[0] <= 0 or not rises or self.shares[-1] != 1:
            raise InputError(
                f"Latency(shares={self.shares}); expected rising numbers above 0, the last one 1."
            )
