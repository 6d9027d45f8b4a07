"""Tuning a pruned model on the calibration examples: the public call, and that of plans."""

import math
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from mipp import graph, processes, statistics, tuning
from mipp.errors import CalibrationWarning
from mipp.options import Outputs, Progress
from mipp.planning.model_outputs import answering, read_outputs
from mipp.planning.option_values import read_memory
from mipp.problem import calibration
from mipp.progress import following
from mipp.prunable import example
from mipp.retrain import AnyStep
from mipp.tracing.guards import check_ordinary, gradients_enabled


@processes.raises_on_all_ranks
@gradients_enabled()
def tune(
    small: nn.Module,
    whole: nn.Module,
    batches: Iterable[Any],
    settings: "tuning.Tune | bool" = True,
    *,
    samples: int | None = 5120,
    outputs: Outputs | None = None,
    memory: int | str = 4 * 2**30,
    step: AnyStep | None = None,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> "tuning.Tuned":
    """Tunes a pruned model on calibration examples, in place and without labels.

    The small model learns to give what the whole one gives. Some examples are held out: the weights
    that come closest to the whole model on them are kept, or the last ones where chance explains
    the difference. Where no pass comes closer than the weights were before, these are put back,
    with a warning. Both models run in evaluation mode, so that statistics of BatchNorm stay as they
    are and nothing is dropped out; modes and random generators are restored. An error or Ctrl-C
    leaves the small model with the best weights so far.

    Args:
        small: what `Plan.apply` returned. Parameters that require no gradient stay as they are,
            unless none does.
        whole: the model that it was pruned from; it is left as it was.
        batches: as in `mipp.plan`. Examples that a refit has seen look nearer than others, and so
            hide what tuning brings: give others here, or use `Plan.apply_tuned`, whose refit does
            without what is held out. Targets are not used, except that what is to
            give a target of -100 does not count. Without targets for each token, padding does not
            count, by ``attention_mask``. Under
            ``torch.distributed`` each process gives its own, gradients are those of all examples,
            and all processes have to call this.
        settings: how to tune; True for the defaults.
        samples: examples that are read at most; None for all.
        outputs: as in `mipp.Options`: picks what has to stay as it is.
        memory: bytes, or text such as ``"4GiB"``; a quarter of it may hold answers of the whole
            model, which are computed in every pass where they need more.
        step: in place of ``optimizer.step()``, which it calls itself, such as `WeightPlan.hold`
            and `mipp.retrain.hold_zeros` make it, to keep zeros.
        seed: of what is held out, of the order of the examples, and of augmentation.
        progress: as in `mipp.plan`; the only stage is ``tune`` (steps).

    Raises:
        InputError: models whose outputs differ in shape, that share parameters or give no
            gradient; fewer than two examples.
        CalibrationError: batches that cannot be used, or outputs that are not finite.
        TrainingError: a loss that is not finite.

    Examples:
        >>> import torch
        >>> import mipp
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> batches = [torch.randn(64, 4)]
        >>> small = mipp.plan(net, batches, "units=50%").apply(refit=False)
        >>> tuned = mipp.tune(small, net, batches, mipp.Tune(passes=4), progress=False)
        >>> tuned.after < tuned.before, len(tuned.passes), tuned.examples
        (True, 4, (56, 8))
    """
    read_outputs(outputs)
    small, whole = graph.unwrap(small), graph.unwrap(whole)
    check_ordinary(small)
    data = calibration(whole, batches, samples)
    chosen = tuning.read_tune(settings) or tuning.Tune()
    todo = Tuning(whole, data, chosen, outputs, read_memory(memory), seed, progress)
    return todo.tune(small, step)[0]


@dataclass(frozen=True, eq=False)
class Tuning:
    """What small models are tuned with.

    Attributes:
        whole: model that they learn from.
        data: the calibration batches.
        settings: how to tune.
        outputs: picks outputs of either model.
        memory: bytes, as in `mipp.tuning.tune`.
        seed: of what is held out, of the order, and of augmentation.
        progress: as in `mipp.tune`.
    """

    whole: nn.Module
    data: Sequence[statistics.Batch]
    settings: "tuning.Tune"
    outputs: Outputs | None = None
    memory: float = math.inf
    seed: int = 0
    progress: Progress | bool | None = None

    def tune(self, small: nn.Module, step: AnyStep | None) -> "tuple[tuning.Tuned, tuning.Course]":
        """Tunes ``small``, in place, as `mipp.tuning.tune` does; warns if it changed nothing."""
        own, teacher = self._answering(small)
        with following(self.progress) as report, processes.together(self.whole):
            processes.same_model(small)
            tuned, course = tuning.tune(
                own, teacher, self.data, self.settings,
                seed=self.seed, memory=self.memory, step=step, report=report,
            )  # fmt: skip
            report.line(str(tuned))
        if not tuned.better:
            warnings.warn(_nothing_changed(tuned, self.settings), CalibrationWarning, stacklevel=5)
        return tuned, course

    def tune_on_all(
        self,
        small: nn.Module,
        step: AnyStep | None,
        tuned: "tuning.Tuned",
        course: "tuning.Course",
    ) -> "tuning.Tuned":
        """Tunes ``small``, in place, on all examples, as another one was without some of them.

        Args:
            small: fitted on all examples.
            step: in place of ``optimizer.step()``.
            tuned: what came of the other one, whose fit was without what it held out.
            course: the way that it took.

        Returns:
            The record with the losses of its passes; without them where the model is further away
            on what was held out than the other one, which has never seen it.
        """
        started = time.perf_counter()
        own, teacher = self._answering(small)
        with following(self.progress) as report, processes.together(self.whole):
            losses, away = tuning.tune_on_all(
                own, teacher, self.data, self.settings, course,
                seed=self.seed, memory=self.memory, step=step, report=report,
            )  # fmt: skip
            seconds = tuned.seconds + time.perf_counter() - started
            if not away <= tuned.after:
                return replace(tuned, seconds=seconds)
            done = replace(tuned, on_all=losses, seconds=seconds)
            report.line(str(done))
        return done

    def _answering(self, small: nn.Module) -> tuple[nn.Module, nn.Module]:
        own, teacher = (
            answering(model, self.outputs, example(model, self.data))
            for model in (small, self.whole)
        )
        return own, teacher


def _nothing_changed(done: "tuning.Tuned", settings: "tuning.Tune") -> str:
    where = f"{done.unit} on {done.examples[1]} held-out examples"
    least = f"{done.before:.3g} {where}, and the weights from before were put back"
    n = len(done.passes)
    return (
        f"Tuning changed nothing: {n} pass{'es' * (n != 1)} came no closer to the whole model than "
        f"{least}. Give more calibration examples, or a lower learning rate than "
        f"{settings.learning_rate:g}: mipp.Tune(learning_rate=...)."
    )
