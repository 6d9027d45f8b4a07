"""One plain training loop, the same for every method, and evaluation."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mipp.errors import InputError, TrainingError
from mipp.options import Progress
from mipp.progress import LOGGER, Follower, following, in_words, rank
from mipp.retrain.history import EpochRecord, Evaluation, History, load_checkpoint, save_checkpoint
from mipp.retrain.numerics import Numerics, layout_for, numerics_for
from mipp.retrain.recipes import Recipe
from mipp.tracing.guards import channels_last as laid_out
from mipp.tracing.guards import generators_kept, gradients_enabled, modes_kept, seed_generators

Step = Callable[[torch.optim.SGD], None]
"""One step of training, called with gradients and learning rate set; calls ``optimizer.step()``."""


@runtime_checkable
class EpochBatches(Protocol):
    """Batches with a separate order for every epoch, such as `mipp.data.Batches`."""

    def epoch(self, epoch: int) -> Iterator[Any]:
        """The batches ``(x, y)`` of one epoch, counted from 0."""
        ...


def train(
    model: nn.Module,
    batches: Iterable[Any],
    recipe: Recipe,
    *,
    evaluate_on: Iterable[Any] | None = None,
    teacher: nn.Module | None = None,
    checkpoint: str | PathLike[str] | None = None,
    step: Step | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> History:
    """Train a classifier in place, on its device, with SGD.

    The same model, batches, recipe and seed give the same weights bit for bit on one machine's
    CPU, whether or not the run was interrupted. The mode of every module, the layout of the weights
    and the global random generators are restored afterwards, also after an error; gradients are
    cleared.

    Args:
        model: returns logits of shape ``(n, classes)``.
        batches: pairs ``(x, y)`` with class indices ``y``; must have a length. With a method
            ``epoch(k)``, as in `mipp.data.Batches`, every epoch has its own order.
        recipe: how to train.
        evaluate_on: batches to evaluate after every epoch. Where the result matters to the training
            (``recipe.patience``), do not use the test split.
        teacher: model to distil from, usually the unpruned one; it is not changed.
        checkpoint: file to write after every epoch; if it exists, training continues from it.
        step: replaces ``optimizer.step()``, which it calls itself: it may look at gradients before
            and change weights after it. Its own state is not in the checkpoint.
        on_epoch: called with the record of each epoch once it is done (and in the checkpoint), such
            as ``sink.log_epoch`` of `mipp.integrations.loggers`. Epochs of a checkpoint that
            training continues from are not repeated.
        seed: of dropout, and of shuffling where ``batches`` draws from torch's global generator.
        progress: None shows a bar on terminals and in notebooks, and elsewhere logs a line an epoch
            (level INFO of the logger ``mipp``). True shows a bar, or lines on stderr where there
            can be none; False only logs. A function is called as ``progress("train", done,
            total)`` after each step.

    Returns:
        Losses, accuracies and learning rates of all epochs, and what they were computed in.

    Raises:
        InputError: if batches have no length, are not pairs or are missing; for a teacher without
            ``distill_weight`` and the reverse; for patience without ``evaluate_on``.
        TrainingError: if the loss is not finite, or the checkpoint belongs to another run.
        FileError: if the checkpoint is damaged.

    Examples:
        >>> import mipp
        >>> model = mipp.models.build("digits_cnn", seed=0)
        >>> batches = mipp.data.Batches(mipp.data.load("digits"), 64, shuffle=True)
        >>> history = train(model, batches, Recipe(epochs=1, peak_lr=0.05), progress=False)
        >>> history.last.epoch
        0
    """
    n_batches = _checked(batches, recipe, evaluate_on, teacher)
    device = _device(model)
    path = None if checkpoint is None else Path(checkpoint)
    with ExitStack() as stack:
        stack.enter_context(gradients_enabled())
        stack.enter_context(modes_kept(model))
        stack.enter_context(generators_kept([device]))
        numerics = numerics_for(device, recipe.precision, recipe.channels_last)
        stack.enter_context(laid_out(model, enabled=numerics.channels_last))
        if teacher is not None:
            stack.enter_context(modes_kept(teacher))
            teacher.eval()
        optimizer = _optimizer(model, recipe)
        stack.callback(optimizer.zero_grad)
        history = History(())
        if path is not None and path.exists():
            history = load_checkpoint(path, model, optimizer, recipe, seed)
        if progress is None or isinstance(progress, bool):
            _say_numerics(numerics, history.numerics)
        history = replace(history, numerics=numerics)
        follower = stack.enter_context(following(progress, stages=False))
        while len(history.epochs) < recipe.epochs and not history.stopped_early:
            epoch, started = len(history.epochs), time.perf_counter()
            seed_generators(device, seed, epoch)
            result, rate = _one_epoch(
                model, batches, recipe, numerics, optimizer, epoch, n_batches, teacher, step,
                follower,
            )  # fmt: skip
            evaluation = None if evaluate_on is None else evaluate(model, evaluate_on)
            seconds = time.perf_counter() - started
            record = EpochRecord(epoch, result, evaluation, rate, seconds)
            history = replace(history, epochs=(*history.epochs, record))
            history = replace(history, stopped_early=history.out_of_patience(recipe.patience))
            follower.line(_in_a_line(history, recipe.epochs))
            if path is not None:
                save_checkpoint(path, model, optimizer, recipe, seed, history)
            if on_epoch is not None:
                on_epoch(record)
    return history


def evaluate(
    model: nn.Module, batches: Iterable[Any], *, channels_last: Literal["auto"] | bool = False
) -> Evaluation:
    """Measure cross-entropy and accuracy in eval mode, in the model's own precision.

    Modes of all modules and the layout of the weights are restored afterwards, also after an error.

    Args:
        model: returns logits of shape ``(n, classes)``.
        batches: pairs ``(x, y)`` with class indices ``y``.
        channels_last: memory layout to compute in; ``"auto"`` is the faster one for convolutions.

    Raises:
        InputError: if there are no batches, or one is not a pair ``(x, y)``.

    Examples:
        >>> import mipp
        >>> model = mipp.models.build("digits_cnn", seed=0)
        >>> test = mipp.data.Batches(mipp.data.load("digits", "test"), 500)
        >>> evaluate(model, test).n_samples
        359
    """
    device = _device(model)
    last = layout_for(model, channels_last)
    total, right, n_samples = 0.0, 0, 0
    with torch.no_grad(), modes_kept(model), laid_out(model, enabled=last):
        model.eval()
        for batch in batches:
            x, y = _pair(batch, device)
            logits = _logits(model, x)
            total += F.cross_entropy(logits, y, reduction="sum").item()
            right += int((logits.argmax(1) == y).sum())
            n_samples += len(y)
    if n_samples == 0:
        raise InputError("no batches were given to evaluate on; expected at least one.")
    return Evaluation(total / n_samples, right / n_samples, n_samples)


def loss_of(
    logits: Float[Tensor, "n classes"],
    y: Int64[Tensor, " n"],
    recipe: Recipe,
    teacher_logits: Float[Tensor, "n classes"] | None = None,
) -> Float[Tensor, ""]:
    """Mean loss in nats: cross-entropy, and a share of the divergence from the teacher.

    The divergence is multiplied by the temperature squared, so that its gradients keep their size
    (Hinton, Vinyals & Dean 2015).
    """
    loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
    if teacher_logits is None:
        return loss
    temperature = recipe.distill_temperature
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, 1),
        F.log_softmax(teacher_logits / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    weight = recipe.distill_weight
    return (1 - weight) * loss + weight * temperature**2 * divergence


def _one_epoch(
    model: nn.Module,
    batches: Iterable[Any],
    recipe: Recipe,
    numerics: Numerics,
    optimizer: torch.optim.SGD,
    epoch: int,
    n_batches: int,
    teacher: nn.Module | None,
    take_step: Step | None,
    follower: Follower,
) -> tuple[Evaluation, float]:
    """Train for one epoch; return mean loss and accuracy, and the last learning rate."""
    device = _device(model)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=numerics.precision == "bfloat16")
    total, right, n_samples, rate = 0.0, 0, 0, math.nan
    model.train()
    for step, batch in enumerate(
        batches.epoch(epoch) if isinstance(batches, EpochBatches) else batches
    ):
        rate = recipe.learning_rate((epoch + step / n_batches) / recipe.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, y = _pair(batch, device)
        if numerics.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with autocast:
            logits = _logits(model, x)
            with torch.no_grad():
                taught = None if teacher is None else _logits(teacher, x)
        if taught is not None and taught.shape != logits.shape:
            raise InputError(
                f"a teacher with {taught.shape[1]} outputs was given for a model with "
                f"{logits.shape[1]}; expected the same classes."
            )
        loss = loss_of(logits, y, recipe, taught)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at epoch {epoch}, step {step} (learning rate {rate:.3g}); "
                f"expected a finite number. Lower peak_lr={recipe.peak_lr}, set max_grad_norm "
                f"(now {recipe.max_grad_norm}), use precision='float32', and look for NaN in "
                "the data."
            )
        loss.backward()
        if recipe.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        if take_step is None:
            optimizer.step()
        else:
            take_step(optimizer)
        total += value * len(y)
        right += int((logits.argmax(1) == y).sum())
        n_samples += len(y)
        follower.describe(f"epoch {epoch + 1} of {recipe.epochs}, loss {value:.3f}")
        follower("train", epoch * n_batches + step + 1, recipe.epochs * n_batches)
    if n_samples == 0:
        raise InputError(
            f"no batches came in epoch {epoch}; expected {n_batches}. Give batches that can be "
            "iterated more than once, such as a list."
        )
    return Evaluation(total / n_samples, right / n_samples, n_samples), rate


def _checked(
    batches: Iterable[Any],
    recipe: Recipe,
    evaluate_on: Iterable[Any] | None,
    teacher: nn.Module | None,
) -> int:
    """Number of batches per epoch; checks that the arguments agree with each other."""
    if not isinstance(batches, Sized) or len(batches) == 0:
        raise InputError(
            f"{type(batches).__name__} without length, or empty, was given as batches; expected "
            "something that has a length and can be iterated again, such as a list, a DataLoader "
            "or mipp.data.Batches."
        )
    if (teacher is None) != (recipe.distill_weight == 0):
        raise InputError(
            f"distill_weight={recipe.distill_weight} was given "
            f"{'without' if teacher is None else 'with'} a teacher; expected a weight above 0 "
            "together with a teacher, or neither."
        )
    if recipe.patience is not None and evaluate_on is None:
        raise InputError(
            f"patience={recipe.patience} was given without evaluate_on; expected batches that "
            "tell when to stop."
        )
    return len(batches)


def _pair(batch: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise InputError(
            f"a batch of type {type(batch).__name__} was given; expected a pair (x, y) of inputs "
            "and class indices."
        )
    x, y = batch
    return x.to(device, non_blocking=True), y.to(device, non_blocking=True)


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    logits = model(x)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"the model gave {shape} for {len(x)} examples; expected logits ({len(x)}, classes). "
            "Wrap a model that returns something else."
        )
    return logits.float()


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if recipe.decay_all or parameter.dim() > 1]
    spared = [parameter for parameter in trained if not (recipe.decay_all or parameter.dim() > 1)]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=recipe.peak_lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )


def _device(model: nn.Module) -> torch.device:
    for parameter in model.parameters():
        return parameter.device
    raise InputError("a model without parameters was given; there is nothing to train in it.")


def _say_numerics(numerics: Numerics, before: Numerics | None) -> None:
    """One line of what this run computes in, and whether its first epochs had other numbers."""
    if rank() > 0:
        return
    LOGGER.info("training %s", numerics)
    if before is not None and numerics.precision != before.precision:
        LOGGER.warning(
            "the epochs of the checkpoint were computed in %s, and those that follow are in %s",
            before.precision, numerics.precision,
        )  # fmt: skip


def _in_a_line(history: History, epochs: int) -> str:
    """The latest epoch, with the time left."""
    last = history.last
    words = f"epoch {last.epoch + 1} of {epochs}: loss {last.train.loss:.3f}, "
    words += f"{100 * last.train.accuracy:.2f} % right"
    if last.evaluation is not None:
        words += f" (evaluated: {last.evaluation.loss:.3f}, {100 * last.evaluation.accuracy:.2f} %)"
    words += f", {in_words(last.seconds)}"
    left = epochs - len(history.epochs)
    if history.stopped_early:
        return f"{words}, out of patience"
    return f"{words}, about {in_words(left * last.seconds)} left" if left else words
