"""Tuning of a small model, and the same passes once more on all examples."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import nn

from mipp import processes, surgery
from mipp.errors import InputError
from mipp.options import Progress
from mipp.retrain import AnyStep
from mipp.retrain.numerics import numerics_for
from mipp.statistics import Batch
from mipp.tracing.guards import as_it_was, gradients_enabled, recurrent_gradients
from mipp.tracing.guards import channels_last as laid_out
from mipp.tuning.examples import examples_of
from mipp.tuning.passes import Course, Run
from mipp.tuning.settings import Tune, Tuned


def tune(
    small: nn.Module,
    whole: nn.Module,
    batches: Sequence[Batch],
    settings: Tune,
    *,
    seed: int = 0,
    memory: float = math.inf,
    step: AnyStep | None = None,
    report: Progress = lambda *_: None,
) -> tuple[Tuned, Course]:
    """Tunes ``small``, in place; what goes wrong leaves it with the best weights so far.

    Args:
        small: the pruned model.
        whole: the model that it was pruned from; is left as it is.
        batches: calibration batches, with which the model can be called.
        settings: how to tune.
        seed: of what is held out, of the order, and of augmentation.
        memory: bytes; a quarter of it may hold answers of the whole model.
        step: in place of ``optimizer.step()``, which it calls itself.
        report: called as ``report("tune", steps, total)``.

    Returns:
        What came of it, and which way it went.

    Raises:
        InputError: models whose outputs cannot be compared; too few examples.
        CalibrationError: outputs of the whole model that are not finite.
        TrainingError: outputs of the small model that are not.
    """
    started = time.perf_counter()
    examples = examples_of(batches, settings, seed)
    with _prepared(small, whole, batches[0], settings) as stack:
        run = Run(small, whole, examples, settings, seed, memory, step, report)
        stack.callback(run.put_back_best)
        stopped = run.choose()
    trained, held_out = (processes.total("the examples", n) for n in examples.counts())
    tuned = Tuned(
        before=run.before,
        after=run.best,
        unit=run.teacher.unit,
        passes=tuple(run.passes),
        kept=run.kept,
        stopped=stopped,
        examples=(trained, held_out),
        seconds=time.perf_counter() - started,
    )
    return tuned, run.course()


def tune_on_all(
    small: nn.Module,
    whole: nn.Module,
    batches: Sequence[Batch],
    settings: Tune,
    course: Course,
    *,
    seed: int = 0,
    memory: float = math.inf,
    step: AnyStep | None = None,
    report: Progress = lambda *_: None,
) -> tuple[tuple[float, ...], float]:
    """Tunes ``small``, in place, on all examples, as `tune` did without those that it held out.

    The learning rate falls to 0 over as many passes as `tune` made, and the weights after the last
    one are kept. Arguments and errors are those of `tune`.

    Returns:
        Mean loss of each pass; and the distance on what `tune` has held out, and this has not.
    """
    examples = examples_of(batches, settings, seed).with_all()
    settings = replace(settings, passes=course.passes)
    with _prepared(small, whole, batches[0], settings) as stack:
        run = Run(small, whole, examples, settings, seed, memory, step, report)
        stack.callback(run.put_back_best)
        losses = run.repeat(course)
        return tuple(losses), run.held_out()


@contextmanager
def _prepared(
    small: nn.Module, whole: nn.Module, batch: Batch, settings: Tune
) -> Iterator[ExitStack]:
    """Both models as they have to be while tuning; as they were afterwards."""
    _check_apart(small, whole)
    with ExitStack() as stack:
        stack.enter_context(gradients_enabled())
        stack.enter_context(as_it_was(small, whole))
        stack.enter_context(recurrent_gradients(small, whole))
        last = _lies_channels_last(small, whole, batch, settings)
        for model in (small, whole):
            stack.enter_context(laid_out(model, enabled=last))
        for parameter in whole.parameters():
            parameter.requires_grad_(False)
        yield stack


def _lies_channels_last(small: nn.Module, whole: nn.Module, batch: Batch, settings: Tune) -> bool:
    """Whether filters lie channels-last: where that is faster, and both models run with it."""
    device = next((p.device for p in whole.parameters()), torch.device("cpu"))
    faster = numerics_for(device, settings.precision, "auto").channels_last
    if not faster or not any(p.dim() == 4 for p in whole.parameters()):
        return False
    for model in (small, whole):
        some = batch.part(0, 2).to(next((p.device for p in model.parameters()), device))
        with laid_out(model, enabled=True):
            if surgery.failure(model, some.args, some.kwargs):  # `view` wants them contiguous
                return False
    return True


def _check_apart(small: nn.Module, whole: nn.Module) -> None:
    mine = {id(p) for p in small.parameters()}
    if small is whole or any(id(p) in mine for p in whole.parameters()):
        raise InputError(
            "the small model shares parameters with the whole one; expected two models, of which "
            "the whole one keeps its weights. Give what plan.apply() returned, and the model that "
            "was planned for."
        )
