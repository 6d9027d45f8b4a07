"""What a model is for: how its answers are read, and the metric that goes with it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from mipp.errors import InputError

if TYPE_CHECKING:
    from mipp.cli.model_names import Network

IMAGES, CLASSES = "image-classification", "text-classification"
CAUSAL, MASKED, NONE = "causal-lm", "masked-lm", "none"
OPTION = "--task"


TASKS: Mapping[str, str | None] = {
    IMAGES: "accuracy", CLASSES: "accuracy", CAUSAL: "perplexity", MASKED: "perplexity", NONE: None,
}  # fmt: skip
"""Task -> the metric that it is measured by, or none."""
TEXTS = (CAUSAL, MASKED)
"""Tasks that predict tokens."""

_ENDINGS = {
    "ForCausalLM": CAUSAL, "LMHeadModel": CAUSAL, "ForMaskedLM": MASKED,
    "ForImageClassification": IMAGES, "ForSequenceClassification": CLASSES,
}  # fmt: skip


def task_of_class(name: str) -> str | None:
    """The task that the name of a class of transformers says, or None."""
    return next((task for ending, task in _ENDINGS.items() if name.endswith(ending)), None)


def named_task(wanted: str | None, network: "Network") -> str | None:
    """The requested task, else that of the network; None where only the data can tell.

    Raises:
        InputError: no such task.
    """
    if wanted is not None and wanted not in TASKS:
        raise InputError(
            f"{OPTION} {wanted} is not known; expected one of {', '.join(TASKS)}. Leave it out to "
            "have it guessed."
        )
    return wanted or network.task


def task_of_batch(batch: Any) -> str:
    """The task that a batch looks like: class indices beside each example, or nothing known."""
    y = getattr(batch, "target", None)
    classes = isinstance(y, torch.Tensor) and not y.is_floating_point() and y.dim() == 1
    if not classes:
        return NONE
    return CLASSES if "input_ids" in batch.kwargs else IMAGES
