"""What a training run has done so far: its epochs, and the checkpoint from which it can continue.

A checkpoint has weights, momentum and history in one safetensors file, written atomically. Batches,
augmentation and dropout of an epoch are functions of ``(seed, epoch)``, so these two numbers are
all the state that random generators have between epochs.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mipp.atomic_files import replacing
from mipp.errors import FileError, TrainingError
from mipp.retrain.numerics import Numerics
from mipp.retrain.recipes import Recipe


@dataclass(frozen=True)
class Evaluation:
    """How good a model is.

    Attributes:
        loss: mean cross-entropy in nats.
        accuracy: share of right answers, 0 to 1.
        n_samples: number of examples.

    Examples:
        >>> Evaluation(loss=0.1, accuracy=0.97, n_samples=359).accuracy
        0.97
    """

    loss: float
    accuracy: float
    n_samples: int


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of training.

    Attributes:
        epoch: counted from 0.
        train: measured in train mode while the weights change; the loss is the training loss, with
            smoothing and distillation.
        evaluation: in eval mode after the epoch.
        learning_rate: of the last step.
        seconds: for training and evaluation; not compared by ``==``.

    Examples:
        >>> record = EpochRecord(0, Evaluation(0.4, 0.9, 1438), None, 0.1, seconds=2.5)
        >>> record.train.loss
        0.4
    """

    epoch: int
    train: Evaluation
    evaluation: Evaluation | None
    learning_rate: float
    seconds: float = field(compare=False)

    def metrics(self) -> dict[str, float]:
        """The epoch's figures as one flat dict, for loggers.

        ``train/loss``, ``train/accuracy``, ``learning_rate`` and ``seconds``, and with an
        evaluation ``evaluation/loss`` and ``evaluation/accuracy``.
        """
        found = {"train/loss": self.train.loss, "train/accuracy": self.train.accuracy}
        if self.evaluation is not None:
            found |= {
                "evaluation/loss": self.evaluation.loss,
                "evaluation/accuracy": self.evaluation.accuracy,
            }
        return found | {"learning_rate": self.learning_rate, "seconds": self.seconds}


@dataclass(frozen=True)
class History:
    """The epochs of a run.

    Attributes:
        epochs: all of them, those before an interruption too.
        stopped_early: whether the run ran out of patience.
        numerics: precision and memory layout that the last run of it computed in; None in
            checkpoints that do not say.

    Examples:
        >>> record = EpochRecord(0, Evaluation(0.4, 0.9, 1438), None, 0.1, seconds=2.5)
        >>> History((record,)).last.train.accuracy
        0.9
    """

    epochs: tuple[EpochRecord, ...]
    stopped_early: bool = False
    numerics: Numerics | None = None

    @property
    def last(self) -> EpochRecord:
        """The latest epoch."""
        return self.epochs[-1]

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether the lowest evaluation loss is ``patience`` or more epochs ago."""
        losses = [record.evaluation.loss for record in self.epochs if record.evaluation]
        if patience is None or not losses:
            return False
        return len(losses) - 1 - losses.index(min(losses)) >= patience


FORMAT = "mipp-training-1"
_MODEL, _MOMENTUM = "model/", "momentum/"


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.SGD,
    recipe: Recipe,
    seed: int,
    history: History,
) -> None:
    """Write the state after the last epoch of ``history``; an older file is replaced atomically."""
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[_MOMENTUM + name] = momentum
    # clone: safetensors takes neither tied nor channels-last tensors
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {
        "format": FORMAT,
        "seed": str(seed),
        "recipe": json.dumps(asdict(recipe)),
        "history": json.dumps(asdict(history)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(safetensors.torch.save(whole, metadata))


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.SGD, recipe: Recipe, seed: int
) -> History:
    """Restore weights and momentum, and return the history so far; change nothing on failure.

    Raises:
        FileError: if the file is damaged or not a checkpoint.
        TrainingError: if it belongs to another run, with another recipe, seed or model.
    """
    from pydantic import TypeAdapter  # noqa: PLC0415 - only reading needs it

    tensors, metadata = _read(path)
    try:
        saved_recipe = TypeAdapter(Recipe).validate_json(metadata["recipe"])
        history = TypeAdapter(History).validate_json(metadata["history"])
        saved_seed = int(metadata["seed"])
    except (KeyError, ValueError) as error:
        raise FileError(
            f"checkpoint {path} has metadata that cannot be read ({error}); expected what "
            f"training writes ({FORMAT}). Remove it to start anew."
        ) from error
    given = {**asdict(recipe), "seed": seed}
    saved = {**asdict(saved_recipe), "seed": saved_seed}
    differ = [
        f"{key}={given[key]} (was {saved[key]})"
        for key in given
        if given[key] not in (saved[key], *_same_numerics(key, saved[key], history.numerics))
    ]
    if differ:
        raise TrainingError(
            f"checkpoint {path} is of another run; given {', '.join(differ)}. Train on with the "
            "same recipe and seed, or name another file."
        )
    state = _part(tensors, _MODEL)
    _must_fit(path, state, model.state_dict())
    momenta = _part(tensors, _MOMENTUM)
    parameters = dict(model.named_parameters())
    _must_fit(path, momenta, {name: parameters[name] for name in momenta if name in parameters})
    model.load_state_dict(state)
    for name, momentum in momenta.items():
        parameter = parameters[name]
        # empty_like keeps the layout of the parameter, channels last or not
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
    return history


def _same_numerics(name: str, saved: Any, numerics: Numerics | None) -> list[Any]:
    """Other values of ``precision`` and ``channels_last`` with which the same run can go on."""
    if name not in ("precision", "channels_last"):
        return []
    computed_in = [getattr(numerics, name)] if saved == "auto" and numerics is not None else []
    return ["auto", *computed_in]


def _read(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(
            f"checkpoint {path} cannot be read ({error}); expected a whole safetensors file. "
            "Remove it to start anew."
        ) from error
    if metadata.get("format") != FORMAT:
        raise FileError(
            f"{path} is not a training checkpoint: its format is {metadata.get('format')!r}, "
            f"expected {FORMAT!r}. Name another file."
        )
    return tensors, metadata


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _must_fit(path: Path, saved: Mapping[str, Tensor], mine: Mapping[str, Tensor]) -> None:
    for name in sorted(saved.keys() | mine.keys()):
        shapes = [tuple(part[name].shape) if name in part else None for part in (saved, mine)]
        if shapes[0] != shapes[1]:
            raise TrainingError(
                f"checkpoint {path} does not fit the model: {name} has shape {shapes[0]} in the "
                f"file and {shapes[1]} in the model. Give the model that was trained, or name "
                "another file."
            )
