"""The training loss, its gradient and Hessian products, over the examples of a question."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mipp.errors import InputError
from mipp.methods.method import Question
from mipp.statistics import Batch
from mipp.statistics.loss import answer_tensors, called, class_scores, settle
from mipp.surgery.attributes import (
    BATCH_NORMS,
    CONVOLUTIONS,
    INSTANCE_NORMS,
    TRANSPOSED_CONVOLUTIONS,
)

Norms = Literal["train", "eval"]
"""Whether norms with running statistics use those of the batch (``train``) or the running ones
(``eval``). Everything else, dropout above all, is in evaluation mode: a score needs no noise."""


def set_norms(model: nn.Module, norms: Norms, batches: Sequence[Batch]) -> None:
    """Puts every BatchNorm and InstanceNorm of the model into that mode, in place.

    Raises:
        InputError: A batch has a single example, and statistics of the batch are needed.
    """
    layers = [m for m in model.modules() if isinstance(m, (*BATCH_NORMS, *INSTANCE_NORMS))]
    for layer in layers:
        layer.train(norms == "train")
    if layers and norms == "train" and min(len(batch) for batch in batches) < 2:
        raise InputError(
            "norms='train' needs batches of two examples or more, to take statistics of. Give more "
            "examples, or use norms='eval'."
        )


def task_loss(
    question: Question, output: Any, batch: Batch, temperature: float = 1.0
) -> Float[Tensor, ""]:
    """Mean over the examples of the loss that the net is trained with.

    It is cross-entropy for class numbers, mean squared error for other targets, or the caller's own
    function. The loss of a model that takes its labels and returns a ``loss``, as Hugging Face's
    do, is used as it is (unless a temperature is requested).

    Args:
        question: Its ``loss``.
        output: Of the model.
        batch: Its targets.
        temperature: Logits are divided by it before the cross-entropy.

    Raises:
        InputError: The targets do not fit the output.
    """
    if not isinstance(question.loss, str):
        return called(question.loss, output, batch.target) / len(batch)
    kind, _ = settle(question.loss, output, batch.target)
    own = output.get("loss") if isinstance(output, Mapping) else None
    if isinstance(own, Tensor) and own.dim() == 0 and temperature == 1.0:
        return own
    outputs, target = answer_tensors(output), batch.aligned
    wide = outputs[0] if outputs[0].dtype == torch.float64 else outputs[0].float()
    scores = class_scores(output, target)
    if kind == "categorical" and scores is not None and isinstance(target, Tensor):
        try:
            return F.cross_entropy(wide.movedim(scores[1], 1) / temperature, target)
        except (ValueError, IndexError, RuntimeError) as error:
            raise InputError(
                f"The targets of shape {tuple(target.shape)}, from {int(target.min())} to "
                f"{int(target.max())}, do not fit the model's scores of shape "
                f"{tuple(wide.shape)}: {str(error).rstrip('.')}. Give one class number below "
                f"{wide.shape[scores[1]]} for each example, or loss= a function of (output, "
                "target)."
            ) from error
    if len(outputs) != 1 or not isinstance(target, Tensor) or target.shape != wide.shape:
        found = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise InputError(
            f"The model gives {[tuple(o.shape) for o in outputs]} for targets {found}; expected "
            "class numbers, or targets of the output's shape. Give loss= a function of "
            "(output, target)."
        )
    return F.mse_loss(wide, target.to(wide))


def gradient(
    question: Question, batches: Sequence[Batch], temperature: float = 1.0
) -> dict[str, Tensor]:
    """Gradient of the mean loss over all examples, zero for entries fixed at zero."""
    named = question.parameters()
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    for batch, share in shares(batches):
        made = torch.autograd.grad(
            _loss(question, batch, temperature), list(named.values()), materialize_grads=True
        )
        for name, part in zip(named, made, strict=True):
            total[name] += share * part
    return only_live(question, total)


def hessian_product(
    question: Question,
    batches: Sequence[Batch],
    vector: Mapping[str, Tensor],
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Hessian of the mean loss over all examples times a vector, zero for entries fixed at zero.

    Args:
        question: The net and the loss.
        batches: The examples.
        vector: Parameter name -> entries in its shape; zero for parameters that are absent.
        temperature: See `task_loss`.
    """
    named = question.parameters()
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    for batch, share in shares(batches):
        loss = _loss(question, batch, temperature)
        first = torch.autograd.grad(
            loss, list(named.values()), create_graph=True, materialize_grads=True
        )
        along = torch.zeros((), device=loss.device)
        for name, part in zip(named, first, strict=True):
            if name in vector:
                along = along + (part * vector[name].detach()).sum()
        if not along.requires_grad:  # the loss is linear in all weights
            continue
        second = torch.autograd.grad(along, list(named.values()), materialize_grads=True)
        for name, part in zip(named, second, strict=True):
            total[name] += share * part
    return only_live(question, total)


def only_live(question: Question, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values, zero for entries of the net that are fixed at zero."""
    return {name: v * question.live[name] if name in question.live else v
            for name, v in values.items()}  # fmt: skip


def layer_weights(question: Question) -> set[str]:
    """Names of the weights of layers: no biases and no norm parameters.

    These are the weights of convolutions and linear layers, prunable or not, and of everything else
    that makes or reads units.
    """
    graph = question.graph
    made = {key.tensor for group in graph.groups for key in group.producers}
    return made | {c.weight for c in graph.consumers} | set(prunable_weights(question.model))


def prunable_weights(model: nn.Module) -> list[str]:
    """Names of the weights of convolutions and linear layers, first and last ones too."""
    kinds = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, nn.Linear)
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    weights = {id(layer.weight) for layer in layers}
    return [name for name, p in model.named_parameters() if id(p) in weights]


def shares(batches: Sequence[Batch]) -> list[tuple[Batch, float]]:
    """Each batch with its share of all examples."""
    total = sum(len(batch) for batch in batches)
    return [(batch, len(batch) / total) for batch in batches]


def _loss(question: Question, batch: Batch, temperature: float) -> Tensor:
    return task_loss(question, question.model(*batch.args, **batch.kwargs), batch, temperature)
