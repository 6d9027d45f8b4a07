"""How a budget of latency is measured."""

import math
from dataclasses import dataclass

from mipp.checks import check_fields
from mipp.errors import InputError
from mipp.latency.stopwatch import Stopwatch, take_turns


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
