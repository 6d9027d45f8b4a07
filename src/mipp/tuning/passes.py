"""The passes of a training on the answers of the whole model, and which weights are kept."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mipp import processes
from mipp.errors import InputError, TrainingError
from mipp.options import Progress
from mipp.retrain import AnyStep
from mipp.retrain.numerics import numerics_for
from mipp.statistics import blaming
from mipp.statistics.loss import answer_tensors
from mipp.tracing.guards import seed_generators
from mipp.tuning.examples import Examples, Parts, augmented
from mipp.tuning.master_weights import MasterAdamW
from mipp.tuning.settings import Stopped, Tune, TunePass
from mipp.tuning.teacher import Teacher

WARMUP = 0.1
"""Share of the steps in which the learning rate rises."""
FAR = 2.0
"""A pass is undone that ends so many times as far from the whole model as tuning began. What is
nearer often comes back as the rate falls."""
LOWER = 0.5
"""The learning rate after such a pass, as a share of its last one."""
JUDGES = 16
"""Parts of the held-out examples, at least, whose spread says what is chance."""


@dataclass(frozen=True)
class Course:
    """What another tuning of the same model needs to go the same way.

    Attributes:
        passes: how many were made.
        undone: how many of them were undone, at the beginning.
        rate: the highest learning rate.
    """

    passes: int
    undone: int
    rate: float


class Run:
    """The state of one tuning, whose time begins when it is made.

    Attributes:
        before: distance of the two models on the held-out examples before it.
        best: the same of the weights that are kept.
        kept: number of the pass that gave them, from 1; 0 for those from before.
        passes: all that were made.
        shares: what each of several parts of the held-out examples adds to their distance, in the
            unit of the teacher, shape ``(parts,)``, as last measured on this rank.

    Args:
        small: is trained, in place.
        whole: gives the answers.
        examples: that it is trained on, and that are held out.
        settings: how to tune.
        seed: of the order, and of augmentation.
        memory: bytes; a quarter of it may hold answers of the whole model.
        step: in place of ``optimizer.step()``.
        report: called as ``report("tune", steps, total)``.

    Raises:
        InputError: models whose outputs cannot be compared.
        CalibrationError: outputs of the whole model that are not finite.
    """

    def __init__(
        self,
        small: nn.Module,
        whole: nn.Module,
        examples: Examples,
        settings: Tune,
        seed: int,
        memory: float,
        step: AnyStep | None,
        report: Progress,
    ) -> None:
        self.small, self.examples, self.settings = small, examples, settings
        self.seed, self.take_step, self.report = seed, step, report
        self.started = time.perf_counter()
        self.parameters = _trained(small)
        self.device = self.parameters[0].device
        numerics = numerics_for(self.device, settings.precision, channels_last=False)
        self.bfloat16 = numerics.precision == "bfloat16"
        self.teacher = Teacher(whole, examples, settings, memory / 4, self.device)
        self.rate = settings.learning_rate
        self.optimizer = MasterAdamW(self.parameters, self.rate)
        self.passes: list[TunePass] = []
        self.kept = self.undone = 0
        self.weights = [p.detach().clone() for p in self.parameters]
        self.before = self.best = math.inf
        self.shares = self.best_shares = torch.zeros(0)
        self.steps_per_pass = processes.largest("the steps of a pass", examples.n_steps())

    def choose(self) -> Stopped:
        """Trains until there are no more passes, no patience or no time; says which.

        What comes closest on the held-out examples is kept. Or what comes last, if it is closer
        than before, and further away than the closest by no more than chance explains.
        """
        stopped = self._passes()
        if 0 < self.kept < len(self.passes) and stopped != "patience":
            last = self.passes[-1].held_out
            if last < self.before and self._by_chance(self.shares, self.best_shares):
                self.best, self.kept = last, len(self.passes)
                self.weights = [p.detach().clone() for p in self.parameters]
        return stopped

    def _passes(self) -> Stopped:
        settings = self.settings
        self.before = self.best = self.held_out()
        if not math.isfinite(self.before):
            raise TrainingError(
                f"the small model is {self.before} away from the whole one; expected a finite "
                "number. Its outputs are not finite: refit it, or prune less."
            )
        for number in range(settings.passes):
            begun = time.perf_counter()
            seed_generators(self.device, self.seed, number + 1)
            train, rate, in_time = self._one_pass(number)
            away = self.held_out()
            seconds = time.perf_counter() - begun
            self.passes.append(TunePass(rate, train, away, seconds))
            if away < self.best:
                self.best, self.kept, self.best_shares = away, number + 1, self.shares
                self.weights = [p.detach().clone() for p in self.parameters]
            elif self.kept == 0 and away > FAR * self.before:
                self._start_again(LOWER * rate)
                self.undone = number + 1
            if not in_time:
                return "minutes"
            if settings.patience is not None and number + 1 - self.kept >= settings.patience:
                return "patience"
        return "passes"

    def repeat(self, course: Course) -> list[float]:
        """Trains as another run did, and keeps the last weights.

        Returns:
            Mean loss of each pass.
        """
        losses: list[float] = []
        self.rate = course.rate
        for number in range(course.undone, course.passes):
            seed_generators(self.device, self.seed, number + 1)
            loss, _, in_time = self._one_pass(number)
            losses.append(loss)
            if not in_time:
                break
        self.weights = [p.detach().clone() for p in self.parameters]
        return losses

    def course(self) -> Course:
        """The way that it took."""
        return Course(len(self.passes), self.undone, self.rate)

    def _start_again(self, rate: float) -> None:
        """Goes back to the weights from before, with a highest learning rate of ``rate``."""
        self.put_back_best()
        self.rate = rate
        self.optimizer = MasterAdamW(self.parameters, rate)

    def _one_pass(self, number: int) -> tuple[float, float, bool]:
        """Mean loss, last learning rate, and whether there is time left."""
        total, count, rate, in_time = 0.0, 0.0, 0.0, True
        mine = self.examples.steps()
        for at in range(self.steps_per_pass):
            spent = self._spent()
            done = (number * self.steps_per_pass + at) / (
                self.settings.passes * self.steps_per_pass
            )
            rate = self.rate * _schedule(max(done, spent))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, n = self._step(mine[at] if at < len(mine) else None)
            total, count = total + loss * n, count + n
            self.report(
                "tune", number * self.steps_per_pass + at + 1,
                self.settings.passes * self.steps_per_pass,
            )  # fmt: skip
            if self._spent() >= 1:
                in_time = False
                break
        return total / max(count, 1), rate, in_time

    def _spent(self) -> float:
        """Share of the time that is gone, the same on all ranks; 0 without a limit."""
        if self.settings.minutes is None:
            return 0.0
        elapsed = time.perf_counter() - self.started
        thousandths = int(1000 * elapsed / (60 * self.settings.minutes))
        return processes.largest("the time that is gone", thousandths) / 1000

    def _step(self, parts: Parts | None) -> tuple[float, float]:
        """One step on the examples of all ranks; mean loss and number of places that count."""
        self.optimizer.zero_grad()
        sums = counts = torch.zeros(len(self.teacher.scales), device=self.device)
        if parts is not None:
            batch = self.examples.batch(parts).to(self.device)
            augment = self.settings.augment
            if augment is not None:
                batch = augmented(batch, augment)
            answers = self.teacher.answers(parts, batch, changed=augment is not None)
            with (
                blaming(None),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16),
            ):
                found = answer_tensors(self.small(*batch.args, **batch.kwargs))
            sums, counts = self.teacher.apart(found, answers, batch, self.settings.temperature)
        counts = counts.clone()
        processes.all_reduce("the places that count", counts)
        loss = (sums / counts.clamp(min=1)).mean()
        if parts is not None:
            _check_gradient(loss)
            loss.backward()
        value = loss.detach().reshape(1).clone()
        self._reduce(value)
        if not math.isfinite(float(value)):
            raise TrainingError(
                f"the loss of tuning is {float(value)} in pass {len(self.passes) + 1}; expected a "
                f"finite number. Lower learning_rate={self.settings.learning_rate} of mipp.Tune, "
                "or use precision='float32'."
            )
        if self.take_step is None:
            self.optimizer.step()
        else:
            self.take_step(self.optimizer)
        return float(value), float(counts.mean())

    def _reduce(self, value: Tensor) -> None:
        """Sums loss and gradients over the ranks."""
        if processes.rank_and_size()[1] == 1:
            return
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        processes.all_reduce("a step of tuning", value, *gradients)

    def held_out(self) -> float:
        """Divergence on the held-out examples of all ranks, in the model's own precision.

        ``shares`` is what each of several parts of them adds to it.
        """
        counts = torch.zeros(len(self.teacher.scales), dtype=torch.float64, device=self.device)
        found: list[Tensor] = []
        with torch.no_grad():
            for parts in self.examples.pieces(self.examples.held_out, JUDGES):
                batch = self.examples.batch(parts).to(self.device)
                with blaming(None):
                    given = answer_tensors(self.small(*batch.args, **batch.kwargs))
                sums, n = self.teacher.apart(given, self.teacher.answers(parts, batch), batch, 1.0)
                found.append(sums.double())
                counts += n.double()
        processes.all_reduce("the held-out examples", counts)
        if not bool(counts.any()):
            raise InputError(
                "no prediction for the held-out examples counts: all are padding, or have the "
                "target -100. Expected one at least. Give more examples that have labels, or leave "
                "the labels out."
            )
        each = torch.stack(found) if found else counts.new_zeros(0, len(counts))
        self.shares = (each / counts.clamp(min=1)).mean(1)
        away = self.shares.sum().reshape(1)
        processes.all_reduce("the distance on the held-out examples", away)
        return float(away)

    def _by_chance(self, shares: Tensor, other: Tensor) -> bool:
        """Whether the sum of the shares is above the other one by its standard error at most."""
        more = shares - other
        found = torch.stack([more.sum(), more.square().sum(), more.new_tensor(len(more))])
        processes.all_reduce("the parts of the held-out examples", found)
        total, squares, n = found.tolist()
        if n < 2:
            return False
        return total <= math.sqrt(max(squares - total**2 / n, 0.0) * n / (n - 1))

    def put_back_best(self) -> None:
        """The small model gets the best weights so far."""
        with torch.no_grad():
            for parameter, weights in zip(self.parameters, self.weights, strict=True):
                parameter.copy_(weights)
                parameter.grad = None


def _schedule(done: float) -> float:
    """Share of the highest learning rate after this share of the tuning."""
    if done < WARMUP:
        return 0.1 + 0.9 * done / WARMUP
    return (1 + math.cos(math.pi * min((done - WARMUP) / (1 - WARMUP), 1.0))) / 2


def _trained(small: nn.Module) -> list[nn.Parameter]:
    """Parameters that gradients are wanted of; all where there are none."""
    floating = [p for p in small.parameters() if p.is_floating_point()]
    chosen = [p for p in floating if p.requires_grad] or floating
    if not chosen:
        raise InputError("a small model without parameters was given; there is nothing to tune.")
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def _check_gradient(loss: Tensor) -> None:
    if not loss.requires_grad:
        raise InputError(
            "No gradient leads from the small model's outputs to its weights; one was expected, to "
            "tune them. Take torch.no_grad, detach and argmax out of forward, or leave tuning out."
        )
