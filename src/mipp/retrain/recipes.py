"""How to train: one record, its learning-rate schedule, and recipes for the built-in networks."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mipp.checks import check_fields
from mipp.errors import InputError

START = 0.1
"""Share of the peak at which a one-cycle schedule starts."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training run except the model, the data and the seed.

    Attributes:
        epochs: passes over the batches.
        peak_lr: highest learning rate.
        momentum: of SGD, 0 to 1.
        nesterov: use Nesterov's momentum.
        weight_decay: factor of the weights that is added to their gradient.
        decay_all: also decay biases and BatchNorm's weights (parameters of one dimension).
        schedule: of the learning rate. ``one-cycle`` rises linearly from a tenth of the peak during
            the ``warmup`` share of all steps and falls to 0 as a cosine; ``cosine`` only falls;
            ``step`` is multiplied by ``drop`` at each milestone; ``constant`` does not change.
        warmup: share of all steps, 0 to 1.
        milestones: shares of all steps, 0 to 1.
        drop: factor at a milestone.
        label_smoothing: share of the target that is spread over all classes, 0 to 1.
        precision: of convolutions and matrix products (autocast); weights, loss and momentum are
            always float32. ``auto`` is bfloat16 where the device computes it fast (GPUs from Ampere
            on, CPUs with AMX, some with AVX512-BF16) and float32 elsewhere; `History.numerics` says
            which it was. All built-in networks but the smallest have it.
        channels_last: memory layout during training; ``auto`` is the faster one for convolutions on
            that device. All built-in networks but the smallest have it; models that reshape with
            ``view`` may need False.
        max_grad_norm: larger gradients are scaled down to this norm; ``None`` does not scale.
        patience: stop after this many epochs in a row without a new lowest loss on ``evaluate_on``;
            the last weights are kept. ``None`` never stops early.
        distill_weight: share of the loss that is the divergence from the teacher, 0 to 1.
        distill_temperature: divisor of both logits in that share.
        batch_size: for the code that makes the batches; the loop takes them as they are.
        augment: same.

    Raises:
        InputError: for a number out of its range.

    Examples:
        >>> recipe = Recipe(epochs=10, peak_lr=0.1, schedule="cosine")
        >>> round(recipe.learning_rate(0.5), 3)
        0.05
    """

    epochs: int = 10
    peak_lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_all: bool = False
    schedule: Literal["one-cycle", "cosine", "step", "constant"] = "one-cycle"
    warmup: float = 0.25
    milestones: tuple[float, ...] = (0.5, 0.75)
    drop: float = 0.1
    label_smoothing: float = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    channels_last: Literal["auto"] | bool = False
    max_grad_norm: float | None = None
    patience: int | None = None
    distill_weight: float = 0.0
    distill_temperature: float = 4.0
    batch_size: int = 128
    augment: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        positive = ("epochs", "peak_lr", "drop", "distill_temperature", "batch_size")
        optional = ("max_grad_norm", "patience")
        shares = ("momentum", "warmup", "label_smoothing", "distill_weight")
        for name in (*positive, *optional):
            value = getattr(self, name)
            if not (value is None and name in optional) and not 0 < value < math.inf:
                raise InputError(f"{name}={value} was given; expected a number above 0.")
        for name in shares:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"{name}={value} was given; expected a share from 0 to 1.")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay={self.weight_decay} was given; expected 0 or more.")
        if any(not 0 <= milestone <= 1 for milestone in self.milestones):
            raise InputError(
                f"milestones={self.milestones} were given; expected shares of the training, from "
                "0 to 1: 0.5 is half-way."
            )

    def learning_rate(self, progress: float) -> float:
        """Learning rate after the share ``progress`` of all steps, from 0 up to 1."""
        if self.schedule == "constant":
            return self.peak_lr
        if self.schedule == "step":
            passed = sum(progress >= milestone for milestone in self.milestones)
            return self.peak_lr * self.drop**passed
        climb = self.warmup if self.schedule == "one-cycle" else 0.0
        if progress < climb:
            return self.peak_lr * (START + (1 - START) * progress / climb)
        falling = (progress - climb) / (1 - climb) if climb < 1 else 1.0
        return self.peak_lr * (1 + math.cos(math.pi * falling)) / 2


# LeNet5 has 99.49 % of the MNIST test split right after this (seed 0)
_SMALL = Recipe(epochs=5, peak_lr=0.05, channels_last="auto", batch_size=64)
# VGG16 at a quarter of its width has 86.4 % of CIFAR-10 right with 14 instead of 30 epochs (seed 0)
_CIFAR = Recipe(
    epochs=30,
    peak_lr=0.1,
    precision="auto",
    channels_last="auto",
    augment=True,
)
_IMAGENET = Recipe(
    epochs=90,
    peak_lr=0.1,
    weight_decay=1e-4,
    decay_all=True,
    schedule="step",
    milestones=(1 / 3, 2 / 3),
    precision="auto",
    channels_last="auto",
    batch_size=256,
    augment=True,
)

_RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "digits_cnn": Recipe(epochs=20, peak_lr=0.05, batch_size=32),
        "mlp": _SMALL,
        "lenet5": _SMALL,
        **dict.fromkeys(("vgg11", "vgg16", "vgg19"), _CIFAR),
        **dict.fromkeys(("resnet20", "resnet20b", "resnet56", "resnet56b"), _CIFAR),
        **dict.fromkeys(("resnet18", "resnet34", "resnet50"), _CIFAR),
        "resnet50_imagenet": _IMAGENET,
    }
)


def recipe_for(name: str) -> Recipe:
    """Recipe that trains the built-in network ``name`` from scratch.

    Raises:
        InputError: for an unknown name; the text lists the known ones.

    Examples:
        >>> recipe_for("lenet5").epochs
        5
    """
    if name not in _RECIPES:
        close = difflib.get_close_matches(name, _RECIPES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"recipe {name!r} was given; expected one of {', '.join(_RECIPES)}.{hint} "
            "For a network of your own make a Recipe."
        )
    return _RECIPES[name]
