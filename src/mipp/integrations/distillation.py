"""Training a pruned model partly on the outputs of the unpruned one."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mipp.errors import InputError
from mipp.retrain.divergence import divergence
from mipp.statistics import loss_shifts
from mipp.statistics.batches import earlier, labelled

__all__ = ["distil", "divergence"]


def distil(
    model: nn.Module, teacher: nn.Module, weight: float = 0.5, temperature: float = 2.0
) -> RemovableHandle:
    """Mixes the divergence from a teacher into the loss that a model returns while it trains.

    The loss becomes ``(1 - weight) * loss + weight * divergence``, averaged over the positions that
    have to give a label: of causal language models the ones before. In evaluation mode nothing
    changes.

    Args:
        model: returns an object with ``loss`` and ``logits``, as Hugging Face's models do when they
            are given labels.
        teacher: takes the same inputs and has logits of the same shape, usually a copy of the model
            before it was pruned; is put into evaluation mode and not trained.
        weight: share of the divergence, above 0 up to 1.
        temperature: see `divergence`.

    Returns:
        A handle; ``handle.remove()`` ends it.

    Raises:
        InputError: a weight or temperature out of its range, or the model itself as its teacher.
    """
    if not 0 < weight <= 1 or not temperature > 0:
        raise InputError(
            f"weight={weight} and temperature={temperature} were given; expected a share above 0 "
            "up to 1, and a temperature above 0."
        )
    if teacher is model:
        raise InputError(
            "the model was given as its own teacher; expected a copy that is not pruned, such as "
            "copy.deepcopy(model)."
        )
    teacher.eval().requires_grad_(requires_grad=False)
    shifted: bool | None = None

    def mix(module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> Any:
        nonlocal shifted
        if module.training and getattr(output, "loss", None) is not None:
            left_out = [_COUNT] if _decodes_labels(teacher) else [_COUNT, "labels"]
            given = {k: v for k, v in kwargs.items() if k not in left_out}
            with torch.no_grad():
                taught = teacher(*args, **given).logits
            apart = divergence(output.logits, taught, temperature)
            labels = kwargs.get("labels")
            if isinstance(labels, Tensor) and labels.dim() == 2:
                if shifted is None:
                    shifted = loss_shifts(output.loss, output.logits, -1, labels)
                labels = earlier(labels) if shifted else labels
            output.loss = (1 - weight) * output.loss + weight * _mean(
                apart, _counted(apart, labels), kwargs.get(_COUNT)
            )
        return output

    # a function, so that copies of the model do not copy the teacher
    return model.register_forward_hook(mix, with_kwargs=True)


_COUNT = "num_items_in_batch"
"""Keyword of Hugging Face's models: labelled positions of all batches of a step."""


def _decodes_labels(model: nn.Module) -> bool:
    """Whether the labels may be inputs, too, as those of T5 are for its decoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _counted(apart: Tensor, labels: Any) -> Bool[Tensor, "*batch"]:
    if isinstance(labels, Tensor) and labels.shape == apart.shape:
        return labelled(labels)
    return torch.ones_like(apart, dtype=torch.bool)


def _mean(apart: Tensor, counted: Tensor, items: Any) -> Tensor:
    """Over the positions of the batch, or, where gradients are accumulated, of all of its step."""
    return apart[counted].sum() / (counted.sum().clamp(min=1) if items is None else items)
