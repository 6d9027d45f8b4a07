"""The loss whose Fisher information says how finely a layer's output matters.

It is the Fisher information under the model's own predictions (not the empirical one of the given
labels: Kunstner, Hennig and Balles 2019, arXiv 1905.12558).
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from mipp.checks import shown
from mipp.errors import CalibrationError, InputError
from mipp.statistics.batches import Batch, labelled
from mipp.tracing.calls import token_mask

LossKind = Literal["categorical", "gaussian"]
Loss = LossKind | Callable[[Any, Any], Tensor]
"""``categorical``, ``gaussian`` (unit variance), or a function of (model output, target) that
gives the sum over the examples of the loss in nats."""

_BESIDE = (
    "loss", "aux_loss", "past_key_values", "hidden_states", "attentions", "cross_attentions",
    "encoder_hidden_states", "encoder_attentions", "encoder_last_hidden_state",
    "decoder_hidden_states", "decoder_attentions", "router_logits",
)  # fmt: skip
"""What Hugging Face's models return besides their answer, by name."""


def floating_outputs(output: Any) -> list[Tensor]:
    """The floating-point tensors in what a model returns (tensor, tuple, dict, dataclass)."""
    if isinstance(output, dict):
        output = dict(output)
    leaves = pytree.tree_leaves(output)
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise CalibrationError(
            f"The model returns {type(output).__name__} with no floating-point tensor in it; there "
            "is nothing whose information could be kept. Return the logits or the regression."
        )
    return found


def answer_tensors(output: Any) -> list[Tensor]:
    """The floating-point tensors that are the model's answer.

    Of a dict, or of what Hugging Face's models return: without the loss, caches and hidden states
    that come along, unless there is nothing else.
    """
    if isinstance(output, Mapping):
        answer = {name: value for name, value in output.items() if name not in _BESIDE}
        if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(answer)):
            return floating_outputs(answer)
    return floating_outputs(output)


def class_scores(output: Any, target: Any) -> tuple[Tensor, int] | None:
    """The one answer of shape (batch, ..., classes, ...) and the dimension of its classes.

    That is the second, as for `torch.nn.functional.cross_entropy`, or the last: where the targets
    have the shape of all others, and of three dimensions that go by the name ``logits``, which
    language models give for each token. None where there are several answers, or one class.
    """
    outputs = answer_tensors(output)
    if len(outputs) != 1 or outputs[0].dim() < 2:
        return None
    scores = outputs[0]
    last = isinstance(output, Mapping) and "logits" in output and scores.dim() == 3
    if isinstance(target, Tensor) and not target.is_floating_point():
        as_last = target.shape == scores.shape[:-1]
        as_second = target.shape == (scores.shape[0], *scores.shape[2:])
        last = last if as_last == as_second else as_last
    dim = scores.dim() - 1 if last else 1
    return (scores, dim) if scores.shape[dim] > 1 else None


def settle(loss: Loss | str, output: Any, target: Any) -> tuple[Loss, str]:
    """Chooses the loss to use, and says in words why.

    ``auto`` takes ``categorical`` when the targets are integers, or when there are none and the one
    output has shape (batch, classes), or is named ``logits`` and has a score for each token;
    ``gaussian`` otherwise.
    """
    if not isinstance(loss, str):
        return loss, "given by the caller"
    found = class_scores(output, target)
    if loss == "categorical" and found is not None:
        return "categorical", "asked for"
    if loss == "categorical":
        shapes = [tuple(o.shape) for o in answer_tensors(output)]
        raise InputError(
            f"loss='categorical' needs one output of shape (batch, classes, ...); the model "
            f"returns {shapes}. Use loss='gaussian' or give a function of (output, target)."
        )
    if loss == "gaussian":
        return "gaussian", "asked for"
    if loss != "auto":
        raise InputError(
            f"loss={loss!r} is not known; expected 'auto', 'categorical', 'gaussian' or a function."
        )
    if isinstance(target, Tensor):
        if (
            found is not None
            and not target.is_floating_point()
            and target.dim() == found[0].dim() - 1
        ):
            return "categorical", "the targets are class numbers"
        return "gaussian", "the targets are no class numbers"
    if found is not None and found[0].dim() == 2:
        return "categorical", f"one output of shape (batch, {found[0].shape[1]}) and no targets"
    if found is not None and found[1] == 2:
        return "categorical", f"logits for each token, of {found[0].shape[2]} classes"
    return "gaussian", "the output does not look like class scores"


