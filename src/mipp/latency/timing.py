"""Timing several works against each other, and how a budget of latency is measured."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from mipp.checks import check_fields
from mipp.errors import InputError
from mipp.records import FloatArray

WARM_UP = 3
"""Runs of each work that are not counted: the first ones allocate, and choose algorithms."""

BLOCKS = 5
"""Consecutive parts of the runs whose medians are compared, see `scatter`."""

Work = Callable[[], object]
"""What is timed: one forward pass, say."""


@runtime_checkable
class Stopwatch(Protocol):
    """Times works; `take_turns` does it really, tests may count something else."""

    def __call__(
        self, works: Sequence[Work], *, seconds: float | int, fewest: int, device: torch.device
    ) -> list[FloatArray]:
        """Milliseconds of every run of each work, shape ``(n_runs,)`` each, the same number."""
        ...


def take_turns(
    works: Sequence[Work], *, seconds: float | int, fewest: int, device: torch.device
) -> list[FloatArray]:
    """Milliseconds of every run of each work, shape ``(n_runs,)`` each.

    The works take turns, so that whatever else the machine does slows all of them alike. The number
    of threads is left as it is; no gradients are recorded. A device that works on its own is waited
    for before the clock is read.

    Parameters:
        seconds: after which no further turn is started.
        fewest: turns that are made in any case.
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

    In the unit of the runs; with ``against``, what took turns with them, of the ratio of the
    medians. A standard error would take the runs as independent, but what disturbs a clock (another
    process, a warmer processor) lasts for many of them.
    """
    parts = np.array_split(runs, min(BLOCKS, len(runs)))
    medians = np.array([np.median(part) for part in parts])
    if against is not None:
        others = np.array_split(against, min(BLOCKS, len(against)))
        medians = medians / np.array([np.median(part) for part in others])
    return float(np.ptp(medians) / 2)


def _waiting(device: torch.device) -> Callable[[], None]:
    """What returns when the device has done all that it was given."""
    if device.type == "cpu":
        return lambda: None
    wait: Callable[[], None] = getattr(torch, device.type).synchronize
    return wait


@dataclass(frozen=True)
class Latency:
    """What a budget of ``latency=`` means: one forward pass of so many examples on this machine.

    The device is the model's, the number of threads torch's own (`torch.set_num_threads`).

    ``batch``: examples in a pass. ``shares``: of its full widths at which each layer is timed; one
    below an eighth takes what an eighth takes. ``layer_seconds``: for each layer and choice of
    widths. ``model_seconds``: for each whole model that is timed; longer runs scatter less.
    ``slack``: a plan that is this share faster than it needs to be is made again with less taken.
    ``tries``: plans that are timed at the most, until one meets the budget. ``stopwatch``: what
    times, see `mipp.latency.take_turns`.
    """

    batch: int = 1
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
