"""What training and evaluation report: plain numbers."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """``loss``: mean cross-entropy in nats. ``accuracy``: share of right answers, 0 to 1."""

    loss: float
    accuracy: float
    n_samples: int


@dataclass(frozen=True)
class EpochRecord:
    """One epoch, counted from 0.

    ``train`` is measured in train mode while the weights change; its loss is the one trained on,
    with smoothing and distillation. ``evaluation`` is in eval mode after the epoch.
    ``learning_rate`` is that of the last step. ``seconds`` have both and are not compared.
    """

    epoch: int
    train: Evaluation
    evaluation: Evaluation | None
    learning_rate: float
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class History:
    """The epochs of a run, those before an interruption too. ``stopped_early`` by patience."""

    epochs: tuple[EpochRecord, ...]
    stopped_early: bool = False

    @property
    def last(self) -> EpochRecord:
        """The epoch that the weights are from."""
        return self.epochs[-1]

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether the lowest evaluation loss is ``patience`` or more epochs ago."""
        losses = [record.evaluation.loss for record in self.epochs if record.evaluation]
        if patience is None or not losses:
            return False
        return len(losses) - 1 - losses.index(min(losses)) >= patience
