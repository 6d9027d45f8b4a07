"""Iterative magnitude pruning of units: train, remove the smallest, rewind, and repeat.

Frankle & Carbin 2019, "The lottery ticket hypothesis" (arXiv 1803.03635), with a norm of all the
weights of a unit (Li et al. 2017, arXiv 1608.08710) in place of single weights.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from mipp import retrain, surgery
from mipp.errors import InputError
from mipp.methods.magnitude import L1
from mipp.methods.method import Question, Scores, Spend, Trained, Training, TrainingMethod
from mipp.methods.shared.aggregate import Aggregation, Normalisation
from mipp.methods.shared.training import Trainer, n_batches
from mipp.tracing.guards import duplicate

SLOWER = 5
"""Fine-tuning starts from good weights: its peak rate is the recipe's divided by this."""


@dataclass(frozen=True, kw_only=True)
class IMP(TrainingMethod):
    """Rounds of training, removing the units of smallest norm, and rewinding.

    Optimizer, momentum and schedule start afresh in every training; only what is left is trained,
    as a small net of its own. The L2 norm is our choice, since sums of absolute values over all
    layers empty those of small fan-in first. So are the defaults of fine-tuning: the recipe's
    epochs divided by ``rounds`` (at least one), so that all of it costs one training, and a fifth
    of its rate.

    Attributes:
        rounds: 5, in which a third of the units is reached at the paper's 20% a round. The paper's
            own number for a share rho is ln(rho) / ln(0.8).
        rewind: What the remaining weights and statistics are reset to before each training:
            ``"initial"``, those of the model as it was given (the paper's); ``"early"``, those
            after the first ``early_epochs`` of the first training (Frankle et al. 2020, arXiv
            1912.05671, who also start there for deep nets); or ``"none"``, for trained nets:
            remove, then fine-tune what is left (Han et al. 2015, arXiv 1506.02626), starting with
            the model as it was given.
        early_epochs: See ``rewind``.
        epochs: Of one training, in place of the recipe's.
        peak_lr: Of one training, in place of the recipe's.
        aggregation: As in `mipp.methods.L1`.
        own: As in `mipp.methods.L1`.
        normalise: As in `mipp.methods.L1`.
        last_training: Whether to train after the last removal, too, so that the plan has trained
            weights. Without it they are the rewound ones (with ``"none"``, those just pruned), for
            a retraining by the caller.
    """

    name = "imp"
    summary = "rounds of training, removing the smallest units, and rewinding"
    source = "Frankle & Carbin 2019, arXiv 1803.03635"
    needs = "training"
    at_init = True
    ranking = "global"

    rounds: int = 5
    rewind: Literal["initial", "early", "none"] = "initial"
    early_epochs: int = 1
    epochs: int | None = None
    peak_lr: float | int | None = None
    aggregation: Aggregation = "l2"
    own: bool = False
    normalise: Normalisation = "none"
    last_training: bool = True

    def __post_init__(self) -> None:
        """Refuse trainings that end before they start."""
        super().__post_init__()
        self._at_least(1, "early_epochs", "epochs")

    def run(self, question: Question, training: Training, spend: Spend) -> Trained:
        """The rounds, and the training after them."""
        recipe = self._recipe(training.recipe)
        rewinds = self.rewind != "none"
        n_trainings = self.rounds - (not rewinds) + self.last_training
        trainer = Trainer(question, training, n_trainings * recipe.epochs)
        start, model, keep = question.model, duplicate(question.model), question.keep
        for number in range(1, self.rounds + 1):
            if rewinds:
                early = self.rewind == "early" and number == 1
                step = self._noting_step(start, model, training) if early else None
                trainer.train(model, keep, recipe, step)
            keep = spend(
                self._norms(replace(question, keep=keep), model), keep, number / self.rounds
            )
            if rewinds:
                model = duplicate(start)
            elif number < self.rounds:
                trainer.train(model, keep, recipe)
        if self.last_training:
            trainer.train(model, keep, recipe)
        return Trained(model, keep, trainer.cost)

    def _recipe(self, recipe: retrain.Recipe) -> retrain.Recipe:
        """The recipe of one of the trainings."""
        epochs, rate = recipe.epochs, recipe.peak_lr
        if self.rewind == "none":
            epochs, rate = max(1, epochs // self.rounds), rate / SLOWER
        epochs = epochs if self.epochs is None else self.epochs
        if self.rewind == "early" and self.early_epochs >= epochs:
            raise InputError(
                f"IMP has early_epochs={self.early_epochs}, and one training has {epochs} epochs; "
                "expected fewer to rewind to than there are."
            )
        return replace(
            recipe, epochs=epochs, peak_lr=rate if self.peak_lr is None else self.peak_lr
        )

    def _norms(self, question: Question, model: nn.Module) -> Scores:
        """The norms of what is left: removed inputs do not count."""
        masked = surgery.mask_model(model, question.graph, question.keep)
        norm = L1(aggregation=self.aggregation, own=self.own, normalise=self.normalise)
        return norm.score(replace(question, model=masked))

    def _noting_step(self, start: nn.Module, model: nn.Module, training: Training) -> retrain.Step:
        """A plain step that copies the state of ``model`` to ``start`` after the early epochs."""
        left = self.early_epochs * n_batches(training.batches)

        def step(optimizer: torch.optim.SGD) -> None:
            nonlocal left
            optimizer.step()
            left -= 1
            if left == 0:
                start.load_state_dict(model.state_dict())

        return step
