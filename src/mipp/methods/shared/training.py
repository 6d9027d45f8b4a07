"""Training inside a method: by the caller's recipe, at the widths left, with its cost counted."""

from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from mipp import graph, retrain, surgery
from mipp.errors import InputError
from mipp.methods.method import Question, Training, TrainingCost
from mipp.records import AxisKey, ChannelGraph, IntArray, Keep
from mipp.surgery.tensors import named_tensors


class Trainer:
    """Trains models for one method, each training with an optimizer and a schedule of its own.

    Attributes:
        cost: Of all trainings so far.
    """

    def __init__(self, question: Question, training: Training, epochs: int) -> None:
        """Counts ``epochs`` of all trainings together, for the progress."""
        self._question, self._training = question, training
        self._steps = epochs * n_batches(training.batches)
        self._runs = 0
        self.cost = TrainingCost()

    def train(
        self,
        model: nn.Module,
        keep: Keep,
        recipe: retrain.Recipe,
        step: retrain.Step | None = None,
    ) -> None:
        """Trains the kept units of a full-size model, in place.

        They are trained as a small net of their own, so that removed units stay as they are in
        ``model`` and cost nothing.

        Args:
            model: The full-size model.
            keep: The units to train.
            recipe: Of this training.
            step: As in `mipp.retrain.train`; of the small net.
        """
        traced = self._question.graph
        kept = surgery.kept_indices(traced, surgery.with_placeholders(traced, keep))
        small = narrowed(model, traced, keep) if kept else model
        mixed = np.random.SeedSequence([self._question.seed, self._runs]).generate_state(1)
        history = retrain.train(
            small,
            self._training.batches,
            recipe,
            step=self._counted(step),
            seed=int(mixed[0]),
            progress=False,
        )
        put_back(model, small, kept, traced.aliases)
        seen = sum(epoch.train.n_samples for epoch in history.epochs)
        self._runs += 1
        self.cost = replace(
            self.cost,
            epochs=self.cost.epochs + len(history.epochs),
            examples=self.cost.examples + seen,
            macs=self.cost.macs + seen * graph.cost(traced, keep).macs,
        )

    def _counted(self, step: retrain.Step | None) -> retrain.Step:
        def take(optimizer: torch.optim.SGD) -> None:
            if step is None:
                optimizer.step()
            else:
                step(optimizer)
            self.cost = replace(self.cost, steps=self.cost.steps + 1)
            if self._training.progress is not None:
                self._training.progress(self.cost.steps, self._steps)

        return take


def n_batches(batches: Iterable[Any]) -> int:
    """Steps of one epoch.

    Raises:
        InputError: The batches have no length, or there are none.
    """
    if not isinstance(batches, Sized) or len(batches) == 0:
        raise InputError(
            f"training= has batches of type {type(batches).__name__} without length, or empty; "
            "expected a list, a DataLoader or mipp.data.Batches."
        )
    return len(batches)


def narrowed(model: nn.Module, traced: ChannelGraph, keep: Keep) -> nn.Module:
    """A small net of the kept units. Empty layers have one unit, with zero weights."""
    kept = surgery.kept_indices(traced, surgery.with_placeholders(traced, keep))
    masked = surgery.mask_model(model, traced, keep)
    return surgery.slice_graph(masked, traced, kept)


def put_back(
    model: nn.Module,
    small: nn.Module,
    kept: Mapping[AxisKey, IntArray],
    aliases: Mapping[str, str],
) -> None:
    """Writes parameters and buffers of the small net to their places in the full-size one."""
    if small is model:
        return
    parts = named_tensors(small)
    with torch.no_grad():
        for name, whole in named_tensors(model).items():
            places = [np.arange(size) for size in whole.shape]
            for dim in range(whole.dim()):
                places[dim] = kept.get(AxisKey(aliases.get(name, name), dim), places[dim])
            at = tuple(torch.from_numpy(place) for place in np.ix_(*places)) if places else ...
            whole[at] = parts[name]
