"""Pruning while the Trainer of Hugging Face's transformers trains.

Examples:
    ```python
    from transformers import Trainer

    from mipp.integrations.transformers_trainer import PruneCallback

    trainer = Trainer(model, args, train_dataset=dataset)
    prune = PruneCallback(trainer, texts, "macs=50%", rounds=3, every=200)
    trainer.add_callback(prune)
    trainer.train()
    ```
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback

from mipp.errors import FileError, InputError
from mipp.integrations.distillation import distil
from mipp.integrations.rounds import Rounds, rewrap
from mipp.selection import Budget
from mipp.tracing.guards import unwrap

STATE = "mipp"
"""Key among the states of callbacks in ``trainer_state.json``."""


class PruneCallback(TrainerCallback):
    """Prunes the model of a Trainer in rounds while it is trained, until the budget is met.

    The model is pruned in place after an optimizer step, or an epoch. The optimizer keeps the state
    of what stays; learning rate and schedule are not touched. Checkpoints have the indices that
    were kept in their ``trainer_state.json``: to continue from one, call `restore` before
    ``trainer.train(resume_from_checkpoint=...)``. With several processes (DDP) all keep the same
    units; each measures its own batches.

    Attributes:
        rounds: counts the rounds; ``rounds.history`` has the cost after each.

    Args:
        trainer: whose model is pruned. The callback is to be added to it.
        batches: dicts, as the model takes them, for `mipp.plan`; read again in every round.
        budget: of ``macs``, ``params`` or ``units``: ``"macs=50%"``.
        rounds: number of rounds.
        every: optimizer steps (or epochs) from one round to the next.
        start: steps (or epochs) before the first round; ``every`` by default.
        unit: whether these are steps or epochs.
        refit: whether the weights that stay are fitted after each round.
        teacher: unpruned copy of the model from whose logits the model learns, too.
        distill_weight: share of the loss that is the divergence from the teacher.
        temperature: divisor of the logits of both in that share.
        options: further settings of `mipp.plan`.

    Raises:
        InputError: a number below 1, batches that can be read only once, a trainer that splits
            parameters over processes or that loads the best checkpoint at the end, which may be of
            another round.
        BudgetError: a budget that rounds cannot share.
    """

    def __init__(
        self,
        trainer: Any,
        batches: Iterable[Any],
        budget: str | Budget,
        *,
        rounds: int = 1,
        every: int = 100,
        start: int | None = None,
        unit: Literal["step", "epoch"] = "step",
        refit: bool = True,
        teacher: nn.Module | None = None,
        distill_weight: float = 0.5,
        temperature: float = 2.0,
        **options: Any,
    ) -> None:
        if unit not in ("epoch", "step"):
            raise InputError(f"unit={unit!r} was given; expected 'step' or 'epoch'.")
        _check_trainer(trainer)
        self.trainer, self.unit = trainer, unit
        self.rounds = Rounds(
            batches, budget, rounds=rounds, every=every, start=start, refit=refit, **options
        )
        self.teacher, self.distillation = teacher, (distill_weight, temperature)
        self._handle: RemovableHandle | None = None

    def restore(self, checkpoint: str | Path) -> None:
        """Gives the trainer's model the widths of a checkpoint, whose weights then fit.

        Args:
            checkpoint: folder of the checkpoint, as for ``resume_from_checkpoint``.

        Raises:
            FileError: a folder without a trainer state, or of a model that was not pruned.
            InputError: a model that was pruned otherwise.
        """
        path = Path(checkpoint) / "trainer_state.json"
        try:
            state = json.loads(path.read_text(encoding="utf-8"))["stateful_callbacks"]
        except (OSError, ValueError, KeyError) as error:
            raise FileError(
                f"{path} cannot be read: {error}. Give the folder of a checkpoint that Trainer "
                "has written."
            ) from error
        if STATE not in state:
            raise FileError(
                f"{path} has no rounds of pruning: the model was not pruned yet. Resume from it "
                "without restore()."
            )
        self.rounds.restore(self.trainer.model, state[STATE]["attributes"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Checks the trainer, and lets the model learn from the teacher, if there is one."""
        _check_trainer(self.trainer)
        if self.teacher is not None:
            model = unwrap(self.trainer.model)
            self.teacher.to(next(model.parameters()).device)
            self._handle = distil(model, self.teacher, *self.distillation)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """The teacher has done its part."""
        if self._handle is not None:
            self._handle.remove()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Prunes if a round is due."""
        if self.unit == "step":
            self._prune(state, state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Prunes if a round is due."""
        if self.unit == "epoch":
            self._prune(state, round(state.epoch))

    def _prune(self, state: Any, count: int) -> None:
        model = self.trainer.model
        if self.rounds.after(count, model, [self.trainer.optimizer]) is None:
            return
        rewrap(self.trainer.model_wrapped)
        # written into trainer_state.json, and handed on by it when training is resumed
        state.stateful_callbacks[STATE] = {"args": {}, "attributes": self.rounds.state(model)}


def _check_trainer(trainer: Any) -> None:
    """Raises `InputError` where weights of full size are kept outside of the model."""
    args = trainer.args
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise InputError(
            "a Trainer with FSDP or DeepSpeed was given, which split parameters over processes; "
            "expected a single device or DDP. Prune first, then train the small model with it."
        )
    if args.load_best_model_at_end:
        raise InputError(
            "load_best_model_at_end=True was given: the best checkpoint may be of an earlier "
            "round, whose weights do not fit any more. Leave it out, and load a checkpoint "
            "yourself with PruneCallback.restore."
        )
