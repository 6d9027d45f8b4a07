"""How a pruned model is tuned, and what came of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from mipp.checks import check_fields, shown
from mipp.errors import InputError
from mipp.progress import in_words

Unit = Literal["nats", "of the variance"]
"""What a distance is in."""
Stopped = Literal["passes", "patience", "minutes"]
"""What ended tuning."""

Augment = Literal["flip-shift"] | Callable[[Tensor], Tensor]
"""A name, or a function of the first floating-point input ``(n, ...)`` to another of that shape."""


@dataclass(frozen=True)
class Tune:
    """How a pruned model is tuned on the calibration examples, without labels.

    The small model is trained with AdamW to give what the whole one gives. What comes closest on
    held-out examples is kept, or what comes last where chance can explain the difference, so that
    there the model is never further away than before.

    Attributes:
        passes: over the examples, at most. The learning rate falls to 0 over them.
        minutes: limit of the time. The learning rate falls faster where the passes would take
            longer. The same call may then give other weights. None for no limit.
        learning_rate: the highest, reached after a tenth of the steps. Too high a one is lowered:
            while no pass has come closer, one that ends more than twice as far away is undone, and
            the next begins with half of its rate.
        batch_size: examples of a step, drawn again in every pass. None: batches as they are given.
        held_out: share of the examples that are not trained on and decide, above 0 and below 1.
        patience: passes in a row without a lower divergence on the held-out examples, after which
            tuning ends. None for none, since the last passes, in which the learning rate is low,
            are mostly the best.
        augment: changes the inputs of every step. ``flip-shift`` mirrors half of the images
            left-right and shifts them by up to an eighth of their sides; or a function that takes
            the first floating-point input, of shape ``(n, ...)``, and returns another of this
            shape, drawing from torch's global generator. The whole model answers for the changed
            inputs, in each step. None: inputs as they are, whose answers are computed once where
            they fit into a quarter of ``memory=``.
        temperature: divisor of the logits while training.
        loss: ``categorical`` (divergence of the predictions), ``gaussian`` (squared error, as a
            share of the variance of each output tensor) or ``auto``, as in `mipp.Options`.
        precision: of convolutions and matrix products while training (autocast); ``auto`` is
            bfloat16 where the device computes it fast.

    Raises:
        InputError: a number out of its range.

    Examples:
        >>> Tune(passes=5).learning_rate
        0.001
    """

    passes: int = 20
    minutes: float | None = None
    learning_rate: float = 1e-3
    batch_size: int | None = 64
    held_out: float = 0.125
    patience: int | None = None
    augment: Augment | None = None
    temperature: float = 2.0
    loss: Literal["auto", "categorical", "gaussian"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("passes", "minutes", "learning_rate", "batch_size", "patience", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"Tune has {name}={value}; expected a number above 0.")
        if not 0 < self.held_out < 1:
            raise InputError(
                f"Tune has held_out={self.held_out}; expected a share of the examples above 0 and "
                "below 1, such as 0.125."
            )


@dataclass(frozen=True)
class TunePass:
    """One pass over the examples.

    Attributes:
        learning_rate: of its last step.
        train: mean of the loss that was trained, while the weights changed.
        held_out: divergence on the held-out examples after it.
        seconds: that it took; not compared by ``==``.

    Examples:
        >>> TunePass(1e-3, train=0.21, held_out=0.19, seconds=1.5).held_out
        0.19
    """

    learning_rate: float
    train: float
    held_out: float
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class Tuned:
    """What came of tuning.

    Attributes:
        before: divergence from the whole model on the held-out examples before it. In nats for each
            prediction, or, where outputs are no logits, squared error as a share of their variance.
        after: the same of the weights that were kept.
        unit: ``nats`` or ``of the variance``.
        passes: all that were made.
        kept: number of the pass whose weights were kept, from 1; 0 for those from before.
        stopped: by ``passes``, ``patience`` or ``minutes``.
        examples: how many were trained on, and how many were held out.
        seconds: of it all; not compared by ``==``.
        on_all: mean loss of each pass on all examples, from a refit on all, that followed
            (`Plan.apply_tuned`); empty where there was none.

    Examples:
        >>> done = TunePass(1e-3, train=0.21, held_out=0.19, seconds=1.5)
        >>> print(Tuned(0.3, 0.19, "nats", (done,), 1, "passes", (560, 80), 2.0))
        tuned: 0.3 -> 0.19 nats from the whole model on 80 held-out examples, 1 pass, 2.0 s
    """

    before: float
    after: float
    unit: Unit
    passes: tuple[TunePass, ...]
    kept: int
    stopped: Stopped
    examples: tuple[int, int]
    seconds: float = field(compare=False)
    on_all: tuple[float, ...] = ()

    @property
    def better(self) -> bool:
        """Whether weights were changed, since the model came closer to the whole one."""
        return self.kept > 0

    def __str__(self) -> str:
        spent = f"{_passes(len(self.passes))}, {in_words(self.seconds)}"
        count = self.examples[1]
        where = f"from the whole model on {count} held-out example{'s' * (count != 1)}, {spent}"
        if not self.better:
            return f"not tuned: no pass came closer than {self.before:.3g} {self.unit} {where}"
        then = f"; then {_passes(len(self.on_all))} on all examples" if self.on_all else ""
        return f"tuned: {self.before:.3g} -> {self.after:.3g} {self.unit} {where}{then}"


def _passes(n: int) -> str:
    return f"{n} pass{'es' * (n != 1)}"


def read_tune(tune: Any) -> Tune | None:
    """True, False or a record as a `Tune` or None.

    Raises:
        InputError: it is something else.
    """
    if tune is None or tune is False:
        return None
    if tune is True:
        return Tune()
    if not isinstance(tune, Tune):
        raise InputError(
            f"tune={shown(tune)}; expected True, False or a record such as mipp.Tune(passes=10)."
        )
    return tune
