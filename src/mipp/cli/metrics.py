"""How good a model is: accuracy, perplexity, or a function of the user."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mipp import statistics
from mipp.cli.own_code import called, find
from mipp.cli.tasks import MASKED, TASKS, TEXTS
from mipp.errors import InputError
from mipp.tracing.guards import modes_kept

if TYPE_CHECKING:
    from mipp.cli.model_names import Network

OPTION = "--metric"
NAMES = ("accuracy", "perplexity")
IGNORED = -100
LARGEST = 700.0
"""Nats whose exponential is still a finite number."""


@dataclass(frozen=True)
class Score:
    """What a metric gave.

    Attributes:
        value: of the metric.
        loss: mean cross-entropy in nats; None for a function of the user.
        count: number of examples or tokens; None for a function of the user.
    """

    value: float
    loss: float | None = None
    count: int | None = None


@dataclass(frozen=True)
class Metric:
    """A number that says how good a model is.

    Attributes:
        name: of it, for people.
        measure: ``measure(model, batches)``, in eval mode and without gradients.
        counted: what `Score.count` counts.
    """

    name: str
    measure: Callable[[nn.Module, Iterable[Any]], Score]
    counted: str = "examples"

    def text(self, value: float) -> str:
        """The value for people."""
        return f"{100 * value:.2f} %" if self.name == "accuracy" else f"{value:.5g}"

    def change(self, before: float, after: float) -> str:
        """What became of it, for people."""
        if self.name == "accuracy":
            return f"{100 * (after - before):+.2f} points"
        if self.name == "perplexity" and before > 0:
            return f"{after / before:.3g}x"
        return f"{after - before:+.4g}"

    def worse(self, before: float, after: float) -> bool:
        """Whether it got worse by more than a point, or a twentieth; unknown of own metrics."""
        if self.name == "accuracy":
            return after < before - 0.01
        return self.name == "perplexity" and after > 1.05 * before


def find_metric(wanted: str | None, task: str, network: "Network") -> Metric | None:
    """The metric that ``--metric`` names, else that of the task; None for none.

    Raises:
        InputError: no such metric, or a function that cannot be found.
    """
    name = wanted or TASKS[task]
    if name is None:
        return None
    if name == "accuracy":
        return Metric(name, partial(_accuracy, network.logits))
    if name == "perplexity":
        shift = 0 if task == MASKED else 1
        return Metric(name, partial(_perplexity, network.logits, shift), "tokens")
    if ":" not in name:
        raise InputError(
            f"{OPTION} {name} is not known; expected one of {', '.join(NAMES)}, or "
            "package.module:function for your own."
        )
    function = find(name, OPTION)
    if not callable(function):
        raise InputError(
            f"{OPTION} {name} is a {type(function).__name__}; expected a function of (model, "
            "batches) that returns a number."
        )
    return Metric(name.rpartition(":")[2], partial(_own, function, name))


def is_of_tokens(task: str, metric: Metric | None) -> bool:
    """Whether the model predicts tokens, so that it is no classifier of examples."""
    return task in TEXTS or (metric is not None and metric.name == "perplexity")


def _own(
    function: Callable[..., Any], name: str, model: nn.Module, batches: Iterable[Any]
) -> Score:
    with torch.no_grad(), modes_kept(model):
        model.eval()
        found = called(lambda: function(model, batches), name, OPTION)
    if isinstance(found, Tensor) and found.numel() == 1:
        found = found.item()
    if not isinstance(found, Real) or not math.isfinite(found):
        raise InputError(
            f"{OPTION} {name} returned {found!r}; expected one finite number for (model, batches)."
        )
    return Score(float(found))


def _accuracy(logits_of: Callable[[Any], Any], model: nn.Module, batches: Iterable[Any]) -> Score:
    total, right, count = 0.0, 0, 0
    for batch, output in _answers(model, batches):
        y, logits = batch.target, logits_of(output)
        n = len(batch)
        if not isinstance(y, Tensor) or y.is_floating_point() or y.dim() != 1:
            raise InputError(
                "a batch without class indices was given; expected a pair (x, y), or a dict with "
                f"labels of shape ({n},). Give such data, {OPTION} package.module:function, or "
                "--task none."
            )
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != n:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"the model gave {shape} for {n} examples; expected logits ({n}, classes). Pick "
                f"them with --outputs, give {OPTION} package.module:function, or --task none."
            )
        total += F.cross_entropy(logits.float(), y, reduction="sum").item()
        right += int((logits.argmax(1) == y).sum())
        count += n
    _check_any(count, "examples")
    return Score(right / count, total / count, count)


def _perplexity(
    logits_of: Callable[[Any], Any], shift: int, model: nn.Module, batches: Iterable[Any]
) -> Score:
    """The exponential of the mean loss of tokens; ``shift`` 1 where the next one is predicted."""
    total, count = 0.0, 0
    for batch, output in _answers(model, batches):
        tokens, logits = _tokens(batch, shift), logits_of(output)
        if not isinstance(logits, Tensor) or logits.shape[:-1] != tokens.shape:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"the model gave {shape} for tokens of shape {tuple(tokens.shape)}; expected "
                f"logits (texts, tokens, vocabulary). Perplexity is for language models: give "
                f"{OPTION} accuracy, package.module:function, or --task none."
            )
        known = logits[:, : logits.shape[1] - shift].flatten(0, 1).float()
        wanted = tokens[:, shift:].flatten()
        total += F.cross_entropy(known, wanted, ignore_index=IGNORED, reduction="sum").item()
        count += int((wanted != IGNORED).sum())
    _check_any(count, "tokens")
    return Score(math.exp(min(total / count, LARGEST)), total / count, count)


def _tokens(batch: statistics.Batch, shift: int) -> Tensor:
    """The tokens that the model has to predict, ``IGNORED`` where none is."""
    if isinstance(batch.target, Tensor) and batch.target.dim() == 2:
        return batch.target
    ids = batch.kwargs.get("input_ids", batch.args[0] if batch.args else None)
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.dim() != 2 or shift == 0:
        raise InputError(
            "perplexity was asked for, and a batch has no tokens to predict; expected a dict with "
            "input_ids of shape (texts, tokens), and for a masked language model labels of the "
            f"same shape. Give --data text:FILE, or another {OPTION}."
        )
    mask = batch.kwargs.get("attention_mask")
    return ids if mask is None else ids.masked_fill(mask == 0, IGNORED)


def _answers(model: nn.Module, batches: Iterable[Any]) -> Iterable[tuple[statistics.Batch, Any]]:
    """Each batch on the model's device, and what the model gives for it."""
    device = next(model.parameters()).device
    with torch.no_grad(), modes_kept(model):
        model.eval()
        for item in batches:
            batch = statistics.read_batch(item).to(device)
            inputs = {name: value for name, value in batch.kwargs.items() if name != "labels"}
            yield batch, model(*batch.args, **inputs)


def _check_any(count: int, what: str) -> None:
    if not count:
        raise InputError(f"no {what} were given to evaluate on; expected at least one.")