def sampled_loss(loss: Loss, output: Any, batch: Batch, generator: torch.Generator) -> Tensor:
    """A number whose gradient has the Fisher information of the batch as its second moment.

    That is so under the model's own prediction. The number itself means nothing, unless the loss
    is the caller's.

    Args:
        loss: what `settle` chose.
        output: of the model.
        batch: what the model was called with.
        generator: of the CPU, so that the draw is the same on every device.
    """
    if not isinstance(loss, str):
        return called(loss, output, batch.target)
    if loss == "gaussian":
        outputs = answer_tensors(output)
        # d/dy of (y - t)^2 / 2 at t = y + e is -e: a random direction of unit variance
        total = torch.zeros((), device=outputs[0].device)
        for tensor in outputs:
            noise = torch.randn(tensor.shape, generator=generator).to(tensor.device)
            total = total + (tensor.float() * noise).sum()
        return total
    found = class_scores(output, batch.target)
    assert found is not None, "settle() has found class scores in the first batch"
    logits = found[0].float().movedim(found[1], -1)
    counts = counting(batch, logits.shape[:-1])
    logits = logits.flatten(0, -2) if counts is None else logits[counts.to(logits.device)]
    if len(logits) == 0:  # no example of this batch counts
        return found[0].sum() * 0
    return (logits * _slopes(logits.detach().softmax(-1), generator)).sum()


def _slopes(p: Float[Tensor, "n c"], generator: torch.Generator) -> Float[Tensor, "n c"]:
    """Random gradients about the logits with the covariance that drawing a label from ``p`` has.

    ``diag(p) - p p^T`` is the square of ``diag(r) - p r^T`` for ``r = sqrt(p)``; multiplied by
    random signs, that gives such gradients. With drawn labels an example of which the model is sure
    would nearly always say nothing, and the few wrong labels that are drawn would be all there is.
    """
    signs = torch.randint(2, p.shape, generator=generator, dtype=torch.int8).mul_(2).sub_(1)
    roots = p.sqrt() * signs.to(p)
    return roots - p * roots.sum(-1, keepdim=True)


def pass_back(loss: Loss, output: Any, batch: Batch, generator: torch.Generator) -> None:
    """Runs the backward pass of `sampled_loss`.

    Raises:
        CalibrationError: no gradient leads to the output.
    """
    total = sampled_loss(loss, output, batch, generator)
    if not total.requires_grad:
        raise CalibrationError(
            "No gradient leads from the model's output to any layer; one was expected, to measure "
            "how finely outputs matter. Take torch.no_grad, detach and numpy out of forward, or "
            "use noise=0.1, which needs no gradient."
        )
    total.backward()


def called(loss: Callable[[Any, Any], Tensor], output: Any, target: Any) -> Tensor:
    """The value of the caller's own loss.

    Raises:
        InputError: it is not one number that a gradient can be taken of.
    """
    given: Any = loss(output, target)
    if not isinstance(given, Tensor) or given.numel() != 1 or not given.requires_grad:
        raise InputError(
            f"The function given as loss= returned {shown(given)}; expected the sum over the batch "
            "of the loss in nats, a tensor of one number that has a gradient. Compute it with "
            "torch's operations, from the output of the model."
        )
    return given


def counting(batch: Batch, shape: torch.Size) -> Tensor | None:
    """Where a loss counts: where it has targets other than -100, or, without targets, no padding.

    Args:
        batch: what the model was called with.
        shape: of the places that may count, ``(batch, ...)``; a mask of another shape says nothing.

    Returns:
        A mask of that shape; None for everywhere.
    """
    target = batch.aligned
    if isinstance(target, Tensor) and target.shape == shape and not target.is_floating_point():
        counts = labelled(target)
        return None if bool(counts.all()) else counts
    mask = token_mask(batch.kwargs)
    return mask if mask is not None and mask.shape == shape else None
