"""Whether a model compares each label with its output one position earlier.

Causal language models of Hugging Face take ``labels`` that are the tokens themselves, and shift
them inside: the output at one token is to predict the next one. Masked language models and those
that classify tokens compare labels and outputs in the same place. The model's own loss says which
of the two it does: its gradient about the outputs is zero wherever no label counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mipp.statistics.batches import Batch, earlier, labelled
from mipp.statistics.calling import blaming
from mipp.statistics.loss import class_scores
from mipp.tracing.calls import Call, CallHooks
from mipp.tracing.guards import gradients_enabled, measuring, recurrent_gradients


def noting_shift(model: nn.Module, batches: Sequence[Batch], n_tried: int) -> list[Batch]:
    """The batches, marked as `Batch.shifted` if the model shifts the labels that it is given.

    That is tried with a few examples. Targets that the model does not get, as those of pairs, are
    never shifted, nor are those of a model that returns no ``loss``.

    Args:
        model: is run once, and left as it was.
        batches: with which the model can be called.
        n_tried: examples that it is tried with.

    Raises:
        CalibrationError: the model fails on them.
    """
    for number, batch in enumerate(batches):
        labels = batch.kwargs.get("labels")
        if not isinstance(labels, Tensor) or labels.dim() != 2 or labels.is_floating_point():
            continue
        rows = labelled(labels)[:, 1:].any(1).nonzero().flatten()
        if len(rows):
            first = max(min(int(rows[0]), len(batch) - n_tried), 0)
            with blaming(number):
                shifted = _shifts(model, batch.part(first, first + n_tried))
            return [replace(batch, shifted=shifted) for batch in batches]
    return list(batches)


def _shifts(model: nn.Module, batch: Batch) -> bool:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    moved = batch.to(device)
    anchor = torch.zeros((), device=device, requires_grad=True)

    def after(_call: Call, output: Tensor) -> Tensor:
        return output + anchor.to(output.dtype)  # the only thing that a gradient is wanted of

    hooks = CallHooks(model, after=after, grouped=True)
    with gradients_enabled(), measuring(model), recurrent_gradients(model), hooks:
        output = model(*moved.args, **moved.kwargs)
    loss = output.get("loss") if isinstance(output, Mapping) else None
    found = class_scores(output, moved.kwargs["labels"])
    if not isinstance(loss, Tensor) or found is None:
        return False
    return bool(loss_shifts(loss, *found, moved.kwargs["labels"]))


def loss_shifts(loss: Tensor, scores: Tensor, dim: int, labels: Tensor) -> bool | None:
    """Whether a loss compares each label with the scores one position earlier.

    Args:
        loss: one number.
        scores: that it was computed from, (batch, ..., classes, ...).
        dim: of the classes.
        labels: (batch, length).

    Returns:
        None where that cannot be said: there are no labels but at first positions, or no gradient.
    """
    counts = labelled(labels)
    places = scores.movedim(dim, -1).shape[:-1]
    if loss.dim() or not (loss.requires_grad and scores.requires_grad) or places != labels.shape:
        return None
    if not bool(counts[:, 1:].any()):
        return None
    (gradient,) = torch.autograd.grad(loss, scores, retain_graph=True, materialize_grads=True)
    read = (gradient != 0).any(dim)
    before = labelled(earlier(labels))
    alone = before & ~counts
    return not bool((read & ~before).any()) and bool((read & alone if alone.any() else read).any())
